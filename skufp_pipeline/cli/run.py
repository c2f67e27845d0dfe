"""`skufp materialize`, `refresh` and `demo`: run the graph."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import polars as pl

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    IMAGE_TEXT,
    RAW_DATASET,
    RETRIEVAL_REPORT,
    SKU_CROPS,
    SYNTHETIC_PHOTOS,
)
from skufp_pipeline.cli.evaluate import print_report
from skufp_pipeline.cli.options import open_engine, preset_option, removals_option, say, user_errors
from skufp_pipeline.cli.search import print_answer, save_explanation
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import PRESET_VARIABLE, Preset, load_preset
from skufp_pipeline.store import ArtifactStore

WHY = "why.png"  # in the data root: the explanation with which the demo ends


@click.command()
@preset_option
@removals_option
@user_errors
def materialize(name: str | None, allow_removals: bool) -> None:
    """Materialize the whole graph through Dagster; unchanged results are skipped."""
    _materialize(_load(name, allow_removals), name)


@click.command()
@preset_option
@click.option("--retrain", is_flag=True, help="Train again too, where the catalogue has changed.")
@removals_option
@user_errors
def refresh(name: str | None, retrain: bool, allow_removals: bool) -> None:
    """Read the catalogue and rebuild what is stale: the scheduled job, without a daemon."""
    from skufp_pipeline.orchestration.materialize import refresh_graph
    from skufp_pipeline.orchestration.schedules import DAILY, WEEKLY

    preset = _load(name, allow_removals)
    kind = WEEKLY if retrain else DAILY
    _run_graph(preset, name, lambda instance, say: refresh_graph(preset, instance, say, kind))


@click.command()
@preset_option
@user_errors
def demo(name: str | None) -> None:
    """Materialize the graph, print its report, search for one photo and one sentence, and say why."""
    preset = load_preset(name)
    _materialize(preset, name)
    store = ArtifactStore(preset.data_root)
    click.echo()
    print_report(store, as_json=False)
    engine = open_engine(preset, store)
    kind, photo, sku_id, text = _examples(store, preset)
    click.echo(f"\nA{kind} photo no model was trained on ({photo}), of {sku_id}:")
    found = engine.search_image(photo, 5)
    print_answer(found)
    click.echo(f'\nA sentence: "{text}"')
    print_answer(engine.search_text(text, 5))
    if found.hits and Path(preset.data_root).is_dir():
        click.echo()
        save_explanation(found, photo, engine, Path(preset.data_root) / WHY)
    click.echo(f"\nThe report: {RETRIEVAL_REPORT.read(store).page}")
    click.echo("\nTo search with a page: make serve (or skufp serve), then open http://localhost:8000")


def _load(name: str | None, allow_removals: bool) -> Preset:
    """The preset; with `allow_removals` a catalogue may lack any number of the SKUs in use."""
    preset = load_preset(name)
    if not allow_removals:
        return preset
    thresholds = preset.evaluation.thresholds.model_copy(update={"skus_removed": 1.0})
    evaluation = preset.evaluation.model_copy(update={"thresholds": thresholds})
    return preset.model_copy(update={"evaluation": evaluation})


def _materialize(preset: Preset, name: str | None) -> None:
    from skufp_pipeline.orchestration.materialize import materialize_graph

    _run_graph(preset, name, lambda instance, say: materialize_graph(preset, instance, say))


def _run_graph(preset: Preset, name: str | None, run: Callable[..., Any]) -> None:
    """Calls `run(instance, say)` with the Dagster instance and prints the outcome."""
    import dagster as dg

    from skufp_pipeline.orchestration.interruption import interruptible_command
    from skufp_pipeline.orchestration.materialize import instance_home
    from skufp_pipeline.orchestration.ownership import claim_instance

    instance_home(preset)
    if name is not None:  # processes that Dagster starts must load the same preset
        os.environ[PRESET_VARIABLE] = str(Path(name).resolve()) if Path(name).is_file() else name
    with dg.DagsterInstance.get() as instance, interruptible_command(instance, say):
        claim_instance(instance, preset)
        outcome = run(instance, say)
    say(f"the graph of preset {preset.name} is materialized: {outcome.total:.0f} s")
    for check in outcome.failed_checks:
        say(f"check not passed: {check}")
    annotations = ANNOTATIONS.read(ArtifactStore(preset.data_root))
    say(f"catalogue: {annotations.counts}")
    if annotations.counts.skipped_items:
        say(f"left out rows: {annotations.path / 'skipped_items.parquet'}; `skufp catalog check` lists them")


def _examples(store: ArtifactStore, preset: Preset) -> tuple[str, Path, str, str]:
    """An evaluation query of a validation SKU: the kind of its photo, the photo, the SKU and a sentence.

    The photo is the whole one where the index has a detector, else the crop. Without customers' photos it is
    a synthetic one, and the sentence is the SKU's.
    """
    is_asked = (pl.col("role") == "evaluation") & (pl.col("split") == "validation")
    for shard in range(preset.shards):
        rows = IMAGE_TEXT.read(store, shard).images()
        rows = rows.filter(is_asked)
        if rows.height:
            first = rows.row(0, named=True)
            photo = SKU_CROPS.read(store, shard).path / first["image_path"]
            if preset.detector is not None:
                photo = preset.dataset.find(RAW_DATASET.read(store).path)(first["orig_image_path"])
            return "", photo, first["sku_id"], first["text"]
    for shard in range(preset.shards if preset.synthetic.photos else 0):
        photos, words = SYNTHETIC_PHOTOS.read(store, shard), IMAGE_TEXT.read(store, shard).images()
        for first in photos.table().filter(is_asked).head(1).to_dicts():
            (text, *_) = words.filter(sku_id=first["sku_id"])["text"]
            return " synthetic", photos.path / first["image_path"], first["sku_id"], text
    raise UserError("the data set has no evaluation query of a validation SKU to show")
