"""What synthetic photos add to fingerprints, judged on customers' photos alone.

python benchmarks/synthetic_queries.py --data-root data/demo --preset demo --cache synthetic_demo
python benchmarks/synthetic_queries.py --data-root data/shop --preset shop --photos photos.csv --cache judged

The data root is materialized up to clip_embeddings. Queries are the evaluation photos of the catalogue, or
those of `--photos`, a list as `skufp evaluate` reads it. Synthetic photos are those of the root, or else they
are rendered by the preset's `synthetic`; `--cache` keeps what was embedded for the next run.

no photos   Customers' training photos are hidden and the catalogue's texts left out: the plain mean of the
            views, and what each use of synthetic photos as queries or as views makes of it.
photos      Where the root has customers' training photos: the preset's fingerprint, with synthetic photos
            mixed in; the control is the same with the mean of the SKU's catalogue pictures in their place.

Differences are paired by query, with a 95% interval over SKUs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import polars as pl
import torch
from tabulate import tabulate

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    SKU_CROPS,
    SYNTHETIC_EMBEDDINGS,
)
from skufp_pipeline.camera.settings import SyntheticPhotosSettings
from skufp_pipeline.datasets.crops import CropSettings, read_item
from skufp_pipeline.datasets.manifest import ManifestSettings, read_photos
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN
from skufp_pipeline.encoders.embed import embed_synthetic
from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.photos import photos_to_judge
from skufp_pipeline.evaluation.protocol import SETTINGS, Gallery, Model, QuerySet, evaluate
from skufp_pipeline.fingerprint.learn import Learnt, learn
from skufp_pipeline.fingerprint.make import make_fingerprints
from skufp_pipeline.fingerprint.settings import (
    FingerprintSettings,
    GaussianSettings,
    HubnessSettings,
    SyntheticUse,
)
from skufp_pipeline.fingerprint.tables import EmbeddingTables, teacher_table
from skufp_pipeline.fingerprint.views import gather_views, mean_sku
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline.training.synthetic_photos import catalogue_pictures, render_photos

CPU = torch.device("cpu")
VIEW_WEIGHTS = (0.1, 0.2, 0.4)
METRICS = ("recall@1", "recall@10", "mrr")


def learnt_from(tables: EmbeddingTables, settings: FingerprintSettings, seed: int) -> Learnt:
    """What the graph learns with these settings."""
    teachers, _ = teacher_table(tables.with_stand_ins(settings.synthetic.teachers), settings.max_views)
    with TemporaryDirectory() as scratch:
        return learn(tables, teachers, settings, seed, CPU, Path(scratch), lambda line: None)


def gallery(tables: EmbeddingTables, settings: FingerprintSettings, learnt: Learnt) -> Gallery:
    """The fingerprints of all SKUs."""
    table, _ = make_fingerprints(learnt.aggregator, learnt.gaussian, tables, settings, CPU)
    rows, biases = embedding_rows(table, "fingerprint"), table["bias"].to_numpy()
    return Gallery(table["sku_id"].to_list(), table["split"].to_list(), rows, biases)


def without_photos(tables: EmbeddingTables, ours: FingerprintSettings, seed: int) -> dict[str, Gallery]:
    """By name of a way, the fingerprints of a catalogue without customers' photos; first the plain mean."""
    hidden = pl.col("role").is_in([TRAIN, DEVELOPMENT])
    bare = replace(tables, images=tables.images.filter(~hidden))
    gaussian, hubness = ours.gaussian or GaussianSettings(), ours.hubness or HubnessSettings()
    views = gather_views(bare.images, ours.max_views)
    made = {"mean": Gallery(views.sku_ids, views.splits, mean_sku(views))}

    def add(name: str, use: Mapping[str, Any], **parts: Any) -> None:
        plain = {"catalog_text_weight": 0.0, "gaussian": None, "hubness": None}
        settings = ours.model_copy(update={**plain, **parts, "synthetic": SyntheticUse(**use)})
        made[name] = gallery(bare, settings, learnt_from(bare, settings, seed))

    for name, tables_of_name in (("medoid", bare), ("best shot", bare.with_stand_ins(True))):
        teachers, _ = teacher_table(tables_of_name, ours.max_views)
        made[name] = Gallery(views.sku_ids, views.splits, embedding_rows(teachers, "image_teacher"))
    learnt = {"aggregator": True}
    add("aggregator", learnt)
    add("aggregator, teachers", {**learnt, "teachers": True})
    add("gaussian", {"gaussian": True}, gaussian=gaussian)
    add("gaussian, photo_weight 1", {"gaussian": True, "photo_weight": 1.0}, gaussian=gaussian)
    add("hubness", {"hubness": True}, hubness=hubness)
    for weight in VIEW_WEIGHTS:
        add(f"view_weight {weight}", {"view_weight": weight})
    every = {"teachers": True, "aggregator": True, "gaussian": True, "hubness": True}
    add("all four", every, gaussian=gaussian, hubness=hubness)
    add("all four, view_weight 0.2", {**every, "view_weight": 0.2}, gaussian=gaussian, hubness=hubness)
    return made


