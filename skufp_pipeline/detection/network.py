"""The small detector: a convolutional network that predicts one box at each cell of a coarse grid.

Anchor-free, one level, as FCOS (Tian et al., 2019) without a pyramid: a photo of a shop's customer shows few
items, and these are large. Each distance from a cell to an edge of its box is a distribution over bins, and
a cell's score is trained to be the overlap of its box with the item's, so that the best score is the best
placed box (generalized focal loss, Li et al., 2020).

The same network places a box that was found once more: it sees the box with what is around it, and says
where the item's edges are, each a distribution over places along its axis, from the columns or rows of a
finer map (as in side-aware boundary localization, Wang et al., 2020).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

STRIDE = 8  # pixels of a cell
_BINS = 17  # of a distance, from 0 to the side
_REACH = 1.5  # cells: how far from an item's centre a cell is trained to find it
_BOX_WEIGHT, _BINS_WEIGHT, _EDGES_WEIGHT, _PLACE_WEIGHT = 2.0, 0.25, 0.25, 8.0


class Predictions(NamedTuple):
    """What the network computes of B squares, as logits.

    Attributes:
        scores: (B, N) of the cells.
        distances: (B, N, 4, K) over the bins of the distances left, up, right and down from a cell's centre.
        edges: (B, 4, E) over the places of left, top, right and bottom of the item in the middle.
    """

    scores: Tensor
    distances: Tensor
    edges: Tensor


class Truth(NamedTuple):
    """What is in B squares, in shares of the side.

    Attributes:
        boxes: (B, M, 4) of the items; all 0 where there are fewer than M.
        middle: (B, 4) box of the item in the middle; nan where there is no such item.
    """

    boxes: Tensor
    middle: Tensor


class DetectorNetwork(nn.Module):
    """Predicts boxes of items in square photos, and the box of the item in the middle.

    Args:
        side: of the photos in pixels.
        width: channels of the first layer.
    """

    centres: Tensor
    bins: Tensor
    places: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side, self.width, self.cells = side, width, side // STRIDE
        middle, deep = 4 * width, 6 * width
        self.stem = nn.Sequential(_layer(3, width, 2), _layer(width, 2 * width, 2), _Residual(2 * width))
        self.near = nn.Sequential(_layer(2 * width, middle, 2), _Residual(middle), _Residual(middle))
        self.far = nn.Sequential(_layer(middle, deep, 2), _Residual(deep), _Residual(deep))
        self.scene = nn.Linear(deep, middle)
        self.merge = nn.Conv2d(deep, middle, 1)
        self.head = nn.Sequential(_Residual(middle), _layer(middle, middle, 1))
        self.output = nn.Conv2d(middle, 1 + 4 * _BINS, 1)
        with torch.no_grad():
            assert self.output.bias is not None
            self.output.bias[0] = -3.0  # few cells hold an item
        self.raised, self.fine = nn.Conv2d(middle, 2 * width, 1), _Residual(2 * width)
        self.attention = nn.Conv2d(2 * width, 2, 1)
        self.columns, self.rows = (_along_an_axis(2 * width, middle) for _ in range(2))
        steps = (torch.arange(self.cells) + 0.5) / self.cells
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        fine = side // 2
        for name, values in {
            "centres": torch.stack([columns.ravel(), rows.ravel()], 1),
            "bins": torch.linspace(0, 1, _BINS),
            "places": (torch.arange(fine) + 0.5) / fine,
        }.items():
            self.register_buffer(name, values, persistent=False)

    def predictions(self, pixels: Tensor) -> Predictions:
        """Returns the logits for photos (B, S, S, 3) uint8."""
        photos = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        stem = self.stem(photos)
        near = self.near(stem)
        far = self.far(near)
        context = F.interpolate(self.merge(far), size=near.shape[2:], mode="nearest")
        scene = self.scene(far.mean(dim=(2, 3)))[:, :, None, None]
        merged = F.relu(near + context + scene)
        found = self.output(self.head(merged)).flatten(2).float().transpose(1, 2)
        raised = F.interpolate(self.raised(merged), size=stem.shape[2:], mode="nearest")
        fine = self.fine(F.relu(stem + raised))
        weights, fine = self.attention(fine).float(), fine.float()
        columns = self.columns((fine * weights[:, :1].softmax(dim=2)).sum(dim=2))
        rows = self.rows((fine * weights[:, 1:].softmax(dim=3)).sum(dim=3))
        edges = torch.stack([columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], dim=1).float()
        return Predictions(found[..., 0], found[..., 1:].unflatten(2, (4, _BINS)), edges)

    def boxes(self, found: Predictions) -> Tensor:
        """Returns the (B, N, 4) boxes of the cells, in shares of the side."""
        distances = found.distances.softmax(dim=3) @ self.bins
        return torch.cat([self.centres - distances[..., :2], self.centres + distances[..., 2:]], dim=2)

    def middle(self, found: Predictions) -> Tensor:
        """Returns the (B, 4) box of the item in the middle, in shares of the side."""
        return found.edges.softmax(dim=2) @ self.places

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes (B, N, 4) and scores (B, N) of the cells, and the box (B, 4) of the item in the
        middle, in shares of the side, of photos (B, S, S, 3) uint8."""
        found = self.predictions(pixels)
        return self.boxes(found), found.scores.sigmoid(), self.middle(found)


