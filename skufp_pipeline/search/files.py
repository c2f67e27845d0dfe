"""Reads and writes the folder of an index version.

index.json                  segments, dimension, references
removed_0000.npy            bitmap of the segment's removed rows, if any
biases_0000.npy             (N,) float32, if any
segment_0000/               immutable; later versions hard-link its files
    fingerprints.npy        (N, D) float32
    codes*                  the coded fingerprints that a search scans first
    skus.arrow              the SKU table, uncompressed Arrow IPC so that it can be memory-mapped
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError

from skufp_pipeline.compute import cores_available
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.codes import load_codes, save_codes
from skufp_pipeline.search.rows import WORD, Rows
from skufp_pipeline.search.segment import Segment, SkuTable, make_segment, require_distinct, unit_rows
from skufp_pipeline.settings import Settings

INDEX_FILE, FINGERPRINTS_FILE, SKUS_FILE = "index.json", "fingerprints.npy", "skus.arrow"

Chunk = tuple[ArrayLike, pl.DataFrame]
Parts = tuple[tuple[Segment, ...], Rows, dict[str, str]]


class SegmentEntry(Settings):
    """One segment of a version: number of rows, number of removed rows, whether it has biases."""

    rows: int = Field(ge=0)
    removed: int = Field(0, ge=0)
    biased: bool = False


class IndexFile(Settings):
    """Schema of `index.json`."""

    format: Literal[1] = 1
    dimension: int = Field(ge=1)
    segments: list[SegmentEntry] = Field(min_length=1)
    references: dict[str, str] = {}


def save_parts(
    directory: Path,
    segments: Sequence[Segment],
    present: Rows,
    references: dict[str, str],
    previous: Path | None = None,
) -> None:
    """Writes an index version; segments that were loaded from the version at `previous` are linked."""
    removed, entries = ~present, []
    for number, segment in enumerate(segments):
        folder = _segment_folder(directory, number)
        source = _folder_in(segment, previous)
        if source is not None:
            _link(source, folder)
        else:
            _write_segment(segment, folder)
        if removed.counts[number]:
            np.save(_removed_file(directory, number), removed.words[number])
        if segment.biases is not None:
            np.save(_biases_file(directory, number), segment.biases)
        entries.append(
            SegmentEntry(rows=len(segment), removed=removed.counts[number], biased=segment.biases is not None)
        )
    _write_index_file(directory, segments[0].fingerprints.shape[1], entries, references)


def load_parts(directory: Path, threads: int) -> Parts:
    """Returns the memory-mapped segments, present rows and references of the version at `directory`.

    Raises UserError if a file is missing, unreadable or does not match the others.
    """
    try:
        known = _read_index_file(directory)
        segments = tuple(
            _load_segment(directory, number, entry, known.dimension, threads)
            for number, entry in enumerate(known.segments)
        )
        removed = Rows(
            tuple(entry.rows for entry in known.segments),
            tuple(_load_removed(directory, number, entry) for number, entry in enumerate(known.segments)),
        )
    except (OSError, EOFError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"index bundle {directory} can't be read: {error}; materialize search_index"
        ) from error
    return segments, ~removed, known.references


def write_index(
    directory: Path,
    chunks: Iterable[Chunk],
    references: dict[str, str],
    biases: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> None:
    """Writes an index that may be larger than memory: one segment per chunk, one chunk in memory at a time.

    Args:
        chunks: (n, D) unit fingerprints and their SKU table.
        biases: (N,) float32, optional.
        threads: by default the processors available to this process.

    Raises:
        UserError: no chunk, fingerprints not of norm 1 or of different dimensions, a repeated SKU id,
            or biases that are not N finite ones.
    """
    threads = threads or cores_available()
    shapes: list[tuple[int, int]] = []
    sku_ids: list[pl.Series] = []
    for chunk in chunks:
        segment = make_segment(unit_rows(chunk[0]), chunk[1], threads)
        _write_segment(segment, _segment_folder(directory, len(shapes)))
        shapes.append((len(segment), segment.fingerprints.shape[1]))
        sku_ids.append(chunk[1]["sku_id"])
        del chunk, segment  # free the memory before the next chunk is read
    if len({dimension for _, dimension in shapes}) != 1:
        found = f"chunks of {shapes}" if shapes else "none"
        raise UserError(f"index: fingerprints must be of one dimension, found {found}")
    require_distinct(pl.concat(sku_ids))
    if biases is not None:
        _write_biases(directory, biases, [rows for rows, _ in shapes])
    entries = [SegmentEntry(rows=rows, biased=biases is not None) for rows, _ in shapes]
    _write_index_file(directory, shapes[0][1], entries, references)


def _write_segment(segment: Segment, folder: Path) -> None:
    folder.mkdir()
    np.save(folder / FINGERPRINTS_FILE, np.ascontiguousarray(segment.fingerprints, dtype=np.float32))
    save_codes(segment.coded, folder, len(segment))
    segment.table.frame.write_ipc(folder / SKUS_FILE, compression="uncompressed")


def _write_biases(directory: Path, biases: NDArray[np.float32], sizes: Sequence[int]) -> None:
    if len(biases) != sum(sizes) or not np.isfinite(biases).all():
        raise UserError(f"index: {len(biases)} biases for {sum(sizes)} fingerprints, or one is not finite")
    for number, part in enumerate(np.split(biases, np.cumsum(sizes)[:-1])):
        np.save(_biases_file(directory, number), part)


def _folder_in(segment: Segment, previous: Path | None) -> Path | None:
    """The folder of the segment if it still exists in `previous`, else None."""
    folder = segment.folder
    if previous is None or folder is None or folder.parent.resolve() != previous.resolve():
        return None
    return folder if folder.is_dir() else None


def _link(source: Path, folder: Path) -> None:
    """Hard-links the files of `source` into `folder`; copies them if the file system has no links."""
    folder.mkdir()
    for path in sorted(source.iterdir()):
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def _load_segment(directory: Path, number: int, entry: SegmentEntry, dimension: int, threads: int) -> Segment:
    folder = _segment_folder(directory, number)
    fingerprints = _array(folder / FINGERPRINTS_FILE, np.float32, (entry.rows, dimension))
    coded = load_codes(folder, entry.rows, dimension)
    biases = _array(_biases_file(directory, number), np.float32, (entry.rows,)) if entry.biased else None
    if biases is not None and not np.isfinite(biases).all():
        raise ValueError(f"{_biases_file(directory, number).name} holds NaN or infinity")
    return Segment(fingerprints, coded, _load_table(folder, entry.rows), threads, biases, folder)


def _load_table(folder: Path, rows: int) -> SkuTable:
    with pa.memory_map(str(folder / SKUS_FILE)) as source:
        frame = pl.from_arrow(pa.ipc.open_file(source).read_all())
    if not isinstance(frame, pl.DataFrame) or len(frame) != rows or "sku_id" not in frame.columns:
        raise ValueError(f"{folder.name}/{SKUS_FILE} is no table of {rows} SKUs")
    return SkuTable(frame)


def _load_removed(directory: Path, number: int, entry: SegmentEntry) -> NDArray[np.uint64]:
    shape = (-(-entry.rows // WORD),)
    if entry.removed == 0:
        return np.zeros(shape, np.uint64)
    path = _removed_file(directory, number)
    words = _array(path, np.uint64, shape)
    if int(np.bitwise_count(words).sum()) != entry.removed:
        raise ValueError(f"{path.name} does not hold {entry.removed} removed rows")
    return words


def _array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray:
    found: NDArray = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != dtype or found.shape != shape:
        raise ValueError(f"{path.name} holds {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}")
    return found


def _read_index_file(directory: Path) -> IndexFile:
    try:
        return IndexFile.model_validate(json.loads((directory / INDEX_FILE).read_text()))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{INDEX_FILE}: {where}: {problem['msg']}") from error


def _write_index_file(
    directory: Path, dimension: int, entries: list[SegmentEntry], references: dict[str, str]
) -> None:
    known = IndexFile(dimension=dimension, segments=entries, references=references)
    text = json.dumps(known.model_dump(), indent=1, sort_keys=True)
    (directory / INDEX_FILE).write_text(text + "\n")


def _segment_folder(directory: Path, number: int) -> Path:
    return directory / f"segment_{number:04d}"


def _removed_file(directory: Path, number: int) -> Path:
    return directory / f"removed_{number:04d}.npy"


def _biases_file(directory: Path, number: int) -> Path:
    return directory / f"biases_{number:04d}.npy"