def with_photos(tables: EmbeddingTables, ours: FingerprintSettings, seed: int) -> dict[str, Gallery]:
    """By name of a way, the preset's fingerprints; empty without customers' photos to train on."""
    if tables.queries(TRAIN)[0].is_empty():
        return {}
    own = ours.model_copy(update={"synthetic": SyntheticUse()})
    learnt = learnt_from(tables, own, seed)
    catalogue = tables.images.filter(pl.col("role") == GALLERY).with_columns(role=pl.lit(TRAIN))
    copies = replace(tables, synthetic=catalogue)
    made = {"fingerprint": gallery(tables, own, learnt)}

    def add(name: str, source: EmbeddingTables, **use: Any) -> None:
        settings = own.model_copy(update={"synthetic": SyntheticUse(**use)})
        made[name] = gallery(source, settings, learnt)

    for weight in VIEW_WEIGHTS:
        for viewed in ("without_photos", "all"):
            told = f"view_weight {weight} ({'all SKUs' if viewed == 'all' else 'SKUs without photos'})"
            add(told, tables, view_weight=weight, viewed=viewed)
            add(f"control of {told}", copies, view_weight=weight, viewed=viewed)
    if own.gaussian:
        for weight in (0.25, 1.0):
            add(f"photo_weight {weight} (SKUs without photos)", tables, photo_weight=weight)
    return made


def compare(made: dict[str, Gallery], queries: QuerySet, seed: int, resamples: int) -> list[dict[str, Any]]:
    """One row for each way and setting: its metrics, and their differences from the first way."""
    first = next(iter(made))
    models = [Model(name, {"image": queries}, rows) for name, rows in made.items()]
    judged = evaluate(models, [(name, first) for name in made], seed, resamples).settings
    rows = []
    for setting in SETTINGS:
        found = judged[setting]["image"]
        for name, scores in found.models.items():
            gains = found.differences[f"{name}-{first}"]
            row: dict[str, Any] = {"way": name, "setting": setting, "queries": len(found.query_ids)}
            row |= {"gallery": found.gallery} | {m: scores.intervals[m].mean for m in METRICS}
            for metric in METRICS:
                row[f"{metric} - {first}"] = [gains[metric].delta, gains[metric].low, gains[metric].high]
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of R@1 by way and setting, with the differences from the first way."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    heads = {row["setting"]: f"{row['setting']} ({row['queries']} of {row['gallery']})" for row in rows}
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        delta, low, high = next(value for name, value in row.items() if name.startswith("recall@1 - "))
        mark = "*" if low * high > 0 else ""
        text = f"{row['recall@1']:.3f} {delta:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"
        cells.setdefault(row["way"], {})[row["setting"]] = text
    table = [[way, *(found[setting] for setting in settings)] for way, found in cells.items()]
    return tabulate(table, ["R@1", *heads.values()], "pipe", disable_numparse=True)


