"""The engines that answer, one an index; a new version is opened beside the old one and replaces it whole."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.presets import Preset
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.admission import threads_of_one
from skufp_pipeline.serving.problems import Refusal
from skufp_pipeline.store import Artifact, ArtifactStore
from skufp_pipeline.training.device import pick_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """What answers one request from its start to its end: a version of an index.

    Attributes:
        opened: when the service began to answer with it.
    """

    name: str
    version: str
    engine: QueryEngine
    artifact: Artifact
    opened: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Failed:
    """A version that could not be opened, and why."""

    version: str
    reason: str
    when: datetime


class EngineRoom:
    """The indexes of the service, by name.

    Attributes:
        failed: by index, the version in the store that could not be opened; the one before answers on.
    """

    def __init__(self, preset: Preset, store: ArtifactStore, names: Sequence[str]) -> None:
        self.store = store
        self.names = tuple(names)
        self.failed: dict[str, Failed] = {}
        self._preset = preset
        self._served: dict[str, Served] = {}

    @property
    def all(self) -> list[Served]:
        """Every index that is open."""
        return [self._served[name] for name in self.names if name in self._served]

    def served(self, name: str) -> Served:
        """What answers for an index now. Raises a Refusal: 404 for an unknown name, 503 before it is open."""
        if name not in self.names:
            raise Refusal(404, f"There is no index {name!r} here; there is {', '.join(self.names)}.")
        found = self._served.get(name)
        if found is None:
            raise Refusal(503, self.why_not_ready() or "", {"Retry-After": "5"})
        return found

    def why_not_ready(self) -> str | None:
        """What the first index that is not open waits for; None if all are."""
        for name in self.names:
            if name not in self._served:
                failed = self.failed.get(name)
                if failed is not None:
                    return f"The index {name!r} can't be opened: {failed.reason}"
                return f"The index {name!r} is not ready yet; it is used as soon as it is published."
        return None

    def look(self, name: str, again: bool = False) -> None:
        """Opens the version in use if it is another one than is served; takes seconds, for a thread.

        Args:
            again: try even a version that could not be opened before.
        """
        version = Versions(self.store, name).in_use
        served, failed = self._served.get(name), self.failed.get(name)
        if version is None or (served is not None and served.version == version):
            self.failed.pop(name, None)
            return
        if failed is not None and failed.version == version and not again:
            return
        try:
            self._served[name] = self._opened(name, version)
            self.failed.pop(name, None)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else in_a_line(error)
            self.failed[name] = Failed(version, reason, datetime.now(UTC))
            log.exception("index %s: version %s can't be opened", name, version)

    def _opened(self, name: str, version: str) -> Served:
        device = pick_device(self._preset.compute.device)
        threads = threads_of_one(self._preset.serving.running)
        engine = QueryEngine.open(
            self.store, device, self._preset.query_encoder, name=name, version=version, threads=threads
        )
        return Served(name, version, engine, self.store.read(Versions(self.store, name).key(version)))
