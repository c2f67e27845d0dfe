"""What each stage of a query adds and takes: R@1 with and without it, and its time, photo by photo.

Every photo is asked as a search asks it, one at a time. Stages are in the order in which a photo passes them;
a stage's difference is paired with the same photos without it, the stages before it being on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.evaluation.latency import statistics_ms
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.evaluation.regions import DETECTED, TAPPED
from skufp_pipeline.evaluation.report import Stage
from skufp_pipeline.measures.bootstrap import percentile_interval, resampled_means
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.progress import Progress
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.confidence import SecondLooks
from skufp_pipeline.query.engine import EmbeddedPhoto, QueryEngine, read_photo
from skufp_pipeline.query.look_twice import SecondLook
from skufp_pipeline.search.index import SearchResult
from skufp_pipeline.search.rows import Rows

FINGERPRINT, POLICY, LOOK_TWICE = "fingerprint", "policy", "look_twice"
_PARTS = {  # of a query's clock that belong to a stage
    FINGERPRINT: ("decode", "preprocess", "encode", "search"),
    POLICY: ("policy", "encode_again"),
    LOOK_TWICE: ("look_twice",),
}


@dataclass(frozen=True)
class AskedPhoto:
    """A photo, the SKU that it shows, and that SKU's split."""

    path: Path
    sku_id: str
    split: str


class EmbeddedPhotos(NamedTuple):
    """Photos as a search embeds them, and the clocks of their queries."""

    photos: Sequence[AskedPhoto]
    embedded: Sequence[EmbeddedPhoto]
    clocks: Sequence[Clock]

    def table(self) -> pl.DataFrame:
        """`sku_id`, `split` and `embedding`, without the policy, of each."""
        rows = np.concatenate([found.plain for found in self.embedded])
        named = {name: [getattr(photo, name) for photo in self.photos] for name in ("sku_id", "split")}
        return pl.DataFrame(named).with_columns(embedding_column(rows))

    def seen(self, engine: QueryEngine) -> SecondLooks | None:
        """The second look at them; None without one."""
        patches = [found.patches for found in self.embedded if found.patches is not None]
        return None if engine.look_twice is None else SecondLooks(engine.look_twice, np.stack(patches))


def embed_photos(
    engine: QueryEngine, photos: Sequence[AskedPhoto], progress: Progress | None = None
) -> EmbeddedPhotos:
    """Reads and embeds photos one at a time, as a search does."""
    clocks, embedded = [], []
    for number, photo in enumerate(photos, 1):
        clock = Clock()
        image = read_photo(photo.path)
        clock.lap("decode")
        embedded.append(engine.embed_image(image, clock))
        clocks.append(clock)
        if progress is not None:
            progress(number, len(photos))
    return EmbeddedPhotos(photos, embedded, clocks)


def judge_stages(engine: QueryEngine, asked: EmbeddedPhotos, seed: int, resamples: int) -> list[Stage]:
    """Judges every stage that the engine has, in each setting that has photos and SKUs of its splits."""
    photos, embedded, clocks = asked
    index, rows = engine.index, []
    truth = right_items([photo.sku_id for photo in photos], index.skus["sku_id"])
    for setting, splits in SETTING_SPLITS.items():
        known = [split for split in splits if (index.skus["split"] == split).any()]
        mine = [number for number, photo in enumerate(photos) if photo.split in splits]
        if known and mine:
            within = index.where(split=known)
            hits, asked_clocks = _hits(engine, embedded, truth, mine, within, clocks)
            skus = np.array([photos[number].sku_id for number in mine])
            spent = {stage: [_spent(clock, stage) for clock in asked_clocks] for stage in hits}
            rows += stage_rows(setting, hits, skus, spent, seed, resamples)
    return rows


