"""Settings of the stage that finds the items in a whole photo."""

from typing import Self

from pydantic import Field, model_validator

from skufp_pipeline.settings import Settings


class DetectorTrainingSettings(Settings):
    """Training of the small detector (`detection/network.py`)."""

    side: int = Field(64, ge=32, multiple_of=16)  # pixels; every photo is squeezed to this square
    width: int = Field(16, ge=4, multiple_of=4)  # channels of the first layer
    steps: int = Field(1500, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    ema_decay: float = Field(0.98, gt=0, lt=1)  # of the weight average that is kept
    judge_every: int = Field(250, ge=1)  # steps between two scores on held-out photos
    photos: int = Field(8000, ge=1)  # most photos with known boxes to train on, a stable sample
    held_photos: int = Field(500, ge=1)  # most photos that choose the best step
    synthetic_photos: int = Field(4000, ge=0)  # to train on where too few photos have known boxes
    least_photos: int = Field(200, ge=1)  # with known boxes; below it synthetic photos are added


class DetectorThresholds(Settings):
    """Thresholds of the detector's check; null switches it off."""

    recall: float | None = Field(None, ge=0, le=1)  # least recall at IoU .5 on photos it was not trained on


class DetectorSettings(Settings):
    """The detector: one of transformers, or a small one that the graph trains; and which regions it keeps."""

    model: str | None = (
        None  # a hub tag or folder of an object detection model; null: the small one is trained
    )
    labels: list[str] | None = None  # of `model`: only regions with these labels are items; null: all are
    side: int = Field(640, ge=32)  # pixels; `model` sees the photo squeezed to this square
    threshold: float = Field(0.3, ge=0, le=1)  # least score of a region
    most: int = Field(4, ge=1)  # regions of a photo
    overlap: float = Field(0.5, ge=0, lt=1)  # IoU with a better region above which a region is dropped
    trim: float = Field(
        0.0, ge=0, lt=0.5
    )  # share of a found region that is cut off at each side for the search
    looks: int = Field(1, ge=0)  # of the small detector at each found region, to place its edges once more
    training: DetectorTrainingSettings = DetectorTrainingSettings()
    report_photos: int = Field(1000, ge=1)  # evaluation photos to judge, a stable sample
    thresholds: DetectorThresholds = DetectorThresholds()

    def weight_files(self) -> dict[str, str | None]:
        """Returns the values of the settings that name weights, by setting."""
        return {"detector.model": self.model}

    @model_validator(mode="after")
    def _labels_are_those_of_a_model(self) -> Self:
        if self.labels is not None and (self.model is None or not self.labels):
            raise ValueError("labels: expected some of the labels of `model`; the small detector has but one")
        return self
