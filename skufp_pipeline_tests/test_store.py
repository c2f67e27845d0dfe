"""The artifact store: whole or not there, computed once, and a bad day told in a line."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors import SafetensorError

from skufp_pipeline.errors import UserError
from skufp_pipeline.store import CACHE_VARIABLE, FILES, MANIFEST, Artifact, ArtifactStore, Recipe, shard_key

KEY = "tables/words"
RECIPE = Recipe(code_version="1", config={"size": 3}, inputs={"letters": "abc"})
Build = Callable[[Path], dict[str, Any]]


def writes(**files: str) -> Build:
    """A build that writes `name` = `text`; a double underscore in a name stands for a folder."""

    def build(directory: Path) -> dict[str, Any]:
        for name, text in files.items():
            path = directory / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return {"files": len(files)}

    return build


def never(directory: Path) -> dict[str, Any]:
    raise AssertionError("built again")


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "root")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """A store on a local directory, and one on a remote file system that is memory."""
    if request.param == "local":
        return ArtifactStore(tmp_path / "root")
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/root", cache=tmp_path / "cache")


def nothing_else_is_left(store: ArtifactStore) -> bool:
    return not list((Path(store.root) / ".tmp").glob("*"))


def test_what_was_built_is_found_and_read(store: ArtifactStore) -> None:
    made = store.produce(KEY, RECIPE, writes(a="A", deep__b="B"))
    assert made.computed
    assert made.summary == {"files": 2}
    for artifact in (made, store.find(KEY), store.read(KEY)):
        assert isinstance(artifact, Artifact)
        assert (artifact.path / "a").read_text() == "A"
        assert (artifact.path / "deep" / "b").read_text() == "B"
        assert artifact.manifest == made.manifest
    assert sorted(made.files()) == ["a", "deep/b"]
    assert made.files()["a"].bytes == 1
    assert (made.manifest.num_files, made.manifest.num_bytes) == (2, 2)
    assert not store.read(KEY).computed


def test_an_artifact_is_found_without_reading_the_list_of_its_files(local: ArtifactStore) -> None:
    (local.produce(KEY, RECIPE, writes(a="A")).path / FILES).write_text("not read")
    assert local.read(KEY).digest == local.produce(KEY, RECIPE, never).digest


def test_a_manifest_is_as_small_for_many_files_as_for_few(local: ArtifactStore) -> None:
    sizes = []
    for count in (1, 500):
        made = local.produce(
            f"x/{count}", RECIPE, writes(**{f"file{number}": "text" for number in range(count)})
        )
        sizes.append((made.path / MANIFEST).stat().st_size)
    assert sizes[1] < sizes[0] + 10


def test_files_that_have_readers_of_their_own_are_named_by_the_manifest(store: ArtifactStore) -> None:
    files = {"items__shard_0000.txt": "A", "items__shard_0001.txt": "B", "skipped.txt": "C"}
    made = store.produce(KEY, RECIPE, writes(**files), "items/*.txt")
    names = ["items/shard_0000.txt", "items/shard_0001.txt"]
    assert made.manifest.parts == {name: made.files()[name].sha256 for name in names}


def test_manifests_are_those_of_the_complete_artifacts_among_the_keys(store: ArtifactStore) -> None:
    made = [store.produce(shard_key("crops", shard), RECIPE, writes(a=f"{shard}")) for shard in (0, 2)]
    found = store.manifests([shard_key("crops", shard) for shard in range(4)])
    assert found == {artifact.manifest.artifact: artifact.manifest for artifact in made}


def test_a_root_that_does_not_answer_is_not_taken_for_an_empty_one(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: Any, **named: Any) -> bytes:
        raise ConnectionError("gone")

    monkeypatch.setattr(store._fs, "cat_file", unreachable)
    with pytest.raises(ConnectionError):
        store.manifests([KEY])


def test_what_is_not_there_is_none_to_find_and_a_named_error_to_read(store: ArtifactStore) -> None:
    assert store.find(KEY) is None
    with pytest.raises(UserError, match=f"no complete {KEY} under .*; materialize it first"):
        store.read(KEY)


def test_a_key_below_a_file_is_not_there(local: ArtifactStore) -> None:
    local.produce(KEY, RECIPE, writes(a="A"))
    assert local.find(f"{KEY}/a") is None


def test_the_same_recipe_is_not_built_again(store: ArtifactStore) -> None:
    first = store.produce(KEY, RECIPE, writes(a="A"))
    again = store.produce(KEY, RECIPE, never)
    assert not again.computed
    assert again.manifest == first.manifest
    assert (again.path / "a").read_text() == "A"


@pytest.mark.parametrize(
    "change",
    [{"code_version": "2"}, {"config": {"size": 4}}, {"inputs": {"letters": "abd"}}, {"inputs": {}}],
)
def test_another_recipe_is_built_and_replaces_the_old_files(
    store: ArtifactStore, change: dict[str, Any]
) -> None:
    store.produce(KEY, RECIPE, writes(a="A", old="old"))
    made = store.produce(KEY, RECIPE.model_copy(update=change), writes(a="B"))
    assert made.computed
    found = store.read(KEY)
    assert (found.path / "a").read_text() == "B"
    assert not (found.path / "old").exists()


def test_the_order_of_configuration_keys_does_not_matter(local: ArtifactStore) -> None:
    local.produce(KEY, Recipe(code_version="1", config={"a": 1, "b": [1, 2]}), writes(a="A"))
    swapped = Recipe(code_version="1", config={"b": [1, 2], "a": 1})
    assert not local.produce(KEY, swapped, never).computed


def test_the_digest_names_the_content_alone(store: ArtifactStore, tmp_path: Path) -> None:
    other = ArtifactStore(tmp_path / "other")
    one = store.produce(KEY, RECIPE, writes(a="A", b="B"))
    two = other.produce("tables/others", Recipe(code_version="7"), writes(b="B", a="A"))
    assert one.digest == two.digest
    assert one.digest != other.produce("x", RECIPE, writes(a="A", b="C")).digest
    assert one.digest != other.produce("y", RECIPE, writes(a="A", c="B")).digest


def test_a_build_that_fails_leaves_nothing(local: ArtifactStore) -> None:
    def build(directory: Path) -> dict[str, Any]:
        (directory / "a").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        local.produce(KEY, RECIPE, build)
    assert local.find(KEY) is None
    assert nothing_else_is_left(local)


def test_a_build_that_fails_leaves_the_older_artifact_whole(store: ArtifactStore) -> None:
    old = store.produce(KEY, RECIPE, writes(a="A"))
    with pytest.raises(AssertionError, match="built again"):
        store.produce(KEY, Recipe(code_version="2"), never)
    assert store.read(KEY).manifest == old.manifest
    assert store.read(KEY).damaged_files() == []


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from skufp_pipeline.store import ArtifactStore, Recipe

def build(directory: Path) -> dict:
    (directory / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

ArtifactStore(sys.argv[1]).produce(sys.argv[2], Recipe(code_version="killed"), build)
"""


