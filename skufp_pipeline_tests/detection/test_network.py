import torch

from skufp_pipeline.detection.network import DetectorNetwork, assigned, detection_loss

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


def test_the_loss_is_least_where_boxes_and_scores_are_right() -> None:
    truth, centres = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]), network().centres
    right = truth.expand(1, CELLS**2, 4).clone()
    is_item = assigned(truth, centres, CELLS) >= 0
    sure = torch.where(is_item, 20.0, -20.0)
    best = detection_loss(sure, right, truth, centres, CELLS)
    assert best < 1e-6
    assert detection_loss(sure, right + 0.1, truth, centres, CELLS) > best
    assert detection_loss(-sure, right, truth, centres, CELLS) > best


def test_a_photo_has_one_scored_box_a_cell() -> None:
    logits, boxes = network().eval()(torch.zeros(2, 8 * CELLS, 8 * CELLS, 3, dtype=torch.uint8))
    assert logits.shape == (2, CELLS**2)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
