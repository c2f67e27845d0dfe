import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import ExifTags, Image

from skufp_pipeline.datasets import crops as crops_module
from skufp_pipeline.datasets.crops import CropSettings, crop_path, read_items, write_crops
from skufp_pipeline.datasets.table import SKIPPED_SCHEMA
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import open_photo, reduced, whole_photo
from skufp_pipeline_tests.datasets.trees import table, truncate, write_image, write_png_bomb

PATH = "train/image/000001.jpg"


def cut(tmp_path: Path, items: pl.DataFrame, **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    return write_crops(items, (tmp_path / "raw").joinpath, tmp_path / "crops", CropSettings(**settings))


def save(tmp_path: Path, image: Image.Image, name: str = PATH, **options: Any) -> None:
    path = tmp_path / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def crop_pixels(tmp_path: Path, crops: pl.DataFrame, row: int = 0) -> np.ndarray:
    with Image.open(tmp_path / "crops" / crops["crop_path"][row]) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def quadrants() -> Image.Image:
    """40 x 60: red, green above; blue, white below."""
    image = Image.new("RGB", (40, 60))
    for box, colour in [((0, 0), "red"), ((20, 0), "lime"), ((0, 30), "blue"), ((20, 30), "white")]:
        image.paste(colour, (*box, box[0] + 20, box[1] + 30))
    return image


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "train/catalog/000001_01_01/000001_item1.jpg"),
        ({"domain": "query", "item_idx": 10}, "train/query/000001_01_01/000001_item10.jpg"),
        ({"sku_id": "a/b c"}, "train/catalog/a%2Fb%20c/000001_item1.jpg"),
        ({"sku_id": ".."}, "train/catalog/%2E./000001_item1.jpg"),
        ({"sku_id": "x" * 255}, f"train/catalog/{'x' * 255}/000001_item1.jpg"),
        ({"sku_id": "x" * 256}, f"train/catalog/{'x' * 200}~bf2b88d8bce640e2/000001_item1.jpg"),
    ],
)
def test_a_crop_path_stays_in_its_folder(row: dict, expected: str) -> None:
    assert crop_path(table(row).row(0, named=True)) == expected


def test_each_item_is_cut_where_its_box_is(tmp_path: Path) -> None:
    save(tmp_path, quadrants(), quality=100)
    items = table({"item_idx": 1, "bbox": [0, 0, 20, 30]}, {"item_idx": 2, "bbox": [22, 2, 40, 28]})
    crops, skipped = cut(tmp_path, items)
    assert skipped.is_empty()
    assert dict(skipped.schema) == SKIPPED_SCHEMA
    assert crops.select("item_idx", "width", "height").rows() == [(1, 20, 30), (2, 18, 26)]
    assert crops["crop_path"][1] == "train/catalog/000001_01_01/000001_item2.jpg"
    assert np.abs(crop_pixels(tmp_path, crops, 0)[15, 10] - [255, 0, 0]).max() < 12
    assert np.abs(crop_pixels(tmp_path, crops, 1)[13, 9] - [0, 255, 0]).max() < 12


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, quadrants())
    decoded: list[object] = []
    monkeypatch.setattr(crops_module, "open_photo", lambda *a: (decoded.append(a), open_photo(*a))[1])
    cut(tmp_path, table(*({"item_idx": n, "bbox": [0, 0, n, n]} for n in range(1, 6))))
    assert len(decoded) == 1


def test_a_large_crop_is_scaled_down_and_a_small_one_kept(tmp_path: Path) -> None:
    save(tmp_path, quadrants())
    items = table({"item_idx": 1, "bbox": [0, 0, 40, 60]}, {"item_idx": 2, "bbox": [0, 0, 20, 24]})
    crops, _ = cut(tmp_path, items, max_side=30)
    assert crops.select("width", "height").rows() == [(20, 30), (20, 24)]


def test_a_box_is_cut_at_full_resolution_and_the_whole_image_is_what_a_query_sees(tmp_path: Path) -> None:
    save(tmp_path, Image.effect_noise((1300, 1100), 90).convert("RGB"))
    boxes = [[0, 0, 1300, 1100], [0, 0, 1300, 1099]]
    crops, _ = cut(
        tmp_path, table(*({"item_idx": n, "bbox": box} for n, box in enumerate(boxes))), quality=100
    )
    photo = tmp_path / "raw" / PATH
    expected = [whole_photo(photo), reduced(open_photo(photo).crop((0, 0, 1300, 1099)), 512)]
    for row, image in enumerate(expected):
        assert np.abs(crop_pixels(tmp_path, crops, row) - np.asarray(image)).mean() < 1.5
    assert np.abs(np.asarray(expected[0]).astype(int) - np.asarray(expected[1])).mean() > 3


def test_a_sliver_keeps_at_least_one_pixel(tmp_path: Path) -> None:
    save(tmp_path, Image.new("RGB", (2000, 3)))
    crops, _ = cut(tmp_path, table({"bbox": [0, 0, 2000, 1]}), max_side=100)
    assert crops.select("width", "height").rows() == [(100, 1)]


