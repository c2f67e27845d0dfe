"""Group `catalog`: from a data set on disk to SKU crops and their image-text tables."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.assets.show import counts_table, frame_metadata, picture, progress, result
from skufp_pipeline.checks.catalog import CROPS_COMPLETE, crops_complete
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.catalogue import items_of, shard_file, shard_table
from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.datasets.crops import write_crops
from skufp_pipeline.datasets.difference import CHANGED, NEW, REMOVED, catalogue_changes
from skufp_pipeline.datasets.prompts import build_catalog_texts, build_image_text, build_text_queries
from skufp_pipeline.datasets.sources import DATASETS
from skufp_pipeline.datasets.table import CATALOG, QUERY
from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step, asset, shard_number
from skufp_pipeline.store import Artifact, ArtifactStore
from skufp_pipeline.training.weights import weight_inputs

GROUP = "catalog"


def catalog_steps(preset: Preset) -> dict[str, Step]:
    """The steps of this group, by asset name."""
    shards = preset.shards
    io_needs = Needs(cores=preset.compute.cores, memory_gib=2)
    steps = [
        Step(
            "raw_dataset",
            "raw/dataset",
            GROUP,
            {"python", "jpeg"},
            "The data set as it came: the rendered sample in DeepFashion2's layout, or a user's folder, "
            "checked and inventoried.",
            preset.dataset.raw_modules,
            preset.dataset.config(),
            io_needs,
        ),
        Step(
            "annotations",
            "tables/annotations",
            GROUP,
            {"polars", "parquet"},
            "The internal table: one row per annotated item with its SKU, split, role and box; what was "
            "left out stands in `skipped_items` with the reason.",
            (
                *preset.dataset.reader_modules,
                "skufp_pipeline.photos",
                *(DATASETS + name for name in ("reading", "splits", "catalogue")),
            ),
            {
                "dataset": preset.dataset.read.model_dump(mode="json"),
                "splits": preset.splits.model_dump(),
                "shards": shards,
            },
            io_needs,
            ("raw_dataset",),
        ),
        Step(
            "sku_crops",
            "crops",
            GROUP,
            {"pillow", "jpeg"},
            "Every item of the shard's SKUs cut out of its photo, one JPEG each.",
            ("skufp_pipeline.photos", *(DATASETS + name for name in ("crops", "reading", "splits"))),
            preset.crops.model_dump(),
            io_needs,
            ("annotations",),
            shards,
        ),
        Step(
            "image_text",
            "tables/image_text",
            GROUP,
            {"polars", "parquet"},
            "The image-text table: each crop with its metadata and attribute prompts, and its caption where "
            "a preset names a model; the text queries, and the texts of the catalog.",
            (
                "skufp_pipeline.photos",
                *(DATASETS + name for name in ("prompts", "attributes", "reading", "splits")),
            )
            + (_CAPTION_MODULES if preset.prompts.captions else ()),
            {"prompts": prompts_config(preset), "splits": preset.splits.model_dump()},
            _caption_needs(preset),
            ("sku_crops",),
            shards,
        ),
    ]
    return {step.name: step for step in steps}


_CAPTION_MODULES = tuple(
    f"skufp_pipeline.encoders.{name}" for name in ("captions", "embed", "clip", "tables")
)


def catalog_assets(preset: Preset) -> list[dg.AssetsDefinition]:
    """The four assets of this group."""
    steps = catalog_steps(preset)

    @asset(steps["raw_dataset"])
    def raw_dataset(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource
    ) -> dg.MaterializeResult:
        step, dataset = steps["raw_dataset"], preset.dataset
        listing = dataset.listing()
        inputs = {"folder": listing["digest"]} if listing else {}
        artifact = artifacts.get().produce(
            step.key,
            step.recipe(inputs),
            lambda directory: dataset.write_raw(directory, progress(context, "sample images")),
        )
        return result(artifact, {"inventory": dg.MetadataValue.json(artifact.summary)})

    @asset(steps["annotations"])
    def annotations(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource
    ) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["annotations"]
        raw = store.read(steps["raw_dataset"].key)
        last = store.find(step.key)
        before = items_of(last.path if last else None)

        def build(directory: Path) -> dict[str, Any]:
            catalogue = preset.dataset.catalogue(
                raw.path,
                preset.splits,
                preset.shards,
                progress(context, "annotations"),
                progress(context, "images"),
            )
            items = catalogue.items
            (directory / "items").mkdir()
            for shard in range(preset.shards):
                (directory / shard_file(shard)).write_bytes(shard_table(items, shard))
            catalogue.skipped.write_parquet(directory / "skipped_items.parquet", compression="zstd")
            return {
                "items": items.height,
                "skus": items["sku_id"].n_unique(),
                "skipped_items": catalogue.skipped.height,
                "skipped_by_reason": count_by(catalogue.skipped, "reason"),
            }

        artifact = store.produce(step.key, step.recipe({"raw_dataset": raw.digest}), build)
        items = items_of(artifact.path)
        skipped = pl.read_parquet(artifact.path / "skipped_items.parquet")
        return result(
            artifact,
            {
                **frame_metadata(items),
                **_changes(before, items, preset.shards),
                "items_by_role": counts_table(items, ["split", "domain", "role"]),
                "skipped_by_reason": counts_table(skipped, ["reason"]),
            },
        )

    @asset(steps["sku_crops"], [CROPS_COMPLETE])
    def sku_crops(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource
    ) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["sku_crops"]
        shard = shard_number(context.partition_key)
        table = store.read(steps["annotations"].key)

        def build(directory: Path) -> dict[str, Any]:
            items = pl.read_parquet(table.path / shard_file(shard))
            root = preset.dataset.root(store.folder(steps["raw_dataset"].key))
            crops, skipped = write_crops(
                items, root, directory, preset.crops, progress(context, f"crops of {context.partition_key}")
            )
            crops.write_parquet(directory / "crops.parquet", compression="zstd")
            skipped.write_parquet(directory / "skipped_items.parquet", compression="zstd")
            return {"items": items.height, "crops": crops.height, "skipped_items": skipped.height}

        shard_rows = table.manifest.files[shard_file(shard)].sha256
        artifact = store.produce(step.shard_key(shard), step.recipe({"annotations": shard_rows}), build)
        crops = pl.read_parquet(artifact.path / "crops.parquet")
        check = crops_complete(artifact, preset.evaluation.thresholds.skipped_fraction)
        return result(
            artifact,
            {**frame_metadata(crops), "contact_sheet": picture(_sheet_of_skus(crops, artifact.path))},
            [check],
        )

    @asset(steps["image_text"])
    def image_text(
        context: dg.AssetExecutionContext, artifacts: ArtifactStoreResource, models: ModelProvider
    ) -> dg.MaterializeResult:
        store, step = artifacts.get(), steps["image_text"]
        shard = shard_number(context.partition_key)
        crops = store.read(steps["sku_crops"].shard_key(shard))

        def build(directory: Path) -> dict[str, Any]:
            rows = pl.read_parquet(crops.path / "crops.parquet")
            captions, caption = preset.prompts.captions, None
            if captions is not None:
                told = progress(context, f"captions of {context.partition_key}")
                caption = partial(models.captioner(captions).caption, progress=told)
            table = build_image_text(rows, crops.path, preset.prompts, preset.splits, caption)
            queries, catalog_texts = build_text_queries(table), build_catalog_texts(table)
            for name, frame in (
                ("image_text", table),
                ("text_queries", queries),
                ("catalog_texts", catalog_texts),
            ):
                frame.write_parquet(directory / f"{name}.parquet", compression="zstd")
            return {
                "rows": table.height,
                "text_queries": queries.height,
                "catalog_texts": catalog_texts.height,
            }

        recipe = step.recipe({"sku_crops": crops.digest, **_caption_files(preset)})
        artifact = store.produce(step.shard_key(shard), recipe, build)
        table = pl.read_parquet(artifact.path / "image_text.parquet")
        return result(
            artifact,
            {
                **frame_metadata(table),
                "examples": dg.MetadataValue.md("\n".join(f"- {text}" for text in table["text"].head(8))),
            },
        )

    return [raw_dataset, annotations, sku_crops, image_text]


def prompts_config(preset: Preset) -> dict[str, Any]:
    """What decides the prompts; how many crops are captioned at once does not."""
    return preset.prompts.model_dump(exclude={"captions": {"batch_size"}})


def _caption_needs(preset: Preset) -> Needs:
    """Of the image-text table: captions want what a model wants."""
    compute = preset.compute
    if preset.prompts.captions is None:
        return Needs(cores=compute.cores, memory_gib=2)
    return Needs(compute.cores, compute.memory_gib, compute.gpus)


def _caption_files(preset: Preset) -> dict[str, str]:
    captions = preset.prompts.captions
    return {} if captions is None else weight_inputs(captions.weight_files())


def read_shards(store: ArtifactStore, step: Step, shards: int) -> list[Artifact]:
    """Every shard of a sharded asset; a `UserError` names the first that is missing."""
    return [store.read(step.shard_key(shard)) for shard in range(shards)]


def crop_path(row: dict[str, Any], sku_crops: Step, preset: Preset) -> str:
    """Where an item's crop stands below the data root (`row`: `sku_id`, `image_path`)."""
    return f"{sku_crops.shard_key(stable_shard(row['sku_id'], preset.shards))}/{row['image_path']}"


