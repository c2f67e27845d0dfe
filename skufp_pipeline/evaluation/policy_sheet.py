"""Photos before and after the policy's action, with the right SKU's rank before and after."""

from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.evaluation.policy import (
    GATED,
    OFF,
    against_constant,
    confusion,
    degradations_of,
    judge_policy,
    shown_queries,
    try_actions,
)
from skufp_pipeline.policy.actions import apply_action
from skufp_pipeline.policy.labels import read_working_copy
from skufp_pipeline.policy.network import Policy
from skufp_pipeline.policy.settings import ActionSettings
from skufp_pipeline.progress import Progress

SHOWN = 12  # photos before and after
BETTER, WORSE = "#009E73", "#D55E00"  # colour-blind safe


def before_and_after(
    per_query: pl.DataFrame, photos: pl.DataFrame, settings: ActionSettings, count: int, tile: int = 96
) -> Image.Image:
    """A row per photo that an action moved most: the photo, and the processed photo framed by outcome.

    `per_query` has `query_id`, `action` and the ranks by arm; `photos` has `query_id` and the file's `path`.
    """
    shown = shown_queries(per_query, count).join(photos.select("query_id", "path"), on="query_id", how="left")
    rows, labels, frames = [], [], []
    for row in shown.iter_rows(named=True):
        photo, _ = read_working_copy(Path(row["path"]), settings)
        rows.append([photo, apply_action(row["action"], photo, settings)])
        labels.append([row["sku_id"], row["action"], f"rank {row[OFF]} to {row[GATED]}"])
        frames.append([None, BETTER if row[GATED] < row[OFF] else WORSE])
    return contact_sheet(rows, tile, labels, frames)


def report_policy(
    photos: pl.DataFrame,
    fingerprints: pl.DataFrame,
    encoder: ImageEncoder,
    policy: Policy,
    degradations: pl.DataFrame | None,
    draws: tuple[int, int],
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, Image.Image, dict[str, Any]]:
    """Tries every action on the photos and evaluates the policy against the other arms.

    Returns figures by arm, ranks by query, the confusion of actions, some photos before and after, and what
    the policy gains over the best constant action.

    Args:
        photos: evaluation queries with the `path` of each one's crop.
        degradations: by `split` and `image_id`; None where the data set has none.
        draws: resamples of the bootstrap, and its seed.

    Raises:
        TooLittleError: there are no photos.
        UserError: the policy was saved without a constant action.
    """
    constant = policy.known_constant.action
    if photos.is_empty():
        raise TooLittleError("there are no evaluation photos to judge the policy on")
    queries = try_actions(photos, encoder, policy, progress)
    degraded_by = degradations_of(degradations, photos)
    arms, per_query = judge_policy(queries, fingerprints, degraded_by, *draws)
    sheet = before_and_after(per_query, photos, policy.actions, SHOWN)
    compared = against_constant(arms, constant)
    return arms, per_query, confusion(queries, fingerprints), sheet, compared
