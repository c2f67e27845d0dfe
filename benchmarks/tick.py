"""What one tick of the automation costs: what is stale, asked of a large catalogue's store.

    python benchmarks/tick.py --skus 100000 --shards 100

The store is made up, at its real size: a manifest for every result of the demo's graph, and beside it the
list of its files, of ten photos a SKU (`--photos`). Everything is up to date, so that every manifest is read.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path

from skufp_pipeline.artifacts.stored import StoredVersions
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.orchestration.schedules import WEEKLY, refreshed
from skufp_pipeline.orchestration.staleness import in_order, places, stale
from skufp_pipeline.presets import load_preset
from skufp_pipeline.steps import Step
from skufp_pipeline.store import FILES, MANIFEST, ArtifactStore, Manifest, shard_key

WITH_A_FILE_A_PHOTO = ("raw_dataset", "sku_crops", "generated_views")


def make_store(root: Path, steps: dict[str, Step], photos: int, shards: int) -> tuple[int, int]:
    """Writes every manifest and list of files; returns the bytes of either."""
    made: dict[tuple[str, int | None], Manifest] = {}
    sizes = [0, 0]
    for name in in_order(steps):
        step = steps[name]
        for place in places(step):
            digest = hashlib.sha256(f"{name} {place.shard}".encode()).hexdigest()
            inputs = {}
            for dep in step.deps:
                if dep.sharded and place.shard is None:
                    keys = {s: shard_key(dep.key, s) for s in range(shards)}
                    inputs |= {key: made[dep.name, s].digest for s, key in keys.items()}
                else:
                    source = made[dep.name, place.shard if dep.sharded else None]
                    inputs[dep.name] = dep.reader.digest_in(source, place.shard)
            files = 1 + (photos if name in WITH_A_FILE_A_PHOTO else 1) // (
                shards if step.stored.sharded else 1
            )
            entries = {f"photos/{n:07d}.jpg": {"bytes": 1, "sha256": digest} for n in range(files)}
            parts = {}
            if step.stored.parts:
                known = (step.stored.reader.part_for(shard) for shard in range(shards))
                parts = {part: digest for part in known if part is not None}
            key = step.stored.key if place.shard is None else shard_key(step.stored.key, place.shard)
            if isinstance(step.stored, StoredVersions):
                (root / key).mkdir(parents=True)
                (root / key / "CURRENT").write_text("made-up\n")
                key = step.stored.version_key("made-up")
            made[name, place.shard] = manifest = Manifest(
                artifact=key, digest=digest[:16], recipe=step.recipe(inputs), summary={"rows": 1},
                num_files=files, num_bytes=files, parts=parts,
            )  # fmt: skip
            folder = root / key
            folder.mkdir(parents=True, exist_ok=True)
            for number, (file, text) in enumerate(
                ((MANIFEST, manifest.model_dump_json(indent=1)), (FILES, json.dumps(entries)))
            ):
                (folder / file).write_text(text)
                sizes[number] += len(text)
    return sizes[0], sizes[1]


def main() -> None:
    """Prints seconds of a tick, and what it reads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skus", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--photos", type=int, default=10, help="of a SKU")
    parser.add_argument("--ticks", type=int, default=5)
    arguments = parser.parse_args()
    preset = load_preset("demo").model_copy(update={"shards": arguments.shards})
    steps, photos = graph_steps(preset), arguments.skus * arguments.photos
    with tempfile.TemporaryDirectory() as root:
        manifests, lists = make_store(Path(root), steps, photos, arguments.shards)
        seconds = []
        for _ in range(arguments.ticks):
            begin = time.perf_counter()
            found = stale(steps, ArtifactStore(root), refreshed(steps, WEEKLY))
            seconds.append(time.perf_counter() - begin)
            assert found == {}, next(iter(found.items()))
    results = sum(len(places(step)) for step in steps.values())
    print(f"{arguments.skus} SKUs, {arguments.shards} shards, {results} results")
    print(f"a tick: median {statistics.median(seconds):.3f} s, least {min(seconds):.3f} s")
    print(f"it reads {manifests / 1e6:.1f} MB of manifests, and not {lists / 1e6:.0f} MB of lists of files")


if __name__ == "__main__":
    main()
