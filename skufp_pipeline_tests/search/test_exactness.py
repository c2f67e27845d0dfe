"""The search is held against float64 brute force on data made to break it."""

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search import scan
from skufp_pipeline.search.codes import encode
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.kernels.threads import BARRIER
from skufp_pipeline.search.scan import unit_queries

DIMENSIONS = (1, 3, 7, 17, 100, 513)


def make_index(rows: NDArray[np.floating], threads: int = 2) -> FingerprintIndex:
    rows = np.asarray(rows, dtype=np.float32)
    return FingerprintIndex(rows, pl.DataFrame({"sku_id": np.arange(len(rows))}), threads=threads)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def assert_exact(index: FingerprintIndex, queries: NDArray[np.floating], k: int) -> None:
    """Rows and scores of a batch and of single queries, bit by bit."""
    wide = index.fingerprints.astype(np.float64)
    found = index.search(queries, k)
    for query, result in zip(unit_queries(queries), found, strict=True):
        scores = (wide * query).sum(axis=1)
        order = np.lexsort((np.arange(len(index)), -scores))[:k]
        np.testing.assert_array_equal(result.rows, order)
        np.testing.assert_array_equal(result.scores, scores[order])
    for query, result in zip(queries[:3], found, strict=False):
        (alone,) = index.search(query, k)
        np.testing.assert_array_equal(alone.rows, result.rows)
        np.testing.assert_array_equal(alone.scores, result.scores)


