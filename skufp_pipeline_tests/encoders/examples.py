"""A CLIP of a few thousand parameters, and pictures of one colour each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skufp_pipeline.encoders.settings import EncoderSettings

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
TIMM_VISION = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
VIT_VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
COLOURS = ("red", "green", "blue", "yellow")


def write_model(path: Path, vision: dict[str, Any] = TIMM_VISION, dimension: int = 8) -> EncoderSettings:
    """An open_clip config at `path`, and the settings that name it."""
    path.write_text(json.dumps({"embed_dim": dimension, "vision_cfg": vision, "text_cfg": TEXT}))
    return EncoderSettings(model=str(path))


def picture(colour: str | tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def pictures() -> list[Image.Image]:
    return [picture(colour) for colour in COLOURS]


def noise(seed: int = 0, size: tuple[int, int] = (24, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)
