"""The aggregator g: turns any number of view embeddings of a SKU into one fingerprint (eq. 2).

K learnable tokens attend to one another and to the views (a Q-Former of a few layers); their mean is
projected and L2-normalised. In the residual form the projection starts at zero and is added to the mean of
the catalog views, so training starts from mean-SKU and only learns departures from it. Generated views get
a view-type embedding, which starts at zero.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.errors import UserError
from skufp_pipeline.fingerprint.settings import AggregatorSettings
from skufp_pipeline.fingerprint.views import ViewSet

WEIGHTS_FILE, CONFIG_FILE = "aggregator.safetensors", "aggregator.json"


class _Layer(nn.Module):
    """Self-attention of the tokens, cross-attention to the views, feed-forward; each pre-normalised."""

    def __init__(self, dimension: int, settings: AggregatorSettings) -> None:
        super().__init__()
        heads, dropout = settings.heads, settings.dropout
        self.self_attention = nn.MultiheadAttention(dimension, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(dimension, heads, dropout, batch_first=True)
        self.feedforward = nn.Sequential(
            nn.Linear(dimension, settings.feedforward),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(settings.feedforward, dimension),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dimension) for _ in range(3))

    def forward(self, tokens: Tensor, views: Tensor, absent: Tensor) -> Tensor:
        x = self.norms[0](tokens)
        tokens = tokens + self.self_attention(x, x, x, need_weights=False)[0]
        x = self.norms[1](tokens)
        tokens = (
            tokens + self.cross_attention(x, views, views, key_padding_mask=absent, need_weights=False)[0]
        )
        attended: Tensor = tokens + self.feedforward(self.norms[2](tokens))
        return attended


class Aggregator(nn.Module):
    """g: maps (S, V, D) views with their masks to (S, D) unit fingerprints; `dimension` is D.

    Raises:
        UserError: D is not a multiple of the number of heads.
    """

    def __init__(self, dimension: int, settings: AggregatorSettings) -> None:
        super().__init__()
        if dimension % settings.heads:
            raise UserError(
                f"fingerprint.aggregator.heads {settings.heads} does not divide D = {dimension}, "
                "the encoder's embed_dim; choose a divisor"
            )
        self.residual = settings.residual
        self.tokens = nn.Parameter(0.02 * torch.randn(settings.tokens, dimension))
        self.view_norm = nn.LayerNorm(dimension)
        self.generated_type = nn.Parameter(torch.zeros(dimension))
        self.layers = nn.ModuleList(_Layer(dimension, settings) for _ in range(settings.layers))
        self.output_norm = nn.LayerNorm(dimension)
        self.projection = nn.Linear(dimension, dimension)
        if self.residual:
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(self, views: Tensor, mask: Tensor, generated: Tensor) -> Tensor:
        """Returns the fingerprints of S SKUs.

        Args:
            views: (S, V, D) unit rows; values where `mask` is False are ignored.
            mask: (S, V) bool, True for a present view; at least one catalog view per SKU.
            generated: (S, V) bool, True for a generated view.
        """
        views = views.masked_fill(~mask.unsqueeze(-1), 0)
        tokens = self.tokens.expand(len(views), -1, -1)
        is_generated = generated.unsqueeze(-1)
        keys, absent = self.view_norm(views) + is_generated * self.generated_type, ~mask
        for layer in self.layers:
            tokens = layer(tokens, keys, absent)
        output = self.projection(self.output_norm(tokens).mean(dim=1))
        if self.residual:
            output = output + F.normalize(views.masked_fill(is_generated, 0).sum(dim=1), dim=-1)
        return F.normalize(output, dim=-1)


class AggregatorEnsemble(nn.Module):
    """Unit mean of `members` aggregators with different initial weights, whose chance errors average out.

    Raises:
        UserError: as `Aggregator`.
    """

    def __init__(self, dimension: int, settings: AggregatorSettings) -> None:
        super().__init__()
        self.members = nn.ModuleList(Aggregator(dimension, settings) for _ in range(settings.members))

    def forward(self, views: Tensor, mask: Tensor, generated: Tensor) -> Tensor:
        """(S, D) unit fingerprints; arguments as for `Aggregator.forward`."""
        outputs = [member(views, mask, generated) for member in self.members]
        return F.normalize(torch.stack(outputs).sum(dim=0), dim=-1)


@torch.inference_mode()
def fingerprints(
    model: AggregatorEnsemble, views: ViewSet, device: torch.device, batch: int = 4096
) -> NDArray[np.float32]:
    """(S, D) unit rows; also the zero-shot path, since only the views are needed."""
    model.eval()
    rows = np.empty((len(views.sku_ids), views.views.shape[2]), dtype=np.float32)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        arrays = (views.views[part], views.mask[part], views.generated[part])
        result = model(*(torch.from_numpy(array).to(device) for array in arrays)).double()
        rows[part] = (result / result.norm(dim=-1, keepdim=True)).float().cpu().numpy()
    return rows


def save_aggregator(
    model: AggregatorEnsemble, dimension: int, settings: AggregatorSettings, directory: Path
) -> None:
    """Writes the weights as safetensors and the configuration that rebuilds the model.

    `settings` are the model's; whether it is residual is its own.
    """
    residual = any(member.residual for member in model.members)
    save_file({name: value.cpu() for name, value in model.state_dict().items()}, directory / WEIGHTS_FILE)
    config = {"dimension": dimension, "settings": settings.model_dump() | {"residual": residual}}
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")


def load_aggregator(directory: Path, device: torch.device) -> AggregatorEnsemble:
    """Loads the model that `save_aggregator` wrote, in evaluation mode."""
    config = json.loads((directory / CONFIG_FILE).read_text())
    model = AggregatorEnsemble(config["dimension"], AggregatorSettings(**config["settings"]))
    model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    return model.to(device).eval()
