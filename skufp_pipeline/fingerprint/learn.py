"""Learns what fingerprints are made with: the aggregator, and the noise of views and photos."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from skufp_pipeline.encoders.tables import stood_in
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.aggregator_train import aggregator_or_mean
from skufp_pipeline.fingerprint.gaussian import GaussianModel, gaussian_or_none
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    fingerprint_data,
    photos_to_fit,
    used_by_fingerprints,
)
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log


@dataclass(frozen=True)
class Learnt:
    """What was learnt from the training SKUs.

    Attributes:
        skus, dimension: number of training SKUs, and D.
        aggregator: untrained, and then the mean of the views, if `history` is empty.
        gaussian: None where it is switched off or there is too little to fit.
        used: `USED_SCHEMA` of the queries.
        told: sentences on what was left out, and on synthetic photos among the queries.
    """

    skus: int
    dimension: int
    aggregator: AggregatorEnsemble
    gaussian: GaussianModel | None
    history: History
    used: pl.DataFrame
    told: list[str | None]


def learn(
    tables: EmbeddingTables,
    teachers: pl.DataFrame,
    settings: FingerprintSettings,
    seed: int,
    device: torch.device,
    scratch: Path,
    log: Log,
) -> Learnt:
    """Trains the aggregator and fits the Gaussian model, on synthetic photos where the settings say so."""
    use = settings.synthetic
    data = fingerprint_data(tables.with_stand_ins(use.aggregator), teachers, settings.max_views)
    model, history, why_mean = aggregator_or_mean(data, settings, seed, device, scratch, log)
    photos = photos_to_fit(tables, data.views, use)
    gaussian, why_none = gaussian_or_none(data.views, photos, settings.gaussian)
    used = used_by_fingerprints(tables, use)
    used = used if history or gaussian else used.clear()
    told = [why_mean, why_none, stood_in(used)]
    skus, _, dimension = data.views.views.shape
    return Learnt(skus, dimension, model, gaussian, history, used, told)
