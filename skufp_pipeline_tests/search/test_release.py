"""Versions of the index: published, rolled back for good, kept to a number with their encoders."""

import os
from pathlib import Path

import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.bundle import CURRENT, INDEX, KEPT_ENCODERS
from skufp_pipeline.search.release import (
    RELEASES,
    Releases,
    in_use,
    keep_encoders,
    prune,
    publish,
    read_releases,
    roll_back,
)
from skufp_pipeline.store import MANIFEST, ArtifactStore, Recipe


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "root")


def add(store: ArtifactStore, versions: str, encoder: str = "") -> None:
    """Candidates, each a second younger than the one before."""
    for version in versions:
        recipe = Recipe(code_version=version, inputs={"clip_checkpoint": encoder} if encoder else {})
        store.produce(f"{INDEX}/{version}", recipe, lambda directory: {})
        age = len(store.newest_keys(INDEX))
        os.utime(Path(store.root) / INDEX / version / MANIFEST, (1000 + age, 1000 + age))


def versions(store: ArtifactStore) -> str:
    return "".join(sorted(store.newest_keys(INDEX)))


def publish_all(store: ArtifactStore, names: str, kept: int = 9) -> None:
    for name in names:
        add(store, name)
        publish(store, name, kept)


def test_before_the_first_publication_nothing_is_in_use(store: ArtifactStore) -> None:
    add(store, "a")
    assert in_use(store) is None
    assert read_releases(store) == Releases()


def test_the_published_version_is_in_use_and_remembered(store: ArtifactStore) -> None:
    publish_all(store, "ab")
    found = in_use(store)
    assert found is not None
    assert found.path.name == "b"
    assert read_releases(store).published == ["a", "b"]


def test_a_version_published_again_writes_nothing(store: ArtifactStore) -> None:
    publish_all(store, "ab")
    before = {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()}
    publish(store, "b", 9)
    after = {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()}
    assert before == after


def test_a_version_that_is_not_there_is_not_published(store: ArtifactStore) -> None:
    publish_all(store, "a")
    with pytest.raises(UserError, match="no complete index/b"):
        publish(store, "b", 3)
    assert store.read_pointer(CURRENT) == "a"


def test_rolling_back_goes_one_version_back_each_time(store: ArtifactStore) -> None:
    publish_all(store, "abc")
    assert [roll_back(store), store.read_pointer(CURRENT)] == ["b", "b"]
    assert roll_back(store) == "a"
    assert read_releases(store).withdrawn == ["b", "c"]
    with pytest.raises(UserError, match="no published index version to roll back to but a"):
        roll_back(store)


def test_after_a_roll_back_a_new_version_follows_the_good_one(store: ArtifactStore) -> None:
    publish_all(store, "abc")
    roll_back(store)
    publish_all(store, "d")
    assert roll_back(store) == "b"


def test_a_named_version_is_put_in_use_and_no_longer_withdrawn(store: ArtifactStore) -> None:
    publish_all(store, "abc")
    roll_back(store)
    assert roll_back(store, "a") == "a"
    assert roll_back(store, "c") == "c"
    assert read_releases(store).withdrawn == ["a", "b"]


def test_a_candidate_is_nothing_to_roll_back_to(store: ArtifactStore) -> None:
    publish_all(store, "ab")
    add(store, "c")
    with pytest.raises(UserError, match="no published index version 'c': expected one of a, b"):
        roll_back(store, "c")
    assert roll_back(store) == "a"


def test_publishing_a_withdrawn_version_lifts_the_ban(store: ArtifactStore) -> None:
    publish_all(store, "ab")
    roll_back(store)
    publish(store, "b", 9)
    assert read_releases(store) == Releases(published=["a", "b"])


def test_a_kill_between_swap_and_record_is_mended_by_publishing_again(store: ArtifactStore) -> None:
    publish_all(store, "a")
    add(store, "b")
    store.write_pointer(CURRENT, "b")  # all that the killed run did
    assert roll_back(store) == "a"
    publish(store, "b", 9)
    assert read_releases(store).published == ["a", "b"]


@pytest.mark.parametrize(
    ("current", "kept", "left"),
    [("d", 1, "d"), ("d", 2, "cd"), ("d", 9, "abcd"), ("a", 1, "a"), ("a", 2, "ad"), ("d", 0, "d")],
)
def test_the_last_published_are_kept_and_the_one_in_use_always(
    store: ArtifactStore, current: str, kept: int, left: str
) -> None:
    publish_all(store, "abcd")
    store.write_pointer(CURRENT, current)
    assert prune(store, kept) == 4 - len(left)
    assert versions(store) == left


def test_candidates_that_failed_do_not_push_out_what_was_published(store: ArtifactStore) -> None:
    publish_all(store, "ab")
    add(store, "xyz")
    publish_all(store, "c", kept=3)
    assert versions(store) == "abc"


def test_pruning_leaves_nothing_of_a_version_behind(store: ArtifactStore) -> None:
    publish_all(store, "ab", kept=1)
    left = sorted(path.name for path in (Path(store.root) / INDEX).iterdir())
    assert left == ["CURRENT", "b", "releases.json"]


def test_an_encoder_stays_as_long_as_a_version_refers_to_it(store: ArtifactStore) -> None:
    def encoder(text: str) -> str:
        def build(directory: Path) -> dict[str, int]:
            (directory / "deep").mkdir()
            (directory / "deep" / "weights").write_text(text)
            return {"size": 1}

        made = store.produce("checkpoints/clip", Recipe(code_version=text), build)
        keep_encoders(store, [made])
        return made.digest

    for version in "abc":
        digest = encoder(version)
        add(store, version, digest)
        publish(store, version, 2)
        assert (store.read(f"{KEPT_ENCODERS}/{digest}").path / "deep" / "weights").read_text() == version
    assert len(store.newest_keys(KEPT_ENCODERS)) == 2
    assert encoder("c") in store.newest_keys(KEPT_ENCODERS)


def test_a_record_that_is_no_record_is_told(store: ArtifactStore) -> None:
    store.write_pointer(RELEASES, '{"releases": 3}')
    with pytest.raises(UserError, match=r"index/releases\.json can't be read"):
        read_releases(store)
