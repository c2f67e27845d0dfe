"""What a candidate index is judged by, on indexes small enough to check by hand."""

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.search.index import FingerprintIndex, SearchResult
from skufp_pipeline.search.judging import QUERIES, coverage, recall_at_1, wrong_answers

EYE = np.eye(4, dtype=np.float32)
SKUS = pl.DataFrame({"sku_id": ["a", "b", "c", "d"]})


@pytest.fixture
def index() -> FingerprintIndex:
    return FingerprintIndex(EYE, SKUS)


def test_the_compiled_search_gives_brute_forces_answers() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = pl.DataFrame({"sku_id": [str(number) for number in range(500)]})
    index = FingerprintIndex(rows, ids)
    assert wrong_answers(index, 1) == 0
    assert wrong_answers(index.remove(["3", "4"]).with_biases(np.linspace(0, 1, 500)), 1) == 0


def test_answers_in_another_order_are_counted(
    index: FingerprintIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FingerprintIndex.search

    def swapped(self: FingerprintIndex, queries: np.ndarray, k: int) -> list[SearchResult]:
        return [SearchResult(np.roll(found.rows, 1), found.scores) for found in right(self, queries, k)]

    monkeypatch.setattr(FingerprintIndex, "search", swapped)
    assert wrong_answers(index, 1) == QUERIES


def test_recall_is_the_share_of_queries_whose_first_answer_is_right(index: FingerprintIndex) -> None:
    assert recall_at_1(index, EYE, pl.Series(["a", "b", "c", "a"])) == 0.75
    assert recall_at_1(index, EYE[:1], pl.Series(["gone"])) == 0.0


def test_without_queries_or_skus_there_is_no_recall(index: FingerprintIndex) -> None:
    assert recall_at_1(index, EYE[:0], pl.Series([], dtype=pl.String)) is None
    assert recall_at_1(index.remove(["a", "b", "c", "d"]), EYE[:1], pl.Series(["a"])) is None


def test_coverage_names_the_skus_that_can_not_be_found(index: FingerprintIndex) -> None:
    assert coverage(index, ["a", "b"]) == (1.0, [])
    assert coverage(index.remove(["b"]), ["a", "b", "x", "y"]) == (0.25, ["b", "x", "y"])
    assert coverage(index, []) == (1.0, [])