@pytest.mark.parametrize("older", [False, True])
def test_a_killed_build_leaves_nothing_that_is_found(local: ArtifactStore, older: bool) -> None:
    if older:
        local.produce(KEY, RECIPE, writes(a="A"))
    killed = subprocess.run([sys.executable, "-c", KILLED_BUILD, local.root, KEY], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not nothing_else_is_left(local)
    found = local.find(KEY)
    assert (found is not None and found.damaged_files() == []) if older else found is None
    assert local.produce(KEY, Recipe(code_version="killed"), writes(a="whole")).computed
    assert (local.read(KEY).path / "a").read_text() == "whole"
    assert nothing_else_is_left(local)


def test_a_folder_without_a_manifest_is_not_an_artifact_and_is_replaced(local: ArtifactStore) -> None:
    folder = Path(local.root) / KEY
    folder.mkdir(parents=True)
    (folder / "half").write_text("half")
    assert local.find(KEY) is None
    assert local.newest_keys("tables") == []
    local.produce(KEY, RECIPE, writes(a="A"))
    assert not (folder / "half").exists()


def test_a_manifest_of_another_version_is_told_with_what_to_do(local: ArtifactStore) -> None:
    made = local.produce(KEY, RECIPE, writes(a="A"))
    (made.path / MANIFEST).write_text('{"artifact": "tables/words"}')
    with pytest.raises(UserError, match=f"not a manifest of this version; .*materialize {KEY}"):
        local.read(KEY)


def test_damaged_files_names_a_flipped_bit_a_missing_and_a_longer_file(local: ArtifactStore) -> None:
    made = local.produce(KEY, RECIPE, writes(good="good", flipped="flip", missing="x", longer="long"))
    assert made.damaged_files() == []
    (made.path / "flipped").write_bytes(b"flip"[:-1] + bytes([ord("p") ^ 1]))
    (made.path / "missing").unlink()
    with (made.path / "longer").open("a") as stream:
        stream.write("er")
    assert sorted(local.read(KEY).damaged_files()) == ["flipped", "longer", "missing"]


@pytest.mark.parametrize("text", [None, "{", "{}"], ids=["missing", "cut off", "of other files"])
def test_a_damaged_list_of_files_is_told(local: ArtifactStore, text: str | None) -> None:
    made = local.produce(KEY, RECIPE, writes(a="A"))
    (made.path / FILES).unlink() if text is None else (made.path / FILES).write_text(text)
    assert made.damaged_files() == [FILES]
    with pytest.raises(UserError, match=f"{KEY}/{FILES} is not its manifest's; .*materialize {KEY}"):
        made.files()


def test_an_artifact_made_from_another_input_is_refused_with_both_digests(local: ArtifactStore) -> None:
    made = local.produce(KEY, RECIPE, writes(a="A"))
    made.require_input("letters", "abc")
    with pytest.raises(UserError) as caught:
        made.require_input("letters", "xyz")
    assert str(caught.value) == (
        f"{KEY} was made with letters abc, but the letters in use is xyz; materialize {KEY} again"
    )
    with pytest.raises(UserError, match="was made with numbers None, but the numbers in use is 1"):
        made.require_input("numbers", "1")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        pl.exceptions.ComputeError("underlying IO error: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "quota", "polars", "safetensors"],
)
def test_a_full_disk_is_told_in_words(local: ArtifactStore, error: Exception) -> None:
    def build(directory: Path) -> dict[str, Any]:
        (directory / "a").write_text("half")
        raise error

    with pytest.raises(UserError, match=f"disk full while writing {KEY} under .*; free some space"):
        local.produce(KEY, RECIPE, build)
    assert local.find(KEY) is None
    assert nothing_else_is_left(local)


def test_a_full_disk_is_known_by_the_space_that_is_left(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch and numpy speak of positions and counts when a write falls short."""

    def build(directory: Path) -> dict[str, Any]:
        usage = shutil.disk_usage(directory)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534")

    with pytest.raises(UserError, match="disk full"):
        local.produce(KEY, RECIPE, build)


def test_a_users_mistake_in_a_build_keeps_its_own_words(local: ArtifactStore) -> None:
    def build(directory: Path) -> dict[str, Any]:
        raise UserError("no images")

    with pytest.raises(UserError, match=r"^no images$"):
        local.produce(KEY, RECIPE, build)


def test_a_root_that_may_not_be_written_is_told_in_words(local: ArtifactStore) -> None:
    def build(directory: Path) -> dict[str, Any]:
        raise PermissionError(errno.EACCES, "Permission denied", str(directory / "a"))

    with pytest.raises(UserError, match=f"no permission to write {KEY} under"):
        local.produce(KEY, RECIPE, build)


def test_a_root_of_an_unknown_kind_is_told_in_words() -> None:
    with pytest.raises(UserError, match=r"data root 'nowhere://bucket' can't be opened"):
        ArtifactStore("nowhere://bucket")


def produce_many(root: str, name: str, start: Any) -> None:
    """Publishes new versions of one key for a while, as fast as it can."""
    store = ArtifactStore(root)
    start.wait()
    for number in range(60):
        text = f"{name}{number}"
        with suppress(UserError):  # another one is at it
            store.produce(KEY, Recipe(code_version=text), writes(a=text, b=text, c=text))


HOLDING_BUILD = """
import sys, time
from pathlib import Path
from skufp_pipeline.store import ArtifactStore, Recipe

def build(directory: Path) -> dict:
    print("building", flush=True)
    time.sleep(300)
    return {}

ArtifactStore(sys.argv[1]).produce("tables/words", Recipe(code_version="1"), build)
"""


def test_a_key_that_another_process_builds_is_refused_by_its_name_until_it_dies(local: ArtifactStore) -> None:
    command = [sys.executable, "-c", HOLDING_BUILD, local.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "building\n"
        told = (
            f"{KEY} under .* is being made by another run .process {other.pid} on .*; wait until it has ended"
        )
        with pytest.raises(UserError, match=told):
            local.produce(KEY, RECIPE, never)
        assert local.produce("tables/others", RECIPE, writes(a="A")).computed
        other.kill()
        other.wait(30)
        assert str(other.pid) in next((Path(local.root) / ".locks").glob("*.holder")).read_text()
        assert local.produce(KEY, RECIPE, writes(a="A")).computed
    assert nothing_else_is_left(local)


def test_processes_that_write_one_key_at_once_end_in_one_whole_artifact(local: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    writers = [context.Process(target=produce_many, args=(local.root, name, start)) for name in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    found = local.read(KEY)
    assert found.damaged_files() == []
    assert {(found.path / name).read_text() for name in "abc"} == {found.manifest.recipe.code_version}
    assert nothing_else_is_left(local)


def test_a_running_builds_folder_is_not_taken_for_a_leftover(local: ArtifactStore) -> None:
    other = Path(local.root) / ".tmp" / f"tables__words.{os.uname().nodename}.{os.getppid()}"
    other.mkdir(parents=True)
    local.produce(KEY, RECIPE, writes(a="A"))
    assert other.is_dir()


@pytest.mark.parametrize(
    ("host", "removed"), [("shop", True), ("shop.b", False), ("shop.7", False), ("[a-z]*", True)]
)
def test_only_this_hosts_leftovers_are_removed(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch, host: str, removed: bool
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr("socket.gethostname", lambda: host if removed else "shop")
    left = Path(local.root) / ".tmp" / f"tables__words.{host}.{gone.pid}"
    left.mkdir(parents=True)
    local.produce(KEY, RECIPE, writes(a="A"))
    assert left.is_dir() is not removed


def test_scratch_survives_a_failure_and_goes_with_success(local: ArtifactStore) -> None:
    seen: list[str] = []

    def build(directory: Path) -> dict[str, Any]:
        progress = local.scratch(KEY, RECIPE) / "epoch"
        seen.append(progress.read_text() if progress.exists() else "nothing")
        progress.write_text("1")
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        local.produce(KEY, RECIPE, build)
    assert not (local.scratch(KEY, Recipe(code_version="2")) / "epoch").exists()
    local.produce(KEY, RECIPE, build)
    assert seen == ["nothing", "1"]
    assert not (local.scratch(KEY, RECIPE) / "epoch").exists()


def test_a_pointer_is_read_back_and_replaced(store: ArtifactStore) -> None:
    assert store.read_pointer("index/CURRENT") is None
    for version in ("one", "two"):
        store.write_pointer("index/CURRENT", version)
        assert store.read_pointer("index/CURRENT") == version
    assert ArtifactStore(store.root).read_pointer("index/CURRENT") == "two"


def test_a_pointer_on_a_full_disk_is_told_and_keeps_its_old_text(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    local.write_pointer("index/CURRENT", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"^disk full while writing index/CURRENT under "):
        local.write_pointer("index/CURRENT", "new")
    assert local.read_pointer("index/CURRENT") == "old"
    assert [path.name for path in (Path(local.root) / "index").iterdir()] == ["CURRENT"]


def test_newest_keys_come_last_written_first_and_whole_only(local: ArtifactStore) -> None:
    assert local.newest_keys("index") == local.names("index") == []
    for age, name in enumerate(["b", "c", "a"]):
        made = local.produce(f"index/{name}", RECIPE, writes(a=name))
        os.utime(made.path / MANIFEST, (1000 - age, 1000 - age))
    local.write_pointer("index/CURRENT", "b")
    (Path(local.root) / "index" / "half").mkdir()
    assert local.newest_keys("index") == ["b", "c", "a"]
    assert local.names("index") == ["CURRENT", "a", "b", "c", "half"]


def test_newest_keys_of_a_remote_root(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
    for name in ("b", "a"):
        store.produce(f"index/{name}", RECIPE, writes(a=name))
    store.write_pointer("index/CURRENT", "b")
    assert store.newest_keys("index") == ["a", "b"]
    assert store.names("index") == ["CURRENT", "a", "b"]


@pytest.mark.parametrize("files", [{"a": "A", "deep__b": "B"}, {}], ids=["files", "manifest alone"])
def test_a_deleted_artifact_is_gone_and_may_be_made_again(
    store: ArtifactStore, files: dict[str, str]
) -> None:
    store.produce(KEY, RECIPE, writes(**files))
    store.produce("tables/others", RECIPE, writes(a="A"))
    store.delete(KEY)
    assert store.find(KEY) is None
    assert store.newest_keys("tables") == ["others"]
    assert store.produce(KEY, RECIPE, writes(**files)).computed
    assert store.produce(KEY, Recipe(code_version="2"), writes(**files)).computed


def test_an_artifact_of_no_files_is_deleted_where_folders_are_but_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
    monkeypatch.setattr(store._fs, "makedirs", lambda path, exist_ok: None)
    store.produce(KEY, RECIPE, writes())
    assert store.produce(KEY, Recipe(code_version="2"), writes()).computed
    store.delete(KEY)
    assert store.find(KEY) is None


def test_a_file_below_the_root_is_found_locally(store: ArtifactStore) -> None:
    store.produce(KEY, RECIPE, writes(deep__b="B"))
    assert store.local_path(f"{KEY}/deep/b").read_text() == "B"


def test_a_broken_upload_leaves_nothing_and_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
    put = store._fs.put_file
    sent: list[str] = []

    def put_once(source: str, target: str) -> None:
        if sent:
            raise ConnectionError("gone")
        sent.append(target)
        put(source, target)

    monkeypatch.setattr(store._fs, "put_file", put_once)
    with pytest.raises(ConnectionError):
        store.produce(KEY, RECIPE, writes(a="A", b="B"))
    monkeypatch.undo()
    assert sent
    assert store.find(KEY) is None
    store.produce(KEY, RECIPE, writes(b="C"))
    assert sorted(store.read(KEY).files()) == ["b"]
    assert not store._fs.exists(sent[0])


def test_readers_that_fetch_one_remote_artifact_at_once_both_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    ArtifactStore(root, cache=tmp_path / "writer").produce(KEY, RECIPE, writes(a="A"))
    store = ArtifactStore(root, cache=tmp_path / "readers")
    fetch, both, one = store._fs.get_file, threading.Barrier(2, timeout=20), threading.Lock()

    def fetch_together(source: str, target: str) -> None:
        with one:  # the file system in memory is not for threads
            fetch(source, target)
        both.wait()

    monkeypatch.setattr(store._fs, "get_file", fetch_together)
    manifest = store.manifest(KEY)
    monkeypatch.setattr(store, "manifest", lambda key: manifest)
    texts: list[str] = []
    readers = [
        threading.Thread(target=lambda: texts.append((store.read(KEY).path / "a").read_text()))
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert texts == ["A", "A"]
    assert len(list((tmp_path / "readers" / KEY).iterdir())) == 1


def test_copies_of_a_remote_root_lie_in_the_users_cache_or_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    ArtifactStore(root, cache=tmp_path / "writer").produce(KEY, RECIPE, writes(a="A"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    assert ArtifactStore(root).read(KEY).path.is_relative_to(tmp_path / "mine")
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert ArtifactStore(root).read(KEY).path.is_relative_to(tmp_path / "home" / "skufp")


def test_two_threads_of_one_process_do_not_build_one_key_at_once(local: ArtifactStore) -> None:
    def build(directory: Path) -> dict[str, Any]:
        told: list[str] = []

        def other() -> None:
            try:
                local.produce(KEY, RECIPE, never)
            except UserError as error:
                told.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
        assert f"is being made by another run (process {os.getpid()} on " in told[0]
        return {}

    assert local.produce(KEY, RECIPE, build).computed


def test_shards_have_keys_that_sort() -> None:
    assert shard_key("crops", 7) == "crops/shard_0007"
    assert shard_key("crops", 999) < shard_key("crops", 1000)
