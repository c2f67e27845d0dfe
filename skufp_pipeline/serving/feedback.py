"""Shoppers' thumbs: kept as Parquet files in the data root, and read back as labelled photos.

They are kept only where `serving.feedback` is on. A search is remembered in memory alone; its photo is
written to disk only if the shopper then gives a thumb, upright and without metadata, and only if the photo
alone was asked: with words or likes beside it the right SKU need not be the one in the photo.
"""

import hashlib
import io
import logging
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from skufp_pipeline.errors import UserError
from skufp_pipeline.serving.jpeg import upright_jpeg
from skufp_pipeline.store import ArtifactStore

FOLDER = "feedback"
REMEMBERED = 4096  # searches
ROWS, BYTES, SECONDS = 100, 8_000_000, 30.0  # of a file, at most; a file is written when one is reached
HELD = 10  # times as much is held in memory while files can't be written
SCHEMA: dict[str, pl.DataType] = {
    "time": pl.Datetime("us", "UTC"),
    "request_id": pl.String(),
    "index": pl.String(),
    "index_version": pl.String(),
    "sku_id": pl.String(),
    "good": pl.Boolean(),
    "rank": pl.Int32(),
    "text": pl.String(),
    "bbox": pl.String(),  # x1,y1,x2,y2 in pixels of the photo; null for the whole
    "photo_digest": pl.String(),  # of the photo's bytes; null without one
    "photo": pl.Binary(),  # JPEG
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remembered:
    """A search that a thumb may be given on.

    Attributes:
        shown: SKUs of its answer, best first.
        photo_id: of the one photo, if nothing else was asked.
        box: of that photo, x1, y1, x2, y2 in pixels.
    """

    index: str
    version: str
    shown: Sequence[str]
    text: str | None = None
    photo_id: str | None = None
    box: tuple[int, int, int, int] | None = None


class Feedback:
    """Thumbs of shoppers, written to a store in files of many.

    Args:
        is_on: without it nothing is remembered.
    """

    def __init__(self, store: ArtifactStore, is_on: bool) -> None:
        self.is_on = is_on
        self._store = store
        self._searches: OrderedDict[str, Remembered] = OrderedDict()
        self._rows: list[dict[str, Any]] = []
        self._since = 0.0  # of the first row that is not written
        self._lock = threading.Lock()

    def remember(self, request_id: str, search: Remembered) -> None:
        """Remembers a search; of more than `REMEMBERED` the oldest goes."""
        if not self.is_on:
            return
        with self._lock:
            self._searches[request_id] = search
            self._searches.move_to_end(request_id)
            while len(self._searches) > REMEMBERED:
                self._searches.popitem(last=False)

    def find(self, request_id: str) -> Remembered | None:
        return self._searches.get(request_id)

    def add(self, request_id: str, sku_id: str, good: bool, photo: bytes | None) -> None:
        """Keeps a thumb on a SKU of a remembered search.

        Args:
            photo: of the search, in any format.

        Raises:
            UserError: files can't be written, and no more fits into memory.
        """
        search = self._searches[request_id]
        jpeg = None if photo is None else upright_jpeg(photo)
        row = {
            "time": datetime.now(UTC),
            "request_id": request_id,
            "index": search.index,
            "index_version": search.version,
            "sku_id": sku_id,
            "good": good,
            "rank": search.shown.index(sku_id) + 1,
            "text": search.text,
            "bbox": None if search.box is None or jpeg is None else ",".join(map(str, search.box)),
            "photo_digest": None if jpeg is None else hashlib.sha256(jpeg).hexdigest()[:16],
            "photo": jpeg,
        }
        with self._lock:
            if self._is_full(HELD):
                raise UserError("feedback can't be written at present; the service's log says why")
            self._since = self._since if self._rows else time.monotonic()
            self._rows.append(row)
            is_due = self._is_full()
        if is_due:
            self.flush()

    def flush_old(self) -> None:
        """Writes what has waited for `SECONDS`."""
        if self._rows and time.monotonic() - self._since >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is not written; what can't be stays in memory, and the log says why."""
        with self._lock:
            if not self._rows:
                return
            buffer = io.BytesIO()
            pl.DataFrame(self._rows, schema=SCHEMA).write_parquet(buffer, compression="zstd")
            day = self._rows[0]["time"].date().isoformat()
            try:
                self._store.write_file(f"{FOLDER}/{day}/{uuid.uuid4()}.parquet", buffer.getvalue())
            except (UserError, OSError) as error:
                log.error("feedback can't be written: %s", error)
                return
            self._rows = []

    def _is_full(self, times: int = 1) -> bool:
        size = sum(len(row["photo"] or b"") for row in self._rows)
        return len(self._rows) >= times * ROWS or size >= times * BYTES


class Labelled(NamedTuple):
    """Photos with the SKU that a shopper called right.

    Attributes:
        photos: `sku_id`, `image_path`, `domain`, `bbox`, as a manifest has them.
        files: the content of each image path.
        left_out: how many thumbs are not among them, by reason.
    """

    photos: pl.DataFrame
    files: dict[str, bytes]
    left_out: dict[str, int]


def read_feedback(store: ArtifactStore) -> pl.DataFrame:
    """All thumbs in a store, the first ones first; raises UserError if there are none."""
    files = [
        f"{FOLDER}/{day}/{name}" for day in store.names(FOLDER) for name in store.names(f"{FOLDER}/{day}")
    ]
    frames = [pl.read_parquet(store.local_path(file)) for file in files if file.endswith(".parquet")]
    if not frames:
        raise UserError(
            f"{store.root} has no feedback yet; set serving.feedback: true, and let shoppers use the service"
        )
    return pl.concat(frames).sort("time", "request_id", "sku_id")


def labelled_photos(thumbs: pl.DataFrame, folder: str) -> Labelled:
    """The photos of good thumbs; of several thumbs on a photo and a SKU the last one counts.

    Args:
        folder: the image paths are in it.
    """
    left_out: Counter[str] = Counter()

    def keep(table: pl.DataFrame, condition: pl.Expr, reason: str) -> pl.DataFrame:
        kept = table.filter(condition)
        left_out[reason] += table.height - kept.height
        return kept

    found = keep(thumbs, pl.col("photo").is_not_null(), "without a photo of their own")
    place = ["photo_digest", "bbox"]
    last = found.unique([*place, "sku_id"], keep="last", maintain_order=True)
    left_out["taken back or given again"] += found.height - last.height
    found = keep(last, pl.col("good"), "thumbs down")
    rivals = pl.col("sku_id").n_unique().over(place)
    found = keep(found, rivals == 1, "photos that are called right for several SKUs")
    path = pl.format("{}/{}.jpg", pl.lit(folder), "photo_digest")
    photos = found.select("sku_id", image_path=path, domain=pl.lit("query"), bbox="bbox")
    files = dict(zip(photos["image_path"], found["photo"], strict=True))
    return Labelled(photos, files, {reason: count for reason, count in left_out.items() if count})
