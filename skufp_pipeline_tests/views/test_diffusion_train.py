"""The training loop: the same weights in one go, in portions, and after being killed."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.views.diffusion_train import Schedule, train


class StoppedError(Exception):
    pass


def run(scratch: Path, kill_at: int | None = None, lines: list[str] | None = None) -> nn.Module:
    """Fits a line to noise; `kill_at` ends it in the middle of that draw."""
    torch.manual_seed(0)
    model, drawn = nn.Linear(2, 1), 0

    def loss_of(generator: Generator) -> Tensor:
        nonlocal drawn
        if drawn == kill_at:
            raise StoppedError
        drawn += 1
        inputs = torch.randn(4, 2, generator=generator)
        return (model(inputs).squeeze(1) - inputs.sum(dim=1)).square().mean()

    schedule = Schedule(steps=10, learning_rate=0.1, checkpoint_every=3)
    log = lines.append if lines is not None else lambda line: None
    train("line", {"model": model}, loss_of, schedule, 7, scratch, log)
    return model


def test_it_learns_and_tells_its_curve(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)

    def loss_of(generator: Generator) -> Tensor:
        inputs = torch.randn(16, 2, generator=generator)
        return (model(inputs).squeeze(1) - inputs.sum(dim=1)).square().mean()

    schedule = Schedule(steps=80, learning_rate=0.1)
    curve = train("line", {"model": model}, loss_of, schedule, 0, tmp_path, lambda line: None)
    assert [row["step"] for row in curve] == list(range(2, 81, 2))
    assert curve[-1]["loss"] < 0.05 * curve[0]["loss"]


@pytest.mark.parametrize("kill_at", [3, 5, 9])
def test_a_killed_training_goes_on_and_ends_in_the_same_weights(kill_at: int, tmp_path: Path) -> None:
    whole = run(tmp_path_of(tmp_path, "whole"))
    scratch, lines = tmp_path_of(tmp_path, "killed"), []
    with pytest.raises(StoppedError):
        run(scratch, kill_at=kill_at)
    again = run(scratch, lines=lines)
    assert f"resuming after step {kill_at // 3 * 3} of 10" in lines[0]
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, kill_at=0)  # not a single draw


def test_accumulated_draws_are_one_step_of_their_mean(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    draws = iter([1.0, 3.0])

    def loss_of(generator: Generator) -> Tensor:
        return model.weight.sum() * next(draws)

    schedule = Schedule(steps=1, learning_rate=0.1, accumulation=2, warmup_fraction=0, clip_gradient=100)
    (row,) = train("a", {"model": model}, loss_of, schedule, 0, tmp_path, lambda line: None)
    assert row["loss"] == pytest.approx(2)  # the mean of 1 and 3


def test_parameters_that_want_no_gradient_stay(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()

    def loss_of(generator: Generator) -> Tensor:
        return model(torch.ones(1, 2)).square().mean()

    train("a", {"m": model}, loss_of, Schedule(steps=3, learning_rate=0.1), 0, tmp_path, lambda line: None)
    assert torch.equal(model.bias, before)
