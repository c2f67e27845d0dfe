import numpy as np
import pytest

from skufp_pipeline.search.codes import encode
from skufp_pipeline.search.kernels.encode import rotate


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
    whole = np.concatenate([16 * (high % 16) + low % 16, 16 * (high // 16) + low // 16], axis=1)[
        :, :dimension
    ]
    rotated = rows.astype(np.float64)
    for row in rotated:
        rotate(row, coded.signs)
    scales = codes.scales[:200, None].astype(np.float64)
    fine = np.linalg.norm(rotated - coded.centre - scales * (whole - 127.5), axis=1)
    coarse = np.linalg.norm(rotated - coded.centre - scales * (16 * (whole // 16) - 120), axis=1)
    assert (fine <= codes.fine_errors[:200]).all()
    assert (coarse <= codes.coarse_errors[:200]).all()
    assert np.isneginf(codes.coarse_errors[200:]).all()
