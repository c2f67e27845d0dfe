"""Fetches catalogue images that a manifest names by address (https, http, or an object store) into a cache.

An address is checked before anything is opened: only http, https and the configured stores, and only hosts
whose every network address is public, unless the settings allow private ones. The connection goes to the
address that was checked, so that a second DNS answer has no effect. Images are kept by content
(`images/<sha256>`), with a small record per address that says what was received, when, and its ETag.
Addresses are shown without user, password and query, which may hold keys (`shown`).
"""

import base64
import hashlib
import http.client
import ipaddress
import os
import random
import re
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import fsspec
import polars as pl
from pydantic import Field, ValidationError, field_validator

from skufp_pipeline.datasets.reading import map_in_threads
from skufp_pipeline.errors import ItemError, UserError, in_a_line
from skufp_pipeline.photos import LARGEST, PhotoError, size_of
from skufp_pipeline.progress import Progress
from skufp_pipeline.settings import Settings
from skufp_pipeline.store import cache_folder

WEB = ("http", "https")
OBJECT_STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss")
REDIRECTS = (301, 302, 303, 307, 308)
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
MAX_REDIRECTS = 5
GIVE_UP_AFTER = 10  # images of one host that failed in a row; its others are not tried in this run
BLOCK = 1 << 16  # bytes
_SAFE = "%/:=&~+!$,;'@()*[]"  # characters of a path that need no quoting
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

REMOTE_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(),  # the address as `shown`
    "digest": pl.String(),  # SHA-256 of the image; null if it could not be had
    "bytes": pl.Int64(),
    "reason": pl.String(),  # null if it was fetched
    "detail": pl.String(),
}