def region_stages(table: pl.DataFrame, times: Mapping[str, float]) -> list[Stage]:
    """The regions of a detection report (`evaluation.regions`) as rows beside the stages: the first is what
    the differences of the others are from.

    Args:
        table: `setting`, `region`, `photos`, `recall@1`, `delta`, `low`, `high`.
        times: `p50_ms` and `p95_ms` of the detector, which finds the regions that are not given.
    """
    rows = []
    for row in table.iter_rows(named=True):
        finds = row["region"] in (DETECTED, TAPPED)
        is_first = row["region"] == table.filter(setting=row["setting"])["region"][0]
        rows.append(
            Stage(
                stage=f"region: {row['region']}",
                setting=row["setting"],
                queries=row["photos"],
                delta=None if is_first else (row["delta"], row["low"], row["high"]),
                **{"recall@1": row["recall@1"]},
                **{name: times[name] if finds else 0.0 for name in ("p50_ms", "p95_ms")},
            )
        )
    return rows


def _hits(
    engine: QueryEngine,
    embedded: Sequence[EmbeddedPhoto],
    truth: NDArray[np.int64],
    asked: Sequence[int],
    within: Rows,
    clocks: Sequence[Clock],
) -> tuple[dict[str, NDArray[np.float64]], list[Clock]]:
    """(Q,) whether the right SKU is first after each stage, by stage; and the clocks of the Q queries."""
    hits: dict[str, list[bool]] = {FINGERPRINT: []}
    hits |= {POLICY: []} if engine.policy is not None else {}
    hits |= {LOOK_TWICE: []} if engine.look_twice is not None else {}
    timed = []
    for number in asked:
        found, right = embedded[number], truth[number]
        hits[FINGERPRINT].append(bool(engine.index.search(found.plain, 1, within)[0].rows[0] == right))
        clock = clocks[number].resumed()  # a photo is asked in several settings
        timed.append(clock)
        first = engine.first_pass(found, 1, within)
        clock.lap("search")
        if POLICY in hits:
            hits[POLICY].append(bool(first.rows[0] == right))
        if LOOK_TWICE in hits:
            second = second_look(engine, first, found)
            clock.lap("look_twice")
            hits[LOOK_TWICE].append(bool(second.rows[0] == right))
    return {stage: np.array(values, dtype=np.float64) for stage, values in hits.items()}, timed


def second_look(engine: QueryEngine, first: SearchResult, photo: EmbeddedPhoto) -> SearchResult | SecondLook:
    """The result after the second look, where the engine has one and the photo patches."""
    if engine.look_twice is None or photo.patches is None:
        return first
    return engine.look_twice.again(first, photo.patches)


def _spent(clock: Clock, stage: str) -> float:
    return sum(clock.milliseconds.get(part, 0.0) for part in _PARTS[stage])


def stage_rows(
    setting: str,
    hits: Mapping[str, NDArray[np.float64]],
    skus: NDArray[Any],
    spent: Mapping[str, Sequence[float]],
    seed: int,
    resamples: int,
    beside: Collection[str] = (),
) -> list[Stage]:
    """Returns the report's rows of Q photos, one a stage.

    Args:
        hits: (Q,) whether the right SKU is first after each stage, the first stage first.
        skus: (Q,) the right SKU of each.
        spent: (Q,) milliseconds of each stage.
        beside: stages that the next one does not follow; it is compared with what is before them.
    """
    rows, before = [], None
    for stage, values in hits.items():
        delta = None
        if before is not None:
            gain = (values - before)[:, None]
            ends = percentile_interval(resampled_means(gain, skus, resamples, seed)[:, 0])
            delta = (float(gain.mean()), float(ends[0]), float(ends[1]))
        times = statistics_ms(spent[stage])
        figures = {"p50_ms": times["p50_ms"], "p95_ms": times["p95_ms"]}
        recall = {"recall@1": float(values.mean())}
        rows.append(
            Stage(stage=stage, setting=setting, queries=len(values), delta=delta, **recall, **figures)
        )
        before = before if stage in beside else values
    return rows
