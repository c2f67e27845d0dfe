"""Indexes of pictures in a graph: built, checked, published, and asked by the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from pydantic import ValidationError

from skufp_pipeline.artifacts.places import STAGE_EMBEDDINGS
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.chain import Chain, judge_chain
from skufp_pipeline.evaluation.stages import AskedPhoto, embed_photos
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.multi_stage import read_multi_stage
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.versions import Versions

from ..cli.asking import a_photo, ask, found, refused
from ..graphs import SMALL, Graph, checks, copy_graph, metadata, run_asset, write_preset

PICTURES = {
    "image_index": {"of": ["reid", "encoder"]},
    "multi_stage": {
        "index": "reid",
        "rerank": {"model": "mobilevit_xxs", "image_size": [64, 64], "top": 5},
        "least_photos": 3,
    },
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictured(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The small graph with indexes of its pictures and a re-ranker. Read it only."""
    graph = copy_graph(small_graph, tmp_path_factory.mktemp("pictured"))
    content = yaml.safe_load(graph.preset_file.read_text())
    write_preset(graph.preset_file.parent, {**content, **PICTURES})
    assert metadata(run_asset(graph.preset, "stage_models"))["computed"] == 1
    for shard in range(2):
        assert metadata(run_asset(graph.preset, "stage_embeddings", shard))["computed"] == 1
    for name in ("reid_index", "encoder_index"):
        result = run_asset(graph.preset, name)
        assert metadata(result)["published"] == 1
        assert set(checks(result).values()) == {True}
        assert set(checks(result)) == {
            "index_is_exact",
            "skus_are_covered",
            "recall_holds",
            "not_rolled_back",
        }
    return graph


def gallery(graph: Graph, name: str) -> pl.DataFrame:
    keys = [f"tables/{name}_embeddings/shard_{shard:04d}" for shard in range(2)]
    tables = [pl.read_parquet(graph.store.read(key).path / "images.parquet") for key in keys]
    return pl.concat(tables).filter(role="gallery")


def test_every_catalogue_picture_has_a_row_and_every_product_its_best(pictured: Graph) -> None:
    _, index = current_index(pictured.store, "reid")
    assert isinstance(index, ImageIndex)
    pictures = gallery(pictured, "reid")
    assert sorted(index.pictures.sku_ids) == sorted(pictures["item_id"])
    query = np.random.default_rng(0).standard_normal(16)
    unit = query / np.abs(query).max()
    unit /= np.linalg.norm(unit)
    scored = pictures.with_columns(score=(embedding_rows(pictures).astype(np.float64) * unit).sum(axis=1))
    best = scored.group_by("sku_id").agg(pl.col("score").max()).sort("score", descending=True)
    (answer,) = index.search(query, 10)
    assert index.skus["sku_id"].gather(answer.rows).to_list() == best["sku_id"][:10].to_list()
    assert answer.scores.tolist() == best["score"][:10].to_list()


def test_the_command_line_asks_an_index_by_its_name(pictured: Graph) -> None:
    preset, photo = pictured.preset_file, a_photo(pictured)
    skus = found("--image", photo, "--index", "reid", "--preset", preset)
    engine = QueryEngine.open(pictured.store, CPU, name="reid")
    assert [hit.sku_id for hit in engine.search_image(photo, 10).hits] == skus
    assert len(set(skus)) == 10
    assert found("--like", skus[0], "--index", "reid", "--preset", preset)[0] != skus[0]
    assert found("--text", "a skirt", "--index", "encoder", "--preset", preset)
    assert found("--image", photo, "--text", "a skirt", "--index", "encoder", "--preset", preset)


def test_an_encoder_of_pictures_reads_no_words_and_says_so(pictured: Graph, tmp_path: Path) -> None:
    index, photo = ("--index", "reid", "--preset", pictured.preset_file), a_photo(pictured)
    for asked in (("--text", "a skirt"), ("--image", photo, "--explain", tmp_path / "why.png")):
        assert "reads no words: ask it with a photo or a SKU" in refused(ask("search", *asked, *index))
    assert "made without a query policy" in refused(ask("search", "--image", photo, "--policy", "on", *index))
    exported = ask("export", "fingerprints", "--format", "numpy", "--out", tmp_path / "out", *index)
    assert "no fingerprints to export" in refused(exported)


def test_the_hits_say_what_each_stage_says_of_them(pictured: Graph) -> None:
    done = ask(
        "search", "--image", a_photo(pictured), "--index", "reid", "--preset", pictured.preset_file, "--json"
    )
    hits = json.loads(done.stdout)["hits"]
    weight = read_multi_stage(current_index(pictured.store, "reid")[0].path).rerank.weight  # type: ignore[union-attr]
    ranked = [hit for hit in hits if weight and "rerank" in hit["parts"]] if weight else []
    assert len(ranked) == (5 if weight else 0)
    for hit in ranked:
        parts = hit["parts"]
        assert hit["score"] == pytest.approx(parts["picture"] + weight * parts["rerank"])


