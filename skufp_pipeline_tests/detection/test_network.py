import pytest
import torch

from skufp_pipeline.detection.network import (
    DetectorNetwork,
    Predictions,
    Truth,
    assigned,
    detection_loss,
)

CELLS = 4


def network() -> DetectorNetwork:
    torch.manual_seed(0)
    return DetectorNetwork(8 * CELLS, 4)


def owners(*boxes: tuple[float, float, float, float]) -> list[list[int]]:
    """Which box each cell of a 4 x 4 grid should find, by row."""
    truth = torch.tensor([boxes])
    return assigned(truth, network().centres, CELLS)[0].reshape(CELLS, CELLS).tolist()


def test_cells_in_the_middle_of_a_box_find_it() -> None:
    none = [-1] * 4
    assert owners((0.0, 0.0, 0.5, 0.5)) == [[0, 0, -1, -1], [0, 0, -1, -1], none, none]
    whole = owners((0.0, 0.0, 1.0, 1.0))
    assert whole[1] == whole[2] == [-1, 0, 0, -1]


def test_of_two_boxes_a_cell_finds_the_smaller() -> None:
    found = owners((0.0, 0.0, 1.0, 1.0), (0.25, 0.25, 0.5, 0.5))
    assert found[1][1] == 1
    assert found[2][2] == 0


def test_a_box_without_any_cell_centre_is_found_by_the_cell_that_holds_it() -> None:
    assert owners((0.3, 0.3, 0.33, 0.33))[1][1] == 0


def test_rows_of_zeros_are_no_boxes() -> None:
    assert owners((0.0, 0.0, 0.0, 0.0)) == [[-1] * 4] * 4


NOWHERE = torch.full((1, 4), torch.nan)


def towards(places: torch.Tensor, bins: int) -> torch.Tensor:
    """Logits of distributions (..., bins) on the bins nearest to places (...) in bins."""
    return -100 * (torch.arange(bins) - places[..., None]).abs()


def test_the_loss_is_least_where_boxes_and_scores_are_right() -> None:
    judge, truth = network(), Truth(torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]), NOWHERE)
    sides = [judge.centres, torch.tensor([0.5, 0.5]) - judge.centres]
    exact = Predictions(
        torch.where(assigned(truth.boxes, judge.centres, CELLS) >= 0, 20.0, -20.0),
        towards(
            torch.cat(sides, dim=1).clamp(min=0)[None] * 16, 17
        ),  # 1/16 is a bin: the centres lie on bins
        torch.zeros(1, 4, 4 * CELLS),
    )
    assert detection_loss(judge, exact, truth) < 1e-4
    shifted = exact._replace(distances=exact.distances.roll(1, dims=-1))
    for worse in (shifted, exact._replace(scores=-exact.scores)):
        assert detection_loss(judge, worse, truth) > 0.1


def test_the_item_in_the_middle_counts_where_there_is_one() -> None:
    judge, middle = network(), torch.tensor([[0.21875, 0.25, 0.75, 0.71875]])
    blank = Predictions(
        torch.full((1, CELLS**2), -20.0), torch.zeros(1, CELLS**2, 4, 17), torch.zeros(1, 4, 16)
    )
    exact = blank._replace(edges=towards(middle * 16 - 0.5, 16))
    none = torch.zeros(1, 1, 4)
    assert judge.middle(exact)[0].tolist() == pytest.approx(middle[0].tolist(), abs=0.02)
    assert detection_loss(judge, exact, Truth(none, NOWHERE)) < 1e-4
    assert detection_loss(judge, blank, Truth(none, NOWHERE)) < 1e-4
    missed = detection_loss(judge, blank, Truth(none, middle))
    assert detection_loss(judge, exact, Truth(none, middle)) < missed / 4


def test_a_photo_has_one_scored_box_a_cell_and_one_in_the_middle() -> None:
    boxes, scores, middle = network().eval()(torch.zeros(2, 8 * CELLS, 8 * CELLS, 3, dtype=torch.uint8))
    assert scores.shape == (2, CELLS**2)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert middle.shape == (2, 4)
