"""Settings of generated views: diffusion model, LoRA, generation, filters (sec. 4.4)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings
from skufp_pipeline.training.weights import config_source

BUNDLED_MODELS = Path(__file__).parent / "models"


class SmallBaseSettings(Settings):
    """A small Stable Diffusion that is built from a config and trained: VAE first, then UNet.

    `config` is the name of a config bundled in `views/models`, or a JSON file, local or in a package. It has
    the keyword arguments of `vae`, `unet`, `text_encoder` and `scheduler`.
    """

    config: str = "skufp-sd-tiny"
    vae_steps: int = Field(1000, ge=1)
    unet_steps: int = Field(1000, ge=1)
    vae_batch_size: int = Field(16, ge=1)
    unet_batch_size: int = Field(32, ge=1)
    vae_learning_rate: float = Field(2e-3, gt=0)
    unet_learning_rate: float = Field(1e-3, gt=0)
    kl_weight: float = Field(1e-4, ge=0)  # weight of the VAE's KL divergence from a unit normal
    edge_weight: float = Field(1.0, ge=0)  # weight of the error of neighbouring pixels' differences
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    prompt_dropout: float = Field(0.1, ge=0, le=1)  # share of samples with an empty prompt
    checkpoint_every: int = Field(200, ge=1)  # steps between two checkpoints


class LoraSettings(Settings):
    """The adapter that fine-tunes the base on this catalogue's garments."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(8, ge=1)
    text_encoder: bool = False  # also adapts the text encoder's attention
    max_skus: int = Field(500, ge=1)  # largest number of training SKUs, selected by hash
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(4, ge=1)
    accumulation: int = Field(1, ge=1)  # batches per optimizer step
    learning_rate: float = Field(1e-4, gt=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    snr_gamma: float = Field(5.0, gt=0)  # min-SNR weighting (Hang et al., 2023)
    largest_timestep: float = Field(1.0, gt=0, le=1)  # fraction of the noise schedule that is trained
    gradient_checkpointing: bool = False  # less memory, more time
    mixed_precision: Literal["none", "fp16", "bf16"] = (
        "bf16"  # on CUDA; a CPU computes in bfloat16 if it multiplies that
    )
    checkpoint_every: int = Field(200, ge=1)
    drift_views: int = Field(64, ge=2)  # views of held-out SKUs for measuring drift


class PromptTemplates(Settings):
    """Prompts; `{category}` and `{visibility}` are filled in for every view."""

    prompt: str = "a catalog photo of a {category}, {visibility}, plain studio background"
    negative_prompt: str = ""


class GenerationSettings(Settings):
    """Number of candidates and SKUs, noise strengths, and the sampler."""

    max_skus: int | None = Field(None, ge=1)  # largest number of SKUs, selected by hash; null: all
    views_per_sku: int = Field(2, ge=1)  # the first catalog views by name
    strengths: tuple[float, ...] = Field((0.3, 0.4), min_length=1)  # one candidate per view and strength
    steps: int = Field(30, ge=1)  # scheduler steps at strength 1
    guidance_scale: float = Field(5.0, ge=1)  # 1 disables classifier-free guidance
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
    """Settings of the acceptance filters, whose thresholds are calibrated on pairs of real views."""

    pass_rate: float = Field(0.96, gt=0, lt=1)  # share of second real views of a SKU that must pass
    skus: int = Field(1000, ge=2)  # training SKUs for calibration, and SKUs per evaluation set
    pairs: int = Field(1000, ge=10)  # largest number of calibration pairs of either kind
    side: int = Field(64, ge=8)  # side in pixels of squares for measuring colours and sharpness
    nsfw_margin: float = 0.0  # rejects above this cosine difference between unsafe and safe concepts


class ViewsThresholds(Settings):
    """Limits of the checks of generated views; null disables a check."""

    acceptance_low: float | None = Field(None, ge=0, le=1)
    acceptance_high: float | None = Field(None, ge=0, le=1)
    planted_rejected: float | None = Field(None, ge=0, le=1)  # least share of planted bad candidates
    real_accepted: float | None = Field(None, ge=0, le=1)  # least share of second real views of a SKU
    drift_is_lower: bool = False  # drift with LoRA is below that of the frozen base, on held-out SKUs


class ViewsSettings(Settings):
    """The stage of generated views; either `model` or `base` is set."""

    model: str | None = None  # SD 1.5 diffusers pipeline: a hub id, or a folder, local or in a package
    base: SmallBaseSettings | None = None  # trains a small pipeline instead
    image_size: int = Field(512, ge=16, multiple_of=8)  # side in pixels of the generated squares
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
        """Values of the settings that name weights or a config file, by setting."""
        config = None if self.base is None else config_source(self.base.config, BUNDLED_MODELS)
        return {"views.model": self.model, "views.base.config": config}
