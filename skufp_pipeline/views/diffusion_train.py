"""Trains any part of the diffusion model.

The random numbers of a step depend on (seed, step) only, so a resumed training gives the same weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.training.device import mixed_precision
from skufp_pipeline.training.history import History, mean_losses
from skufp_pipeline.training.loop import Log, Part, Trainable, Training, set_learning_rate
from skufp_pipeline.training.schedule import warm_cosine

LossOf = Callable[[Generator], Tensor]
Precision = Literal["none", "fp16", "bf16"]

_DTYPES = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_CURVE_POINTS = 40


@dataclass(frozen=True)
class Schedule:
    """Training schedule of one part: warm-up and cosine decay to zero."""

    steps: int
    learning_rate: float
    warmup_fraction: float = 0.05
    weight_decay: float = 0.01
    accumulation: int = 1  # batches per optimizer step
    clip_gradient: float = 1.0
    checkpoint_every: int = 200  # steps between two checkpoints
    precision: Precision = "none"  # on CUDA; a CPU computes in bfloat16 if it multiplies that


def train(
    name: str,
    modules: Mapping[str, nn.Module],
    loss_of: LossOf,
    schedule: Schedule,
    seed: int,
    scratch: Path,
    log: Log,
) -> History:
    """Trains, in place, every parameter of `modules` that requires a gradient.

    Args:
        loss_of: draws a batch with the given generator and returns its loss.
        scratch: folder of the checkpoint `NAME.pt`, which is kept after the training so that it is not
            repeated if a later part is killed.

    Returns:
        The curve: `step` and the mean `loss` since the previous point.
    """
    trainable = Trainable(modules)
    parameters = list(trainable.parameters.values())
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, weight_decay=schedule.weight_decay, fused=True)
    dtype = _DTYPES[schedule.precision] if device.type == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    parts: dict[str, Part] = {"parameters": trainable, "optimizer": optimizer, "scaler": scaler}
    training = Training(name, scratch, parts, log)
    for step in training.rounds(schedule.steps, unit="step", save_every=schedule.checkpoint_every):
        factor = warm_cosine(step, schedule.steps, schedule.warmup_fraction)
        set_learning_rate(optimizer, schedule.learning_rate * factor)
        total = 0.0
        for draw in range(schedule.accumulation):
            number = step * schedule.accumulation + draw
            generator = Generator().manual_seed(seed * 1_000_003 + number)
            with mixed_precision(device, dtype):
                loss = loss_of(generator) / schedule.accumulation
            scaler.scale(loss).backward()
            total += loss.item()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, schedule.clip_gradient)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        training.history.append({"loss": total})
        training.tell(f"loss {total:.4f}")
    return mean_losses([row["loss"] for row in training.history], _CURVE_POINTS)
