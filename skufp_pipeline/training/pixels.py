"""Decodes crops once into a memory-mapped array of squares that every training epoch reads.

JPEG decoding takes longer than a step of a small tower. The array is never loaded as a whole.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.camera.white_balance import balanced
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoError, open_photo, read_crop, size_of, what_is_wrong, whole_photo
from skufp_pipeline.progress import Progress

_BLOCK = 512
_MOST_BACKGROUNDS = 1000


@dataclass(frozen=True)
class Surrounded:
    """An item in its photo, of which a margin around the item is read too.

    Attributes:
        box: of the item, in pixels of the upright photo.
        margin: in shares of the box's width and height, at each side; the photo's border is repeated where
            it ends.
    """

    path: Path
    box: tuple[int, ...]
    margin: float

    @property
    def is_boxed(self) -> bool:
        """Whether the item is a part of its photo."""
        return self.box != (0, 0, *size_of(self.path))

    def read(self) -> NDArray[np.uint8]:
        """Returns the item with its margin; raises UserError if the photo can't be read."""
        try:
            image = open_photo(self.path) if self.is_boxed else whole_photo(self.path)
            across, down = (now / before for now, before in zip(image.size, size_of(self.path), strict=True))
        except (PhotoError, OSError) as error:
            raise UserError(
                f"photo {self.path} {what_is_wrong(error)}; materialize the graph again"
            ) from error
        x1, y1, x2, y2 = (np.array(self.box) * [across, down, across, down]).round().astype(int)
        beside, above = round(self.margin * (x2 - x1)), round(self.margin * (y2 - y1))
        left, top = max(x1 - beside, 0), max(y1 - above, 0)
        right, bottom = min(x2 + beside, image.width), min(y2 + above, image.height)
        missing = (top - y1 + above, y2 + above - bottom, left - x1 + beside, x2 + beside - right)
        cut = np.asarray(image.crop((left, top, right, bottom)))
        return cv2.copyMakeBorder(cut, *missing, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def decode_squares(
    paths: Sequence[Path | Surrounded],
    side: int,
    target: Path,
    progress: Progress | None = None,
    white_balance: float = 0.0,
) -> NDArray[np.uint8]:
    """Returns (N, side, side, 3) uint8 RGB, read-only and memory-mapped from `target` (created if absent).

    The aspect ratio is not kept (`squash`), so that no part of the garment is cut off. `white_balance` is the
    share of the estimated colour cast that is removed from each crop.

    Raises:
        UserError: a crop is missing or can't be decoded, or `target` has another shape.
    """
    shape = (len(paths), side, side, 3)
    if not target.exists():
        partial = target.with_suffix(".partial")
        # A stream write raises an error on a full disk; writing to a memory map kills the process.
        with partial.open("wb") as stream, ThreadPoolExecutor() as pool:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(paths), _BLOCK):
                block = paths[start : start + _BLOCK]
                read = pool.map(lambda path: read_square(path, side, white_balance), block)
                stream.writelines(square.data for square in read)
                if progress is not None:
                    progress(min(start + _BLOCK, len(paths)), len(paths))
        partial.rename(target)
    squares: NDArray[np.uint8] = np.load(target, mmap_mode="r")
    if squares.shape != shape:
        raise UserError(f"{target} holds {squares.shape}, expected {shape}; delete it and run again")
    return squares


def read_square(path: Path | Surrounded, side: int, white_balance: float = 0.0) -> NDArray[np.uint8]:
    """Reads one crop as (side, side, 3) uint8 RGB, less the share `white_balance` of its colour cast."""
    pixels = np.asarray(read_crop(path)) if isinstance(path, Path) else path.read()
    return to_square(balanced(pixels, white_balance) if white_balance else pixels, side)


def to_square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squeezes (H, W, 3) uint8 to (side, side, 3)."""
    shrinks = pixels.shape[0] > side or pixels.shape[1] > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (side, side), interpolation=interpolation).astype(np.uint8, copy=False)


def aspect_of(path: Path) -> float:
    """Returns width by height of a picture, from its header."""
    width, height = size_of(path)
    return width / height


def read_backgrounds(folder: str | None, side: int) -> NDArray[np.uint8]:
    """Returns the pictures of a folder as (B, side, side, 3) uint8, in the order of their names; B is at most
    1,000, and 0 without a folder.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    if folder is None:
        return np.zeros((0, side, side, 3), np.uint8)
    files = (
        sorted(path for path in Path(folder).rglob("*") if path.is_file()) if Path(folder).is_dir() else []
    )
    found = []
    for path in files:
        with suppress(PhotoError, OSError):  # a folder of pictures may hold a licence too
            found.append(to_square(np.asarray(whole_photo(path)), side))
        if len(found) == _MOST_BACKGROUNDS:
            break
    if not found:
        raise UserError(f"synthetic.backgrounds {folder!r}: expected a folder of pictures, found none")
    return np.stack(found)
