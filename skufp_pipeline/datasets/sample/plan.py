"""Plans the SKUs, pairs and images before anything is drawn.

SKUs come in blocks of two designs with `variants` SKUs each. A pair (DeepFashion2's `pair_id`) holds one or
more neighbouring variants of a design, distinguished by `style`; in half the blocks, the coordinated ones,
it also holds the matching variants of the block's other design, worn together. A block lies in one split, so
that a design of `validation` never occurs in `train`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skufp_pipeline.datasets.sample.settings import SampleSettings
from skufp_pipeline.randomness import chance, generator

COORDINATED_SHARE = 0.5
SAME_PAIR_CHANCE = 0.25  # that a variant joins the previous variant's pair
VIEW_COUNT_SPREAD = 0.67  # of the logarithm; a median of 4 gives DeepFashion2's mean 5.0
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class Sku:
    """A SKU in the plan; `index` counts from 0 over the whole data set."""

    index: int
    style: int
    partner: int | None  # index of the SKU of the same pair that is worn with it


@dataclass(frozen=True)
class Pair:
    """SKUs that share a `pair_id`."""

    pair_id: int
    split: str
    skus: tuple[Sku, ...]


@dataclass(frozen=True)
class Shot:
    """One image to be drawn; `number` counts the SKU's images of one source, strays separately."""

    source: str  # shop | user
    sku: Sku
    number: int
    is_stray: bool  # shows another garment, of style 0, instead of the SKU
    has_second_item: bool


def design_of(index: int, variants: int) -> tuple[int, int, int]:
    """Returns the block, the side (0 or 1: which of the block's designs) and the member of a SKU."""
    block, rest = divmod(index, 2 * variants)
    member, side = divmod(rest, 2)
    return block, side, member


def is_coordinated(seed: int, block: int) -> bool:
    """Whether the two designs of a block are an upper and a lower garment worn together."""
    return chance(generator(seed, "coordinated", block), COORDINATED_SHARE)


def split_of(block: int, settings: SampleSettings) -> str:
    """Returns a block's split; the golden ratio spreads the blocks, so that fractions hold at any size."""
    position = (block * GOLDEN_RATIO) % 1.0
    if position < settings.train_fraction:
        return "train"
    return "validation" if position < 1 - settings.test_fraction else "test"


def plan_pairs(settings: SampleSettings) -> Iterator[Pair]:
    """Yields every pair of the data set, in the order of their SKUs."""
    size = 2 * settings.variants
    for block in range(-(-settings.num_skus // size)):
        members = _runs_of_members(settings, block)
        sides = ((0, 1),) if is_coordinated(settings.seed, block) else ((0,), (1,))
        for run in members:
            for together in sides:
                pair = _pair(settings, block, run, together)
                if pair.skus:
                    yield pair


def plan_shots(settings: SampleSettings, pair: Pair) -> list[Shot]:
    """Returns the images of a pair; image k of a SKU does not depend on the size of the data set."""
    shots = []
    for sku in pair.skus:
        rng = generator(settings.seed, "views", sku.index)
        counts = {"shop": _view_count(rng, settings.mean_shop_views, settings.max_shop_views)}
        user_views = _view_count(rng, settings.mean_user_views, settings.max_user_views)
        counts["user"] = user_views if has_query(settings, sku.index) else 0
        for source, count in counts.items():
            seconds = rng.random(count) < settings.two_item_fraction
            strays = rng.random(count) < settings.style_zero_fraction
            shots += [Shot(source, sku, k, False, bool(seconds[k])) for k in range(count)]
            shots += [Shot(source, sku, int(k), True, False) for k in np.flatnonzero(strays)]
    return shots


def has_query(settings: SampleSettings, index: int) -> bool:
    """Whether a SKU has user photos."""
    return not chance(generator(settings.seed, "without-query", index), settings.fraction_without_query)


def _runs_of_members(settings: SampleSettings, block: int) -> list[list[int]]:
    rng = generator(settings.seed, "pairs", block)
    runs: list[list[int]] = []
    for member in range(settings.variants):
        if runs and chance(rng, SAME_PAIR_CHANCE):
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def _pair(settings: SampleSettings, block: int, run: list[int], sides: tuple[int, ...]) -> Pair:
    def index(member: int, side: int) -> int:
        return (block * settings.variants + member) * 2 + side

    def partner(member: int, side: int) -> int | None:
        other = index(member, 1 - side)
        return other if len(sides) == 2 and other < settings.num_skus else None

    # Styles number the SKUs of a pair, one side after the other.
    places = [(member, side) for side in sides for member in run]
    skus = tuple(
        Sku(index(member, side), style, partner(member, side))
        for style, (member, side) in enumerate(places, start=1)
        if index(member, side) < settings.num_skus
    )
    return Pair(index(run[0], sides[0]) + 1, split_of(block, settings), skus)


def _view_count(rng: np.random.Generator, mean: float, maximum: int) -> int:
    median = mean * np.exp(-(VIEW_COUNT_SPREAD**2) / 2)
    return int(np.clip(round(rng.lognormal(np.log(median), VIEW_COUNT_SPREAD)), 1, maximum))
