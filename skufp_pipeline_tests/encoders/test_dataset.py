"""What fine-tuning may see, over a table that holds every split and every role."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.camera.white_balance import balanced
from skufp_pipeline.datasets.prompts import IMAGE_TEXT_SCHEMA, TEXT_SCHEMA, PromptSettings
from skufp_pipeline.datasets.table import item_id
from skufp_pipeline.encoders.clip_train import TrainingData
from skufp_pipeline.encoders.dataset import (
    Around,
    TextShard,
    gather_adaptation_data,
    gather_training_data,
)
from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_column, embedding_rows

from .examples import picture

ROLES = ("gallery", "train", "development", "evaluation")
SPLITS = ("train", "validation", "test")
SIDE = 8
PROMPTS = PromptSettings()


def shard(folder: Path, skus: dict[str, str]) -> TextShard:
    """A crop of its own red level, a prompt and a text query for every SKU (and its split) and role."""
    images, texts = [], []
    for place, (sku_id, split) in enumerate(skus.items()):
        for level, role in enumerate(ROLES):
            name = f"{sku_id}-{role}"
            folder.mkdir(exist_ok=True)
            picture((40 * level, 20 * place, 0)).save(folder / f"{name}.png")
            images.append(
                {
                    "split": split,
                    "sku_id": sku_id,
                    "role": role,
                    "domain": "catalog" if role == "gallery" else "query",
                    "image_id": name,
                    "item_idx": 1,
                    "image_path": f"{name}.png",
                    "text": f"prompt {name}",
                }
            )
            texts.append((f"text {name}", sku_id, split, role, f"sentence {name}"))
    return TextShard(
        pl.DataFrame(images, schema=IMAGE_TEXT_SCHEMA),
        pl.DataFrame(texts, schema=TEXT_SCHEMA, orient="row"),
        pl.DataFrame(schema=TEXT_SCHEMA),
        folder,
    )


@pytest.fixture
def shards(tmp_path: Path) -> list[TextShard]:
    """Training SKUs b, a and c, in two shards, among others; every SKU has rows of all roles."""
    first = {"b": "train", "v": "validation", "a": "train"}
    return [shard(tmp_path / "0", first), shard(tmp_path / "1", {"c": "train", "t": "test"})]


def gather(shards: list[TextShard], scratch: Path) -> tuple[TrainingData, pl.DataFrame]:
    return gather_training_data(shards, PROMPTS, SIDE, scratch)


def reds(pixels: NDArray[np.uint8]) -> list[int]:
    """The red level of each square, which tells its role."""
    return pixels[:, 0, 0, 0].tolist()


def test_images_are_views_and_training_queries_of_training_skus(
    shards: list[TextShard], tmp_path: Path
) -> None:
    data, _ = gather(shards, tmp_path)
    assert data.num_skus == 3
    # Rows in the order of the shards: b, a, then c; labels by sorted SKU.
    assert data.images.labels.tolist() == [1, 1, 0, 0, 2, 2]
    assert reds(data.images.pixels) == [0, 40, 0, 40, 0, 40]


def test_development_is_development_queries_of_training_skus(shards: list[TextShard], tmp_path: Path) -> None:
    data, _ = gather(shards, tmp_path)
    assert data.development.labels.tolist() == [1, 0, 2]
    assert reds(data.development.pixels) == [80, 80, 80]


@pytest.mark.parametrize("epoch", [0, 1])
def test_texts_are_of_training_skus_and_roles_alone(
    shards: list[TextShard], tmp_path: Path, epoch: int
) -> None:
    data, _ = gather(shards, tmp_path)
    texts = data.texts(epoch)
    told = dict(zip(texts.texts, texts.labels.tolist(), strict=True))
    prompts = {f"prompt {sku}-{role}": n for n, sku in enumerate("abc") for role in ("gallery", "train")}
    sentences = {f"sentence {sku}-train": n for n, sku in enumerate("abc")}
    assert told == prompts | sentences


def test_what_was_used_is_told_with_its_use(shards: list[TextShard], tmp_path: Path) -> None:
    _, used = gather(shards, tmp_path)
    assert dict(used.schema) == USED_SCHEMA
    assert set(used.rows()) == {
        *[(f"train/{sku}-train_item1", sku, "train", "train") for sku in "abc"],
        *[(f"text {sku}-train", sku, "train", "train") for sku in "abc"],
        *[(f"train/{sku}-development_item1", sku, "development", "development") for sku in "abc"],
    }


def test_no_forbidden_row_gets_in_from_any_split_and_role(shards: list[TextShard], tmp_path: Path) -> None:
    data, used = gather(shards, tmp_path)
    told = {text.split()[1] for text in data.texts(0).texts} | {
        name.removeprefix("train/").removeprefix("text ").removesuffix("_item1") for name in used["query_id"]
    }
    splits = {"a": "train", "b": "train", "c": "train", "v": "validation", "t": "test"}
    for sku, role in product(splits, ROLES):
        if splits[sku] != "train" or role == "evaluation":
            assert f"{sku}-{role}" not in told
    assert not {"evaluation", "gallery"} & set(used["role"])


def test_a_text_query_of_an_image_row_is_listed_once(shards: list[TextShard], tmp_path: Path) -> None:
    """A templated text query has the id of its image."""
    first = shards[0]
    same = first.text_queries.with_columns(
        text_id=pl.format("{}/{}-{}_item1", "split", "sku_id", "role"),
    )
    _, used = gather([replace(first, text_queries=same)], tmp_path)
    assert used["query_id"].is_unique().all()
    assert sorted(used.filter(use="train")["query_id"]) == ["train/a-train_item1", "train/b-train_item1"]


def test_a_training_set_without_development_queries_is_fine(shards: list[TextShard], tmp_path: Path) -> None:
    rest = [replace(s, image_text=s.image_text.filter(pl.col("role") != "development")) for s in shards]
    data, used = gather(rest, tmp_path)
    assert data.development.pixels.shape == (0, SIDE, SIDE, 3)
    assert data.development.labels.tolist() == []
    assert set(used["use"]) == {"train"}


def test_a_data_set_without_training_skus_gathers_nothing(tmp_path: Path) -> None:
    data, used = gather([shard(tmp_path / "0", {"v": "validation"})], tmp_path)
    assert (data.num_skus, len(data.images.labels)) == (0, 0)
    assert data.texts(0).texts == []
    assert used.is_empty()


def test_decoding_is_told_as_it_goes(shards: list[TextShard], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    gather_training_data(shards, PROMPTS, SIDE, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(6, 6), (3, 3)]


def test_each_sku_has_the_number_of_its_category(shards: list[TextShard], tmp_path: Path) -> None:
    name = pl.when(pl.col("sku_id") == "b").then(pl.lit("skirt")).otherwise(pl.lit("dress"))
    named = [replace(s, image_text=s.image_text.with_columns(name.alias("category_name"))) for s in shards]
    data, _ = gather(named, tmp_path)
    first, second, third = data.categories.tolist()
    assert first == third != second


def frozen_table(shards: list[TextShard]) -> pl.DataFrame:
    """Embeddings of two dimensions: of each item another direction."""
    ids = pl.concat([s.image_text.select(item_id()) for s in shards])["item_id"].sort()
    angles = np.linspace(0, 1, len(ids))
    rows = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    return pl.DataFrame({"item_id": ids}).with_columns(embedding_column(rows))


def test_a_tower_is_adapted_on_training_skus_and_their_training_photos(
    shards: list[TextShard], tmp_path: Path
) -> None:
    frozen = frozen_table(shards)
    data, used = gather_adaptation_data(shards, frozen, SIDE, None, tmp_path)
    assert data.num_skus == 3
    assert (len(data.pictures), len(data.photos)) == (3, 3)
    assert set(used.rows()) == {(f"train/{sku}-train_item1", sku, "train", "train") for sku in "abc"}
    wanted = frozen.filter(pl.col("item_id").is_in([f"train/{sku}-gallery_item1" for sku in "abc"]))
    assert np.allclose(data.anchors, embedding_rows(wanted))
    assert data.aspects.tolist() == [20 / 30] * 3


def test_without_any_photo_every_sku_is_adapted_on(shards: list[TextShard], tmp_path: Path) -> None:
    views = [replace(s, image_text=s.image_text.filter(pl.col("role") == "gallery")) for s in shards]
    data, used = gather_adaptation_data(views, frozen_table(views), SIDE, None, tmp_path)
    assert (data.num_skus, len(data.photos), used.height) == (5, 0, 0)


def test_a_balanced_encoder_is_trained_on_balanced_crops_and_judged_on_them(
    shards: list[TextShard], tmp_path: Path
) -> None:
    plain, _ = gather_training_data(shards, PROMPTS, SIDE, tmp_path)
    less, _ = gather_training_data(shards, PROMPTS, SIDE, tmp_path, white_balance=0.7)
    for kept, changed in ((plain.images, less.images), (plain.development, less.development)):
        expected = np.stack([balanced(np.array(square), 0.7) for square in kept.pixels])
        assert np.array_equal(changed.pixels, expected), "crops of one colour: the order doesn't matter"
        assert not np.array_equal(changed.pixels, kept.pixels)


def test_boxes_that_are_moved_are_read_with_what_is_around(shards: list[TextShard], tmp_path: Path) -> None:
    photo = np.zeros((20, 20, 3), np.uint8)
    photo[5:15, 5:15] = 200
    Image.fromarray(photo).save(tmp_path / "photo.png")
    located = [
        replace(
            s,
            image_text=s.image_text.with_columns(
                orig_image_path=pl.lit("photo.png"),
                bbox=pl.when(pl.col("role") == "train").then([5, 5, 15, 15]).otherwise([0, 0, 20, 20]),
            ).cast({"bbox": IMAGE_TEXT_SCHEMA["bbox"]}),
        )
        for s in shards
    ]
    around = Around(tmp_path.joinpath, 0.5)
    data, used = gather_training_data(located, PROMPTS, SIDE, tmp_path, around=around)
    plain, same = gather_training_data(located, PROMPTS, SIDE, tmp_path)
    assert used.equals(same)
    assert data.images.boxed is not None
    assert data.images.boxed.tolist() == [False, True] * 3, "a shop's picture is the item as a whole"
    assert data.images.pixels.shape == (6, 2 * SIDE, 2 * SIDE, 3)
    assert (data.images.pixels[1, 4:12, 4:12] == 200).all()
    assert (data.images.pixels[1, [0, -1]] == 0).all()
    assert np.array_equal(data.development.pixels, plain.development.pixels), "judged on exact boxes"
    assert plain.images.boxed is None
