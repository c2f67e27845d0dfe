"""Training of the patch head: what it is trained on, and that it learns."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.late_interaction import (
    PatchData,
    maxsim_scores,
    nearest_skus,
    train_patch_head,
)
from skufp_pipeline.encoders.patch_tables import Towers, gather_patch_data, patch_tables, patches_of
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, PatchHead
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.measures.maxsim import maxsim

from .conftest import CPU
from .examples import TIMM_VISION, noise, write_model

CAMERA = CameraSettings(), None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = tmp_path_factory.mktemp("towers") / "tiny-look.json"
    return create_encoder(write_model(path, {**TIMM_VISION, "image_size": 64}), CPU, seed=0)


@pytest.fixture(scope="module")
def images(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Six SKUs, two of them for validation: two pictures each, and a photo of every role."""
    folder, rows = tmp_path_factory.mktemp("crops"), []
    for sku in range(6):
        for number, role in enumerate(("gallery", "gallery", "train", "development", "evaluation")):
            path = folder / f"{sku}_{number}.png"
            noise(10 * sku + number, (70, 90)).save(path)
            split = "train" if sku < 4 else "validation"
            row = {"sku_id": f"s{sku}", "split": split, "role": role, "path": str(path)}
            rows.append({"item_id": f"{split}/{sku}_item{number}", **row})
    table = pl.DataFrame(rows)
    vectors = embed_crops(encoder, [Path(path) for path in table["path"]], 8)
    return table.with_columns(embedding_column(vectors))


def gather(
    encoder: Encoder, images: pl.DataFrame, scratch: Path, **changes: int
) -> tuple[PatchData, pl.DataFrame]:
    settings = LookTwiceSettings(dimension=16, **changes)
    rows = images.rename({"item_id": "query_id"})
    grid = PatchGrid.of(encoder, settings)
    return gather_patch_data(Towers(encoder, encoder), grid, rows, CAMERA, settings, 3, scratch)


def test_only_training_photos_of_training_skus_are_used(
    encoder: Encoder, images: pl.DataFrame, tmp_path: Path
) -> None:
    data, used = gather(encoder, images, tmp_path)
    assert set(used["query_id"]) == set(
        images.filter((pl.col("role") == "train") & (pl.col("split") == "train"))["item_id"]
    )
    assert (len(data.photos), len(data.views)) == (4, 8)
    assert data.view_skus.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_without_training_photos_synthetic_ones_are_rendered_of_training_skus(
    encoder: Encoder, images: pl.DataFrame, tmp_path: Path
) -> None:
    none = images.filter(pl.col("role") != "train")
    data, used = gather(encoder, none, tmp_path, synthetic_photos=3)
    assert used.is_empty()
    assert np.bincount(data.photo_skus).tolist() == [3, 3, 3, 3]
    assert len({maps.tobytes() for maps in data.photos}) == 12


def test_a_catalogue_of_pictures_alone_is_trained_on_whole(
    encoder: Encoder, images: pl.DataFrame, tmp_path: Path
) -> None:
    data, _ = gather(encoder, images.filter(pl.col("role") == "gallery"), tmp_path, synthetic_photos=1)
    assert len(data.neighbours) == 6


def test_a_large_catalogue_is_sampled_by_sku(encoder: Encoder, images: pl.DataFrame, tmp_path: Path) -> None:
    data, _ = gather(encoder, images, tmp_path, most_pictures=7)  # three of a SKU
    assert (len(data.neighbours), len(data.photos), len(data.views)) == (2, 2, 4)


def test_one_sku_is_too_little(encoder: Encoder, images: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TooLittleError, match="two SKUs"):
        gather(encoder, images.filter(pl.col("sku_id") == "s0"), tmp_path)


def test_maps_that_are_there_are_not_made_again(
    encoder: Encoder, images: pl.DataFrame, tmp_path: Path
) -> None:
    first, _ = gather(encoder, images, tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, _ = gather(encoder, images, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made
    assert (again.photos == first.photos).all()


def test_neighbours_begin_with_the_sku_itself() -> None:
    rows = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    assert nearest_skus(rows, 2).tolist() == [[0, 2], [1, 2], [2, 0]]
    assert nearest_skus(rows, 9).shape == (3, 3)


def test_the_scores_in_training_are_those_of_the_search() -> None:
    rng = np.random.default_rng(0)
    photos, views = rng.standard_normal((2, 5, 8)), rng.standard_normal((3, 2, 4, 8))
    photos, views = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (photos, views))
    present = np.array([[True, True], [True, False], [True, True]])
    found = maxsim_scores(*(torch.from_numpy(rows) for rows in (photos, views, present)))
    coded = [np.rint(rows * 127).astype(np.int8) for rows in (photos, views)]
    searched = [maxsim(photo, coded[1], present.sum(axis=1)) for photo in coded[0]]
    assert found.numpy() == pytest.approx(np.array(searched), abs=0.02)


def test_the_head_learns_which_channels_tell_skus_apart(tmp_path: Path) -> None:
    """Channel 0 to 3 of a patch name the SKU; the others are louder, and noise."""
    rng = np.random.default_rng(1)
    grid = PatchGrid(0, 12, 4, 8, 1)

    def maps(skus: np.ndarray) -> np.ndarray:
        found = 3 * rng.standard_normal((len(skus), grid.patches, 12))
        found[:, :, :4] = np.eye(4)[skus][:, None]
        return found.astype(np.float16)

    skus = np.repeat(np.arange(4), 20)
    neighbours = nearest_skus(np.eye(4, dtype=np.float32), 4)
    data = PatchData(maps(skus), skus, maps(np.arange(4)), np.arange(4), neighbours)
    head = PatchHead(grid)
    head.start(torch.from_numpy(data.photos.astype(np.float32)))
    settings = LookTwiceSettings(dimension=8, steps=150, batch_size=4, learning_rate=0.02)
    history = train_patch_head(head, data, settings, 0, tmp_path, lambda line: None)
    assert np.mean([row["found"] for row in history[-20:]]) > 0.95
    assert np.mean([row["found"] for row in history[:5]]) < 0.8


def test_the_tables_hold_the_first_pictures_and_training_skus_development_photos(
    encoder: Encoder, images: pl.DataFrame
) -> None:
    grid = PatchGrid.of(encoder, LookTwiceSettings(dimension=16, views=1))
    seeing = PatchEncoder(encoder, PatchHead(grid))
    views, photos = patch_tables(seeing, seeing, images, 4)
    assert (
        views["item_id"].to_list()
        == images.filter(pl.col("item_id").str.ends_with("item0"))["item_id"].to_list()
    )
    assert set(photos["item_id"]) == {f"train/{sku}_item3" for sku in range(4)}
    assert patches_of(views, grid.patches, 16).shape == (6, grid.patches, 16)
