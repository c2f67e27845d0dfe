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
    add_sums,
    affine_rows,
    fold_fours,
    fold_pairs,
    fold_quads,
    high_levels,
    high_nibbles,
    load,
    load_bits,
    load_floats,
    low_levels,
    low_nibbles,
    prefetch,
    store,
    total,
    zeros,
)

OCTET = 8  # rows whose products are added up together


@inner
def low_half(line: Any, levels: bool) -> Any:
    """What the low four bits of each of 64 bytes stand for: levels in the high plane, numbers in the low."""
    return low_levels(line) if levels else low_nibbles(line)


@inner
def high_half(line: Any, levels: bool) -> Any:
    """The same of the high four bits."""
    return high_levels(line) if levels else high_nibbles(line)


@inner
def add_line(sums: Any, line: Any, levels: bool, left: Any, right: Any) -> Any:
    """Adds the products of 64 bytes of a plane with the codes of a query, left for the low four bits."""
    return add_products(add_products(sums, low_half(line, levels), left), high_half(line, levels), right)


@inner
def plane_dot(plane: NDArray[np.uint8], at: int, codes: NDArray[np.int8], width: int, levels: bool) -> int:
    """Dot product of the row at byte `at` of a plane with the codes of the first query."""
    sums = zeros()
    for place in range(0, width, BYTES):
        line = load(plane, at + place)
        sums = add_line(sums, line, levels, load(codes, place), load(codes, width + place))
    return total(sums)


@inner
def octet_dots(
    plane: NDArray[np.uint8], at: int, codes: NDArray[np.int8], query_at: int, width: int, levels: bool
) -> Any:
    """The same for eight rows from byte `at` on, each as two numbers that add up to it, with any query."""
    a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    for place in range(0, width, BYTES):
        left, right = load(codes, query_at + place), load(codes, query_at + place + width)
        line = at + place
        a = add_line(a, load(plane, line), levels, left, right)
        b = add_line(b, load(plane, line + width), levels, left, right)
        c = add_line(c, load(plane, line + 2 * width), levels, left, right)
        d = add_line(d, load(plane, line + 3 * width), levels, left, right)
        e = add_line(e, load(plane, line + 4 * width), levels, left, right)
        f = add_line(f, load(plane, line + 5 * width), levels, left, right)
        g = add_line(g, load(plane, line + 6 * width), levels, left, right)
        h = add_line(h, load(plane, line + 7 * width), levels, left, right)
    abcd = fold_quads(fold_pairs(a, b), fold_pairs(c, d))
    return fold_fours(abcd, fold_quads(fold_pairs(e, f), fold_pairs(g, h)))


@inner
def plane_dots(
    plane: NDArray[np.uint8],
    at: int,
    codes: NDArray[np.int8],
    width: int,
    levels: bool,
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
        first = octet_dots(plane, at + row * width, codes, 0, width, levels)
        second = octet_dots(plane, at + (row + OCTET) * width, codes, 0, width, levels)
        store(fold_fours(first, second), sums, to + row)


@inner
def fine_bound(codes: Codes, queries: Queries, row: int, sums: int) -> np.float32:
    """The most that a row can come to with the first query, from the product of both planes with it."""
    doubled = np.float32(2 * sums - queries.centres[0])
    return np.float32(0.5) * queries.steps[0] * codes.scales[row] * doubled + codes.fine_errors[row]


@inner
def fine_bounds(codes: Codes, queries: Queries, query: int, row: int) -> Any:
    """The most that both planes let each of the eight rows from `row` on come to.

    Twice, so that each also stands at its row's place among sixteen, `row % LANES`.
    """
    at, query_at = row * codes.width, query * 2 * codes.width
    high = octet_dots(codes.high, at, queries.codes, query_at, codes.width, True)
    low = octet_dots(codes.low, at, queries.codes, query_at, codes.width, False)
    sums, first = add_sums(high, low), row - row % LANES
    factor, centre = np.float32(0.5) * queries.steps[query], queries.centres[query]
    scales, errors = load_floats(codes.scales, first), load_floats(codes.fine_errors, first)
    return affine_rows(fold_fours(sums, sums), centre, factor, scales, errors)


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
