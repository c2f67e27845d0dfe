"""Metrics of the service, in Prometheus' text format."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from skufp_pipeline.serving.record import UNMATCHED, Record

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


class IndexState(NamedTuple):
    """An index in use: its name and version, its age in seconds and its number of SKUs."""

    name: str
    version: str
    age_seconds: float
    skus: int


class ServiceState(NamedTuple):
    """What is measured when the metrics are read: searches that run and wait, photos kept, indexes in use;
    by index, how many versions came into use and how many could not be opened."""

    running: int
    waiting: int
    photos: int
    photo_bytes: int
    indexes: tuple[IndexState, ...]
    swaps: Mapping[str, int]
    failed_swaps: Mapping[str, int]


class Metrics:
    """Counters and histograms of requests, and gauges of the service's state.

    Args:
        state: asked each time the metrics are read.
    """

    content_type = CONTENT_TYPE

    def __init__(self, state: Callable[[], ServiceState]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Gauges(state))
        self._requests = self._histogram(
            "skufp_request_seconds", "Requests, from the first line to the last byte of the answer.",
            ("method", "route", "status"),
        )  # fmt: skip
        self._stages = self._histogram("skufp_stage_seconds", "Stages of a search.", ("stage",))
        self._refused = self._counter("skufp_refused", "Requests that were refused.", ("reason",))
        self._verdicts = self._counter("skufp_verdicts", "Answers by their verdict.", ("index", "verdict"))
        self._thumbs = self._counter("skufp_thumbs", "Shoppers' thumbs.", ("good",))

    def observe(self, record: Record) -> None:
        """Counts a request that has ended."""
        method = record.method if record.method in METHODS else "other"
        self._requests.labels(method, record.route, record.status).observe(record.milliseconds / 1000)
        if record.route == UNMATCHED:
            return
        for stage, milliseconds in record.stages.items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if record.refused is not None:
            self._refused.labels(record.refused).inc()
        if record.index is not None and record.verdict is not None:
            self._verdicts.labels(record.index, record.verdict).inc()

    def thumb(self, good: bool) -> None:
        self._thumbs.labels(str(good).lower()).inc()

    def text(self) -> bytes:
        """All metrics as `content_type` has them."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, what: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, what, labels, buckets=SECONDS, registry=self.registry)

    def _counter(self, name: str, what: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, what, labels, registry=self.registry)


class _Gauges(Collector):
    """Gauges of the state at the time of reading."""

    def __init__(self, state: Callable[[], ServiceState]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return []  # the state is not asked for before the service has started

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        yield GaugeMetricFamily("skufp_searches_running", "Searches at work.", state.running)
        yield GaugeMetricFamily("skufp_searches_waiting", "Searches in the queue.", state.waiting)
        yield GaugeMetricFamily("skufp_photos_kept", "Uploaded photos in memory.", state.photos)
        yield GaugeMetricFamily("skufp_photos_kept_bytes", "Bytes of the same.", state.photo_bytes)
        age = GaugeMetricFamily(
            "skufp_index_age_seconds", "Since the version in use was built.", labels=("index",)
        )
        skus = GaugeMetricFamily("skufp_index_skus", "SKUs that are searched.", labels=("index",))
        version = GaugeMetricFamily("skufp_index_info", "The version in use.", labels=("index", "version"))
        for index in state.indexes:
            age.add_metric((index.name,), index.age_seconds)
            skus.add_metric((index.name,), index.skus)
            version.add_metric((index.name, index.version), 1)
        yield from (age, skus, version)
        for name, what, counts in (
            ("skufp_swaps", "Versions of an index that came into use.", state.swaps),
            ("skufp_failed_swaps", "Versions of an index that could not be opened.", state.failed_swaps),
        ):
            family = CounterMetricFamily(name, what, labels=("index",))
            for index_name, count in counts.items():
                family.add_metric((index_name,), count)
            yield family
