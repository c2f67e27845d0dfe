"""Tokens that occur are trained; the others stay as they were."""

import pytest
import torch

from skufp_pipeline.encoders.clip import create_encoder
from skufp_pipeline.encoders.settings import EncoderSettings
from skufp_pipeline.encoders.vocabulary import occurring_tokens, restore_vocabulary, train_occurring

from .conftest import CPU


def test_occurring_tokens_are_sorted_and_stand_once() -> None:
    batches = [torch.tensor([[7, 3, 0], [3, 9, 0]]), torch.tensor([[1, 3, 7]])]
    assert occurring_tokens(batches).tolist() == [0, 1, 3, 7, 9]
    assert occurring_tokens([]).tolist() == [0]


def test_texts_are_embedded_as_by_the_whole_vocabulary(settings: EncoderSettings) -> None:
    encoder = create_encoder(settings, CPU, seed=1)
    words = ["a red dress", "blue trousers"]
    before, names = encoder.embed_texts(words), list(encoder.model.state_dict())
    train_occurring(encoder.model, occurring_tokens([encoder.tokenize(words)]))
    assert len(encoder.model.token_embedding.weight) < 20
    assert (encoder.embed_texts(words) == before).all()
    with pytest.raises(IndexError):
        encoder.embed_texts(["green socks"])
    restore_vocabulary(encoder.model)
    assert (encoder.embed_texts(words) == before).all()
    assert list(encoder.model.state_dict()) == names


def test_what_was_learnt_is_in_the_whole_vocabulary_and_nothing_else_changed(
    settings: EncoderSettings,
) -> None:
    encoder = create_encoder(settings, CPU, seed=1)
    before = encoder.model.token_embedding.weight.detach().clone()
    tokens = occurring_tokens([encoder.tokenize(["a red dress"])])
    train_occurring(encoder.model, tokens)
    with torch.no_grad():
        encoder.model.token_embedding.weight += 1
    restore_vocabulary(encoder.model)
    after = encoder.model.token_embedding.weight.detach()
    changed = (after != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == tokens.tolist()
    assert torch.allclose(after[tokens], before[tokens] + 1)
