"""Images by address, from a real server on this machine that answers well, badly, late or not at all."""

import base64
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from skufp_pipeline.datasets import remote
from skufp_pipeline.datasets.remote import (
    GIVE_UP_AFTER,
    REMOTE_SCHEMA,
    Fetcher,
    Outcome,
    RemoteImages,
    RemoteSettings,
    image_table,
    public_addresses,
    shown,
    table_digest,
)
from skufp_pipeline.datasets.sources import ManifestDataset
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.photos import size_of

from ..graphs import SMALL, metadata, run_asset, write_preset
from ..servers import BUCKET, s3
from .trees import write_image, write_manifest, write_png_bomb


def png(colour: str = "red", size: tuple[int, int] = (40, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


class Shop:
    """A server whose answers a test sets by path, and what it was asked.

    Attributes:
        answers: (status, headers, body) by path; of a list the first is used up, unless it is the last.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str], float]] = []
        self.end = threading.Event()
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shop.asked.append((self.path, dict(self.headers), time.monotonic()))
                answer = shop.answers.get(self.path, (404, {}, b"no such page"))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                if callable(answer):
                    return answer(self)
                status, headers, body = answer
                if status == 200 and headers.get("ETag", "-") == self.headers.get("If-None-Match"):
                    status, body = 304, b""
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                return None

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"

    def times(self) -> Counter[str]:
        return Counter(path for path, _, _ in self.asked)


@pytest.fixture(scope="module")
def server() -> Iterator[Shop]:
    shop = Shop()
    thread = threading.Thread(target=shop.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield shop
    shop.end.set()
    shop.server.shutdown()
    thread.join()
    shop.server.server_close()


@pytest.fixture
def shop(server: Shop) -> Shop:
    server.answers, server.asked = {"/a.png": (200, {}, png())}, []
    return server


def settings(folder: Path, **changes: Any) -> RemoteSettings:
    usual = {
        "allow_private_hosts": True,
        "cache": str(folder / "cache"),
        "backoff_seconds": 0.01,
        "requests_per_second": 1000,
    }
    return RemoteSettings(**usual | changes)


def fetch(folder: Path, url: str, **changes: Any) -> Outcome:
    return Fetcher(settings(folder, **changes)).fetch(url)


def test_an_image_is_fetched_once_and_kept_by_its_content(shop: Shop, tmp_path: Path) -> None:
    fetcher = Fetcher(settings(tmp_path))
    found = fetcher.fetch_all([f"{shop.url}/a.png", f"{shop.url}/a.png"])
    assert dict(found.schema) == REMOTE_SCHEMA
    (row,) = found.rows(named=True)
    assert (row["path"], row["bytes"], row["reason"]) == (f"{shop.url}/a.png", len(png()), None)
    assert fetcher.file(row["digest"]).read_bytes() == png()
    assert Fetcher(settings(tmp_path)).fetch_all([f"{shop.url}/a.png"]).equals(found)
    assert shop.times() == {"/a.png": 1}
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_many_are_fetched_at_once_with_progress_and_in_one_order(shop: Shop, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        together.wait()
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + png())

    shop.answers = {f"/{n}": answer for n in range(8)}
    urls = [f"{shop.url}/{n}" for n in reversed(range(8))]
    told: list[tuple[int, int]] = []
    found = Fetcher(settings(tmp_path, concurrency=4)).fetch_all(urls, lambda *done: told.append(done))
    assert told == [(n, 8) for n in range(1, 9)]
    assert found["path"].to_list() == sorted(urls)
    assert found["reason"].null_count() == 8


@pytest.mark.parametrize(
    ("answer", "reason", "told"),
    [
        ((404, {}, b""), "http_404", "the server answered 404 Not Found"),
        ((403, {}, png()), "http_403", "the server answered 403 Forbidden"),
        ((503, {}, b""), "http_503", "the server answered 503 Service Unavailable"),
        ((200, {"Content-Type": "image/png"}, b"<html>sold</html>"), "unsupported_image", "it is a web page"),
        ((200, {}, b""), "not_an_image", "the file is empty"),
        ((200, {}, png() + b"\0" * 5000), "file_too_large", "has more than 5,000 bytes"),
        ((200, {"Content-Length": "9999999999"}, b""), "file_too_large", "has more than 5,000 bytes"),
        ((200, {"Content-Length": "4000"}, png()), "incomplete_download", "of 4,000 bytes were received"),
        ((200, {"Transfer-Encoding": "chunked"}, b"ff\r\nabc"), "incomplete_download", "IncompleteRead"),
        (lambda handler: handler.wfile.write(b"no http\r\n\r\n"), "connection_failed", "BadStatusLine"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "connection_failed", "Remote"),
        ((302, {"Location": "/x"}, b""), "too_many_redirects", "more than 5 redirects"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "url_refused", "leads to no http"),
        ((302, {"Location": "http://[bad"}, b""), "bad_url", "no valid address"),
        ((302, {"Location": "http://169.254.169.254/keys"}, b""), "url_refused", "not public"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_told_with_its_reason(
    shop: Shop, tmp_path: Path, answer: Any, reason: str, told: str
) -> None:
    shop.answers["/x"] = answer
    found = fetch(tmp_path, f"{shop.url}/x", max_bytes=5000, retries=1)
    assert (found.digest, found.reason) == (None, reason)
    assert found.detail is not None
    assert found.detail.startswith(f"{shop.url}/x")
    assert told in found.detail
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(shop: Shop, tmp_path: Path) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        for _ in range(10_000):
            sent.append(handler.wfile.write(b"\0" * 65536))

    shop.answers["/x"] = endless
    assert fetch(tmp_path, f"{shop.url}/x", max_bytes=1 << 20, retries=0).reason == "file_too_large"
    assert len(sent) < 1000


def test_a_picture_with_too_many_pixels_is_not_kept(shop: Shop, tmp_path: Path) -> None:
    write_png_bomb(tmp_path / "bomb.png", 30_000, 30_000)
    shop.answers["/x"] = (200, {}, (tmp_path / "bomb.png").read_bytes())
    assert fetch(tmp_path, f"{shop.url}/x").reason == "image_too_large"


def test_a_server_that_stalls_or_drips_is_left_after_a_while(shop: Shop, tmp_path: Path) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        shop.end.wait(20)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + png())
        while not shop.end.wait(0.05):
            handler.wfile.write(b"\0")

    shop.answers |= {"/stall": stall, "/drip": drip}
    found = fetch(tmp_path, f"{shop.url}/stall", timeout_seconds=0.2, retries=1)
    assert (found.reason, shop.times()["/stall"]) == ("timeout", 2)
    began = time.monotonic()
    assert fetch(tmp_path, f"{shop.url}/drip", image_seconds=0.4, retries=0).reason == "timeout"
    assert time.monotonic() - began < 5


def test_a_passing_failure_is_tried_again(shop: Shop, tmp_path: Path) -> None:
    shop.answers["/x"] = [(500, {}, b""), (200, {"Content-Length": "4000"}, png()), (200, {}, png())]
    assert fetch(tmp_path, f"{shop.url}/x").reason is None
    assert shop.times() == {"/x": 3}


@pytest.mark.parametrize("status", [429, 503])
def test_every_request_waits_as_long_as_a_busy_host_asks_for(shop: Shop, tmp_path: Path, status: int) -> None:
    shop.answers["/x"] = [(status, {"Retry-After": "1"}, b""), (200, {}, png())]
    fetcher = Fetcher(settings(tmp_path))
    assert fetcher.fetch_all([f"{shop.url}/x"])["reason"].item() is None
    (_, _, first), (_, _, second) = shop.asked
    assert second - first >= 1
    shop.answers["/y"] = (status, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"")
    assert fetcher.fetch(f"{shop.url}/y").reason == f"http_{status}"
    assert shop.times()["/y"] == 1


def test_a_host_is_asked_no_more_often_than_allowed(shop: Shop, tmp_path: Path) -> None:
    shop.answers = {f"/{n}": (200, {}, png()) for n in range(5)}
    fetcher = Fetcher(settings(tmp_path, requests_per_second=20))
    fetcher.fetch_all([f"{shop.url}/{n}" for n in range(5)])
    times = sorted(when for _, _, when in shop.asked)
    assert times[-1] - times[0] >= 0.9 * 4 / 20


def test_a_dead_host_is_not_tried_for_every_image(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        urls = [f"http://127.0.0.1:{taken.getsockname()[1]}/{n:02}" for n in range(GIVE_UP_AFTER + 5)]
        found = Fetcher(settings(tmp_path, retries=0, concurrency=1)).fetch_all(urls)
    assert found["reason"].to_list() == ["connection_failed"] * GIVE_UP_AFTER + ["host_failing"] * 5


def test_an_unchanged_image_is_not_sent_again_and_a_changed_one_is(shop: Shop, tmp_path: Path) -> None:
    shop.answers["/x"] = (200, {"ETag": '"1"'}, png("red"))
    first = fetch(tmp_path, f"{shop.url}/x", check_again_hours=0)
    assert fetch(tmp_path, f"{shop.url}/x", check_again_hours=0) == first
    assert shop.asked[-1][1]["If-None-Match"] == '"1"'
    shop.answers["/x"] = (200, {"ETag": '"2"'}, png("blue"))
    assert fetch(tmp_path, f"{shop.url}/x", check_again_hours=None) == first
    assert fetch(tmp_path, f"{shop.url}/x", check_again_hours=0).digest != first.digest
    assert shop.times() == {"/x": 3}


def test_a_cached_image_outlasts_a_failing_host_but_not_its_removal(shop: Shop, tmp_path: Path) -> None:
    first = fetch(tmp_path, f"{shop.url}/a.png")
    shop.answers["/a.png"] = (500, {}, b"")
    kept = fetch(tmp_path, f"{shop.url}/a.png", check_again_hours=0)
    assert (kept.digest, kept.reason) == (first.digest, None)
    assert (kept.detail or "").startswith("not checked again: ")
    shop.answers["/a.png"] = (410, {}, b"")
    assert fetch(tmp_path, f"{shop.url}/a.png", check_again_hours=0).reason == "http_410"


def test_a_damaged_cache_is_filled_again(shop: Shop, tmp_path: Path) -> None:
    fetcher = Fetcher(settings(tmp_path))
    file = fetcher.file(fetcher.fetch(f"{shop.url}/a.png").digest or "")
    file.write_bytes(b"")
    fetcher.fetch(f"{shop.url}/a.png")
    assert file.read_bytes() == png()
    for record in (tmp_path / "cache" / "addresses").rglob("*.json"):
        record.write_text("{")
    assert fetcher.fetch(f"{shop.url}/a.png").reason is None


def test_a_cache_that_cannot_be_written_stops_the_work(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"the image cache .* can't be written.*set dataset.remote.cache"):
        Fetcher(settings(tmp_path)).fetch_all([f"{shop.url}/a.png"])


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a.jpg", "gs://bucket/a.jpg", "FILE:///x", "zip://a.jpg", "http:///x"]
)  # fmt: skip
def test_nothing_but_the_web_and_configured_stores_is_opened(tmp_path: Path, url: str) -> None:
    found = fetch(tmp_path, url)
    assert found.reason == "url_refused"
    assert "expected http://, https://, s3://" in (found.detail or "") or url == "http:///x"


def test_a_store_must_be_one_that_is_known() -> None:
    with pytest.raises(ValidationError, match="file: no object store; known are s3, gs"):
        RemoteSettings(stores={"file": {}})
    assert "secret" not in str(RemoteSettings(stores={"s3": {"secret": "secret"}}).model_dump())


@pytest.mark.parametrize(
    ("address", "allowed", "with_private"),
    [
        ("93.184.215.14", True, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.0.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("fd00::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("64:ff9b::7f00:1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
    ],
)
def test_an_address_is_asked_only_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch, address: str, allowed: bool, with_private: bool
) -> None:
    public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 80))
    other = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [public, other])
    for private, expected in ((False, allowed), (True, with_private)):
        if expected:
            assert len(public_addresses("shop", 80, "x", private)) == 2
        else:
            with pytest.raises(ItemError, match="host shop has an address that is not public"):
                public_addresses("shop", 80, "x", private)


def test_this_machine_is_refused_by_any_name_unless_it_is_allowed(shop: Shop, tmp_path: Path) -> None:
    port = shop.server.server_port
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1"):
        found = fetch(tmp_path, f"http://{host}:{port}/a.png", allow_private_hosts=False)
        assert found.reason == "url_refused", found
        assert "allow_private_hosts: true" in (found.detail or "")
    assert shop.asked == []


def test_a_second_dns_answer_has_no_effect(
    monkeypatch: pytest.MonkeyPatch, shop: Shop, tmp_path: Path
) -> None:
    port, connected = shop.server.server_port, []
    answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]]
    again = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop(0) if answers else again)
    monkeypatch.setattr(socket.socket, "connect", connect)
    found = fetch(tmp_path, f"http://rebinds.example:{port}/a.png", allow_private_hosts=False, retries=0)
    assert (found.reason, connected) == ("connection_failed", [("8.8.8.8", port)])


def test_a_redirect_is_followed_but_takes_no_password_to_another_host(shop: Shop, tmp_path: Path) -> None:
    port = shop.server.server_port
    shop.answers["/first"] = (302, {"Location": "/second"}, b"")
    shop.answers["/second"] = (307, {"Location": f"http://localhost:{port}/a.png"}, b"")
    found = fetch(tmp_path, f"http://me:pass%20word@{shop.host}/first")
    assert found.reason is None
    sent = {path: headers.get("Authorization") for path, headers, _ in shop.asked}
    basic = f"Basic {base64.b64encode(b'me:pass word').decode()}"
    assert sent == {"/first": basic, "/second": basic, "/a.png": None}


def test_what_may_be_a_key_is_shown_nowhere(shop: Shop, tmp_path: Path) -> None:
    url = f"http://me:SECRET@{shop.host}/x?key=SECRET#SECRET"
    assert "SECRET" not in shown(url)
    assert shown(url) == shown(url.replace("me:SECRET@", ""))
    assert shown(url) != shown(url.replace("key=SECRET", "key=other"))
    assert "SECRET" not in shown("http://me:SECRET/1@host/x")
    found = fetch(tmp_path, url)
    assert found.reason == "http_404"
    assert "SECRET" not in str(found)
    assert shop.asked[0][0] == "/x?key=SECRET"
    stored = fetch(tmp_path, "s3://key:SECRET@bucket/x.jpg")
    assert stored.reason == "url_refused"
    assert "SECRET" not in str(stored)
    assert "SECRET" not in "".join(path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file())


def test_names_with_spaces_and_letters_of_any_script_are_found(shop: Shop, tmp_path: Path) -> None:
    shop.answers["/%E6%A2%A8%20a%2Fb.png?size=1%202"] = (200, {}, png())
    assert fetch(tmp_path, f"{shop.url}/梨 a%2Fb.png?size=1 2").reason is None


def test_the_digest_of_a_table_tells_images_and_reasons_apart() -> None:
    def digest(*outcomes: Outcome) -> str:
        return table_digest(image_table(outcomes))

    a, b = Outcome("a", "1", 10), Outcome("b", reason="timeout", detail="x")
    assert digest(a, b) == digest(b, a) == digest(Outcome("a", "1", 10, None, "not checked again"), b)
    assert len({digest(a), digest(a, b), digest(Outcome("a", "2", 10), b), digest()}) == 4


def test_another_machine_fetches_what_was_listed_or_says_that_it_changed(shop: Shop, tmp_path: Path) -> None:
    url = f"{shop.url}/a.png?key=1"
    shop.answers["/a.png?key=1"] = (200, {}, png())
    listed = Fetcher(settings(tmp_path)).fetch_all([url, f"{shop.url}/no"])
    here = RemoteImages(settings(tmp_path / "b"), tmp_path, lambda: [url], listed)
    assert here.find("photos/a.jpg") == tmp_path / "photos/a.jpg"
    assert here.find(shown(url)).read_bytes() == png()
    with pytest.raises(ItemError, match="answered 404"):
        here.find(f"{shop.url}/no")
    shop.answers["/a.png?key=1"] = (200, {}, png("blue"))
    with pytest.raises(ItemError, match="is another image than when the catalogue was read"):
        RemoteImages(settings(tmp_path / "c"), tmp_path, lambda: [url], listed).find(shown(url))
    assert shop.times()["/no"] == 1


def manifest_of(folder: Path, shop: Shop) -> Path:
    write_image(folder / "shop" / "local.jpg")
    good = {"domain": "catalog", "split": "train"}
    return write_manifest(
        folder / "shop",
        [
            {"sku_id": "hat", "image_path": "local.jpg", **good},
            {"sku_id": "hat", "image_path": f"{shop.url}/a.png?key=SECRET", **good},
            {"sku_id": "belt", "image_path": f"http://me:SECRET@{shop.host}/a.png", **good},
            {"sku_id": "scarf", "image_path": f"http://me:SECRET@{shop.host}/gone.png", **good},
            {"sku_id": "scarf", "image_path": "file:///etc/passwd", **good},
            {"sku_id": "", "image_path": f"http://me:SECRET@{shop.host}/a.png", **good},
            {"sku_id": "hat", "image_path": f"{shop.url}/a.png", **good, "domain": "shop"},
        ],
    )


def test_the_graph_reads_a_manifest_of_files_and_addresses(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skufp_pipeline.presets import load_preset

    shop.answers["/a.png?key=SECRET"] = (200, {}, png("blue", (30, 20)))
    dataset = {
        "source": "manifest",
        "read": {"path": str(manifest_of(tmp_path, shop))},
        "remote": settings(tmp_path).model_dump(),
    }
    tolerant = {**SMALL["evaluation"], "thresholds": {"rows_left_out": 1.0}}
    changes = {"shards": 1, "dataset": dataset, "evaluation": tolerant}
    preset = load_preset(str(write_preset(tmp_path, {**SMALL, **changes})))
    raw = metadata(run_asset(preset, "raw_dataset"))
    assert raw["inventory"]["remote_left_out"] == {"http_404": 1, "url_refused": 1}
    assert raw["inventory"]["remote_images"] == 2
    told = metadata(run_asset(preset, "annotations"))
    assert told["dagster/row_count"] == 3
    crops = metadata(run_asset(preset, "sku_crops", 0))
    assert crops["dagster/row_count"] == 3
    assert metadata(run_asset(preset, "raw_dataset"))["computed"] == 0
    assert shop.times() == {"/a.png": 1, "/a.png?key=SECRET": 1, "/gone.png": 2}  # what failed is tried again

    from skufp_pipeline.artifacts.places import ANNOTATIONS
    from skufp_pipeline.store import ArtifactStore

    table = ANNOTATIONS.read(ArtifactStore(preset.data_root))
    assert table.items().sort("sku_id", "bbox")["bbox"].to_list() == [
        [0, 0, 40, 60], [0, 0, 30, 20], [0, 0, 40, 60],
    ]  # fmt: skip
    assert dict(table.skipped().group_by("reason").len().iter_rows()) == {
        "http_404": 1, "url_refused": 1, "bad_sku_id": 1, "bad_domain": 1,
    }  # fmt: skip
    for path in Path(preset.data_root).rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path
    assert "SECRET" not in str(table.items().rows()) + str(table.skipped().rows())

    shop.answers["/gone.png"] = (200, {}, png())
    assert metadata(run_asset(preset, "raw_dataset"))["computed"] == 1
    assert metadata(run_asset(preset, "annotations"))["dagster/row_count"] == 4


def test_the_same_answers_give_the_same_tables(shop: Shop, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        dataset = ManifestDataset(
            source="manifest",
            read={"path": str(manifest_of(folder, shop))},
            remote=settings(folder),
        )
        (folder / "raw").mkdir()
        listing = dataset.listing()
        assert "tables" not in dataset.write_raw(folder / "raw", None, listing)
        catalogue = dataset.catalogue(folder / "raw", SplitSettings(), 1)
        found.append(
            (catalogue.items, catalogue.skipped, (folder / "raw/remote_images.parquet").read_bytes())
        )
    (items, skipped, raw), (items_again, skipped_again, raw_again) = found
    assert items.equals(items_again)
    assert skipped.equals(skipped_again)
    assert raw == raw_again


def test_an_object_store_is_read_with_its_own_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    with s3(tmp_path) as variables:
        options = {
            "key": variables["AWS_ACCESS_KEY_ID"],
            "secret": variables["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": variables["AWS_ENDPOINT_URL"],
        }
        client = boto3.client(
            "s3",
            endpoint_url=options["endpoint_url"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        for name, body in (("a b.png", png()), ("page.html", b"<html>"), ("big.png", png() + b"\0" * 9000)):
            client.put_object(Bucket=BUCKET, Key=name, Body=body)
        names = ("a b.png", "page.html", "big.png", "none.png")
        urls = [f"s3://{BUCKET}/{name}" for name in names]
        asked = settings(tmp_path, stores={"s3": options}, max_bytes=5000, check_again_hours=0, retries=1)
        fetcher = Fetcher(asked)
        found = dict(fetcher.fetch_all(urls).select("path", "reason").iter_rows())
        assert [found[url] for url in urls] == [None, "unsupported_image", "file_too_large", "missing_image"]
        first = fetcher.fetch(urls[0])
        assert size_of(fetcher.file(first.digest or "")) == (40, 60)
        client.put_object(Bucket=BUCKET, Key="a b.png", Body=png("blue"))
        assert fetcher.fetch(urls[0]).digest != first.digest


def test_a_store_whose_library_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote.fsspec, "filesystem", missing)
    with pytest.raises(UserError, match=r"Install s3fs.*pip install 'skufp-pipeline\[s3\]'"):
        Fetcher(settings(tmp_path)).fetch_all(["s3://bucket/a.png"])
