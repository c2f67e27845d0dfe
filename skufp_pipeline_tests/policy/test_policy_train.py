"""The policy learns what can be learnt, stays shut where nothing can, and is the same from one seed."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.metrics import calibration_error
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.network import CONFIG_FILE, WEIGHTS_FILE, Policy, PolicyNetwork, load_policy
from skufp_pipeline.policy.policy_train import (
    best_constant,
    best_temperature,
    calibrate,
    labelled,
    policy_loss,
    train_policy,
    used_by_policy,
)
from skufp_pipeline.policy.settings import ActionSettings, PolicyTrainingSettings

from .examples import chance_decides, labels, sharpen_helps, sharpen_helps_all

SETTINGS = PolicyTrainingSettings(epochs=30, hidden=16, batch_size=64, learning_rate=1e-2, dropout=0)
SHARPEN = ACTIONS.index("sharpen")


def trained(
    table: pl.DataFrame, seed: int = 0, act: Any = "gated", **changes: float
) -> tuple[Policy, dict[str, float]]:
    settings = SETTINGS.model_copy(update=changes)
    with TemporaryDirectory() as scratch:
        policy, _, figures = train_policy(
            table, ActionSettings(), settings, seed, Path(scratch), lambda line: None, act
        )
    return policy, figures


def inputs(table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return table["embedding"].to_numpy().astype(np.float32), table["features"].to_numpy().astype(np.float32)


def test_an_action_that_helps_some_photos_is_taken_on_those_and_on_no_other() -> None:
    table = labels(sharpen_helps, (1000, 300))
    policy, figures = trained(table)
    held = table.filter(pl.col("role") == "development")
    decisions = policy.decide(*inputs(held))
    helps = inputs(held)[1][:, 0] > 0.3
    harms = inputs(held)[1][:, 0] < -0.3
    assert (decisions.gated[helps] == SHARPEN).mean() > 0.95
    assert (decisions.gated[harms] == 0).mean() > 0.95
    assert (decisions.likeliest[helps] == SHARPEN).mean() > 0.95
    assert policy.calibration.is_open
    assert figures["gate_gain_low"] > 0


def test_where_nothing_can_be_learnt_the_gate_stays_shut() -> None:
    table = labels(chance_decides)
    policy, figures = trained(table)
    assert not policy.calibration.is_open
    assert figures["gate_gain_low"] <= 0
    decisions = policy.decide(*inputs(table))
    assert (decisions.gated == 0).all()
    assert (decisions.likeliest != 0).any(), "the paper's policy acts all the same"
    assert not policy.known_constant.is_beaten, "doing nothing is a constant too"


def test_the_best_constant_is_the_action_of_the_highest_mean_reciprocal_rank() -> None:
    assert best_constant(np.array([[1, 0.5, 1 / 3], [0.25, 1, 1]])) == 1
    assert best_constant(np.array([[0.5, 1, 0.5], [0.5, 0, 0.5]])) == 0, "identity wins a tie"


def test_a_gate_that_has_learnt_one_action_does_not_beat_that_action() -> None:
    table = labels(sharpen_helps_all, (1000, 300))
    policy, figures = trained(table)
    constant = policy.known_constant
    held = table.filter(pl.col("role") == "development")
    assert policy.calibration.is_open
    assert figures["gate_gain_low"] > 0, "it pays against doing nothing"
    assert (constant.action, constant.queries) == ("sharpen", 300)
    assert constant.mrr == (1 / held["ranks"].to_numpy()[:, SHARPEN]).mean() > constant.mrr_off == 0.5
    assert not constant.is_beaten
    assert constant.summary()["verdict"] == "gated does not beat sharpen always"


def test_a_gate_that_knows_when_to_act_beats_every_constant() -> None:
    constant = trained(labels(sharpen_helps, (1000, 300)))[0].known_constant
    assert constant.is_beaten
    assert 0 < constant.gate_low < constant.gate_gain < constant.gate_high
    assert constant.summary()["verdict"] == "gated beats sharpen always"


def test_train_photos_have_no_say_in_the_constant() -> None:
    table = labels(sharpen_helps)
    every = np.ones((table.height, len(ACTIONS)), np.int32)
    every[:, 1:] += (table["role"] == "development").to_numpy()[:, None]
    ranks = pl.Series("ranks", every, dtype=table.schema["ranks"])
    ranked = trained(table.with_columns(ranks))[0].known_constant
    assert (ranked.action, ranked.mrr) == ("identity", 1.0)
    assert ranked.summary()["verdict"].endswith("doing nothing")


def test_a_search_takes_the_gates_action_unless_the_constant_is_asked_for(tmp_path) -> None:
    table = labels(sharpen_helps)
    for act, action in (("gated", None), ("constant", "sharpen")):
        (tmp_path / act).mkdir()
        policy, _ = trained(table, act=act)
        policy.save(tmp_path / act)
        assert policy.always == load_policy(tmp_path / act).always == action


def test_a_policy_that_was_saved_without_a_constant_still_acts(tmp_path) -> None:
    policy, _ = trained(labels(sharpen_helps))
    policy.save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    del config["constant"], config["act"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    old = load_policy(tmp_path)
    assert old.always is None
    assert (old.decide(*policy.example()).gated == policy.decide(*policy.example()).gated).all()
    with pytest.raises(UserError, match="knows no constant action; materialize vla_checkpoint again"):
        _ = old.known_constant


def test_a_gain_that_is_asked_for_keeps_the_policy_from_acting_for_less() -> None:
    table = labels(sharpen_helps)
    expected = trained(table)[0].decide(*inputs(table)).gains.max(axis=1)
    asked = float(np.median(expected))
    taken = trained(table, least_gain=asked)[0].decide(*inputs(table)).gated
    assert ((taken > 0) == (expected > asked)).all()


def test_outputs_are_probabilities_and_gains_over_identity() -> None:
    table = labels(sharpen_helps)
    decisions = trained(table)[0].decide(*inputs(table))
    assert decisions.probabilities.sum(axis=1) == pytest.approx(np.ones(table.height), abs=1e-5)
    assert (decisions.gains[:, 0] == 0).all()
    assert np.abs(decisions.gains).max() < 1


def test_one_seed_gives_the_same_files_and_another_seed_others(tmp_path) -> None:
    table = labels(sharpen_helps)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / name).mkdir()
        trained(table, seed)[0].save(tmp_path / name)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / WEIGHTS_FILE).read_bytes() != (tmp_path / "three" / WEIGHTS_FILE).read_bytes()


def test_a_saved_policy_decides_as_before(tmp_path) -> None:
    table = labels(sharpen_helps)
    policy, _ = trained(table)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert again.calibration == policy.calibration
    assert again.actions == policy.actions
    assert again.constant == policy.constant is not None
    for first, second in zip(
        vars(policy.decide(*inputs(table))).values(), vars(again.decide(*inputs(table))).values(), strict=True
    ):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_damaged_policy_is_told(tmp_path, file: str) -> None:
    trained(labels(sharpen_helps))[0].save(tmp_path)
    (tmp_path / file).write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read"):
        load_policy(tmp_path)


def test_a_policy_for_other_actions_is_refused(tmp_path) -> None:
    trained(labels(sharpen_helps))[0].save(tmp_path)
    config = (tmp_path / CONFIG_FILE).read_text()
    (tmp_path / CONFIG_FILE).write_text(config.replace('"sharpen",', '"deblur",', 1))
    with pytest.raises(UserError, match="knows other actions or features"):
        load_policy(tmp_path)


@pytest.mark.parametrize("counts", [(0, 100), (100, 0), (19, 100), (100, 19)])
def test_too_few_queries_are_told(counts: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="needs 20 labelled queries of either role"):
        trained(labels(sharpen_helps, counts))


def test_the_loss_is_that_of_the_obvious_loop() -> None:
    queries = labelled(labels(sharpen_helps), "train", temperature=0.05)
    torch.manual_seed(0)
    network = PolicyNetwork(4, 8).eval()
    rows = torch.arange(5)
    with torch.inference_mode():
        logits, gains = network(queries.z[rows])
        found = policy_loss(network, queries, rows, scale=0.2, gain_weight=0.5)
    entropy, stakes, error = 0.0, 0.0, []
    for row in range(5):
        success = queries.success[row]
        stake = float(success.max() - success.mean())
        entropy += stake * -float(F.log_softmax(logits[row], dim=0)[queries.winner[row]])
        stakes += stake
        error += [(float(gains[row, a]) - float(success[a] - success[0]) / 0.2) ** 2 for a in range(1, 7)]
    assert float(found) == pytest.approx(entropy / stakes + 0.5 * np.mean(error), rel=1e-5)


def test_success_is_even_where_the_right_sku_draws_with_its_rival() -> None:
    queries = labelled(labels(sharpen_helps), "development", temperature=0.05)
    assert len(queries.z) == 120
    assert (queries.success[:, 0] == 0.5).all(), "identity's margin is 0"
    assert queries.gains[:, 0].abs().max() == 0


def test_temperature_brings_too_certain_probabilities_down() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((4000, 7)))
    winner = torch.multinomial(logits.softmax(dim=1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert best_temperature(3 * logits, winner) == pytest.approx(3, rel=0.1)
    before, after = (
        calibration_error((scaled).softmax(dim=1).numpy(), winner.numpy()) for scaled in (3 * logits, logits)
    )
    assert after < 0.05 < before


def test_calibration_takes_back_what_training_queries_promised_too_much() -> None:
    held = labelled(labels(sharpen_helps), "development", temperature=0.05)

    class Boaster(torch.nn.Module):
        """Expects five times the gains that there are."""

        def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(z), len(ACTIONS)), 5 * held.gains

    calibration, _, figures = calibrate(Boaster(), held, scale=1.0, least_gain=0.0, seed=0)  # type: ignore[arg-type]
    assert calibration.slope == pytest.approx(0.2, abs=0.01)
    # Half of the photos are helped, from even odds to those of a margin of 2 temperatures.
    assert figures["gate_gain"] == pytest.approx(0.5 * (1 / (1 + np.exp(-2)) - 0.5), abs=0.04)


def test_used_queries_are_all_that_were_labelled() -> None:
    table = labels(sharpen_helps)
    used = used_by_policy(table)
    assert set(used["query_id"]) == set(table["query_id"])
    assert (used["role"] == used["use"]).all()
