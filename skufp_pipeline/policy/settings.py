"""Typed configuration of the query policy (App. E of the report)."""

from pydantic import Field

from skufp_pipeline.settings import Settings


class ActionSettings(Settings):
    """How strong the operations are, and what becomes of the processed photo's embedding."""

    side: int = Field(256, ge=16)  # longest side in pixels of the copy that is looked at and processed
    smart_crop: float = Field(0.9, gt=0, le=1)  # share of either side that is kept
    centre_crop: float = Field(0.9, gt=0, le=1)
    denoise: float = Field(20.0, gt=0)  # grey levels that neighbours may differ by and be averaged
    sharpen: float = Field(0.7, ge=0)  # of the unsharp mask
    exposure: float = Field(0.5, gt=0, lt=1)  # mean luminance that is aimed at
    exposure_share: float = Field(0.3, ge=0, le=1)  # of the way there, in the exponent
    white_balance: float = Field(0.7, ge=0, le=1)  # share of the estimated cast that is taken away
    contrast: float = Field(0.0, ge=0, le=1)  # share of the way to the full range
    mirror: bool = True  # the processed photo is mirrored, so that its embedding errs in other ways
    weight: float = Field(0.5, gt=0, le=1)  # of its embedding beside the photo's own; 1 is the paper's form


class LabelSettings(Settings):
    """Which queries are labelled."""

    train_queries: int | None = Field(None, ge=0)  # of role train, a stable choice; null takes all
    batch_size: int = Field(
        64, ge=1
    )  # photos; decides last bits of embeddings, and what a killed run repeats


class PolicyTrainingSettings(Settings):
    """The network and its training."""

    hidden: int = Field(64, ge=1)  # units
    dropout: float = Field(0.4, ge=0, lt=1)
    epochs: int = Field(60, ge=1)  # at most
    patience: int = Field(15, ge=1)  # epochs without a lower development loss, then it stops
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.3, ge=0)
    temperature: float = Field(0.1, gt=0)  # of the sigmoid that makes a probability of a margin
    gain_weight: float = Field(1.0, ge=0)  # of the regression of gains beside the cross-entropy
    least_gain: float = Field(0.0, ge=0, lt=1)  # in probability of success, that an action must promise


class PolicyThresholds(Settings):
    """What the checks of the policy demand; null switches one off."""

    degraded_gain_low: float | None = None  # lower end of the interval of the R@1 gain on degraded photos
    share_of_oracle: float | None = Field(None, ge=0, le=1)  # least share of the oracle's gain on them


class PolicySettings(Settings):
    """The query policy: actions, labels, training, report."""

    actions: ActionSettings = ActionSettings()
    labels: LabelSettings = LabelSettings()
    training: PolicyTrainingSettings = PolicyTrainingSettings()
    report_queries: int | None = Field(None, ge=1)  # evaluation queries that are judged, a stable choice
    thresholds: PolicyThresholds = PolicyThresholds()
