"""Text alignment: by hand on a few dimensions, with few pairs and none, and what it leaves alone."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.settings import EncoderSettings, TextAlignmentSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.encoders.text_alignment import (
    Classes,
    PictureTexts,
    align_text_tower,
    image_classes,
    isometry_beside,
    learn_projection,
    sentence_targets,
    unit,
    without_mean,
)

from .conftest import CPU
from .examples import write_model, write_text_model

SETTINGS = TextAlignmentSettings()
NO_CLASSES = np.empty((0, 6)), np.empty((0, 40))


def pairs_of(images: np.ndarray, owners: list[int]) -> PictureTexts:
    """A picture a SKU; a text of each of `owners`."""
    skus = [f"sku{row:04d}" for row in range(len(images))]
    rows = images.astype(np.float32)
    return PictureTexts(rows, skus, [f"t{n}" for n in range(len(owners))], [skus[row] for row in owners])


def world(skus: int, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (S, 40) and sentences (S, 6) of products that have 6 properties; all pictures look alike."""
    rng = np.random.default_rng(seed)
    properties = rng.standard_normal((skus, 6))
    seen_by_camera = np.random.default_rng(99).standard_normal((6, 40))
    pictures = properties @ seen_by_camera + noise * rng.standard_normal((skus, 40)) + 4
    return unit(pictures), unit(properties + 0.5)


def nearest(sentences: np.ndarray, pictures: np.ndarray) -> float:
    """How often a sentence finds its picture first."""
    return float((unit(sentences) @ pictures.T).argmax(axis=1).__eq__(np.arange(len(pictures))).mean())


@pytest.mark.parametrize("skus", [10, 200, 2000])
def test_sentences_of_new_products_find_their_pictures(skus: int) -> None:
    pictures, sentences = world(skus)
    new_pictures, new_sentences = world(20, seed=1)
    learnt = learn_projection(sentences, pairs_of(pictures, list(range(skus))), *NO_CLASSES, SETTINGS, seed=0)
    untrained = isometry_beside(pictures, 6, 40, seed=0)
    assert nearest(new_sentences @ learnt, new_pictures) >= 0.5
    assert nearest(new_sentences @ learnt, new_pictures) > 2 * nearest(
        new_sentences @ untrained, new_pictures
    )


def test_names_of_classes_stand_in_for_a_catalogue_without_words() -> None:
    pictures, names = world(200)
    new_pictures, new_sentences = world(20, seed=1)
    nothing = np.empty((0, 6))
    rows = pictures - pictures.mean(axis=0)
    learnt = learn_projection(nothing, pairs_of(pictures[:3], []), names, rows, SETTINGS, seed=0)
    assert nearest(new_sentences @ learnt, new_pictures) >= 0.5


def test_without_pairs_the_projection_is_an_isometry() -> None:
    nothing = np.empty((0, 6))
    learnt = learn_projection(nothing, pairs_of(np.empty((0, 40)), []), *NO_CLASSES, SETTINGS, seed=0)
    np.testing.assert_allclose(learnt @ learnt.T, np.eye(6), atol=1e-12)


def test_one_pair_alone_is_no_mistake() -> None:
    pictures, sentences = world(1)
    learnt = learn_projection(sentences, pairs_of(pictures, [0]), *NO_CLASSES, SETTINGS, seed=0)
    assert np.isfinite(learnt).all()
    assert np.linalg.norm(sentences @ learnt) > 0.1


def test_the_isometry_stays_out_of_the_directions_of_the_pictures() -> None:
    pictures, _ = world(12)
    found = isometry_beside(pictures, 6, 40, seed=3)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(found @ pictures.T, 0, atol=1e-12)
    assert not np.allclose(found, isometry_beside(pictures, 6, 40, seed=4))
    np.testing.assert_array_equal(found, isometry_beside(pictures, 6, 40, seed=3))


def test_with_many_pictures_the_isometry_takes_the_directions_in_which_they_lie_least() -> None:
    pictures = np.random.default_rng(0).standard_normal((500, 40)) * np.linspace(1, 0.01, 40)
    found = isometry_beside(pictures, 6, 40, seed=3)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(found[:, :34], 0, atol=0.2)
    assert np.sum(found[:, 34:] ** 2) > 0.95 * np.sum(found**2)


def test_an_image_tower_of_fewer_dimensions_keeps_norms_on_average() -> None:
    found = isometry_beside(np.eye(8)[:5], 400, 8, seed=0)
    assert found.shape == (400, 8)
    sentences = unit(np.random.default_rng(0).standard_normal((1000, 400)))
    assert np.mean(np.sum((sentences @ found) ** 2, axis=1)) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(found @ np.eye(8)[:, :4], 0, atol=1e-12)  # half of the dimensions at most


