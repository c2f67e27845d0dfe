"""Captions crops with an image-to-text model of transformers (BLIP, Florence-2): a third kind of prompt."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from skufp_pipeline.datasets.prompts import ATTRIBUTE_SIDE, PIXELS, CaptionSettings, pixel_caption
from skufp_pipeline.datasets.reading import map_in_threads
from skufp_pipeline.encoders.embed import in_halves
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.photos import read_crop, reduced
from skufp_pipeline.progress import Progress
from skufp_pipeline.training.weights import resolve


class Captioner(Protocol):
    """What puts pictures into words."""

    def caption(self, paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
        """Returns one line of text per crop; it may be empty. Raises UserError if a crop can't be read."""

    def caption_image(self, image: Image.Image) -> str:
        """Returns one line of text, as `caption`."""


class PixelCaptioner:
    """Names colours, lightness and pattern as they are measured: no network, no weights."""

    def caption(self, paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
        return map_in_threads(self._of_file, list(paths), progress)

    def caption_image(self, image: Image.Image) -> str:
        return pixel_caption(np.asarray(reduced(image, ATTRIBUTE_SIDE)))

    def _of_file(self, path: Path) -> str:
        return self.caption_image(read_crop(path))


@dataclass(frozen=True)
class ModelCaptioner:
    """An image-to-text model with its processor."""

    model: Any
    processor: Any
    device: torch.device
    settings: CaptionSettings

    def caption(self, paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
        """Returns one line of text per crop, by greedy decoding, so repeatable; it may be empty.

        Raises:
            UserError: a crop can't be read.
        """
        found: list[str] = []
        batch_size = self.settings.batch_size
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), batch_size):
                images = list(pool.map(read_crop, paths[start : start + batch_size]))
                found += [line for part in in_halves(self._caption_batch, images) for line in part]
                if progress is not None:
                    progress(len(found), len(paths))
        return found

    def caption_image(self, image: Image.Image) -> str:
        """Returns one line of text, as `caption`."""
        return self._caption_batch([image])[0]

    @torch.inference_mode()
    def _caption_batch(self, images: list[Image.Image]) -> list[str]:
        text_input = {} if self.settings.prompt is None else {"text": [self.settings.prompt] * len(images)}
        inputs = self.processor(images=images, **text_input, return_tensors="pt").to(self.device)
        limit = self.settings.max_new_tokens
        tokens = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        lines = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(line.split()) for line in lines]


def load_captioner(settings: CaptionSettings, device: torch.device) -> Captioner:
    """Loads a model from a hub id, or from a folder that save_pretrained wrote; `pixels` needs none.

    Raises:
        UserError: unknown model, no network for a hub id, or a model of another kind.
    """
    name = settings.model
    if name == PIXELS:
        return PixelCaptioner()
    weights = resolve(name, "prompts.captions.model")
    source, local = weights.source, weights.path is not None
    try:
        with _quiet():
            processor = AutoProcessor.from_pretrained(source, local_files_only=local)
            model = AutoModelForImageTextToText.from_pretrained(source, local_files_only=local)
    except Exception as error:  # the hub and transformers raise many kinds
        raise UserError(
            f"prompts.captions.model {name!r} could not be loaded ({in_a_line(error)}); "
            "expected the hub id of an image-to-text model such as Salesforce/blip-image-captioning-base, or "
            "a directory that save_pretrained wrote for model and processor"
        ) from error
    return ModelCaptioner(model.eval().to(device), processor, device, settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disables the progress bar of transformers."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
