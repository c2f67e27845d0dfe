"""Products, pictures, facets and explanations; ids that are hard to write in a path; the OpenAPI document."""

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import polars as pl
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.pictures import write_pictures
from skufp_pipeline.search.versions import CURRENT, FINGERPRINTS, Versions
from skufp_pipeline.serving.routes.shoppers import INDEX_VERSION
from skufp_pipeline.store import ArtifactStore, Recipe

from ..encoders.examples import picture
from ..search.conftest import publish_encoder
from .running import encoded, refused, serving, tiny_preset, uploaded

HARD = ("a/b", "a/b/image", "x y", "100%", "a%2Fb", "Ünï ✓", "../../etc/passwd", "a?b#c&d=e", "similar", "..")


@pytest.fixture
def hard(store: ArtifactStore, encoder: Encoder, tmp_path: Path) -> ArtifactStore:
    """An index of SKUs with hard ids, prices and pictures; the last has no picture."""
    colours = [(20 * number, 255 - 20 * number, 90) for number in range(len(HARD))]
    pictures = [picture(colour, (120, 80)) for colour in colours]
    for number, image in enumerate(pictures[:-1]):
        image.save(tmp_path / f"{number}.png")
    images = [f"{number}.png" for number in range(len(HARD) - 1)] + [None]
    skus = pl.DataFrame(
        {
            "sku_id": HARD,
            "category_name": ["one", "two"] * 5,
            "title": [f"No {number}" for number in range(len(HARD))],
            "image": images,
            "price": [1.5 * number for number in range(len(HARD))],
            "colour": ["red"] * len(HARD),
        }
    )
    index = FingerprintIndex(encoder.embed_images(pictures), skus)

    def build(directory: Path) -> dict[str, int]:
        index.save(directory)
        write_pictures(directory, HARD[:-1], images[:-1], 100, lambda name: tmp_path / name)  # type: ignore[arg-type]
        return {}

    clip = publish_encoder(store, encoder)
    store.produce("index/fingerprints/v1", Recipe(code_version="1", inputs={"clip_checkpoint": clip}), build)
    store.write_pointer(Versions(store, FINGERPRINTS).key(CURRENT), "v1")
    return store


@pytest.fixture
def shop(hard: ArtifactStore) -> Iterator[tuple[httpx.Client, FastAPI]]:
    with serving(tiny_preset(hard)) as found:
        yield found


def address(sku_id: str, rest: str = "") -> str:
    """Its path, with dots quoted too: a client takes `..` for a step upwards."""
    return f"/v1/products/{quote(sku_id, safe='').replace('.', '%2E')}{rest}"


def test_every_id_is_found_under_its_quoted_name(shop: tuple[httpx.Client, FastAPI]) -> None:
    client, _ = shop
    for number, sku_id in enumerate(HARD):
        product = client.get(address(sku_id)).json()
        assert (product["sku_id"], product["title"]) == (sku_id, f"No {number}")
        assert product["fields"] == {"price": 1.5 * number}
        similar = client.get(address(sku_id, "/similar"), params={"top": 99})
        assert sorted(hit["sku_id"] for hit in similar.json()["hits"]) == sorted({*HARD} - {sku_id})
        answer = client.get(address(sku_id, "/image"))
        if sku_id == HARD[-1]:
            assert product["image_url"] is None
            assert "no picture" in refused(answer, 404)
        else:
            assert client.get(product["image_url"].replace("..", "%2E%2E")).content == answer.content
            assert Image.open(io.BytesIO(answer.content)).size == (100, 67)
    for path in ("/v1/products/nothing", "/v1/products/%ff", "/v1/products/nothing/similar", "/v1/products/"):
        refused(client.get(path), 404)


