"""Finds SKUs that show the same catalog picture, or nearly: customers see them as wrong answers.

Two SKUs belong together if a picture of one and a picture of the other have a cosine of at least a
threshold, or the same pixels; groups are the connected components. The pass is exact: all pairs of pictures
are compared, a block of them at a time.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.datasets.reading import DECODE_THREADS
from skufp_pipeline.datasets.table import GALLERY
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.photos import read_crop
from skufp_pipeline.progress import Progress

THRESHOLD = 0.98
SAME_COSINE = 0.999  # pixels are compared only above it: equal ones are nearer, in any batch and precision
BLOCK = 1024  # pictures; a block of pairs takes 8 MiB for their cosines
ROUNDING = 1e-9  # more than float64 products can be off, so that the threshold itself counts everywhere

DUPLICATES_SCHEMA: dict[str, pl.DataType] = {
    "group": pl.Int64(),  # 1, 2, ...; the largest first
    "sku_id": pl.String(),
    "kind": pl.String(),  # "same": equal pixels with another SKU of the group; "near": by the cosine alone
    "cosine": pl.Float64(),  # of the SKU's picture that is most like another SKU's, 4 decimals
    "picture": pl.String(),  # that picture
    "like_sku_id": pl.String(),  # whose picture it is most like
    "like_picture": pl.String(),
}


@dataclass
class _Found:
    """What is known of each SKU so far, by its number.

    Attributes:
        parent: (S,) a SKU of the same group with a lower or the same number.
        best: (S,) highest cosine with another SKU's picture; `pair`: (S, 2) rows of the two pictures.
        same: (S,) whether it shares pixels with another SKU.
    """

    parent: NDArray[np.int64]
    best: NDArray[np.float64]
    pair: NDArray[np.int64]
    same: NDArray[np.bool_]


def find_duplicates(
    images: pl.DataFrame,
    crop_of: Callable[[Mapping[str, Any]], Path],
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    block: int = BLOCK,
) -> pl.DataFrame:
    """Returns `DUPLICATES_SCHEMA`, a row for each SKU of a group, by group and `sku_id`.

    Args:
        images: embedded crops (`sku_id`, `role`, `image_path`, `embedding`); queries are ignored.
        crop_of: local path of the crop of such a row.
        threshold: least cosine, above 0 and at most 1.
        progress: called with (blocks of pairs done, total).

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
        UserError: a crop can't be read.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be above 0 and at most 1, got {threshold}")
    pictures = images.filter(pl.col("role") == GALLERY).sort("sku_id", "image_path")
    names, sku = np.unique(pictures["sku_id"].to_numpy(), return_inverse=True)
    rows = embedding_rows(pictures)
    pixels = _Pixels(pictures, crop_of)
    skus = len(names)
    found = _Found(np.arange(skus), np.full(skus, -1.0), np.zeros((skus, 2), np.int64), np.zeros(skus, bool))
    starts = range(0, len(rows), block)
    done, total = 0, len(starts) * (len(starts) + 1) // 2
    for low in starts:
        left = _unit(rows[low : low + block])
        for high in range(low, len(rows), block):
            cosines = left @ _unit(rows[high : high + block]).T
            i, j = np.nonzero(cosines >= min(threshold, SAME_COSINE) - ROUNDING)
            cosine, i, j = cosines[i, j], i + low, j + high
            other = sku[i] < sku[j]  # rows are by SKU, so that each pair of two SKUs is seen once
            _note(found, sku, i[other], j[other], cosine[other], threshold, pixels)
            done += 1
            if progress is not None:
                progress(done, total)
    return _table(found, names, pictures)


