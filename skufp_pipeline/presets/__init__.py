"""Presets: the configuration of a graph, loaded from a YAML file into typed classes.

Packaged presets are `demo`, `ci`, `shop`, `photos`, `df2`, `street2shop`, `street2shop-mini`, `lens` and
`lens-full`. Values may refer to environment variables as `${NAME}` or `${NAME:-default}`.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from skufp_pipeline.artifacts.places import ENCODER
from skufp_pipeline.camera.settings import SyntheticSettings
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.crops import CropSettings
from skufp_pipeline.datasets.prompts import PromptSettings
from skufp_pipeline.datasets.sources import Dataset
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.encoders.settings import (
    EncoderSettings,
    LookTwiceSettings,
    QueryEncoderSettings,
)
from skufp_pipeline.encoders.stage_settings import MultiStageSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.settings import EvaluationSettings, LensSettings
from skufp_pipeline.extractors.settings import ExtractorsSettings
from skufp_pipeline.fingerprint.settings import FingerprintSettings
from skufp_pipeline.policy.settings import PolicySettings
from skufp_pipeline.query.settings import ConfidenceSettings
from skufp_pipeline.search.settings import ImageIndexSettings, SearchSettings
from skufp_pipeline.search.versions import FINGERPRINTS
from skufp_pipeline.serving.settings import ServingSettings
from skufp_pipeline.settings import Settings
from skufp_pipeline.views.settings import ViewsSettings

PACKAGED = Path(__file__).parent
YOURS = Path("presets")  # relative to the working directory
PRESET_VARIABLE = "SKUFP_PRESET"
_CRON_FIELDS = (  # numbers and names of minute, hour, day, month and weekday
    r"[1-5]?\d",
    r"1?\d|2[0-3]",
    r"[1-9]|[12]\d|3[01]",
    r"[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec",
    r"[0-7]|sun|mon|tue|wed|thu|fri|sat",
)
_CRON_PARTS = [rf"(?:\*|(?:{value})(?:-(?:{value}))?)(?:/[1-9]\d?)?" for value in _CRON_FIELDS]
_CRON = re.compile(r"\s+".join(f"{part}(?:,{part})*" for part in _CRON_PARTS), re.IGNORECASE)
# What only a graph of fingerprints is made of.
_OF_FINGERPRINTS = (
    *("encoder", "look_twice", "views", "fingerprint", "policy", "detector", "confidence", "multi_stage"),
    "query_encoder",
)
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class ComputeSettings(Settings):
    """Compute resources: device, executor, and what assets request."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus: int = Field(0, ge=0)  # GPUs that each GPU asset requests from Kubernetes or Ray
    cores: float = Field(2, gt=0)  # CPU cores that each heavy asset requests
    memory_gib: float = Field(4, gt=0)
    executor: Literal["in_process", "multiprocess", "ray", "k8s"] = "multiprocess"  # for runs from the UI
    max_concurrent: int = Field(2, ge=1)  # steps of one run at once
    threads: int | None = Field(None, ge=1)  # torch threads of a step with an encoder or diffusion; null: all
    pools: dict[str, Annotated[int, Field(ge=1)]] = {"gpu": 1}  # concurrent steps of all runs, by pool

    @property
    def network_needs(self) -> Needs:
        """Needs of a step that trains or runs an encoder or a diffusion model."""
        return Needs(self.cores, self.memory_gib, self.gpus, self.threads)

    @property
    def side_by_side(self) -> bool:
        """Whether the command line executes runs in parallel; without a thread limit they would compete."""
        limited = self.threads is not None and self.gpus == 0
        return limited and self.executor == "multiprocess" and self.max_concurrent > 1


