"""Uploaded photos: checked by their content, kept in memory for a while, never on disk."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoError, size_of, what_is_wrong, without_metadata
from skufp_pipeline.query.seen import MOST_BYTES, SeenPhoto
from skufp_pipeline.serving.problems import Refusal

GONE = "The photo is not kept any more, if it ever was; upload it again."
AT_ONCE = "Too many photos are being uploaded; try again in 1 s."


@dataclass(frozen=True)
class StoredPhoto:
    """An uploaded photo: its upright size in pixels, and when it is forgotten."""

    photo_id: str
    seen: SeenPhoto
    width: int
    height: int
    expires: datetime


class PhotoStore:
    """Photos by id, in memory only: each for some minutes, together so many bytes; the one asked for longest
    ago goes first.

    Args:
        uploads: that may arrive at once.
    """

    def __init__(
        self,
        minutes: float,
        num_bytes: int,
        uploads: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._minutes, self._limit, self._uploads, self._now = minutes, num_bytes, uploads, now
        self._photos: OrderedDict[str, StoredPhoto] = OrderedDict()
        self._arriving = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._photos)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Holds a place for an upload while it lasts; raises a Refusal (429) if there is none."""
        if self._arriving >= self._uploads:
            raise Refusal(429, AT_ONCE, {"Retry-After": "1", "Connection": "close"})
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def add(self, photo: SeenPhoto, size: tuple[int, int]) -> StoredPhoto:
        """Keeps a photo under a new id."""
        expires = self._now() + timedelta(minutes=self._minutes)
        stored = StoredPhoto(secrets.token_urlsafe(16), photo, *size, expires)
        self._photos[stored.photo_id] = stored
        self.num_bytes += _bytes_of(photo)
        self.forget_old()
        return stored

    def get(self, photo_id: str) -> StoredPhoto:
        """Returns a photo; raises a Refusal (404) if it is not kept."""
        found = self.find(photo_id)
        if found is None:
            raise Refusal(404, GONE)
        self._photos.move_to_end(photo_id)
        return found

    def find(self, photo_id: str) -> StoredPhoto | None:
        """Returns a photo; None if it is not kept."""
        found = self._photos.get(photo_id)
        return None if found is None or found.expires <= self._now() else found

    def forget_old(self) -> None:
        """Forgets photos whose time is over, and the first ones while all together are too large."""
        now = self._now()
        for photo_id in [key for key, photo in self._photos.items() if photo.expires <= now]:
            self._forget(photo_id)
        while self.num_bytes > self._limit:
            self._forget(next(iter(self._photos)))

    def _forget(self, photo_id: str) -> None:
        self.num_bytes -= _bytes_of(self._photos.pop(photo_id).seen)


def _bytes_of(photo: SeenPhoto) -> int:
    """Memory of a photo and of what engines keep of it."""
    return len(photo.content) + MOST_BYTES


def checked(content: bytes, max_pixels: int) -> tuple[SeenPhoto, tuple[int, int]]:
    """Returns an upload as a photo without metadata, and its upright size in pixels.

    Raises:
        UserError: caused by a PhotoError; it is no photo, or a broken one.
        Refusal: 413, it has more pixels; they are not decoded.
    """
    try:
        size = size_of(content)
        if size[0] * size[1] > max_pixels:
            raise Refusal(413, f"the photo has {size[0]} x {size[1]} pixels; the limit is {max_pixels:,}")
        return SeenPhoto(without_metadata(content)), size
    except (PhotoError, OSError) as error:
        raise UserError(f"the photo {what_is_wrong(error)}") from error
