"""What generated views are worth beside controls of equal count, on a materialized preset.

python benchmarks/views_ablation.py --json views.json

Every arm trains the aggregator on the same catalog views, queries and teachers with the same seeds; they
differ in the views that are added for the SKUs of the budget:

none          none
classical     as many random crops, flips and colour changes of the same source views as LoRA had accepted
duplicated    as many copies of the same source views
frozen        img2img without the adapter, filtered by the same thresholds
lora          img2img with it: what the graph made, generated again to time it

Image R@1 of the evaluation queries; differences from `none` are paired by query and averaged over seeds, with
a 95% interval over SKUs. `of the budget` are the queries whose SKU was given views.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.kinds import ACCEPTED
from skufp_pipeline.artifacts.places import (
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    IMAGE_TEXT,
    SD_BASE,
    SD_LORA,
    SKU_CROPS,
    VIEW_FILTERS,
)
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation import controls
from skufp_pipeline.evaluation.protocol import QuerySet, evaluation_queries
from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
from skufp_pipeline.fingerprint.gaussian import fit_gaussian
from skufp_pipeline.fingerprint.make import make_fingerprints
from skufp_pipeline.fingerprint.tables import EmbeddingTables, biased_queries, biased_rows, fingerprint_data
from skufp_pipeline.hashing import shard_part
from skufp_pipeline.measures.bootstrap import paired_bootstrap
from skufp_pipeline.measures.ranks import ranks_of, right_items
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline.training.augment import augment
from skufp_pipeline.views.selection import shard_views
from skufp_pipeline.views.settings import ViewsSettings
from skufp_pipeline.views.shard import generate_shard
from skufp_pipeline.views.tables import embed_generated, squares

SETTINGS = {"seen": "train", "zero": "validation"}  # a setting's split, of queries and gallery alike


@dataclass(frozen=True)
class Arm:
    """Views to add, and what it took to make them where they were generated."""

    views: pl.DataFrame | None
    made: dict[str, float]


class Graph:
    """What a materialized preset holds."""

    def __init__(self, preset: Preset, members: int) -> None:
        if preset.views is None:
            raise UserError(f"preset {preset.name} has no views")
        self.preset, self.views = preset, preset.views
        aggregator = preset.fingerprint.aggregator.model_copy(update={"members": members})
        self.fingerprint = preset.fingerprint.model_copy(update={"aggregator": aggregator})
        self.store = ArtifactStore(preset.data_root)
        inputs = Inputs(self.store, preset.shards)
        checkpoint = inputs.read(CLIP_CHECKPOINT)
        self.tables = EmbeddingTables.of(inputs.read_all(CLIP_EMBEDDINGS))
        self.teachers = inputs.read(BEST_SHOT_TEACHERS).table()
        inputs.digests()  # refuses what does not belong together
        self.models = ModelProvider(device=preset.compute.device)
        self.encoder: Encoder = self.models.load_encoder(checkpoint.folder)

    def base(self, settings: ViewsSettings) -> str:
        if settings.base is None:
            assert settings.model is not None
            return settings.model
        return str(SD_BASE.read(self.store).pipeline)

    def shards(self) -> Iterator[tuple[int, pl.DataFrame, pl.DataFrame]]:
        """Number, image-text table, and catalog views with their crops' paths."""
        for shard in range(self.preset.shards):
            texts, crops = IMAGE_TEXT.read(self.store, shard), SKU_CROPS.read(self.store, shard)
            yield shard, texts.images(), shard_views(texts, crops, self.views.prompts.prompt)


def generated(graph: Graph, lora: Path | None, folder: Path) -> Arm:
    """Views of the budget's SKUs by img2img, as the graph makes them."""
    preset, settings = graph.preset, graph.views
    thresholds = VIEW_FILTERS.read(graph.store).thresholds()
    embedded, candidates, seconds = [], [], 0.0
    for shard, texts, views in graph.shards():
        out, scratch = folder / f"{shard:04d}", folder / f"{shard:04d}.candidates"
        for place in (out, scratch):
            place.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        generate_shard(
            lambda: graph.models.diffusion(graph.base(settings), settings.generation.precision, lora),
            views,
            shard_part(settings.generation.max_skus, preset.shards, shard),
            graph.encoder,
            settings,
            thresholds,
            preset.encoder.is_pretrained,
            scratch,
            out,
        )
        seconds += time.perf_counter() - begin
        table = pl.read_parquet(out / "candidates.parquet")
        candidates.append(table)
        embedded.append(
            embed_generated(table, texts, out / "images", graph.encoder, preset.encoder.batch_size)
        )
    every = pl.concat(candidates)
    accepted = every.filter(pl.col("verdict") == ACCEPTED)
    made = {
        "candidates": every.height,
        "acceptance": accepted.height / every.height,
        "clip_cosine": float(every["clip_cosine"].to_numpy().mean()),
        "hsv_distance": float(every["hsv_distance"].to_numpy().mean()),
        "seconds_per_accepted": seconds / max(accepted.height, 1),
    }
    return Arm(pl.concat(embedded), made)


def duplicated(graph: Graph, like: pl.DataFrame) -> Arm:
    """Copies of the source views."""
    return Arm(controls.duplicated(graph.tables.images, like), {})


