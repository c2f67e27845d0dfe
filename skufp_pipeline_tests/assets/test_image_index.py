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

from skufp_pipeline.artifacts.places import IMAGE_SEARCH_REPORT, STAGE_EMBEDDINGS
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.chain import BOX, PHOTO, Chain, judge_chain
from skufp_pipeline.evaluation.stages import AskedPhoto, embed_photos
from skufp_pipeline.extractors.extractor import load_extractor
from skufp_pipeline.measures.ranks import UNRANKED
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.engine import QueryEngine, read_photo
from skufp_pipeline.query.multi_stage import read_multi_stage
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.versions import Versions

from ..cli.asking import a_photo, ask, found, refused
from ..detection.examples import Halves
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


def test_every_stage_is_judged_on_the_same_photos(pictured: Graph) -> None:
    engine = QueryEngine.open(pictured.store, CPU, name="reid", all_stages=True)
    files = sorted(Path(pictured.preset.data_root).glob("crops/shard_*/validation/query/*/*.jpg"))[:6]
    photos = [AskedPhoto(path, path.parent.name, "validation") for path in files]
    judged = judge_chain(Chain(engine, photos), embed_photos(engine, photos))
    boxes = [each for each in judged if each.asked == BOX]
    assert [(each.system, each.setting, len(each.ranks)) for each in boxes] == [
        (stage, setting, 6)
        for setting in ("zero", "seen+zero")
        for stage in ("pictures", "rerank at 1", "rerank")
    ]
    assert [each.over for each in boxes] == [None, "pictures", "pictures"] * 2
    weight = read_multi_stage(current_index(pictured.store, "reid")[0].path).rerank.weight  # type: ignore[union-attr]
    assert [each.off for each in boxes] == [False, False, not weight] * 2
    for number, photo in enumerate(photos):
        hits = [hit.sku_id for hit in engine.search_image(photo.path, 10, region="whole").hits]
        expected = hits.index(photo.sku_id) + 1 if photo.sku_id in hits else UNRANKED
        assert boxes[5].ranks[number] == expected
    assert all((each.milliseconds > 0).all() for each in judged)


def test_photos_as_they_are_are_asked_whole_by_item_and_by_all_items(pictured: Graph) -> None:
    engine = QueryEngine.open(pictured.store, CPU, name="reid", all_stages=True)
    engine.detector = Halves()
    files = sorted(Path(pictured.preset.data_root).glob("raw/dataset/validation/image/*.jpg"))[:4]
    sku_ids = engine.index.skus.filter(split="validation")["sku_id"]
    photos = [AskedPhoto(path, sku_ids[number], "validation") for number, path in enumerate(files)]
    asked = embed_photos(engine, photos[:1])
    judged = {
        each.system: each
        for each in judge_chain(Chain(engine, [*photos, AskedPhoto(Path("gone"), "x", "validation")]), asked)
        if (each.asked, each.setting) == (PHOTO, "seen+zero")
    }
    assert list(judged) == ["pictures", "best item", "all items", "rerank at 1", "rerank"]
    del judged["rerank at 1"]
    regions = ("whole", "auto", "merge", "auto")
    assert engine.multi_stage is not None
    for region, each in zip(regions, judged.values(), strict=True):
        plain = engine.over(engine.index)
        plain.multi_stage = None if each.system != "rerank" else engine.multi_stage
        for photo, rank in zip(photos, each.ranks, strict=True):
            hits = [hit.sku_id for hit in plain.search_image(photo.path, 10, region=region).hits]
            assert rank == (hits.index(photo.sku_id) + 1 if photo.sku_id in hits else UNRANKED)
    assert [judged[name].over for name in judged] == [None, "pictures", "best item", "best item"]
    assert judged["all items"].off  # the preset searches for the best one


def test_the_report_has_every_index_and_stage_beside_the_fingerprints(pictured: Graph) -> None:
    told = metadata(run_asset(pictured.preset, "image_search_report"))
    assert "fingerprint" in told["tables"]
    figures = IMAGE_SEARCH_REPORT.read(pictured.store).figures()
    widest = figures.filter(setting="seen+zero")
    assert widest["system"].to_list() == [
        *("fingerprint", "reid", "encoder", "pictures", "rerank at 1", "rerank")
    ]
    assert widest["queries"].n_unique() == 1
    pictures, reid = (widest.filter(system=name).row(0, named=True) for name in ("pictures", "reid"))
    assert pictures["recall@1"] == reid["recall@1"]
    assert pictures["bytes"] == reid["bytes"]
    # every picture's vector, at least
    assert reid["bytes"] > gallery(pictured, "reid").height * 16 * 4
    for row in figures.iter_rows(named=True):
        recalls = [row[f"recall@{top}"] for top in (1, 3, 5, 10)]
        assert recalls == sorted(recalls)
        assert row["recall@1_low"] <= row["recall@1"] <= row["recall@1_high"]
        assert row["p95_ms"] >= row["p50_ms"] > 0


def test_an_extractor_of_the_preset_ranks_anew_by_its_own_embeddings(pictured: Graph, tmp_path: Path) -> None:
    graph = copy_graph(pictured, tmp_path)
    content = yaml.safe_load(graph.preset_file.read_text())
    rerank = {"extractor": "autoencoder", "top": 5, "weight": 0.5}
    content["multi_stage"] = {"index": "reid", "rerank": rerank}
    graph = Graph(write_preset(tmp_path, content), None, "")
    assert "stage_models" not in graph.steps
    assert metadata(run_asset(graph.preset, "reid_index"))["published"] == 1
    photo = a_photo(graph)
    done = ask("search", "--image", photo, "--index", "reid", "--preset", graph.preset_file, "--json")
    seen = load_extractor(graph.store.read("checkpoints/autoencoder").path / "encoder", CPU)
    query = seen.embed_pixels(seen.preprocess(read_photo(photo))[None])[0].astype(np.float64)
    own = gallery(graph, "autoencoder")
    cosines = own.with_columns(cosine=pl.Series(embedding_rows(own).astype(np.float64) @ query))
    best = dict(cosines.group_by("sku_id").agg(pl.col("cosine").max()).iter_rows())
    hits = json.loads(done.stdout)["hits"]
    assert len(hits) == 10
    for hit in hits[:5]:
        assert hit["parts"]["rerank"] == pytest.approx(best[hit["sku_id"]], abs=1e-5)
        assert hit["score"] == pytest.approx(hit["parts"]["picture"] + 0.5 * hit["parts"]["rerank"])
    assert all("rerank" not in hit["parts"] for hit in hits[5:])


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


def test_the_report_reads_every_index_with_what_it_was_made_with(pictured: Graph) -> None:
    upstream = pictured.steps["image_search_report"].upstream
    assert {"search_index", "reid_index", "reid_checkpoint", "stage_models", "encoder_index"} <= set(upstream)
    assert len(set(upstream)) == len(upstream)
    assert "reid_index" not in pictured.steps["retrieval_report"].upstream


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
        (
            {**PICTURES, "multi_stage": {"index": "reid", "rerank": {"extractor": "reid"}}},
            r"extractor is 'reid'; expected another extractor than the index's: autoencoder",
        ),
    ],
)
def test_what_a_preset_asks_for_has_to_be_there(changes: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Preset.model_validate({**SMALL, "data_root": "data", **changes})


def test_no_packaged_preset_has_stages_by_default() -> None:
    for name in ("ci", "demo"):
        assert load_preset(name).image_index is None
        assert load_preset(name).multi_stage is None
