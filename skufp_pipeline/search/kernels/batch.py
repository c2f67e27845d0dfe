"""The search for many queries at once: both planes, eight rows by thirty-two queries."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from skufp_pipeline.search.kernels.compiled import bare, compiled, inner
from skufp_pipeline.search.kernels.encode import encode_queries
from skufp_pipeline.search.kernels.score import exact_score, fetch_row, finish, push
from skufp_pipeline.search.kernels.shapes import LOWEST, Codes, Queries, Rotation, Rows
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
    peek,
    prefetch,
    reaching,
    same_floats,
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
    close_door,
    comes_in,
    leave,
    mark_scanned,
    open_door,
    wait_for,
    waited,
)

TILE = OCTET  # rows that are multiplied with PAIR queries together
PAIR = 2 * LANES
PART = 8  # tiles that a thread takes at a time
WINDOW = 32  # tiles that are swept stage by stage
STRETCH = 2 * BYTES // TILE  # dimensions that are multiplied while a line of a tile to come is fetched
PORTION = 8  # queries that a thread encodes at a time


class Tiles(NamedTuple):
    """What the search for a batch writes; T threads, L = LANES.

    Attributes:
        scores, rows: (Q, K) heaps, and in the end the results, best first.
        ceilings: (Q / L, R / TILE, L) flat, float32, the most that any row of a tile can come to.
        unpacked: (T, PART * TILE * 2W) uint8, rows of some tiles, one byte a dimension.
        values, places: (T, L, K) for each query of a group, heap of its most promising tiles.
        bounds: (T, K, L) float32, the most that each row of those tiles can come to, at `row % L`.
        chosen: (T, K) int64, where in `bounds` the best row of each tile stands.
        least: (T, L) float32, what a tile must come to, for each query of a group.
        sizes: (T, L) int64, entries of each heap.
        settled: (T, R / TILE) int32, a bit for each query of a group to whose heap the tile has been offered.
        picks, lanes: (T, WINDOW) int64, tiles that can hold a row for some queries, a bit for each of these.
        kept_rows, kept_lanes: (T, WINDOW * TILE * L) int64, rows that must be scored, and for which query.
    """

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]
    ceilings: NDArray[np.float32]
    unpacked: NDArray[np.uint8]
    values: NDArray[np.float64]
    places: NDArray[np.int64]
    bounds: NDArray[np.float32]
    chosen: NDArray[np.int64]
    least: NDArray[np.float32]
    sizes: NDArray[np.int64]
    settled: NDArray[np.int32]
    picks: NDArray[np.int64]
    lanes: NDArray[np.int64]
    kept_rows: NDArray[np.int64]
    kept_lanes: NDArray[np.int64]


@inner
def unpack(codes: Codes, row: int, unpacked: NDArray[np.uint8], begin: int) -> None:
    """TILE rows from their planes to one byte a dimension, (TILE, 2W) from `begin` on."""
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
def row_bounds(codes: Codes, row: int, sums: Any, centres: Any, steps: Any) -> Any:
    """The most that a row can come to with each of sixteen queries."""
    return affine(sums, centres, steps, np.float32(0.5) * codes.scales[row], codes.fine_errors[row])


@inner
def tile_ceilings(
    codes: Codes,
    row: int,
    unpacked: NDArray[np.uint8],
    at: int,
    queries: Queries,
    query: int,
    ceilings: NDArray[np.float32],
    to: int,
    to_second: int,
    coming: NDArray[np.uint8],
    coming_at: int,
) -> None:
    """The most that any of the TILE rows from `row` on, unpacked from `at` on, can come to with each of
    the PAIR queries from `query` on; each half of them into its place.

    Meanwhile the rows of a tile from byte `coming_at` on of the plane `coming` are fetched, a line at a time:
    all at once would be more than a processor keeps in mind.
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
    centre, step = load_ints(queries.centres, query), load_floats(queries.steps, query)
    most = larger(row_bounds(codes, row, a, centre, step), row_bounds(codes, row + 1, b, centre, step))
    most = larger(most, row_bounds(codes, row + 2, c, centre, step))
    most = larger(most, row_bounds(codes, row + 3, d, centre, step))
    most = larger(most, row_bounds(codes, row + 4, e, centre, step))
    most = larger(most, row_bounds(codes, row + 5, f, centre, step))
    most = larger(most, row_bounds(codes, row + 6, g, centre, step))
    store(larger(most, row_bounds(codes, row + 7, h, centre, step)), ceilings, to)
    centre, step = load_ints(queries.centres, query + LANES), load_floats(queries.steps, query + LANES)
    most = larger(row_bounds(codes, row, i, centre, step), row_bounds(codes, row + 1, j, centre, step))
    most = larger(most, row_bounds(codes, row + 2, k, centre, step))
    most = larger(most, row_bounds(codes, row + 3, l, centre, step))
    most = larger(most, row_bounds(codes, row + 4, m, centre, step))
    most = larger(most, row_bounds(codes, row + 5, n, centre, step))
    most = larger(most, row_bounds(codes, row + 6, o, centre, step))
    store(larger(most, row_bounds(codes, row + 7, p, centre, step)), ceilings, to_second)