def kept(cache: Path | None, name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """The table of a file in `cache`, made and written if it is not there."""
    if cache is None:
        return make()
    path = cache / f"{name}.parquet"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        make().write_parquet(path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return pl.read_parquet(path)


def synthetic_table(preset: Preset, inputs: Inputs, say: Callable[[str], None]) -> pl.DataFrame:
    """Embeddings of synthetic photos: the root's, or rendered now."""
    if preset.synthetic.photos is not None:
        return EmbeddingTables.images_of(inputs.read_all(SYNTHETIC_EMBEDDINGS))
    encoder = ModelProvider(device=preset.compute.device).load_encoder(inputs.read(CLIP_CHECKPOINT).folder)
    tables = []
    for crops in inputs.read_all(SKU_CROPS):
        with TemporaryDirectory() as made:
            pictures, folder = catalogue_pictures(crops.table(), crops.path), Path(made)
            how = preset.synthetic, SyntheticPhotosSettings(evaluation=0), preset.seed
            photos = render_photos(pictures, *how, folder, folder)
            tables.append(embed_synthetic(encoder, photos, folder, preset.encoder.batch_size))
        say(f"shard {crops.shard}: {photos.height} synthetic photos embedded")
    return pl.concat(tables).sort("sku_id", maintain_order=True)


def listed_table(preset: Preset, store: ArtifactStore, path: Path) -> pl.DataFrame:
    """`sku_id`, `query_id` and `embedding` of the photos of a list that can be judged."""
    found = read_photos(path, ManifestSettings(path=str(path)))
    photos = photos_to_judge(found, path.parent, ANNOTATIONS.read(store).items())
    encoder = ModelProvider(device=preset.compute.device).load_encoder(CLIP_CHECKPOINT.read(store).folder)
    rows, size = [], preset.encoder.batch_size
    items = photos.items.to_dicts()
    for start in range(0, len(items), size):
        images = [
            read_item(photos.folder / row["orig_image_path"], row["bbox"], CropSettings())
            for row in items[start : start + size]
        ]
        rows.append(torch.from_numpy(encoder.embed_pixels(torch.stack([*map(encoder.preprocess, images)]))))
    if not rows:
        raise UserError(f"{path}: none of the photos can be judged")
    named = photos.items.select("sku_id", query_id=pl.format("{}_{}", "image_id", "item_idx"))
    return named.with_columns(embedding_column(torch.cat(rows).numpy()))


def asked(images: pl.DataFrame, listed: pl.DataFrame | None) -> QuerySet:
    """The evaluation photos of customers, or the `listed` ones of SKUs that the catalogue has."""
    if listed is None:
        found = images.filter(pl.col("role") == EVALUATION).rename({"item_id": "query_id"})
    else:
        known = images.filter(pl.col("role") == GALLERY).select("sku_id", "split").unique()
        found = listed.join(known, on="sku_id", maintain_order="left")
    if found.is_empty():
        raise UserError("there is no customer's photo to judge; name a list of some with --photos")
    ids, skus, splits = (found[name].to_list() for name in ("query_id", "sku_id", "split"))
    return QuerySet(ids, skus, splits, embedding_rows(found))


@click.command()
@click.option("--data-root", "root", required=True, help="Of the materialized preset.")
@click.option("--preset", "name", default="demo", show_default=True)
@click.option("--photos", type=click.Path(path_type=Path), help="A list of labelled photos to judge on.")
@click.option("--cache", type=click.Path(path_type=Path), help="A folder that keeps what was embedded.")
@click.option("--seed", type=int, help="Of the trainings; the preset's by default.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    root: str, name: str, photos: Path | None, cache: Path | None, seed: int | None, json_path: Path | None
) -> None:
    """Compares fingerprints with and without synthetic photos on customers' photos."""
    try:
        preset = load_preset(name).model_copy(update={"data_root": root})
        store = ArtifactStore(root)
        inputs = Inputs(store, preset.shards)
        found = EmbeddingTables.of(inputs.read_all(CLIP_EMBEDDINGS))
        say = lambda line: click.echo(line, err=True)  # noqa: E731
        tables = replace(
            found, synthetic=kept(cache, "synthetic", lambda: synthetic_table(preset, inputs, say))
        )
        listed = (
            None if photos is None else kept(cache, "photos", lambda: listed_table(preset, store, photos))
        )
        queries, trained = asked(found.images, listed), preset.seed if seed is None else seed
        results = {}
        for title, ways in (("no photos", without_photos), ("photos", with_photos)):
            made = ways(tables, preset.fingerprint, trained)
            if made:
                results[title] = compare(made, queries, preset.seed, preset.evaluation.resamples)
                click.echo(
                    f"\n{title}: R@1 - {next(iter(made))}, queries of SKUs; * the interval leaves out 0\n"
                )
                click.echo(show(results[title]))
        if json_path:
            json_path.write_text(json.dumps(results, indent=1) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
