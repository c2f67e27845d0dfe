import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from skufp_pipeline.datasets.lettering import dejavu, readable, shortened, write_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 42, «Жакет», Ελλάδα", "Größe 42, «Жакет», Ελλάδα"),
        ("قميص חולצה", "قميص חולצה"),
        ("商品 描述", "ShangPin MiaoShu"),
        ("パンツ", "pantsu"),
        ("바지", "BaJi"),
        ("e\u0301", "\u00e9"),
        ("a\tb\r\nc\u2028d\x00e", "a b c d e"),
        ("\u202eabc\u200d\ufe0f", "abc"),
        ("\U0001f45f", ":athletic_shoe:"),
        ("\ue000 \ud800", "<U+E000> <U+D800>"),
        ("\n", ""),
    ],
)
def test_a_label_is_one_line_of_characters_that_have_a_glyph(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_a_long_label_ends_with_an_ellipsis_within_its_width() -> None:
    font = dejavu(9)
    cut = shortened("shoe" * 100_000, font, 60)
    assert cut.startswith("shoeshoe")
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60 < font.getlength(cut[:-1] + "es…")
    assert shortened("shoe", font, 60) == "shoe"
    assert shortened("shoe", font, 2) == ""


def ink(lines: list[str]) -> np.ndarray:
    image = Image.new("RGB", (200, 60), "white")
    write_lines(ImageDraw.Draw(image), (0, 0), lines, 150, "black")
    return np.asarray(image)


def test_no_label_shows_the_box_of_a_missing_glyph_or_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(ink(["商品"]), ink(["ShangPin"]))
        assert (ink(["é"]) < 128).any()
        assert (ink(["é"]) != ink(["\uffff"])).any()
        assert not (ink(["x" * 5000])[:, 150:] < 255).any()
