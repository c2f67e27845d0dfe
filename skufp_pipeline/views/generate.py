"""Generates N candidates of each catalogue view by img2img at low noise (sec. 4.4).

Each candidate has its own generator, seeded by (sku_id, view, candidate): the shard's order has no effect.
Batches follow a fixed plan; complete ones are kept, so that a resumed run generates only the missing ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.encoders.embed import in_halves
from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.photos import size_of
from skufp_pipeline.progress import Progress
from skufp_pipeline.training.pixels import read_square
from skufp_pipeline.views.pipeline import Pipeline
from skufp_pipeline.views.settings import GenerationSettings


@dataclass(frozen=True)
class Candidate:
    """One image to generate."""

    candidate_id: str  # `<item_id>_c<candidate>`, unique over all shards
    item_id: str  # the source view
    sku_id: str
    split: str
    candidate: int
    source_path: str  # crop of the source view
    image_path: str  # generated image
    prompt: str
    strength: float
    seed: int


@dataclass(frozen=True)
class Generated:
    """A candidate, its file, and the safety checker's flag (None without a checker)."""

    candidate: Candidate
    path: Path
    unsafe: bool | None


def plan_candidates(views: pl.DataFrame, settings: GenerationSettings) -> list[Candidate]:
    """Returns a candidate per view (`VIEW_SCHEMA`) and strength, in the order of the views."""
    return [
        Candidate(
            candidate_id=f"{row['item_id']}_c{number}",
            item_id=row["item_id"],
            sku_id=row["sku_id"],
            split=row["split"],
            candidate=number,
            source_path=row["image_path"],
            image_path=f"{row['image_path'].removesuffix('.jpg')}_c{number}.jpg",
            prompt=row["prompt"],
            strength=strength,
            seed=candidate_seed(row["sku_id"], row["item_id"], number),
        )
        for row in views.iter_rows(named=True)
        for number, strength in enumerate(settings.strengths)
    ]


def candidate_seed(sku_id: str, view: str, candidate: int) -> int:
    """Returns a seed in [0, 2**63) that depends only on the arguments."""
    return stable_hash(f"{sku_id}\0{view}\0{candidate}", "generated-view") >> 1


def generate(
    pipeline: Pipeline,
    candidates: Sequence[Candidate],
    sources: Mapping[str, Path],
    out_dir: Path,
    image_size: int,
    settings: GenerationSettings,
    negative_prompt: str = "",
    progress: Progress | None = None,
) -> list[Generated]:
    """Writes the candidates' JPEGs below `out_dir`, skipping complete batches, and returns all in order.

    The images have the aspect ratio of their crop and `image_size` pixels on the longer side.
    `sources` maps the `item_id` of every view to its crop.

    Raises:
        UserError: a crop can't be read, or `out_dir` has batches of other candidates.
    """
    results: dict[str, Generated] = {}
    for number, batch in enumerate(batches(candidates, settings.batch_size)):
        record = out_dir / f"batch_{number:05d}.json"
        unsafe = _finished(record, batch, out_dir)
        if unsafe is None:
            crops = [sources[candidate.item_id] for candidate in batch]
            images, unsafe = _run_batch(pipeline, batch, crops, image_size, settings, negative_prompt)
            for candidate, crop, image in zip(batch, crops, images, strict=True):
                _save(image, crop, out_dir / candidate.image_path, settings.quality)
            _write_record(record, batch, unsafe)
        for candidate, flag in zip(batch, unsafe, strict=True):
            path = out_dir / candidate.image_path
            results[candidate.candidate_id] = Generated(candidate, path, flag)
        if progress is not None:
            progress(len(results), len(candidates))
    return [results[candidate.candidate_id] for candidate in candidates]


def batches(candidates: Sequence[Candidate], size: int) -> list[list[Candidate]]:
    """Returns the fixed batch plan: at most `size` candidates of one strength per batch, in order."""
    strengths = sorted({candidate.strength for candidate in candidates})
    by_strength = [[c for c in candidates if c.strength == strength] for strength in strengths]
    return [group[start : start + size] for group in by_strength for start in range(0, len(group), size)]


def _run_batch(
    pipeline: Pipeline,
    batch: Sequence[Candidate],
    crops: Sequence[Path],
    image_size: int,
    settings: GenerationSettings,
    negative_prompt: str,
) -> tuple[list[NDArray[np.uint8]], list[bool | None]]:
    """Returns (S, S, 3) uint8 images and safety flags; splits the batch if GPU memory is insufficient."""

    @torch.inference_mode()
    def run(part: Sequence[tuple[Candidate, Path]]) -> list[tuple[NDArray[np.uint8], bool | None]]:
        squares = [read_square(crop, image_size) for _, crop in part]
        guided = settings.guidance_scale > 1
        output = pipeline(
            prompt=[candidate.prompt for candidate, _ in part],
            negative_prompt=[negative_prompt] * len(part) if guided else None,
            image=[Image.fromarray(square) for square in squares],
            strength=part[0][0].strength,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            # CPU generators, so that the noise is the same on every device.
            generator=[torch.Generator().manual_seed(candidate.seed) for candidate, _ in part],
            output_type="np",
        )
        images = (np.asarray(output.images) * 255).round().astype(np.uint8)
        flags = output.nsfw_content_detected or [None] * len(part)
        return list(zip(images, (None if flag is None else bool(flag) for flag in flags), strict=True))

    results = [pair for part in in_halves(run, list(zip(batch, crops, strict=True))) for pair in part]
    return [image for image, _ in results], [flag for _, flag in results]


def _save(square: NDArray[np.uint8], source: Path, target: Path, quality: int) -> None:
    """Saves the square as a JPEG with the aspect ratio of its crop."""
    width, height = size_of(source)
    side = square.shape[0]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cv2.resize(square, size, interpolation=cv2.INTER_AREA)).save(
        target, "JPEG", quality=quality
    )


def _write_record(record: Path, batch: Sequence[Candidate], unsafe: list[bool | None]) -> None:
    """Writes the record of a batch; it is written last, to mark the batch as complete."""
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"candidates": [asdict(c) for c in batch], "unsafe": unsafe}))
    partial.replace(record)


def _finished(record: Path, batch: Sequence[Candidate], out_dir: Path) -> list[bool | None] | None:
    """Returns the safety flags of a batch that an earlier run completed, otherwise None."""
    if not record.is_file() or not all((out_dir / c.image_path).is_file() for c in batch):
        return None
    found = json.loads(record.read_text())
    if found["candidates"] != [asdict(candidate) for candidate in batch]:
        raise UserError(f"{record} holds other candidates; delete {out_dir} and run again")
    flags: list[bool | None] = found["unsafe"]
    return flags
