"""Models and the device they run on, as a Dagster resource; tests put small real ones in its place."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.settings import EncoderSettings, ReidSettings

if TYPE_CHECKING:
    import torch

    from skufp_pipeline.encoders.captions import Captioner
    from skufp_pipeline.encoders.clip import Encoder
    from skufp_pipeline.encoders.reid import ReidEncoder
    from skufp_pipeline.views.pipeline import Pipeline


class ModelProvider(dg.ConfigurableResource):
    """Creates and loads encoders and diffusion pipelines.

    Attributes:
        device: `auto` takes a GPU where there is one; `cuda` demands it.
    """

    device: str = "auto"

    def torch_device(self) -> "torch.device":
        # Imported on use: loading the definitions must not import torch.
        from skufp_pipeline.training.device import pick_device

        return pick_device(self.device)

    def new_encoder(self, settings: EncoderSettings, seed: int) -> "Encoder":
        from skufp_pipeline.encoders.clip import create_encoder

        return create_encoder(settings, self.torch_device(), seed)

    def load_encoder(self, directory: Path) -> "Encoder":
        from skufp_pipeline.encoders.clip import load_encoder

        return load_encoder(directory, self.torch_device())

    def new_reid(self, settings: ReidSettings, seed: int) -> "ReidEncoder":
        from skufp_pipeline.encoders.reid import create_reid

        return create_reid(settings, self.torch_device(), seed)

    def load_reid(self, directory: Path) -> "ReidEncoder":
        from skufp_pipeline.encoders.reid import load_reid

        return load_reid(directory, self.torch_device())

    def captioner(self, settings: CaptionSettings) -> "Captioner":
        """An image-to-text model by hub id or directory."""
        from skufp_pipeline.encoders.captions import load_captioner

        return load_captioner(settings, self.torch_device())

    def new_diffusion(self, config: str, seed: int) -> "Pipeline":
        """A small Stable Diffusion, random, as a config says."""
        from skufp_pipeline.views.pipeline import build_pipeline

        return build_pipeline(config, self.torch_device(), seed)

    def diffusion(self, name: str, precision: str = "fp32", lora: Path | None = None) -> "Pipeline":
        """An img2img pipeline by hub id or directory; a CPU computes in float32 whatever `precision` says."""
        from skufp_pipeline.views.pipeline import load_pipeline

        return load_pipeline(name, self.torch_device(), precision, lora)
