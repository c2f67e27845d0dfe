"""What all requests of one service share."""

from dataclasses import dataclass

from fastapi import Request

from skufp_pipeline.presets import Preset
from skufp_pipeline.serving.admission import Admission
from skufp_pipeline.serving.engines import EngineRoom
from skufp_pipeline.serving.feedback import Feedback
from skufp_pipeline.serving.keys import Keys
from skufp_pipeline.serving.metrics import IndexState, Metrics, ServiceState
from skufp_pipeline.serving.photos import PhotoStore
from skufp_pipeline.serving.rules import Rules
from skufp_pipeline.serving.settings import ServingSettings
from skufp_pipeline.store import ArtifactStore


@dataclass
class Service:
    """The parts of a running service, at `app.state.service`.

    Attributes:
        admission: of searches.
        pictures: admission of what is short and asked for in numbers: the pictures of a page.
        draining: the service is about to stop; it still answers, but is not ready for more.
    """

    preset: Preset
    store: ArtifactStore
    settings: ServingSettings
    rooms: EngineRoom
    photos: PhotoStore
    admission: Admission
    pictures: Admission
    keys: Keys
    rules: Rules
    metrics: Metrics
    feedback: Feedback
    draining: bool = False

    def why_not_ready(self) -> str | None:
        """A sentence if further requests should go elsewhere, else None."""
        return "The service is stopping." if self.draining else self.rooms.why_not_ready()


def state_of(service: Service) -> ServiceState:
    """What the metrics show of the service at this moment."""
    indexes = tuple(
        IndexState(served.name, served.version, served.age_seconds, len(served.engine.index))
        for served in service.rooms.all
    )
    return ServiceState(
        service.admission.at_work,
        service.admission.in_queue,
        len(service.photos),
        service.photos.num_bytes,
        indexes,
        service.rooms.swaps,
        service.rooms.failed_swaps,
    )


def service_of(request: Request) -> Service:
    """The service that a request asks."""
    service: Service = request.app.state.service
    return service
