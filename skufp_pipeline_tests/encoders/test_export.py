"""An exported image tower embeds as PyTorch does, on rendered garments and on real photographs."""

import csv
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skufp_pipeline.datasets.sample import SampleSettings, render_sample
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.export import build_image_encoder, export_image_tower, quantize_image_tower
from skufp_pipeline.encoders.onnx import MODEL_FILE, OnnxImageEncoder, load_image_encoder
from skufp_pipeline.encoders.parity import Parity, unit_cosines
from skufp_pipeline.encoders.settings import EncoderSettings, QueryEncoderSettings
from skufp_pipeline.errors import UserError

from .examples import noise, write_model

CPU = torch.device("cpu")
Judge = Callable[[NDArray[np.float32]], Parity]


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A transformer whose matrix products hold most of its weights, as in ViT-B/32."""
    vision = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}
    settings = write_model(tmp_path_factory.mktemp("models") / "small-vit.json", vision, dimension=32)
    return create_encoder(settings, CPU, seed=0)


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rendered photos, of shops and of users."""
    folder = tmp_path_factory.mktemp("garments")
    render_sample(SampleSettings(num_skus=50, image_size=64, workers=1), folder)
    return sorted(folder.rglob("*.jpg"))[::25]


def embed(encoder: Encoder | OnnxImageEncoder, photos: list[Path]) -> NDArray[np.float32]:
    """One photo at a time, as queries come."""
    inputs = [encoder.preprocess(Image.open(photo))[None] for photo in photos]
    return np.concatenate([encoder.embed_pixels(pixels) for pixels in inputs])


def exported(encoder: Encoder, folder: Path, int8: bool = False) -> OnnxImageEncoder:
    path = folder / "tower.onnx"
    export_image_tower(encoder, path)
    if int8:
        assert quantize_image_tower(path, folder / "int8.onnx")
        path = folder / "int8.onnx"
    return OnnxImageEncoder(path, encoder.preprocess, threads=1)


def always(cosine: float, recall: float = 0.8) -> Judge:
    return lambda rows: Parity(len(rows), cosine, cosine, 0.8, recall)


def near_only(encoder: Encoder, photos: list[Path]) -> Judge:
    """Parity by cosine, as it is."""
    reference = embed(encoder, photos)

    def judge(rows: NDArray[np.float32]) -> Parity:
        cosines = unit_cosines(reference, rows)
        return Parity(len(rows), float(cosines.min()), float(cosines.mean()), 0.8, 0.8)

    return judge


def build(encoder: Encoder, photos: list[Path], judge: Judge, folder: Path, precision: str = "auto") -> dict:
    settings = QueryEncoderSettings.model_validate({"precision": precision})
    return build_image_encoder(encoder, photos, embed(encoder, photos), judge, settings, folder)


