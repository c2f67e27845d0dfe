"""img2img at low noise: N candidates of each catalogue view, the same whatever the shard's order (sec. 4.4).

Every candidate has its own generator, seeded by (sku_id, view, candidate). Candidates come in batches of a
fixed plan; a batch is kept when it is whole, and a killed run generates only the batches that are missing.
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
    """One image to generate.

    Attributes:
        candidate_id: `<item_id>_c<candidate>`, unique over all shards.
        item_id: the catalogue view that is varied.
        image_path: where the generated image stands; `source_path` is the view's crop.
    """

    candidate_id: str
    item_id: str
    sku_id: str
    split: str
    candidate: int
    source_path: str
    image_path: str
    prompt: str
    strength: float
    seed: int


@dataclass(frozen=True)
class Generated:
    """A candidate's file, and whether a safety checker found it unsafe (None: there is none)."""

    candidate: Candidate
    path: Path
    unsafe: bool | None


def plan_candidates(views: pl.DataFrame, settings: GenerationSettings) -> list[Candidate]:
    """One candidate for each view (`VIEW_SCHEMA`) and strength, in the order of the views."""
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
    """A seed in [0, 2**63) that depends on the three alone."""
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
    """Writes the candidates' JPEGs below `out_dir`; those of batches that are there whole are not made again.

    A batch holds candidates of one strength. The images have their crop's proportions and `image_size`
    pixels on the longer side.

    Args:
        sources: the crop of every view, by `item_id`.

    Returns:
        The candidates in their order.

    Raises:
        UserError: a crop can't be read.
    """
    made: dict[str, Generated] = {}
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
            made[candidate.candidate_id] = Generated(candidate, path, flag)
        if progress is not None:
            progress(len(made), len(candidates))
    return [made[candidate.candidate_id] for candidate in candidates]


def batches(candidates: Sequence[Candidate], size: int) -> list[list[Candidate]]:
    """The fixed plan: by strength, then in their order, `size` at a time."""
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
    """(S, S, 3) uint8 images and safety flags; in halves when the GPU has no memory for the whole."""

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
            # On the CPU, so that every device draws the same noise.
            generator=[torch.Generator().manual_seed(candidate.seed) for candidate, _ in part],
            output_type="np",
        )
        images = (np.asarray(output.images) * 255).round().astype(np.uint8)
        flags = output.nsfw_content_detected or [None] * len(part)
        return list(zip(images, (None if flag is None else bool(flag) for flag in flags), strict=True))

    made = [pair for part in in_halves(run, list(zip(batch, crops, strict=True))) for pair in part]
    return [image for image, _ in made], [flag for _, flag in made]


def _save(square: NDArray[np.uint8], source: Path, target: Path, quality: int) -> None:
    """The square with its crop's proportions, as a JPEG."""
    width, height = size_of(source)
    side = square.shape[0]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cv2.resize(square, size, interpolation=cv2.INTER_AREA)).save(
        target, "JPEG", quality=quality
    )


def _write_record(record: Path, batch: Sequence[Candidate], unsafe: list[bool | None]) -> None:
    """Written last: a batch with a record is whole."""
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"candidates": [asdict(c) for c in batch], "unsafe": unsafe}))
    partial.replace(record)


def _finished(record: Path, batch: Sequence[Candidate], out_dir: Path) -> list[bool | None] | None:
    """The safety flags of a batch that an earlier run made; None where it did not, or not whole."""
    if not record.is_file() or not all((out_dir / c.image_path).is_file() for c in batch):
        return None
    found = json.loads(record.read_text())
    if found["candidates"] != [asdict(candidate) for candidate in batch]:
        raise UserError(f"{record} holds other candidates; delete {out_dir} and run again")
    flags: list[bool | None] = found["unsafe"]
    return flags
