"""A detector that is stored, opened and exported finds the same regions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.detection.export import build_detector
from skufp_pipeline.detection.files import ONNX_FILE, PROBE_FILE, load_detector, load_model, save_detector
from skufp_pipeline.detection.network import DetectorNetwork
from skufp_pipeline.detection.small import SmallModel
from skufp_pipeline.errors import UserError

from .examples import SETTINGS, SIDE, photo

CPU = torch.device("cpu")
PHOTOS = [photo(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    network = DetectorNetwork(SIDE, 4).eval()
    save_detector(SmallModel(network, SETTINGS.model_copy(update={"threshold": 0.0, "trim": 0.1})), folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    figures = build_detector(load_model(checkpoint), PHOTOS, folder)
    assert figures["photos"] == figures["same_regions"] == 3
    assert figures["largest_difference"] < 1e-4
    return folder


def test_both_engines_find_the_same_regions(checkpoint: Path, exported: Path) -> None:
    by_pytorch, by_onnx = load_detector(checkpoint, CPU), load_detector(checkpoint, CPU, exported)
    assert by_pytorch.trim == by_onnx.trim == 0.1
    for each in PHOTOS:
        one, other = by_pytorch.find(each), by_onnx.find(each)
        assert [region.box for region in one] == [region.box for region in other] != []
        scores = [[region.score for region in found] for found in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_the_same_weights_are_the_same_files(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    build_detector(load_model(checkpoint), PHOTOS, tmp_path / "again")
    assert (tmp_path / "again" / ONNX_FILE).read_bytes() == (exported / ONNX_FILE).read_bytes()


def test_an_export_that_differs_from_pytorch_is_refused(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / ONNX_FILE).write_bytes((exported / ONNX_FILE).read_bytes())
    with np.load(exported / PROBE_FILE) as probe:
        changed = {name: probe[name] if name == "pixels" else probe[name] + 0.1 for name in probe.files}
    np.savez(tmp_path / PROBE_FILE, **changed)
    with pytest.raises(UserError, match=r"differs from PyTorch on this machine by 0\.1"):
        load_detector(checkpoint, CPU, tmp_path)


def test_damaged_files_are_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be read: .*; materialize detector_checkpoint"):
        load_model(tmp_path)
    (tmp_path / "settings.json").write_bytes((checkpoint / "settings.json").read_bytes())
    with pytest.raises(UserError, match=r"can't be read: .*; materialize detector_checkpoint"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"can't be loaded: .*; materialize detector_onnx"):
        load_detector(checkpoint, CPU, tmp_path)
