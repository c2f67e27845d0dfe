"""`skufp serve` as a process: how it starts, and how it stops."""

import http.client
import signal
import socket
import subprocess
import threading
from pathlib import Path

import cv2
import httpx
import pytest
import torch
from threadpoolctl import threadpool_info

from skufp_pipeline.query.threads import share_processors
from skufp_pipeline.serving import server
from skufp_pipeline.store import ArtifactStore

from ..graphs import SMALL, Graph, command, environment, write_preset
from .running import PATIENCE, process, serving, tiny_preset, until


def test_it_says_where_it_is_and_on_sigterm_answers_what_runs_and_ends(
    small_graph: Graph, tmp_path: Path
) -> None:
    log, settings = tmp_path / "log", {"rate": "10000/second"}
    preset = write_preset(tmp_path, {**SMALL, "serving": settings}, small_graph.preset.data_root)
    with process(preset, log) as (service, port):
        assert f"open http://127.0.0.1:{port}" in log.read_text()
        codes: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                while not stop.is_set():
                    try:
                        codes.append(client.post("/v1/search", json={"text": "a red skirt"}).status_code)
                    except httpx.ConnectError:  # it has ended
                        return
                    except httpx.RemoteProtocolError:  # an idle connection was closed; nothing was lost
                        continue

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: len(codes) > 5, "searches are answered")
        taken = subprocess.run(
            command("serve", "--preset", small_graph.preset_file, "--port", str(port)),
            env=environment(), capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert taken.returncode == 1
        assert "can't listen on 127.0.0.1" in taken.stderr
        assert "choose another --host or --port" in taken.stderr
        answered = len(codes)
        service.send_signal(signal.SIGTERM)
        until(lambda: len(codes) > answered, "it answers on for a moment")
        assert service.wait(PATIENCE) in (0, -signal.SIGTERM)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(codes) == {200}
        assert "Traceback" not in log.read_text()


def test_it_is_not_ready_before_it_stops_taking_requests(tiny: ArtifactStore) -> None:
    with serving(tiny_preset(tiny, notice_seconds=PATIENCE)) as (client, app):
        service = app.state.service
        config = server.uvicorn.Config(app)
        stopping = server.Draining(config, service)
        stopping.started = True
        stopping.handle_exit(signal.SIGTERM, None)
        assert service.why_not_ready() == "The service is stopping."
        assert not stopping.should_exit
        assert client.get("/v1/service").status_code == 200
        stopping.handle_exit(signal.SIGTERM, None)
        assert stopping.should_exit


def test_every_library_of_a_search_keeps_to_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            share_processors(threads)
            told = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
            assert {*told, torch.get_num_threads(), cv2.getNumThreads()} == {threads}
    finally:
        share_processors(before)


def test_a_connection_whose_headers_do_not_arrive_is_closed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)
    address = client.base_url.host, client.base_url.port or 0
    for sent in (b"", b"GET /v1/service HTTP/1.1\r\nHost:"):
        with socket.create_connection(address) as slow:
            slow.sendall(sent)
            slow.settimeout(PATIENCE)
            assert slow.recv(10) == b""
    kept = http.client.HTTPConnection(*address, timeout=PATIENCE)
    kept.request("GET", "/v1/service")
    assert kept.getresponse().read()
    kept.sock.sendall(b"GET / HT")
    assert kept.sock.recv(10) == b""  # also between requests


def test_the_id_of_a_request_is_the_callers_or_a_new_one(client: httpx.Client) -> None:
    given = client.get("/v1/service", headers={"x-request-id": "a-b_C.1"})
    assert given.headers["x-request-id"] == "a-b_C.1"
    for bad in ("a b", "x" * 65, "a\tb", "<script>"):
        made = client.get("/v1/service", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 16


def test_what_nobody_foresaw_tells_no_more_than_that_it_failed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("skufp_pipeline.serving.routes.shoppers.searched", fail)
    answer = client.post("/v1/search", json={"text": "a"}, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "mine")
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text
    assert "a secret" in caplog.text
