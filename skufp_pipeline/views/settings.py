"""Typed configuration of generated views: diffusion model, LoRA, generation, filters (sec. 4.4)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings
from skufp_pipeline.training.weights import config_source

BUNDLED_MODELS = Path(__file__).parent / "models"


class SmallBaseSettings(Settings):
    """A small Stable Diffusion that is built from a config and trained here: VAE first, then UNet.

    Attributes:
        config: the name of a config bundled in `views/models`, or a JSON file, here or in a package, with
            `vae`, `unet`, `text_encoder` and `scheduler`, the keyword arguments of their classes.
    """

    config: str = "skufp-sd-tiny"
    vae_steps: int = Field(1000, ge=1)
    unet_steps: int = Field(1000, ge=1)
    vae_batch_size: int = Field(16, ge=1)
    unet_batch_size: int = Field(32, ge=1)
    vae_learning_rate: float = Field(2e-3, gt=0)
    unet_learning_rate: float = Field(1e-3, gt=0)
    kl_weight: float = Field(1e-4, ge=0)  # of the VAE's divergence from a unit normal
    edge_weight: float = Field(1.0, ge=0)  # of the error of neighbouring pixels' differences
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    prompt_dropout: float = Field(0.1, ge=0, le=1)  # share of samples that see the empty prompt
    checkpoint_every: int = Field(200, ge=1)  # steps between two points that a killed run goes on from


class LoraSettings(Settings):
    """The adapter that teaches the base this catalogue's garments."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(8, ge=1)
    text_encoder: bool = False  # adapt the text encoder's attention too
    max_skus: int = Field(500, ge=1)  # training SKUs it learns from, a stable choice
    steps: int = Field(1000, ge=1)  # optimizer steps
    batch_size: int = Field(4, ge=1)
    accumulation: int = Field(1, ge=1)  # batches whose gradients make one step
    learning_rate: float = Field(1e-4, gt=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    snr_gamma: float = Field(5.0, gt=0)  # min-SNR weighting (Hang et al., 2023)
    largest_timestep: float = Field(1.0, gt=0, le=1)  # share of the noise schedule that is trained
    gradient_checkpointing: bool = False  # less memory, more time
    mixed_precision: Literal["none", "fp16", "bf16"] = "bf16"  # on CUDA; a CPU computes in float32
    checkpoint_every: int = Field(200, ge=1)
    drift_views: int = Field(64, ge=2)  # views of held-out SKUs that drift is measured on


class PromptTemplates(Settings):
    """Words for the pipeline; `{category}` and `{visibility}` are filled in for every view."""

    prompt: str = "a catalog photo of a {category}, {visibility}, plain studio background"
    negative_prompt: str = ""


class GenerationSettings(Settings):
    """How many candidates, of which SKUs, at which noise."""

    max_skus: int | None = Field(None, ge=1)  # SKU budget, a stable choice; null takes all
    views_per_sku: int = Field(2, ge=1)  # catalog views that are varied, the first ones by name
    strengths: tuple[float, ...] = Field((0.3, 0.4), min_length=1)  # one candidate per view and strength
    steps: int = Field(30, ge=1)  # of the scheduler at strength 1
    guidance_scale: float = Field(5.0, ge=1)  # 1 switches classifier-free guidance off
    batch_size: int = Field(8, ge=1)  # halved when a GPU runs out of memory
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"  # on CUDA; a CPU computes in float32
    quality: int = Field(95, ge=1, le=100)  # of the JPEGs

    @model_validator(mode="after")
    def _noise_is_added(self) -> Self:
        for strength in self.strengths:
            if not 0 < strength <= 1 or int(self.steps * strength) < 1:
                raise ValueError(
                    f"strength {strength} with {self.steps} steps takes no step; expected 0 < strength <= 1 "
                    "and steps * strength >= 1"
                )
        return self


class FilterSettings(Settings):
    """What a candidate must be to be accepted; thresholds come from real pairs of views."""

    pass_rate: float = Field(0.96, gt=0, lt=1)  # of second real views of a SKU that must pass
    skus: int = Field(1000, ge=2)  # training SKUs whose views are paired, and as many to measure on
    pairs: int = Field(1000, ge=10)  # of either kind that thresholds are calibrated on
    side: int = Field(64, ge=8)  # pixels of the squares that colours and sharpness are measured on
    nsfw_margin: float = 0.0  # how much nearer to an unsafe concept than to a safe one is rejected


class ViewsThresholds(Settings):
    """What the checks of this stage demand; null switches one off."""

    acceptance_low: float | None = Field(None, ge=0, le=1)
    acceptance_high: float | None = Field(None, ge=0, le=1)
    planted_rejected: float | None = Field(None, ge=0, le=1)  # of planted bad candidates
    real_accepted: float | None = Field(None, ge=0, le=1)  # of second real views of the same SKU
    drift_is_lower: bool = False  # with LoRA than with the frozen base, on held-out SKUs


class ViewsSettings(Settings):
    """The stage of generated views.

    Attributes:
        model: a diffusers pipeline of the SD 1.5 family: a hub id, or a folder here or in a package.
        base: trains a small one instead; one of the two is given.
        image_size: side in pixels of the squares that are generated.
    """

    model: str | None = None
    base: SmallBaseSettings | None = None
    image_size: int = Field(512, ge=16, multiple_of=8)
    lora: LoraSettings = LoraSettings()
    prompts: PromptTemplates = PromptTemplates()
    generation: GenerationSettings = GenerationSettings()
    filters: FilterSettings = FilterSettings()
    thresholds: ViewsThresholds = ViewsThresholds()

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.base is None):
            raise ValueError("expected either model (a hub id or a directory) or base (a small one to train)")
        return self

    def weight_files(self) -> dict[str, str | None]:
        """What each setting that names weights or a config names."""
        config = None if self.base is None else config_source(self.base.config, BUNDLED_MODELS)
        return {"views.model": self.model, "views.base.config": config}
