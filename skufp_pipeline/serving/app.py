"""Makes the service of a preset: its parts, its addresses, and what happens in the background."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from skufp_pipeline.presets import Preset
from skufp_pipeline.serving.admission import Admission
from skufp_pipeline.serving.bodies import BodyLimits
from skufp_pipeline.serving.engines import EngineRoom
from skufp_pipeline.serving.feedback import Feedback
from skufp_pipeline.serving.gate import Gate
from skufp_pipeline.serving.headers import SecurityHeaders
from skufp_pipeline.serving.keys import Keys
from skufp_pipeline.serving.logs import log_request
from skufp_pipeline.serving.metrics import Metrics
from skufp_pipeline.serving.paths import QuotedPaths
from skufp_pipeline.serving.photos import PhotoStore
from skufp_pipeline.serving.problems import RequestIds, handle_problems
from skufp_pipeline.serving.record import Recorder
from skufp_pipeline.serving.routes import docs, health, operators, page, shoppers
from skufp_pipeline.serving.rules import Rules
from skufp_pipeline.serving.schemas import Problem
from skufp_pipeline.serving.service import Service, state_of
from skufp_pipeline.serving.traces import tracers
from skufp_pipeline.store import ArtifactStore

log = logging.getLogger(__name__)
MEGABYTE = 10**6  # bytes
PICTURES, PICTURE_SECONDS = 256, 5.0  # that wait, and how long at most


def create_app(preset: Preset, store: ArtifactStore) -> FastAPI:
    """The service of a preset over the indexes of a store; it opens them once it is started."""
    settings = preset.serving
    rules = Rules(store)
    service = Service(
        preset=preset,
        store=store,
        settings=settings,
        rooms=EngineRoom(preset, store, settings.indexes, rules.by_sku),
        photos=PhotoStore(
            settings.photo_minutes,
            int(settings.photos_megabytes * MEGABYTE),
            settings.running + settings.waiting,
        ),
        admission=Admission(settings.running, settings.waiting, settings.queue_seconds),
        pictures=Admission(1, PICTURES, PICTURE_SECONDS),
        keys=Keys(None if settings.keys is None else Path(settings.keys)),
        rules=rules,
        metrics=Metrics(lambda: state_of(service)),
        feedback=Feedback(store, settings.feedback),
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
            await asyncio.to_thread(service.feedback.flush)

    app = FastAPI(
        title=settings.title,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    handle_problems(app)
    for routes in (shoppers, operators, health, docs, page):
        app.include_router(routes.router)
    # The last one added sees a request first.
    app.add_middleware(
        BodyLimits, upload_bytes=int(settings.photo_megabytes * MEGABYTE), seconds=settings.body_seconds
    )
    app.add_middleware(QuotedPaths)
    app.add_middleware(Gate, keys=service.keys, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Index-Version", "Retry-After"],
        )
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.proxies)
    app.add_middleware(Recorder, observers=[log_request, service.metrics.observe, *tracers()])
    app.add_middleware(SecurityHeaders, origins=settings.origins)
    app.add_middleware(RequestIds)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the body of every refusal."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        app.openapi_schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return app.openapi_schema


async def _watch(service: Service) -> None:
    """Takes new versions into use and forgets old photos, for as long as the service runs."""
    while True:
        await asyncio.to_thread(_tend, service)
        service.photos.forget_old()
        await asyncio.sleep(service.settings.watch_seconds)


def _tend(service: Service) -> None:
    """Looks once at what may have changed in the store."""
    try:
        for name in service.rooms.names:
            service.rooms.look(name)
        service.rules.read_again()
        if service.rooms.rules != service.rules.by_sku:
            service.rooms.follow(service.rules.by_sku)
        service.feedback.flush_old()
    except Exception:  # the next look may find the store in order again
        log.exception("the store can't be looked at")
