"""What `benchmarks/gpu.py` measures: each part runs the code of the product on real architectures.

Weights are random, since times don't depend on them; pictures are the rendered sample's, in the sizes of
DeepFashion2's preset. A part writes its figures as it goes: what it has when its time is up counts.
"""

import contextlib
import gc
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from skufp_pipeline.datasets.sample import SampleSettings, render_sample
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData, fine_tune
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.settings import (
    ClipTrainingSettings,
    EncoderSettings,
)
from skufp_pipeline.extractors.extractor import create_extractor
from skufp_pipeline.extractors.objective import ExtractorData
from skufp_pipeline.extractors.settings import ReidSettings, ReidTrainingSettings
from skufp_pipeline.extractors.train import train_extractor
from skufp_pipeline.fingerprint.aggregator import fingerprints
from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    FingerprintTrainingSettings,
)
from skufp_pipeline.fingerprint.tables import FingerprintData, Queries
from skufp_pipeline.fingerprint.views import ViewSet
from skufp_pipeline.training.history import History
from skufp_pipeline.training.images import LabelledImages
from skufp_pipeline.training.pixels import decode_squares
from skufp_pipeline.views.filters import ACCEPTED, Thresholds, verdicts
from skufp_pipeline.views.generate import Candidate, generate
from skufp_pipeline.views.lora import train_lora
from skufp_pipeline.views.noise import PromptedCrops
from skufp_pipeline.views.pipeline import Pipeline, build_pipeline
from skufp_pipeline.views.settings import GenerationSettings, LoraSettings
from skufp_pipeline.views.tables import score_generated

Figures = dict[str, Any]
Log = Callable[[str], None]
Change = Callable[[], AbstractContextManager[Any]]

SD_15 = Path(__file__).with_name("sd-1.5.json")


@dataclass(frozen=True)
class Scale:
    """Sizes of what is measured; `TINY` proves the program on a CPU and says nothing about speed."""

    tower: str = "ViT-B-32"
    reid: str = "resnet50"
    diffusion: str = str(SD_15)
    picture: int = 512  # pixels, as `crops.max_side`
    side: int = 256  # pixels of the squares that training reads, as `encoder.training.cache_side`
    view: int = 512  # pixels of a generated view
    images: int = 2560  # of one epoch
    batch: int = 256
    reid_batch: int = 64
    epochs: int = 4
    embedded: int = 8192
    lora_steps: int = 40
    lora_batch: int = 4
    candidates: int = 48
    candidate_batch: int = 16
    skus: int = 21_190
    dimension: int = 512
    heads: int = 8
    feedforward: int = 1024
    workers: int | None = None
    backend: str = "inductor"  # of torch.compile


TINY = Scale(
    tower="skufp-tiny", reid="test_resnet", diffusion="skufp-sd-tiny", picture=64, side=72, view=32,
    images=64, batch=32, reid_batch=16, epochs=2, embedded=64, lora_steps=4, lora_batch=2, candidates=4,
    candidate_batch=2, skus=300, dimension=32, heads=4, feedforward=64, workers=1,
    backend="eager",
)  # fmt: skip


