"""How long a query takes, stage by stage, one at a time (paper, Appendix A: p95 and mean)."""

import itertools
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPUINFO = Path("/proc/cpuinfo")


def measure(
    stage_functions: Mapping[str, Callable[[], Any]],
    repeats: int = 100,
    warmup: int = 5,
    queries_per_call: int = 1,
) -> dict[str, dict[str, Any]]:
    """Time each stage on its own.

    Args:
        stage_functions: by stage name, a call that does that stage once.
        repeats: timed calls per stage.
        warmup: calls before them that are not timed (caches, thread pools, lazy imports).
        queries_per_call: how many queries one call answers; times are divided by it.

    Returns:
        By stage: p50_ms, p95_ms, mean_ms and samples_ms (`repeats` of them), all per query.

    Raises:
        ValueError: nothing would be timed.
    """
    if repeats < 1 or queries_per_call < 1:
        raise ValueError(
            f"repeats and queries_per_call must be at least 1, found {repeats}, {queries_per_call}"
        )
    return {
        stage: statistics_ms(_samples_ms(function, repeats, warmup, queries_per_call))
        for stage, function in stage_functions.items()
    }


def gallery_latency(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], owner: NDArray[np.int64], batch: int
) -> dict[str, Any]:
    """How long any gallery takes to give its ten best SKUs for a query embedding, found the same way for all.

    A float32 product of the queries with every row, the maximum over the rows of a SKU where it has
    several (App. B), and a partial sort: what the paper times. Exact, on `torch.get_num_threads()` threads.

    Args:
        queries: (Q, D), asked in turn.
        vectors: (S, D) gallery rows, those of one SKU side by side.
        owner: (S,) the SKU of each row, 0, 1, 2, ... without gaps.
        batch: queries answered at once in `batched`.

    Returns:
        p50_ms, p95_ms and mean_ms of one query at a time, and under `batched` the same per query of a batch.
    """
    gallery = torch.from_numpy(np.ascontiguousarray(vectors.T))
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    turns = itertools.cycle(torch.from_numpy(queries).split(1))
    many = torch.from_numpy(np.resize(queries, (batch, queries.shape[1])))
    single = measure({"search": lambda: best_skus(next(turns), gallery, starts)}, len(queries))["search"]
    batched = measure({"search": lambda: best_skus(many, gallery, starts)}, 30, 3, batch)["search"]
    return {**_without_samples(single), "batched": {"batch": batch, **_without_samples(batched)}}


def best_skus(
    queries: Tensor, gallery: Tensor, starts: NDArray[np.int64], top: int = 10
) -> NDArray[np.int64]:
    """(Q, top) SKUs, best first.

    Args:
        queries: (Q, D).
        gallery: (D, S), the rows of one SKU side by side.
        starts: (N,) the first row of each SKU.
    """
    scores = (queries @ gallery).numpy()
    if len(starts) < scores.shape[1]:
        scores = np.maximum.reduceat(scores, starts, axis=1)
    top = min(top, scores.shape[1])
    best = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def latency_summary(
    stages: Mapping[str, Mapping[str, Any]],
    threads: int,
    batched: Mapping[str, Any] | None = None,
    batch: int = 64,
) -> dict[str, Any]:
    """The report's latency entry, without the raw samples.

    Args:
        stages: what `measure` returned for one query at a time.
        threads: threads the stages could use.
        batched: `measure`'s entry for the search with `queries_per_call=batch`.
        batch: queries answered at once in it.
    """
    summary: dict[str, Any] = {
        "threads": threads,
        "processor": processor_name(),
        "stages": {stage: _without_samples(values) for stage, values in stages.items()},
    }
    if batched is not None:
        summary["search_batched"] = {"batch": batch, **_without_samples(batched)}
    return summary


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model as Linux names it, else as Python knows it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _samples_ms(function: Callable[[], Any], repeats: int, warmup: int, queries: int) -> list[float]:
    for _ in range(warmup):
        function()
    samples = []
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        function()
        samples.append((time.perf_counter_ns() - begin) / 1e6 / queries)
    return samples


def statistics_ms(samples_ms: list[float]) -> dict[str, Any]:
    """p50_ms, p95_ms, mean_ms of per-query times in milliseconds, and the times themselves."""
    p50, p95 = np.quantile(samples_ms, [0.5, 0.95])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "mean_ms": float(np.mean(samples_ms)),
        "samples_ms": samples_ms,
    }


def _without_samples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "samples_ms"}
