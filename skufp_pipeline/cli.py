"""`skufp`: the command line. A user's mistake is one line on stderr and exit status 1."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import PRESET_VARIABLE, Preset, load_preset
from skufp_pipeline.store import ArtifactStore, shard_key

if TYPE_CHECKING:
    from skufp_pipeline.search.engine import Answer, QueryEngine

REPORT = "reports/retrieval"

preset_option = click.option(
    "--preset", "name", help="A preset's name or YAML file; $SKUFP_PRESET or demo by default."
)


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Prints a `UserError` in one line, without a stack trace."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise click.ClickException(" ".join(str(error).split())) from error

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One fingerprint per SKU: build the graph, ask it, read its report."""


@main.command()
@preset_option
@told
def materialize(name: str | None) -> None:
    """Materialize the whole graph through Dagster; what is unchanged is skipped."""
    _materialize(load_preset(name), name)


@main.command()
@preset_option
@told
def demo(name: str | None) -> None:
    """Materialize the graph, print its tables, and answer one photo and one sentence."""
    preset = load_preset(name)
    _materialize(preset, name)
    store = ArtifactStore(preset.data_root)
    click.echo()
    _print_report(store, as_json=False)
    engine = _engine(preset, store)
    photo, text = _examples(store, preset)
    for title, answer in (
        (
            f"A photo no model was trained on ({photo.name} of {photo.parent.name}):",
            engine.search_image(photo, 5),
        ),
        (f'A sentence: "{text}"', engine.search_text(text, 5)),
    ):
        click.echo(f"\n{title}")
        _print_answer(answer)
    click.echo(f"\nThe report: {store.read(REPORT).path / 'report.html'}")


