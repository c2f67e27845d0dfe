"""Generates one SKU shard of views: budget, candidates, verdicts, accepted images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from skufp_pipeline.artifacts.kinds import ACCEPTED, GeneratedViews
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.progress import Progress
from skufp_pipeline.views.filters import Thresholds
from skufp_pipeline.views.generate import generate, plan_candidates
from skufp_pipeline.views.pipeline import Pipeline
from skufp_pipeline.views.selection import budget, first_views
from skufp_pipeline.views.settings import ViewsSettings
from skufp_pipeline.views.sheet import candidates_sheet
from skufp_pipeline.views.tables import candidate_table, score_generated

_EMBED_BATCH = 64


def generate_shard(
    load_pipeline: Callable[[], Pipeline],
    views: pl.DataFrame,
    limit: int | None,
    encoder: Encoder,
    settings: ViewsSettings,
    thresholds: Mapping[str, float],
    zero_shot: bool,
    scratch: Path,
    directory: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generates missing candidates in `scratch`, filters all, writes the shard, and returns its counts.

    Args:
        load_pipeline: called only if there are candidates.
        views: the shard's catalogue views (`VIEW_SCHEMA`) with the `path` of each crop.
        limit: maximum number of SKUs.
        directory: receives the files of `GeneratedViews`.
    """
    chosen = budget(views["sku_id"].to_list(), limit, "generated-views")
    views = first_views(views.filter(pl.col("sku_id").is_in(chosen)), settings.generation.views_per_sku)
    sources = {row["item_id"]: Path(row["path"]) for row in views.iter_rows(named=True)}
    candidates = plan_candidates(views, settings.generation)
    generated = (
        generate(
            load_pipeline(),
            candidates,
            sources,
            scratch,
            settings.image_size,
            settings.generation,
            settings.prompts.negative_prompt,
            progress,
        )
        if candidates
        else []
    )
    scores = score_generated(generated, sources, encoder, settings.filters.side, _EMBED_BATCH, zero_shot)
    table = candidate_table(generated, scores, Thresholds(**thresholds))
    accepted = table.filter(pl.col("verdict") == ACCEPTED)
    sheet = candidates_sheet(table, sources, scratch)
    GeneratedViews.write(directory, table, accepted["image_path"], scratch, sheet)
    return {"skus": len(chosen), "candidates": table.height, "accepted": accepted.height}
