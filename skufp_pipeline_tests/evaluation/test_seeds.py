import numpy as np
import pytest

from skufp_pipeline.evaluation.protocol import Evaluation, Model, evaluate
from skufp_pipeline.evaluation.report import GalleryTimes, Times, results
from skufp_pipeline.evaluation.seeds import gallery_latency_over_seeds, over_seeds
from skufp_pipeline.evaluation.tables import markdown_tables, text_tables
from skufp_pipeline.measures.bootstrap import resampled_means_over_seeds
from skufp_pipeline.measures.metrics import METRICS

from .examples import DIRECTIONS, gallery, queries, report_of

SWAPPED = {**DIRECTIONS, "a": DIRECTIONS["b"], "b": DIRECTIONS["a"]}


def run(*right: str, asked: str = "aabccd") -> Evaluation:
    """Models m and n of one seed; those named in `right` answer all, the others confuse a and b."""
    models = [
        Model(name, {"image": queries(asked)}, gallery(vectors=DIRECTIONS if name in right else SWAPPED))
        for name in ("m", "n")
    ]
    return evaluate(models, [("m", "n")], 0, 50)


def spelled_out(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draws SKUs, then seeds, lays their values side by side and takes the mean of seeds' means."""
    names, rng = sorted(set(groups)), np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        skus = [names[i] for i in rng.integers(len(names), size=len(names))]
        seeds = rng.integers(len(values), size=len(values))
        means.append(
            np.mean([np.concatenate([values[s, groups == name] for name in skus]).mean() for s in seeds])
        )
    return np.array(means)


def test_resampled_means_over_seeds_equal_the_slow_twin() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([f"sku{i}" for i in rng.integers(5, size=20)])
    values = rng.random((3, 20))
    found = resampled_means_over_seeds(values[:, :, None], groups, 30, seed=4)[:, 0]
    np.testing.assert_allclose(found, spelled_out(values, groups, 30, 4), rtol=1e-12)


def test_the_spread_of_seeds_widens_the_interval() -> None:
    values = np.array([[0.2] * 6, [0.8] * 6])[:, :, None]  # no spread over SKUs at all
    drawn = resampled_means_over_seeds(values, np.arange(6), 200, 0)
    assert set(np.round(drawn[:, 0], 6)) == {0.2, 0.5, 0.8}


def test_groups_of_another_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 values, 3 groups"):
        resampled_means_over_seeds(np.zeros((1, 2, 1)), np.arange(3), 10, 0)


def test_figures_are_means_over_seeds_with_a_value_of_each_seed() -> None:
    runs = [run("m", "n"), run("m"), run("m")]
    mean = over_seeds(runs, 0, 200)
    result = mean.settings["seen"]["image"]
    assert result.models["n"].intervals["recall@1"].mean == pytest.approx(1 / 3)
    assert result.models["n"].intervals["recall@1"].low == 0
    assert result.differences["m-n"]["recall@1"].delta == pytest.approx(2 / 3)
    told = results(mean, runs)["seen"]["image"]
    assert told.seeds is not None
    assert told.seeds["n"]["recall@1"] == [1.0, 0.0, 0.0]
    assert tuple(told.seeds["n"]) == METRICS
    assert told.differences["m-n"]["recall@1"].seeds == [0.0, 1.0, 1.0]
    assert len(result.models["n"].ranks) == 3 * len(result.query_ids)
    assert mean.settings["seen"]["text"].models == {}


def test_seeds_of_different_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="they must share one data set"):
        over_seeds([run("m"), run("m", asked="aabcc")], 0, 50)


def test_tables_over_seeds_say_so_and_show_half_the_interval() -> None:
    mean = over_seeds([run("m", "n"), run("m")], 0, 200)
    report = report_of(mean, seeds=[17, 18])
    text = text_tables(report)
    assert "Means over the training seeds 17, 18; ± is half the 95% interval over seeds and SKUs." in text
    assert "95% bootstrap intervals over seeds and SKUs" in text
    assert "1.000 ± 0.000" in text
    assert "0.500 ± 0.500" in markdown_tables(report)


def test_latency_is_the_mean_over_seeds_with_each_seeds_beside_it() -> None:
    def times(ms: float) -> dict:
        found = dict.fromkeys(("p50_ms", "p95_ms", "mean_ms"), ms)
        timed = GalleryTimes(**found, batched=Times(batch=8, **found))
        return {"seen": {"image": {"m": timed}}}

    found = gallery_latency_over_seeds([times(1.0), times(3.0)])["seen"]["image"]["m"]
    assert (found.p95_ms, found.batched.p95_ms, found.batched.batch) == (2.0, 2.0, 8)
    assert [times.p95_ms for times in found.seeds or []] == [1.0, 3.0]
