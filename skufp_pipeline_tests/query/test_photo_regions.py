"""Photos as a search sees them: which are looked at, and which region of each is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.datasets.crops import CropSettings, read_items
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.query.photo_regions import AskedPhoto, ask_photos, development_photos, found_table


def asked(number: int, boxes: list[tuple[int, int, int, int]], **others: Any) -> AskedPhoto:
    """A photo whose item is at 0, 0, 10, 10; embedding k is of number k."""
    row = {"query_id": f"train/{number}", "sku_id": "a", "split": "train", "role": "development"}
    found = [Region(box, "item", 0.9 - 0.1 * place) for place, box in enumerate(boxes)]
    embeddings = np.arange(2 + len(boxes), dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    return AskedPhoto({**row, "bbox": [0, 0, 10, 10]}, embeddings, found, 1.0, **others)


def test_the_region_nearest_to_the_known_box_is_kept_with_its_score() -> None:
    far, near = (50, 50, 60, 60), (0, 0, 10, 9)
    table = found_table([asked(1, [far, near]), asked(2, []), asked(3, [near])])
    assert table["item_id"].to_list() == ["train/1", "train/3"]
    assert table["region_score"].to_list() == [0.8, 0.9]
    assert embedding_rows(table)[:, 0].tolist() == [3, 2]
    assert "patches" not in table.columns
    seen = found_table([asked(1, [near], patches=np.array([[1, 2], [3, 4]], np.int8))])
    assert seen["patches"].to_list() == [[1, 2, 3, 4]]
    assert found_table([asked(2, [])]).height == 0
    with pytest.raises(TooLittleError, match="there are no photos in which a detector could find something"):
        found_table([])


def test_only_development_photos_of_training_skus_are_looked_at() -> None:
    rows = [
        ("train", "development"),
        ("train", "evaluation"),
        ("train", "train"),
        ("validation", "development"),
    ]
    splits, roles = zip(*rows, strict=True)
    items = pl.DataFrame({"split": splits, "role": roles, "image_id": [*"1234"], "item_idx": 1})
    assert development_photos(items)["query_id"].to_list() == ["train/1_item1"]


class Half:
    trim = 0.0

    def find(self, image: Image.Image) -> list[Region]:
        return [Region((0, 0, image.width // 2, image.height), "item", 0.8)]


def test_a_region_is_embedded_as_its_crop_and_a_broken_photo_is_left_out(
    encoder: Encoder, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos = pl.DataFrame(
        {"orig_image_path": ["broken.png", "good.png"], "bbox": [[0, 0, 20, 20], [0, 0, 18, 20]]}
    )
    (photo,) = ask_photos(photos, tmp_path.joinpath, Half(), encoder, CropSettings())
    crop = read_items(tmp_path / "good.png", [(0, 0, 20, 20)], CropSettings())[0]
    assert np.allclose(photo.embeddings[photo.tapped], encoder.embed_images([crop])[0], atol=1e-5)
    assert len(photo.embeddings) == 3
    assert photo.patches is None
