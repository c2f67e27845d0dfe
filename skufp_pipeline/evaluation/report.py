"""The retrieval report as data (JSON, long table) and as text: the paper's Tables 1 and 2.

The JSON is the contract; every other form, the HTML page included, is made from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from skufp_pipeline.evaluation.labels import ALL_ATTRIBUTES, LABELS, precision_name
from skufp_pipeline.evaluation.protocol import MODALITIES, SETTINGS, Evaluation, SettingResult

SETTING_LABELS = {"seen": "Seen-SKU", "zero": "Zero-shot", "seen+zero": "Seen+Zero"}
METRIC_LABELS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "mrr": "MRR",
    "ndcg@10": "NDCG@10",
}
# Of precision at 10, what Table 2 shows; the table of sources shows each label.
PRECISIONS = {
    precision_name("category"): "P@10 category",
    precision_name(ALL_ATTRIBUTES): "P@10 attributes",
}
TITLES = {"image": "Table 1: Image-to-SKU retrieval", "text": "Table 2: Text-to-SKU retrieval"}
SOURCES_TITLE = "Text-to-SKU retrieval by what the words are made of"
SOURCES_NOTE = (
    "Category to Attributes: the share of the first ten SKUs that are of the query's category, of the main "
    "colour, pattern and lightness of its photo, and of these three at once."
)
SOURCE_METRICS = ("recall@1", "recall@10", "mrr")
SOURCE_METHODS = ("mean_sku", "fingerprint")  # the JSON has all
# All six are in the JSON; a terminal has room for the intervals of three.
DIFFERENCE_METRICS = ("recall@1", "recall@10", "mrr")
DIFFERENCE_NOTE = "95% bootstrap intervals over SKUs; * the interval leaves out 0."
ABSENT = "-"
NAMED_SKUS = 5  # in a sentence; the JSON names all
NAME_COLUMNS = ("Method", "Difference", "Setting", "Source", "Stage")
SOURCE_HEADER = ["Method", "Setting", "Source", "Queries", *(METRIC_LABELS[m] for m in SOURCE_METRICS)]
SOURCE_HEADER += [label.capitalize() for label in (*LABELS, ALL_ATTRIBUTES)]
DIFFERENCE_HEADER = ["Difference", "Setting", *(METRIC_LABELS[m] for m in DIFFERENCE_METRICS)]
LATENCY_HEADER = ["Stage", "p50 (ms)", "p95 (ms)", "Mean (ms)"]

REPORT_SCHEMA: dict[str, pl.DataType] = {
    "setting": pl.String(),
    "modality": pl.String(),
    "source": pl.String(),  # of a text query's words, where a row is of one source alone; else null
    "model": pl.String(),  # "a-b" where the row is a difference
    "metric": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "queries": pl.Int64(),
    "gallery": pl.Int64(),
}


def report_json(
    preset: str, evaluation: Evaluation, latency: Mapping[str, Any], extras: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain data, ready for `json.dump`.

    Args:
        preset: its name.
        evaluation: what `protocol.evaluate` returned.
        latency: what `latency.latency_summary` returned, or empty.
        extras: more top-level keys (provenance, skipped counts, protocol, ...).

    Raises:
        ValueError: `extras` holds a key of the report itself.
    """
    report: dict[str, Any] = {
        "preset": preset,
        "settings": {
            setting: {modality: _setting_json(result) for modality, result in by_modality.items()}
            for setting, by_modality in evaluation.settings.items()
        },
        "latency": dict(latency),
    }
    if taken := sorted(set(report) & set(extras)):
        raise ValueError(f"extras may not replace the report's own keys {taken}")
    return {**report, **extras}


def report_frame(report: Mapping[str, Any]) -> pl.DataFrame:
    """The report in long form, columns of `REPORT_SCHEMA`, one row per figure."""
    results = {
        (setting, modality, None): result
        for setting, by_modality in report["settings"].items()
        for modality, result in by_modality.items()
    }
    results |= {
        (setting, "text", source): result
        for source, by_setting in report.get("text_sources", {}).items()
        for setting, result in by_setting.items()
    }
    rows = []
    for key, result in results.items():
        size = (result["queries"], result["gallery"])
        for model, values in result["models"].items():
            for metric, value in values.items():
                low, high = result["intervals"][model][metric]
                rows.append((*key, model, metric, value, low, high, *size))
        for pair, by_metric in result["differences"].items():
            for metric, d in by_metric.items():
                rows.append((*key, pair, metric, d["delta"], d["low"], d["high"], *size))
    return pl.DataFrame(rows, schema=REPORT_SCHEMA, orient="row")


