"""The page's files: what they weigh, how they are served, and that no text is missing."""

import gzip
import json
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import skufp_pipeline.serving
from skufp_pipeline.serving.routes import page

PAGE = Path(skufp_pipeline.serving.__file__).parent / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))
KILOBYTES = 150


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page.router)
    return TestClient(app)


def test_the_page_weighs_at_most_150_kilobytes() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) <= KILOBYTES * 1000


def test_every_file_is_served_with_its_type_and_a_tag(client: TestClient) -> None:
    types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
    for path in PAGE.iterdir():
        answer = client.get("/" if path.name == "index.html" else f"/static/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["Content-Type"] == types.get(path.suffix, answer.headers["Content-Type"])
        again = client.get(
            answer.request.url, headers={"If-None-Match": f'W/"other", {answer.headers["ETag"]}'}
        )
        assert (again.status_code, again.content) == (304, b"")


def test_a_file_is_compressed_for_those_who_can_read_it(client: TestClient) -> None:
    answer = client.get("/static/app.js", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/static/app.js", headers={"Accept-Encoding": "identity"})
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert int(answer.headers["Content-Length"]) < len(plain.content) / 2
    assert answer.content == plain.content
    assert gzip.decompress(page.page_files()["app.js"].compressed) == plain.content


@pytest.mark.parametrize(
    "path", ["/static/", "/static", "/static/index.html", "/static/gone.js", "/static/..%2Fsettings.py"]
)
def test_there_is_no_listing_and_no_other_file(client: TestClient, path: str) -> None:
    assert client.get(path, follow_redirects=True).status_code == 404


def test_texts_of_an_unknown_language_are_english(client: TestClient) -> None:
    assert client.get("/static/words.xx-YY.json").json()["language"] == "en"


def test_a_head_request_has_no_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


def test_no_script_or_style_is_inline() -> None:
    document = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)|javascript:", document)
    sources = "".join(path.read_text() for path in SCRIPTS)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://(?!www\.w3\.org)", sources
    )


def test_every_text_that_the_page_uses_is_there_and_no_other() -> None:
    texts = set(json.loads((PAGE / "words.en.json").read_text())) - {"language", "direction"}
    sources = "".join(path.read_text() for path in [*SCRIPTS, PAGE / "index.html"])
    written = set(re.findall(r'"([\w.]+)"', sources))
    begun = tuple(re.findall(r"`([a-z_.]+\.)\$\{", sources))  # of keys such as `verdict.${name}`
    assert set(re.findall(r'(?:\bt\(|data-t(?:-[a-z-]+)?=)"([\w.]+)"', sources)) <= texts
    assert {key for key in texts - written if not key.startswith(begun)} == set()
