"""GPU hours of DeepFashion2 under the preset `df2`: measured on a card, and by arithmetic, side by side.

    python benchmarks/gpu_hours.py [gpu.json]

The JSON is what `benchmarks/gpu.py` wrote on a machine with a CUDA GPU. The arithmetic counts the operations
of the published networks at 100 TFLOP/s, a third of an A100's peak in bfloat16. The price is the paper's.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from skufp_pipeline.presets import Preset, load_preset

SKUS, IMAGES, TRAINING_IMAGES = 21_190, 198_140, 150_000
FLOPS = 100e12
DOLLARS_AN_HOUR, PAPER_HOURS = 1.5, 150
GIGA, TERA = 1e9, 1e12

Figures = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One asset's work on the GPU.

    Attributes:
        operations: floating-point operations.
        basis: how they come about.
        part: of `gpu.py`, whose figures `seconds` turns into the seconds of this work.
    """

    name: str
    operations: float
    basis: str
    part: str
    seconds: Callable[[Figures], float]


def stages(preset: Preset) -> list[Stage]:
    """The stages of `df2` that need a GPU."""
    views, reid = preset.views, preset.extractors.reid
    assert views is not None
    assert reid is not None
    clip = preset.encoder.training
    clip_images, reid_images = clip.epochs * TRAINING_IMAGES, reid.training.epochs * TRAINING_IMAGES
    lora, generation = views.lora, views.generation
    draws, passes = lora.steps * lora.accumulation, 4 if lora.gradient_checkpointing else 3
    skus = generation.max_skus or SKUS
    strengths = generation.strengths
    made = skus * generation.views_per_sku * len(strengths)
    denoising = sum(int(generation.steps * strength) for strength in strengths) / len(strengths)
    return [
        Stage(
            "clip_checkpoint",
            clip_images * 2 * 26 * GIGA,
            f"{clip.epochs} epochs x {TRAINING_IMAGES:,} images x 26 GFLOP (ViT-B/32, forward and backward, "
            "224 pixels), texts as much again",
            "clip_train",
            lambda f: clip_images / f["images_per_second"] + clip.epochs * f["seconds_beside"],
        ),
        Stage(
            "clip_embeddings",
            IMAGES * 12 * GIGA,
            f"{IMAGES:,} images and their texts x 12 GFLOP",
            "embed",
            lambda f: IMAGES / f["images_per_second"],
        ),
        Stage(
            "reid_checkpoint",
            reid_images * 16 * GIGA,
            f"{reid.training.epochs} epochs x {TRAINING_IMAGES:,} images x 16 GFLOP (ResNet-50, 256 x 128)",
            "reid_train",
            lambda f: reid_images / f["images_per_second"] + reid.training.epochs * f["seconds_beside"],
        ),
        Stage(
            "sd_lora",
            draws * lora.batch_size * passes * 0.8 * TERA,
            f"{lora.steps:,} steps x {lora.accumulation} x {lora.batch_size} images x {passes} x 0.8 TFLOP "
            f"(UNet, 512 pixels, forward{' twice' if passes == 4 else ''} and backward)",
            "lora/checkpointing" if lora.gradient_checkpointing else "lora",
            lambda f: draws / f["steps_per_second"],
        ),
        Stage(
            "generated_views",
            made * denoising * 2 * 0.8 * TERA,
            f"{skus:,} SKUs x {generation.views_per_sku} views x {len(strengths)} strengths x "
            f"{denoising:g} steps x 2 x 0.8 TFLOP",
            "views",
            lambda f: made / f["views_per_second"],
        ),
        Stage(
            "fingerprint_checkpoint",
            0.0,
            f"{preset.fingerprint.training.epochs} epochs of {SKUS:,} SKUs: small beside these",
            "aggregator",
            lambda f: preset.fingerprint.training.epochs * f["seconds_per_epoch"],
        ),
    ]


def rows(found: list[Stage], report: Figures | None) -> list[list[str]]:
    """One row a stage, and their sum: hours by arithmetic and as measured, where it was."""
    table, arithmetic, measured = [], 0.0, 0.0
    missing = False
    for stage in found:
        counted = stage.operations / FLOPS / 3600
        figures = None if report is None else report["parts"].get(stage.part)
        if figures is not None and figures["status"] != "measured":
            figures = None
        hours = None if figures is None else stage.seconds(figures) / 3600
        missing |= hours is None
        arithmetic, measured = arithmetic + counted, measured + (hours or 0)
        table.append(
            [f"`{stage.name}`", stage.basis, f"{counted:.2f}", "" if hours is None else f"{hours:.2f}"]
        )
    table.append(["all", "", f"{arithmetic:.1f}", "" if missing else f"{measured:.1f}"])
    return table


def main() -> None:
    """Prints the table in Markdown, and what it costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, nargs="?", help="what gpu.py wrote")
    path = parser.parse_args().json
    report = None if path is None else json.loads(path.read_text())
    if report is not None and report["tiny"]:
        parser.error(f"{path} was made with --tiny: it proves the program and says nothing about a GPU")
    card = "no GPU measured" if report is None else report["machine"]["card"]
    table = rows(stages(load_preset("df2")), report)
    print(
        tabulate(table, ["stage", "work", "by arithmetic, h", f"{card}, h"], "github", disable_numparse=True)
    )
    for name, hours in (("arithmetic", table[-1][2]), (card, table[-1][3])):
        if hours:
            print(
                f"\n{name}: {float(hours) * DOLLARS_AN_HOUR:.2f} US dollars at {DOLLARS_AN_HOUR} an hour",
                end="",
            )
    print(f"\n\nthe paper: roughly {PAPER_HOURS} hours, {PAPER_HOURS * DOLLARS_AN_HOUR:.0f} dollars")


if __name__ == "__main__":
    main()
