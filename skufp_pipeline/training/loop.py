"""The loop of every training: it goes on where it was killed, keeps its best weights, and stops in time.

A trainer names what its next round depends on, an epoch or a step, and writes the round itself:

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

from skufp_pipeline.training.history import History

Log = Callable[[str], None]

_TELL_EVERY = 5.0  # seconds


class Part(Protocol):
    """A module, an optimizer, a moving average, random numbers: what a round changes."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Training:
    """One training; the files NAME.pt and NAME.best.pt are what a killed process leaves of it.

    Args:
        scratch: a folder that survives a killed process. The files stay there at the end, so that a process
            killed in what follows has not to train this again.
        parts: everything by name that a round depends on, but its number.

    Attributes:
        done: rounds that are behind.
        best: number of the round with the best weights, from 1; 0 before the first was judged.
        history: a row for each round, of the trainer's making.
    """

    def __init__(self, name: str, scratch: Path, parts: Mapping[str, Part], log: Log) -> None:
        self.name, self.parts, self.log = name, parts, log
        self.path, self.best_path = scratch / f"{name}.pt", scratch / f"{name}.best.pt"
        self.done, self.best, self.best_score = 0, 0, math.nan
        self.history: History = []
        if self.path.exists():
            self._load(torch.load(self.path, map_location="cpu", weights_only=True))
        self._begun = self._told = time.monotonic()
        self._first = self.done

    def rounds(
        self, count: int, unit: str = "epoch", save_every: int = 1, patience: int | None = None
    ) -> Iterator[int]:
        """The numbers from 0 of the rounds that are left of `count`; after each, what it made is saved.

        Args:
            save_every: rounds between two points that a killed process goes on from.
            patience: rounds without a better score after which it stops.
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
        """Keeps the weights of this round if no earlier one scored higher.

        Args:
            score: the higher the better; nan where there is nothing to judge by, then the last round is kept.
            later: of rounds with equal scores the last is kept, else the first.
        """
        beaten = score < self.best_score if later else score <= self.best_score
        if math.isnan(score) or not beaten:
            write_whole(weights.state_dict(), self.best_path)
            self.best, self.best_score = self.done + 1, score

    def load_best(self, module: nn.Module) -> None:
        """Gives `module` the weights of the best round, and leaves it in evaluation mode."""
        module.load_state_dict(torch.load(self.best_path, map_location="cpu", weights_only=True))
        module.eval()

    def tell(self, text: str) -> None:
        """Logs this round with the speed of this process: one every few seconds, and the last."""
        now, number = time.monotonic(), self.done + 1
        if number == self._count or now - self._told >= _TELL_EVERY:
            self._told = now
            rate = (number - self._first) / max(now - self._begun, 1e-9)
            self.log(f"{self.name}: {self._unit} {number}/{self._count}, {text}, {rate:.1f} {self._unit}s/s")

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        place = {"done": self.done, "best": self.best, "best_score": self.best_score}
        write_whole({"parts": state, "history": self.history, **place}, self.path)

    def _load(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.history, self.done = state["history"], state["done"]
        self.best, self.best_score = state["best"], state["best_score"]


class RandomNumbers:
    """A part: where the random numbers of a generator stand, and torch's own (dropout)."""

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
    """A part: the parameters of modules that want a gradient, and no others: an adapter without its base."""

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
    """One rate for each of the optimizer's groups of parameters."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def write_whole(state: dict[str, Any], path: Path) -> None:
    """Writes a file that is there as a whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
