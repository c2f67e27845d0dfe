from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import (
    embed_crops,
    embed_images,
    embed_text_table,
    embed_texts,
    with_anchors,
)
from skufp_pipeline.encoders.tables import embedding_column, embedding_rows
from skufp_pipeline.errors import UserError

from .examples import noise


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.png" for seed in range(5)]
    for seed, path in enumerate(paths):
        noise(seed).save(path)
    return paths


@pytest.fixture
def expected(encoder: Encoder) -> NDArray[np.float32]:
    """Each crop embedded alone."""
    return np.concatenate([encoder.embed_images([noise(seed)]) for seed in range(5)])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_crops_are_embedded_in_order_whatever_the_batch(
    encoder: Encoder, crops: list[Path], expected: NDArray[np.float32], batch_size: int
) -> None:
    told: list[tuple[int, int]] = []
    rows = embed_crops(encoder, crops, batch_size, lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert told == [(min(end, 5), 5) for end in range(batch_size, 5 + batch_size, batch_size)]


def test_no_crops_and_no_texts_have_no_rows(encoder: Encoder) -> None:
    assert embed_crops(encoder, [], 4).shape == (0, 8)
    assert embed_texts(encoder, [], 4).shape == (0, 8)


def test_a_broken_crop_is_told_by_its_path(encoder: Encoder, crops: list[Path]) -> None:
    crops[3].write_bytes(crops[3].read_bytes()[:100])
    with pytest.raises(UserError, match=r"3.png can't be read .*; materialize sku_crops again"):
        embed_crops(encoder, crops, 2)
    crops[3].unlink()
    with pytest.raises(UserError, match=r"3.png can't be read"):
        embed_crops(encoder, crops, 2)


def test_a_batch_too_large_for_the_gpu_is_halved(
    encoder: Encoder, crops: list[Path], expected: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, sizes = encoder.embed_pixels, []

    def embed_two(pixels: Tensor) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError
        return embed(pixels)

    monkeypatch.setattr(encoder, "embed_pixels", embed_two)
    np.testing.assert_allclose(embed_crops(encoder, crops, 5), expected, atol=1e-6)
    assert sizes == [5, 2, 3, 1, 2]


def test_one_image_too_large_for_the_gpu_is_an_error(
    encoder: Encoder, crops: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed_none(pixels: Tensor) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(encoder, "embed_pixels", embed_none)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        embed_crops(encoder, crops, 4)


def test_a_sentence_that_occurs_twice_is_encoded_once(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, told = encoder.embed_texts, []

    def embed_and_tell(texts: list[str]) -> NDArray[np.float32]:
        told.extend(texts)
        return embed(texts)

    monkeypatch.setattr(encoder, "embed_texts", embed_and_tell)
    texts = ["b", "a", "b", "c", "a"]
    rows = embed_texts(encoder, texts, 2)
    assert sorted(told) == ["a", "b", "c"]
    expected = np.concatenate([embed([text]) for text in texts])
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_image_rows_carry_who_they_are(
    encoder: Encoder, crops: list[Path], expected: NDArray[np.float32]
) -> None:
    image_text = pl.DataFrame(
        {
            "sku_id": ["a", "b"],
            "split": ["train", "validation"],
            "domain": ["catalog", "query"],
            "role": ["gallery", "evaluation"],
            "category_name": ["skirt", None],
            "image_id": ["4", "1"],
            "item_idx": [1, 2],
            "image_path": ["4.png", "1.png"],
            "text": ["x", "y"],
        }
    )
    table = embed_images(encoder, image_text, crops[0].parent, 8)
    assert table["item_id"].to_list() == ["train/4_item1", "validation/1_item2"]
    assert table.drop("item_id", "embedding").equals(image_text.drop("text"))
    np.testing.assert_allclose(embedding_rows(table), expected[[4, 1]], atol=1e-6)
    assert embed_images(encoder, image_text.clear(), crops[0].parent, 8).schema == table.schema


def test_text_rows_carry_who_they_are(encoder: Encoder) -> None:
    texts = pl.DataFrame(
        {
            "text_id": ["1", "2", "3"],
            "sku_id": ["a", "a", "b"],
            "split": "train",
            "role": ["gallery", "train", "evaluation"],
            "text": ["red", "blue", "red"],
            "more": 1,
        }
    )
    table = embed_text_table(encoder, texts, 2)
    assert table.drop("embedding").equals(texts.drop("more"))
    rows = embedding_rows(table)
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_allclose(rows[:2], encoder.embed_texts(["red", "blue"]), atol=1e-6)


def test_a_catalog_view_becomes_the_mean_of_both_towers_and_a_photo_stays() -> None:
    def table(rows: list[list[float]]) -> pl.DataFrame:
        ids = pl.DataFrame({"item_id": ["a", "b"], "role": ["gallery", "train"]})
        return ids.with_columns(embedding_column(np.array(rows, dtype=np.float32)))

    adapted, frozen = table([[1, 0], [0, 1]]), table([[0, 1], [1, 0]])
    found = embedding_rows(with_anchors(adapted, frozen.reverse()))
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]))