@inner
def fetch_tile(codes: Codes, tile: int) -> None:
    """Has the codes of a tile fetched that is about to be looked at."""
    fetch_high(codes, tile * TILE, TILE)
    fetch_low(codes, tile * TILE, TILE)


@bare
def scan_tiles(
    codes: Codes,
    queries: Queries,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    begin: int,
    end: int,
) -> None:
    """Ceilings of the tiles `begin` to `end`, at most PART, both planes at once."""
    count, size, unpacked = len(allowed), TILE * 2 * codes.width, tiles.unpacked[thread]
    for tile in range(begin, end):
        if allowed[tile] != 0:
            unpack(codes, tile * TILE, unpacked, (tile - begin) * size)
    for query in range(0, len(queries.sums), PAIR):
        for tile in range(begin, end):
            first = query * count + tile * LANES
            second = first + LANES * count
            if allowed[tile] != 0:
                at, row = (tile - begin) * size, tile * TILE
                coming = codes.high if query == 0 else codes.low
                coming_at = (
                    min(tile + PART, count - 1) * TILE * (codes.width + (codes.width >> 2) * (query == 0))
                )
                tile_ceilings(
                    codes, row, unpacked, at, queries, query, tiles.ceilings, first, second, coming, coming_at
                )
            else:
                tiles.ceilings[first : first + LANES] = -np.inf
                tiles.ceilings[second : second + LANES] = -np.inf


@bare
def best_tiles(tiles: Tiles, count: int, group: int, thread: int) -> None:
    """For each query of a group, a heap of the K tiles that can come to most."""
    least, sizes, first = tiles.least[thread], tiles.sizes[thread], group * LANES * count
    least[:] = LOWEST  # nothing without a row
    sizes[:] = 0
    for tile in range(count):
        at = first + tile * LANES
        lanes, lane = reaching(load_floats(tiles.ceilings, at), load_floats(least, 0)), 0
        while lanes != 0:
            if lanes & 1:
                values, places = tiles.values[thread, lane], tiles.places[thread, lane]
                sizes[lane] = push(values, places, sizes[lane], tiles.ceilings[at + lane], tile)
                if sizes[lane] == len(values):
                    least[lane] = values[0]
            lanes >>= 1
            lane += 1


