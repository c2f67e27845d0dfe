"""Settings of synthetic photos."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from skufp_pipeline.hashing import content_digest
from skufp_pipeline.settings import Settings


class CameraSettings(Settings):
    """How far a synthetic photo may differ from the catalogue picture it shows (docs/training.md).

    Probabilities are of one photo; lengths are shares of the photo's side.
    """

    severity: float = Field(0.5, ge=0, le=1)  # of light, blur, noise and resolution: the mean of a draw
    size: tuple[float, float] = (0.35, 1.5)  # longer side of the product; above 1 only a part is in the photo
    visible: float = Field(0.3, gt=0, le=1)  # least share of the product that is inside the photo
    turn: float = Field(25.0, ge=0, le=180)  # degrees; standard deviation of the rotation in the plane
    tilt: float = Field(0.25, ge=0, lt=0.9)  # largest foreshortening by perspective
    cut_out: float = Field(0.5, ge=0, le=1)  # a plain catalogue background is removed
    plain: float = Field(0.2, ge=0, le=1)  # the background is no picture but a wall, a floor or a cloth
    pieces: float = Field(0.2, ge=0, le=1)  # several pieces of the product are shown
    occluder: float = Field(0.25, ge=0, le=1)  # something covers a part of it
    glare: float = Field(0.2, ge=0, le=1)  # a lamp is reflected
    jpeg: tuple[int, int] = (30, 92)  # quality

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("size", "jpeg"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"{name}: expected two numbers above 0, the smaller first; found {low}, {high}"
                )
        return self


class SyntheticPhotosSettings(Settings):
    """How many synthetic photos of each SKU are stored, by role, and their side."""

    train: int = Field(2, ge=0)
    development: int = Field(1, ge=0)
    evaluation: int = Field(2, ge=0)  # for a report where no customer's photo is held out
    side: int = Field(224, ge=16)  # pixels

    @property
    def counts(self) -> dict[str, int]:
        """Returns the number of photos of a SKU by role."""
        return self.model_dump(exclude={"side"})


class SyntheticSettings(Settings):
    """Synthetic photos of the catalogue's own pictures: for adaptation, and in place of photos that lack."""

    camera: CameraSettings = CameraSettings()
    backgrounds: str | None = None  # a folder of pictures; null: the catalogue's own pictures
    photos: SyntheticPhotosSettings | None = None  # null: none are stored, and no report is judged on them

    def inputs(self) -> dict[str, str]:
        """Returns the digest of the backgrounds as a recipe's input; empty without such a folder."""
        if self.backgrounds is None or not Path(self.backgrounds).is_dir():
            return {}
        return {"synthetic.backgrounds": content_digest(Path(self.backgrounds))}
