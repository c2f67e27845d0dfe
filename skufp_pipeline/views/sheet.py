"""Contact sheets of generated views: what a person looks at before trusting the filters."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from PIL import Image

from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.views.filters import ACCEPTED

ACCEPTED_FRAME, REJECTED_FRAME = "#009E73", "#D55E00"  # told apart by colour-blind readers too


def drift_sheet(
    rows: Sequence[tuple[Path, Path, Path]], labels: Sequence[str], tile: int = 72
) -> Image.Image:
    """Source, frozen base and LoRA side by side, each drawn with the same seed."""
    return contact_sheet([list(row) for row in rows], tile, labels)


def candidates_sheet(
    candidates: pl.DataFrame, crop_dir: Path, image_dir: Path, views: int = 8, tile: int = 72
) -> Image.Image:
    """The source, then its candidates: framed green where accepted, else orange with the reason at the left.

    Args:
        candidates: rows with `item_id`, `source_path`, `image_path` and `verdict`; rejected ones first
            serve, so that a sheet shows both kinds where there are both.
    """
    rows, labels, frames = [], [], []
    for item_id in _mixed(candidates, views):
        mine = candidates.filter(pl.col("item_id") == item_id)
        verdicts = mine["verdict"].to_list()
        rows.append([crop_dir / mine["source_path"][0], *(image_dir / path for path in mine["image_path"])])
        labels.append("\n".join([item_id.rpartition("/")[2], *verdicts]))
        colours = [ACCEPTED_FRAME if verdict == ACCEPTED else REJECTED_FRAME for verdict in verdicts]
        frames.append([None, *colours])
    return contact_sheet(rows, tile, labels, frames)


def _mixed(candidates: pl.DataFrame, count: int) -> list[str]:
    """Views with a rejected candidate for half of the places, then the others."""
    rejected = candidates.filter(pl.col("verdict") != ACCEPTED)["item_id"].unique(maintain_order=True)
    every = candidates["item_id"].unique(maintain_order=True)
    first = rejected.head(count // 2).to_list()
    return [*first, *(item for item in every if item not in first)][:count]
