"""The policy: predicts which action a photo needs and whether it is worth taking (paper, Appendix E).

A small network maps z, the photo's embedding and its quality features, to the probability that each action is
the best, as in the paper, and to each action's expected gain. The gate takes the action with the largest
expected gain, or none if that gain does not exceed the minimum. Beside the network stands the best constant:
the one action that is best for all development photos.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skufp_pipeline.errors import UserError
from skufp_pipeline.policy.actions import ACTIONS, IDENTITY
from skufp_pipeline.policy.quality import FEATURES
from skufp_pipeline.policy.settings import Act, ActionSettings

WEIGHTS_FILE, CONFIG_FILE = "policy.safetensors", "policy.json"


class PolicyNetwork(nn.Module):
    """Maps z (B, D + F) to a logit and a gain per action; `dimension` is D, `hidden` the number of units."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dimension: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        width = dimension + len(FEATURES)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.trunk = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout))
        self.winner = nn.Linear(hidden, len(ACTIONS))
        self.gain = nn.Linear(hidden, len(ACTIONS) - 1)

    def standardize(self, z: Tensor) -> None:
        """Sets the mean and deviation of the inputs to those of `z` (N, D + F)."""
        self.mean.copy_(z.mean(dim=0))
        self.deviation.copy_(z.std(dim=0, unbiased=False).clamp_min(1e-6))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A), and gains over identity (B, A) with 0 for identity itself, of `z` (B, D + F)."""
        hidden = self.trunk((z - self.mean) / self.deviation)
        return self.winner(hidden), nn.functional.pad(self.gain(hidden), (1, 0))


@dataclass(frozen=True)
class Calibration:
    """Maps the network's outputs to probabilities and gains; fitted on development queries.

    Attributes:
        temperature: divides the logits.
        slope, offsets: of the gains; offsets are (A,), identity's is 0.
        scale: gain that one unit of the network's output stands for.
        least_gain: an action is taken only above this expected gain.
        is_open: False where the gate's gain on development queries was not certain: then no action is taken.
    """

    temperature: float = 1.0
    slope: float = 1.0
    offsets: tuple[float, ...] = (0.0,) * len(ACTIONS)
    scale: float = 1.0
    least_gain: float = 0.0
    is_open: bool = True


@dataclass(frozen=True)
class Constant:
    """The best single action for all photos, chosen on development photos, and the gate compared with it.

    Attributes:
        action: the action of the highest mean reciprocal rank; identity if it ties.
        queries: number of development photos.
        mrr: mean reciprocal rank on them after the action.
        mrr_off: the same without an action.
        gate_gain, gate_low, gate_high: what the gate gains over the constant, in probability of finding the
            right SKU first, with its 95% interval; a shut gate takes no action. The gate is cross-fitted, the
            constant is not, so that a gate is said to beat it too seldom rather than too often.
        is_beaten: whether the gate is open, so that it beats doing nothing, and that interval lies above 0.
    """

    action: str
    queries: int
    mrr: float
    mrr_off: float
    gate_gain: float
    gate_low: float
    gate_high: float
    is_beaten: bool

    @property
    def index(self) -> int:
        """Position of the action in `ACTIONS`."""
        return ACTIONS.index(self.action)

    def summary(self) -> dict[str, Any]:
        """The figures and the verdict, named for the summary of a checkpoint."""
        verdict = "beats" if self.is_beaten else "does not beat"
        always = "doing nothing" if self.action == IDENTITY else f"{self.action} always"
        return {
            "constant": self.action,
            "constant_mrr": self.mrr,
            "off_mrr": self.mrr_off,
            "gated_over_constant": self.gate_gain,
            "gated_over_constant_low": self.gate_low,
            "gated_over_constant_high": self.gate_high,
            "verdict": f"gated {verdict} {always}",
        }


@dataclass(frozen=True)
class Decisions:
    """The policy's output for B photos.

    Attributes:
        probabilities: (B, A) that an action is the best.
        gains: (B, A) expected over identity, in probability of finding the right SKU first.
        likeliest: (B,) the most probable action: the paper's policy.
        gated: (B,) the action that the gate takes.
        constant: (B,) the best constant action.
    """

    probabilities: NDArray[np.float32]
    gains: NDArray[np.float32]
    likeliest: NDArray[np.int64]
    gated: NDArray[np.int64]
    constant: NDArray[np.int64]


class Policy:
    """A trained network, its calibration, and the settings of the actions that it was trained for.

    `constant` is the best constant action beside it, None in a policy saved before there was any; `act` says
    whether a search takes that action or the gate's.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        calibration: Calibration,
        actions: ActionSettings,
        constant: Constant | None = None,
        act: Act = "gated",
    ) -> None:
        self.network = network.eval()
        self.calibration = calibration
        self.actions = actions
        self.constant = constant
        self.act = act

    @property
    def always(self) -> str | None:
        """The action that a search takes on every photo; None if the gate chooses."""
        return None if self.act == "gated" else self.known_constant.action

    @property
    def known_constant(self) -> Constant:
        """The best constant action; raises UserError if the policy was saved without it."""
        if self.constant is None:
            raise UserError("the policy knows no constant action; materialize vla_checkpoint again")
        return self.constant

    @torch.inference_mode()
    def decide(self, embeddings: NDArray[np.float32], features: NDArray[np.float32]) -> Decisions:
        """Decisions for photos with these embeddings (B, D) and quality features (B, F)."""
        z = torch.from_numpy(np.concatenate([embeddings, features], axis=1))
        logits, raw = self.network(z)
        probabilities = (logits / self.calibration.temperature).softmax(dim=1).numpy()
        gains = calibrated_gains(raw.numpy(), self.calibration)
        best = gains.argmax(axis=1)
        is_taken = (gains.max(axis=1) > self.calibration.least_gain) & self.calibration.is_open
        constant = np.full(len(best), 0 if self.constant is None else self.constant.index)
        gated = np.where(is_taken, best, 0)
        return Decisions(probabilities, gains, probabilities.argmax(axis=1), gated, constant)

    def example(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Dummy inputs of `decide` for one photo, for warming up."""
        width = len(self.network.mean) - len(FEATURES)
        return np.zeros((1, width), np.float32), np.zeros((1, len(FEATURES)), np.float32)

    def save(self, directory: Path) -> None:
        """Writes the weights as safetensors and the configuration that rebuilds the policy."""
        save_file(self.network.state_dict(), directory / WEIGHTS_FILE)
        hidden = self.network.winner.in_features
        config = {
            "dimension": len(self.network.mean) - len(FEATURES),
            "hidden": hidden,
            "features": FEATURES,
            "action_names": ACTIONS,
            "actions": self.actions.model_dump(),
            "calibration": asdict(self.calibration),
            "constant": None if self.constant is None else asdict(self.constant),
            "act": self.act,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")


def calibrated_gains(raw: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """(B, A) gains from the network's raw ones; identity's stays 0."""
    offsets = np.array(calibration.offsets, dtype=np.float32)
    return np.asarray(calibration.slope * calibration.scale * raw + offsets, dtype=np.float32)


def load_policy(directory: Path) -> Policy:
    """Loads the policy that `Policy.save` wrote.

    Raises:
        UserError: a file is missing or damaged, or it was made for other actions or features.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        if (config["action_names"], config["features"]) != (list(ACTIONS), list(FEATURES)):
            raise UserError(
                f"the policy in {directory} knows other actions or features; materialize vla_labels"
            )
        network = PolicyNetwork(config["dimension"], config["hidden"])
        network.load_state_dict(load_file(directory / WEIGHTS_FILE))
        calibration = Calibration(
            **{**config["calibration"], "offsets": tuple(config["calibration"]["offsets"])}
        )
        actions = ActionSettings(**config["actions"])
        return Policy(network, calibration, actions, *_constant(config))
    except UserError:
        raise
    except Exception as error:  # json, pydantic, torch and safetensors raise many types
        raise UserError(
            f"the policy in {directory} can't be read ({error}); materialize vla_checkpoint again"
        ) from error


def _constant(config: Mapping[str, Any]) -> tuple[Constant | None, Act]:
    """The best constant action and `act`; policies saved before there were any have neither."""
    saved = config.get("constant")
    return None if saved is None else Constant(**saved), config.get("act", "gated")
