"""Runs the service: one uvicorn process."""

import socket
from math import ceil

import uvicorn

from skufp_pipeline.presets import Preset
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.store import ArtifactStore


def run(preset: Preset, store: ArtifactStore, listening: socket.socket) -> None:
    """Answers on a listening socket until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        create_app(preset, store),
        timeout_graceful_shutdown=ceil(preset.serving.drain_seconds),
        server_header=False,
        access_log=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listening])
