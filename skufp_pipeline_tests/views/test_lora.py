"""The adapter changes attention alone, and loads into a stock pipeline."""

import json
from pathlib import Path

import diffusers
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.views.drift import DRIFT_SCHEMA
from skufp_pipeline.views.lora import adapt, add_adapter, save_lora, train_lora
from skufp_pipeline.views.noise import PromptedCrops
from skufp_pipeline.views.pipeline import LORA_FILE, Pipeline, load_pipeline
from skufp_pipeline.views.settings import LoraSettings

from .examples import CPU, SETTINGS, catalogue, crops

LORA = LoraSettings(
    rank=2, alpha=2, steps=6, batch_size=2, learning_rate=0.05, checkpoint_every=2, drift_views=2
)


def quiet(line: str) -> None:
    return None


def draw(pipeline: Pipeline) -> np.ndarray:
    made = pipeline(
        prompt=["a shirt"],
        image=[Image.new("RGB", (16, 16), "red")],
        strength=0.5,
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(0)],
        output_type="np",
    )
    return np.asarray(made.images)


def trained(saved: Path, scratch: Path, settings: LoraSettings = LORA) -> Pipeline:
    scratch.mkdir(exist_ok=True)
    pipeline = load_pipeline(str(saved), CPU)
    train_lora(pipeline, crops(), settings, 5, scratch, quiet)
    return pipeline


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_stock_pipeline_loads_the_weights_and_draws_the_same(
    text_encoder: bool, saved: Path, tmp_path: Path
) -> None:
    settings = LORA.model_copy(update={"text_encoder": text_encoder})
    pipeline = trained(saved, tmp_path / "scratch", settings)
    save_lora(pipeline, tmp_path / "lora")
    stock = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(saved, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    frozen = draw(stock)
    stock.load_lora_weights(str(tmp_path / "lora"), weight_name=LORA_FILE)
    assert np.allclose(draw(stock), draw(pipeline), atol=1e-5)
    assert not np.allclose(draw(stock), frozen, atol=1e-3)
    ours = load_pipeline(str(saved), CPU, lora=tmp_path / "lora")
    assert np.allclose(draw(ours), draw(stock), atol=1e-5)


def test_only_attention_is_adapted(saved: Path, tmp_path: Path) -> None:
    save_lora(trained(saved, tmp_path / "scratch"), tmp_path)
    names = set(load_file(tmp_path / LORA_FILE))
    assert names
    for name in names:
        assert name.startswith("unet.")
        assert any(f".{target}.lora" in name for target in ("to_q", "to_k", "to_v", "to_out.0")), name


def test_a_new_adapter_changes_nothing(pipeline: Pipeline) -> None:
    before = draw(pipeline)
    add_adapter(pipeline, LORA, seed=0)
    assert np.array_equal(draw(pipeline), before)


def test_the_base_stays_as_it_was(saved: Path, tmp_path: Path) -> None:
    before = load_pipeline(str(saved), CPU).unet.state_dict()
    after = trained(saved, tmp_path / "scratch").unet.state_dict()
    same = {name.replace(".base_layer", ""): value for name, value in after.items() if ".lora_" not in name}
    assert set(same) == set(before)
    assert all(value.equal(before[name]) for name, value in same.items())


def test_gradient_checkpointing_gives_the_same_weights(saved: Path, tmp_path: Path) -> None:
    plain = trained(saved, tmp_path / "plain").unet.state_dict()
    settings = LORA.model_copy(update={"gradient_checkpointing": True})
    saving = trained(saved, tmp_path / "saving", settings).unet.state_dict()
    assert all(torch.allclose(saving[name], value, atol=1e-6) for name, value in plain.items())


def test_no_crops_is_a_users_mistake(pipeline: Pipeline, tmp_path: Path) -> None:
    none = PromptedCrops(np.empty((0, 16, 16, 3), np.uint8), [])
    with pytest.raises(UserError, match="sd_lora needs catalog crops"):
        train_lora(pipeline, none, LORA, 0, tmp_path, quiet)


def test_adapting_writes_weights_curve_drift_and_samples(saved: Path, tmp_path: Path) -> None:
    views = catalogue(tmp_path / "crops", skus=40, splits=("train", "validation"))
    settings = SETTINGS.model_copy(update={"lora": LORA})
    encoder = create_encoder(EncoderSettings(model="skufp-tiny"), CPU, 0)
    for name in ("scratch", "out"):
        (tmp_path / name).mkdir()
    summary = adapt(
        load_pipeline(str(saved), CPU),
        views,
        encoder,
        settings,
        1,
        tmp_path / "scratch",
        tmp_path / "out",
        quiet,
    )
    assert (summary["training_skus"], summary["training_views"], summary["held_out_skus"]) == (20, 40, 2)
    drift = pl.read_parquet(tmp_path / "out" / "drift.parquet")
    assert drift.schema == DRIFT_SCHEMA
    assert drift.height == 4  # two held-out SKUs, two strengths
    assert set(drift["sku_id"]) <= {f"s{sku}" for sku in range(1, 40, 2)}  # those of the validation split
    assert (drift["frozen_clip_cosine"] != drift["lora_clip_cosine"]).any()
    assert json.loads((tmp_path / "out" / "history.json").read_text())[-1]["step"] == 6
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        assert sheet.width > sheet.height / 4
