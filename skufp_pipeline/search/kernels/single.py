"""The search for one query: scans the high plane, then scores the rows that it does not rule out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.addresses import Matrix, at_addresses
from skufp_pipeline.search.kernels.bounds import (
    OCTET,
    allowed_bits,
    fetch_low,
    fine_bound,
    high_dot,
    high_dots,
    low_dot,
    low_dots,
    reach_of,
)
from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.encode import encode_queries
from skufp_pipeline.search.kernels.score import best_places, exact_score, fetch_row, finish, push
from skufp_pipeline.search.kernels.shapes import (
    BLOCK,
    LOWEST,
    TWICE_COARSE,
    Codes,
    Queries,
    Rows,
    Search,
)
from skufp_pipeline.search.kernels.simd import (
    LANES,
    add_sums,
    affine_rows,
    count_bits,
    fetch_add,
    fold_fours,
    larger,
    largest,
    load_floats,
    load_ints,
    lowest_bit,
    peek,
    reaching,
    same_floats,
    store,
)
from skufp_pipeline.search.kernels.threads import (
    ENCODED,
    FIRST_PART,
    NOT_FINITE,
    READY,
    SCAN_DONE,
    SCAN_TAKEN,
    SWEEP_DONE,
    SWEEP_TAKEN,
    close_barrier,
    comes_in,
    leave,
    mark_scanned,
    open_barrier,
    wait_for,
    waited,
)

DENSE = 24  # up to this many rows of a block pass the coarse bound, the low plane is read row by row
EVERY_ROW = np.int64(-1)  # all 64 bits
SPARSE = 16  # up to this many allowed rows of a block, only those are read
SEEDS = 2  # SEEDS * K blocks are searched for the rows that set the first threshold
CHUNK = 16  # blocks that a thread takes at a time
WINDOW = 64  # blocks that go through the stages of a sweep together


class Scan(NamedTuple):
    """Working memory of a search for one query; T threads.

    Attributes:
        sums: (R,) int32, product of the high plane with the query.
        ceilings: (R / BLOCK,) float32, highest coarse bound in a block.
        promises: (R / BLOCK,) float32, highest estimate in a block.
        seed_scores, seeds: (SEEDS * K,) heap of the blocks with the highest estimates.
        reached: (1,) float64, a score that K rows are known to reach.
        scores, rows: (T, K) heap of the best rows of each thread.
        sizes: (T,) int64, sizes of the heaps.
        bounds, lows: (T, BLOCK) float32 and int32, bound and low-plane product of each row of a block.
        picks: (T, WINDOW * BLOCK) int64, rows not ruled out so far.
    """

    sums: NDArray[np.int32]
    ceilings: NDArray[np.float32]
    promises: NDArray[np.float32]
    seed_scores: NDArray[np.float64]
    seeds: NDArray[np.int64]
    reached: NDArray[np.float64]
    scores: Matrix[np.float64]
    rows: Matrix[np.int64]
    sizes: NDArray[np.int64]
    bounds: Matrix[np.float32]
    lows: Matrix[np.int32]
    picks: Matrix[np.int64]


class OneSearch(NamedTuple):
    """The complete state of a search for one query."""

    search: Search
    scan: Scan


one_search = at_addresses(OneSearch)


@inner
def sum_block(codes: Codes, queries: Queries, scan: Scan, bits: int, block: int) -> None:
    """Writes the high-plane products of a block, only those of the allowed rows if they are few."""
    first = block * BLOCK
    if count_bits(bits) > SPARSE:
        for row in range(first, first + BLOCK, LANES):
            upper = high_dots(codes, row, queries.codes, 0)
            store(fold_fours(upper, high_dots(codes, row + OCTET, queries.codes, 0)), scan.sums, row)
        return
    while bits != 0:
        row = first + lowest_bit(bits)
        scan.sums[row] = high_dot(codes, row, queries.codes)
        bits &= bits - 1


@inner
def coarse_scores(codes: Codes, queries: Queries, scan: Scan, errors: NDArray[np.float32], row: int) -> Any:
    """High-plane scores of the sixteen rows from `row` on, plus each row's error.

    With the coarse errors these are upper bounds; with the fine errors, which are small, estimates. Both are
    below LOWEST for padding rows.
    """
    factor, centre = np.float32(0.5) * queries.steps[0], np.int32(TWICE_COARSE * queries.sums[0])
    return affine_rows(
        load_ints(scan.sums, row), centre, factor, load_floats(codes.scales, row), load_floats(errors, row)
    )


@inner
def highest_of_block(
    codes: Codes,
    queries: Queries,
    scan: Scan,
    errors: NDArray[np.float32],
    thread: int,
    bits: int,
    block: int,
) -> np.float32:
    """The highest of the `coarse_scores` of a block's allowed rows."""
    if bits != EVERY_ROW:
        bounds, highest = scan.bounds[thread], np.float32(-np.inf)
        for place in range(0, BLOCK, LANES):
            store(coarse_scores(codes, queries, scan, errors, block * BLOCK + place), bounds, place)
        while bits != 0:
            highest = max(highest, bounds[lowest_bit(bits)])
            bits &= bits - 1
        return highest
    row = block * BLOCK
    left = larger(
        coarse_scores(codes, queries, scan, errors, row),
        coarse_scores(codes, queries, scan, errors, row + LANES),
    )
    right = larger(
        coarse_scores(codes, queries, scan, errors, row + 2 * LANES),
        coarse_scores(codes, queries, scan, errors, row + 3 * LANES),
    )
    return largest(larger(left, right))


