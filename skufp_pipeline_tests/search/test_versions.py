"""Versions of an index: published, rolled back for good, kept to a number with their encoders."""

import os
from pathlib import Path

import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.versions import (
    CURRENT,
    KEPT_ENCODERS,
    RELEASES,
    Releases,
    Versions,
    keep_encoders,
)
from skufp_pipeline.store import MANIFEST, ArtifactStore, Recipe


@pytest.fixture
def index(tmp_path: Path) -> Versions:
    return Versions(ArtifactStore(tmp_path / "root"))


@pytest.fixture
def other(index: Versions) -> Versions:
    """Another index of the same data root."""
    return Versions(index.store, "images")


def add(index: Versions, versions: str, encoder: str = "") -> None:
    """Candidates, each a second younger than the one before."""
    for version in versions:
        recipe = Recipe(code_version=version, inputs={"clip_checkpoint": encoder} if encoder else {})
        index.store.produce(index.key(version), recipe, lambda directory: {})
        age = len(index.listed())
        os.utime(Path(index.store.root) / index.key(version) / MANIFEST, (1000 + age, 1000 + age))


def versions(index: Versions) -> str:
    return "".join(sorted(index.listed()))


def publish_all(index: Versions, names: str, kept: int = 9) -> None:
    for name in names:
        add(index, name)
        index.publish(name, kept)


def times(index: Versions) -> dict[Path, int]:
    """When each file of this index was last written."""
    files = (Path(index.store.root) / "index" / index.name).rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_before_the_first_publication_nothing_is_in_use(index: Versions) -> None:
    add(index, "a")
    assert index.in_use is None
    assert index.find() is None
    assert index.releases() == Releases()


def test_the_published_version_is_in_use_and_remembered(index: Versions) -> None:
    publish_all(index, "ab")
    assert index.in_use == index.read().path.name == "b"
    assert index.find() == index.read()
    assert index.releases().published == ["a", "b"]


def test_a_version_published_again_writes_nothing(index: Versions) -> None:
    publish_all(index, "ab")
    before = times(index)
    index.publish("b", 9)
    assert times(index) == before


def test_a_version_that_is_not_there_is_not_published(index: Versions) -> None:
    publish_all(index, "a")
    with pytest.raises(UserError, match="no complete index/fingerprints/b"):
        index.publish("b", 3)
    assert index.in_use == "a"


def test_rolling_back_goes_one_version_back_each_time(index: Versions) -> None:
    publish_all(index, "abc")
    assert [index.roll_back(), index.in_use] == ["b", "b"]
    assert index.roll_back() == "a"
    assert index.releases().withdrawn == ["b", "c"]
    with pytest.raises(UserError, match="no published index version to roll back to but a"):
        index.roll_back()


def test_after_a_roll_back_a_new_version_follows_the_good_one(index: Versions) -> None:
    publish_all(index, "abc")
    index.roll_back()
    publish_all(index, "d")
    assert index.roll_back() == "b"


def test_a_named_version_is_put_in_use_and_no_longer_withdrawn(index: Versions) -> None:
    publish_all(index, "abc")
    index.roll_back()
    assert index.roll_back("a") == "a"
    assert index.roll_back("c") == "c"
    assert index.releases().withdrawn == ["a", "b"]


def test_a_candidate_is_nothing_to_roll_back_to(index: Versions) -> None:
    publish_all(index, "ab")
    add(index, "c")
    with pytest.raises(UserError, match="no published index version 'c': expected one of a, b"):
        index.roll_back("c")
    assert index.roll_back() == "a"


def test_publishing_a_withdrawn_version_lifts_the_ban(index: Versions) -> None:
    publish_all(index, "ab")
    index.roll_back()
    index.publish("b", 9)
    assert index.releases() == Releases(published=["a", "b"])


def test_a_kill_between_swap_and_record_is_mended_by_publishing_again(index: Versions) -> None:
    publish_all(index, "a")
    add(index, "b")
    index.store.write_pointer(index.key(CURRENT), "b")  # all that the killed run did
    assert index.roll_back() == "a"
    index.publish("b", 9)
    assert index.releases().published == ["a", "b"]


