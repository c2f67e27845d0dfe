"""Data layout of the search kernels: codes, rows, queries. For the bounds see docs/search.md.

N rows of D dimensions, one byte per dimension, are split into two planes: the high five bits and the low
three. R is N rounded up to a whole block and W = D / 2 rounded up to whole vectors.

The high plane stores eight rows by 64 dimensions in five lines of 64 bytes, (R / 8, W / 32, 5, 64). Rows 0 to
4 occupy the high five bits of one line each; rows 5 to 7 fill the remaining low three bits. Row 5 has its
upper three bits in line 0 and the lower two in line 1, row 6 likewise in lines 2 and 3; row 7 has its upper
three in line 4 and one more in each of lines 1 and 3. The low plane stores four bits per dimension, the
highest 0, (R, W): byte b of a row holds dimension b in its low nibble and W + b in its high nibble.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.addresses import Matrix

BLOCK = 64  # rows whose coarse scores are compared with the threshold together
LARGEST = 255  # largest row code; code c stands for `scale * (c - LARGEST / 2)`
TWICE_COARSE = 248  # the same offset, doubled, for the high five bits alone: 2 * (16 - 1/2) * 8
LOWEST = np.float32(-3e38)  # below every score
NO_ROW = np.float32(-3.4e38)  # error of a padding row: its bound is below LOWEST


class Codes(NamedTuple):
    """A code of 0 to LARGEST for each dimension, in two planes.

    Attributes:
        high: (R * W * 5 / 4,) uint8, the high five bits.
        low: (R * W,) uint8, the low three bits.
        scales: (R,) float32.
        coarse_errors: (R,) float32, norm of the quantization error of the high five bits; NO_ROW for padding.
        fine_errors: (R,) float32, the same for all eight bits.
        width: W.
    """

    high: NDArray[np.uint8]
    low: NDArray[np.uint8]
    scales: NDArray[np.float32]
    coarse_errors: NDArray[np.float32]
    fine_errors: NDArray[np.float32]
    width: int


class Rotation(NamedTuple):
    """Parameters of query encoding: those of the codes, and a bound on the error of float32 arithmetic."""

    signs: Matrix[np.float64]
    centre: NDArray[np.float64]
    largest_norm: float
    rounding: float


class Rows(NamedTuple):
    """The inputs of exact scores.

    Attributes:
        vectors: (N * D,) float32.
        biases: (N,) float32, added to the products.
    """

    vectors: NDArray[np.float32]
    biases: NDArray[np.float32]


class Queries(NamedTuple):
    """Q queries and their codes.

    Attributes:
        given: (Q, D) flat, float64, of any norm.
        unit: (Q, D) flat, float64 rows of norm 1 or 0.
        dimension: D.
        rotated: (T, D) float64, the query that each thread is encoding.
        codes: (Q, 2W) flat, int8.
        packed: the codes interleaved for sixteen queries, (Q / 16, W / 2, 16, 4) flat; empty for one query.
        sums: (Q,) int32, sum of each query's codes.
        centres: (Q,) int32, LARGEST * sums: twice the offset of a product with full row codes.
        steps: (Q,) float32; code c of a query stands for `step * c`.
        offsets: (Q,) float64, product with the centre of the rows.
        errors: (Q,) float64, bound on the error of an estimate, in addition to the row's error.
    """

    given: NDArray[np.float64]
    unit: NDArray[np.float64]
    dimension: int
    rotated: Matrix[np.float64]
    codes: NDArray[np.int8]
    packed: NDArray[np.int8]
    sums: NDArray[np.int32]
    centres: NDArray[np.int32]
    steps: NDArray[np.float32]
    offsets: NDArray[np.float64]
    errors: NDArray[np.float64]


class Search(NamedTuple):
    """The inputs and counters of a search.

    Attributes:
        allowed: (R / 8,) bytes, one bit per row.
        counts: (FIRST_PART + parts of the scan,) counters shared by the threads, initially 0.
    """

    codes: Codes
    queries: Queries
    rotation: Rotation
    rows: Rows
    allowed: NDArray[np.uint8]
    counts: NDArray[np.int64]
