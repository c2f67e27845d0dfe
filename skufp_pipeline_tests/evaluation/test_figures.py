import io

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.evaluation.figures import (
    LARGEST_PNG,
    GridRow,
    latency_histogram,
    recall_curve,
    results_grid,
)
from skufp_pipeline.evaluation.protocol import Model, evaluate

from .examples import gallery

GREEN = (0, 158, 115)
STAGES = {"encode": [1.0, 2.0, 3.0], "search": [2.0, 2.0, 2.0]}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near_green(png: bytes) -> int:
    return int((np.abs(pixels(png) - GREEN).max(axis=2) <= 8).sum())


@pytest.fixture
def noise(tmp_path):
    """Paths of pictures that compress badly."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, size=(120, 90, 3), dtype=np.uint8)).save(path)
    return paths


def grid_rows(paths, right, rows=1):
    results = [(path, f"sku{i}", 1 - i / 10) for i, path in enumerate(paths)]
    return [GridRow(np.full((50, 40, 3), 200, np.uint8), right, results)] * rows


def test_figures_are_the_same_bytes_every_time_and_hold_no_metadata(evaluation, noise):
    for draw in (
        lambda: recall_curve(evaluation),
        lambda: latency_histogram(STAGES),
        lambda: results_grid(grid_rows(noise, "sku1")),
    ):
        first = draw()
        assert first == draw()
        assert len(first) <= LARGEST_PNG
        image = Image.open(io.BytesIO(first))
        image.load()
        assert image.format == "PNG"
        assert image.info.keys() <= {"transparency"}


def test_recall_curves_have_a_panel_per_setting_that_has_queries(evaluation):
    full = pixels(recall_curve(evaluation)).shape
    without_zero = {s: r for s, r in evaluation.settings.items() if s != "zero"}
    narrower = pixels(recall_curve(type(evaluation)(without_zero))).shape
    assert narrower[0] == full[0]
    assert narrower[1] < full[1]


def test_nothing_to_draw_is_an_empty_picture_not_a_crash():
    empty = evaluate([Model("m", {}, gallery())], [])
    assert pixels(recall_curve(empty)).size
    assert pixels(latency_histogram({})).size
    assert pixels(results_grid([])).size


def test_the_right_result_is_framed_green_and_only_that(noise):
    framed, unframed = results_grid(grid_rows(noise, "sku2")), results_grid(grid_rows(noise, "none"))
    assert near_green(framed) > near_green(unframed) + 1000


def test_a_grid_of_many_noisy_pictures_shrinks_until_it_is_small(noise):
    few, many = results_grid(grid_rows(noise, "sku0")), results_grid(grid_rows(noise, "sku0", rows=12))
    assert len(many) <= LARGEST_PNG
    assert pixels(many).shape[1] < pixels(few).shape[1]


def test_a_text_query_and_an_unreadable_picture_are_drawn(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    row = GridRow(
        "a dress with " + "very" * 60, "x" * 300, [(broken, "<b>", 0.5), (tmp_path / "none", "x", 0.4)]
    )
    drawn = pixels(results_grid([row]))
    assert (drawn[:, :120] < 100).any()


def test_only_the_first_five_results_are_drawn_unless_more_are_asked_for(noise):
    rows, five = grid_rows([*noise, noise[0]], "sku1"), grid_rows(noise, "sku1")
    assert results_grid(rows) == results_grid(five)
    assert pixels(results_grid(rows, shown=6)).shape[1] > pixels(results_grid(five)).shape[1]


def test_a_query_without_a_known_answer_has_no_caption_and_no_frame(noise):
    known, unknown = grid_rows(noise, "sku1"), grid_rows(noise, None)
    assert near_green(results_grid(unknown)) < near_green(results_grid(known))
    dark = [int((pixels(results_grid(rows))[:, :120] < 100).sum()) for rows in (known, unknown)]
    assert dark[0] > dark[1] == 0
