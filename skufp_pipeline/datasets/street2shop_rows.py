"""Writes Street2Shop in its original layout from rows with embedded pictures, as the Hugging Face hub has it.

A row is a street photo's box and one shop photo of the product in it: `type` (train or test), `category`,
`street_photo_id`, `product_id`, `width`, `top`, `height`, `left`, `shop_photo_id`, `street_photo_url`,
`shop_photo_url`, `street_photo_image`, `shop_photo_image`. Products without a pair are not among them, so
that a search has fewer distractors than in the original.

A picture is written once, to `photos/ab/abcd...`, named by the SHA-256 of its bytes; `photos/photos.parquet`
says which is which photo's. Values are not judged here: the reader of the layout lists what is wrong.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from skufp_pipeline.datasets.crops import told_when_disk_is_full
from skufp_pipeline.datasets.street2shop import (
    META,
    PHOTO_FILES,
    PHOTOS,
    RETRIEVAL,
    SIDES,
    TEST_PAIRS,
    TRAIN_PAIRS,
    photo_id_of,
)
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.progress import Progress

BATCH = 64  # rows in memory at once, with their pictures
IMAGES = ("street_photo_image", "shop_photo_image")
REQUIRED = ("category", "street_photo_id", "product_id", *SIDES, "shop_photo_id", *IMAGES)
OPTIONAL = ("type", "street_photo_url", "shop_photo_url")
TEST_NAMES = ("test", "validation", "valid", "val")
EXTRA = "pip install 'skufp-pipeline[hub]'"


@dataclass(frozen=True)
class Part:
    """Rows of one split; `name` says which, for rows without a `type`."""

    name: str
    columns: list[str]
    rows: int
    batches: Iterator[pa.Table | pa.RecordBatch]
    folder: Path | None = None  # of pictures that are given by a relative path


@dataclass
class WrittenRows:
    """Counts of what was written."""

    rows: int = 0
    pictures: int = 0
    photos: int = 0
    photos_without_picture: int = 0
    photos_with_several_pictures: int = 0  # the first is kept


@dataclass
class _Layout:
    """What the rows say; the pictures are on the disk already."""

    pairs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    shots: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[Any, str | None] = field(default_factory=dict)
    urls: dict[Any, str | None] = field(default_factory=dict)
    several: set[Any] = field(default_factory=set)


def parquet_files(path: Path) -> list[Path]:
    """Returns a Parquet file, or those of a folder and of the folders in it, by name."""
    return [path] if path.suffix == ".parquet" else sorted(path.rglob("*.parquet"))


def parquet_parts(path: Path) -> Iterator[Part]:
    """Opens Parquet files with embedded pictures, a part each. Raises `UserError` if one is unreadable."""
    for file in parquet_files(path):
        try:
            found = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a readable Parquet file: {in_a_line(error)}") from error
        wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in found.schema_arrow.names]
        batches = found.iter_batches(batch_size=BATCH, columns=wanted)
        yield Part(file.stem, wanted, found.metadata.num_rows, batches, file.parent)


def hub_parts(name: str, revision: str | None) -> Iterator[Part]:
    """Loads a data set of the hub, or of a local folder in its format, through `datasets`; one part a split.

    Raises:
        UserError: `datasets` is not installed, or there is no such data set.
    """
    for split, rows in _load(name, revision).items():
        for image in IMAGES:
            if type(rows.features.get(image)).__name__ == "Image":
                rows = rows.cast_column(image, _library().Image(decode=False))
        wanted = [column for column in (*REQUIRED, *OPTIONAL) if column in rows.column_names]
        batches = rows.select_columns(wanted).with_format("arrow").iter(batch_size=BATCH)
        yield Part(str(split), wanted, len(rows), batches)


def hub_digest(name: str, revision: str | None) -> str:
    """Returns the digest of a data set of the hub; it changes with the data set. Raises as `hub_parts`."""
    fingerprints = [f"{split} {rows._fingerprint}" for split, rows in _load(name, revision).items()]
    return hashlib.sha256("\n".join(sorted(fingerprints)).encode()).hexdigest()[:16]


def write_rows(parts: Iterable[Part], directory: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the rows in Street2Shop's layout into an empty directory; returns counts.

    Raises:
        UserError: there are no rows, a column is missing, or the disk is full.
    """
    layout, counts = _Layout(), WrittenRows()
    with told_when_disk_is_full(directory):
        for part in parts:
            missing = [name for name in REQUIRED if name not in part.columns]
            if missing:
                raise UserError(
                    f"the rows of {part.name} lack {', '.join(missing)}; expected those of "
                    f"petr7555/street2shop: {', '.join((*REQUIRED, *OPTIONAL))}"
                )
            start = counts.rows
            for batch in part.batches:
                for row in batch.to_pylist():
                    _add(row, part, directory, layout)
                    counts.rows += 1
                if progress is not None:
                    progress(counts.rows, start + part.rows)
        if not counts.rows:
            raise UserError("the data set has no rows; expected those of petr7555/street2shop")
        _write_layout(layout, directory)
    counts.pictures = len({file for file in layout.files.values() if file is not None})
    counts.photos = len(layout.files)
    counts.photos_without_picture = sum(file is None for file in layout.files.values())
    counts.photos_with_several_pictures = len(layout.several)
    return asdict(counts)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"dataset.hub needs the package datasets; install it: {EXTRA}") from error
    return datasets


