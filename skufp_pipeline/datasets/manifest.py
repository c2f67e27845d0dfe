"""Reads a user's catalogue, a CSV or Parquet file of SKUs and image paths, into the internal table.

Each row is one item of one image. An unusable row is skipped and listed with its number and the reason; only
a file that is invalid as a whole is an error.
"""

import difflib
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from skufp_pipeline.datasets.added import added_folder, fitted, read_added
from skufp_pipeline.datasets.cells import WHOLE, kind_of_dtype, kind_of_texts, sku_id_of, typed, words
from skufp_pipeline.datasets.reading import (
    Progress,
    Row,
    build_catalogue,
    clip_bbox,
    map_in_threads,
    skipped_row,
)
from skufp_pipeline.datasets.remote import is_url, shown
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, QUERY, SPLITS, Catalogue
from skufp_pipeline.datasets.text_files import read_cells, read_text
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.hashing import stable_fraction, stable_hash
from skufp_pipeline.photos import MAX_PIXELS, MaxPixels, size_of
from skufp_pipeline.settings import Settings

REQUIRED = ("sku_id", "image_path")
CORNERS = ("x1", "y1", "x2", "y2")
TEXTS = ("category", "title", "description", "attributes")  # of the SKU, not of the row
OPTIONAL = ("domain", "split", *TEXTS, "bbox", *CORNERS)
OF_PHOTOS = (*REQUIRED, "domain", "bbox", *CORNERS)  # all that a list of photos to judge is read for
UNNAMED_CATEGORY = "product"
EXACT_FLOAT32 = 2**24  # whole numbers below it are exact
REPORTED = 10_000  # rows between two reports of progress
GIVEN = ("image_path", "domain", "split", "bbox", *CORNERS)  # of an added row, by what it is added to
MISSPELT = 0.8  # difflib's similarity from which an unknown column is likely a known one


class ManifestSettings(Settings):
    """Where the manifest is and how it is read."""

    path: str  # a .csv or .parquet file; image paths in it are relative to its folder
    only_pairs: bool = False  # keep only SKUs that have both catalog and query items
    validation_fraction: float = Field(0.2, ge=0, le=1)  # of the SKUs, if photos but no split are given
    max_pixels: MaxPixels = MAX_PIXELS
    encoding: str | None = None  # of a CSV, such as cp1252; null recognises it


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of the file; a catalogue may have millions, so it holds no more than its cells.

    Attributes:
        number: 1 for the first row under the header.
        cells: None if their number differs from the header's.
        named: the place of each column, shared by all rows.
    """

    number: int
    cells: Sequence[Any] | None
    named: Mapping[str, int]

    def get(self, name: str) -> Any:
        """The value of a cell; None if it is absent."""
        return None if self.cells is None or name not in self.named else self.cells[self.named[name]]


@dataclass(frozen=True)
class _File:
    """The rows of a manifest and the type of each of its columns.

    `domain` is the rows' where the file has no such column.
    """

    kinds: Mapping[str, pl.DataType]
    records: Sequence[_Record]
    domain: str = CATALOG

    @cached_property
    def has_photos(self) -> bool:
        """Whether a row is a customer's photo."""
        if "domain" not in self.kinds:
            return self.domain == QUERY
        return any(_text(record, "domain") == QUERY for record in self.records)

    @property
    def extra(self) -> dict[str, pl.DataType]:
        """The columns that only the index keeps."""
        return {name: kind for name, kind in self.kinds.items() if name not in (*REQUIRED, *OPTIONAL)}


@dataclass(frozen=True, slots=True)
class _Item:
    """A valid row whose image has not been read yet."""

    number: int
    path: str
    bbox: list[float] | None  # None: the whole image
    fields: Row


@dataclass(frozen=True)
class _Parsed:
    """The rows of a manifest before their images are read, and what the file says of each SKU."""

    items: list[_Item]
    skipped: list[Row]
    of_sku: dict[str, Row]
    extra: dict[str, pl.DataType]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of the manifest: its path on the disk, relative to the manifest's folder, and upright size."""

    path: str
    size: tuple[int, int]


