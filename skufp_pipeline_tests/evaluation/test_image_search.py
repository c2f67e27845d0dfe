"""Figures of systems on the same photos: four photos of two products, small enough to check by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.evaluation.chain import BOX, PHOTO, Judged
from skufp_pipeline.evaluation.image_search import figures_of, headline, index_bytes, markdown_tables
from skufp_pipeline.measures.ranks import UNRANKED

SKUS = np.array(["a", "a", "b", "b"])


def judged(
    system: str, ranks: list[int], over: str | None = None, ms: float = 1.0, asked: str = BOX
) -> Judged:
    times = ms * np.array([1.0, 2.0, 3.0, 4.0])
    return Judged(system, asked, "seen+zero", SKUS, np.array(ranks), times, over)


@pytest.fixture(scope="module")
def figures() -> pl.DataFrame:
    found = [
        (judged("fingerprint", [1, 2, UNRANKED, 4]), 100),
        (judged("reid", [1, 1, 1, 6], "fingerprint", 3), 2_000_000),
        (judged("pictures", [1, 3, 3, 6]), 10),
        (judged("pictures", [2, 2, 2, 2], asked=PHOTO), 10),
        (judged("best item", [1, 2, 1, 2], "pictures", asked=PHOTO)._replace(off=True), 10),
    ]
    return figures_of(found, 200, 0)


def test_recall_counts_the_photos_whose_product_is_among_the_first(figures: pl.DataFrame) -> None:
    columns = ["recall@1", "recall@3", "recall@5", "recall@10"]
    assert figures.select(columns).rows() == [
        (0.25, 0.5, 0.75, 0.75),
        (0.75, 0.75, 0.75, 1),
        (0.25, 0.75, 0.75, 1),
        (0, 1, 1, 1),
        (0.5, 1, 1, 1),
    ]
    first = figures.row(0, named=True)
    assert (first["recall@1_low"], first["recall@1_high"]) == (0, 0.5)  # of b, b or a, a


def test_a_gain_is_paired_with_the_system_that_was_asked_the_same(figures: pl.DataFrame) -> None:
    rows = {(row["system"], row["asked"]): row for row in figures.to_dicts()}
    assert rows["fingerprint", BOX]["gain"] is None
    reid = rows["reid", BOX]
    assert (reid["gain"], reid["gain_low"], reid["gain_high"]) == (0.5, 0.5, 0.5)  # one photo of each product
    assert reid["added_ms"] == 5  # 3 x 2.5 - 2.5
    assert rows["best item", PHOTO]["gain"] == 0.5  # not over the pictures asked with boxes


def test_the_tables_say_what_is_off_and_what_leaves_out_zero(figures: pl.DataFrame) -> None:
    told = markdown_tables(figures)
    assert "best item (off)" in told
    assert "+0.500 [+0.500, +0.500]*" in told
    assert told.count("| Method") == 3
    assert headline(figures) == {"fingerprint": 0.25, "reid": 0.75, "pictures": 0.25}


def test_bytes_are_those_of_vectors_codes_and_ids(tmp_path: Path) -> None:
    for name, size in {
        "pictures.arrow": 1000,
        "segment_0000/fingerprints.npy": 3,
        "images/segment_0000/fingerprints.npy": 40,
        "images/segment_0000/skus.arrow": 5,
        "images/owners.npy": 7,
        "texts/images/segment_0000/fingerprints.npy": 100,
        "lexical/words": 1000,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * size)
    assert index_bytes(tmp_path) == 52
    assert index_bytes(tmp_path, ["texts"]) == 152
    assert index_bytes(tmp_path / "images") == 52