def test_a_picture_is_made_smaller_never_larger_and_cached_by_version(
    shop: tuple[httpx.Client, FastAPI],
) -> None:
    client, _ = shop
    path = address(HARD[0], "/image")
    for size, wanted in ((50, (50, 34)), (1000, (100, 67))):
        answer = client.get(path, params={"size": size})
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == wanted
    assert answer.headers["etag"] == '"v1"'
    assert answer.headers["cache-control"] == "public, max-age=60"
    lasting = client.get(path, params={"v": "v1"}).headers["cache-control"]
    assert lasting == "public, max-age=31536000, immutable"
    again = client.get(path, headers={"if-none-match": '"v1"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", '"v1"')
    assert client.get(path, headers={"if-none-match": '"v0"'}).status_code == 200
    assert "size" in refused(client.get(path, params={"size": 5000}), 422)


def test_facets_are_counts_of_few_values_and_ends_of_numbers(shop: tuple[httpx.Client, FastAPI]) -> None:
    client, _ = shop
    answer = client.get("/v1/facets")
    facets = {facet["column"]: (facet["counts"], facet["ends"]) for facet in answer.json()["facets"]}
    assert facets == {"category_name": ({"one": 5, "two": 5}, None), "price": (None, [0.0, 13.5])}
    where = {"price": {"gte": 3, "lt": 7}, "category_name": ["one"]}
    found = client.post("/v1/search", json={"like": [HARD[0]], "where": where}).json()["hits"]
    assert {hit["sku_id"] for hit in found} == {HARD[2], HARD[4]}


def test_an_explanation_is_numbers_or_a_drawing(shop: tuple[httpx.Client, FastAPI]) -> None:
    client, _ = shop
    photo_id = uploaded(client, encoded(picture("red", (60, 40)), "PNG"))["photo_id"]
    asked = {"photo_id": photo_id, "sku_id": HARD[0], "box": [10, 0, 50, 40]}
    answer = client.post("/v1/explain", json=asked)
    told = answer.json()
    assert answer.headers[INDEX_VERSION] == told["index_version"] == "v1"
    assert (told["sku_id"], told["box"], told["pairs"]) == (HARD[0], [10, 0, 50, 40], [])
    assert (told["photo"]["width"], told["photo"]["height"]) == (40, 40)
    cells = [value for row in told["photo"]["cells"] for value in row]
    assert sum(cells) == pytest.approx(told["cosine"], abs=1e-5)  # test_resnet averages its last map
    drawn = client.post("/v1/explain", json=asked, headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(drawn.content)).format == "PNG"
    refused(client.post("/v1/explain", json={**asked, "sku_id": "nothing"}), 404)
    refused(client.post("/v1/explain", json={**asked, "photo_id": "nothing"}), 404)


def test_only_what_the_service_has_is_found(shop: tuple[httpx.Client, FastAPI]) -> None:
    client, _ = shop
    for path in ("/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2fetc/passwd", "/%2e%2e/x", "/v1/none"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "root:" not in answer.text


def test_the_docs_describe_every_address_and_ask_nothing_of_other_sites(
    shop: tuple[httpx.Client, FastAPI],
) -> None:
    client, _ = shop
    page, document = client.get("/docs"), client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            assert f"{method.upper()} {path}" in page.text
            assert told["description"]
    assert "//" not in page.text.replace("https://json-schema.org", "").replace("<!doctype", "")
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert "#/components/schemas/Problem" in str(document["paths"]["/v1/search"]["post"]["responses"]["422"])
    assert document["components"]["schemas"]["Problem"]["properties"]["detail"]


def test_requests_made_from_the_openapi_document_have_the_answers_it_describes(
    shop: tuple[httpx.Client, FastAPI],
) -> None:
    client, _ = shop
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    checks = [not_a_server_error, response_schema_conformance, content_type_conformance]
    asked = set()
    for operation in (result.ok() for result in schema.get_all_operations()):
        if not operation.path.startswith("/v1"):
            continue
        asked.add(operation.path)

        @settings(
            max_examples=15, phases=[Phase.generate], derandomize=True, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks)

        answers()
    assert {"/v1/photos", "/v1/search", "/v1/products/{sku}", "/v1/explain"} <= asked
