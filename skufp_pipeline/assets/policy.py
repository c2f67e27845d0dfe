"""Group `policy`: the effect of each action on training photos, the policy learnt from it, and its report."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import (
    Fingerprints,
    PolicyCheckpoint,
    PolicyLabels,
    PolicyReport,
    write_unused,
)
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FINGERPRINTS,
    POLICY_REPORT,
    RAW_DATASET,
    SKU_CROPS,
    SYNTHETIC_EMBEDDINGS,
    SYNTHETIC_PHOTOS,
    VLA_CHECKPOINT,
    VLA_LABELS,
)
from skufp_pipeline.artifacts.stored import left_out
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.checks.policy import (
    DOES_NO_HARM,
    HELPS_DEGRADED,
    policy_does_no_harm,
    policy_helps_degraded,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import is_synthetic
from skufp_pipeline.encoders.tables import no_queries, stood_in
from skufp_pipeline.evaluation.figures import policy_arms, training_curves
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.hashing import shard_part
from skufp_pipeline.policy.settings import PolicySettings
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import counts_table, frame_metadata, markdown_table, picture, picture_file
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.views.selection import with_paths

POLICY = "skufp_pipeline.policy."
LEARN = "train_policy"
_SHOWN_COLUMNS = (
    "part", "arm", "queries", "recall@1", "recall@5", "mrr", "recall@1_gain", "recall@1_low", "recall@1_high",
    "recall@1_over_constant", "recall@1_over_constant_low", "recall@1_over_constant_high", "encoded_twice",
)  # fmt: skip


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `policy`."""
    policy, compute = preset.policy, preset.compute
    if policy is None:
        return Group.of("policy", preset, [])
    actions = policy.actions.model_dump(mode="json")
    fingerprinted = (SKU_CROPS, CLIP_CHECKPOINT, CLIP_EMBEDDINGS, FINGERPRINTS)
    synthetic = (SYNTHETIC_PHOTOS, SYNTHETIC_EMBEDDINGS) if policy.synthetic else ()
    steps = [
        Step(
            stored=VLA_LABELS,
            make=vla_labels,
            stage="label_policy",
            weekly=True,
            kinds={"pytorch", "opencv", "parquet"},
            code=(POLICY + "labels",),
            config={
                "actions": actions,
                "labels": policy.labels.model_dump(mode="json"),
                **({"synthetic": True} if policy.synthetic else {}),
            },
            needs=compute.network_needs,
            deps=(*fingerprinted, *synthetic),
        ),
        Step(
            stored=VLA_CHECKPOINT,
            make=vla_checkpoint,
            stage=LEARN,
            kinds={"pytorch", "safetensors"},
            code=(POLICY + "policy_train",),
            config={
                "training": policy.training.model_dump(mode="json"),
                "actions": actions,
                "seed": preset.seed,
                **({} if policy.act == "gated" else {"act": policy.act}),
            },
            needs=Needs(compute.cores, compute.memory_gib),
            deps=(CLIP_CHECKPOINT, FINGERPRINTS, VLA_LABELS),
        ),
        Step(
            stored=POLICY_REPORT,
            make=policy_report,
            stage=LEARN,
            apart=True,
            weekly=True,
            kinds={"pytorch", "parquet"},
            code=("skufp_pipeline.evaluation.policy_sheet",),
            config={
                "queries": policy.report_queries,
                "resamples": preset.evaluation.resamples,
                "max_views": preset.fingerprint.max_views,
                "seed": preset.seed,
            },
            needs=Needs(compute.cores, compute.memory_gib, compute.gpus),
            deps=(RAW_DATASET, *fingerprinted, VLA_CHECKPOINT),
            check_specs=(DOES_NO_HARM, HELPS_DEGRADED),
        ),
    ]
    return Group.of("policy", preset, steps, no_leaks)


def vla_labels(run: Run) -> dg.MaterializeResult:
    """Effect of seven actions on the shard's training and development photos: right SKU's margin and rank,
    winner."""
    from skufp_pipeline.policy.labels import label_queries, labelled_queries

    settings = _settings(run)
    checkpoint, fingerprints = run.read(CLIP_CHECKPOINT), run.read(FINGERPRINTS)
    photos = _photos(run, fingerprints)
    assert run.shard is not None
    limit = shard_part(settings.labels.train_queries, run.preset.shards, run.shard)

    def build(directory: Path) -> dict[str, Any]:
        labels = label_queries(
            labelled_queries(photos, limit),
            fingerprints.table(),
            run.models.load_encoder(checkpoint.folder),
            settings.actions,
            settings.labels.batch_size,
            run.scratch,
            run.progress("photos"),
        )
        return PolicyLabels.write(directory, labels)

    result = run.produce(VLA_LABELS, build)
    labels = result.table()
    return run.done(result, {**frame_metadata(labels), "winners": counts_table(labels, ["role", "winner"])})


