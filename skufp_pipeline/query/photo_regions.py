"""Photos in the regions that a detector finds: what a search by default makes of a whole photo."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.datasets.crops import CropSettings, read_items
from skufp_pipeline.datasets.table import DEVELOPMENT, item_id
from skufp_pipeline.detection.measure import best_overlaps
from skufp_pipeline.detection.regions import Detector, Region, trimmed
from skufp_pipeline.encoders.embed import ImageEncoder, in_halves
from skufp_pipeline.encoders.patches import PatchEncoder
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import ItemError, TooLittleError
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.photos import size_of, whole_photo
from skufp_pipeline.progress import Progress
from skufp_pipeline.query.regions import found_in

_NAMES = {"item_id": "query_id", **{name: name for name in ("sku_id", "split", "role")}}


@dataclass(frozen=True)
class AskedPhoto:
    """A photo in all its regions.

    Attributes:
        embeddings: (1 + 1 + R, D) unit rows: annotated, whole, and the regions that were found.
        found: the regions, best first.
        milliseconds: of the detection.
        patches: (P, d) of the region at `tapped`, if the encoder makes them and something was found.
    """

    row: dict[str, Any]
    embeddings: NDArray[np.float32]
    found: list[Region]
    milliseconds: float
    patches: Patches | None = None

    @property
    def tapped(self) -> int:
        """The place among `embeddings` of the region nearest to the annotated box; the whole without any."""
        if not self.found:
            return 1
        overlaps = [best_overlaps([region], np.array([self.row["bbox"]]))[0] for region in self.found]
        return 2 + int(np.argmax(overlaps))


def development_photos(items: pl.DataFrame) -> pl.DataFrame:
    """Returns the development photos' items of training SKUs, with `query_id`."""
    chosen = (pl.col("role") == DEVELOPMENT) & (pl.col("split") == "train")
    return items.filter(chosen).with_columns(query_id=item_id()).sort("query_id")


def ask_photos(
    photos: pl.DataFrame,
    find: Callable[[str], Path],
    detector: Detector,
    encoder: ImageEncoder,
    crops: CropSettings,
    progress: Progress | None = None,
    head: PatchEncoder | None = None,
) -> list[AskedPhoto]:
    """Finds the items of every photo and embeds all regions; photos that can't be read are left out.

    Args:
        photos: `orig_image_path`, `bbox` and what `AskedPhoto.row` is to hold.
        head: makes the patches of each photo's region at `tapped`.
    """
    asked = []
    for number, row in enumerate(photos.iter_rows(named=True), start=1):
        try:
            path = find(row["orig_image_path"])
            photo, size = whole_photo(path), size_of(path)
            begin = time.perf_counter()
            found = found_in(photo, size, detector)
            milliseconds = (time.perf_counter() - begin) * 1000
            views = read_items(
                path, [row["bbox"], *(trimmed(region.box, detector.trim) for region in found)], crops
            )
        except ItemError:
            continue
        pixels = torch.stack([encoder.preprocess(view) for view in (views[0], photo, *views[1:])])
        embeddings = np.concatenate(in_halves(encoder.embed_pixels, pixels))
        photo_asked = AskedPhoto(row, embeddings, found, milliseconds)
        if head is not None and found:
            tapped = pixels[photo_asked.tapped][None]
            photo_asked = replace(photo_asked, patches=head.embed_with_patches(tapped)[1][0])
        asked.append(photo_asked)
        if progress is not None:
            progress(number, photos.height)
    return asked


def found_table(asked: Sequence[AskedPhoto]) -> pl.DataFrame:
    """Returns a row for each photo in which something was found: the region nearest to the known box.

    Columns: `item_id`, `sku_id`, `split`, `role`, `region_score` (the detector's), `embedding` (D), and with
    a patch head `patches` (P d int8).

    Raises TooLittleError if no photo was asked.
    """
    if not asked:
        raise TooLittleError("there are no photos in which a detector could find something")
    seen = [photo for photo in asked if photo.found]
    columns: dict[str, Any] = {
        column: pl.Series([photo.row[name] for photo in seen], dtype=pl.String)
        for column, name in _NAMES.items()
    }
    columns["region_score"] = pl.Series(
        [photo.found[photo.tapped - 2].score for photo in seen], dtype=pl.Float64
    )
    rows = np.array([photo.embeddings[photo.tapped] for photo in seen], np.float32)
    table = pl.DataFrame(columns).with_columns(
        embedding_column(rows.reshape(len(seen), asked[0].embeddings.shape[1]))
    )
    if not seen or seen[0].patches is None:
        return table
    patches = np.stack([photo.patches for photo in seen if photo.patches is not None]).reshape(len(seen), -1)
    return table.with_columns(pl.Series("patches", patches, dtype=pl.Array(pl.Int8, patches.shape[1])))
