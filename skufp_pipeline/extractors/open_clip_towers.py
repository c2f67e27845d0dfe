"""Models of open_clip as extractors: built from their config, pretrained by the encoder's own function."""

from typing import Any

import open_clip
import torch

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.extractors.extractor import Parts, Tower
from skufp_pipeline.extractors.settings import OpenClipSettings


def open_clip_model(config: dict[str, Any]) -> Any:
    """Builds a model with random weights from its open_clip config."""
    options = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}}
    custom = options.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**options)


def new_encoder(settings: OpenClipSettings, device: torch.device, seed: int) -> Encoder:
    """Creates the whole model, pretrained where the settings name weights; raises as `create_encoder`."""
    return create_encoder(settings.encoder, device, seed, settings.prefix)


def open_clip_parts(tower: Tower, encoder: Encoder) -> Parts:
    """Returns the parts of an extractor whose tower is (a part of) the model of `encoder`."""
    config = {"model_config": encoder.model_config}
    side = encoder.image_size
    return Parts(tower, config, (side, side), encoder.dimension, *encoder.mean_and_std)
