"""Makes one vector per SKU from the aggregator, the Gaussian model and the catalog's texts."""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import TRAIN, is_synthetic
from skufp_pipeline.encoders.tables import embedding_rows, stood_in, used_queries
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble, fingerprints
from skufp_pipeline.fingerprint.gaussian import GaussianModel, with_gaussian
from skufp_pipeline.fingerprint.hubness import query_bank_biases
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    Queries,
    catalog_texts,
    fingerprint_table,
    synthetic_means,
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
    made, used, synthetic = [], [], settings.synthetic
    for part in tables.parts(SKUS_AT_ONCE):
        views = part.views(settings.max_views)
        photos, used_here = training_photos(part, views, synthetic.photo_weight if known else 0.0)
        aggregated = fingerprints(aggregator, views, device)
        texts = catalog_texts(part, views, settings.max_views)
        used.append(used_here)
        shown = None
        if synthetic.view_weight:
            shown, viewed = synthetic_means(part, views, synthetic.viewed)
            used.append(viewed)
        rows, biases = join_parts(aggregated, known, views, photos, texts, settings, shown)
        made.append(fingerprint_table(views, rows, biases))
    table = pl.concat(made)
    bank, _ = tables.with_stand_ins(synthetic.hubness).queries(TRAIN)
    bank = bank.filter(pl.col("sku_id").is_in(table["sku_id"].implode()))
    if settings.hubness and bank.height:
        rows, biases = embedding_rows(table, "fingerprint"), table["bias"].to_numpy()
        biases = query_bank_biases(embedding_rows(bank), rows, biases, settings.hubness)
        table = table.with_columns(bias=pl.Series(biases))
        used.append(used_queries(bank, TRAIN))
    return table, pl.concat(used).unique(maintain_order=True)


def untrained_fingerprints(tables: EmbeddingTables, settings: FingerprintSettings) -> pl.DataFrame:
    """`fingerprint_table` of every SKU before anything is trained: the mean of its views, with its texts."""
    made = []
    for part in tables.parts(SKUS_AT_ONCE):
        views = part.views(settings.max_views)
        texts = catalog_texts(part, views, settings.max_views)
        rows = unit(mean_sku(views) + settings.catalog_text_weight * texts)
        made.append(fingerprint_table(views, rows, np.zeros(len(rows), np.float32)))
    return pl.concat(made)


def parts_left_out(
    settings: FingerprintSettings, known: GaussianModel | None, used: pl.DataFrame
) -> list[str]:
    """Says what the settings ask for and the training photos in `used` (`USED_SCHEMA`) forbid.

    Says as well where synthetic photos were taken.
    """
    told = [*filter(None, [stood_in(used)])]
    if settings.gaussian and known is None:
        told.append("the Gaussian part is switched off: there were too few training photos")
    if used.is_empty():
        told.append("there are no training photos, so that fingerprints are made of catalog views alone")
    has_photos = not used.filter(~is_synthetic("query_id")).is_empty()
    if settings.hubness and not (has_photos or settings.synthetic.hubness):
        told.append("no bias against hubs: its bank would be the training photos")
    return told


def join_parts(
    aggregated: NDArray[np.float32],
    known: GaussianModel | None,
    views: ViewSet,
    photos: Queries,
    texts: NDArray[np.float32],
    settings: FingerprintSettings,
    shown: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(S, D) unit rows and (S,) biases of all that is known of a SKU.

    Args:
        aggregated: (S, D) the aggregator's unit rows.
        known: None where the settings have no Gaussian part.
        photos: `train` photos of these SKUs.
        texts: (S, D) unit rows of the catalog's texts, zero where a SKU has none.
        shown: (S, D) unit rows of synthetic photos, zero where a SKU has none; None: of no SKU.
    """
    rows, biases = aggregated, np.zeros(len(aggregated), np.float32)
    if settings.gaussian and known is not None:
        rows, biases = with_gaussian(known, views, photos, aggregated, settings.gaussian)
    if settings.catalog_text_weight or shown is not None:
        rows = rows + settings.catalog_text_weight * texts
        rows = unit(rows if shown is None else rows + settings.synthetic.view_weight * shown)
    return rows, biases
