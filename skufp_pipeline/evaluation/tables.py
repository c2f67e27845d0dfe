"""The report as sections of tables: the paper's Tables 1 and 2, differences, sources, latencies.

The sections are the same for a terminal, for Markdown and for the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from skufp_pipeline.evaluation.labels import ALL_ATTRIBUTES, LABELS, precision_name
from skufp_pipeline.evaluation.protocol import MODALITIES, SETTINGS
from skufp_pipeline.evaluation.report import (
    CUSTOMERS_PHOTOS,
    SYNTHETIC_PHOTOS,
    Gain,
    Report,
    Result,
    Results,
    Share,
    Times,
)
from skufp_pipeline.query.settings import VERDICTS

SETTING_LABELS = {"seen": "Seen-SKU", "zero": "Zero-shot", "seen+zero": "Seen+Zero"}
METRIC_LABELS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "mrr": "MRR",
    "ndcg@10": "NDCG@10",
}
# Precisions at 10 in Table 2; the table of sources shows every label's.
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
DIFFERENCE_NOTE = "95% bootstrap intervals over {}SKUs; * the interval leaves out 0."
ABSENT = "-"
NAMED_SKUS = 5  # in a note; the JSON names all
VERDICTS_TITLE = "Verdicts: is the product of a photo in the index?"
NAME_COLUMNS = ("Method", "Product", "Difference", "Setting", "Source", "Stage", "Reason")

UNMEASURED_TITLE = "Not measured, or left out"

STAGES_TITLE = "Queries by photo, stage by stage"
STAGES_NOTE = (
    "R@1 with the stage and those above it; its gain with a 95% bootstrap interval over SKUs, * where that "
    "leaves out 0; and what it takes of the time of one query. On a sample of the evaluation photos. A "
    "region is what of the photo is searched for, by the fingerprint alone; its gain is over the first, and "
    "the stages after the regions are of photos cut to that one."
)
GAIN = ("delta", "low", "high")

PAPER_TITLE = "The paper's protocol, {} queries: teachers chosen by the queries that are scored"
PAPER_NOTE = (
    "Not comparable with any other table: it leaks. A difference is what the leak adds to the model of that "
    "name under our protocol."
)


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `names` columns name a row, the others are figures."""

    header: list[str]
    rows: list[list[str]]

    @property
    def names(self) -> int:
        return sum(name in NAME_COLUMNS for name in self.header)

    def text(self) -> str:
        """For a terminal: names left-aligned, figures right-aligned."""
        return self._tabulate(self.rows, "simple")

    def markdown(self) -> str:
        """For a README or a pull request."""
        return self._tabulate([[cell.replace("|", "\\|") for cell in row] for row in self.rows], "pipe")

    def _tabulate(self, rows: list[list[str]], style: str) -> str:
        align = ["left"] * self.names + ["right"] * (len(self.header) - self.names)
        return tabulate(rows, self.header, style, colalign=align, disable_numparse=True)


@dataclass(frozen=True)
class Section:
    """A title, and its tables and notes in reading order."""

    title: str
    parts: list[Table | str]


def text_tables(report: Report) -> str:
    """The tables for a terminal."""
    return _render(report, Table.text)


def markdown_tables(report: Report) -> str:
    """The tables for a README or a pull request."""
    return _render(report, Table.markdown)


def _render(report: Report, write: Callable[[Table], str]) -> str:
    paper = paper_sections(report)
    sections = [*main_sections(report), *stage_sections(report), *unmeasured_sections(report), *paper]
    sections += [*source_sections(report), *verdict_sections(report), *latency_sections(report)]
    blocks = [*filter(None, [judged_note(report)])]
    for section in sections:
        blocks.append(section.title)
        blocks += [part if isinstance(part, str) else write(part) for part in section.parts]
        if paper and section is paper[-1]:
            blocks.append(PAPER_NOTE)
    return "\n\n".join(blocks) + "\n"


def judged_note(report: Report) -> str:
    """The first line of a report: that no customer's photo was judged; empty where some were."""
    if report.judged_on == CUSTOMERS_PHOTOS:
        return ""
    judged = (
        "the image queries are synthetic photos, rendered from catalogue pictures"
        if report.judged_on == SYNTHETIC_PHOTOS
        else "none is held out"
    )
    return (
        f"No customer's photo was judged: {judged}. `skufp evaluate PHOTOS.csv` judges photos of customers."
    )


