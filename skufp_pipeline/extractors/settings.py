"""Settings of the extractors: one class each, by name in `ExtractorsSettings`.

Defaults are those of the systems that they are from; docs/extractors.md names the source of each.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.settings import Settings
from skufp_pipeline.training.settings import AugmentationSettings, TrainingSettings

Positives = Literal["sku", "category"]
Size = tuple[int, int]  # height and width in pixels

STREET = AugmentationSettings(crop_scale=(0.6, 1.0), rotation=10, blur=0.2)
SHOP = AugmentationSettings(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), brightness=0.1, contrast=0.1, saturation=0.1
)


class ExtractorTrainingSettings(TrainingSettings):
    """Training of an extractor: Adam (AdamW without weight decay), stopped early on the development loss.

    `augmentation` is that of customers' photos, and of every picture in a catalogue without photos.
    """

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-4, gt=0)
    backbone_learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    patience: int | None = Field(3, ge=1)
    cache_side: int = Field(256, ge=8)
    augmentation: AugmentationSettings = STREET
    shop_augmentation: AugmentationSettings | None = SHOP
    held_out: float = Field(0.1, ge=0, lt=1)  # share of the SKUs that judge where no development photos do


class PairTrainingSettings(ExtractorTrainingSettings):
    """Cosine embedding loss over pairs of a photo and a shop picture."""

    batch_size: int = Field(32, ge=3)  # images; a third of them pairs, each with a negative
    weight_decay: float = Field(0.01, ge=0)
    margin: float = Field(0.5, ge=-1, le=1)  # largest cosine of a negative pair without loss


class TripletTrainingSettings(ExtractorTrainingSettings):
    """Triplets of unit rows with the hardest positive and negative of the batch."""

    images_per_sku: int = Field(4, ge=2)
    margin: float = Field(0.2, gt=0)  # between Euclidean distances of unit rows


class ContrastiveTrainingSettings(ExtractorTrainingSettings):
    """Symmetric cross-entropy between pictures and sentences."""

    temperature: float = Field(0.07, gt=0)


class MaskedTrainingSettings(ExtractorTrainingSettings):
    """Prediction of masked patches."""

    masked_share: float = Field(0.15, gt=0, lt=1)  # of a picture's patches; SimMIM's is 0.6


class ReidTrainingSettings(TrainingSettings):
    """Training of Baseline 1: cross-entropy and batch-hard triplets (App. B; Luo et al., 2019)."""

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


class ExtractorSettings(Settings):
    """What every extractor has.

    Attributes:
        name: the key of its settings in a preset, under `extractors`.
        judged_on_pictures: whether the development photos are judged beside the pictures of their SKUs.
    """

    name: ClassVar[str]
    judged_on_pictures: ClassVar[bool] = False
    batch_size: int = Field(256, ge=1)  # for embedding; halved when a GPU runs out of memory
    onnx: bool = False  # whether the tower is exported for ONNX Runtime, too
    training: TrainingSettings

    @property
    def prefix(self) -> str:
        """The dotted name of its settings."""
        return f"extractors.{self.name}"

    def weight_files(self) -> dict[str, str | None]:
        """Values of the settings that name weights or a config file, by setting."""
        return {}


class TimmSettings(ExtractorSettings):
    """A tower of timm."""

    model: str  # a timm model name
    pretrained: str | None = None  # timm weights (`training.weights`) or timm tag (`tv_in1k`); null is random
    image_size: Size

    def weight_files(self) -> dict[str, str | None]:
        return {f"{self.prefix}.pretrained": self.pretrained}


class OpenClipSettings(ExtractorSettings):
    """A model of open_clip."""

    model: str = "ViT-B-32"  # as `encoder.model`: a name, a JSON config, `local-dir:FOLDER` or `hf-hub:ID`
    pretrained: str | None = None  # a tag of open_clip (`laion2b_s34b_b79k`), or a file; null is random

    @property
    def encoder(self) -> EncoderSettings:
        """The same model as settings of an encoder."""
        return EncoderSettings(model=self.model, pretrained=self.pretrained)

    def weight_files(self) -> dict[str, str | None]:
        files = self.encoder.weight_files()
        return {f"{self.prefix}.{name}": files[f"encoder.{name}"] for name in ("model", "pretrained")}


class ReidSettings(TimmSettings):
    """Baseline 1: an image-only network with a BNNeck."""

    name: ClassVar[str] = "reid"
    model: str = "resnet50"
    image_size: Size = (256, 128)
    dimension: int = Field(512, ge=2)  # of the embedding
    last_stride: Literal[1, 2] = 1  # of the last stage; 1 is for ResNets: a larger map (Luo et al.)
    training: ReidTrainingSettings = ReidTrainingSettings()


class XceptionSettings(TimmSettings):
    """Xception with a projection, trained on pairs of photo and shop picture."""

    name: ClassVar[str] = "xception"
    judged_on_pictures: ClassVar[bool] = True
    model: str = "legacy_xception"
    image_size: Size = (299, 299)
    dimension: int = Field(512, ge=2)
    training: PairTrainingSettings = PairTrainingSettings(cache_side=299)


class ClipVitSettings(OpenClipSettings):
    """The image tower of a CLIP, trained on pairs of photo and shop picture."""

    name: ClassVar[str] = "clip_vit"
    judged_on_pictures: ClassVar[bool] = True
    training: PairTrainingSettings = PairTrainingSettings()


class Resnet50Settings(TimmSettings):
    """A ResNet without its head, trained by triplets."""

    name: ClassVar[str] = "resnet50"
    judged_on_pictures: ClassVar[bool] = True
    model: str = "resnet50"
    image_size: Size = (224, 224)
    positives: Positives = "sku"  # which pictures are alike: of one SKU, or of one category
    training: TripletTrainingSettings = TripletTrainingSettings()


class ClipSettings(OpenClipSettings):
    """A CLIP, trained on pictures and sentences."""

    name: ClassVar[str] = "clip"
    positives: Positives = "sku"  # whose sentences are a picture's own: its SKU's, or its category's
    sentences: Literal["prompts", "templates"] = "prompts"  # templates: of the category alone
    training: ContrastiveTrainingSettings = ContrastiveTrainingSettings()


class VitSettings(TimmSettings):
    """A vision transformer, trained to predict masked patches."""

    name: ClassVar[str] = "vit"
    model: str = "vit_base_patch16_224"
    image_size: Size = (224, 224)
    training: MaskedTrainingSettings = MaskedTrainingSettings()


class AutoencoderSettings(ExtractorSettings):
    """A convolutional autoencoder, trained from scratch to redraw its picture."""

    name: ClassVar[str] = "autoencoder"
    image_size: Size = (128, 128)
    channels: tuple[int, ...] = (32, 64, 128, 256)  # of the convolutions, each of stride 2
    dimension: int = Field(128, ge=2)
    training: ExtractorTrainingSettings = ExtractorTrainingSettings(cache_side=128)

    @model_validator(mode="after")
    def _halves_evenly(self) -> Self:
        step = 2 ** len(self.channels)
        if any(side % step for side in self.image_size):
            raise ValueError(f"image_size must be multiples of {step}: {len(self.channels)} halvings")
        return self


class ExtractorsSettings(Settings):
    """The extractors of a graph; null, or no entry, omits one."""

    reid: ReidSettings | None = None
    xception: XceptionSettings | None = None
    clip_vit: ClipVitSettings | None = None
    resnet50: Resnet50Settings | None = None
    clip: ClipSettings | None = None
    vit: VitSettings | None = None
    autoencoder: AutoencoderSettings | None = None

    def wanted(self) -> dict[str, ExtractorSettings]:
        """Returns the settings of those that the preset wants, by name."""
        found = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: settings for name, settings in found if settings is not None}


NAMES = tuple(ExtractorsSettings.model_fields)
