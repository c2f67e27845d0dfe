"""The report as one self-contained HTML page: no network, no script, everything escaped."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from skufp_pipeline.evaluation.protocol import SETTINGS
from skufp_pipeline.evaluation.report import SYNTHETIC_PHOTOS, Gain, Report
from skufp_pipeline.evaluation.tables import (
    PAPER_NOTE,
    SETTING_LABELS,
    Table,
    judged_note,
    latency_sections,
    main_sections,
    paper_sections,
    source_sections,
    stage_sections,
    unmeasured_sections,
    verdict_sections,
)
from skufp_pipeline.measures.metrics import METRICS


def render_page(
    report: Report,
    curves: bytes,
    latency_figure: bytes | None = None,
    grid: bytes | None = None,
    provenance: Mapping[str, Any] | None = None,
    verdict_figure: bytes | None = None,
) -> str:
    """Renders a report as HTML5 text.

    Args:
        curves, latency_figure, grid, verdict_figure: PNGs of `figures.recall_curve`, `latency_histogram`,
            `results_grid` and `verdict_curves`; None leaves one out.
        provenance: configuration and input digests, plain data, shown at the end.
    """
    skipped = sorted((report.skipped_items or {}).items(), key=lambda item: (-item[1], item[0]))
    template = _environment().get_template("report.html.j2")
    return template.render(
        preset=report.preset,
        judged_note=judged_note(report),
        headline=headline(report),
        paper_protocol=report.protocol == "paper",
        main=[*main_sections(report, METRICS), *stage_sections(report)],
        unmeasured=unmeasured_sections(report),
        paper=paper_sections(report),
        paper_note=PAPER_NOTE,
        sources=source_sections(report),
        curves=_data_uri(curves),
        verdicts=verdict_sections(report),
        verdict_figure=_data_uri(verdict_figure),
        latency=latency_sections(report),
        latency_figure=_data_uri(latency_figure),
        grid=_data_uri(grid),
        skipped=Table(["Reason", "Items"], [[reason, str(count)] for reason, count in skipped]),
        provenance=json.dumps(provenance or {}, indent=2, sort_keys=True, ensure_ascii=False, default=str),
    )


def headline(report: Report) -> str:
    """One sentence: how often the first result is right, and whether that is an improvement.

    It uses the image queries of the widest setting that has any, and its first difference.
    """
    for setting in reversed(SETTINGS):
        result = report.settings[setting]["image"]
        if not result.models:
            continue
        first = {name: values["recall@1"] for name, values in result.models.items()}
        pair = next(iter(result.differences), None)
        name = pair.split("-")[0] if pair else max(first, key=lambda model: first[model])
        photos = "synthetic photos" if report.judged_on == SYNTHETIC_PHOTOS else "photos"
        text = (
            f"{name} finds the right product first for {first[name]:.1%} of {result.queries:,} {photos} "
            f"({SETTING_LABELS[setting]}, {result.gallery:,} products)"
        )
        return f"{text}. {_verdict(pair, result.differences[pair]['recall@1'])}" if pair else f"{text}."
    return "There were no evaluation photos: nothing was scored."


def _verdict(pair: str, gain: Gain) -> str:
    other = pair.split("-")[1]
    delta, low, high = 100 * gain.delta, 100 * gain.low, 100 * gain.high
    interval = f"95% interval {low:+.1f} to {high:+.1f}"
    if low > 0:
        return f"That is {delta:.1f} points more than {other} ({interval})."
    if high < 0:
        return f"That is {-delta:.1f} points fewer than {other} ({interval})."
    return f"Against {other} that is {delta:+.1f} points ({interval}): no difference is shown."


def _data_uri(png: bytes | None) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _environment() -> Environment:
    # SKU ids and texts are user input: every value is escaped. A misspelt name is an error.
    return Environment(
        loader=PackageLoader("skufp_pipeline.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