def main_sections(report: Report, metrics: Sequence[str] = DIFFERENCE_METRICS) -> list[Section]:
    """Tables 1 and 2 by our protocol, and the differences in these metrics."""
    sections = []
    for modality in MODALITIES:
        title = f"{TITLES[modality]} (preset {report.preset}, {report.protocol} protocol)"
        notes = [
            missing_note(report.settings, modality),
            duplicates_note(report) if modality == "image" else "",
            seeds_note(report),
            gallery_latency_note(report),
        ]
        parts: list[Table | str] = [result_table(report, report.settings, modality), *filter(None, notes)]
        differences = difference_table(report.settings, modality, metrics)
        if differences.rows:
            parts += [differences, DIFFERENCE_NOTE.format("seeds and " if report.seeds else "")]
        sections.append(Section(title, parts))
    return sections


def unmeasured_sections(report: Report) -> list[Section]:
    """What could not be measured or was left out, and why: a sentence each; none if all was."""
    sentences: list[Table | str] = [f"{part}: {why}." for part, why in report.not_measured.items()]
    return [Section(UNMEASURED_TITLE, sentences)] if sentences else []


def paper_sections(report: Report) -> list[Section]:
    """The same two tables by the paper's protocol, if it was run; `PAPER_NOTE` belongs to them."""
    results = report.paper_protocol
    if results is None:
        return []
    return [
        Section(
            PAPER_TITLE.format(modality),
            [result_table(report, results, modality), difference_table(results, modality)],
        )
        for modality in MODALITIES
    ]


def result_table(report: Report, results: Results, modality: str) -> Table:
    """Table 1 or 2: method, setting, queries, metrics and, if timed, search latency.

    A model that lacks the modality gets dashes, as Baseline 1 in the paper's Table 2.
    """
    shown = _shown_metrics(results, modality)
    header, rows = ["Method", "Setting", "Queries", *shown.values()], []
    timed = results[SETTINGS[0]][modality].latency is not None
    if report.gallery_latency and timed:
        batch = report.gallery_latency.batch
        header += ["p95 (ms)", "Mean (ms)", f"p95 of {batch}", f"Mean of {batch}"]
    for setting, by_modality in results.items():
        result = by_modality[modality]
        methods = dict.fromkeys(name for found in by_modality.values() for name in found.models)
        for name in methods or ["(no queries)"]:
            figures = [_figure(result, name, metric, with_spread=bool(report.seeds)) for metric in shown]
            times = _row_times(result, name) if timed else []
            rows.append([name, SETTING_LABELS[setting], str(result.queries), *figures, *times])
    return Table(header, rows)


def _shown_metrics(results: Results, modality: str) -> dict[str, str]:
    """Metrics of a table and their labels: the paper's, and precision at 10 if measured."""
    every = [values for by_modality in results.values() for values in by_modality[modality].models.values()]
    known = {metric for values in every for metric in values}
    return METRIC_LABELS | {metric: label for metric, label in PRECISIONS.items() if metric in known}


def _figure(result: Result, model: str, metric: str, with_spread: bool = False) -> str:
    """A mean; `with_spread` adds half the width of its interval."""
    mean = result.models.get(model, {}).get(metric)
    if mean is None:
        return ABSENT
    low, high = result.intervals[model][metric]
    return f"{mean:.3f} ± {(high - low) / 2:.3f}" if with_spread else f"{mean:.3f}"


def _row_times(result: Result, model: str) -> list[str]:
    latency = (result.latency or {}).get(model)
    if latency is None:
        return [ABSENT] * 4
    return [f"{ms:.3f}" for times in (latency, latency.batched) for ms in (times.p95_ms, times.mean_ms)]


def difference_table(results: Results, modality: str, metrics: Sequence[str] = DIFFERENCE_METRICS) -> Table:
    """One row per setting and difference: "a - b", setting, then delta [low, high] per metric."""
    header = ["Difference", "Setting", *(METRIC_LABELS[metric] for metric in metrics)]
    return Table(
        header,
        [
            [pair.replace("-", " - "), SETTING_LABELS[setting], *(_interval(gains[m]) for m in metrics)]
            for setting, by_modality in results.items()
            for pair, gains in by_modality[modality].differences.items()
        ],
    )


