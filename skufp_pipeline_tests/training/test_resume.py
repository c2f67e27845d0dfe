"""A training that is killed, in the middle of a step or of a file, ends in the bytes of one that is not."""

import multiprocessing
import signal
from functools import cache
from pathlib import Path

import pytest

from .trainings import run, run_and_die

# A server that has imported everything and computed nothing: its processes start in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([run.__module__])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """The files of each training when nobody kills it."""
    return cache(lambda name: run(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize(
    ("name", "when", "number", "resumed"),
    [
        ("clip", "step", 5, "clip: resuming after epoch 1 of 3"),
        ("clip", "save", 3, "clip: resuming after epoch 1 of 3"),
        ("reid", "step", 4, "reid: resuming after epoch 1 of 3"),
        ("reid", "save", 3, "reid: resuming after epoch 1 of 3"),
        ("base", "step", 5, "vae: resuming after step 4 of 6"),
        ("base", "save", 2, "vae: resuming after step 2 of 6"),
        ("base", "step", 11, "unet: resuming after step 4 of 6"),
        ("base", "save", 5, "unet: resuming after step 2 of 6"),
        ("lora", "step", 4, "lora: resuming after step 2 of 6"),
        ("lora", "save", 2, "lora: resuming after step 2 of 6"),
        ("aggregator", "step", 8, "aggregator: resuming after epoch 2 of 4"),
        ("aggregator", "save", 3, "aggregator: resuming after epoch 1 of 4"),
        ("policy", "step", 10, "policy: resuming after epoch 2 of 6"),
        ("policy", "save", 3, "policy: resuming after epoch 1 of 6"),
        ("xception_extractor", "step", 6, "xception: resuming after epoch 2 of 3"),
        ("clip_vit_extractor", "step", 6, "clip_vit: resuming after epoch 2 of 3"),
        ("resnet50_extractor", "step", 3, "resnet50: resuming after epoch 1 of 3"),
        ("clip_extractor", "save", 3, "clip: resuming after epoch 1 of 3"),
        ("vit_extractor", "step", 3, "vit: resuming after epoch 1 of 3"),
        ("autoencoder_extractor", "save", 3, "autoencoder: resuming after epoch 1 of 3"),
        ("detector", "step", 4, "detector: resuming after step 2 of 6"),
        ("detector", "save", 3, "detector: resuming after step 2 of 6"),
    ],
)
def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(
    name: str, when: str, number: int, resumed: str, whole, tmp_path: Path
) -> None:
    process = PROCESSES.Process(target=run_and_die, args=(name, tmp_path, when, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not any((tmp_path / "out").iterdir())
    lines: list[str] = []
    again = run(name, tmp_path, lines.append)
    assert resumed in lines
    assert list(again) == list(whole(name))
    assert again == whole(name)
