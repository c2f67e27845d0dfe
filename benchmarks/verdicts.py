"""Whether the verdicts of an index keep their promise: on its own photos, and on another rendering.

python benchmarks/verdicts.py --data-root data/demo --render-seed 101 --other data/other --json F

The other rendering has other products and photos. They are embedded by the same encoder, which learnt none of
them; its index is made by the same aggregator and noise model; its photos get the verdicts of the same
calibration. Shares are of photos, intervals of 95% over SKUs. The promise is kept where the share of
present products rejected is at most alpha, or its interval includes alpha.

The second table says what limits how many absent products are told. A photo whose product is not first looks
nearly the same without it, so a rule has to tell photos whose first answer is wrong (to keep) from photos
whose right first answer is masked (to reject): the ROC area of the confidence between the two, .5 by chance.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import dagster as dg
import numpy as np
import polars as pl
import torch
from tabulate import tabulate

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FINGERPRINT_CHECKPOINT,
    FROZEN_CLIP_CHECKPOINT,
    IMAGE_TEXT,
    LOOK_TWICE_CHECKPOINT,
    RAW_DATASET,
    SKU_CROPS,
    crop_file,
)
from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.definitions import build_defs
from skufp_pipeline.encoders.clip import Encoder, load_encoder
from skufp_pipeline.encoders.embed import embed_images, embed_text_table
from skufp_pipeline.encoders.patch_tables import patch_tables
from skufp_pipeline.encoders.patches import PatchEncoder, PatchHead
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.report import Share, Verdicts
from skufp_pipeline.evaluation.verdicts import JudgedPhotos, ask_photos, judge_verdicts
from skufp_pipeline.fingerprint.aggregator import load_aggregator
from skufp_pipeline.fingerprint.gaussian import load_gaussian
from skufp_pipeline.fingerprint.make import make_fingerprints
from skufp_pipeline.fingerprint.tables import JUDGED_SPLITS, EmbeddingTables
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.metrics import area_under_roc
from skufp_pipeline.photos import read_crop
from skufp_pipeline.presets import Preset, another_rendering, load_preset
from skufp_pipeline.query.confidence import Confidence, SecondLooks, read_confidence
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.settings import VERDICTS
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.patches import PatchIndex
from skufp_pipeline.store import Artifact, ArtifactStore, shard_name

CPU = torch.device("cpu")


def render(preset: Preset) -> None:
    """Materializes the catalogue of a preset, up to its crops and texts, where it is not there."""
    job = build_defs(preset).resolve_implicit_global_asset_job_def()
    runs: list[tuple[str, str | None]] = [(RAW_DATASET.name, None), (ANNOTATIONS.name, None)]
    for stored in (SKU_CROPS, IMAGE_TEXT):
        runs += [(stored.name, shard_name(shard)) for shard in range(preset.shards)]
    with dg.DagsterInstance.ephemeral() as instance:
        for name, key in runs:
            done = job.execute_in_process(
                asset_selection=[dg.AssetKey(name)],
                partition_key=key,
                instance=instance,
                raise_on_error=False,
                run_config={"loggers": {"plain": {}}},
            )
            for event in done.filter_events(lambda event: event.is_step_failure):
                failed = event.step_failure_data.user_failure_data or event.step_failure_data.error
                raise UserError(f"{name} of {preset.data_root} failed: {failed}")


def embedded(preset: Preset, encoder: Encoder) -> EmbeddingTables:
    """The tables of a rendered catalogue by this encoder."""
    inputs = Inputs(ArtifactStore(preset.data_root), preset.shards)
    images, texts = [], []
    for crops, table in zip(inputs.read_all(SKU_CROPS), inputs.read_all(IMAGE_TEXT), strict=True):
        images.append(embed_images(encoder, table.images(), crops.path, preset.encoder.batch_size))
        texts.append(embed_text_table(encoder, table.every_text(), preset.encoder.batch_size))
        click.echo(f"shard {crops.shard}: {images[-1].height} pictures embedded", err=True)
    return EmbeddingTables(*(pl.concat(part).sort("sku_id", maintain_order=True) for part in (images, texts)))


def index_of(tables: EmbeddingTables, preset: Preset, store: ArtifactStore) -> FingerprintIndex:
    """The index that the fingerprint model of `store` makes of other tables."""
    model = FINGERPRINT_CHECKPOINT.read(store)
    known = load_gaussian(model.path) if preset.fingerprint.gaussian else None
    aggregator = load_aggregator(model.path, CPU)
    table, _ = make_fingerprints(aggregator, known, tables, preset.fingerprint, CPU)
    index = FingerprintIndex(embedding_rows(table, "fingerprint"), table.select("sku_id", "split"))
    return index.with_biases(table["bias"].to_numpy())


@dataclass(frozen=True)
class Second:
    """The second look of an index, if it has one: how patches of pictures and photos are made."""

    preset: Preset
    photos: PatchEncoder | None
    views: PatchEncoder | None
    look: LookTwice | None

    @classmethod
    def open(cls, store: ArtifactStore, preset: Preset, index: Artifact, encoder: Encoder) -> "Second":
        look = LookTwice.open(index.path, FingerprintIndex.load(index.path).row_count)
        if look is None:
            return cls(preset, None, None, None)
        head = PatchHead.load(LOOK_TWICE_CHECKPOINT.read(store).path)
        views = encoder
        if preset.encoder.adaptation is not None:
            views = load_encoder(FROZEN_CLIP_CHECKPOINT.read(store).folder, CPU)
        return cls(preset, PatchEncoder(encoder, head), PatchEncoder(views, head), look)

    def look_of(self, index: FingerprintIndex, images: pl.DataFrame) -> LookTwice | None:
        """The second look at another index, whose pictures are among `images`."""
        if self.look is None or self.photos is None or self.views is None:
            return None
        grid = self.views.head.grid
        tables = patch_tables(self.views, self.photos, self._with_paths(images), 256)
        with TemporaryDirectory() as folder:
            made = PatchIndex.write(Path(folder), index.skus["sku_id"], [tables[0]], grid.shape)
            patches = PatchIndex(np.array(made.patches), made.counts)
        return LookTwice(patches, self.look.top, self.look.weight)

    def ask(
        self, index: FingerprintIndex, confidence: Confidence, photos: pl.DataFrame, look: LookTwice | None
    ) -> dict[str, JudgedPhotos]:
        if look is None or self.photos is None:
            return ask_photos(index, confidence, photos)
        found = []
        for path in self._with_paths(photos)["path"]:
            pixels = self.photos.preprocess(read_crop(Path(path)))[None]
            found.append(self.photos.embed_with_patches(pixels)[1][0])
        return ask_photos(index, confidence, photos, SecondLooks(look, np.stack(found)))

    def _with_paths(self, images: pl.DataFrame) -> pl.DataFrame:
        store, shards = ArtifactStore(self.preset.data_root), self.preset.shards
        paths = [str(crop_file(store, row, shards)) for row in images.iter_rows(named=True)]
        return images.with_columns(path=pl.Series(paths, dtype=pl.String))


def sample(images: pl.DataFrame, count: int) -> pl.DataFrame:
    """The evaluation photos of seen and new SKUs, a stable sample of at most `count`."""
    held = images.filter((pl.col("role") == EVALUATION) & pl.col("split").is_in(JUDGED_SPLITS))
    order = pl.Series([stable_hash(item, "verdicts") for item in held["item_id"]], dtype=pl.UInt64)
    return held.with_columns(order=order).sort("order").head(count).drop("order")


def show(name: str, found: Verdicts) -> list[list[str]]:
    """A row for each setting, of present and of absent products."""
    rows = []
    for setting, of in found.settings.items():
        none = of.present["none"]
        kept = "kept" if none.low <= found.alpha else "BROKEN"
        for product, shares in (("present", of.present), ("absent", of.absent)):
            cells = [_cell(shares[verdict]) for verdict in VERDICTS]
            more = [f"{of.area_under_roc:.3f}", f"{of.calibration_error:.3f}", _cell(of.right_matches), kept]
            rows.append(
                [name, setting, product, str(of.photos), *cells, *(more if shares is of.present else [])]
            )
    return rows


def limits(name: str, judged: dict[str, JudgedPhotos]) -> list[list[str]]:
    """A row for each setting: how often the first answer is wrong, and the two ROC areas."""
    rows = []
    for setting, photos in judged.items():
        right = photos.right
        if not 0 < right.sum() < len(right):
            continue
        own = area_under_roc(photos.present[right], photos.absent[right])
        other = area_under_roc(photos.present[~right], photos.absent[right])
        rows.append([name, setting, f"{1 - right.mean():.3f}", f"{own:.3f}", f"{other:.3f}"])
    return rows


def _cell(share: Share | None) -> str:
    return "" if share is None else f"{share.share:.3f} [{share.low:.3f}, {share.high:.3f}]"


@click.command()
@click.option("--data-root", "root", default="data/demo", show_default=True, help="A materialized preset's.")
@click.option("--preset", "name", default="demo", show_default=True)
@click.option("--render-seed", type=int, help="Also judge another rendering, of this seed.")
@click.option("--other", type=click.Path(path_type=Path), default=Path("data/other"), show_default=True)
@click.option("--photos", "count", default=2500, show_default=True, help="Photos to judge, at most.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    root: str, name: str, render_seed: int | None, other: Path, count: int, json_path: Path | None
) -> None:
    """Judges the verdicts of an index on evaluation photos."""
    try:
        preset = load_preset(name).model_copy(update={"data_root": root})
        store, draws = ArtifactStore(root), (preset.evaluation.resamples, preset.seed)
        artifact, index = current_index(store)
        confidence = read_confidence(artifact.path)
        if not isinstance(confidence, Confidence):
            told = "it was built without `confidence`" if confidence is None else confidence.off
            raise UserError(f"the index in use at {root} gives no verdicts: {told}")
        images = EmbeddingTables.images_of(CLIP_EMBEDDINGS.read_all(store, preset.shards))
        encoder = load_encoder(CLIP_CHECKPOINT.read(store).folder, CPU)
        second = Second.open(store, preset, artifact, encoder)
        photos = {"own": second.ask(index, confidence, sample(images, count), second.look)}
        if render_seed is not None:
            another = another_rendering(preset, render_seed, other)
            render(another)
            tables = embedded(another, encoder)
            fresh = index_of(tables, preset, store)
            others = replace(second, preset=another)
            looked = others.look_of(fresh, tables.images)
            photos[f"rendering {render_seed}"] = others.ask(
                fresh, confidence, sample(tables.images, count), looked
            )
        judged = {which: judge_verdicts(confidence, asked, *draws) for which, asked in photos.items()}
        header = ["Data", "Setting", "Product", "Photos", *VERDICTS, "ROC", "ECE", "Right matches", "Promise"]
        rows = [row for which, found in judged.items() for row in show(which, found)]
        click.echo(tabulate(rows, header, "pipe", disable_numparse=True))
        header = ["Data", "Setting", "First is wrong", "Right against masked", "Wrong against masked right"]
        rows = [row for which, asked in photos.items() for row in limits(which, asked)]
        click.echo("\n" + tabulate(rows, header, "pipe", disable_numparse=True))
        if json_path:
            content: dict[str, Any] = {which: found.model_dump() for which, found in judged.items()}
            json_path.write_text(json.dumps(content, indent=1) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