@bare
def settle_best_tiles(
    codes: Codes,
    queries: Queries,
    query: int,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    scores: NDArray[np.float64],
    best: NDArray[np.int64],
) -> int:
    """Offers the rows of the most promising tiles to the (K,) heap of a query; returns its size.

    The best row of each first: their scores spare most others.
    """
    places, chosen = tiles.places[thread, query % LANES], tiles.chosen[thread]
    bounds, size = tiles.bounds[thread], 0
    for seed in range(len(places)):
        first = places[seed] * TILE
        at = seed * LANES + first % LANES
        store(fine_bounds(codes, queries, query, first), bounds, seed * LANES)
        chosen[seed] = at
        for line in range(TILE):
            if not is_allowed(allowed, first + line):
                bounds[at + line] = -np.inf
            if bounds[at + line] > bounds[chosen[seed]]:
                chosen[seed] = at + line
        fetch_row(rows, first + chosen[seed] % TILE, queries.dimension)
    for seed in range(len(places)):
        row = places[seed] * TILE + chosen[seed] % TILE
        size = push(scores, best, size, exact_score(rows, row, queries, query), row)
        bounds[chosen[seed]] = -np.inf
    for seed in range(len(places)):
        for row in range(places[seed] * TILE, (places[seed] + 1) * TILE):
            if bounds[seed * LANES + row % LANES] >= reach_of(queries, query, scores[0]):
                size = push(scores, best, size, exact_score(rows, row, queries, query), row)
    return size


@bare
def settle_group(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    group: int,
    scores: NDArray[np.float64],
    best: NDArray[np.int64],
) -> None:
    """Settles the most promising tiles of all queries of a group, and notes which."""
    count, first_query, k = len(allowed), group * LANES, scores.shape[1]
    sizes, least, places = tiles.sizes[thread], tiles.least[thread], tiles.places[thread]
    queries_here, settled = min(LANES, len(scores) - first_query), tiles.settled[thread]
    settled[:] = 0
    best_tiles(tiles, count, group, thread)
    least[queries_here:] = np.inf  # padding
    for lane in range(queries_here):
        if sizes[lane] < k:  # fewer tiles than K: every row comes into question
            sizes[lane], least[lane] = 0, LOWEST
            continue
        if lane + 1 < queries_here:
            for seed in range(sizes[lane + 1]):
                fetch_tile(codes, places[lane + 1, seed])
        query = first_query + lane
        sizes[lane] = settle_best_tiles(
            codes, queries, query, rows, tiles, allowed, thread, scores[query], best[query]
        )
        least[lane] = reach_of(queries, query, scores[query, 0])
        for seed in range(k):
            settled[places[lane, seed]] |= 1 << lane


@inner
def pick_tiles(tiles: Tiles, codes: Codes, thread: int, group: int, begin: int, end: int) -> int:
    """Notes which of the tiles `begin` to `end` can hold a row for which queries; returns how many can."""
    count, picked = len(tiles.settled[thread]), 0
    least, settled = tiles.least[thread], tiles.settled[thread]
    picks, lanes_of = tiles.picks[thread], tiles.lanes[thread]
    for tile in range(begin, end):
        at = (group * count + tile) * LANES
        lanes = reaching(load_floats(tiles.ceilings, at), load_floats(least, 0)) & ~np.int64(settled[tile])
        picks[picked], lanes_of[picked] = tile, lanes
        if lanes != 0:
            fetch_tile(codes, tile)
            picked += 1
    return picked


@inner
def pick_rows(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    group: int,
    picked: int,
) -> int:
    """Notes which rows of the picked tiles the codes do not rule out for a query; returns how many pairs."""
    least, kept = tiles.least[thread], 0
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
                tiles.kept_rows[thread, kept], tiles.kept_lanes[thread, kept] = row, lane
                kept += 1
                fetch_row(rows, row, queries.dimension)
    return kept


