"""Three SKUs of one colour each, their encoder, and a store that holds both."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from skufp_pipeline.artifacts.places import CLIP_CHECKPOINT, IMAGE_ENCODER_ONNX
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.export import build_image_encoder
from skufp_pipeline.encoders.parity import compare
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.search.bundle import build_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.versions import CURRENT, FINGERPRINTS, Versions
from skufp_pipeline.store import ArtifactStore, Recipe
from skufp_pipeline_tests.encoders.examples import picture, write_model

SKUS = {"apple": "red", "lime": "lime", "plum": "purple"}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    settings = write_model(tmp_path_factory.mktemp("models") / "tiny-search.json")
    return create_encoder(settings, torch.device("cpu"), seed=0)


@pytest.fixture
def index(encoder: Encoder, tmp_path: Path) -> FingerprintIndex:
    """The fingerprint of a SKU is the embedding of its colour."""
    rows = encoder.embed_images([picture(colour) for colour in SKUS.values()])
    fingerprints = pl.DataFrame({"sku_id": list(SKUS), "split": "train", "num_views": [1, 2, 3], "bias": 0.0})
    teachers = pl.DataFrame({"sku_id": list(SKUS), "image_path": [f"{sku_id}.jpg" for sku_id in SKUS]})
    catalog = {"domain": "catalog", "category_name": "fruit", "title": [f"A {s}" for s in SKUS], "text": "x"}
    looks = {"colours": [[colour] for colour in SKUS.values()], "pattern": "plain", "lightness": "medium"}
    image_text = pl.DataFrame({"sku_id": list(SKUS), **catalog, **looks})
    (tmp_path / "index").mkdir()
    return build_index(
        tmp_path / "index",
        fingerprints.with_columns(embedding_column(np.asarray(rows)).alias("fingerprint")).lazy(),
        teachers,
        {"crops/shard_0000": image_text[:2], "crops/shard_0001": image_text[2:]},
        {"clip_checkpoint": "abc"},
        segment_rows=10,
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "root")


def publish_encoder(store: ArtifactStore, encoder: Encoder, version: str = "1") -> str:
    """Puts the encoder's checkpoint into the store; returns its digest."""

    def build(directory: Path) -> dict[str, str]:
        encoder.save(directory / "encoder")
        (directory / "version").write_text(version)
        return {}

    return store.produce(CLIP_CHECKPOINT.key, Recipe(code_version=version), build).digest


def publish_image_encoder(store: ArtifactStore, encoder: Encoder, clip: str) -> None:
    """Puts the encoder's exported image tower into the store, made from the checkpoint `clip`."""

    def build(directory: Path) -> dict[str, Any]:
        photo = directory / "photo.png"
        picture("red").save(photo)
        row = encoder.embed_images([picture("red")])
        summary = build_image_encoder(
            encoder, [photo], row, lambda found: compare(row, found, np.zeros(1, int), row),
            QueryEncoderSettings(), directory,
        )  # fmt: skip
        photo.unlink()
        return summary

    store.produce(IMAGE_ENCODER_ONNX.key, Recipe(code_version="1", inputs={"clip_checkpoint": clip}), build)


def publish_index(
    store: ArtifactStore,
    index: FingerprintIndex,
    version: str,
    clip: str = "abc",
    policy: str | None = None,
    name: str = FINGERPRINTS,
    lexical: LexicalIndex | None = None,
) -> None:
    """Puts the index into the store as this version of `name`, and makes it the current one."""

    def build(directory: Path) -> dict[str, int]:
        index.save(directory)
        if lexical is not None:
            lexical.save(directory)
        return {"skus": len(index)}

    references = {"clip_checkpoint": clip} | ({} if policy is None else {"vla_checkpoint": policy})
    recipe = Recipe(code_version=version, inputs=references)
    versions = Versions(store, name)
    store.produce(versions.key(version), recipe, build)
    store.write_pointer(versions.key(CURRENT), version)
