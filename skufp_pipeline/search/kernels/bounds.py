"""Upper bounds of scores from the codes, and the filter of allowed rows."""

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
    high_fives,
    high_nibbles,
    last_fives,
    load,
    load_bits,
    load_floats,
    low_nibbles,
    prefetch,
    spare_fives,
    total,
    zeros,
)

OCTET = 8  # rows whose products are summed together
HIGH_LINES = 5  # lines of the high plane per 64 dimensions of an octet


@inner
def add_line(sums: Any, line: Any, left: Any, right: Any) -> Any:
    """Adds the products of a low-plane line with query codes: `left` for low, `right` for high nibbles."""
    return add_products(add_products(sums, low_nibbles(line), left), high_nibbles(line), right)


@inner
def low_dot(codes: Codes, row: int, query: NDArray[np.int8]) -> int:
    """Dot product of a row's low three bits with the codes of the first query."""
    sums, width = zeros(), codes.width
    for place in range(0, width, BYTES):
        line = load(codes.low, row * width + place)
        sums = add_line(sums, line, load(query, place), load(query, width + place))
    return total(sums)


@inner
def low_dots(codes: Codes, row: int, query: NDArray[np.int8], query_at: int) -> Any:
    """`low_dot` of eight rows from `row` on with any query, each as two numbers to be added."""
    a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    plane, width, line = codes.low, codes.width, row * codes.width
    for place in range(query_at, query_at + width, BYTES):
        left, right = load(query, place), load(query, place + width)
        a = add_line(a, load(plane, line), left, right)
        b = add_line(b, load(plane, line + width), left, right)
        c = add_line(c, load(plane, line + 2 * width), left, right)
        d = add_line(d, load(plane, line + 3 * width), left, right)
        e = add_line(e, load(plane, line + 4 * width), left, right)
        f = add_line(f, load(plane, line + 5 * width), left, right)
        g = add_line(g, load(plane, line + 6 * width), left, right)
        h = add_line(h, load(plane, line + 7 * width), left, right)
        line += BYTES
    abcd = fold_quads(fold_pairs(a, b), fold_pairs(c, d))
    return fold_fours(abcd, fold_quads(fold_pairs(e, f), fold_pairs(g, h)))


@inner
def high_line(plane: NDArray[np.uint8], at: int, number: int) -> Any:
    """Eight times the high five bits of row `number` of an octet, 64 dimensions, from five lines at `at`."""
    if number < HIGH_LINES:
        return high_fives(load(plane, at + number * BYTES))
    if number < OCTET - 1:
        first = at + (number - HIGH_LINES) * 2 * BYTES
        return spare_fives(load(plane, first), load(plane, first + BYTES))
    return last_fives(load(plane, at + 4 * BYTES), load(plane, at + BYTES), load(plane, at + 3 * BYTES))


@inner
def high_lines(plane: NDArray[np.uint8], at: int) -> Any:
    """`high_line` of all eight rows."""
    return (
        high_line(plane, at, 0),
        high_line(plane, at, 1),
        high_line(plane, at, 2),
        high_line(plane, at, 3),
        high_line(plane, at, 4),
        high_line(plane, at, 5),
        high_line(plane, at, 6),
        high_line(plane, at, 7),
    )


@inner
def high_at(codes: Codes, row: int) -> int:
    """Offset of the eight rows from `row` on in the high plane."""
    return row * (codes.width // 4 * HIGH_LINES)


@inner
def high_dot(codes: Codes, row: int, query: NDArray[np.int8]) -> int:
    """As `low_dot`, for eight times the high five bits."""
    sums, number = zeros(), row % OCTET
    at = high_at(codes, row - number)
    for place in range(0, 2 * codes.width, BYTES):
        sums = add_products(sums, high_line(codes.high, at, number), load(query, place))
        at += HIGH_LINES * BYTES
    return total(sums)


@inner
def high_dots(codes: Codes, row: int, query: NDArray[np.int8], query_at: int) -> Any:
    """As `low_dots`, for eight times the high five bits."""
    a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    at = high_at(codes, row)
    for place in range(query_at, query_at + 2 * codes.width, BYTES):
        lines, here = high_lines(codes.high, at), load(query, place)
        a, b = add_products(a, lines[0], here), add_products(b, lines[1], here)
        c, d = add_products(c, lines[2], here), add_products(d, lines[3], here)
        e, f = add_products(e, lines[4], here), add_products(f, lines[5], here)
        g, h = add_products(g, lines[6], here), add_products(h, lines[7], here)
        at += HIGH_LINES * BYTES
    abcd = fold_quads(fold_pairs(a, b), fold_pairs(c, d))
    return fold_fours(abcd, fold_quads(fold_pairs(e, f), fold_pairs(g, h)))


@inner
def fetch_high(codes: Codes, row: int, count: int) -> None:
    """Prefetches the high five bits of `count` rows from `row` on; both are multiples of eight."""
    for place in range(high_at(codes, row), high_at(codes, row + count), BYTES):
        prefetch(codes.high, place)


@inner
def fetch_low(codes: Codes, row: int, count: int) -> None:
    """Prefetches the low three bits of `count` rows from `row` on."""
    for place in range(row * codes.width, (row + count) * codes.width, BYTES):
        prefetch(codes.low, place)


@inner
def fine_bound(codes: Codes, queries: Queries, row: int, sums: int) -> np.float32:
    """Upper bound of a row's score with the first query, from the product `sums` of their codes."""
    doubled = np.float32(2 * sums - queries.centres[0])
    return np.float32(0.5) * queries.steps[0] * codes.scales[row] * doubled + codes.fine_errors[row]


@inner
def fine_bounds(codes: Codes, queries: Queries, query: int, row: int) -> Any:
    """Fine upper bounds of the eight rows from `row` on, twice, so that each is in lane `row % LANES`."""
    query_at = query * 2 * codes.width
    high = high_dots(codes, row, queries.codes, query_at)
    low = low_dots(codes, row, queries.codes, query_at)
    sums, first = add_sums(high, low), row - row % LANES
    factor, centre = np.float32(0.5) * queries.steps[query], queries.centres[query]
    scales, errors = load_floats(codes.scales, first), load_floats(codes.fine_errors, first)
    return affine_rows(fold_fours(sums, sums), centre, factor, scales, errors)


@inner
def reach_of(queries: Queries, query: int, score: float) -> np.float32:
    """The lowest bound (estimate plus the row's error) at which a row can reach `score`."""
    return np.float32(score - queries.offsets[query] - queries.errors[query])


@inner
def is_allowed(allowed: NDArray[np.uint8], row: int) -> bool:
    """Bit `row` of (R / 8,) bytes, lowest bit first."""
    return (allowed[row >> 3] >> (row & 7)) & 1 == 1


@inner
def allowed_bits(allowed: NDArray[np.uint8], block: int) -> int:
    """The 64 bits of the rows of a block."""
    return load_bits(allowed, block * BLOCK // 8)
