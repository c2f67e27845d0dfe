"""Photos before and after what the policy did to them, with the rank of the right SKU either time."""

from pathlib import Path

import polars as pl
from PIL import Image

from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.evaluation.policy import GATED, OFF, shown_queries
from skufp_pipeline.policy.actions import apply_action
from skufp_pipeline.policy.labels import read_working_copy
from skufp_pipeline.policy.settings import ActionSettings

BETTER, WORSE = "#009E73", "#D55E00"  # told apart by colour-blind readers too


def before_and_after(
    per_query: pl.DataFrame, photos: pl.DataFrame, settings: ActionSettings, count: int, tile: int = 96
) -> Image.Image:
    """A row per photo that an action moved most: the photo, and what was made of it, framed by the outcome.

    Args:
        per_query: `query_id`, `action`, and the ranks by arm.
        photos: `query_id` and the `path` of the file.
    """
    shown = shown_queries(per_query, count).join(photos.select("query_id", "path"), on="query_id", how="left")
    rows, labels, frames = [], [], []
    for row in shown.iter_rows(named=True):
        photo, _ = read_working_copy(Path(row["path"]), settings)
        rows.append([photo, apply_action(row["action"], photo, settings)])
        labels.append(f"{row['sku_id']}\n{row['action']}\nrank {row[OFF]} to {row[GATED]}")
        frames.append([None, BETTER if row[GATED] < row[OFF] else WORSE])
    return contact_sheet(rows, tile, labels, frames)
