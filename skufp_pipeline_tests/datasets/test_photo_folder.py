"""A folder of photos named by SKU becomes a list of photos to judge."""

from pathlib import Path

import pytest

from skufp_pipeline.datasets.photo_folder import list_photos
from skufp_pipeline.errors import UserError

from .trees import write_image


def test_photos_are_listed_by_the_folder_that_names_their_sku(tmp_path: Path) -> None:
    for name in ("b 1/two.png", "b 1/deep/one.jpg", "a/x.jpg", "other/x.jpg", ".trash/x.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden").touch()
    found = list_photos(tmp_path, ["a", "b 1", "c"])
    assert found.rows.rows() == [("a", "a/x.jpg"), ("b 1", "b 1/deep/one.jpg"), ("b 1", "b 1/two.png")]
    assert found.unknown == ["other"]
    assert found.unreadable == ["a/notes.txt"]


def test_a_folder_without_a_photo_of_the_catalogue_is_told(tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "x.jpg")
    with pytest.raises(UserError, match=r"holds no photo of a SKU of the catalogue; expected .*/PHOTO"):
        list_photos(tmp_path, ["a"])
    with pytest.raises(UserError, match="is no folder"):
        list_photos(tmp_path / "gone", ["a"])
