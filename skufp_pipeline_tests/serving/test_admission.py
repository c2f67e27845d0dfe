"""How many searches run and wait, and what is told to the others."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.serving.admission import Admission
from skufp_pipeline.store import ArtifactStore

from .running import refused, serving, tiny_preset, until

BODY = b'{"text": "a"}'


class Held:
    """Searches of "a" that last until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go = 0, threading.Event()
        search = QueryEngine.search

        def held(*arguments, **named):  # type: ignore[no-untyped-def]
            self.begun += 1
            self.let_go.wait(60)
            return search(*arguments, **named)

        monkeypatch.setattr(QueryEngine, "search", held)


@pytest.fixture
def busy(
    tiny: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[httpx.Client, Admission, Held]]:
    """A service in which one search runs, and one may wait."""
    with serving(tiny_preset(tiny, running=1, waiting=1, queue_seconds=30)) as (client, app):
        held = Held(monkeypatch)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/v1/search", json={"text": "a"})
            until(lambda: held.begun == 1, "the first search runs")
            yield client, app.state.service.admission, held
            held.let_go.set()
            assert first.result().status_code == 200


def test_one_more_than_may_wait_is_refused_at_once_and_other_requests_pass(
    busy: tuple[httpx.Client, Admission, Held],
) -> None:
    client, admission, held = busy
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/search", json={"text": "a"})
        until(lambda: admission.in_queue == 1, "the second search waits")
        started = time.monotonic()
        answer = client.post("/v1/search", json={"text": "a"})
        assert time.monotonic() - started < 5  # not the 30 s of the queue; benchmarks/serve.py measures it
        assert refused(answer, 429) == "The service is busy; ask again in 30 s."
        assert answer.headers["retry-after"] == "30"
        unread = client.post("/v1/search", content=b"{not json", headers={"Content-Type": "application/json"})
        assert refused(unread, 429) == refused(answer, 429)
        assert 'skufp_refused_total{reason="busy"} 2.0' in client.get("/metrics").text
        assert client.get("/v1/service").status_code == 200
        held.let_go.set()
        assert waiting.result().json()["ms"]["queue"] > 0
    assert (admission.in_queue, admission.at_work, held.begun) == (0, 0, 2)


def test_a_search_of_a_client_that_went_away_never_begins(
    busy: tuple[httpx.Client, Admission, Held],
) -> None:
    client, admission, held = busy
    kind = f"Content-Type: application/json\r\nContent-Length: {len(BODY)}"
    head = f"POST /v1/search HTTP/1.1\r\nHost: a\r\n{kind}"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + BODY)
        until(lambda: admission.in_queue == 1, "the second search waits")
    until(lambda: admission.in_queue == 0, "it left the queue")
    held.let_go.set()
    assert client.post("/v1/search", json={"text": "a"}).status_code == 200
    assert held.begun == 2


def test_a_search_that_waits_too_long_is_refused(
    tiny: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tiny_preset(tiny, running=1, queue_seconds=0.1)) as (client, _):
        held = Held(monkeypatch)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/v1/search", json={"text": "a"})
            until(lambda: held.begun == 1, "the first search runs")
            assert "busy" in refused(client.post("/v1/search", json={"text": "a"}), 429)
            held.let_go.set()
            assert first.result().status_code == 200
        assert held.begun == 1
        assert client.post("/v1/search", json={"text": "a"}).status_code == 200
