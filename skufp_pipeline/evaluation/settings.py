"""Typed configuration of the retrieval report and of the evaluation checks."""

from pydantic import Field

from skufp_pipeline.settings import Settings


class Thresholds(Settings):
    """Thresholds of the evaluation checks; null switches one off."""

    encoder_recall_low: float | None = None  # least image R@1 of Baseline 3 on seen+zero, else broken
    encoder_recall_high: float | None = None  # most, else the data set is too easy
    fingerprint_gain_seen: float | None = None  # least gain in image R@1 over mean-SKU
    fingerprint_gain_zero_low: float | None = None  # least lower end of the gain's interval
    absent_told: float | None = None  # least share of photos of absent products whose verdict is none
    present_rejected: float | None = None  # most of photos of present products; both on seen+zero
    index_coverage: float = Field(0.95, ge=0, le=1)  # of the catalogue's SKUs that an index must hold
    index_recall_drop: float | None = 0.02  # in R@1 of development queries, from the index in use
    rows_left_out: float = Field(
        0.02, ge=0, le=1
    )  # share of a catalogue's wanted rows that may be unreadable
    skus_removed: float = Field(0.2, ge=0, le=1)  # share of the SKUs in use that a catalogue may lack at once
    skipped_fraction: float = Field(0.05, ge=0, le=1)  # of crops that may be undecodable
    search_p95_ms: float = Field(50.0, gt=0)  # one query at a time, search alone


class EvaluationSettings(Settings):
    """The retrieval report (App. A)."""

    resamples: int = Field(2000, ge=100)  # of the paired bootstrap
    latency_queries: int = Field(200, ge=1)
    stage_queries: int = Field(2500, ge=1)  # photos on which stages and verdicts of a query are judged
    batch: int = Field(64, ge=1)  # queries of a batched search
    grid_queries: int = Field(8, ge=1)  # rows of the results grid
    duplicate_threshold: float | None = Field(0.98, gt=0, le=1)  # a cosine; null: not counted
    thresholds: Thresholds = Thresholds()


class LensSettings(Settings):
    """The comparison of extractors by cross-validation (docs/lens.md)."""

    folds: int = Field(5, ge=2)  # parts of the products; a fold's own are left out of its training
    # With more products than this, one fold alone is judged, so that a training is repeated once
    cross_validated: int = Field(2000, ge=0)
    most_asked: int = Field(2000, ge=1)  # products of a fold that are asked for, and of the others, as many
    resamples: int = Field(2000, ge=100)  # of the bootstrap over products
    latency_queries: int = Field(100, ge=1)

    def judged_folds(self, products: int) -> int:
        """Returns how many of the folds are trained and judged."""
        return self.folds if products <= self.cross_validated else 1
