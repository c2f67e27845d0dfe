"""Judges the detector: how well it finds the known box of an item, and what the region costs a search.

Each photo is asked in up to four regions: `annotated`, the data set's box; `detected`, the item that answers
best, as a search does by default; `tapped`, the item that lies nearest to the annotated box, as one that a
shopper points at; and `whole`. A photo in which nothing is found is searched as a whole. Every difference of
R@1 is paired, over SKUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skufp_pipeline.datasets.contact_sheet import contact_sheet
from skufp_pipeline.datasets.crops import CropSettings
from skufp_pipeline.datasets.table import EVALUATION, item_id
from skufp_pipeline.detection.measure import agreement, best_overlaps
from skufp_pipeline.detection.regions import Box, Detector
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.encoders.patches import PatchEncoder
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.evaluation.latency import statistics_ms
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.fingerprint.tables import biased_queries, biased_rows
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.bootstrap import paired_bootstrap
from skufp_pipeline.measures.ranks import ranks_of, right_items
from skufp_pipeline.photos import size_of, whole_photo
from skufp_pipeline.progress import Progress
from skufp_pipeline.query.photo_regions import AskedPhoto, ask_photos, found_table

ANNOTATED, DETECTED, TAPPED, WHOLE = "annotated", "detected", "tapped", "whole"
SPLIT_NAMES = {"train": "SKUs trained on", "validation": "new SKUs"}
_SHOWN, _TILE = 24, 128
_TRUE, _FOUND = (0, 158, 115), (213, 94, 0)  # colour-blind safe


def sampled_photos(
    items: pl.DataFrame, sku_ids: pl.Series, most: int, role: str = EVALUATION
) -> pl.DataFrame:
    """Returns a stable sample of the photos' items of a role whose SKU has a fingerprint, with `query_id`."""
    held = items.filter(
        (pl.col("role") == role)
        & pl.col("split").is_in(SETTING_SPLITS["seen+zero"])
        & pl.col("sku_id").is_in(sku_ids.implode())
    ).with_columns(query_id=item_id())
    draw = pl.col("query_id").map_elements(
        lambda name: stable_hash(name, "detection-report"), return_dtype=pl.UInt64
    )
    return held.sort(draw, "query_id").head(most).sort("query_id")


