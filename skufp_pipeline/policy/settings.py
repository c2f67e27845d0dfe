"""Typed configuration of the query policy (App. E of the report)."""

from pydantic import Field

from skufp_pipeline.settings import Settings


class ActionSettings(Settings):
    """How strong the operations are."""

    smart_crop: float = Field(0.8, gt=0, le=1)  # share of either side that is kept
    centre_crop: float = Field(0.8, gt=0, le=1)
    denoise: float = Field(30.0, gt=0)  # grey levels that neighbours may differ by and be averaged
    sharpen: float = Field(0.8, ge=0)  # of the unsharp mask
    exposure: float = Field(0.5, gt=0, lt=1)  # mean luminance that is aimed at
    white_balance: float = Field(0.8, ge=0, le=1)  # share of the estimated cast that is taken away
    contrast: float = Field(0.5, ge=0, le=1)  # share of the way to the full range
