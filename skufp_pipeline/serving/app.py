"""Makes the service of a preset: its parts, its addresses, and what happens in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from skufp_pipeline.presets import Preset
from skufp_pipeline.serving.admission import Admission
from skufp_pipeline.serving.bodies import BodyLimits
from skufp_pipeline.serving.engines import EngineRoom
from skufp_pipeline.serving.paths import QuotedPaths
from skufp_pipeline.serving.photos import PhotoStore
from skufp_pipeline.serving.problems import RequestIds, handle_problems
from skufp_pipeline.serving.routes import docs, page, shoppers
from skufp_pipeline.serving.service import Service
from skufp_pipeline.store import ArtifactStore

MEGABYTE = 10**6  # bytes
PICTURES, PICTURE_SECONDS = 256, 5.0  # that wait, and how long at most


def create_app(preset: Preset, store: ArtifactStore) -> FastAPI:
    """The service of a preset over the indexes of a store; it opens them once it is started."""
    settings = preset.serving
    service = Service(
        preset=preset,
        store=store,
        settings=settings,
        rooms=EngineRoom(preset, store, settings.indexes),
        photos=PhotoStore(
            settings.photo_minutes,
            int(settings.photos_megabytes * MEGABYTE),
            settings.running + settings.waiting,
        ),
        admission=Admission(settings.running, settings.waiting, settings.queue_seconds),
        pictures=Admission(1, PICTURES, PICTURE_SECONDS),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(service))
        try:
            yield
        finally:
            watching.cancel()
            service.admission.close()
            service.pictures.close()

    app = FastAPI(title=settings.title, version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    handle_problems(app)
    for routes in (shoppers, docs, page):
        app.include_router(routes.router)
    # The last one added sees a request first.
    app.add_middleware(
        BodyLimits, upload_bytes=int(settings.photo_megabytes * MEGABYTE), seconds=settings.body_seconds
    )
    app.add_middleware(QuotedPaths)
    app.add_middleware(RequestIds)
    return app


async def _watch(service: Service) -> None:
    """Takes new versions into use and forgets old photos, for as long as the service runs."""
    while True:
        for name in service.rooms.names:
            await asyncio.to_thread(service.rooms.look, name)
        service.photos.forget_old()
        await asyncio.sleep(service.settings.watch_seconds)
