"""Contact sheets of generated views, for visual inspection of the filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from PIL import Image

from skufp_pipeline.artifacts.kinds import ACCEPTED
from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.views.generate import Generated

ACCEPTED_FRAME, REJECTED_FRAME = "#009E73", "#D55E00"  # distinguishable for colour-blind readers


def drift_sheet(
    frozen: Sequence[Generated], lora: Sequence[Generated], sources: Mapping[str, Path], tile: int = 72
) -> Image.Image:
    """Draws a row per candidate: source, frozen base and adapter, both generated from the same seed."""
    rows = [
        [sources[before.candidate.item_id], before.path, after.path]
        for before, after in zip(frozen, lora, strict=True)
    ]
    labels = [
        [item.candidate.sku_id, f"strength {item.candidate.strength}", "source, frozen, LoRA"]
        for item in frozen
    ]
    return contact_sheet(rows, tile, labels)


def candidates_sheet(
    candidates: pl.DataFrame, sources: Mapping[str, Path], image_dir: Path, views: int = 8, tile: int = 72
) -> Image.Image:
    """Draws a row per view: verdicts, source, and candidates framed green if accepted, otherwise orange.

    `candidates` has `item_id`, `image_path` (in `image_dir`) and `verdict`; `sources` maps `item_id` to crop.
    """
    rows, labels, frames = [], [], []
    for item_id in _select_views(candidates, views):
        view_candidates = candidates.filter(pl.col("item_id") == item_id)
        verdicts = view_candidates["verdict"].to_list()
        rows.append([sources[item_id], *(image_dir / path for path in view_candidates["image_path"])])
        labels.append([item_id.rpartition("/")[2], *verdicts])
        colours = [ACCEPTED_FRAME if verdict == ACCEPTED else REJECTED_FRAME for verdict in verdicts]
        frames.append([None, *colours])
    return contact_sheet(rows, tile, labels, frames)


def _select_views(candidates: pl.DataFrame, count: int) -> list[str]:
    """Selects views: up to half of them with a rejected candidate, then others."""
    rejected = candidates.filter(pl.col("verdict") != ACCEPTED)["item_id"].unique(maintain_order=True)
    every = candidates["item_id"].unique(maintain_order=True)
    first = rejected.head(count // 2).to_list()
    return [*first, *(item for item in every if item not in first)][:count]
