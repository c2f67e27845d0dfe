"""Reads Street2Shop (Kiapour et al., ICCV 2015) into the internal table.

    meta/json/train_pairs_<category>.json   [{"photo": 12, "product": 3, "bbox": {width, top, height, left}}]
    meta/json/test_pairs_<category>.json    the same
    meta/json/retrieval_<category>.json     [{"photo": 40, "product": 3}]
    photos/photos.txt                       000000012,ADDRESS of each photo
    photos/000000012.jpeg                   the photos, with any suffix, in folders or not

A product number means something within its category only, so a SKU is (category, product). Photos of the
retrieval files are catalog views, seen as a whole; a pair is a query, the product's box in a street photo. A
product of a test pair is in `validation` (the setting `zero`), one of training pairs alone in `train`. The
others, distractors, have no query: nothing trains on them, and `zero` searches them too.

No street photo is in two splits or in two roles, and none is a catalogue picture: see `part_pairs`. Photos
whose files have the same bytes are one photo. Every entry that is left out is listed with a reason.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from skufp_pipeline.datasets.reading import (
    Progress,
    Row,
    build_catalogue,
    clip_bbox,
    is_finite,
    map_in_threads,
    skip_summary,
    skipped_row,
    whole_number,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, QUERY, Catalogue
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.hashing import file_digest, stable_fraction
from skufp_pipeline.photos import MAX_PIXELS, MaxPixels, size_of
from skufp_pipeline.settings import Settings

Category = Literal[
    "bags", "belts", "dresses", "eyewear", "footwear", "hats",
    "leggings", "outerwear", "pants", "skirts", "tops",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = Category.__args__  # type: ignore[attr-defined]
META, PHOTOS, ADDRESSES = Path("meta/json"), "photos", "photos.txt"
PHOTO_FILES = (
    "photos.parquet"  # columns photo, file and url, beside photos that are not named by their number
)
TRAIN_PAIRS, TEST_PAIRS, RETRIEVAL = "train_pairs", "test_pairs", "retrieval"
SPLIT_OF = {TRAIN_PAIRS: "train", TEST_PAIRS: "validation"}
FILE_NAME = re.compile(rf"({TRAIN_PAIRS}|{TEST_PAIRS}|{RETRIEVAL})_(.+)\.json")
SIDES = ("left", "top", "width", "height")
LARGEST_NUMBER = 10**12
LAYOUT = "expected Street2Shop's layout meta/json/retrieval_dresses.json beside photos/000000001.jpeg"


class Street2ShopSettings(Settings):
    """Which part of Street2Shop is read."""

    ratio: float = Field(1.0, gt=0, le=1)  # of the products, by a hash: a larger one contains a smaller one
    categories: tuple[Category, ...] = Field(CATEGORIES, min_length=1)
    only_pairs: bool = False  # leave out the distractors, products that are in no pair
    # Of the groups of products that share street photos; used only where there are no test pairs.
    validation_fraction: float = Field(0.2, ge=0, lt=1)
    max_pixels: MaxPixels = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Pair:
    """A product's box in a street photo.

    Attributes:
        box: x1, y1, x2, y2 in pixels, as the file says.
        split: train or validation.
        place: its file and number, for messages.
    """

    photo: str
    sku_id: str
    box: tuple[float, ...]
    split: str
    category: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """A catalogue photo of a product."""

    photo: str
    sku_id: str
    category: str
    place: str = ""


@dataclass
class _Meta:
    """What the JSON files say."""

    pairs: list[Pair] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    skipped: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Parted:
    """Pairs after `part_pairs`.

    Attributes:
        pairs: those that are kept, each in its final split.
        left_out: the others, with the reason.
        split_of: the split of every product that any pair names, kept or not.
    """

    pairs: list[Pair]
    left_out: list[tuple[Pair, ItemError]]
    split_of: dict[str, str]


def read_street2shop(
    root: Path, settings: Street2ShopSettings, splits: SplitSettings, progress: Progress | None = None
) -> Catalogue:
    """Returns the items of a Street2Shop folder, in the same order on every run.

    Args:
        root: the folder that holds `meta/json` and `photos`.
        progress: called with (photos read, total).

    Raises:
        UserError: the layout is missing, or no training pair is usable.
    """
    meta, photos = _read_meta(root, settings), _Photos(root)
    same = photos.same({pair.photo for pair in meta.pairs}, {shot.photo for shot in meta.shots})
    pairs = [replace(pair, photo=same.get(pair.photo, pair.photo)) for pair in meta.pairs]
    shots = [replace(shot, photo=same.get(shot.photo, shot.photo)) for shot in meta.shots]
    parted = part_pairs(pairs, shots, settings.validation_fraction)
    pairs, repeated_pairs = _without_repeats(parted.pairs)
    shots, repeated_shots = _without_repeats(shots)
    left_out = [*parted.left_out, *repeated_pairs, *repeated_shots]
    rows = _sampled(_query_rows(pairs) + _catalog_rows(shots, parted.split_of), settings.ratio)
    rows, unread = _with_photos(rows, photos, settings.max_pixels, progress)
    rows, alone = _answerable(rows)
    unused = meta.skipped + [_skipped(entry, error) for entry, error in left_out]
    skipped = _sampled(unused, settings.ratio) + unread + alone
    catalogue = build_catalogue(rows, skipped, settings.only_pairs, splits, root)
    if "train" not in catalogue.items["split"]:
        raise UserError(f"{root} holds no usable training pair; left out: {skip_summary(catalogue.skipped)}")
    told = [*meta.warnings, *_warnings(shots, settings.ratio)]
    if not any(pair.split == "validation" for pair in meta.pairs):
        told.append(f"{root} has no test pairs: a hash parts the products into train and validation")
    return replace(catalogue, warnings=tuple(told))


def part_pairs(pairs: Sequence[Pair], shots: Sequence[Shot], validation_fraction: float) -> Parted:
    """Gives each product one split and leaves out the pairs that would put a street photo into two.

    With test pairs, training loses what the test uses: a product of a test pair is in `validation`; its
    training pairs, and those of a street photo that a test pair shows too, are left out. Without test pairs,
    products that are linked by street photos (connected components) go to `validation` together, by a hash
    of the first of their ids. In both cases a street photo that is a catalogue picture too is left out, since
    it would find itself, and so is a pair whose product is in no retrieval file.
    """
    if not any(pair.split == "validation" for pair in pairs):
        first_of = _components(pairs)
        chosen = {
            name
            for name in set(first_of.values())
            if stable_fraction(name, "street2shop-split") < validation_fraction
        }
        pairs = [
            replace(pair, split="validation") if first_of[pair.sku_id] in chosen else pair for pair in pairs
        ]
    tested = [pair for pair in pairs if pair.split == "validation"]
    tested_photos, tested_skus = {pair.photo for pair in tested}, {pair.sku_id for pair in tested}
    catalogue, listed = {shot.photo for shot in shots}, {shot.sku_id for shot in shots}

    def fault(pair: Pair) -> ItemError | None:
        if pair.split == "train" and pair.sku_id in tested_skus:
            return ItemError("sku_in_two_splits", "the product has test pairs too; it is kept for the test")
        if pair.split == "train" and pair.photo in tested_photos:
            return ItemError(
                "photo_in_two_splits", "a test pair shows this street photo too; it is kept there"
            )
        if pair.photo in catalogue:
            return ItemError("photo_in_both_domains", "the street photo is a catalogue picture too")
        if pair.sku_id not in listed:
            return ItemError("product_not_listed", "no retrieval file lists the product of this pair")
        return None

    faults = [(pair, fault(pair)) for pair in pairs]
    split_of = {pair.sku_id: "train" for pair in pairs} | dict.fromkeys(tested_skus, "validation")
    return Parted(
        [pair for pair, error in faults if error is None],
        [(pair, error) for pair, error in faults if error is not None],
        split_of,
    )


def sku_id_of(category: str, product: int) -> str:
    """Returns the id of a product, such as dresses_15."""
    return f"{category}_{product}"


def photo_id_of(number: int) -> str:
    """Returns a photo's number as its file is named, such as 000000012."""
    return f"{number:09d}"


