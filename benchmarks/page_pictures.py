"""Takes the pictures of the page that the documents show, from a running service.

    skufp serve &
    python benchmarks/page_pictures.py --photo data/demo/raw/dataset/validation/image/000073.jpg

A picture that `--most` kilobytes can't hold is an error. Needs Chromium (`make browser`).
"""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

COLOURS = 256  # of a picture
PATIENCE = 60_000  # milliseconds
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def start(page: Page, photo: Path) -> None:
    page.wait_for_selector("#ideas button")


def results(page: Page, photo: Path) -> None:
    page.wait_for_selector("#ideas button")
    page.set_input_files("#file", photo)
    page.wait_for_selector(".card:not(.bones)")
    page.wait_for_load_state("networkidle")


def why(page: Page, photo: Path) -> None:
    results(page, photo)
    page.locator(".card").first.get_by_role("button", name="Why?").click()
    page.wait_for_selector(".pair")


def mixed(page: Page, photo: Path) -> None:
    results(page, photo)
    page.fill("#text", "with purple")
    page.keyboard.press("Enter")
    page.wait_for_selector("#mix-panel:not([hidden])")
    page.wait_for_selector("result-grid[aria-busy='false']:not([stale])")
    page.wait_for_load_state("networkidle")
    page.locator("#text").blur()


Look = tuple[Callable[[Page, Path], None], int, int, str]
LOOKS: dict[str, Look] = {
    "start": (start, 1120, 760, "light"),
    "results": (results, 1120, 860, "light"),
    "dark": (mixed, 1120, 860, "dark"),
    "why": (why, 1120, 760, "light"),
    "phone": (results, 360, 780, "light"),
}


def taken(browser: Browser, url: str, photo: Path, look: Look) -> bytes:
    """A PNG of one look of the page."""
    prepare, width, height, scheme = look
    is_phone = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=is_phone,
        device_scale_factor=2 if is_phone else 1,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    prepare(page, photo)
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    buffer = io.BytesIO()
    picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@click.command(help=__doc__)
@click.option("--url", default="http://127.0.0.1:8000/", show_default=True)
@click.option("--photo", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images"), show_default=True)
@click.option("--most", default=150, show_default=True, help="Kilobytes of a picture.")
@click.option("--only", multiple=True, type=click.Choice(list(LOOKS)), help="These; by default all.")
def main(url: str, photo: Path, out: Path, most: int, only: tuple[str, ...]) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("there is no chromium on the PATH; `make browser` installs it")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name in only or LOOKS:
            picture = taken(browser, url, photo, LOOKS[name])
            if len(picture) > most * 1000:
                raise click.ClickException(f"page-{name}.png has {len(picture):,} bytes, more than {most} kB")
            (out / f"page-{name}.png").write_bytes(picture)
            click.echo(f"{out}/page-{name}.png: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
