"""Collects what an extractor is trained on and judged on, of training SKUs alone.

It is judged on the development photos; where there are none, on the pictures of some SKUs that are held out.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY, TRAIN, item_id
from skufp_pipeline.encoders.dataset import Around, TextShard, training_images, training_rows
from skufp_pipeline.encoders.tables import used_queries
from skufp_pipeline.extractors.objective import ExtractorData, Sentences
from skufp_pipeline.extractors.settings import (
    ClipSettings,
    ExtractorSettings,
    ExtractorTrainingSettings,
)
from skufp_pipeline.hashing import stable_fraction
from skufp_pipeline.progress import Progress

SENTENCES = 3  # of a picture
_PROMPTS = ("text", "text_metadata", "text_attributes", "text_captions")
# Of a catalogue without words; {} is the category.
TEMPLATES = ("a photo of a {}", "a {} from a shopping website", "a professional product photo of {}")


def gather_extractor_data(
    shards: Sequence[TextShard],
    settings: ExtractorSettings,
    scratch: Path,
    progress: Progress | None = None,
    around: Around | None = None,
) -> tuple[ExtractorData, pl.DataFrame]:
    """Returns the training and development images, and the queries among them (`USED_SCHEMA`).

    The crops are decoded to squares, with `around` more; `scratch` keeps them for a resumed training.
    """
    fit, development = training_rows(shards)
    held_out, training = 0, settings.training
    if isinstance(training, ExtractorTrainingSettings):
        fit, development, held_out = _judged_on(
            fit, development, training.held_out, settings.judged_on_pictures
        )
    images = training_images(fit, development, training.cache_side, scratch, progress, around=around)
    source = settings.sentences if isinstance(settings, ClipSettings) else None
    said = None if source is None else _sentences(shards, source)
    of_fit, of_development = (
        [] if said is None else [said[row] for row in rows["query_id"]] for rows in (fit, development)
    )
    data = ExtractorData(
        images.images,
        images.development,
        images.categories,
        of_fit,
        of_development,
        held_out,
    )
    return data, pl.concat([used_queries(fit, TRAIN), used_queries(development, DEVELOPMENT)])


def pictures_to_judge(
    shards: Sequence[TextShard], sku_ids: Sequence[str], settings: ExtractorSettings, scratch: Path
) -> ExtractorData:
    """Returns the catalogue pictures of some training SKUs as development images, and nothing to train on."""
    rows, _ = training_rows(shards)
    rows = rows.filter((pl.col("role") == GALLERY) & pl.col("sku_id").is_in(sku_ids))
    images = training_images(rows.head(0), rows, settings.training.cache_side, scratch, None)
    source = settings.sentences if isinstance(settings, ClipSettings) else None
    said = None if source is None else _sentences(shards, source)
    of_rows = [] if said is None else [said[row] for row in rows["query_id"]]
    return ExtractorData(images.images, images.development, images.categories, (), of_rows)


def is_held_out(sku_id: str, share: float) -> bool:
    """Whether a SKU is among those that stand in for development photos."""
    return stable_fraction(sku_id, "extractor development") < share


def _judged_on(
    fit: pl.DataFrame, development: pl.DataFrame, share: float, with_pictures: bool
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Returns what to train on, what to judge on, and how many SKUs are held out for it.

    Args:
        with_pictures: development photos are judged beside the catalogue pictures of their SKUs.
    """
    if development.height:
        its = pl.col("sku_id").is_in(development["sku_id"].implode()) & (pl.col("role") == GALLERY)
        return fit, pl.concat([development, *([fit.filter(its)] if with_pictures else [])]), 0
    skus = fit["sku_id"].unique().sort()
    held = [sku for sku in skus if is_held_out(sku, share)]
    if len(held) < 2 or len(skus) - len(held) < 2:
        return fit, development, 0
    is_held = pl.col("sku_id").is_in(held)
    return fit.filter(~is_held), fit.filter(is_held), len(held)


def _sentences(shards: Sequence[TextShard], source: str) -> dict[str, Sentences]:
    """Returns what is said of each crop, by its id: its distinct prompts, then templates of its category."""
    rows = pl.concat([shard.image_text.select(item_id(), "category_name", *_PROMPTS) for shard in shards])
    said = {}
    for row in rows.iter_rows(named=True):
        prompts = [row[name] for name in _PROMPTS if row[name]] if source == "prompts" else []
        category = row["category_name"] or "product"
        every = [*prompts, *(template.format(category) for template in TEMPLATES)]
        said[row["item_id"]] = tuple(dict.fromkeys(every))[:SENTENCES]
    return said
