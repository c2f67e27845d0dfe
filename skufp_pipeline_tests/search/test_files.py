"""What an index's folder holds: versions share the files of their segments, and damage is told."""

import errno
import json
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.files import write_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import ArtifactStore, Recipe

from .test_index import make_index, unit_rows


def named(*sku_ids: str) -> pl.DataFrame:
    return pl.DataFrame({"sku_id": sku_ids}, schema={"sku_id": pl.String})


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def save(index: FingerprintIndex, folder: Path, previous: Path | None = None) -> FingerprintIndex:
    """The index as it comes back from a new folder."""
    folder.mkdir()
    index.save(folder, previous)
    return FingerprintIndex.load(folder)


@pytest.fixture
def edited(tmp_path: Path) -> FingerprintIndex:
    """Three segments, some rows of each removed, with biases; saved as `old`."""
    index = make_index(unit_rows(70, 8, 0))
    index = index.add(unit_rows(5, 8, 1), named(*"abcde")).add(unit_rows(3, 8, 2), named(*"xyz"))
    index = index.remove(["3", "64", "b", "z"]).with_biases(np.linspace(0, 0.5, 78))
    return save(index, tmp_path / "old")


def test_three_segments_with_removed_rows_and_biases_come_back(
    edited: FingerprintIndex, tmp_path: Path
) -> None:
    assert [len(segment) for segment in edited.segments] == [70, 5, 3]
    assert (len(edited), edited.row_count) == (74, 78)
    assert set(range(78)) - set(edited.present.numbers().tolist()) == {3, 64, 71, 77}
    assert edited.skus["sku_id"].to_list() == [*map(str, range(70)), *"abcdexyz"]
    np.testing.assert_array_equal(edited.biases, np.linspace(0, 0.5, 78).astype(np.float32))
    assert all(isinstance(segment.fingerprints, np.memmap) for segment in edited.segments)
    found = {row for result in edited.search(unit_rows(9, 8, 3), 74) for row in result.rows.tolist()}
    assert found == set(edited.present.numbers().tolist())
    known = json.loads((tmp_path / "old" / "index.json").read_text())
    assert known["segments"][1] == {"rows": 5, "removed": 1, "biased": True}


def test_the_next_version_links_what_has_not_changed(edited: FingerprintIndex, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save(edited.remove(["5"]).add(unit_rows(1, 8, 4), named("new")), new, previous=old)
    for number in range(3):
        segment = f"segment_{number:04d}"
        assert inodes(new / segment) == inodes(old / segment)
    assert sorted(path.name for path in (new / "segment_0003").iterdir()) == sorted(inodes(old / segment))
    shutil.rmtree(old)
    assert FingerprintIndex.load(new).search(unit_rows(1, 8, 4), 1)[0].rows.tolist() == [78]


def test_without_a_previous_version_everything_is_written(edited: FingerprintIndex, tmp_path: Path) -> None:
    save(edited, tmp_path / "new")
    save(edited, tmp_path / "other", previous=tmp_path / "new")  # it was not loaded from there
    for name in ("new", "other"):
        ours, theirs = inodes(tmp_path / name / "segment_0000"), inodes(tmp_path / "old" / "segment_0000")
        assert ours.keys() == theirs.keys()
        assert not set(ours.values()) & set(theirs.values())


def test_what_can_not_be_linked_is_copied(
    edited: FingerprintIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    again = save(edited, tmp_path / "new", previous=tmp_path / "old")
    assert again.contents()[1].equals(edited.contents()[1])
    np.testing.assert_array_equal(again.contents()[0], edited.contents()[0])


def test_a_previous_version_that_is_gone_is_written_from_what_is_mapped(
    edited: FingerprintIndex, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "old")
    again = save(edited, tmp_path / "new", previous=tmp_path / "old")
    np.testing.assert_array_equal(again.contents()[0], edited.contents()[0])


FILES = (
    "index.json",
    "removed_0000.npy",
    "biases_0001.npy",
    "segment_0001/codes.json",
    "segment_0002/fingerprints.npy",
    "segment_0002/skus.arrow",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "half", "empty", "another"])
def test_damage_is_told_by_the_folder(
    edited: FingerprintIndex, tmp_path: Path, name: str, damage: str
) -> None:
    victim = tmp_path / "old" / name
    if damage == "missing":
        victim.unlink()
    elif damage == "another":
        other = make_index(unit_rows(9, 8, 0)).remove(["1"]).with_biases(np.zeros(9))
        save(other, tmp_path / "other")
        folder = "segment_0000/" if "/" in name else ""
        shutil.copy(tmp_path / "other" / folder / victim.name.replace("0001", "0000"), victim)
    else:
        os.truncate(victim, 0 if damage == "empty" else victim.stat().st_size // 2)
    told = f"index bundle {tmp_path / 'old'} can't be read: .*; materialize search_index"
    if (name, damage) == ("index.json", "another"):  # a smaller index would be read as what it says it is
        told = "can't be read: fingerprints.npy holds"
    with pytest.raises(UserError, match=told):
        FingerprintIndex.load(tmp_path / "old")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "index.json: format: Input should be 1"),
        ({"colour": "red"}, "index.json: colour: Extra inputs"),
        ({"segments": []}, "index.json: segments: List should have at least 1 item"),
        ({"segments": [{"rows": 70, "removed": 1}]}, "removed_0000.npy does not hold 1 removed rows"),
        ({"dimension": 9}, "fingerprints.npy holds float32"),
    ],
)
def test_an_index_file_of_another_kind_is_told(
    edited: FingerprintIndex, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = tmp_path / "old" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"can't be read: {told}"):
        FingerprintIndex.load(tmp_path / "old")


