"""Tables 1 and 2 of a preset over several training seeds, the paper's own protocol beside ours.

python benchmarks/tables.py --preset demo --seeds 3 --json tables.json --docs docs/results.md

A seed changes what is trained and never the data: the first is the preset's own, in its data root; each of
the others gets a root beside it, where the data set, crops and texts are hard links to those of the first.
What is there already is not computed again. `--roots A B C` takes roots that are materialized. Means are over
queries and seeds, intervals over resampled SKUs and seeds; the latency of every row is one and the same exact
search (`evaluation/latency.py`). In `--docs` only the section between this preset's markers is replaced.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import dagster as dg
import polars as pl
import torch

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.places import CLIP_CHECKPOINT, GENERATED_VIEW_EMBEDDINGS
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.assemble import ReportParts
from skufp_pipeline.evaluation.figures import recall_curve
from skufp_pipeline.evaluation.latency import processor_name
from skufp_pipeline.evaluation.page import render_page
from skufp_pipeline.evaluation.paper import judge_paper, paper_models, paper_teachers
from skufp_pipeline.evaluation.protocol import Evaluation
from skufp_pipeline.evaluation.report import (
    GalleryLatency,
    GallerySearch,
    Report,
    results,
    source_results,
)
from skufp_pipeline.evaluation.retrieval import (
    ReportInputs,
    build_models,
    judge,
    judge_sources,
    measure_galleries,
)
from skufp_pipeline.evaluation.seeds import gallery_latency_over_seeds, over_seeds
from skufp_pipeline.evaluation.tables import markdown_tables, text_tables
from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
from skufp_pipeline.fingerprint.gaussian import fit_gaussian
from skufp_pipeline.fingerprint.make import make_fingerprints
from skufp_pipeline.fingerprint.tables import fingerprint_data
from skufp_pipeline.orchestration.materialize import materialize_graph
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.models import ModelProvider
from skufp_pipeline.store import ArtifactStore

CATALOG = ("raw", "tables/annotations", "crops", "tables/image_text")  # no seed has a say in these
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What one seed's data root gave."""

    seed: int
    ours: Evaluation
    sources: dict[str, Evaluation]
    paper: Evaluation
    latency: GalleryLatency


def seed_presets(preset: Preset, count: int) -> list[Preset]:
    """The preset with `count` training seeds, the first its own."""
    root = preset.data_root.rstrip("/")
    seeds = [preset.seed + number for number in range(count)]
    roots = [root, *(f"{root}-seed{seed}" for seed in seeds[1:])]
    return [
        preset.model_copy(update={"seed": seed, "data_root": place})
        for seed, place in zip(seeds, roots, strict=True)
    ]


def preset_of_root(preset: Preset, root: str) -> Preset:
    """The preset with the root and the seed that trained its encoder."""
    here = preset.model_copy(update={"data_root": root})
    checkpoint = CLIP_CHECKPOINT.read(ArtifactStore(root)).artifact
    return here.model_copy(update={"seed": checkpoint.manifest.recipe.config["seed"]})


