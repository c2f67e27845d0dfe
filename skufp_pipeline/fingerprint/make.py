"""From views to fingerprints: the aggregator's vector, the Gaussian model's beside it, and the biases."""

import numpy as np
import polars as pl
import torch

from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.gaussian import GaussianModel, with_gaussian
from skufp_pipeline.fingerprint.hubness import query_bank_biases
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import EmbeddingTables, fingerprint_table, training_photos
from skufp_pipeline.fingerprint.train import fingerprints


def make_fingerprints(
    aggregator: AggregatorEnsemble,
    known: GaussianModel | None,
    tables: EmbeddingTables,
    settings: FingerprintSettings,
    device: torch.device,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`fingerprint_table` of every SKU, and `USED_SCHEMA` of the photos that it was made from.

    Args:
        known: None where the settings have no Gaussian part.
    """
    views = tables.views(settings.max_views)
    rows = fingerprints(aggregator, views, device)
    biases = np.zeros(len(rows), np.float32)
    photos, used = training_photos(tables, views)
    if settings.gaussian and known is not None:
        rows, biases = with_gaussian(known, views, photos, rows, settings.gaussian)
    if settings.hubness:
        biases = query_bank_biases(photos.embeddings, rows, biases, settings.hubness)
    return fingerprint_table(views, rows, biases), used