def read_manifest(
    path: Path,
    settings: ManifestSettings,
    splits: SplitSettings,
    progress: Progress | None = None,
    find: Callable[[str], Path] | None = None,
    name_picture: Callable[[str], str] | None = None,
) -> Catalogue:
    """Returns the items of a manifest and the further columns of its SKUs, in the same order on every run.

    Columns: sku_id, image_path; optional are domain (catalog or query; without the column all rows are
    catalog), split (train, validation, test; without the column a stable hash of the SKU decides if there are
    customers' photos, else all is train), category,
    title, description, attributes (text appended to the description), and a bounding box in pixels of the
    upright image, as bbox ("x1,y1,x2,y2" or a list) or as columns x1, y1, x2, y2. `image_id` is a hash of the
    image path. Any other column is kept by SKU. A SKU's texts and further columns are their first non-empty
    value in file order, what was added beside the manifest (`datasets.added`) before all else.

    Args:
        path: `settings.path` as the caller resolved it.
        progress: called with (rows parsed and image headers read, total); the total grows when the images
            are known.
        find: returns the local file of an image path or (`shown`) address, or raises an `ItemError`; by
            default the file is in the manifest's folder.
        name_picture: returns the SKU id of an image path, or raises an `ItemError`, for a manifest without a
            column sku_id; without it such a manifest is refused.

    Raises:
        UserError: the file is missing, unreadable or empty, its columns are wrong, or no row is usable.
    """
    file = _read_file(path, settings)
    if name_picture is not None and "sku_id" not in file.kinds and "image_path" in file.kinds:
        file = _named_by_picture(file, name_picture)
    warnings = _check_columns(path, file)
    file = _with_added(path, file, warnings)
    if "domain" not in file.kinds:
        warnings.append(f"{path} has no column 'domain': all its pictures are taken as catalog pictures")
    parsed = _read_rows(path, file, settings, progress)
    del file  # a catalogue may have millions of rows
    found = _with_images(path, parsed, settings, splits, progress, find)
    found = replace(found, warnings=(*warnings, *parsed.warnings))
    kept = found.items["sku_id"].unique().sort()
    return replace(found, skus=_sku_table(kept, parsed.of_sku, parsed.extra)) if parsed.extra else found


def read_photos(path: Path, settings: ManifestSettings, progress: Progress | None = None) -> Catalogue:
    """Returns the items of a list of customers' photos with the SKU of each, in the format of a manifest.

    Only `OF_PHOTOS` is read; without a column `domain` all rows are query. Raises as `read_manifest`.
    """
    file = _read_file(path, settings)
    _check_columns(path, file)
    kinds = {name: kind for name, kind in file.kinds.items() if name in OF_PHOTOS}
    parsed = _read_rows(path, replace(file, kinds=kinds, domain=QUERY), settings, progress)

    def find(name: str) -> Path:
        if is_url(name):
            raise ItemError("url_refused", "a photo to judge must be a file, not an address")
        return path.parent / name

    return _with_images(path, parsed, settings, SplitSettings(), progress, find)


def _with_images(
    path: Path,
    parsed: "_Parsed",
    settings: ManifestSettings,
    splits: SplitSettings,
    progress: Progress | None,
    find: Callable[[str], Path] | None,
) -> Catalogue:
    """Reads the images of the parsed rows, which are emptied, and returns the kept and the skipped items."""
    number = len(parsed.items) + len(parsed.skipped)

    def and_images(done: int, images: int) -> None:
        if progress is not None:
            progress(number + done, number + images)

    find = find or path.parent.joinpath
    images = _read_images(path.parent, find, parsed.items, settings.max_pixels, and_images)
    rows, left_out = _place(parsed.items, images)
    parsed.items.clear()  # a catalogue may have millions
    return build_catalogue(rows, parsed.skipped + left_out, settings.only_pairs, splits, path)


def _read_rows(path: Path, file: _File, settings: ManifestSettings, progress: Progress | None) -> _Parsed:
    if not file.records:
        raise UserError(f"{path} has a header and no rows; expected one row per image of a SKU")
    sku_ids = _sku_ids(file.records)
    of_sku, conflicts = _values_of_skus(file, sku_ids)
    items: list[_Item] = []
    skipped: list[Row] = []
    for record, sku_id in zip(file.records, sku_ids, strict=True):
        try:
            items.append(_parse(record, sku_id, of_sku, file, settings))
        except ItemError as error:
            skipped.append(_skipped(record.number, sku_id, _path(record), _text(record, "split"), error))
        if progress is not None and record.number % REPORTED == 0:
            progress(record.number, len(file.records) + 1)  # images follow
    return _Parsed(items, skipped, of_sku, file.extra, conflicts)