def detection_loss(network: DetectorNetwork, found: Predictions, truth: Truth) -> Tensor:
    """Quality focal loss of the scores; generalized IoU loss and distribution focal loss of the boxes that
    should find an item; and of the item in the middle the latter loss and the distance of its edges."""
    owner = assigned(truth.boxes, network.centres, network.cells)
    is_positive = owner >= 0
    count = is_positive.sum().clamp_min(1)
    quality = torch.zeros_like(found.scores)
    wanted = truth.boxes.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 4))[is_positive]
    given = network.boxes(found)[is_positive]
    placed = generalized_box_iou_loss(given, wanted, reduction="sum")
    quality[is_positive] = _overlap(given.detach(), wanted)
    modulation = (found.scores.sigmoid() - quality).abs().square().detach()
    scored = F.binary_cross_entropy_with_logits(found.scores, quality, reduction="none") * modulation
    centres = network.centres.expand(len(owner), -1, -1)[is_positive]
    distances = torch.cat([centres - wanted[:, :2], wanted[:, 2:] - centres], dim=1)
    binned = _distribution_loss(found.distances[is_positive], distances * (_BINS - 1)).mean(dim=1).sum()
    of_cells = (scored.sum() + _BOX_WEIGHT * placed + _BINS_WEIGHT * binned) / count
    known = ~truth.middle.isnan().any(dim=1)
    if not known.any():
        return of_cells
    middle, places = truth.middle[known], len(network.places)
    edges = _distribution_loss(found.edges[known], middle * places - 0.5).mean()
    moved = (network.middle(found)[known] - middle).abs().mean()
    return of_cells + _EDGES_WEIGHT * edges + _PLACE_WEIGHT * moved


def assigned(truth: Tensor, centres: Tensor, cells: int) -> Tensor:
    """Returns the (B, N) number of the item that each cell should find, -1 for none.

    A cell finds an item if its centre is in the box and less than `_REACH` cells from the box's centre along
    both axes, or if it holds that centre; of several items the smallest.
    """
    low, high = truth[:, None, :, :2], truth[:, None, :, 2:]  # (B, 1, M, 2)
    places = centres[None, :, None]
    offset = (places - (low + high) / 2).abs().amax(dim=3)  # (B, N, M)
    inside = ((places > low) & (places < high)).all(dim=3)
    areas = (truth[..., 2:] - truth[..., :2]).prod(dim=2)
    finds = (inside & (offset < _REACH / cells)) | (offset <= 0.5 / cells)
    finds &= (areas > 0)[:, None]
    cost = torch.where(finds, areas[:, None].expand(finds.shape), torch.inf)
    smallest, owner = cost.min(dim=2)
    return torch.where(smallest.isinf(), -1, owner)


def _distribution_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of distributions (..., K) with places (...) in bins: the two nearest share the target."""
    last = logits.shape[-1] - 1
    places = places.clamp(0, last)
    lower = places.floor().clamp(max=last - 1)
    chances = logits.log_softmax(dim=-1)
    below, above = (chances.gather(-1, (lower.long() + step)[..., None])[..., 0] for step in (0, 1))
    return -(below * (lower + 1 - places) + above * (places - lower))


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Returns the (P,) intersection over union of pairs of boxes (P, 4)."""
    both = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp_min(0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1) for boxes in (one, other)]
    shared = both.prod(dim=1)
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-9)


def _layer(inner: int, outer: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def _along_an_axis(inner: int, width: int) -> nn.Sequential:
    """Logits of both edges, at twice the places of its input (B, C, L)."""
    twice = nn.ConvTranspose1d(width, 2, 4, 2, 1)
    return nn.Sequential(nn.Conv1d(inner, width, 3, padding=1), nn.ReLU(inplace=True), twice)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = _layer(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layer(maps)
