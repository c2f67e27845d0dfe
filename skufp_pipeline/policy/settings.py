"""Typed configuration of the query policy (App. E of the report)."""

from typing import Literal

from pydantic import Field

from skufp_pipeline.settings import Settings


class ActionSettings(Settings):
    """Strength of the operations, and how the processed photo's embedding is used."""

    side: int = Field(256, ge=16)  # longest side of the working copy in pixels
    smart_crop: float = Field(0.9, gt=0, le=1)  # share of each side that is kept
    centre_crop: float = Field(0.9, gt=0, le=1)
    denoise: float = Field(20.0, gt=0)  # neighbours within this many grey levels are averaged
    sharpen: float = Field(0.7, ge=0)  # strength of the unsharp mask
    exposure: float = Field(0.5, gt=0, lt=1)  # target mean luminance
    exposure_share: float = Field(0.3, ge=0, le=1)  # share of the way to it, in the exponent
    white_balance: float = Field(0.7, ge=0, le=1)  # share of the estimated cast that is removed
    contrast: float = Field(0.0, ge=0, le=1)  # share of the way to the full range
    mirror: bool = True  # mirror the processed photo, so that its embedding errs differently
    weight: float = Field(0.5, gt=0, le=1)  # of its embedding in the mean with the photo's own; paper: 1


class LabelSettings(Settings):
    """Which queries are labelled."""

    train_queries: int | None = Field(None, ge=0)  # of role train, a stable sample; null: all
    batch_size: int = Field(64, ge=1)  # photos; sets an embedding's last bits and what a killed run repeats


class PolicyTrainingSettings(Settings):
    """The network and its training."""

    hidden: int = Field(64, ge=1)  # units
    dropout: float = Field(0.4, ge=0, lt=1)
    epochs: int = Field(60, ge=1)  # at most
    patience: int = Field(15, ge=1)  # epochs without a lower development loss before it stops
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.3, ge=0)
    temperature: float = Field(0.1, gt=0)  # of the sigmoid that turns a margin into a probability
    gain_weight: float = Field(1.0, ge=0)  # weight of the gains' loss; the cross-entropy has 1
    least_gain: float = Field(0.0, ge=0, lt=1)  # expected gain in probability above which an action is taken


class PolicyThresholds(Settings):
    """Thresholds of the policy's checks; null switches one off."""

    degraded_gain_low: float | None = None  # lower end of the interval of the R@1 gain on degraded photos
    share_of_oracle: float | None = Field(None, ge=0, le=1)  # least share of the oracle's gain on them


Act = Literal["gated", "constant"]


class PolicySettings(Settings):
    """The query policy: actions, labels, training, report."""

    actions: ActionSettings = ActionSettings()
    labels: LabelSettings = LabelSettings()
    training: PolicyTrainingSettings = PolicyTrainingSettings()
    report_queries: int | None = Field(None, ge=1)  # evaluation queries to judge, a stable sample
    thresholds: PolicyThresholds = PolicyThresholds()
    act: Act = "gated"  # what a search does: the gate's choice, or the best constant action on every photo
    synthetic: bool = False  # synthetic photos are labelled too, where no customer's is there to train on