def checked_row(path: Path, settings: ManifestSettings, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row to be added to a manifest, with its SKU id as ids are read, and without empty cells.

    Raises UserError as `read_manifest`, or if the row has no SKU id, a column that its pictures decide
    (`GIVEN`), or a cell that the manifest's column can't hold.
    """
    named = {unicodedata.normalize("NFC", name).strip(): value for name, value in row.items()}
    if len(named) < len(row) or "" in named:
        raise UserError("the row has two columns of one name, or one without a name; keep one of each")
    if given := [name for name in GIVEN if name in named]:
        raise UserError(f"the row names {given[0]}, which its picture decides; leave it out")
    try:
        sku_id = sku_id_of(named.get("sku_id"))
    except ItemError as error:
        raise UserError(error.detail) from error
    file = _read_file(path, settings)
    _check_columns(path, file)
    cells = {name: words(value) for name, value in named.items()}
    for name, kind in file.extra.items():
        try:
            fitted(named.get(name), kind)
        except ValueError as error:
            raise UserError(f"{name} is {cells[name]!r}, and the manifest's column holds {error}") from error
    return {name: value for name, value in named.items() if cells[name] is not None} | {"sku_id": sku_id}


def image_urls(path: Path, settings: ManifestSettings) -> list[str]:
    """Returns the addresses among a manifest's image paths. Raises `UserError` as `read_manifest`."""
    paths = map(_path, _read_file(path, settings).records)
    return [path for path in paths if path is not None and is_url(path)]


def _read_file(path: Path, settings: ManifestSettings) -> _File:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path} is neither a .csv nor a .parquet file; save the manifest as one of them")
    if not path.is_file():
        raise UserError(f"there is no manifest {path}; expected a .csv or .parquet file")
    return _read_csv(path, settings) if path.suffix.lower() == ".csv" else _read_parquet(path)


def _read_csv(path: Path, settings: ManifestSettings) -> _File:
    rows = read_cells(path, read_text(path, settings.encoding), REQUIRED)
    if not rows:
        raise UserError(
            f"{path} is empty; expected a header with {', '.join(REQUIRED)} and one row per image"
        )
    columns, full = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    cells = [[text for row in full if (text := words(row[place]))] for place in range(len(columns))]
    named = _named(path, columns, [not texts for texts in cells])
    kinds = {name: kind_of_texts(cells[place]) for name, place in named.items()}
    return _File(kinds, _records(named, rows[1:], len(columns)))


def _read_parquet(path: Path) -> _File:
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
    named = _named(path, frame.columns, [column.null_count() == len(column) for column in frame])
    dtypes = frame.dtypes
    kinds = {name: kind_of_dtype(dtypes[place]) for name, place in named.items()}
    if "sku_id" in named and dtypes[named["sku_id"]] == pl.Float32:
        largest = frame.to_series(named["sku_id"]).abs().max()
        if largest is not None and not largest < EXACT_FLOAT32:  # type: ignore[operator]
            raise UserError(
                f"{path}: sku_id is Float32, which has rounded large ids; save the column as text"
            )
    return _File(kinds, _records(named, frame.iter_rows(), frame.width))


def _with_added(path: Path, file: _File, warnings: list[str]) -> _File:
    """Puts what was added beside the manifest before its rows, so that a SKU has the added values.

    The numbers of added rows go on from the manifest's.
    """
    added = read_added(path)
    if not added:
        return file
    kinds = dict(file.kinds)
    for name in dict.fromkeys(name for each in added for name in each.row):
        texts = [text for each in added if (text := words(each.row.get(name)))]
        kind = kind_of_texts(texts)
        if name not in kinds or (kinds[name] == pl.Int64 and kind == pl.Float64):
            kinds[name] = kind
    splits = _splits_of({words(each.row.get("sku_id")) for each in added}, file)
    named = {name: place for place, name in enumerate(kinds)}
    records: list[_Record] = []
    for each in added:
        sku_id = each.row.get("sku_id")
        cells: Row = {"domain": CATALOG, "split": splits.get(words(sku_id), SPLITS[0]), **each.row}
        for name in set(each.row) - {*REQUIRED, *TEXTS}:
            try:
                cells[name] = fitted(cells[name], kinds[name])
            except ValueError as error:
                warnings.append(
                    f"{name} of the added SKU {sku_id!r} is {cells[name]!r}; it is left out, because the "
                    f"column holds {error}"
                )
                cells[name] = None
        for picture in each.pictures:
            cells["image_path"] = f"{added_folder(path).name}/{picture}"
            number = len(file.records) + len(records) + 1
            records.append(_Record(number, [cells.get(name) for name in named], named))
    return replace(file, kinds=kinds, records=[*records, *file.records])