def test_the_mean_sentence_is_taken_out_the_more_so_the_more_sentences_there_are() -> None:
    mean = np.eye(3)[0]
    left = [mean @ without_mean(np.tile(mean, (1, 1)) + 1e-6 * np.eye(3)[[1] * 1]) @ mean]
    for count in (10, 990):
        around = np.random.default_rng(0).standard_normal((count, 3)) * [0, 1e-3, 1e-3]
        left.append(mean @ without_mean(mean + around) @ mean)
    np.testing.assert_allclose(left, [10 / 11, 0.5, 0.01], atol=1e-3)


def test_targets_are_the_centred_mean_pictures_by_hand() -> None:
    pairs = PictureTexts(
        np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], np.float32),
        ["a", "a", "b", "b"],
        ["x", "y", "z"],
        ["b", "a", "b"],
    )
    towards_b = np.array([-1, -1, 2]) / np.sqrt(6)
    for whitening in (0.0, 0.5):  # with two SKUs there is one direction, which whitening can't turn
        np.testing.assert_allclose(
            sentence_targets(pairs, whitening), [towards_b, -towards_b, towards_b], atol=1e-6
        )


def test_whitening_turns_targets_away_from_what_all_products_vary_in() -> None:
    pictures = np.random.default_rng(0).standard_normal((50, 4)) * [10, 1, 1, 1]
    pairs = pairs_of(pictures, list(range(50)))
    shares = [np.abs(sentence_targets(pairs, power)[:, 0]).mean() for power in (0.0, 0.5, 1.0)]
    assert shares[0] > shares[1] > shares[2]


def test_only_gallery_rows_of_training_skus_are_taken() -> None:
    identity = {
        "sku_id": ["a", "a", "b", "c"],
        "split": ["train", "train", "validation", "train"],
        "role": ["gallery", "evaluation", "gallery", "gallery"],
    }
    images = pl.DataFrame(identity).with_columns(embedding_column(np.eye(4, dtype=np.float32)))
    texts = pl.DataFrame({**identity, "text": ["one", "asked", "new", "three"]})
    texts = pl.concat([texts, texts.head(1).with_columns(sku_id=pl.lit("no picture"))])
    found = PictureTexts.of(images, texts)
    assert (found.image_skus, found.text_skus, found.texts) == (["a", "c"], ["a", "c"], ["one", "three"])
    np.testing.assert_array_equal(found.images, np.eye(4)[[0, 3]])


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    named = write_model(tmp_path / "tiny-aligned.json", dimension=40)
    text = str(write_text_model(tmp_path / "bert"))
    return create_encoder(named.model_copy(update={"text_tower_weights": text}), CPU, seed=0)


def test_an_encoder_is_aligned_in_place_and_the_same_each_time(encoder: Encoder) -> None:
    texts = ["a red skirt", "a blue vest", "a striped green coat", "a red vest"]
    images = unit(np.random.default_rng(0).standard_normal((4, 40))).astype(np.float32)
    pairs = PictureTexts(images, list("abcd"), [*texts, "a red vest"], list("abcda"))
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    classes = Classes(["red", "blue"], np.eye(2, 40))
    counts = align_text_tower(encoder, pairs, SETTINGS, 0, classes)
    assert counts == {"pictures": 4, "sentences": 5, "classes": 2}
    changed = [name for name, value in encoder.model.state_dict().items() if not value.equal(before[name])]
    assert changed == ["text.proj.weight"]
    rows = encoder.embed_texts(texts)
    assert ((rows @ images.T).argmax(axis=1) == [0, 1, 2, 3])[:3].all()
    align_text_tower(encoder, pairs, SETTINGS, 0, classes)
    np.testing.assert_array_equal(encoder.embed_texts(texts), rows)


def test_a_text_tower_of_clip_is_not_aligned(settings: EncoderSettings) -> None:
    pairs = pairs_of(np.eye(8)[:2], [0, 1])
    with pytest.raises(ValueError, match="text_tower_weights"):
        align_text_tower(create_encoder(settings, CPU, 0), pairs, SETTINGS, 0)


def test_classes_are_read_from_the_classifier_of_the_image_towers_file(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    def classes(**options: Any) -> Classes | None:
        torch.manual_seed(0)
        tower = timm.create_model("test_resnet", **options)
        save_file(tower.state_dict(), tmp_path / "tower.safetensors")
        path = str(tmp_path / "tower.safetensors")
        return image_classes(settings.model_copy(update={"image_tower_weights": path}))

    found = classes(num_classes=1000)
    assert found is not None
    assert found.rows.shape[0] == len(found.texts) == 2000
    np.testing.assert_allclose(found.rows.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_array_equal(found.rows[:1000], found.rows[1000:])
    assert found.texts[951] == "lemon"
    assert found.texts[1951].startswith("lemon: ")
    assert classes(num_classes=0) is None
    assert image_classes(settings) is None
    assert image_classes(settings.model_copy(update={"image_tower_weights": "a_tag_of_timm"})) is None
