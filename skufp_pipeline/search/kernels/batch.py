"""The search for a batch of queries: scans both planes, eight rows by 32 queries at a time."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.search.kernels.addresses import Cube, Matrix, at_addresses
from skufp_pipeline.search.kernels.bounds import (
    HIGH_LINES,
    OCTET,
    fetch_high,
    fetch_low,
    fine_bounds,
    high_at,
    high_lines,
    is_allowed,
    reach_of,
)
from skufp_pipeline.search.kernels.compiled import bare, inner
from skufp_pipeline.search.kernels.encode import encode_queries
from skufp_pipeline.search.kernels.score import exact_score, fetch_row, finish, push
from skufp_pipeline.search.kernels.shapes import LOWEST, NO_ROW, Codes, Queries, Rotation, Rows, Search
from skufp_pipeline.search.kernels.simd import (
    BYTES,
    LANES,
    add_bytes,
    add_products,
    affine,
    broadcast,
    fetch_add,
    high_nibbles,
    larger,
    load,
    load_floats,
    load_ints,
    low_nibbles,
    lowest_bit,
    number_of,
    numbered,
    peek,
    prefetch,
    reaching,
    same_floats,
    smaller,
    store,
    zeros,
)
from skufp_pipeline.search.kernels.threads import (
    ENCODE_DONE,
    ENCODE_TAKEN,
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

TILE = OCTET  # rows that are multiplied with PAIR queries at once
PAIR = 2 * LANES
PART = 8  # tiles that a thread takes at a time
SHARE = 8  # queries that a thread sweeps at a time; half a group, so that threads finish together
WINDOW = 256  # tiles that go through the stages of a sweep together
STRETCH = 2 * BYTES // TILE  # dimensions multiplied per prefetched line of the next tile
AHEAD = 2  # rows prefetched ahead of the scored one
PORTION = LANES  # queries that a thread encodes at a time; they share cache lines


class Tiles(NamedTuple):
    """Working memory of a batch search; T threads, L = LANES.

    Attributes:
        scores, rows: (Q, K) heaps, finally the results, best first.
        ceilings: (Q / L, R / TILE, L) flat, float32, highest bound in a tile; the lowest three bits are the
            number of the row that has it.
        others: the same shape, highest bound of the other rows of the tile.
        unpacked: (T, PART * TILE * 2W) uint8, rows of some tiles, one byte per dimension.
        values, seeds: (T, L, K) per query of a group, heap of the rows with the highest ceilings of tiles.
        bounds: (T, L) float32, bound of each row of a tile, at `row % L`.
        least: (T, L) float32, threshold of each query of a group.
        sizes: (T, L) int64, sizes of the heaps.
        picks, lanes: (T, WINDOW) int64, tiles where several rows reach the threshold, and a bit for each
            query for which they do.
        kept_rows, kept_lanes: (T, max(WINDOW * TILE, K) * SHARE) int64, rows to score, and the lane of the
            query that each is for.
    """

    scores: Matrix[np.float64]
    rows: Matrix[np.int64]
    ceilings: NDArray[np.float32]
    others: NDArray[np.float32]
    unpacked: Matrix[np.uint8]
    values: Cube[np.float64]
    seeds: Cube[np.int64]
    bounds: Matrix[np.float32]
    least: Matrix[np.float32]
    sizes: Matrix[np.int64]
    picks: Matrix[np.int64]
    lanes: Matrix[np.int64]
    kept_rows: Matrix[np.int64]
    kept_lanes: Matrix[np.int64]


class ManySearch(NamedTuple):
    """The complete state of a batch search."""

    search: Search
    tiles: Tiles


many_search = at_addresses(ManySearch)


@inner
def unpack(codes: Codes, row: int, unpacked: NDArray[np.uint8], begin: int) -> None:
    """Unpacks TILE rows from both planes to one byte per dimension, (TILE, 2W) from `begin` on."""
    width, at = codes.width, high_at(codes, row)
    for half in range(2):
        for place in range(0, width, BYTES):
            lines = high_lines(codes.high, at)
            to, low_at = begin + half * width + place, row * width + place
            for line in range(TILE):
                low = load(codes.low, low_at + line * width)
                low = low_nibbles(low) if half == 0 else high_nibbles(low)
                store(add_bytes(lines[line], low), unpacked, to + line * 2 * width)
            at += HIGH_LINES * BYTES


@inner
def note_best(
    codes: Codes, queries: Queries, query: int, row: int, products: Any, tiles: Tiles, to: int
) -> None:
    """Writes the `ceilings` and `others` of a tile for LANES queries at offset `to`.

    `products` holds the products of each row of the tile with the queries.
    """
    centres, steps = load_ints(queries.centres, query), load_floats(queries.steps, query)
    half = np.float32(0.5)
    most, others = same_floats(NO_ROW), same_floats(NO_ROW)
    for number in range(TILE):
        scale, error = half * codes.scales[row + number], codes.fine_errors[row + number]
        bounds = numbered(affine(products[number], centres, steps, scale, error), number)
        others = larger(others, smaller(most, bounds))
        most = larger(most, bounds)
    store(most, tiles.ceilings, to)
    store(others, tiles.others, to)


@inner
def tile_ceilings(
    codes: Codes,
    row: int,
    unpacked: NDArray[np.uint8],
    at: int,
    queries: Queries,
    query: int,
    tiles: Tiles,
    to: int,
    to_second: int,
    coming: NDArray[np.uint8],
    coming_at: int,
) -> None:
    """Writes the ceilings of the TILE rows from `row` on, unpacked at `at`, for PAIR queries from `query` on:
    the first half of the queries to `to`, the second to `to_second`.

    It interleaves prefetches of another tile, from byte `coming_at` of the plane `coming` (four fifths of it
    in the high plane), one line at a time, because a processor tracks only a few outstanding loads.
    """
    a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    i, j, k, l, m, n, o, p = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()  # noqa: E741
    length = 2 * codes.width
    first, second = query * length, (query + LANES) * length
    for begin in range(0, length, STRETCH):
        prefetch(coming, coming_at + begin * TILE // 2)
        for place in range(begin, begin + STRETCH, 4):
            left = load(queries.packed, first + place * LANES)
            right = load(queries.packed, second + place * LANES)
            line = broadcast(unpacked, at + place)
            a, i = add_products(a, line, left), add_products(i, line, right)
            line = broadcast(unpacked, at + place + length)
            b, j = add_products(b, line, left), add_products(j, line, right)
            line = broadcast(unpacked, at + place + 2 * length)
            c, k = add_products(c, line, left), add_products(k, line, right)
            line = broadcast(unpacked, at + place + 3 * length)
            d, l = add_products(d, line, left), add_products(l, line, right)  # noqa: E741
            line = broadcast(unpacked, at + place + 4 * length)
            e, m = add_products(e, line, left), add_products(m, line, right)
            line = broadcast(unpacked, at + place + 5 * length)
            f, n = add_products(f, line, left), add_products(n, line, right)
            line = broadcast(unpacked, at + place + 6 * length)
            g, o = add_products(g, line, left), add_products(o, line, right)
            line = broadcast(unpacked, at + place + 7 * length)
            h, p = add_products(h, line, left), add_products(p, line, right)
    note_best(codes, queries, query, row, (a, b, c, d, e, f, g, h), tiles, to)
    note_best(codes, queries, query + LANES, row, (i, j, k, l, m, n, o, p), tiles, to_second)


@inner
def fetch_tile(codes: Codes, tile: int) -> None:
    """Prefetches the codes of a tile."""
    fetch_high(codes, tile * TILE, TILE)
    fetch_low(codes, tile * TILE, TILE)


@bare
def scan_tiles(
    codes: Codes,
    queries: Queries,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    part: int,
    coming_part: int,
) -> None:
    """Writes the ceilings of a part of PART tiles from both planes and prefetches the next part."""
    count, size, unpacked = len(allowed), TILE * 2 * codes.width, tiles.unpacked[thread]
    begin, end, ahead = part * PART, min((part + 1) * PART, count), (coming_part - part) * PART
    for tile in range(begin, end):
        if allowed[tile] != 0:
            unpack(codes, tile * TILE, unpacked, (tile - begin) * size)
    for query in range(0, len(queries.sums), PAIR):
        for tile in range(begin, end):
            first = query * count + tile * LANES
            second = first + LANES * count
            if allowed[tile] != 0:
                at, row = (tile - begin) * size, tile * TILE
                coming, later = codes.high if query == 0 else codes.low, min(tile + ahead, count - 1) * TILE
                coming_at = high_at(codes, later) if query == 0 else later * codes.width
                tile_ceilings(
                    codes, row, unpacked, at, queries, query, tiles, first, second, coming, coming_at
                )
            else:
                tiles.ceilings[first : first + LANES] = -np.inf
                tiles.ceilings[second : second + LANES] = -np.inf


@bare
def best_tiles(tiles: Tiles, count: int, first_query: int, thread: int) -> None:
    """Fills a heap of the rows with the K highest ceilings for each query of a share."""
    least, sizes, lane = tiles.least[thread], tiles.sizes[thread], first_query % LANES
    first = (first_query - lane) * count
    least[:] = np.inf
    least[lane : lane + SHARE] = LOWEST  # excludes padding rows
    sizes[:] = 0
    for tile in range(count):
        at = first + tile * LANES
        lanes = reaching(load_floats(tiles.ceilings, at), load_floats(least, 0))
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - 1
            values, seeds = tiles.values[thread, lane], tiles.seeds[thread, lane]
            row = tile * TILE + number_of(tiles.ceilings, at + lane)
            sizes[lane] = push(values, seeds, sizes[lane], tiles.ceilings[at + lane], row)
            if sizes[lane] == len(values):
                least[lane] = values[0]


@inner
def allowed_near(
    codes: Codes,
    queries: Queries,
    query: int,
    row: int,
    allowed: NDArray[np.uint8],
    bounds: NDArray[np.float32],
) -> int:
    """The row if it is allowed, else the allowed row of its tile with the highest bound."""
    if is_allowed(allowed, row):
        return row
    first, best = row - row % TILE, -1
    store(fine_bounds(codes, queries, query, first), bounds, 0)
    for other in range(first, first + TILE):
        if is_allowed(allowed, other) and (best < 0 or bounds[other % LANES] > bounds[best % LANES]):
            best = other
    return best


@inner
def keep(tiles: Tiles, thread: int, kept: int, row: int, lane: int) -> int:
    """Adds a row to the rows to score; returns their number."""
    tiles.kept_rows[thread, kept], tiles.kept_lanes[thread, kept] = row, lane
    return kept + 1


@inner
def score_kept(
    queries: Queries, rows: Rows, tiles: Tiles, thread: int, group: int, pick: int, kept: int
) -> float:
    """The score of a kept row for its query. Prefetches a later row; prefetching all at once is slower."""
    kept_rows = tiles.kept_rows[thread]
    if pick == 0:
        for early in range(min(AHEAD, kept)):
            fetch_row(rows, kept_rows[early], queries.dimension)
    if pick + AHEAD < kept:
        fetch_row(rows, kept_rows[pick + AHEAD], queries.dimension)
    return exact_score(rows, kept_rows[pick], queries, group * LANES + tiles.kept_lanes[thread, pick])


@bare
def settle_share(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    begin: int,
    end: int,
) -> None:
    """Sets the threshold of each query of a share: the lowest score of K rows with the highest ceilings."""
    k, sizes, least = tiles.scores.shape[1], tiles.sizes[thread], tiles.least[thread]
    best_tiles(tiles, len(allowed), begin, thread)
    kept = 0
    for query in range(begin, end):
        lane = query % LANES
        for seed in range(k if sizes[lane] == k else 0):
            row = tiles.seeds[thread, lane, seed]
            row = allowed_near(codes, queries, query, row, allowed, tiles.bounds[thread])
            kept = keep(tiles, thread, kept, row, lane)
    scored = 0
    least[:] = np.inf
    for query in range(begin, end):
        lane, score = query % LANES, np.inf
        for _ in range(k if sizes[lane] == k else 0):
            score = min(score, score_kept(queries, rows, tiles, thread, begin // LANES, scored, kept))
            scored += 1
        least[lane] = LOWEST if sizes[lane] < k else reach_of(queries, query, score)
        sizes[lane] = 0


@inner
def pick_tiles(
    codes: Codes,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    group: int,
    begin: int,
    end: int,
) -> tuple[int, int]:
    """Keeps the rows of the tiles `begin` to `end` that alone in their tile reach a query's threshold; picks
    the tiles where several rows do or not all rows are allowed. Returns the numbers of picks and kept rows.
    """
    count, picked, kept = len(allowed), 0, 0
    least = load_floats(tiles.least[thread], 0)
    for tile in range(begin, end):
        at = (group * count + tile) * LANES
        lanes = reaching(load_floats(tiles.ceilings, at), least)
        if lanes == 0:
            continue
        several = lanes & reaching(load_floats(tiles.others, at), least) if allowed[tile] == 255 else lanes
        if several != 0:
            tiles.picks[thread, picked], tiles.lanes[thread, picked] = tile, several
            fetch_tile(codes, tile)
            picked += 1
        lanes &= ~several
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - 1
            row = tile * TILE + number_of(tiles.ceilings, at + lane)
            kept = keep(tiles, thread, kept, row, lane)
    return picked, kept


@inner
def pick_rows(
    codes: Codes,
    queries: Queries,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    group: int,
    picked: int,
    kept: int,
) -> int:
    """Keeps the rows of the picked tiles that the fine bounds do not rule out; returns the number kept."""
    least = tiles.least[thread]
    for pick in range(picked):
        tile, lanes = tiles.picks[thread, pick], tiles.lanes[thread, pick]
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - 1
            bounds = fine_bounds(codes, queries, group * LANES + lane, tile * TILE)
            lines = reaching(bounds, same_floats(least[lane])) >> tile * TILE % LANES & allowed[tile]
            while lines != 0:
                row = tile * TILE + lowest_bit(lines)
                lines &= lines - 1
                kept = keep(tiles, thread, kept, row, lane)
    return kept


@bare
def sweep_share(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    begin: int,
    end: int,
) -> None:
    """Finds the best rows of the queries `begin` to `end`, best first.

    It works in stages, so that prefetched data arrives in time: select tiles by ceiling, select rows in the
    tiles where the ceiling does not identify them, score the rows.
    """
    settle_share(codes, queries, rows, tiles, allowed, thread, begin, end)
    count, group, k = len(allowed), begin // LANES, tiles.scores.shape[1]
    sizes, least, scores, best = tiles.sizes[thread], tiles.least[thread], tiles.scores, tiles.rows
    for window in range(0, count, WINDOW):
        until = min(window + WINDOW, count)
        picked, kept = pick_tiles(codes, tiles, allowed, thread, group, window, until)
        kept = pick_rows(codes, queries, tiles, allowed, thread, group, picked, kept)
        for pick in range(kept):
            lane = tiles.kept_lanes[thread, pick]
            query, row = group * LANES + lane, tiles.kept_rows[thread, pick]
            score = score_kept(queries, rows, tiles, thread, group, pick, kept)
            sizes[lane] = push(scores[query], best[query], sizes[lane], score, row)
            if sizes[lane] == k:
                least[lane] = max(least[lane], reach_of(queries, query, scores[query, 0]))
    for query in range(begin, end):
        finish(scores[query], best[query], sizes[query % LANES])


@inner
def encode_portions(queries: Queries, rotation: Rotation, counts: NDArray[np.int64], thread: int) -> None:
    """Encodes portions of the queries until none is left."""
    count = len(queries.unit) // queries.dimension
    taken = fetch_add(counts, ENCODE_TAKEN, 1)
    while taken * PORTION < count:
        if not encode_queries(queries, rotation, taken * PORTION, min((taken + 1) * PORTION, count), thread):
            fetch_add(counts, NOT_FINITE, 1)
        fetch_add(counts, ENCODE_DONE, 1)
        taken = fetch_add(counts, ENCODE_TAKEN, 1)


@inner
def scan_parts(
    codes: Codes,
    queries: Queries,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    thread: int,
) -> None:
    """Scans parts of PART tiles until none is left."""
    count = len(allowed)
    taken = fetch_add(counts, SCAN_TAKEN, 1)
    while taken * PART < count:
        coming = fetch_add(counts, SCAN_TAKEN, 1)
        scan_tiles(codes, queries, tiles, allowed, thread, taken, coming)
        mark_scanned(counts, taken)
        taken = coming


@inner
def sweep_shares(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    thread: int,
) -> None:
    """Sweeps shares of the queries until none is left."""
    count = len(tiles.scores)
    taken = fetch_add(counts, SWEEP_TAKEN, 1)
    while taken * SHARE < count:
        end = min((taken + 1) * SHARE, count)
        sweep_share(codes, queries, rows, tiles, allowed, thread, taken * SHARE, end)
        fetch_add(counts, SWEEP_DONE, 1)
        taken = fetch_add(counts, SWEEP_TAKEN, 1)


@bare
def search_many(words: NDArray[np.int64]) -> None:
    """Writes the K best rows of each query, best first, to `tiles`; `words`: addresses of a `ManySearch`."""
    (codes, queries, rotation, rows, allowed, counts), tiles = many_search(words)
    count, queries_count = len(allowed), len(tiles.scores)
    parts, shares = (count + PART - 1) // PART, (queries_count + SHARE - 1) // SHARE
    open_barrier(counts)
    encode_portions(queries, rotation, counts, 0)
    if not waited(counts, ENCODE_DONE, (queries_count + PORTION - 1) // PORTION):
        finite = encode_queries(queries, rotation, 0, queries_count, 0)  # others may write the same later
        fetch_add(counts, NOT_FINITE, np.int64(not finite))
    fetch_add(counts, ENCODED, 1)
    scan_parts(codes, queries, tiles, allowed, counts, 0)
    if not waited(counts, SCAN_DONE, parts):
        for part in range(parts):
            if peek(counts, FIRST_PART + part) == 0:
                scan_tiles(codes, queries, tiles, allowed, 0, part, part + 1)
                mark_scanned(counts, part)
    fetch_add(counts, READY, 1)
    sweep_shares(codes, queries, rows, tiles, allowed, counts, 0)
    wait_for(counts, SWEEP_DONE, shares)
    close_barrier(counts)


@bare
def help_many(words: NDArray[np.int64], called: NDArray[np.int64], thread: int) -> None:
    """Helps in consecutive calls of `search_many` until `comes_in` returns False."""
    (codes, queries, rotation, rows, allowed, counts), tiles = many_search(words)
    while comes_in(counts, called):
        encode_portions(queries, rotation, counts, thread)
        wait_for(counts, ENCODED, 1)
        scan_parts(codes, queries, tiles, allowed, counts, thread)
        wait_for(counts, READY, 1)
        sweep_shares(codes, queries, rows, tiles, allowed, counts, thread)
        leave(counts)
