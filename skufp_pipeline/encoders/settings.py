"""Typed configuration of the encoder and of its fine-tuning."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings
from skufp_pipeline.training.settings import AugmentationSettings, TrainingSettings
from skufp_pipeline.training.weights import config_source

BUNDLED_MODELS = Path(__file__).parent / "models"


class ClipTrainingSettings(TrainingSettings):
    """Baseline 3: SKU cross-entropy on both towers, with an ArcFace margin. Without it, `margin` 0, this is
    the paper's recipe (App. B).

    Other ways beyond the paper, each on its own: `centroid_weight` (the CTL recipe), `same_category`,
    `head_only_epochs`, a lower `backbone_learning_rate`, `ema_decay`.
    """

    scale: float = Field(24.0, gt=0)  # inverse temperature of the cosine classifier
    margin: float = Field(0.2, ge=0, lt=1.5)  # additive angle in radians (ArcFace); 0 is plain cross-entropy
    centroid_weight: float = Field(0.0, ge=0)  # of the centroid loss; it needs images_per_sku
    centroid_margin: float = Field(0.3, gt=0)
    text_batch_size: int = Field(128, ge=1)  # prompts beside the images of one step
    text_weight: float = Field(0.5, ge=0)  # of the text tower's cross-entropy

    @model_validator(mode="after")
    def _centroids_have_images(self) -> Self:
        if self.centroid_weight > 0 and self.images_per_sku is None:
            raise ValueError("centroid_weight needs images_per_sku: a centroid is of a SKU's other images")
        return self


class EncoderSettings(Settings):
    """Which CLIP, from where (`training.weights`), and how an image becomes its input.

    Attributes:
        model: an open_clip model name (`ViT-B-32`), the name of a config bundled in
            `encoders/models`, or an open_clip JSON config.
        pretrained: weights of the whole model; a tag is open_clip's (`laion2b_s34b_b79k`).
        image_tower_weights: weights of the image tower alone, in timm's format; a tag is timm's (`ra_in1k`).
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

    def weight_files(self) -> dict[str, str | None]:
        """What each setting that names weights or a config of ours names; a library knows other models."""
        return {
            "encoder.model": config_source(self.model, BUNDLED_MODELS),
            "encoder.pretrained": self.pretrained,
            "encoder.image_tower_weights": self.image_tower_weights,
        }


class ReidTrainingSettings(TrainingSettings):
    """Baseline 1's training: cross-entropy and batch-hard triplets (App. B; Luo et al., 2019)."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=4)
    images_per_sku: int = Field(4, ge=2)
    learning_rate: float = Field(3.5e-4, gt=0)
    backbone_learning_rate: float = Field(3.5e-4, gt=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    triplet_margin: float = Field(0.3, gt=0)  # between Euclidean distances of features before the neck
    triplet_weight: float = Field(1.0, ge=0)
    cache_side: int = Field(256, ge=8)
    augmentation: AugmentationSettings = AugmentationSettings(erasing=0.5)


class ReidSettings(Settings):
    """Baseline 1: an image-only network of timm's with a BNNeck, and how a crop becomes its input.

    Attributes:
        model: a timm model name (`resnet50`).
        pretrained: weights in timm's format (`training.weights`); a tag is timm's (`tv_in1k`), null starts
            from nothing.
        image_size: height and width in pixels.
        dimension: of the embedding.
        last_stride: of the trunk's last stage; 1 keeps its feature map large, as Luo et al. do (ResNets).
    """

    model: str = "resnet50"
    pretrained: str | None = None
    image_size: tuple[int, int] = (256, 128)
    dimension: int = Field(512, ge=2)
    last_stride: Literal[1, 2] = 1
    batch_size: int = Field(256, ge=1)  # of embedding; halved when a GPU runs out of memory
    training: ReidTrainingSettings = ReidTrainingSettings()

    def weight_files(self) -> dict[str, str | None]:
        """What each setting that names weights names."""
        return {"baselines.reid.pretrained": self.pretrained}


class QueryEncoderSettings(Settings):
    """What encodes a query's photo; catalogue and gallery are always embedded by PyTorch."""

    engine: Literal["onnx", "pytorch"] = "onnx"
    precision: Literal["auto", "float32", "int8"] = "auto"  # auto: int8 where parity allows it
    parity_photos: int = Field(500, ge=1)  # photos of training SKUs that the parity is measured on
    threads: int = Field(0, ge=0)  # of ONNX Runtime; 0 takes as many as PyTorch
