"""What a shopper and an operator do on the page, in a real browser against a real service."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from .conftest import MEGABYTES, OpenPage, Running, address, answers, asked, skus_of, upload

TAKES = """
([content, type, event]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], "photo.jpg", { type }));
  const made = event === "paste"
    ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true })
    : new DragEvent(event, { dataTransfer: carried, bubbles: true });
  document.body.dispatchEvent(made);
}
"""


def noise(side: int, kind: str) -> bytes:
    """A photo that compresses badly."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def forget(running: Running) -> None:
    """Sends so many photos that the service forgets all earlier ones."""
    for _ in range(5):
        running.sent(noise(280, "PNG"))


def card(page: Page, place: int):  # type: ignore[no-untyped-def]
    return page.locator(".card").nth(place)


def test_a_chosen_photo_is_answered_as_a_program_is(
    open_page: OpenPage, running: Running, photo: Path
) -> None:
    page = open_page()
    upload(page, photo)
    found = answers(page)
    assert found == running.skus(photo_id=address(page)["photo"][0])
    assert len(found) == 24
    expect(page.locator(".verdict")).to_contain_text(re.compile("Here it is|No certain match|Probably not"))
    expect(page.locator(".verdict .because")).to_contain_text("sure that the first one is right")
    expect(page.locator(".latency summary")).to_contain_text("Found in")
    expect(page.get_by_role("status").first).to_contain_text("24 results")
    chips = page.locator(".regions button")
    assert chips.all_text_contents() == ["Item 1", "Item 2", "Whole photo"]


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(
    open_page: OpenPage, running: Running, photo: Path, event: str
) -> None:
    page = open_page()
    content = base64.b64encode(photo.read_bytes()).decode()
    if event == "drop":
        page.evaluate(TAKES, [content, "image/jpeg", "dragenter"])
        expect(page.locator("#veil")).to_be_visible()
    page.evaluate(TAKES, [content, "image/jpeg", event])
    assert answers(page) == running.skus(photo_id=address(page)["photo"][0])
    expect(page.locator("#veil")).to_be_hidden()


def test_the_camera_takes_a_photo(open_page: OpenPage) -> None:
    page = open_page(permissions=["camera"])
    page.locator("#start-camera").click()
    page.get_by_role("button", name="Take photo").click()
    assert answers(page)
    expect(page.locator("camera-dialog dialog")).to_be_hidden()


def test_an_item_is_chosen_by_its_chip_and_by_a_tap_on_the_photo(
    open_page: OpenPage, running: Running, photo: Path
) -> None:
    page = open_page(has_touch=True)
    upload(page, photo)
    photo_id = address(page)["photo"][0]
    assert asked(page, page.get_by_role("button", name="Whole photo").click)["whole"] is True
    assert answers(page) == running.skus(photo_id=photo_id, whole=True)
    seen = page.locator(".canvas").bounding_box()
    assert seen is not None
    tap = (seen["x"] + 0.75 * seen["width"], seen["y"] + seen["height"] / 2)
    assert asked(page, lambda: page.touchscreen.tap(*tap))["item"] == 2
    assert answers(page) == running.skus(photo_id=photo_id, item=2)
    expect(page.get_by_role("button", name="Item 2")).to_have_attribute("aria-pressed", "true")
    frame = page.locator(".box").bounding_box()
    assert frame is not None
    assert frame["x"] == pytest.approx(seen["x"] + seen["width"] / 2, abs=1.5)
    assert asked(page, page.get_by_role("button", name="Item 1").click)["item"] == 1


