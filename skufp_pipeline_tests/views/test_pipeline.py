"""A small Stable Diffusion is a stock one: saved, loaded and tokenized as diffusers does."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from transformers import CLIPTokenizer

from skufp_pipeline.errors import UserError
from skufp_pipeline.views.pipeline import Pipeline, build_pipeline, clip_tokenizer, load_pipeline
from skufp_pipeline.views.settings import BUNDLED_MODELS

from .examples import CHECKER, CONFIG, CPU, write_config

TEXTS = ["A catalog photo of a Short Sleeve top, 3 years' ünïcode!", "", "plain  studio\nbackground"]


def run(pipeline: Pipeline, seed: int = 0) -> np.ndarray:
    made = pipeline(
        prompt=["a shirt"],
        image=[Image.new("RGB", (16, 16), "red")],
        strength=0.5,
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(seed)],
        output_type="np",
    )
    return np.asarray(made.images)


def test_the_tokenizer_gives_open_clips_tokens() -> None:
    ours = clip_tokenizer()(TEXTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    theirs = SimpleTokenizer()(TEXTS)
    for row, expected in zip(ours.tolist(), theirs.tolist(), strict=True):
        length = expected.index(49407) + 1
        assert row[:length] == expected[:length]
        assert set(row[length:]) <= {49407}  # CLIP in transformers pads with the end token


def test_the_saved_tokenizer_loads_as_a_clip_tokenizer(saved: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(saved / "tokenizer", local_files_only=True)
    assert tokenizer.model_max_length == 24
    assert tokenizer(TEXTS).input_ids == clip_tokenizer(24)(TEXTS).input_ids


def test_a_saved_pipeline_is_a_stock_one_and_draws_the_same(saved: Path, pipeline: Pipeline) -> None:
    stock = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(saved, local_files_only=True)
    assert type(stock.vae) is diffusers.AutoencoderKL
    assert type(stock.unet) is diffusers.UNet2DConditionModel
    expected = run(pipeline)
    assert expected.shape == (1, 16, 16, 3)
    assert np.allclose(run(stock), expected, atol=1e-5)  # its weights lie in another order in memory
    assert np.array_equal(run(load_pipeline(str(saved), CPU)), expected)
    assert not np.array_equal(run(stock, seed=1), expected)


def test_the_seed_decides_the_weights(config_file: Path, pipeline: Pipeline) -> None:
    same, other = (build_pipeline(str(config_file), CPU, seed) for seed in (0, 1))
    name = "conv_in.weight"
    assert torch.equal(same.unet.state_dict()[name], pipeline.unet.state_dict()[name])
    assert not torch.equal(other.unet.state_dict()[name], pipeline.unet.state_dict()[name])


def test_a_safety_checker_is_built_saved_and_flags_what_it_finds(tmp_path: Path) -> None:
    config = write_config(tmp_path / "safe.json", {**CONFIG, "safety_checker": CHECKER})
    build_pipeline(str(config), CPU, 0).save_pretrained(tmp_path / "safe")
    pipeline = load_pipeline(str(tmp_path / "safe"), CPU)
    prompt = {"prompt": ["a"], "image": [Image.new("RGB", (16, 16))], "num_inference_steps": 4}
    assert pipeline(**prompt).nsfw_content_detected == [False]
    pipeline.safety_checker.concept_embeds_weights.data.fill_(-2)  # every image is near enough
    assert pipeline(**prompt).nsfw_content_detected == [True]


@pytest.mark.parametrize("config", [path.stem for path in sorted(BUNDLED_MODELS.glob("*.json"))])
def test_every_bundled_config_can_be_built(config: str) -> None:
    assert run_side(build_pipeline(config, CPU, 0), 32) == (1, 32, 32, 3)


def run_side(pipeline: Pipeline, side: int) -> tuple[int, ...]:
    image = [Image.new("RGB", (side, side))]
    made = pipeline(prompt=["a"], image=image, num_inference_steps=2, strength=0.5, output_type="np")
    return np.asarray(made.images).shape


@pytest.mark.parametrize("make", ["nothing", "empty", "broken"])
def test_a_model_that_is_no_pipeline_is_a_users_mistake(
    make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "model"
    if make != "nothing":
        path.mkdir()
    if make == "broken":
        (path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"views\.model") as told:
        load_pipeline(str(path), CPU)
    assert "save_pretrained" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_pipeline_and_a_config_come_from_an_installed_package(
    saved: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fake_sd").mkdir()
    (tmp_path / "fake_sd" / "model").symlink_to(saved)
    (tmp_path / "fake_sd" / "small.json").symlink_to(config_file)
    loaded = load_pipeline("package:fake_sd/model", CPU)
    assert np.array_equal(run(loaded), run(build_pipeline("package:fake_sd/small.json", CPU, 0)))


def test_a_missing_adapter_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pytorch_lora_weights\.safetensors is missing"):
        load_pipeline(str(saved), CPU, lora=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "neither a JSON file nor bundled"),
        ("{", "no JSON file"),
        ("{}", "lacks vae, unet, text_encoder, scheduler"),
        (json.dumps({**CONFIG, "unet": {"layers": 3}}), "can't be built"),
    ],
)
def test_a_config_that_cannot_be_built_is_a_users_mistake(
    text: str | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told):
        build_pipeline(str(path), CPU, 0)
