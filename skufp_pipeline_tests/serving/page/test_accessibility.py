"""axe finds nothing to complain about in any state of the page, and it can be read from the right."""

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .conftest import OpenPage, Running, answers, asked, upload
from .test_files import PAGE

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"width": 360, "has_touch": True},
    "forced colours": {"forced_colors": "active"},
}


def complaints(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("look", LOOKS)
def test_everyone_can_use_the_start_the_answers_and_the_dialogs(
    open_page: OpenPage, running: Running, photo: Path, look: str
) -> None:
    page = open_page(reduced_motion="reduce", **LOOKS[look])
    page.wait_for_selector("#ideas button")
    assert complaints(page) == []
    upload(page, photo)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a photo of it").click()
    asked(page, lambda: chooser.value.set_files(running.photos[1]))
    if look == "phone":
        page.locator("#more-panel summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert complaints(page) == []
    asked(page, page.locator(".card").first.get_by_role("button", name="Why?").click, "/v1/explain")
    page.wait_for_selector("#why-title")
    assert complaints(page) == []
    page.keyboard.press("Escape")
    page.locator(".open").first.click()
    assert complaints(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="For operators").click()
    assert complaints(page) == []


@pytest.mark.parametrize("look", ["light", "dark"])
def test_everyone_can_use_errors_and_empty_answers(open_page: OpenPage, look: str) -> None:
    page = open_page("?photo=gone", tolerated="404", **LOOKS[look])
    page.wait_for_selector(".blank")
    assert complaints(page) == []
    page.goto(page.url.partition("?")[0] + "?q=red&index=few&r.price=5.6..6.4")
    page.wait_for_selector(".blank")
    assert complaints(page) == []


def test_a_language_from_right_to_left_mirrors_the_page(open_page: OpenPage, running: Any) -> None:
    words = json.loads((PAGE / "words.en.json").read_text())
    arabic = {"language": "ar", "direction": "rtl", "start.title": "ابحث بصورة", "refine.title": "تصفية"}
    page = open_page()
    page.route("**/static/words.ar.json", lambda route: route.fulfill(json=arabic))
    page.goto(f"{running.url}/?lang=ar")
    page.wait_for_selector("#ideas button")
    assert page.get_by_role("heading", level=1).first.text_content() == arabic["start.title"]
    assert (
        page.locator("#start-choose").text_content() == words["photo.choose"]
    )  # English where there is none
    assert complaints(page) == []
    page.goto(f"{running.url}/?lang=ar&q=skirt")
    skus = answers(page)
    aside, grid = page.locator("aside").bounding_box(), page.locator("#answers").bounding_box()
    assert aside is not None
    assert grid is not None
    assert aside["x"] > grid["x"]
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('.card').dataset.sku") == skus[1]
    assert "lang=ar" in page.url
    assert complaints(page) == []