@dataclass
class Bench:
    """What the parts share: device, sizes, and pictures and models, which are made when first asked for."""

    device: torch.device
    scale: Scale
    folder: Path
    log: Log
    figures: Figures = field(default_factory=dict)

    @cached_property
    def pictures(self) -> list[Path]:
        """Rendered photos of 50 SKUs, some 600."""
        target = self.folder / "pictures"
        render_sample(
            SampleSettings(num_skus=50, image_size=self.scale.picture, workers=self.scale.workers), target
        )
        return sorted(target.rglob("*.jpg"))

    @cached_property
    def squares(self) -> NDArray[np.uint8]:
        """(images, side, side, 3): the pictures, over and over."""
        decoded = decode_squares(self.pictures, self.scale.side, self.folder / "squares.npy")
        return np.ascontiguousarray(decoded[np.arange(self.scale.images) % len(decoded)])

    @cached_property
    def pipeline(self) -> Pipeline:
        """A random Stable Diffusion 1.5, made on the device: a CPU takes a minute to draw its weights."""
        with self.device:
            made = build_pipeline(self.scale.diffusion, self.device, seed=0)
        made.scheduler = type(made.scheduler).from_config(made.scheduler.config)  # its tables are the CPU's
        return made

    def encoder(self) -> Encoder:
        return create_encoder(EncoderSettings(model=self.scale.tower), self.device, seed=0)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder that is empty before and gone after."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Busy:
    """Samples the share of time in which the GPU runs a kernel; None where the driver can't be asked."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._samples, self._over = device, list[int](), threading.Event()

    @property
    def share(self) -> float | None:
        return statistics.mean(self._samples) / 100 if self._samples else None

    def __enter__(self) -> "Busy":
        if self._device.type == "cuda":
            threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _sample(self) -> None:
        with contextlib.suppress(Exception):  # nvidia-ml-py is missing, or the driver refuses
            while not self._over.wait(0.2):
                self._samples.append(torch.cuda.utilization(self._device))


def clip_train(bench: Bench, batch: int | None = None, compiled: bool = False) -> None:
    """Fine-tunes the CLIP on SKUs: images/s of the epochs after the first."""
    scale = bench.scale
    size = batch or scale.batch
    encoder, skus = bench.encoder(), max(2, scale.images // 8)
    if compiled:
        encoder.model.visual.compile(backend=scale.backend)
        encoder.model.transformer.compile(backend=scale.backend)
    labels = np.arange(scale.images) % skus
    texts = LabelledTexts([f"a photo of garment {sku}" for sku in range(skus)], np.arange(skus))
    images = LabelledImages(bench.squares, labels)
    held_out = LabelledImages(bench.squares[:size], labels[:size])
    data = TrainingData(images, held_out, np.zeros(skus, np.int64), lambda epoch: texts)
    settings = ClipTrainingSettings(
        epochs=scale.epochs, batch_size=size, text_batch_size=size, cache_side=scale.side,
        backbone_learning_rate=1e-5,
    )  # fmt: skip
    _train(bench, lambda scratch: fine_tune(encoder, data, settings, 0, scratch, bench.log))


def reid_train(bench: Bench, compiled: bool = False) -> None:
    """Trains Baseline 1 on the GPU: images/s of the epochs after the first."""
    scale = bench.scale
    training = ReidTrainingSettings(epochs=scale.epochs, batch_size=scale.reid_batch)
    settings = ReidSettings(model=scale.reid, training=training)
    extractor = create_extractor(settings, bench.device, seed=0)
    if compiled:
        extractor.tower.compile(backend=scale.backend)
    skus = scale.images // 8
    labels = np.arange(scale.images) % skus
    images = LabelledImages(bench.squares, labels)
    held_out = LabelledImages(bench.squares[: scale.batch], labels[: scale.batch])
    data = ExtractorData(images, held_out, np.zeros(skus, np.int64))
    _train(bench, lambda scratch: train_extractor(extractor, data, settings, 0, scratch, bench.log).history)


def _train(bench: Bench, training: Callable[[Path], History]) -> None:
    """Trains in a scratch folder: `seconds_beside` an epoch are those of judging and saving."""
    images = bench.scale.images
    with bench.scratch() as scratch, Busy(bench.device) as busy:
        begin = time.perf_counter()
        history = training(scratch)
        seconds = time.perf_counter() - begin
    steady = history[1:]
    rate = statistics.median(row["images_per_second"] for row in steady)
    in_training = sum(images / row["images_per_second"] for row in history)
    bench.figures |= {
        "images_per_second": rate,
        "waiting_for_data": statistics.median(row["waiting_for_data"] for row in steady),
        "gpu_busy": busy.share,
        "first_epoch_seconds": images / history[0]["images_per_second"],
        "seconds_beside": (seconds - in_training) / len(history),
        "loss_first_last": [_loss(history[0]), _loss(history[-1])],
    }


def _loss(row: dict[str, float]) -> float:
    return next(value for name, value in row.items() if name.endswith("loss"))


def embed(bench: Bench, change: Change = nullcontext, compiled: bool = False) -> None:
    """Embeds JPEG crops: images/s with decoding, of decoding alone, and of the tower alone."""
    scale, encoder = bench.scale, bench.encoder()
    if compiled:
        encoder.model.visual.compile(backend=scale.backend)
    paths = [bench.pictures[row % len(bench.pictures)] for row in range(scale.embedded)]
    batch = 2 * scale.batch
    pixels = torch.randn(batch, 3, encoder.image_size, encoder.image_size)
    with change():
        embed_crops(encoder, paths[:batch], batch)
        held = pixels.to(bench.device)
        bench.figures["tower_images_per_second"] = batch / _seconds(lambda: encoder.embed_pixels(held))
        begin = time.perf_counter()
        embed_crops(encoder, paths, batch)
        bench.figures["images_per_second"] = len(paths) / (time.perf_counter() - begin)


def decode_on_gpu(bench: Bench) -> None:
    """Decodes the JPEGs by nvJPEG, through torchvision, and resizes them on the GPU: images/s."""
    from torchvision.io import decode_jpeg

    side = bench.encoder().image_size
    paths = [bench.pictures[row % len(bench.pictures)] for row in range(bench.scale.embedded // 4)]
    data = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]

    def decode() -> None:
        for start in range(0, len(data), 64):
            for picture in decode_jpeg(data[start : start + 64], device=str(bench.device)):
                torch.nn.functional.interpolate(
                    picture[None].float(), (side, side), antialias=True, mode="bicubic"
                )

    bench.figures["images_per_second"] = len(data) / _seconds(decode, repeats=1)


def lora(bench: Bench, batch: int | None = None, compiled: bool = False, checkpointing: bool = False) -> None:
    """Trains an adapter of the UNet: steps/s after the first five, at bfloat16."""
    scale, pipeline = bench.scale, bench.pipeline
    size = batch or scale.lora_batch
    squares = decode_squares(bench.pictures[:32], scale.view, bench.folder / "views.npy")
    crops = PromptedCrops(squares, ["a catalog photo of a garment"] * len(squares))
    settings = LoraSettings(
        rank=8, alpha=8, steps=scale.lora_steps, batch_size=size, gradient_checkpointing=checkpointing
    )
    times: list[float] = []
    # Every step encodes its prompts once, after the loss of the step before was read from the GPU.
    hook = pipeline.text_encoder.register_forward_hook(lambda *_: times.append(time.perf_counter()))
    try:
        with bench.scratch() as scratch, Busy(bench.device) as busy:
            if compiled:
                pipeline.unet.compile(backend=scale.backend)
            train_lora(pipeline, crops, settings, 0, scratch, bench.log)
    finally:
        hook.remove()
        pipeline.unet._compiled_call_impl = None
        pipeline.unet.disable_gradient_checkpointing()
        pipeline.unet.delete_adapters("default")
        pipeline.unet.eval()
        warm = len(times) // 8
        if len(times) > warm + 1:
            rate = (len(times) - 1 - warm) / (times[-1] - times[warm])
            bench.figures |= {"steps_per_second": rate, "images_per_second": rate * size}
            bench.figures |= {"steps": len(times), "gpu_busy": busy.share}


def views(
    bench: Bench, batch: int | None = None, compiled: bool = False, dtype: torch.dtype = torch.float16
) -> None:
    """Makes views by img2img at strength 0.3, 30 steps, guidance 5, and judges them: views/s."""
    scale, pipeline = bench.scale, bench.pipeline
    size = batch or scale.candidate_batch
    encoder = bench.encoder()
    settings = GenerationSettings(strengths=(0.3,), steps=30, guidance_scale=5, batch_size=size)
    crops = {f"v{row}": bench.pictures[row % len(bench.pictures)] for row in range(size + scale.candidates)}
    planned = [
        Candidate(f"{v}_c0", v, v, "train", 0, "", f"{v}.jpg", "a catalog photo of a garment", 0.3, row)
        for row, v in enumerate(crops)
    ]
    _cast(pipeline, dtype if bench.device.type == "cuda" else torch.float32)
    try:
        with bench.scratch() as scratch, Busy(bench.device) as busy:
            if compiled:
                pipeline.unet.compile(backend=scale.backend)
            generate(pipeline, planned[:size], crops, scratch / "first", scale.view, settings)
            begin = time.perf_counter()
            made = generate(pipeline, planned[size:], crops, scratch / "rest", scale.view, settings)
            generated = time.perf_counter()
            scores = score_generated(made, crops, encoder, 224, scale.batch, zero_shot=False)
            found = verdicts(scores, Thresholds(0.0, 1.0, -9.0, 9.0, 0.0))
            judged = time.perf_counter()
            bench.figures |= {
                "views_per_second": len(made) / (judged - begin),
                "generated_per_second": len(made) / (generated - begin),
                "judged_per_second": len(made) / (judged - generated),
                "accepted": found.count(ACCEPTED),
                "gpu_busy": busy.share,
            }
    finally:
        pipeline.unet._compiled_call_impl = None
        _cast(pipeline, torch.float32)


def _cast(pipeline: Pipeline, dtype: torch.dtype) -> None:
    """As `load_pipeline` at another precision."""
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        torch.nn.Module.to(part, dtype)


def aggregator(bench: Bench) -> None:
    """Trains the fingerprint model on as many SKUs as DeepFashion2 has, and makes every fingerprint."""
    scale = bench.scale
    rng = np.random.default_rng(0)

    def rows(*shape: int) -> NDArray[np.float32]:
        found = rng.standard_normal((*shape, scale.dimension), dtype=np.float32)
        return found / np.linalg.norm(found, axis=-1, keepdims=True)

    skus, width = scale.skus, 8
    mask = np.arange(width) < rng.integers(1, width + 1, (skus, 1))
    every = ViewSet(
        [f"{sku:08d}" for sku in range(skus)], ["train"] * skus, rows(skus, width) * mask[..., None], mask,
        np.zeros_like(mask),
    )  # fmt: skip

    def queries(each: int) -> Queries:
        return Queries(rows(skus * each), np.repeat(np.arange(skus), each))

    development = Queries(rows(min(skus, 2000)), np.arange(min(skus, 2000)))
    data = FingerprintData(every, queries(5), queries(3), development, rows(skus), rows(skus))
    settings = FingerprintSettings(
        aggregator=AggregatorSettings(heads=scale.heads, feedforward=scale.feedforward),
        training=FingerprintTrainingSettings(epochs=2, skus_per_batch=4096),
    )
    with bench.scratch() as scratch, Busy(bench.device) as busy:
        begin = time.perf_counter()
        model, _ = train_aggregator(data, settings, 0, bench.device, scratch, bench.log)
        bench.figures |= {
            "seconds_per_epoch": (time.perf_counter() - begin) / 2,
            "gpu_busy": busy.share,
        }
    begin = time.perf_counter()
    fingerprints(model, every, bench.device)
    bench.figures["skus_per_second"] = skus / (time.perf_counter() - begin)


def _seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The median time of `run`, whatever it leaves on the GPU included; a first call warms up."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 by the tensor cores, with 10 bits of each number."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def unfused() -> AbstractContextManager[Any]:
    """AdamW one operation at a time."""
    return mock.patch.object(torch.optim, "AdamW", partial(_unfused, torch.optim.AdamW))


def _unfused(optimizer: Any, *arguments: Any, **options: Any) -> Any:
    return optimizer(*arguments, **{**options, "fused": False})


def contiguous() -> AbstractContextManager[Any]:
    """Pictures and weights by channel instead of channels last."""
    return mock.patch.object(torch, "channels_last", torch.contiguous_format)


def plain_attention() -> AbstractContextManager[Any]:
    """Attention as products and a softmax, without the fused kernels."""
    return sdpa_kernel(SDPBackend.MATH)


def autocast() -> AbstractContextManager[Any]:
    """Products in bfloat16 on the GPU."""
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=torch.bfloat16)


def within(change: Change, part: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """The part under a change."""

    def measured(bench: Bench) -> None:
        with change():
            part(bench)

    return measured


def free() -> None:
    """Gives back what the allocator holds, so that a part's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
