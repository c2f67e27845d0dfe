"""A store with seven indexes of the pictures of one catalogue, each by another extractor."""

import os
import shutil
from pathlib import Path

import polars as pl
import torch
import yaml

from skufp_pipeline.artifacts.places import IMAGE_TEXT, SKU_CROPS, extractor_checkpoint
from skufp_pipeline.datasets.table import GALLERY
from skufp_pipeline.encoders.embed import embed_images
from skufp_pipeline.extractors.extractor import create_extractor
from skufp_pipeline.extractors.settings import NAMES
from skufp_pipeline.search.image_bundle import build_image_index
from skufp_pipeline.search.settings import ImageIndexSettings
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import ArtifactStore, Recipe

from ..extractors.examples import small
from ..graphs import Graph, write_preset

SERVING = {"indexes": [*NAMES], "rate": "10000/second", "upload_rate": "10000/second", "queue_seconds": 60}


def seven_indexes(graph: Graph, folder: Path) -> Graph:
    """The graph's catalogue, a shard of it, as seven extractors of random weights see it; all are served."""
    shutil.copytree(graph.preset.data_root, folder / "data", copy_function=os.link)
    content = {**yaml.safe_load(graph.preset_file.read_text()), "serving": SERVING}
    found = Graph(write_preset(folder, content), None, "")
    for seed, name in enumerate(NAMES):
        publish_pictures(found.store, name, folder / name, seed)
    return found


def publish_pictures(store: ArtifactStore, name: str, folder: Path, seed: int) -> None:
    """Puts an index of the pictures of the first shard in use, with the extractor that embedded them."""
    settings, crops, device = small(name, folder), SKU_CROPS.read(store, 0), torch.device("cpu")
    extractor = create_extractor(settings, device, seed)
    texts = IMAGE_TEXT.read(store, 0).images()
    gallery = embed_images(extractor, texts.filter(pl.col("role") == GALLERY), crops.path, 64)
    stored = extractor_checkpoint(name)

    def save(directory: Path) -> dict[str, int]:
        extractor.save(directory / "encoder")
        return {}

    checkpoint = store.produce(stored.key, Recipe(code_version="seven"), save)

    def build(directory: Path) -> dict[str, int]:
        tables, made_by = {SKU_CROPS.key_in(store, 0): texts}, {stored.name: checkpoint.digest}
        sizes = 10_000, 64, store.local_path
        index = build_image_index(
            directory, gallery, tables, made_by, name, ImageIndexSettings(of=[name]), *sizes
        )
        return {"skus": len(index)}

    versions = Versions(store, name)
    recipe = Recipe(code_version="seven", inputs={stored.name: checkpoint.digest})
    store.produce(versions.key(recipe.digest), recipe, build)
    versions.publish(recipe.digest, kept=1)
