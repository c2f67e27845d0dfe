"""Time to encode photos: PyTorch and ONNX Runtime, in float32 and smaller, in turns on the same threads.

    python benchmarks/encode.py [--threads 2] [--repeats 40] [--batch 1] [--model NAME ...] [--json FILE]

Weights are random (times don't depend on them), photos are rendered. int8 is shown where the tower is
made of matrix products. The speed-up is PyTorch's median over the engine's; on a machine that does other
work too, that of the least times says more.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.datasets.sample import SampleSettings, render_sample
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.export import export_image_tower, quantize_image_tower
from skufp_pipeline.encoders.onnx import OnnxImageEncoder
from skufp_pipeline.encoders.parity import unit_cosines
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.evaluation.latency import processor_name, statistics_ms
from skufp_pipeline.photos import open_photo
from skufp_pipeline.training.device import mixed_precision, multiplies_bfloat16

MODELS = ("ViT-B-32", "skufp-mobilenetv2", "skufp-tiny")
PHOTOS = 20
Encode = Callable[[torch.Tensor], NDArray[np.float32]]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    print(
        f"{processor_name()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}; {arguments.repeats} x {arguments.batch} photos, in turns"
    )
    titles = ("p50 ms", "p95 ms", "least ms", "speed-up", "by least", "a s and core", "least cosine")
    print(f"{'model':<18} {'engine':<8}" + "".join(f"{title:>13}" for title in titles))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos = _photos(Path(folder) / "photos")
        for model in arguments.model or MODELS:
            rows += _measure(model, photos, Path(folder), arguments)
    if arguments.json:
        machine = {"processor": processor_name(), "threads": arguments.threads}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def _measure(
    model: str, photos: list[Image.Image], folder: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    threads, batch = arguments.threads, arguments.batch
    encoder = create_encoder(EncoderSettings(model=model), torch.device("cpu"), seed=0)
    every = torch.stack([encoder.preprocess(photo) for photo in photos])
    inputs = [every[(first + torch.arange(batch)) % PHOTOS] for first in range(PHOTOS)]
    engines = _engines(encoder, folder, threads)
    reference = np.concatenate([encoder.embed_pixels(pixels) for pixels in inputs])
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(arguments.repeats):
        for name, encode in engines.items():
            encode(inputs[turn % PHOTOS])  # wakes this engine's threads, and its weights into the cache
            begin = time.perf_counter()
            encode(inputs[turn % PHOTOS])
            samples[name].append((time.perf_counter() - begin) * 1000)
    rows = []
    for name, encode in engines.items():
        found = np.concatenate([encode(pixels) for pixels in inputs])
        row = {"model": model, "engine": name, "threads": threads, "batch": batch}
        row.update(statistics_ms(samples[name]))
        row["least_ms"] = min(samples[name])
        row["speedup"] = float(np.median(samples["pytorch"])) / row["p50_ms"]
        row["speedup_of_least"] = min(samples["pytorch"]) / row["least_ms"]
        row["photos_a_second_and_core"] = 1000 * batch / row["p50_ms"] / threads
        row["cosine_least"] = float(unit_cosines(reference, found).min())
        speeds = ("speedup", "speedup_of_least", "photos_a_second_and_core")
        figures = ("p50_ms", "p95_ms", "least_ms", *speeds, "cosine_least")
        print(f"{model:<18} {name:<8}" + "".join(f"{row[figure]:>13.5g}" for figure in figures))
        rows.append(row)
    return rows


def _engines(encoder: Encoder, folder: Path, threads: int) -> dict[str, Encode]:
    plain, small = folder / "float32.onnx", folder / "int8.onnx"
    export_image_tower(encoder, plain)
    engines: dict[str, Encode] = {
        "pytorch": encoder.embed_pixels,
        "float32": OnnxImageEncoder(plain, encoder.preprocess, threads).embed_pixels,
    }
    if multiplies_bfloat16(encoder.device):
        engines["bfloat16"] = mixed_precision(encoder.device)(encoder.embed_pixels)
    if quantize_image_tower(plain, small):
        engines["int8"] = OnnxImageEncoder(small, encoder.preprocess, threads).embed_pixels
    return engines


def _photos(folder: Path) -> list[Image.Image]:
    render_sample(SampleSettings(num_skus=50, image_size=256, workers=1), folder)
    paths = sorted(folder.rglob("*.jpg"))
    return [open_photo(path) for path in paths[:: len(paths) // PHOTOS][:PHOTOS]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1, help="photos at once")
    parser.add_argument("--model", action="append", help="open_clip's or a bundled model; may be repeated")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
