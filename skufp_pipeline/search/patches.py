"""The patches of the SKUs' catalogue pictures in an index bundle, by row of the index.

patches.npy        (rows, V, P, d) int8, memory-mapped: only the rows that are looked at twice are read
patch_counts.npy   (rows,) uint8: pictures of each SKU, 1 to V
look_twice.json    how many SKUs are looked at twice, what MaxSim weighs, and how that was chosen
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import Patches, maxsim
from skufp_pipeline.settings import Settings

PATCHES_FILE, COUNTS_FILE, CONFIG_FILE = "patches.npy", "patch_counts.npy", "look_twice.json"


class LookTwiceFile(Settings):
    """Schema of `look_twice.json`."""

    top: int
    weight: float
    chosen_on: int | None  # development photos; None where the weight was not chosen
    tried: list[dict[str, float]] = []  # `weight`, `recall@1`, `mrr`


@dataclass(frozen=True)
class PatchIndex:
    """The patches of an index.

    Attributes:
        patches: (rows, V, P, d) int8.
        counts: (rows,) pictures of each SKU.
    """

    patches: Patches
    counts: NDArray[np.uint8]

    def of_rows(self, rows: NDArray[np.int64]) -> tuple[Patches, NDArray[np.uint8]]:
        """Returns (N, V, P, d) patches and (N,) counts of some rows."""
        return self.patches[rows], self.counts[rows]

    def maxsim(self, rows: NDArray[np.int64], photo: Patches) -> NDArray[np.float64]:
        """Returns the (N,) scores of some rows with the (P, d) patches of a photo."""
        return maxsim(photo, *self.of_rows(rows)) if len(rows) else np.zeros(0)

    @classmethod
    def write(
        cls, directory: Path, sku_ids: pl.Series, tables: Iterable[pl.DataFrame], shape: tuple[int, int, int]
    ) -> "PatchIndex":
        """Writes the patches of an index, one table of a shard (`sku_id`, `patches`) in memory at a time.

        Args:
            sku_ids: of the rows of the index.
            shape: V, P and d.

        Raises:
            UserError: a SKU has no patches.
        """
        most = shape[0]
        counts = np.zeros(len(sku_ids), np.uint8)
        found = open_memmap(directory / PATCHES_FILE, "w+", np.int8, (len(sku_ids), *shape))
        numbered = pl.DataFrame({"sku_id": sku_ids}).with_row_index("row")
        for table in tables:
            known = table.with_columns(place=pl.int_range(pl.len()).over("sku_id"))
            known = known.filter(pl.col("place") < most).join(numbered, on="sku_id", maintain_order="left")
            rows, places = known["row"].to_numpy(), known["place"].to_numpy()
            found[rows, places] = known["patches"].to_numpy().reshape(known.height, *shape[1:])
            np.add.at(counts, rows, 1)
        found.flush()
        np.save(directory / COUNTS_FILE, counts)
        if (missing := sku_ids.filter(counts == 0)).len():
            raise UserError(f"index: {missing.len()} SKUs have no patches, such as {missing[0]!r}")
        return cls(found, counts)


def save_look_twice(directory: Path, file: LookTwiceFile) -> None:
    (directory / CONFIG_FILE).write_text(file.model_dump_json(indent=1) + "\n")


def load_patches(directory: Path, rows: int) -> tuple[PatchIndex, LookTwiceFile] | None:
    """Opens the patches of a bundle, None if it has none; raises UserError if they can't be read."""
    if not (directory / CONFIG_FILE).is_file():
        return None
    try:
        file = LookTwiceFile.model_validate(json.loads((directory / CONFIG_FILE).read_text()))
        patches: Any = np.load(directory / PATCHES_FILE, mmap_mode="r", allow_pickle=False)
        counts = np.load(directory / COUNTS_FILE, allow_pickle=False)
        if patches.dtype != np.int8 or patches.ndim != 4 or len(patches) != rows or len(counts) != rows:
            raise ValueError(f"{PATCHES_FILE} and {COUNTS_FILE} are not those of {rows} SKUs")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{directory} can't be read: {error}; materialize search_index again") from error
    return PatchIndex(patches, counts), file
