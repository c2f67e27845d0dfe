"""API keys: who asks, and what they may.

The file lists a name, a role and the SHA-256 of each key, never a key itself; it is read again when it
changes. A key has 256 random bits, so that a plain hash of it can't be guessed back.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError, field_validator

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.settings import Settings

Role = Literal["shopper", "admin"]
MAKE_ONE = (
    "make one with `skufp serve-key NAME --role admin`, and name its file as serving.keys of the preset"
)
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"
_LONGEST = 512  # bytes of a key that is presented


class Key(Settings):
    """An entry of the file; an admin may do what a shopper may. Without `expires` it does not expire."""

    name: Annotated[str, Field(pattern=rf"^{_NAME}$")]
    role: Role
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: AwareDatetime | None = None

    @field_validator("expires", mode="before")
    @classmethod
    def _begins_at_midnight(cls, value: Any) -> Any:
        """A day without a time is meant in UTC; YAML reads it as a date."""
        is_day = isinstance(value, date) and not isinstance(value, datetime)
        return datetime(value.year, value.month, value.day, tzinfo=UTC) if is_day else value

    @property
    def is_expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)

    def may(self, role: Role) -> bool:
        """Whether its holder may do what needs `role`."""
        return self.role in (role, "admin")


_LIST: TypeAdapter[list[Key]] = TypeAdapter(list[Key])


class Keys:
    """The keys of a file; None: there are none.

    A file that can't be read lets nobody in, and `problem` says why.

    Raises:
        UserError: the file is missing or is no list of keys.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.problem: str | None = None
        self._known: list[Key] = []
        self._state: tuple[int, ...] | None = None
        if path is not None:
            self._known, self._state = read_keys(path), _state(path)

    def find(self, presented: str) -> Key | None:
        """The key that was presented; None if it is unknown or has expired.

        All hashes are compared, each in constant time.
        """
        self._read_again()
        digest = hash_of(presented) if len(presented) <= _LONGEST else ""
        found = [key for key in self._known if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found and not found[0].is_expired else None

    def _read_again(self) -> None:
        if self.path is None or (state := _state(self.path)) == self._state:
            return
        self._state = state
        try:
            self._known, self.problem = read_keys(self.path), None
        except UserError as error:
            self._known, self.problem = [], str(error)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; None if there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip() or None


def hash_of(key: str) -> str:
    """The SHA-256 of a key in hexadecimal digits, as the file lists it."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """Reads a YAML or JSON list of keys; raises UserError if it is none or names a key twice."""
    try:
        found = _LIST.validate_python(yaml.safe_load(path.read_text()) or [])
    except FileNotFoundError:
        raise UserError(f"there is no file of API keys {path}; {MAKE_ONE}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"the API keys {path} can't be read: {in_a_line(error)}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # a hash is not repeated
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path} is no list of API keys (name, role, sha256, expires): {where}: {first['msg']}"
        ) from error
    names = [key.name for key in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several keys named {twice[0]}; give each a name of its own")
    return found


def add_key(path: Path, name: str, role: Role, expires: datetime | None = None) -> str:
    """Adds a fresh key to the file, which only its owner may read, and returns the key.

    Raises UserError if the file can't be read or written, or the name is taken or is none.
    """
    known = read_keys(path) if path.exists() else []
    if not re.fullmatch(_NAME, name):
        raise UserError(f"{name!r} is no name of a key; expected up to 64 letters, digits and any of _ . @ -")
    if any(key.name == name for key in known):
        raise UserError(f"{path} has a key named {name} already; remove that entry, or take another name")
    fresh = f"skufp_{secrets.token_urlsafe(32)}"
    entries = [*known, Key(name=name, role=role, sha256=hash_of(fresh), expires=expires)]
    text = yaml.safe_dump([key.model_dump(exclude_none=True) for key in entries], sort_keys=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"the API keys {path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return fresh


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None if it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
