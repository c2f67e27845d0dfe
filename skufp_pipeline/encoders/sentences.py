"""Embeds sentences by a text model of transformers, such as MiniLM.

The embedding is the mean of the last hidden states over the tokens that are no padding, of norm 1, as by
sentence-transformers (Reimers and Gurevych, 2019). `text_tower` makes such a model part of an open_clip
model.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from skufp_pipeline.encoders.clip import unit_rows
from skufp_pipeline.encoders.embed import in_halves
from skufp_pipeline.encoders.stage_settings import SENTENCES
from skufp_pipeline.encoders.text_tower import LENGTH_FILE, read_quietly, sentence_length
from skufp_pipeline.training.weights import Weights

BATCH = 64


@dataclass(frozen=True)
class SentenceEncoder:
    """A text model with its tokenizer.

    Attributes:
        length: most tokens of a sentence; the rest is cut off.
    """

    model: Any
    tokenizer: Any
    length: int
    device: torch.device

    @property
    def dimension(self) -> int:
        return int(self.model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns (N, D) unit rows; encodes repeated texts once."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))  # of like length: little padding
        parts = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(unique), BATCH):
            parts += in_halves(self._embed_batch, unique[start : start + BATCH])
        place = {text: row for row, text in enumerate(unique)}
        rows: NDArray[np.float32] = np.concatenate(parts)[[place[text] for text in texts]]
        return rows

    @torch.inference_mode()
    def _embed_batch(self, texts: list[str]) -> NDArray[np.float32]:
        given = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.device)
        mask = given["attention_mask"][..., None]
        states = self.model(**given).last_hidden_state
        return unit_rows((states * mask).sum(dim=1) / mask.sum(dim=1))

    def save(self, directory: Path) -> None:
        """Writes a folder in Hugging Face format, which `load_sentences` reads."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        (directory / LENGTH_FILE).write_text(json.dumps({"max_seq_length": self.length}) + "\n")


def saved(folder: Path) -> Weights:
    """Names what `SentenceEncoder.save` wrote, for `load_sentences`."""
    return Weights(str(folder), SENTENCES, "local", folder)


def load_sentences(source: Weights, device: torch.device) -> SentenceEncoder:
    """Loads a text model from a folder, a package or the hub.

    Raises:
        UserError: it is no text model with a tokenizer, or can't be reached.
    """
    local = source.path is not None
    with read_quietly(source):
        tokenizer = AutoTokenizer.from_pretrained(source.source, local_files_only=local)
        model = AutoModel.from_pretrained(source.source, local_files_only=local)
        length = min(sentence_length(source.path), model.config.max_position_embeddings)
        if len(tokenizer) < model.config.vocab_size / 2:
            raise ValueError(
                f"the tokenizer knows {len(tokenizer)} tokens, the model {model.config.vocab_size}; are its "
                "files missing?"
            )
    return SentenceEncoder(model.eval().to(device), tokenizer, length, device)
