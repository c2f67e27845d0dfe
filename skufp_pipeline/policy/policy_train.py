"""Trains the policy on labels (paper, Appendix E), then calibrates it and sets its gate.

The network trains on `train` queries. They are easier than those of new SKUs, because the encoder was trained
on them, so its outputs are calibrated on `development` queries. These also decide early stopping and whether
the gate is open, which constant action is the best, and whether the gate beats it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skufp_pipeline.datasets.table import DEVELOPMENT, TRAIN
from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_rows, used_queries
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.bootstrap import bootstrap_mean, paired_bootstrap
from skufp_pipeline.measures.metrics import calibration_error, reciprocal_rank
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.network import Calibration, Constant, Policy, PolicyNetwork, calibrated_gains
from skufp_pipeline.policy.quality import FEATURES
from skufp_pipeline.policy.settings import Act, ActionSettings, PolicyTrainingSettings
from skufp_pipeline.training.history import History
from skufp_pipeline.training.loop import Log, Part, RandomNumbers, Training

_LEAST_QUERIES = 20  # per role
_SHRINKAGE = 200.0  # weight of an offset of 0, in development queries
_RESAMPLES = 1000
_DECIMALS = 9  # to which mean reciprocal ranks are compared
_TEMPERATURES = np.exp(np.linspace(-2, 2, 81))


@dataclass(frozen=True)
class LabelledQueries:
    """Queries of one role: z (N, D + F), success and reciprocal rank (N, A) after each action, winner (N,),
    SKUs (N,)."""

    z: Tensor
    success: Tensor
    reciprocal_rank: NDArray[np.float64]
    winner: Tensor
    sku_ids: NDArray[np.str_]

    @property
    def gains(self) -> Tensor:
        """(N, A) success minus identity's."""
        return self.success - self.success[:, :1]

    @property
    def stakes(self) -> Tensor:
        """(N,) success of the best action minus the mean over all actions."""
        return self.success.amax(dim=1) - self.success.mean(dim=1)


def labelled(labels: pl.DataFrame, role: str, temperature: float) -> LabelledQueries:
    """The rows of a label table with this role.

    Success is the probability of the right SKU against its nearest rival, a sigmoid of the margin over
    `temperature`: unlike a margin it shows how near a query is to changing its answer.
    """
    rows = labels.filter(pl.col("role") == role)
    z = np.concatenate([embedding_rows(rows), embedding_rows(rows, "features")], axis=1)
    margins = torch.from_numpy(embedding_rows(rows, "margins"))
    winner = [ACTIONS.index(name) for name in rows["winner"]]
    return LabelledQueries(
        torch.from_numpy(z),
        torch.sigmoid(margins / temperature),
        reciprocal_rank(embedding_rows(rows, "ranks").astype(np.float64)),
        torch.tensor(winner, dtype=torch.long),
        rows["sku_id"].to_numpy().astype(str),
    )


def used_by_policy(labels: pl.DataFrame) -> pl.DataFrame:
    """`USED_SCHEMA` of all labelled queries."""
    rows = labels.with_columns(pl.col("role").alias("use"))
    return pl.concat(
        [used_queries(rows.filter(pl.col("role") == role), role) for role in (TRAIN, DEVELOPMENT)]
    ).select(*USED_SCHEMA)


def train_policy(
    labels: pl.DataFrame,
    actions: ActionSettings,
    settings: PolicyTrainingSettings,
    seed: int,
    scratch: Path,
    log: Log,
    act: Act = "gated",
) -> tuple[Policy, History, dict[str, float]]:
    """Trains and calibrates a policy, keeping the epoch with the lowest development loss.

    Returns it, the history of all epochs, and the calibration's figures on development queries; those of the
    best constant action are the policy's.

    Raises:
        TooLittleError: too few queries of either role.
    """
    train, held = (labelled(labels, role, settings.temperature) for role in (TRAIN, DEVELOPMENT))
    if min(len(train.z), len(held.z)) < _LEAST_QUERIES:
        raise TooLittleError(
            f"the policy needs {_LEAST_QUERIES} labelled queries of either role; found {len(train.z)} of "
            f"role train and {len(held.z)} of role development"
        )
    network, scale, history = _fit(train, held, settings, seed, scratch, log)
    calibration, constant, figures = calibrate(network, held, scale, settings.least_gain, seed)
    return Policy(network, calibration, actions, constant, act), history, figures


