"""Draws an explanation: the photo and the SKU's picture under their heat maps, and what is alike in both.

The same explanation gives the same pixels on every machine: no fonts of the system are used.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skufp_pipeline.datasets.lettering import dejavu, write_lines

if TYPE_CHECKING:
    from skufp_pipeline.query.explain import Explanation

PANEL, GAP, MARGIN = 384, 48, 16  # pixels
LEAST_BOX = 16  # pixels a side, of a place in a very narrow picture
LINE, HEADING, TEXT = 20, 15, 12  # pixels a line; points
PAPER, INK, FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)
HOT, COLD = (255, 196, 0), (24, 28, 72)  # where it counts, and where not
# Colour-blind-safe (Okabe and Ito, 2008).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (0, 0, 0))
NOTES = {
    "contributions": "Bright in the photo: what adds most to the similarity.",
    "occlusion": "Bright in the photo: where covering it lowers the similarity most.",
}
VIEW_NOTE = "Bright in the picture: what is best found again in the photo."
PAIRS_NOTE = "Numbered: places that are alike{}, and how alike they are."
APART = " and tell this product from the next best one"
NO_PICTURE = "the index has no picture of it"


def draw(explanation: "Explanation") -> Image.Image:
    """Returns the picture of an explanation."""
    photo_notes = ["Your photo", f"similarity {_per_cent(explanation.cosine)}"]
    view_notes = [explanation.sku_id]
    if explanation.maxsim is not None:
        view_notes.append(f"found again in the photo: {_per_cent(explanation.maxsim)}")
    below = [NOTES[explanation.method]]
    below += [VIEW_NOTE] if explanation.view_map is not None and explanation.view is not None else []
    if explanation.pairs:
        below.append(PAIRS_NOTE.format("" if explanation.pairs[0].lead is None else APART))
    below += [explanation.left_out] if explanation.left_out else []
    top = MARGIN + 2 * LINE + 8
    width = 2 * (MARGIN + PANEL) + GAP
    sheet = Image.new("RGB", (width, top + PANEL + 12 + LINE * (1 + len(below)) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    photo = heated(explanation.photo, explanation.photo_map, explanation.photo_seen)
    corners = [_paste(sheet, photo, (MARGIN, top))]
    right = MARGIN + PANEL + GAP
    if explanation.view is None:
        pen.rectangle((right, top, right + PANEL - 1, top + PANEL - 1), outline=FAINT)
        write_lines(pen, (right + 12, top + 12), [NO_PICTURE], PANEL - 24, FAINT, TEXT)
    else:
        view = explanation.view
        if explanation.view_map is not None:
            view = heated(view, explanation.view_map, explanation.view_seen)
        corners.append(_paste(sheet, view, (right, top)))
    for left, notes in ((MARGIN, photo_notes), (right, view_notes)):
        write_lines(pen, (left, MARGIN), notes[:1], PANEL, INK, HEADING)
        write_lines(pen, (left, MARGIN + LINE), notes[1:], PANEL, INK, TEXT)
    if len(corners) == 2:
        _draw_pairs(pen, explanation, corners, top + PANEL + 12)
    write_lines(
        pen, (MARGIN, top + PANEL + 12 + LINE), below, width - 2 * MARGIN, FAINT, TEXT, LINE - TEXT - 4
    )
    return sheet


def heated(
    picture: Image.Image,
    values: NDArray[np.floating],
    seen: tuple[float, float, float, float],
) -> Image.Image:
    """Returns the picture with a map over what the encoder sees of it: bright where the map is largest, dark
    where it is smallest."""
    floor = float(values.min())
    span = float(values.max()) - floor
    heat = np.clip((values - floor) / span, 0, 1) if span > 1e-9 else np.zeros(values.shape)
    left, top, right, bottom = (round(edge) for edge in seen)
    size = max(right - left, 1), max(bottom - top, 1)
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    whole = Image.new("F", picture.size, 0)
    whole.paste(smooth, (left, top))
    heat = np.clip(np.asarray(whole), 0, 1)[..., None].astype(np.float64)
    pixels = np.asarray(picture.convert("RGB")).astype(np.float64)
    cold = 0.35 * pixels + 0.65 * np.array(COLD)
    hot = 0.7 * pixels + 0.3 * np.array(HOT)
    return Image.fromarray(np.rint(heat * hot + (1 - heat) * cold).astype(np.uint8))


def _paste(
    sheet: Image.Image, picture: Image.Image, at: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Pastes a picture into the middle of a panel; returns its corner, and pixels of the sheet a pixel."""
    scale = PANEL / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    left, top = at[0] + (PANEL - size[0]) // 2, at[1] + (PANEL - size[1]) // 2
    sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
    return left, top, size[0] / picture.width, size[1] / picture.height


def _draw_pairs(
    pen: ImageDraw.ImageDraw,
    explanation: "Explanation",
    corners: list[tuple[float, float, float, float]],
    below: int,
) -> None:
    """Draws the boxes of the pairs with lines between them, and the list of similarities at `below`."""
    font = dejavu(TEXT)
    left = float(MARGIN)
    pairs = []
    for number, pair in enumerate(explanation.pairs):
        boxes = _on_sheet(pair.photo_box, corners[0]), _on_sheet(pair.view_box, corners[1])
        pairs.append((COLOURS[number % len(COLOURS)], *boxes))
    for colour, start, end in pairs:
        line = (start[2], (start[1] + start[3]) / 2, end[0], (end[1] + end[3]) / 2)
        pen.line(line, fill=PAPER, width=5)
        pen.line(line, fill=colour, width=3)
    for number, (colour, start, end) in enumerate(pairs):
        for box in (start, end):
            pen.rectangle(box, outline=PAPER, width=4)
            pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=colour, width=2)
            pen.rectangle((box[0], box[1], box[0] + 15, box[1] + 16), fill=colour)
            pen.text((box[0] + 4, box[1] + 1), str(number + 1), fill=PAPER, font=font)
        said = f"{number + 1}: {_per_cent(explanation.pairs[number].similarity)}"
        pen.text((left, below), said, fill=colour, font=font)
        left += font.getlength(said) + 18


def _on_sheet(
    box: tuple[float, float, float, float], corner: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    left, top, across, down = corner
    x1, y1, x2, y2 = box
    x1, y1, x2, y2 = left + x1 * across, top + y1 * down, left + x2 * across - 1, top + y2 * down - 1
    return x1, y1, max(x2, x1 + LEAST_BOX), max(y2, y1 + LEAST_BOX)


def _per_cent(cosine: float) -> str:
    return f"{100 * cosine:.0f} %"
