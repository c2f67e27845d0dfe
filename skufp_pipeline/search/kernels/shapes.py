"""What the loops of the search read: codes, rows, queries. The bounds they rely on: docs/search.md.

Shapes: N rows of D dimensions, one byte a dimension, parted: the high five bits in one plane, the low three
in another. R is N rounded up to a whole block and W = D / 2 rounded up to whole vectors.

The high plane holds eight rows by 64 dimensions in five lines of 64 bytes, (R / 8, W / 32, 5, 64): the rows 0
to 4 in the high five bits of a line each, the others in the low three that these leave. Of row 5 the upper
three bits are in line 0, the lower two in line 1, of row 6 in the lines 2 and 3; of row 7 the upper three are
in line 4, and the lines 1 and 3 have one more each. The low plane holds four bits a dimension, the highest
of them 0, (R, W): byte b of a row has dimension b in its low nibble and W + b in its high nibble.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.addresses import Matrix

BLOCK = 64  # rows whose coarse scores are compared with the least score together
LARGEST = 255  # the codes of rows; code c stands for `scale * (c - LARGEST / 2)`
TWICE_COARSE = 248  # the same, doubled, for the high five bits alone: 2 * (16 - 1/2) * 8
LOWEST = np.float32(-3e38)  # below every score
NO_ROW = np.float32(-3.4e38)  # error of a row past the last: its bound is below LOWEST


class Codes(NamedTuple):
    """A code of 0 to LARGEST for each dimension, in two planes.

    Attributes:
        high: (R * W * 5 / 4,) uint8, the high five bits, which are read of every row.
        low: (R * W,) uint8, the low three.
        scales: (R,) float32.
        coarse_errors: (R,) float32, norm of what the high five bits leave out; NO_ROW past the last.
        fine_errors: (R,) float32, norm of what all eight leave out.
        width: W.
    """

    high: NDArray[np.uint8]
    low: NDArray[np.uint8]
    scales: NDArray[np.float32]
    coarse_errors: NDArray[np.float32]
    fine_errors: NDArray[np.float32]
    width: int


class Rotation(NamedTuple):
    """How queries are encoded.

    Attributes:
        signs, centre, largest_norm: those of the codes.
        rounding: bound on the error of float32 arithmetic.
    """

    signs: Matrix[np.float64]
    centre: NDArray[np.float64]
    largest_norm: float
    rounding: float


class Rows(NamedTuple):
    """What a score is made of.

    Attributes:
        vectors: (N * D,) float32.
        biases: (N,) float32, added to the products.
    """

    vectors: NDArray[np.float32]
    biases: NDArray[np.float32]


class Queries(NamedTuple):
    """Q queries as the scan needs them.

    Attributes:
        given: (Q, D) flat, float64, of any norm.
        unit: (Q, D) flat, float64 rows of norm 1 or 0.
        dimension: D.
        rotated: (T, D) float64, for each thread the query that it encodes.
        codes: (Q, 2W) flat, int8.
        packed: the same for sixteen queries at a time, (Q / 16, W / 2, 16, 4) flat; empty for one query.
        sums: (Q,) int32, sum of the codes of each.
        centres: (Q,) int32, LARGEST times that: twice the excess of a product with whole codes.
        steps: (Q,) float32; code c of a query stands for `step * c`.
        offsets: (Q,) float64, product with the centre of the rows.
        errors: (Q,) float64, bound on the error of a score from codes, beyond the row's own error.
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
    """What every search reads and writes.

    Attributes:
        allowed: (R / 8,) bytes, a bit for each row that may be found.
        counts: (FIRST_PART + parts of the scan,), what the threads count together; zeros at first.
    """

    codes: Codes
    queries: Queries
    rotation: Rotation
    rows: Rows
    allowed: NDArray[np.uint8]
    counts: NDArray[np.int64]
