"""Latency of queries, one at a time and by stage (paper, Appendix A: p95 and mean)."""

import itertools
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.evaluation.report import GalleryTimes, Times

CPUINFO = Path("/proc/cpuinfo")


def samples_ms(
    function: Callable[[], Any], repeats: int = 100, warmup: int = 5, queries_per_call: int = 1
) -> list[float]:
    """Milliseconds per query of each of `repeats` calls, after `warmup` untimed calls.

    Warm-up covers caches, thread pools and lazy imports. A call's time is divided by `queries_per_call`.

    Raises:
        ValueError: `repeats` or `queries_per_call` is below 1.
    """
    if repeats < 1 or queries_per_call < 1:
        raise ValueError(
            f"repeats and queries_per_call must be at least 1, found {repeats}, {queries_per_call}"
        )
    for _ in range(warmup):
        function()
    samples = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        function()
        samples.append((time.perf_counter_ns() - begin) / 1e6 / queries_per_call)
    return samples


def statistics_ms(samples: Sequence[float]) -> dict[str, float]:
    """p50_ms, p95_ms and mean_ms of times in milliseconds: the fields of `report.Times`."""
    p50, p95 = np.quantile(samples, [0.5, 0.95])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "mean_ms": float(np.mean(samples))}


def gallery_latency(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], owner: NDArray[np.int64], batch: int
) -> GalleryTimes:
    """Time to find the ten best SKUs for a query embedding, by the same search for every gallery.

    A float32 product of the queries with every row, the maximum over the rows of a SKU where it has
    several (App. B), and a partial sort: what the paper times. Exact, on `torch.get_num_threads()` threads.

    Args:
        queries: (Q, D), timed one after the other.
        vectors: (S, D) gallery rows, those of one SKU adjacent.
        owner: (S,) the SKU of each row, 0, 1, 2, ... without gaps.
        batch: queries answered at once in `batched`.
    """
    gallery = torch.from_numpy(np.ascontiguousarray(vectors.T))
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    single_queries = itertools.cycle(torch.from_numpy(queries).split(1))
    batch_queries = torch.from_numpy(np.resize(queries, (batch, queries.shape[1])))
    single = samples_ms(lambda: best_skus(next(single_queries), gallery, starts), len(queries))
    batched = samples_ms(lambda: best_skus(batch_queries, gallery, starts), 30, 3, batch)
    return GalleryTimes(**statistics_ms(single), batched=Times(batch=batch, **statistics_ms(batched)))


def best_skus(
    queries: Tensor, gallery: Tensor, starts: NDArray[np.int64], top: int = 10
) -> NDArray[np.int64]:
    """(Q, top) SKUs, best first, of queries (Q, D) in a gallery (D, S).

    The columns of one SKU are adjacent; `starts` (N,) holds the first column of each SKU.
    """
    scores = (queries @ gallery).numpy()
    if len(starts) < scores.shape[1]:
        scores = np.maximum.reduceat(scores, starts, axis=1)
    top = min(top, scores.shape[1])
    best = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model from `cpuinfo`, else from `platform`."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"
