import numpy as np
import pytest

from skufp_pipeline.datasets.attributes import COLOURS, Cut, ItemAttributes, cut_of, describe

NAVY, WHITE, RED, GREEN = (15, 20, 70), (245, 245, 245), (200, 20, 20), (20, 120, 40)
ROWS, COLUMNS = np.mgrid[:200, :150]


def painted(where: np.ndarray, one: tuple, other: tuple) -> np.ndarray:
    """A 200 x 150 picture of two colours."""
    return np.where(where[..., None], one, other).astype(np.uint8)


def test_solid_red_is_red_and_plain() -> None:
    assert describe(painted(ROWS >= 0, RED, RED)) == ItemAttributes(("red",), "plain", "medium")


@pytest.mark.parametrize("name", COLOURS)
def test_every_sample_of_a_colour_has_its_name(name: str) -> None:
    for sample in COLOURS[name]:
        assert describe(painted(ROWS >= 0, sample, sample)).colours == (name,)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 128), "navy"),
        ((0, 0, 255), "blue"),
        ((135, 206, 235), "sky blue"),
        ((0, 128, 128), "teal"),
        ((128, 0, 32), "burgundy"),
        ((255, 165, 0), "orange"),
        ((128, 128, 0), "olive"),
        ((34, 139, 34), "green"),
        ((128, 0, 128), "purple"),
        ((255, 192, 203), "pink"),
        ((139, 69, 19), "brown"),
        ((245, 245, 220), "beige"),
        ((105, 105, 105), "grey"),
    ],
)
def test_web_colours_have_their_usual_names(colour: tuple, name: str) -> None:
    assert describe(painted(ROWS >= 0, colour, colour)).colours == (name,)


@pytest.mark.parametrize("position", [ROWS, COLUMNS, (ROWS + COLUMNS) * 0.7])
@pytest.mark.parametrize("width", [10, 18])
def test_drawn_stripes_are_striped(position: np.ndarray, width: int) -> None:
    found = describe(painted(position // width % 2 == 0, NAVY, WHITE))
    assert found.pattern == "striped"
    assert set(found.colours) == {"navy", "white"}


def test_stripes_of_equal_lightness_are_striped() -> None:
    found = describe(painted(ROWS // 10 % 2 == 0, (200, 80, 80), (70, 140, 70)))
    assert found.pattern == "striped"


@pytest.mark.parametrize("width", [14, 20, 30])
def test_a_chessboard_and_a_grid_are_checked(width: int) -> None:
    chessboard = (ROWS // width + COLUMNS // width) % 2 == 0
    grid = (ROWS % (2 * width) < 4) | (COLUMNS % (2 * width) < 4)
    assert describe(painted(chessboard, NAVY, WHITE)).pattern == "checked"
    assert describe(painted(grid, NAVY, WHITE)).pattern == "checked"


@pytest.mark.parametrize("pitch", [24, 40])
def test_dots_are_patterned(pitch: int) -> None:
    dots = (ROWS % pitch - pitch / 2) ** 2 + (COLUMNS % pitch - pitch / 2) ** 2 < pitch**2 / 12
    assert describe(painted(dots, WHITE, GREEN)).pattern == "patterned"


def test_one_edge_and_smooth_shading_are_plain() -> None:
    assert describe(painted(COLUMNS < 75, NAVY, WHITE)).pattern == "plain"
    shaded = np.stack([170 + ROWS * 0.4, ROWS * 0.1, ROWS * 0.1], axis=-1).astype(np.uint8)
    assert describe(shaded) == ItemAttributes(("red",), "plain", "medium")


def test_the_centre_outweighs_the_background() -> None:
    inside = (abs(ROWS - 100) < 70) & (abs(COLUMNS - 75) < 52)
    assert inside.mean() < 0.5
    assert describe(painted(inside, GREEN, WHITE)).colours[0] == "green"


@pytest.mark.parametrize(("grey", "word"), [(30, "dark"), (120, "medium"), (230, "light")])
def test_lightness_is_that_of_the_item(grey: int, word: str) -> None:
    assert describe(np.full((20, 20, 3), grey, np.uint8)).lightness == word


@pytest.mark.parametrize(
    ("category", "cut"),
    [
        ("short sleeve top", Cut("short", None)),
        ("long sleeve outwear", Cut("long", None)),
        ("vest dress", Cut("sleeveless", None)),
        ("Sling", Cut("sleeveless", None)),
        ("shorts", Cut(None, "short")),
        ("trousers", Cut(None, "long")),
        ("skirt", Cut(None, None)),
        ("Slingshot", Cut(None, None)),
    ],
)
def test_sleeve_and_length_are_what_the_category_says(category: str, cut: Cut) -> None:
    assert cut_of(category) == cut


def test_a_single_pixel_has_a_description() -> None:
    assert describe(np.full((1, 1, 3), 255, np.uint8)) == ItemAttributes(("white",), "plain", "light")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_another_shape_or_type_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a \(H, W, 3\) uint8 image"):
        describe(image)
