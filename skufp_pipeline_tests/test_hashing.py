import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.hashing import stable_fraction, stable_hash, stable_shard


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
