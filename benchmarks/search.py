"""How fast the exact search is beside others, in one process, in turns: `make bench`, or

python benchmarks/search.py --n 21190 --json search.json --plot search.png

Every engine holds the same fingerprints and answers the same queries, for a quarter of a second before it is
the next engine's turn, so that whatever else the machine does hits all alike; the first call of a turn is not
counted. Results are held against float64 brute force. Engines whose library is not installed are left out.
"""

import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skufp_pipeline.compute import cores_available

THREADS = cores_available()
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import click  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from skufp_pipeline.errors import UserError  # noqa: E402
from skufp_pipeline.evaluation.latency import processor_name, statistics_ms  # noqa: E402
from skufp_pipeline.presets import load_preset  # noqa: E402
from skufp_pipeline.search.bundle import current_index  # noqa: E402
from skufp_pipeline.search.index import FingerprintIndex  # noqa: E402
from skufp_pipeline.search.kernels.compiled import compiled  # noqa: E402
from skufp_pipeline.search.kernels.simd import BYTES, add_products, load, total, zeros  # noqa: E402
from skufp_pipeline.search.scan import unit_queries  # noqa: E402
from skufp_pipeline.store import ArtifactStore  # noqa: E402

SIZES, BATCHES = (21_190, 100_000, 1_000_000), (1, 64)
QUERIES = 256
CHANGED = 1_000  # SKUs that are added and removed
VERSIONS = ("load_s", "add_s", "add_save_s", "remove_s", "remove_save_s")
TURN_S, TURN_CALLS = 0.25, 5  # an engine's turn: so many seconds, at least so many calls
PAUSE_S = 0.05  # between turns: others' threads wait for work with busy loops
Floats = NDArray[np.float32]
Search = Callable[[Floats, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Engine:
    """One competitor.

    Attributes:
        search: (Q, D) unit queries and K to (Q, K) rows.
        exact: whether it claims the true top K of float32 scores or better.
        build_s: seconds to build it.
    """

    name: str
    search: Search
    exact: bool
    build_s: float


def unit(rows: NDArray[np.floating]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, d: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Fifty fingerprints about each of n / 50 centres (cosine 0.9), queries farther off (cosine 0.8)."""
    centres = unit(rng.standard_normal((max(n // 50, 1), d), dtype=np.float32))
    noise = np.float32(1 / np.sqrt(d))
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows *= 0.5 * noise
    rows += centres[rng.integers(0, len(centres), n)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = 0.75 * noise * rng.standard_normal((QUERIES, d), dtype=np.float32)
    return rows, unit(queries + centres[rng.integers(0, len(centres), QUERIES)])


def isotropic(n: int, d: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Random directions: nothing to prune by."""
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, unit(rng.standard_normal((QUERIES, d), dtype=np.float32))


def tiled(real: Floats, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Real fingerprints, repeated with a little noise up to n; queries are noisy fingerprints."""
    noise = np.float32(0.3 / np.sqrt(real.shape[1]))
    rows = real[rng.integers(0, len(real), n)] if n > len(real) else real[:n].copy()
    if n > len(real):
        rows += noise * rng.standard_normal(rows.shape, dtype=np.float32)
    queries = real[rng.integers(0, len(real), QUERIES)]
    return unit(rows), unit(queries + 2 * noise * rng.standard_normal(queries.shape, dtype=np.float32))


def real_fingerprints(path: Path | None) -> Floats | None:
    """Those of the file, or of the index of the demo if there is one here."""
    if path is not None:
        return unit(np.load(path))
    try:
        return current_index(ArtifactStore(load_preset(None).data_root))[1].contents()[0]
    except UserError as error:
        click.echo(f"synthetic data only, without --fingerprints FILE.npy: {error}")
        return None


# -- engines -------------------------------------------------------------------------------------------------


def engines(rows: Floats, hnsw: bool) -> Iterator[Engine]:
    """Every engine that can be had here."""
    yield skufp_engine(rows)
    yield numpy_engine(rows)
    yield from torch_engines(rows)
    for make in (faiss_engines, usearch_engines, hnsw_engines if hnsw else None):
        try:
            yield from make(rows) if make else ()
        except ImportError as error:
            click.echo(f"left out: {error}")


def skufp_engine(rows: Floats) -> Engine:
    begin = time.perf_counter()
    index = FingerprintIndex(rows, sku_table(0, len(rows)), threads=THREADS)
    build_s = time.perf_counter() - begin

    def search(queries: Floats, k: int) -> NDArray[np.int64]:
        return index.best(queries, k)[0]

    return Engine("skufp", search, True, build_s)


def sku_table(begin: int, end: int) -> pl.DataFrame:
    return pl.DataFrame({"sku_id": np.arange(begin, end)}).cast(pl.String)


def versions(rows: Floats) -> dict[str, float]:
    """Seconds to load an index, to add and to remove CHANGED SKUs, and to save each such version."""
    seconds: dict[str, float] = {}
    n = len(rows)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        places = [Path(folder) / name for name in ("first", "more", "fewer")]
        for place in places:
            place.mkdir()
        FingerprintIndex(rows, sku_table(0, n), threads=THREADS).save(places[0])

        def timed(name: str, make: Callable[[], Any]) -> Any:
            begin = time.perf_counter()
            made = make()
            seconds[name] = round(time.perf_counter() - begin, 4)
            return made

        index = timed("load_s", lambda: FingerprintIndex.load(places[0]))
        added, removed = sku_table(n, n + CHANGED), [str(row) for row in range(CHANGED)]
        more = timed("add_s", lambda: index.add(rows[:CHANGED], added))
        timed("add_save_s", lambda: more.save(places[1], places[0]))
        fewer = timed("remove_s", lambda: index.remove(removed))
        timed("remove_save_s", lambda: fewer.save(places[2], places[0]))
    return seconds


def numpy_engine(rows: Floats) -> Engine:
    columns = rows.T

    def search(queries: Floats, k: int) -> NDArray[np.int64]:
        scores = queries @ columns
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return Engine("numpy float32", search, True, 0.0)


def torch_engines(rows: Floats) -> Iterator[Engine]:
    for name, dtype in (("torch float32", torch.float32), ("torch bf16", torch.bfloat16)):
        begin = time.perf_counter()
        matrix = torch.from_numpy(rows).to(dtype)
        build_s = time.perf_counter() - begin

        def search(queries: Floats, k: int, matrix: torch.Tensor = matrix) -> NDArray[np.int64]:
            scores = torch.from_numpy(queries).to(matrix.dtype) @ matrix.T
            return torch.topk(scores, k, dim=1).indices.numpy()

        yield Engine(name, search, dtype == torch.float32, build_s)


def faiss_engines(rows: Floats) -> Iterator[Engine]:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    flat = faiss.IndexFlatIP(rows.shape[1])
    kinds = faiss.ScalarQuantizer
    fp16 = faiss.IndexScalarQuantizer(rows.shape[1], kinds.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    eight = faiss.IndexScalarQuantizer(rows.shape[1], kinds.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    for name, index in (("faiss IndexFlatIP", flat), ("faiss SQfp16", fp16), ("faiss SQ8", eight)):
        begin = time.perf_counter()
        index.train(rows[:100_000])
        index.add(rows)
        build_s = time.perf_counter() - begin
        search = lambda queries, k, index=index: index.search(queries, k)[1]  # noqa: E731
        yield Engine(name, search, index is flat, build_s)


def usearch_engines(rows: Floats) -> Iterator[Engine]:
    from usearch.index import MetricKind
    from usearch.index import search as exact_search

    def search(queries: Floats, k: int) -> NDArray[np.int64]:
        found = exact_search(rows, queries, k, MetricKind.IP, exact=True, threads=THREADS)
        return np.atleast_2d(found.keys).astype(np.int64)

    yield Engine("usearch exact", search, True, 0.0)


def hnsw_engines(rows: Floats) -> Iterator[Engine]:
    import hnswlib

    begin = time.perf_counter()
    graph = hnswlib.Index(space="ip", dim=rows.shape[1])
    graph.init_index(max_elements=len(rows), ef_construction=100, M=16)
    graph.set_num_threads(THREADS)
    graph.add_items(rows)
    graph.set_ef(64)
    build_s = time.perf_counter() - begin
    search = lambda queries, k: graph.knn_query(queries, k)[0].astype(np.int64)  # noqa: E731
    yield Engine("hnswlib ef=64", search, False, build_s)


# -- truth and floor -----------------------------------------------------------------------------------------


def brute_force(rows: Floats, queries: Floats, k: int) -> NDArray[np.int64]:
    """(Q, K) rows by float64 score, ties by row: a float32 product finds who comes into question."""
    wide = unit_queries(queries)
    slack = 2 * (rows.shape[1] + 2) * 2.0**-24 * 1.01
    best = []
    for query, scores in zip(wide, wide.astype(np.float32) @ rows.T, strict=True):
        floor = np.partition(scores, len(scores) - k)[len(scores) - k] - slack
        near = np.flatnonzero(scores >= floor)
        exact = (rows[near].astype(np.float64) * query).sum(axis=1)
        best.append(near[np.lexsort((near, -exact))[:k]])
    return np.stack(best)


@compiled
def read_all(data: NDArray[np.uint8]) -> int:
    """Touches every byte, as fast as it comes."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    one = zeros()
    for place in range(0, len(data) - 4 * BYTES + 1, 4 * BYTES):
        a = add_products(a, load(data, place), one)
        b = add_products(b, load(data, place + BYTES), one)
        c = add_products(c, load(data, place + 2 * BYTES), one)
        d = add_products(d, load(data, place + 3 * BYTES), one)
    return total(a) + total(b) + total(c) + total(d)


def memory_bandwidth(nbytes: int) -> float:
    """Bytes a second at which all threads together read `nbytes`, the best of several times."""
    with ThreadPoolExecutor(THREADS) as pool:
        read = reader(nbytes, pool)
        seconds = []
        for _ in range(12):
            begin = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - begin)
    return nbytes / min(seconds)


def reader(nbytes: int, pool: ThreadPoolExecutor) -> Callable[[], int]:
    """Reads `nbytes` with all threads, this one among them."""
    first, *others = np.array_split(np.ones(nbytes, np.uint8), THREADS)

    def read() -> int:
        reading = [pool.submit(read_all, part) for part in others]
        return read_all(first) + sum(future.result() for future in reading)

    return read


def floor_engine(nbytes: int, pool: ThreadPoolExecutor) -> Engine:
    """No engine: reads as many bytes as there are int8 codes once, and finds nothing."""
    read, nothing = reader(nbytes, pool), np.empty((0, 0), np.int64)

    def search(queries: Floats, k: int) -> NDArray[np.int64]:
        read()
        return nothing

    return Engine("reading int8 codes", search, False, 0.0)


# -- measuring -----------------------------------------------------------------------------------------------


def measure(
    rivals: list[Engine], queries: Floats, batch: int, k: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds per query of each engine, in turns, for about `seconds` and at least two turns each."""
    samples: dict[str, list[float]] = {engine.name: [] for engine in rivals}
    deadline, turn = time.perf_counter() + seconds, 0
    while turn < 2 or time.perf_counter() < deadline:
        for engine in rivals:
            stay_awake(PAUSE_S)
            engine.search(queries[:batch], k)
            samples[engine.name] += one_turn(engine, queries, batch, k)
        turn += 1
    return samples


def stay_awake(seconds: float) -> None:
    """Waits without sleeping: a processor that has slept is slow for a while."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def one_turn(engine: Engine, queries: Floats, batch: int, k: int) -> list[float]:
    """Milliseconds per query, call by call."""
    times: list[float] = []
    until = time.perf_counter() + TURN_S
    while len(times) < TURN_CALLS or time.perf_counter() < until:
        begin = len(times) * batch % (len(queries) - batch + 1)
        part = queries[begin : begin + batch]
        start = time.perf_counter()
        engine.search(part, k)
        times.append((time.perf_counter() - start) * 1000 / batch)
    return times


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.size


def run_cell(
    data: str, rows: Floats, queries: Floats, k: int, hnsw: bool, seconds: float
) -> list[dict[str, Any]]:
    """All engines on one data set."""
    truth = brute_force(rows, queries[:64], k)
    changes = versions(rows)
    rivals = list(engines(rows, hnsw))
    found = []
    floor_ms = 0.0
    for batch in BATCHES:
        with ThreadPoolExecutor(THREADS) as pool:
            floor = [floor_engine(rows.size, pool)] if batch == 1 else []
            samples = measure([*rivals, *floor], queries, batch, k, seconds)
        for engine in floor:
            floor_ms = statistics_ms(samples[engine.name])["p50_ms"]
        for engine in rivals:
            answers = [engine.search(queries[at : at + batch], k) for at in range(0, 64, batch)]
            answer = np.concatenate(answers)
            times = statistics_ms(samples[engine.name])
            times = {key: round(times[key], 5) for key in ("p50_ms", "p95_ms", "mean_ms")}
            found.append(
                {
                    "engine": engine.name,
                    "data": data,
                    "n": len(rows),
                    "d": rows.shape[1],
                    "k": k,
                    "batch": batch,
                }
                | times
                | {
                    "best_ms": round(min(samples[engine.name]), 5),
                    "samples": len(samples[engine.name]),
                    "exact": engine.exact,
                    "identical_to_float64": bool((answer == truth).all()),
                    "recall": recall(answer, truth),
                    "build_s": round(engine.build_s, 3),
                    **(changes if engine.name == "skufp" else {}),
                    "int8_floor_ms": round(floor_ms, 5),
                    "times_floor": round(times["p50_ms"] / floor_ms, 3) if batch == 1 else None,
                }
            )
    return found


def show(cell: list[dict[str, Any]]) -> None:
    first = cell[0]
    click.echo(f"\n{first['data']}, {first['n']:,} x {first['d']}, k = {first['k']}")
    heads = ("batch", "p50 ms", "p95 ms", "mean ms", "best ms", "recall", "build s")
    click.echo(f"{'engine':<20}" + "".join(f"{head:>10}" for head in heads) + "  float64's rows")
    keys = ("batch", "p50_ms", "p95_ms", "mean_ms", "best_ms", "recall", "build_s")
    for row in cell:
        same = "yes" if row["identical_to_float64"] else "no"
        click.echo(f"{row['engine']:<20}" + "".join(f"{row[key]:>10.4g}" for key in keys) + f"  {same}")
    ours = {row["batch"]: row for row in cell if row["engine"] == "skufp"}
    for row in cell:
        if row["engine"] in ("numpy float32", "faiss IndexFlatIP", "torch bf16"):
            ratios = (f"{key} {row[key] / ours[row['batch']][key]:.1f}" for key in keys[1:5])
            click.echo(f"  batch {row['batch']:>2}: {row['engine']} over skufp: " + ", ".join(ratios))
    floor = f"reading as many bytes as int8 codes have takes {first['int8_floor_ms']:.3f} ms (p50, in turns)"
    click.echo(f"  {floor}; one query takes {ours[1]['times_floor']} of it")
    changed = ", ".join(f"{name} {ours[1][name]}" for name in VERSIONS)
    click.echo(f"  versions of {first['n']:,} SKUs, seconds (of {CHANGED:,} SKUs): {changed}")


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """p95 per query of every engine, one panel for each size and batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({row["n"] for row in found})
    figure, axes = pyplot.subplots(len(sizes), 2, figsize=(12, 3.2 * len(sizes)), squeeze=False)
    for line, n in zip(axes, sizes, strict=True):
        for axis, batch in zip(line, BATCHES, strict=True):
            cell = [row for row in found if (row["n"], row["batch"]) == (n, batch)]
            names = list(dict.fromkeys(row["engine"] for row in cell))
            kinds = list(dict.fromkeys(row["data"] for row in cell))
            for number, kind in enumerate(kinds):
                values = {row["engine"]: row["p95_ms"] for row in cell if row["data"] == kind}
                places = np.arange(len(names)) + number * 0.8 / len(kinds)
                axis.barh(places, [values.get(name, 0) for name in names], 0.8 / len(kinds), label=kind)
            axis.set(
                xscale="log",
                yticks=np.arange(len(names)) + 0.3,
                yticklabels=names,
                xlabel="ms per query, p95",
            )
            axis.set_title(f"{n:,} SKUs, batch {batch}")
            axis.invert_yaxis()
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--n", "sizes", type=int, multiple=True, help="only these sizes")
@click.option("--data", "kinds", multiple=True, help="only these: real, clustered, isotropic")
@click.option(
    "--fingerprints", type=click.Path(exists=True, path_type=Path), help="(N, D) .npy; else those of the demo"
)
@click.option("--dimension", default=512, show_default=True)
@click.option("--k", default=10, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="per data set, size and batch")
@click.option("--hnsw-up-to", default=100_000, show_default=True, help="building its graph takes minutes")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--plot", "plot_path", type=click.Path(path_type=Path))
def main(
    sizes: tuple[int, ...],
    kinds: tuple[str, ...],
    fingerprints: Path | None,
    dimension: int,
    k: int,
    seconds: float,
    hnsw_up_to: int,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Times the exact search against others."""
    torch.set_num_threads(THREADS)
    bandwidth = memory_bandwidth(1 << 29)
    machine = {
        "processor": processor_name(),
        "threads": THREADS,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "memory_bandwidth_gb_s": round(bandwidth / 1e9, 2),
    }
    click.echo(json.dumps(machine))
    makers: dict[str, Callable[[int, np.random.Generator], tuple[Floats, Floats]]] = {
        "clustered": lambda n, rng: clustered(n, dimension, rng),
        "isotropic": lambda n, rng: isotropic(n, dimension, rng),
    }
    real = real_fingerprints(fingerprints)
    if real is not None:
        makers = {"real": lambda n, rng: tiled(real, n, rng)} | makers
    found = []
    for n in sizes or SIZES:
        for kind in kinds or makers:
            rows, queries = makers[kind](n, np.random.default_rng(0))
            cell = run_cell(kind, rows, queries, k, n <= hnsw_up_to, seconds)
            show(cell)
            found += cell
    machine["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    click.echo(f"\npeak memory {machine['peak_memory_gib']} GiB")
    if json_path:
        json_path.write_text(json.dumps({"machine": machine, "rows": found}, indent=1) + "\n")
    if plot_path:
        plot(found, plot_path)


if __name__ == "__main__":
    main()
