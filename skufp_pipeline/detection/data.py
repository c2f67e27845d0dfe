"""Photos with known boxes, for the small detector: those of the data set, and synthetic ones.

Only images of training SKUs are used: catalogue pictures and customers' photos of role `train` to train on,
photos of role `development` to choose the weights by. No image with an evaluation query is among them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.camera.settings import SyntheticSettings
from skufp_pipeline.datasets.boxes import Boxes
from skufp_pipeline.datasets.reading import DECODE_THREADS, map_in_threads
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN, item_id
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.detection.windows import canvas_side
from skufp_pipeline.encoders.tables import USED_SCHEMA, used_queries
from skufp_pipeline.errors import ItemError, TooLittleError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.photos import open_photo, size_of, whole_photo
from skufp_pipeline.training.pixels import to_square
from skufp_pipeline.training.synthetic_photos import Studio

Find = Callable[[str], Path]
KnownBoxes = Callable[[Sequence[str]], Mapping[str, Boxes]]  # of images; those without boxes are left out
_EDGES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class BoxedPhotos:
    """Photos squeezed to squares (`windows`: canvases), and the boxes of their items.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        boxes: N arrays (M, 4), x1, y1, x2, y2 in shares of the side.
        used: `USED_SCHEMA` of the queries among them.
        synthetic: how many of them were rendered.
        unreadable: photos that were left out because they could not be decoded.
    """

    pixels: NDArray[np.uint8]
    boxes: list[NDArray[np.float32]]
    used: pl.DataFrame
    synthetic: int = 0
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.boxes)

    def joined(self, other: "BoxedPhotos") -> "BoxedPhotos":
        return BoxedPhotos(
            np.concatenate([self.pixels, other.pixels]),
            [*self.boxes, *other.boxes],
            pl.concat([self.used, other.used]),
            self.synthetic + other.synthetic,
            self.unreadable + other.unreadable,
        )


def drawn_images(items: pl.DataFrame, role: str, most: int) -> pl.DataFrame:
    """Returns the rows of a stable sample of the images of training SKUs with this role, for `train` with
    catalogue pictures. Images in which an evaluation query is seen are left out."""
    held = items.filter(pl.col("role") == EVALUATION)["orig_image_path"].unique()
    roles = [TRAIN, GALLERY] if role == TRAIN else [role]
    rows = items.filter(
        (pl.col("split") == "train")
        & pl.col("role").is_in(roles)
        & ~pl.col("orig_image_path").is_in(held.implode())
    )
    images = sorted(
        rows["orig_image_path"].unique(), key=lambda image: (stable_hash(image, "detector"), image)
    )
    return rows.filter(pl.col("orig_image_path").is_in(images[:most]))


def annotated_photos(
    items: pl.DataFrame, role: str, most: int, find: Find, known: KnownBoxes, side: int
) -> BoxedPhotos:
    """Reads at most `most` images of training SKUs whose boxes are known, `side` pixels square."""
    rows = drawn_images(items, role, most)
    by_image = known(rows["orig_image_path"].unique().sort().to_list())
    images = [image for image, boxes in by_image.items() if boxes]

    def read(image: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
        try:
            path = find(image)
            square = to_square(np.asarray(whole_photo(path)), side)
            return square, (np.array(by_image[image]) / [*size_of(path) * 2]).astype(np.float32)
        except ItemError:
            return None

    found = {
        image: photo
        for image, photo in zip(images, map_in_threads(read, images, threads=DECODE_THREADS), strict=True)
        if photo is not None
    }
    used = rows.filter(pl.col("orig_image_path").is_in(list(found))).with_columns(query_id=item_id())
    pixels = [square for square, _ in found.values()]
    return BoxedPhotos(
        np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8),
        [boxes for _, boxes in found.values()],
        used_queries(used, role),
        unreadable=len(images) - len(found),
    )


def rendered_photos(
    pictures: pl.DataFrame,
    settings: SyntheticSettings,
    role: str,
    count: int,
    side: int,
    seed: int,
    scratch: Path,
) -> BoxedPhotos:
    """Renders `count` synthetic photos of training SKUs, one product in each.

    Args:
        pictures: as `Studio` takes them; those of other splits are left out.
        role: keeps the draws of photos to train on, to choose by and to judge on apart.
    """
    shown = pictures.filter(pl.col("split") == "train")
    draw = sorted(shown["sku_id"].unique(), key=lambda sku_id: (stable_hash(sku_id, "detector"), sku_id))
    shown = shown.filter(pl.col("sku_id").is_in(draw[:count]))
    none = BoxedPhotos(np.zeros((0, side, side, 3), np.uint8), [], pl.DataFrame(schema=USED_SCHEMA))
    if shown.is_empty() or not count:
        return none
    # Several pieces of a product would be in the photo, and only one in its box.
    camera = settings.camera.model_copy(update={"pieces": 0.0})
    decoded = scratch / f"detector_{role}"  # roles may draw other SKUs
    decoded.mkdir(exist_ok=True)
    studio = Studio(shown, settings.model_copy(update={"camera": camera}), seed, decoded)
    each = {f"detector {role}": -(-count // len(studio.skus))}
    photos = islice((photo for sku in studio.skus for photo in studio.photos(sku, each, side)), count)
    pixels, boxes = [], []
    for row, jpeg in photos:
        pixels.append(np.asarray(open_photo(jpeg)))
        boxes.append((np.array([[row[edge] for edge in _EDGES]]) / side).astype(np.float32))
    return BoxedPhotos(np.stack(pixels), boxes, none.used, synthetic=len(boxes))


def training_photos(
    items: pl.DataFrame,
    find: Find,
    known: KnownBoxes,
    pictures: pl.DataFrame,
    settings: DetectorSettings,
    synthetic: SyntheticSettings,
    seed: int,
    scratch: Path,
) -> tuple[BoxedPhotos, BoxedPhotos]:
    """Returns the photos to train on and those that choose the weights: annotated ones, and synthetic ones
    where fewer than `least_photos` (of the latter: none) are."""
    own, side = settings.training, canvas_side(settings.training.side)
    train = annotated_photos(items, TRAIN, own.photos, find, known, side)
    held = annotated_photos(items, DEVELOPMENT, own.held_photos, find, known, side)
    if len(train) < own.least_photos:
        count = own.synthetic_photos
        more = rendered_photos(pictures, synthetic, TRAIN, count, side, seed, scratch)
        train = train.joined(more)
    if not len(held):
        count = min(own.held_photos, own.synthetic_photos)
        held = rendered_photos(pictures, synthetic, DEVELOPMENT, count, side, seed, scratch)
    return train, held


def readable_photos(items: pl.DataFrame, find: Find, count: int) -> list[Image.Image]:
    """Reads at most `count` images of training SKUs, to compare two forms of a detector on.

    Raises:
        TooLittleError: there are none.
    """
    photos = []
    for image in drawn_images(items, TRAIN, count)["orig_image_path"].unique().sort():
        with suppress(ItemError):
            photos.append(whole_photo(find(image)))
    if not photos:
        raise TooLittleError("there are no pictures to compare the exported detector with PyTorch on")
    return photos