@st.composite
def hard_data(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """Fingerprints, queries and K: duplicates, near-ties, zeros, heavy tails, denormals, in any mixture."""
    dimension = draw(st.sampled_from(DIMENSIONS))
    count = draw(st.sampled_from([1, 2, 5, 63, 64, 65, 130, 700]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tail = rng.standard_normal(dimension) * np.where(rng.random(dimension) < 0.1, 1e3, 1.0)
    pools = {
        "random": rng.standard_normal((count, dimension)),
        "heavy": rng.standard_t(1, (count, dimension)) * tail,
        "one_hot": np.eye(dimension)[rng.integers(0, dimension, count)],
        "grid": rng.integers(-2, 3, (count, dimension)).astype(float),
        "equal": np.tile(rng.standard_normal(dimension), (count, 1)),
        "zero": np.zeros((count, dimension)),
    }
    kinds = draw(st.lists(st.sampled_from(sorted(pools)), min_size=1, max_size=3))
    rows = unit(np.choose(rng.integers(0, len(kinds), count)[:, None], [pools[kind] for kind in kinds]))
    if draw(st.booleans()):  # a rounding error away from another row
        near = rows[rng.integers(0, count, count)]
        rows = np.where(
            rng.random((count, 1)) < 0.5, near + rng.integers(-1, 2, near.shape) * np.spacing(near), rows
        )
    if draw(st.booleans()):
        rows = np.where(rng.random(rows.shape) < 0.2, np.float32(1e-42), rows)
    queries = rng.standard_normal((draw(st.sampled_from([1, 3, 4, 17])), dimension))
    queries[0] = rows[rng.integers(0, count)].astype(np.float64) * draw(
        st.sampled_from([0.0, 1e-300, 1.0, 1e300])
    )
    return rows.astype(np.float32), queries, draw(st.sampled_from([1, 2, 10, count, count + 7]))


@settings(deadline=None, max_examples=200)
@given(hard_data())
def test_it_equals_brute_force_bit_by_bit(
    data: tuple[NDArray[np.float32], NDArray[np.float64], int],
) -> None:
    rows, queries, k = data
    assert_exact(make_index(rows), queries, k)


@pytest.mark.parametrize("dimension", [*DIMENSIONS, 128, 512])
@pytest.mark.parametrize("count", [1, 64, 1000])
def test_any_dimension_and_any_number_of_rows(dimension: int, count: int) -> None:
    rng = np.random.default_rng(dimension)
    queries = rng.standard_normal((70, dimension))
    assert_exact(make_index(unit(rng.standard_normal((count, dimension)))), queries, 10)


@pytest.mark.parametrize("outlier", [10.0, 1e4])
def test_dimensions_that_dwarf_all_others_do_no_harm(outlier: float) -> None:
    rng = np.random.default_rng(0)
    scale = np.ones(96)
    scale[[5, 60]] = outlier
    index = make_index(unit(rng.standard_normal((3000, 96)) * scale))
    assert_exact(index, rng.standard_normal((20, 96)) / scale, 10)
    assert_exact(index, rng.standard_normal((20, 96)) * scale, 10)


def test_rows_all_alike_come_in_their_order() -> None:
    rows = np.tile(unit(np.ones((1, 40))), (5000, 1))
    (result,) = make_index(rows).search(np.ones(40), 10)
    assert result.rows.tolist() == list(range(10))


def test_a_common_direction_does_not_hide_the_differences() -> None:
    rng = np.random.default_rng(0)
    rows = unit(20 + rng.standard_normal((4000, 64)))
    assert_exact(make_index(rows), 20 + rng.standard_normal((9, 64)), 20)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even small searches use every thread, for the scan and for what follows."""
    monkeypatch.setattr(scan, "TOGETHER", 0)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    rng = np.random.default_rng(0)
    assert_exact(
        make_index(unit(rng.standard_normal((9000, 24))), threads), rng.standard_normal((80, 24)), 10
    )


@pytest.mark.parametrize("together", [0, 1 << 40])
def test_several_threads_may_search_at_once(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(scan, "TOGETHER", together)
    rng = np.random.default_rng(0)
    index, queries = make_index(unit(rng.standard_normal((5000, 32)))), rng.standard_normal((40, 32))
    expected = [result.rows.tolist() for result in index.search(queries, 10)]
    wrong: list[int] = []

    def ask(first: int) -> None:
        for turn in range(150):
            one = (first + turn) % 40
            if index.search(queries[one], 10)[0].rows.tolist() != expected[one]:
                wrong.append(one)
            if turn % 30 == 0 and [r.rows.tolist() for r in index.search(queries, 10)] != expected:
                wrong.append(-1)

    threads = [threading.Thread(target=ask, args=(7 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def words(allowed: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A bit for each row, as the search takes them."""
    padded = np.zeros(-(-len(allowed) // 64) * 64, bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint64)


@settings(deadline=None, max_examples=150)
@given(hard_data(), st.sampled_from([0.0, 0.002, 0.05, 0.5, 1.0]), st.booleans(), st.integers(0, 2**32))
def test_only_allowed_rows_are_found_and_biases_are_added(
    data: tuple[NDArray[np.float32], NDArray[np.float64], int], share: float, biased: bool, seed: int
) -> None:
    rows, queries, k = data
    k, rng = min(k, len(rows)), np.random.default_rng(seed)
    allowed = rng.random(len(rows)) < share
    biases = (rng.choice([0.01, 1.0, 1e3]) * rng.standard_normal(len(rows)) * biased).astype(np.float32)
    scanner = scan.Scanner(rows, encode(rows, 1), 2, biases if biased else None)
    for batch in (queries, queries[:1]):
        found, scores = scanner.best(batch, k, words(allowed))
        for line, query in enumerate(unit_queries(batch)):
            exact = (rows.astype(np.float64) * query).sum(axis=1) + biases
            order = np.lexsort((np.arange(len(rows)), -exact))
            expected = order[allowed[order]][:k]
            missing = k - len(expected)
            np.testing.assert_array_equal(found[line], np.append(expected, [-1] * missing))
            np.testing.assert_array_equal(scores[line], np.append(exact[expected], [-np.inf] * missing))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("share", [0.0005, 0.02, 0.6])
def test_filters_are_exact_at_a_size_where_threads_share(share: float) -> None:
    rng = np.random.default_rng(0)
    rows, queries = unit(rng.standard_normal((20_000, 24))), rng.standard_normal((70, 24))
    allowed, biases = rng.random(20_000) < share, rng.standard_normal(20_000).astype(np.float32) / 20
    scanner = scan.Scanner(rows, encode(rows, 2), 2, biases)
    exact = np.stack([(rows.astype(np.float64) * query).sum(axis=1) for query in unit_queries(queries)])
    exact = np.where(allowed, exact + biases, -np.inf)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    for found, _ in (scanner.best(queries, 10, words(allowed)),):
        kept = np.where(np.isneginf(np.take_along_axis(exact, order, axis=1)), -1, order)
        np.testing.assert_array_equal(found, kept)
        alone = np.concatenate([scanner.best(query[None], 10, words(allowed))[0] for query in queries[:5]])
        np.testing.assert_array_equal(alone, kept[:5])


def test_warm_up_compiles_what_helpers_run() -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((300, 24)))
    scanner = scan.Scanner(rows, encode(rows, 1), 1)
    for count in (1, 5):
        scanner.best(rng.standard_normal((count, 24)), 3)
    scanner.warm_up()
    for helped in (scan.single.help_one, scan.batch.help_many):
        assert len(helped.signatures) == 1  # one type of every array, whether made or mapped
    scanner.best(rng.standard_normal((1, 24)), 3)


@pytest.mark.parametrize("count", [1, 5])
def test_a_search_leaves_alone_what_a_thread_is_still_in(count: int) -> None:
    rng = np.random.default_rng(0)
    rows, queries = unit(rng.standard_normal((300, 24))), rng.standard_normal((count, 24))
    scanner = scan.Scanner(rows, encode(rows, 1), 1)
    expected = scanner.best(queries, 3)[0].tolist()
    kept = scanner._one if count == 1 else scanner._many
    (busy,) = kept
    busy.counts[BARRIER] = 1
    for _ in range(2):
        assert scanner.best(queries, 3)[0].tolist() == expected
        assert kept[0] is busy
        assert len(kept) == 2
    busy.counts[BARRIER] = 0
    kept.pop()
    scanner.best(queries, 3)
    assert kept == [busy]


def test_a_result_is_not_overwritten_by_the_next_search() -> None:
    rng = np.random.default_rng(0)
    index = make_index(unit(rng.standard_normal((500, 16))))
    (first,) = index.search(rng.standard_normal(16), 5)
    before = first.rows.tolist()
    index.search(rng.standard_normal((10, 16)), 5)
    assert first.rows.tolist() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_fingerprint_that_is_none_is_refused(bad: float) -> None:
    rows = unit(np.random.default_rng(0).standard_normal((10, 4)))
    rows[3, 1] = bad
    with pytest.raises(UserError, match="materialize fingerprints again"):
        make_index(rows)


def test_a_bundle_without_codes_is_told(tmp_path: Path) -> None:
    make_index(unit(np.ones((5, 4)))).save(tmp_path)
    (tmp_path / "segment_0000" / "codes.json").unlink()
    with pytest.raises(UserError, match=r"codes.json.*; materialize search_index"):
        FingerprintIndex.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["codes_high.npy", "codes_low.npy", "codes_bounds.npy", "codes_rotation.npy"]
)
def test_codes_of_other_fingerprints_are_told(tmp_path: Path, name: str) -> None:
    for folder, count, dimension in (("one", 5, 4), ("two", 100, 200)):
        (tmp_path / folder).mkdir()
        make_index(unit(np.ones((count, dimension)))).save(tmp_path / folder)
    (tmp_path / "two" / "segment_0000" / name).replace(tmp_path / "one" / "segment_0000" / name)
    with pytest.raises(UserError, match=f"can't be read: {name} holds"):
        FingerprintIndex.load(tmp_path / "one")


def test_a_loaded_index_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = make_index(unit(rng.standard_normal((777, 100))))
    index.save(tmp_path)
    loaded = FingerprintIndex.load(tmp_path)
    assert not loaded.segments[0].coded.codes.high.flags.owndata
    assert_exact(loaded, rng.standard_normal((33, 100)), 12)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_that_reaches_a_floor_is_found(threads: int) -> None:
    """A floor that equals a score keeps its rows; above all scores there is nothing to find."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((700, 16)))
    rows[500:540] = rows[3]  # ties
    scanner = scan.Scanner(rows, encode(rows, 1), threads)
    for query in (rows[3].astype(np.float64), *rng.standard_normal((5, 16))):
        (best,), (scores,) = scanner.best(query[None], 60)
        above = np.nextafter(scores[[0, 20]], np.inf)
        for floor in (scores[0], scores[20], *above, -np.inf):
            (found,), (of_found,) = scanner.best(query[None], 60, floors=np.array([floor]))
            reached = int((scores >= floor).sum())
            assert found[:reached].tolist() == best[:reached].tolist()
            assert of_found[:reached].tolist() == scores[:reached].tolist()
