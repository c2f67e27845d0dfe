"""Reads DeepFashion2's original folders into the internal table.

A visual SKU is (pair_id, style > 0, category_id): items of shop images are its catalog views, items of user
images its queries (report, section 3). Every item that is left out is listed with a reason.

DeepFashion2 numbers its pairs anew in each split: pair 1 of `validation` is another garment than pair 1 of
`train`. If any number occurs in two splits, the SKUs of all splits but the first get the split's name before
their id, so that a `sku_id` is unique in the data set.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skufp_pipeline.datasets.reading import (
    Progress,
    Row,
    build_catalogue,
    clip_bbox,
    map_in_threads,
    skip_summary,
    skipped_row,
    whole_number,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, QUERY, SPLITS, Catalogue
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.photos import MAX_PIXELS, MaxPixels, size_of
from skufp_pipeline.settings import Settings

CATEGORIES = {
    1: "short sleeve top",
    2: "long sleeve top",
    3: "short sleeve outwear",
    4: "long sleeve outwear",
    5: "vest",
    6: "sling",
    7: "shorts",
    8: "trousers",
    9: "skirt",
    10: "short sleeve dress",
    11: "long sleeve dress",
    12: "vest dress",
    13: "sling dress",
}
DOMAINS = {"shop": CATALOG, "user": QUERY}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
ITEM_KEY = re.compile(r"item([1-9][0-9]{0,8})")
LAYOUT = "expected DeepFashion2's layout <split>/image/000001.jpg beside <split>/annos/000001.json"


class DeepFashion2Settings(Settings):
    """Which part of DeepFashion2 is read."""

    only_pairs: bool = True  # keep only SKUs that have both catalog and query items
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    max_pixels: MaxPixels = MAX_PIXELS


@dataclass(frozen=True)
class _Annotation:
    """One annotation file and the file name of its image, None if there is no such image."""

    split: str
    image_id: str
    image_name: str | None

    @property
    def json_path(self) -> str:
        return f"{self.split}/annos/{self.image_id}.json"

    @property
    def image_path(self) -> str:
        return f"{self.split}/image/{self.image_name or self.image_id + '.jpg'}"


def read_deepfashion2(
    root: Path, settings: DeepFashion2Settings, splits: SplitSettings, progress: Progress | None = None
) -> Catalogue:
    """Returns the items of a DeepFashion2 folder, in the same order on every run.

    Args:
        root: the folder that holds `train/image`, `train/annos` and so on. If `validation` or `test` has no
            annotations (as DeepFashion2's own test split), this is noted in `skipped`.
        progress: called with (annotation files read, total).

    Raises:
        UserError: the folder or its train split is missing, empty, or has no usable item.
    """
    _check_layout(root, settings)
    annotations: list[_Annotation] = []
    skipped: list[Row] = []
    for split in settings.splits:
        found, problems = _list_split(root, split)
        annotations += found
        skipped += problems
    rows: list[Row] = []
    results = map_in_threads(lambda one: _read_annotation(root, one, settings), annotations, progress)
    for kept, left_out in results:
        rows += kept
        skipped += left_out
    _make_ids_unique(rows, skipped)
    catalogue = build_catalogue(rows, skipped, settings.only_pairs, splits, root)
    if "train" in settings.splits and "train" not in catalogue.items["split"]:
        raise UserError(f"{root}/train holds no usable item; left out: {skip_summary(catalogue.skipped)}")
    return catalogue


def inventory(root: Path) -> dict[str, dict[str, int]]:
    """Counts files per split: {"train": {"images": 12, "annotations": 12}, ...}; 0 if a folder is missing."""
    return {
        split: {
            "images": len(_files_by_stem(root / split / "image", IMAGE_SUFFIXES)),
            "annotations": len(_files_by_stem(root / split / "annos", (".json",))),
        }
        for split in SPLITS
    }


def _check_layout(root: Path, settings: DeepFashion2Settings) -> None:
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder; {LAYOUT}; set the data set's root to an unzipped DeepFashion2"
        )
    if "train" not in settings.splits:
        return
    for folder in ("train/annos", "train/image"):
        if not (root / folder).is_dir():
            raise UserError(f"{root} has no {folder} folder; {LAYOUT}")
    if not _files_by_stem(root / "train/annos", (".json",)):
        raise UserError(f"{root}/train/annos holds no .json file; {LAYOUT}; was the archive fully unzipped?")


def _list_split(root: Path, split: str) -> tuple[list[_Annotation], list[Row]]:
    annos = root / split / "annos"
    if not annos.is_dir():
        error = ItemError("missing_split", f"there is no folder {split}/annos; the split is left out")
        return [], [skipped_row(split, None, None, f"{split}/annos", error)]
    images = _files_by_stem(root / split / "image", IMAGE_SUFFIXES)
    stems = _files_by_stem(annos, (".json",))
    orphans = [_Annotation(split, stem, images[stem]) for stem in sorted(images.keys() - stems.keys())]
    skipped = [
        skipped_row(split, orphan.image_id, None, orphan.image_path, _no_annotation(orphan))
        for orphan in orphans
    ]
    return [_Annotation(split, stem, images.get(stem)) for stem in sorted(stems)], skipped


def _no_annotation(orphan: _Annotation) -> ItemError:
    return ItemError("missing_annotation", f"there is no annotation {orphan.json_path} for this image")


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Returns file names by stem, without hidden files, which macOS adds to archives."""
    if not folder.is_dir():
        return {}
    names = sorted(name for name in os.listdir(folder) if name.isprintable() and not name.startswith("."))
    split_names = ((os.path.splitext(name), name) for name in names)
    return {stem: name for (stem, suffix), name in split_names if suffix.lower() in suffixes}


def _read_annotation(
    root: Path, annotation: _Annotation, settings: DeepFashion2Settings
) -> tuple[list[Row], list[Row]]:
    """Returns kept rows and skip rows of one annotated image."""
    split, image_id = annotation.split, annotation.image_id
    try:
        fields = _load_json(root / annotation.json_path)
        domain = _domain(fields)
        pair_id = whole_number(fields, "pair_id", 2**63 - 1)
        items = _items(fields)
        size = _size(root / annotation.image_path, settings.max_pixels)
    except ItemError as error:
        path = annotation.json_path if error.reason == "bad_json" else annotation.image_path
        return [], [skipped_row(split, image_id, None, path, error)]
    kept: list[Row] = []
    skipped: list[Row] = []
    for item_idx, item in items:
        sku_id = None
        try:
            row = _item_row(item, pair_id)
            sku_id = row["sku_id"]
            if isinstance(size, ItemError):
                raise size
            row["bbox"] = clip_bbox(item["bounding_box"], *size)
        except ItemError as error:
            skipped.append(skipped_row(split, image_id, item_idx, annotation.image_path, error, sku_id))
            continue
        image = {"split": split, "image_id": image_id, "orig_image_path": annotation.image_path}
        kept.append(row | image | {"domain": domain, "item_idx": item_idx})
    return kept, skipped


def _load_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ItemError("bad_json", f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ItemError("bad_json", f"{path.name} holds no JSON object")
    return fields


def _domain(fields: dict[str, Any]) -> str:
    if "source" not in fields:
        raise ItemError("missing_field", "the field 'source' is missing")
    source = fields["source"]
    if not isinstance(source, str) or source not in DOMAINS:
        raise ItemError("unknown_source", f"source is neither 'shop' nor 'user': {source!r}")
    return DOMAINS[source]


def _items(fields: dict[str, Any]) -> list[tuple[int, Any]]:
    """Returns (item_idx, fields) of item1, item2, ... in numeric order: item10 comes after item2."""
    matches = ((ITEM_KEY.fullmatch(key), value) for key, value in fields.items())
    items = sorted(((int(match[1]), value) for match, value in matches if match), key=lambda item: item[0])
    if not items:
        raise ItemError("no_items", "the annotation has no item1")
    return items


def _size(path: Path, max_pixels: int) -> tuple[int, int] | ItemError:
    """Returns the upright size of an image, or why there is none, which is then said of each of its items."""
    try:
        return size_of(path, max_pixels)
    except ItemError as error:
        return error


def _make_ids_unique(rows: list[Row], skipped: list[Row]) -> None:
    """Puts the split before the ids of SKUs outside the first split if a pair number is in two splits."""
    pairs: dict[str, set[int]] = {}
    for row in rows:
        pairs.setdefault(row["split"], set()).add(row["pair_id"])
    present = [split for split in SPLITS if split in pairs]
    if sum(map(len, pairs.values())) == len(set().union(*pairs.values())):
        return
    for row in (*rows, *skipped):
        if row["split"] != present[0] and row["sku_id"] is not None:
            row["sku_id"] = f"{row['split']}_{row['sku_id']}"


def _item_row(item: Any, pair_id: int) -> Row:
    """Validates one item; returns its row without its box and the fields that the caller adds."""
    if not isinstance(item, dict):
        raise ItemError("bad_field", f"the item is not a JSON object: {item!r}")
    style = whole_number(item, "style", 2**31 - 1)
    category_id = whole_number(item, "category_id", 2**31 - 1)
    if "bounding_box" not in item:
        raise ItemError("missing_field", "the field 'bounding_box' is missing")
    if style <= 0:
        raise ItemError("style_zero", f"style {style}: the item has no counterpart in the other domain")
    if category_id not in CATEGORIES:
        raise ItemError("unknown_category", f"category_id {category_id} is not one of 1 to {len(CATEGORIES)}")
    return {
        "sku_id": reference_id(pair_id, style, category_id),
        "pair_id": pair_id,
        "style": style,
        "category_id": category_id,
        "category_name": CATEGORIES[category_id],
        "occlusion": _grade(item.get("occlusion")),
        "viewpoint": _grade(item.get("viewpoint")),
    }


def reference_id(pair_id: int, style: int, category_id: int) -> str:
    """Returns the id that the reference pipeline gives a SKU, unique within its split."""
    return f"{pair_id:06d}_{style:02d}_{category_id:02d}"


def _grade(value: object) -> int | None:
    """Returns an occlusion or viewpoint of 1 to 3; anything else is unknown (None)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 3 else None
