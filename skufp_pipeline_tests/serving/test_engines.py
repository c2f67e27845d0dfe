"""Versions are swapped while the service answers: no request fails, none is of two versions."""

import threading
import time
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.versions import CURRENT, FINGERPRINTS, Versions
from skufp_pipeline.serving.engines import EngineRoom, probe
from skufp_pipeline.store import ArtifactStore

from ..encoders.examples import picture
from .running import encoded, publish, refused, serving, tiny_preset, until, uploaded

ANSWERS = {"v1": ["apple", "lime", "plum"], "v2": ["lime", "plum"]}  # by version, in any order


def point_to(store: ArtifactStore, version: str) -> None:
    store.write_pointer(Versions(store, FINGERPRINTS).key(CURRENT), version)


@pytest.fixture
def two(tiny: ArtifactStore, index: FingerprintIndex, encoder: Encoder) -> ArtifactStore:
    """The store with another version, without the apple; the first is in use."""
    publish(tiny, index.remove(["apple"]).compacted(), encoder, "v2")
    point_to(tiny, "v1")
    return tiny


def broken(store: ArtifactStore, index: FingerprintIndex, encoder: Encoder) -> None:
    """Puts a version in use whose fingerprints are cut short."""
    publish(store, index, encoder, "v3")
    (file,) = Path(store.root).glob("index/fingerprints/v3/segment_*/fingerprints*")
    file.write_bytes(file.read_bytes()[:-8])


def in_use(client: httpx.Client) -> str:
    version: str = client.get("/v1/service").json()["indexes"][0]["version"]
    return version


def test_swaps_under_load_fail_no_request_and_mix_none(
    two: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    with serving(tiny_preset(two, waiting=32, queue_seconds=30)) as (client, app):
        photo_id = uploaded(client, encoded(picture("red"), "PNG"))["photo_id"]
        kinds: list[dict[str, Any]] = [
            {"photo_id": photo_id},
            {"text": "lime"},
            {"photo_id": photo_id, "text": "a"},
        ]
        found: list[httpx.Response] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as mine:
                while not stop.is_set() or len(found) < 300:
                    found.append(mine.post("/v1/search", json=kinds[len(found) % 3]))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        old = weakref.ref(app.state.service.rooms.served(FINGERPRINTS).engine)
        for version in ("v2", "v1", "v2", "v1", "v2"):
            point_to(two, version)
            until(lambda version=version: in_use(client) == version, version)
        broken(two, index, encoder)
        until(lambda: FINGERPRINTS in app.state.service.rooms.failed, "the broken version was tried")
        stop.set()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in found} == {200}
        for answer in found:
            version = answer.json()["index_version"]
            assert answer.headers["x-index-version"] == version
            assert sorted(hit["sku_id"] for hit in answer.json()["hits"]) == ANSWERS[version]
        assert {answer.json()["index_version"] for answer in found} == {"v1", "v2"}
        until(lambda: old() is None, "the first engine is freed")


def test_a_version_that_can_not_be_opened_leaves_the_old_one_and_is_tried_again_when_told(
    two: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    room = EngineRoom(tiny_preset(two), two, [FINGERPRINTS])
    room.look(FINGERPRINTS)
    served = room.served(FINGERPRINTS)
    broken(two, index, encoder)
    room.look(FINGERPRINTS)
    assert room.served(FINGERPRINTS) is served
    failed = room.failed[FINGERPRINTS]
    assert failed.version == "v3"
    assert "fingerprints" in failed.reason
    room.look(FINGERPRINTS)
    assert room.failed[FINGERPRINTS] is failed  # it was not opened again
    room.look(FINGERPRINTS, again=True)
    assert room.failed[FINGERPRINTS].when > failed.when
    point_to(two, "v2")
    room.look(FINGERPRINTS)
    assert (room.served(FINGERPRINTS).version, room.failed) == ("v2", {})


def test_a_version_without_its_encoder_or_of_no_number_never_serves(
    two: ArtifactStore, index: FingerprintIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = EngineRoom(tiny_preset(two), two, [FINGERPRINTS])
    point_to(two, "gone")
    room.look(FINGERPRINTS)
    assert "materialize" in room.failed[FINGERPRINTS].reason
    assert "can't be opened: no complete index/fingerprints/gone" in (room.why_not_ready() or "")
    other = index.fingerprints[::-1].copy()
    monkeypatch.setattr(index, "fingerprints_of", lambda sku_ids: other[:1])
    with pytest.raises(UserError, match="SKU 'apple' does not find itself"):
        probe(index)


def test_the_service_starts_without_an_index_and_answers_once_there_is_one(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    with serving(tiny_preset(store), ready=False) as (client, app):
        answer = client.post("/v1/search", json={"text": "a"})
        assert "'fingerprints' is not ready yet" in refused(answer, 503)
        assert answer.headers["retry-after"] == "5"
        assert client.get("/v1/service").json()["indexes"] == []
        publish(store, index, encoder, "v1")
        until(lambda: app.state.service.why_not_ready() is None, "the index is open")
        started = time.monotonic()
        assert client.post("/v1/search", json={"text": "a"}).status_code == 200
        assert time.monotonic() - started < 10
    assert "no index 'pictures' here; there is fingerprints" in _told_of_another(store)


def _told_of_another(store: ArtifactStore) -> str:
    with serving(tiny_preset(store)) as (client, _):
        return refused(client.post("/v1/search", json={"text": "a", "index": "pictures"}), 404)
