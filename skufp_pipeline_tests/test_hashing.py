import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline import hashing
from skufp_pipeline.hashing import content_digest, stable_fraction, stable_hash, stable_shard


@pytest.mark.parametrize(
    ("text", "salt", "value"),
    [
        ("", "", 10734006239897485896),
        ("000001_01_01", "", 13251448688614189174),
        ("000001_01_01", "shard", 17249145349286383765),
        ("große Größe", "", 4145093025643593565),
    ],
)
def test_hashes_are_the_same_for_ever(text: str, salt: str, value: int) -> None:
    assert stable_hash(text, salt) == value


def test_another_process_with_another_hash_seed_gives_the_same_number() -> None:
    code = "from skufp_pipeline.hashing import stable_hash; print(stable_hash('a', 'b'))"
    printed = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "3"}, capture_output=True, text=True, check=True
    )
    assert int(printed.stdout) == stable_hash("a", "b")


@given(st.text(), st.text())
def test_fractions_lie_in_zero_to_one_and_shards_in_range(text: str, salt: str) -> None:
    assert 0 <= stable_hash(text, salt) < 2**64
    assert 0 <= stable_fraction(text, salt) < 1
    assert stable_shard(text, 7) in range(7)
    assert stable_shard(text, 1) == 0


def test_text_and_salt_do_not_run_into_one_another() -> None:
    assert stable_hash("b", "a") != stable_hash("ab") != stable_hash("", "ab")


def test_fractions_and_shards_are_spread_evenly() -> None:
    fractions = [stable_fraction(str(number), "x") for number in range(4000)]
    for tenth in range(10):
        share = sum(tenth <= 10 * fraction < tenth + 1 for fraction in fractions) / 4000
        assert 0.08 < share < 0.12
    counts = [0] * 8
    for number in range(4000):
        counts[stable_shard(f"{number:06d}_01_01", 8)] += 1
    assert min(counts) > 400
    assert max(counts) < 600


def test_a_folders_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    for folder in ("one", "same", "renamed"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "b").write_bytes(b"2")
        (tmp_path / folder / ("c" if folder == "renamed" else "a")).write_bytes(b"1")
    one, same, renamed = (content_digest(tmp_path / name) for name in ("one", "same", "renamed"))
    assert one == same != renamed
    assert content_digest(tmp_path / "one" / "a") == hashlib.sha256(b"1").hexdigest()[:16]


def test_a_file_is_read_again_only_where_its_size_or_time_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(hashing, "file_digest", lambda path: reads.append(path) or str(len(reads)))
    path = tmp_path / "weights.bin"
    path.write_bytes(b"1")
    assert content_digest(path) != content_digest(path)  # it may still be written to
    os.utime(path, (1000, 1000))
    assert content_digest(path) == content_digest(path) == "3"
    os.utime(path, (1000, 2000))
    assert content_digest(path) == "4"
