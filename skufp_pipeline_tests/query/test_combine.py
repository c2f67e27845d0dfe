"""Wishes made of several parts: each formula by hand, one exact search, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.query.combine import Wish, mean_query, pushed_away, rocchio
from skufp_pipeline.query.engine import QueryEngine, read_photo
from skufp_pipeline.search.index import FingerprintIndex, mix
from skufp_pipeline_tests.encoders.examples import picture

X, Y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
NONE = np.empty((0, 2))


@pytest.fixture
def engine(index: FingerprintIndex, encoder: Encoder) -> QueryEngine:
    return QueryEngine(index, encoder)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "lime")]
    for path in paths:
        picture(path.stem).save(path)
    return paths


def ids(engine: QueryEngine, wish: Wish, top: int = 3) -> list[str]:
    return [hit.sku_id for hit in engine.search(wish, top).hits]


def unit(row: np.ndarray) -> np.ndarray:
    wide = np.asarray(row, dtype=np.float64)
    return wide / np.linalg.norm(wide)


def test_the_mean_of_photos_does_not_depend_on_their_norms() -> None:
    assert mean_query([X, 7 * Y]) == pytest.approx(np.full((1, 2), 0.5**0.5))
    assert mean_query([X, Y], [3, 1]) == pytest.approx(np.array([[3, 1]]) / 10**0.5)
    assert mean_query([X, Y], [30, 10]) == pytest.approx(mean_query([X, Y], [3, 1]))


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, np.inf], [1, np.nan]])
def test_a_weight_that_means_nothing_is_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="weight"):
        mean_query([X, Y], weights)


def test_words_push_a_query_away_from_their_mean() -> None:
    assert pushed_away(X, [Y], 0) == pytest.approx(X)
    assert pushed_away(X, [Y], 1) == pytest.approx(np.array([[1, -1]]) / 2**0.5)
    assert pushed_away(X, [X, Y], 1) == pytest.approx(unit(np.array([[1 - 0.5**0.5, -(0.5**0.5)]])))
    assert pushed_away(X, [], 1) == pytest.approx(X)
    with pytest.raises(UserError, match="cancel out"):
        pushed_away(X, [X], 1)
    for weight in (-0.1, np.nan, np.inf):
        with pytest.raises(UserError, match="must be at least 0"):
            pushed_away(X, [Y], weight)


def test_likes_and_dislikes_are_rocchios() -> None:
    assert rocchio(X, Y, NONE) == pytest.approx(np.array([[1, 0.75]]) / 1.25)
    assert rocchio(X, NONE, Y) == pytest.approx(unit(np.array([[1, -0.15]])))
    both = np.concatenate([X, Y])
    assert rocchio(None, both, Y) == pytest.approx(unit(np.array([[0.375, 0.375 - 0.15]])))
    with pytest.raises(UserError, match="cancel out"):
        rocchio(None, np.concatenate([X, -X]), NONE)


@pytest.mark.parametrize(
    "asked",
    [{}, {"avoided": ["stripes"]}, {"disliked": ["apple"]}, {"liked": ["a"], "disliked": ["a"], "text": "x"}],
)
def test_a_wish_for_nothing_or_for_both_is_refused(asked: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match=r"give a photo, a text|both liked and disliked"):
        Wish(**asked)  # type: ignore[arg-type]


def test_what_is_not_combined_is_answered_as_ever(engine: QueryEngine, photos: list[Path]) -> None:
    for wish, expected in (
        (Wish(photos=photos[:1]), engine.search_image(photos[0], 3)),
        (Wish(text="a plum"), engine.search_text("a plum", 3)),
        (
            Wish(photos=photos[:1], text="a plum", text_weight=0.3),
            engine.search_mixed(photos[0], "a plum", 0.3, 3),
        ),
        (Wish(liked=["lime"]), engine.search_like("lime", 3)),
    ):
        answer = engine.search(wish, 3)
        assert answer.hits == expected.hits
        assert list(answer.milliseconds) == list(expected.milliseconds)


def test_a_wish_of_many_parts_is_one_exact_search(engine: QueryEngine, photos: list[Path]) -> None:
    wish = Wish(
        photos=photos, photo_weights=[2, 1], text="fruit", text_weight=0.25, avoided=["lime"],
        avoided_weight=0.4, liked=["apple"],
    )  # fmt: skip
    one, two = (unit(engine.encoder.embed_images([read_photo(path)])) for path in photos)
    fruit, lime = (unit(engine.encoder.embed_texts([text])) for text in ("fruit", "lime"))
    query = mix(unit(2 * one + two), fruit, 0.25)
    fingerprints = {s: engine.index.fingerprints_of([s])[0].astype(float) for s in ("apple", "lime", "plum")}
    query = unit(query + 0.75 * fingerprints["apple"])
    query = unit(query - 0.4 * lime)
    answer = engine.search(wish, 3)
    scores = {hit.sku_id: hit.score for hit in answer.hits}
    assert scores == pytest.approx({s: float(query[0] @ fingerprints[s]) for s in ("lime", "plum")})
    assert list(answer.milliseconds) == ["decode", "preprocess", "encode", "combine", "search"]
    assert (answer.verdict, answer.confidence) == (None, None)


def test_rated_skus_are_no_answers_and_filters_hold(engine: QueryEngine) -> None:
    assert ids(engine, Wish(liked=["apple", "plum"])) == ["lime"]
    assert ids(engine, Wish(text="x", disliked=["plum"])) in (["apple", "lime"], ["lime", "apple"])
    within = engine.index.where(colour=["red", "lime"])
    assert [hit.sku_id for hit in engine.search(Wish(text="x", disliked=["lime"]), 3, within).hits] == [
        "apple"
    ]
    with pytest.raises(UserError, match="SKU 'pear' is not in the index"):
        engine.search(Wish(text="x", liked=["pear"]), 3)
    with pytest.raises(UserError, match="top must be at least 1, got 0"):
        engine.search(Wish(text="x", liked=["apple"]), 0)


def test_the_weight_of_a_single_photo_is_checked_too(engine: QueryEngine, photos: list[Path]) -> None:
    with pytest.raises(UserError, match="2 weights for 1 photos"):
        engine.search(Wish(photos=photos[:1], photo_weights=[1, 2]), 3)
    with pytest.raises(UserError, match="weights of photos need photos"):
        Wish(text="x", photo_weights=[1])


def test_fingerprints_come_in_the_order_asked_from_any_segment(index: FingerprintIndex) -> None:
    grown = index.remove(["lime"]).add(
        index.fingerprints_of(["lime"]), index.skus.filter(index.skus["sku_id"] == "lime")
    )
    for order in (["plum", "lime", "apple"], ["lime", "lime"], []):
        expected = [index.skus["sku_id"].to_list().index(sku_id) for sku_id in order]
        assert grown.fingerprints_of(order).tolist() == index.fingerprints[expected].tolist()
