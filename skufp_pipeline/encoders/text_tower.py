"""A text model of transformers as the text tower of an open_clip model: frozen, with a linear projection.

Sentences are embedded as by sentence-transformers (Reimers and Gurevych, 2019): the mean of the last hidden
states over the tokens that are no padding. The projection into the image tower's space starts as an isometry,
so that the cosine of two sentences is what the text model says; `text_alignment` learns the rest.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.training.weights import Weights

TEXT_FOLDER = "text_tower"  # of a saved encoder: configuration and tokenizer; its weights are the encoder's
LENGTH_FILE = "sentence_bert_config.json"  # of sentence-transformers
MOST_TOKENS = 256  # of a sentence, if the text model does not say


def text_config(source: Weights) -> dict[str, Any]:
    """Returns the `text_cfg` of open_clip for a text model; it names no place of this machine.

    Raises:
        UserError: it is no text model with a tokenizer, or can't be reached.
    """
    try:
        config = AutoConfig.from_pretrained(source.source, local_files_only=source.path is not None)
        length = min(sentence_length(source.path), config.max_position_embeddings)
    except Exception as error:  # the hub and transformers raise many kinds
        raise UserError(_complaint(source, error)) from error
    return {
        "hf_model_name": TEXT_FOLDER,
        "hf_tokenizer_name": TEXT_FOLDER,
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": length,
    }


def placed(text_config: dict[str, Any], source: str, with_weights: bool) -> dict[str, Any]:
    """Returns `text_config` for building the tower from `source`, a folder or hub id."""
    names = {"hf_model_name": source, "hf_tokenizer_name": source}
    return {**text_config, **names, "hf_model_pretrained": with_weights}


def read_tokenizer(source: str, context_length: int, vocabulary: int) -> HFTokenizer:
    """Reads the tokenizer of a text model of so many tokens from a folder or hub.

    Raises:
        ValueError: it is another model's; without its files, transformers makes one that knows no word.
    """
    tokenizer = HFTokenizer(source, context_length=context_length)
    known = len(tokenizer.tokenizer)
    if known < vocabulary / 2:
        raise ValueError(
            f"the tokenizer knows {known} tokens, the model {vocabulary}; are its files missing?"
        )
    return tokenizer


@contextmanager
def read_quietly(source: Weights) -> Iterator[None]:
    """Silences what transformers says of a pooler that is not used; errors become a `UserError`."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub, safetensors and transformers raise many kinds
        raise UserError(_complaint(source, error)) from error
    finally:
        transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(verbosity)


def start_isometric(model: Any) -> None:
    """Sets the projection of a tower to a random isometry, and freezes the text model.

    Where the image tower has fewer dimensions than the text model, it is a random orthogonal projection.
    """
    nn.init.orthogonal_(model.text.proj.weight)
    model.text.transformer.requires_grad_(False)


def save_text_tower(model: Any, tokenizer: HFTokenizer, directory: Path) -> None:
    """Writes what `text_config` and the tokenizer need into `TEXT_FOLDER` of a saved encoder."""
    model.text.config.save_pretrained(directory / TEXT_FOLDER)
    backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
    if backend is not None:  # it keeps what the last call asked for
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(directory / TEXT_FOLDER)


def without_padding(tokens: Tensor, padding: int) -> Tensor:
    """Cuts the columns (B, length) that are padding in every row; a sentence costs what its words cost."""
    used = (tokens != padding).any(dim=0).nonzero()
    return tokens[:, : int(used.max()) + 1 if len(used) else 1]


@torch.inference_mode()
def sentence_outputs(model: Any, tokens: Tensor) -> Tensor:
    """Returns (B, width) outputs of the text model before the projection, of no particular norm."""
    tower = model.text
    mask = (tokens != tower.config.pad_token_id).long()
    return tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask)


def sentence_length(folder: Path | None) -> int:
    """What sentence-transformers cuts a sentence to, in tokens."""
    path = None if folder is None else folder / LENGTH_FILE
    if path is None or not path.is_file():
        return MOST_TOKENS
    return int(json.loads(path.read_text()).get("max_seq_length") or MOST_TOKENS)


def _complaint(source: Weights, error: Exception) -> str:
    return (
        f"{source.setting} {source.name!r} could not be loaded ({in_a_line(error)}); expected a folder with "
        "config.json, model.safetensors and the tokenizer's files, or a hub id such as "
        "sentence-transformers/all-MiniLM-L6-v2"
    )
