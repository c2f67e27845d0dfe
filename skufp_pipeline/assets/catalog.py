"""Group `catalog`: from a data set on disk to SKU crops and their image-text tables."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import ANNOTATED_SCHEMA, Annotations, Crops, ImageText
from skufp_pipeline.artifacts.places import ANNOTATIONS, IMAGE_TEXT, RAW_DATASET, SKU_CROPS
from skufp_pipeline.checks.catalog import (
    CATALOGUE_READ,
    CROPS_COMPLETE,
    catalogue_read,
    crops_complete,
    few_skus_removed,
    splits_disjoint,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.catalogue import require_searchable, shard_table
from skufp_pipeline.datasets.contact_sheet import sheet_of_skus
from skufp_pipeline.datasets.counts import lost_skus
from skufp_pipeline.datasets.crops import write_crops
from skufp_pipeline.datasets.difference import count_changes
from skufp_pipeline.datasets.prompts import build_catalog_texts, build_image_text, build_text_queries
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import counts_table, frame_metadata, picture
from skufp_pipeline.steps import READ_CATALOG, Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs

DATASETS = "skufp_pipeline.datasets."
BUILD_SHARDS = "build_catalog_shards"


def group(preset: Preset) -> Group:
    """The four steps from files to crops and texts."""
    light = Needs(cores=preset.compute.cores, memory_gib=2)
    captions = preset.prompts.captions
    steps = [
        Step(
            stored=RAW_DATASET,
            make=raw_dataset,
            stage=READ_CATALOG,
            kinds={"python", "jpeg"},
            code=preset.dataset.writer_code,
            config=preset.dataset.config(),
            needs=light,
        ),
        Step(
            stored=ANNOTATIONS,
            make=annotations,
            stage=READ_CATALOG,
            kinds={"polars", "parquet"},
            code=(*preset.dataset.reader_code, DATASETS + "catalogue"),
            config={
                "dataset": preset.dataset.read.model_dump(mode="json"),
                "splits": preset.splits.model_dump(),
                "shards": preset.shards,
            },
            needs=light,
            deps=(RAW_DATASET,),
            check_specs=(CATALOGUE_READ,),
        ),
        Step(
            stored=SKU_CROPS,
            make=sku_crops,
            stage=BUILD_SHARDS,
            kinds={"pillow", "jpeg"},
            code=(DATASETS + "crops",),
            config=preset.crops.model_dump(),
            needs=light,
            deps=(RAW_DATASET, ANNOTATIONS),
            check_specs=(CROPS_COMPLETE,),
        ),
        Step(
            stored=IMAGE_TEXT,
            make=image_text,
            stage=BUILD_SHARDS,
            kinds={"polars", "parquet"},
            code=(DATASETS + "prompts", *(("skufp_pipeline.encoders.captions",) if captions else ())),
            config={"prompts": preset.prompts.decisive(), "splits": preset.splits.model_dump()},
            needs=light if captions is None else preset.compute.network_needs,
            deps=(SKU_CROPS,),
        ),
    ]
    return Group.of("catalog", preset, steps, lambda steps: [splits_disjoint(), few_skus_removed(preset)])


def raw_dataset(run: Run) -> dg.MaterializeResult:
    """The raw data set: the rendered sample in DeepFashion2's layout, or the inventory of a user's folder."""
    dataset = run.preset.dataset
    listing = dataset.listing(run.progress("images from addresses"))
    run.inputs.add({"folder": listing["digest"]} if listing else {})
    result = run.produce(
        RAW_DATASET, lambda directory: dataset.write_raw(directory, run.progress("sample images"), listing)
    )
    return run.done(result, {"inventory": dg.MetadataValue.json(result.summary)})


def annotations(run: Run) -> dg.MaterializeResult:
    """The internal table: one row per annotated item, with SKU, split, role and box; skipped items with
    reasons."""
    preset, raw, last = run.preset, run.read(RAW_DATASET), ANNOTATIONS.find(run.store)
    before = last.described() if last else pl.DataFrame(schema=ANNOTATED_SCHEMA)

    def build(directory: Path) -> dict[str, Any]:
        progress = run.progress("annotations"), run.progress("images")
        found = preset.dataset.catalogue(raw.path, preset.splits, preset.shards, *progress)
        require_searchable(found.items)
        tables = [shard_table(found.items, shard) for shard in range(preset.shards)]
        return Annotations.write(directory, tables, found.items, found.skipped, found.skus, found.warnings)

    result = run.produce(ANNOTATIONS, build)
    items = result.items()
    metadata = {
        **frame_metadata(items),
        **count_changes(before, result.described(), preset.shards),
        "items_by_role": counts_table(items, ["split", "domain", "role"]),
        "skipped_by_reason": counts_table(result.skipped(), ["reason"]),
        "catalogue": str(result.counts),
        "skus_lost_entirely": lost_skus(items, result.skipped())[:50],
        **run.warn(result.summary.get("warnings", [])),
    }
    return run.done(
        result, metadata, catalogue_read(result.counts, preset.evaluation.thresholds.rows_left_out)
    )


def sku_crops(run: Run) -> dg.MaterializeResult:
    """One JPEG per item of the shard's SKUs, cut out of its photo."""
    preset, shard, table = run.preset, run.shard, run.read(ANNOTATIONS)
    find = preset.dataset.find(RAW_DATASET.read(run.store).path)

    def build(directory: Path) -> dict[str, Any]:
        items, progress = table.items(shard), run.progress("crops")
        return Crops.write(directory, items, *write_crops(items, find, directory, preset.crops, progress))

    result = run.produce(SKU_CROPS, build)
    crops = result.table()
    metadata = {**frame_metadata(crops), "contact_sheet": picture(sheet_of_skus(crops, result.path))}
    return run.done(result, metadata, crops_complete(result, preset.evaluation.thresholds.skipped_fraction))


def image_text(run: Run) -> dg.MaterializeResult:
    """The image-text table: each crop with its metadata and attribute prompts, and its caption if a preset
    names a model; the text queries, and the texts of the catalog."""
    prompts, splits, crops = run.preset.prompts, run.preset.splits, run.read(SKU_CROPS)
    captions = prompts.captions
    run.inputs.add({} if captions is None else weight_inputs(captions.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        caption = None
        if captions is not None:
            caption = partial(run.models.captioner(captions).caption, progress=run.progress("captions"))
        table = build_image_text(crops.table(), crops.path, prompts, splits, caption)
        return ImageText.write(directory, table, build_text_queries(table), build_catalog_texts(table))

    result = run.produce(IMAGE_TEXT, build)
    table = result.images()
    examples = "\n".join(f"- {text}" for text in table["text"].head(8))
    return run.done(result, {**frame_metadata(table), "examples": dg.MetadataValue.md(examples)})
