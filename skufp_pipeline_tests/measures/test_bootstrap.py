import time

import numpy as np
import pytest

from skufp_pipeline.measures.bootstrap import (
    Difference,
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    resampled_means,
)


def resampled_means_spelled_out(values, groups, resamples, seed):
    """Draw SKUs, lay all their queries side by side, take the mean."""
    names = sorted(set(groups))
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = [names[i] for i in rng.integers(len(names), size=len(names))]
        means.append(np.mean([v for name in drawn for v, g in zip(values, groups, strict=True) if g == name]))
    return np.array(means)


def test_resampled_means_equal_the_slow_twin():
    rng = np.random.default_rng(0)
    groups = np.array([f"sku{i}" for i in rng.integers(6, size=25)])
    values = rng.random(25)
    found = resampled_means(values[:, None], groups, 50, seed=3)[:, 0]
    np.testing.assert_allclose(found, resampled_means_spelled_out(values, groups, 50, seed=3), rtol=1e-12)


def test_equal_models_differ_by_exactly_nothing():
    values = np.random.default_rng(1).random(100)
    assert paired_bootstrap(values, values.copy(), np.arange(100)) == Difference(0.0, 0.0, 0.0)


def test_a_constant_advantage_has_an_interval_of_no_width():
    b = np.arange(10.0)
    difference = paired_bootstrap(b + 0.5, b, np.arange(10) // 2)
    assert difference == Difference(0.5, 0.5, 0.5)


def test_the_mean_stands_within_its_interval_and_weighs_queries_equally():
    interval = bootstrap_mean(np.array([1.0, 1.0, 1.0, 0.0]), np.array(["a", "a", "a", "b"]))
    assert interval == Interval(0.75, 0.0, 1.0)


def test_one_sku_alone_tells_nothing_of_the_spread():
    assert bootstrap_mean(np.array([0.0, 1.0]), np.array(["a", "a"])) == Interval(0.5, 0.5, 0.5)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values, groups = np.random.default_rng(2).random(60), np.arange(60) // 3
    assert bootstrap_mean(values, groups, seed=5) == bootstrap_mean(values, groups, seed=5)
    assert bootstrap_mean(values, groups, seed=5) != bootstrap_mean(values, groups, seed=6)


def test_repeating_a_query_of_each_sku_does_not_narrow_the_interval():
    values, groups = np.random.default_rng(3).random(50), np.arange(50)
    once = bootstrap_mean(values, groups)
    ten_times = bootstrap_mean(np.repeat(values, 10), np.repeat(groups, 10))
    assert (ten_times.low, ten_times.high) == pytest.approx((once.low, once.high))


def test_intervals_cover_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(4)
    groups = np.arange(300) // 3
    covered = 0
    for trial in range(400):
        values = np.repeat(rng.normal(size=100), 3) + rng.normal(size=300)
        interval = bootstrap_mean(values, groups, resamples=300, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(("a", "b"), [(3, 2), (0, 0)])
def test_pairs_of_unequal_length_and_no_pairs_are_errors(a, b):
    with pytest.raises(ValueError, match=r"shapes|at least one"):
        paired_bootstrap(np.ones(a), np.ones(b), np.arange(a))


def test_ten_thousand_queries_take_less_than_two_seconds():
    rng = np.random.default_rng(5)
    begin = time.perf_counter()
    resampled_means(rng.random((10_000, 6)), rng.integers(3000, size=10_000), 2000, seed=0)
    assert time.perf_counter() - begin < 2
