import numba
import numpy as np
import pytest

from skufp_pipeline.search.kernels import simd


@pytest.mark.parametrize("feature", ["avx512vnni", None])
def test_byte_products_add_up_at_their_extremes(monkeypatch: pytest.MonkeyPatch, feature: str | None) -> None:
    if feature is not None and not simd.can(feature):
        pytest.skip(f"this processor has no {feature}")
    monkeypatch.setattr(simd, "can", lambda asked: asked == feature)

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


def test_bytes_part_into_nibbles() -> None:
    @numba.njit
    def split(codes: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        both = simd.load(codes, 0)
        simd.store(simd.low_nibbles(both), low, 0)
        simd.store(simd.high_nibbles(both), high, 0)

    codes = np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)
    low, high = np.zeros((2, 64), np.uint8)
    split(codes, low, high)
    assert low.tolist() == (codes % 16).tolist()
    assert high.tolist() == (codes // 16).tolist()


def test_fives_are_gathered_from_the_bits_that_others_leave() -> None:
    @numba.njit
    def gather(lines: np.ndarray, fives: np.ndarray) -> None:
        first, second, third = simd.load(lines, 0), simd.load(lines, 64), simd.load(lines, 128)
        simd.store(simd.high_fives(first), fives, 0)
        simd.store(simd.spare_fives(first, second), fives, 64)
        simd.store(simd.last_fives(first, second, third), fives, 128)

    lines = np.random.default_rng(0).integers(0, 256, 192).astype(np.uint8)
    fives = np.zeros(192, np.uint8)
    gather(lines, fives)
    first, second, third = lines.reshape(3, 64).astype(int)
    assert fives[:64].tolist() == (8 * (first // 8)).tolist()
    assert fives[64:128].tolist() == (8 * (first % 8 * 4 + second % 4)).tolist()
    assert fives[128:].tolist() == (8 * (first % 8 * 4 + second // 4 % 2 * 2 + third // 4 % 2)).tolist()


def test_a_number_of_three_bits_rides_on_a_float() -> None:
    @numba.njit
    def ride(values: np.ndarray, numbered: np.ndarray, number: int) -> int:
        simd.store(simd.numbered(simd.load_floats(values, 0), number), numbered, 0)
        return simd.number_of(numbered, 3)

    values = np.array([0, 1, -1, 3.3e-5, -3.4e38, 3e38, *np.linspace(-2, 2, 10)], np.float32)
    numbered = np.zeros(16, np.float32)
    for number in range(8):
        assert ride(values, numbered, number) == number
        np.testing.assert_allclose(numbered, values, rtol=2.0**-20, atol=1e-44)


def test_sixteen_vectors_fold_into_their_sums() -> None:
    @numba.njit
    def fold(numbers: np.ndarray, sums: np.ndarray) -> None:
        for half in range(2):
            at = half * 128
            abcd = simd.fold_quads(
                simd.fold_pairs(simd.load_ints(numbers, at), simd.load_ints(numbers, at + 16)),
                simd.fold_pairs(simd.load_ints(numbers, at + 32), simd.load_ints(numbers, at + 48)),
            )
            efgh = simd.fold_quads(
                simd.fold_pairs(simd.load_ints(numbers, at + 64), simd.load_ints(numbers, at + 80)),
                simd.fold_pairs(simd.load_ints(numbers, at + 96), simd.load_ints(numbers, at + 112)),
            )
            simd.store(simd.fold_fours(abcd, efgh), sums, half * 16)
        simd.store(simd.fold_fours(simd.load_ints(sums, 0), simd.load_ints(sums, 16)), sums, 0)

    numbers = np.random.default_rng(0).integers(-1000, 1000, 256).astype(np.int32)
    sums = np.zeros(32, np.int32)
    fold(numbers, sums)
    assert sums[:16].tolist() == numbers.reshape(16, 16).sum(axis=1).tolist()


def test_fetch_add_gives_what_was_there() -> None:
    @numba.njit
    def twice(counts: np.ndarray) -> tuple[int, int]:
        return simd.fetch_add(counts, 1, 5), simd.peek(counts, 1)

    counts = np.array([7, 1])
    assert twice(counts) == (1, 6)
    assert counts.tolist() == [7, 6]
