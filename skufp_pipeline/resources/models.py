"""Models and their device as a Dagster resource; tests replace it with one that gives small real models."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.encoders.stage_settings import SENTENCES, RerankSettings
from skufp_pipeline.extractors.settings import ExtractorSettings

if TYPE_CHECKING:
    import torch

    from skufp_pipeline.encoders.captions import Captioner
    from skufp_pipeline.encoders.clip import Encoder
    from skufp_pipeline.encoders.sentences import SentenceEncoder
    from skufp_pipeline.encoders.timm_tower import TimmTower
    from skufp_pipeline.extractors.extractor import Extractor
    from skufp_pipeline.views.pipeline import Pipeline


class ModelProvider(dg.ConfigurableResource):
    """Creates and loads encoders and diffusion pipelines; device `auto` is a GPU if any, `cuda` needs one."""

    device: str = "auto"

    def torch_device(self) -> "torch.device":
        # Imported lazily: loading the definitions must not import torch.
        from skufp_pipeline.training.device import pick_device

        return pick_device(self.device)

    def new_encoder(self, settings: EncoderSettings, seed: int) -> "Encoder":
        from skufp_pipeline.encoders.clip import create_encoder

        return create_encoder(settings, self.torch_device(), seed)

    def load_encoder(self, directory: Path) -> "Encoder":
        from skufp_pipeline.encoders.clip import load_encoder

        return load_encoder(directory, self.torch_device())

    def new_extractor(self, settings: ExtractorSettings, seed: int) -> "Extractor":
        from skufp_pipeline.extractors.extractor import create_extractor

        return create_extractor(settings, self.torch_device(), seed)

    def load_extractor(self, directory: Path) -> "Extractor":
        from skufp_pipeline.extractors.extractor import load_extractor

        return load_extractor(directory, self.torch_device())

    def captioner(self, settings: CaptionSettings) -> "Captioner":
        """Loads an image-to-text model by hub id or directory."""
        from skufp_pipeline.encoders.captions import load_captioner

        return load_captioner(settings, self.torch_device())

    def sentences(self, name: str) -> "SentenceEncoder":
        """Loads a text model by hub id, directory or package."""
        from skufp_pipeline.encoders.sentences import load_sentences
        from skufp_pipeline.training.weights import resolve

        return load_sentences(resolve(name, SENTENCES), self.torch_device())

    def new_timm_tower(self, settings: RerankSettings, seed: int) -> "TimmTower":
        from skufp_pipeline.encoders.timm_tower import create_timm_tower

        return create_timm_tower(settings, self.torch_device(), seed)

    def new_diffusion(self, config: str, seed: int) -> "Pipeline":
        """A small Stable Diffusion with random weights, built from a config."""
        from skufp_pipeline.views.pipeline import build_pipeline

        return build_pipeline(config, self.torch_device(), seed)

    def diffusion(self, name: str, precision: str = "fp32", lora: Path | None = None) -> "Pipeline":
        """Loads an img2img pipeline by hub id or directory; on a CPU it is float32 for any `precision`."""
        from skufp_pipeline.views.pipeline import load_pipeline

        return load_pipeline(name, self.torch_device(), precision, lora)
