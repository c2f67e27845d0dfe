"""What is exported finds, in the other program, what the index itself finds."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.export import COLLECTION, FORMATS, export_fingerprints
from skufp_pipeline.search.index import FingerprintIndex

SKUS, DIMENSION = 300, 24


@pytest.fixture
def many() -> FingerprintIndex:
    rows = np.random.default_rng(0).standard_normal((SKUS, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"sku-{number:03d}-é" for number in range(SKUS)]
    skus = pl.DataFrame({"sku_id": names, "split": "train", "category_name": None, "num_views": 3})
    return FingerprintIndex(rows.astype(np.float32), skus)


def best_rows(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def ask_parquet(folder: Path, queries: np.ndarray) -> list[list[str]]:
    table = pl.read_parquet(folder / "fingerprints.parquet")
    return [
        table["sku_id"][row].to_list() for row in best_rows(queries @ embedding_rows(table, "fingerprint").T)
    ]


def ask_numpy(folder: Path, queries: np.ndarray) -> list[list[str]]:
    ids = json.loads((folder / "sku_ids.json").read_text())
    rows = np.load(folder / "fingerprints.npy", allow_pickle=False)
    assert rows.dtype == np.float32
    return [[ids[row] for row in best] for best in best_rows(queries @ rows.T)]


def ask_faiss(folder: Path, queries: np.ndarray) -> list[list[str]]:
    faiss = pytest.importorskip("faiss", reason="needs the extra `export`")
    ids = json.loads((folder / "sku_ids.json").read_text())
    index = faiss.read_index(str(folder / "fingerprints.faiss"))
    assert isinstance(index, faiss.IndexFlatIP)
    return [[ids[row] for row in best] for best in index.search(queries, 10)[1]]


def ask_qdrant(folder: Path, queries: np.ndarray) -> list[list[str]]:
    qdrant = pytest.importorskip("qdrant_client", reason="needs the extra `export`")
    client = qdrant.QdrantClient(path=str(folder))
    try:
        answers = [client.query_points(COLLECTION, query=query.tolist(), limit=10) for query in queries]
        assert answers[0].points[0].payload["num_views"] == 3
        return [[point.payload["sku_id"] for point in answer.points] for answer in answers]
    finally:
        client.close()


READERS = {"parquet": ask_parquet, "numpy": ask_numpy, "faiss": ask_faiss, "qdrant": ask_qdrant}
LIBRARIES = {"faiss": "faiss", "qdrant": "qdrant_client"}


def test_every_format_is_read_back_here() -> None:
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize(("name", "ask"), READERS.items())
def test_another_program_finds_the_same_ten(
    many: FingerprintIndex, tmp_path: Path, name: str, ask: Callable[[Path, np.ndarray], list[list[str]]]
) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason="needs the extra `export`")
    written = export_fingerprints(many, name, tmp_path / "out")
    assert written
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    queries = np.random.default_rng(1).standard_normal((20, DIMENSION)).astype(np.float32)
    mine = [many.skus["sku_id"][answer.rows].to_list() for answer in many.search(queries, 10)]
    assert ask(tmp_path / "out", queries) == mine


@pytest.mark.parametrize("name", ["parquet", "numpy", "faiss"])
def test_the_same_index_is_the_same_bytes(many: FingerprintIndex, tmp_path: Path, name: str) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason="needs the extra `export`")
    for folder in ("one", "two"):
        export_fingerprints(many, name, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_an_index_without_skus_can_be_exported(many: FingerprintIndex, tmp_path: Path, name: str) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason="needs the extra `export`")
    empty = FingerprintIndex(many.fingerprints[:0], many.skus[:0])
    assert export_fingerprints(empty, name, tmp_path / "out")


@pytest.mark.parametrize(("name", "library"), LIBRARIES.items())
def test_a_missing_library_is_told_with_the_extra_that_has_it(
    many: FingerprintIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"is not installed: pip install 'skufp-pipeline\[export\]'"):
        export_fingerprints(many, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(many: FingerprintIndex, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        export_fingerprints(many, "numpy", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_format_nobody_knows_is_told(many: FingerprintIndex, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown format 'milvus': expected one of parquet, numpy"):
        export_fingerprints(many, "milvus", tmp_path / "out")


def test_biases_are_exported_as_a_last_dimension_in_which_a_query_is_1(
    many: FingerprintIndex, tmp_path: Path
) -> None:
    biased = many.with_biases(np.linspace(-0.3, 0.3, SKUS))
    export_fingerprints(biased, "numpy", tmp_path / "out")
    queries = np.random.default_rng(1).standard_normal((5, DIMENSION))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = ask_numpy(tmp_path / "out", np.column_stack([queries, np.ones(5)]))
    expected = [biased.skus["sku_id"][result.rows].to_list() for result in biased.search(queries, 10)]
    assert found == expected
