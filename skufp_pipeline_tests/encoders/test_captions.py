"""A small random BLIP, saved in the format of the real ones, captions crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.captions import load_captioner
from skufp_pipeline.errors import UserError

from .examples import BLIP_WORDS, write_blip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `save_pretrained` writes it."""
    return write_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
    return paths


def test_every_crop_gets_a_line_of_the_models_words(blip: Path, crops: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    settings = CaptionSettings(model=str(blip), batch_size=2, max_new_tokens=6)
    found = load_captioner(settings, CPU).caption(crops, lambda done, of: told.append((done, of)))
    assert len(found) == len(crops)
    assert set(" ".join(found).split()) <= set(BLIP_WORDS)
    assert any(found)
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_a_captioner_comes_from_an_installed_package(
    blip: Path, crops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fake_blip").mkdir()
    (tmp_path / "fake_blip" / "model").symlink_to(blip)
    here, packaged = (
        load_captioner(CaptionSettings(model=name, max_new_tokens=4), CPU).caption(crops)
        for name in (str(blip), "package:fake_blip/model")
    )
    assert packaged == here


def test_captions_do_not_depend_on_the_batch(blip: Path, crops: list[Path]) -> None:
    by_batch = [
        load_captioner(CaptionSettings(model=str(blip), batch_size=size), CPU).caption(crops)
        for size in (1, 5)
    ]
    assert by_batch[0] == by_batch[1]


def test_a_prompt_begins_the_caption(blip: Path, crops: list[Path]) -> None:
    settings = CaptionSettings(model=str(blip), prompt="a striped", max_new_tokens=4)
    assert all(line.startswith("a striped") for line in load_captioner(settings, CPU).caption(crops))


def test_a_model_that_does_not_exist_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"captions\.model 'no/such-model' could not be loaded .*hub id"):
        load_captioner(CaptionSettings(model="no/such-model"), CPU)


def test_a_folder_that_is_no_model_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save_pretrained"):
        load_captioner(CaptionSettings(model=str(tmp_path)), CPU)


def test_a_broken_crop_is_named(blip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    with pytest.raises(UserError, match=r"crop .*broken\.jpg can't be read"):
        load_captioner(CaptionSettings(model=str(blip)), CPU).caption([broken])


def test_colours_and_pattern_are_said_of_the_pixels_without_a_model(tmp_path: Path) -> None:
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, (np.arange(60) // 6) % 2 == 0] = (229, 20, 20)
    for name, pixels in (("navy", np.full((30, 20, 3), (25, 35, 75), np.uint8)), ("stripes", stripes)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    captioner = load_captioner(CaptionSettings(model="pixels"), CPU)
    told: list[tuple[int, int]] = []
    files = [tmp_path / "navy.png", tmp_path / "stripes.png"]
    found = captioner.caption(files, lambda done, of: told.append((done, of)))
    assert found[0] == "dark navy plain clothes"
    assert "red" in found[1]
    assert found[1].endswith("striped clothes")
    assert told[-1] == (2, 2)
    assert [captioner.caption_image(Image.open(file)) for file in files] == found
