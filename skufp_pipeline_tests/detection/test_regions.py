import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from skufp_pipeline.detection.regions import Region, kept_regions, overlaps, trimmed
from skufp_pipeline.detection.settings import DetectorSettings

SIZE = (100, 50)


def kept(boxes: list[list[float]], scores: list[float], names: str = "", **settings: object) -> list[Region]:
    labels = list(names or "i" * len(boxes))
    chosen = DetectorSettings.model_validate(settings)
    return kept_regions(np.array(boxes), np.array(scores), labels, SIZE, chosen)


def boxes_of(regions: list[Region]) -> list[tuple[int, int, int, int]]:
    return [region.box for region in regions]


def test_overlap_is_the_shared_area_over_that_of_both() -> None:
    found = overlaps(np.array([[0, 0, 10, 10], [0, 0, 0, 0]]), np.array([[5, 0, 15, 10], [20, 20, 30, 30]]))
    np.testing.assert_allclose(found, [[50 / 150, 0], [0, 0]])


def test_regions_come_best_first_and_only_from_the_threshold_on() -> None:
    found = kept([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0.3, 0.9, 0.29], threshold=0.3)
    assert found == [Region((20, 0, 30, 10), "i", 0.9), Region((0, 0, 10, 10), "i", 0.3)]


def test_a_region_that_mostly_shows_a_better_one_is_dropped() -> None:
    near, apart = [0, 0, 10, 8], [0, 5, 10, 15]  # IoU .8 and .33 with the first
    assert boxes_of(kept([[0, 0, 10, 10], near, apart], [0.9, 0.8, 0.7])) == [(0, 0, 10, 10), (0, 5, 10, 15)]
    assert len(kept([[0, 0, 10, 10], near], [0.9, 0.8], overlap=0.8)) == 2, "exactly the limit stays"


def test_equal_scores_are_ordered_by_box_whatever_order_they_come_in() -> None:
    boxes = [[20.0, 0, 30, 10], [0, 0, 10, 10], [0, 0, 9, 10]]
    orders = list(itertools.permutations(range(3)))
    found = [boxes_of(kept([boxes[place] for place in order], [0.5] * 3)) for order in orders]
    assert all(each == [(0, 0, 9, 10), (20, 0, 30, 10)] for each in found)


def test_a_region_is_rounded_and_cut_at_the_edge_and_an_empty_one_is_none() -> None:
    found = kept([[-5.2, 3.4, 20.6, 70], [100, 0, 120, 10], [30.1, 0, 30.4, 9]], [0.9, 0.8, 0.7])
    assert boxes_of(found) == [(0, 3, 21, 50)]


def test_no_more_than_the_most_are_kept() -> None:
    boxes = [[10.0 * place, 0, 10 * place + 9, 9] for place in range(6)]
    assert boxes_of(kept(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], most=2)) == [(0, 0, 9, 9), (10, 0, 19, 9)]


def test_regions_of_other_labels_are_no_items() -> None:
    found = kept([[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8], "ab", model="some/model", labels=["b"])
    assert found == [Region((0, 0, 9, 9), "b", 0.8)]


def test_labels_without_a_model_are_refused() -> None:
    with pytest.raises(ValidationError, match="the small detector has but one"):
        DetectorSettings(labels=["shirt"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.49])
def test_a_trimmed_box_lies_in_the_box_and_is_not_empty(share: float) -> None:
    for box in ((0, 0, 1, 1), (5, 5, 7, 8), (0, 0, 100, 50)):
        x1, y1, x2, y2 = trimmed(box, share)
        assert box[0] <= x1 < x2 <= box[2]
        assert box[1] <= y1 < y2 <= box[3]
    assert trimmed((3, 4, 9, 9), 0.0) == (3, 4, 9, 9)
