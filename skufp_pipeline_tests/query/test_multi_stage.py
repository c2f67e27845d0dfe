"""The stages after the search in an index of pictures: fusion by product, re-ranking, all items together."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.stage_settings import CaptionStageSettings, MultiStageSettings, RerankSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.query import multi_stage
from skufp_pipeline.query.answers import Clock, Hit
from skufp_pipeline.query.multi_stage import (
    Further,
    Fusion,
    MultiStage,
    OfProducts,
    PictureReranker,
    first_pass,
    fuse,
    read_multi_stage,
)
from skufp_pipeline.query.regions import merged_hits
from skufp_pipeline.query.stage_weights import unrelated, write_multi_stage
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
CAPTIONS = CaptionSettings(model="some/blip")


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