@inner
def reaching_bits(
    codes: Codes, queries: Queries, scan: Scan, errors: NDArray[np.float32], block: int, reach: np.float32
) -> int:
    """Bits of the rows of a block whose `coarse_scores` are at least `reach`."""
    bits = 0
    for place in range(0, BLOCK, LANES):
        scores = coarse_scores(codes, queries, scan, errors, block * BLOCK + place)
        bits |= reaching(scores, same_floats(reach)) << place
    return bits


@bare
def scan_blocks(
    codes: Codes,
    queries: Queries,
    scan: Scan,
    allowed: NDArray[np.uint8],
    thread: int,
    begin: int,
    end: int,
) -> None:
    """Writes the high-plane products, ceilings and promises of the blocks `begin` to `end`."""
    for block in range(begin, end):
        bits = allowed_bits(allowed, block)
        if bits == 0:
            scan.ceilings[block] = scan.promises[block] = -np.inf
            continue
        sum_block(codes, queries, scan, bits, block)
        scan.ceilings[block] = highest_of_block(
            codes, queries, scan, codes.coarse_errors, thread, bits, block
        )
        scan.promises[block] = highest_of_block(codes, queries, scan, codes.fine_errors, thread, bits, block)


@inner
def promising_bits(
    codes: Codes, queries: Queries, scan: Scan, allowed: NDArray[np.uint8], block: int, promised: np.float32
) -> int:
    """Bits of the allowed rows of a block whose estimates are at least `promised`."""
    bits = reaching_bits(codes, queries, scan, codes.fine_errors, block, promised)
    return bits & allowed_bits(allowed, block)


