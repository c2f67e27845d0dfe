"""What an index of millions costs: building it in segments, opening it, a search, a day's changes.

    python benchmarks/large_index.py --skus 10000000 --json large.json

Rows are drawn about random centres, fifty to a centre (cosine 0.9), and queries farther off (0.8), a segment
at a time. Each phase is a process of its own, so that its peak memory is its own. Answers are held against
float64 brute force over all rows, before and after a day's changes: of the changed SKUs a quarter is removed,
half gets another fingerprint, a quarter is new. Last, `--qdrant` SKUs are exported to a local Qdrant, whose
top ten are compared. An index that `--folder` already holds is searched again, not built.
"""

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.compute import cores_available
from skufp_pipeline.evaluation.latency import processor_name, statistics_ms
from skufp_pipeline.search.files import write_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.scan import unit_queries

Floats = NDArray[np.float32]
Best = tuple[NDArray[np.int64], NDArray[np.float64]]
Made = TypeVar("Made")
K, QUERIES, CHECKED, BATCH, PART, OF_A_CENTRE = 10, 256, 16, 64, 250_000, 50
CATEGORIES = np.array(["shirt", "trousers", "skirt", "dress", "coat"])


class Catalogue:
    """Made-up SKUs about random centres.

    Args:
        skus: number of SKUs.
        dimension: of their fingerprints.
    """

    def __init__(self, skus: int, dimension: int) -> None:
        self.skus = skus
        shape = (max(skus // OF_A_CENTRE, 1), dimension)
        self.centres = unit(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))

    def about(self, count: int, spread: float, *seed: int) -> Floats:
        """(count, D) unit rows about centres that are drawn at random."""
        draw = np.random.default_rng(seed)
        rows = draw.standard_normal((count, self.centres.shape[1]), dtype=np.float32)
        rows *= np.float32(spread / np.sqrt(self.centres.shape[1]))
        rows += self.centres[draw.integers(0, len(self.centres), count)]
        return unit(rows)

    def segments(self, rows: int) -> Iterator[tuple[Floats, pl.DataFrame]]:
        for begin in range(0, self.skus, rows):
            end = min(begin + rows, self.skus)
            yield self.about(end - begin, 0.5, 1, begin), sku_table(np.arange(begin, end))

    def queries(self) -> Floats:
        return self.about(QUERIES, 0.75, 2)


def unit(rows: Floats) -> Floats:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def sku_table(numbers: NDArray[np.int64]) -> pl.DataFrame:
    ids = pl.Series(numbers).cast(pl.String).str.zfill(9)
    return pl.select(sku_id="sku-" + ids, category_name=pl.Series(CATEGORIES[numbers % len(CATEGORIES)]))


def build(catalogue: Catalogue, folder: Path, rows: int) -> dict[str, Any]:
    """Writes the index, a segment at a time."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    _, seconds = timed(lambda: write_index(partial, catalogue.segments(rows), {}))
    partial.rename(folder)
    return {"build_s": seconds, "disk_gb": gigabytes(folder), "build_peak_gib": peak_gib()}


def search(catalogue: Catalogue, folder: Path, seconds: float) -> dict[str, Any]:
    """Opens and searches the index; exact is whether the answers are float64's."""
    index, open_s = timed(lambda: FingerprintIndex.load(folder))
    queries = catalogue.queries()
    _, first_s = timed(index.warm_up)
    alone: list[float] = []
    together: list[float] = []
    used = time.process_time()
    for times, batch in ((alone, 1), (together, BATCH)):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times) < QUERIES // batch:
            begin = len(times) * batch % QUERIES
            _, spent = timed(partial(index.best, queries[begin : begin + batch], K))
            times.append(1000 * spent / batch)
        if times is alone:
            processor_ms = round(1000 * (time.process_time() - used) / len(alone), 2)
    return {
        "segments": len(index.segments), "open_s": open_s, "warm_up_s": first_s,
        "one": milliseconds(alone) | {"processor_ms": processor_ms}, "batch": milliseconds(together),
        "peak_gib": peak_gib(), "own_gib": own_gib(), "exact": is_exact(index, queries),
    }  # fmt: skip