def test_a_bias_that_is_none_is_told(edited: FingerprintIndex, tmp_path: Path) -> None:
    np.save(tmp_path / "old" / "biases_0001.npy", np.array([0, 0, np.nan, 0, 0], np.float32))
    with pytest.raises(UserError, match=r"biases_0001.npy holds NaN or infinity"):
        FingerprintIndex.load(tmp_path / "old")


def test_the_store_checks_linked_files_too(edited: FingerprintIndex, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "root")

    def build(index: FingerprintIndex, previous: Path | None) -> Any:
        return lambda directory: (index.save(directory, previous), {})[1]

    one = store.produce("index/one", Recipe(code_version="1"), build(edited, tmp_path / "old"))
    loaded = FingerprintIndex.load(one.path)
    two = store.produce("index/two", Recipe(code_version="2"), build(loaded.remove(["y"]), one.path))
    name = "segment_0001/fingerprints.npy"
    assert one.files()[name] == two.files()[name]
    assert (one.path / name).samefile(two.path / name)
    assert two.damaged_files() == []
    with (two.path / name).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))
    assert one.damaged_files() == two.damaged_files() == [name]


def test_an_index_of_chunks_answers_as_one_made_at_once(tmp_path: Path) -> None:
    rows = unit_rows(100, 8, 0)[np.arange(100) % 60]  # ties between chunks
    skus = pl.DataFrame({"sku_id": [f"sku-{n}" for n in range(100)]})
    write_index(tmp_path, ((rows[n : n + 7], skus[n : n + 7]) for n in range(0, 100, 7)), {"clip": "abc"})
    loaded, whole = FingerprintIndex.load(tmp_path), FingerprintIndex(rows, skus)
    assert len(loaded.segments) == 15
    assert loaded.references == {"clip": "abc"}
    assert loaded.skus.equals(skus)
    queries = unit_rows(9, 8, 1)
    for found, expected in zip(loaded.search(queries, 30), whole.search(queries, 30), strict=True):
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_an_index_of_chunks_keeps_its_biases(tmp_path: Path) -> None:
    rows, skus = unit_rows(20, 8, 0), named(*(f"s{n}" for n in range(20)))
    biases = np.linspace(-1, 1, 20, dtype=np.float32)
    write_index(tmp_path, ((rows[n : n + 7], skus[n : n + 7]) for n in range(0, 20, 7)), {}, biases)
    loaded = FingerprintIndex.load(tmp_path)
    np.testing.assert_array_equal(loaded.biases, biases)
    whole = FingerprintIndex(rows, skus).with_biases(biases)
    for found, expected in zip(loaded.search(rows, 5), whole.search(rows, 5), strict=True):
        np.testing.assert_array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("biases", [np.zeros(3, np.float32), np.array([0, np.nan], np.float32)])
def test_biases_that_do_not_fit_are_told(tmp_path: Path, biases: NDArray[np.float32]) -> None:
    with pytest.raises(UserError, match="biases for 2 fingerprints, or one is not finite"):
        write_index(tmp_path, [(np.eye(2), named("a", "b"))], {}, biases)


def test_one_chunk_at_a_time_is_held(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def chunks() -> Iterator[tuple[NDArray[np.float32], pl.DataFrame]]:
        for number in range(4):
            assert not [chunk for chunk in alive if chunk() is not None]
            rows, skus = unit_rows(5, 8, number), named(*(f"{number}{n}" for n in range(5)))
            alive.extend((weakref.ref(rows), weakref.ref(skus)))
            yield rows, skus
            del rows, skus

    write_index(tmp_path, chunks(), {})
    assert len(FingerprintIndex.load(tmp_path)) == 20


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([], "must be of one dimension, found none"),
        (
            [(np.eye(2), named("a", "b")), (np.eye(3), named(*"cde"))],
            r"found chunks of \[\(2, 2\), \(3, 3\)\]",
        ),
        ([(np.eye(2), named("a", "b")), (np.eye(2), named("c", "a"))], "SKU 'a' occurs more than once"),
        ([(2 * np.eye(2), named("a", "b"))], "2 fingerprints are not unit rows"),
        ([(np.eye(2), named("a"))], "2 fingerprints but 1 SKUs"),
    ],
)
def test_chunks_that_make_no_index_are_told(tmp_path: Path, chunks: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        write_index(tmp_path, chunks, {})
