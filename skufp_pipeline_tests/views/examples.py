"""Small examples that the tests of generated views share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

from skufp_pipeline.views.noise import PromptedCrops
from skufp_pipeline.views.settings import GenerationSettings, SmallBaseSettings, ViewsSettings

CPU = torch.device("cpu")
CONFIG: dict[str, Any] = {
    "vae": {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "sample_size": 16,
    },
    "unet": {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    },
    "text_encoder": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
    },
    "scheduler": {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear"},
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
CHECKER = {
    "projection_dim": 8,
    "vision_config": {**TOWER, "image_size": 16, "patch_size": 8},
    "text_config": {**TOWER, "vocab_size": 100},
}
GENERATION = GenerationSettings(strengths=(0.5, 0.3), steps=4, guidance_scale=1, batch_size=4)
SETTINGS = ViewsSettings(
    base=SmallBaseSettings(config="unused", vae_steps=1), image_size=16, generation=GENERATION
)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path


def crops(count: int = 6, side: int = 16, seed: int = 0) -> PromptedCrops:
    """Squares of one random colour each."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    pixels = np.broadcast_to(colours, (count, side, side, 3)).copy()
    return PromptedCrops(pixels, [f"a photo of shirt {row}" for row in range(count)])


def garment(seed: int, size: tuple[int, int] = (20, 30)) -> Image.Image:
    """A picture with shapes and colours of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def catalogue(
    folder: Path, skus: int = 3, views: int = 2, splits: tuple[str, ...] = ("train",)
) -> pl.DataFrame:
    """`VIEW_SCHEMA` and `path`: `views` views of every SKU, written below `folder`."""
    rows = []
    for sku in range(skus):
        split = splits[sku % len(splits)]
        for view in range(views):
            path = f"{split}/catalog/s{sku}/i{sku}{view}_item1.jpg"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            garment(10 * sku + view).save(folder / path)
            rows.append(
                {
                    "item_id": f"{split}/i{sku}{view}_item1",
                    "sku_id": f"s{sku}",
                    "split": split,
                    "image_path": path,
                    "prompt": "a shirt",
                    "path": str(folder / path),
                }
            )
    return pl.DataFrame(rows)


def sources(views: pl.DataFrame) -> dict[str, Path]:
    return {row["item_id"]: Path(row["path"]) for row in views.iter_rows(named=True)}
