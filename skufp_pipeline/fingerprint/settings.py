"""Typed configuration of the fingerprint model and its training (App. C of the report)."""

from typing import Literal

from pydantic import Field

from skufp_pipeline.settings import Settings


class AggregatorSettings(Settings):
    """The Q-Former-style aggregator of section 4.3."""

    members: int = Field(1, ge=1)  # aggregators trained side by side; the fingerprint is their mean
    tokens: int = Field(4, ge=1)  # K learnable query tokens
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    feedforward: int = Field(256, ge=1)  # hidden units
    dropout: float = Field(0.0, ge=0, lt=1)
    residual: bool = True  # add to the mean of the views; False is the paper's plain form


class FingerprintTrainingSettings(Settings):
    """Loss weights and temperatures of eqs 10-14, and training options."""

    image_weight: float = Field(1.0, ge=0)  # lambda_img, eq. 10
    text_weight: float = Field(0.5, ge=0)  # lambda_txt, eq. 11
    rank_weight: float = Field(1.0, ge=0)  # lambda_rank, eq. 12
    classification_weight: float = Field(1.0, ge=0)  # lambda_CE, eq. 13
    rank_temperature: float = Field(0.07, gt=0)  # tau
    classification_temperature: float = Field(0.07, gt=0)  # tau'
    text_query_weight: float = Field(0.2, ge=0)  # weight of text queries in eqs 12 and 13; image queries: 1
    epochs: int = Field(40, ge=1)
    skus_per_batch: int = Field(1024, ge=2)  # S in the softmax of one step
    queries_per_batch: int = Field(512, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    view_dropout: float = Field(0.2, ge=0, lt=1)  # share of a SKU's views hidden in a step, never all
    query_spread: float = Field(1.0, gt=0)  # stretches a query's offset from its SKU's mean view
    query_swap: float = Field(0.0, ge=0, le=1)  # probability that the offset is another query's


class GaussianSettings(Settings):
    """The Gaussian part of a fingerprint: view and photo noise, estimated from training SKUs."""

    shrinkage: float = Field(0.1, ge=0, lt=1)  # of each covariance towards equal variances
    power: float = Field(0.75, ge=0, le=1)  # of the inverse photo noise; 1 is best for photos, less for text
    photo_weight: float = Field(1.0, ge=0)  # how many times a training photo counts; 0 ignores photos
    aggregator_weight: float = Field(1.0, ge=0)  # of the aggregator's vector; the Gaussian's has 1


class HubnessSettings(Settings):
    """Query-bank normalisation over training photos."""

    strength: float = Field(0.25, ge=0)  # factor of the bias; 0 switches it off
    sharpness: float = Field(10.0, gt=0)  # of the softmax over the bank, 1 / temperature


class SyntheticUse(Settings):
    """What synthetic photos are used for; they must be stored (`synthetic.photos`).

    The first four take them as queries, and only where no customer's photo is there to train on.
    """

    teachers: bool = False  # choose the best-shot teachers
    aggregator: bool = False  # train the aggregator
    gaussian: bool = False  # the noise of photos is estimated from them
    hubness: bool = False  # are the bank of `fingerprint.hubness`
    view_weight: float = Field(
        0.0, ge=0
    )  # weight of their mean in the SKU's vector, as `catalog_text_weight`
    viewed: Literal["without_photos", "all"] = "without_photos"  # SKUs that `view_weight` is for
    photo_weight: float = Field(
        0.0, ge=0
    )  # of one in `gaussian`, for a SKU without customers' photos to train on

    @property
    def at_training(self) -> bool:
        """Whether the training of the fingerprint model may need them."""
        return self.aggregator or self.gaussian

    @property
    def at_making(self) -> bool:
        """Whether the making of fingerprints may need them."""
        return self.hubness or self.view_weight > 0 or self.photo_weight > 0


class FingerprintSettings(Settings):
    """How catalog views, and training photos where there are some, become one vector per SKU."""

    max_views: int = Field(32, ge=1)  # per SKU; further ones are ignored
    aggregator: AggregatorSettings = AggregatorSettings()
    training: FingerprintTrainingSettings = FingerprintTrainingSettings()
    gaussian: GaussianSettings | None = GaussianSettings()  # null: the aggregator alone, as in the paper
    catalog_text_weight: float = Field(0.15, ge=0)  # weight of a SKU's catalog texts; paper: 0
    hubness: HubnessSettings | None = None  # null: no bias against hubs
    synthetic: SyntheticUse = SyntheticUse()
