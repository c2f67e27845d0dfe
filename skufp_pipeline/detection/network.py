"""The small detector: a convolutional network that predicts one box at each cell of a coarse grid.

Anchor-free, one level, as FCOS (Tian et al., 2019) without a pyramid: a photo of a shop's customer shows few
items, and these are large. A cell's score is trained to be the overlap of its box with the item's
(generalized focal loss, Li et al., 2020), so that the best score is the best placed box.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

STRIDE = 8  # pixels of a cell
_REACH = 1.5  # cells: how far from an item's centre a cell is trained to find it
_LARGEST = 4.0  # logarithm of the largest distance, in cells
_BOX_WEIGHT = 2.0


class DetectorNetwork(nn.Module):
    """Predicts boxes of items in square photos.

    Args:
        side: of the photos in pixels.
        width: channels of the first layer.
    """

    centres: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side, self.width, self.cells = side, width, side // STRIDE
        middle, deep = 4 * width, 6 * width
        self.stem = nn.Sequential(
            _layer(3, width, 2),
            _layer(width, 2 * width, 2),
            _Residual(2 * width),
            _layer(2 * width, middle, 2),
        )
        self.near = nn.Sequential(_Residual(middle), _Residual(middle))
        self.far = nn.Sequential(_layer(middle, deep, 2), _Residual(deep), _Residual(deep))
        self.scene = nn.Linear(deep, middle)
        self.merge = nn.Conv2d(deep, middle, 1)
        self.head = nn.Sequential(_Residual(middle), _layer(middle, middle, 1))
        self.output = nn.Conv2d(middle, 5, 1)
        with torch.no_grad():
            assert self.output.bias is not None
            self.output.bias.copy_(torch.tensor([-3.0, 1.0, 1.0, 1.0, 1.0]))  # few cells hold an item
        steps = (torch.arange(self.cells) + 0.5) / self.cells
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([columns.ravel(), rows.ravel()], 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (B, N) and boxes (B, N, 4), in shares of the side, of photos (B, S, S, 3) uint8."""
        photos = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        near = self.near(self.stem(photos))
        far = self.far(near)
        context = F.interpolate(self.merge(far), size=near.shape[2:], mode="nearest")
        scene = self.scene(far.mean(dim=(2, 3)))[:, :, None, None]
        found = self.output(self.head(F.relu(near + context + scene))).flatten(2).float()
        distances = found[:, 1:].clamp(max=_LARGEST).exp().transpose(1, 2) / self.cells
        boxes = torch.cat([self.centres - distances[..., :2], self.centres + distances[..., 2:]], dim=2)
        return found[:, 0], boxes


def detection_loss(logits: Tensor, boxes: Tensor, truth: Tensor, centres: Tensor, cells: int) -> Tensor:
    """Quality focal loss of the scores plus generalized IoU loss of the boxes that should find an item.

    Args:
        logits, boxes: of the network.
        truth: (B, M, 4) boxes of the items in shares of the side; all 0 where there are fewer than M.
        centres: (N, 2) of the cells.
        cells: of the grid, along a side.
    """
    owner = assigned(truth, centres, cells)
    is_positive = owner >= 0
    count = is_positive.sum().clamp_min(1)
    quality = torch.zeros_like(logits)
    wanted = truth.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 4))[is_positive]
    given = boxes[is_positive]
    placed = generalized_box_iou_loss(given, wanted, reduction="sum")
    quality[is_positive] = _overlap(given.detach(), wanted)
    modulation = (logits.sigmoid() - quality).abs().square().detach()
    scored = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * modulation
    return (scored.sum() + _BOX_WEIGHT * placed) / count


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


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Returns the (P,) intersection over union of pairs of boxes (P, 4)."""
    both = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp_min(0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1) for boxes in (one, other)]
    shared = both.prod(dim=1)
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-9)


def _layer(inner: int, outer: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = _layer(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layer(maps)
