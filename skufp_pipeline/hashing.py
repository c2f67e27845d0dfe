"""Hashes that are the same on every machine and for every Python version."""

import hashlib
import time
from functools import lru_cache
from pathlib import Path

SETTLED_SECONDS = 2  # a file modified more recently may change again without a new modification time


def stable_hash(text: str, salt: str = "") -> int:
    """A 64-bit unsigned hash (BLAKE2b) of `text` and `salt`."""
    digest = hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def stable_fraction(text: str, salt: str = "") -> float:
    """A hash in [0, 1), uniform over texts; splits compare it with a fraction."""
    return stable_hash(text, salt) / 2**64


def stable_shard(sku_id: str, shards: int) -> int:
    """The shard of a SKU, in range(shards).

    >>> [stable_shard(sku_id, 4) for sku_id in ("000001_01_01", "000001_02_01", "000002_01_08")]
    [1, 0, 1]
    """
    return stable_hash(sku_id, "shard") % shards


def shard_part(limit: int | None, shards: int, shard: int) -> int | None:
    """A shard's part of a limit over all shards; parts differ by one at most and need no coordination."""
    return None if limit is None else (limit + shards - 1 - shard) // shards


def file_digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def content_digest(path: Path) -> str:
    """Digest of a file's bytes, or of the relative names and contents of a folder's files.

    It is cached per process until the file's size or modification time changes.
    """
    if not path.is_file():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()}\0{content_digest(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
    stat = path.stat()
    if time.time_ns() - stat.st_mtime_ns < SETTLED_SECONDS * 1e9:
        return file_digest(path)
    return _known_digest(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _known_digest(path: Path, size: int, mtime_ns: int) -> str:
    return file_digest(path)
