"""The preset of Street2Shop at full size: its tags exist; small weights in the same formats go its way."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

from skufp_pipeline.definitions import build_defs
from skufp_pipeline.detection.pretrained import PretrainedModel
from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.clip_train import LabelledTexts, TrainingData, fine_tune
from skufp_pipeline.extractors.extractor import Extractor, create_extractor
from skufp_pipeline.extractors.train import train_extractor
from skufp_pipeline.presets import PACKAGED, Preset, load_preset
from skufp_pipeline.resources.models import ModelProvider

from ..encoders.examples import VIT_VISION, write_blip, write_model, write_text_model
from ..extractors.examples import data, labelled

CPU = torch.device("cpu")
STEP = {"epochs": 1, "batch_size": 6, "cache_side": 16, "patience": None}
TOWERS = ("reid", "xception", "clip_vit")


class Small(NamedTuple):
    """The preset with small models, and the weights that its variables name."""

    preset: Preset
    files: dict[str, Path]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("weights")
    clip = write_model(folder / "tiny.json", VIT_VISION)
    torch.save(create_encoder(clip, CPU, 7).model.state_dict(), folder / "clip.pt")
    resnet = timm.create_model("test_resnet", num_classes=0)
    torch.save(resnet.state_dict(), folder / "reid.pth")
    save_file(resnet.state_dict(), folder / "xception.safetensors")
    torch.save(timm.create_model("mobilevit_xxs").state_dict(), folder / "mobilevit.pth")
    for name, write in (("blip", write_blip), ("words", write_text_model)):
        (folder / name).mkdir()
        write(folder / name)
    save_yolos(folder / "yolos")
    files = {
        "SKUFP_CLIP": folder / "clip.pt",
        "SKUFP_REID": folder / "reid.pth",
        "SKUFP_XCEPTION": folder / "xception.safetensors",
        "SKUFP_MOBILEVIT": folder / "mobilevit.pth",
        "SKUFP_CAPTIONS": folder / "blip",
        "SKUFP_SENTENCES": folder / "words",
        "SKUFP_DETECTOR": folder / "yolos",
    }
    content = yaml.safe_load((PACKAGED / "street2shop.yaml").read_text())
    content["encoder"] |= {"model": clip.model}
    content["encoder"]["training"] |= STEP
    for name, twin in {
        "reid": {"model": "test_resnet", "image_size": [32, 24], "training": {**STEP, "images_per_sku": 2}},
        "xception": {"model": "test_resnet", "image_size": [32, 32], "training": STEP},
        "clip_vit": {"model": clip.model, "training": STEP},
    }.items():
        content["extractors"][name] |= twin
    content["multi_stage"]["rerank"] |= {"model": "mobilevit_xxs", "image_size": [64, 64]}
    (folder / "street2shop.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        for variable, file in files.items():
            patch.setenv(variable, str(file))
        return Small(load_preset(str(folder / "street2shop.yaml")), files)


def save_yolos(folder: Path) -> None:
    """A detector of random weights, as `save_pretrained` writes it."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = YolosConfig(**sizes, image_size=[64, 64], patch_size=16, num_detection_tokens=4)
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor().save_pretrained(folder)


def test_the_tags_of_the_preset_exist() -> None:
    preset = load_preset("street2shop")
    wanted = preset.extractors.wanted()
    assert tuple(wanted) == TOWERS
    assert preset.multi_stage is not None
    for settings in (wanted["reid"], wanted["xception"], preset.multi_stage.rerank):
        assert timm.get_pretrained_cfg(f"{settings.model}.{settings.pretrained}") is not None  # type: ignore[union-attr]
    for settings in (preset.encoder, wanted["clip_vit"]):
        assert settings.pretrained in open_clip.list_pretrained_tags_by_model(settings.model)  # type: ignore[union-attr]


def test_its_graph_is_built_with_every_tower_index_and_stage(small: Small) -> None:
    for preset in (small.preset, load_preset("street2shop")):
        assets = {key.to_user_string() for key in build_defs(preset).resolve_all_asset_keys()}
        assert {f"{name}_checkpoint" for name in TOWERS} <= assets
        assert {f"{name}_index" for name in ("encoder", *TOWERS)} <= assets
        assert {"stage_models", "stage_embeddings", "image_search_report", "street2shop_report"} <= assets


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_takes_its_weights_from_a_file_and_a_step(small: Small, name: str, tmp_path: Path) -> None:
    settings = small.preset.extractors.wanted()[name]
    extractor = create_extractor(settings, CPU, seed=0)
    before = {key: value.clone() for key, value in weights_of(extractor).items()}
    other = weights_of(create_extractor(settings, CPU, seed=1))
    assert before
    assert all(before[key].equal(value) for key, value in other.items())  # of the file, whatever the seed
    made = train_extractor(extractor, data(), settings, 0, tmp_path, lambda line: None)
    losses = [value for key, value in made.history[0].items() if key.endswith("loss")]
    assert losses
    assert all(math.isfinite(value) for value in losses)
    assert any(not value.equal(before[key]) for key, value in weights_of(extractor).items())


def weights_of(extractor: Extractor) -> dict[str, torch.Tensor]:
    """The weights that a file may hold."""
    found: dict[str, torch.Tensor] = extractor.tower.pretrained_part.state_dict()
    return found


def test_the_encoder_takes_its_weights_from_a_file_and_a_step(small: Small, tmp_path: Path) -> None:
    settings = small.preset.encoder
    encoder = create_encoder(settings, CPU, 0)
    weights: dict[str, Any] = torch.load(small.files["SKUFP_CLIP"])
    before = encoder.model.state_dict()
    assert all(before[key].equal(value) for key, value in weights.items())
    texts = LabelledTexts([f"garment {sku}" for sku in range(4)], np.arange(4))
    images = TrainingData(labelled(3, 0), labelled(2, 1), np.zeros(4, np.int64), lambda epoch: texts)
    fine_tune(encoder, images, settings.training, 0, tmp_path, lambda line: None)
    after = encoder.model.state_dict()
    assert any(not after[key].equal(value) for key, value in weights.items())


def test_the_models_of_its_stages_are_opened_from_files(small: Small) -> None:
    stages, provider = small.preset.multi_stage, ModelProvider(device="cpu")
    assert stages is not None
    assert stages.captions is not None
    assert stages.rerank is not None
    assert small.preset.prompts.captions is not None
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    line = provider.captioner(small.preset.prompts.captions).caption_image(photo)
    (sentence,) = provider.sentences(stages.captions.text_model).embed([line])
    assert np.linalg.norm(sentence) == pytest.approx(1, abs=1e-5)
    tower = provider.new_timm_tower(stages.rerank, 0)
    (row,) = tower.embed_pixels(tower.preprocess(photo)[None])
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert small.preset.detector is not None
    assert small.preset.detector.model is not None
    detector = PretrainedModel.load(small.preset.detector.model, small.preset.detector)
    assert detector.prepare(photo).shape == (1, 3, 640, 640)
