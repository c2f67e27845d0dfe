import time

import numpy as np
import pytest
import torch

from skufp_pipeline.evaluation.latency import (
    best_skus,
    gallery_latency,
    latency_summary,
    measure,
    processor_name,
)


def test_every_stage_is_called_warmup_plus_repeats_times():
    calls = []
    measured = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, warmup=2)
    assert calls == ["a"] * 6 + ["b"] * 6
    assert {stage: len(values["samples_ms"]) for stage, values in measured.items()} == {"a": 4, "b": 4}


def test_times_are_milliseconds_per_query():
    measured = measure({"sleep": lambda: time.sleep(0.02)}, repeats=5, warmup=0, queries_per_call=4)["sleep"]
    assert 5 <= measured["p50_ms"] < 15
    assert min(measured["samples_ms"]) <= measured["p50_ms"] <= measured["p95_ms"]
    assert measured["mean_ms"] == pytest.approx(sum(measured["samples_ms"]) / 5)


@pytest.mark.parametrize(("repeats", "queries"), [(0, 1), (1, 0)])
def test_measuring_nothing_is_an_error(repeats, queries):
    with pytest.raises(ValueError, match="at least 1"):
        measure({"a": int}, repeats, 0, queries)


def test_the_summary_leaves_the_samples_out():
    stages = measure({"decode": int, "search": int}, repeats=2)
    summary = latency_summary(stages, threads=2, batched=stages["search"], batch=32)
    statistics = {"p50_ms", "p95_ms", "mean_ms"}
    assert set(summary) == {"threads", "processor", "stages", "search_batched"}
    assert summary["threads"] == 2
    assert {name: set(values) for name, values in summary["stages"].items()} == {
        "decode": statistics,
        "search": statistics,
    }
    assert set(summary["search_batched"]) == {"batch", *statistics}
    assert "search_batched" not in latency_summary(stages, threads=1)


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
    times = {"p50_ms", "p95_ms", "mean_ms"}
    assert set(found) == {*times, "batched"}
    assert set(found["batched"]) == {*times, "batch"}
    assert found["batched"]["batch"] == 4
    assert all(found[name] > 0 and found["batched"][name] > 0 for name in times)
