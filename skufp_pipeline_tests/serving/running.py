"""Real services on loopback: in a thread of the test, or as a process."""

import io
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.serving.server import Draining, TimedHeaders
from skufp_pipeline.serving.settings import ServingSettings
from skufp_pipeline.store import ArtifactStore

from ..graphs import command, environment
from ..search.conftest import publish_encoder, publish_index
from ..test_webserver import free_port

PATIENCE = 300.0  # seconds; the machine may be busy


def tiny_preset(store: ArtifactStore, **serving: Any) -> Preset:
    """A preset over a store of the tests' own; it looks at versions twenty times a second, and its rates let
    every test through."""
    rates = {"rate": "10000/second", "upload_rate": "10000/second"}
    settings = ServingSettings(**{"watch_seconds": 0.05, "notice_seconds": 0.0, **rates, **serving})
    changes = {
        "data_root": store.root,
        "serving": settings,
        "query_encoder": QueryEncoderSettings(engine="pytorch"),
    }
    return load_preset("ci").model_copy(update=changes)


def publish(store: ArtifactStore, index: FingerprintIndex, encoder: Encoder, version: str) -> None:
    """Puts a version of the index and its encoder in use."""
    publish_index(store, index, version, publish_encoder(store, encoder))


@contextmanager
def serving(preset: Preset, ready: bool = True) -> Iterator[tuple[httpx.Client, FastAPI]]:
    """A client of a service in a thread, and its app; `ready` waits for its indexes."""
    app = create_app(preset, ArtifactStore(preset.data_root))
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, http=TimedHeaders, ws="none", log_level="warning", access_log=False
    )
    server = Draining(config, app.state.service)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the server has started")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            if ready:
                until(lambda: app.state.service.why_not_ready() is None, "the index is open")
            yield client, app
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def process(preset_file: Path, log: Path, *words: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`skufp serve` as a process, and its port, once it answers."""
    port = free_port()
    with log.open("w") as stream:
        started = subprocess.Popen(
            command("serve", "--preset", preset_file, "--port", str(port), *words),
            env=environment(),
            stdout=stream,
            stderr=stream,
        )
        try:
            until(lambda: _indexes(port) or started.poll() is not None, f"ready: {log.read_text()}")
            assert started.poll() is None, log.read_text()
            yield started, port
        finally:
            started.send_signal(signal.SIGKILL)
            started.wait(PATIENCE)


def until(true: Any, what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.01)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def uploaded(client: httpx.Client, content: bytes) -> dict[str, Any]:
    """The answer to the upload of a photo."""
    answer = client.post("/v1/photos", files={"photo": content})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response, status: int) -> str:
    """The sentence with which a request was refused."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["request_id"] == answer.headers["x-request-id"]
    detail: str = told["detail"]
    return detail


def _indexes(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/v1/service").json()["indexes"])
    except httpx.HTTPError:
        return False
