import numpy as np
import pytest

from skufp_pipeline.search.codes import encode
from skufp_pipeline.search.kernels.encode import normalise, rotate
from skufp_pipeline.search.kernels.levels import GAPS, LARGEST, LEVELS, NEAREST, SHIFT, TWICE_MIDDLE


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 64, 100, 513])
def test_rotation_keeps_angles_and_spreads_one_dimension_over_many(dimension: int) -> None:
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (2, dimension))
    rotated = np.eye(dimension)
    for row in rotated:
        rotate(row, signs)
    np.testing.assert_allclose(rotated @ rotated.T, np.eye(dimension), atol=1e-12)
    assert np.abs(rotated).max() <= 4 / np.sqrt(dimension)


@pytest.mark.parametrize("dimension", [1, 3, 100, 512])
def test_codes_differ_from_their_rows_by_no_more_than_they_say(dimension: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_t(1, (200, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    coded = encode(rows, threads=1)
    codes, width = coded.codes, coded.codes.width
    high, low = (plane.reshape(-1, width)[:200].astype(int) for plane in (codes.high, codes.low))
    number = np.concatenate([high % 16, high // 16], axis=1)[:, :dimension]
    offset = np.concatenate([low % 16, low // 16], axis=1)[:, :dimension]
    level, middle = LEVELS[number], TWICE_MIDDLE / 2
    whole = level + offset - SHIFT
    rotated = rows.astype(np.float64)
    for row in rotated:
        rotate(row, coded.signs)
    scales = codes.scales[:200, None].astype(np.float64)
    fine = np.linalg.norm(rotated - coded.centre - scales * (whole - middle), axis=1)
    coarse = np.linalg.norm(rotated - coded.centre - scales * (level - middle), axis=1)
    assert (fine <= codes.fine_errors[:200]).all()
    assert (coarse <= codes.coarse_errors[:200]).all()
    assert np.isneginf(codes.coarse_errors[200:]).all()


def test_a_code_is_its_nearest_level_and_four_bits_more() -> None:
    codes = np.arange(LARGEST + 1)
    offsets = codes - LEVELS[NEAREST] + SHIFT
    assert (offsets >= 0).all()
    assert (offsets < 16).all()
    assert (np.abs(codes - LEVELS[NEAREST]) == np.abs(codes[:, None] - LEVELS).min(axis=1)).all()
    assert len(LEVELS) == 16
    assert sorted(GAPS) == list(GAPS)
    assert (LEVELS + LEVELS[::-1] == TWICE_MIDDLE).all()
    assert LARGEST + SHIFT < 256  # a level and an offset fit a byte


def test_a_normal_distribution_costs_the_high_half_an_eighth_less_than_even_levels() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    coarse = encode(rows.astype(np.float32), threads=1).codes.coarse_errors[:500]
    step = np.abs(rows).max(axis=1, keepdims=True) / 8
    even = np.linalg.norm(rows - step * np.clip(np.floor(rows / step) + 0.5, -7.5, 7.5), axis=1)
    assert coarse.mean() < 7 / 8 * even.mean()


def test_a_query_that_is_not_finite_becomes_zero_and_is_told() -> None:
    given = np.array([3.0, 4.0, np.nan, 1.0, 1e300, -1e300, 0.0, 0.0])
    unit = np.empty(8)
    assert not normalise(given, unit, 2)
    np.testing.assert_allclose(unit, [0.6, 0.8, 0, 0, 0.5**0.5, -(0.5**0.5), 0, 0])
    assert normalise(given[4:], unit[4:], 2)
