"""How fast and how exact the engines of an index of pictures are, beside one another.

python benchmarks/image_index.py --products 4000 --pictures 5 --json image_index.json
python benchmarks/image_index.py --preset demo --index reid

exact   the exact search, over all pictures: the same products as float64 brute force
flat    FAISS's IndexFlatIP, which compares all pictures in float32
hnsw    FAISS's IndexHNSWFlat(D, 32), which is approximate

Every engine holds the same pictures and ranks products by their best one; the same queries are asked one at a
time, a quarter of a second an engine in turn, and in batches of 64. Recall is the share of brute force's ten
best products that an engine finds; the bytes are those of the files that it searches.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.compute import cores_available
from skufp_pipeline.evaluation.latency import processor_name, statistics_ms
from skufp_pipeline.presets import load_preset
from skufp_pipeline.search.approximate import HNSW_FILE, flat_rows, load_hnsw, write_hnsw
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.images import Engine, ImageIndex
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import ArtifactStore

TOP, BATCH, TURN_S = 10, 64, 0.25
Floats = NDArray[np.float32]


def unit(rows: NDArray[np.floating]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def synthetic(products: int, pictures: int, dimension: int, queries: int) -> tuple[ImageIndex, Floats]:
    """Products of 1 to 2 `pictures` - 1 pictures about a centre (cosine 0.8), queries farther off (0.6)."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(products), rng.integers(1, 2 * pictures, products))
    centres = unit(rng.standard_normal((products, dimension), dtype=np.float32))
    noise = rng.standard_normal((len(owners), dimension), dtype=np.float32) / np.sqrt(dimension)
    names = pl.DataFrame({"sku_id": np.arange(len(owners))}).cast(pl.String)
    rows = FingerprintIndex(unit(centres[owners] + 0.75 * noise), names)
    skus = pl.DataFrame({"sku_id": np.arange(products)}).cast(pl.String)
    asked = rng.standard_normal((queries, dimension), dtype=np.float32) / np.sqrt(dimension)
    of = centres[rng.integers(0, products, queries)]
    return ImageIndex.of_pictures(rows, skus, owners), unit(of + 1.33 * asked)


def stored(preset: str, name: str, queries: int) -> tuple[ImageIndex, Floats]:
    """An index of a graph; queries are noisy pictures."""
    _, index = current_index(ArtifactStore(load_preset(preset).data_root), name)
    if not isinstance(index, ImageIndex):
        raise click.ClickException(f"index {name!r} is none of pictures")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((queries, index.dimension), dtype=np.float32) / np.sqrt(index.dimension)
    return index, unit(index.vectors[rng.integers(0, len(index.vectors), queries)] + 0.75 * noise)


def brute_force(index: ImageIndex, queries: Floats) -> list[NDArray[np.int64]]:
    gallery, products = index.vectors.astype(np.float64), np.arange(index.row_count)
    found = []
    for query in queries.astype(np.float64):
        scores = np.maximum.reduceat(
            (gallery * (query / np.linalg.norm(query))).sum(axis=1), index.starts[:-1]
        )
        found.append(np.lexsort((products, -scores))[:TOP])
    return found


def engines(index: ImageIndex, folder: Path) -> Iterator[tuple[str, Engine, float, int]]:
    """Name, engine, seconds to build it, and bytes that it searches."""
    begin = time.perf_counter()
    rebuilt = FingerprintIndex(index.vectors, index.pictures.skus)
    (folder / "exact").mkdir()
    seconds = time.perf_counter() - begin
    rebuilt.save(folder / "exact")
    yield "exact", index.pictures, seconds, size_of(folder / "exact")
    begin = time.perf_counter()
    flat = flat_rows(index.vectors)
    yield "flat", flat, time.perf_counter() - begin, index.vectors.nbytes
    begin = time.perf_counter()
    write_hnsw(folder, index.vectors, 32)
    seconds = time.perf_counter() - begin
    hnsw = load_hnsw(folder, index.vectors, 64)
    yield "hnsw", hnsw, seconds, (folder / HNSW_FILE).stat().st_size


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def turns(index: ImageIndex, made: dict[str, Engine], queries: Floats, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of single queries, the engines in turn; the first of a turn is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds):
        for name, engine in made.items():
            index.engine, number = engine, turn
            index.best(queries[0], TOP)
            started = time.perf_counter()
            while number == turn or time.perf_counter() - started < TURN_S:
                query, begin = queries[number % len(queries)], time.perf_counter()
                index.best(query, TOP)
                spent[name].append((time.perf_counter() - begin) * 1000)
                number += 1
    return spent


def judge(index: ImageIndex, queries: Floats, rounds: int) -> list[dict[str, Any]]:
    """One row per engine."""
    true, rows = brute_force(index, queries), []
    with tempfile.TemporaryDirectory() as folder:
        built = list(engines(index, Path(folder)))
        index.warm_up()
        spent = turns(index, {name: engine for name, engine, _, _ in built}, queries, rounds)
        for name, engine, seconds, size in built:
            index.engine = engine
            found = [answer.rows for answer in index.search(queries, TOP)]
            begin = time.perf_counter()
            index.best(queries[:BATCH], TOP)
            batched = (time.perf_counter() - begin) * 1000 / len(queries[:BATCH])
            shares = [np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]
            same = sum(np.array_equal(a, b) for a, b in zip(true, found, strict=True))
            times = {key: round(value, 3) for key, value in statistics_ms(spent[name]).items()}
            figures = {"recall@10": round(float(np.mean(shares)), 4), "same": f"{same}/{len(true)}"}
            batch = {"batched_ms": round(batched, 3), "build_s": round(seconds, 2), "bytes": size}
            rows.append({"engine": name, **figures, **times, **batch})
    return rows


@click.command()
@click.option("--products", default=4000, show_default=True)
@click.option("--pictures", default=5, show_default=True, help="Mean number of a product.")
@click.option("--dimension", default=512, show_default=True)
@click.option("--queries", default=200, show_default=True)
@click.option("--rounds", default=8, show_default=True, help="Turns of each engine.")
@click.option("--preset", help="Take an index of this graph instead.")
@click.option("--index", "name", default="reid", show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures here too.")
def main(
    products: int,
    pictures: int,
    dimension: int,
    queries: int,
    rounds: int,
    preset: str | None,
    name: str,
    target: Path | None,
) -> None:
    """Compare the engines of an index of pictures."""
    given = stored(preset, name, queries) if preset else synthetic(products, pictures, dimension, queries)
    rows = judge(*given, rounds)
    index = given[0]
    size = {"products": len(index), "pictures": len(index.pictures), "dimension": index.dimension}
    machine = {"processor": processor_name(), "threads": cores_available()}
    with pl.Config(tbl_cols=-1, tbl_width_chars=160):
        click.echo(pl.DataFrame(rows))
    click.echo(f"{size}, {machine}")
    if target is not None:
        temporary = target.with_name(f".{target.name}.partial")
        temporary.write_text(json.dumps({**size, **machine, "engines": rows}, indent=1) + "\n")
        temporary.replace(target)


if __name__ == "__main__":
    main()
