"""One report of several trainings that differ in their seed alone: means and intervals over seeds and SKUs.

The data set is the same, so every seed is asked the same queries; a resample draws SKUs and seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skufp_pipeline.evaluation.protocol import Evaluation, ModelScores, SettingResult
from skufp_pipeline.measures.bootstrap import (
    Difference,
    Interval,
    percentile_interval,
    resampled_means_over_seeds,
)

STATISTICS = ("p50_ms", "p95_ms", "mean_ms")


def over_seeds(evaluations: Sequence[Evaluation], seed: int = 0, resamples: int = 2000) -> Evaluation:
    """The mean of the evaluations of several seeds; the ranks of all stand one after the other.

    Raises:
        ValueError: they differ in their queries or models, so that there is nothing to average.
    """
    first = evaluations[0]
    return Evaluation(
        {
            setting: {
                modality: _mean_result(
                    [evaluation.settings[setting][modality] for evaluation in evaluations], seed, resamples
                )
                for modality in by_modality
            }
            for setting, by_modality in first.settings.items()
        }
    )


def with_seeds(results: dict[str, Any], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Adds to each result of a report (`settings`) a list of one value a seed for every figure.

    `seeds` of a result has them by model and metric; a difference gets its own list `seeds`.
    """
    for setting, by_modality in results.items():
        for modality, result in by_modality.items():
            runs = [evaluation.settings[setting][modality] for evaluation in evaluations]
            result["seeds"] = {
                model: {
                    metric: [run.models[model].intervals[metric].mean for run in runs] for metric in values
                }
                for model, values in result["models"].items()
            }
            for pair, by_metric in result["differences"].items():
                for metric, difference in by_metric.items():
                    difference["seeds"] = [run.differences[pair][metric].delta for run in runs]
    return results


def gallery_latency_over_seeds(latencies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each time over seeds, and under `seeds` the times of each, one entry a seed.

    Args:
        latencies: what `retrieval.measure_galleries` returned for each.
    """
    return {
        setting: {
            modality: {
                model: _mean_times([latency[setting][modality][model] for latency in latencies])
                for model in by_model
            }
            for modality, by_model in by_modality.items()
        }
        for setting, by_modality in latencies[0].items()
    }


def _mean_times(times: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: float(np.mean([entry[name] for entry in entries])) for name in STATISTICS}

    batched = [entry["batched"] for entry in times]
    return {
        **mean(times),
        "batched": {"batch": batched[0]["batch"], **mean(batched)},
        "seeds": times,
    }


def _mean_result(runs: Sequence[SettingResult], seed: int, resamples: int) -> SettingResult:
    first = runs[0]
    for run in runs[1:]:
        if (run.query_ids, run.sku_ids, list(run.models)) != (
            first.query_ids,
            first.sku_ids,
            list(first.models),
        ):
            raise ValueError("the seeds differ in their queries or models; they must share one data set")
    if not first.models:
        return first
    cells = [(name, metric) for name, scores in first.models.items() for metric in scores.per_query]
    columns = np.stack(
        [np.stack([run.models[name].per_query[metric] for name, metric in cells], axis=1) for run in runs]
    )
    means = resampled_means_over_seeds(columns, np.array(first.sku_ids), resamples, seed)
    drawn = {cell: means[:, i] for i, cell in enumerate(cells)}
    return SettingResult(
        first.query_ids,
        first.sku_ids,
        first.gallery,
        first.missing,
        {name: _mean_scores(name, runs, drawn) for name in first.models},
        {pair: _mean_differences(pair, runs, drawn) for pair in first.differences},
    )


def _mean_scores(
    name: str, runs: Sequence[SettingResult], drawn: Mapping[tuple[str, str], np.ndarray]
) -> ModelScores:
    scores = [run.models[name] for run in runs]
    per_query = {
        metric: np.mean([one.per_query[metric] for one in scores], axis=0) for metric in scores[0].per_query
    }
    return ModelScores(
        np.concatenate([one.ranks for one in scores]),
        per_query,
        {
            metric: Interval(float(values.mean()), *percentile_interval(drawn[name, metric]))
            for metric, values in per_query.items()
        },
    )


def _mean_differences(
    pair: str, runs: Sequence[SettingResult], drawn: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Difference]:
    a, b = pair.split("-")
    return {
        metric: Difference(
            float(np.mean([run.differences[pair][metric].delta for run in runs])),
            *percentile_interval(drawn[a, metric] - drawn[b, metric]),
        )
        for metric in runs[0].differences[pair]
    }
