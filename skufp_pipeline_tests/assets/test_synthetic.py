"""A catalogue without customers' photos: synthetic ones are queries, views and what the report judges."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skufp_pipeline.datasets.table import is_synthetic
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.orchestration.schedules import stages
from skufp_pipeline.photos import open_photo
from skufp_pipeline.presets import load_preset

from ..cli.asking import ask
from ..graphs import Graph, checks, copy_graph, materialize_here, metadata, run_asset, write_preset
from ..test_shapes import TINY, Some, write_catalogue

USE = {"teachers": True, "aggregator": True, "gaussian": True, "hubness": True, "view_weight": 0.2}
FEW = {
    "policy": {"training": {"epochs": 1}, "synthetic": True},
    "synthetic": {"photos": {"side": 48}},
    "query_encoder": {"engine": "pytorch"},
}
NOTE = (
    "No customer's photo was judged: the image queries are synthetic photos, rendered from catalogue "
    "pictures. `skufp evaluate PHOTOS.csv` judges photos of customers."
)
TOLD = "synthetic photos were used as if they were customers'"


def a_preset(manifest: Path, **parts: Any) -> dict[str, Any]:
    kept = {name: part for name, part in TINY.items() if name != "views"}
    dataset = {"source": "manifest", "read": {"path": str(manifest)}}
    return {**kept, "name": "photoless", "dataset": dataset, **FEW, **parts}


@pytest.fixture(scope="module")
def photoless(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """20 training SKUs and 3 of validation, with two pictures each and every use of synthetic photos."""
    folder = tmp_path_factory.mktemp("photoless")
    parts = [Some(20, "train", 1, 0), Some(3, "validation", 2, 0)]
    manifest = write_catalogue(folder / "catalogue", parts, ["Boot", "Bag"])
    fingerprint = {"training": {"epochs": 1}, "hubness": {}, "synthetic": USE}
    return materialize_here(write_preset(folder, a_preset(manifest, fingerprint=fingerprint)))


def photos_of(graph: Graph) -> pl.DataFrame:
    keys = [f"synthetic_photos/shard_{shard:04d}" for shard in range(2)]
    return pl.concat([pl.read_parquet(graph.store.read(key).path / "photos.parquet") for key in keys])


def used_by(graph: Graph, key: str) -> pl.DataFrame:
    return pl.read_parquet(graph.store.read(key).path / "used_queries.parquet")


def test_every_sku_has_its_photos_by_role_and_the_checks_pass(photoless: Graph) -> None:
    assert "check not passed" not in photoless.log
    photos = photos_of(photoless)
    counts = photos.group_by("role").agg(pl.col("sku_id").n_unique(), pl.len()).sort("role").rows()
    assert counts == [("development", 23, 23), ("evaluation", 23, 46), ("train", 23, 46)]
    assert photos["item_id"].n_unique() == photos.height
    assert photos.select(is_synthetic("item_id").all()).item()
    for row in photos.head(3).to_dicts():
        folders = [photoless.store.read(f"synthetic_photos/shard_{n:04d}").path for n in range(2)]
        (path,) = [folder / row["image_path"] for folder in folders if (folder / row["image_path"]).is_file()]
        assert open_photo(path).size == (48, 48)


def test_a_shard_shows_its_photos_and_is_skipped_if_nothing_changed(photoless: Graph) -> None:
    made = run_asset(photoless.preset, "synthetic_photos", 0)
    told = metadata(made)
    assert told["computed"] == 0
    assert told["contact_sheet"].startswith("![sheet](data:image/jpeg;base64,")
    assert checks(made) == {"synthetic_photos_complete": True}


def test_a_photo_that_is_lost_fails_the_check(photoless: Graph, tmp_path: Path) -> None:
    graph = copy_graph(photoless, tmp_path)
    folder = graph.store.read("synthetic_photos/shard_0000").path
    next(folder.rglob("*.jpg")).unlink()
    assert checks(run_asset(graph.preset, "synthetic_photos", 0)) == {"synthetic_photos_complete": False}


@pytest.mark.parametrize(
    ("key", "uses"),
    [
        ("tables/best_shot_teachers", {"synthetic train": 40}),
        ("checkpoints/fingerprint", {"synthetic train": 40, "synthetic development": 20}),
        ("tables/fingerprints", {"synthetic train": 46}),
        ("checkpoints/vla", {"synthetic train": 40, "synthetic development": 20}),
    ],
)
def test_what_used_synthetic_photos_says_so_and_used_none_for_evaluation(
    photoless: Graph, key: str, uses: dict[str, int]
) -> None:
    made = used_by(photoless, key).filter(is_synthetic("query_id"))
    assert dict(made["use"].value_counts().rows()) == uses
    assert made.filter(is_synthetic("query_id", "evaluation")).is_empty()
    summary = photoless.store.read(key).summary
    assert f"{sum(uses.values())} {TOLD}" in summary["left_out"]


def test_an_evaluation_photo_that_was_used_is_found_by_the_check(photoless: Graph, tmp_path: Path) -> None:
    graph = copy_graph(photoless, tmp_path)
    path = graph.store.read("tables/fingerprints").path / "used_queries.parquet"
    used = pl.read_parquet(path)
    leaked = used.head(1).with_columns(query_id=pl.lit("synthetic/evaluation/S0/1"))
    pl.concat([used, leaked]).write_parquet(path)
    found = run_asset(graph.preset, "fingerprints")
    assert checks(found)["no_evaluation_query_used"] is False


def test_the_report_judges_synthetic_photos_and_says_so_in_its_first_line(photoless: Graph) -> None:
    folder = photoless.store.read("reports/retrieval").path
    text, page = (folder / "report.json").read_text(), (folder / "report.html").read_text()
    report = json.loads(text)
    assert report["judged_on"] == "synthetic photos"
    assert "NaN" not in text
    assert "nan" not in re.sub(r'base64,[^"]+', "", page).lower()
    assert report["settings"]["seen+zero"]["image"]["queries"] == 46
    assert report["settings"]["zero"]["image"]["queries"] == 6
    assert set(report["settings"]["seen"]["image"]["models"]) >= {"mean_sku", "fingerprint"}
    assert report["not_measured"]["reid_embeddings"] == "Baseline 1 is judged on customers' photos only"
    assert (folder / "grid.png").is_file()
    body = page[page.index("<body>") :]
    assert body.index("skufp evaluate PHOTOS.csv") < body.index("<h1>")
    tables = metadata(run_asset(photoless.preset, "retrieval_report"))["tables"]
    printed = ask("report", "--preset", str(photoless.preset_file)).stdout
    for first in (tables.splitlines()[0], printed.splitlines()[0]):
        assert first == NOTE
    shown = ask("report", "--preset", str(photoless.preset_file), "--json").stdout
    assert json.loads(shown)["judged_on"] == "synthetic photos"


def test_thresholds_for_customers_photos_are_not_held_against_synthetic_ones(
    photoless: Graph,
) -> None:
    preset = photoless.preset
    strict = {"encoder_recall_low": 1.0, "fingerprint_gain_seen": 1.0, "fingerprint_gain_zero_low": 1.0}
    thresholds = preset.evaluation.thresholds.model_copy(update=strict)
    evaluation = preset.evaluation.model_copy(update={"thresholds": thresholds})
    found = checks(run_asset(preset.model_copy(update={"evaluation": evaluation}), "retrieval_report"))
    assert found["encoder_recall_in_range"]
    assert found["fingerprint_beats_mean_sku"]


def test_without_the_setting_no_photo_is_rendered() -> None:
    assert not [name for name in graph_steps(load_preset("ci")) if "synthetic" in name]


def test_a_pretrained_encoder_embeds_the_evaluation_photos_before_training_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SKUFP_MANIFEST", "a.csv")
    shop = load_preset("shop")
    preset = shop.model_copy(update={"synthetic": shop.synthetic.model_validate({"photos": {}})})
    steps = graph_steps(preset)
    assert "frozen_synthetic_embeddings" in steps["retrieval_report"].upstream
    assert "embed_synthetic" in [stage.name for stage in stages(steps)]


def test_the_demo_of_a_catalogue_without_photos_asks_for_a_synthetic_one(
    photoless: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKUFP_PRESET", str(photoless.preset_file))
    result = ask("demo")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip().splitlines()[0] == NOTE
    assert re.search(
        r"\nA synthetic photo no model was trained on \(.*evaluation_item1.jpg\), of S", result.stdout
    )