@main.command()
@preset_option
@click.option("--image", type=click.Path(path_type=Path), help="A photo.")
@click.option("--text", help="A few words.")
@click.option("--top", default=10, show_default=True, help="How many SKUs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=click.Path(path_type=Path), help="Save a picture of the results (PNG).")
@told
def search(
    name: str | None, image: Path | None, text: str | None, top: int, as_json: bool, save: Path | None
) -> None:
    """The SKUs that a photo or a sentence means, best first."""
    if (image is None) == (text is None):
        raise UserError('give either --image FILE or --text "..."')
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    engine = _engine(preset, store)
    answer = engine.search_image(image, top) if image is not None else engine.search_text(text or "", top)
    if as_json:
        click.echo(
            json.dumps({"hits": [asdict(hit) for hit in answer.hits], "ms": answer.milliseconds}, indent=1)
        )
    else:
        _print_answer(answer)
    if save is not None:
        _save_picture(answer, image, text, store, save)


@main.command()
@preset_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@told
def report(name: str | None, as_json: bool) -> None:
    """The tables of the last retrieval report."""
    _print_report(ArtifactStore(load_preset(name).data_root), as_json)


@main.group()
def export() -> None:
    """Write results in other programs' formats."""


@export.command("df2-jsonl")
@preset_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@told
def export_df2(name: str | None, out: Path) -> None:
    """Crop tree, *_sku_metadata.json and *_image_text.jsonl, as the reference pipeline writes them."""
    from skufp_pipeline.assets.catalog import source_root
    from skufp_pipeline.datasets.export import export_df2_jsonl

    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    root = source_root(preset, store.read("raw/dataset"))

    def shards() -> Any:
        for shard in range(preset.shards):
            table = store.read(shard_key("tables/image_text", shard)).path / "image_text.parquet"
            yield pl.read_parquet(table), store.read(shard_key("crops", shard)).path

    counts = export_df2_jsonl(shards(), out, str(root))
    click.echo(f"{out}: " + ", ".join(f"{count} {split} rows" for split, count in counts.items()))


@export.command("fingerprints")
@preset_option
@click.option(
    "--format", "file_format", required=True, type=click.Choice(["parquet", "numpy", "faiss", "qdrant"])
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@told
def export_index(name: str | None, file_format: str, out: Path) -> None:
    """All fingerprints with their SKU ids; faiss and qdrant need the extra `export`."""
    from skufp_pipeline.search.bundle import current_index
    from skufp_pipeline.search.export import export_fingerprints

    _, index = current_index(ArtifactStore(load_preset(name).data_root))
    written = export_fingerprints(index, file_format, out)
    click.echo(f"{out}: {len(index)} fingerprints of {index.dimension} dimensions in {', '.join(written)}")


@main.command()
@preset_option
@told
def doctor(name: str | None) -> None:
    """Verify the checksums of the published index and its encoders."""
    from skufp_pipeline.search.bundle import IMAGE_ENCODER, current_index

    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    index, _ = current_index(store)
    keys = ["checkpoints/clip", "checkpoints/fingerprint"]
    if preset.query_encoder.engine == "onnx":
        keys.append(IMAGE_ENCODER)
    damaged = []
    for artifact in (index, *map(store.read, keys)):
        wrong = artifact.damaged_files()
        damaged += [f"{artifact.manifest.artifact}/{file}" for file in wrong]
        state = "DAMAGED" if wrong else "ok"
        click.echo(f"{artifact.manifest.artifact}: {state} ({len(artifact.manifest.files)} files)")
    if damaged:
        raise UserError(f"damaged: {', '.join(damaged)}; delete the folder and materialize it again")


def _materialize(preset: Preset, name: str | None) -> None:
    import dagster as dg

    from skufp_pipeline.materialize import instance_home, materialize_graph

    instance_home()
    if name is not None:  # processes that Dagster starts must load the preset that these runs belong to
        os.environ[PRESET_VARIABLE] = str(Path(name).resolve()) if Path(name).is_file() else name
    with dg.DagsterInstance.get() as instance:
        outcome = materialize_graph(preset, instance, lambda line: click.echo(line, err=True))
    total = sum(outcome.seconds.values())
    click.echo(f"the graph of preset {preset.name} is materialized: {total:.0f} s", err=True)
    for check in outcome.failed_checks:
        click.echo(f"check not passed: {check}", err=True)


def _engine(preset: Preset, store: ArtifactStore) -> "QueryEngine":
    from skufp_pipeline.encoders.device import pick_device
    from skufp_pipeline.search.engine import QueryEngine

    return QueryEngine.open(store, pick_device(preset.compute.device), preset.query_encoder)


def _examples(store: ArtifactStore, preset: Preset) -> tuple[Path, str]:
    """A photo and a sentence among the evaluation queries of validation SKUs."""
    for shard in range(preset.shards):
        folder = store.read(shard_key("tables/image_text", shard)).path
        rows = pl.read_parquet(folder / "image_text.parquet")
        rows = rows.filter((pl.col("role") == "evaluation") & (pl.col("split") == "validation"))
        if rows.height:
            first = rows.row(0, named=True)
            return store.read(shard_key("crops", shard)).path / first["image_path"], first["text"]
    raise UserError("the data set has no evaluation query of a validation SKU to show")


def _print_report(store: ArtifactStore, as_json: bool) -> None:
    from skufp_pipeline.evaluation.report import text_tables

    found = json.loads((store.read(REPORT).path / "report.json").read_text())
    click.echo(json.dumps(found, indent=1) if as_json else text_tables(found))


def _print_answer(answer: "Answer") -> None:
    for hit in answer.hits:
        name = hit.title or hit.category_name or ""
        click.echo(f"{hit.rank:>3}  {hit.score:.4f}  {hit.sku_id:<24} {name:<24} {hit.image}")
    spent = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in answer.milliseconds.items())
    click.echo(f"     {spent}")


def _save_picture(
    answer: "Answer", image: Path | None, text: str | None, store: ArtifactStore, target: Path
) -> None:
    import numpy as np

    from skufp_pipeline.evaluation.figures import GridRow, results_grid
    from skufp_pipeline.search.engine import read_photo

    query = np.asarray(read_photo(image)) if image is not None else (text or "")
    hits = [(store.local_path(hit.image), hit.sku_id, hit.score) for hit in answer.hits]
    try:
        target.write_bytes(results_grid([GridRow(query, None, hits)], shown=len(hits)))
    except OSError as error:
        raise UserError(f"--save {target}: {error}") from error
    click.echo(f"saved {target}", err=True)


if __name__ == "__main__":
    sys.exit(main())
