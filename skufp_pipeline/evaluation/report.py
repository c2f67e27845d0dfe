"""The retrieval report as typed data: the contents of `report.json`.

The long table, the text tables and the page are all made from it. Parts that were not measured are left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError

from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import MODALITIES, SETTINGS, Evaluation, SettingResult
from skufp_pipeline.settings import Settings

CUSTOMERS_PHOTOS, SYNTHETIC_PHOTOS = "customers' photos", "synthetic photos"

FRAME_SCHEMA: dict[str, pl.DataType] = {
    "protocol": pl.String(),  # leak-free | paper
    "setting": pl.String(),
    "modality": pl.String(),
    "source": pl.String(),  # of the text queries, if the row covers one source; else null
    "model": pl.String(),  # "a-b" where the row is a difference
    "metric": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "queries": pl.Int64(),
    "gallery": pl.Int64(),
}


_NULL_IF_EMPTY = (BeforeValidator(lambda found: found or {}), PlainSerializer(lambda found: found or None))


class Times(Settings):
    """Milliseconds per query, asked one at a time or `batch` at once."""

    batch: int | None = None
    p50_ms: float
    p95_ms: float
    mean_ms: float


class GalleryTimes(Times):
    """One model's search times; of several trainings the means, with each training's in `seeds`."""

    batched: Times
    seeds: "list[GalleryTimes] | None" = None


# By setting, modality and model.
GalleryLatency = dict[str, dict[str, dict[str, GalleryTimes]]]


class Machine(Settings):
    """The machine of a timing."""

    threads: int
    processor: str


class Latency(Machine):
    """How long each stage of the query path takes."""

    stages: dict[str, Times]
    search_batched: Times | None = None


class GallerySearch(Machine):
    """The machine of the times in `Result.latency`, and how many queries `batched` asks at once."""

    batch: int


class Stage(Settings):
    """A stage of the query in one setting, on a sample of the evaluation photos.

    `recall_at_1` is with this stage and those before it, `delta` the gain of this one with its interval; the
    times are this stage's.
    """

    stage: str
    setting: str
    queries: int
    recall_at_1: float = Field(alias="recall@1")
    delta: tuple[float, float, float] | None = None
    p50_ms: float
    p95_ms: float


class Duplicates(Settings):
    """How many SKUs show another's catalog picture, exactly or nearly (cosine of at least `threshold`)."""

    threshold: float
    groups: int
    skus: int
    same: int  # of these SKUs, those with the very pixels of another

    @classmethod
    def of(cls, found: pl.DataFrame, threshold: float) -> Self:
        """Counts a table of `search.duplicates`."""
        same = found.filter(kind="same").height
        return cls(threshold=threshold, groups=found["group"].n_unique(), skus=found.height, same=same)


class Share(Settings):
    """A share of photos with its 95% interval over SKUs."""

    share: float
    low: float
    high: float


class VerdictsOf(Settings):
    """Verdicts on the photos of one setting, asked of the whole index.

    Attributes:
        present, absent: by verdict, its share of these photos with their SKU in the index, and masked.
        right_matches: of the photos with the verdict `match`, how often the first answer is right.
        area_under_roc: P(a present product's confidence is above an absent one's).
        calibration_error: of the confidence, with absent products in the share that it assumes.
    """

    photos: int
    skus: int
    present: dict[str, Share]
    absent: dict[str, Share]
    right_matches: Share | None = None
    area_under_roc: float
    calibration_error: float


class Verdicts(Settings):
    """The verdicts of the index, by setting; `alpha` is the share that `none` promised not to exceed.

    `detected` are those on photos cut to what the detector finds, by their own calibration, if there is one.
    """

    alpha: float
    match: float
    absent_share: float
    calibration_photos: int
    calibration_skus: int
    synthetic: bool  # whether the calibration's photos were
    settings: dict[str, VerdictsOf]
    detected: "Verdicts | None" = None


class Missing(Settings):
    """Queries whose SKU is not in the gallery, and those SKUs."""

    queries: int
    sku_ids: list[str]


class Gain(Settings):
    """A paired difference of two models with its 95% interval; `seeds` has each training's."""

    delta: float
    low: float
    high: float
    seeds: list[float] | None = None


class Result(Settings):
    """One setting and modality: the scores of every model on the same queries.

    Attributes:
        queries, gallery: number of queries, and of SKUs searched.
        models, intervals: by model and metric, the mean and its 95% interval; null in JSON without queries.
        differences: by "a-b" and metric.
        seeds: by model and metric, the mean of each training, if there are several.
        latency: by model, if timed.
    """

    queries: int
    gallery: int
    missing: Missing
    models: Annotated[dict[str, dict[str, float]], *_NULL_IF_EMPTY]
    intervals: Annotated[dict[str, dict[str, tuple[float, float]]], *_NULL_IF_EMPTY]
    differences: dict[str, dict[str, Gain]]
    seeds: dict[str, dict[str, list[float]]] | None = None
    latency: dict[str, GalleryTimes] | None = None

    @classmethod
    def of(
        cls,
        found: SettingResult,
        runs: Sequence[SettingResult] = (),
        latency: dict[str, GalleryTimes] | None = None,
    ) -> Self:
        """The figures of `found`; `runs` are the trainings that it averages, if there are several."""
        missing = set(found.missing)
        of_missing = {s for q, s in zip(found.query_ids, found.sku_ids, strict=True) if q in missing}
        means = {name: scores.intervals for name, scores in found.models.items()}
        seeds = {
            name: {metric: [run.models[name].intervals[metric].mean for run in runs] for metric in of_model}
            for name, of_model in means.items()
        }
        differences = {
            pair: {
                metric: Gain(
                    **asdict(difference), seeds=[run.differences[pair][metric].delta for run in runs] or None
                )
                for metric, difference in of_pair.items()
            }
            for pair, of_pair in found.differences.items()
        }
        return cls(
            queries=len(found.query_ids),
            gallery=found.gallery,
            missing=Missing(queries=len(found.missing), sku_ids=sorted(of_missing)),
            models={name: {m: i.mean for m, i in of_model.items()} for name, of_model in means.items()},
            intervals={
                name: {m: (i.low, i.high) for m, i in of_model.items()} for name, of_model in means.items()
            },
            differences=differences,
            seeds=seeds if runs else None,
            latency=latency,
        )