def is_street2shop(root: Path) -> bool:
    """Whether a folder has Street2Shop's layout."""
    return (root / META).is_dir()


def _components(pairs: Sequence[Pair]) -> dict[str, str]:
    """Returns, for each SKU, the first id of those that street photos link it with."""
    parent: dict[str, str] = {}

    def top(sku_id: str) -> str:
        while (above := parent.setdefault(sku_id, sku_id)) != sku_id:
            parent[sku_id] = parent[above]
            sku_id = above
        return sku_id

    seen_with: dict[str, str] = {}
    for pair in pairs:
        one, other = top(pair.sku_id), top(seen_with.setdefault(pair.photo, pair.sku_id))
        parent[max(one, other)] = min(one, other)
    return {sku_id: top(sku_id) for sku_id in list(parent)}


def _is_chosen(sku_id: str, ratio: float) -> bool:
    return stable_fraction(sku_id, "street2shop-ratio") < ratio


def _sampled(rows: Sequence[Row], ratio: float) -> list[Row]:
    """Keeps the rows of the chosen products, and those of none."""
    return [row for row in rows if row["sku_id"] is None or _is_chosen(row["sku_id"], ratio)]


def _read_meta(root: Path, settings: Street2ShopSettings) -> _Meta:
    names = sorted(os.listdir(root / META)) if is_street2shop(root) else []
    found = {name: match for name in names if (match := FILE_NAME.fullmatch(name))}
    if not found:
        raise UserError(f"{root}/{META} holds no pairs; {LAYOUT}")
    if not (root / PHOTOS).is_dir():
        raise UserError(f"{root} has no folder {PHOTOS}; {LAYOUT}")
    meta = _Meta()
    for name, match in found.items():
        kind, category = match.groups()
        if category not in CATEGORIES:
            error = ItemError("unknown_category", f"{category!r} is not one of {', '.join(CATEGORIES)}")
            meta.skipped.append(skipped_row(SPLIT_OF.get(kind), None, None, f"{META}/{name}", error))
        elif category in settings.categories:
            _read_file(root, f"{META}/{name}", kind, category, meta)
    for category in settings.categories:
        kinds = {kind: f"{kind}_{category}.json" for kind in (*SPLIT_OF, RETRIEVAL)}
        missing = {kind: name for kind, name in kinds.items() if name not in found}
        for kind, name in missing.items() if len(missing) < len(kinds) else ():
            error = ItemError("missing_file", f"the category {category} has no such file")
            meta.skipped.append(skipped_row(SPLIT_OF.get(kind), None, None, f"{META}/{name}", error))
    return meta


