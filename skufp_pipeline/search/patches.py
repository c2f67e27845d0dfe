"""The patches of the SKUs' catalogue pictures in an index bundle, by row of the index.

patches.npy        (rows, V, P, d) int8, memory-mapped: only the rows that are looked at twice are read
patch_counts.npy   (rows,) uint8: pictures of each SKU, 1 to V
patch_shown.npy    (rows,) uint8: which of them is the one whose thumbnail the bundle has; 255 for none
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
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.settings import Settings

PATCHES_FILE, COUNTS_FILE, CONFIG_FILE = "patches.npy", "patch_counts.npy", "look_twice.json"
SHOWN_FILE, NOT_SHOWN = "patch_shown.npy", 255


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
        shown: (rows,) number of the picture whose thumbnail the bundle has, `NOT_SHOWN` if it is not among
            them; None if that is not known of any.
    """

    patches: Patches
    counts: NDArray[np.uint8]
    shown: NDArray[np.uint8] | None = None

    def of_rows(self, rows: NDArray[np.int64]) -> tuple[Patches, NDArray[np.uint8]]:
        """Returns (N, V, P, d) patches and (N,) counts of some rows."""
        return self.patches[rows], self.counts[rows]

    def of_sku(self, row: int) -> Patches:
        """Returns the (n, d) patches of all pictures of a SKU."""
        return self.patches[row, : self.counts[row]].reshape(-1, self.patches.shape[-1])

    def of_picture(self, row: int) -> Patches | None:
        """Returns the (P, d) patches of the picture that the bundle shows of a SKU, None if it has none."""
        if self.shown is None or self.shown[row] == NOT_SHOWN:
            return None
        found: Patches = self.patches[row, self.shown[row]]
        return found

    @classmethod
    def write(
        cls,
        directory: Path,
        sku_ids: pl.Series,
        tables: Iterable[pl.DataFrame],
        shape: tuple[int, int, int],
        shown: pl.DataFrame | None = None,
    ) -> "PatchIndex":
        """Writes the patches of an index, one table of a shard (`sku_id`, `patches`) in memory at a time.

        Args:
            sku_ids: of the rows of the index.
            shape: V, P and d.
            shown: `sku_id` and `item_id` of the pictures that the bundle has; the tables have `item_id` then.

        Raises:
            UserError: a SKU has no patches.
        """
        most = shape[0]
        counts, place_shown = np.zeros(len(sku_ids), np.uint8), np.full(len(sku_ids), NOT_SHOWN, np.uint8)
        found = open_memmap(directory / PATCHES_FILE, "w+", np.int8, (len(sku_ids), *shape))
        numbered = pl.DataFrame({"sku_id": sku_ids}).with_row_index("row")
        for table in tables:
            known = table.with_columns(place=pl.int_range(pl.len()).over("sku_id"))
            known = known.filter(pl.col("place") < most).join(numbered, on="sku_id", maintain_order="left")
            rows, places = known["row"].to_numpy(), known["place"].to_numpy()
            found[rows, places] = known["patches"].to_numpy().reshape(known.height, *shape[1:])
            np.add.at(counts, rows, 1)
            if shown is not None:
                these = known.join(shown, on=["sku_id", "item_id"], how="semi")
                place_shown[these["row"].to_numpy()] = these["place"].to_numpy()
        found.flush()
        np.save(directory / COUNTS_FILE, counts)
        if shown is not None:
            np.save(directory / SHOWN_FILE, place_shown)
        if (missing := sku_ids.filter(counts == 0)).len():
            raise UserError(f"index: {missing.len()} SKUs have no patches, such as {missing[0]!r}")
        return cls(found, counts, None if shown is None else place_shown)


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
        path = directory / SHOWN_FILE
        shown = np.load(path, allow_pickle=False) if path.is_file() else None
        lengths = {len(array) for array in (patches, counts, shown) if array is not None}
        if patches.dtype != np.int8 or patches.ndim != 4 or lengths != {rows}:
            raise ValueError(f"{PATCHES_FILE} and the files beside it are not those of {rows} SKUs")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{directory} can't be read: {error}; materialize search_index again") from error
    return PatchIndex(patches, counts, shown), file
