"""Typed configuration that every training of an image tower shares."""

from typing import Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings


class AugmentationSettings(Settings):
    """Training augmentations (App. B): random resized crop, horizontal flip, colour jitter."""

    crop_scale: tuple[float, float] = (0.6, 1.0)  # share of the crop's area that is kept
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    flip: float = Field(0.5, ge=0, le=1)  # probability
    rotation: float = 0.0  # degrees, uniform in +-
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    blur: float = 0.0  # probability of halving the resolution and back
    erasing: float = Field(0.0, ge=0, le=1)  # probability of covering a random rectangle


class TrainingSettings(Settings):
    """What the trainers of all image encoders share: AdamW, a warm-up, then a cosine to zero."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    images_per_sku: int | None = Field(None, ge=2)  # of each SKU in a batch; null draws images, not SKUs
    same_category: bool = False  # batches of one category each: their SKUs are hard to tell apart
    learning_rate: float = Field(1e-3, gt=0)  # of all that is not the trunk
    backbone_learning_rate: float = Field(1e-3, gt=0)  # of the image tower's trunk
    head_only_epochs: int = Field(0, ge=0)  # the trunk rests while the new layers settle
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_gradient: float = Field(5.0, gt=0)  # largest gradient norm
    freeze_batch_norm: bool = False  # keep the trunk's running statistics (pretrained towers)
    ema_decay: float | None = Field(None, gt=0, lt=1)  # keep the moving average of the weights instead
    cache_side: int = Field(80, ge=8)  # pixels of the squares that crops are decoded to, once
    augmentation: AugmentationSettings = AugmentationSettings()

    @model_validator(mode="after")
    def _batch_holds_two_skus(self) -> Self:
        if self.images_per_sku is not None and self.batch_size < 2 * self.images_per_sku:
            raise ValueError(
                f"batch_size {self.batch_size} must hold two SKUs at least, "
                f"twice images_per_sku {self.images_per_sku}"
            )
        return self
