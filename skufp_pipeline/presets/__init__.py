"""A preset: the whole configuration of one graph, a YAML file loaded into typed classes.

`demo.yaml`, `ci.yaml`, `photos.yaml` and `df2.yaml` beside this file differ in configuration only. A value
may name an environment variable, `${NAME}` or `${NAME:-default}`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.crops import CropSettings
from skufp_pipeline.datasets.prompts import PromptSettings
from skufp_pipeline.datasets.sources import Dataset
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.encoders.settings import EncoderSettings, QueryEncoderSettings, ReidSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.settings import EvaluationSettings
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.policy.settings import PolicySettings
from skufp_pipeline.settings import Settings
from skufp_pipeline.views.settings import ViewsSettings

PACKAGED = Path(__file__).parent
YOURS = Path("presets")  # below the working directory
PRESET_VARIABLE = "SKUFP_PRESET"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class ComputeSettings(Settings):
    """What the machine offers, and what an asset asks an executor for."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus: int = Field(0, ge=0)  # GPUs that each GPU asset asks Kubernetes or Ray for
    cores: float = Field(2, gt=0)  # CPU cores that each heavy asset asks for
    memory_gib: float = Field(4, gt=0)
    executor: Literal["in_process", "multiprocess", "ray", "k8s"] = "multiprocess"  # of runs from the UI
    max_concurrent: int = Field(2, ge=1)  # steps of one run at once
    threads: int | None = Field(None, ge=1)  # of torch in a step with an encoder or diffusion; null: all
    pools: dict[str, Annotated[int, Field(ge=1)]] = {"gpu": 1}  # steps of all runs at once, by pool

    @property
    def network_needs(self) -> Needs:
        """Of a step that trains or asks an encoder or a diffusion model."""
        return Needs(self.cores, self.memory_gib, self.gpus, self.threads)

    @property
    def side_by_side(self) -> bool:
        """Whether the command line makes several runs at once: threads that nobody limits get in each
        other's way."""
        limited = self.threads is not None and self.gpus == 0
        return limited and self.executor == "multiprocess" and self.max_concurrent > 1


class BaselineSettings(Settings):
    """What the report compares with, beside what comes with the encoder (Baselines 2 and 3)."""

    reid: ReidSettings | None = None  # Baseline 1; null leaves it out


class AutomationSettings(Settings):
    """What runs by itself while `dagster-daemon` runs (`dg dev` starts one)."""

    running: bool = False  # whether schedules and the drop folder's sensor are on before anyone turns them on
    daily: str = "0 3 * * *"  # cron: new, changed and removed products into the index, without training
    weekly: str = "0 4 * * 0"  # cron: training again, where the catalogue has changed, and the report
    timezone: str = "UTC"
    drop_folder: str | None = None  # new files in it start what `daily` starts
    index_fresh_hours: float = Field(26, gt=0)  # after which the index counts as overdue
    webhook: str | None = None  # http(s) address that is sent a JSON message when a run fails


class Preset(Settings):
    """All the configuration of one graph."""

    name: str
    seed: int = Field(17, ge=0)
    data_root: str  # a local path or an fsspec URL
    shards: int = Field(8, ge=1, le=1000)
    dataset: Dataset
    splits: SplitSettings = SplitSettings()
    crops: CropSettings = CropSettings()
    prompts: PromptSettings = PromptSettings()
    encoder: EncoderSettings
    baselines: BaselineSettings = BaselineSettings()
    views: ViewsSettings | None = None  # generated views; null leaves the stage out
    fingerprint: FingerprintSettings = FingerprintSettings()
    policy: PolicySettings | None = None  # what is done to a query's photo; null leaves photos as they are
    evaluation: EvaluationSettings = EvaluationSettings()
    query_encoder: QueryEncoderSettings = QueryEncoderSettings()
    kept_index_versions: int = Field(3, ge=1)
    index_picture_side: int | None = Field(256, ge=16)  # pixels of the pictures kept with it; null: none
    index_segment_rows: int = Field(10_000_000, ge=1)  # rows that are in memory at once while it is built
    compute: ComputeSettings = ComputeSettings()
    automation: AutomationSettings = AutomationSettings()


def load_preset(name: str | None = None) -> Preset:
    """The preset at this path, of this name in `presets/` here, or of the package; `$SKUFP_PRESET` or `demo`
    by default.

    >>> load_preset("df2").encoder.model
    'ViT-B-32'

    Raises:
        UserError: no such preset, broken YAML, an unset variable, an unknown key or a bad value.
    """
    name = name or os.environ.get(PRESET_VARIABLE) or "demo"
    path = _preset_path(name)
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    try:
        return Preset.model_validate(_expand(raw, path, ""))
    except ValidationError as error:
        raise UserError(f"{path}: {_problems(error)}") from error


def another_rendering(preset: Preset, seed: int, root: Path, num_skus: int | None = None) -> Preset:
    """`preset` over another rendering of the sample, with data of its own: where settings are chosen.

    Raises:
        UserError: the preset renders no sample.
    """
    dataset = preset.dataset.another_rendering(seed, num_skus)
    if dataset is None:
        raise UserError(f"preset {preset.name} renders no sample; expected one of `source: sample`")
    return preset.model_copy(update={"dataset": dataset, "data_root": str(root)})


def _preset_path(name: str) -> Path:
    candidates = [Path(name), YOURS / f"{name}.yaml", PACKAGED / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    known = {path.stem for folder in (YOURS, PACKAGED) for path in folder.glob("*.yaml")}
    raise UserError(f"no preset {name!r}: expected a YAML file or one of {', '.join(sorted(known))}")


def _expand(value: Any, path: Path, key: str) -> Any:
    """`value` with `${NAME}` replaced in every string."""
    if isinstance(value, dict):
        return {
            name: _expand(inner, path, f"{key}.{name}" if key else str(name)) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_expand(inner, path, key) for inner in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise UserError(
                f"{path}: {key} needs the environment variable {match[1]}; set it, or edit the preset"
            )
        return found

    return _VARIABLE.sub(replacement, value)


def _problems(error: ValidationError) -> str:
    """Pydantic's findings, one a line, in a user's words."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{where}: {reason}")
    return "; ".join(lines)
