"""The engines that answer, one an index; a new version is opened beside the old one and replaces it whole."""

import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import Literal

import numpy as np
from PIL import Image

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.photos import open_photo, reduced
from skufp_pipeline.presets import Preset
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.query.threads import threads_of_one
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.facets import column_facets
from skufp_pipeline.serving.problems import Refusal
from skufp_pipeline.serving.rules import Rule, apply_rules
from skufp_pipeline.serving.schemas import ColumnFacet
from skufp_pipeline.store import Artifact, ArtifactStore
from skufp_pipeline.training.device import pick_device

CACHED_PICTURES = 1024  # of one version, some kB each
_QUALITY = 85

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """What answers one request from its start to its end: a version of an index.

    Attributes:
        engine: with the rules of operators.
        created: when the version was built.
        plain: the engine without rules; None before they were applied.
        moved: pin or bury, by SKU.
        unused: SKUs with a rule that the version lacks.
        opened: when the service began to answer with it.
    """

    name: str
    version: str
    engine: QueryEngine
    artifact: Artifact
    created: datetime
    plain: QueryEngine | None = None
    moved: Mapping[str, Literal["pin", "bury"]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    opened: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def age_seconds(self) -> float:
        """Since the version was built."""
        return (datetime.now(UTC) - self.created).total_seconds()

    def by(self, rules: Mapping[str, Rule]) -> "Served":
        """The same version with these rules."""
        plain = self.plain or self.engine
        applied = apply_rules(plain, rules)
        return replace(self, engine=applied.engine, plain=plain, moved=applied.moved, unused=applied.unused)

    @cached_property
    def facets(self) -> list[ColumnFacet]:
        """What a search can be narrowed by."""
        return column_facets(self.engine.index)

    @cached_property
    def picture(self) -> Callable[[str, int | None, bool], bytes | None]:
        """Pictures of SKUs by id, size and kind: see `picture_of`."""
        return lru_cache(CACHED_PICTURES)(partial(picture_of, self.engine))


@dataclass(frozen=True)
class Failed:
    """A version that could not be opened, and why."""

    version: str
    reason: str
    when: datetime


class EngineRoom:
    """The indexes of the service, by name.

    Attributes:
        failed: by index, the version in use in the store that can't be opened; the one before answers on.
        swaps, failed_swaps: by index, how many versions came into use and could not be opened.
        rules: of operators, by SKU; `follow` changes them.
    """

    def __init__(
        self,
        preset: Preset,
        store: ArtifactStore,
        names: Sequence[str],
        rules: Mapping[str, Rule] | None = None,
    ) -> None:
        self.swaps: Counter[str] = Counter()
        self.failed_swaps: Counter[str] = Counter()
        self.rules = rules or {}
        self._lock = Lock()  # of `_served` with `rules`
        self.store = store
        self.names = tuple(names)
        self.failed: dict[str, Failed] = {}
        self._preset = preset
        self._served: dict[str, Served] = {}
        self._opening = Lock()

    @property
    def all(self) -> list[Served]:
        """Every index that is open."""
        return [self._served[name] for name in self.names if name in self._served]

    def served(self, name: str | None) -> Served:
        """What answers for an index now, by default the first. Raises a Refusal: 404 for an unknown name, 503
        before it is open."""
        name = name or self.names[0]
        if name not in self.names:
            raise Refusal(404, f"there is no index {name!r} here; there is {', '.join(self.names)}")
        found = self._served.get(name)
        if found is None:
            raise Refusal(503, self.why_not_ready(name) or "", {"Retry-After": "5"})
        return found

    def why_not_ready(self, *names: str) -> str | None:
        """What the first index that is not open waits for, of these or of all; None if all are."""
        for name in names or self.names:
            if name not in self._served:
                failed = self.failed.get(name)
                if failed is not None:
                    return f"the index {name!r} can't be opened: {failed.reason}"
                return f"the index {name!r} is not ready yet; it answers as soon as it is published and open"
        return None

    def look(self, name: str, again: bool = False) -> None:
        """Opens the version in use if it is another one than is served; takes seconds.

        Args:
            again: try even a version that could not be opened before.
        """
        with self._opening:
            self._look(name, again)

    def _look(self, name: str, again: bool) -> None:
        served, failed = self._served.get(name), self.failed.get(name)
        version = "?"
        try:
            found = Versions(self.store, name).in_use
            if found is None or (served is not None and served.version == found):
                self.failed.pop(name, None)
                return
            version = found
            if failed is not None and failed.version == version and not again:
                return
            opened = self._opened(name, version)
            with self._lock:
                self._served[name] = opened.by(self.rules)
            self.swaps[name] += 1
            self.failed.pop(name, None)
        except Exception as error:
            self.failed_swaps[name] += 1
            reason = str(error) if isinstance(error, UserError) else in_a_line(error)
            if failed is None or (failed.version, failed.reason) != (version, reason):
                log.exception("index %s: version %s can't be opened", name, version)
            self.failed[name] = Failed(version, reason, datetime.now(UTC))

    def follow(self, rules: Mapping[str, Rule]) -> None:
        """Answers by these rules from now on; takes a moment, for a thread."""
        with self._lock:
            self._served |= {name: served.by(rules) for name, served in self._served.items()}
            self.rules = rules

    def _opened(self, name: str, version: str) -> Served:
        """A version that has answered a photo and a text and finds its own SKUs."""
        device = pick_device(self._preset.compute.device)
        threads = threads_of_one(self._preset.serving.running)
        key = Versions(self.store, name).key(version)
        artifact, created = self.store.read(key), self.store.written(key)
        engine = QueryEngine.open(
            self.store, device, self._preset.query_encoder, name=name, version=version, threads=threads
        )
        probe(engine.index)
        warm_up(engine)
        return Served(name, version, engine, artifact, created)


def picture_of(engine: QueryEngine, sku_id: str, size: int | None, explained: bool) -> bytes | None:
    """The JPEG of a SKU, at most `size` pixels a side; None if the index has none.

    `explained` is the picture that explanations are of.
    """
    if not engine.index.known_skus([sku_id])[0].count:
        return None  # an operator hides it
    found = engine.explained_picture(sku_id) if explained else engine.picture(sku_id)
    if found is None or size is None:
        return found
    image = open_photo(found)
    if max(image.size) <= size:
        return found
    buffer = io.BytesIO()
    reduced(image, size).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def probe(index: FingerprintIndex) -> None:
    """Raises UserError unless SKUs of an index are found by their own fingerprints, or by their pictures."""
    sku_ids = index.sku_ids
    for place in sorted({0, len(sku_ids) // 2, len(sku_ids) - 1} if len(sku_ids) else ()):
        sku_id = sku_ids[place]
        rows = index.of_skus([sku_id])
        (row,) = rows.numbers().tolist()
        (fingerprint,) = index.fingerprints_of([sku_id])
        if isinstance(index, ImageIndex):  # the mean of pictures is none of them
            fingerprint = index.vectors[index.starts[row]]
        own = 1 + float(index.biases[row])
        (alone,), (best,) = index.search(fingerprint, 1, rows), index.search(fingerprint, 1)
        # With biases, or of twins, another one may be above it.
        is_found = alone.rows.tolist() == [row] and abs(alone.scores[0] - own) < 1e-4
        if not (is_found and np.isfinite(best.scores[0]) and best.scores[0] >= alone.scores[0]):
            raise UserError(f"SKU {sku_id!r} does not find itself in this version; build search_index again")


def warm_up(engine: QueryEngine) -> None:
    """Asks a photo, and a text where texts are read, so that the first customer does not pay for imports and
    compilers.

    Raises UserError if an answer has a score that is not finite.
    """
    if not len(engine.index):
        return
    photo = engine.picture(engine.index.sku_ids[0])
    if photo is None:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(buffer, "PNG")
        photo = buffer.getvalue()
    wishes = [Wish(photos=[photo]), *([Wish(text="a")] if engine.reads_words else [])]
    for wish in wishes:
        hits = engine.search(wish, 1).hits
        if not all(np.isfinite(hit.score) for hit in hits):
            raise UserError("this version answers with scores that are not finite; build search_index again")
