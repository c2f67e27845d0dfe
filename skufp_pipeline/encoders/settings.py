"""Settings of the encoders and of their training."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings
from skufp_pipeline.training.settings import TrainingSettings
from skufp_pipeline.training.weights import config_source

SCHEMES = ("local-dir:", "hf-hub:")  # open_clip's, of models that come with their weights
BUNDLED_MODELS = Path(__file__).parent / "models"
Share = Annotated[float, Field(ge=0, le=1)]


class ClipTrainingSettings(TrainingSettings):
    """Baseline 3: SKU cross-entropy on both towers, with ArcFace margin; without it, the paper's (App. B).

    Other independent options beyond the paper: `centroid_weight` (the CTL recipe), `same_category`,
    `head_only_epochs`, a lower `backbone_learning_rate`, `ema_decay`.
    """

    scale: float = Field(24.0, gt=0)  # inverse temperature of the cosine classifier
    margin: float = Field(0.2, ge=0, lt=1.5)  # additive angle in radians (ArcFace); 0 is plain cross-entropy
    centroid_weight: float = Field(0.0, ge=0)  # weight of the centroid loss; requires images_per_sku
    centroid_margin: float = Field(0.3, gt=0)
    text_batch_size: int = Field(128, ge=1)  # prompts per step
    text_weight: float = Field(0.5, ge=0)  # weight of the text tower's cross-entropy

    @model_validator(mode="after")
    def _centroids_have_images(self) -> Self:
        if self.centroid_weight > 0 and self.images_per_sku is None:
            raise ValueError("centroid_weight needs images_per_sku: a centroid is of a SKU's other images")
        return self


class AdaptationSettings(Settings):
    """Adaptation of a pretrained image tower on synthetic photos, and how far to go back."""

    steps: int = Field(100, ge=1)  # at least
    passes: float = Field(8.0, ge=0)  # over the SKUs, if that takes more steps
    most_steps: int = Field(300, ge=1)
    batch_size: int = Field(64, ge=2)  # SKUs of a step, each with a photo
    rivals: int = Field(4096, ge=1)  # other SKUs, at most, among which a photo has to find its own
    image_size: int | None = Field(None, ge=32)  # pixels, in training; null: the encoder's own size
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_fraction: float = Field(0.2, ge=0, lt=1)
    clip_gradient: float = Field(5.0, gt=0)  # largest gradient norm
    temperature: float = Field(0.07, gt=0)
    frozen_stages: int = Field(2, ge=0)  # of the tower's first stages, which keep their weights
    photo_share: float = Field(0.5, ge=0, le=1)  # of customers' photos, of a SKU that has training photos
    alphas: tuple[Share, ...] = (0, 0.25, 0.5, 0.75, 1)  # to choose from
    alpha: Share | None = None  # of the adapted weights in the result; null: one of `alphas` is chosen
    kept_gain: float = Field(0.9, gt=0, le=1)  # the smallest alpha with this share of the best one's gain
    judged_skus: int = Field(300, ge=2)  # at most, with which alpha is chosen
    judged_photos: int = Field(2, ge=1)  # synthetic ones of each of them
    cache_side: int = Field(224, ge=8)  # side in pixels of the decoded pictures

    def steps_for(self, skus: int) -> int:
        """Returns the number of steps for a catalogue of this size."""
        return max(self.steps, min(round(self.passes * skus / self.batch_size), self.most_steps))


class TextAlignmentSettings(Settings):
    """How the projection of a frozen text model is learnt from pictures and words (`text_alignment`)."""

    regularisation: float = Field(0.3, gt=0)  # ridge, in mean eigenvalues of the sentences' second moments
    whitening: float = Field(0.5, ge=0, le=1)  # of the pictures to predict; 0: none, 1: linear discriminants
    class_weight: float = Field(0.25, ge=0)  # of a name of an ImageNet class; of a catalogue's sentence: 1
    isometry: float = Field(0.3, ge=0)  # weight of the map that keeps cosines of sentences; of the learnt: 1


# Settings of the second look that decide how it ranks; the others are of the head's training.
RANKING = {"top", "weight", "weights", "usual_weight", "least_photos"}


class LookTwiceSettings(Settings):
    """Re-ranking of the best SKUs by their patches (`late_interaction`, `query.look_twice`)."""

    top: int = Field(20, ge=2)  # SKUs that are looked at twice
    dimension: int = Field(64, ge=8, le=256)  # of a patch vector
    views: int = Field(4, ge=1)  # catalogue pictures of a SKU, at most; fewer where they take more than 4 KiB
    weight: float | None = Field(
        None, ge=0
    )  # of MaxSim beside the cosine; null: chosen on development photos
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0)  # to choose from
    usual_weight: float = Field(0.5, ge=0)  # where too few development photos are there to choose with
    least_photos: int = Field(50, ge=1)  # development photos to choose with
    steps: int = Field(400, ge=0)  # of the head's training
    checkpoint_every: int = Field(50, ge=1)  # steps; what a killed training repeats at most
    batch_size: int = Field(48, ge=2)  # SKUs of a step, each with a photo
    neighbours: int = Field(8, ge=1)  # nearest SKUs that are in a step together
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    temperature: float = Field(0.07, gt=0)
    most_pictures: int = Field(8000, ge=2)  # photos, and catalogue pictures, that it is trained on, at most
    synthetic_photos: int = Field(24, ge=1)  # of a SKU, at most, where the training SKUs have no photos


class EncoderSettings(Settings):
    """Model, weights (forms in `training.weights`) and preprocessing of the CLIP encoder.

    Attributes:
        model: an open_clip model name (`ViT-B-32`), a config bundled in `encoders/models`, a JSON config, or
            a model with its weights: `local-dir:FOLDER` in open_clip's format, or `hf-hub:ID`.
        pretrained: weights of the whole model; tags are open_clip's (`laion2b_s34b_b79k`).
        image_tower_weights: weights of the image tower in timm's format; tags are timm's (`ra_in1k`).
        image_tower_kwargs: further arguments of `timm.create_model` for the image tower.
        text_tower_weights: a text model of transformers (weights and tokenizer) in place of the text tower of
            `model`: a folder in Hugging Face format, or a hub id (`sentence-transformers/all-MiniLM-L6-v2`).
            Its output is the mean over tokens, as of sentence-transformers; only its projection is learnt.
        text_alignment: how; it has no effect without `text_tower_weights`.
        image_mean, image_std: by default timm's with `image_tower_weights`, else open_clip's.
        white_balance: share of the estimated colour cast (`camera.white_balance`) that is removed from every
            image, in training and ever after; it is kept with the encoder. Not with `adaptation`.
    """

    model: str
    pretrained: str | None = None
    image_tower_weights: str | None = None
    image_tower_kwargs: dict[str, Any] = {}
    text_tower_weights: str | None = None
    text_alignment: TextAlignmentSettings = TextAlignmentSettings()
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["squash", "shortest", "longest"] = "squash"
    white_balance: float = Field(0.0, ge=0, le=1)
    batch_size: int = Field(256, ge=1)  # for embedding; halved when a GPU runs out of memory
    training: ClipTrainingSettings = ClipTrainingSettings()
    adaptation: AdaptationSettings | None = None  # of a pretrained image tower; null: none

    @model_validator(mode="after")
    def _adapts_pretrained_towers(self) -> Self:
        if self.adaptation is not None and not self.is_pretrained:
            raise ValueError("adaptation needs pretrained weights: image_tower_weights or pretrained")
        if self.adaptation is not None and self.white_balance > 0:
            raise ValueError(
                "white_balance is for a fine-tuned encoder: adaptation trains on synthetic photos with their "
                "colour cast; leave one of the two out"
            )
        return self

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder has pretrained weights, so that Baseline 2 exists."""
        return any((self.own_weights, self.pretrained, self.image_tower_weights))

    @property
    def own_weights(self) -> str | None:
        """The folder or hub id of a model that comes with its weights, else None."""
        found = (self.model.removeprefix(scheme) for scheme in SCHEMES if self.model.startswith(scheme))
        return next(found, None)

    def weight_files(self) -> dict[str, str | None]:
        """Values of the settings that name weights or a config file, by setting; None for library models."""
        return {
            "encoder.model": self.own_weights or config_source(self.model, BUNDLED_MODELS),
            "encoder.pretrained": self.pretrained,
            "encoder.image_tower_weights": self.image_tower_weights,
            "encoder.text_tower_weights": self.text_tower_weights,
        }

    @model_validator(mode="after")
    def _one_text_tower(self) -> Self:
        if self.text_tower_weights is not None and (self.pretrained or self.own_weights):
            raise ValueError(
                "text_tower_weights replaces the text tower of a model without weights; pretrained, and a "
                "model that comes with its weights, have their own"
            )
        return self


class QueryEncoderSettings(Settings):
    """The encoder of query photos; catalogue and gallery are always embedded by PyTorch."""

    engine: Literal["onnx", "pytorch"] = "onnx"
    precision: Literal["auto", "float32", "int8"] = "auto"  # auto: int8 if the parity allows it
    parity_photos: int = Field(500, ge=1)  # photos of training SKUs for measuring the parity
    threads: int = Field(0, ge=0)  # of ONNX Runtime; 0: the number of PyTorch threads
