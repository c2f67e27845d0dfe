"""Any object detection model of transformers in a local folder is a detector."""

from pathlib import Path

import pytest
import torch
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

from skufp_pipeline.detection.export import build_detector
from skufp_pipeline.detection.files import load_detector, load_model, save_detector
from skufp_pipeline.detection.pretrained import PretrainedModel
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.errors import UserError

from .examples import photo

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small YOLOS with random weights that knows shirts and hats, as save_pretrained writes it."""
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=8, num_detection_tokens=5, num_labels=2, use_mid_position_embeddings=False,
        id2label={0: "shirt", 1: "hat"}, label2id={"shirt": 0, "hat": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    model, path = YolosForObjectDetection(config), tmp_path_factory.mktemp("yolos")
    model.save_pretrained(path)
    YolosImageProcessor().save_pretrained(path)
    return path


def settings(folder: Path, **changes: object) -> DetectorSettings:
    kept = {"model": str(folder), "side": 32, "threshold": 0.0, "overlap": 0.99, "most": 9}
    return DetectorSettings.model_validate({**kept, **changes})


def test_it_finds_regions_with_its_own_labels_in_pixels_of_the_photo(folder: Path, tmp_path: Path) -> None:
    save_detector(PretrainedModel.load(str(folder), settings(folder)), tmp_path)
    found = load_detector(tmp_path, CPU).find(photo())
    assert 1 <= len(found) <= 5
    assert {region.label for region in found} <= {"shirt", "hat"}
    assert [region.score for region in found] == sorted((region.score for region in found), reverse=True)
    for region in found:
        x1, y1, x2, y2 = region.box
        assert 0 <= x1 < x2 <= 60
        assert 0 <= y1 < y2 <= 40


def test_only_regions_with_the_labels_asked_for_are_found(folder: Path) -> None:
    for label in ("shirt", "hat"):
        model = PretrainedModel.load(str(folder), settings(folder, labels=[label]))
        outputs = model.by_pytorch(CPU)(model.prepare(photo()))
        assert {region.label for region in model.regions(outputs, (60, 40))} <= {label}
    with pytest.raises(UserError, match=r"detector\.labels: the model has no shoe; it has hat, shirt"):
        PretrainedModel.load(str(folder), settings(folder, labels=["shoe"]))


def test_its_export_finds_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint", "onnx"):
        (tmp_path / name).mkdir()
    save_detector(PretrainedModel.load(str(folder), settings(folder)), tmp_path / "checkpoint")
    photos = [photo(seed) for seed in range(3)]
    figures = build_detector(load_model(tmp_path / "checkpoint"), photos, tmp_path / "onnx")
    assert figures["largest_difference"] < 1e-3
    both = [load_detector(tmp_path / "checkpoint", CPU, made) for made in (None, tmp_path / "onnx")]
    one, other = ([region.box for region in each.find(photos[0])] for each in both)
    assert one == other != []


def test_what_is_no_detector_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detector\.model '.*' could not be loaded"):
        PretrainedModel.load(str(tmp_path), settings(tmp_path))
    with pytest.raises(UserError, match="expected the hub id of an object detection model"):
        PretrainedModel.load("no/such-model", settings(tmp_path))
