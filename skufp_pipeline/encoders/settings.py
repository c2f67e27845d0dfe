"""Typed configuration of the encoder and of its fine-tuning."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from skufp_pipeline.settings import Settings

BUNDLED_MODELS = Path(__file__).parent / "models"


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


class ClipTrainingSettings(Settings):
    """Baseline 3: SKU cross-entropy on both towers, AdamW with a cosine schedule (App. B)."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)  # of the projection, the text tower and the classifier
    backbone_learning_rate: float = Field(1e-3, gt=0)  # of the image tower's trunk
    head_only_epochs: int = Field(0, ge=0)  # the trunk rests while the new layers settle
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    scale: float = Field(16.0, gt=0)  # inverse temperature of the cosine classifier
    margin: float = Field(0.0, ge=0, lt=1.5)  # additive angle in radians (ArcFace); 0 is plain cross-entropy
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    text_batch_size: int = Field(128, ge=1)  # prompts beside the images of one step
    text_weight: float = Field(0.5, ge=0)  # of the text tower's cross-entropy
    clip_gradient: float = Field(5.0, gt=0)  # largest gradient norm
    freeze_batch_norm: bool = False  # keep the trunk's running statistics (pretrained towers)
    cache_side: int = Field(80, ge=8)  # pixels of the squares that crops are decoded to, once
    augmentation: AugmentationSettings = AugmentationSettings()


class EncoderSettings(Settings):
    """Which CLIP, from where, and how an image becomes its input.

    Attributes:
        model: an open_clip model name (`ViT-B-32`), the name of a config bundled in
            `encoders/models`, or the path of an open_clip JSON config.
        pretrained: an open_clip hub tag (`laion2b_s34b_b79k`), or a local checkpoint file or directory.
        image_tower_weights: weights in timm's format for the image tower alone.
        image_tower_kwargs: further arguments of `timm.create_model` for the image tower.
    """

    model: str
    pretrained: str | None = None
    image_tower_weights: str | None = None
    image_tower_kwargs: dict[str, Any] = {}
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["squash", "shortest", "longest"] = "squash"
    batch_size: int = Field(256, ge=1)  # of embedding; halved when a GPU runs out of memory
    training: ClipTrainingSettings = ClipTrainingSettings()

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder knows anything before fine-tuning (Baseline 2 exists)."""
        return self.pretrained is not None or self.image_tower_weights is not None


class QueryEncoderSettings(Settings):
    """What encodes a query's photo; catalogue and gallery are always embedded by PyTorch."""

    engine: Literal["onnx", "pytorch"] = "onnx"
    precision: Literal["auto", "float32", "int8"] = "auto"  # auto: int8 where parity allows it
    parity_photos: int = Field(500, ge=1)  # photos of training SKUs that the parity is measured on
    threads: int = Field(0, ge=0)  # of ONNX Runtime; 0 takes as many as PyTorch