def _named_by_picture(file: _File, name_picture: Callable[[str], str]) -> _File:
    """Adds the column sku_id; a row whose path can't be an id has none, and is left out as such."""

    def named_of(record: _Record) -> str | None:
        path = _path(record)
        try:
            return None if path is None else name_picture(posixpath.normpath(path))
        except ItemError:
            return None

    named = {name: place for place, name in enumerate(["sku_id", *file.kinds])}
    records = [
        replace(
            record,
            cells=None if record.cells is None else [named_of(record), *map(record.get, file.kinds)],
            named=named,
        )
        for record in file.records
    ]
    return replace(file, kinds={"sku_id": pl.String(), **file.kinds}, records=records)


def _splits_of(sku_ids: Collection[str | None], file: _File) -> dict[str | None, str]:
    """The split that the manifest says of each of these SKUs that it has."""
    rows = ((_text(record, "sku_id"), _text(record, "split")) for record in reversed(file.records))
    return {sku_id: split for sku_id, split in rows if sku_id in sku_ids and split is not None}


def _named(path: Path, columns: Sequence[str], empty: Sequence[bool]) -> dict[str, int]:
    """Returns each column's place by its name; an empty column without a name is left out."""
    names = [unicodedata.normalize("NFC", name).strip() for name in columns]
    places = [place for place, name in enumerate(names) if name or not empty[place]]
    for name, count in Counter(names[place] for place in places).items():
        if count > 1 or not name:
            what = f"{count} columns named {name!r}; keep one" if name else "a column without a name; name it"
            raise UserError(f"{path} has {what}")
    return {names[place]: place for place in places}


def _records(named: Mapping[str, int], rows: Iterable[Sequence[Any]], width: int) -> list[_Record]:
    return [
        _Record(number, row if len(row) == width else None, named) for number, row in enumerate(rows, start=1)
    ]


def _check_columns(path: Path, file: _File) -> list[str]:
    """Returns warnings of likely misspelt columns. Raises UserError for a missing one or a half-given box."""
    known, columns = (*REQUIRED, *OPTIONAL), list(file.kinds)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        close = difflib.get_close_matches(missing[0], [name for name in columns if name not in known], n=1)
        hint = f" (is it {close[0]!r}?)" if close else ""
        raise UserError(
            f"{path} lacks the column {missing[0]!r}{hint}; required are {', '.join(REQUIRED)} "
            f"(known columns: {', '.join(known)})"
        )
    corners = [name for name in CORNERS if name in columns]
    if corners and ("bbox" in columns or len(corners) < len(CORNERS)):
        raise UserError(f"{path} gives boxes as {corners}; give either bbox or all of {', '.join(CORNERS)}")
    absent = [name for name in known if name not in columns]
    if "domain" in absent and (
        close := difflib.get_close_matches("domain", [name.lower() for name in columns], n=1, cutoff=MISSPELT)
    ):  # customers' photos must not be taken for catalog pictures
        named = next(name for name in columns if name.lower() == close[0])
        raise UserError(f"{path} lacks the column 'domain' (is it {named!r}?); name it so, or leave it out")
    close_to = {
        name: difflib.get_close_matches(name.lower(), absent, n=1, cutoff=MISSPELT)
        for name in columns
        if name not in known
    }
    return [
        f"{path}: the column {name!r} is kept as it is; did you mean {close[0]!r}?"
        for name, close in close_to.items()
        if close
    ]


def _sku_ids(records: Sequence[_Record]) -> list[str | ItemError]:
    """Returns each row's SKU id or why it has none: 1001.0 is 1001, unless the file names both."""
    written = {_text(record, "sku_id") for record in records}

    def read(record: _Record) -> str | ItemError:
        if record.cells is None:
            return ItemError("malformed_row", "the row has not as many cells as the header")
        value, text = record.get("sku_id"), _text(record, "sku_id")
        try:
            sku_id = sku_id_of(value)
        except ItemError as error:
            return error
        if isinstance(value, str) and text and WHOLE.fullmatch(text) and written >= {text, sku_id}:
            return ItemError("bad_sku_id", f"sku_id {text!r} may be {sku_id!r}, which is a SKU too; keep one")
        return sku_id

    return [read(record) for record in records]


