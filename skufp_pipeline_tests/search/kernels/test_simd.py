import numba
import numpy as np
import pytest

from skufp_pipeline.search.kernels import simd


@pytest.mark.parametrize("vnni", [True, False])
def test_byte_products_add_up_at_their_extremes(monkeypatch: pytest.MonkeyPatch, vnni: bool) -> None:
    if vnni and not simd.has_vnni():
        pytest.skip("this processor has no AVX-512 VNNI")
    monkeypatch.setattr(simd, "has_vnni", lambda: vnni)

    @numba.njit
    def dot(unsigned: np.ndarray, signed: np.ndarray) -> int:
        sums = simd.zeros()
        for place in range(0, len(unsigned), simd.BYTES):
            sums = simd.add_products(sums, simd.load(unsigned, place), simd.load(signed, place))
        return simd.total(sums)

    rng = np.random.default_rng(0)
    for left, right in ((255, 127), (255, -127), (0, -127)):
        assert dot(np.full(640, left, np.uint8), np.full(640, right, np.int8)) == 640 * left * right
    codes = rng.integers(0, 256, 640).astype(np.uint8)
    query = rng.integers(-127, 128, 640).astype(np.int8)
    assert dot(codes, query) == int(codes.astype(int) @ query.astype(int))


def test_nibbles_part_and_join() -> None:
    @numba.njit
    def split(codes: np.ndarray, low: np.ndarray, high: np.ndarray, joined: np.ndarray) -> None:
        both = simd.load(codes, 0)
        simd.store(simd.low_nibbles(both), low, 0)
        simd.store(simd.high_nibbles(both), high, 0)
        simd.store(simd.join_nibbles(simd.high_nibbles(both), simd.low_nibbles(both)), joined, 0)

    codes = np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)
    low, high, joined = np.zeros((3, 64), np.uint8)
    split(codes, low, high, joined)
    assert low.tolist() == (codes % 16).tolist()
    assert high.tolist() == (codes // 16).tolist()
    assert joined.tolist() == codes.tolist()


def test_fetch_add_gives_what_was_there() -> None:
    @numba.njit
    def twice(counts: np.ndarray) -> tuple[int, int]:
        return simd.fetch_add(counts, 1, 5), simd.peek(counts, 1)

    counts = np.array([7, 1])
    assert twice(counts) == (1, 6)
    assert counts.tolist() == [7, 6]
