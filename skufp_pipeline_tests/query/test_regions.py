"""A query asks for a box, an item, every item or the whole, and each is cut as the catalogue's crops are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.datasets.crops import CropSettings, read_item
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.query.answers import Answer, Clock, Hit
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import QueryEngine, read_photo
from skufp_pipeline.query.regions import RegionChoice, best_item, found_in, views_of
from skufp_pipeline.search.index import FingerprintIndex

SIZE = (1200, 800)  # a photo that is read reduced
RED, LIME = (100, 200, 500, 700), (700, 100, 1100, 600)


class Finder:
    """A detector that finds what it is told to, in shares of the photo."""

    def __init__(self, *boxes: tuple[int, int, int, int], trim: float = 0.0) -> None:
        self.boxes, self.trim = boxes, trim

    def find(self, image: Image.Image) -> list[Region]:
        across, down = image.width / SIZE[0], image.height / SIZE[1]
        return [
            Region((round(x1 * across), round(y1 * down), round(x2 * across), round(y2 * down)), "item", 0.9)
            for x1, y1, x2, y2 in self.boxes
        ]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A red and a lime rectangle before noise."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    image, path = Image.fromarray(noise), tmp_path / "photo.png"
    for box, colour in ((RED, "red"), (LIME, "lime")):
        image.paste(colour, box)
    image.save(path)
    return path


def engine(index: FingerprintIndex, encoder: Encoder, finder: Finder | None = None) -> QueryEngine:
    return QueryEngine(index, encoder, detector=finder)


def test_an_item_is_searched_for_as_its_crop_of_the_catalogue_would_be(
    index: FingerprintIndex, encoder: Encoder, photo: Path
) -> None:
    asked = engine(index, encoder, Finder(RED, LIME))
    for number, sku_id in ((1, "apple"), (2, "lime")):
        answer = asked.search_image(photo, 3, region=number)
        assert (answer.hits[0].sku_id, answer.item) == (sku_id, number)
        assert answer.box is not None
        (row,) = encoder.embed_images([read_item(photo, answer.box, CropSettings())])
        assert answer.hits[0].score == pytest.approx(float((index.fingerprints @ row).max()), abs=1e-5)
        assert list(answer.milliseconds) == ["decode", "detect", "cut", "preprocess", "encode", "search"]


def test_a_given_box_has_the_very_score_of_its_crop(
    index: FingerprintIndex, encoder: Encoder, photo: Path, tmp_path: Path
) -> None:
    box = (90, 150, 640, 790)
    crop = read_item(photo, box, CropSettings())
    crop.save(tmp_path / "crop.png")
    asked = engine(index, encoder)
    whole, part = asked.search_image(tmp_path / "crop.png", 3), asked.search_image(photo, 3, region=box)
    assert part.hits == whole.hits
    assert (part.box, part.item, part.items) == (box, None, [])
    assert whole.box is None
    assert asked.search_image(photo.read_bytes(), 3, region=box).hits == part.hits


def test_the_item_that_answers_best_is_taken_and_the_others_are_listed(
    index: FingerprintIndex, encoder: Encoder, photo: Path
) -> None:
    noise = (0, 0, 90, 90)
    answer = engine(index, encoder, Finder(noise, LIME)).search_image(photo, 3)
    assert (answer.item, answer.hits[0].sku_id) == (2, "lime")
    assert [(item.number, item.label, item.found) for item in answer.items] == [
        (1, "item", 0.9),
        (2, "item", 0.9),
    ]
    assert answer.items[1].score == answer.hits[0].score > answer.items[0].score
    assert answer.items[1].sku_id == "lime"
    mixed = engine(index, encoder, Finder(noise, LIME)).search_mixed(photo, "lime", 0, 3)
    assert (mixed.item, mixed.hits) == (2, answer.hits)


def test_with_likes_and_words_to_avoid_the_item_that_answers_best_is_taken_too(
    index: FingerprintIndex, encoder: Encoder, photo: Path
) -> None:
    asked = engine(index, encoder, Finder((0, 0, 90, 90), LIME))
    box = asked.search_image(photo, 1).box
    assert box is not None
    for wish in (Wish(photos=[photo], liked=["apple"]), Wish(photos=[photo], avoided=["red"])):
        answer = asked.search(wish, 3)
        assert (answer.item, answer.box, answer.items[1].box) == (2, box, box)
        assert answer.hits == asked.search(wish, 3, region=2).hits
        assert answer.hits == asked.search(wish, 3, region=box).hits
        assert answer.hits != asked.search(wish, 3, region="whole").hits


def test_of_several_photos_each_gives_the_item_that_answers_best(
    index: FingerprintIndex, encoder: Encoder, photo: Path, tmp_path: Path
) -> None:
    asked = engine(index, encoder, Finder((0, 0, 90, 90), LIME))
    box = asked.search_image(photo, 1).box
    assert box is not None
    crop = tmp_path / "crop.png"
    read_item(photo, box, CropSettings()).save(crop)
    part = engine(index, encoder).search(Wish(photos=[crop, crop]), 3)
    assert asked.search(Wish(photos=[photo, photo]), 3).hits == part.hits
    whole = engine(index, encoder).search(Wish(photos=[photo, photo]), 3)
    assert asked.search(Wish(photos=[photo, photo]), 3, region="whole").hits == whole.hits != part.hits
    with pytest.raises(UserError, match="an item or a box is a part of one photo"):
        asked.search(Wish(photos=[photo, photo]), 3, region=1)


def test_without_a_detector_or_items_the_whole_photo_is_searched_for(
    index: FingerprintIndex, encoder: Encoder, photo: Path
) -> None:
    whole = engine(index, encoder, Finder(RED)).search_image(photo, 3, region="whole")
    for asked in (engine(index, encoder), engine(index, encoder, Finder())):
        answer = asked.search_image(photo, 3)
        assert answer.hits == whole.hits
        assert (answer.box, answer.item, answer.items) == (None, None, [])


def test_a_found_region_is_trimmed_for_the_search_and_told_as_it_was_found(photo: Path) -> None:
    (view,) = views_of(photo, read_photo(photo), 1, Finder(RED, trim=0.1), Clock())
    assert view.box == found_in(read_photo(photo), SIZE, Finder(RED))[0].box
    assert view.image.size == (
        round(0.8 * (view.box[2] - view.box[0])),
        round(0.8 * (view.box[3] - view.box[1])),
    )


@pytest.mark.parametrize(
    "box", [(-1, 0, 9, 9), (0, 0, 1201, 9), (0, 0, 9, 801), (9, 0, 9, 9), (9, 9, 3, 20), (0, 30, 9, 20)]
)
def test_a_box_that_is_no_part_of_the_photo_is_told(photo: Path, box: tuple[int, int, int, int]) -> None:
    told = r"is no part of the photo: expected x1 < x2 within 0 to 1200 and y1 < y2 within 0 to 800"
    with pytest.raises(UserError, match=told):
        views_of(photo, read_photo(photo), box, None, Clock())


@pytest.mark.parametrize(
    ("choice", "boxes", "told"),
    [
        (0, (RED,), "item 0: the detector found 1 item in this photo; items count from 1"),
        (3, (RED, LIME), "item 3: the detector found 2 items in this photo"),
        (1, (), "item 1: the detector found no item in this photo"),
    ],
)
def test_an_item_that_was_not_found_is_told(
    photo: Path, choice: RegionChoice, boxes: tuple[tuple[int, int, int, int], ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        views_of(photo, read_photo(photo), choice, Finder(*boxes), Clock())


def test_an_item_without_a_detector_is_told(photo: Path) -> None:
    with pytest.raises(UserError, match="the index in use has no detector, so items of a photo can't be"):
        views_of(photo, read_photo(photo), 1, None, Clock())


def test_of_equal_answers_the_first_item_is_the_best() -> None:
    def answer(*scores: float) -> Answer:
        return Answer([Hit(1, "a", score, None, None, "a.jpg") for score in scores], {})

    assert best_item([answer(0.5), answer(0.9, 0.1), answer(0.9, 0.8)]) == 1
    assert best_item([answer(), answer(-0.9)]) == 1
    assert best_item([answer(), answer()]) == 0
