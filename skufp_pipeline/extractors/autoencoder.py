"""A convolutional autoencoder, trained from scratch: the picture, in a few numbers, and redrawn from them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skufp_pipeline.extractors.extractor import Extractor, Family, Parts, Tower
from skufp_pipeline.extractors.objective import ExtractorData, Measured, Objective
from skufp_pipeline.extractors.settings import AutoencoderSettings
from skufp_pipeline.training.images import Batch, LabelledImages, plain_batches


class Autoencoder(Tower):
    """Convolutions of stride 2 with ReLU, a dense layer to the embedding, and the mirror of both.

    Args:
        image_size: height and width in pixels, multiples of 2 ** len(channels).
    """

    def __init__(self, channels: Sequence[int], image_size: Sequence[int], dimension: int) -> None:
        super().__init__()
        widths = (3, *channels)
        down = [nn.Conv2d(one, other, 3, stride=2, padding=1) for one, other in pairwise(widths)]
        up = [
            nn.ConvTranspose2d(other, one, 3, stride=2, padding=1, output_padding=1)
            for one, other in reversed(list(pairwise(widths)))
        ]
        height, width = (side >> len(channels) for side in image_size)
        self.encoder = nn.Sequential(
            *(part for layer in down for part in (layer, nn.ReLU())),
            nn.Flatten(),
            nn.Linear(channels[-1] * height * width, dimension),
        )
        self.decoder = nn.Sequential(
            nn.Linear(dimension, channels[-1] * height * width),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], height, width)),
            *(part for layer in up[:-1] for part in (layer, nn.ReLU())),
            up[-1],
        )

    @property
    def pretrained_part(self) -> nn.Module:
        return self.encoder

    def embed(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.encoder(pixels)
        return found

    def redraw(self, pixels: Tensor) -> Tensor:
        """Returns the reconstruction of images (B, 3, H, W), of their shape."""
        found: Tensor = self.decoder(self.encoder(pixels))
        return found


class AutoencoderFamily(Family[AutoencoderSettings]):
    def create(self, settings: AutoencoderSettings, device: torch.device, seed: int) -> Parts:
        arguments = settings.model_dump(mode="json", include={"channels", "image_size", "dimension"})
        half = (0.5, 0.5, 0.5)  # pixels between -1 and 1
        return Parts(self.build(arguments), arguments, settings.image_size, settings.dimension, half, half)

    def build(self, arguments: dict[str, Any]) -> Autoencoder:
        return Autoencoder(**arguments)

    def objective(
        self, extractor: Extractor, data: ExtractorData, settings: AutoencoderSettings
    ) -> Objective:
        def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
            trained: Any = learner
            redrawn = trained.redraw(batch.pixels)
            loss = F.mse_loss(redrawn.float(), batch.pixels)
            return loss, {"reconstruction_loss": loss}

        def samples(learner: nn.Module, batch: Batch) -> list[Tensor]:
            trained: Any = learner
            return [batch.pixels, trained.redraw(batch.pixels)]

        return Objective(extractor.tower, measure, samples, figures=lambda learner: errors(extractor, data))


@torch.inference_mode()
def errors(extractor: Extractor, data: ExtractorData) -> dict[str, float]:
    """Returns the mean squared error of the reconstructions, and that of the mean training picture.

    Both are of the development images, or, where there are none, of the training images.
    """
    tower: Any = extractor.tower
    pictures, shape = 0, (3, *extractor.image_size)
    total = torch.zeros(shape, dtype=torch.float64, device=extractor.device)
    for batch in plain_batches(extractor, extractor.image_size, data.images):
        total, pictures = total + batch.pixels.double().sum(dim=0), pictures + len(batch.pixels)
    mean, sums, judged = (total / pictures).float(), [0.0, 0.0], 0
    images = data.development if len(data.development.labels) else data.images
    for batch in plain_batches(extractor, extractor.image_size, images):
        judged += batch.pixels.numel()
        for number, drawn in enumerate((tower.redraw(batch.pixels), mean)):
            sums[number] += float((batch.pixels - drawn).square().double().sum())
    return {"reconstruction_error": sums[0] / judged, "mean_picture_error": sums[1] / judged}


FAMILY = AutoencoderFamily()
