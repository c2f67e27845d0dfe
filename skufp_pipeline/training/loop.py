"""The training loop: resumes from a checkpoint, keeps the best weights, and stops early.

A trainer passes the state that a round (an epoch or a step) depends on, and implements the round:

    training = Training("policy", scratch, {"network": network, "optimizer": optimizer}, log)
    for epoch in training.rounds(settings.epochs, patience=settings.patience):
        ...
        training.history.append({"epoch": epoch + 1, "loss": loss, "development_score": score})
        training.keep_best(score, network)
        training.tell(f"loss {loss:.3f}")
    training.load_best(network)
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.training.history import History, is_kept

Log = Callable[[str], None]

_LOG_INTERVAL = 5.0  # seconds


class Part(Protocol):
    """State that a round changes: a module, an optimizer, a moving average, or random number generators."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Training:
    """One training, with its checkpoint in NAME.pt and its best weights in NAME.best.pt.

    Args:
        scratch: a folder that survives a killed process. The files are kept after the training, so that it
            is not repeated if a later step is killed.
        parts: all state that a round depends on, by name, except the round number.

    Attributes:
        done: number of completed rounds.
        best: number of the round with the best weights, from 1; 0 before the first score.
        history: one row per round, appended by the trainer.
    """

    def __init__(self, name: str, scratch: Path, parts: Mapping[str, Part], log: Log) -> None:
        self.name, self.parts, self.log = name, parts, log
        self.path, self.best_path = scratch / f"{name}.pt", scratch / f"{name}.best.pt"
        self.done, self.best, self.best_score = 0, 0, math.nan
        self.history: History = []
        if self.path.exists():
            self._load(torch.load(self.path, map_location="cpu", weights_only=True))
        self._started = self._last_log = time.monotonic()
        self._first_round = self.done

    def rounds(
        self, count: int, unit: str = "epoch", save_every: int = 1, patience: int | None = None
    ) -> Iterator[int]:
        """Yields the numbers, from 0, of the remaining rounds out of `count`.

        Args:
            save_every: rounds between two checkpoints; the last round of `count` is always saved.
            patience: number of rounds without a new best round after which the training stops.
        """
        self._count, self._unit = count, unit
        if self.done:
            self.log(f"{self.name}: resuming after {unit} {self.done} of {count}")
        while self.done < count and (patience is None or self.done - self.best < patience):
            yield self.done
            self.done += 1
            if self.done % save_every == 0 or self.done == count:
                self._save()

    def keep_best(self, score: float, weights: nn.Module, later: bool = True) -> None:
        """Saves the weights of this round if its score is the best so far.

        Args:
            score: higher is better; nan where no score is available.
            later: keeps the last of several rounds with equal scores, instead of the first.
        """
        if is_kept(score, self.best_score, later):
            write_whole(weights.state_dict(), self.best_path)
            self.best, self.best_score = self.done + 1, score

    def load_best(self, module: nn.Module) -> None:
        """Loads the weights of the best round into `module` and sets it to evaluation mode."""
        module.load_state_dict(torch.load(self.best_path, map_location="cpu", weights_only=True))
        module.eval()

    def tell(self, text: str) -> None:
        """Logs this round and the speed of this process, at most every few seconds and in the last round."""
        now, number = time.monotonic(), self.done + 1
        if number == self._count or now - self._last_log >= _LOG_INTERVAL:
            self._last_log = now
            rate = (number - self._first_round) / max(now - self._started, 1e-9)
            self.log(f"{self.name}: {self._unit} {number}/{self._count}, {text}, {rate:.1f} {self._unit}s/s")

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        position = {"done": self.done, "best": self.best, "best_score": self.best_score}
        write_whole({"parts": state, "history": self.history, **position}, self.path)

    def _load(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.history, self.done = state["history"], state["done"]
        self.best, self.best_score = state["best"], state["best_score"]


class RandomNumbers:
    """A `Part` with the state of a generator and of torch's global generators (used by dropout)."""

    def __init__(self, generator: Generator, device: torch.device) -> None:
        self.generator, self.cuda = generator, device if device.type == "cuda" else None

    def state_dict(self) -> dict[str, Tensor]:
        state = {"generator": self.generator.get_state(), "cpu": torch.get_rng_state()}
        return state if self.cuda is None else state | {"cuda": torch.cuda.get_rng_state(self.cuda)}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.generator.set_state(state_dict["generator"])
        torch.set_rng_state(state_dict["cpu"])
        if self.cuda is not None:
            torch.cuda.set_rng_state(state_dict["cuda"], self.cuda)


class Trainable:
    """A `Part` with only those parameters that require a gradient, such as an adapter without its base."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.parameters = {
            f"{part}.{name}": parameter
            for part, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        for name, value in self.parameters.items():
            value.copy_(state_dict[name])


def set_learning_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Sets one learning rate per parameter group."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def write_whole(state: dict[str, Any], path: Path) -> None:
    """Writes a file atomically."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
