"""Encodes rows and queries: normalise, rotate, quantise, and bound the quantization error."""

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.bounds import HIGH_LINES, OCTET, high_at
from skufp_pipeline.search.kernels.compiled import compiled, inner, reordered
from skufp_pipeline.search.kernels.shapes import LARGEST, TWICE_COARSE, Codes, Queries, Rotation
from skufp_pipeline.search.kernels.simd import BYTES, LANES

HALF = (LARGEST + 1) / 2  # a row's largest value divided by its scale


@reordered
def dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Dot product for bounds; exact scores use `pairwise_dot`."""
    products = 0.0
    for place in range(len(left)):
        products += left[place] * right[place]
    return products


@reordered
def largest_square(values: NDArray[np.float64]) -> float:
    """The largest square of the values."""
    largest = 0.0
    for place in range(len(values)):
        largest = max(largest, values[place] * values[place])
    return largest


@inner
def eights(values: NDArray[np.float64]) -> None:
    """The first three steps of the Hadamard transform, on eight neighbours at a time."""
    for at in range(0, len(values), 8):
        a, b, c, d = values[at], values[at + 1], values[at + 2], values[at + 3]
        e, f, g, h = values[at + 4], values[at + 5], values[at + 6], values[at + 7]
        a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
        a, b, c, d, e, f, g, h = a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h
        values[at], values[at + 1], values[at + 2], values[at + 3] = a + e, b + f, c + g, d + h
        values[at + 4], values[at + 5], values[at + 6], values[at + 7] = a - e, b - f, c - g, d - h


@compiled
def hadamard(values: NDArray[np.float64]) -> None:
    """Walsh-Hadamard transform in place, orthonormal; the length is a power of two."""
    width = 1
    if len(values) >= 8:
        eights(values)
        width = 8
    while width < len(values):
        for begin in range(0, len(values), 2 * width):
            left, right = values[begin : begin + width], values[begin + width : begin + 2 * width]
            for place in range(width):
                left[place], right[place] = left[place] + right[place], left[place] - right[place]
        width *= 2
    values *= 1 / np.sqrt(len(values))


@compiled
def rotate(values: NDArray[np.float64], signs: NDArray[np.float64]) -> None:
    """Rotates values (D,) in place: signs[0], Hadamard transform of the head, signs[1], the same of the tail.

    Head and tail have the largest power of two that fits in D; if that is D, the second half is skipped.
    """
    window = 1
    while 2 * window <= len(values):
        window *= 2
    values *= signs[0]
    hadamard(values[:window])
    if window < len(values):
        values *= signs[1]
        hadamard(values[len(values) - window :])


@inner
def put_high(codes: Codes, row: int, place: int, high: int) -> None:
    """Writes the high five bits of a code in the layout of `shapes`."""
    plane, number = codes.high, row % OCTET
    at = high_at(codes, row - number) + place // BYTES * HIGH_LINES * BYTES + place % BYTES
    if number < HIGH_LINES:
        plane[at + number * BYTES] |= high << 3
    elif number < OCTET - 1:
        first = at + (number - HIGH_LINES) * 2 * BYTES
        plane[first] |= high >> 2
        plane[first + BYTES] |= high & 3
    else:
        plane[at + 4 * BYTES] |= high >> 2
        plane[at + BYTES] |= (high >> 1 & 1) << 2
        plane[at + 3 * BYTES] |= (high & 1) << 2


@compiled
def encode_rows(
    rows: NDArray[np.float32],
    signs: NDArray[np.float64],
    centre: NDArray[np.float64],
    codes: Codes,
    begin: int,
    end: int,
) -> float:
    """Writes the codes of rows `begin` to `end`; returns their largest norm, before or after coding."""
    width, largest_norm = codes.width, 0.0
    values = np.empty(rows.shape[1])
    for row in range(begin, end):
        values[:] = rows[row]
        rotate(values, signs)
        values -= centre
        scale = np.float32(np.abs(values).max() / HALF)
        coarse = fine = norm = coarse_norm = fine_norm = 0.0
        for place in range(len(values)):
            value, code = values[place], LARGEST // 2
            if scale > 0:
                code = int(min(max(np.floor(value / scale + HALF), 0.0), LARGEST))
            about = np.float64(scale) * (code // 8 * 8 - TWICE_COARSE / 2)
            near = np.float64(scale) * (code - LARGEST / 2)
            coarse += (value - about) ** 2
            fine += (value - near) ** 2
            norm += value**2
            coarse_norm += about**2
            fine_norm += near**2
            byte, shift = (place, 0) if place < width else (place - width, 4)
            codes.low[row * width + byte] |= code % 8 << shift
            put_high(codes, row, place, code // 8)
        codes.scales[row] = scale
        codes.coarse_errors[row] = np.sqrt(coarse) * (1 + 1e-6) + 1e-30
        codes.fine_errors[row] = np.sqrt(fine) * (1 + 1e-6) + 1e-30
        largest_norm = max(largest_norm, np.sqrt(max(norm, coarse_norm, fine_norm)))
    return largest_norm


@inner
def normalise_one(given: NDArray[np.float64], at: int, unit: NDArray[np.float64]) -> bool:
    """Scales the query at `at` to norm 1, or to 0 if it is 0 or not finite; returns whether it is finite."""
    largest, bad = 0.0, 0
    for place in range(len(unit)):
        unit[place] = given[at + place]
        bad += not np.isfinite(unit[place])
    for place in range(len(unit)):
        largest = max(largest, abs(unit[place]))
    if bad > 0 or largest == 0:
        for place in range(len(unit)):
            unit[place] = 0.0
        return bad == 0
    for place in range(len(unit)):
        unit[place] /= largest  # huge norms must not overflow when squared
    norm = np.sqrt(dot(unit, unit))
    for place in range(len(unit)):
        unit[place] /= norm
    return True


@compiled
def normalise(given: NDArray[np.float64], unit: NDArray[np.float64], dimension: int) -> bool:
    """Applies `normalise_one` to flat queries; returns whether all are finite."""
    finite = True
    for at in range(0, len(given), dimension):
        finite &= normalise_one(given, at, unit[at : at + dimension])
    return finite


@compiled
def encode_queries(queries: Queries, rotation: Rotation, begin: int, end: int, thread: int) -> bool:
    """Fills all fields from `given` for the queries `begin` to `end`; returns whether they are finite.

    Two threads may encode the same query at once: shared memory is only ever written with its final value.
    """
    dimension, length = queries.dimension, len(queries.codes) // len(queries.sums)
    values, finite = queries.rotated[thread], True
    for query in range(begin, end):
        finite &= normalise_one(queries.given, query * dimension, values)
        for place in range(dimension):
            queries.unit[query * dimension + place] = values[place]
        rotate(values, rotation.signs)
        queries.offsets[query] = dot(values, rotation.centre)
        step = np.float32(np.sqrt(largest_square(values)) / 127)
        per_step = 1 / np.float64(step) if step > 0 else 0.0
        codes = queries.codes[query * length : query * length + dimension]
        for place in range(dimension):
            codes[place] = np.int8(min(max(np.rint(values[place] * per_step), -127.0), 127.0))
            values[place] -= step * np.float64(codes[place])
        codes_sum = np.int32(0)
        for place in range(dimension):
            codes_sum += np.int32(codes[place])
        if len(queries.packed) > 0:
            pack(queries, query, length)
        queries.sums[query] = codes_sum
        queries.centres[query] = LARGEST * codes_sum
        queries.steps[query] = step
        left_out = np.sqrt(dot(values, values)) * rotation.largest_norm * (1 + 1e-6)
        queries.errors[query] = left_out + rotation.rounding
    return finite


@inner
def pack(queries: Queries, query: int, length: int) -> None:
    """Writes the codes of a query into its lane of `packed`."""
    group, lane = query // LANES, query % LANES
    at = group * LANES * length + lane * 4
    for place in range(0, length, 4):
        for byte in range(4):
            queries.packed[at + place * LANES + byte] = queries.codes[query * length + place + byte]
