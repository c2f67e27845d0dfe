"""The patches of the SKUs' catalogue pictures in an index bundle, by row of the index.

patches.npy        (rows, V, P, d) int8, memory-mapped: only the rows that are looked at twice are read
patch_counts.npy   (rows,) uint8: pictures of each SKU, 1 to V
patch_shown.npy    (rows,) uint8: which of them is explained to people
patch_pictures/    thumbnails of those that are not the SKU's own thumbnail, because its patches are not kept
look_twice.json    how many SKUs are looked at twice, what MaxSim weighs, and how that was chosen
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import Patches, maxsim
from skufp_pipeline.search.pictures import write_pictures
from skufp_pipeline.settings import Settings

PATCHES_FILE, COUNTS_FILE, CONFIG_FILE = "patches.npy", "patch_counts.npy", "look_twice.json"
SHOWN_FILE, PICTURES_FOLDER = "patch_shown.npy", "patch_pictures"


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
        shown: (rows,) number of the picture that the bundle has a thumbnail of; None if it does not say.
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
        """Returns the (P, d) patches of the picture that is shown of a SKU, None if that is not known."""
        if self.shown is None:
            return None
        found: Patches = self.patches[row, self.shown[row]]
        return found

    def maxsim(self, rows: NDArray[np.int64], photo: Patches) -> NDArray[np.float64]:
        """Returns the (N,) scores of some rows with the (P, d) patches of a photo."""
        return maxsim(photo, *self.of_rows(rows)) if len(rows) else np.zeros(0)

    @classmethod
    def write(
        cls,
        directory: Path,
        sku_ids: pl.Series,
        tables: Iterable[pl.DataFrame],
        shape: tuple[int, int, int],
        shown: "ShownPictures | None" = None,
    ) -> "PatchIndex":
        """Writes the patches of an index, one table of a shard (`sku_id`, `patches`) in memory at a time.

        Args:
            sku_ids: of the rows of the index.
            shape: V, P and d.
            shown: where pictures are, so that one of each SKU can be shown; the tables have `item_id` then.

        Raises:
            UserError: a SKU has no patches.
        """
        most = shape[0]
        counts = np.zeros(len(sku_ids), np.uint8)
        found = open_memmap(directory / PATCHES_FILE, "w+", np.int8, (len(sku_ids), *shape))
        numbered = pl.DataFrame({"sku_id": sku_ids}).with_row_index("row")
        kept: list[pl.DataFrame] = []
        for table in tables:
            known = table.with_columns(place=pl.int_range(pl.len()).over("sku_id"))
            known = known.filter(pl.col("place") < most).join(numbered, on="sku_id", maintain_order="left")
            rows, places = known["row"].to_numpy(), known["place"].to_numpy()
            found[rows, places] = known["patches"].to_numpy().reshape(known.height, *shape[1:])
            np.add.at(counts, rows, 1)
            if shown is not None:
                kept.append(known.drop("patches"))
        found.flush()
        np.save(directory / COUNTS_FILE, counts)
        if (missing := sku_ids.filter(counts == 0)).len():
            raise UserError(f"index: {missing.len()} SKUs have no patches, such as {missing[0]!r}")
        return cls(found, counts, None if shown is None else shown.write(directory, pl.concat(kept)))


@dataclass(frozen=True)
class ShownPictures:
    """Where the catalogue's pictures are, and which of them the bundle has thumbnails of.

    Attributes:
        images: `sku_id`, `item_id`, `image` (relative to the data root) and `is_shown` of each.
        side: of thumbnails, pixels.
        find: maps a path relative to the data root to a local path.
    """

    images: pl.DataFrame
    side: int
    find: Callable[[str], Path]

    def write(self, directory: Path, kept: pl.DataFrame) -> NDArray[np.uint8]:
        """Chooses the picture of each row that is explained: that of its thumbnail, else the first.

        Writes the choice, and thumbnails of those that have none.

        Args:
            kept: `sku_id`, `item_id`, `row` and `place` of every picture whose patches are kept.
        """
        known = kept.join(self.images, on=["sku_id", "item_id"], how="left")
        known = known.with_columns(pl.col("is_shown").fill_null(value=False))
        best_first = known.sort("row", pl.col("is_shown").not_(), "place")
        chosen = best_first.unique("row", keep="first", maintain_order=True)
        shown: NDArray[np.uint8] = chosen["place"].cast(pl.UInt8).to_numpy()
        np.save(directory / SHOWN_FILE, shown)
        (directory / PICTURES_FOLDER).mkdir()
        further = chosen.filter(~pl.col("is_shown") & pl.col("image").is_not_null())
        names = further["sku_id"].to_list(), further["image"].to_list()
        write_pictures(directory / PICTURES_FOLDER, *names, self.side, self.find)
        return shown


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
