"""Runs the service: one uvicorn process, which ends on SIGTERM once its requests are answered."""

import asyncio
import signal
import socket
import time
from math import ceil
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from skufp_pipeline.presets import Preset
from skufp_pipeline.query.threads import share_processors, threads_of_one
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.serving.logs import configure_logs
from skufp_pipeline.serving.service import Service
from skufp_pipeline.store import ArtifactStore

HEADER_SECONDS = 10.0  # that the headers of a request may take to arrive; then the connection is closed


def run(preset: Preset, store: ArtifactStore, listening: socket.socket) -> None:
    """Answers on a listening socket until SIGTERM or SIGINT."""
    configure_logs()
    share_processors(threads_of_one(preset.serving.running))
    app = create_app(preset, store)
    config = uvicorn.Config(
        app,
        http=TimedHeaders,
        ws="none",
        timeout_graceful_shutdown=ceil(preset.serving.drain_seconds),
        server_header=False,
        proxy_headers=False,  # serving.proxies says whose are believed
        access_log=False,
        log_config=None,
    )
    Draining(config, app.state.service).run(sockets=[listening])


class Draining(uvicorn.Server):
    """On SIGTERM the service says that it is not ready, answers a little longer, and then ends.

    New requests may still arrive until a load balancer has seen that it is not ready. A second SIGTERM, or
    Ctrl-C, takes no new ones from then on.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service, self._ends_at = service, float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and not self._service.draining and self.started:
            self._service.draining = True
            self._ends_at = time.monotonic() + self._service.settings.notice_seconds
            return
        self._service.draining = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._ends_at and not self.should_exit:
            super().handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


class TimedHeaders(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """Closes a connection on which the headers of a request don't arrive in time; uvicorn itself would wait
    for ever."""

    def connection_made(self, transport: Any) -> None:
        self._closing: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _time(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._closing is None:
            self._closing = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
