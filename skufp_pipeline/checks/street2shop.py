"""The check that no street photo is in two splits or roles, or among the catalogue pictures."""

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.places import ANNOTATIONS
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.datasets.table import QUERY
from skufp_pipeline.resources.store import ArtifactStoreResource


def shared_photos(items: pl.DataFrame) -> pl.DataFrame:
    """Returns the street photos, by `image_digest`, that are in several splits, roles or domains."""
    places = [pl.col(name).unique().sort() for name in ("split", "role", "domain")]
    by_photo = items.group_by("image_digest").agg(*places).sort("image_digest")
    several = pl.any_horizontal(pl.col("split", "role", "domain").list.len() > 1)
    return by_photo.filter(pl.col("domain").list.contains(QUERY) & several)


def street_photos_disjoint() -> dg.AssetChecksDefinition:
    """The check of the annotations."""

    @dg.asset_check(
        asset=ANNOTATIONS.name,
        name="street_photos_disjoint",
        blocking=True,
        description="No street photo, told by its bytes, is in two splits or roles, or in the catalogue.",
        **declare(Needs()),
    )
    def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        items = ANNOTATIONS.read(artifacts.get()).items()
        shared = shared_photos(items)
        return dg.AssetCheckResult(
            passed=shared.is_empty(),
            metadata={
                "street_photos": items.filter(pl.col("domain") == QUERY)["image_digest"].n_unique(),
                "shared": shared["image_digest"].head(20).to_list(),
            },
        )

    return check