def _photos(run: Run, fingerprints: Fingerprints) -> pl.DataFrame:
    """The shard's embedded photos with the path of each: customers', and synthetic ones where these lack."""
    crops, embeddings = run.read(SKU_CROPS), run.read(CLIP_EMBEDDINGS)
    customers = with_paths(embeddings.images(), crops.path)
    if not _settings(run).synthetic:
        return customers
    photos, embedded = run.read(SYNTHETIC_PHOTOS), run.read(SYNTHETIC_EMBEDDINGS)
    is_lacking = fingerprints.used_queries().filter(~is_synthetic("query_id")).is_empty()
    synthetic = with_paths(embedded.images(), photos.path)
    return pl.concat([customers, synthetic]) if is_lacking else customers


def vla_checkpoint(run: Run) -> dg.MaterializeResult:
    """The query policy: predicts the action that a photo needs, calibrated, with a gate against harm; and the
    best constant action beside it."""
    from skufp_pipeline.policy.policy_train import train_policy, used_by_policy

    settings, seed = _settings(run), run.preset.seed
    run.read(CLIP_CHECKPOINT)
    run.read(FINGERPRINTS)
    shards = run.read_all(VLA_LABELS)

    def build(directory: Path) -> dict[str, Any]:
        labels = pl.concat([shard.table() for shard in shards])
        policy, history, figures = train_policy(
            labels, settings.actions, settings.training, seed, run.scratch, run.log, settings.act
        )
        used = used_by_policy(labels)
        PolicyCheckpoint.write(directory, policy, history, used)
        gate = "open" if policy.calibration.is_open else "closed"
        compared = policy.known_constant.summary()
        return {"queries": labels.height, "gate": gate, **figures, **compared, **left_out(stood_in(used))}

    result = run.produce_or_off(VLA_CHECKPOINT, build, lambda folder: write_unused(folder, no_queries()))
    if result.off:
        return run.done(result, {})
    return run.done(
        result, {"curve": picture(training_curves(result.history(), ("loss",), "development_loss"))}
    )


def policy_report(run: Run) -> dg.MaterializeResult:
    """The policy on evaluation photos beside no action, each action, the best constant, chance and oracle."""
    preset, raw, crop_of = run.preset, run.read(RAW_DATASET), run.inputs.crop_files()
    checkpoint, fingerprints = run.read(CLIP_CHECKPOINT), run.read(FINGERPRINTS)
    images, trained = EmbeddingTables.of(run.read_all(CLIP_EMBEDDINGS)).images, run.read(VLA_CHECKPOINT)
    trained.artifact.require_input(FINGERPRINTS.name, fingerprints.digest)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.evaluation.policy import evaluation_photos
        from skufp_pipeline.evaluation.policy_sheet import report_policy
        from skufp_pipeline.policy.network import load_policy

        table, policy = fingerprints.table(), load_policy(trained.needed().path)
        photos = evaluation_photos(images, table["sku_id"], _settings(run).report_queries)
        photos = photos.with_columns(path=pl.Series([str(crop_of(row)) for row in photos.to_dicts()]))
        encoder = run.models.load_encoder(checkpoint.folder)
        degradations = preset.dataset.degradations(raw.path)
        draws, progress = (preset.evaluation.resamples, preset.seed), run.progress("evaluation photos")
        return PolicyReport.write(
            directory, *report_policy(photos, table, encoder, policy, degradations, draws, progress)
        )

    result = run.produce_or_off(POLICY_REPORT, build)
    if result.off:
        return run.done(result, {}, *(not_measured(spec, result.off) for spec in run.step.check_specs))
    arms, thresholds = result.arms(), _settings(run).thresholds
    checks = policy_does_no_harm(arms), policy_helps_degraded(arms, thresholds)
    return run.done(result, policy_metadata(result), *checks)


def policy_metadata(result: PolicyReport) -> dict[str, Any]:
    """Tables and pictures of a report."""
    arms = result.arms().filter(pl.col("setting") == "seen+zero")
    panels = {part: rows for (part,), rows in arms.group_by("part", maintain_order=True)}
    shown = {str(part): panels[part] for part in ("all", "degraded") if part in panels}
    return {
        "gains": picture(policy_arms(shown, "constant")),
        "arms": markdown_table(arms.select(_SHOWN_COLUMNS)),
        "confusion": markdown_table(result.confusion()),
        "before_and_after": picture_file(result.sheet),
    }


def _settings(run: Run) -> PolicySettings:
    settings = run.preset.policy
    assert settings is not None
    return settings
