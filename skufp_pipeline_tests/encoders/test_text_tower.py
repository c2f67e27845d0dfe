"""A text model as text tower: sentences as by transformers alone, saved whole, no part of image training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel, AutoTokenizer

from skufp_pipeline.encoders.clip import Encoder, create_encoder, load_encoder
from skufp_pipeline.encoders.clip_train import fine_tune
from skufp_pipeline.encoders.settings import ClipTrainingSettings, EncoderSettings
from skufp_pipeline.encoders.text_tower import without_padding
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.weights import weight_inputs

from .conftest import CPU
from .examples import noise, write_model, write_text_model
from .test_clip_train import SHORT, make_data, silent

TEXTS = ["a red skirt", "blue striped vest", "a green coat a red vest", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def with_text_model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    named = write_model(tmp_path_factory.mktemp("models") / "tiny-bert.json", dimension=24)
    return named.model_copy(update={"text_tower_weights": str(folder)})


@pytest.fixture(scope="module")
def encoder(with_text_model: EncoderSettings) -> Encoder:
    return create_encoder(with_text_model, CPU, seed=0)


def by_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    """The mean of the last hidden states over all tokens, text by text, without any padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            rows.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0))
    found = torch.stack(rows).double()
    return (found / found.norm(dim=1, keepdim=True)).numpy()


def test_outputs_are_the_mean_over_tokens_as_of_transformers_alone(encoder: Encoder, folder: Path) -> None:
    np.testing.assert_allclose(encoder.text_outputs(TEXTS), by_transformers(folder, TEXTS), atol=1e-5)


def test_the_projection_of_a_new_encoder_keeps_the_cosines_of_sentences(encoder: Encoder) -> None:
    rows, outputs = encoder.embed_texts(TEXTS), encoder.text_outputs(TEXTS)
    assert rows.shape == (len(TEXTS), 24)
    np.testing.assert_allclose(rows @ rows.T, outputs @ outputs.T, atol=1e-5)
    assert abs(float(rows[0] @ rows[1])) < 0.999


def test_a_batch_is_no_longer_than_its_longest_text() -> None:
    tokens = torch.tensor([[1, 2, 0, 0], [1, 0, 0, 0]])
    assert without_padding(tokens, 0).tolist() == [[1, 2], [1, 0]]
    assert without_padding(torch.zeros(2, 3, dtype=torch.long), 0).shape == (2, 1)


def test_a_saved_encoder_needs_nothing_but_its_folder(
    with_text_model: EncoderSettings, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "bert"
    shutil.copytree(folder, copy)
    made = create_encoder(with_text_model.model_copy(update={"text_tower_weights": str(copy)}), CPU, seed=3)
    made.save(tmp_path / "saved")
    expected = made.embed_texts(TEXTS)
    shutil.rmtree(copy)
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = load_encoder(moved, CPU)
    np.testing.assert_array_equal(loaded.embed_texts(TEXTS), expected)
    np.testing.assert_array_equal(loaded.embed_images([noise()]), made.embed_images([noise()]))
    files = [path for path in moved.rglob("*") if path.is_file()]
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]
    loaded.save(tmp_path / "again")
    for path in files:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(moved)).read_bytes()
    assert json.loads((moved / "open_clip_config.json").read_text())["model_cfg"] == made.model_config


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_saved_encoder_with_a_damaged_text_tower_is_told(
    encoder: Encoder, tmp_path: Path, name: str, damage: str
) -> None:
    encoder.save(tmp_path)
    path = tmp_path / "text_tower" / name
    path.unlink()
    if damage == "half":
        path.write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        load_encoder(tmp_path, CPU)


def test_fine_tuning_pictures_leaves_the_text_tower_alone(
    with_text_model: EncoderSettings, tmp_path: Path
) -> None:
    made = create_encoder(with_text_model, CPU, seed=0)
    texts, pictures = made.embed_texts(TEXTS), made.embed_images([noise()])
    history = fine_tune(made, make_data(), ClipTrainingSettings(**SHORT), 0, tmp_path, silent)
    assert len(history) == SHORT["epochs"]
    assert all(row["text_loss"] == 0 for row in history)
    np.testing.assert_array_equal(made.embed_texts(TEXTS), texts)
    assert not np.allclose(made.embed_images([noise()]), pictures)


def test_the_text_models_files_count_by_their_content(
    with_text_model: EncoderSettings, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bert"
    shutil.copytree(folder, copy)
    named = with_text_model.model_copy(update={"text_tower_weights": str(copy)})
    before = weight_inputs(named.weight_files())
    assert "encoder.text_tower_weights" in before
    (copy / "vocab.txt").write_text("[PAD]\n")
    assert weight_inputs(named.weight_files()) != before


def test_a_folder_without_a_text_model_is_a_users_mistake(
    with_text_model: EncoderSettings, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").write_bytes(b"no weights")
    shutil.copytree(folder, tmp_path / "wordless", ignore=shutil.ignore_patterns("tok*", "vocab*"))
    for name in (str(tmp_path / "half"), str(tmp_path / "wordless"), str(tmp_path)):
        with pytest.raises(UserError, match=r"^encoder.text_tower_weights .* could not be loaded") as caught:
            create_encoder(with_text_model.model_copy(update={"text_tower_weights": name}), CPU, seed=0)
        assert "\n" not in str(caught.value)


def test_one_model_has_one_text_tower() -> None:
    with pytest.raises(ValidationError, match="have their own"):
        EncoderSettings(model="ViT-B-32", pretrained="laion2b_s34b_b79k", text_tower_weights="bert")
    with pytest.raises(ValidationError, match="have their own"):
        EncoderSettings(model="hf-hub:some/clip", text_tower_weights="bert")
