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

PAPER_TITLE = "The paper's protocol, {modality} queries: teachers chosen by the queries that are scored"
PAPER_NOTE = (
    "Not comparable with any other table: it leaks. A difference is what the leak adds to the model of that "
    "name under our protocol."
)

REPORT_SCHEMA: dict[str, pl.DataType] = {
    "protocol": pl.String(),  # leak-free | paper
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
        "settings": settings_json(evaluation),
        "latency": dict(latency),
    }
    if taken := sorted(set(report) & set(extras)):
        raise ValueError(f"extras may not replace the report's own keys {taken}")
    return {**report, **extras}


def report_frame(report: Mapping[str, Any]) -> pl.DataFrame:
    """The report in long form, columns of `REPORT_SCHEMA`, one row per figure."""
    results = {
        (report.get("protocol", "leak-free"), setting, modality, None): result
        for setting, by_modality in report["settings"].items()
        for modality, result in by_modality.items()
    }
    results |= {
        ("paper", setting, modality, None): result
        for setting, by_modality in report.get("paper_protocol", {}).items()
        for modality, result in by_modality.items()
    }
    results |= {
        ("leak-free", setting, "text", source): result
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


def settings_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as the report's entry `settings`, or `paper_protocol`, holds it."""
    return {
        setting: {modality: _setting_json(result) for modality, result in by_modality.items()}
        for setting, by_modality in evaluation.settings.items()
    }


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
    times = []
    if _has_latency(report):
        batch = report["gallery_latency"]["batch"]
        times = ["p95 (ms)", "Mean (ms)", f"p95 of {batch}", f"Mean of {batch}"]
    return ["Method", "Setting", "Queries", *_shown_metrics(report, modality).values(), *times]


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
            figures = [
                _figure(report, result, name, m) if values and m in values else ABSENT for m in metrics
            ]
            times = _row_times(result, name) if _has_latency(report) else []
            rows.append([name, SETTING_LABELS[setting], str(result["queries"]), *figures, *times])
    return rows


def _figure(report: Mapping[str, Any], result: Mapping[str, Any], model: str, metric: str) -> str:
    """A mean; over several seeds with half the width of its interval."""
    mean = f"{result['models'][model][metric]:.3f}"
    if not report.get("seeds"):
        return mean
    low, high = result["intervals"][model][metric]
    return f"{mean} ± {(high - low) / 2:.3f}"


def _has_latency(report: Mapping[str, Any]) -> bool:
    return "gallery_latency" in report


def _row_times(result: Mapping[str, Any], model: str) -> list[str]:
    found = result["latency"].get(model)
    if found is None:
        return [ABSENT] * 4
    return [f"{entry[key]:.3f}" for entry in (found, found["batched"]) for key in ("p95_ms", "mean_ms")]


def gallery_latency_note(report: Mapping[str, Any]) -> str:
    """What the latency of a row is and what it was measured on; empty where rows have none."""
    if not _has_latency(report):
        return ""
    found = report["gallery_latency"]
    return (
        f"Latency: from a query embedding to the ten best SKUs, the same exact float32 search for every row, "
        f"one query at a time and, per query, {found['batch']} at once ({found['processor']}, threads: "
        f"{found['threads']})."
    )


def seeds_note(report: Mapping[str, Any]) -> str:
    """Over which seeds figures are means; empty for one training."""
    seeds = report.get("seeds", [])
    named = ", ".join(map(str, seeds))
    return (
        f"Means over the training seeds {named}; ± is half the 95% interval over seeds and SKUs."
        if seeds
        else ""
    )


def difference_note(report: Mapping[str, Any]) -> str:
    """What the intervals of differences are."""
    return (
        DIFFERENCE_NOTE.replace("over SKUs", "over seeds and SKUs")
        if report.get("seeds")
        else DIFFERENCE_NOTE
    )


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
        notes = (missing_note(report, modality), seeds_note(report), gallery_latency_note(report))
        sections += [note for note in notes if note]
        if rows := difference_rows(report, modality):
            sections += [table(DIFFERENCE_HEADER, rows), difference_note(report)]
    sections += _paper_sections(report, table)
    if rows := source_rows(report):
        sections += [SOURCES_TITLE, table(SOURCE_HEADER, rows), SOURCES_NOTE]
        sections += [note for note in (source_note(report),) if note]
    if rows := latency_rows(report["latency"]):
        sections += [latency_title(report["latency"]), table(LATENCY_HEADER, rows)]
    if note := query_encoder_note(report):
        sections.append(note)
    return sections


def paper_report(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The paper's protocol in the form of a report, for the rows of its tables; None where it was not run."""
    settings = report.get("paper_protocol")
    return {"settings": settings, "seeds": report.get("seeds", [])} if settings else None


def _paper_sections(
    report: Mapping[str, Any], table: Callable[[list[str], list[list[str]]], str]
) -> list[str]:
    found = paper_report(report)
    if found is None:
        return []
    sections = []
    for modality in MODALITIES:
        sections += [
            PAPER_TITLE.format(modality=modality),
            table(result_header(found, modality), result_rows(found, modality)),
            table(DIFFERENCE_HEADER, difference_rows(found, modality)),
        ]
    return [*sections, PAPER_NOTE]


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