def _interval(gain: Gain) -> str:
    return interval_text(gain.delta, gain.low, gain.high)


def interval_text(delta: float, low: float, high: float) -> str:
    """A difference with its interval, * where that leaves out 0."""
    mark = "*" if low > 0 or high < 0 else " "
    return f"{delta:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"


def missing_note(results: Results, modality: str) -> str:
    """A sentence on queries whose SKU is not in the gallery; empty if there are none."""
    parts = []
    for setting, by_modality in results.items():
        result = by_modality[modality]
        if count := result.missing.queries:
            skus = result.missing.sku_ids
            named = ", ".join(skus[:NAMED_SKUS]) + (", ..." if len(skus) > NAMED_SKUS else "")
            parts.append(f"{count} of {result.queries} {SETTING_LABELS[setting]} queries ({named})")
    return f"Scored 0 because their SKU is not in the gallery: {'; '.join(parts)}." if parts else ""


def duplicates_note(report: Report) -> str:
    """A sentence on SKUs that show the same picture or nearly; empty if they were not counted."""
    found = report.duplicates
    if found is None:
        return ""
    return (
        f"{found.skus} SKUs in {found.groups} groups show nearly the same catalog picture (cosine of at "
        f"least {found.threshold:g}), {found.same} of them the very same; see `skufp catalog duplicates`."
    )


def seeds_note(report: Report) -> str:
    """A sentence on the seeds that figures average; empty for one training."""
    if not report.seeds:
        return ""
    named = ", ".join(map(str, report.seeds))
    return f"Means over the training seeds {named}; ± is half the 95% interval over seeds and SKUs."


def gallery_latency_note(report: Report) -> str:
    """A sentence on what a row's latency is and what it was measured on; empty if rows have none."""
    search = report.gallery_latency
    if search is None:
        return ""
    return (
        f"Latency: from a query embedding to the ten best SKUs, the same exact float32 search for every row, "
        f"one query at a time and, per query, {search.batch} at once ({search.processor}, threads: "
        f"{search.threads})."
    )


def source_sections(report: Report) -> list[Section]:
    """Text queries by the source of their texts, if they have sources."""
    metrics = (*SOURCE_METRICS, *map(precision_name, (*LABELS, ALL_ATTRIBUTES)))
    labels = [METRIC_LABELS[metric] for metric in SOURCE_METRICS]
    labels += [label.capitalize() for label in (*LABELS, ALL_ATTRIBUTES)]
    rows = [
        [
            method,
            SETTING_LABELS[setting],
            source,
            str(result.queries),
            *(_figure(result, method, m) for m in metrics),
        ]
        for setting in SETTINGS
        for method in SOURCE_METHODS
        for source, by_setting in report.text_sources.items()
        if method in (result := by_setting[setting]).models
    ]
    table = Table(["Method", "Setting", "Source", "Queries", *labels], rows)
    notes = [SOURCES_NOTE, *filter(None, [source_note(report)])]
    return [Section(SOURCES_TITLE, [table, *notes])] if rows else []


def source_note(report: Report) -> str:
    """A sentence on R@1 of attribute prompts as a multiple of that of metadata prompts."""
    parts = []
    for setting in SETTINGS:
        first = {
            source: by_setting[setting].models.get("fingerprint", {}).get("recall@1")
            for source, by_setting in report.text_sources.items()
        }
        metadata, attributes = first.get("metadata"), first.get("attributes")
        if metadata and attributes is not None:
            parts.append(f"{attributes / metadata:.1f} times ({SETTING_LABELS[setting]})")
    label = "R@1 of the fingerprint by attribute prompts over metadata prompts"
    return f"{label}: {', '.join(parts)}." if parts else ""


