"""95% bootstrap intervals of means and paired differences, with SKUs as the resampled units.

Queries of one SKU are not independent, so a resample draws SKUs, each with all its queries, and
its mean is a ratio of sums: the sum of the drawn queries' values over their number.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A mean paired difference a - b and its interval."""

    delta: float
    low: float
    high: float


def bootstrap_mean(values: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of `values` (Q,) with a percentile interval over resampled `groups` (Q,).

    Raises:
        ValueError: no values, or a different number of groups.
    """
    means = resampled_means(values[:, None], groups, resamples, seed)[:, 0]
    return Interval(float(values.mean()), *percentile_interval(means))


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Difference:
    """The mean of `a - b` with a percentile interval; `a[i]` and `b[i]` belong to one query.

    >>> ours, theirs = np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0])
    >>> paired_bootstrap(ours, theirs, np.array(["a", "a", "b", "c"])).delta
    0.5

    Raises:
        ValueError: `a`, `b` and `groups` differ in length, or are empty.
    """
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs equal shapes, found {a.shape} and {b.shape}")
    mean = bootstrap_mean(a - b, groups, resamples, seed)
    return Difference(mean.mean, mean.low, mean.high)


def resampled_means(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(resamples, M) float64 mean of each column of `values` in each resample of the groups.

    All columns share the resamples, so differences of columns are paired.

    Args:
        values: (Q, M) one column per quantity.
        groups: (Q,) the SKU of each query, of any type that sorts.
        resamples: number of resamples; each draws as many groups as there are, with replacement.

    Raises:
        ValueError: no values, or a different number of groups.
    """
    return np.array(list(_resampled(values, groups, resamples, np.random.default_rng(seed))))


def resampled_means_over_seeds(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """(resamples, M) float64 mean of each column over queries and training seeds, resampling SKUs and seeds.

    A resample also draws as many seeds as there are, so that the interval includes the spread of training.

    Args:
        values: (N, Q, M): one row per training seed, the same queries and columns in each.

    Raises:
        ValueError: no values, or a different number of groups.
    """
    num_seeds, queries, columns = values.shape
    side_by_side = values.transpose(1, 0, 2).reshape(queries, num_seeds * columns)
    generator = np.random.default_rng(seed)
    means = []
    for of_seeds in _resampled(side_by_side, groups, resamples, generator):
        drawn = generator.integers(num_seeds, size=num_seeds)
        means.append(of_seeds.reshape(num_seeds, columns)[drawn].mean(axis=0))
    return np.array(means)


def _resampled(
    values: np.ndarray, groups: np.ndarray, resamples: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields the mean of each column of `values` (Q, M) in one resample of the groups at a time."""
    if len(values) != len(groups) or values.size == 0:
        raise ValueError(
            f"need one group per value and at least one: {len(values)} values, {len(groups)} groups"
        )
    _, group_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group_of).astype(np.float64)
    sums = np.stack([np.bincount(group_of, weights=column) for column in values.T], axis=1)
    for _ in range(resamples):
        # How often each group was drawn: a multinomial count that weights its sum and its size.
        counts = np.bincount(generator.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        yield counts @ sums / (counts @ sizes)


def percentile_interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95% of `draws` (R,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