@bare
def sweep_group(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    thread: int,
    group: int,
    scores: NDArray[np.float64],
    best: NDArray[np.int64],
) -> None:
    """The best rows of the queries of a group, (Q, K), best first.

    In three stages, so that what is needed has time to come from memory: tiles whose ceilings reach, their
    rows whose bounds reach, and the scores of these.
    """
    settle_group(codes, queries, rows, tiles, allowed, thread, group, scores, best)
    count, first_query, k = len(allowed), group * LANES, scores.shape[1]
    sizes, least = tiles.sizes[thread], tiles.least[thread]
    for window in range(0, count, WINDOW):
        picked = pick_tiles(tiles, codes, thread, group, window, min(window + WINDOW, count))
        kept = pick_rows(codes, queries, rows, tiles, allowed, thread, group, picked)
        for pick in range(kept):
            lane = tiles.kept_lanes[thread, pick]
            query, row = first_query + lane, tiles.kept_rows[thread, pick]
            score = exact_score(rows, row, queries, query)
            sizes[lane] = push(scores[query], best[query], sizes[lane], score, row)
            if sizes[lane] == k:
                least[lane] = reach_of(queries, query, scores[query, 0])
    for query in range(first_query, min(first_query + LANES, len(scores))):
        finish(scores[query], best[query], sizes[query - first_query])


@inner
def encode_portions(queries: Queries, rotation: Rotation, counts: NDArray[np.int64], thread: int) -> None:
    """Encodes portions of the queries until all are taken."""
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
    """Scans parts of PART tiles until all are taken."""
    count = len(allowed)
    taken = fetch_add(counts, SCAN_TAKEN, 1)
    while taken * PART < count:
        scan_tiles(codes, queries, tiles, allowed, thread, taken * PART, min((taken + 1) * PART, count))
        mark_scanned(counts, taken)
        taken = fetch_add(counts, SCAN_TAKEN, 1)


@inner
def sweep_groups(
    codes: Codes,
    queries: Queries,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    thread: int,
) -> None:
    """Sweeps groups of queries until all are taken."""
    groups = (len(tiles.scores) + LANES - 1) // LANES
    taken = fetch_add(counts, SWEEP_TAKEN, 1)
    while taken < groups:
        sweep_group(codes, queries, rows, tiles, allowed, thread, taken, tiles.scores, tiles.rows)
        fetch_add(counts, SWEEP_DONE, 1)
        taken = fetch_add(counts, SWEEP_TAKEN, 1)


@compiled
def search_many(
    codes: Codes,
    queries: Queries,
    rotation: Rotation,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> bool:
    """The K best for each query of a batch, best first, into `tiles`; arguments as in `search_one`.

    Returns:
        Whether no other thread can still be writing.
    """
    count, queries_count = len(allowed), len(tiles.scores)
    parts, groups = (count + PART - 1) // PART, (queries_count + LANES - 1) // LANES
    open_door(counts)
    encode_portions(queries, rotation, counts, 0)
    if not waited(counts, ENCODE_DONE, (queries_count + PORTION - 1) // PORTION):
        finite = encode_queries(queries, rotation, 0, queries_count, 0)  # another does the same, later
        fetch_add(counts, NOT_FINITE, np.int64(not finite))
    fetch_add(counts, ENCODED, 1)
    scan_parts(codes, queries, tiles, allowed, counts, 0)
    if not waited(counts, SCAN_DONE, parts):
        for part in range(parts):
            if peek(counts, FIRST_PART + part) == 0:
                scan_tiles(codes, queries, tiles, allowed, 0, part * PART, min((part + 1) * PART, count))
                mark_scanned(counts, part)
    fetch_add(counts, READY, 1)
    sweep_groups(codes, queries, rows, tiles, allowed, counts, 0)
    wait_for(counts, SWEEP_DONE, groups)
    return close_door(counts)


@compiled
def help_many(
    codes: Codes,
    queries: Queries,
    rotation: Rotation,
    rows: Rows,
    tiles: Tiles,
    allowed: NDArray[np.uint8],
    counts: NDArray[np.int64],
    called: NDArray[np.int64],
    thread: int,
) -> None:
    """Helps in one `search_many` after another, until none comes for a while; arguments as in `comes_in`."""
    while comes_in(counts, called):
        encode_portions(queries, rotation, counts, thread)
        wait_for(counts, ENCODED, 1)
        scan_parts(codes, queries, tiles, allowed, counts, thread)
        wait_for(counts, READY, 1)
        sweep_groups(codes, queries, rows, tiles, allowed, counts, thread)
        leave(counts)
