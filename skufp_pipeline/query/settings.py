"""Settings of the stages of a query."""

from typing import Literal

from pydantic import Field

from skufp_pipeline.settings import Settings

Verdict = Literal["match", "similar", "none"]
VERDICTS: tuple[Verdict, ...] = ("match", "similar", "none")


class ConfidenceSettings(Settings):
    """How sure an answer to a photo must be, and when to say that the product is not in the index."""

    alpha: float = Field(0.05, gt=0, lt=1)  # share of photos of present products that `none` may reject
    match: float = Field(0.8, gt=0, lt=1)  # least probability that the first answer is right, of a `match`
    absent: float = Field(0.5, ge=0, lt=1)  # share of photos of absent products that the probability assumes
    least_skus: int = Field(30, ge=2)  # in each half of the SKUs; fewer give no verdicts
    l2: float = Field(1.0, gt=0)  # weight decay of the logistic regression, on standardised features
