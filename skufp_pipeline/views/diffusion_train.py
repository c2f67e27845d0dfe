"""The one loop that trains every part of the diffusion model, step by step, and goes on where it was killed.

Each step's randomness comes from (seed, step) alone, so that a resumed training ends in the same weights.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.training.schedule import warm_cosine

Log = Callable[[str], None]
LossOf = Callable[[Generator], Tensor]
Precision = Literal["none", "fp16", "bf16"]

_DTYPES = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_CURVE_POINTS = 40
_LOG_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and in what portions a part is trained.

    Attributes:
        steps: optimizer steps; the learning rate follows a warm-up and a cosine to zero over them.
        accumulation: draws of the loss whose gradients make one step.
        checkpoint_every: steps between two points that a killed run goes on from.
        precision: of the arithmetic on CUDA; a CPU computes in float32 whatever it says.
    """

    steps: int
    learning_rate: float
    warmup_fraction: float = 0.05
    weight_decay: float = 0.01
    accumulation: int = 1
    clip_gradient: float = 1.0
    checkpoint_every: int = 200
    precision: Precision = "none"


def train(
    name: str,
    modules: Mapping[str, nn.Module],
    loss_of: LossOf,
    schedule: Schedule,
    seed: int,
    scratch: Path,
    log: Log,
) -> list[dict[str, float]]:
    """Trains, in place, every parameter of `modules` that wants a gradient.

    Args:
        loss_of: draws a batch with the generator it is given and returns its loss.
        scratch: holds `NAME.pt`, the point that a killed run goes on from; it is kept at the end, so that a
            run killed in a later part has not to train this one again.

    Returns:
        The curve: `step` and the mean `loss` since the point before.
    """
    state = _State(modules, schedule)
    path = scratch / f"{name}.pt"
    if path.is_file():
        state.load(torch.load(path, map_location="cpu", weights_only=True))
        log(f"{name}: resuming after step {state.step} of {schedule.steps}")
    started, first, told = time.monotonic(), state.step, time.monotonic()
    while state.step < schedule.steps:
        loss = state.advance(loss_of, seed)
        now = time.monotonic()
        done = state.step == schedule.steps
        if done or now - told >= _LOG_EVERY:
            told = now
            rate = (state.step - first) / max(now - started, 1e-9)
            log(f"{name}: step {state.step}/{schedule.steps}, loss {loss:.4f}, {rate:.1f} steps/s")
        if done or state.step % schedule.checkpoint_every == 0:
            _save(state.dump(), path)
    return state.curve


class _State:
    """Parameters, optimizer, step and curve of one training."""

    def __init__(self, modules: Mapping[str, nn.Module], schedule: Schedule) -> None:
        self.schedule = schedule
        self.parameters = {
            f"{part}.{name}": parameter
            for part, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        values = list(self.parameters.values())
        self.device = values[0].device
        self.optimizer = torch.optim.AdamW(values, weight_decay=schedule.weight_decay, fused=True)
        self.dtype = _DTYPES[schedule.precision] if self.device.type == "cuda" else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._sum, self._count = 0.0, 0

    def advance(self, loss_of: LossOf, seed: int) -> float:
        """One optimizer step; its loss."""
        schedule, total = self.schedule, 0.0
        factor = warm_cosine(self.step, schedule.steps, schedule.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate * factor
        for draw in range(schedule.accumulation):
            number = self.step * schedule.accumulation + draw
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                loss = loss_of(generator) / schedule.accumulation
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters.values(), schedule.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._record(total)
        return total

    def _record(self, loss: float) -> None:
        self._sum, self._count = self._sum + loss, self._count + 1
        every = math.ceil(self.schedule.steps / _CURVE_POINTS)
        if self.step % every == 0 or self.step == self.schedule.steps:
            self.curve.append({"step": self.step, "loss": self._sum / self._count})
            self._sum, self._count = 0.0, 0

    def dump(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "curve": self.curve,
            "since": (self._sum, self._count),
        }

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.curve = state["step"], state["curve"]
        self._sum, self._count = state["since"]


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
