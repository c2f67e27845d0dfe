"""A shopper chooses among the extractors: each answers with its own index."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from skufp_pipeline.extractors.settings import NAMES

from ...graphs import Graph
from ..running import serving
from ..seven import seven_indexes
from .conftest import OpenPage, Running, address, answers, skus_of, upload


@pytest.fixture(scope="module")
def running(
    chromium: Browser, small_graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service of seven indexes of pictures."""
    found = seven_indexes(small_graph, tmp_path_factory.mktemp("models"))
    photos = sorted(Path(found.preset.data_root).rglob("validation/image/*.jpg"))
    with serving(found.preset) as (client, _):
        yield Running(str(client.base_url).rstrip("/"), "", photos)


def test_every_model_can_be_chosen_and_answers(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    photo_id = address(page)["photo"][0]
    chosen = page.locator("#index")
    assert chosen.locator("option").evaluate_all("all => all.map((each) => each.value)") == list(NAMES)
    for name in (*NAMES[1:], NAMES[0]):
        chosen.select_option(name)
        page.wait_for_url(f"**index={name}**" if name != NAMES[0] else lambda url: "index=" not in url)
        assert answers(page) == running.skus(photo_id=photo_id, index=name)
        expect(page.locator(".latency")).to_contain_text(name)


def test_two_models_answer_one_photo_side_by_side(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page("?index=vit&beside=autoencoder")
    upload(page, photo)
    photo_id = address(page)["photo"][0]
    columns = page.locator("result-grid[aria-busy='false']")
    expect(columns).to_have_count(2)
    for place, name in enumerate(("vit", "autoencoder")):
        assert skus_of(columns.nth(place).locator(".card")) == running.skus(photo_id=photo_id, index=name)


def test_words_get_the_services_answer_where_no_model_reads_them(
    open_page: OpenPage, running: Running
) -> None:
    page = open_page("?q=red&index=vit", tolerated="422")
    expect(page.get_by_text("reads no words")).to_be_visible()
