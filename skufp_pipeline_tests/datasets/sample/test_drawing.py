from dataclasses import replace

import numpy as np
import pytest

from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.drawing import draw_flat, landmarks_on
from skufp_pipeline.datasets.sample.garments import (
    CATEGORIES,
    PRINTS,
    TEXTURES,
    Garment,
    Print,
    sku_garment,
    stray_garment,
)
from skufp_pipeline.randomness import generator

GARMENT = sku_garment(SampleSettings(), 0)
PRINT = Print("disc", (255, 0, 0), 0.3, (0.0, 0.1), "AB", False)


def of_category(category_id: int) -> Garment:
    return stray_garment(generator(1, "test", category_id), (category_id,))


def test_landmarks_stand_at_equal_distances_along_the_path() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    expected = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]]
    np.testing.assert_allclose(landmarks_on(square, 8), expected)


@pytest.mark.parametrize("category_id", CATEGORIES)
@pytest.mark.parametrize("arm_angle", [0.25, 0.85])
def test_a_garment_fills_its_canvas_and_has_its_landmarks(category_id: int, arm_angle: float) -> None:
    flat = draw_flat(of_category(category_id), arm_angle, is_back=False, image_size=64)
    assert flat.rgba.shape == (80, 80, 4)
    assert flat.landmarks.shape == (CATEGORIES[category_id].landmarks, 2)
    rows, columns = np.nonzero(flat.rgba[..., 3] > 127)
    assert max(np.ptp(rows), np.ptp(columns)) >= 68
    assert min(rows.min(), columns.min()) >= 1


@pytest.mark.parametrize("kind", sorted(set(TEXTURES) - {"plain"}))
def test_a_texture_has_a_figure_on_its_ground(kind: str) -> None:
    texture = replace(GARMENT.texture, kind=kind, colours=((0, 0, 0), (250, 250, 250), (250, 0, 0)))
    flat = draw_flat(replace(GARMENT, texture=texture, print=None), 0.5, is_back=True, image_size=96)
    cloth = flat.rgba[flat.rgba[..., 3] == 255][:, 0]
    assert cloth.std() > 10


@pytest.mark.parametrize("kind", PRINTS)
def test_a_print_is_seen_from_the_front_only(kind: str) -> None:
    printed = replace(GARMENT, print=replace(PRINT, kind=kind))
    bare = replace(GARMENT, print=None)
    for is_back, is_seen in ((False, True), (True, False)):
        with_print, without = (draw_flat(each, 0.5, is_back, 96).rgba for each in (printed, bare))
        assert (not np.array_equal(with_print, without)) == is_seen