@pytest.mark.parametrize("model", ["skufp-tiny", "skufp-mobilenetv2"])
def test_bundled_towers_in_float32_are_pytorchs(model: str, garments: list[Path], tmp_path: Path) -> None:
    encoder = create_encoder(EncoderSettings(model=model), CPU, seed=0)
    found = embed(exported(encoder, tmp_path), garments)
    np.testing.assert_allclose(found, embed(encoder, garments), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_transformer_is_near_pytorch_in_float32_and_in_int8(
    vit: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    reference = embed(vit, garments)
    np.testing.assert_allclose(embed(exported(vit, tmp_path), garments), reference, atol=2e-6)
    least = unit_cosines(embed(exported(vit, tmp_path, int8=True), garments), reference).min()
    assert 0.99 <= least < 1 - 1e-7, "int8 is near, and is not float32 under another name"


def test_any_number_of_photos_can_be_embedded_at_once(vit: Encoder, tmp_path: Path) -> None:
    tower = exported(vit, tmp_path)
    pixels = torch.stack([vit.preprocess(noise(seed)) for seed in range(5)])
    assert tower.dimension == vit.dimension
    for count in (1, 2, 5):
        np.testing.assert_allclose(
            tower.embed_pixels(pixels[:count]), vit.embed_pixels(pixels[:count]), atol=2e-6
        )


def test_the_same_encoder_is_exported_to_the_same_bytes_that_name_no_folder(
    vit: Encoder, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export_image_tower(vit, tmp_path / name)
        quantize_image_tower(tmp_path / name, tmp_path / f"{name}-int8")
    for suffix in ("", "-int8"):
        content = (tmp_path / f"one{suffix}").read_bytes()
        assert content == (tmp_path / f"two{suffix}").read_bytes()
        for trace in (b"site-packages", b".py", str(tmp_path).encode()):
            assert trace not in content


def test_exporting_says_nothing_and_changes_nothing(
    vit: Encoder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().manager.disable
    pixels = vit.preprocess(noise())[None]
    before = vit.embed_pixels(pixels)
    exported(vit, tmp_path, int8=True)
    np.testing.assert_array_equal(vit.embed_pixels(pixels), before)
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().handlers, logging.getLogger().manager.disable) == (handlers, level)


def test_a_tower_of_convolutions_stays_float32(
    encoder: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    summary = build(encoder, garments, near_only(encoder, garments), tmp_path)
    assert summary["precision"] == "float32"
    assert "convolutions" in summary["why"]
    with pytest.raises(
        UserError, match="precision is int8, but the tower's weights are those of convolutions"
    ):
        build(encoder, garments, always(1), tmp_path, "int8")


def test_int8_is_taken_where_it_is_near_enough_and_both_figures_are_told(
    vit: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    summary = build(vit, garments, near_only(vit, garments), tmp_path)
    assert summary["precision"] == "int8"
    assert 0.99 < summary["int8_cosine_least"] < summary["float32_cosine_least"] <= 1
    assert summary["float32_photos"] == summary["int8_photos"] == len(garments)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "image_encoder.onnx", "image_encoder.json", "probe_pixels.npy", "probe_embedding.npy"
    }  # fmt: skip
    loaded = load_image_encoder(tmp_path, vit.preprocess, threads=1)
    assert unit_cosines(embed(loaded, garments), embed(vit, garments)).min() == summary["int8_cosine_least"]


def only_float32_is_near() -> Judge:
    answers = iter([Parity(9, 1.0, 1.0, 0.8, 0.8), Parity(9, 0.995, 0.999, 0.8, 0.79)])
    return lambda rows: next(answers)


def test_int8_that_costs_recall_is_left_for_float32(
    vit: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    summary = build(vit, garments, only_float32_is_near(), tmp_path)
    assert summary["precision"] == "float32"
    assert "int8 is too far from PyTorch" in summary["why"]
    assert summary["int8_recall"] == 0.79
    rows = embed(load_image_encoder(tmp_path, vit.preprocess, threads=1), garments)
    np.testing.assert_allclose(rows, embed(vit, garments), atol=2e-6)
    with pytest.raises(UserError, match="precision is int8, but int8 is too far"):
        build(vit, garments, only_float32_is_near(), tmp_path, "int8")


def test_float32_is_not_quantized_where_the_preset_asks_for_it(
    vit: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    summary = build(vit, garments, always(1), tmp_path, "float32")
    assert (summary["precision"], summary["why"]) == ("float32", "as the preset asks")
    assert not [name for name in summary if name.startswith("int8")]


def test_an_export_that_is_not_pytorchs_is_refused(
    vit: Encoder, garments: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"differs from PyTorch: cosine at least 0\.99800"):
        build(vit, garments, always(0.998), tmp_path)


def test_a_tower_that_onnx_has_no_words_for_is_refused(
    vit: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(vit.model), "encode_image", lambda self, pixels: pixels[pixels > 0].tolist())
    with pytest.raises(UserError, match="can't be exported to ONNX"):
        export_image_tower(vit, tmp_path / "tower.onnx")


def test_a_tower_larger_than_a_file_may_be_is_refused(
    vit: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skufp_pipeline.encoders.export._LARGEST_FILE", 1000)
    with pytest.raises(UserError, match="too large for an ONNX file"):
        export_image_tower(vit, tmp_path / "tower.onnx")


@pytest.fixture
def published(vit: Encoder, garments: list[Path], tmp_path: Path) -> Path:
    build(vit, garments, near_only(vit, garments), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["image_encoder.onnx", "image_encoder.json", "probe_pixels.npy", "probe_embedding.npy"]
)
def test_a_missing_or_damaged_file_is_told(published: Path, vit: Encoder, name: str) -> None:
    (published / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match="materialize image_encoder_onnx"):
        load_image_encoder(published, vit.preprocess, threads=1)
    (published / name).unlink()
    with pytest.raises(UserError, match="materialize image_encoder_onnx"):
        load_image_encoder(published, vit.preprocess, threads=1)


def test_a_machine_that_computes_something_else_is_told(published: Path, vit: Encoder) -> None:
    row = np.load(published / "probe_embedding.npy")
    np.save(published / "probe_embedding.npy", np.roll(row, 1))
    with pytest.raises(
        UserError, match=r"\(int8\) differs from PyTorch on this machine: cosine .*, expected"
    ):
        load_image_encoder(published, vit.preprocess, threads=1)


def real_photographs(count: int) -> list[Path]:
    """Query photographs of the manifest that SKUFP_MANIFEST names, evenly spread."""
    manifest = os.environ.get("SKUFP_MANIFEST", "")
    if not Path(manifest).is_file():
        pytest.skip("SKUFP_MANIFEST names no manifest of real photographs (see the preset photos)")
    with Path(manifest).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["domain"] == "query"]
    return [Path(manifest).parent / row["image_path"] for row in rows[:: max(len(rows) // count, 1)]]


def test_on_real_photographs_a_pretrained_tower_is_pytorchs(tmp_path: Path) -> None:
    photos = real_photographs(100)
    tower = os.environ.get("SKUFP_TOWER", "")
    if not Path(tower).is_file():
        pytest.skip("SKUFP_TOWER names no weight file (see the preset photos)")
    settings = EncoderSettings(
        model="skufp-mobilenetv2", image_tower_weights=tower, image_tower_kwargs={"pad_type": "same"}
    )
    encoder = create_encoder(settings, CPU, seed=0)
    reference = embed(encoder, photos)
    assert len(np.unique(reference.round(4), axis=0)) == len(photos)
    assert unit_cosines(embed(exported(encoder, tmp_path), photos), reference).min() >= 0.999


def test_on_real_photographs_a_transformer_in_int8_is_near_pytorch(vit: Encoder, tmp_path: Path) -> None:
    photos = real_photographs(100)
    summary = build(vit, photos, near_only(vit, photos), tmp_path)
    assert summary["float32_cosine_least"] >= 0.999
    assert summary["int8_cosine_least"] >= 0.99
    assert json.loads((tmp_path / "image_encoder.json").read_text()) == {"precision": "int8"}
    assert (tmp_path / MODEL_FILE).is_file()