def _read_file(root: Path, path: str, kind: str, category: str, meta: _Meta) -> None:
    """Adds the entries of one JSON file to `meta`."""
    split = SPLIT_OF.get(kind)
    try:
        entries = json.loads((root / path).read_bytes())
        if not isinstance(entries, list):
            raise ValueError(f"expected a list, found {type(entries).__name__}")
    except (ValueError, RecursionError, OSError) as problem:
        meta.skipped.append(
            skipped_row(split, None, None, path, ItemError("bad_json", f"{path} is not usable: {problem}"))
        )
        meta.warnings.append(f"{path} is not usable, so that all of its entries are lost: {problem}")
        return
    for number, entry in enumerate(entries, start=1):
        place, photo, sku_id = f"{path}, entry {number}", None, None
        try:
            fields = entry if isinstance(entry, dict) else {}
            photo = photo_id_of(_number(fields, "photo"))
            sku_id = sku_id_of(category, _number(fields, "product"))
            if split is None:
                meta.shots.append(Shot(photo, sku_id, category, place))
            else:
                meta.pairs.append(Pair(photo, sku_id, _box(fields), split, category, place))
        except ItemError as error:
            told = ItemError(error.reason, f"{place}: {error.detail}")
            meta.skipped.append(skipped_row(split, photo, None, path, told, sku_id))