class AutomationSettings(Settings):
    """Schedules and sensors; they need a running `dagster-daemon` (`dg dev` starts one)."""

    running: bool = False  # initial state of schedules and the drop folder sensor
    daily: str = "0 3 * * *"  # cron: new, changed and removed products into the index, without training
    weekly: str = "0 4 * * 0"  # cron: training again, where the catalogue has changed, and the report
    timezone: str = "UTC"
    drop_folder: str | None = None  # new files in it start a daily refresh
    index_fresh_hours: float = Field(26, gt=0)  # the index is overdue after this
    webhook: str | None = None  # http(s) address that is sent a JSON message when a run fails

    @field_validator("daily", "weekly")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if not _CRON.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no cron schedule; expected five fields, such as '0 3 * * *'")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            (nearest, *_) = [*get_close_matches(value, sorted(available_timezones()), n=1), "Europe/Paris"]
            raise ValueError(f"{value!r} is no timezone; expected one such as {nearest}")
        return value

    @field_validator("webhook")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is not None:
            address = urlsplit(value)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError(f"{value!r} is no web address; expected https://HOST/PATH")
        return value

    @field_validator("drop_folder")
    @classmethod
    def _is_no_file(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or Path(value).is_file()):
            raise ValueError(f"{value!r} is no folder")
        return value


