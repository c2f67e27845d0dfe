"""Swaps of the index under load: none of the requests fails, none is answered by two versions at once:

python benchmarks/swaps.py --preset demo --json swaps.json

The data root is copied (linked). Three versions lie in the copy: the one in use, the same without every
second SKU, and one whose files are damaged. What each of the first two answers to every request is computed
beforehand, in this process. Then clients ask, each request after the answer before, while `CURRENT` is
switched between the two; before every fifth switch to the damaged version, which must never answer. An answer
counts as mixed if its SKUs or scores aren't those of the version that it names.
"""

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import torch
from serve import Asker, Http, Material, Running, machine, percentiles, service

from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.threads import threads_of_one
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.versions import INDEX, Versions
from skufp_pipeline.store import ArtifactStore

TOP, KEPT, WATCH_S = 10, 10, 0.2
Expected = dict[str, list[list[tuple[str, float]]]]  # by version and request: SKUs and scores


def copied(preset: Preset, folder: Path) -> Preset:
    """The preset over a linked copy of what a search reads."""
    root = Path(preset.data_root)
    for name in (INDEX, "checkpoints"):
        shutil.copytree(root / name, folder / name, copy_function=_link)
    return preset.model_copy(update={"data_root": str(folder)})


def add_versions(store: ArtifactStore) -> tuple[str, str, str]:
    """The version in use, one without every second SKU, and one that can't be opened."""
    artifact, index = current_index(store)
    versions, recipe = Versions(store), artifact.manifest.recipe
    fewer = index.remove(index.sku_ids[1::2].to_list())

    def build(directory: Path) -> Mapping[str, Any]:
        fewer.save(directory, artifact.path)
        for file in artifact.files():
            if not (directory / file).exists() and not file.startswith(("removed_", "biases_")):
                _link(artifact.path / file, directory / file)
        return artifact.summary

    made = []
    for name in ("fewer", "damaged"):
        changed = recipe.model_copy(update={"config": {**recipe.config, "swaps": name}})
        store.produce(versions.key(changed.digest), changed, build)
        versions.publish(changed.digest, KEPT)
        made.append(changed.digest)
    damaged = Path(store.root) / versions.key(made[1]) / "index.json"
    damaged.unlink()
    damaged.write_text("{")
    versions.publish(recipe.digest, KEPT)
    return recipe.digest, made[0], made[1]


def requests_of(material: Material) -> list[dict[str, Any]]:
    """Texts, likes and filters, each with the same answer every time; a photo is asked by its number."""
    likes = [{"like": [sku_id]} for sku_id in material.sku_ids[:40:2]]
    texts = [{"text": text} for text in ("a red dress", "blue shorts", "a striped top", "a dark skirt")]
    photos = [{"photo": number} for number in range(10)]
    narrowed = [
        {"photo": number, "where": {"category_name": [material.category]}} for number in range(10, 20)
    ]
    return [*likes, *texts, *photos, *narrowed]


def answers_of(preset: Preset, version: str, material: Material) -> list[list[tuple[str, float]]]:
    """What a version answers, by the engine itself."""
    threads = threads_of_one(preset.serving.running)  # sums of as many parts as the service's
    torch.set_num_threads(threads)
    store, device = ArtifactStore(preset.data_root), torch.device("cpu")
    engine = QueryEngine.open(store, device, preset.query_encoder, version=version, threads=threads)
    found = []
    for asked in requests_of(material):
        photos = [material.photos[asked["photo"]]] if "photo" in asked else []
        wish = Wish(photos, text=asked.get("text"), liked=asked.get("like", []))
        within = engine.index.where(**asked["where"]) if "where" in asked else None
        found.append([(hit.sku_id, hit.score) for hit in engine.search(wish, TOP, within).hits])
    return found