def change(catalogue: Catalogue, folder: Path, changed: int) -> dict[str, Any]:
    """Removes, replaces and adds SKUs, saves that version beside the first and opens it."""
    after = folder.with_name(folder.name + ".after")
    shutil.rmtree(after, ignore_errors=True)
    after.mkdir()
    draw = np.random.default_rng(3)
    gone, new = draw.choice(catalogue.skus, changed * 3 // 4, replace=False), changed // 4
    removed, replaced = gone[:new], gone[new:]
    rows = catalogue.about(len(replaced) + new, 0.5, 4)
    added = np.concatenate([replaced, np.arange(catalogue.skus, catalogue.skus + new)])

    def day() -> FingerprintIndex:
        index = FingerprintIndex.load(folder).remove(sku_table(gone)["sku_id"])
        index.add(rows, sku_table(added)).save(after, folder)
        return FingerprintIndex.load(after)

    index, seconds = timed(day)
    peak, queries = peak_gib(), catalogue.queries()
    queries[: CHECKED // 2] = rows[: CHECKED // 2]  # these are found in the added segment
    ids = set(index.skus["sku_id"].gather(np.concatenate([f.rows for f in index.search(queries, K)])))
    found = {
        "changed": changed, "change_s": seconds, "change_peak_gib": peak,
        "change_disk_gb": gigabytes(after, own=True), "change_exact": is_exact(index, queries),
        "removed_found": len(ids & set(sku_table(removed)["sku_id"])),
    }  # fmt: skip
    shutil.rmtree(after)
    return found


def qdrant(catalogue: Catalogue, count: int) -> dict[str, Any]:
    """Exports the first SKUs to a local Qdrant and compares the top ten."""
    from skufp_pipeline.search.qdrant import ask, connect, publish

    rows, skus = next(catalogue.segments(count))
    index, queries = FingerprintIndex(rows, skus), rows[:QUERIES] + catalogue.queries()[: len(rows)] / 4
    with tempfile.TemporaryDirectory() as place, connect(Path(place)) as client:
        _, seconds = timed(lambda: publish(client, index, "large", "first"))
        answers = ask(client, "large", queries, K)
    mine = [skus["sku_id"].gather(found.rows).to_list() for found in index.search(queries, K)]
    same = sum([sku_id for sku_id, _ in answer] == own for answer, own in zip(answers, mine, strict=True))
    return {"qdrant_skus": len(rows), "qdrant_s": seconds, "qdrant_same_top_10": same / len(queries)}


def is_exact(index: FingerprintIndex, queries: Floats) -> bool:
    """Whether rows and scores of single queries and of a batch are brute force's, to the last bit."""
    rows, scores = brute_force(index, queries[:CHECKED], K)
    batched = index.best(queries, K)
    alone = [index.best(query, K) for query in queries[:CHECKED]]
    found = [
        [part[:CHECKED] for part in batched],
        [np.concatenate(parts) for parts in zip(*alone, strict=True)],
    ]
    return all(np.array_equal(a, rows) and np.array_equal(b, scores) for a, b in found)


def brute_force(index: FingerprintIndex, queries: Floats, k: int) -> Best:
    """The K best present rows by float64 score, ties by row: float32 finds who comes into question."""
    wide = unit_queries(queries)
    slack = 2 * (wide.shape[1] + 2) * 2.0**-24 * 1.01
    rows = [np.empty(0, np.int64)] * len(wide)
    scores = [np.empty(0)] * len(wide)
    start = 0
    for segment, present in zip(index.segments, index.present.of_segments(), strict=True):
        for begin in range(0, len(segment), PART):
            low, high = np.searchsorted(present, [begin, begin + PART])
            part = segment.fingerprints[present[low:high]]
            near = wide.astype(np.float32) @ part.T
            for number, query in enumerate(wide[: len(wide) if len(part) else 0]):
                floor = np.partition(near[number], -min(k, len(part)))[-min(k, len(part))] - slack
                chosen = np.flatnonzero(near[number] >= floor)
                exact = (part[chosen].astype(np.float64) * query).sum(axis=1)
                joined = (
                    np.append(rows[number], start + present[low + chosen]),
                    np.append(scores[number], exact),
                )
                order = np.lexsort((joined[0], -joined[1]))[:k]
                rows[number], scores[number] = joined[0][order], joined[1][order]
        start += len(segment)
    return np.stack(rows), np.stack(scores)


def timed(make: Callable[[], Made]) -> tuple[Made, float]:
    begin = time.perf_counter()
    made = make()
    return made, round(time.perf_counter() - begin, 5)


def milliseconds(samples: list[float]) -> dict[str, float]:
    found = statistics_ms(samples)
    return {key: round(found[key], 2) for key in ("p50_ms", "p95_ms")}


def peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def own_gib() -> float:
    """Memory that is this process's own: without the pages of files, which the system may drop."""
    (kib,) = re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return round(int(kib) / 2**20, 2)


def gigabytes(folder: Path, own: bool = False) -> float:
    """Size of the files; of those that no other version has, if `own`."""
    known = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return round(sum(file.st_size for file in known if not own or file.st_nlink == 1) / 1e9, 3)


@click.command()
@click.option("--skus", default=10_000_000, show_default=True)
@click.option("--dimension", default=128, show_default=True)
@click.option("--segment-rows", default=2_500_000, show_default=True)
@click.option("--changed", default=10_000, show_default=True, help="SKUs of a day's changes")
@click.option("--qdrant", "exported", default=5_000, show_default=True, help="SKUs; 0: none")
@click.option("--seconds", default=10.0, show_default=True, help="of single queries, and of batches")
@click.option("--folder", type=click.Path(path_type=Path), help="keeps the index here; else it is deleted")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--phase", type=click.Choice(["build", "search", "change", "qdrant"]), hidden=True)
def main(
    skus: int, dimension: int, segment_rows: int, changed: int, exported: int, seconds: float,
    folder: Path | None, json_path: Path | None, phase: str | None,
) -> None:  # fmt: skip
    """Measures an index of many SKUs."""
    if phase is not None:
        assert folder is not None
        catalogue = Catalogue(skus, dimension)
        phases: dict[str, Callable[[], dict[str, Any]]] = {
            "build": lambda: build(catalogue, folder, segment_rows),
            "search": lambda: search(catalogue, folder, seconds),
            "change": lambda: change(catalogue, folder, changed),
            "qdrant": lambda: qdrant(catalogue, exported),
        }
        print(json.dumps(phases[phase]()))
        return
    machine = {"processor": processor_name(), "cores": cores_available(), "python": platform.python_version()}
    found: dict[str, Any] = {"skus": skus, "dimension": dimension, "load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(dir=".") as made:
        place = folder or Path(made, "index")
        names = [
            *([] if place.exists() else ["build"]),
            "search",
            "change",
            *(["qdrant"] if exported else []),
        ]
        for name in names:
            options = [
                "--phase",
                name,
                *given(skus, dimension, segment_rows, changed, exported, seconds, place),
            ]
            done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
            part = json.loads(done.stdout.splitlines()[-1])
            click.echo(f"{name}: {json.dumps(part)}")
            found |= part
    if json_path:
        json_path.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
    wrong = [name for name in ("exact", "change_exact") if not found[name]]
    if wrong or found["removed_found"]:
        raise click.ClickException(f"not what brute force finds: {found}")


def given(*values: Any) -> list[str]:
    names = ("skus", "dimension", "segment-rows", "changed", "qdrant", "seconds", "folder")
    return [part for name, value in zip(names, values, strict=True) for part in (f"--{name}", str(value))]


if __name__ == "__main__":
    main()
