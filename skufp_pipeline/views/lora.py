"""LoRA on the attention projections, to preserve the garment in generated views (sec. 4.4; Hu et al., 2021).

The adapter predicts noise, with min-SNR weights, on crops of a subset of training SKUs. Its file is in
diffusers' format and loads into any stock pipeline of the same base.
"""

from pathlib import Path
from typing import Any

import polars as pl
import torch
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Generator, Tensor

from skufp_pipeline.artifacts.kinds import Lora
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.training.loop import Log
from skufp_pipeline.views.diffusion_train import Schedule, train
from skufp_pipeline.views.drift import drift_figures, drift_table
from skufp_pipeline.views.filters import Scores
from skufp_pipeline.views.generate import Generated, generate, plan_candidates
from skufp_pipeline.views.noise import PromptedCrops, encode_latents, noise_loss, prompted_crops
from skufp_pipeline.views.pipeline import LORA_FILE, Pipeline
from skufp_pipeline.views.selection import parted, require_calibration, sampled
from skufp_pipeline.views.settings import LoraSettings, ViewsSettings
from skufp_pipeline.views.sheet import drift_sheet
from skufp_pipeline.views.tables import score_generated

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
_EMBED_BATCH, _SHOWN = 64, 12
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def train_lora(
    pipeline: Pipeline, crops: PromptedCrops, settings: LoraSettings, seed: int, scratch: Path, log: Log
) -> list[dict[str, float]]:
    """Adds an adapter to `pipeline` and trains it; returns the curve: mean loss by step.

    The weights of the base do not change, but are renamed.

    Raises:
        TooLittleError: no crops to train on.
    """
    if len(crops.prompts) == 0:
        raise TooLittleError(
            "sd_lora needs catalog crops of training SKUs; found none (is the train split empty?)"
        )
    latents = encode_latents(pipeline, crops.pixels)
    add_adapter(pipeline, settings, seed)
    if settings.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}

    def loss_of(generator: Generator) -> Tensor:
        chosen = torch.randint(len(crops.prompts), (settings.batch_size,), generator=generator)
        prompts = [crops.prompts[row] for row in chosen.tolist()]
        drawn = latents.draw(chosen, generator)
        return noise_loss(pipeline, drawn, prompts, generator, settings.largest_timestep, settings.snr_gamma)

    schedule = Schedule(
        settings.steps,
        settings.learning_rate,
        settings.warmup_fraction,
        settings.weight_decay,
        settings.accumulation,
        checkpoint_every=settings.checkpoint_every,
        precision=settings.mixed_precision,
    )
    pipeline.unet.train()  # gradient checkpointing needs training mode; there is no dropout
    curve = train("lora", parts, loss_of, schedule, seed, scratch, log)
    for part in parts.values():
        part.requires_grad_(False).eval()
    return curve


def adapt(
    pipeline: Pipeline,
    views: pl.DataFrame,
    encoder: Encoder,
    settings: ViewsSettings,
    seed: int,
    scratch: Path,
    directory: Path,
    log: Log,
) -> dict[str, Any]:
    """Trains and writes the adapter; returns a summary: counts and drift figures.

    Args:
        views: every catalogue view (`VIEW_SCHEMA`) with the `path` of its crop.
        directory: receives `pytorch_lora_weights.safetensors` and the files of `Lora`: curve, drift, samples.
    """
    require_calibration(views, settings.filters.skus)
    training, held_out = parted(views, settings.lora.max_skus)
    sample = sampled(held_out, settings.lora.drift_views)
    sources = {row["item_id"]: Path(row["path"]) for row in sample.iter_rows(named=True)}
    candidates = plan_candidates(sample, settings.generation)

    def draw(name: str) -> tuple[list[Generated], Scores]:
        out, size = scratch / name, settings.image_size
        pipeline.unet.eval()
        negative = settings.prompts.negative_prompt
        images = generate(pipeline, candidates, sources, out, size, settings.generation, negative)
        return images, score_generated(images, sources, encoder, settings.filters.side, _EMBED_BATCH, False)

    frozen, frozen_scores = draw("frozen")
    log(f"lora: {len(frozen)} samples of the frozen base on {sample['sku_id'].n_unique()} held-out SKUs")
    crops = prompted_crops(training, settings.image_size, scratch / "crops.npy")
    history = train_lora(pipeline, crops, settings.lora, seed, scratch, log)
    adapted, adapted_scores = draw("lora")
    save_lora(pipeline, directory)
    sku_ids = [candidate.sku_id for candidate in candidates]
    drift = drift_table([c.candidate_id for c in candidates], sku_ids, frozen_scores, adapted_scores)
    Lora.write(directory, drift, history, drift_sheet(frozen[:_SHOWN], adapted[:_SHOWN], sources))
    return {
        "training_skus": training["sku_id"].n_unique(),
        "training_views": training.height,
        "held_out_skus": sample["sku_id"].n_unique(),
        **drift_figures(drift),
    }


def add_adapter(pipeline: Pipeline, settings: LoraSettings, seed: int) -> None:
    """Adds a new adapter, which has no effect before training."""
    torch.manual_seed(seed)
    targets = {"unet": UNET_TARGETS}
    if settings.text_encoder:
        targets["text_encoder"] = TEXT_TARGETS
    for part, names in targets.items():
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            init_lora_weights="gaussian",
            target_modules=list(names),
        )
        getattr(pipeline, part).add_adapter(config)
        cast_training_params(getattr(pipeline, part), dtype=torch.float32)


def save_lora(pipeline: Pipeline, directory: Path) -> None:
    """Writes the adapter for `load_lora_weights` of a stock pipeline."""
    layers = {
        part: convert_state_dict_to_diffusers(get_peft_model_state_dict(getattr(pipeline, part)))
        for part in ("unet", "text_encoder")
        if getattr(getattr(pipeline, part), "peft_config", None)
    }
    pipeline.save_lora_weights(
        directory,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers.get("text_encoder"),
        weight_name=LORA_FILE,
    )
