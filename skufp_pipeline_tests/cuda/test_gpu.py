"""What a GPU computes is what the CPU computes, and it runs out of memory and is killed as safely.

They need no Dagster, and run on a bare CUDA machine without the project installed:

    python -m pytest --noconftest -m cuda skufp_pipeline_tests/cuda

`SKUFP_TEST_DEVICE=cpu` runs them on the CPU, in bfloat16 where a GPU would be: that proves the tests.
"""

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.embed import embed_crops, embed_texts
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.training import device as training_device
from skufp_pipeline.training.device import multiplies_bfloat16
from skufp_pipeline.training.loop import RandomNumbers
from skufp_pipeline.views.filters import Thresholds, verdicts
from skufp_pipeline.views.generate import generate, plan_candidates
from skufp_pipeline.views.lora import save_lora, train_lora
from skufp_pipeline.views.pipeline import LORA_FILE, build_pipeline, load_pipeline, save_pipeline
from skufp_pipeline.views.settings import LoraSettings
from skufp_pipeline.views.tables import score_generated

from ..training.trainings import TRAININGS, run
from ..views.examples import CONFIG, CPU, GENERATION, catalogue, crops, sources, write_config

pytestmark = pytest.mark.cuda

# bfloat16 keeps 8 bits of a number: losses of the trainings that multiply in it are compared to 1 in 20,
# and those of a triplet, whose two distances nearly cancel, to 1 in 10.
TOLERANCE = {
    "clip": 0.05,
    "reid": 0.1,
    "lora": 0.05,
    "base": 0.02,
    "aggregator": 0.01,
    "policy": 1e-5,
    "detector": 0.05,
    "look_twice": 1e-5,
    "xception_extractor": 0.1,
    "clip_vit_extractor": 0.05,
    "resnet50_extractor": 0.1,
    "clip_extractor": 0.05,
    "vit_extractor": 0.05,
    "autoencoder_extractor": 0.05,
}


class Killed(BaseException):
    """Ends a training where a signal would."""