def stage_sections(report: Report) -> list[Section]:
    """What each stage of a query by photo adds; none if it was not judged."""
    if not report.stages:
        return []
    rows = [
        [
            stage.stage,
            SETTING_LABELS[stage.setting],
            str(stage.queries),
            f"{stage.recall_at_1:.3f}",
            ABSENT if stage.delta is None else _interval(Gain(**dict(zip(GAIN, stage.delta, strict=True)))),
            f"{stage.p50_ms:.2f}",
            f"{stage.p95_ms:.2f}",
        ]
        for stage in report.stages
    ]
    header = ["Stage", "Setting", "Queries", "R@1", "Gain", "p50 (ms)", "p95 (ms)"]
    return [Section(STAGES_TITLE, [Table(header, rows), STAGES_NOTE])]


def verdict_sections(report: Report) -> list[Section]:
    """The verdicts on photos of products that are in the index and of products that are not, if judged."""
    found = report.verdicts
    if found is None:
        return []
    header = [
        "Setting",
        "Region",
        "Product",
        "Photos",
        "SKUs",
        *VERDICTS,
        "ROC area",
        "Right matches",
        "Calibration error",
    ]
    rows = []
    parts = [("detected", found.detected)] if found.detected else []
    judged = [
        (setting, region, of)
        for region, part in [("as annotated", found), *parts]
        for setting, of in part.settings.items()
    ]
    for setting, region, of in judged:
        for product, shares in (("in the index", of.present), ("masked", of.absent)):
            given = [_share(shares[verdict]) for verdict in VERDICTS]
            whole = [f"{of.area_under_roc:.3f}", _share(of.right_matches), f"{of.calibration_error:.3f}"]
            more = whole if shares is of.present else [""] * len(whole)
            rows.append(
                [SETTING_LABELS[setting], region, product, str(of.photos), str(of.skus), *given, *more]
            )
    photos = "synthetic photos" if found.synthetic else "development photos"
    own = (
        " Regions that the detector found have a calibration of their own, on "
        f"{found.detected.calibration_photos} photos of {found.detected.calibration_skus} SKUs."
        if found.detected
        else ""
    )
    note = (
        f"The verdict none may reject {found.alpha:.0%} of photos whose product is there. It was calibrated "
        f"on {found.calibration_photos} {photos} of {found.calibration_skus} SKUs.{own} Every photo is "
        f"asked of the whole index, and again with its SKU masked. A match has a confidence of at least "
        f"{found.match:.0%}; confidence assumes that {found.absent_share:.0%} of photos show an absent "
        "product, and so does its calibration error. Intervals are of 95%, over SKUs."
    )
    return [Section(VERDICTS_TITLE, [Table(header, rows), note])]


def _share(found: Share | None) -> str:
    return ABSENT if found is None else f"{found.share:.3f} [{found.low:.3f}, {found.high:.3f}]"


def latency_sections(report: Report) -> list[Section]:
    """The latency of each stage of the query path and a note on the photo encoder, if timed."""
    latency = report.latency
    if latency is None:
        return []
    stages = dict(latency.stages)
    if latency.search_batched is not None:
        stages[f"search, {latency.search_batched.batch} at once"] = latency.search_batched
    rows = [[name, *(f"{ms:.3f}" for ms in _milliseconds(times))] for name, times in stages.items()]
    threads = f"{latency.threads} thread{'s' if latency.threads != 1 else ''}"
    table = Table(["Stage", "p50 (ms)", "p95 (ms)", "Mean (ms)"], rows)
    title = f"Latency per query ({latency.processor}, {threads})"
    return [Section(title, [table, *filter(None, [query_encoder_note(report)])])]


def _milliseconds(times: Times) -> tuple[float, float, float]:
    return times.p50_ms, times.p95_ms, times.mean_ms


def query_encoder_note(report: Report) -> str:
    """A sentence on the encoder of query photos and how near it is to PyTorch; empty for PyTorch itself."""
    summary = report.query_encoder or {}
    precision = summary.get("precision")
    if f"{precision}_photos" not in summary:
        return ""
    photos, cosine, before, after = (
        summary[f"{precision}_{name}"] for name in ("photos", "cosine_least", "reference_recall", "recall")
    )
    return (
        f"A query's photo is encoded by ONNX Runtime in {precision}. On {photos} photos of training SKUs its "
        f"cosine with PyTorch is at least {cosine:.5f}, and R@1 is {after:.3f} (PyTorch {before:.3f})."
    )
