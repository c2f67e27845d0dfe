"""What the query policy is worth on a materialized preset that has one, over several trainings.

python benchmarks/policy.py --json policy.json

The policy is trained again from the graph's labels with each seed; every way of choosing an action
(`skufp_pipeline/evaluation/policy.py`) answers the same evaluation photos, with the seeds' answers pooled and
intervals over SKUs. Latency is one photo at a time through the query engine, from the file to the answer.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import polars as pl
import torch

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FINGERPRINTS,
    RAW_DATASET,
    VLA_LABELS,
)
from skufp_pipeline.evaluation.latency import processor_name, statistics_ms
from skufp_pipeline.evaluation.policy import (
    confusion,
    degradations_of,
    evaluation_photos,
    judge_policy,
    pooled,
    text_table,
    try_actions,
)
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.policy.network import Policy
from skufp_pipeline.policy.policy_train import train_policy
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.engine import QueryEngine, UsePolicy
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.store import ArtifactStore


@click.command()
@click.option("--preset", "name", default="demo", show_default=True, help="A preset's name or YAML file.")
@click.option("--seeds", default=3, show_default=True, help="Trainings of the policy.")
@click.option("--queries", "limit", type=int, help="Evaluation photos, a stable draw; all by default.")
@click.option("--latency", "timed", default=200, show_default=True, help="Photos that are timed; 0 for none.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write every figure there.")
def main(name: str, seeds: int, limit: int | None, timed: int, target: Path | None) -> None:
    """Prints the table of arms, the gain by degradation, the confusion matrix and the latencies."""
    preset = load_preset(name)
    if preset.policy is None:
        raise click.ClickException(f"preset {preset.name} has no policy")
    store = ArtifactStore(preset.data_root)
    inputs = Inputs(store, preset.shards)
    checkpoint, crop_of = inputs.read(CLIP_CHECKPOINT), inputs.crop_files()
    images = EmbeddingTables.of(inputs.read_all(CLIP_EMBEDDINGS)).images
    fingerprints = inputs.read(FINGERPRINTS).table()
    inputs.digests()  # refuses what does not belong together
    photos = evaluation_photos(images, fingerprints["sku_id"], limit)
    photos = photos.with_columns(path=pl.Series([str(crop_of(row)) for row in photos.to_dicts()]))

    policies, figures = train(preset, store, seeds)
    encoder = ModelProvider(device=preset.compute.device).load_encoder(checkpoint.folder)
    tried = try_actions(photos, encoder, policies[0])
    queries = pooled([tried.decided_by(policy) for policy in policies])
    degradations = degradations_of(preset.dataset.degradations(RAW_DATASET.read(store).path), photos)
    table, _ = judge_policy(queries, fingerprints, degradations, preset.evaluation.resamples, preset.seed)
    matrix = confusion(queries, fingerprints)
    latency = measure_latency(preset, store, [Path(path) for path in photos["path"][:timed]])
    click.echo(text_table(table))
    click.echo("\n" + gains_by_degradation(table))
    click.echo(f"\nNamed by the policy (row), best (column), {seeds} trainings:\n{confusion_text(matrix)}")
    click.echo("\n" + json.dumps({"trainings": figures, "latency": latency}, indent=1))
    if target is not None:
        found = {"preset": preset.name, "arms": table.to_dicts(), "confusion": matrix.to_dicts()}
        target.write_text(json.dumps({**found, "trainings": figures, "latency": latency}, indent=1) + "\n")


def train(preset: Preset, store: ArtifactStore, seeds: int) -> tuple[list[Policy], list[dict[str, Any]]]:
    """Policies from the graph's labels, and what development queries say of each."""
    assert preset.policy is not None
    labels = pl.concat([shard.table() for shard in VLA_LABELS.read_all(store, preset.shards)])
    policies, figures = [], []
    for seed in range(seeds):
        with TemporaryDirectory() as scratch:
            policy, history, found = train_policy(
                labels, preset.policy.actions, preset.policy.training, seed, Path(scratch), lambda line: None
            )
        policies.append(policy)
        told = {"seed": seed, "epochs": len(history), "open": policy.calibration.is_open}
        figures.append({**told, **found, **policy.known_constant.summary()})
    return policies, figures


def measure_latency(preset: Preset, store: ArtifactStore, photos: list[Path]) -> dict[str, Any]:
    """Milliseconds without and with the policy, in all and by stage; the first photo warms up."""
    found: dict[str, Any] = {"processor": processor_name(), "threads": torch.get_num_threads()}
    uses: tuple[UsePolicy, ...] = ("off", "on")
    for use in uses if photos else ():
        engine = QueryEngine.open(store, torch.device("cpu"), preset.query_encoder, use)
        answers = [engine.search_image(photo, 10, region="whole") for photo in [photos[0], *photos]][1:]
        stages = {stage for answer in answers for stage in answer.milliseconds}
        samples = {
            stage: [a.milliseconds[stage] for a in answers if stage in a.milliseconds]
            for stage in sorted(stages)
        }
        samples["all"] = [sum(answer.milliseconds.values()) for answer in answers]
        found[use] = {
            stage: {key: round(value, 3) for key, value in statistics_ms(times).items()}
            for stage, times in samples.items()
        }
        found[use]["encoded_twice"] = len(samples.get("encode_again", [])) / len(answers)
    return found


def gains_by_degradation(table: pl.DataFrame) -> str:
    """R@1 of the worst quarter of each kind: off, the gains of each arm."""
    rows = table.filter(pl.col("setting") == "seen+zero")
    arms = [arm for arm in rows["arm"].unique(maintain_order=True) if arm != "off"]
    lines = [f"{'photos':<13} {'queries':>7} {'off':>6} " + " ".join(f"{arm[-13:]:>13}" for arm in arms)]
    for part in rows["part"].unique(maintain_order=True):
        mine = {row["arm"]: row for row in rows.filter(pl.col("part") == part).to_dicts()}
        off = mine["off"]
        gains = " ".join(f"{mine[arm]['recall@1_gain']:>+13.4f}" for arm in arms)
        lines.append(f"{part:<13} {off['queries']:>7} {off['recall@1']:>6.3f} {gains}")
    return "\n".join(lines)


def confusion_text(matrix: pl.DataFrame) -> str:
    """The matrix with a column per action."""
    names = [column.removeprefix("best_")[:11] for column in matrix.columns[1:]]
    lines = [" " * 14 + " ".join(f"{name:>11}" for name in names)]
    lines += [f"{row[0]:<14}" + " ".join(f"{count:>11}" for count in row[1:]) for row in matrix.iter_rows()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