def test_the_box_is_dragged_and_resized_by_mouse(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    asked(page, page.get_by_role("button", name="Item 1").click)
    seen, (width, height) = page.locator(".canvas").bounding_box(), Image.open(photo).size
    assert seen is not None

    def drag(start: tuple[float, float], end: tuple[float, float]) -> list[int]:
        """Drags between shares of the photo; returns the box that is asked."""

        def act() -> None:
            points = [
                (seen["x"] + x * seen["width"], seen["y"] + y * seen["height"]) for x, y in (start, end)
            ]
            page.mouse.move(*points[0])
            page.mouse.down()
            page.mouse.move(*points[1], steps=4)
            page.mouse.up()

        box: list[int] = asked(page, act)["box"]
        return box

    assert drag((0.5, 0.995), (0.75, 0.5)) == pytest.approx([0, 0, 0.75 * width, height / 2], abs=2)
    moved = drag((0.3, 0.25), (0.5, 0.5))
    assert moved == pytest.approx([0.2 * width, 0.25 * height, 0.95 * width, 0.75 * height], abs=2)
    drawn = drag((0.02, 0.9), (0.15, 0.99))  # beside the box: a new one
    assert drawn == pytest.approx([0.02 * width, 0.9 * height, 0.15 * width, 0.99 * height], abs=8)
    assert answers(page) == running.skus(photo_id=address(page)["photo"][0], box=drawn)


def test_the_box_is_moved_and_resized_by_keys(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    asked(page, page.get_by_role("button", name="Item 1").click)
    width, height = Image.open(photo).size
    step = max(1, round(0.03 * max(width, height)))
    box = page.get_by_role("application")
    box.focus()
    for keys in ("ArrowRight", "Shift+ArrowUp", "Shift+ArrowUp"):
        box.press(keys)
    moved = [step, 0, width // 2 + step, height - 2 * step]
    page.wait_for_url(f"**box={'%2C'.join(map(str, moved))}*")
    assert answers(page) == running.skus(photo_id=address(page)["photo"][0], box=moved)
    expect(box).to_be_focused()
    expect(box).to_have_accessible_name(re.compile(f"from {step}, 0 to"))


def test_the_box_is_dragged_by_a_finger(open_page: OpenPage, photo: Path) -> None:
    page = open_page(has_touch=True, width=360)
    upload(page, photo)
    asked(page, page.get_by_role("button", name="Item 1").click)
    page.locator(".canvas").scroll_into_view_if_needed()
    seen, (width, height) = page.locator(".canvas").bounding_box(), Image.open(photo).size
    assert seen is not None
    touch = page.context.new_cdp_session(page)

    def drag() -> None:
        for kind, share in (("touchStart", 0.25), ("touchMove", 0.4), ("touchMove", 0.5), ("touchEnd", None)):
            at = [] if share is None else [{"x": seen["x"] + share * seen["width"], "y": seen["y"] + 60}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    assert asked(page, drag)["box"] == pytest.approx([0.25 * width, 0, 0.75 * width, height], abs=2)


def test_words_beside_the_photo_count_as_the_slider_says(
    open_page: OpenPage, running: Running, photo: Path
) -> None:
    page = open_page()
    upload(page, photo)
    photo_id = address(page)["photo"][0]
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("red skirt")
    body = asked(page, lambda: page.keyboard.press("Enter"))
    assert (body["text"], body["text_weight"]) == ("red skirt", 0.5)
    slider = page.get_by_role("slider", name="What counts more")
    slider.focus()
    assert asked(page, lambda: page.keyboard.press("End"))["text_weight"] == 1
    assert answers(page) == running.skus(photo_id=photo_id, text="red skirt", text_weight=1)
    assert address(page)["weight"] == ["1"]


def test_words_alone_are_found_with_what_they_match(open_page: OpenPage, running: Running) -> None:
    page = open_page()
    page.get_by_role("searchbox").fill("trousers")
    page.keyboard.press("Enter")
    assert answers(page) == running.skus(text="trousers")
    expect(page.locator(".verdict")).to_contain_text("24 products for “trousers”")
    assert page.title() == "trousers \N{EN DASH} Test shop"


def test_words_to_avoid_push_away(open_page: OpenPage, running: Running) -> None:
    page = open_page("?q=skirt")
    answers(page)
    page.get_by_label("Without").fill("striped")
    asked(page, lambda: page.keyboard.press("Enter"))
    assert answers(page) == running.skus(text="skirt", not_text=["striped"])
    asked(page, page.get_by_role("button", name="Remove striped").click)
    assert answers(page) == running.skus(text="skirt")


def test_filters_narrow_and_count(open_page: OpenPage, running: Running) -> None:
    page = open_page("?q=red")
    answers(page)
    row = page.locator("filter-panel li", has=page.get_by_label("skirt", exact=True))
    counted = running.asked("search", text="red", top=1, facets=100)["facets"]["category_name"]["skirt"]
    expect(row.locator(".count")).to_have_text(str(counted))
    body = asked(page, row.get_by_role("checkbox").check)
    assert body["where"] == {"category_name": ["skirt"]}
    assert answers(page) == running.skus(text="red", where={"category_name": ["skirt"]})
    expect(page.get_by_role("checkbox", name="skirt", exact=True)).to_be_focused()
    asked(page, page.get_by_role("checkbox", name="trousers", exact=True).check)
    assert address(page)["f.category_name"] == ["skirt", "trousers"]
    asked(page, page.get_by_role("button", name="Clear all").click)
    assert "f.category_name" not in address(page)


def test_numbers_are_filtered_by_a_range(open_page: OpenPage, running: Running) -> None:
    page = open_page("?q=red&index=few")
    answers(page)
    asked(page, lambda: (page.get_by_role("spinbutton", name="From").fill("5"), page.keyboard.press("Tab")))
    body = asked(
        page, lambda: (page.get_by_role("spinbutton", name="To").fill("9.5"), page.keyboard.press("Tab"))
    )
    assert body["where"] == {"price": {"gte": 5, "lte": 9.5}}
    assert len(answers(page)) == 5
    assert address(page)["r.price"] == ["5..9.5"]
    expect(card(page, 0)).to_contain_text("Price")


def test_more_like_this_leads_on_and_back(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    first = answers(page)
    asked(page, card(page, 1).get_by_role("button", name="More like this").click)
    second = answers(page)
    assert second == running.skus(like=[first[1]])
    expect(page.locator("#answers-title")).to_be_focused()
    asked(page, card(page, 2).get_by_role("button", name="More like this").click)
    assert address(page)["near"] == [first[1], second[2]]
    expect(page.locator("#trail li")).to_have_count(3)
    expect(page.locator("#trail")).to_contain_text(second[2])
    asked(page, page.go_back)
    assert answers(page) == second
    asked(page, page.locator("#trail").get_by_role("button", name="Your photo").click)
    assert answers(page) == first


def test_likes_and_dislikes_change_the_answers(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    first, photo_id = answers(page), address(page)["photo"][0]
    card(page, 1).hover()
    asked(page, card(page, 1).get_by_role("button", name="More of this").click)
    liked = answers(page)
    assert liked == running.skus(photo_id=photo_id, like=[first[1]])
    card(page, 0).hover()
    asked(page, card(page, 0).get_by_role("button", name="Less of this").click)
    assert answers(page) == running.skus(photo_id=photo_id, like=[first[1]], unlike=[liked[0]])
    expect(page.locator("#box-hint")).to_contain_text("Drag the box")
    asked(page, page.get_by_role("button", name=f"Remove {first[1]}").click)
    asked(page, page.get_by_role("button", name=f"Remove {liked[0]}").click)
    assert answers(page) == first


def test_more_photos_of_an_item_are_added_asked_together_and_removed(
    open_page: OpenPage, running: Running
) -> None:
    page = open_page()
    first, second = running.photos[:2]
    upload(page, first)
    alone, photo_id = answers(page), address(page)["photo"][0]
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a photo of it").click()
    body = asked(page, lambda: chooser.value.set_files(second))
    assert body["photo_ids"] == [photo_id, *address(page)["also"]]
    assert len(body["photo_ids"]) == 2
    together = answers(page)
    assert together == running.skus(photo_ids=body["photo_ids"]) != alone
    expect(page.locator("#box-hint")).to_contain_text("Of several photos")
    page.reload()
    assert answers(page) == together
    assert page.get_by_role("img", name="Photo 2").evaluate("image => image.naturalWidth") > 0
    asked(page, page.get_by_role("button", name="Remove photo 2").click)
    assert answers(page) == alone
    assert "also" not in address(page)


def test_why_draws_both_pictures_and_their_pairs(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    button = card(page, 0).get_by_role("button", name="Why?")
    body = asked(page, button.click, "/v1/explain")
    pairs = running.asked("explain", **body)["pairs"]
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".pair")).to_have_count(len(pairs))
    drawn = """(canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    }"""
    assert dialog.locator("canvas").evaluate(drawn) > 50
    before = dialog.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    dialog.get_by_label("Light and shade").fill("0")
    assert dialog.locator("canvas").evaluate("(canvas) => canvas.toDataURL()") != before
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


def test_a_thumb_is_kept(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    group = card(page, 0).get_by_role("group", name="Is this right")
    body = asked(page, group.get_by_role("button", name="Right", exact=True).click, "/v1/feedback")
    assert (body["sku_id"], body["good"]) == (answers(page)[0], True)
    expect(group.get_by_role("button", name="Right", exact=True)).to_have_attribute("aria-pressed", "true")
    assert running.asked("feedback", **body)["kept"] is True


def test_a_card_opens_by_keys_and_gives_the_focus_back(open_page: OpenPage) -> None:
    page = open_page("?q=skirt")
    skus = answers(page)
    card(page, 0).locator(".open").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    place = page.evaluate("document.activeElement.closest('.card').dataset.sku")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    assert place == skus[1 + columns]
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(place)
    page.keyboard.press("Escape")
    expect(card(page, 1 + columns).locator(".open")).to_be_focused()


def test_a_reload_and_a_link_show_the_same(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    asked(page, page.get_by_role("button", name="Item 2").click)
    found, link = answers(page), page.evaluate("location.search")
    page.reload()
    assert answers(page) == found
    expect(page.locator(".canvas img")).to_be_visible()
    other = open_page(link)
    assert answers(other) == found
    expect(other.locator(".missing")).to_have_text("This photo isn't on this device.")


def test_a_photo_that_the_service_forgot_is_sent_again(
    open_page: OpenPage, running: Running, photo: Path
) -> None:
    page = open_page(tolerated="404")
    upload(page, photo)
    found, old = answers(page), address(page)["photo"]
    link = page.evaluate("location.search")
    forget(running)
    page.reload()
    assert answers(page) == found
    assert address(page)["photo"] != old
    page.goto(f"{running.url}/{link}")  # the old address, on this device
    assert answers(page) == found
    forget(running)
    other = open_page(link, tolerated="404")
    expect(other.get_by_role("alert").last).to_contain_text("This photo is gone")
    expect(other.get_by_role("alert").last).to_contain_text("15 minutes")
    with other.expect_file_chooser():
        other.locator(".blank").get_by_role("button", name="Choose a photo").click()


def test_a_busy_service_is_asked_once_more(open_page: OpenPage) -> None:
    page = open_page(tolerated="429")
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) in (1, 3, 4):
            route.fulfill(
                status=429, headers={"Retry-After": "1"}, json={"detail": "too many searches", "status": 429}
            )
        else:
            route.continue_()

    page.route("**/v1/search", refuse)
    page.get_by_role("searchbox").fill("skirt")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("Trying again in 1 second")
    assert answers(page)
    assert len(refused) == 2
    expect(page.locator("#notice")).to_be_empty()
    page.get_by_role("searchbox").fill("shorts")
    page.keyboard.press("Enter")
    expect(page.locator(".blank")).to_contain_text("too many searches")
    assert len(refused) == 4


def test_a_failure_is_told_and_can_be_tried_again(open_page: OpenPage) -> None:
    page = open_page(tolerated="500")
    page.route("**/v1/search", lambda route: route.fulfill(status=500, body="<h1>proxy</h1>"), times=1)
    page.get_by_role("searchbox").fill("skirt")
    page.keyboard.press("Enter")
    expect(page.locator(".blank")).to_contain_text("Something went wrong")
    page.get_by_role("button", name="Try again").click()
    assert answers(page)


def test_offline_is_told_and_ends_by_itself(open_page: OpenPage) -> None:
    page = open_page("?q=skirt", tolerated="ERR_INTERNET_DISCONNECTED")
    answers(page)
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("shorts")
    page.keyboard.press("Enter")
    expect(page.locator(".blank")).to_contain_text("You are offline")
    page.context.set_offline(False)
    assert answers(page)


def test_a_service_that_can_not_be_reached_is_asked_again_until_it_answers(open_page: OpenPage) -> None:
    page = open_page("?q=skirt", tolerated="ERR_CONNECTION_REFUSED")
    answers(page)
    page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    page.get_by_role("searchbox").fill("shorts")
    page.keyboard.press("Enter")
    expect(page.locator(".blank")).to_contain_text("can't be reached")
    with page.expect_event("requestfailed", lambda asked: asked.url.endswith("/v1/service")):
        pass
    page.unroute("**/v1/**")
    assert answers(page)


def test_no_result_offers_to_clear_the_filters(open_page: OpenPage, running: Running) -> None:
    page = open_page("?q=red&index=few&r.price=5.6..6.4")
    expect(page.locator(".blank")).to_contain_text("Nothing found")
    asked(page, page.get_by_role("button", name="Clear filters").click)
    assert answers(page) == running.skus(text="red", index="few")


def test_a_newer_search_ends_the_one_before(open_page: OpenPage, running: Running) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/v1/search", lambda route: held.append(route), times=1)
    given_up: list[str] = []
    page.on("requestfailed", lambda request: given_up.append(request.post_data or ""))
    page.get_by_role("searchbox").fill("skirt")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bones")
    page.get_by_role("searchbox").fill("shorts")
    page.keyboard.press("Enter")
    assert answers(page) == running.skus(text="shorts")
    assert len(given_up) == 1
    assert '"skirt"' in given_up[0]


def test_a_photo_over_the_limit_is_made_smaller(open_page: OpenPage, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(noise(900, "PNG"))
    assert large.stat().st_size > 5 * MEGABYTES * 1e6
    page = open_page()
    upload(page, large)
    width = page.locator(".canvas img").get_attribute("width")
    assert width is not None
    assert 256 <= int(width) < 900


def test_what_is_no_photo_is_told_in_a_sentence(open_page: OpenPage, tmp_path: Path) -> None:
    odd = tmp_path / "photo.heic"
    odd.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))
    page = open_page(tolerated="4")
    page.set_input_files("#file", odd)
    notice = page.get_by_role("alert").first
    expect(notice).to_contain_text(re.compile("HEIC|HEIF|photo"))
    expect(notice.get_by_role("button", name="Choose another")).to_be_visible()


def test_the_last_searches_are_offered_and_can_be_cleared(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    found = answers(page)
    asked(page, lambda: (page.get_by_role("searchbox").fill("skirt"), page.keyboard.press("Enter")))
    page.get_by_role("link", name="Test shop").click()
    links = page.locator("#recent a")
    expect(links).to_have_count(2)
    links.nth(1).click()
    assert answers(page) == found
    page.go_back()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#recent")).to_be_empty()
    assert page.evaluate("localStorage.length") == 0


def test_two_indexes_are_compared_side_by_side(open_page: OpenPage, running: Running, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    photo_id = address(page)["photo"][0]
    page.get_by_label("Compare with").select_option("few")
    columns = page.locator("result-grid[aria-busy='false']")
    expect(columns).to_have_count(2)
    for place, index in enumerate(("fingerprints", "few")):
        assert skus_of(columns.nth(place).locator(".card")) == running.skus(photo_id=photo_id, index=index)


def test_an_operator_sees_and_changes_what_is_in_use(open_page: OpenPage, running: Running) -> None:
    page = open_page(tolerated="401")
    page.get_by_role("button", name="For operators").click()
    drawer = page.get_by_role("dialog", name="Operators")
    drawer.get_by_label("API key").fill("wrong")
    drawer.get_by_role("button", name="Unlock").click()
    expect(drawer.locator(".told")).to_contain_text("key")
    drawer.get_by_label("API key").fill(running.key)
    drawer.get_by_role("button", name="Unlock").click()
    few = drawer.locator(".index", has=page.get_by_role("heading", name="few"))
    expect(few.get_by_role("row", name=re.compile("^two"))).to_contain_text("in use")
    expect(drawer.locator(".tiles")).to_contain_text("Searches")
    few.get_by_role("button", name="Roll back to one").click()
    expect(few.get_by_role("row", name=re.compile("^one"))).to_contain_text("in use")
    few.get_by_role("button", name="Reload now").click()
    expect(drawer.locator(".told")).to_have_text("Done.")
    (first, *_) = running.skus(text="skirt")
    drawer.get_by_role("textbox", name="Product").fill(first)
    drawer.get_by_role("combobox", name="Rule").select_option("hide")
    drawer.get_by_role("button", name="Add rule").click()
    expect(drawer.get_by_role("row", name=re.compile(first))).to_contain_text("Hide")
    assert first not in running.skus(text="skirt")
    drawer.get_by_role("button", name=f"Remove the rule for {first}").click()
    expect(drawer).to_contain_text("There are no rules")
    assert running.skus(text="skirt")[0] == first
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    drawer.get_by_role("button", name="Forget key").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_quantiles_are_linear_within_a_bucket(open_page: OpenPage) -> None:
    page = open_page()
    program = """async (shares) => {
      const { quantile } = await import("./static/metrics.js");
      return shares.map((share) => quantile([[0.1, 2], [0.2, 4], [Infinity, 5]], share));
    }"""
    assert page.evaluate(program, [0.2, 0.4, 0.6, 1]) == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_the_page_does_not_jump(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.wait_for_selector("#ideas button")
    page.evaluate(
        """() => {
          window.shifts = 0;
          const add = (entry) => (window.shifts += entry.hadRecentInput ? 0 : entry.value);
          const observer = new PerformanceObserver((list) => list.getEntries().forEach(add));
          observer.observe({ type: "layout-shift", buffered: true });
        }"""
    )
    upload(page, photo)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.shifts") < 0.1


def test_who_wants_no_motion_sees_none(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    page.route("**/v1/search", lambda route: None, times=1)
    page.get_by_role("searchbox").fill("skirt")
    page.keyboard.press("Enter")
    bone = page.locator(".bones .picture").first
    assert bone.evaluate("(node) => getComputedStyle(node).animationName") == "none"
