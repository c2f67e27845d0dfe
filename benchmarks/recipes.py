"""What each way of training the encoder is worth, on a rendering that no report is made from.

python benchmarks/recipes.py --epochs 8 --seeds 2 --json recipes.json

Every recipe is the paper's (plain SKU cross-entropy, shuffled batches, one learning rate) with what its name
says changed, trained from the same seeds on the same images. A fifth of the training SKUs, by a stable hash
of their id, is left out of training. Image R@1 of mean-SKU vectors:

seen       development queries of the SKUs trained on, among those SKUs
new        all but the evaluation queries of the SKUs left out, among those SKUs: the zero-shot figure

`--root` takes the crops of a data root that is there, of any data set, instead of rendering a sample.
Only training SKUs take part, and no evaluation query. Differences from the paper's recipe are averaged over
seeds and paired by query, with a 95% interval over SKUs.
"""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import dagster as dg
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.artifacts.places import IMAGE_TEXT, SKU_CROPS
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.clip_train import TrainingData, fine_tune
from skufp_pipeline.encoders.dataset import TextShard, gather_training_data, text_shards
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.settings import ClipTrainingSettings
from skufp_pipeline.hashing import stable_fraction
from skufp_pipeline.measures.bootstrap import paired_bootstrap
from skufp_pipeline.measures.ranks import ranks_of
from skufp_pipeline.orchestration.schedules import stages
from skufp_pipeline.presets import Preset, another_rendering, load_preset
from skufp_pipeline.store import ArtifactStore, shard_name
from skufp_pipeline.training.device import pick_device
from skufp_pipeline.training.history import best_epoch, speed

PAPER: dict[str, Any] = {
    "margin": 0.0,
    "centroid_weight": 0.0,
    "images_per_sku": None,
    "same_category": False,
    "head_only_epochs": 0,
    "ema_decay": None,
}
LEFT_OUT = 0.2
PREPARED = ("read_catalog", "build_catalog_shards")


def recipes(base: ClipTrainingSettings) -> dict[str, dict[str, Any]]:
    """What each recipe changes in the paper's; `base` gives the learning rate of the head."""
    tenth = {"backbone_learning_rate": base.learning_rate / 10}
    centroid = {"images_per_sku": 4, "centroid_weight": 1.0}
    return {
        "paper": {},
        "arcface": {"margin": 0.2},
        "p_x_k": {"images_per_sku": 4},
        "centroid": centroid,
        "same_category": {"same_category": True},
        "head_first": {"head_only_epochs": 1},
        "backbone_tenth": tenth,
        "moving_average": {"ema_decay": 0.98},
        "arcface+centroid": {"margin": 0.2, **centroid},
        "arcface+same_category": {"margin": 0.2, "same_category": True},
        "arcface+moving_average": {"margin": 0.2, "ema_decay": 0.98},
    }


@dataclass(frozen=True)
class Trial:
    """One trained encoder: whether each query found its SKU first, by setting, and what the run took."""

    hits: dict[str, NDArray[np.float64]]
    seconds: float
    measured: dict[str, float]
    best_epoch: int


