"""A CLIP of a few thousand parameters, and pictures of one colour each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from skufp_pipeline.encoders.settings import EncoderSettings

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
TIMM_VISION = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
VIT_VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
BLIP_WORDS = ("a", "red", "blue", "striped", "skirt", "vest")
BLIP_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
BLIP_TOWER = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
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


def write_blip(folder: Path) -> Path:
    """A random BLIP of a dozen words with its processor, as `save_pretrained` writes the real ones."""
    vocabulary = [*BLIP_MARKS, *BLIP_WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    marks = {f"{name}_token_id": BLIP_MARKS.index(mark) for name, mark in _BLIP_ROLES.items()}
    text = {**BLIP_TOWER, **marks, "vocab_size": len(vocabulary), "max_position_embeddings": 32}
    vision = {**BLIP_TOWER, "image_size": 16, "patch_size": 8, "initializer_range": 0.5}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={**text, "initializer_range": 0.5}, vision_config=vision, projection_dim=8
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


_BLIP_ROLES = {"pad": "[PAD]", "sep": "[SEP]", "eos": "[SEP]", "bos": "[DEC]"}


def write_text_model(folder: Path, width: int = 16) -> Path:
    """A random BERT of a dozen words with its tokenizer, a folder in Hugging Face format."""
    vocabulary = [*BLIP_MARKS, *BLIP_WORDS, "green", "coat", "##s"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder
