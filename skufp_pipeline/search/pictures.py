"""Thumbnails of the SKUs, stored in the index bundle so that a copied bundle can show its results.

They are JPEG bytes in one memory-mapped Arrow file; only the requested thumbnails are read.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import read_crop, reduced

PICTURES_FILE = "pictures.arrow"
_SCHEMA = pa.schema([("sku_id", pa.string()), ("jpeg", pa.binary())])
_QUALITY, _AT_ONCE = 80, 1024


class Pictures:
    """The thumbnails of one index version."""

    def __init__(self, path: Path) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def get(self, sku_id: str) -> bytes | None:
        """Returns the JPEG of a SKU, or None if it has none."""
        row = pc.index(self._table["sku_id"], pa.scalar(sku_id)).as_py()
        return None if row < 0 else self._table["jpeg"][row].as_py()


def write_pictures(
    directory: Path, sku_ids: Sequence[str], images: Sequence[str], side: int, find: Callable[[str], Path]
) -> None:
    """Writes one thumbnail per SKU; the output is deterministic.

    Args:
        images: crop of each SKU, relative to the data root.
        side: maximum length of the longer side, pixels; smaller crops are not scaled up.
        find: maps such a relative path to a local path.

    Raises:
        UserError: a crop is missing or can't be decoded.
    """
    file = pa.OSFile(str(directory / PICTURES_FILE), "wb")
    with ThreadPoolExecutor() as pool, file as stream, pa.ipc.new_file(stream, _SCHEMA) as writer:
        for start in range(0, len(sku_ids), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            jpegs = list(pool.map(lambda image: _small_jpeg(find(image), side), images[some]))
            writer.write_batch(pa.record_batch([sku_ids[some], jpegs], schema=_SCHEMA))


def load_pictures(directory: Path) -> Pictures | None:
    """Opens the thumbnails of a bundle, None if it has none; raises UserError if the file is damaged."""
    path = directory / PICTURES_FILE
    try:
        return Pictures(path) if path.is_file() else None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} can't be read ({error}); materialize search_index again") from error


def _small_jpeg(path: Path, side: int) -> bytes:
    buffer = io.BytesIO()
    reduced(read_crop(path, enough=side), side).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
