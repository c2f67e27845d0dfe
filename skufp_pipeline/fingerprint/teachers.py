"""Best-shot teachers: for each SKU the single view that retrieves its queries best (section 4.3).

The paper chooses with validation queries; here only `train` queries choose, so that no query that is scored
later has an influence. A SKU without such queries gets its medoid.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.fingerprint.views import ViewSet, mean_sku, view_centrality
from skufp_pipeline.measures.metrics import reciprocal_rank
from skufp_pipeline.measures.ranks import ranks


@dataclass(frozen=True)
class Teachers:
    """One teacher per SKU.

    Attributes:
        vectors: (S, D) unit rows.
        view: (S,) index of the chosen view.
        reciprocal_rank: (S,) its mean reciprocal rank as the SKU's only vector; nan for a medoid.
        num_queries: (S,) number of queries it was chosen with.
    """

    vectors: NDArray[np.float32]
    view: NDArray[np.int64]
    reciprocal_rank: NDArray[np.float64]
    num_queries: NDArray[np.int64]


@dataclass(frozen=True)
class Rivals:
    """The mean vectors that a view is tried against.

    Attributes:
        sku_ids: (N,) SKUs as Python strings, sorted.
        means: (N, D) unit rows.
    """

    sku_ids: NDArray[np.object_]
    means: NDArray[np.float32]

    @classmethod
    def of(cls, shards: Iterable[ViewSet]) -> "Rivals":
        """The SKUs of all shards; one shard's views are in memory at a time."""
        sku_ids: list[str] = []
        means = []
        for views in shards:
            sku_ids += views.sku_ids
            means.append(mean_sku(views))
        ids = np.array(sku_ids, object)
        order = np.argsort(ids)
        return cls(ids[order], np.concatenate(means)[order])

    def rows(self, views: ViewSet) -> NDArray[np.int64]:
        """(S,) rows of the SKUs of `views`."""
        return np.searchsorted(self.sku_ids, np.array(views.sku_ids, object))


def best_shot(
    views: ViewSet, queries: NDArray[np.float32], truth: NDArray[np.int64], rivals: Rivals | None = None
) -> Teachers:
    """Chooses each SKU's best view by mean reciprocal rank, then mean cosine, then order.

    Each view is tried as its SKU's only vector against the mean vectors of all other SKUs.

    Args:
        queries: (Q, D) unit rows of the queries to choose with.
        truth: (Q,) row of each query's SKU in `views`.
        rivals: of the whole catalogue if `views` are a part of it; by default these SKUs.
    """
    means = mean_sku(views) if rivals is None else rivals.means
    own = np.arange(len(views.sku_ids)) if rivals is None else rivals.rows(views)
    chosen = view_centrality(views).argmax(axis=1)
    reciprocal = np.full(len(chosen), np.nan)
    by_sku = np.argsort(truth, kind="stable")
    bounds = np.searchsorted(truth[by_sku], np.arange(len(chosen) + 1))
    for sku in np.flatnonzero(np.diff(bounds)).tolist():
        own_queries = queries[by_sku[bounds[sku] : bounds[sku + 1]]]
        scores = _reciprocal_ranks(own_queries, views.views[sku, views.mask[sku]], means, int(own[sku]))
        cosine = (own_queries @ views.views[sku, views.mask[sku]].T).mean(axis=0)
        chosen[sku] = np.lexsort((np.arange(len(scores)), -cosine, -scores.round(9)))[0]
        reciprocal[sku] = scores[chosen[sku]]
    vectors = views.views[np.arange(len(chosen)), chosen]
    return Teachers(vectors, chosen.astype(np.int64), reciprocal, np.diff(bounds))


def _reciprocal_ranks(
    queries: NDArray[np.float32], views: NDArray[np.float32], rivals: NDArray[np.float32], own: int
) -> NDArray[np.float64]:
    """(V,) mean reciprocal rank of each view as the only vector of SKU `own`."""
    scores, truth = queries @ rivals.T, np.full(len(queries), own)
    own_scores = queries @ views.T
    result = np.empty(own_scores.shape)
    for view in range(len(views)):
        scores[:, own] = own_scores[:, view]
        result[:, view] = reciprocal_rank(ranks(scores, truth))
    return result.mean(axis=0)
