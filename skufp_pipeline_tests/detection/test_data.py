"""What the small detector is trained on: never an evaluation photo, never a SKU of another split."""

from pathlib import Path

import numpy as np
import polars as pl

from skufp_pipeline.camera.settings import SyntheticSettings
from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN
from skufp_pipeline.detection.data import annotated_photos, drawn_images, rendered_photos, training_photos
from skufp_pipeline.detection.windows import canvas_side

from ..datasets.trees import write_image
from .examples import SETTINGS, SIDE

ROWS = [
    ("a", "train", GALLERY, "shop"), ("a", "train", TRAIN, "one"), ("b", "train", TRAIN, "one"),
    ("a", "train", DEVELOPMENT, "two"), ("a", "train", EVALUATION, "three"), ("b", "train", TRAIN, "shared"),
    ("a", "train", EVALUATION, "shared"), ("v", "validation", GALLERY, "new"),
    ("v", "validation", EVALUATION, "four"), ("b", "train", TRAIN, "broken"),
]  # fmt: skip


def items() -> pl.DataFrame:
    columns = {"sku_id": 0, "split": 1, "role": 2, "image_id": 3}
    table = pl.DataFrame({name: [row[place] for row in ROWS] for name, place in columns.items()})
    path = pl.format("{}.jpg", "image_id")
    return table.with_columns(orig_image_path=path, item_idx=pl.int_range(pl.len()) + 1)


def images(folder: Path) -> Path:
    for name in {row[3] for row in ROWS} - {"broken"}:
        write_image(folder / f"{name}.jpg", size=(40, 20))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


def every_box(names: list[str]) -> dict[str, list[list[int]]]:
    """An item of the catalogue and one of none in each image, but for the shop's pictures."""
    return {name: [[0, 0, 20, 10], [20, 10, 40, 20]] for name in names if name != "shop.jpg"}


def test_no_image_with_an_evaluation_query_and_no_other_split_is_drawn() -> None:
    drawn = {role: set(drawn_images(items(), role, 99)["orig_image_path"]) for role in (TRAIN, DEVELOPMENT)}
    assert drawn == {TRAIN: {"shop.jpg", "one.jpg", "broken.jpg"}, DEVELOPMENT: {"two.jpg"}}


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    one, two = (set(drawn_images(items(), TRAIN, most)["orig_image_path"]) for most in (1, 2))
    assert len(one) == 1
    assert one < two


def test_all_boxes_of_an_image_are_known_and_its_queries_are_listed(tmp_path: Path) -> None:
    found = annotated_photos(items(), TRAIN, 99, images(tmp_path).joinpath, every_box, SIDE)
    assert len(found) == 1, "the shop's picture has no boxes, one is broken"
    assert found.unreadable == 1
    np.testing.assert_allclose(found.boxes[0], [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    assert found.used.select("query_id", "use").rows() == [
        ("train/one_item2", "train"),
        ("train/one_item3", "train"),
    ]


def pictures(folder: Path) -> pl.DataFrame:
    names = ["a", "b", "v"]
    paths = [str(folder / f"{name}.png") for name in names]
    for path in paths:
        write_image(Path(path), size=(30, 30))
    split = ["train", "train", "validation"]
    return pl.DataFrame({"sku_id": names, "split": split, "category_name": "thing", "path": paths})


def test_synthetic_photos_are_of_training_skus_and_differ_by_role(tmp_path: Path) -> None:
    shown = pictures(tmp_path)
    made = {}
    for role in (TRAIN, DEVELOPMENT):
        found = rendered_photos(shown, SyntheticSettings(), role, 5, SIDE, 1, tmp_path)
        assert len(found) == found.synthetic == 5
        assert found.pixels.shape == (5, SIDE, SIDE, 3)
        for (box,) in found.boxes:
            assert 0 <= box[0] < box[2] <= 1
            assert 0 <= box[1] < box[3] <= 1
        made[role] = found.pixels
    assert not np.array_equal(made[TRAIN], made[DEVELOPMENT])
    others = shown.filter(split="validation")
    assert len(rendered_photos(others, SyntheticSettings(), TRAIN, 5, SIDE, 1, tmp_path)) == 0


def test_synthetic_photos_stand_in_where_too_few_boxes_are_known(tmp_path: Path) -> None:
    find, training = images(tmp_path).joinpath, SETTINGS.training
    for least, expected in ((1, 0), (2, 7)):
        changes = {"least_photos": least, "synthetic_photos": 7}
        settings = SETTINGS.model_copy(update={"training": training.model_copy(update=changes)})
        rest = pictures(tmp_path), settings, SyntheticSettings(), 1, tmp_path
        train, held = training_photos(items(), find, every_box, *rest)
        assert (len(train), train.synthetic) == (1 + expected, expected)
        assert (len(held), held.synthetic) == (1, 0)
        assert train.pixels.shape[1:3] == (canvas_side(SIDE), canvas_side(SIDE))
