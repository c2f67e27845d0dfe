"""Loads the encoder whose pictures an index holds, by its name."""

from pathlib import Path

import torch

from skufp_pipeline.artifacts.places import ENCODER
from skufp_pipeline.encoders.clip import load_encoder
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.extractors.extractor import load_extractor


def load_image_encoder_of(name: str, folder: Path, device: torch.device) -> ImageEncoder:
    """Loads `ENCODER` or an extractor from what its `save` wrote; only the former reads texts.

    Raises:
        UserError: a file is missing or damaged.
    """
    return load_encoder(folder, device) if name == ENCODER else load_extractor(folder, device)