def classical(graph: Graph, like: pl.DataFrame, seed: int) -> Arm:
    """Training's augmentations of the source crops, one for each of the views in `like`."""
    paths = {row["item_id"]: row["path"] for _, _, views in graph.shards() for row in views.to_dicts()}
    side, generator = graph.encoder.image_size, torch.Generator().manual_seed(seed)
    found = squares([Path(paths[item]) for item in like["source_item_id"]], side)
    pixels = torch.from_numpy(found).permute(0, 3, 1, 2).float() / 255
    changed = augment(pixels, (side, side), graph.preset.encoder.training.augmentation, generator)
    images = (changed.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    rows = embed_arrays(graph.encoder, images)
    return Arm(like.with_columns(embedding_column(rows).alias("embedding")), {})


def embed_arrays(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) embeddings of (N, S, S, 3) images."""
    pixels = torch.stack([encoder.preprocess(Image.fromarray(image)) for image in images])
    return np.concatenate([encoder.embed_pixels(part) for part in pixels.split(64)])


def first_ranks(graph: Graph, arm: Arm, seed: int, queries: QuerySet) -> NDArray[np.bool_]:
    """(Q,) whether each evaluation query finds its SKU first, in the gallery of its own split."""
    settings = graph.fingerprint
    tables = replace(graph.tables, generated=arm.views)
    device = graph.models.torch_device()
    data = fingerprint_data(tables, graph.teachers, settings.max_views)
    with TemporaryDirectory() as scratch:
        model, _ = train_aggregator(data, settings, seed, device, Path(scratch), lambda line: None)
    known = fit_gaussian(data.views, data.image_queries, settings.gaussian) if settings.gaussian else None
    table, _ = make_fingerprints(model, known, tables, settings, device)
    rows, wanted = biased_rows(table), biased_queries(queries.embeddings)
    hit = np.zeros(len(queries.query_ids), dtype=bool)
    for split in SETTINGS.values():
        gallery, asked = (table["split"] == split).to_numpy(), np.array(queries.splits) == split
        truth = right_items(np.array(queries.sku_ids)[asked], table["sku_id"].filter(pl.Series(gallery)))
        hit[asked] = ranks_of(wanted[asked], rows[gallery], truth) == 1
    return hit


def measure(
    graph: Graph, arms: dict[str, Arm], seeds: int, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each arm, setting and set of SKUs."""
    queries = evaluation_queries(graph.tables.images.rename({"item_id": "query_id"}))
    owners, splits = np.array(queries.sku_ids), np.array(queries.splits)
    with_views = arms["lora"].views
    assert with_views is not None
    chosen = np.isin(owners, with_views["sku_id"].unique().to_list())
    hits: dict[str, NDArray[np.float64]] = {}
    for name, arm in arms.items():
        runs = []
        for seed in range(seeds):
            runs.append(first_ranks(graph, arm, graph.preset.seed + seed, queries))
            log(f"{name}, seed {seed}: R@1 {runs[-1].mean():.4f}")
        hits[name] = np.stack(runs).astype(np.float64)
    rows = []
    for name, found in hits.items():
        for setting, split in SETTINGS.items():
            for scope, mask in (("all", splits == split), ("of the budget", (splits == split) & chosen)):
                if not mask.any():
                    continue
                base = hits["none"].mean(axis=0)
                gain = paired_bootstrap(found.mean(axis=0)[mask], base[mask], owners[mask])
                rows.append(
                    {
                        "arm": name,
                        "setting": setting,
                        "skus": scope,
                        "queries": int(mask.sum()),
                        "r1": float(found[:, mask].mean()),
                        "seeds": [float(run[mask].mean()) for run in found],
                        "gain": gain.delta,
                        "low": gain.low,
                        "high": gain.high,
                    }
                )
    return rows


def show(arms: dict[str, Arm], rows: list[dict[str, Any]]) -> None:
    click.echo(
        "| arm | views | setting | SKUs | R@1 | against none | 95% interval |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        views = arms[row["arm"]].views
        count = 0 if views is None else views.height
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        click.echo(
            f"| {row['arm']} | {count} | {row['setting']} | {row['skus']} | {row['r1']:.3f} "
            f"| {row['gain']:+.3f} | {interval} |"
        )
    for name, arm in arms.items():
        if arm.made:
            click.echo(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in arm.made.items()))


@click.command()
@click.option("--preset", "name", help="A preset's name or file; demo by default.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--members", default=1, show_default=True, help="Aggregators that make a fingerprint.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("views_ablation"), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(name: str | None, seeds: int, members: int, work: Path, json_path: Path | None) -> None:
    """Compares generated views with controls."""
    graph = Graph(load_preset(name), members)
    adapter = SD_LORA.read(graph.store).path
    lora = generated(graph, adapter, work / "lora")
    click.echo(f"with the adapter: {lora.made}")
    frozen = generated(graph, None, work / "frozen")
    click.echo(f"without: {frozen.made}")
    assert lora.views is not None
    arms = {
        "none": Arm(None, {}),
        "classical": classical(graph, lora.views, graph.preset.seed),
        "duplicated": duplicated(graph, lora.views),
        "frozen": frozen,
        "lora": lora,
    }
    rows = measure(graph, arms, seeds, click.echo)
    show(arms, rows)
    if json_path:
        made = {name: arm.made for name, arm in arms.items() if arm.made}
        json_path.write_text(json.dumps({"rows": rows, "made": made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