class RemoteSettings(Settings):
    """How images are fetched from addresses in a manifest."""

    stores: dict[str, dict[str, Any]] = Field({"s3": {}}, exclude=True, repr=False)  # fsspec options; secrets
    allow_private_hosts: bool = False  # also hosts of an intranet and this machine
    max_bytes: int = Field(64 << 20, gt=0)  # of one image
    concurrency: int = Field(16, ge=1, le=256)  # images at once
    requests_per_second: float = Field(20, gt=0)  # to one host
    timeout_seconds: float = Field(20, gt=0)  # to connect, and for each read
    image_seconds: float = Field(120, gt=0)  # for one attempt in all
    retries: int = Field(3, ge=0)  # after a timeout, a lost connection, 408, 425, 429 or a server's error
    backoff_seconds: float = Field(1, gt=0)  # before the first retry, doubled each time
    longest_wait_seconds: float = Field(120, ge=0)  # a host that asks for more by Retry-After is left alone
    check_again_hours: float | None = Field(24, ge=0)  # until a cached image is asked for again; null: never
    cache: str | None = None  # a folder; by default in `$SKUFP_CACHE` or the user's cache

    @field_validator("stores")
    @classmethod
    def _known(cls, stores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        unknown = sorted(set(stores) - set(OBJECT_STORES))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no object store; known are {', '.join(OBJECT_STORES)}")
        return stores

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else cache_folder() / "remote"


class _Record(Settings):
    """What was received from one address."""

    digest: str
    bytes: int
    etag: str | None = None
    last_modified: str | None = None
    checked: float  # seconds since 1970


@dataclass(frozen=True)
class Outcome:
    """A row of `REMOTE_SCHEMA`: an image that was fetched, or why it was not.

    `detail` of a fetched image says why its cached copy could not be checked again.
    """

    path: str
    digest: str | None = None
    bytes: int | None = None
    reason: str | None = None
    detail: str | None = None


class _HostError(ItemError):
    """A failure of the host rather than of one image; `wait` is the host's Retry-After in seconds."""

    def __init__(self, reason: str, detail: str, again: bool = True, wait: float | None = None) -> None:
        super().__init__(reason, detail)
        self.again, self.wait = again, wait


def is_url(path: str) -> bool:
    """Whether an image path is an address, of any scheme.

    >>> is_url("https://shop.example/a.jpg"), is_url("file:///etc/passwd"), is_url("photos/a.jpg")
    (True, True, False)
    """
    return _URL.match(path) is not None


def shown(path: str) -> str:
    """An address without user, password and fragment, and a hash in place of the query; other paths as is.

    >>> shown("https://me:secret@Shop.example/a.jpg?key=1#top")
    'https://shop.example/a.jpg?5d5a2f99dc82'
    """
    match = _URL.match(path)
    if match is None:
        return path
    scheme, rest = match[1].lower(), path[match.end() :]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    user, _, host = authority.rpartition("@")
    if scheme not in WEB:
        return f"{scheme}://{host if ':' in user else authority}{tail}"
    if not re.fullmatch(r"([^:]*|\[.*\])(:\d*)?", host):
        return f"{scheme}://(an address that can't be read)"
    tail, _, query = tail.partition("#")[0].partition("?")
    return f"{scheme}://{host.lower()}{tail}" + (f"?{_sha256(query)[:12]}" if query else "")


def image_table(outcomes: Iterable[Outcome]) -> pl.DataFrame:
    """Returns `REMOTE_SCHEMA` by path."""
    return pl.DataFrame([asdict(outcome) for outcome in outcomes], schema=REMOTE_SCHEMA).sort("path")


def table_digest(images: pl.DataFrame) -> str:
    """A digest of which images there are and what they hold."""
    lines = images.select(pl.concat_str("path", pl.coalesce("digest", "reason"), separator="\0"))
    return _sha256("\n".join(lines.to_series()))[:16]


class RemoteImages:
    """Finds the images of a manifest, which are files of its folder or addresses.

    Args:
        folder: that other paths are relative to.
        urls: returns the addresses of the manifest with user and query; called if one must be fetched.
        images: `REMOTE_SCHEMA`, what was fetched when the catalogue was listed.
    """

    def __init__(
        self,
        settings: RemoteSettings,
        folder: Path,
        urls: Callable[[], Iterable[str]],
        images: pl.DataFrame | None = None,
    ) -> None:
        self._fetcher, self._folder, self._list_urls = Fetcher(settings), folder, urls
        rows = [] if images is None else images.iter_rows(named=True)
        self._known = {row["path"]: Outcome(**row) for row in rows}
        self._lock = threading.Lock()

    def find(self, path: str) -> Path:
        """Returns the local file of an image path, fetching it if it is not in the cache.

        Raises:
            ItemError: it can't be had, or it is another image than the one that was listed.
        """
        if not is_url(path):
            return self._folder / path
        known = self._known.get(path)
        if known is not None and known.digest is not None:
            file = self._fetcher.file(known.digest)
            if file.is_file():
                return file
        if known is None or known.reason is None:
            with self._lock:
                urls = self._urls
            outcome = self._fetcher.fetch(urls[path])
            if outcome.digest is not None and known is not None and outcome.digest != known.digest:
                raise ItemError("image_changed", f"{path} is another image than when the catalogue was read")
            known = outcome
        if known.digest is None:
            raise ItemError(known.reason or "missing_image", known.detail or path)
        return self._fetcher.file(known.digest)

    @cached_property
    def _urls(self) -> dict[str, str]:
        return {shown(url): url for url in self._list_urls()}


class Fetcher:
    """Fetches images into a cache; safe to use from many threads and by several processes."""

    def __init__(self, settings: RemoteSettings) -> None:
        self.settings, self._cache = settings, settings.cache_folder
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}  # by host, when the next request may start
        self._failed: Counter[str] = Counter()  # by host, failures in a row
        self._filesystems: dict[str, Any] = {}

    def file(self, digest: str) -> Path:
        """The file of an image in the cache, whether it is there or not."""
        return self._cache / "images" / digest[:2] / digest

    def fetch_all(self, urls: Iterable[str], progress: Progress | None = None) -> pl.DataFrame:
        """Fetches images that are not cached or were not checked lately; returns `REMOTE_SCHEMA`.

        Raises:
            UserError: the cache can't be written, or a store's library is not installed.
        """
        unique = list({shown(url): url for url in urls}.values())
        return image_table(map_in_threads(self.fetch, unique, progress, self.settings.concurrency, chunk=1))

    def fetch(self, url: str) -> Outcome:
        """Fetches one image. An image whose host fails is taken from the cache, where it is there."""
        path = shown(url)
        record = self._read_record(path)
        again = self.settings.check_again_hours
        try:
            if record is None or (again is not None and time.time() - record.checked >= 3600 * again):
                record = self._with_retries(url, path, record)
                self._write_record(path, record)
            return Outcome(path, record.digest, record.bytes)
        except _HostError as error:
            if record is not None:
                return Outcome(path, record.digest, record.bytes, None, f"not checked again: {error.detail}")
            return Outcome(path, reason=error.reason, detail=error.detail)
        except ItemError as error:
            return Outcome(path, reason=error.reason, detail=error.detail)

    def _with_retries(self, url: str, path: str, record: _Record | None) -> _Record:
        scheme = path.partition("://")[0]
        if scheme not in (*WEB, *self.settings.stores):
            known = ", ".join(f"{name}://" for name in (*WEB, *self.settings.stores))
            detail = f"{scheme}:// is not opened; expected {known} (dataset.remote.stores)"
            raise ItemError("url_refused", detail)
        load = self._load_web if scheme in WEB else self._load_stored
        host = path.split("/")[2]
        for attempt in range(self.settings.retries + 1):
            if self._failed[host] >= GIVE_UP_AFTER:
                detail = f"{path} was not tried: {GIVE_UP_AFTER} images of {host} had failed in a row"
                raise _HostError("host_failing", detail)
            self._wait_for_turn(host)
            try:
                found = load(url, path, record)
            except _HostError as error:
                wait = self.settings.backoff_seconds * 2**attempt * random.uniform(0.75, 1.25)
                wait = wait if error.wait is None else error.wait
                last = attempt == self.settings.retries or wait > self.settings.longest_wait_seconds
                if last or not error.again:
                    self._failed[host] += 1
                    raise
                if error.wait is not None:  # the host asks all of us to wait
                    with self._lock:
                        self._next[host] = max(self._next.get(host, 0), time.monotonic() + wait)
                else:
                    time.sleep(wait)
            except ItemError:
                self._failed[host] = 0  # it answers
                raise
            else:
                self._failed[host] = 0
                return found
        raise AssertionError("the last attempt raises")

    def _wait_for_turn(self, host: str) -> None:
        with self._lock:
            turn = max(time.monotonic(), self._next.get(host, 0))
            self._next[host] = turn + 1 / self.settings.requests_per_second
        time.sleep(max(0, turn - time.monotonic()))

    def _load_web(self, url: str, path: str, record: _Record | None) -> _Record:
        headers = {"User-Agent": "skufp", "Accept": "image/*, */*;q=0.1", "Accept-Encoding": "identity"}
        if record is not None and record.etag:
            headers["If-None-Match"] = record.etag
        if record is not None and record.last_modified:
            headers["If-Modified-Since"] = record.last_modified
        first = _split(url, path)
        for _ in range(MAX_REDIRECTS + 1):
            target = _split(url, path)
            user = _authorization(first) if _origin(target) == _origin(first) else {}
            with self._answer(target, path, headers | user) as answer:
                if answer.status in REDIRECTS:
                    url = _joined(url, answer.headers.get("Location", ""), path)
                    continue
                if answer.status == 304 and record is not None:
                    return record.model_copy(update={"checked": time.time()})
                if answer.status != 200:
                    detail = f"{path}: the server answered {answer.status} {answer.reason}"
                    if answer.status in TRY_AGAIN:
                        raise _HostError(f"http_{answer.status}", detail, wait=_retry_after(answer))
                    raise ItemError(f"http_{answer.status}", detail)
                kept = {
                    "etag": answer.headers.get("ETag"),
                    "last_modified": answer.headers.get("Last-Modified"),
                }
                return self._keep(_blocks(answer), answer.length, path).model_copy(update=kept)
        raise ItemError("too_many_redirects", f"{path} leads through more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _answer(
        self, target: SplitResult, path: str, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Sends a GET request to a checked address; network errors of the `with` block are host errors."""
        port = target.port or (443 if target.scheme == "https" else 80)
        addresses = public_addresses(target.hostname or "", port, path, self.settings.allow_private_hosts)
        connection = _Connection(target, port, addresses, self.settings.timeout_seconds)
        clock = threading.Timer(self.settings.image_seconds, connection.expire)
        clock.daemon = True
        clock.start()
        timeout = _HostError("timeout", f"{path}: the server did not answer in time")
        try:
            query = f"?{quote(target.query, safe=_SAFE + '?')}" if target.query else ""
            connection.request("GET", (quote(target.path, safe=_SAFE) or "/") + query, headers=headers)
            with connection.getresponse() as answer:  # it may outlive the connection's own socket
                yield answer
            if connection.expired:
                raise timeout  # without a declared length the end that `expire` made looks like any other
        except TimeoutError as error:
            raise timeout from error
        except ssl.SSLCertVerificationError as error:
            detail = f"{path}: the server's certificate is not valid ({error.verify_message})"
            raise _HostError("connection_failed", detail, again=False) from error
        except (OSError, http.client.HTTPException) as error:
            if connection.expired:
                raise timeout from error
            is_short = isinstance(error, http.client.IncompleteRead)
            reason = "incomplete_download" if is_short else "connection_failed"
            raise _HostError(reason, f"{path}: {in_a_line(error)}") from error
        except _HostError:
            if connection.expired:
                raise timeout from None
            raise
        finally:
            clock.cancel()
            connection.close()

    def _load_stored(self, url: str, path: str, record: _Record | None) -> _Record:
        scheme, rest = url.split("://", 1)
        if path != f"{scheme.lower()}://{rest}":
            detail = f"{path} was given with a key; keys belong in dataset.remote.stores"
            raise ItemError("url_refused", detail)
        files = self._filesystem(scheme.lower())
        try:
            info = files.info(path)
            etag = str(info.get("ETag") or info.get("etag") or "") or None
            if record is not None and etag is not None and record.etag == etag:
                return record.model_copy(update={"checked": time.time()})
            with files.open(path, "rb", block_size=self.settings.max_bytes) as stream:
                blocks = iter(lambda: stream.read(BLOCK), b"")
                return self._keep(blocks, info.get("size"), path).model_copy(update={"etag": etag})
        except (ItemError, UserError):
            raise
        except FileNotFoundError as error:
            raise ItemError("missing_image", f"{path} does not exist") from error
        except PermissionError as error:
            raise ItemError("access_denied", f"{path}: the store refuses access") from error
        except Exception as error:  # each store's library has types of its own
            detail = f"{path}: {in_a_line(error)}"
            raise _HostError("store_error", detail, again=isinstance(error, OSError)) from error

    def _filesystem(self, scheme: str) -> Any:
        with self._lock:
            if scheme not in self._filesystems:
                try:
                    options = self.settings.stores[scheme]
                    self._filesystems[scheme] = fsspec.filesystem(scheme, **options)
                except (ImportError, ValueError) as error:
                    extra = " (pip install 'skufp-pipeline[s3]')" if scheme == "s3" else ""
                    raise UserError(f"{scheme}:// images can't be opened: {error}{extra}") from error
            return self._filesystems[scheme]

    def _keep(self, blocks: Iterable[bytes], declared: int | None, path: str) -> _Record:
        """Writes an image to the cache if it is one, complete, and within the limits."""
        too_large = ItemError("file_too_large", f"{path} has more than {self.settings.max_bytes:,} bytes")
        if declared is not None and declared > self.settings.max_bytes:
            raise too_large
        digest, size = hashlib.sha256(), 0
        with self._temporary() as temporary:
            with temporary.open("wb") as stream:
                for block in blocks:
                    digest.update(block)
                    size += len(block)
                    if size > self.settings.max_bytes:
                        raise too_large
                    with _cache_errors(self._cache):
                        stream.write(block)
                        stream.flush()  # so that a full disk is not told as a lost connection
            if declared is not None and size < declared:
                detail = f"{path}: {size:,} of {declared:,} bytes were received"
                raise _HostError("incomplete_download", detail)
            try:
                size_of(temporary, LARGEST)
            except PhotoError as error:
                reason = "not_an_image" if error.reason == "broken_image" else error.reason
                raise ItemError(reason, f"{path} {error.why}") from error
            file = self.file(digest.hexdigest())
            with _cache_errors(self._cache):
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(file)
        return _Record(digest=digest.hexdigest(), bytes=size, checked=time.time())

    def _record_file(self, path: str) -> Path:
        name = _sha256(path)
        return self._cache / "addresses" / name[:2] / f"{name}.json"

    def _read_record(self, path: str) -> _Record | None:
        """The record of an address whose image is in the cache, complete."""
        with suppress(OSError, ValidationError):
            record = _Record.model_validate_json(self._record_file(path).read_bytes())
            if self.file(record.digest).stat().st_size == record.bytes:
                return record
        return None

    def _write_record(self, path: str, record: _Record) -> None:
        file = self._record_file(path)
        with self._temporary() as temporary, _cache_errors(self._cache):
            temporary.write_text(record.model_dump_json())
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(file)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self._cache / "tmp"
        with _cache_errors(self._cache):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder)
            os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


class _Connection(http.client.HTTPConnection):
    """A connection to one of the given addresses; the host's name is for TLS and the header."""

    def __init__(self, target: SplitResult, port: int, addresses: list[tuple], timeout: float) -> None:
        super().__init__(target.hostname or "", port, timeout=timeout)
        self.default_port = 443 if target.scheme == "https" else 80
        self._open: socket.socket | None = None  # `sock` may be forgotten while the answer is read
        self.expired, self._addresses, self._tls = False, addresses, target.scheme == "https"

    def connect(self) -> None:
        self._open = self.sock = self._connected()
        if self.expired:
            raise TimeoutError
        if self._tls:
            self._open = self.sock = _tls_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()  # `expire` can end it

    def _connected(self) -> socket.socket:
        for number, (family, address) in enumerate(self._addresses, start=1):
            attempt = socket.socket(family, socket.SOCK_STREAM)
            try:
                attempt.settimeout(self.timeout)
                attempt.connect(address)
            except OSError:
                attempt.close()
                if number == len(self._addresses) or self.expired:
                    raise
            else:
                return attempt
        raise OSError("the host has no address")

    def expire(self) -> None:
        """Ends the connection from another thread, also while the server sends a byte now and then."""
        self.expired = True
        if self._open is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def public_addresses(host: str, port: int, path: str, allow_private: bool = False) -> list[tuple]:
    """Resolves a host to (family, socket address) pairs.

    Raises:
        ItemError: url_refused if one of them is not public. With `allow_private` only link-local addresses,
            where clouds offer credentials, and those that are no host's are refused.
        _HostError: the host is not known.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        again = getattr(error, "errno", None) == socket.EAI_AGAIN
        raise _HostError("host_not_found", f"{path}: host {host} is not known", again) from error
    for *_, address in found:
        if not _may_be_asked(str(address[0]), allow_private):
            hint = "" if allow_private else "; dataset.remote.allow_private_hosts: true allows an intranet's"
            raise ItemError("url_refused", f"{path}: host {host} has an address that is not public{hint}")
    return [(family, address) for family, _, _, _, address in found]


def _may_be_asked(text: str, allow_private: bool) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = embedded or address
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    return allow_private or address.is_global


def _split(url: str, path: str) -> SplitResult:
    """Parses a web address. Raises an ItemError if it is none; a redirect may lead anywhere."""
    try:
        target = urlsplit(url)
        known = target.scheme in WEB and bool(target.hostname)
        _ = target.port
    except ValueError as error:
        raise ItemError("bad_url", f"{path} is no valid address, or leads to none") from error
    if not known:
        raise ItemError("url_refused", f"{path} leads to no http:// or https:// address of a host")
    return target


def _joined(url: str, location: str, path: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise ItemError("bad_url", f"{path} leads to no valid address") from error


def _origin(target: SplitResult) -> tuple:
    return target.scheme, target.hostname, target.port


def _authorization(target: SplitResult) -> dict[str, str]:
    if target.username is None:
        return {}
    user = f"{unquote(target.username)}:{unquote(target.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block


def _retry_after(answer: http.client.HTTPResponse) -> float | None:
    """The seconds that a server asks to wait, given as a number or as a date."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the image cache {folder} can't be written: {error}; free some space or set dataset.remote.cache"
        ) from error


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
