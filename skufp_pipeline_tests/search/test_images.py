"""An index of pictures ranks products by their best picture, exactly; FAISS behind the same interface."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.approximate import FaissRows, flat_rows, load_hnsw, write_hnsw
from skufp_pipeline.search.images import ImageIndex, ImagesFile, finish, open_index, product_counts
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.judging import TOP, recall, wrong_answers
from skufp_pipeline.search.rows import Rows


def unit(rows: NDArray) -> NDArray[np.float32]:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def index_of(vectors: NDArray, owners: list[int]) -> ImageIndex:
    """Product 0 is `p0`, and so on."""
    rows = unit(vectors)
    pictures = FingerprintIndex(rows, pl.DataFrame({"sku_id": [f"picture {n}" for n in range(len(rows))]}))
    products = [f"p{number}" for number in range(max(owners) + 1)]
    kinds = ["odd" if number % 2 else "even" for number in range(len(products))]
    skus = pl.DataFrame({"sku_id": products, "kind": kinds})
    return ImageIndex.of_pictures(pictures, skus, np.array(owners))


def by_brute_force(index: ImageIndex, query: NDArray, k: int, rows: list[int]) -> list[tuple[int, float]]:
    """Scores every picture, takes each product's best, and sorts products by score, then row."""
    direction = query / np.abs(query).max()
    direction = direction / np.linalg.norm(direction)
    best: dict[int, float] = {}
    for vector, owner in zip(index.vectors.astype(np.float64), index.owners.tolist(), strict=True):
        best[owner] = max(best.get(owner, -np.inf), float((vector * direction).sum()))
    return sorted(((row, best[row]) for row in rows), key=lambda pair: (-pair[1], pair[0]))[:k]


