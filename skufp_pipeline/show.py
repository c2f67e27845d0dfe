"""Dagster metadata of results: counts, tables and pictures, kept small."""

import base64
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from skufp_pipeline.photos import open_photo
from skufp_pipeline.progress import Progress
from skufp_pipeline.store import Artifact

_LOG_EVERY = 5.0  # seconds


def progress(log: Callable[[str], None], what: str) -> Progress:
    """Returns a callback that logs counts and rate every few seconds and draws a bar in a terminal."""
    started = time.monotonic()
    last = started
    bar = tqdm(desc=what, unit="", leave=False, delay=0.1, disable=not sys.stderr.isatty())

    def report(done: int, total: int) -> None:
        nonlocal last
        bar.total = total
        bar.update(done - bar.n)
        now = time.monotonic()
        if done >= total or now - last >= _LOG_EVERY:
            last = now
            log(f"{what}: {done}/{total}, {done / max(now - started, 1e-9):.0f}/s")
        if done >= total:
            bar.close()

    return report


def artifact_metadata(artifact: Artifact) -> dict[str, Any]:
    """Path, digest, whether this run computed the artifact, and the scalars of its summary."""
    counts = {name: value for name, value in artifact.summary.items() if isinstance(value, int | float | str)}
    return {
        "path": dg.MetadataValue.path(str(artifact.path)),
        "digest": artifact.digest,
        "computed": int(artifact.computed),
        "skipped_as_unchanged": int(not artifact.computed),
        **counts,
    }


def frame_metadata(frame: pl.DataFrame) -> dict[str, Any]:
    """Row count and column schema under the names that the Dagster UI expects."""
    columns = [dg.TableColumn(name, str(kind)) for name, kind in frame.schema.items()]
    return {
        "dagster/row_count": frame.height,
        "dagster/column_schema": dg.TableSchema(columns=columns),
    }


def counts_table(frame: pl.DataFrame, by: Sequence[str]) -> dg.MarkdownMetadataValue:
    """Row counts grouped by some columns, as a Markdown table."""
    counts = frame.group_by(list(by)).len("rows").sort(list(by))
    return markdown_table(counts)


def markdown_table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """A small frame as a Markdown table."""
    rows = [[_cell(value) for value in row] for row in frame.iter_rows()]
    header = [_cell(name) for name in frame.columns]
    return dg.MetadataValue.md(tabulate(rows, header, "pipe", disable_numparse=True))


def picture(image: Image.Image | bytes, quality: int = 80) -> dg.MarkdownMetadataValue:
    """An inline image: an Image is encoded as JPEG, bytes must be a PNG."""
    if isinstance(image, bytes):
        return dg.MetadataValue.md(f"![figure](data:image/png;base64,{base64.b64encode(image).decode()})")
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return dg.MetadataValue.md(
        f"![sheet](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})"
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def picture_file(path: Path) -> dg.MarkdownMetadataValue:
    """An inline image from an artifact's file."""
    return picture(open_photo(path))
