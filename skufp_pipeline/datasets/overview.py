"""Sums up a catalogue for its owner: pictures and words of SKUs, customers' photos, what is left out."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from skufp_pipeline.datasets.counts import CatalogueCounts
from skufp_pipeline.datasets.manifest import UNNAMED_CATEGORY
from skufp_pipeline.datasets.table import CATALOG, DEVELOPMENT, EVALUATION, TRAIN, Catalogue

SHOWN = 5  # rows left out that are shown


@dataclass(frozen=True)
class Overview:
    """What a catalogue holds.

    Attributes:
        pictures: number of catalog pictures.
        pictures_of_sku: the least, median and largest number of them of a SKU that has any.
        without_picture: SKUs that have customers' photos alone, so that nothing can find them.
        photos: customers' photos by role: train, development, evaluation.
        training_pictures: catalog pictures of SKUs of the split train.
        worded: SKUs with a title or a description.
        categories: number of categories named.
        examples: rows left out, some of each reason first.
    """

    counts: CatalogueCounts
    pictures: int
    pictures_of_sku: tuple[int, float, int]
    without_picture: int
    photos: dict[str, int]
    training_pictures: int
    worded: int
    categories: int
    examples: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, found: Catalogue) -> "Overview":
        items = found.items
        catalog = items.filter(pl.col("domain") == CATALOG)
        each = catalog.group_by("sku_id").len()["len"]
        ends = (each.min() or 0, each.median() or 0.0, each.max() or 0)
        words = items.filter(pl.col("title").is_not_null() | pl.col("description").is_not_null())
        named = items.filter(pl.col("category_name") != UNNAMED_CATEGORY)
        first = found.skipped.with_columns(_nth=pl.int_range(pl.len()).over("reason"))
        shown = first.sort("_nth", maintain_order=True).head(SHOWN).select("path", "detail", "reason")
        return cls(
            CatalogueCounts.of(items, found.skipped),
            catalog.height,
            ends,  # type: ignore[arg-type]
            items["sku_id"].n_unique() - len(each),
            {role: items.filter(role=role).height for role in (TRAIN, DEVELOPMENT, EVALUATION)},
            catalog.filter(split="train").height,
            words["sku_id"].n_unique(),
            named["category_name"].n_unique(),
            tuple(f"{path}: {detail} ({reason})" for path, detail, reason in shown.rows()),
            found.warnings,
        )

    def lines(self) -> Iterator[str]:
        """What was found, for a terminal."""
        yield str(self.counts)
        yield from (f"  left out: {example}" for example in self.examples)
        if self.counts.skipped_items > len(self.examples):
            yield f"  left out: {self.counts.skipped_items - len(self.examples)} more"
        least, median, most = self.pictures_of_sku
        yield f"{self.pictures:,} catalog pictures, {least} to {most} a SKU (median {median:g})"
        if self.without_picture:
            yield f"{self.without_picture:,} SKUs have no catalog picture: no search can find them"
        yield (
            f"words: {self.worded:,} of {self.counts.skus:,} SKUs have a title or a description; "
            f"{self.categories:,} categories"
        )
        photos = ", ".join(f"{count:,} for {role}" for role, count in self.photos.items())
        yield f"customers' photos: {photos if any(self.photos.values()) else 'none'}"
        yield from self.warnings
