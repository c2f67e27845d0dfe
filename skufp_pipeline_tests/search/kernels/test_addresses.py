from typing import NamedTuple

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.addresses import Cube, Matrix, addresses, aligned, at_addresses


class Inner(NamedTuple):
    line: NDArray[np.float32]
    matrix: Matrix[np.int64]
    cube: Cube[np.float64]
    count: int
    share: float


class Outer(NamedTuple):
    flags: NDArray[np.uint8]
    inner: Inner
    last: int


find = at_addresses(Outer)


@numba.njit
def look(words: NDArray[np.int64]) -> tuple[float, ...]:
    outer = find(words)
    inner = outer.inner
    inner.line[1] = 7
    shapes = 1e4 * len(inner.cube[0]) + 1e3 * inner.matrix.shape[1] + len(outer.flags)
    return (
        shapes,
        inner.matrix[1, 2],
        inner.cube[1, 0, 1],
        inner.cube[1, 1].sum(),
        inner.count,
        inner.share,
        outer.last,
    )


def test_compiled_code_finds_what_python_holds() -> None:
    inner = Inner(
        np.zeros(3, np.float32), np.arange(6).reshape(2, 3), np.arange(8.0).reshape(2, 2, 2), -5, 0.25
    )
    outer = Outer(np.zeros(9, np.uint8), inner, 11)
    assert look(addresses(outer)) == (23009, 5, 5, 13, -5, 0.25, 11)
    assert inner.line.tolist() == [0, 7, 0]


@pytest.mark.parametrize(
    "line",
    [np.zeros(6, np.float32)[::2], np.zeros(3), np.zeros((3, 1), np.float32)],
    ids=["gaps", "type", "shape"],
)
def test_an_array_that_is_not_as_annotated_is_refused(line: NDArray[np.floating]) -> None:
    inner = Inner(line, np.zeros((1, 1), np.int64), np.zeros((1, 1, 1)), 0, 0.0)
    with pytest.raises(TypeError, match="expected a contiguous"):
        addresses(Outer(np.zeros(9, np.uint8), inner, 0))


@pytest.mark.parametrize("shape", [5, (3, 7), (2, 3, 4)])
def test_arrays_begin_where_a_line_does(shape: int | tuple[int, ...]) -> None:
    array = aligned(shape, np.int32)
    assert array.shape == np.empty(shape).shape
    assert array.ctypes.data % 64 == 0
    assert not array.any()
