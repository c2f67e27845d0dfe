"""What a score can come to, by the codes; which rows may be found."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.compiled import inner
from skufp_pipeline.search.kernels.shapes import BLOCK, Codes, Queries
from skufp_pipeline.search.kernels.simd import (
    BYTES,
    LANES,
    add_products,
    add_shifted,
    high_nibbles,
    join_sums,
    load,
    load_bits,
    low_nibbles,
    neighbours,
    prefetch,
    shifted_nibbles,
    store,
    total,
    zeros,
)


@inner
def nibble_dot(plane: NDArray[np.uint8], at: int, codes: NDArray[np.int8], width: int) -> int:
    """Dot product of the nibbles of the row at byte `at` with the codes of the first query."""
    even, odd = zeros(), zeros()
    for place in range(0, width, BYTES):
        both = load(plane, at + place)
        even = add_products(even, low_nibbles(both), load(codes, place))
        odd = add_products(odd, high_nibbles(both), load(codes, width + place))
    return total(even) + total(odd)


@inner
def octet_dots(plane: NDArray[np.uint8], at: int, codes: NDArray[np.int8], width: int) -> Any:
    """The same for eight rows from byte `at` on, each as two numbers that add up to it."""
    a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    i, j, k, l, m, n, o, p = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()  # noqa: E741
    for place in range(0, width, BYTES):
        left, right = load(codes, place), load(codes, place + width)
        row = load(plane, at + place)
        a, i = add_products(a, low_nibbles(row), left), add_products(i, shifted_nibbles(row), right)
        row = load(plane, at + place + width)
        b, j = add_products(b, low_nibbles(row), left), add_products(j, shifted_nibbles(row), right)
        row = load(plane, at + place + 2 * width)
        c, k = add_products(c, low_nibbles(row), left), add_products(k, shifted_nibbles(row), right)
        row = load(plane, at + place + 3 * width)
        d, l = add_products(d, low_nibbles(row), left), add_products(l, shifted_nibbles(row), right)  # noqa: E741
        row = load(plane, at + place + 4 * width)
        e, m = add_products(e, low_nibbles(row), left), add_products(m, shifted_nibbles(row), right)
        row = load(plane, at + place + 5 * width)
        f, n = add_products(f, low_nibbles(row), left), add_products(n, shifted_nibbles(row), right)
        row = load(plane, at + place + 6 * width)
        g, o = add_products(g, low_nibbles(row), left), add_products(o, shifted_nibbles(row), right)
        row = load(plane, at + place + 7 * width)
        h, p = add_products(h, low_nibbles(row), left), add_products(p, shifted_nibbles(row), right)
    ab = neighbours(add_shifted(a, i), add_shifted(b, j))
    cd = neighbours(add_shifted(c, k), add_shifted(d, l))
    ef = neighbours(add_shifted(e, m), add_shifted(f, n))
    gh = neighbours(add_shifted(g, o), add_shifted(h, p))
    return neighbours(neighbours(ab, cd), neighbours(ef, gh))


@inner
def nibble_dots(
    plane: NDArray[np.uint8],
    at: int,
    codes: NDArray[np.int8],
    width: int,
    sums: NDArray[np.int32],
    to: int,
    ahead: int,
) -> None:
    """The same for the BLOCK rows from byte `at` on and into `sums` from `to` on.

    Args:
        ahead: how many bytes ahead the plane is fetched; 0 if it comes in time by itself.
    """
    for row in range(0, BLOCK, LANES):
        if ahead > 0:
            for place in range(at + row * width + ahead, at + (row + LANES) * width + ahead, BYTES):
                prefetch(plane, place)
        first = octet_dots(plane, at + row * width, codes, width)
        second = octet_dots(plane, at + (row + LANES // 2) * width, codes, width)
        store(neighbours(first, second), sums, to + row)


@inner
def fine_bound(codes: Codes, queries: Queries, query: int, row: int) -> np.float32:
    """The most that both planes allow a score to be, less the query's offset and error."""
    at, query_at, width = row * codes.width, query * 2 * codes.width, codes.width
    high, low = zeros(), zeros()
    for place in range(0, width, BYTES):
        left = load(queries.codes, query_at + place)
        right = load(queries.codes, query_at + width + place)
        both = load(codes.high, at + place)
        high = add_products(add_products(high, low_nibbles(both), left), high_nibbles(both), right)
        both = load(codes.low, at + place)
        low = add_products(add_products(low, low_nibbles(both), left), high_nibbles(both), right)
    doubled = np.float32(2 * total(join_sums(high, low)) - queries.centres[query])
    return np.float32(0.5) * queries.steps[query] * codes.scales[row] * doubled + codes.fine_errors[row]


@inner
def reach_of(queries: Queries, query: int, score: float) -> np.float32:
    """What the score from codes and the row's error must come to for a row that can reach `score`."""
    return np.float32(score - queries.offsets[query] - queries.errors[query])


@inner
def is_allowed(allowed: NDArray[np.uint8], row: int) -> bool:
    """Bit `row` of (R / 8,) bytes, lowest bits first."""
    return (allowed[row >> 3] >> (row & 7)) & 1 == 1


@inner
def allowed_bits(allowed: NDArray[np.uint8], block: int) -> int:
    """A bit for each of the 64 rows of a block."""
    return load_bits(allowed, block * BLOCK // 8)
