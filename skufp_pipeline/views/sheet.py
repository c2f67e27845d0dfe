"""Contact sheets of generated views: what a person looks at before trusting the filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from PIL import Image

from skufp_pipeline.artifacts.kinds import ACCEPTED
from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.views.generate import Generated

ACCEPTED_FRAME, REJECTED_FRAME = "#009E73", "#D55E00"  # told apart by colour-blind readers too


def drift_sheet(
    frozen: Sequence[Generated], lora: Sequence[Generated], sources: Mapping[str, Path], tile: int = 72
) -> Image.Image:
    """A row per candidate: its source, the frozen base's and the adapter's, both drawn with one seed."""
    rows = [
        [sources[before.candidate.item_id], before.path, after.path]
        for before, after in zip(frozen, lora, strict=True)
    ]
    labels = [
        f"{made.candidate.sku_id}\nstrength {made.candidate.strength}\nsource, frozen, LoRA"
        for made in frozen
    ]
    return contact_sheet(rows, tile, labels)


def candidates_sheet(
    candidates: pl.DataFrame, sources: Mapping[str, Path], image_dir: Path, views: int = 8, tile: int = 72
) -> Image.Image:
    """The source, then its candidates: framed green where accepted, else orange with the reason at the left.

    Args:
        candidates: rows with `item_id`, `image_path` (below `image_dir`) and `verdict`.
        sources: the crop of every view, by `item_id`.
    """
    rows, labels, frames = [], [], []
    for item_id in _mixed(candidates, views):
        mine = candidates.filter(pl.col("item_id") == item_id)
        verdicts = mine["verdict"].to_list()
        rows.append([sources[item_id], *(image_dir / path for path in mine["image_path"])])
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