def sources_json(sources: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The report's entry `text_sources`: text results by source and setting.

    Args:
        sources: what `retrieval.judge_sources` returned.
    """
    return {
        source: {
            setting: _setting_json(by_modality["text"])
            for setting, by_modality in evaluation.settings.items()
        }
        for source, evaluation in sources.items()
    }


def result_header(report: Mapping[str, Any], modality: str) -> list[str]:
    """The heads of `result_rows`."""
    return ["Method", "Setting", "Queries", *_shown_metrics(report, modality).values()]


def result_rows(report: Mapping[str, Any], modality: str) -> list[list[str]]:
    """The body of Table 1 or 2: method, setting, queries, then what `result_header` names, as text.

    A model that does not know the modality stands with dashes, as Baseline 1 in the paper's Table 2.
    """
    rows = []
    metrics = _shown_metrics(report, modality)
    for setting in SETTINGS:
        result = report["settings"][setting][modality]
        by_modality = report["settings"][setting].values()
        methods = list(dict.fromkeys(name for r in by_modality for name in r["models"])) or ["(no queries)"]
        for name in methods:
            values = result["models"].get(name)
            figures = [f"{values[m]:.3f}" if values and m in values else ABSENT for m in metrics]
            rows.append([name, SETTING_LABELS[setting], str(result["queries"]), *figures])
    return rows


def _shown_metrics(report: Mapping[str, Any], modality: str) -> dict[str, str]:
    """Metrics of a table and their labels: `METRICS`, and precision at 10 where it was measured."""
    results = [by_modality[modality] for by_modality in report["settings"].values()]
    known = {metric for result in results for values in result["models"].values() for metric in values}
    return METRIC_LABELS | {metric: label for metric, label in PRECISIONS.items() if metric in known}


def source_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The body of the table of sources, under `SOURCE_HEADER`; empty where there is one source at most."""
    sources = report.get("text_sources", {})
    metrics = (*SOURCE_METRICS, *map(precision_name, (*LABELS, ALL_ATTRIBUTES)))
    rows = []
    for setting in SETTINGS:
        for method in SOURCE_METHODS:
            for source, by_setting in sources.items():
                result = by_setting[setting]
                if method not in result["models"]:
                    continue
                values = result["models"][method]
                figures = [f"{values[m]:.3f}" if m in values else ABSENT for m in metrics]
                rows.append([method, SETTING_LABELS[setting], source, str(result["queries"]), *figures])
    return rows


def source_note(report: Mapping[str, Any]) -> str:
    """How many times as often attribute prompts find their SKU first as metadata prompts do."""
    sources = report.get("text_sources", {})
    parts = []
    for setting in SETTINGS:
        first = {
            source: by_setting[setting]["models"].get("fingerprint", {}).get("recall@1")
            for source, by_setting in sources.items()
        }
        if first.get("metadata") and first.get("attributes") is not None:
            times = first["attributes"] / first["metadata"]
            parts.append(f"{times:.1f} times ({SETTING_LABELS[setting]})")
    return (
        f"R@1 of the fingerprint by attribute prompts over metadata prompts: {', '.join(parts)}."
        if parts
        else ""
    )


def difference_rows(
    report: Mapping[str, Any], modality: str, metrics: Sequence[str] = DIFFERENCE_METRICS
) -> list[list[str]]:
    """One row per setting and difference: "a - b", setting, then delta [low, high] per metric."""
    return [
        [pair.replace("-", " - "), SETTING_LABELS[setting], *(_interval(by_metric[m]) for m in metrics)]
        for setting in SETTINGS
        for pair, by_metric in report["settings"][setting][modality]["differences"].items()
    ]


def latency_rows(latency: Mapping[str, Any]) -> list[list[str]]:
    """One row per stage: its name, p50, p95 and mean in ms per query."""
    stages = dict(latency.get("stages", {}))
    if batched := latency.get("search_batched"):
        stages[f"search, {batched['batch']} at once"] = batched
    keys = ("p50_ms", "p95_ms", "mean_ms")
    return [[name, *(f"{stage[key]:.3f}" for key in keys)] for name, stage in stages.items()]


def missing_note(report: Mapping[str, Any], modality: str) -> str:
    """A sentence on queries whose SKU is not in the gallery; empty where there are none."""
    parts = []
    for setting in SETTINGS:
        result = report["settings"][setting][modality]
        if count := result["missing"]["queries"]:
            skus = result["missing"]["sku_ids"]
            named = ", ".join(skus[:NAMED_SKUS]) + (", ..." if len(skus) > NAMED_SKUS else "")
            parts.append(f"{count} of {result['queries']} {SETTING_LABELS[setting]} queries ({named})")
    return f"Scored 0 because their SKU is not in the gallery: {'; '.join(parts)}." if parts else ""


def text_tables(report: Mapping[str, Any]) -> str:
    """The tables for a terminal."""
    return "\n\n".join(_sections(report, _text_table)) + "\n"


def markdown_tables(report: Mapping[str, Any]) -> str:
    """The tables for a README or a pull request."""
    return "\n\n".join(_sections(report, _markdown_table)) + "\n"


def title(report: Mapping[str, Any], modality: str) -> str:
    """The caption of a table; a protocol other than the leak-free one is named."""
    protocol = report.get("protocol", "leak-free")
    return f"{TITLES[modality]} (preset {report['preset']}, {protocol} protocol)"


def query_encoder_note(report: Mapping[str, Any]) -> str:
    """A sentence on what encodes a query's photo, and how near it is to PyTorch; empty for PyTorch itself."""
    found = report.get("query_encoder", {})
    precision = found.get("precision")
    if f"{precision}_photos" not in found:
        return ""
    photos, cosine, before, after = (
        found[f"{precision}_{name}"] for name in ("photos", "cosine_least", "reference_recall", "recall")
    )
    return (
        f"A query's photo is encoded by ONNX Runtime in {precision}. On {photos} photos of training SKUs its "
        f"cosine with PyTorch is at least {cosine:.5f}, and R@1 is {after:.3f} (PyTorch {before:.3f})."
    )


def _sections(report: Mapping[str, Any], table: Callable[[list[str], list[list[str]]], str]) -> list[str]:
    sections = []
    for modality in MODALITIES:
        sections += [
            title(report, modality),
            table(result_header(report, modality), result_rows(report, modality)),
        ]
        if note := missing_note(report, modality):
            sections.append(note)
        if rows := difference_rows(report, modality):
            sections += [table(DIFFERENCE_HEADER, rows), DIFFERENCE_NOTE]
    if rows := source_rows(report):
        sections += [SOURCES_TITLE, table(SOURCE_HEADER, rows), SOURCES_NOTE]
        sections += [note for note in (source_note(report),) if note]
    if rows := latency_rows(report["latency"]):
        sections += [latency_title(report["latency"]), table(LATENCY_HEADER, rows)]
    if note := query_encoder_note(report):
        sections.append(note)
    return sections


def latency_title(latency: Mapping[str, Any]) -> str:
    """What the latencies were measured on."""
    threads = latency["threads"]
    return f"Latency per query ({latency['processor']}, {threads} thread{'s' if threads != 1 else ''})"


def _text_table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    left = _names(header)  # names to the left, figures to the right
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [header, *rows]]
    left = _names(header)
    rule = "| " + " | ".join("---" if i < left else "---:" for i in range(len(header))) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _names(header: list[str]) -> int:
    """How many columns are names; they come first."""
    return sum(name in NAME_COLUMNS for name in header)


def _interval(difference: Mapping[str, float]) -> str:
    delta, low, high = (difference[key] for key in ("delta", "low", "high"))
    mark = "*" if low > 0 or high < 0 else " "
    return f"{delta:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"


def _setting_json(result: SettingResult) -> dict[str, Any]:
    missing = set(result.missing)
    of_missing = {s for q, s in zip(result.query_ids, result.sku_ids, strict=True) if q in missing}
    return {
        "queries": len(result.query_ids),
        "gallery": result.gallery,
        "missing": {"queries": len(result.missing), "sku_ids": sorted(of_missing)},
        "models": {
            name: {metric: interval.mean for metric, interval in scores.intervals.items()}
            for name, scores in result.models.items()
        },
        "intervals": {
            name: {metric: [i.low, i.high] for metric, i in scores.intervals.items()}
            for name, scores in result.models.items()
        },
        "differences": {
            pair: {metric: {"delta": d.delta, "low": d.low, "high": d.high} for metric, d in of_pair.items()}
            for pair, of_pair in result.differences.items()
        },
    }