@bare
def seed_one(codes: Codes, queries: Queries, rows: Rows, scan: Scan, allowed: NDArray[np.uint8]) -> None:
    """Scores K seed rows; `reached` becomes the lowest of their scores.

    The S rows with the highest high-plane estimates are all in the S blocks with the highest promises, as any
    other block promises less than S rows do. Of these rows the K with the highest fine bounds are scored.
    """
    scores, best, k = scan.scores[0], scan.rows[0], scan.scores.shape[1]
    scan.reached[0] = LOWEST
    blocks = best_places(scan.promises, scan.seed_scores, scan.seeds)
    if blocks < k:
        return
    promised, size = np.float32(scan.seed_scores[0]), 0
    for seed in range(blocks):
        bits = promising_bits(codes, queries, scan, allowed, scan.seeds[seed], promised)
        while bits != 0:
            fetch_low(codes, scan.seeds[seed] * BLOCK + lowest_bit(bits), 1)
            bits &= bits - 1
    for seed in range(blocks):
        block = scan.seeds[seed]
        bits = promising_bits(codes, queries, scan, allowed, block, promised)
        while bits != 0:
            row = block * BLOCK + lowest_bit(bits)
            low = low_dot(codes, row, queries.codes)
            size = push(scores, best, size, fine_bound(codes, queries, row, scan.sums[row] + low), row)
            bits &= bits - 1
    for seed in range(size):
        fetch_row(rows, best[seed], queries.dimension)
    least = np.inf
    for seed in range(size):
        least = min(least, exact_score(rows, best[seed], queries, 0))
    scan.reached[0] = least


@inner
def fine_bits(codes: Codes, queries: Queries, scan: Scan, thread: int, block: int, reach: np.float32) -> int:
    """Bits of the rows of a block whose fine bounds reach `reach`; reads the whole low plane of the block."""
    first, lows, bits = block * BLOCK, scan.lows[thread], 0
    for place in range(0, BLOCK, LANES):
        row = first + place
        upper = low_dots(codes, row, queries.codes, 0)
        store(fold_fours(upper, low_dots(codes, row + OCTET, queries.codes, 0)), lows, place)
    factor, centre = np.float32(0.5) * queries.steps[0], queries.centres[0]
    for place in range(0, BLOCK, LANES):
        row = first + place
        sums = add_sums(load_ints(scan.sums, row), load_ints(lows, place))
        scales, errors = load_floats(codes.scales, row), load_floats(codes.fine_errors, row)
        bounds = affine_rows(sums, centre, factor, scales, errors)
        bits |= reaching(bounds, same_floats(reach)) << place
    return bits


@inner
def pick_coarsely(
    codes: Codes,
    queries: Queries,
    scan: Scan,
    allowed: NDArray[np.uint8],
    thread: int,
    block: int,
    reach: np.float32,
    picked: int,
) -> int:
    """Adds the rows of a block that the coarse bound does not rule out to the picks; returns their number.

    If there are many, the whole low plane of the block is read and the fine bound is applied at once.
    """
    picks, first = scan.picks[thread], block * BLOCK
    bits = reaching_bits(codes, queries, scan, codes.coarse_errors, block, reach)
    bits &= allowed_bits(allowed, block)
    dense = count_bits(bits) > DENSE
    if dense:
        bits &= fine_bits(codes, queries, scan, thread, block, reach)
    while bits != 0:
        row = first + lowest_bit(bits)
        if not dense:
            fetch_low(codes, row, 1)
        picks[picked] = row
        picked += 1
        bits &= bits - 1
    return picked


@bare
def sweep_blocks(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    scan: Scan,
    allowed: NDArray[np.uint8],
    thread: int,
    begin: int,
    end: int,
) -> None:
    """Scores in float64 the rows of the blocks `begin` to `end` that the bounds do not rule out.

    It works in three stages, so that prefetched data arrives in time: coarse bounds, fine bounds, scores.
    """
    scores, best, size = scan.scores[thread], scan.rows[thread], scan.sizes[thread]
    picks = scan.picks[thread]
    for window in range(begin, end, WINDOW):
        least = max(scan.reached[0], scores[0]) if size == len(scores) else scan.reached[0]
        reach, picked, kept = reach_of(queries, 0, least), 0, 0
        for block in range(window, min(window + WINDOW, end)):
            if scan.ceilings[block] >= reach:
                picked = pick_coarsely(codes, queries, scan, allowed, thread, block, reach, picked)
        for pick in range(picked):
            row = picks[pick]
            low = low_dot(codes, row, queries.codes)
            if fine_bound(codes, queries, row, scan.sums[row] + low) >= reach:
                fetch_row(rows, row, queries.dimension)
                picks[kept] = row
                kept += 1
        for pick in range(kept):
            score = exact_score(rows, picks[pick], queries, 0)
            if score >= least:
                size = push(scores, best, size, score, picks[pick])
    scan.sizes[thread] = size


