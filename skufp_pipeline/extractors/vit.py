"""A vision transformer, trained to predict masked patches.

It follows SimMIM (Xie et al., 2021, https://arxiv.org/abs/2111.09886). The embedding is the mean of the patch
tokens: they are what the loss trains, whereas the class token has no loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.extractor import Extractor, Family, Parts, Tower
from skufp_pipeline.extractors.losses import masked_error
from skufp_pipeline.extractors.objective import ExtractorData, Measured, Objective
from skufp_pipeline.extractors.settings import VitSettings
from skufp_pipeline.extractors.timm_towers import timm_parts, timm_trunk
from skufp_pipeline.training.images import Batch, LabelledImages

_GREY = 0.0  # of a masked patch on a sheet, in normalised pixels


class MaskedVit(Tower):
    """A transformer of timm with a mask token, and a decoder from a patch's token to its pixels."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.patch: tuple[int, int] = trunk.patch_embed.patch_size
        self.grid: tuple[int, int] = trunk.patch_embed.grid_size
        self.mask_token = nn.Parameter(0.02 * torch.randn(trunk.embed_dim))
        self.decoder = nn.Linear(trunk.embed_dim, 3 * self.patch[0] * self.patch[1])

    @property
    def pretrained_part(self) -> nn.Module:
        trunk: nn.Module = self.trunk
        return trunk

    def embed(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.trunk.forward_features(pixels)
        return tokens[:, self.trunk.num_prefix_tokens :].mean(dim=1)

    def predict(self, pixels: Tensor, is_masked: Tensor) -> Tensor:
        """Predicts all patches (B, L, P) of images (B, 3, H, W) from those that are not masked (B, L)."""
        trunk = self.trunk
        tokens = trunk.patch_embed(pixels)
        tokens = torch.where(is_masked[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = trunk.norm(trunk.blocks(trunk.norm_pre(trunk._pos_embed(tokens))))
        decoded: Tensor = self.decoder(tokens[:, trunk.num_prefix_tokens :])
        return decoded

    def patches(self, pixels: Tensor) -> Tensor:
        """Returns the pixels (B, L, P) of each patch of images (B, 3, H, W), row by row."""
        (rows, columns), (height, width) = self.grid, self.patch
        parts = pixels.reshape(len(pixels), 3, rows, height, columns, width)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), rows * columns, -1)

    def images(self, patches: Tensor) -> Tensor:
        """Returns the images of `patches`."""
        (rows, columns), (height, width) = self.grid, self.patch
        parts = patches.reshape(len(patches), rows, columns, 3, height, width)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, rows * height, columns * width)


def draw_mask(count: int, patches: int, share: float, generator: Generator) -> Tensor:
    """Returns (count, patches) bool with the same number of masked patches, one at least, in every row."""
    masked = min(max(1, round(share * patches)), patches)
    places = torch.rand(count, patches, generator=generator).argsort(dim=1)[:, :masked]
    return torch.zeros(count, patches, dtype=torch.bool).scatter(1, places, True)


class VitFamily(Family[VitSettings]):
    def create(self, settings: VitSettings, device: torch.device, seed: int) -> Parts:
        arguments = {"model": settings.model, "image_size": list(settings.image_size)}
        tower = self.build(arguments)
        dimension = int(tower.trunk.embed_dim)
        return timm_parts(tower, settings, arguments, dimension, **_options(settings.image_size))

    def build(self, arguments: dict[str, Any]) -> MaskedVit:
        model, size = arguments["model"], arguments["image_size"]
        trunk = timm_trunk(model, "extractors.vit.model", **_options(size))
        if not isinstance(trunk, VisionTransformer):
            raise UserError(f"extractors.vit.model {model!r} is no vision transformer of timm")
        return MaskedVit(trunk)

    def objective(self, extractor: Extractor, data: ExtractorData, settings: VitSettings) -> Objective:
        share = settings.training.masked_share

        def masked(learner: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            """Returns a batch's patches, which of them are masked, and the prediction of all."""
            patches = learner.patches(batch.pixels)
            count, number, _ = patches.shape
            is_masked = draw_mask(count, number, share, batch.generator).to(patches.device)
            return patches, is_masked, learner.predict(batch.pixels, is_masked)

        def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
            patches, is_masked, predicted = masked(learner, batch)
            loss = masked_error(predicted, patches, is_masked)
            return loss, {"masked_loss": loss}

        def samples(learner: nn.Module, batch: Batch) -> list[Tensor]:
            """The pictures, the pictures with masked patches, and with the prediction in their place."""
            tower: Any = learner
            patches, is_masked, predicted = masked(learner, batch)
            shown = [
                torch.where(is_masked[..., None], other, patches)
                for other in (patches.new_tensor(_GREY), predicted)
            ]
            return [batch.pixels, *(tower.images(part) for part in shown)]

        return Objective(extractor.tower, measure, samples)


def _options(image_size: Sequence[int]) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a transformer of one image size."""
    return {"img_size": tuple(image_size), "dynamic_img_size": False}


FAMILY = VitFamily()
