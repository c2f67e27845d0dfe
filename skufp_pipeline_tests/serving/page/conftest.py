"""A real service with the page, and a real browser: one of each, and a fresh page for each test."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn
import yaml
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from skufp_pipeline.presets import load_preset
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.serving.keys import add_key
from skufp_pipeline.store import ArtifactStore

from ...cli.test_index import publish_as
from ...detection.examples import Halves
from ...graphs import Graph, write_preset
from ...servers import wait_until

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
PATIENCE = 60_000  # milliseconds; the machine may be busy
MEGABYTES = 0.3  # of a photo, at most
expect.set_options(timeout=PATIENCE)
OpenPage = Callable[..., Page]


class Running(NamedTuple):
    """A service: its address, an operator's key and customers' photos."""

    url: str
    key: str
    photos: list[Path]

    def asked(self, path: str, **body: Any) -> Any:
        """What the service answers to a program."""
        answer = httpx.post(f"{self.url}/v1/{path}", json=body, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()

    def skus(self, **body: Any) -> list[str]:
        """The SKUs that a program finds."""
        return [hit["sku_id"] for hit in self.asked("search", top=24, **body)["hits"]]

    def sent(self, content: bytes) -> str:
        """The id of a photo that a program uploads."""
        return httpx.post(f"{self.url}/v1/photos", files={"photo": content}, timeout=60).json()["photo_id"]


@pytest.fixture(scope="package")
def running(chromium: Browser, graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service over the ci graph, with a detector that finds two items, and a second index of two versions
    with prices and without pictures. It is not started where there is no browser to ask it."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(graph.preset.data_root, folder / "data", copy_function=os.link)
    key = add_key(folder / "keys.yaml", "operator", "admin")
    serving = {
        "title": "Test shop",
        "feedback": True,
        "indexes": ["fingerprints", "few"],
        "keys": str(folder / "keys.yaml"),
        "photo_megabytes": MEGABYTES,
        "photos_megabytes": 1,
        "rate": "1000/second",
        "upload_rate": "1000/second",
        "queue_seconds": 60,
    }
    preset_file = write_preset(folder, {**yaml.safe_load(graph.preset_file.read_text()), "serving": serving})
    few = Graph(preset_file, None, "")
    _, whole = current_index(few.store)
    for version, count in (("one", 30), ("two", 40)):
        prices = pl.Series("price", np.arange(count) + 0.5)
        skus = whole.skus[:count].with_columns(prices)
        publish_as(few, "few", version, FingerprintIndex(whole.fingerprints[:count], skus, threads=1))
    preset = load_preset(str(preset_file))
    app = create_app(preset, ArtifactStore(preset.data_root))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    service = app.state.service
    wait_until(lambda: server.started and service.why_not_ready() is None, "the indexes are open")
    service.rooms.served("fingerprints").engine.detector = Halves()
    photos = sorted((folder / "data").rglob("validation/image/*.jpg"))
    yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", key, photos)
    server.should_exit = True
    thread.join(timeout=60)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Playwright holds an event loop in this thread, so it ends with the package."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `make browser` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(running: Running, chromium: Browser) -> Iterator[OpenPage]:
    """Opens pages in contexts of their own. What a page says on its console or asks of another host fails the
    test, unless it contains `tolerated`."""
    opened: list[tuple[Page, list[str], str]] = []

    def open_one(path: str = "", tolerated: str = "no error at all", **context: Any) -> Page:
        size = {"width": context.pop("width", 1280), "height": 860}
        page = chromium.new_context(viewport=size, **context).new_page()
        page.set_default_timeout(PATIENCE)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda each: said.append(each.url) if _is_foreign(each.url, running.url) else None)
        opened.append((page, said, tolerated))
        page.goto(f"{running.url}/{path}")
        page.wait_for_selector("html:not([data-waiting])")
        return page

    yield open_one
    for page, said, tolerated in opened:
        page.unroute_all(behavior="ignoreErrors")
        page.context.close()
        assert [each for each in said if tolerated not in each] == []


def _is_foreign(url: str, own: str) -> bool:
    return not url.startswith((f"{own}/", f"blob:{own}/"))


@pytest.fixture
def photo(running: Running) -> Path:
    return running.photos[0]


def upload(page: Page, photo: Path) -> None:
    """Chooses a photo as a person does, and waits for its answers."""
    with page.expect_file_chooser() as chooser:
        page.locator("#start-choose, #choose").locator("visible=true").last.click()
    chooser.value.set_files(photo)
    answers(page)


def answers(page: Page) -> list[str]:
    """The SKUs of the cards, once the answers to what was asked last are there."""
    page.wait_for_selector("result-grid[aria-busy='false'] .card:not(.bones)")
    return skus_of(page.locator(".card"))


def skus_of(cards: Locator) -> list[str]:
    skus: list[str] = cards.evaluate_all("cards => cards.map((card) => card.dataset.sku)")
    return skus


def address(page: Page) -> dict[str, list[str]]:
    """The values in the page's address, by name."""
    found = page.evaluate("[...new URLSearchParams(location.search)]")
    return {name: [value for other, value in found if other == name] for name, _ in found}


def asked(page: Page, act: Callable[[], Any], path: str = "/v1/search") -> dict[str, Any]:
    """What the page asks of the service when something is done, once that is answered and shown."""
    with page.expect_response(lambda answer: answer.url.endswith(path)) as answer:
        act()
    answer.value.finished()
    body: dict[str, Any] = json.loads(answer.value.request.post_data or "{}")
    page.wait_for_selector("result-grid[aria-busy='false']", state="attached")
    return body
