"""Renders the sample in several processes and writes it in DeepFashion2's layout.

<root>/<split>/image/NNNNNN.jpg
<root>/<split>/annos/NNNNNN.json
<root>/degradations/pair_NNNNNN.parquet

The last file, not part of that layout, holds the degradations of customers' photos, so that results can be
broken down by them. No model reads it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import polars as pl

from skufp_pipeline.camera.effects import Degradation, encode_jpeg
from skufp_pipeline.compute import cores_available, exit_with_parent
from skufp_pipeline.datasets.sample.labels import Annotation, annotate
from skufp_pipeline.datasets.sample.plan import Pair, Shot, has_query, plan_pairs, plan_shots
from skufp_pipeline.datasets.sample.scenes import Scene, SeenPiece, render_scene
from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.progress import Progress
from skufp_pipeline.randomness import generator

Result = TypeVar("Result")

IMAGES_PER_TASK = 200
TASKS_AHEAD = 4  # per process, so that a million SKUs are not queued at once

DEGRADATIONS = "degradations"
# One customer's photo: `effects.Degradation`, and the shares of its own garment that are missing.
DEGRADATION_SCHEMA: dict[str, pl.DataType] = {
    "split": pl.String(),
    "image_id": pl.String(),
    **{name: pl.Float32() for name in Degradation.__dataclass_fields__},
    "jpeg_quality": pl.Int32(),
    "hidden": pl.Float32(),  # share of the garment's pixels in the frame that something covers
    "outside": pl.Float32(),  # share of its landmarks that lie outside the frame
}


@dataclass(frozen=True)
class SampleSummary:
    """Counts of what was written."""

    skus: int
    skus_with_query: int
    pairs: int
    images: dict[str, int]  # by split
    shop_images: int
    user_images: int
    items: int
    style_zero_items: int
    two_item_images: int


@dataclass(frozen=True)
class Job:
    """A pair and the numbers of its images, in the order of `plan_shots`."""

    pair: Pair
    image_numbers: np.ndarray


def render_sample(settings: SampleSettings, root: Path, progress: Progress | None = None) -> SampleSummary:
    """Writes the sample under `root`, an empty or new directory; raises `UserError` if it holds something.

    The same settings give the same bytes, for any number of workers (with the same OpenCV and NumPy).
    `progress` is called with (images written, total).
    """
    refuse_used(root)
    totals = _count_images(settings)
    for split in totals:
        for folder in ("image", "annos"):
            (root / split / folder).mkdir(parents=True)
    (root / DEGRADATIONS).mkdir()
    counts: Counter[str] = Counter()
    for done in run_tasks(settings, partial(_render_jobs, settings, root), in_tasks(_jobs(settings, totals))):
        counts += done
        if progress is not None:
            progress(counts["shop"] + counts["user"], sum(totals.values()))
    return SampleSummary(
        skus=settings.num_skus,
        skus_with_query=counts["skus_with_query"],
        pairs=counts["pairs"],
        images=totals,
        shop_images=counts["shop"],
        user_images=counts["user"],
        items=counts["items"],
        style_zero_items=counts["style_zero"],
        two_item_images=counts["two_items"],
    )


def refuse_used(root: Path) -> None:
    """Raises `UserError` if a directory to render into holds something."""
    if root.exists() and any(root.iterdir()):
        raise UserError(
            f"The sample data set needs an empty directory, but {root} holds files. "
            f"Choose another directory or empty this one."
        )


def _count_images(settings: SampleSettings) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for pair in plan_pairs(settings):
        totals[pair.split] += len(plan_shots(settings, pair))
    return {split: totals[split] for split in ("train", "validation", "test") if totals[split]}


def _jobs(settings: SampleSettings, totals: dict[str, int]) -> Iterator[Job]:
    """Numbers the images of each split in a shuffled order, so that a number reveals nothing of the SKU."""
    shuffled = {
        split: generator(settings.seed, "image-numbers", split).permutation(total) + 1
        for split, total in totals.items()
    }
    used: Counter[str] = Counter()
    for pair in plan_pairs(settings):
        start = used[pair.split]
        used[pair.split] += len(plan_shots(settings, pair))
        yield Job(pair, shuffled[pair.split][start : used[pair.split]])


def in_tasks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Groups jobs so that a process is not asked for every few images."""
    task: list[Job] = []
    for job in jobs:
        task.append(job)
        if sum(len(each.image_numbers) for each in task) >= IMAGES_PER_TASK:
            yield task
            task = []
    if task:
        yield task


