"""A CLIP, trained on pictures and sentences (Radford et al., 2021, https://arxiv.org/abs/2103.00020).

In each step a picture has one of its sentences. Pictures of one class, and equal sentences, are no negatives
of one another.
"""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import image_trunk
from skufp_pipeline.extractors.extractor import Extractor, Family, Parts, Tower
from skufp_pipeline.extractors.losses import symmetric_contrastive
from skufp_pipeline.extractors.objective import (
    ExtractorData,
    Measured,
    Objective,
    Sentences,
    classes_of,
)
from skufp_pipeline.extractors.open_clip_towers import new_encoder, open_clip_model, open_clip_parts
from skufp_pipeline.extractors.settings import ClipSettings
from skufp_pipeline.training.images import Batch, LabelledImages


class ClipTower(Tower):
    """Both towers of a model of open_clip."""

    def __init__(self, model: Any, text_config: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.tokenize = open_clip.tokenizer.SimpleTokenizer(
            context_length=text_config.get("context_length", 77)
        )

    @property
    def pretrained_part(self) -> nn.Module:
        return image_trunk(self.model)

    def embed(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.model.encode_image(pixels)
        return found


class ClipFamily(Family[ClipSettings]):
    def create(self, settings: ClipSettings, device: torch.device, seed: int) -> Parts:
        encoder = new_encoder(settings, device, seed)
        return open_clip_parts(ClipTower(encoder.model, encoder.model_config["text_cfg"]), encoder)

    def build(self, arguments: dict[str, Any]) -> ClipTower:
        config = arguments["model_config"]
        return ClipTower(open_clip_model(config), config["text_cfg"])

    def objective(self, extractor: Extractor, data: ExtractorData, settings: ClipSettings) -> Objective:
        tower: Any = extractor.tower
        words = _Words(tower.tokenize, [*data.sentences, *data.development_sentences])
        trained_on, judged_on = words.ids.split([len(data.sentences), len(data.development_sentences)])

        def measure(learner: nn.Module, batch: Batch, images: LabelledImages) -> Measured:
            trained: Any = learner
            of_row = (trained_on if images is data.images else judged_on)[batch.rows]
            drawn = torch.randint(of_row.shape[1], (len(of_row), 1), generator=batch.generator)
            said = of_row.gather(1, drawn).flatten()
            classes = torch.from_numpy(classes_of(data, images, settings.positives))[batch.rows]
            alike = (classes[:, None] == classes[None, :]) | (said[:, None] == said[None, :])
            device = batch.pixels.device
            loss = symmetric_contrastive(
                trained.embed(batch.pixels),
                trained.model.encode_text(words.tokens[said].to(device)),
                alike.to(device),
                settings.training.temperature,
            )
            return loss, {"contrastive_loss": loss}

        return Objective(extractor.tower, measure)


class _Words:
    """Tokens (U, length) of each distinct sentence, and which (N, K) of them each picture has."""

    def __init__(self, tokenize: Any, sentences: Sequence[Sentences]) -> None:
        distinct = {
            text: number for number, text in enumerate(sorted({text for said in sentences for text in said}))
        }
        self.ids = torch.tensor([[distinct[text] for text in said] for said in sentences])
        self.tokens: Tensor = tokenize(list(distinct))


FAMILY = ClipFamily()
