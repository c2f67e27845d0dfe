"""Renders shop pictures of the sample alone, one a SKU, in a folder by category: pictures without SKUs."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from skufp_pipeline.camera.effects import encode_jpeg
from skufp_pipeline.datasets.sample.garments import CATEGORIES, sku_garment
from skufp_pipeline.datasets.sample.plan import Pair, Shot, plan_pairs, plan_shots
from skufp_pipeline.datasets.sample.scenes import render_scene
from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.datasets.sample.writer import Job, in_tasks, refuse_used, run_tasks
from skufp_pipeline.progress import Progress


@dataclass(frozen=True)
class PicturesSummary:
    """Counts of what was written."""

    pictures: int
    categories: int


def render_pictures(
    settings: SampleSettings, root: Path, progress: Progress | None = None
) -> PicturesSummary:
    """Writes `<category>/<number>.jpg` under `root`, an empty or new directory: each SKU's first shop view,
    without a second item. Raises `UserError` if `root` holds something.

    The same settings give the same bytes, for any number of workers. `progress` is called with (pictures
    written, total).
    """
    refuse_used(root)
    jobs = [Job(pair, np.array([sku.index + 1 for sku in pair.skus])) for pair in plan_pairs(settings)]
    indexes = [sku.index for job in jobs for sku in job.pair.skus]
    categories = {_category(settings, index) for index in indexes}
    for name in sorted(categories):
        (root / name).mkdir(parents=True)
    done = 0
    for written in run_tasks(settings, partial(_render, settings, root), in_tasks(jobs)):
        done += written
        if progress is not None:
            progress(done, len(indexes))
    return PicturesSummary(len(indexes), len(categories))


def _render(settings: SampleSettings, root: Path, jobs: list[Job]) -> int:
    """Returns the number of pictures written."""
    for job in jobs:
        for shot, number in zip(_first_views(settings, job.pair), job.image_numbers, strict=True):
            scene = render_scene(settings, shot)
            file = root / _category(settings, shot.sku.index) / f"{number:06d}.jpg"
            file.write_bytes(encode_jpeg(scene.image, scene.jpeg_quality))
    return sum(len(job.image_numbers) for job in jobs)


def _first_views(settings: SampleSettings, pair: Pair) -> list[Shot]:
    shots = [shot for shot in plan_shots(settings, pair) if shot.source == "shop" and not shot.is_stray]
    return [replace(shot, has_second_item=False) for shot in shots if shot.number == 0]


def _category(settings: SampleSettings, index: int) -> str:
    return CATEGORIES[sku_garment(settings, index).category_id].name