def judge_regions(
    asked: Sequence[AskedPhoto], fingerprints: pl.DataFrame, has_boxes: bool, resamples: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns R@1 by setting and region, and the ranks of every photo in the setting seen+zero.

    Args:
        fingerprints: `sku_id`, `split`, `bias`, `fingerprint`; every photo's SKU is among them.
        has_boxes: whether the annotated boxes are known; else others are compared with the whole photo.
    """
    rows, per_photo = [], pl.DataFrame()
    for setting, splits in SETTING_SPLITS.items():
        chosen = [photo for photo in asked if photo.row["split"] in splits]
        if not chosen:
            continue
        gallery = fingerprints.filter(pl.col("split").is_in(splits))
        ranks = region_ranks(chosen, gallery, has_boxes)
        skus = np.array([photo.row["sku_id"] for photo in chosen])
        reference = next(iter(ranks.values())) == 1
        for region, of_region in ranks.items():
            difference = paired_bootstrap(
                (of_region == 1).astype(float), reference.astype(float), skus, resamples, seed
            )
            recalls = {f"recall@{k}": float((of_region <= k).mean()) for k in (1, 5)}
            change = {"delta": difference.delta, "low": difference.low, "high": difference.high}
            size = {"photos": len(chosen), "gallery": gallery.height}
            rows.append({"setting": setting, "region": region, **size, **recalls, **change})
        per_photo = pl.DataFrame(
            {
                **{name: [photo.row[name] for photo in chosen] for name in ("query_id", "sku_id", "split")},
                "regions": [len(photo.found) for photo in chosen],
                "iou": [_iou(photo) for photo in chosen],
                **{f"rank_{region}": of_region for region, of_region in ranks.items()},
            }
        )  # seen+zero is last
    return pl.DataFrame(rows), per_photo


def region_ranks(
    asked: Sequence[AskedPhoto], gallery: pl.DataFrame, has_boxes: bool
) -> dict[str, NDArray[np.int64]]:
    """Returns the (Q,) ranks of the right SKUs by region, the one that others are compared with first."""
    rows = biased_rows(gallery)
    starts = np.cumsum([0, *(len(photo.embeddings) for photo in asked)])
    queries = biased_queries(np.concatenate([photo.embeddings for photo in asked]))
    truth = right_items([photo.row["sku_id"] for photo in asked], gallery["sku_id"])
    of_all = ranks_of(queries, rows, np.repeat(truth, np.diff(starts)))
    best = np.concatenate([(part @ rows.T).max(axis=1) for part in np.array_split(queries, len(asked))])
    # The item that answers best; equal ones in the detector's order, as `query.regions.best_item`.
    chosen = [
        1 if not photo.found else 2 + int(np.argmax(best[start + 2 : start + len(photo.embeddings)]))
        for photo, start in zip(asked, starts[:-1], strict=True)
    ]
    places = {DETECTED: chosen, TAPPED: [photo.tapped for photo in asked]}
    ones = np.ones(len(asked), int)
    ordered = (
        {ANNOTATED: 0 * ones, **places, WHOLE: ones}
        if has_boxes
        else {WHOLE: ones, DETECTED: places[DETECTED]}
    )
    return {region: of_all[starts[:-1] + np.array(place)] for region, place in ordered.items()}


def report_detection(
    photos: pl.DataFrame,
    find: Callable[[str], Path],
    has_boxes: bool,
    detector: Detector,
    encoder: ImageEncoder,
    fingerprints: pl.DataFrame,
    crops: CropSettings,
    draws: tuple[int, int],
    progress: Progress | None = None,
    head: PatchEncoder | None = None,
) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame, pl.DataFrame, Image.Image]:
    """Returns the detector's figures, R@1 by region, a row per photo, the regions as `found_table` has them,
    and photos with their boxes.

    Args:
        photos: of `sampled_photos`.
        draws: resamples of the bootstrap, and its seed.
        head: makes patches, where an index looks twice.

    Raises:
        TooLittleError: there are no photos.
    """
    asked = ask_photos(photos, find, detector, encoder, crops, progress, head)
    if not asked:
        raise TooLittleError("there are no evaluation photos to judge the detector on")
    table, per_photo = judge_regions(asked, fingerprints, has_boxes, *draws)
    times = statistics_ms([photo.milliseconds for photo in asked[1:] or asked])  # the first warms up
    figures: dict[str, Any] = {
        "photos": len(asked),
        "unreadable": photos.height - len(asked),
        "detect": times,
    }
    figures["found_nothing"] = float(np.mean([not photo.found for photo in asked]))
    figures["by_split"] = {
        split: asdict(_agreement([photo for photo in asked if photo.row["split"] == split]))
        for split in SPLIT_NAMES
        if has_boxes and any(photo.row["split"] == split for photo in asked)
    }
    return figures, table, per_photo, found_table(asked), sheet_of_regions(asked, find, has_boxes)


def sheet_of_regions(
    asked: Sequence[AskedPhoto], find: Callable[[str], Path], has_boxes: bool
) -> Image.Image:
    """Draws photos with the regions found (orange) and the annotated box (green)."""
    step = max(1, len(asked) // _SHOWN)
    tiles = [_drawn(photo, find, has_boxes) for photo in asked[::step][:_SHOWN]]
    return contact_sheet([tiles[start : start + 6] for start in range(0, len(tiles), 6)], _TILE)


def _drawn(photo: AskedPhoto, find: Callable[[str], Path], has_boxes: bool) -> NDArray[np.uint8]:
    path = find(photo.row["orig_image_path"])
    image, size = whole_photo(path, 2 * _TILE), size_of(path)
    scale = 2 * _TILE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    boxes: list[tuple[Box, tuple[int, int, int]]] = [(region.box, _FOUND) for region in photo.found]
    if has_boxes:
        boxes.append((tuple(photo.row["bbox"]), _TRUE))
    for box, colour in boxes:
        edges = [round(edge * image.size[place % 2] / size[place % 2]) for place, edge in enumerate(box)]
        ImageDraw.Draw(image).rectangle(
            (edges[0], edges[1], edges[2] - 1, edges[3] - 1), outline=colour, width=3
        )
    return np.asarray(image)


def _agreement(asked: Sequence[AskedPhoto]) -> Any:
    return agreement([photo.found for photo in asked], [np.array([photo.row["bbox"]]) for photo in asked])


def _iou(photo: AskedPhoto) -> float:
    return float(best_overlaps(photo.found, np.array([photo.row["bbox"]]))[0])
