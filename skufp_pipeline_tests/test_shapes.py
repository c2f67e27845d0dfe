"""Catalogues of unusual shapes go through the whole graph; the report says what they were too small for."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from skufp_pipeline.query.engine import QueryEngine

from .graphs import materialize_here, write_preset

# Every optional stage, as small as it can be.
TINY: dict[str, Any] = {
    "name": "shape",
    "seed": 5,
    "shards": 2,
    "encoder": {"model": "skufp-tiny", "training": {"epochs": 1, "batch_size": 8, "cache_side": 72}},
    "extractors": {
        "reid": {
            "model": "test_resnet",
            "image_size": [48, 32],
            "dimension": 16,
            "training": {"epochs": 1, "cache_side": 56, "batch_size": 8},
        }
    },
    "views": {
        "image_size": 32,
        "base": {"vae_steps": 1, "unet_steps": 1, "unet_batch_size": 2, "vae_batch_size": 2},
        "lora": {"steps": 1, "batch_size": 2, "drift_views": 2},
        "generation": {"max_skus": 2, "views_per_sku": 1, "strengths": [0.3], "steps": 4},
    },
    "fingerprint": {"training": {"epochs": 1}, "hubness": {}},
    "policy": {"training": {"epochs": 1}},
    "evaluation": {
        "resamples": 100,
        "latency_queries": 2,
        "grid_queries": 1,
        "thresholds": {"search_p95_ms": 10_000},
    },
}


class Some(NamedTuple):
    """A number of SKUs of one split, each with so many catalog pictures and photos."""

    skus: int
    split: str
    pictures: int
    photos: int


def write_catalogue(folder: Path, parts: list[Some], categories: list[str]) -> Path:
    """A manifest of small pictures, a colour for each SKU."""
    folder.mkdir()
    rng, rows, sku = np.random.default_rng(0), [], 0
    for part in parts:
        for _ in range(part.skus):
            for domain, count in (("catalog", part.pictures), ("query", part.photos)):
                for _ in range(count):
                    pixels = np.full((48, 40, 3), (40 * sku % 256, 200 - 20 * sku, 90), np.uint8)
                    pixels[rng.integers(0, 40) :, :20] = rng.integers(0, 255, 3)
                    path = f"{len(rows)}.png"
                    Image.fromarray(pixels).save(folder / path)
                    rows.append([f"S{sku}", path, domain, part.split, categories[sku % len(categories)]])
            sku += 1
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["sku_id", "image_path", "domain", "split", "category"], *rows])
    return folder / "manifest.csv"


SCORED = ("Seen-SKU, image queries", "Zero-shot, image queries")
SHAPES: dict[str, tuple[list[Some], list[str], set[str]]] = {
    "no query at all": (
        [Some(4, "train", 2, 0), Some(2, "validation", 2, 0)],
        ["Boot", "Bag"],
        {*SCORED, "clip_checkpoint", "fingerprint_checkpoint", "best_shot_teachers", "image_encoder_onnx"},
    ),
    "one picture each": (
        [Some(6, "train", 1, 1), Some(2, "validation", 1, 1)],
        ["Boot", "Bag"],
        {"clip_checkpoint", "fingerprint_checkpoint"},
    ),
    "no validation SKU, one category": (
        [Some(5, "train", 2, 2)],
        ["Boot"],
        {SCORED[1], "fingerprint_checkpoint"},
    ),
    "no training SKU": (
        [Some(5, "validation", 2, 1)],
        ["Boot", "Bag"],
        {SCORED[0], "clip_checkpoint", "reid_checkpoint", "reid_embeddings", "fingerprint_checkpoint"},
    ),
    "a hundred pictures each": ([Some(2, "train", 60, 40)], ["Boot", "Bag"], {SCORED[1]}),
}
FAST = ["no query at all"]


@pytest.mark.parametrize(
    "shape", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_a_catalogue_ends_in_an_index_and_a_report_that_says_what_is_missing(
    shape: str, tmp_path: Path
) -> None:
    parts, categories, missing = SHAPES[shape]
    manifest = write_catalogue(tmp_path / "catalogue", parts, categories)
    dataset = {"source": "manifest", "read": {"path": str(manifest)}}
    graph = materialize_here(write_preset(tmp_path / "graph", {**TINY, "dataset": dataset}))

    assert "check not passed" not in graph.log
    engine = QueryEngine.open(graph.store, torch.device("cpu"), graph.preset.query_encoder)
    assert len(engine.index) == sum(part.skus for part in parts)
    assert engine.policy is None
    assert len(engine.search_image(tmp_path / "catalogue" / "0.png", 2).hits) == 2
    assert len(engine.search_text("a boot", 2).hits) == 2

    written = graph.store.read("reports/retrieval").path
    report, page = json.loads((written / "report.json").read_text()), (written / "report.html").read_text()
    told = report["not_measured"]
    assert missing <= set(told)
    assert {"generated_view_embeddings", "search_index"} <= set(told)  # too few views and photos for either
    assert "the policy needs 20 labelled queries of either role" in told["search_index"]
    assert all(part in page for part in told)
    for setting, label in (("seen", SCORED[0]), ("zero", SCORED[1])):
        assert (report["settings"][setting]["image"]["models"] is None) == (label in missing)
    assert graph.store.read("checkpoints/sd_lora").summary["off"] == told["generated_view_embeddings"]
