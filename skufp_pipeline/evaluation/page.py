"""The report as one self-contained HTML page: no network, no script, everything escaped."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from skufp_pipeline.evaluation.protocol import MODALITIES, SETTINGS
from skufp_pipeline.evaluation.report import (
    DIFFERENCE_HEADER,
    LATENCY_HEADER,
    METRIC_LABELS,
    PAPER_NOTE,
    PAPER_TITLE,
    SETTING_LABELS,
    SOURCE_HEADER,
    SOURCES_NOTE,
    SOURCES_TITLE,
    difference_note,
    difference_rows,
    gallery_latency_note,
    latency_rows,
    latency_title,
    missing_note,
    paper_report,
    query_encoder_note,
    result_header,
    result_rows,
    seeds_note,
    source_note,
    source_rows,
    title,
)
from skufp_pipeline.measures.metrics import METRICS


def render_page(
    report: Mapping[str, Any],
    curves: bytes,
    latency_figure: bytes | None = None,
    grid: bytes | None = None,
    skipped: Mapping[str, int] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The page of a report.

    Args:
        report: what `report.report_json` returned.
        curves: PNG of `figures.recall_curve`.
        latency_figure: PNG of `figures.latency_histogram`; None leaves it out.
        grid: PNG of `figures.results_grid`; None leaves it out.
        skipped: how many items were left out of the catalogue, by reason.
        provenance: configuration and input digests, plain data, shown at the end.

    Returns:
        HTML5 text.
    """
    latency = report["latency"]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            preset=report["preset"],
            headline=headline(report),
            paper_protocol=report.get("protocol") == "paper",
            tables=[_tables(report, modality) for modality in MODALITIES],
            difference_note=difference_note(report),
            paper=_paper(report),
            paper_note=PAPER_NOTE,
            sources=_sources(report),
            curves=_data_uri(curves),
            latency_title=latency_title(latency) if latency else "",
            latency={"header": LATENCY_HEADER, "rows": latency_rows(latency)},
            latency_figure=_data_uri(latency_figure),
            query_encoder=query_encoder_note(report),
            grid=_data_uri(grid),
            skipped=sorted((skipped or {}).items(), key=lambda item: (-item[1], item[0])),
            provenance=json.dumps(
                provenance or {}, indent=2, sort_keys=True, ensure_ascii=False, default=str
            ),
        )
    )


def headline(report: Mapping[str, Any]) -> str:
    """One honest sentence: how often the first result is right, and whether that is an improvement.

    Taken from image queries of the widest setting that has any, and its first difference.
    """
    for setting in reversed(SETTINGS):
        result = report["settings"][setting]["image"]
        if not result["models"]:
            continue
        first = {name: values["recall@1"] for name, values in result["models"].items()}
        pair = next(iter(result["differences"]), None)
        name = pair.split("-")[0] if pair else max(first, key=lambda model: first[model])
        found = (
            f"{name} finds the right product first for {first[name]:.1%} of {result['queries']:,} photos "
            f"({SETTING_LABELS[setting]}, {result['gallery']:,} products)"
        )
        return f"{found}. {_verdict(pair, result['differences'][pair]['recall@1'])}" if pair else f"{found}."
    return "There were no evaluation photos: nothing was scored."


def _verdict(pair: str, difference: Mapping[str, float]) -> str:
    other = pair.split("-")[1]
    delta, low, high = (100 * difference[key] for key in ("delta", "low", "high"))
    interval = f"95% interval {low:+.1f} to {high:+.1f}"
    if low > 0:
        return f"That is {delta:.1f} points more than {other} ({interval})."
    if high < 0:
        return f"That is {-delta:.1f} points fewer than {other} ({interval})."
    return f"Against {other} that is {delta:+.1f} points ({interval}): no difference is shown."


def _tables(report: Mapping[str, Any], modality: str) -> dict[str, Any]:
    return {
        "title": title(report, modality),
        "header": result_header(report, modality),
        "rows": result_rows(report, modality),
        "notes": [
            note
            for note in (missing_note(report, modality), seeds_note(report), gallery_latency_note(report))
            if note
        ],
        "difference_header": ["Difference", "Setting", *METRIC_LABELS.values()],
        "differences": difference_rows(report, modality, METRICS),
    }


def _paper(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = paper_report(report)
    if found is None:
        return []
    return [
        {
            "title": PAPER_TITLE.format(modality=modality),
            "header": result_header(found, modality),
            "rows": result_rows(found, modality),
            "difference_header": DIFFERENCE_HEADER,
            "differences": difference_rows(found, modality),
        }
        for modality in MODALITIES
    ]


def _sources(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": SOURCES_TITLE,
        "header": SOURCE_HEADER,
        "rows": source_rows(report),
        "notes": [note for note in (SOURCES_NOTE, source_note(report)) if note],
    }


def _data_uri(png: bytes | None) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _environment() -> Environment:
    # SKU ids and texts come from users: every value is escaped, and a misspelt name is an error.
    return Environment(
        loader=PackageLoader("skufp_pipeline.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
