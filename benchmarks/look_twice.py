"""What a second look adds: R@1 with the fingerprint alone and with MaxSim of patches, and its time.

python benchmarks/look_twice.py --preset demo --seeds 3
python benchmarks/look_twice.py --preset shop --photos photos.csv

The data root is materialized up to its search index. For each seed a patch head is trained as
`look_twice_checkpoint` does it, the weight of MaxSim is chosen as `search_index` does, and the evaluation
photos (a stable sample of `--queries`), or those of `--photos`, a list as `skufp evaluate` reads it, are
judged against the index in use. Intervals of a difference are paired, over SKUs and seeds.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FROZEN_CLIP_CHECKPOINT,
    SKU_CROPS,
)
from skufp_pipeline.compute import freed_memory_kept
from skufp_pipeline.datasets.crops import CropSettings, read_item
from skufp_pipeline.datasets.manifest import ManifestSettings, read_photos
from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.encoders.clip import load_encoder
from skufp_pipeline.encoders.late_interaction import train_patch_head
from skufp_pipeline.encoders.patch_tables import Towers, gather_patch_data, patch_tables, sample_of_maps
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, PatchHead
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.bootstrap import percentile_interval, resampled_means
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.photos import read_crop
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.look_twice import LookTwice, write_look_twice
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.patches import load_patches
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline.views.selection import with_paths


@click.command()
@click.option("--preset", "name", default="demo", show_default=True)
@click.option("--data-root", help="By default the preset's.")
@click.option("--photos", type=click.Path(path_type=Path), help="Judge these instead of the catalogue's.")
@click.option("--queries", default=2500, show_default=True, help="Photos to judge, at most.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path))
def main(
    name: str, data_root: str | None, photos: Path | None, queries: int, seeds: int, target: Path | None
) -> None:
    preset = load_preset(name)
    root = Root(preset, ArtifactStore(data_root or preset.data_root))
    judged = root.listed(photos, queries) if photos else root.held_out(queries)
    found = [root.judge(judged, preset.seed + number) for number in range(seeds)]
    rows = table(found, judged)
    click.echo(tabulate(rows, headers="keys", floatfmt=".3f"))
    for number, one in enumerate(found):
        times = ", ".join(f"{key} {one[key]:.3f} ms" for key in ("p50", "p95"))
        click.echo(
            f"seed {preset.seed + number}: weight {one['weight']} (on {one['chosen_on']} photos), {times}"
        )
    if target is not None:
        target.write_text(json.dumps(rows, indent=1) + "\n")


class Root:
    """A materialized data root, and what the second look needs of it."""

    def __init__(self, preset: Preset, store: ArtifactStore) -> None:
        self.preset, self.store = preset, store
        self.settings = preset.look_twice or LookTwiceSettings()
        _, self.index = current_index(store)
        cpu = torch.device("cpu")
        photos = load_encoder(CLIP_CHECKPOINT.read(store).folder, cpu)
        adapted = preset.encoder.adaptation is not None
        views = load_encoder(FROZEN_CLIP_CHECKPOINT.read(store).folder, cpu) if adapted else photos
        self.towers = Towers(photos, views)
        inputs = Inputs(store, preset.shards)
        shards = zip(inputs.read_all(CLIP_EMBEDDINGS), inputs.read_all(SKU_CROPS), strict=True)
        self.images = pl.concat([with_paths(shard.images(), crops.path) for shard, crops in shards])

    def held_out(self, count: int) -> pl.DataFrame:
        """Returns `sku_id`, `split` and `path` of evaluation photos, a stable sample."""
        known = pl.col("split").is_in(SETTING_SPLITS["seen+zero"])
        rows = self.images.filter((pl.col("role") == EVALUATION) & known)
        order = pl.Series([stable_hash(item, "judged") for item in rows["item_id"]], dtype=pl.UInt64)
        return rows.with_columns(order=order).sort("order").head(count)

    def listed(self, photos: Path, count: int) -> pl.DataFrame:
        read = read_photos(photos, ManifestSettings(path=str(photos)))
        splits = self.index.skus.select("sku_id", "split")
        rows = read.items.drop("split").join(splits, on="sku_id", maintain_order="left")
        folder = pl.lit(f"{photos.parent}/")
        return rows.with_columns(path=folder + pl.col("orig_image_path")).head(count)

    def judge(self, judged: pl.DataFrame, seed: int) -> dict[str, Any]:
        """Trains a head and returns the ranks of the judged photos, by setting and method."""
        grid = PatchGrid.of(self.towers.photos, self.settings)
        torch.manual_seed(seed)
        head, camera = PatchHead(grid), (self.preset.synthetic.camera, self.preset.synthetic.backgrounds)
        rows = self.images.rename({"item_id": "query_id"})
        started = time.perf_counter()
        with TemporaryDirectory() as name, freed_memory_kept():
            scratch = Path(name)
            data, _ = gather_patch_data(
                self.towers, grid, rows, camera, self.settings, seed, scratch, progress("read")
            )
            head.start(sample_of_maps(data))
            train_patch_head(
                head, data, self.settings, seed, scratch, lambda line: click.echo(line, err=True)
            )
            click.echo(f"trained in {time.perf_counter() - started:.0f} s", err=True)
            photos, views = (PatchEncoder(tower, head) for tower in (self.towers.photos, self.towers.views))
            tables = patch_tables(
                views, photos, self.images, self.preset.encoder.batch_size, progress("patches")
            )
            given = tables[1], self.images, grid.shape, self.settings
            write_look_twice(scratch, self.index, [tables[0]], *given)
            found = load_patches(scratch, self.index.row_count)
            assert found is not None
            look = LookTwice(found[0], found[1].top, found[1].weight)
            embedded = [embed(photos, row) for row in judged.iter_rows(named=True)]
            ranks = {name: self._ranks(look, judged, embedded, name) for name in SETTING_SPLITS}
            times = [look_ms(self.index, look, *one) for one in embedded[:300]]
        p50, p95 = np.percentile(times, (50, 95))
        return {
            "ranks": ranks,
            "weight": found[1].weight,
            "chosen_on": found[1].chosen_on,
            "p50": p50,
            "p95": p95,
        }

    def _ranks(
        self, look: LookTwice, judged: pl.DataFrame, embedded: list[Any], setting: str
    ) -> dict[str, NDArray[np.float64]]:
        """Ranks (Q,) up to 100 without and with the second look; nan for photos of another setting."""
        splits = SETTING_SPLITS[setting]
        known = [value for value in splits if value in set(self.index.skus["split"])]
        ranks = {method: np.full(len(judged), np.nan) for method in ("fingerprint", "look_twice")}
        if not known:
            return ranks
        within = self.index.where(split=known)
        truth = right_items(judged["sku_id"], self.index.skus["sku_id"])
        for number, (split, row) in enumerate(zip(judged["split"], truth, strict=True)):
            if split in splits:
                first = self.index.search(embedded[number][0], 100, within)[0]
                second = look.again(first, embedded[number][1])
                ranks["fingerprint"][number] = place(first.rows, row)
                ranks["look_twice"][number] = place(second.rows, row)
        return ranks


def table(found: list[dict[str, Any]], judged: pl.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for setting in SETTING_SPLITS:
        ranks = [one["ranks"][setting] for one in found]
        asked = ~np.isnan(ranks[0]["fingerprint"])
        if not asked.any():
            continue
        hits = {
            method: np.mean([one[method][asked] == 1 for one in ranks], axis=0)
            for method in ("fingerprint", "look_twice")
        }
        gain = hits["look_twice"] - hits["fingerprint"]
        skus = judged["sku_id"].to_numpy()[asked]
        low, high = percentile_interval(resampled_means(gain[:, None], skus, 2000, 0)[:, 0])
        shares = {method: float(values.mean()) for method, values in hits.items()}
        gains = {"gain": float(gain.mean()), "low": float(low), "high": float(high)}
        rows.append({"setting": setting, "photos": int(asked.sum()), **shares, **gains})
    return rows


def embed(encoder: PatchEncoder, row: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    path = Path(row["path"])
    image = read_item(path, row["bbox"], CropSettings()) if "bbox" in row else read_crop(path)
    rows, patches = encoder.embed_with_patches(encoder.preprocess(image)[None])
    return rows[0], patches[0]


def look_ms(index: FingerprintIndex, look: LookTwice, row: Any, patches: Any) -> float:
    first = index.search(row, look.top)[0]
    started = time.perf_counter()
    look.again(first, patches)
    return (time.perf_counter() - started) * 1000


def place(rows: NDArray[np.int64], row: int) -> float:
    found = np.flatnonzero(rows == row)
    return float(found[0] + 1) if len(found) else np.inf


def progress(what: str) -> Any:
    def report(done: int, total: int) -> None:
        if done * 10 // total != (done - 64) * 10 // total:
            click.echo(f"{what}: {done}/{total}", err=True)

    return report


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
