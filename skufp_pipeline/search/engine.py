"""Answers a photo or a sentence: decode, encode, search, each stage timed."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from skufp_pipeline.encoders.clip import Encoder, load_encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import ArtifactStore

CLIP_CHECKPOINT = "checkpoints/clip"
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        rank: 1 for the best.
        score: cosine of query and fingerprint.
        image: its representative image, relative to the data root.
    """

    rank: int
    sku_id: str
    score: float
    category_name: str | None
    title: str | None
    image: str


@dataclass(frozen=True)
class Answer:
    """Ranked SKUs, and how long each stage took in milliseconds."""

    hits: list[Hit]
    milliseconds: dict[str, float]


class QueryEngine:
    """An index and the encoder its fingerprints were made with."""

    def __init__(self, index: FingerprintIndex, encoder: Encoder) -> None:
        self.index = index
        self.encoder = encoder

    @classmethod
    def open(cls, store: ArtifactStore, device: torch.device) -> "QueryEngine":
        """The index in use and its encoder.

        Raises:
            UserError: no index, or the encoder has changed since the index was made.
        """
        artifact, index = current_index(store)
        checkpoint = store.read(CLIP_CHECKPOINT)
        artifact.require_input("clip_checkpoint", checkpoint.digest)
        return cls(index, load_encoder(checkpoint.path / "encoder", device))

    def search_image(self, path: Path, top: int) -> Answer:
        """The SKUs nearest to a photo.

        Raises:
            UserError: the file is missing, no image, truncated or too large.
        """
        clock = _Clock()
        image = read_photo(path)
        clock.lap("decode")
        query = self.encoder.embed_images([image])
        clock.lap("encode")
        return self._answer(query, top, clock)

    def search_text(self, text: str, top: int) -> Answer:
        """The SKUs nearest to a sentence.

        Raises:
            UserError: the text is empty.
        """
        if not text.strip():
            raise UserError("the text to search for is empty")
        clock = _Clock()
        query = self.encoder.embed_texts([text])
        clock.lap("encode")
        return self._answer(query, top, clock)

    def _answer(self, query: NDArray[np.float32], top: int, clock: "_Clock") -> Answer:
        if top < 1:
            raise UserError(f"--top must be at least 1, got {top}")
        result = self.index.search(query, top)[0]
        clock.lap("search")
        rows = self.index.skus[result.rows].iter_rows(named=True)
        hits = [
            Hit(rank, row["sku_id"], float(score), row["category_name"], row["title"], row["image"])
            for rank, (row, score) in enumerate(zip(rows, result.scores, strict=True), start=1)
        ]
        return Answer(hits, clock.milliseconds)


def read_photo(path: Path) -> Image.Image:
    """A user's photo, upright, RGB.

    Raises:
        UserError: missing, no image, truncated, or larger than 50 million pixels.
    """
    if not path.is_file():
        raise UserError(f"photo {str(path)!r} does not exist or is no file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"photo {path} has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}"
                    )
                return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"photo {path} can't be read as an image: {error}") from error


class _Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = (now - self._last) * 1000
        self._last = now