class Preset(Settings):
    """The configuration of one graph."""

    name: str
    seed: int = Field(17, ge=0)
    data_root: str  # a local path or an fsspec URL
    shards: int = Field(8, ge=1, le=1000)
    # pictures: no encoder of texts and no fingerprints, only extractors and their indexes
    graph: Literal["fingerprints", "pictures"] = "fingerprints"
    dataset: Dataset
    splits: SplitSettings = SplitSettings()
    crops: CropSettings = CropSettings()
    prompts: PromptSettings = PromptSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    encoder: EncoderSettings = EncoderSettings(model="")  # of a graph of fingerprints, which needs one
    look_twice: LookTwiceSettings | None = None  # re-ranking of the best SKUs by patches; null: none
    extractors: ExtractorsSettings = ExtractorsSettings()  # image towers with losses of their own
    views: ViewsSettings | None = None  # generated views; null omits the stage
    fingerprint: FingerprintSettings = FingerprintSettings()
    policy: PolicySettings | None = None  # processing of query photos; null leaves them unchanged
    # finds the items of a query photo; null: it is searched as a whole
    detector: DetectorSettings | None = None
    confidence: ConfidenceSettings | None = None  # verdicts on answers to photos; null: none are given
    evaluation: EvaluationSettings = EvaluationSettings()
    lens: LensSettings | None = None  # cross-validated comparison of the extractors; null: none
    query_encoder: QueryEncoderSettings = QueryEncoderSettings()
    search: SearchSettings = SearchSettings()
    image_index: ImageIndexSettings | None = None  # indexes of one row per picture; null: none
    multi_stage: MultiStageSettings | None = None  # what follows the search in one of them; null: nothing
    # an index of the encoder's own vectors, before fingerprints are trained, also where it is not pretrained
    first_index: bool = False
    kept_index_versions: int = Field(3, ge=1)
    index_picture_side: int | None = Field(256, ge=16)  # thumbnail size, pixels; null: no thumbnails
    index_segment_rows: int = Field(10_000_000, ge=1)  # rows in memory at once during the build
    index_update_rows: int | None = Field(1_000_000, ge=1)  # SKUs from which versions share files
    compute: ComputeSettings = ComputeSettings()
    automation: AutomationSettings = AutomationSettings()
    serving: ServingSettings = ServingSettings()

    @property
    def calibrates_on_synthetic(self) -> bool:
        """Whether synthetic photos calibrate the verdicts where customers' are too few."""
        photos = self.synthetic.photos
        return self.confidence is not None and photos is not None and photos.development > 0

    @property
    def usual_index(self) -> str:
        """The index that is asked where none is named."""
        return FINGERPRINTS if self.graph == "fingerprints" else self.serving.indexes[0]

    @model_validator(mode="after")
    def _graph_has_what_it_is_made_of(self) -> Self:
        indexed, fields = self.image_index.of if self.image_index else [], type(self).model_fields
        if self.graph == "fingerprints":
            if not self.encoder.model:
                raise ValueError("encoder is missing; expected its model, such as `model: ViT-B-32`")
            return self
        idle = [name for name in _OF_FINGERPRINTS if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(f"graph: pictures has no {', '.join(idle)}; leave it out, or the line `graph`")
        if not indexed or ENCODER in indexed:
            raise ValueError("graph: pictures needs image_index.of, extractors to search with")
        if unknown := sorted(set(self.serving.indexes) - set(indexed)):
            raise ValueError(f"serving.indexes names {unknown[0]!r}; expected some of {', '.join(indexed)}")
        return self

    @model_validator(mode="after")
    def _lens_has_photos(self) -> Self:
        photos = self.synthetic.photos
        if self.lens is not None and (photos is None or photos.evaluation < 1):
            raise ValueError("lens asks synthetic photos; set synthetic.photos.evaluation")
        return self

    @model_validator(mode="after")
    def _indexed_pictures_are_embedded(self) -> Self:
        known = [ENCODER, *self.extractors.wanted()]
        wanted = self.image_index.of if self.image_index else []
        unknown = sorted(set(wanted) - set(known))
        if unknown or len(set(wanted)) < len(wanted):
            problem = f"names {unknown[0]!r}" if unknown else "names one twice"
            raise ValueError(f"image_index.of {problem}; expected some of {', '.join(known)}, each once")
        return self

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> Self:
        stages = self.multi_stage
        if stages is None:
            return self
        indexed = self.image_index.of if self.image_index else []
        if stages.index not in indexed:
            raise ValueError(
                f"multi_stage.index is {stages.index!r}; expected one of image_index.of: "
                f"{', '.join(indexed) or 'there is none'}"
            )
        if stages.captions is not None and self.prompts.captions is None:
            raise ValueError("multi_stage.captions needs prompts.captions, the model that captions photos")
        reranker = stages.rerank.extractor if stages.rerank else None
        others = [name for name in self.extractors.wanted() if name != stages.index]
        if reranker is not None and reranker not in others:
            raise ValueError(
                f"multi_stage.rerank.extractor is {reranker!r}; expected another extractor than the index's: "
                f"{', '.join(others) or 'there is none'}"
            )
        if stages.boxes == "merge" and self.detector is None:
            raise ValueError("multi_stage.boxes: merge needs a detector, which finds the items of a photo")
        return self

    @model_validator(mode="after")
    def _synthetic_photos_are_stored(self) -> Self:
        use = self.fingerprint.synthetic
        users = {
            "fingerprint.synthetic": use.teachers or use.at_training or use.at_making,
            "policy.synthetic": self.policy is not None and self.policy.synthetic,
        }
        asking = [name for name, asks in users.items() if asks]
        if asking and self.synthetic.photos is None:
            raise ValueError(
                f"{' and '.join(asking)} would use synthetic photos, and none are stored; set "
                "synthetic.photos, such as `photos: {}`"
            )
        return self


def load_preset(name: str | None = None) -> Preset:
    """Loads a preset by path, by name in `./presets/`, or by name in the package.

    `name` defaults to `$SKUFP_PRESET`, else `demo`.

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
    unset: dict[str, str] = {}
    problems = []
    try:
        preset = Preset.model_validate(_expand(raw, "", unset))
    except ValidationError as error:
        problems = _problems(error, unset)
    need = "{} needs the environment variable {}; set it, or edit the preset"
    needed = [need.format(*where) for where in unset.items()]
    if needed or problems:
        raise UserError(f"{path}: {'; '.join([*needed, *problems])}")
    return preset


def another_rendering(preset: Preset, seed: int, root: Path, num_skus: int | None = None) -> Preset:
    """`preset` with another rendering of the sample and its own data root, for choosing settings.

    Raises UserError if the preset's dataset is not a rendered sample.
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


def _expand(value: Any, key: str, unset: dict[str, str]) -> Any:
    """Replaces `${NAME}` in all strings of `value`; `unset` gets the variables without a value, by key."""
    if isinstance(value, dict):
        return {
            name: _expand(inner, f"{key}.{name}" if key else str(name), unset)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_expand(inner, key, unset) for inner in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            unset[key] = match[1]
        return found or ""

    return _VARIABLE.sub(replacement, value)


def _problems(error: ValidationError, unset: dict[str, str]) -> list[str]:
    """Pydantic's errors as text for the user, but those of values that an unset variable would give."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        if where not in unset:
            lines.append(f"{where}: {reason.removeprefix('Value error, ')}")
    return lines