async def ask_all(
    running: Running,
    material: Material,
    expected: Expected,
    total: int,
    clients: int,
    swapping: asyncio.Task[Any],
    counts: Counter[str],
) -> dict[str, Any]:
    """Asks until there were `total` requests and all swaps are done; counts answers, right and wrong."""
    by_version: Counter[str] = Counter()
    times: list[float] = []
    asked = requests_of(material)

    async def work(number: int) -> None:
        asker = Asker(running.port, material)
        await asker.prepare()
        turns = cycle([*range(number, len(asked)), *range(number)])
        while counts["asked"] < total or not swapping.done():
            request = next(turns)
            body = {name: value for name, value in asked[request].items() if name != "photo"}
            if "photo" in asked[request]:
                body["photo_id"] = asker.kept[asked[request]["photo"]][0]
            began = time.perf_counter()
            status, content = await asker.http.post("/v1/search", json.dumps({**body, "top": TOP}).encode())
            times.append((time.perf_counter() - began) * 1000)
            counts["asked"] += 1
            if status != 200:
                counts[f"status {status}"] += 1
                continue
            answer = json.loads(content)
            by_version[answer["index_version"]] += 1
            hits = [(hit["sku_id"], hit["score"]) for hit in answer["hits"]]
            wanted = expected.get(answer["index_version"])
            counts["mixed" if wanted is None or hits != wanted[request] else "right"] += 1

    await asyncio.gather(*(work(number) for number in range(clients)))
    return {**counts, "by_version": dict(by_version), **percentiles(times)}


async def swap(
    running: Running,
    store: ArtifactStore,
    names: tuple[str, str, str],
    swaps: int,
    every: float,
    counts: Counter[str],
) -> dict[str, Any]:
    """Switches to and fro, once in `every` requests; returns how long each version took to answer, and how
    often the damaged one did not."""
    versions, http = Versions(store), Http(running.port)
    first, second, damaged = names
    seconds, refused = [], 0
    for number, version in zip(range(swaps), cycle([second, first]), strict=False):
        while counts["asked"] < number * every:
            await asyncio.sleep(0.01)
        if number % 5 == 0:
            versions.publish(damaged, KEPT)
            await asyncio.sleep(10 * WATCH_S)
            refused += await version_of(http) != damaged
        began = time.perf_counter()
        versions.publish(version, KEPT)
        while await version_of(http) != version:
            await asyncio.sleep(0.05)
        seconds.append(time.perf_counter() - began)
    return {"swaps": len(seconds), "swap_s": percentiles_s(seconds), "damaged_refused": refused}


async def version_of(http: Http) -> str:
    _, body = await http.get("/v1/service")
    return str(json.loads(body)["indexes"][0]["version"])


def percentiles_s(seconds: list[float]) -> dict[str, float]:
    return {"median": sorted(seconds)[len(seconds) // 2], "most": max(seconds)}


def _link(source: Any, target: Any) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


async def run(
    running: Running, preset: Preset, names: tuple[str, str, str], **options: Any
) -> dict[str, Any]:
    store, swaps, counts = ArtifactStore(preset.data_root), options.pop("swaps"), Counter[str]()
    swapping = asyncio.create_task(swap(running, store, names, swaps, options["total"] / swaps, counts))
    counted = await ask_all(running, swapping=swapping, counts=counts, **options)
    return {**await swapping, **counted}


@click.command()
@click.option("--preset", "name", default="demo", show_default=True)
@click.option("--swaps", default=20, show_default=True)
@click.option("--requests", "total", default=10_000, show_default=True, help="At least.")
@click.option("--clients", default=3, show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path))
def main(name: str, swaps: int, total: int, clients: int, report: Path | None) -> None:
    """Swap versions under load; ends with status 1 if a request failed or was answered by a mixture."""
    preset = load_preset(name)
    material = Material.of(preset, 40)
    with tempfile.TemporaryDirectory(dir=Path(preset.data_root).parent) as folder:
        preset = copied(preset, Path(folder) / "data")
        names = add_versions(ArtifactStore(preset.data_root))
        expected = {version: answers_of(preset, version, material) for version in names[:2]}
        # The queue is long enough for a busy machine: a refusal would say nothing about swaps.
        with service(preset, watch_seconds=WATCH_S, queue_seconds=60) as running:
            found = {"preset": preset.name, "machine": machine(), "ready_s": running.ready_s}
            found |= asyncio.run(
                run(
                    running,
                    preset,
                    names,
                    swaps=swaps,
                    material=material,
                    expected=expected,
                    total=total,
                    clients=clients,
                )
            )
    text = json.dumps(found, indent=1)
    click.echo(text)
    if report is not None:
        report.write_text(text + "\n")
    if found["right"] != found["asked"] or names[2] in found["by_version"]:
        raise click.ClickException("requests failed or were answered by a mixture of versions")


if __name__ == "__main__":
    main()