def run_tasks(
    settings: SampleSettings, work: Callable[[list[Job]], Result], tasks: Iterator[list[Job]]
) -> Iterator[Result]:
    """Yields the results of all tasks, in the order in which they finish."""
    workers = settings.workers or cores_available()
    if workers == 1:
        yield from _run_here(work, tasks)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _start_worker) as pool:
        running: set[Future[Result]] = {
            pool.submit(work, task) for task in islice(tasks, workers * TASKS_AHEAD)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(work, task) for task in islice(tasks, len(done))}
            yield from (future.result() for future in done)


def _start_worker() -> None:
    exit_with_parent()
    cv2.setNumThreads(1)


def _run_here(work: Callable[[list[Job]], Result], tasks: Iterator[list[Job]]) -> Iterator[Result]:
    """Runs the tasks in this process; on pictures this small, OpenCV's threads only cost time."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield from map(work, tasks)
    finally:
        cv2.setNumThreads(threads)


def _render_jobs(settings: SampleSettings, root: Path, jobs: list[Job]) -> Counter[str]:
    counts: Counter[str] = Counter()
    degradations = []
    for job in jobs:
        shots = plan_shots(settings, job.pair)
        counts["pairs"] += 1
        counts["skus_with_query"] += sum(has_query(settings, sku.index) for sku in job.pair.skus)
        for shot, number in zip(shots, job.image_numbers, strict=True):
            scene, annotation = _write_image(settings, root / job.pair.split, job.pair, shot, int(number))
            items = [value for key, value in annotation.items() if key.startswith("item")]
            counts[shot.source] += 1
            counts["items"] += len(items)
            counts["style_zero"] += sum(item["style"] == 0 for item in items)
            counts["two_items"] += len(items) == 2
            if scene.degradation is not None:
                degradations.append(_degradation_row(job.pair.split, int(number), scene, scene.degradation))
    table = pl.DataFrame(degradations, schema=DEGRADATION_SCHEMA, orient="row")
    table.write_parquet(root / DEGRADATIONS / f"pair_{jobs[0].pair.pair_id:06d}.parquet", compression="zstd")
    return counts


def _degradation_row(split: str, number: int, scene: Scene, degradation: Degradation) -> dict[str, object]:
    """Returns one row of `DEGRADATION_SCHEMA`."""
    own, size = scene.pieces[0], scene.image.shape[0]
    inside = np.all((own.landmarks >= 0) & (own.landmarks < size), axis=1)
    return {
        "split": split,
        "image_id": f"{number:06d}",
        **asdict(degradation),
        "jpeg_quality": scene.jpeg_quality,
        "hidden": _hidden_share(own),
        "outside": 1 - float(inside.mean()),
    }


def _hidden_share(piece: SeenPiece) -> float:
    in_frame = piece.alpha > 127
    return 1 - float((piece.visible[in_frame] > 127).mean()) if in_frame.any() else 1.0


def _write_image(
    settings: SampleSettings, folder: Path, pair: Pair, shot: Shot, number: int
) -> tuple[Scene, Annotation]:
    scene = render_scene(settings, shot)
    rng = generator(settings.seed, "labels", shot.source, shot.sku.index, shot.number, shot.is_stray)
    annotation = annotate(rng, scene, shot, pair)
    (folder / "image" / f"{number:06d}.jpg").write_bytes(encode_jpeg(scene.image, scene.jpeg_quality))
    (folder / "annos" / f"{number:06d}.json").write_text(json.dumps(annotation))
    return scene, annotation
