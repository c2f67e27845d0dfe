"""Says why a SKU answers a photo: where the photo and the SKU's picture are alike.

- `photo_map`: what each cell of the photo adds to its cosine with the SKU's fingerprint
  (`encoders.contributions`). Its sum is the cosine where the tower averages its last map; for other towers a
  cell has what the cosine loses when it is covered.
- `view_map`: how well each patch of the SKU's picture is found in the photo, its cosine with the most similar
  patch of the photo. The mean is the MaxSim of the second look (`measures.maxsim`).
- `pairs`: places that tell the SKU from the runner-up. A patch of the picture is paired with its most similar
  patch of the photo; pairs are ordered by how far their similarity exceeds what any patch of the runner-up
  reaches there, or by plain similarity if there is no runner-up. A place is in one pair at most; patches that
  are found worse than the mean patch are in none.

All of it is of the photo as it is, without what the query policy may do to it.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.contributions import contributions, occlusion
from skufp_pipeline.measures.maxsim import SCALE, Patches, similarities
from skufp_pipeline.query.explanation_picture import draw
from skufp_pipeline.settings import Settings

Method = Literal["contributions", "occlusion"]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are outside
Cell = tuple[int, int]  # row and column


class ExplanationSettings(Settings):
    """What an explanation shows.

    Attributes:
        pairs: of places, at most.
        occlude: cover squares even where the tower's cells sum to the cosine.
        cells: covered squares a side.
    """

    pairs: int = Field(5, ge=0)
    occlude: bool = False
    cells: int = Field(7, ge=1, le=64)


@dataclass(frozen=True)
class Matched:
    """The SKU that a photo is compared with.

    Attributes:
        fingerprint: (D,) float32.
        picture: its picture, None if the index has none.
        patches: (P, d) int8 of that picture, None if the index has none.
        rivals: (R, d) int8, the patches of the runner-up; None if there is none.
    """

    sku_id: str
    fingerprint: NDArray[np.float32]
    picture: Image.Image | None = None
    patches: Patches | None = None
    rivals: Patches | None = None


class Pair(NamedTuple):
    """Two places that are alike.

    Attributes:
        photo_cell, view_cell: in the grids of patches.
        photo_box, view_box: the same in pixels of `Explanation.photo` and `Explanation.view`.
        similarity: cosine of the two patches.
        lead: how far it exceeds the runner-up's best; None without a runner-up.
    """

    photo_cell: Cell
    view_cell: Cell
    photo_box: Box
    view_box: Box
    similarity: float
    lead: float | None


@dataclass(frozen=True)
class Explanation:
    """Why a SKU answers a photo; the module says what the maps are.

    Attributes:
        cosine: of photo and fingerprint.
        method: how `photo_map` was made.
        photo_map: (h, w) float64.
        view_map: (side, side) float64; None without patches.
        maxsim: of the picture that is shown; None without patches.
        photo_seen, view_seen: what the encoder sees of each picture: x1, y1, x2, y2 in pixels, which may be
            outside the picture.
        left_out: what is missing and why; empty if nothing is.
    """

    sku_id: str
    photo: Image.Image
    view: Image.Image | None
    cosine: float
    method: Method
    photo_map: NDArray[np.float64]
    view_map: NDArray[np.float64] | None
    maxsim: float | None
    pairs: list[Pair]
    photo_seen: tuple[float, float, float, float]
    view_seen: tuple[float, float, float, float]
    left_out: str = ""

    def picture(self) -> Image.Image:
        """Draws both pictures under their maps, and the pairs; the same explanation gives the same pixels."""
        return draw(self)


def explain(
    encoder: Encoder,
    photo: Image.Image,
    patches: Patches | None,
    matched: Matched,
    settings: ExplanationSettings,
    left_out: str = "",
) -> Explanation:
    """Explains why a SKU answers a photo.

    Args:
        patches: (P, d) of the photo, None without a second look.
        left_out: why patches are missing.
    """
    pixels = encoder.preprocess(photo)
    row = encoder.embed_pixels(pixels[None])[0].astype(np.float64)
    cosine = float(row @ matched.fingerprint / np.linalg.norm(matched.fingerprint.astype(np.float64)))
    method: Method = "contributions"
    found = None if settings.occlude else contributions(encoder, pixels, matched.fingerprint)
    if found is None:
        method, cells = "occlusion", min(settings.cells, encoder.image_size)
        found = occlusion(encoder, pixels, matched.fingerprint, cells)
    mode = encoder.preprocess_config["resize_mode"]
    view = matched.picture
    photo_seen = seen(photo.size, mode)
    view_seen = (0.0, 0.0, 0.0, 0.0) if view is None else seen(view.size, mode)
    view_map, maxsim, pairs = None, None, []
    if patches is not None and matched.patches is not None:
        similar = similarities(patches, matched.patches).astype(np.float64) / SCALE**2
        best = similar.max(axis=1)
        view_map, maxsim = best.reshape(_side(matched.patches), -1), float(best.mean())
        if view is not None:
            sides = _side(patches), _side(matched.patches)
            shown = (photo_seen, photo.size), (view_seen, view.size)
            rivals = None if matched.rivals is None else similarities(patches, matched.rivals) / SCALE**2
            pairs = find_pairs(similar, rivals, sides, shown, settings.pairs)
    return Explanation(
        matched.sku_id, photo, view, cosine, method, found, view_map, maxsim, pairs, photo_seen, view_seen,
        left_out,
    )  # fmt: skip


def find_pairs(
    similar: NDArray[np.floating],
    rivals: NDArray[np.floating] | None,
    sides: tuple[int, int],
    shown: tuple[
        tuple[tuple[float, float, float, float], tuple[int, int]],
        tuple[tuple[float, float, float, float], tuple[int, int]],
    ],
    count: int,
) -> list[Pair]:
    """Returns the best pairs, best first; on ties the first patch of the picture comes first.

    Args:
        similar: (M, P) cosines of the picture's patches with the photo's.
        rivals: (R, P) the same of the runner-up's patches.
        sides: cells a side of the photo and of the picture.
        shown: of both, what the encoder sees of it, and its size; cells outside are in no pair.
    """
    places = similar.argmax(axis=1)
    values = similar.max(axis=1)
    least = values.mean() - 1e-9  # equal ones are all in
    leads = values if rivals is None else values - rivals.max(axis=0)[places]
    pairs: list[Pair] = []
    taken: set[int] = set()
    for number in np.lexsort((-values, -leads)):
        place = int(places[number])
        cells = divmod(place, sides[0]), divmod(int(number), sides[1])
        boxes = [cell_box(cell, side, *one) for cell, side, one in zip(cells, sides, shown, strict=True)]
        if len(pairs) == count:
            break
        if place in taken or values[number] < least or boxes[0] is None or boxes[1] is None:
            continue
        taken.add(place)
        lead = None if rivals is None else float(leads[number])
        pairs.append(Pair(*cells, boxes[0], boxes[1], float(values[number]), lead))
    return pairs


def seen(size: tuple[int, int], mode: str) -> tuple[float, float, float, float]:
    """What an encoder with this `resize_mode` sees of a picture (width, height), as `Explanation` has it."""
    width, height = size
    if mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(size) if mode == "shortest" else max(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def cell_box(
    cell: Cell, side: int, seen: tuple[float, float, float, float], size: tuple[int, int]
) -> Box | None:
    """The pixels of a cell of a grid of side x side over what is seen; None if none is in the picture."""
    left, top, right, bottom = seen
    row, column = cell
    xs = [left + (right - left) * (column + step) / side for step in (0, 1)]
    ys = [top + (bottom - top) * (row + step) / side for step in (0, 1)]
    x1, x2 = (min(max(round(x), 0), size[0]) for x in xs)
    y1, y2 = (min(max(round(y), 0), size[1]) for y in ys)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _side(patches: Patches) -> int:
    return isqrt(len(patches))
