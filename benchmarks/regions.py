"""What the detector of a materialized preset finds, and R@1 by the region of a photo that is searched for.

python benchmarks/regions.py --preset demo --json regions.json
python benchmarks/regions.py --preset demo --role development --trim 0 --trim 0.04  # to choose settings by

The regions are those of `skufp_pipeline/evaluation/regions.py`; photos are embedded by PyTorch, without the
policy. `--detector` judges another checkpoint than that of the data root; `--threshold` and `--trim` replace
its own.
"""

import json
from itertools import product
from pathlib import Path

import click
import polars as pl
import torch

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_CHECKPOINT,
    DETECTOR_CHECKPOINT,
    FINGERPRINTS,
    RAW_DATASET,
)
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION
from skufp_pipeline.detection.files import load_model
from skufp_pipeline.detection.model import ModelDetector
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.regions import report_detection, sampled_photos
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
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write every figure there.")
def main(
    name: str,
    data_root: str | None,
    folder: Path | None,
    role: str,
    most: int,
    thresholds: tuple[float, ...],
    trims: tuple[float, ...],
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
        own, results = model.settings, []
        for threshold, trim in product(thresholds or (own.threshold,), trims or (own.trim,)):
            model.settings = own.model_copy(update={"threshold": threshold, "trim": trim})
            detector = ModelDetector(model, model.by_pytorch(device))
            find, draws = preset.dataset.find(raw.path), (preset.evaluation.resamples, preset.seed)
            models = detector, encoder, table, preset.crops
            figures, regions, _, _ = report_detection(photos, find, has_boxes, *models, draws)
            found = {"threshold": threshold, "trim": trim, **figures}
            click.echo(json.dumps(found))
            with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=120):
                click.echo(regions)
            results.append({**found, "regions": regions.to_dicts()})
        if target is not None:
            target.write_text(json.dumps(results, indent=1) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
