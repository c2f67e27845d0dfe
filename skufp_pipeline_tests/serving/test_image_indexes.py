"""Indexes of pictures are served as the command line asks them: seven extractors, one service."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from skufp_pipeline.extractors.settings import NAMES

from ..cli.asking import ask
from ..graphs import Graph
from .running import process, refused, serving, until, uploaded
from .seven import seven_indexes
from .test_answers import assert_same, of_command_line


@pytest.fixture(scope="module")
def shop(
    small_graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Graph]]:
    found = seven_indexes(small_graph, tmp_path_factory.mktemp("seven"))
    with serving(found.preset) as (client, _):
        yield client, found


@pytest.fixture(scope="module")
def photo(small_graph: Graph) -> Path:
    """A whole query photo."""
    return sorted(Path(small_graph.preset.data_root).glob("raw/dataset/validation/image/*.jpg"))[0]


def test_every_extractor_is_served(shop: tuple[httpx.Client, Graph]) -> None:
    served = shop[0].get("/v1/service").json()["indexes"]
    assert [index["name"] for index in served] == list(NAMES)
    assert {index["num_skus"] for index in served} == {served[0]["num_skus"]}


@pytest.mark.parametrize("name", NAMES)
def test_an_index_of_pictures_answers_as_on_the_command_line(
    shop: tuple[httpx.Client, Graph], photo: Path, name: str
) -> None:
    client, graph = shop
    index, photo_id = ("--index", name), uploaded(client, photo.read_bytes())["photo_id"]
    line = of_command_line(graph, "--image", photo, *index)
    first, second = (hit["sku_id"] for hit in line["hits"][:2])
    category = line["hits"][0]["category_name"]
    given: dict[str, object] = {"index": name, "top": 7}
    for body, words in (
        ({"photo_id": photo_id}, ["--image", photo]),
        ({"photo_id": photo_id, "box": [4, 3, 40, 44]}, ["--image", photo, "--box", "4,3,40,44"]),
        ({"like": [first]}, ["--like", first]),
        ({"photo_id": photo_id, "unlike": [second]}, ["--image", photo, "--unlike", second]),
        (
            {"photo_id": photo_id, "where": {"category_name": [category]}, "facets": 20},
            ["--image", photo, "--where", f"category_name={category}", "--facets", "20"],
        ),
    ):
        found = client.post("/v1/search", json={**given, **body})
        assert_same(found, of_command_line(graph, *words, *index))
    similar = client.get(f"/v1/products/{first}/similar", params=given)
    assert_same(similar, of_command_line(graph, "--like", first, *index))


def test_the_extractors_do_not_answer_alike(shop: tuple[httpx.Client, Graph], photo: Path) -> None:
    photo_id = uploaded(shop[0], photo.read_bytes())["photo_id"]
    answers = [
        shop[0].post("/v1/search", json={"photo_id": photo_id, "index": name, "top": 7}).json()["hits"]
        for name in NAMES
    ]
    assert len({tuple(hit["score"] for hit in hits) for hits in answers}) == len(NAMES)


def test_the_first_index_answers_where_none_is_named(shop: tuple[httpx.Client, Graph], photo: Path) -> None:
    client, first = shop[0], NAMES[0]
    photo_id = uploaded(client, photo.read_bytes())["photo_id"]
    found = client.post("/v1/search", json={"photo_id": photo_id, "top": 7}).json()
    named = client.post("/v1/search", json={"photo_id": photo_id, "top": 7, "index": first}).json()
    assert found["index"] == first
    assert found["hits"] == named["hits"]
    sku_id = found["hits"][0]["sku_id"]
    for path in (f"products/{sku_id}", f"products/{sku_id}/similar", "facets"):
        unnamed, of_first = client.get(f"/v1/{path}"), client.get(f"/v1/{path}", params={"index": first})
        assert unnamed.status_code == of_first.status_code == 200
        assert unnamed.json()["index_version"] == of_first.json()["index_version"]


def test_words_are_refused_as_on_the_command_line(shop: tuple[httpx.Client, Graph]) -> None:
    client, graph = shop
    told = ask("search", "--preset", graph.preset_file, "--text", "red", "--index", "vit").stderr
    assert "reads no words" in told
    found = refused(client.post("/v1/search", json={"text": "red", "index": "vit"}), 422)
    assert found == told.removeprefix("Error: ").strip()


def test_a_user_serves_indexes_of_pictures(
    shop: tuple[httpx.Client, Graph], photo: Path, tmp_path: Path
) -> None:
    graph = shop[1]
    with (
        process(graph.preset_file, tmp_path / "log") as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200, "all seven are open")
        photo_id = uploaded(client, photo.read_bytes())["photo_id"]
        for name in NAMES:
            found = client.post("/v1/search", json={"photo_id": photo_id, "index": name, "top": 7})
            assert_same(found, of_command_line(graph, "--image", photo, "--index", name))
