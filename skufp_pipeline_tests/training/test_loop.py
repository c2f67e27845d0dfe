"""A training resumed anywhere ends in the same weights, keeps the best, and stops when it gets no better."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from skufp_pipeline.training import loop
from skufp_pipeline.training.history import History, best_epoch
from skufp_pipeline.training.loop import RandomNumbers, Trainable, Training, set_learning_rate

CPU = torch.device("cpu")


class Killed(BaseException):
    """The process ends here."""


def never(epoch: int) -> None:
    pass


def fit(
    scratch: Path, log: Any = print, within: Any = never, save_every: int = 1
) -> tuple[nn.Module, History]:
    """Five epochs of a network with dropout on random numbers; `within` is called in the midst of each."""
    scratch.mkdir(exist_ok=True)
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    parts: Any = {"model": model, "optimizer": optimizer, "random": RandomNumbers(generator, CPU)}
    training = Training("toy", scratch, parts, log)
    for epoch in training.rounds(5, save_every=save_every):
        model.train()
        inputs = torch.randn(8, 3, generator=generator)
        loss = (model(inputs).squeeze(1) - inputs.sum(dim=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        within(epoch)
        optimizer.step()
        training.history.append({"epoch": epoch + 1, "loss": loss.item()})
        training.keep_best(-loss.item(), model)
        training.tell(f"loss {loss.item():.3f}")
    training.load_best(model)
    return model, training.history


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(value.equal(other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("epoch", range(5))
@pytest.mark.parametrize("save_every", [1, 2])
def test_killed_within_any_epoch_it_goes_on_and_ends_in_the_same_weights(
    epoch: int, save_every: int, tmp_path: Path
) -> None:
    def kill(number: int) -> None:
        if number == epoch:
            raise Killed

    whole, history = fit(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tmp_path / "killed", within=kill, save_every=save_every)
    torch.rand(3)  # another process stands elsewhere in its random numbers
    said: list[str] = []
    resumed, again = fit(tmp_path / "killed", said.append, save_every=save_every)
    saved = epoch // save_every * save_every
    assert said[: bool(saved)] == [f"toy: resuming after epoch {saved} of 5"] * bool(saved)
    assert same(resumed, whole)
    assert again == history


@pytest.mark.parametrize("number", range(1, 8))
def test_killed_while_writing_it_goes_on_and_ends_in_the_same_weights(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, history = fit(tmp_path / "whole")
    save, saved = torch.save, []

    def save_half(state: Any, path: Path) -> None:
        save(state, path)
        saved.append(path)
        if len(saved) == number:
            path.write_bytes(path.read_bytes()[:500])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_half)
        with pytest.raises(Killed):
            fit(tmp_path / "killed")
    resumed, again = fit(tmp_path / "killed")
    assert same(resumed, whole)
    assert again == history


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    def fail(epoch: int) -> None:
        raise AssertionError(epoch)

    whole, history = fit(tmp_path)
    again, same_history = fit(tmp_path, within=fail)
    assert same(again, whole)
    assert same_history == history


NAN = math.nan


def judged(
    scratch: Path, scores: list[float], patience: int | None = None, later: bool = True
) -> tuple[Training, nn.Linear, list[int]]:
    """A training whose weight in epoch n, from 1, is n."""
    model, epochs = nn.Linear(1, 1), []
    training = Training("judged", scratch, {"model": model}, lambda line: None)
    for epoch in training.rounds(len(scores), patience=patience):
        epochs.append(epoch + 1)
        nn.init.constant_(model.weight, epoch + 1)
        training.history.append({"epoch": epoch + 1, "score": scores[epoch]})
        training.keep_best(scores[epoch], model, later)
    training.load_best(model)
    assert best_epoch(training.history, "score", later)["epoch"] == training.best
    return training, model, epochs


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.9, 0.5], 2),
        ([0.9, 0.5, 0.5], 1),
        ([0.5, 0.9, 0.9], 3),
        ([-3.0, -1.0, -2.0], 2),
        ([NAN, NAN, NAN], 3),
        ([0.9, NAN], 1),
        ([NAN, 0.9, 0.5], 2),
    ],
    ids=[
        "middle",
        "first",
        "last of equals",
        "negative",
        "none measured",
        "measured once",
        "unmeasured first",
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(scores: list[float], best: int, tmp_path: Path) -> None:
    training, model, _ = judged(tmp_path, scores)
    assert training.best == best
    assert model.weight.item() == best
    assert not model.training


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5, 0.9, 0.9], 2), ([0.5, 0.5, 0.5], 1), ([0.2, 0.1, 0.3], 3), ([NAN, NAN], 2)],
)
def test_of_equals_the_first_is_kept_where_that_is_asked_for(
    scores: list[float], best: int, tmp_path: Path
) -> None:
    assert judged(tmp_path, scores, later=False)[1].weight.item() == best


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (None, 7)])
def test_it_stops_after_so_many_epochs_without_a_better_score(
    patience: int | None, epochs: int, tmp_path: Path
) -> None:
    scores = [0.1, 0.3, 0.2, 0.4, 0.0, 0.1, 0.2]
    training, model, seen = judged(tmp_path, scores, patience)
    assert seen == list(range(1, epochs + 1))
    assert model.weight.item() == training.best == (2 if patience == 1 else 4)
    assert judged(tmp_path, scores, patience)[2] == []  # nor does it go on afterwards


def test_lines_come_every_few_seconds_and_at_the_end_with_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    said: list[str] = []
    training = Training("slow", tmp_path, {}, said.append)
    for _ in training.rounds(10, unit="step"):
        clock[0] += 2
        training.tell("loss 1")
    assert said == [f"slow: step {number}/10, loss 1, 0.5 steps/s" for number in (3, 6, 9, 10)]


def test_only_parameters_that_want_a_gradient_are_trainable() -> None:
    base, adapter = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)
    part = Trainable({"base": base, "adapter": adapter})
    state: dict[str, Tensor] = {name: value + 1 for name, value in part.state_dict().items()}
    assert set(state) == {"adapter.weight", "adapter.bias"}
    part.load_state_dict(state)
    assert adapter.weight.equal(state["adapter.weight"])


def test_every_group_has_a_learning_rate_of_its_own() -> None:
    groups = [{"params": nn.Linear(1, 1).parameters()} for _ in range(2)]
    optimizer = torch.optim.AdamW(groups)
    set_learning_rate(optimizer, 0.1, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    with pytest.raises(ValueError, match="zip"):
        set_learning_rate(optimizer, 0.1)
