"""An index that is made from the version before it: it answers as one made whole, and shares its files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skufp_pipeline.search.files import Chunk, write_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.scan import unit_queries
from skufp_pipeline.search.update import write_updated

from .test_files import inodes
from .test_index import unit_rows

DIMENSION = 8
MODELS = {"encoder": "abc"}


class Catalogue:
    """SKUs with a fingerprint and a title each; `at_once` of them are read at a time."""

    def __init__(self, skus: int, at_once: int = 7) -> None:
        self.vectors = {f"{number:04d}": row for number, row in enumerate(unit_rows(skus, DIMENSION, 0))}
        self.titles = dict.fromkeys(self.vectors, "a title")
        self.at_once = at_once

    def change(self, sku_id: str, vector: NDArray[np.float32]) -> None:
        self.vectors[sku_id] = vector
        self.titles.setdefault(sku_id, "new")

    def remove(self, sku_id: str) -> None:
        del self.vectors[sku_id], self.titles[sku_id]

    @property
    def table(self) -> pl.DataFrame:
        tags = [[title, "x"] for title in self.titles.values()]
        return pl.DataFrame({"sku_id": [*self.vectors], "title": [*self.titles.values()], "tags": tags})

    @property
    def rows(self) -> NDArray[np.float32]:
        return np.stack([*self.vectors.values()])

    def chunks(self) -> Iterator[Chunk]:
        for begin in range(0, len(self.vectors), self.at_once):
            yield self.rows[begin : begin + self.at_once], self.table[begin : begin + self.at_once]

    def write(self, folder: Path, biases: NDArray[np.float32] | None = None) -> FingerprintIndex:
        folder.mkdir()
        write_index(folder, self.chunks(), MODELS, biases)
        return FingerprintIndex.load(folder)

    def update(
        self,
        folder: Path,
        before: Path,
        models: dict[str, str] = MODELS,
        biases: NDArray[np.float32] | None = None,
        rows: int = 1000,
    ) -> FingerprintIndex | None:
        folder.mkdir()
        given = self.table["sku_id"], self.chunks(), models, biases, rows
        return FingerprintIndex.load(folder) if write_updated(folder, before, *given) else None


def answers(index: FingerprintIndex, queries: NDArray[np.float32], k: int = 10) -> list[list[str]]:
    return [index.skus["sku_id"].gather(found.rows).to_list() for found in index.search(queries, k)]


def assert_answers_as_brute_force(index: FingerprintIndex, catalogue: Catalogue, queries: NDArray) -> None:
    """Compares rows and scores to the last bit: all scores in float64, by score and then by row."""
    rows = index.present.numbers()
    assert sorted(index.sku_ids) == sorted(catalogue.vectors)
    held = np.stack([catalogue.vectors[sku_id] for sku_id in index.sku_ids]).astype(np.float64)
    for query, found in zip(unit_queries(queries), index.search(queries, 12), strict=True):
        scores = (held * query).sum(axis=1)
        best = np.lexsort((rows, -scores))[:12]
        assert found.rows.tolist() == rows[best].tolist()
        assert found.scores.tolist() == scores[best].tolist()


def test_changed_new_and_removed_skus_are_found_as_in_an_index_made_whole(tmp_path: Path) -> None:
    catalogue, queries = Catalogue(40, at_once=20), unit_rows(9, DIMENSION, 5)
    catalogue.write(tmp_path / "old")
    moved, new, again = unit_rows(3, DIMENSION, 6)
    catalogue.change("0003", moved)
    catalogue.change("new", new)
    catalogue.change("0011", again)
    catalogue.titles["0020"] = "another title"
    catalogue.remove("0012")
    updated = catalogue.update(tmp_path / "new", tmp_path / "old")
    assert updated is not None
    whole = catalogue.write(tmp_path / "whole")
    assert answers(updated, queries, 40) == answers(whole, queries, 40)
    for mine, theirs in zip(updated.search(queries, 40), whole.search(queries, 40), strict=True):
        assert mine.scores.tolist() == theirs.scores.tolist()
    assert updated.contents()[1].sort("sku_id").equals(catalogue.table.sort("sku_id"))
    changed = updated.segments[-1].table.frame["sku_id"].to_list()
    assert changed == ["0003", "0011", "0020", "new"]
    assert updated.row_ids.is_null().sum() == 4  # rows of what was changed or removed


def test_what_has_not_changed_is_linked(tmp_path: Path) -> None:
    catalogue = Catalogue(40, at_once=20)
    old = catalogue.write(tmp_path / "old")
    catalogue.change("0003", unit_rows(1, DIMENSION, 6)[0])
    updated = catalogue.update(tmp_path / "new", tmp_path / "old")
    assert updated is not None
    assert [len(segment) for segment in updated.segments] == [20, 20, 1]
    for number in range(len(old.segments)):
        name = f"segment_{number:04d}"
        assert inodes(tmp_path / "new" / name) == inodes(tmp_path / "old" / name)
    unchanged = catalogue.update(tmp_path / "newer", tmp_path / "new")
    assert unchanged is not None
    assert unchanged.present.numbers().tolist() == updated.present.numbers().tolist()


def test_days_of_changes_with_ties_leave_few_segments_and_exact_answers(tmp_path: Path) -> None:
    """Each day half of the changed SKUs get the fingerprint of another SKU, so that scores tie."""
    draw, catalogue = np.random.default_rng(3), Catalogue(200, at_once=50)
    catalogue.write(tmp_path / "0")
    for day in range(1, 17):
        known = [*catalogue.vectors]
        for number, sku_id in enumerate(draw.choice(known, 6, replace=False)):
            tied = catalogue.vectors[known[int(draw.integers(len(known)))]]
            catalogue.change(sku_id, tied if number % 2 else unit_rows(1, DIMENSION, 100 * day + number)[0])
        catalogue.change(f"new {day}", catalogue.rows[day])
        catalogue.remove(str(draw.choice([*catalogue.vectors])))
        updated = catalogue.update(tmp_path / str(day), tmp_path / str(day - 1))
        if updated is None:  # by now more than a quarter of the rows are of what was changed
            updated = catalogue.write(tmp_path / f"whole{day}")
            (tmp_path / str(day)).rmdir()
            (tmp_path / f"whole{day}").rename(tmp_path / str(day))
            updated = FingerprintIndex.load(tmp_path / str(day))
        ties = catalogue.rows[[0, 5, day]]
        assert_answers_as_brute_force(
            updated, catalogue, np.concatenate([ties, unit_rows(9, DIMENSION, day)])
        )
        assert len(updated.segments) <= 5 + 4  # four and one of it made whole, and log2 of a day's additions


def test_biases_are_those_of_the_new_table(tmp_path: Path) -> None:
    catalogue = Catalogue(30)
    catalogue.write(tmp_path / "old")
    catalogue.change("new", unit_rows(1, DIMENSION, 6)[0])
    catalogue.remove("0001")
    biases = np.linspace(-1, 1, 30).astype(np.float32)
    biased = catalogue.update(tmp_path / "new", tmp_path / "old", biases=biases)
    assert biased is not None
    by_sku = dict(zip(catalogue.vectors, biases.tolist(), strict=True))
    held = biased.biases[biased.present.numbers()].tolist()
    assert dict(zip(biased.sku_ids, held, strict=True)) == by_sku
    without = catalogue.update(tmp_path / "newer", tmp_path / "new")
    assert without is not None
    assert not without.biases.any()


@pytest.mark.parametrize(
    "why", ["another model", "another column", "too much is new", "too much is gone", "damage"]
)
def test_a_version_that_can_not_be_built_upon_is_left_alone(tmp_path: Path, why: str) -> None:
    catalogue = Catalogue(40)
    catalogue.write(tmp_path / "old")
    models = MODELS
    if why == "another model":
        models = {"encoder": "def"}
    if why == "another column":
        (tmp_path / "old").rename(tmp_path / "older")
        (tmp_path / "old").mkdir()
        table = catalogue.table.with_columns(price=1.0)
        write_index(tmp_path / "old", [(catalogue.rows, table)], MODELS)
    for number in range(11):  # of 40 rows, more than a quarter
        if why == "too much is new":
            catalogue.change(f"new {number}", catalogue.rows[0])
        if why == "too much is gone":
            catalogue.remove(f"{number:04d}")
    if why == "damage":
        (tmp_path / "old" / "index.json").write_text("{}")
    assert catalogue.update(tmp_path / "new", tmp_path / "old", models) is None
    assert [*(tmp_path / "new").iterdir()] == []


def test_small_segments_are_joined_up_to_a_number_of_rows() -> None:
    index = FingerprintIndex(unit_rows(20, 4, 0), pl.DataFrame({"sku_id": [f"{n}" for n in range(20)]}))
    for number in range(4):
        index = index.add(
            unit_rows(4, 4, number + 1), pl.DataFrame({"sku_id": [f"{number}.{n}" for n in range(4)]})
        )
    index = index.remove(["0", "1.1", "3.0"])
    merged = index.merged(12)
    assert [len(segment) for segment in merged.segments] == [
        20,
        4,
        10,
    ]  # 3 and 4 and 3 rows; 4 more are too many
    assert merged.sku_ids.to_list() == index.sku_ids.to_list()
    assert [len(segment) for segment in index.merged(100).segments] == [33]
    assert [len(segment) for segment in index.merged(5).segments] == [
        len(segment) for segment in index.segments
    ]
    queries = unit_rows(5, 4, 9)
    assert answers(merged, queries) == answers(index.merged(100), queries) == answers(index, queries)