@inner
def scan_parts(
    codes: Codes,
    queries: Queries,
    scan: Scan,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    thread: int,
) -> None:
    """Scans parts of CHUNK blocks until none is left."""
    blocks = len(scan.ceilings)
    taken = fetch_add(counts, SCAN_TAKEN, 1)
    while taken * CHUNK < blocks:
        scan_blocks(codes, queries, scan, allowed, thread, taken * CHUNK, min((taken + 1) * CHUNK, blocks))
        mark_scanned(counts, taken)
        taken = fetch_add(counts, SCAN_TAKEN, 1)


@inner
def sweep_parts(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    scan: Scan,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    thread: int,
) -> None:
    """Sweeps parts of CHUNK blocks until none is left."""
    blocks = len(scan.ceilings)
    taken = fetch_add(counts, SWEEP_TAKEN, 1)
    while taken * CHUNK < blocks:
        end = min((taken + 1) * CHUNK, blocks)
        sweep_blocks(codes, queries, rows, scan, allowed, thread, taken * CHUNK, end)
        fetch_add(counts, SWEEP_DONE, 1)
        taken = fetch_add(counts, SWEEP_TAKEN, 1)


@bare
def search_one(
    words: NDArray[np.int64], scores: NDArray[np.float64], best: NDArray[np.int64], floor: float
) -> None:
    """Writes the K best scores and rows, best first, to `scores` and `best`, (K,) each.

    Rows that score less than `floor` may be left out. `words` are addresses of a `OneSearch`. Helper threads
    take part if they are free.
    """
    (codes, queries, rotation, rows, allowed, counts), scan = one_search(words)
    blocks = len(scan.ceilings)
    parts = (blocks + CHUNK - 1) // CHUNK
    open_barrier(counts)
    if not encode_queries(queries, rotation, 0, 1, 0):
        fetch_add(counts, NOT_FINITE, 1)
    fetch_add(counts, ENCODED, 1)
    scan_parts(codes, queries, scan, allowed, counts, 0)
    if not waited(counts, SCAN_DONE, parts):
        for part in range(parts):
            if peek(counts, FIRST_PART + part) == 0:  # other threads may write the same value later
                scan_blocks(codes, queries, scan, allowed, 0, part * CHUNK, min((part + 1) * CHUNK, blocks))
                mark_scanned(counts, part)
    seed_one(codes, queries, rows, scan, allowed)
    scan.reached[0] = max(scan.reached[0], floor)
    scan.sizes[:] = 0
    fetch_add(counts, READY, 1)
    sweep_parts(codes, queries, rows, scan, allowed, counts, 0)
    wait_for(counts, SWEEP_DONE, parts)
    merge(scan, scores, best)
    close_barrier(counts)


@bare
def help_one(words: NDArray[np.int64], called: NDArray[np.int64], thread: int) -> None:
    """Helps in consecutive calls of `search_one` until `comes_in` returns False."""
    (codes, queries, _, rows, allowed, counts), scan = one_search(words)
    while comes_in(counts, called):
        wait_for(counts, ENCODED, 1)
        scan_parts(codes, queries, scan, allowed, counts, thread)
        wait_for(counts, READY, 1)
        sweep_parts(codes, queries, rows, scan, allowed, counts, thread)
        leave(counts)


@bare
def merge(scan: Scan, scores: NDArray[np.float64], rows: NDArray[np.int64]) -> None:
    """Merges the heaps of all threads into (K,) scores and rows, best first."""
    size = 0
    for thread in range(len(scan.sizes)):
        for place in range(scan.sizes[thread]):
            size = push(scores, rows, size, scan.scores[thread, place], scan.rows[thread, place])
    finish(scores, rows, size)
