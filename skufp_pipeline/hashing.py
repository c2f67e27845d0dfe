"""Stable hashes: the same text gives the same number on every machine, run and Python version."""

import hashlib
from pathlib import Path


def stable_hash(text: str, salt: str = "") -> int:
    """A 64-bit unsigned integer that depends on `text` and `salt` alone (BLAKE2b)."""
    digest = hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def stable_fraction(text: str, salt: str = "") -> float:
    """A number in [0, 1), uniform over texts; splits compare it with a fraction."""
    return stable_hash(text, salt) / 2**64


def stable_shard(sku_id: str, shards: int) -> int:
    """The shard of a SKU: in range(shards)."""
    return stable_hash(sku_id, "shard") % shards


def content_digest(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
