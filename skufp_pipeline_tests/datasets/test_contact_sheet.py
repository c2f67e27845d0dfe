from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.datasets.contact_sheet import GAP, LABEL_WIDTH, UNREADABLE, contact_sheet

RED = np.full((10, 10, 3), (255, 0, 0), np.uint8)


def test_tiles_stand_in_rows_from_the_top_left() -> None:
    sheet = contact_sheet([[RED, RED], [RED]], tile=20)
    assert sheet.size == (2 * (20 + GAP) + GAP, 2 * (20 + GAP) + GAP)
    assert sheet.getpixel((GAP + 10, GAP + 10)) == (255, 0, 0)
    assert sheet.getpixel((2 * GAP + 30, 2 * GAP + 30)) == (255, 255, 255), "the second row is shorter"


def test_pictures_keep_their_proportions() -> None:
    sheet = contact_sheet([[np.zeros((10, 20, 3), np.uint8)]], tile=20)
    assert sheet.getpixel((GAP + 10, GAP + 10)) == (0, 0, 0)
    assert sheet.getpixel((GAP + 10, GAP + 1)) == (255, 255, 255)


def test_a_broken_or_missing_picture_is_a_grey_tile(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.fromarray(np.tile(RED, (20, 20, 1))).save(whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    sheet = contact_sheet([[whole, cut, tmp_path / "none.jpg"]], tile=20)
    colours = [sheet.getpixel((GAP + 10 + k * (20 + GAP), GAP + 10)) for k in range(3)]
    assert colours[0] == pytest.approx((255, 0, 0), abs=3)
    assert colours[1:] == [UNREADABLE, UNREADABLE]


def test_labels_and_frames_are_drawn() -> None:
    sheet = contact_sheet([[RED, RED]], tile=20, labels=[["sku 1"]], frames=[["lime", None]])
    assert sheet.getpixel((LABEL_WIDTH + GAP, GAP)) == (0, 255, 0)
    assert sheet.getpixel((LABEL_WIDTH + 2 * GAP + 20, GAP)) == (255, 0, 0)
    assert np.asarray(sheet)[:, :LABEL_WIDTH].min() < 100, "the label's ink"


def test_a_label_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="labels must have one entry per row: expected 2, found 1"):
        contact_sheet([[RED], [RED]], labels=[["one"]])
