import numpy as np
import pytest

from skufp_pipeline.search.codes import CodedFingerprints, encode
from skufp_pipeline.search.kernels.encode import normalise, rotate
from skufp_pipeline.search.kernels.shapes import NO_ROW


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 64, 100, 513])
def test_rotation_keeps_angles_and_spreads_one_dimension_over_many(dimension: int) -> None:
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (2, dimension))
    rotated = np.eye(dimension)
    for row in rotated:
        rotate(row, signs)
    np.testing.assert_allclose(rotated @ rotated.T, np.eye(dimension), atol=1e-12)
    assert np.abs(rotated).max() <= 4 / np.sqrt(dimension)


def high_fives(coded: CodedFingerprints) -> np.ndarray:
    """(R, 2W) high five bits of the codes, put together from where `shapes` says they are."""
    lines = coded.codes.high.reshape(-1, coded.codes.width // 32, 5, 64).astype(int)
    low = lines % 8
    rows = [*np.moveaxis(lines // 8, 2, 0)]
    rows += [low[:, :, at] * 4 + low[:, :, at + 1] % 4 for at in (0, 2)]
    rows.append(low[:, :, 4] * 4 + low[:, :, 1] // 4 * 2 + low[:, :, 3] // 4)
    return np.stack(rows, axis=1).reshape(-1, 2 * coded.codes.width)


@pytest.mark.parametrize("dimension", [1, 3, 100, 512])
def test_codes_differ_from_their_rows_by_no_more_than_they_say(dimension: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_t(1, (200, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    coded = encode(rows, threads=1)
    codes = coded.codes
    high, low = high_fives(coded)[:200, :dimension], codes.low.reshape(-1, codes.width)[:200].astype(int)
    low = np.concatenate([low % 16, low // 16], axis=1)[:, :dimension]
    assert low.max() == 7
    rotated = rows.astype(np.float64)
    for row in rotated:
        rotate(row, coded.signs)
    rotated -= coded.centre
    scales = codes.scales[:200, None].astype(np.float64)
    fine = np.linalg.norm(rotated - scales * (8 * high + low - 127.5), axis=1)
    coarse = np.linalg.norm(rotated - scales * (8 * high + 3.5 - 127.5), axis=1)
    assert (fine <= codes.fine_errors[:200]).all()
    assert (fine >= 0.99 * codes.fine_errors[:200] - 1e-12).all()
    assert (coarse <= codes.coarse_errors[:200]).all()
    assert (coarse >= 0.99 * codes.coarse_errors[:200] - 1e-12).all()
    assert (codes.coarse_errors[200:] == NO_ROW).all()
    assert (codes.fine_errors[200:] == NO_ROW).all()
    stood_for = scales * np.stack([8 * high + low - 127.5, 8 * high + 3.5 - 127.5])
    largest = max(np.linalg.norm(stood_for, axis=2).max(), np.linalg.norm(rotated, axis=1).max())
    np.testing.assert_allclose(coded.largest_norm, largest, rtol=1e-12)


def test_three_bits_more_leave_an_eighth() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes = encode(rows.astype(np.float32), threads=1).codes
    np.testing.assert_allclose(
        codes.coarse_errors[:500].mean() / codes.fine_errors[:500].mean(), 8, rtol=0.02
    )


def test_a_query_that_is_not_finite_becomes_zero_and_is_told() -> None:
    given = np.array([3.0, 4.0, np.nan, 1.0, 1e300, -1e300, 0.0, 0.0])
    unit = np.empty(8)
    assert not normalise(given, unit, 2)
    np.testing.assert_allclose(unit, [0.6, 0.8, 0, 0, 0.5**0.5, -(0.5**0.5), 0, 0])
    assert normalise(given[4:], unit[4:], 2)