def _note(
    found: _Found,
    sku: NDArray[np.int64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    cosine: NDArray[np.float64],
    threshold: float,
    pixels: "_Pixels",
) -> None:
    """Takes the pairs (i, j) of pictures of two SKUs into the groups."""
    same = np.zeros(len(i), dtype=bool)
    close = np.flatnonzero(cosine >= SAME_COSINE)
    same[close] = pixels.equal(i[close], j[close])
    linked = same | (cosine >= threshold - ROUNDING)
    i, j, same = i[linked], j[linked], same[linked]
    cosine = np.where(same, 1.0, np.minimum(np.round(cosine[linked], 4), 1.0))
    found.same[sku[np.concatenate([i[same], j[same]])]] = True
    mine, its, cosine = np.concatenate([i, j]), np.concatenate([j, i]), np.tile(cosine, 2)
    order = np.lexsort((its, mine, -cosine, sku[mine]))
    mine, its, cosine = mine[order], its[order], cosine[order]
    skus, first = np.unique(sku[mine], return_index=True)  # the best pair of each SKU
    mine, its, cosine = mine[first], its[first], cosine[first]
    best, (old_mine, old_its) = found.best[skus], found.pair[skus].T
    earlier = (mine < old_mine) | ((mine == old_mine) & (its < old_its))  # so that blocks do not matter
    better = (cosine > best) | ((cosine == best) & earlier)
    found.best[skus[better]] = cosine[better]
    found.pair[skus[better]] = np.stack([mine, its], axis=1)[better]
    join(found.parent, sku[i], sku[j])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def join(parent: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Unites the groups of each pair, in place; a root is the lowest number of its group.

    >>> parent = np.arange(6)
    >>> join(parent, np.array([4, 1, 2]), np.array([2, 5, 5]))
    >>> roots(parent, np.arange(6)).tolist()
    [0, 1, 1, 3, 1, 1]
    """
    while True:
        a, b = roots(parent, left), roots(parent, right)
        apart = a != b
        if not apart.any():
            return
        left, right = a[apart], b[apart]
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))


def roots(parent: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest number of each member's group."""
    while (parent[members] != members).any():
        members = parent[members]
    return members


class _Pixels:
    """Compares crops by a hash of their decoded pixels; each is decoded once, and only if it is asked for."""

    def __init__(self, pictures: pl.DataFrame, crop_of: Callable[[Mapping[str, Any]], Path]) -> None:
        self._pictures, self._crop_of = pictures.select("sku_id", "image_path"), crop_of
        self._hashes = np.zeros(pictures.height, dtype="S32")

    def equal(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        wanted = np.unique(np.concatenate([i, j]))
        new = wanted[self._hashes[wanted] == b""]
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            for row, digest in zip(new, pool.map(self._hash, new.tolist()), strict=True):
                self._hashes[row] = digest
        return self._hashes[i] == self._hashes[j]

    def _hash(self, row: int) -> bytes:
        crop = read_crop(self._crop_of(self._pictures.row(row, named=True)))
        return hashlib.sha256(f"{crop.size}".encode() + crop.tobytes()).hexdigest()[:32].encode()


def _table(found: _Found, names: NDArray[Any], pictures: pl.DataFrame) -> pl.DataFrame:
    members = np.flatnonzero(found.best >= 0)
    mine, its = found.pair[members].T
    frame = pl.DataFrame(
        {
            "root": roots(found.parent, members),
            "sku_id": names[members].tolist(),
            "kind": np.where(found.same[members], "same", "near").tolist(),
            "cosine": found.best[members],
            "picture": pictures["image_path"].gather(mine),
            "like_sku_id": pictures["sku_id"].gather(its),
            "like_picture": pictures["image_path"].gather(its),
        },
        schema={"root": pl.Int64(), **dict(list(DUPLICATES_SCHEMA.items())[1:])},
    )
    size = pl.len().over("root")
    ordered = frame.with_columns(size=size).sort(["size", "root", "sku_id"], descending=[True, False, False])
    group = pl.col("root").rle_id().cast(pl.Int64) + 1
    return ordered.with_columns(group=group).select(*DUPLICATES_SCHEMA)
