"""What the detector of a materialized preset finds, and R@1 by the region of a photo that is searched for.

python benchmarks/regions.py --preset demo --json regions.json
python benchmarks/regions.py --preset demo --role development --trim 0 --trim 0.04  # to choose settings by
python benchmarks/regions.py --preset demo --moved 0.04 --moved 0.08  # what a box's accuracy is worth

The regions are those of `skufp_pipeline/evaluation/regions.py`; photos are embedded by PyTorch, without the
policy. `--detector` judges another checkpoint than that of the data root; `--threshold`, `--trim` and
`--looks` replace its own. `--moved` also searches for annotated boxes whose edges are moved at random.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import click
import numpy as np
import polars as pl
import torch

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_CHECKPOINT,
    DETECTOR_CHECKPOINT,
    FINGERPRINTS,
    RAW_DATASET,
)
from skufp_pipeline.datasets.crops import CropSettings, read_items
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION
from skufp_pipeline.detection.files import load_model
from skufp_pipeline.detection.model import ModelDetector
from skufp_pipeline.detection.regions import overlaps
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.regions import report_detection, sampled_photos
from skufp_pipeline.fingerprint.tables import biased_queries, biased_rows
from skufp_pipeline.measures.ranks import ranks_of, right_items
from skufp_pipeline.photos import size_of
from skufp_pipeline.presets import load_preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.store import ArtifactStore


@click.command()
@click.option("--preset", "name", default="demo", show_default=True, help="A preset's name or YAML file.")
@click.option("--data-root", help="Of the materialized preset; its own by default.")
@click.option(
    "--detector", "folder", type=click.Path(path_type=Path), help="A folder as detector_checkpoint."
)
@click.option("--role", type=click.Choice([EVALUATION, DEVELOPMENT]), default=EVALUATION, show_default=True)
@click.option("--photos", "most", default=1000, show_default=True, help="A stable sample of so many.")
@click.option("--threshold", "thresholds", type=float, multiple=True, help="Least scores to compare.")
@click.option("--trim", "trims", type=float, multiple=True, help="Shares to cut off regions, to compare.")
@click.option("--looks", type=int, help="At each found region.")
@click.option("--moved", "moves", type=float, multiple=True, help="Deviation of edges, in shares of a side.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write every figure there.")
def main(
    name: str,
    data_root: str | None,
    folder: Path | None,
    role: str,
    most: int,
    thresholds: tuple[float, ...],
    trims: tuple[float, ...],
    looks: int | None,
    moves: tuple[float, ...],
    target: Path | None,
) -> None:
    """Prints recall, time, and R@1 by region with the paired difference from the annotated box."""
    try:
        preset = load_preset(name)
        store = ArtifactStore(data_root or preset.data_root)
        raw, items = RAW_DATASET.read(store), ANNOTATIONS.read(store).items()
        table = FINGERPRINTS.read(store).table()
        device = torch.device("cpu")
        encoder = ModelProvider(device="cpu").load_encoder(CLIP_CHECKPOINT.read(store).folder)
        model = load_model(folder or DETECTOR_CHECKPOINT.read(store).needed().path)
        photos = sampled_photos(items, table["sku_id"], most, role)
        images = photos["orig_image_path"].unique().to_list()
        has_boxes = bool(preset.dataset.boxes(raw.path, items, images))
        own, results, find = model.settings, [], preset.dataset.find(raw.path)
        own = own if looks is None else own.model_copy(update={"looks": looks})
        for threshold, trim in product(thresholds or (own.threshold,), trims or (own.trim,)):
            model.settings = own.model_copy(update={"threshold": threshold, "trim": trim})
            detector = ModelDetector(model, model.by_pytorch(device))
            draws = preset.evaluation.resamples, preset.seed
            models = detector, encoder, table, preset.crops
            figures, regions, *_ = report_detection(photos, find, has_boxes, *models, draws)
            found = {"threshold": threshold, "trim": trim, **figures}
            click.echo(json.dumps(found))
            with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=120):
                click.echo(regions)
            results.append({**found, "regions": regions.to_dicts()})
        for move in moves:
            results.append(moved_boxes(photos, find, encoder, table, preset.crops, move, preset.seed))
            click.echo(json.dumps(results[-1]))
        if target is not None:
            target.write_text(json.dumps(results, indent=1) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


def moved_boxes(
    photos: pl.DataFrame,
    find: Callable[[str], Path],
    encoder: Encoder,
    fingerprints: pl.DataFrame,
    crops: CropSettings,
    move: float,
    seed: int,
) -> dict[str, float]:
    """R@1, among all SKUs, of annotated boxes whose edges are moved by normal shares of width and height."""
    rng, overlap, embeddings = np.random.default_rng(seed), [], []
    for row in photos.iter_rows(named=True):
        path, box = find(row["orig_image_path"]), np.array(row["bbox"])
        edges, sides = np.tile(size_of(path), 2), np.tile(box[2:] - box[:2], 2)
        moved = np.rint(box + rng.normal(0, move, 4) * sides).clip(0, edges).astype(int)
        if not (moved[2:] > moved[:2]).all():
            moved = box
        overlap.append(overlaps(box, moved)[0, 0])
        view = read_items(path, [moved.tolist()], crops)[0]
        embeddings.append(encoder.embed_pixels(encoder.preprocess(view)[None]))
    truth = right_items(photos["sku_id"].to_list(), fingerprints["sku_id"])
    ranks = ranks_of(biased_queries(np.concatenate(embeddings)), biased_rows(fingerprints), truth)
    return {"moved": move, "mean_iou": float(np.mean(overlap)), "recall@1": float((ranks == 1).mean())}


if __name__ == "__main__":
    main()
