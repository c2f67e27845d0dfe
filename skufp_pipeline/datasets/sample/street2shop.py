"""Renders the sample in Street2Shop's layout: shop views are catalogue photos, user photos street photos.

A SKU is a product of one of five of Street2Shop's categories. A SKU without user photos is a distractor: it
is in a retrieval file and in no pair (`fraction_without_query`). A street photo of two garments has a pair
for each that is a SKU. Blocks of `train` have training pairs, the others test pairs. Strays are not drawn,
since this layout has no place for what is no product.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from skufp_pipeline.camera.effects import encode_jpeg
from skufp_pipeline.datasets.sample.garments import DRESSES, LOWER, OUTWEAR, sku_garment
from skufp_pipeline.datasets.sample.labels import annotate
from skufp_pipeline.datasets.sample.plan import Pair, Shot, has_query, plan_pairs, plan_shots
from skufp_pipeline.datasets.sample.scenes import Scene, render_scene
from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.datasets.sample.writer import Job, in_tasks, refuse_used, run_tasks
from skufp_pipeline.datasets.street2shop import (
    ADDRESSES,
    META,
    PHOTOS,
    RETRIEVAL,
    TEST_PAIRS,
    TRAIN_PAIRS,
    Category,
    photo_id_of,
)
from skufp_pipeline.progress import Progress
from skufp_pipeline.randomness import generator

SKIRT = 9  # DeepFashion2's category

# The category, which file it is in, and one entry of it.
Entry = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class MiniatureSummary:
    """Counts of what was written."""

    products: int
    distractors: int
    shop_photos: int
    street_photos: int
    train_pairs: int
    test_pairs: int


def render_street2shop(
    settings: SampleSettings, root: Path, progress: Progress | None = None
) -> MiniatureSummary:
    """Writes the miniature under `root`, an empty or new directory; raises `UserError` if it holds something.

    The same settings give the same bytes, for any number of workers. `progress` is called with (photos
    written, total).
    """
    refuse_used(root)
    total = sum(len(_shots(settings, pair)) for pair in plan_pairs(settings))
    for folder in (META, PHOTOS):
        (root / folder).mkdir(parents=True)
    entries: list[Entry] = []
    done = 0
    tasks = in_tasks(_jobs(settings, total))
    for photos, found in run_tasks(settings, partial(_render, settings, root), tasks):
        entries += found
        done += photos
        if progress is not None:
            progress(done, total)
    _write_lists(root, entries)
    _write_addresses(root, total)
    return _summary(settings, entries, total)


def category_of(category_id: int) -> Category:
    """Returns Street2Shop's category of one of DeepFashion2's."""
    if category_id in DRESSES:
        return "dresses"
    if category_id in LOWER:
        return "skirts" if category_id == SKIRT else "pants"
    return "outerwear" if category_id in OUTWEAR else "tops"


def _shots(settings: SampleSettings, pair: Pair) -> list[Shot]:
    return [shot for shot in plan_shots(settings, pair) if not shot.is_stray]


def _jobs(settings: SampleSettings, total: int) -> Iterator[Job]:
    """Numbers the photos in a shuffled order, so that a number reveals neither product nor domain."""
    numbers = generator(settings.seed, "street2shop-numbers").permutation(total) + 1
    used = 0
    for pair in plan_pairs(settings):
        count = len(_shots(settings, pair))
        yield Job(pair, numbers[used : used + count])
        used += count


def _render(settings: SampleSettings, root: Path, jobs: list[Job]) -> tuple[int, list[Entry]]:
    """Returns the number of photos written and their entries."""
    entries: list[Entry] = []
    photos = 0
    for job in jobs:
        for shot, number in zip(_shots(settings, job.pair), job.image_numbers, strict=True):
            scene = render_scene(settings, shot)
            file = root / PHOTOS / f"{photo_id_of(int(number))}.jpg"
            file.write_bytes(encode_jpeg(scene.image, scene.jpeg_quality))
            entries += _entries(settings, job.pair, shot, scene, int(number))
            photos += 1
    return photos, entries


def _entries(settings: SampleSettings, pair: Pair, shot: Shot, scene: Scene, number: int) -> Iterator[Entry]:
    if shot.source == "shop":
        category = category_of(sku_garment(settings, shot.sku.index).category_id)
        yield category, RETRIEVAL, {"photo": number, "product": shot.sku.index + 1}
        return
    rng = generator(settings.seed, "street2shop-labels", shot.sku.index, shot.number)
    labels = annotate(rng, scene, shot, pair)
    kind = TRAIN_PAIRS if pair.split == "train" else TEST_PAIRS
    for item, seen in enumerate(scene.pieces, start=1):
        if seen.piece.sku is None or f"item{item}" not in labels:
            continue
        x1, y1, x2, y2 = labels[f"item{item}"]["bounding_box"]
        box = {"width": x2 - x1, "top": y1, "height": y2 - y1, "left": x1}
        product = seen.piece.sku + 1
        yield (
            category_of(seen.piece.garment.category_id),
            kind,
            {"photo": number, "product": product, "bbox": box},
        )


def _write_lists(root: Path, entries: list[Entry]) -> None:
    categories = {category for category, _, _ in entries}
    kinds = (TRAIN_PAIRS, TEST_PAIRS, RETRIEVAL)
    lists: dict[str, list[dict[str, Any]]] = {f"{kind}_{name}": [] for kind in kinds for name in categories}
    for category, kind, entry in entries:
        lists[f"{kind}_{category}"].append(entry)
    for name, found in lists.items():
        ordered = sorted(found, key=lambda entry: (entry["photo"], entry["product"]))
        (root / META / f"{name}.json").write_text(json.dumps(ordered))


def _write_addresses(root: Path, total: int) -> None:
    ids = map(photo_id_of, range(1, total + 1))
    lines = (f"{photo},https://photos.example.com/{photo}.jpg\n" for photo in ids)
    (root / PHOTOS / ADDRESSES).write_text("".join(lines))


def _summary(settings: SampleSettings, entries: list[Entry], total: int) -> MiniatureSummary:
    kinds = [kind for _, kind, _ in entries]
    shop = kinds.count(RETRIEVAL)
    alone = sum(not has_query(settings, index) for index in range(settings.num_skus))
    return MiniatureSummary(
        products=settings.num_skus,
        distractors=alone,
        shop_photos=shop,
        street_photos=total - shop,
        train_pairs=kinds.count(TRAIN_PAIRS),
        test_pairs=kinds.count(TEST_PAIRS),
    )