def _load(name: str, revision: str | None) -> Mapping[str, Any]:
    library = _library()
    try:
        found = library.load_dataset(name, revision=revision)
    except Exception as error:  # of the hub, of the network, of a file: each library has its own
        raise UserError(
            f"dataset.hub {name!r} can't be loaded: {in_a_line(error)}; expected the id of a data set on the "
            "Hugging Face hub, such as petr7555/street2shop, or a folder of its Parquet files"
        ) from error
    loaded: Mapping[str, Any] = found
    return loaded


def _add(row: Mapping[str, Any], part: Part, directory: Path, layout: _Layout) -> None:
    category = str(row["category"])
    kind = row.get("type")
    test = (kind if isinstance(kind, str) else part.name).lower().startswith(TEST_NAMES)
    street, shop, product = (_whole(row[name]) for name in ("street_photo_id", "shop_photo_id", "product_id"))
    pair = {"photo": street, "product": product, "bbox": {side: row[side] for side in SIDES}}
    layout.pairs.setdefault((TEST_PAIRS if test else TRAIN_PAIRS, category), {}).setdefault(repr(pair), pair)
    shot = {"photo": shop, "product": product}
    layout.shots.setdefault(category, {}).setdefault(repr(shot), shot)
    for photo, domain in ((street, "street"), (shop, "shop")):
        content = _content(row[f"{domain}_photo_image"], part.folder)
        layout.urls[photo] = layout.urls.get(photo) or row.get(f"{domain}_photo_url")
        file = None if content is None else _store(content, directory)
        known = layout.files.setdefault(photo, file)
        if known is None:
            layout.files[photo] = file
        elif file not in (None, known):
            layout.several.add(photo)


def _whole(value: object) -> object:
    """Returns a number that a table has turned into 12.0 or "12" as 12; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _content(cell: object, folder: Path | None) -> bytes | None:
    """Returns the bytes of a picture: embedded, or of a local file that the cell names."""
    path = cell
    if isinstance(cell, dict):
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        path = cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if folder is None or not isinstance(path, str) or not path:
        return None
    file = (folder / path).resolve()
    return file.read_bytes() if file.is_relative_to(folder.resolve()) and file.is_file() else None


def _store(content: bytes, directory: Path) -> str:
    """Writes a picture that is not there yet; returns its path relative to the directory."""
    name = hashlib.sha256(content).hexdigest()[:32]
    file = directory / PHOTOS / name[:2] / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return file.relative_to(directory).as_posix()


def _write_layout(layout: _Layout, directory: Path) -> None:
    (directory / META).mkdir(parents=True)
    (directory / PHOTOS).mkdir(exist_ok=True)
    for (kind, category), pairs in layout.pairs.items():
        _write_list(directory, kind, category, pairs)
    for category, shots in layout.shots.items():
        _write_list(directory, RETRIEVAL, category, shots)
    numbers = [photo for photo in layout.files if isinstance(photo, int) and photo >= 0]
    table = {
        "photo": [photo_id_of(photo) for photo in numbers],
        "file": [layout.files[photo] for photo in numbers],
        "url": [layout.urls[photo] for photo in numbers],
    }
    frame = pl.DataFrame(table, schema=dict.fromkeys(table, pl.String)).sort("photo")
    frame.write_parquet(directory / PHOTOS / PHOTO_FILES, compression="zstd")


def _write_list(directory: Path, kind: str, category: str, entries: Mapping[str, Any]) -> None:
    name = f"{kind}_{category.replace('/', '_')}.json"
    (directory / META / name).write_text(json.dumps([*entries.values()]))
