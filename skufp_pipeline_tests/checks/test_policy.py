"""The checks of the policy pass and fail as their thresholds say."""

import polars as pl
import pytest

from skufp_pipeline.checks.policy import policy_does_no_harm, policy_helps_degraded
from skufp_pipeline.policy.settings import PolicyThresholds


def table(gain: float, low: float, high: float, part: str = "all", oracle: float = 0.1) -> pl.DataFrame:
    shared = {"setting": "seen+zero", "part": part}
    gated = {"arm": "gated", "recall@1_gain": gain, "recall@1_low": low, "recall@1_high": high}
    best = {"arm": "oracle", "recall@1_gain": oracle, "recall@1_low": oracle, "recall@1_high": oracle}
    return pl.DataFrame([{**shared, **gated}, {**shared, **best}])


@pytest.mark.parametrize(
    ("low", "high", "passed"),
    [(0.01, 0.03, True), (-0.01, 0.02, True), (0.0, 0.0, True), (-0.03, -0.01, False)],
)
def test_harm_is_an_interval_below_zero(low: float, high: float, passed: bool) -> None:
    assert policy_does_no_harm(table((low + high) / 2, low, high)).passed == passed


def test_harm_to_one_kind_of_photo_is_told_but_does_not_fail() -> None:
    both = pl.concat([table(0.01, 0.0, 0.02), table(-0.02, -0.03, -0.01, part="noise")])
    result = policy_does_no_harm(both)
    assert result.passed
    assert result.metadata["harmed"].value == "seen+zero noise"


def test_a_report_without_the_gated_policy_does_not_pass() -> None:
    assert not policy_does_no_harm(table(0.1, 0.0, 0.2).filter(pl.col("arm") == "oracle")).passed


ASKED = PolicyThresholds(degraded_gain_low=0.0, share_of_oracle=0.25)


@pytest.mark.parametrize(
    ("gain", "low", "passed"), [(0.03, 0.01, True), (0.03, -0.01, False), (0.02, 0.01, False)]
)
def test_degraded_photos_must_gain_surely_and_a_share_of_the_oracles(
    gain: float, low: float, passed: bool
) -> None:
    result = policy_helps_degraded(table(gain, low, 0.05, part="degraded"), ASKED)
    assert result.passed == passed
    assert result.metadata["share_of_oracle"].value == pytest.approx(gain / 0.1)


def test_nothing_is_asked_of_data_whose_degradations_are_unknown() -> None:
    assert policy_helps_degraded(table(0.0, 0.0, 0.0), PolicyThresholds()).passed
    assert not policy_helps_degraded(table(0.0, 0.0, 0.0), ASKED).passed


def test_an_oracle_that_gains_nothing_has_no_share() -> None:
    assert not policy_helps_degraded(table(0.0, 0.0, 0.0, part="degraded", oracle=0.0), ASKED).passed
