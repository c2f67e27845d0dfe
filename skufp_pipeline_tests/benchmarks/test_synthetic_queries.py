"""The comparison of fingerprints with and without synthetic photos, run whole on the small graph."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ..graphs import Graph
from .programs import run_on

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def compared(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Rows], Path]:
    """Both tables, on the catalogue's own evaluation photos; and the cache."""
    folder = tmp_path_factory.mktemp("synthetic_queries")
    done = run_on(
        small_graph, "synthetic_queries", "--cache", folder / "cache", "--json", folder / "rows.json"
    )
    assert done.exit_code == 0, done.output
    return json.loads((folder / "rows.json").read_text()), folder / "cache"


def test_every_way_answers_the_same_customers_photos(
    compared: tuple[dict[str, Rows], Path], small_graph: Graph
) -> None:
    tables = [
        pl.read_parquet(
            small_graph.store.read(f"tables/clip_embeddings/shard_{n:04d}").path / "images.parquet"
        )
        for n in range(2)
    ]
    photos = pl.concat(tables).filter((pl.col("role") == "evaluation") & (pl.col("split") != "test")).height
    assert list(compared[0]) == ["no photos", "photos"]
    for rows in compared[0].values():
        assert {row["queries"] for row in rows if row["setting"] == "seen+zero"} == {photos}


def test_each_use_makes_other_fingerprints_and_the_first_way_differs_by_nothing(
    compared: tuple[dict[str, Rows], Path],
) -> None:
    rows = {row["way"]: row for row in compared[0]["no photos"] if row["setting"] == "seen+zero"}
    assert rows["mean"]["recall@1 - mean"] == [0, 0, 0]
    for way in ("aggregator", "gaussian", "hubness", "view_weight 0.4", "all four"):
        assert rows[way]["mrr"] != rows["mean"]["mrr"], way
    rows = {row["way"]: row for row in compared[0]["photos"] if row["setting"] == "zero"}
    own, told = rows["fingerprint"]["mrr"], "view_weight 0.4 (SKUs without photos)"
    assert len({own, rows[told]["mrr"], rows[f"control of {told}"]["mrr"]}) == 3


def test_photos_of_a_list_are_judged_instead_and_embedded_once(
    compared: tuple[dict[str, Rows], Path], small_graph: Graph, tmp_path: Path
) -> None:
    cache = compared[1]
    folder = small_graph.store.read("crops/shard_0000").path
    crops = pl.read_parquet(folder / "crops.parquet")
    held = crops.filter((pl.col("role") == "evaluation") & (pl.col("split") != "test")).head(5)
    rows = [("sku_id", "image_path")]
    for number, (sku, path) in enumerate(held.select("sku_id", "crop_path").rows()):
        shutil.copy(folder / path, tmp_path / f"{number}.jpg")
        rows.append((sku, f"{number}.jpg"))
    listed, times = tmp_path / "photos.csv", []
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for _ in range(2):
        done = run_on(
            small_graph,
            "synthetic_queries",
            "--cache",
            cache,
            "--photos",
            listed,
            "--json",
            tmp_path / "rows.json",
        )
        assert done.exit_code == 0, done.output
        times.append((cache / "photos.parquet").stat().st_mtime_ns)
    assert times[0] == times[1]
    found = json.loads((tmp_path / "rows.json").read_text())["no photos"]
    assert {row["queries"] for row in found if row["setting"] == "seen+zero"} == {5}
