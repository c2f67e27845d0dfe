"""Operators over HTTP: who may what, versions, rules, health, metrics, logs and headers."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.headers import HEADERS
from skufp_pipeline.serving.logs import LOGGER, JsonLines
from skufp_pipeline.serving.rules import FILE, Rule, Rules
from skufp_pipeline_tests.search.conftest import encoder
from skufp_pipeline_tests.serving.shop import (
    ADMIN,
    ELSEWHERE,
    EXPIRED,
    SHOPPER,
    Shop,
    as_who,
    photo_of,
    until,
    upload,
)

__all__ = ["encoder"]

HEALTH = {"GET /livez", "GET /readyz"}
SHOPPERS = {
    "POST /v1/photos",
    "POST /v1/search",
    "GET /v1/products/{sku}",
    "GET /v1/products/{sku}/image",
    "GET /v1/products/{sku}/similar",
    "GET /v1/facets",
    "POST /v1/explain",
    "POST /v1/feedback",
    "GET /v1/service",
}
OPERATORS = {
    "GET /v1/index",
    "POST /v1/index/reload",
    "POST /v1/index/rollback",
    "GET /v1/rules",
    "PUT /v1/rules/{sku_id}",
    "DELETE /v1/rules/{sku_id}",
    "PUT /v1/products",
    "GET /metrics",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Shop:
    return Shop.open(tmp_path_factory.mktemp("shop"), encoder)


@pytest.fixture(scope="module")
def client(shop: Shop) -> Iterator[TestClient]:
    """An open shop that keeps feedback."""
    with shop.served(feedback=True) as client:
        yield client


@pytest.fixture
def admin(client: TestClient, shop: Shop) -> Iterator[TestClient]:
    """The same with the key of an admin; rules are taken away afterwards."""
    client.headers["Authorization"] = f"Bearer {ADMIN}"
    yield client
    for rule in client.get("/v1/rules").json()["rules"]:
        client.delete(f"/v1/rules/{rule['sku_id']}")
    del client.headers["Authorization"]


def asked(client: TestClient, operation: str, key: str | None) -> int:
    """The status of a request without a body; who may ask is looked at before a body is."""
    method, path = operation.split()
    path = path.replace("{sku}", "s0").replace("{sku_id}", "nothing")
    return client.request(method, path, headers=as_who(key)).status_code


def test_the_tables_here_name_every_address(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    found = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert found == HEALTH | SHOPPERS | OPERATORS


@pytest.mark.parametrize("operation", sorted(OPERATORS))
def test_an_operators_address_needs_the_key_of_an_admin(client: TestClient, operation: str) -> None:
    statuses = [asked(client, operation, key) for key in (None, "wrong", EXPIRED, SHOPPER)]
    assert statuses == [401, 401, 401, 403]
    assert asked(client, operation, ADMIN) not in (401, 403, 500)


@pytest.mark.parametrize("operation", sorted(SHOPPERS))
def test_an_open_shops_address_needs_no_key_but_no_wrong_one(client: TestClient, operation: str) -> None:
    for key in (None, SHOPPER, ADMIN):
        assert asked(client, operation, key) not in (401, 403, 500)
    assert [asked(client, operation, key) for key in ("wrong", EXPIRED)] == [401, 401]


def test_a_closed_shops_address_needs_any_key(shop: Shop) -> None:
    with shop.served(open=False, feedback=True) as client:
        for operation in sorted(SHOPPERS):
            assert [asked(client, operation, key) for key in (None, "wrong", EXPIRED)] == [401] * 3
            assert asked(client, operation, SHOPPER) not in (401, 403, 500), operation
        assert all(asked(client, operation, None) == 200 for operation in HEALTH)


@pytest.mark.parametrize("operation", sorted(HEALTH))
@pytest.mark.parametrize("key", [None, "wrong", EXPIRED, SHOPPER, ADMIN])
def test_health_asks_for_no_key(client: TestClient, operation: str, key: str | None) -> None:
    assert asked(client, operation, key) == 200


def test_a_refusal_says_what_is_needed(client: TestClient) -> None:
    missing = client.get("/v1/index")
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.headers["www-authenticate"] == "Bearer"
    assert "needs an API key with the role admin: send it as `Authorization" in missing.json()["detail"]
    few = client.get("/v1/index", headers={"X-API-Key": SHOPPER})
    assert few.json()["detail"] == "The key till has the role shopper; this needs admin."
    assert client.get("/v1/index", headers={"X-API-Key": ADMIN}).status_code == 200


def test_without_a_file_of_keys_an_operator_is_told_how_to_make_one(shop: Shop) -> None:
    with shop.served(shop.preset()) as client:
        for key in (None, ADMIN):
            answer = client.get("/v1/index", headers=as_who(key))
            assert answer.status_code == 403
            assert "make one with `skufp serve-key NAME --role admin`" in answer.json()["detail"]
        assert client.get("/v1/service", headers=as_who(ADMIN)).status_code == 200


def test_keys_are_read_again_when_their_file_changes(shop: Shop) -> None:
    keys = shop.folder / "changing.yaml"
    keys.write_text((shop.folder / "keys.yaml").read_text())
    with shop.served(shop.preset(keys=str(keys))) as client:
        assert asked(client, "GET /v1/index", ADMIN) == 200
        keys.write_text("[]")
        assert asked(client, "GET /v1/index", ADMIN) == 401
        keys.write_text("- nonsense")
        assert asked(client, "GET /v1/index", ADMIN) == 403
        assert "is no list of API keys" in client.get("/readyz").json()["problems"][0]
        keys.write_text((shop.folder / "keys.yaml").read_text())
        assert asked(client, "GET /v1/index", ADMIN) == 200


def test_too_many_requests_are_refused_with_when_to_come_again(shop: Shop) -> None:
    with shop.served(rate="3/minute", upload_rate="1/minute") as client:
        statuses = [asked(client, "GET /v1/service", None) for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        answer = client.get("/v1/service")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["detail"].startswith("Too many requests; ask again in ")
        assert asked(client, "GET /v1/service", SHOPPER) == 200  # a key is another caller
        uploads = [client.post("/v1/photos", headers=as_who(ADMIN)).status_code for _ in range(2)]
        assert uploads == [415, 429]
        assert asked(client, "GET /readyz", None) == 200
        assert client.get("/v1/products/s0/image").status_code == 200  # pictures have a rate of their own


def test_only_a_known_proxy_says_who_asks(shop: Shop) -> None:
    def statuses(client: TestClient) -> list[int]:
        given = ("198.51.100.1", "198.51.100.1", "198.51.100.2")
        return [client.get("/v1/service", headers={"X-Forwarded-For": a}).status_code for a in given]

    with shop.served(rate="1/minute") as client:
        assert statuses(client) == [200, 429, 429]
    with shop.served(rate="1/minute", proxies=[ELSEWHERE[0]]) as client:
        assert statuses(client) == [200, 429, 200]


def test_every_kind_of_answer_has_the_headers(client: TestClient, shop: Shop) -> None:
    image = client.get("/v1/products/s0/image")
    answers = {
        200: client.get("/livez"),
        201: client.post("/v1/photos", files={"photo": photo_of("red")}),
        304: client.get("/v1/products/s0/image", headers={"If-None-Match": image.headers["etag"]}),
        401: client.get("/v1/rules"),
        404: client.get("/nowhere"),
        405: client.delete("/v1/search"),
        413: client.post("/v1/search", content=b" " * 2_000_000),
        415: client.post("/v1/photos", content=b"x"),
        422: client.post("/v1/search", json={}),
    }
    service = client.app.state.service  # type: ignore[attr-defined]
    keys, service.keys = service.keys, None  # what nobody foresaw
    answers[500] = client.get("/v1/rules")
    service.keys = keys
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-request-id"]
        assert "access-control-allow-origin" not in answer.headers
        assert "cache-control" in answer.headers
    assert "s0" not in answers[500].text
    assert "default-src 'self'; img-src 'self' blob:" in HEADERS["Content-Security-Policy"]


def test_other_sites_may_ask_only_where_they_are_named(shop: Shop) -> None:
    with shop.served(origins=["https://shop.example"]) as client:
        for origin, allowed in (
            ("https://shop.example", "https://shop.example"),
            ("https://evil.example", None),
        ):
            answer = client.get("/v1/service", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed


def test_a_line_of_the_log_has_no_secret(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.propagate, LOGGER.disabled = True, False
    with caplog.at_level(logging.INFO, LOGGER.name):
        files = {"photo": ("my-secret-face.png", photo_of("red"))}
        photo = client.post("/v1/photos", files=files, headers=as_who(SHOPPER)).json()["photo_id"]
        body = {"photo_id": photo, "text": "embarrassing words"}
        answer = client.post("/v1/search", json=body, headers=as_who(SHOPPER))
        client.get("/v1/products/embarrassing words?index=secret", headers=as_who("stolen-key"))
        client.get("/secret/path?secret=word")
    lines = [JsonLines().format(record) for record in caplog.records if record.name == LOGGER.name]
    assert len(lines) == 4
    for secret in ("secret", "embarrassing", "stolen", SHOPPER, photo, ELSEWHERE[0]):
        assert secret not in "\n".join(lines)
    found = json.loads(lines[1])
    assert found["request_id"] == answer.headers["x-request-id"]
    told = (found["route"], found["status"], found["key"], found["index"], found["version"])
    assert told == ("/v1/search", 200, "till", "fingerprints", "one")
    assert {"queue", "encode", "search"} <= set(found["stages"])
    assert {"queue", "decode", "encode"} <= set(json.loads(lines[0])["stages"])
    assert json.loads(lines[2])["refused"] == "key"
    assert json.loads(lines[3])["route"] == "unmatched"


def test_an_exceptions_text_is_not_logged() -> None:
    try:
        raise ValueError("embarrassing words")
    except ValueError as error:
        record = LOGGER.makeRecord("x", 40, "f", 1, "failed", (), (ValueError, error, error.__traceback__))
    line = json.loads(JsonLines().format(record))
    assert (line["exception"], line["event"]) == ("ValueError", "failed")
    assert "test_an_exceptions_text_is_not_logged" in line["at"][-1]
    assert "embarrassing" not in json.dumps(line)


def test_why_a_version_can_not_be_opened_is_logged() -> None:
    error = UserError("delete the folder")
    record = LOGGER.makeRecord("x", 40, "f", 1, "failed", (), (UserError, error, None))
    assert json.loads(JsonLines().format(record))["detail"] == "delete the folder"


def metric(text: str, sample: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.split()[-1])


def test_metrics_move_with_what_happens(admin: TestClient) -> None:
    def read(*samples: str) -> list[float]:
        text = admin.get("/metrics").text
        return [metric(text, sample) if f"\n{sample} " in text else 0.0 for sample in samples]

    samples = (
        'skufp_request_seconds_count{method="POST",route="/v1/search",status="200"}',
        'skufp_stage_seconds_count{stage="encode"}',
        'skufp_verdicts_total{index="fingerprints",verdict="match"}',
        'skufp_refused_total{reason="unsupported"}',
        "skufp_photos_kept",
        'skufp_request_seconds_count{method="GET",route="unmatched",status="404"}',
    )
    before = read(*samples)
    photo = upload(admin, photo_of("red"))
    assert admin.post("/v1/search", json={"photo_id": photo}).json()["verdict"] == "match"
    admin.post("/v1/photos", content=b"x")
    admin.get("/what/ever")
    assert [now - then for now, then in zip(read(*samples), before, strict=True)] == [1] * 6
    gauges = read(
        'skufp_index_skus{index="fingerprints"}',
        'skufp_index_info{index="fingerprints",version="one"}',
        'skufp_swaps_total{index="fingerprints"}',
        "skufp_searches_running",
    )
    assert gauges == [14, 1, 1, 0]
    assert 0 < read('skufp_index_age_seconds{index="fingerprints"}')[0] < 3600
    assert read("skufp_photos_kept_bytes")[0] > 0


def test_metrics_are_open_to_this_machine_alone(shop: Shop, client: TestClient) -> None:
    here = TestClient(client.app, client=("127.0.0.1", 1))
    assert here.get("/metrics").status_code == 200
    assert here.get("/metrics", headers={"X-Forwarded-For": "198.51.100.1"}).status_code == 401


def found_by(client: TestClient, **asked: object) -> list[str]:
    answer = client.post("/v1/search", json={"top": 14, **asked})
    assert answer.status_code == 200, answer.text
    return [hit["sku_id"] for hit in answer.json()["hits"]]


def test_a_pin_brings_a_sku_up_and_leaves_the_verdict(admin: TestClient) -> None:
    photo = upload(admin, photo_of("red"))
    before = admin.post("/v1/search", json={"photo_id": photo}).json()
    assert [hit["rule"] for hit in before["hits"]] == [None] * 14
    assert admin.put("/v1/rules/s9", json={"rule": "pin", "bias": 2}).json() == {
        "rules": [{"sku_id": "s9", "rule": "pin", "bias": 2.0, "unused_in": []}],
        "problem": None,
    }
    after = admin.post("/v1/search", json={"photo_id": photo}).json()
    assert [(hit["sku_id"], hit["rule"]) for hit in after["hits"][:2]] == [("s9", "pin"), ("s0", None)]
    assert (after["verdict"], after["confidence"]) == (before["verdict"], before["confidence"])
    assert [hit["confidence"] for hit in after["hits"][:2]] == [None, before["confidence"]]
    shown = {hit["sku_id"]: hit["similarity_percent"] for hit in before["hits"]}
    assert {hit["sku_id"]: hit["similarity_percent"] for hit in after["hits"]} == pytest.approx(shown)
    admin.put("/v1/rules/s0", json={"rule": "bury", "bias": 2})
    assert found_by(admin, photo_id=photo)[-1] == "s0"
    admin.delete("/v1/rules/s9")
    admin.delete("/v1/rules/s0")
    again = admin.post("/v1/search", json={"photo_id": photo}).json()
    assert (again["hits"], again["verdict"]) == (before["hits"], before["verdict"])


def test_a_hidden_sku_is_nowhere(admin: TestClient) -> None:
    photo = upload(admin, photo_of("red"))
    ways: list[dict[str, object]] = [{"photo_id": photo}, {"text": "thing 0"}, {"like": ["s1"]}]
    assert all("s0" in found_by(admin, **asked) for asked in ways)
    admin.put("/v1/rules/s0", json={"rule": "hide"})
    assert not any("s0" in found_by(admin, **asked) for asked in ways)
    similar = admin.get("/v1/products/s1/similar").json()["hits"]
    assert "s0" not in {hit["sku_id"] for hit in similar}
    for path in ("s0", "s0/image", "s0/similar"):
        assert admin.get(f"/v1/products/{path}").status_code == 404, path
    (state,) = admin.get("/v1/index").json()["indexes"]
    assert (state["num_skus"], state["num_hidden"]) == (13, 1)


def test_a_rule_of_an_unknown_sku_is_kept_and_told(admin: TestClient) -> None:
    admin.put("/v1/rules/next%2Fseason", json={"rule": "pin"})
    (rule,) = admin.get("/v1/rules").json()["rules"]
    assert rule == {"sku_id": "next/season", "rule": "pin", "bias": None, "unused_in": ["fingerprints"]}
    assert admin.delete("/v1/rules/next%2Fseason").json()["rules"] == []
    assert admin.delete("/v1/rules/next%2Fseason").status_code == 404


@pytest.mark.parametrize(
    "body",
    [{"rule": "lift"}, {"rule": "pin", "bias": -1}, {"rule": "hide", "bias": 1}, {}, {"rule": "pin", "x": 1}],
)
def test_what_is_no_rule_is_refused(admin: TestClient, body: dict[str, object]) -> None:
    assert admin.put("/v1/rules/s0", json=body).status_code == 422


def test_rules_of_another_replica_count_here(admin: TestClient, shop: Shop) -> None:
    there = Rules(shop.store)
    there.put("s0", Rule(rule="hide"))
    until(lambda: "s0" not in found_by(admin, text="thing"))
    shop.store.write_pointer(FILE, "broken")
    until(lambda: admin.get("/readyz").json()["problems"] != [])
    assert "s0" not in found_by(admin, text="thing")
    assert admin.put("/v1/rules/s1", json={"rule": "hide"}).status_code == 409
    shop.store.write_pointer(FILE, '{"rules": {}}')
    until(lambda: "s0" in found_by(admin, text="thing"))


def test_versions_are_swapped_rolled_back_and_reloaded(tmp_path: Path, encoder: Encoder) -> None:
    shop = Shop.open(tmp_path, encoder)
    with shop.served(watch_seconds=3600) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        refused = client.post("/v1/index/rollback", json={})
        assert refused.status_code == 409
        assert "no published index version to roll back to" in refused.json()["detail"]
        client.put("/v1/rules/s9", json={"rule": "hide"})
        shop.publish("two")
        (state,) = client.post("/v1/index/reload", json={}).json()["indexes"]
        assert [(each["version"], each["state"]) for each in state["versions"]] == [
            ("two", "in use"),
            ("one", "published"),
        ]
        assert (state["version"], state["num_skus"], state["num_hidden"], state["failed"]) == (
            "two",
            13,
            1,
            None,
        )
        assert (state["encoder_digest"], state["versions"][0]["num_skus"]) == (shop.clip, 14)
        assert state["age_seconds"] < 3600
        (state,) = client.post("/v1/index/rollback", json={"index": "fingerprints"}).json()["indexes"]
        assert state["version"] == "one"
        assert {each["version"]: each["state"] for each in state["versions"]}["two"] == "withdrawn"
        answer = client.post("/v1/search", json={"text": "thing"})
        assert answer.json()["index_version"] == "one"
        assert client.post("/v1/index/rollback", json={"version": "none"}).status_code == 409
        assert client.post("/v1/index/reload", json={"index": "other"}).status_code == 404
        client.post("/v1/index/rollback", json={"version": "two"})
        for file in shop.store.read(Versions(shop.store).key("one")).path.glob("*"):
            if file.name not in ("manifest.json", "files.json") and file.is_file():
                file.write_bytes(b"broken")
        broken = client.post("/v1/index/rollback", json={"version": "one"})
        assert broken.status_code == 409
        assert "Version one of 'fingerprints' can't be opened" in broken.json()["detail"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["versions"]) == (200, {"fingerprints": "two"})
        assert "fingerprints" in ready.json()["failed"]
        assert client.get("/v1/index").json()["indexes"][0]["failed"]["version"] == "one"
        text = client.get("/metrics").text
        assert metric(text, 'skufp_failed_swaps_total{index="fingerprints"}') == 1
        assert metric(text, 'skufp_swaps_total{index="fingerprints"}') == 4


def test_a_service_without_an_index_lives_and_is_not_ready(tmp_path: Path, encoder: Encoder) -> None:
    shop = Shop.open(tmp_path, encoder)
    with shop.served(ready=False, indexes=["other"]) as client:
        assert client.get("/livez").json() == {"alive": True}
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "'other' is not ready yet" in ready.json()["reason"]
        assert client.get("/metrics", headers=as_who(ADMIN)).status_code == 200
        assert client.post("/v1/search", json={"text": "x", "index": "other"}).status_code == 503


def test_a_service_that_stops_is_not_ready_and_answers_on(shop: Shop, client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    service.draining = True
    try:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/search", json={"text": "thing"}).status_code == 200
    finally:
        service.draining = False
