import time

import numpy as np
import pytest
import torch

from skufp_pipeline.evaluation.latency import (
    best_skus,
    gallery_latency,
    processor_name,
    samples_ms,
    statistics_ms,
)


def test_what_is_timed_is_called_warmup_plus_repeats_times():
    calls = []
    assert len(samples_ms(lambda: calls.append("a"), repeats=4, warmup=2)) == 4
    assert calls == ["a"] * 6


def test_times_are_milliseconds_per_query():
    samples = samples_ms(lambda: time.sleep(0.02), repeats=5, warmup=0, queries_per_call=4)
    found = statistics_ms(samples)
    assert 5 <= found["p50_ms"] < 15
    assert min(samples) <= found["p50_ms"] <= found["p95_ms"]
    assert found["mean_ms"] == pytest.approx(sum(samples) / 5)


@pytest.mark.parametrize(("repeats", "queries"), [(0, 1), (1, 0)])
def test_measuring_nothing_is_an_error(repeats, queries):
    with pytest.raises(ValueError, match="at least 1"):
        samples_ms(int, repeats, 0, queries)


def test_the_processor_is_named_from_cpuinfo_or_else_by_python(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert processor_name(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Example CPU @ 2 GHz\nmodel name\t: Other\n")
    assert processor_name(cpuinfo) == "Example CPU @ 2 GHz"
    cpuinfo.write_text("Features : fp asimd\n")
    assert processor_name(cpuinfo)


def test_the_timed_search_gives_the_best_skus_by_their_best_row():
    gallery = torch.tensor([[0.1, 0.9, 0.5, 0.2, 0.6]])  # SKUs 0, 0, 1, 2, 2
    found = best_skus(torch.tensor([[1.0], [-1.0]]), gallery, np.array([0, 2, 3]), top=2)
    assert found.tolist() == [[0, 2], [0, 2]]
    assert best_skus(torch.tensor([[1.0]]), gallery, np.arange(5)).tolist() == [[1, 4, 2, 3, 0]]


def test_any_gallery_is_timed_one_query_at_a_time_and_batched():
    queries = np.eye(3, dtype=np.float32)
    found = gallery_latency(queries, np.eye(3, dtype=np.float32)[[0, 0, 1]], np.array([0, 0, 1]), batch=4)
    assert found.batched.batch == 4
    for name in ("p50_ms", "p95_ms", "mean_ms"):
        assert getattr(found, name) > 0
        assert getattr(found.batched, name) > 0
