"""Answers over HTTP are the command line's, bit by bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from skufp_pipeline.serving.settings import ServingSettings

from ..cli.asking import ask
from ..graphs import Graph
from .running import encoded, refused, serving, uploaded

SAME = ("rank", "sku_id", "score", "title", "maxsim", "matched")


@pytest.fixture(scope="module")
def shop(graph: Graph) -> Iterator[tuple[httpx.Client, Graph]]:
    with serving(graph.preset.model_copy(update={"serving": ServingSettings()})) as (client, _):
        yield client, graph


@pytest.fixture(scope="module")
def photos(graph: Graph) -> list[Path]:
    """Two whole query photos."""
    return sorted(Path(graph.preset.data_root).glob("raw/dataset/validation/image/*.jpg"))[:2]


def of_command_line(graph: Graph, *words: str | Path) -> dict[str, Any]:
    result = ask("search", "--preset", graph.preset_file, *words, "--top", "7", "--json")
    assert result.exit_code == 0, result.stderr
    import json

    found: dict[str, Any] = json.loads(result.stdout)
    return found


def assert_same(http: httpx.Response, line: dict[str, Any]) -> None:
    assert http.status_code == 200, http.text
    found = http.json()
    assert [[hit[name] for name in SAME] for hit in found["hits"]] == [
        [hit[name] for name in SAME] for hit in line["hits"]
    ]
    assert [hit["category"] for hit in found["hits"]] == [hit["category_name"] for hit in line["hits"]]
    percents = [min(max(100 * hit["cosine"], 0), 100) for hit in line["hits"]]
    assert [hit["similarity_percent"] for hit in found["hits"]] == percents
    for name in ("confidence", "verdict", "facets"):
        assert found[name] == line.get(name), name
    assert (found["action"], found["box"], found["item"]) == (line["action"], line["box"], line["item"])
    items = [(item["box"], item["score"], item["sku_id"], item["similarity"]) for item in found["items"]]
    assert items == [(item["box"], item["found"], item["sku_id"], item["score"]) for item in line["items"]]
    assert found["index_version"] == http.headers["x-index-version"]


def test_every_way_to_ask_has_the_command_lines_answer(
    shop: tuple[httpx.Client, Graph], photos: list[Path]
) -> None:
    client, graph = shop
    first, second = (uploaded(client, photo.read_bytes())["photo_id"] for photo in photos)
    photo, box = photos[0], [4, 3, 40, 44]
    plain = of_command_line(graph, "--image", photo)
    sku_id, other = plain["hits"][0]["sku_id"], plain["hits"][1]["sku_id"]
    category = plain["hits"][0]["category_name"]
    where = {"category_name": [category]}
    asked: list[tuple[dict[str, Any], list[str | Path]]] = [
        ({"photo_id": first}, ["--image", photo]),
        ({"photo_id": first, "whole": True}, ["--image", photo, "--whole"]),
        ({"photo_id": first, "box": box}, ["--image", photo, "--box", ",".join(map(str, box))]),
        ({"photo_ids": [first, second]}, ["--image", photo, "--image", photos[1]]),
        ({"text": "a red skirt"}, ["--text", "a red skirt"]),
        ({"text": sku_id}, ["--text", sku_id]),
        (
            {"photo_id": first, "text": "with stripes", "text_weight": 0.3},
            ["--image", photo, "--text", "with stripes", "--text-weight", "0.3"],
        ),
        ({"like": [sku_id]}, ["--like", sku_id]),
        (
            {"photo_id": first, "like": [sku_id], "unlike": [other], "not_text": ["grey"], "not_weight": 0.2},
            ["--image", photo, "--like", sku_id, "--unlike", other, "--not", "grey", "--not-weight", "0.2"],
        ),
        (
            {"photo_id": first, "where": where, "facets": 20},
            ["--image", photo, "--where", f"category_name={category}", "--facets", "20"],
        ),
    ]
    if plain["items"]:
        asked.append(({"photo_id": first, "item": 1}, ["--image", photo, "--item", "1"]))
    for body, words in asked:
        line = of_command_line(graph, *words)
        for _ in ("first", "again, of what is kept of the photo"):
            assert_same(client.post("/v1/search", json={**body, "top": 7}), line)
    similar = client.get(f"/v1/products/{sku_id}/similar", params={"top": 7})
    assert_same(similar, of_command_line(graph, "--like", sku_id))


def test_a_photo_of_another_format_has_the_command_lines_answer(
    shop: tuple[httpx.Client, Graph], photos: list[Path], tmp_path: Path
) -> None:
    client, graph = shop
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos[0]) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    for kind, options in (("PNG", {}), ("WEBP", {"exif": exif}), ("JPEG", {"exif": exif, "quality": 90})):
        (tmp_path / "photo").write_bytes(encoded(turned, kind, **options))
        photo_id = uploaded(client, (tmp_path / "photo").read_bytes())["photo_id"]
        found = client.post("/v1/search", json={"photo_id": photo_id, "top": 7})
        assert_same(found, of_command_line(graph, "--image", tmp_path / "photo"))


def test_a_mistake_has_the_command_lines_words(shop: tuple[httpx.Client, Graph], photos: list[Path]) -> None:
    client, graph = shop
    photo_id = uploaded(client, photos[0].read_bytes())["photo_id"]
    for body, words in (
        ({"photo_id": photo_id, "box": [0, 0, 9999, 5]}, ["--image", photos[0], "--box", "0,0,9999,5"]),
        ({"photo_id": photo_id, "item": 99}, ["--image", photos[0], "--item", "99"]),
        ({"text": "a", "where": {"colour": ["no such"]}}, ["--text", "a", "--where", "colour=no such"]),
        ({"text": "a", "where": {"num_views": {"gt": 9000}}}, ["--text", "a", "--where", "num_views>9000"]),
        ({"like": ["no such"]}, ["--like", "no such"]),
        ({}, []),
    ):
        told = ask("search", "--preset", graph.preset_file, *words).stderr.removeprefix("Error: ").strip()
        assert told
        assert refused(client.post("/v1/search", json=body), 422) == told