def share_catalog(source: Path, target: Path) -> None:
    """Hard links of one data root's data set, crops and texts in another; copies where links can't be."""
    for key in CATALOG:
        if (source / key).is_dir() and not (target / key).exists():
            shutil.copytree(source / key, target / key, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def materialize(presets: Sequence[Preset], say: Say) -> None:
    """The graph of every preset; data sets, crops and texts are those of the first."""
    for number, preset in enumerate(presets):
        if number:
            share_catalog(Path(presets[0].data_root), Path(preset.data_root))
        say(f"seed {preset.seed} in {preset.data_root}")
        with dg.DagsterInstance.ephemeral() as instance:
            materialize_graph(preset, instance, say)


def evaluate_root(preset: Preset, say: Say) -> Run:
    """All models of one data root, by our protocol and by the paper's."""
    store, models = ArtifactStore(preset.data_root), ModelProvider(device=preset.compute.device)
    encoder = models.load_encoder(CLIP_CHECKPOINT.read(store).folder)
    read = Inputs(store, preset.shards)
    parts = ReportParts.read(read, graph_steps(preset))
    read.digests()  # refuses what does not belong together
    inputs = parts.tables(preset.fingerprint.max_views, encoder, preset.encoder.batch_size)
    ours, draws = build_models(inputs), (preset.evaluation.resamples, preset.seed)
    say(f"seed {preset.seed}: {len(ours)} models; training the fingerprint with the paper's teachers")
    teachers = paper_teachers(inputs.tables, preset.fingerprint.max_views)
    leaky = paper_fingerprints(preset, store, inputs, teachers, models.torch_device())
    settings = preset.evaluation
    return Run(
        preset.seed,
        judge(ours, *draws, inputs.labels),
        judge_sources(ours, inputs, *draws),
        judge_paper(paper_models(ours, teachers, leaky), *draws),
        measure_galleries(ours, settings.latency_queries, settings.batch),
    )


def paper_fingerprints(
    preset: Preset, store: ArtifactStore, inputs: ReportInputs, teachers: pl.DataFrame, device: torch.device
) -> pl.DataFrame:
    """The fingerprints of a model that is trained as the graph's, but for its teachers."""
    tables, settings = inputs.tables, preset.fingerprint
    if preset.views:
        shards = GENERATED_VIEW_EMBEDDINGS.read_all(store, preset.shards)
        tables = replace(tables, generated=pl.concat([shard.images() for shard in shards]))
    data = fingerprint_data(tables, teachers, settings.max_views)
    with TemporaryDirectory() as scratch:
        model, _ = train_aggregator(data, settings, preset.seed, device, Path(scratch), lambda line: None)
    known = fit_gaussian(data.views, data.image_queries, settings.gaussian) if settings.gaussian else None
    return make_fingerprints(model, known, tables, settings, device)[0]


def make_report(preset: Preset, runs: Sequence[Run]) -> tuple[Report, Evaluation]:
    """One report of all seeds, in the form of `retrieval_report`'s, with a list of one value a seed beside
    every figure; and the evaluation its curves are drawn from.
    """
    settings = preset.evaluation
    draws = (preset.seed, settings.resamples)
    ours, leaky = [run.ours for run in runs], [run.paper for run in runs]
    mean, told = over_seeds(ours, *draws), [run.sources for run in runs]
    sources = {source: over_seeds([run[source] for run in told], *draws) for source in told[0]}
    report = Report(
        preset=preset.name,
        settings=results(mean, ours, gallery_latency_over_seeds([run.latency for run in runs])),
        seeds=[run.seed for run in runs],
        gallery_latency=GallerySearch(
            batch=settings.batch, threads=torch.get_num_threads(), processor=processor_name()
        ),
        text_sources=source_results(sources, told),
        paper_protocol=results(over_seeds(leaky, *draws), leaky),
    )
    return report, mean


def replace_section(document: str, name: str, text: str) -> str:
    """`document` with what stands between the markers of `name` replaced; a new section goes to the end.

    Raises:
        UserError: the document holds one of the two markers only.
    """
    begin, end = f"<!-- tables {name}: begin -->", f"<!-- tables {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin not in document and end not in document:
        return f"{document.rstrip()}\n\n{section}\n".lstrip()
    before, opened, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise UserError(f"expected {begin!r} and then {end!r}, found one of them; repair the document")
    return before + section + after


def section_text(preset: Preset, report: Report, command: str) -> str:
    """The section of a preset in the document: how it was made, then its tables."""
    seeds = ", ".join(map(str, report.seeds or []))
    return (
        f"## Tables of preset {preset.name}, training seeds {seeds}\n\n```\n{command}\n```\n\n"
        + markdown_tables(report)
    )


@click.command()
@click.option("--preset", "name", help="A preset's name or file; demo by default.")
@click.option("--seeds", default=3, show_default=True, help="Training seeds, from the preset's own upward.")
@click.option("--roots", multiple=True, help="Materialized data roots to use instead; repeatable.")
@click.argument("more_roots", nargs=-1)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write the page here.")
@click.option("--docs", "docs_path", type=click.Path(path_type=Path), help="Write the tables into this file.")
def main(
    name: str | None,
    seeds: int,
    roots: tuple[str, ...],
    more_roots: tuple[str, ...],
    json_path: Path | None,
    html_path: Path | None,
    docs_path: Path | None,
) -> None:
    """Makes tables 1 and 2 of a preset."""
    preset = load_preset(name)
    places = (*roots, *more_roots)
    try:
        report, mean = _tables(preset, seeds, places)
        click.echo(text_tables(report))
        if json_path:
            report.write(json_path)
        if html_path:
            html_path.write_text(render_page(report, recall_curve(mean)))
        if docs_path:
            command = f"python benchmarks/tables.py --preset {preset.name} --seeds {len(report.seeds or [])}"
            document = docs_path.read_text() if docs_path.exists() else ""
            docs_path.write_text(
                replace_section(document, preset.name, section_text(preset, report, command))
            )
    except UserError as error:
        raise click.ClickException(str(error)) from error


def _tables(preset: Preset, seeds: int, roots: Sequence[str]) -> tuple[Report, Evaluation]:
    def say(line: str) -> None:
        click.echo(line, err=True)

    if roots:
        presets = [preset_of_root(preset, root) for root in roots]
    else:
        presets = seed_presets(preset, seeds)
        materialize(presets, say)
    return make_report(preset, [evaluate_root(one, say) for one in presets])


if __name__ == "__main__":
    main()