def _values_of_skus(file: _File, sku_ids: Sequence[str | ItemError]) -> tuple[dict[str, Row], list[str]]:
    """Returns the first non-empty value of each column of a SKU, and a warning for each column of which a SKU
    has several."""
    texts = {name: pl.String() for name in TEXTS if name in file.kinds}
    kinds: dict[str, pl.DataType] = texts | file.extra
    found: dict[str, Row] = {}
    others: dict[str, dict[str, int]] = {}
    for record, sku_id in zip(file.records, sku_ids, strict=True):
        if isinstance(sku_id, ItemError) or record.cells is None:
            continue
        of_sku = found.setdefault(sku_id, {})
        for name, kind in kinds.items():
            value = typed(record.get(name), kind)
            if value is not None and of_sku.setdefault(name, value) != value:
                others.setdefault(name, {}).setdefault(sku_id, record.number)
    warnings = []
    for name, rows in others.items():
        sku_id, number = next(iter(rows.items()))
        skus = "1 SKU has" if len(rows) == 1 else f"{len(rows)} SKUs have"
        warnings.append(
            f"{skus} several values of {name!r}, the first is used; not so row {number} of SKU {sku_id!r}"
        )
    return found, warnings


def _sku_table(
    sku_ids: pl.Series, of_sku: Mapping[str, Row], extra: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Returns one row per SKU with the columns that only the index keeps."""
    values = {
        name: pl.Series(name, [of_sku[sku_id].get(name) for sku_id in sku_ids], dtype=kind)
        for name, kind in extra.items()
    }
    return pl.DataFrame({"sku_id": sku_ids, **values})


def _parse(
    record: _Record,
    sku_id: str | ItemError,
    of_sku: Mapping[str, Row],
    file: _File,
    settings: ManifestSettings,
) -> _Item:
    """Parses and validates a row without reading its image."""
    if isinstance(sku_id, ItemError):
        raise sku_id
    path, texts = _image_path(record), of_sku[sku_id]
    fields = {
        "sku_id": sku_id,
        "split": _split(record, sku_id, file, settings),
        "domain": _one_of(record, "domain", (CATALOG, QUERY)) if "domain" in file.kinds else file.domain,
        "category_name": texts.get("category") or UNNAMED_CATEGORY,
        "title": texts.get("title"),
        "description": _description(texts),
    }
    return _Item(record.number, path, _bbox(record), fields)


def _image_path(record: _Record) -> str:
    """Normalises a path, which must stay in the manifest's folder; an address becomes `shown`."""
    path = _path(record)
    if path is None:
        raise ItemError("bad_image_path", "image_path is empty")
    if is_url(path):
        return shown(path)
    normal = posixpath.normpath(path)
    if posixpath.isabs(normal) or normal.split("/")[0] == "..":
        raise ItemError("bad_image_path", f"image_path {path!r} leads out of the manifest's folder")
    return normal


def _image_id(path: str) -> str:
    """Returns 16 hex digits that depend only on the relative path and are safe in a file name."""
    return f"{stable_hash(path, 'image-path'):016x}"


def _split(record: _Record, sku_id: str, file: _File, settings: ManifestSettings) -> str:
    if "split" in file.kinds:
        return _one_of(record, "split", SPLITS)
    if not file.has_photos:  # new products could be judged by nothing, so that every SKU may train
        return "train"
    return "validation" if stable_fraction(sku_id, "sku-split") < settings.validation_fraction else "train"


def _one_of(record: _Record, name: str, allowed: tuple[str, ...]) -> str:
    value = _text(record, name)
    if value not in allowed:
        raise ItemError(f"bad_{name}", f"{name} is {value!r}, expected {' or '.join(allowed)}")
    return value


def _description(texts: Row) -> str | None:
    """Returns the description with the attributes appended as one more sentence."""
    description, attributes = texts.get("description"), texts.get("attributes")
    if description is None or attributes is None:
        return description or attributes
    stop = "" if description.endswith((".", "!", "?")) else "."
    return f"{description}{stop} {attributes}"


def _bbox(record: _Record) -> list[float] | None:
    if "x1" in record.named:
        corners = [_text(record, name) for name in CORNERS]
        return None if corners == [None] * 4 else _numbers(corners)
    value = record.get("bbox")
    if isinstance(value, (list, tuple)):
        return _numbers(value)
    text = _text(record, "bbox")
    return None if text is None else _numbers(text.strip("[]()").split(","))


def _numbers(values: Iterable[Any]) -> list[float]:
    values = list(values)
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ItemError("bbox_malformed", f"the bounding box is not four numbers: {values!r}") from error


def _text(record: _Record, name: str) -> str | None:
    """Returns a cell as stripped text; None if it is empty or absent."""
    return words(record.get(name))


def _path(record: _Record) -> str | None:
    """Returns the image path as it is written, because a file name may be in either Unicode form."""
    value = record.get("image_path")
    return value.strip() or None if isinstance(value, str) else words(value)


def _read_images(
    folder: Path,
    find: Callable[[str], Path],
    items: list[_Item],
    max_pixels: int,
    progress: Progress | None,
) -> dict[str, _Image | ItemError]:
    """Reads each image's header once; returns the image, or the error, by the manifest's path."""
    paths = list(dict.fromkeys(item.path for item in items))
    names = _FileNames(folder)

    def read(path: str) -> _Image | ItemError:
        try:
            found = path if is_url(path) else names.find(path)
            return _Image(found, size_of(find(found), max_pixels))
        except ItemError as error:
            return error

    return dict(zip(paths, map_in_threads(read, paths, progress), strict=True))


class _FileNames:
    """Finds files whose names are in another Unicode form than asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, path: str) -> str:
        """Returns the path as it stands on the disk; `path` itself if there is no such file."""
        if path.isascii() or os.path.exists(self.folder / path):
            return path
        found = self.folder
        for part in path.split("/"):
            found /= self._names(found).get(unicodedata.normalize("NFC", part), part)
        return found.relative_to(self.folder).as_posix()

    def _names(self, folder: Path) -> dict[str, str]:
        """The entries of a folder by their NFC form; of two with the same form the first in byte order."""
        if folder not in self._listed:
            names = sorted(os.listdir(folder), reverse=True) if os.path.isdir(folder) else []
            self._listed[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listed[folder]


def _place(items: list[_Item], images: dict[str, _Image | ItemError]) -> tuple[list[Row], list[Row]]:
    """Returns kept rows with box and item number within the image, and skip rows.

    The same SKU, image and box is kept once, as a catalog view or in the earlier split if its rows differ.
    Neither this choice nor the item numbers depend on the order of rows.
    """
    kept: dict[tuple[str, str, tuple[int, ...]], _Item] = {}
    left_out: list[tuple[_Item, ItemError]] = []
    for item in sorted(items, key=lambda item: (item.fields["domain"], SPLITS.index(item.fields["split"]))):
        image = images[item.path]
        try:
            bbox = _clipped(item, image)
        except ItemError as error:
            left_out.append((item, error))
            continue
        assert isinstance(image, _Image)
        key = (image.path, item.fields["sku_id"], tuple(bbox))
        first = kept.setdefault(key, item)
        if first is not item:
            left_out.append(
                (item, ItemError("duplicate_row", f"the same SKU, image and box as row {first.number}"))
            )
    items_of_image: Counter[str] = Counter()
    rows = []
    for key in sorted(kept):
        row, (image_path, _, box) = kept.pop(key).fields, key
        items_of_image[image_path] += 1
        place = {"orig_image_path": image_path, "image_id": _image_id(image_path), "bbox": list(box)}
        row.update(place, item_idx=items_of_image[image_path])
        rows.append(row)
    left_out.sort(key=lambda pair: pair[0].number)
    return rows, [
        _skipped(item.number, item.fields["sku_id"], item.path, item.fields["split"], error)
        for item, error in left_out
    ]


def _clipped(item: _Item, image: _Image | ItemError) -> list[int]:
    if isinstance(image, ItemError):
        raise image
    return [0, 0, *image.size] if item.bbox is None else clip_bbox(item.bbox, *image.size)


def _skipped(
    number: int, sku_id: str | ItemError, path: str | None, split: str | None, error: ItemError
) -> Row:
    path = None if path is None else shown(path)
    image_id = None if path is None else _image_id(path if is_url(path) else posixpath.normpath(path))
    row_error = ItemError(error.reason, f"row {number}: {error.detail}")
    return skipped_row(split, image_id, None, path, row_error, sku_id if isinstance(sku_id, str) else None)
