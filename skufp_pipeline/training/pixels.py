"""Crops decoded once: a memory-mapped array of squares that every epoch of training reads.

JPEG decoding costs more than a small tower's step; the array is read by batch and never held whole.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import read_crop
from skufp_pipeline.progress import Progress

_BLOCK = 512


def decode_squares(
    paths: Sequence[Path], side: int, target: Path, progress: Progress | None = None
) -> NDArray[np.uint8]:
    """(N, side, side, 3) uint8 RGB, read-only and memory-mapped from `target` (made if absent).

    The aspect ratio is not kept (`squash`): the whole garment stays in the picture.

    Raises:
        UserError: a crop is missing or can't be decoded.
    """
    shape = (len(paths), side, side, 3)
    if not target.exists():
        partial = target.with_suffix(".partial")
        # Written as a stream: on a full disk a write fails, where a memory-mapped page kills the process.
        with partial.open("wb") as stream, ThreadPoolExecutor() as pool:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(paths), _BLOCK):
                block = paths[start : start + _BLOCK]
                stream.writelines(square.data for square in pool.map(lambda p: read_square(p, side), block))
                if progress is not None:
                    progress(min(start + _BLOCK, len(paths)), len(paths))
        partial.rename(target)
    squares: NDArray[np.uint8] = np.load(target, mmap_mode="r")
    if squares.shape != shape:
        raise UserError(f"{target} holds {squares.shape}, expected {shape}; delete it and run again")
    return squares


def read_square(path: Path, side: int) -> NDArray[np.uint8]:
    """One crop as (side, side, 3) uint8 RGB."""
    pixels = np.asarray(read_crop(path))
    shrinks = pixels.shape[0] > side or pixels.shape[1] > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (side, side), interpolation=interpolation).astype(np.uint8, copy=False)
