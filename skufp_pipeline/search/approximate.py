"""FAISS as the engine of an image index, behind the same `best` as the exact one.

FAISS chooses candidates in float32; they are scored and ordered as the exact engine does, so that equal rows
tie and a row has one score. `flat` (IndexFlatIP) compares all rows, so it misses at most rows that float32
can't tell apart; `hnsw` (IndexHNSWFlat, Malkov and Yashunin, arXiv 1603.09320) misses some.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.search.scan import unit_queries

FLAT: Literal["flat"] = "flat"
HNSW: Literal["hnsw"] = "hnsw"
HNSW_FILE = "hnsw.faiss"


def faiss() -> Any:
    """Returns the library; raises UserError if it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            "this index is searched by FAISS, which is not installed: pip install 'skufp-pipeline[export]', "
            "or set image_index.engine to exact"
        ) from error


@dataclass(frozen=True)
class FaissRows:
    """Rows that FAISS searches.

    Attributes:
        vectors: (N, D) float32 unit rows; may be memory-mapped.
        searched: FAISS's index of them.
        breadth: candidates that HNSW keeps while it searches; None for `flat`.
    """

    vectors: NDArray[np.float32]
    searched: Any
    breadth: int | None = None

    def best(
        self, queries: NDArray[np.floating], k: int, within: Rows | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns rows and scores of the best, (Q, k) each; -1 and -inf where fewer are found."""
        asked = unit_queries(queries)
        rows = np.full((len(asked), k), -1, np.int64)
        found = self.searched.search(
            np.ascontiguousarray(asked, np.float32), min(k, len(self.vectors)), params=self._params(k, within)
        )[1]
        rows[:, : found.shape[1]] = found
        scores = np.full(rows.shape, -np.inf)
        for query, mine, scored in zip(asked, rows, scores, strict=True):
            there = mine >= 0
            scored[there] = (self.vectors[mine[there]].astype(np.float64) * query).sum(axis=1)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def _params(self, k: int, within: Rows | None) -> Any:
        library = faiss()
        selector = None
        if within is not None:
            mask = np.zeros(len(self.vectors), bool)
            mask[within.numbers()] = True
            selector = library.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        chosen = {} if selector is None else {"sel": selector}
        if self.breadth is None:
            return library.SearchParameters(**chosen)
        return library.SearchParametersHNSW(efSearch=max(self.breadth, k), **chosen)


def flat_rows(vectors: NDArray[np.float32]) -> FaissRows:
    """Returns rows that FAISS compares one by one."""
    searched = faiss().IndexFlatIP(vectors.shape[1])
    searched.add(np.ascontiguousarray(vectors))
    return FaissRows(vectors, searched)


def write_hnsw(directory: Path, vectors: NDArray[np.float32], neighbours: int) -> None:
    """Builds HNSW's graph on one thread, so that its bytes are the same every time, and writes it."""
    library = faiss()
    threads = library.omp_get_max_threads()
    graph = library.IndexHNSWFlat(vectors.shape[1], neighbours, library.METRIC_INNER_PRODUCT)
    library.omp_set_num_threads(1)
    try:
        graph.add(np.ascontiguousarray(vectors))
    finally:
        library.omp_set_num_threads(threads)
    library.write_index(graph, str(directory / HNSW_FILE))


def load_hnsw(directory: Path, vectors: NDArray[np.float32], breadth: int) -> FaissRows:
    """Opens a graph of these rows; raises UserError if it can't be read, or is of others."""
    library, path = faiss(), directory / HNSW_FILE
    try:
        graph = library.read_index(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} can't be read: {in_a_line(error)}; materialize the index again") from error
    if (graph.ntotal, graph.d) != vectors.shape:
        raise UserError(
            f"{path} is of {graph.ntotal} rows of {graph.d} dimensions, the index has {vectors.shape}; "
            "materialize the index again"
        )
    return FaissRows(vectors, graph, breadth)
