"""What an extractor may see: training SKUs; photos judge it, or SKUs that are held out."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.datasets.prompts import IMAGE_TEXT_SCHEMA, TEXT_SCHEMA
from skufp_pipeline.encoders.dataset import TextShard
from skufp_pipeline.extractors.data import TEMPLATES, gather_extractor_data

from ..encoders.examples import picture
from ..encoders.test_dataset import shard
from .examples import small


@pytest.fixture
def shards(tmp_path: Path) -> list[TextShard]:
    """Training SKUs a and b, and another; every SKU has a picture and a photo of each role."""
    return [shard(tmp_path / "0", {"a": "train", "v": "validation", "b": "train"})]


def pictures(folder: Path, skus: int) -> list[TextShard]:
    """A catalogue of one picture a SKU, without photos or words."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(skus):
        name = f"{number}.png"
        picture((number, 0, 0)).save(folder / name)
        rows.append(
            {
                "split": "train", "sku_id": f"S{number}", "role": "gallery", "domain": "catalog",
                "image_id": str(number), "item_idx": 1, "image_path": name,
                "text": "A catalog photo of a boot.",
                "text_metadata": "A catalog photo of a boot.", "category_name": "boot",
            }
        )  # fmt: skip
    empty = pl.DataFrame(schema=TEXT_SCHEMA)
    return [TextShard(pl.DataFrame(rows, schema=IMAGE_TEXT_SCHEMA), empty, empty, folder)]


def test_no_evaluation_photo_and_no_other_split_is_seen(shards: list[TextShard], tmp_path: Path) -> None:
    data, used = gather_extractor_data(shards, small("autoencoder", tmp_path), tmp_path)
    assert (len(data.images.labels), len(data.development.labels), data.held_out) == (4, 2, 0)
    assert set(used["query_id"]) == {
        f"train/{sku}-{role}_item1" for sku in "ab" for role in ("train", "development")
    }
    assert data.images.is_street is not None
    assert data.images.is_street.tolist() == [False, True, False, True]


def test_pairs_are_judged_on_photos_beside_the_pictures_of_their_skus(
    shards: list[TextShard], tmp_path: Path
) -> None:
    data, used = gather_extractor_data(shards, small("xception", tmp_path), tmp_path)
    judged = data.development
    assert judged.is_street is not None
    assert sorted(zip(judged.labels.tolist(), judged.is_street.tolist(), strict=True)) == [
        (0, False), (0, True), (1, False), (1, True)
    ]  # fmt: skip
    assert "evaluation" not in set(used["role"])


def test_a_catalogue_without_photos_holds_skus_out_always_the_same(tmp_path: Path) -> None:
    settings = small("resnet50", tmp_path, held_out=0.3)
    data, used = gather_extractor_data(pictures(tmp_path / "all", 30), settings, tmp_path)
    (tmp_path / "again").mkdir()
    fewer, _ = gather_extractor_data(pictures(tmp_path / "less", 20), settings, tmp_path / "again")
    assert used.is_empty()
    assert 4 <= data.held_out <= 14
    assert len(data.images.labels) == 30 - data.held_out
    assert not set(data.images.labels.tolist()) & set(data.development.labels.tolist())
    held = [set(part.development.pixels[:, 0, 0, 0].tolist()) for part in (data, fewer)]
    assert held[1] == {red for red in held[0] if red < 20}
    nobody, _ = gather_extractor_data(pictures(tmp_path / "few", 3), settings, tmp_path / "few")
    assert (nobody.held_out, len(nobody.images.labels)) == (0, 3)


def test_a_picture_has_three_sentences_prompts_before_templates(tmp_path: Path) -> None:
    shards = pictures(tmp_path / "all", 2)
    prompts, _ = gather_extractor_data(shards, small("clip", tmp_path), tmp_path)
    assert prompts.sentences == [
        ("A catalog photo of a boot.", "a photo of a boot", "a boot from a shopping website")
    ] * 2  # fmt: skip
    templates, _ = gather_extractor_data(
        shards, small("clip", tmp_path, {"sentences": "templates"}), tmp_path
    )
    assert templates.sentences == [tuple(template.format("boot") for template in TEMPLATES)] * 2