def _fit(
    train: LabelledQueries,
    held: LabelledQueries,
    settings: PolicyTrainingSettings,
    seed: int,
    scratch: Path,
    log: Log,
) -> tuple[PolicyNetwork, float, History]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = PolicyNetwork(train.z.shape[1] - len(FEATURES), settings.hidden, settings.dropout)
    network.standardize(train.z)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    scale = max(float(train.gains[:, 1:].std()), 1e-6)
    every = torch.arange(len(held.z))
    random = RandomNumbers(generator, torch.device("cpu"))
    parts: dict[str, Part] = {"network": network, "optimizer": optimizer, "random": random}
    training = Training("policy", scratch, parts, log)
    for epoch in training.rounds(settings.epochs, patience=settings.patience):
        network.train()
        order = torch.randperm(len(train.z), generator=generator)
        for rows in order.split(settings.batch_size):
            loss = policy_loss(network, train, rows, scale, settings.gain_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            development = float(policy_loss(network, held, every, scale, settings.gain_weight))
        row = {"epoch": epoch + 1, "loss": float(loss.detach()), "development_loss": development}
        training.history.append(row)
        training.keep_best(-development, network, later=False)
        training.tell(f"loss {row['loss']:.3f}, development loss {development:.3f}")
    training.load_best(network)
    log(f"policy: best of {training.done} epochs {training.best}")
    return network, scale, training.history


def policy_loss(
    network: PolicyNetwork, queries: LabelledQueries, rows: Tensor, scale: float, gain_weight: float
) -> Tensor:
    """Cross-entropy on the winner, weighted by the stakes, plus the squared error of the gains.

    `scale` divides the gains, so that the two terms are of similar size.
    """
    logits, gains = network(queries.z[rows])
    stakes = queries.stakes[rows]
    losses = F.cross_entropy(logits, queries.winner[rows], reduction="none")
    entropy = (stakes * losses).sum() / stakes.sum().clamp_min(1e-12)
    error = (gains - queries.gains[rows] / scale)[:, 1:].square().mean()
    return entropy + gain_weight * error


def calibrate(
    network: PolicyNetwork, held: LabelledQueries, scale: float, least_gain: float, seed: int
) -> tuple[Calibration, Constant, dict[str, float]]:
    """Fits temperature, slope and offsets to development queries, chooses the best constant action, and
    decides whether the gate is open.

    The gate is cross-validated: development SKUs are split in two parts, and each part is decided with the
    calibration of the other. It is open if the lower end of the gain's 95% interval over SKUs is above 0. The
    constant that it is compared with is that of both parts: a part alone may choose a worse one, which would
    flatter the gate.
    """
    with torch.inference_mode():
        logits, raw_gains = network(held.z)
    raw, gains, winner = raw_gains.numpy(), held.gains.numpy(), held.winner.numpy()
    half = np.array([stable_hash(sku_id, "vla-gate") % 2 for sku_id in held.sku_ids])
    realised = np.zeros(len(raw))
    for part in (0, 1):
        fit, test = half != part, half == part
        expected = calibrated_gains(raw[test], _gain_calibration(raw[fit], gains[fit], scale))
        taken = np.where(expected.max(axis=1) > least_gain, expected.argmax(axis=1), 0)
        realised[test] = gains[test, taken]
    gain = bootstrap_mean(realised, held.sku_ids, _RESAMPLES, seed)
    temperature = best_temperature(logits, held.winner)
    fitted, is_open = _gain_calibration(raw, gains, scale), gain.low > 0
    mrr, best = held.reciprocal_rank.mean(axis=0), best_constant(held.reciprocal_rank)
    acted = realised if is_open else np.zeros_like(realised)
    over = paired_bootstrap(acted, gains[:, best], held.sku_ids, _RESAMPLES, seed)
    compared = (over.delta, over.low, over.high, is_open and over.low > 0)
    constant = Constant(ACTIONS[best], len(raw), float(mrr[best]), float(mrr[0]), *compared)
    calibration = replace(fitted, temperature=temperature, least_gain=least_gain, is_open=is_open)
    figures = {
        "gate_gain": gain.mean,
        "gate_gain_low": gain.low,
        "gate_gain_high": gain.high,
        "calibration_error": calibration_error((logits / temperature).softmax(dim=1).numpy(), winner),
        "calibration_error_before": calibration_error(logits.softmax(dim=1).numpy(), winner),
    }
    return calibration, constant, figures


def best_constant(reciprocal_ranks: NDArray[np.float64]) -> int:
    """Index of the action with the highest mean of (N, A), N > 0; the first on ties, so identity among them.

    >>> best_constant(np.array([[0.5, 1.0, 0.5], [0.5, 0.0, 0.5]]))
    0
    """
    return int(reciprocal_ranks.mean(axis=0).round(_DECIMALS).argmax())


def _gain_calibration(raw: NDArray, gains: NDArray, scale: float) -> Calibration:
    """Least squares of the gains on the network's: one slope, and an offset per action, shrunk to 0."""
    expected, realised = scale * raw[:, 1:], gains[:, 1:]
    centred, target = expected - expected.mean(axis=0), realised - realised.mean(axis=0)
    slope = float(np.clip((centred * target).sum() / max((centred**2).sum(), 1e-12), 0, 1))
    offsets = (realised - slope * expected).mean(axis=0) * len(raw) / (len(raw) + _SHRINKAGE)
    return Calibration(slope=slope, offsets=(0.0, *(float(value) for value in offsets)), scale=scale)


def best_temperature(logits: Tensor, winner: Tensor) -> float:
    """The divisor of the logits with the lowest negative log-likelihood (Guo et al., 2017)."""
    losses = [float(F.cross_entropy(logits / temperature, winner)) for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])