def _complete(results: dict[str, dict[str, Result]]) -> dict[str, dict[str, Result]]:
    if tuple(results) != SETTINGS or any(tuple(found) != MODALITIES for found in results.values()):
        raise ValueError(f"expected the settings {', '.join(SETTINGS)}, with {' and '.join(MODALITIES)} each")
    return results


# By setting, then modality; all are present, without models if there are no queries.
Results = Annotated[dict[str, dict[str, Result]], AfterValidator(_complete)]


def results(
    evaluation: Evaluation,
    runs: Sequence[Evaluation] = (),
    latency: GalleryLatency | None = None,
) -> Results:
    """Converts an evaluation to the report's form.

    `runs` are the trainings that it averages, if there are several; `latency` is each model's, if timed.
    """
    return {
        setting: {
            modality: Result.of(
                found,
                [run.settings[setting][modality] for run in runs],
                latency[setting][modality] if latency else None,
            )
            for modality, found in by_modality.items()
        }
        for setting, by_modality in evaluation.settings.items()
    }


def source_results(
    sources: Mapping[str, Evaluation], runs: Sequence[Mapping[str, Evaluation]] = ()
) -> dict[str, dict[str, Result]]:
    """Text results by source of the texts and setting; `runs` as in `results`."""
    return {
        source: {
            setting: by_modality["text"]
            for setting, by_modality in results(evaluation, [run[source] for run in runs]).items()
        }
        for source, evaluation in sources.items()
    }


class Report(Settings):
    """The report of a preset.

    Attributes:
        preset: its name.
        judged_on: whose photos the image queries are, never both; null without any.
        seeds: of the trainings that figures average, if there are several.
        gallery_latency: the machine of each row's search times, if timed.
        text_sources: text results by source of the texts and setting.
        paper_protocol: results with teachers chosen by the scored queries.
        view_controls: the fingerprint with generated views, without them and with copies.
        skipped_items: number of items left out of the catalogue, by reason.
        query_encoder: the encoder of query photos and how near it is to PyTorch.
        stages: what each stage of a query by photo adds, in its order.
        duplicates: SKUs that no ranking can tell apart; null if not counted.
        verdicts: of the index; null where it gives none, or without photos.
        not_measured: by part of the report or of the graph, why it has no figures or was left out.
    """

    preset: str
    judged_on: Literal["customers' photos", "synthetic photos"] | None = "customers' photos"
    settings: Results
    latency: Latency | None = None
    protocol: str = "leak-free"
    seeds: list[int] | None = None
    gallery_latency: GallerySearch | None = None
    text_sources: dict[str, dict[str, Result]] = {}
    paper_protocol: Results | None = None
    view_controls: Results | None = None
    skipped_items: dict[str, int] | None = None
    query_encoder: dict[str, str | int | float] | None = None
    stages: list[Stage] = []
    duplicates: Duplicates | None = None
    verdicts: Verdicts | None = None
    not_measured: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the report from a file.

        Raises:
            UserError: it can't be read, or is not a report of this version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} can't be read ({error}); materialize retrieval_report again") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise UserError(
                f"{path} is no retrieval report of this version ({where}: {problem['msg']}); materialize "
                "retrieval_report again"
            ) from error

    def to_json(self) -> str:
        """The contents of `report.json`; a part that could not be measured is null."""
        content = self.model_dump(exclude_none=True, exclude={"not_measured"}, by_alias=True)
        absent = {name: None for name in self.not_measured if name in type(self).model_fields}
        told = {"not_measured": self.not_measured} if self.not_measured else {}
        return json.dumps({**content, **absent, **told}, indent=1)

    def write(self, path: Path) -> None:
        """Writes the file that `read` reads."""
        path.write_text(self.to_json() + "\n")

    def frame(self) -> pl.DataFrame:
        """The figures in long form, columns of `FRAME_SCHEMA`."""
        rows: list[tuple[str | float | None, ...]] = []
        for protocol, results in ((self.protocol, self.settings), ("paper", self.paper_protocol or {})):
            for setting, by_modality in results.items():
                for modality, result in by_modality.items():
                    rows += _rows(result, protocol, setting, modality, None)
        for source, by_setting in self.text_sources.items():
            for setting, result in by_setting.items():
                rows += _rows(result, "leak-free", setting, "text", source)
        return pl.DataFrame(rows, schema=FRAME_SCHEMA, orient="row")


def _rows(result: Result, *key: str | None) -> list[tuple[str | float | None, ...]]:
    """A row of `FRAME_SCHEMA` for every mean and every difference, starting with `key`."""
    size = (result.queries, result.gallery)
    means = [
        (*key, model, metric, value, *result.intervals[model][metric], *size)
        for model, values in result.models.items()
        for metric, value in values.items()
    ]
    return means + [
        (*key, pair, metric, gain.delta, gain.low, gain.high, *size)
        for pair, gains in result.differences.items()
        for metric, gain in gains.items()
    ]