class Bench:
    """The images of one rendering's training SKUs, those to train on and those left out."""

    def __init__(self, preset: Preset, shards: list[TextShard], work: Path) -> None:
        self.preset, self.work, self.device = preset, work, pick_device(preset.compute.device)
        self.base = ClipTrainingSettings.model_validate(
            preset.encoder.training.model_dump()
            | PAPER
            | {"backbone_learning_rate": preset.encoder.training.learning_rate}
        )
        self.data, _ = self._gather(shards)
        rows = pl.concat(
            [
                shard.image_text.filter(split="train").with_columns(
                    pl.format("{}/{}", pl.lit(str(shard.crop_dir)), "image_path").alias("path")
                )
                for shard in shards
            ]
        ).filter(pl.col("role") != EVALUATION)
        out = pl.col("sku_id").map_elements(is_left_out, return_dtype=pl.Boolean)
        self.settings = {
            "seen": rows.filter(~out & pl.col("role").is_in([GALLERY, DEVELOPMENT])),
            "new": rows.filter(out),
        }

    def _gather(self, shards: list[TextShard]) -> tuple[TrainingData, pl.DataFrame]:
        kept = ~pl.col("sku_id").map_elements(is_left_out, return_dtype=pl.Boolean)
        used = [
            replace(s, image_text=s.image_text.filter(kept), text_queries=s.text_queries.filter(kept))
            for s in shards
        ]
        squares = self.work / "squares"
        squares.mkdir(parents=True, exist_ok=True)
        return gather_training_data(used, self.preset.prompts, self.base.cache_side, squares)

    def trial(self, changes: dict[str, Any], seed: int) -> Trial:
        training = ClipTrainingSettings.model_validate(self.base.model_dump() | changes)
        scratch = self.work / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        begin = time.perf_counter()
        encoder = create_encoder(self.preset.encoder, self.device, seed)
        history = fine_tune(encoder, self.data, training, seed, scratch, lambda line: None)
        seconds = time.perf_counter() - begin
        hits = {name: self._hits(encoder, rows) for name, rows in self.settings.items()}
        return Trial(hits, seconds, speed(history), int(best_epoch(history)["epoch"]))

    def _hits(self, encoder: Encoder, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(Q,) 1 where a query's own SKU has the nearest mean of catalogue crops."""
        vectors = embed_crops(encoder, [Path(p) for p in rows["path"]], self.preset.encoder.batch_size)
        is_view = (rows["role"] == GALLERY).to_numpy()
        skus, owner = np.unique(rows["sku_id"].to_numpy()[is_view].astype(str), return_inverse=True)
        means = np.zeros((len(skus), vectors.shape[1]))
        np.add.at(means, owner, vectors[is_view])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        truth = np.searchsorted(skus, self.owners(rows))
        return (ranks_of(vectors[~is_view], means, truth) == 1).astype(np.float64)

    @staticmethod
    def owners(rows: pl.DataFrame) -> NDArray[Any]:
        """(Q,) the right SKU of each query."""
        return rows.filter(pl.col("role") != GALLERY)["sku_id"].to_numpy().astype(str)


def is_left_out(sku_id: str) -> bool:
    """Whether training never sees this SKU."""
    return stable_fraction(sku_id, "recipes-left-out") < LEFT_OUT


def prepare(preset: Preset) -> None:
    """Makes the preset's crops and image-text tables, where they are not there."""
    definitions = build_defs(preset)
    with dg.DagsterInstance.ephemeral() as instance:
        for stage in stages(graph_steps(preset)):
            if stage.name in PREPARED:
                keys = [shard_name(n) for n in range(preset.shards)] if stage.sharded else [None]
                for key in keys:
                    definitions.resolve_job_def(stage.name).execute_in_process(
                        instance=instance, partition_key=key, run_config={"loggers": {"plain": {}}}
                    )


def read_text_shards(preset: Preset) -> list[TextShard]:
    """What is at the preset's data root."""
    store, shards = ArtifactStore(preset.data_root), preset.shards
    return text_shards(IMAGE_TEXT.read_all(store, shards), SKU_CROPS.read_all(store, shards))


def compare(bench: Bench, trials: dict[str, list[Trial]]) -> list[dict[str, Any]]:
    """One row a recipe: R@1 by setting, its difference from the paper's, what it took."""
    rows = []
    for name, runs in trials.items():
        row: dict[str, Any] = {
            "recipe": name,
            "seconds": float(np.mean([run.seconds for run in runs])),
            "images_per_second": float(np.mean([run.measured["images_per_second"] for run in runs])),
            "waiting_for_data": float(np.mean([run.measured["waiting_for_data"] for run in runs])),
            "best_epochs": [run.best_epoch for run in runs],
        }
        for setting, table in bench.settings.items():
            found = np.stack([run.hits[setting] for run in runs])
            base = np.stack([run.hits[setting] for run in trials["paper"]])
            gain = paired_bootstrap(found.mean(axis=0), base.mean(axis=0), bench.owners(table))
            row[setting] = {
                "r1": float(found.mean()),
                "seeds": found.mean(axis=1).tolist(),
                "gain": gain.delta,
                "low": gain.low,
                "high": gain.high,
            }
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    click.echo("| recipe | seen R@1 | against paper | new R@1 | against paper | s | images/s | waiting |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = []
        for setting in ("seen", "new"):
            found = row[setting]
            cells += [
                f"{found['r1']:.3f}",
                f"{found['gain']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]",
            ]
        took = f"{row['seconds']:.0f} | {row['images_per_second']:.0f} | {row['waiting_for_data']:.1%}"
        click.echo(f"| {row['recipe']} | {' | '.join(cells)} | {took} |")


@click.command()
@click.option("--preset", "name", help="A preset's name or file; demo by default.")
@click.option("--render-seed", default=101, show_default=True)
@click.option("--skus", type=int, help="SKUs of the rendering; as many as the preset's by default.")
@click.option("--root", help="A data root that holds the preset's crops; nothing is rendered.")
@click.option("--epochs", type=int, help="As many as the preset's by default.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--only", multiple=True, help="A recipe to train beside the paper's; all by default.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("recipes"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    name: str | None,
    render_seed: int,
    skus: int | None,
    root: str | None,
    epochs: int | None,
    seeds: int,
    only: tuple[str, ...],
    work: Path,
    json_path: Path | None,
) -> None:
    """Compares ways of training the encoder."""
    preset = load_preset(name)
    if root is None:
        preset = another_rendering(preset, render_seed, work / "data", skus)
        prepare(preset)
    else:
        preset = preset.model_copy(update={"data_root": root})
    bench = Bench(preset, read_text_shards(preset), work)
    budget = {} if epochs is None else {"epochs": epochs}
    chosen = {n: c for n, c in recipes(bench.base).items() if not only or n in ("paper", *only)}
    for setting, table in bench.settings.items():
        views = table.filter(role=GALLERY)
        click.echo(f"{setting}: {table.height - views.height} queries, {views['sku_id'].n_unique()} SKUs")
    trials: dict[str, list[Trial]] = {recipe: [] for recipe in chosen}
    for seed in range(seeds):
        for recipe, changes in chosen.items():
            trial = bench.trial(changes | budget, seed)
            trials[recipe].append(trial)
            found = ", ".join(f"{setting} {hits.mean():.3f}" for setting, hits in trial.hits.items())
            click.echo(f"{recipe}, seed {seed}: {found} ({trial.seconds:.0f} s)")
    rows = compare(bench, trials)
    show(rows)
    if json_path:
        about = {"data_root": preset.data_root, "seeds": seeds, "threads": torch.get_num_threads()}
        training = bench.base.model_copy(update=budget).model_dump(mode="json")
        json_path.write_text(json.dumps({"rows": rows, "about": about, "base": training}, indent=1) + "\n")


if __name__ == "__main__":
    main()
