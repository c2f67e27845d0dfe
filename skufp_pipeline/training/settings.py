"""Settings shared by all trainers of image towers."""

from typing import Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings


class AugmentationSettings(Settings):
    """Training augmentations (App. B): random resized crop, horizontal flip, colour jitter."""

    crop_scale: tuple[float, float] = (0.6, 1.0)  # fraction of the image area
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    flip: float = Field(0.5, ge=0, le=1)  # probability
    rotation: float = 0.0  # largest angle in degrees, either direction
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    blur: float = 0.0  # probability of halving the resolution and back
    erasing: float = Field(0.0, ge=0, le=1)  # probability of covering a random rectangle
    # Largest move of each edge of an item's known box, in shares of the box's width and height: a detector
    # finds such boxes. Items without a box, and pictures that are the item as a whole, are not moved.
    box_jitter: float = Field(0.0, ge=0, le=0.5)


class TrainingSettings(Settings):
    """Settings of AdamW training with warm-up and cosine decay to zero."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    images_per_sku: int | None = Field(None, ge=2)  # in each batch; null samples images, not SKUs
    same_category: bool = False  # one category per batch: its SKUs are harder to distinguish
    learning_rate: float = Field(1e-3, gt=0)  # of everything except the trunk
    backbone_learning_rate: float = Field(1e-3, gt=0)  # of the image tower's trunk
    head_only_epochs: int = Field(0, ge=0)  # epochs in which only the new layers are trained
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_gradient: float = Field(5.0, gt=0)  # largest gradient norm
    freeze_batch_norm: bool = False  # keep the trunk's running statistics (pretrained towers)
    ema_decay: float | None = Field(None, gt=0, lt=1)  # decay of the weight average that is kept instead
    cache_side: int = Field(80, ge=8)  # side in pixels of the decoded crop squares
    augmentation: AugmentationSettings = AugmentationSettings()
    shop_augmentation: AugmentationSettings | None = None  # of catalogue pictures; null: as photos
    patience: int | None = Field(None, ge=1)  # epochs without a better score that end it; null: none do

    @model_validator(mode="after")
    def _batch_holds_two_skus(self) -> Self:
        if self.images_per_sku is not None and self.batch_size < 2 * self.images_per_sku:
            raise ValueError(
                f"batch_size {self.batch_size} must hold two SKUs at least, "
                f"twice images_per_sku {self.images_per_sku}"
            )
        return self
