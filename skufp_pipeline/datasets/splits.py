"""Assigns a role to each query by a stable hash of its image id.

SKUs keep their data set's own split. Within training SKUs a fraction of the query images is held out for the
final score (`evaluation`), another is used to choose (`development`: early stopping, thresholds), and the
rest trains. Items of one image share its role. Queries of validation and test SKUs are all `evaluation`.
"""

import polars as pl

from skufp_pipeline.datasets.table import CATALOG, DEVELOPMENT, EVALUATION, GALLERY, TRAIN
from skufp_pipeline.hashing import stable_fraction
from skufp_pipeline.settings import Settings


class SplitSettings(Settings):
    """Fractions of the query images of training SKUs."""

    evaluation_fraction: float = 0.25
    development_fraction: float = 0.1


def query_role(image_id: str, settings: SplitSettings) -> str:
    """Returns the role of a query image of a training SKU, by its id alone."""
    fraction = stable_fraction(image_id, "query-role")
    if fraction < settings.evaluation_fraction:
        return EVALUATION
    if fraction < settings.evaluation_fraction + settings.development_fraction:
        return DEVELOPMENT
    return TRAIN


def assign_roles(items: pl.DataFrame, settings: SplitSettings) -> pl.DataFrame:
    """Fills the column `role` by `domain`, `split` and `image_id`."""
    by_image = pl.col("image_id").map_elements(
        lambda image_id: query_role(image_id, settings), return_dtype=pl.String
    )
    role = (
        pl.when(pl.col("domain") == CATALOG)
        .then(pl.lit(GALLERY))
        .when(pl.col("split") == "train")
        .then(by_image)
        .otherwise(pl.lit(EVALUATION))
    )
    return items.with_columns(role.alias("role"))
