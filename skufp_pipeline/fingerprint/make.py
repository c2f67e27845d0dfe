"""Makes one vector per SKU from the aggregator, the Gaussian model and the catalog's texts."""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble, fingerprints
from skufp_pipeline.fingerprint.gaussian import GaussianModel, with_gaussian
from skufp_pipeline.fingerprint.hubness import query_bank_biases
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    Queries,
    catalog_texts,
    fingerprint_table,
    training_photos,
)
from skufp_pipeline.fingerprint.views import ViewSet, mean_sku, unit

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
        known: None without the Gaussian part.
    """
    made, used, bank = [], [], []
    for part in tables.parts(SKUS_AT_ONCE):
        views = part.views(settings.max_views)
        photos, used_here = training_photos(part, views)
        aggregated = fingerprints(aggregator, views, device)
        texts = catalog_texts(part, views, settings.max_views)
        rows, biases = join_parts(aggregated, known, views, photos, texts, settings)
        made.append(fingerprint_table(views, rows, biases))
        used.append(used_here)
        bank.append(photos.embeddings)
    table = pl.concat(made)
    if settings.hubness and any(len(photos) for photos in bank):
        rows, biases = embedding_rows(table, "fingerprint"), table["bias"].to_numpy()
        biases = query_bank_biases(np.concatenate(bank), rows, biases, settings.hubness)
        table = table.with_columns(bias=pl.Series(biases))
    return table, pl.concat(used)


def untrained_fingerprints(tables: EmbeddingTables, settings: FingerprintSettings) -> pl.DataFrame:
    """`fingerprint_table` of every SKU before anything is trained: the mean of its views, with its texts."""
    made = []
    for part in tables.parts(SKUS_AT_ONCE):
        views = part.views(settings.max_views)
        texts = catalog_texts(part, views, settings.max_views)
        rows = unit(mean_sku(views) + settings.catalog_text_weight * texts)
        made.append(fingerprint_table(views, rows, np.zeros(len(rows), np.float32)))
    return pl.concat(made)


def parts_left_out(settings: FingerprintSettings, known: GaussianModel | None, photos: int) -> list[str]:
    """Says which parts of the fingerprints the settings ask for and the number of training photos forbids."""
    told = []
    if settings.gaussian and known is None:
        told.append("the Gaussian part is switched off: there were too few training photos")
    if photos == 0:
        told.append("there are no training photos, so that fingerprints are made of catalog views alone")
        if settings.hubness:
            told.append("no bias against hubs: its bank would be the training photos")
    return told


def join_parts(
    aggregated: NDArray[np.float32],
    known: GaussianModel | None,
    views: ViewSet,
    photos: Queries,
    texts: NDArray[np.float32],
    settings: FingerprintSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(S, D) unit rows and (S,) biases of all that is known of a SKU.

    Args:
        aggregated: (S, D) the aggregator's unit rows.
        known: None where the settings have no Gaussian part.
        photos: `train` photos of these SKUs.
        texts: (S, D) unit rows of the catalog's texts, zero where a SKU has none.
    """
    rows, biases = aggregated, np.zeros(len(aggregated), np.float32)
    if settings.gaussian and known is not None:
        rows, biases = with_gaussian(known, views, photos, aggregated, settings.gaussian)
    if settings.catalog_text_weight:
        rows = unit(rows + settings.catalog_text_weight * texts)
    return rows, biases
