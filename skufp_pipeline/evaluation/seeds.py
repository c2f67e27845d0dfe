"""One report of several trainings that differ only in their seed: means and intervals over seeds and SKUs.

All use the same data set, so every seed has the same queries; a resample draws SKUs and seeds.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skufp_pipeline.evaluation.protocol import Evaluation, SettingResult, summarize
from skufp_pipeline.evaluation.report import GalleryLatency, GalleryTimes, Times
from skufp_pipeline.measures.bootstrap import resampled_means_over_seeds


def over_seeds(evaluations: Sequence[Evaluation], seed: int = 0, resamples: int = 2000) -> Evaluation:
    """The mean of the evaluations of several seeds; their ranks are concatenated.

    Raises:
        ValueError: they differ in their queries or models.
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


def gallery_latency_over_seeds(latencies: Sequence[GalleryLatency]) -> GalleryLatency:
    """The mean times of `retrieval.measure_galleries` over seeds, with each seed's times in `seeds`."""
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


def _mean_times(times: list[GalleryTimes]) -> GalleryTimes:
    def mean(entries: Sequence[Times]) -> dict[str, float]:
        names = ("p50_ms", "p95_ms", "mean_ms")
        return {name: float(np.mean([getattr(entry, name) for entry in entries])) for name in names}

    batched = [entry.batched for entry in times]
    mean_batched = Times(batch=batched[0].batch, **mean(batched))
    return GalleryTimes(**mean(times), batched=mean_batched, seeds=times)


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
    scores = {name: [run.models[name] for run in runs] for name in first.models}
    per_query = {
        name: {
            metric: np.mean([one.per_query[metric] for one in of_model], axis=0)
            for metric in of_model[0].per_query
        }
        for name, of_model in scores.items()
    }
    cells = [(name, metric) for name, values in per_query.items() for metric in values]
    columns = [[one.per_query[metric] for one in scores[name]] for name, metric in cells]
    means = resampled_means_over_seeds(
        np.moveaxis(np.array(columns), 0, 2), np.array(first.sku_ids), resamples, seed
    )
    ranks = {name: np.concatenate([one.ranks for one in of_model]) for name, of_model in scores.items()}
    pairs = [(a, b) for a, b in (pair.split("-") for pair in first.differences)]
    models, differences = summarize(ranks, per_query, dict(zip(cells, means.T, strict=True)), pairs)
    return replace(first, models=models, differences=differences)
