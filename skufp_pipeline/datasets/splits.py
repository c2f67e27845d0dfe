"""Assigns a role to each query by a stable hash of its image id.

SKUs keep their data set's own split. Within training SKUs a fraction of the query images is held out for the
final score (`evaluation`), another is used to choose (`development`: early stopping, thresholds), and the
rest trains. Items of one image share its role. Queries of validation and test SKUs are all `evaluation`.
"""

from typing import Self

import polars as pl
from pydantic import Field, model_validator

from skufp_pipeline.datasets.table import CATALOG, DEVELOPMENT, EVALUATION, GALLERY, TRAIN
from skufp_pipeline.hashing import stable_fraction
from skufp_pipeline.settings import Settings


class SplitSettings(Settings):
    """Fractions of the query images of training SKUs; what is left of them is trained on."""

    evaluation_fraction: float = Field(0.25, ge=0, lt=1)
    development_fraction: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _require_queries_to_train_on(self) -> Self:
        held_out = self.evaluation_fraction + self.development_fraction
        if held_out >= 1:
            raise ValueError(
                f"evaluation_fraction and development_fraction are {held_out:g} together; expected less "
                "than 1, because the rest of the photos is trained on"
            )
        return self


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