@pytest.fixture(scope="module")
def device() -> torch.device:
    name = os.environ.get("SKUFP_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """For what only a real GPU can show."""
    if device.type != "cuda":
        pytest.skip("needs a real GPU")
    return device


@pytest.fixture
def encoder(device: torch.device) -> Encoder:
    return create_encoder(EncoderSettings(model="skufp-tiny"), device, 0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a random diffusion pipeline of a few thousand parameters."""
    folder, config = tmp_path / "pipeline", write_config(tmp_path / "sd-nano.json", CONFIG)
    save_pipeline(build_pipeline(str(config), CPU, seed=0), folder)
    return folder


def losses(made: dict[str, bytes]) -> dict[str, list[float]]:
    """Every loss of a training by name, one value a round."""
    history: list[dict[str, float]] = json.loads(made["history.json"])
    names = [name for name in history[0] if "loss" in name or name in ("rank", "classification")]
    assert names
    return {name: [row[name] for row in history if name in row] for name in names}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_in_bfloat16_learns_what_the_cpu_learns_in_float32(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random numbers of a training come from the CPU, so that both see the same batches."""
    monkeypatch.setattr(training_device, "multiplies_bfloat16", lambda where: False)
    expected = losses(run(name, tmp_path / "cpu", dropout=0))
    monkeypatch.setattr(training_device, "multiplies_bfloat16", lambda where: True)
    found = losses(run(name, tmp_path / "device", device=device, dropout=0))
    assert found.keys() == expected.keys()
    for loss, values in expected.items():
        # The first round starts from the same weights; later ones from weights that have parted a little.
        assert found[loss][0] == pytest.approx(values[0], rel=TOLERANCE[name], abs=1e-3), loss
        least = max(5e-3, TOLERANCE[name] / 5)  # of a hinge that ends near 0
        assert found[loss][-1] == pytest.approx(values[-1], rel=5 * TOLERANCE[name], abs=least), loss


def test_a_gpu_trains_in_bfloat16(cuda: torch.device) -> None:
    assert multiplies_bfloat16(cuda)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_goes_on_to_the_losses_of_one_that_was_not_killed(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = losses(run(name, tmp_path / "whole", device=device))
    calls, step = count(1), torch.optim.AdamW.step

    def step_or_die(*arguments: Any, **others: Any) -> Any:
        if next(calls) == 5:
            raise Killed
        return step(*arguments, **others)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step_or_die)
        with pytest.raises(Killed):
            run(name, tmp_path / "killed", device=device)
    torch.rand(7, device=device)  # the GPU's random numbers stand elsewhere in a new process
    lines: list[str] = []
    again = losses(run(name, tmp_path / "killed", lines.append, device))
    assert any("resuming after" in line for line in lines)
    # A GPU adds in any order: the last bits of two runs differ. A forgotten state shows far above them.
    for loss, values in whole.items():
        np.testing.assert_allclose(again[loss], values, rtol=2e-3, atol=1e-4, err_msg=loss)


def test_the_random_numbers_of_the_device_go_on_where_they_stood(device: torch.device) -> None:
    part = RandomNumbers(torch.Generator().manual_seed(3), device)
    state = part.state_dict()
    drawn = torch.rand(5, device=device)
    assert not torch.equal(torch.rand(5, device=device), drawn)
    part.load_state_dict(state)
    assert torch.equal(torch.rand(5, device=device), drawn)


def test_embeddings_are_the_cpus(encoder: Encoder, tmp_path: Path) -> None:
    paths = [Path(path) for path in catalogue(tmp_path, skus=6)["path"]]
    there = create_encoder(EncoderSettings(model="skufp-tiny"), CPU, 0)
    texts = ["a red shirt", "blue trousers", "a striped skirt"]
    for found, expected in (
        (embed_crops(encoder, paths, 5), embed_crops(there, paths, 5)),
        (embed_texts(encoder, texts, 2), embed_texts(there, texts, 2)),
    ):
        assert (found * expected).sum(axis=1).min() > 0.999  # TF32 keeps 10 bits


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_generated_views_get_the_cpus_verdicts(
    precision: str, device: torch.device, encoder: Encoder, saved: Path, tmp_path: Path
) -> None:
    """Thresholds stand in the widest gap of the CPU's scores, so that no rounding decides."""
    views = catalogue(tmp_path / "crops", skus=4)
    crop_of, candidates = sources(views), plan_candidates(views, GENERATION)
    scores = []
    for place, where in (("cpu", CPU), ("device", device)):
        pipeline = load_pipeline(str(saved), where, precision)
        made = generate(pipeline, candidates, crop_of, tmp_path / place, 16, GENERATION)
        scores.append(score_generated(made, crop_of, encoder, 32, 8, zero_shot=False))
    found = scores[1]
    cosine, distance = gap(scores[0].clip_cosine), gap(scores[0].hsv_distance)
    thresholds = Thresholds(cosine, distance, -np.inf, np.inf, 0.0)
    expected = verdicts(scores[0], thresholds)
    assert len(set(expected)) > 1
    assert verdicts(found, thresholds) == expected


def gap(values: np.ndarray) -> float:
    """The middle of the widest gap between neighbouring values."""
    ordered = np.sort(values)
    widest = int(np.diff(ordered).argmax())
    return float((ordered[widest] + ordered[widest + 1]) / 2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_adapter_trains_in_mixed_precision_and_generates(
    precision: str, device: torch.device, saved: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(str(saved), device)
    settings = LoraSettings(
        rank=2, alpha=2, steps=6, batch_size=2, learning_rate=0.05, accumulation=2, mixed_precision=precision
    )
    history = train_lora(pipeline, crops(), settings, 5, tmp_path, lambda line: None)
    assert np.isfinite([row["loss"] for row in history]).all()
    save_lora(pipeline, tmp_path / "lora")
    assert {value.dtype for value in load_file(tmp_path / "lora" / LORA_FILE).values()} == {torch.float32}
    half = load_pipeline(str(saved), device, precision, tmp_path / "lora")
    assert device.type == "cpu" or half.unet.dtype in (torch.float16, torch.bfloat16)


@pytest.fixture
def little_memory(cuda: torch.device) -> Iterator[None]:
    """A quarter of a GiB of the GPU beside what is held."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(cuda)[1]
    share = (torch.cuda.memory_reserved(cuda) + 2**28) / total
    torch.cuda.set_per_process_memory_fraction(share, cuda)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)


@pytest.mark.usefixtures("little_memory")
def test_a_batch_that_does_not_fit_is_embedded_in_halves(encoder: Encoder, tmp_path: Path) -> None:
    paths = [Path(path) for path in catalogue(tmp_path, skus=8)["path"]]
    expected = embed_crops(encoder, paths, 16)
    sizes: list[int] = []
    embed = encoder.embed_pixels

    def noted(pixels: torch.Tensor) -> np.ndarray:
        sizes.append(len(pixels))
        return embed(pixels)

    encoder.embed_pixels = noted  # type: ignore[method-assign]
    found = embed_crops(encoder, paths * 512, 8192)
    assert sizes[0] == 8192
    assert sizes[1] == 4096  # the first half
    np.testing.assert_allclose(found[:16], expected, atol=2e-3)
    np.testing.assert_allclose(found[-16:], expected, atol=2e-3)
