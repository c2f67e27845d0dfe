import numpy as np
import pytest

from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.garments import stray_garment
from skufp_pipeline.datasets.sample.labels import annotate, occlusion_level, scale_level, zoom_level
from skufp_pipeline.datasets.sample.plan import Pair, Shot, Sku, plan_pairs, plan_shots
from skufp_pipeline.datasets.sample.scenes import Piece, Scene, SeenPiece, render_scene
from skufp_pipeline.randomness import generator

SKU = Sku(index=4, style=3, partner=None)
PAIR = Pair(pair_id=9, split="train", skus=(SKU,))
SHOT = Shot("user", SKU, 0, False, False)
SKIRT = stray_garment(generator(1, "skirt"), (9,))


def square_scene(hidden_columns: int, landmarks: np.ndarray, sku: int | None = 4) -> Scene:
    """A skirt seen as a square of 40 x 40 pixels at (30, 20), its left columns hidden, in 100 x 100."""
    alpha = np.zeros((100, 100), np.uint8)
    alpha[20:60, 30:70] = 255
    visible = alpha.copy()
    visible[:, 30 : 30 + hidden_columns] = 0
    seen = SeenPiece(Piece(SKIRT, sku), alpha, visible, landmarks)
    return Scene(np.zeros((100, 100, 3), np.uint8), 80, 2, [seen])


CORNERS = np.array([[30, 20], [69, 20], [69, 59], [30, 59]] * 2, float)


@pytest.mark.parametrize(
    ("hidden_columns", "occlusion"), [(0, 1), (7, 1), (10, 2), (20, 2), (21, 3), (40, 3)]
)
def test_occlusion_is_the_hidden_share_of_the_garment(hidden_columns: int, occlusion: int) -> None:
    item = annotate(generator(1), square_scene(hidden_columns, CORNERS), SHOT, PAIR)["item1"]
    assert item["occlusion"] == occlusion


def test_a_whole_garment_is_described_as_it_was_drawn() -> None:
    annotation = annotate(generator(1), square_scene(0, CORNERS), SHOT, PAIR)
    assert (annotation["source"], annotation["pair_id"]) == ("user", 9)
    item = annotation["item1"]
    assert (item["category_id"], item["category_name"], item["style"]) == (9, "skirt", 3)
    assert (item["viewpoint"], item["scale"], item["zoom_in"]) == (2, 2, 1)
    left, top, right, bottom = item["bounding_box"]
    assert 29 <= left <= 30
    assert 19 <= top <= 20
    assert 70 <= right <= 71
    assert 60 <= bottom <= 61
    assert item["landmarks"][:6] == [30, 20, 2, 69, 20, 2]
    polygon = np.array(item["segmentation"][0]).reshape(-1, 2)
    assert polygon.min(axis=0).tolist() == [30, 20]
    assert polygon.max(axis=0).tolist() == [69, 59]


def test_landmarks_say_whether_they_are_seen_hidden_or_outside() -> None:
    landmarks = CORNERS.copy()
    landmarks[1] = [120, 20]
    item = annotate(generator(1), square_scene(20, landmarks), SHOT, PAIR)["item1"]
    assert item["landmarks"][:9] == [30, 20, 1, 0, 0, 0, 69, 59, 2]
    assert item["zoom_in"] == 2


def test_a_garment_that_is_no_sku_has_style_zero() -> None:
    assert annotate(generator(1), square_scene(0, CORNERS, sku=None), SHOT, PAIR)["item1"]["style"] == 0


def test_levels_change_at_deepfashion2s_bounds() -> None:
    assert [occlusion_level(share) for share in (0, 0.2, 0.21, 0.5, 0.51)] == [1, 1, 2, 2, 3]
    assert [scale_level(share) for share in (0.1, 0.11, 0.4, 0.41)] == [1, 2, 2, 3]
    assert [zoom_level(share) for share in (0, 0.01, 0.5, 0.51)] == [1, 2, 2, 3]


def test_boxes_of_rendered_photos_hold_every_pixel_of_the_garment() -> None:
    settings = SampleSettings(num_skus=50)
    for pair in list(plan_pairs(settings))[:6]:
        for shot in plan_shots(settings, pair):
            scene = render_scene(settings, shot)
            annotation = annotate(generator(1), scene, shot, pair)
            rows, columns = np.nonzero(scene.pieces[0].alpha > 127)
            left, top, right, bottom = annotation["item1"]["bounding_box"]
            assert left <= columns.min() < columns.max() < right
            assert top <= rows.min() < rows.max() < bottom


def test_the_first_shop_view_is_never_from_the_side_or_back() -> None:
    settings = SampleSettings(num_skus=50)
    shots = [shot for pair in plan_pairs(settings) for shot in plan_shots(settings, pair)]
    firsts = [shot for shot in shots if shot.source == "shop" and shot.number == 0 and not shot.is_stray]
    assert {render_scene(settings, shot).viewpoint for shot in firsts} == {1, 2}
