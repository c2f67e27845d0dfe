"""From views to fingerprints: the aggregator's vector, the Gaussian model's beside it, and the biases."""

import numpy as np
import polars as pl
import torch

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.gaussian import GaussianModel, with_gaussian
from skufp_pipeline.fingerprint.hubness import query_bank_biases
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import EmbeddingTables, fingerprint_table, training_photos
from skufp_pipeline.fingerprint.train import fingerprints

SKUS_AT_ONCE = 4096  # whose views are held in memory


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
    made, used, bank = [], [], []
    for part in tables.parts(SKUS_AT_ONCE):
        views = part.views(settings.max_views)
        photos, used_here = training_photos(part, views)
        rows, biases = fingerprints(aggregator, views, device), np.zeros(len(views.sku_ids), np.float32)
        if settings.gaussian and known is not None:
            rows, biases = with_gaussian(known, views, photos, rows, settings.gaussian)
        made.append(fingerprint_table(views, rows, biases))
        used.append(used_here)
        bank.append(photos.embeddings)
    table = pl.concat(made)
    if settings.hubness:
        rows, biases = embedding_rows(table, "fingerprint"), table["bias"].to_numpy()
        biases = query_bank_biases(np.concatenate(bank), rows, biases, settings.hubness)
        table = table.with_columns(bias=pl.Series(biases))
    return table, pl.concat(used)
