"""The artifact store: every result is a directory under one root, either complete or absent.

A directory is built under a temporary name on the same file system, its `manifest.json` is written last, and
then it is moved into place; readers reject a directory without a manifest. The list of files is in
`files.json`, so that the manifest stays small. The root is a local path or any fsspec URL; remote artifacts
are read through a local cache, so that science code sees only local paths. A result whose recipe (code,
libraries, configuration, inputs) is unchanged is not computed again.
"""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from skufp_pipeline.errors import UserError
from skufp_pipeline.settings import Settings

MANIFEST, FILES = "manifest.json", "files.json"
CACHE_VARIABLE = "SKUFP_CACHE"
_LEAST_FREE = 1 << 20  # bytes; with less free space any error is taken for a full disk


class FileEntry(Settings):
    """Size in bytes and SHA-256 of one file of an artifact."""

    bytes: int
    sha256: str


_FILES = TypeAdapter(dict[str, FileEntry])


class Recipe(Settings):
    """What a result depends on: code, library versions, its part of the configuration, input digests."""

    code_version: str
    libraries: dict[str, str] = {}
    config: dict[str, Any] = {}
    inputs: dict[str, str] = {}

    @property
    def digest(self) -> str:
        return digest_json(self.model_dump())


class Manifest(Settings):
    """Schema of `manifest.json`.

    Attributes:
        digest: content digest: the same files give the same digest.
        parts: SHA-256 of the files that are inputs on their own, by name.
    """

    artifact: str
    digest: str
    recipe: Recipe
    summary: dict[str, Any]
    num_files: int
    num_bytes: int
    parts: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """A complete result: local directory, manifest, and whether this call computed it."""

    path: Path
    manifest: Manifest
    computed: bool = False

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    def require_input(self, name: str, digest: str) -> None:
        """Raises UserError if this artifact was made from another version of an input."""
        found = self.manifest.recipe.inputs.get(name)
        if found != digest:
            raise UserError(
                f"{self.manifest.artifact} was made with {name} {found}, but the {name} in use is {digest}; "
                f"materialize {self.manifest.artifact} again"
            )

    def files(self) -> dict[str, FileEntry]:
        """Size and checksum of every file by name; raises UserError if the list is damaged."""
        with suppress(FileNotFoundError, ValidationError):
            files = _FILES.validate_json((self.path / FILES).read_bytes())
            if _content_digest(files) == self.digest:
                return files
        name = self.manifest.artifact
        raise UserError(f"{name}/{FILES} is not its manifest's; delete the folder and materialize {name}")

    def damaged_files(self) -> list[str]:
        """Names of missing files and files with another size or checksum; only `FILES` if that is damaged."""
        try:
            files = self.files().items()
        except UserError:
            return [FILES]
        there = [(name, entry, self.path / name) for name, entry in files]
        return [name for name, entry, path in there if not path.is_file() or _file_entry(path) != entry]


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$SKUFP_CACHE`, or a folder of the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path("skufp"))


class ArtifactStore:
    """Artifacts by key (`tables/annotations`, `crops/shard_0003`) under one root.

    Args:
        root: local directory or fsspec URL (`s3://bucket/prefix`).
        cache: folder for copies of remote artifacts; by default in `$SKUFP_CACHE` or the user's cache.
    """

    def __init__(self, root: str | Path, cache: Path | None = None) -> None:
        self.root = str(root)
        try:
            self._fs, self._base = fsspec.url_to_fs(self.root)
        except (ValueError, ImportError) as error:
            raise UserError(f"data root {self.root!r} can't be opened: {error}") from error
        self._local = isinstance(self._fs, LocalFileSystem)
        self._cache = cache or cache_folder() / hashlib.sha256(self.root.encode()).hexdigest()[:16]

    def find(self, key: str) -> Artifact | None:
        """The artifact at `key`, or None if there is no complete one."""
        manifest = self.manifest(key)
        return None if manifest is None else Artifact(self._local_copy(key, manifest), manifest)

    def manifest(self, key: str) -> Manifest | None:
        """The manifest at `key`, without fetching files; None if there is no complete artifact."""
        return self.manifests([key]).get(key)

    def manifests(self, keys: Iterable[str]) -> dict[str, Manifest]:
        """The manifests of the complete artifacts among `keys`; a remote root is read concurrently."""
        paths = {key: f"{self._base}/{key}/{MANIFEST}" for key in keys}
        texts = self._fs.cat_ranges(list(paths.values()), None, None, on_error="return")
        found = {}
        for (key, path), text in zip(paths.items(), texts, strict=True):
            if isinstance(text, FileNotFoundError | NotADirectoryError):
                continue
            if isinstance(text, Exception):
                raise text
            try:
                found[key] = Manifest.model_validate_json(text)
            except ValidationError as error:
                raise UserError(
                    f"{path} is not a manifest of this version; delete its folder and materialize {key}"
                ) from error
        return found

    def read(self, key: str) -> Artifact:
        """The artifact at `key`; raises UserError if there is no complete one."""
        manifest = self.read_manifest(key)
        return Artifact(self._local_copy(key, manifest), manifest)

    def read_manifest(self, key: str) -> Manifest:
        """The manifest at `key`, without fetching files. Raises as `read`."""
        manifest = self.manifest(key)
        if manifest is None:
            raise UserError(f"no complete {key} under {self.root}; materialize it first")
        return manifest

    def produce(
        self, key: str, recipe: Recipe, build: Callable[[Path], Mapping[str, Any]], parts: str = ""
    ) -> Artifact:
        """Returns the artifact at `key` if it was made by `recipe`, else builds it.

        Args:
            build: writes files into the given directory and returns a JSON-able summary.
            parts: pattern of the files that the manifest lists as parts (`items/*.parquet`).

        Example:
            >>> store = ArtifactStore(tempfile.mkdtemp())
            >>> def build(directory):
            ...     written = (directory / "prices.txt").write_text("12")
            ...     return {"rows": 1}
            >>> recipe = Recipe(code_version="1")
            >>> [store.produce("tables/prices", recipe, build).computed for _ in range(2)]
            [True, False]
            >>> store.read("tables/prices").summary
            {'rows': 1}

        Raises:
            UserError: another process is building it, the disk is full, or write permission is missing.
        """
        existing = self.manifest(key)
        if existing is not None and existing.recipe == recipe:
            return Artifact(self._local_copy(key, existing), existing)
        with self._locked(key), self._building(key) as directory:
            summary = dict(build(directory))
            manifest = _describe(key, directory, recipe, summary, parts)
            (directory / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
            path = self._publish(key, directory, manifest)
        self._drop_scratch(key)
        return Artifact(path, manifest, computed=True)

    def scratch(self, key: str, recipe: Recipe) -> Path:
        """A local directory for resuming: it survives a killed run with the same recipe."""
        directory = self._scratch_root(key) / recipe.digest
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def local_path(self, relative: str) -> Path:
        """Local path of one file below the root, downloaded if the root is remote."""
        if self._local:
            return Path(self._base) / relative
        target = self._cache / "files" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(f"{self._base}/{relative}", str(target))
        return target

    def read_pointer(self, key: str) -> str | None:
        """The text of a small pointer file such as an index's `CURRENT`, or None."""
        path = f"{self._base}/{key}"
        return self._fs.cat_file(path).decode().strip() if self._fs.isfile(path) else None

    def write_pointer(self, key: str, text: str) -> None:
        """Replaces a pointer file atomically; raises UserError if disk or permissions prevent it."""
        self.write_file(key, f"{text}\n".encode())

    def write_file(self, key: str, content: bytes) -> None:
        """Replaces a file that belongs to no artifact, atomically. Raises as `write_pointer`."""
        path = f"{self._base}/{key}"
        if not self._local:
            self._fs.pipe_file(path, content)
            return
        temporary = Path(f"{path}.{secrets.token_hex(6)}.tmp")  # replicas in containers share a process id
        try:
            with self._write_errors(key, temporary.parent):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, complete artifacts or not."""
        base = f"{self._base}/{prefix}"
        found = self._fs.ls(base, detail=False) if self._fs.isdir(base) else []
        return sorted(Path(path).name for path in found)

    def newest_keys(self, prefix: str) -> list[str]:
        """Names of the complete artifacts directly below `prefix`, newest first."""
        base = f"{self._base}/{prefix}"
        written = {
            name: self._fs.modified(f"{base}/{name}/{MANIFEST}")
            for name in self.names(prefix)
            if self._fs.isfile(f"{base}/{name}/{MANIFEST}")
        }
        return sorted(written, key=lambda name: written[name], reverse=True)

    def written(self, key: str) -> datetime:
        """When the artifact at `key` was completed; raises UserError if there is none."""
        self.read_manifest(key)
        modified: datetime = self._fs.modified(f"{self._base}/{key}/{MANIFEST}")
        return modified if modified.tzinfo is not None else modified.replace(tzinfo=UTC)

    def delete(self, key: str) -> None:
        """Deletes an artifact, its manifest first, so that no reader sees a partial one as complete."""
        folder = f"{self._base}/{key}"
        self._fs.rm_file(f"{folder}/{MANIFEST}")
        if self._fs.exists(folder):  # an object store has no empty folders
            self._fs.rm(folder, recursive=True)

    def _local_copy(self, key: str, manifest: Manifest) -> Path:
        if self._local:
            return Path(self._base) / key
        target = self._cache / key / manifest.digest
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=target.parent))
            self._fs.get_file(f"{self._base}/{key}/{FILES}", str(partial / FILES))
            for name in Artifact(partial, manifest).files():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{self._base}/{key}/{name}", str(partial / name))
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                shutil.rmtree(partial)  # another process fetched it meanwhile
        return target

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Holds the key's lock on a local root; the system releases it when the process ends.

        A remote root has no locks: of two concurrent runs the last one wins.
        """
        if not self._local:
            yield
            return
        path = Path(self._base) / ".locks" / key.replace("/", "__")
        holder = path.with_name(path.name + ".holder")
        with self._write_errors(key, path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                name = "its name is not known yet"
                with suppress(OSError):
                    name = holder.read_text().strip()
                raise UserError(
                    f"{key} under {self.root} is being made by another run ({name}); "
                    "wait until it has ended, or end it"
                ) from None
        try:
            with suppress(OSError):  # on a full disk the lock works without the holder's name
                holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def _building(self, key: str) -> Iterator[Path]:
        temporary = (Path(self._base) if self._local else self._cache) / ".tmp"
        flat = key.replace("/", "__")
        _remove_leftovers(temporary, flat)
        directory = temporary / f"{flat}.{socket.gethostname()}.{os.getpid()}"
        try:
            with self._write_errors(key, directory):
                directory.mkdir(parents=True)
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def _write_errors(self, key: str, directory: Path) -> Iterator[None]:
        """Raises UserError for a full disk or a missing permission while writing `key`."""
        try:
            yield
        except UserError:
            raise
        except PermissionError as error:
            raise UserError(f"no permission to write {key} under {self.root}: {error}") from error
        except Exception as error:
            if _is_disk_full(error, directory):
                raise UserError(
                    f"disk full while writing {key} under {self.root}; free some space and run it again "
                    "(nothing half-written was left)"
                ) from error
            raise

    def _publish(self, key: str, directory: Path, manifest: Manifest) -> Path:
        if self._local:
            target = Path(self._base) / key
            target.parent.mkdir(parents=True, exist_ok=True)
            _move_into_place(directory, target)
            return target
        remote = f"{self._base}/{key}"
        if self._fs.exists(f"{remote}/{MANIFEST}"):
            self.delete(key)
        elif self._fs.exists(remote):
            self._fs.rm(remote, recursive=True)  # left by a killed upload
        for name in [*Artifact(directory, manifest).files(), FILES, MANIFEST]:
            self._fs.makedirs(f"{remote}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(directory / name), f"{remote}/{name}")
        return self._local_copy(key, manifest)

    def _scratch_root(self, key: str) -> Path:
        return (Path(self._base) if self._local else self._cache) / ".scratch" / key.replace("/", "__")

    def _drop_scratch(self, key: str) -> None:
        shutil.rmtree(self._scratch_root(key), ignore_errors=True)


def shard_name(shard: int) -> str:
    """The name of a shard: `shard_0003` for 3."""
    return f"shard_{shard:04d}"


def shard_key(table: str, shard: int) -> str:
    """The key of one shard of a sharded artifact."""
    return f"{table}/{shard_name(shard)}"


def _describe(key: str, directory: Path, recipe: Recipe, summary: dict[str, Any], parts: str) -> Manifest:
    """Writes `FILES` for the files in `directory` and returns the manifest."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    files = {name: _file_entry(directory / name) for name in names}
    (directory / FILES).write_bytes(_FILES.dump_json(files))
    return Manifest(
        artifact=key,
        digest=_content_digest(files),
        recipe=recipe,
        summary=summary,
        num_files=len(files),
        num_bytes=sum(entry.bytes for entry in files.values()),
        parts={name: entry.sha256 for name, entry in files.items() if fnmatch(name, parts)},
    )


def _content_digest(files: Mapping[str, FileEntry]) -> str:
    return digest_json({name: entry.sha256 for name, entry in files.items()})


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(bytes=path.stat().st_size, sha256=digest)


def digest_json(value: Any) -> str:
    """Digest of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _move_into_place(directory: Path, target: Path) -> None:
    """Moves `directory` to `target`, replacing it; of several concurrent processes the last one wins."""
    replaced = directory.with_name(directory.name + ".replaced")
    while True:
        try:
            with suppress(FileNotFoundError):
                target.rename(replaced)
            directory.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(replaced, ignore_errors=True)


def _is_disk_full(error: Exception, directory: Path) -> bool:
    """Whether a full disk caused the error; torch's and numpy's errors may have neither errno nor message."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    is_full = is_full or "No space left on device" in str(error)
    return is_full or (directory.is_dir() and shutil.disk_usage(directory).free < _LEAST_FREE)


def _remove_leftovers(temporary: Path, flat_key: str) -> None:
    """Deletes temporary directories of an artifact that killed runs on this machine left."""
    mine = f"{flat_key}.{socket.gethostname()}."
    for path in temporary.glob(f"{glob.escape(mine)}*"):
        pid = path.name.removesuffix(".replaced").removeprefix(mine)
        if not pid.isdecimal():  # of another host, whose name starts with this one's
            continue
        if int(pid) == os.getpid() or not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
