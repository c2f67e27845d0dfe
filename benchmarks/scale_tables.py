"""How the steps that read whole tables grow: seconds and peak memory, on tables without pictures.

    python benchmarks/scale_tables.py --skus 100000 1000000 --json tables.json

A SKU has three images and three texts, a shard a thousand SKUs; photos and sentences of 150 choose teachers.
Embeddings are random unit rows of 128 dimensions. Each step runs in a process of its own: `compare` counts
the changes of a catalogue read again (`annotations`), `teachers` chooses the best shots
(`best_shot_teachers`), `index` builds the index and `update` makes the next version of it, with a hundredth
of the SKUs changed (`search_index`). `idle_mib` is the peak before a step, `peak_of_data` that of making its
input.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, Teachers
from skufp_pipeline.compute import cores_available, peak_memory_mib
from skufp_pipeline.datasets.difference import count_changes
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.fingerprint.tables import teacher_table_by_shard
from skufp_pipeline.search.bundle import build_index
from skufp_pipeline.store import Artifact, Manifest, Recipe

OF_A_SHARD, OF_A_SKU, DIMENSION, TRAINING = 1000, 3, 128, 150
SEGMENT_ROWS = 250_000
STEPS = ("compare", "teachers", "index", "update")


def made(folder: Path, skus: int) -> list[Embeddings]:
    """Writes the embeddings of all shards, unless they are there, and opens them."""
    manifest = Manifest(
        artifact="", digest="", recipe=Recipe(code_version=""), summary={}, num_files=0, num_bytes=0, parts={}
    )
    shards = []
    for number in range(math.ceil(skus / OF_A_SHARD)):
        place = folder / f"embeddings_{number}"
        if not place.exists():
            place.mkdir(parents=True)
            Embeddings.write(place, embedded(number, "item_id"), embedded(number, "text_id"))
        shards.append(Embeddings(Artifact(place, manifest)))
    return shards


def embedded(shard: int, id_column: str) -> pl.DataFrame:
    """The images or the texts of a shard; a SKU's last one is a query."""
    draw = np.random.default_rng([shard, len(id_column)])
    rows = draw.standard_normal((OF_A_SHARD * OF_A_SKU, DIMENSION), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    number = np.arange(len(rows))
    sku, of_sku = shard * OF_A_SHARD + number // OF_A_SKU, number % OF_A_SKU
    table = pl.DataFrame(
        {
            id_column: [f"train/{shard}_{row}_item1" for row in number.tolist()],
            "sku_id": sku_ids(sku),
            "split": np.where(sku < TRAINING, "train", "validation"),
            "role": np.where(of_sku == OF_A_SKU - 1, "train", "gallery"),
            "image_path" if id_column == "item_id" else "text": [f"images/{row}" for row in number.tolist()],
        }
    )
    return table.with_columns(embedding_column(rows).alias("embedding"))


def sku_ids(numbers: np.ndarray) -> list[str]:
    """Ids whose order is not that of the shards."""
    return [f"{number * 7919 % 1_000_003:07d}-{number}" for number in numbers.tolist()]


def items(skus: int) -> pl.DataFrame:
    """The internal table of a catalogue, in the columns that take most of its memory."""
    row = pl.int_range(skus * OF_A_SKU, eager=True).alias("row")
    sku = row // OF_A_SKU
    return pl.select(
        sku_id=pl.format("sku-{}", sku),
        domain=pl.lit("catalog"),
        image_id=pl.format("{}", row),
        item_idx=pl.lit(1, pl.Int32),
        category_name=pl.lit("shirt"),
        orig_image_path=pl.format("images/{}.jpg", row),
        bbox=pl.concat_list(row, row, row, row).list.to_array(4),
        title=pl.format("the shirt of number {}", sku),
        image_digest=pl.format("{}0123456789abcdef0123456789abcdef", row),
        shard=(sku // OF_A_SHARD).cast(pl.Int32),
    )


def compare(skus: int) -> dict[str, int]:
    before = items(skus)
    title = pl.when(pl.col("item_idx") + pl.col("shard") == 1).then(pl.lit("new")).otherwise("title")
    return count_changes(before, before.with_columns(title=title), math.ceil(skus / OF_A_SHARD))


def teachers(folder: Path, shards: list[Embeddings]) -> dict[str, Any]:
    target = folder / "teachers"
    target.mkdir()
    return Teachers.write(target, *teacher_table_by_shard(shards, 8))


def index(folder: Path, skus: int, version: int) -> dict[str, int]:
    """Builds the index; version 1 has other fingerprints for a hundredth of the SKUs."""
    listed = pl.DataFrame({"sku_id": sorted(sku_ids(np.arange(skus)))})
    rows = np.random.default_rng(0).standard_normal((skus, DIMENSION), dtype=np.float32)
    rows[: version * skus // 100] *= -1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    table = listed.with_columns(split=pl.lit("test"), num_views=2, bias=0.0)
    source = folder / f"fingerprints_{version}.parquet"
    table.with_columns(embedding_column(rows).alias("fingerprint")).write_parquet(source)
    before_peak = peak_memory_mib()
    looks = {
        "category_name": "shirt",
        "title": "a title",
        "text": "a text",
        "pattern": "plain",
        "lightness": "dark",
    }
    text = listed.with_columns(
        pl.lit("catalog").alias("domain"), *(pl.lit(v).alias(k) for k, v in looks.items())
    )
    text = text.with_columns(colours=pl.lit(["red"], pl.List(pl.String)))
    chosen = listed.with_columns(image_path=pl.lit("images/1.jpg"))
    target = folder / f"index_{version}"
    target.mkdir()
    before = folder / "index_0" if version else None
    made_index = build_index(
        target, pl.scan_parquet(source), chosen, {"crops": text}, {}, SEGMENT_ROWS, before=before
    )
    return {"skus": len(made_index), "segments": len(made_index.segments), "peak_of_data": before_peak}


def run(step: str, folder: Path, skus: int) -> dict[str, Any]:
    shards = made(folder, skus) if step == "teachers" else []
    idle, began, used = peak_memory_mib(), time.perf_counter(), time.process_time()
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "compare": partial(compare, skus),
        "teachers": partial(teachers, folder, shards),
        "index": partial(index, folder, skus, 0),
        "update": partial(index, folder, skus, 1),
    }
    told = work[step]()
    seconds = {
        "s": round(time.perf_counter() - began, 1),
        "processor_s": round(time.process_time() - used, 1),
    }
    return {"idle_mib": idle, "peak_mib": peak_memory_mib(), **seconds, **told}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skus", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run(arguments.step, arguments.folder, arguments.skus[0])))
        return
    found: dict[int, dict[str, Any]] = {}
    for skus in arguments.skus:
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                options = ["--step", step, "--folder", folder, "--skus", str(skus)]
                done = subprocess.run(
                    [sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True
                )
                found.setdefault(skus, {})[step] = json.loads(done.stdout.splitlines()[-1])
                print(f"{skus:>8} SKUs  {step:<9} {json.dumps(found[skus][step])}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": cores_available(), "sizes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