def _number(fields: Mapping[str, Any], name: str) -> int:
    number = whole_number(fields, name, LARGEST_NUMBER)
    if number < 0:
        raise ItemError("bad_field", f"the field {name!r} is below 0: {number}")
    return number


def _box(fields: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns x1, y1, x2, y2 of a pair's `bbox`. Raises `ItemError`: bbox_malformed."""
    sides = fields.get("bbox")
    values: list[Any] = [sides.get(side) for side in SIDES] if isinstance(sides, dict) else []
    if not values or not all(map(is_finite, values)):
        raise ItemError("bbox_malformed", f"the box has not the numbers {', '.join(SIDES)}: {sides!r}")
    left, top, width, height = values
    return left, top, left + width, top + height


def _without_repeats(entries: Sequence[Any]) -> tuple[list[Any], list[tuple[Any, ItemError]]]:
    """Keeps the first of the pairs, or of the shots, that say the same."""
    first: dict[Any, Any] = {}
    repeated = []
    for entry in entries:
        kept = first.setdefault((entry.photo, entry.sku_id, getattr(entry, "box", None)), entry)
        if kept is not entry:
            repeated.append((entry, ItemError("duplicate_row", f"the same as {kept.place}")))
    return list(first.values()), repeated


def _query_rows(pairs: Sequence[Pair]) -> list[Row]:
    """One row per pair; items are numbered within their photo before products are sampled, so that their ids
    do not depend on the ratio."""
    numbered: Counter[str] = Counter()
    rows = []
    for pair in sorted(pairs, key=lambda pair: (pair.photo, pair.sku_id, pair.box)):
        numbered[pair.photo] += 1
        row = _row(pair, QUERY, pair.split, numbered[pair.photo])
        rows.append(row | {"bbox": list(pair.box)})
    return rows


def _catalog_rows(shots: Sequence[Shot], split_of: Mapping[str, str]) -> list[Row]:
    """One row per catalogue photo and product; a product that no pair names is a distractor."""
    numbered: Counter[str] = Counter()
    rows = []
    for shot in sorted(shots, key=lambda shot: (shot.photo, shot.sku_id)):
        numbered[shot.photo] += 1
        split = split_of.get(shot.sku_id, "validation")
        rows.append(_row(shot, CATALOG, split, numbered[shot.photo]) | {"bbox": None})
    return rows


def _row(entry: Pair | Shot, domain: str, split: str, item_idx: int) -> Row:
    return {
        "sku_id": entry.sku_id,
        "split": split,
        "domain": domain,
        "image_id": entry.photo,
        "item_idx": item_idx,
        "category_name": entry.category,
    }


def _with_photos(
    rows: Sequence[Row], photos: "_Photos", max_pixels: int, progress: Progress | None
) -> tuple[list[Row], list[Row]]:
    """Returns rows with path and clipped box, and skip rows of those whose photo or box is unusable."""
    names = sorted({row["image_id"] for row in rows})

    def read(photo: str) -> tuple[int, int] | ItemError:
        try:
            return size_of(photos.find(photo), max_pixels)
        except ItemError as error:
            return error

    sizes = dict(zip(names, map_in_threads(read, names, progress), strict=True))
    kept, skipped = [], []
    for row in rows:
        path, size = photos.path(row["image_id"]), sizes[row["image_id"]]
        try:
            if isinstance(size, ItemError):
                raise size
            box = [0, 0, *size] if row["bbox"] is None else clip_bbox(row["bbox"], *size)
        except ItemError as error:
            where = row["split"], row["image_id"], row["item_idx"], path
            skipped.append(skipped_row(*where, error, row["sku_id"]))
        else:
            kept.append(row | {"orig_image_path": path, "bbox": box})
    return kept, skipped


def _answerable(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Leaves out queries whose product has no usable catalogue photo: no search could answer them."""
    shown = {row["sku_id"] for row in rows if row["domain"] == CATALOG}
    error = ItemError("no_catalog_photo", "no catalogue photo of the product is usable")
    alone = [
        skipped_row(
            row["split"], row["image_id"], row["item_idx"], row["orig_image_path"], error, row["sku_id"]
        )
        for row in rows
        if row["sku_id"] not in shown
    ]
    return [row for row in rows if row["sku_id"] in shown], alone


def _skipped(entry: Pair | Shot, error: ItemError) -> Row:
    split = entry.split if isinstance(entry, Pair) else None
    told = ItemError(error.reason, f"{entry.place}: {error.detail}")
    return skipped_row(split, entry.photo, None, f"{PHOTOS}/{entry.photo}", told, entry.sku_id)


def _warnings(shots: Sequence[Shot], ratio: float) -> Iterable[str]:
    if ratio < 1:
        listed = {shot.sku_id for shot in shots}
        chosen = sum(_is_chosen(sku_id, ratio) for sku_id in listed)
        yield f"{chosen:,} of {len(listed):,} products are read, as the ratio {ratio:g} says"
    products = Counter(shot.photo for shot in shots)
    several = sum(count > 1 for count in products.values())
    if several:
        yield f"{several:,} catalogue photos show several products, and are a view of each"


class _Photos:
    """The photo files of a folder by number."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _table(self) -> pl.DataFrame | None:
        path = self.root / PHOTOS / PHOTO_FILES
        return pl.read_parquet(path) if path.is_file() else None

    @cached_property
    def _files(self) -> dict[str, str]:
        """Paths relative to the root; of two files with the same number the first by name."""
        if self._table is not None:
            return dict(self._table.drop_nulls("file").select("photo", "file").iter_rows())
        found: dict[str, str] = {}
        for folder, inner, names in os.walk(self.root / PHOTOS):
            inner.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if stem.isascii() and stem.isdigit() and suffix != ".txt":
                    path = Path(folder, name).relative_to(self.root).as_posix()
                    found.setdefault(photo_id_of(int(stem)), path)
        return found

    @cached_property
    def _addresses(self) -> dict[str, str]:
        if self._table is not None:
            return dict(self._table.drop_nulls("url").select("photo", "url").iter_rows())
        path = self.root / PHOTOS / ADDRESSES
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        parts = (line.strip().partition(",") for line in lines)
        return {photo_id_of(int(number)): url for number, _, url in parts if number.isdigit() and url}

    def path(self, photo: str) -> str:
        """The path relative to the root; where there is no file, what it would be without a suffix."""
        return self._files.get(photo, f"{PHOTOS}/{photo}")

    def find(self, photo: str) -> Path:
        """Raises `ItemError`, missing_image, with the photo's address where it is known."""
        if photo not in self._files:
            url = self._addresses.get(photo)
            known = f"; it was at {url}" if url else ""
            raise ItemError("missing_image", f"{PHOTOS} has no file for photo {photo}{known}")
        return self.root / self._files[photo]

    def same(self, street: Set[str], shop: Set[str]) -> dict[str, str]:
        """Returns the smallest number with the same bytes, for each photo that has the bytes of another, if
        one of them is a street photo."""
        present = sorted({*street, *shop} & self._files.keys())
        sizes = map_in_threads(self._size, present)
        by_size: dict[int, list[str]] = {}
        for photo, size in zip(present, sizes, strict=True):
            if size is not None:
                by_size.setdefault(size, []).append(photo)
        compared = [
            photo
            for photos in by_size.values()
            if len(photos) > 1 and not street.isdisjoint(photos)
            for photo in photos
        ]
        digests = map_in_threads(lambda photo: file_digest(self.root / self._files[photo]), compared)
        first: dict[str, str] = {}
        for photo, digest in sorted(zip(compared, digests, strict=True)):
            first.setdefault(digest, photo)
        return {photo: first[digest] for photo, digest in zip(compared, digests, strict=True)}

    def _size(self, photo: str) -> int | None:
        try:
            return (self.root / self._files[photo]).stat().st_size
        except OSError:  # reading its header will say why
            return None