def test_the_reranker_embeds_catalogue_pictures_and_development_photos_alone(pictured: Graph) -> None:
    shards = [STAGE_EMBEDDINGS.read(pictured.store, shard).pictures() for shard in range(2)]
    table = pl.concat([shard for shard in shards if shard is not None])
    assert set(table["role"]) == {"gallery", "development"}
    assert set(table.filter(role="gallery")["item_id"]) == set(gallery(pictured, "reid")["item_id"])
    assert np.linalg.norm(embedding_rows(table), axis=1) == pytest.approx(1, abs=1e-5)


def test_its_weight_is_chosen_on_development_photos(pictured: Graph) -> None:
    artifact, _ = current_index(pictured.store, "reid")
    file = read_multi_stage(artifact.path)
    assert file is not None
    assert file.rerank is not None
    assert file.rerank.chosen_on is not None
    assert file.rerank.chosen_on >= 3
    assert file.rerank.weight == artifact.summary["rerank_weight"]
    best = max(row["mrr"] for row in file.rerank.tried)
    assert best == next(row["mrr"] for row in file.rerank.tried if row["weight"] == file.rerank.weight)


def test_every_stage_is_judged_with_its_gain_and_its_time(pictured: Graph) -> None:
    engine = QueryEngine.open(pictured.store, CPU, name="reid", all_stages=True)
    files = sorted(Path(pictured.preset.data_root).glob("crops/shard_*/validation/query/*/*.jpg"))[:6]
    photos = [AskedPhoto(path, path.parent.name, "validation") for path in files]
    rows = judge_chain(Chain(engine), embed_photos(engine, photos), seed=0, resamples=50)
    assert [(row.stage, row.setting, row.queries) for row in rows] == [
        (stage, setting, 6) for setting in ("zero", "seen+zero") for stage in ("pictures", "rerank")
    ]
    assert [row.delta is None for row in rows] == [True, False] * 2
    assert all(row.p50_ms > 0 for row in rows)


def test_an_index_without_stages_is_evaluated_by_its_pictures_and_one_with_them_by_the_report(
    pictured: Graph, tmp_path: Path
) -> None:
    photo = a_photo(pictured)
    shutil.copy(photo, tmp_path / "photo.jpg")
    (tmp_path / "photos.csv").write_text(f"image_path,sku_id\nphoto.jpg,{photo.parent.name}\n")
    asked = ("evaluate", tmp_path / "photos.csv", "--preset", pictured.preset_file, "--json", "--index")
    engine = QueryEngine.open(pictured.store, CPU, name="encoder")
    skus = [hit.sku_id for hit in engine.search_image(photo, len(engine.index)).hits]
    told = json.loads(ask(*asked, "encoder").stdout)
    assert told["mrr"] == pytest.approx(1 / (1 + skus.index(photo.parent.name)), abs=1e-3)
    assert "stages after the search" in refused(ask(*asked, "reid"))


def test_the_report_reads_the_index_whose_stages_it_judges(pictured: Graph) -> None:
    upstream = pictured.steps["retrieval_report"].upstream
    assert {"reid_index", "reid_checkpoint", "stage_models"} <= set(upstream)
    assert len(set(upstream)) == len(upstream)
    assert "encoder_index" not in upstream


def test_a_rolled_back_version_is_not_published_again(pictured: Graph, tmp_path: Path) -> None:
    graph = copy_graph(pictured, tmp_path)
    preset = graph.preset.model_copy(update={"index_picture_side": 32})
    assert metadata(run_asset(preset, "encoder_index"))["published"] == 1
    versions = Versions(graph.store, "encoder")
    versions.roll_back()
    assert checks(run_asset(preset, "encoder_index"))["not_rolled_back"] is False


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"image_index": {"of": ["resnet"]}},
            r"image_index\.of names 'resnet'; expected some of encoder, reid",
        ),
        ({"image_index": {"of": ["reid", "reid"]}}, "names one twice"),
        ({"multi_stage": {"index": "reid", "rerank": {}}}, r"expected one of image_index\.of: there is none"),
        (
            {**PICTURES, "multi_stage": {"index": "reid", "captions": {}}},
            r"multi_stage\.captions needs prompts\.captions",
        ),
        ({**PICTURES, "multi_stage": {"index": "reid", "boxes": "merge"}}, "needs a detector"),
    ],
)
def test_what_a_preset_asks_for_has_to_be_there(changes: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Preset.model_validate({**SMALL, "data_root": "data", **changes})


def test_no_packaged_preset_has_stages_by_default() -> None:
    for name in ("ci", "demo"):
        assert load_preset(name).image_index is None
        assert load_preset(name).multi_stage is None
