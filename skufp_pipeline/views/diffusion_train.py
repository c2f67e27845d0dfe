"""How every part of the diffusion model is trained, step by step.

Each step's randomness comes from (seed, step) alone, so that a resumed training ends in the same weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.training.history import History, mean_losses
from skufp_pipeline.training.loop import Log, Part, Trainable, Training, set_learning_rate
from skufp_pipeline.training.schedule import warm_cosine

LossOf = Callable[[Generator], Tensor]
Precision = Literal["none", "fp16", "bf16"]

_DTYPES = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_CURVE_POINTS = 40


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
) -> History:
    """Trains, in place, every parameter of `modules` that wants a gradient.

    Args:
        loss_of: draws a batch with the generator it is given and returns its loss.
        scratch: holds `NAME.pt`, the point that a killed run goes on from; it is kept at the end, so that a
            run killed in a later part has not to train this one again.

    Returns:
        The curve: `step` and the mean `loss` since the point before.
    """
    trainable = Trainable(modules)
    parameters = list(trainable.parameters.values())
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, weight_decay=schedule.weight_decay, fused=True)
    dtype = _DTYPES[schedule.precision] if device.type == "cuda" else None
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
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
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