@pytest.mark.parametrize(
    ("current", "kept", "left"),
    [("d", 1, "d"), ("d", 2, "cd"), ("d", 9, "abcd"), ("a", 1, "a"), ("a", 2, "ad"), ("d", 0, "d")],
)
def test_the_last_published_are_kept_and_the_one_in_use_always(
    index: Versions, current: str, kept: int, left: str
) -> None:
    publish_all(index, "abcd")
    index.store.write_pointer(index.key(CURRENT), current)
    assert index.prune(kept) == 4 - len(left)
    assert versions(index) == left


def test_candidates_that_failed_do_not_push_out_what_was_published(index: Versions) -> None:
    publish_all(index, "ab")
    add(index, "xyz")
    publish_all(index, "c", kept=3)
    assert versions(index) == "abc"


def test_pruning_leaves_nothing_of_a_version_behind(index: Versions) -> None:
    publish_all(index, "ab", kept=1)
    assert index.store.names("index/fingerprints") == ["CURRENT", "b", "releases.json"]


def encoder(index: Versions, text: str) -> str:
    """Trains the encoder, and keeps it as a new version would; returns its digest."""

    def build(directory: Path) -> dict[str, int]:
        (directory / "deep").mkdir()
        (directory / "deep" / "weights").write_text(text)
        return {"size": 1}

    made = index.store.produce("checkpoints/clip", Recipe(code_version=text), build)
    keep_encoders(index.store, [made])
    return made.digest


def test_an_encoder_stays_as_long_as_a_version_refers_to_it(index: Versions) -> None:
    store = index.store
    for version in "abc":
        digest = encoder(index, version)
        add(index, version, digest)
        index.publish(version, 2)
        assert (store.read(f"{KEPT_ENCODERS}/{digest}").path / "deep" / "weights").read_text() == version
    assert len(store.newest_keys(KEPT_ENCODERS)) == 2
    assert encoder(index, "c") in store.newest_keys(KEPT_ENCODERS)


def test_an_encoder_stays_while_a_version_of_any_index_refers_to_it(index: Versions, other: Versions) -> None:
    def publish(among: Versions, version: str, text: str) -> str:
        digest = encoder(index, text)
        add(among, version, digest)
        among.publish(version, 1)
        return digest

    first = publish(index, "a", "first")
    assert publish(other, "x", "first") == first
    second = publish(index, "b", "second")
    assert (index.listed(), other.listed()) == (["b"], ["x"])
    assert set(index.store.newest_keys(KEPT_ENCODERS)) == {first, second}
    publish(other, "y", "second")
    assert index.store.newest_keys(KEPT_ENCODERS) == [second]


def test_what_is_done_to_one_index_leaves_the_other_alone(index: Versions, other: Versions) -> None:
    publish_all(index, "abc")
    publish_all(other, "ax", kept=1)
    assert (versions(index), versions(other)) == ("abc", "x")
    before = times(other)
    assert index.roll_back() == "b"
    publish_all(index, "d", kept=1)
    assert (index.in_use, times(other)) == ("d", before)
    before = times(index)
    publish_all(other, "yz")
    assert other.roll_back() == "y"
    assert times(index) == before


def test_a_record_that_is_no_record_is_told(index: Versions) -> None:
    index.store.write_pointer(index.key(RELEASES), '{"releases": 3}')
    with pytest.raises(UserError, match=r"index/fingerprints/releases\.json can't be read"):
        index.releases()


def test_an_index_that_is_not_there_is_told_with_those_that_are(index: Versions, other: Versions) -> None:
    publish_all(index, "a")
    for ask in (other.read, other.roll_back):
        with pytest.raises(UserError, match="has no index 'images'; it has fingerprints"):
            ask()


def test_a_data_root_of_the_earlier_layout_is_told(index: Versions) -> None:
    index.store.produce("index/0123", Recipe(code_version="1"), lambda directory: {})
    index.store.write_pointer("index/CURRENT", "0123")
    for ask in (index.read, index.roll_back):
        with pytest.raises(UserError, match="index is of an earlier layout; delete it and materialize"):
            ask()