def test_exif_orientation_is_applied_before_the_cut(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown turned a quarter to the right
    save(tmp_path, quadrants(), exif=exif, quality=100)
    crops, _ = cut(tmp_path, table({"bbox": [0, 0, 30, 20]}))
    assert np.abs(crop_pixels(tmp_path, crops)[10, 15] - [0, 0, 255]).max() < 12


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    save(tmp_path, Image.new("RGBA", (40, 60), (255, 0, 0, 0)), "a.png")
    palette = Image.new("P", (40, 60), 0)
    palette.putpalette([10, 20, 30])
    save(tmp_path, palette, "b.png", transparency=0)
    items = table(*({"image_id": p, "orig_image_path": f"{p}.png"} for p in "ab"))
    crops, _ = cut(tmp_path, items)
    for row in range(2):
        assert crop_pixels(tmp_path, crops, row).min() >= 254


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    save(tmp_path, quadrants().convert(mode), name)
    crops, skipped = cut(tmp_path, table({"orig_image_path": name}))
    assert skipped.is_empty()
    assert crop_pixels(tmp_path, crops).shape == (40, 25, 3)


def test_bad_sources_are_skipped_and_the_rest_is_cut(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("good", "cut", "text"):
        write_image(raw / f"{name}.jpg", size=(200, 200))
    truncate(raw / "cut.jpg")
    (raw / "text.jpg").write_text("no picture")
    write_png_bomb(raw / "bomb.jpg", 30_000, 30_000)
    names = ["bomb", "cut", "good", "gone", "text"]
    items = table(*({"image_id": name, "orig_image_path": f"{name}.jpg"} for name in names))
    crops, skipped = cut(tmp_path, items)
    assert crops["image_id"].to_list() == ["good"]
    assert dict(skipped.select("image_id", "reason").iter_rows()) == {
        "bomb": "image_too_large",
        "cut": "broken_image",
        "gone": "missing_image",
        "text": "broken_image",
    }
    assert [path.name for path in (tmp_path / "crops").rglob("*.jpg")] == ["good_item1.jpg"]


def test_an_image_that_shrank_since_it_was_annotated_is_skipped(tmp_path: Path) -> None:
    write_image(tmp_path / "raw" / PATH, size=(20, 20))
    _, skipped = cut(tmp_path, table({}))
    assert skipped["reason"].to_list() == ["image_changed"]


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path, quadrants(), comment=b"made at noon")
    written = []
    for run in ("one", "two"):
        crops, _ = write_crops(table({}), (tmp_path / "raw").joinpath, tmp_path / run, CropSettings())
        written.append((tmp_path / run / crops["crop_path"][0]).read_bytes())
    assert written[0] == written[1]
    assert b"noon" not in written[0]


def test_no_items_give_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    crops, skipped = cut(tmp_path, table({}).clear())
    assert crops.is_empty()
    assert skipped.is_empty()
    assert crops.columns[-3:] == ["crop_path", "width", "height"]


def test_a_full_disk_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, quadrants())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"disk full while writing .*000001_item1\.jpg"):
        cut(tmp_path, table({}))


def test_another_failure_of_the_disk_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, quadrants())

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(OSError, match="Input/output error"):
        cut(tmp_path, table({}))


def test_items_are_cut_out_of_what_is_decoded_already_if_it_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Image.effect_noise((800, 600), 80).convert("RGB")
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    boxes, settings = [[10, 20, 410, 320], [400, 0, 800, 600]], CropSettings(max_side=100)
    again = read_items(buffer.getvalue(), boxes, settings, drafted=True)
    decodings: list[int] = []
    read = crops_module.open_photo
    monkeypatch.setattr(crops_module, "open_photo", lambda *given: decodings.append(1) or read(*given))
    cut = read_items(buffer.getvalue(), boxes, settings, drafted=True, decoded=whole)
    assert [one.tobytes() for one in cut] == [one.tobytes() for one in again]
    assert decodings == []
    read_items(buffer.getvalue(), boxes, settings, drafted=True, decoded=whole.resize((80, 60)))
    assert decodings == [1]


def test_a_large_drafted_item_has_nearly_its_pixels_and_a_small_one_exactly() -> None:
    waves = np.add.outer(np.sin(np.arange(1800) / 60), np.cos(np.arange(2400) / 90)) * 60 + 128
    buffer = io.BytesIO()
    Image.fromarray(waves.astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=95)
    large, small = (100, 50, 2200, 1700), (300, 200, 900, 700)
    settings = CropSettings()
    for boxes in ([large], [small], [large, small]):
        exact = read_items(buffer.getvalue(), boxes, settings)
        drafted = read_items(buffer.getvalue(), boxes, settings, drafted=True)
        for one, other in zip(exact, drafted, strict=True):
            is_read_smaller = boxes == [large]
            assert np.abs(np.subtract(one.size, other.size)).max() <= is_read_smaller
            difference = np.asarray(one, np.int16) - np.asarray(other.resize(one.size), np.int16)
            assert 0 < np.abs(difference).max() <= 8 if is_read_smaller else not difference.any()
