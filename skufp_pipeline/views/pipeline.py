"""The diffusion pipeline: any img2img pipeline of the SD 1.5 family, or a small one of the same classes.

A pipeline is loaded from a hub id or folder, or built from a JSON config; saved by `save_pretrained`, it
loads as a stock diffusers pipeline (sec. 4.4).
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils import logging as diffusers_logging
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.device import multiplies_bfloat16
from skufp_pipeline.training.weights import config_source, read_config, resolve
from skufp_pipeline.views.settings import BUNDLED_MODELS

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' default name
_PARTS = ("vae", "unet", "text_encoder", "scheduler")
_MERGES = 49152 - 256 - 2  # number of BPE merges that CLIP uses of the bundled vocabulary
_TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": _MERGES + 514,
    "bos_token_id": _MERGES + 512,
    "eos_token_id": _MERGES + 513,
}
# As in SD 1.5; skip_prk_steps: one model evaluation per step.
_SCHEDULER: dict[str, Any] = {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_START, _END = "<|startoftext|>", "<|endoftext|>"

Pipeline = Any  # a StableDiffusionImg2ImgPipeline, whose parts diffusers sets dynamically


def load_pipeline(
    name: str, device: torch.device, precision: str = "fp32", lora: Path | None = None
) -> Pipeline:
    """Loads the pipeline that `views.model` names.

    Args:
        precision: `fp32`, `fp16` or `bf16` on CUDA; a CPU computes in float32.
        lora: directory of an adapter to add, in diffusers' format.

    Raises:
        UserError: unknown model, no network for a hub id, or not a pipeline of this family.
    """
    weights = resolve(name, "views.model")
    try:
        with _quiet():
            pipeline: Pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
                weights.source, local_files_only=weights.path is not None
            ).to(dtype=_DTYPES[precision] if device.type == "cuda" else torch.float32)
    except Exception as error:  # the hub, diffusers and transformers raise many kinds
        raise UserError(
            f"views.model {name!r} could not be loaded ({in_a_line(error)}); expected the hub id of a "
            "Stable Diffusion 1.x pipeline, or a directory written by save_pretrained (with model_index.json)"
        ) from error
    if lora is not None:
        add_lora(pipeline, lora)
    return _prepare(pipeline, device)


def add_lora(pipeline: Pipeline, directory: Path) -> None:
    """Loads an adapter in diffusers' format into a pipeline.

    Raises:
        UserError: it is missing, or does not fit the pipeline.
    """
    if not (directory / LORA_FILE).is_file():
        raise UserError(f"{directory} holds no adapter: {LORA_FILE} is missing; materialize sd_lora again")
    try:
        with _quiet():
            pipeline.load_lora_weights(str(directory), weight_name=LORA_FILE)
    except Exception as error:  # diffusers and peft raise many kinds
        raise UserError(f"the adapter in {directory} does not fit: {in_a_line(error)}") from error


def build_pipeline(config_name: str, device: torch.device, seed: int) -> Pipeline:
    """Builds a pipeline of Stable Diffusion 1.5's classes from a config, with random weights.

    Raises:
        UserError: no such config, or invalid arguments in it.
    """
    config = _config(config_name)
    torch.manual_seed(seed)
    try:
        text_encoder = CLIPTextModel(CLIPTextConfig(**_TEXT_CONFIG, **config["text_encoder"]))
        vae: Any = AutoencoderKL(**config["vae"])
        channels = vae.config.latent_channels
        unet: Any = UNet2DConditionModel(
            in_channels=channels,
            out_channels=channels,
            cross_attention_dim=text_encoder.config.hidden_size,
            **config["unet"],
        )
        scheduler = PNDMScheduler(**_SCHEDULER, **config["scheduler"])
        checker, extractor = _safety_checker(config.get("safety_checker"))
    except (TypeError, ValueError, KeyError, NotImplementedError, AttributeError) as error:
        raise UserError(f"views.base.config {config_name!r} can't be built: {in_a_line(error)}") from error
    for part in (vae, unet):
        _zero_residual_branches(part)
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(text_encoder.config.max_position_embeddings),
        unet=unet,
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=checker is not None,
    )
    return _prepare(pipeline, device)


def save_pipeline(pipeline: Pipeline, directory: Path) -> None:
    """Writes a pipeline for `load_pipeline` and stock diffusers; call it before adding an adapter."""
    with _quiet():
        pipeline.save_pretrained(directory)


def _config(name: str) -> dict[str, Any]:
    """Reads the JSON config of a small Stable Diffusion."""
    source = config_source(name, BUNDLED_MODELS)
    if source is None:
        bundled = ", ".join(sorted(found.stem for found in BUNDLED_MODELS.glob("*.json")))
        raise UserError(f"views.base.config {name!r} is neither a JSON file nor bundled ({bundled})")
    return read_config(source, "views.base.config", _PARTS)[1]


def clip_tokenizer(length: int = 77) -> CLIPTokenizer:
    """Creates CLIP's tokenizer from the vocabulary bundled with open_clip, without a download."""
    with gzip.open(default_bpe()) as stream:
        lines = stream.read().decode().split("\n")[1 : _MERGES + 1]
    merges: Any = [tuple(line.split()) for line in lines]
    letters = list(bytes_to_unicode().values())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {symbol: index for index, symbol in enumerate([*symbols, _START, _END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def encode_prompts(pipeline: Pipeline, prompts: list[str]) -> torch.Tensor:
    """Returns (B, L, W) hidden states of the text encoder, with gradients if it is trainable."""
    tokens = pipeline.tokenizer(
        prompts, padding="max_length", max_length=pipeline.tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    states: torch.Tensor = pipeline.text_encoder(tokens.to(pipeline.device))[0]
    return states


@contextmanager
def _quiet() -> Iterator[None]:
    """Disables progress bars, and messages below error level of diffusers."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)


def _prepare(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """Moves a pipeline to its device, sets evaluation mode, and disables its progress bar."""
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.vae, pipeline.unet):
        module.to(memory_format=torch.channels_last)  # a small VAE trains 3x faster on a CPU
    if device.type == "cpu" and multiplies_bfloat16(device):
        pipeline.unet.set_attn_processor(AttnProcessor())  # its parts are fused slowly there
    for module in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    return pipeline


def _zero_residual_branches(part: torch.nn.Module) -> None:
    """Sets residual branches to zero, as in Ho et al.'s code (2020), which helps short training."""
    for module in part.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)


def _safety_checker(
    config: dict[str, Any] | None,
) -> tuple[StableDiffusionSafetyChecker | None, CLIPImageProcessor | None]:
    if config is None:
        return None, None
    side = config["vision_config"]["image_size"]
    return StableDiffusionSafetyChecker(CLIPConfig(**config)), CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
