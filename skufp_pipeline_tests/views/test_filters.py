"""The filters on scores and squares that a hand can check."""

import numpy as np
import pytest

from skufp_pipeline.views.filters import (
    ACCEPTED,
    Scores,
    Thresholds,
    accepted_share,
    calibrate,
    calibration_curve,
    colour_histograms,
    hellinger,
    log_sharpness,
    nsfw_scores,
    score,
    verdicts,
)
from skufp_pipeline.views.settings import FilterSettings

LIMITS = Thresholds(clip_cosine=0.5, hsv_distance=0.4, sharpness_low=-1, sharpness_high=1, nsfw=0)


def scores(cosine: list[float], distance: list[float], sharp: list[float], nsfw: list[float]) -> Scores:
    return Scores(*(np.array(values, dtype=np.float32) for values in (cosine, distance, sharp, nsfw)))


def plain(colour: tuple[int, int, int], side: int = 8) -> np.ndarray:
    return np.full((1, side, side, 3), colour, dtype=np.uint8)


def test_a_candidate_is_accepted_or_rejected_for_the_first_reason() -> None:
    found = verdicts(
        scores(
            [0.9, 0.5, 0.4, 0.9, 0.9, 0.9, 0.1],
            [0.1, 0.4, 0.1, 0.5, 0.1, 0.1, 0.9],
            [0.0, 1.0, 0.0, 0.0, 1.1, -1.1, 5.0],
            [np.nan, 0.0, -1, -1, -1, -1, 0.1],
        ),
        LIMITS,
    )
    reasons = ["clip_cosine", "hsv_distance", "sharpness", "sharpness", "nsfw"]
    assert found == [ACCEPTED, ACCEPTED, *reasons]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_score_that_is_no_number_is_never_accepted(column: int) -> None:
    values = [[0.9], [0.1], [0.0], [np.nan]]
    values[column] = [np.nan]
    assert verdicts(scores(*values), LIMITS) != [ACCEPTED]


def test_the_accepted_share_of_nothing_is_not_a_number() -> None:
    assert accepted_share(scores([1, 0], [0, 0], [0, 0], [0, 0]), LIMITS) == 0.5
    assert np.isnan(accepted_share(scores([], [], [], []), LIMITS))


def test_a_colour_is_in_its_bin_and_half_way_in_both() -> None:
    (red,) = colour_histograms(plain((255, 0, 0)))
    assert red.tolist() == pytest.approx([1] + [0] * 11)
    (yellow,) = colour_histograms(plain((255, 191, 0)))  # 45 degrees: the second of eight hues
    assert yellow[1] > 0.97
    (between,) = colour_histograms(plain((255, 96, 0)))  # 22.5 degrees
    assert between[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    (black,), (white,) = colour_histograms(plain((0, 0, 0))), colour_histograms(plain((255, 255, 255)))
    assert black[8] == white[11] == pytest.approx(1)


def test_the_centre_counts_more_than_the_edge() -> None:
    middle, edge = plain((255, 255, 255)), plain((255, 0, 0))
    middle[:, 2:6, 2:6] = (255, 0, 0)
    edge[:, 2:6, 2:6] = (255, 255, 255)
    share = 16 / 64
    assert colour_histograms(middle)[0, 0] > share
    assert colour_histograms(edge)[0, 0] < 1 - share


def test_hellinger_is_0_for_equal_1_for_disjoint_and_as_by_hand() -> None:
    first = np.array([[1, 0], [1, 0], [0.5, 0.5]], dtype=np.float32)
    second = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert hellinger(first, second).tolist() == pytest.approx([0, 1, np.sqrt(1 - np.sqrt(0.5))])


def test_a_flat_image_is_at_zero_sharpness_and_a_chequered_one_far_above() -> None:
    chequered = np.indices((8, 8)).sum(axis=0) % 2 * 255
    squares = np.stack([plain((9, 9, 9))[0], np.repeat(chequered[..., None], 3, 2).astype(np.uint8)])
    flat, sharp = log_sharpness(squares)
    assert flat == 0
    assert sharp > 10


def test_scores_compare_each_candidate_with_its_own_source() -> None:
    unit = np.eye(2, dtype=np.float32)
    squares = np.concatenate([plain((255, 0, 0)), plain((0, 0, 255))])
    found = score(unit, squares, unit[::-1], squares[::-1])
    assert found.clip_cosine.tolist() == [0, 0]
    assert found.hsv_distance.tolist() == pytest.approx([1, 1])
    assert np.isnan(found.nsfw).all()
    assert score(unit, squares, unit, squares).hsv_distance.tolist() == pytest.approx([0, 0], abs=1e-3)


def drawn(rng: np.random.Generator, cosine: float, distance: float, count: int = 4000) -> Scores:
    return scores(
        rng.normal(cosine, 0.05, count),
        rng.normal(distance, 0.05, count),
        rng.normal(0, 0.3, count),
        [np.nan] * count,
    )


def test_calibration_passes_the_asked_share_of_second_views() -> None:
    rng = np.random.default_rng(0)
    same, other = drawn(rng, 0.9, 0.2), drawn(rng, 0.85, 0.25)  # overlapping: nothing can be loosened
    for rate in (0.8, 0.9, 0.95):
        limits = calibrate(same, other, FilterSettings(pass_rate=rate))
        assert accepted_share(same, limits) == pytest.approx(rate, abs=0.01)


def test_a_threshold_is_loosened_while_other_skus_stay_out() -> None:
    rng = np.random.default_rng(0)
    same, other = drawn(rng, 0.9, 0.2), drawn(rng, 0.1, 0.2)  # far apart for CLIP, alike in colour
    limits = calibrate(same, other, FilterSettings(pass_rate=0.9))
    assert limits.clip_cosine == pytest.approx(np.quantile(other.clip_cosine, 0.99))
    assert limits.hsv_distance < same.hsv_distance.max()
    assert accepted_share(other, limits) <= 0.01


def test_along_the_curve_more_of_either_kind_passes() -> None:
    rng = np.random.default_rng(0)
    curve = calibration_curve(drawn(rng, 0.9, 0.2), drawn(rng, 0.8, 0.3), FilterSettings())
    for name in ("quantile", "same_accepted", "other_accepted"):
        values = [row[name] for row in curve]
        assert values == sorted(values)
        assert values[0] < values[-1]


class Words:
    """An encoder that knows one unsafe sentence from the rest."""

    dimension = 2

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        unsafe = [any(word in text for word in ("nude", "naked", "porn", "sexual")) for text in texts]
        return np.array([[1, 0] if bad else [0, 1] for bad in unsafe], dtype=np.float32)


def test_the_safety_checker_goes_before_words_and_words_only_where_they_are_known() -> None:
    images = np.array([[1, 0], [0, 1]], dtype=np.float32)
    checked = nsfw_scores(Words(), images, [False, True], zero_shot=True)  # type: ignore[arg-type]
    assert checked is not None
    assert checked.tolist() == [-np.inf, np.inf]
    worded = nsfw_scores(Words(), images, [None, None], zero_shot=True)  # type: ignore[arg-type]
    assert worded is not None
    assert worded.tolist() == [1, -1]
    assert nsfw_scores(Words(), images, [None, None], zero_shot=False) is None  # type: ignore[arg-type]
