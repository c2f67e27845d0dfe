"""The stages after the search in an index of pictures: fusion by product, re-ranking, all items together."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.artifacts.kinds import StageModels
from skufp_pipeline.artifacts.places import STAGE_MODELS
from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.sentences import load_sentences
from skufp_pipeline.encoders.stage_settings import CaptionStageSettings, MultiStageSettings, RerankSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.encoders.timm_tower import create_timm_tower
from skufp_pipeline.errors import UserError
from skufp_pipeline.query import multi_stage
from skufp_pipeline.query.answers import Clock, Hit
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.multi_stage import (
    Further,
    Fusion,
    MultiStage,
    MultiStageFile,
    OfProducts,
    PictureReranker,
    RerankFile,
    TextsFile,
    first_pass,
    fuse,
    read_multi_stage,
)
from skufp_pipeline.query.regions import MERGE, merged_hits
from skufp_pipeline.query.stage_weights import unrelated, write_multi_stage
from skufp_pipeline.search.images import ImageIndex, ImagesFile
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import ArtifactStore, Recipe
from skufp_pipeline.training.weights import resolve
from skufp_pipeline_tests.detection.examples import Halves
from skufp_pipeline_tests.encoders.examples import picture, write_blip, write_model, write_text_model
from skufp_pipeline_tests.graphs import pretend_made_with
from skufp_pipeline_tests.search.conftest import publish_encoder

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
CAPTIONS = CaptionSettings(model="some/blip")
CPU = torch.device("cpu")


def unit(rows: Any) -> NDArray[np.float32]:
    found = np.asarray(rows, np.float64)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def index_of(products: dict[str, list[list[float]]]) -> ImageIndex:
    """An index of the pictures (or texts) of some products."""
    owners = [number for number, rows in enumerate(products.values()) for _ in rows]
    names = [f"{sku_id} {place}" for sku_id, rows in products.items() for place in range(len(rows))]
    rows = unit([row for rows in products.values() for row in rows])
    pictures = FingerprintIndex(rows, pl.DataFrame({"sku_id": names}))
    return ImageIndex.of_pictures(pictures, pl.DataFrame({"sku_id": list(products)}), np.array(owners))


def joined(products: dict[str, list[list[float]]], index: ImageIndex) -> OfProducts:
    return OfProducts.joined(index_of(products), index.skus["sku_id"])


def query(*row: float) -> NDArray[np.float32]:
    return np.array([row], np.float32)


# -- fusion --------------------------------------------------------------------------------------------------


def test_scores_are_joined_by_product_and_not_by_place() -> None:
    """The text's first hit is the picture's last: added by place, its score would go to another product."""
    index = index_of({"a": [EAST], "b": [[0.8, 0.6]], "c": [NORTH]})
    texts = joined({"c": [EAST], "b": [[0.6, 0.8]], "a": [NORTH]}, index)
    found = fuse(index, texts, query(1, 0), query(1, 0), 0.5, 0.0, 3)
    assert index.skus["sku_id"].gather(found.rows).to_list() == ["b", "a", "c"]
    assert found.scores.tolist() == pytest.approx([0.7, 0.5, 0.5])
    assert found.parts[0] == pytest.approx({"picture": 0.8, "text": 0.6})


def test_a_product_without_a_text_scores_what_an_unrelated_text_does() -> None:
    index = index_of({"a": [EAST], "b": [EAST], "c": [EAST]})
    texts = joined({"a": [[0.9, 0.1]], "c": [WEST]}, index)
    found = fuse(index, texts, query(1, 0), query(1, 0), 0.5, 0.25, 3)
    assert found.rows.tolist() == [0, 1, 2]
    assert [part["text"] for part in found.parts] == pytest.approx([0.9939, 0.25, -1.0], abs=1e-4)


def test_a_product_scores_its_best_text() -> None:
    index = index_of({"a": [EAST], "b": [EAST]})
    texts = joined({"a": [WEST, NORTH], "b": [WEST, EAST]}, index)
    assert fuse(index, texts, query(1, 0), query(1, 0), 0.5, 0, 1).rows.tolist() == [1]


@given(
    seed=st.integers(0, 2**32 - 1),
    products=st.integers(1, 40),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    top=st.integers(1, 9),
    filtered=st.booleans(),
)
def test_fusion_is_exact_however_few_are_asked_for_at_first(
    seed: int, products: int, weight: float, top: int, filtered: bool
) -> None:
    rng = np.random.default_rng(seed)

    def rows() -> list[list[float]]:
        found = rng.integers(-1, 2, (int(rng.integers(1, 4)), 3)).astype(float)
        found[~found.any(axis=1)] = 1
        return found.tolist()

    names = [f"p{number:02d}" for number in range(products)]
    index = index_of({name: rows() for name in names})
    told = [name for name in names if rng.random() < 0.7] or names[:1]
    texts = joined({name: rows() for name in told}, index)
    seen, said = (unit(rng.standard_normal((1, 3))) for _ in range(2))
    allowed = np.arange(0, products, 2 if filtered else 1)
    within = index.of_skus([names[row] for row in allowed]) if filtered else None
    scores = (1 - weight) * index.cosines(seen, allowed) + weight * texts.scores(said, allowed, 0.1)
    expected = allowed[np.lexsort((allowed, -scores))[:top]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_stage, "AT_ONCE", 1)
        found = fuse(index, texts, seen, said, weight, 0.1, top, within)
    assert found.rows.tolist() == expected.tolist()
    assert found.scores.tolist() == sorted(scores.tolist(), reverse=True)[:top]


def test_a_photo_without_a_caption_is_ranked_by_its_picture() -> None:
    index = index_of({"a": [NORTH], "b": [EAST]})
    fusion = Fusion(joined({"a": [EAST], "b": [WEST]}, index), 1.0, 0.0)
    assert first_pass(index, fusion, query(1, 0), query(1, 0), 2).rows.tolist() == [0, 1]
    found = first_pass(index, fusion, query(1, 0), None, 2)
    assert found.rows.tolist() == [1, 0]
    assert found.parts == [{"picture": 1.0}, {"picture": 0.0}]


def test_texts_of_a_product_that_the_index_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="SKU 'z' of a stage is not in the index"):
        joined({"z": [EAST]}, index_of({"a": [EAST]}))


# -- re-ranking ----------------------------------------------------------------------------------------------


def test_the_best_are_ranked_anew_by_the_sum_and_the_others_keep_their_order() -> None:
    index = index_of({"a": [EAST], "b": [[0.8, 0.6]], "c": [[0.6, 0.8]], "d": [NORTH]})
    pictures = joined({"a": [WEST], "b": [NORTH, EAST], "c": [EAST], "d": [EAST]}, index)
    stages = MultiStage(reranker=PictureReranker(pictures, 2, 0.5))
    clock = Clock()
    found = stages.rank(index, query(1, 0), Further(picture=query(1, 0)), 4, None, clock)
    assert found.rows.tolist() == [1, 0, 2, 3]
    assert found.scores.tolist() == pytest.approx([0.8 + 0.5, 1 - 0.5, 0.6, 0])
    assert [part.get("rerank") for part in found.parts] == pytest.approx([1.0, -1.0, None, None])
    assert set(clock.milliseconds) == {"search", "rerank"}


def test_more_than_the_wanted_are_ranked_anew() -> None:
    index = index_of({"a": [EAST], "b": [[0.8, 0.6]]})
    pictures = joined({"a": [WEST], "b": [EAST]}, index)
    stages = MultiStage(reranker=PictureReranker(pictures, 20, 1.0))
    assert stages.rank(index, query(1, 0), Further(picture=query(1, 0)), 1, None, Clock()).rows.tolist() == [
        1
    ]


# -- all items together --------------------------------------------------------------------------------------


def hit(sku_id: str, score: float, **parts: float) -> Hit:
    return Hit(1, sku_id, score, None, None, "", parts=parts)


def test_items_are_joined_by_the_best_score_of_each_product() -> None:
    items = [[hit("a", 0.9), hit("b", 0.5)], [hit("b", 0.8), hit("c", 0.5)]]
    found = merged_hits(items, 3)
    assert [(each.rank, each.sku_id, each.score) for each in found] == [
        (1, "a", 0.9),
        (2, "b", 0.8),
        (3, "c", 0.5),
    ]
    assert [each.sku_id for each in merged_hits(items, 1)] == ["a"]


def test_of_equal_scores_the_earlier_items_comes_first() -> None:
    assert [each.sku_id for each in merged_hits([[hit("z", 0.5)], [hit("a", 0.5)]], 2)] == ["z", "a"]


def test_what_was_ranked_anew_stays_before_what_was_not() -> None:
    items = [
        [hit("a", 0.3, rerank=-0.5), hit("b", 0.6)],
        [hit("c", 0.4, rerank=0.0), hit("b", 0.1, rerank=0.1)],
    ]
    assert [(each.sku_id, each.score) for each in merged_hits(items, 3)] == [
        ("c", 0.4),
        ("a", 0.3),
        ("b", 0.1),
    ]


# -- weights -------------------------------------------------------------------------------------------------


def table(rows: list[tuple[str, str, str, list[float]]]) -> pl.DataFrame:
    """`item_id`, `sku_id`, `role`, and the embedding."""
    ids = pl.DataFrame([row[:3] for row in rows], schema=["item_id", "sku_id", "role"], orient="row")
    return ids.with_columns(embedding_column(unit([row[3] for row in rows])), split=pl.lit("train"))


def written(folder: Path, helps: bool, settings: MultiStageSettings) -> dict[str, Any]:
    """Photos of `b` look like `a`; what is said of them, and the re-ranker, tell them apart (or do not)."""
    folder.mkdir()
    index = index_of({"a": [EAST], "b": [[0.8, 0.6]]})
    right = NORTH if helps else EAST
    photos = [(f"photo {number}", "b", "development") for number in range(4)]
    images = table([(*photo, EAST) for photo in photos])
    catalogue = [("pa", "a", "gallery", EAST), ("pb", "b", "gallery", NORTH)]
    texts = table([*catalogue, *((*photo, right) for photo in photos)])
    return write_multi_stage(folder, index, images, texts, texts, settings, CAPTIONS)


def settings(**changes: Any) -> MultiStageSettings:
    parts = {
        "index": "reid",
        "captions": CaptionStageSettings(),
        "rerank": RerankSettings(),
        "least_photos": 2,
    }
    return MultiStageSettings(**{**parts, **changes})


def test_the_smallest_weights_that_rank_development_photos_best_are_chosen(tmp_path: Path) -> None:
    assert written(tmp_path / "one", True, settings()) == {"text_weight": 0.2, "rerank_weight": 0.0}
    file = read_multi_stage(tmp_path / "one")
    assert file is not None
    assert file.texts is not None
    assert file.texts.chosen_on == 4
    tried = {row["weight"]: row["recall@1"] for row in file.texts.tried}
    assert tried[0] == 0
    assert tried[0.5] == 1  # as in 003, beside the choice
    assert file.texts.absent == pytest.approx(0.5)
    alone = written(tmp_path / "two", True, settings(captions=None))
    assert alone == {"rerank_weight": 0.25}  # 0.8 + 0.25 > 1


def test_where_a_stage_harms_it_is_off(tmp_path: Path) -> None:
    assert written(tmp_path / "one", False, settings()) == {"text_weight": 0.0, "rerank_weight": 0.0}


def test_with_few_photos_the_usual_weight_is_taken_and_a_set_one_always(tmp_path: Path) -> None:
    usual = CaptionStageSettings(usual_weight=0.4)
    few = settings(captions=usual, rerank=RerankSettings(weight=3), least_photos=5)
    assert written(tmp_path / "one", True, few) == {"text_weight": 0.4, "rerank_weight": 3.0}


def test_an_unrelated_text_scores_the_mean_over_photos_and_texts() -> None:
    catalogue = [("a", "a", "gallery", EAST), ("b", "b", "gallery", NORTH)]
    assert unrelated(table([*catalogue, ("p", "a", "development", EAST)])) == pytest.approx(0.5)
    assert unrelated(table([*catalogue, ("p", "a", "development", WEST)])) == pytest.approx(-0.5)
    assert unrelated(table(catalogue)) == pytest.approx(0.5)


def test_stages_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no stage is on"):
        MultiStageSettings(index="reid")


def test_a_damaged_file_of_stages_is_named(tmp_path: Path) -> None:
    (tmp_path / "multi_stage.json").write_text("{}}")
    with pytest.raises(UserError, match=r"multi_stage\.json can't be read"):
        read_multi_stage(tmp_path)


# -- with models ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """An index of pictures of three colours by a tiny CLIP, with all stages on, by tiny models."""
    folder = tmp_path_factory.mktemp("stages")
    store = ArtifactStore(folder / "root")
    encoder = create_encoder(write_model(folder / "tiny.json"), CPU, seed=0)
    clip = publish_encoder(store, encoder)
    words = load_sentences(resolve(str(write_text_model(folder / "words")), "text_model"), CPU)
    tower = create_timm_tower(RerankSettings(model="mobilevit_xxs", image_size=(64, 64)), CPU, seed=0)
    recipe = Recipe(code_version="1")
    models = store.produce(
        STAGE_MODELS.key, recipe, lambda place: StageModels.write(place, words, tower) or {}
    )
    colours = ["red", "lime", "blue"]
    shown = [picture(colour) for colour in colours]
    pixels = torch.stack([tower.preprocess(image) for image in shown])
    said = words.embed(["a red skirt", "a green coat", "a blue vest"])

    def build(directory: Path) -> dict[str, Any]:
        pictures = FingerprintIndex(encoder.embed_images(shown), pl.DataFrame({"sku_id": colours}))
        looks = {"category_name": "c", "title": "t", "image": "i", "split": "train"}
        skus = pl.DataFrame({"sku_id": colours}).with_columns(
            **{key: pl.lit(value) for key, value in looks.items()}
        )
        index = ImageIndex.of_pictures(pictures, skus, np.arange(3))
        index.file = ImagesFile(of="encoder")
        index.save(directory)
        rows = [pl.DataFrame({"item_id": colours, "sku_id": colours}).with_columns(embedding_column(found))
                for found in (said, tower.embed_pixels(pixels))]  # fmt: skip
        for name, table in zip(("texts", "rerank"), rows, strict=True):
            OfProducts.write(directory / name, table, index)
        (folder / "blip").mkdir()
        captions = CaptionSettings(model=str(write_blip(folder / "blip")), prompt="a red", max_new_tokens=4)
        texts = TextsFile(captions=captions, absent=0.0, weight=0.5)
        file = MultiStageFile(boxes="merge", texts=texts, rerank=RerankFile(top=2, weight=1.0))
        (directory / "multi_stage.json").write_text(file.model_dump_json())
        return {}

    inputs = {"clip_checkpoint": clip, "stage_models": models.digest}
    store.produce("index/encoder/v", Recipe(code_version="1", inputs=inputs), build)
    store.write_pointer("index/encoder/CURRENT", "v")
    return store


def test_models_are_loaded_once_and_each_stage_is_timed(
    stored: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(name: str, load: Callable[..., Any], *given: Any) -> Any:
        loaded.append(name)
        return load(*given)

    for name in ("load_captioner", "load_sentences", "load_timm_tower"):
        monkeypatch.setattr(multi_stage, name, partial(counted, name, getattr(multi_stage, name)))
    engine = QueryEngine.open(stored, CPU, name="encoder")
    for colour in ("red", "lime", "blue"):
        picture(colour).save(tmp_path / "photo.png")
        answer = engine.search_image(tmp_path / "photo.png", 3)
        seen = {"caption", "encode_caption", "encode_rerank"}
        assert set(answer.milliseconds) == {"decode", "preprocess", "encode", "fuse", "rerank", *seen}
        assert sorted(len(hit.parts) for hit in answer.hits) == [2, 3, 3]
        for hit in answer.hits:
            expected = (hit.parts["picture"] + hit.parts["text"]) / 2 + hit.parts.get("rerank", 0)
            assert hit.score == pytest.approx(expected)
        (right,) = (hit for hit in answer.hits if hit.sku_id == colour)
        assert right.parts["picture"] == pytest.approx(1, abs=1e-5)
    assert sorted(loaded) == ["load_captioner", "load_sentences", "load_timm_tower"]


def test_the_caption_of_a_photo_is_what_its_text_score_is_of(stored: ArtifactStore) -> None:
    engine = QueryEngine.open(stored, CPU, name="encoder")
    stages = engine.multi_stage
    assert stages is not None
    assert stages.words is not None
    assert stages.fusion is not None
    seen = stages.see(picture("red"), Clock())
    assert seen.caption == stages.words.captioner.caption_image(picture("red"))
    assert seen.sentence is not None
    alone = stages.words.sentences.embed([seen.caption or ""])
    assert np.array_equal(seen.sentence, alone)
    answer = engine._answer_photo(engine.embed_image(picture("red"), Clock()), 3, None, Clock())
    scores = stages.fusion.texts.scores(alone, np.arange(3), 0.0)
    told = {hit.sku_id: hit.parts["text"] for hit in answer.hits}
    assert told == pytest.approx(dict(zip(("red", "lime", "blue"), scores, strict=True)))


def test_without_a_second_look_no_stage_follows_and_no_model_is_loaded(
    stored: ArtifactStore, tmp_path: Path
) -> None:
    engine = QueryEngine.open(stored, CPU, name="encoder", use_look_twice=False)
    assert engine.multi_stage is None
    picture("red").save(tmp_path / "photo.png")
    assert {*engine.search_image(tmp_path / "photo.png", 1).milliseconds} == {
        "decode",
        "preprocess",
        "encode",
        "search",
    }


def test_all_items_of_a_photo_answer_together(stored: ArtifactStore, tmp_path: Path) -> None:
    engine = QueryEngine.open(stored, CPU, name="encoder", use_look_twice=False)
    engine.detector = Halves()
    both = Image.new("RGB", (60, 40), "red")
    both.paste("blue", (30, 0, 60, 40))
    both.save(tmp_path / "both.png")
    answers = [engine.search_image(tmp_path / "both.png", 3, region=item) for item in (1, 2)]
    merged = engine.search_image(tmp_path / "both.png", 3, region=MERGE)
    best = {sku_id: max(hit.score for one in answers for hit in one.hits if hit.sku_id == sku_id)
            for sku_id in ("red", "lime", "blue")}  # fmt: skip
    assert {hit.sku_id: hit.score for hit in merged.hits} == best
    assert [hit.rank for hit in merged.hits] == [1, 2, 3]
    assert {hit.sku_id for hit in merged.hits[:2]} == {"red", "blue"}
    assert [item.sku_id for item in merged.items] == [answer.hits[0].sku_id for answer in answers]
    assert (merged.box, merged.item) == (None, None)
    engine.multi_stage = MultiStage(merge=True)
    assert [hit.sku_id for hit in engine.search_image(tmp_path / "both.png", 3).hits] == [
        hit.sku_id for hit in merged.hits
    ]


def test_stages_of_another_version_of_their_models_are_refused(stored: ArtifactStore, tmp_path: Path) -> None:
    shutil.copytree(stored.root, tmp_path / "root")
    store = ArtifactStore(tmp_path / "root")
    pretend_made_with(tmp_path / "root" / "index" / "encoder" / "v", "stage_models", "0" * 16)
    with pytest.raises(UserError, match="stage_models"):
        QueryEngine.open(store, CPU, name="encoder")
