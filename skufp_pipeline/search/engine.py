"""Answers a photo or a sentence: decode, preprocess, encode, search, each stage timed."""

import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from skufp_pipeline.encoders.clip import Encoder, load_encoder
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.bundle import IMAGE_ENCODER, current_index, encoder_of
from skufp_pipeline.search.index import FingerprintIndex, SearchResult, mix
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.store import ArtifactStore

CLIP_CHECKPOINT = "checkpoints/clip"
CACHED_TEXTS = 4096  # sentences whose embeddings are kept: 8 MB at 512 dimensions
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        rank: 1 for the best.
        score: cosine of query and fingerprint, plus the SKU's bias where the index has biases.
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
    """An index and the encoder its fingerprints were made with.

    Args:
        encoder: embeds sentences, and photos where there is no `image_encoder`.
        image_encoder: embeds photos in its place.
    """

    def __init__(
        self, index: FingerprintIndex, encoder: Encoder, image_encoder: ImageEncoder | None = None
    ) -> None:
        self.index = index
        self.encoder = encoder
        self.image_encoder: ImageEncoder = image_encoder or encoder
        self._text_row = lru_cache(CACHED_TEXTS)(lambda text: encoder.embed_texts([text]))

    @classmethod
    def open(
        cls, store: ArtifactStore, device: torch.device, settings: QueryEncoderSettings | None = None
    ) -> "QueryEngine":
        """The index in use and its encoder; photos by ONNX Runtime where `settings` say so.

        Raises:
            UserError: no index, no encoder that it was made with, or no ONNX form of it.
        """
        artifact, index = current_index(store)
        index.warm_up()
        checkpoint = encoder_of(store, artifact, "clip_checkpoint", CLIP_CHECKPOINT)
        artifact.require_input("clip_checkpoint", checkpoint.digest)
        encoder = load_encoder(checkpoint.path / "encoder", device)
        if settings is None or settings.engine == "pytorch":
            return cls(index, encoder)
        from skufp_pipeline.encoders.onnx import load_image_encoder  # PyTorch alone needs no onnxruntime

        exported = encoder_of(store, artifact, "image_encoder_onnx", IMAGE_ENCODER)
        exported.require_input("clip_checkpoint", checkpoint.digest)
        threads = settings.threads or torch.get_num_threads()
        return cls(index, encoder, load_image_encoder(exported.path, encoder.preprocess, threads))

    def search_image(self, path: Path, top: int, within: Rows | None = None) -> Answer:
        """The SKUs nearest to a photo.

        Args:
            within: the SKUs that may be found (`index.where`, `index.of_skus`); by default all.

        Raises:
            UserError: the file is missing, no image, truncated or too large.
        """
        clock = _Clock()
        query = self._embed_photo(path, clock)
        clock.lap("encode")
        return self._answer(query, top, within, clock)

    def search_text(self, text: str, top: int, within: Rows | None = None) -> Answer:
        """The SKUs nearest to a sentence; one asked before is not encoded again.

        Raises:
            UserError: the text is empty.
        """
        clock = _Clock()
        query = self._embed_text(text)
        clock.lap("encode")
        return self._answer(query, top, within, clock)

    def search_mixed(
        self, path: Path, text: str, text_weight: float, top: int, within: Rows | None = None
    ) -> Answer:
        """The SKUs nearest to a photo and a sentence together.

        Args:
            text_weight: 0 for the photo alone, 1 for the sentence alone.

        Raises:
            UserError: as `search_image` and `search_text`, or a weight outside 0 to 1.
        """
        clock = _Clock()
        query = mix(self._embed_photo(path, clock), self._embed_text(text), text_weight)
        clock.lap("encode")
        return self._answer(query, top, within, clock)

    def search_like(self, sku_id: str, top: int, within: Rows | None = None) -> Answer:
        """The SKUs nearest to a SKU of the index, itself left out.

        Raises:
            UserError: the SKU is not in the index.
        """
        _require_top(top)
        clock = _Clock()
        result = self.index.search_like(sku_id, top, within)
        clock.lap("search")
        return Answer(self._hits(result), clock.milliseconds)

    def _embed_photo(self, path: Path, clock: "_Clock") -> NDArray[np.float32]:
        image = read_photo(path)
        clock.lap("decode")
        pixels = self.image_encoder.preprocess(image)[None]
        clock.lap("preprocess")
        return self.image_encoder.embed_pixels(pixels)

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        if not text.strip():
            raise UserError("the text to search for is empty")
        return self._text_row(text)

    def _answer(self, query: NDArray[np.floating], top: int, within: Rows | None, clock: "_Clock") -> Answer:
        _require_top(top)
        result = self.index.search(query, top, within)[0]
        clock.lap("search")
        return Answer(self._hits(result), clock.milliseconds)

    def _hits(self, result: SearchResult) -> list[Hit]:
        rows = self.index.skus[result.rows].iter_rows(named=True)
        return [
            Hit(rank, row["sku_id"], float(score), row["category_name"], row["title"], row["image"])
            for rank, (row, score) in enumerate(zip(rows, result.scores, strict=True), start=1)
        ]


def _require_top(top: int) -> None:
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")


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
