"""Which parts of a picture its embedding's cosine with a vector comes from.

Where an embedding e is the mean of an affine map over the cells of the tower's last map, e = mean g(z_c), its
cosine with a unit vector f is the sum of the cells' contributions g(z_c).f / (cells |e|): class activation
maps (Zhou et al., 2016) of a fingerprint in place of a class. Whether a tower is of that kind is found by
computing. For the others, squares of the picture are covered one at a time (Zeiler and Fergus, 2014).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.encoders.clip import Encoder

_TOLERANCE = 1e-5  # of an embedding, relative to its norm
_GREY = 0.5  # of 0 (black) to 1: what covers a square


@torch.inference_mode()
def contributions(
    encoder: Encoder, pixels: Tensor, vector: NDArray[np.floating]
) -> NDArray[np.float64] | None:
    """Returns the contribution of each cell (h, w) of the last map to the cosine, whose sum it is.

    None if the cells don't make the embedding, of this picture or of noise: the tower weighs them by
    attention, has something else than an affine map after the mean, or has no map.

    Args:
        pixels: (3, side, side), preprocessed.
        vector: (D,), of any norm but 0.
    """
    trunk = getattr(encoder.model.visual, "trunk", None)
    if trunk is None:
        return None
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    both = torch.stack([pixels, noise]).to(encoder.device).contiguous(memory_format=torch.channels_last)
    maps: Tensor = trunk.forward_features(both)
    if maps.ndim != 4 or maps.shape[1] != trunk.num_features:
        return None
    count, channels, height, width = maps.shape
    cells = maps.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
    parts = encoder.model.visual.head(trunk.forward_head(cells)).double().reshape(count, height * width, -1)
    wholes: Tensor = encoder.model.encode_image(both).double()
    if ((parts.mean(dim=1) - wholes).norm(dim=1) > _TOLERANCE * wholes.norm(dim=1)).any():
        return None
    shares = parts[0].cpu().numpy() @ _unit(vector) / (height * width * float(wholes[0].norm()))
    return shares.reshape(height, width)


def occlusion(
    encoder: Encoder, pixels: Tensor, vector: NDArray[np.floating], cells: int, batch_size: int = 32
) -> NDArray[np.float64]:
    """Returns by how much the cosine falls where each of cells x cells squares is grey; below 0: it rises.

    Args:
        pixels: (3, side, side), preprocessed.
        vector: (D,), of any norm but 0.
    """
    side = pixels.shape[-1]
    if not 1 <= cells <= side:
        raise ValueError(f"cells must be 1 to {side}, the side of the pictures; got {cells}")
    edges = np.linspace(0, side, cells + 1).round().astype(int)
    mean, std = (torch.tensor(values)[:, None, None] for values in encoder.mean_and_std)
    covered = pixels[None].repeat(cells * cells + 1, 1, 1, 1)  # the last one is the picture as it is
    for row in range(cells):
        for column in range(cells):
            square = np.s_[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
            covered[row * cells + column][square] = (_GREY - mean) / std
    rows = np.concatenate([encoder.embed_pixels(some) for some in covered.split(batch_size)])
    cosines: NDArray[Any] = rows.astype(np.float64) @ _unit(vector)
    drops: NDArray[np.float64] = (cosines[-1] - cosines[:-1]).reshape(cells, cells)
    return drops


def _unit(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    row = vector.astype(np.float64)
    unit: NDArray[np.float64] = row / np.linalg.norm(row)
    return unit
