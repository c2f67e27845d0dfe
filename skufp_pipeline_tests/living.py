"""A materialized graph whose catalogue lies in a folder where products come and go."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.store import FILES, MANIFEST

from .graphs import Graph, copy_graph, write_preset


def living_graph(graph: Graph, folder: Path, **changes: Any) -> tuple[Graph, Path]:
    """A copy of a rendered graph that reads the same photos from a folder; and the folder."""
    copy = copy_graph(graph, folder)
    shop = folder / "shop"
    shutil.copytree(graph.store.read("raw/dataset").path, shop)
    for name in (MANIFEST, FILES):
        (shop / name).unlink()
    preset = yaml.safe_load(copy.preset_file.read_text())
    dataset = {"source": "deepfashion2", "path": str(shop)}
    return replace(copy, preset_file=write_preset(folder, {**preset, "dataset": dataset, **changes})), shop


def drop_product(shop: Path, pair_id: int = 900001) -> str:
    """A new product: the photos and annotations of one that is there, under another pair id."""
    photos, annos = shop / "train" / "image", sorted((shop / "train" / "annos").glob("*.json"))
    pair = next(_pair(path) for path in annos if _is_sold_and_worn(annos, _pair(path)))
    for number, path in enumerate(path for path in annos if _pair(path) == pair):
        fields = {**json.loads(path.read_text()), "pair_id": pair_id}
        name = f"{pair_id}{number:03d}"
        path.with_stem(name).write_text(json.dumps(fields))
        shutil.copyfile(photos / f"{path.stem}.jpg", photos / f"{name}.jpg")
        item = fields["item1"]
    return f"{pair_id:06d}_{item['style']:02d}_{item['category_id']:02d}"


def shard_of(graph: Graph, sku_id: str) -> int:
    return stable_shard(sku_id, graph.preset.shards)


def materialized(instance: dg.DagsterInstance) -> dict[str, list[str | None]]:
    """The partitions of every asset that the event log has a materialization of."""
    return {
        key.to_user_string(): [
            record.partition_key for record in instance.fetch_materializations(key, limit=1000).records
        ]
        for key in instance.all_asset_keys()
        if instance.fetch_materializations(key, limit=1).records
    }


def _pair(path: Path) -> int:
    pair: int = json.loads(path.read_text())["pair_id"]
    return pair


def _is_sold_and_worn(annos: list[Path], pair: int) -> bool:
    """Whether a pair's photos show one item each, of one SKU, in the shop and on a customer."""
    photos = [json.loads(path.read_text()) for path in annos if _pair(path) == pair]
    skus = {(photo["item1"]["style"], photo["item1"]["category_id"]) for photo in photos}
    alone = all("item2" not in photo for photo in photos)
    return alone and len(skus) == 1 and {p["source"] for p in photos} == {"shop", "user"} and min(skus)[0] > 0