def many(seed: int, products: int = 60, dimension: int = 12) -> ImageIndex:
    """Products of 1 to 9 pictures."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(products), rng.integers(1, 10, products)).tolist()
    return index_of(rng.standard_normal((len(owners), dimension)), owners)


def test_a_product_scores_what_its_best_picture_scores() -> None:
    index = index_of([[1, 0], [0, 1], [0.6, 0.8]], [0, 0, 1])
    (found,) = index.search(np.array([[0.0, 1.0]]), 2)
    assert found.rows.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([1.0, 0.8])


def test_products_of_equal_score_are_in_the_order_of_their_rows() -> None:
    index = index_of([[1, 0], [0, 1], [0, 1], [0, 1], [1, 0]], [0, 1, 2, 2, 2])
    assert index.best(np.array([0.0, 1.0]), 3)[0].tolist() == [[1, 2, 0]]
    assert index.best(np.array([1.0, 0.0]), 2)[0].tolist() == [[0, 2]]


@given(
    owners=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    values=st.integers(0, 2**32 - 1),
    k=st.integers(1, 15),
    even=st.booleans(),
)
def test_answers_are_those_of_brute_force_with_ties_and_filters(
    owners: list[int], values: int, k: int, even: bool
) -> None:
    rng = np.random.default_rng(values)
    rows = [number for number, count in enumerate(owners) for _ in range(count)]
    vectors = rng.integers(-1, 2, (len(rows), 3))  # few directions: many ties
    vectors[~vectors.any(axis=1)] = 1
    index = index_of(vectors, rows)
    within = index.where(kind="even") if even else None
    allowed = [row for row in range(len(owners)) if not even or row % 2 == 0]
    queries = rng.integers(-2, 3, (9, 3)) + 0.5  # a batch
    for query, found in zip(queries, index.search(queries, k, within), strict=True):
        expected = by_brute_force(index, query, k, allowed)
        assert found.rows.tolist() == [row for row, _ in expected]
        assert found.scores.tolist() == [score for _, score in expected]


def test_one_product_with_all_the_best_pictures_hides_no_other() -> None:
    near = np.array([[1, 0.001 * number] for number in range(1, 200)])
    index = index_of(np.concatenate([near, [[0, 1], [0.5, 0.5]]]), [0] * 199 + [1, 2])
    asked: list[int] = []

    class Counting:
        def best(self, queries: NDArray, k: int, within: Rows | None = None) -> tuple[NDArray, NDArray]:
            asked.append(k)
            return index.pictures.best(queries, k, within)

    index.engine = Counting()
    assert index.best(np.array([1.0, 0.0]), 3)[0].tolist() == [[0, 2, 1]]
    assert asked == [6, 12, 24, 48, 96, 192, 384]  # grown until three products are there; 399 would do


def test_removed_products_are_not_found_and_nothing_can_be_added() -> None:
    index = many(0)
    query = np.random.default_rng(1).standard_normal(12)
    first, second = index.best(query, 2)[0][0].tolist()
    fewer = index.remove([f"p{first}"])
    assert fewer.best(query, 1)[0].tolist() == [[second]]
    assert len(fewer) == len(index) - 1
    with pytest.raises(UserError, match="built as a whole"):
        index.add(index.fingerprints[:1], pl.DataFrame({"sku_id": ["new"], "kind": ["odd"]}))
    with pytest.raises(UserError, match="built as a whole"):
        index.with_biases(np.ones(60))


def test_a_product_is_liked_by_the_mean_of_its_pictures() -> None:
    index = index_of([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], [0, 0, 1, 2])
    assert index.fingerprints_of(["p0"])[0].tolist() == pytest.approx([0.5**0.5] * 2)
    assert index.search_like("p0", 2).rows.tolist() == [1, 2]


def test_scores_of_chosen_products_are_those_of_a_search() -> None:
    index, query = many(2), np.random.default_rng(3).standard_normal((1, 12))
    (found,) = index.search(query, 60)
    assert index.cosines(query, found.rows).tolist() == found.scores.tolist()


def test_a_saved_index_answers_the_same(tmp_path: Path) -> None:
    index, query = many(4), np.random.default_rng(5).standard_normal((3, 12))
    index.save(tmp_path)
    again = open_index(tmp_path)
    assert isinstance(again, ImageIndex)
    assert [found.rows.tolist() for found in again.search(query, 7)] == [
        found.rows.tolist() for found in index.search(query, 7)
    ]
    assert wrong_answers(again, seed=0) == 0


def test_a_bundle_whose_owners_do_not_fit_is_refused(tmp_path: Path) -> None:
    many(6).save(tmp_path)
    np.save(tmp_path / "images" / "owners.npy", np.zeros(5, np.int64))
    with pytest.raises(UserError, match=r"owners\.npy must count up .* materialize"):
        open_index(tmp_path)


def test_owners_count_up_without_gaps() -> None:
    assert product_counts(np.array([0, 0, 1]), 3).tolist() == [2, 1]
    for wrong in ([0, 2, 2], [1, 1, 2], [0, 1, 0], [-1, 0, 1]):
        with pytest.raises(ValueError, match="count up"):
            product_counts(np.array(wrong), 3)


# -- FAISS ---------------------------------------------------------------------------------------------------


def test_faiss_compares_all_rows_and_scores_them_as_the_exact_engine_does() -> None:
    index, queries = many(7), np.random.default_rng(8).standard_normal((20, 12))
    exact = index.best(queries, 10)
    index.engine = flat_rows(index.vectors)
    rows, scores = index.best(queries, 10)
    assert np.array_equal(rows, exact[0])
    assert np.array_equal(scores, exact[1])
    within = index.where(kind="odd")
    assert set(index.best(queries, 5, within)[0].ravel() % 2) == {1}


def test_hnsw_finds_most_and_its_graph_is_the_same_every_time(tmp_path: Path) -> None:
    index = many(9, products=200)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_hnsw(tmp_path / name, index.vectors, 8)
    one, two = ((tmp_path / name / "hnsw.faiss").read_bytes() for name in ("one", "two"))
    assert one == two
    exact = recall(index, seed=0)
    index.engine = load_hnsw(tmp_path / "one", index.vectors, 32)
    assert exact == 1.0
    assert 0.9 <= recall(index, seed=0) <= 1.0
    odd = index.best(np.random.default_rng(1).standard_normal((9, 12)), TOP, index.where(kind="odd"))[0]
    assert set(odd.ravel() % 2) == {1}


def test_where_faiss_finds_too_few_the_exact_engine_answers() -> None:
    index, query = many(10), np.random.default_rng(11).standard_normal((1, 12))
    exact = index.best(query, 10)[0].tolist()

    class Lost(FaissRows):
        def best(self, queries: NDArray, k: int, within: Rows | None = None) -> tuple[NDArray, NDArray]:
            return np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)

    index.engine = Lost(index.vectors, None)
    assert index.best(query, 10)[0].tolist() == exact


@pytest.mark.parametrize("engine", ["flat", "hnsw"])
def test_a_bundle_names_its_engine(engine: str, tmp_path: Path) -> None:
    index = many(12)
    index.file = ImagesFile.model_validate({"of": "reid", "engine": engine})
    index.save(tmp_path)
    again = open_index(tmp_path)
    assert isinstance(again, ImageIndex)
    assert isinstance(again.engine, FaissRows)
    assert json.loads((tmp_path / "images.json").read_text())["engine"] == engine
    assert recall(again, seed=0) > 0.9


def test_a_graph_of_other_rows_is_refused(tmp_path: Path) -> None:
    index = many(13)
    index.save(tmp_path)
    finish(tmp_path, index.vectors[:5], index.owners, ImagesFile(of="reid", engine="hnsw"))
    with pytest.raises(UserError, match="is of 5 rows of 12 dimensions"):
        open_index(tmp_path)


def test_without_faiss_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = many(14)
    index.file = ImagesFile(of="reid", engine="flat")
    index.save(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match=r"skufp-pipeline\[export\].*image_index\.engine to exact"):
        open_index(tmp_path)