def count_by(frame: pl.DataFrame, column: str) -> dict[str, int]:
    """Rows by value of a column."""
    return dict(frame.group_by(column).len().sort(column).iter_rows())


def _changes(before: pl.DataFrame, after: pl.DataFrame, shards: int) -> dict[str, int]:
    """SKUs that are new, changed or removed since the last run, and the shards that nothing happened in."""
    changes = catalogue_changes(before, after)
    counts = count_by(changes, "change")
    touched = changes["shard"].n_unique()
    return {
        **{f"skus_{change}": counts.get(change, 0) for change in (NEW, CHANGED, REMOVED)},
        "shards_changed": touched,
        "shards_unchanged": shards - touched,
    }


def _sheet_of_skus(crops: pl.DataFrame, folder: Path, skus: int = 6, views: int = 4) -> Any:
    """Some SKUs of the shard, a row each: catalog views, then queries."""
    rows, labels = [], []
    for sku_id in crops["sku_id"].unique(maintain_order=True).head(skus):
        mine = crops.filter(pl.col("sku_id") == sku_id)
        picked = pl.concat(
            [mine.filter(pl.col("domain") == domain).head(views) for domain in (CATALOG, QUERY)]
        )
        rows.append([folder / path for path in picked["crop_path"]])
        labels.append(sku_id)
    return contact_sheet(rows, tile=72, labels=labels)
