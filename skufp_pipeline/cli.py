"""The `skufp` command line. A UserError prints one line on stderr and exits with status 1."""

import json
import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import asdict
from functools import reduce, wraps
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_EMBEDDINGS,
    IMAGE_TEXT,
    RAW_DATASET,
    RETRIEVAL_REPORT,
    SKU_CROPS,
)
from skufp_pipeline.errors import ItemError, UserError
from skufp_pipeline.presets import PRESET_VARIABLE, Preset, load_preset
from skufp_pipeline.search.versions import FINGERPRINTS, Versions
from skufp_pipeline.store import ArtifactStore, shard_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skufp_pipeline.search.engine import Answer, QueryEngine, UsePolicy
    from skufp_pipeline.search.index import FingerprintIndex
    from skufp_pipeline.search.rows import Rows

CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|=|<|>)\s*(.*\S)\s*", re.DOTALL)
ID_COLUMN = re.compile(r"(^|[,;\t])\s*\"?(?P<name>sku_id)\"?\s*($|[,;\t])", re.IGNORECASE)

preset_option = click.option(
    "--preset", "name", help="A preset's name or YAML file; $SKUFP_PRESET or demo by default."
)

index_option = click.option(
    "--index", "index", default=FINGERPRINTS, show_default=True, help="Which index of the data root."
)


def user_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Prints a `UserError` in one line, without a stack trace."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(128 + signal.SIGINT)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One fingerprint per SKU: build the graph, search it, read its report."""
    if sys.platform == "win32":
        raise click.ClickException("skufp runs on Linux and macOS; on Windows, run it inside WSL 2")


removals_option = click.option(
    "--allow-removals", is_flag=True, help="Go on although the catalogue lacks many of the SKUs in use."
)


@main.command()
@preset_option
@removals_option
@user_errors
def materialize(name: str | None, allow_removals: bool) -> None:
    """Materialize the whole graph through Dagster; unchanged results are skipped."""
    _materialize(_load(name, allow_removals), name)


@main.command()
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


@main.command()
@preset_option
@user_errors
def demo(name: str | None) -> None:
    """Materialize the graph, print its report, and search for one photo and one sentence."""
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
    click.echo(f"\nThe report: {RETRIEVAL_REPORT.read(store).page}")


@main.command()
@preset_option
@click.option("--image", type=click.Path(path_type=Path), help="A photo.")
@click.option("--text", help="A few words.")
@click.option(
    "--text-weight", type=float, help="With both: 0 for the photo alone, 1 for the words; 0.5 by default."
)
@click.option("--like", metavar="SKU_ID", help="A SKU of the index: what is most like it.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help='Only SKUs with this; also <, <=, >, >= for numbers and dates ("price<=50"); repeatable.',
)
@click.option(
    "--within",
    type=click.Path(path_type=Path),
    help="Only SKUs of this file: an id a line, or a CSV with the column sku_id.",
)
@click.option(
    "--policy",
    type=click.Choice(["on", "off", "auto"]),
    default="auto",
    show_default=True,
    help="Whether the query policy may process the photo; auto: where the index has one.",
)
@click.option(
    "--words/--no-words", default=True, help="Whether exact words, names and codes of the text count as such."
)
@click.option("--top", default=10, show_default=True, help="How many SKUs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=click.Path(path_type=Path), help="Save a picture of the results (PNG).")
@index_option
@user_errors
def search(
    name: str | None,
    image: Path | None,
    text: str | None,
    text_weight: float | None,
    like: str | None,
    where: tuple[str, ...],
    within: Path | None,
    policy: "UsePolicy",
    words: bool,
    top: int,
    as_json: bool,
    save: Path | None,
    index: str,
) -> None:
    """Find the SKUs that match a photo, a sentence, both together or another SKU, best first.

    Several --where values for one column are alternatives; each column and each range narrows the search.
    """
    query = _Query(image, text, text_weight, like)
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    engine = _engine(preset, store, policy, index, words)
    answer = query.ask(engine, top, _rows_to_search(engine.index, where, within))
    if as_json:
        found = {"hits": [asdict(hit) for hit in answer.hits], "ms": answer.milliseconds}
        click.echo(json.dumps({**found, "action": answer.action}, indent=1, default=str))  # str: dates
    else:
        _print_answer(answer)
    if save is not None:
        _save_picture(answer, query.shown(engine), engine, save)


@main.command()
@preset_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@user_errors
def report(name: str | None, as_json: bool) -> None:
    """Print the tables of the last retrieval report."""
    _print_report(ArtifactStore(load_preset(name).data_root), as_json)


@main.group()
def export() -> None:
    """Export results in the formats of other programs."""


@export.command("df2-jsonl")
@preset_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@user_errors
def export_df2(name: str | None, out: Path) -> None:
    """Write the crop tree, *_sku_metadata.json and *_image_text.jsonl, as the reference pipeline does."""
    from skufp_pipeline.datasets.export import export_df2_jsonl

    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    root = preset.dataset.root(RAW_DATASET.read(store).path)

    def shards() -> Any:
        for shard in range(preset.shards):
            yield IMAGE_TEXT.read(store, shard).images(), SKU_CROPS.read(store, shard).path

    counts = export_df2_jsonl(shards(), out, str(root))
    click.echo(f"{out}: " + ", ".join(f"{count} {split} rows" for split, count in counts.items()))


@export.command("fingerprints")
@preset_option
@click.option(
    "--format", "file_format", required=True, type=click.Choice(["parquet", "numpy", "faiss", "qdrant"])
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@index_option
@user_errors
def export_index(name: str | None, file_format: str, out: Path, index: str) -> None:
    """Write all fingerprints with their SKU ids; faiss and qdrant need the extra `export`."""
    from skufp_pipeline.search.bundle import current_index
    from skufp_pipeline.search.export import export_fingerprints

    _, found = current_index(ArtifactStore(load_preset(name).data_root), index)
    written = export_fingerprints(found, file_format, out)
    click.echo(f"{out}: {len(found)} fingerprints of {found.dimension} dimensions in {', '.join(written)}")


@main.command()
@preset_option
@click.option("--all", "every", is_flag=True, help="Verify the checksums of all shards, too.")
@user_errors
def doctor(name: str | None, every: bool) -> None:
    """Verify that each result of the graph exists and that its files match their checksums."""
    from skufp_pipeline.definitions import graph_steps
    from skufp_pipeline.orchestration.doctor import examine

    preset = load_preset(name)
    damaged: list[str] = []
    for found in examine(graph_steps(preset), ArtifactStore(preset.data_root), every):
        click.echo(found)
        damaged += found.damaged
    if damaged:
        raise UserError(f"damaged: {', '.join(damaged)}; delete the folder and materialize it again")


@main.command("setup-instance")
@preset_option
@user_errors
def setup_instance(name: str | None) -> None:
    """Prepare $DAGSTER_HOME: write its settings if it has none, and set the pool limits."""
    import dagster as dg

    from skufp_pipeline.definitions import graph_steps
    from skufp_pipeline.orchestration.executors import set_pool_limits
    from skufp_pipeline.orchestration.materialize import instance_home

    preset = load_preset(name)
    home = instance_home(preset)
    with dg.DagsterInstance.get() as instance:
        limits = set_pool_limits(instance, graph_steps(preset).values(), preset.compute)
    limits_text = ", ".join(f"{pool} {limit}" for pool, limit in limits.items())
    click.echo(f"{home}: pools: {limits_text or 'none is used by this preset'}")


@main.group()
def catalog() -> None:
    """The catalogue: what is in it, what has changed, and products that look alike."""


@catalog.command("check")
@preset_option
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    default="skipped_items.csv",
    show_default=True,
    help="Where the rows that are left out are listed, with the reason.",
)
@user_errors
def catalog_check_command(name: str | None, table: Path) -> None:
    """Read the whole catalogue, count what is left out and why, and list it; build nothing.

    Fails if more is left out than `evaluation.thresholds.rows_left_out` tolerates.
    """
    from skufp_pipeline.datasets.counts import CatalogueCounts
    from skufp_pipeline.show import progress

    preset = load_preset(name)
    raw = RAW_DATASET.read(ArtifactStore(preset.data_root)).path if preset.dataset.folder is None else Path()
    found = preset.dataset.items(raw, preset.splits, progress(_say, "rows and images"))
    counts = CatalogueCounts.of(found.items, found.skipped)
    _write_csv(found.skipped, table)
    click.echo(counts)
    tolerated = preset.evaluation.thresholds.rows_left_out
    if counts.share_left_out > tolerated:
        raise UserError(
            f"{counts.share_left_out:.1%} of the wanted rows can't be read, {tolerated:.1%} are tolerated "
            "(evaluation.thresholds.rows_left_out): a run would stop before anything is trained"
        )


@catalog.command("diff")
@preset_option
@click.option("--retrain", is_flag=True, help="What `skufp refresh --retrain` would make again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@user_errors
def catalog_diff_command(name: str | None, retrain: bool, as_json: bool) -> None:
    """Show new, changed and removed products since the last run, and what would be rebuilt and why."""
    from skufp_pipeline.definitions import graph_steps
    from skufp_pipeline.orchestration.schedules import DAILY, WEEKLY, refreshed
    from skufp_pipeline.orchestration.staleness import catalog_diff

    preset = load_preset(name)
    steps = graph_steps(preset)
    among = refreshed(steps, WEEKLY if retrain else DAILY)
    found = catalog_diff(preset, steps, among)
    reasons: dict[str, dict[str, str]] = {}
    for place, reason in found.reasons.items():
        shard = "whole" if place.shard is None else shard_name(place.shard)
        reasons.setdefault(shard, {})[place.asset] = reason
    skipped = preset.shards - len([shard for shard in reasons if shard != "whole"])
    left = sorted({name for name, step in steps.items() if step.trained} - among)
    if as_json:
        output = {"changes": found.changes.to_dicts(), "again": reasons, "shards_skipped": skipped}
        click.echo(json.dumps(output, indent=1))
        return
    for row in found.changes.iter_rows(named=True):
        click.echo(f"{row['change']:<8} {row['sku_id']:<24} {shard_name(row['shard'])}  {row['detail']}")
    click.echo(f"{found.changes.height} SKUs are not as they were")
    for shard, assets in reasons.items():
        click.echo(f"{shard}: " + "; ".join(f"{asset} ({reason})" for asset, reason in assets.items()))
    click.echo(
        f"{skipped} of {preset.shards} shards are skipped; not trained again: {', '.join(left) or '-'}"
    )


@catalog.command("duplicates")
@preset_option
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.98,
    show_default=True,
    help="The least cosine of two pictures' embeddings.",
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the list to this file, too.")
@user_errors
def catalog_duplicates(name: str | None, threshold: float, csv_file: Path | None) -> None:
    """List groups of SKUs whose catalog pictures are the same or nearly, so that searches confuse them."""
    from skufp_pipeline.artifacts.inputs import Inputs
    from skufp_pipeline.fingerprint.tables import EmbeddingTables
    from skufp_pipeline.search.duplicates import find_duplicates
    from skufp_pipeline.show import progress

    if csv_file is not None and not csv_file.parent.is_dir():
        raise UserError(f"--csv {csv_file}: there is no folder {csv_file.parent}")
    preset = load_preset(name)
    inputs = Inputs(ArtifactStore(preset.data_root), preset.shards)
    images, crop_of = EmbeddingTables.images_of(inputs.read_all(CLIP_EMBEDDINGS)), inputs.crop_files()
    inputs.digests()  # raises UserError if crops and embeddings do not belong together
    say = progress(lambda line: click.echo(line, err=True), "blocks of pictures")
    found = find_duplicates(images, crop_of, threshold, say)
    for row in found.iter_rows(named=True):
        alike = f"{row['kind']:<4}  {row['cosine']:.4f}  {row['sku_id']:<24} like {row['like_sku_id']:<24}"
        click.echo(f"{row['group']:>5}  {alike} {row['picture']}")
    click.echo(f"{found.height} SKUs in {found['group'].n_unique()} groups, cosine of at least {threshold:g}")
    if csv_file is not None:
        _write_csv(found, csv_file)


@main.group("index")
def index_group() -> None:
    """Index versions: list them, roll back, publish one in spite of failed checks."""


@index_group.command("list")
@preset_option
@index_option
@user_errors
def index_list(name: str | None, index: str) -> None:
    """List the kept versions, the last published first."""
    store = ArtifactStore(load_preset(name).data_root)
    versions = Versions(store, index)
    if not versions.listed():
        versions.read()  # raises UserError with the reason
    releases, current = versions.releases(), versions.in_use
    order = {version: number for number, version in enumerate(releases.published, start=1)}
    for version in sorted(versions.listed(), key=lambda version: -order.get(version, 0)):
        state = "withdrawn" if version in releases.withdrawn else "published"
        state = "in use" if version == current else state if version in order else "candidate"
        summary = store.read_manifest(versions.key(version)).summary
        click.echo(f"{version}  {state:<9}  " + ", ".join(f"{k} {v}" for k, v in summary.items()))


@index_group.command("rollback")
@preset_option
@index_option
@click.argument("version", required=False)
@user_errors
def index_rollback(name: str | None, index: str, version: str | None) -> None:
    """Put the previous version (or VERSION) back in use; runs do not publish the present one again."""
    versions = Versions(ArtifactStore(load_preset(name).data_root), index)
    click.echo(f"in use: {versions.roll_back(version)}")


@index_group.command("publish")
@preset_option
@index_option
@click.argument("version")
@user_errors
def index_publish(name: str | None, index: str, version: str) -> None:
    """Put VERSION in use even if a check failed or it was rolled back."""
    preset = load_preset(name)
    Versions(ArtifactStore(preset.data_root), index).publish(version, preset.kept_index_versions)
    click.echo(f"in use: {version}")


def _load(name: str | None, allow_removals: bool) -> Preset:
    """The preset; with `allow_removals` a catalogue may lack any number of the SKUs in use."""
    preset = load_preset(name)
    if not allow_removals:
        return preset
    thresholds = preset.evaluation.thresholds.model_copy(update={"skus_removed": 1.0})
    evaluation = preset.evaluation.model_copy(update={"thresholds": thresholds})
    return preset.model_copy(update={"evaluation": evaluation})


def _say(line: str) -> None:
    click.echo(line, err=True)


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        frame.write_csv(temporary, include_bom=True)  # without it a spreadsheet misreads UTF-8
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--csv {path}: {error}") from error
    _say(f"saved {path}")


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
    with dg.DagsterInstance.get() as instance, interruptible_command(instance, _say):
        claim_instance(instance, preset)
        outcome = run(instance, _say)
    _say(f"the graph of preset {preset.name} is materialized: {outcome.total:.0f} s")
    for check in outcome.failed_checks:
        _say(f"check not passed: {check}")
    annotations = ANNOTATIONS.read(ArtifactStore(preset.data_root))
    _say(f"catalogue: {annotations.counts}")
    if annotations.counts.skipped_items:
        _say(f"left out rows: {annotations.path / 'skipped_items.parquet'}; `skufp catalog check` lists them")


def _engine(
    preset: Preset,
    store: ArtifactStore,
    policy: "UsePolicy" = "auto",
    index: str = FINGERPRINTS,
    words: bool = True,
) -> "QueryEngine":
    from skufp_pipeline.search.engine import QueryEngine
    from skufp_pipeline.training.device import pick_device

    device = pick_device(preset.compute.device)
    return QueryEngine.open(store, device, preset.query_encoder, policy, index, words)


def _examples(store: ArtifactStore, preset: Preset) -> tuple[Path, str]:
    """A photo and a sentence from an evaluation query of a validation SKU."""
    for shard in range(preset.shards):
        rows = IMAGE_TEXT.read(store, shard).images()
        rows = rows.filter((pl.col("role") == "evaluation") & (pl.col("split") == "validation"))
        if rows.height:
            first = rows.row(0, named=True)
            return SKU_CROPS.read(store, shard).path / first["image_path"], first["text"]
    raise UserError("the data set has no evaluation query of a validation SKU to show")


def _print_report(store: ArtifactStore, as_json: bool) -> None:
    from skufp_pipeline.evaluation.report import Report
    from skufp_pipeline.evaluation.tables import text_tables

    found = Report.read(RETRIEVAL_REPORT.read(store).report)
    click.echo(found.to_json() if as_json else text_tables(found))


def _print_answer(answer: "Answer") -> None:
    for hit in answer.hits:
        name = hit.title or hit.category_name or ""
        matched = f"  ({', '.join(hit.matched)})" if hit.matched else ""
        click.echo(f"{hit.rank:>3}  {hit.score:.4f}  {hit.sku_id:<24} {name:<24} {hit.image}{matched}")
    spent = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in answer.milliseconds.items())
    click.echo(f"     {spent}" + (f"; policy: {answer.action}" if answer.action else ""))


class _Query:
    """The query of `skufp search`: a photo, a text, both, or a SKU; raises UserError for other options."""

    def __init__(
        self, image: Path | None, text: str | None, text_weight: float | None, like: str | None
    ) -> None:
        if (like is None) == (image is None and text is None):
            raise UserError('give --image FILE or --text "..." or both, or --like SKU_ID alone')
        if text_weight is not None and (image is None or text is None):
            raise UserError("--text-weight needs both --image and --text")
        self.image, self.text = image, text
        self.like = None if like is None else unicodedata.normalize("NFC", like)
        self.text_weight = 0.5 if text_weight is None else text_weight

    def ask(self, engine: "QueryEngine", top: int, within: "Rows | None") -> "Answer":
        if self.like is not None:
            return engine.search_like(self.like, top, within)
        if self.image is None:
            return engine.search_text(self.text or "", top, within)
        if self.text is None:
            return engine.search_image(self.image, top, within)
        return engine.search_mixed(self.image, self.text, self.text_weight, top, within)

    def shown(self, engine: "QueryEngine") -> "NDArray[np.uint8] | str":
        """The query as the results picture shows it: pixels, or text if there is no picture."""
        import numpy as np

        from skufp_pipeline.search.engine import read_photo

        if self.like is not None:
            picture = engine.picture(self.like)
            return self.like if picture is None else np.asarray(read_photo(picture))
        return np.asarray(read_photo(self.image)) if self.image is not None else self.text or ""


def _rows_to_search(index: "FingerprintIndex", where: tuple[str, ...], within: Path | None) -> "Rows | None":
    """The rows selected by --where and --within; None for all."""
    columns: dict[str, list[str]] = {}
    chosen: list[Rows] = []
    for condition in where:
        found = CONDITION.fullmatch(unicodedata.normalize("NFC", condition))
        if found is None:
            raise UserError(
                f"--where {condition!r}: expected column=value, such as category_name=shorts, or a range, "
                "such as price<=50"
            )
        column, sign, value = found.groups()
        if sign == "=":
            columns.setdefault(column, []).append(value)
        else:
            chosen.append(index.compare(column, sign, value))
    if columns:
        chosen.append(index.where(**columns))
    if within is not None:
        chosen.append(_listed(index, within))
    return reduce(and_, chosen) if chosen else None


def _listed(index: "FingerprintIndex", path: Path) -> "Rows":
    """The rows of a list of SKU ids; ids that the index lacks are counted on stderr."""
    from skufp_pipeline.search.segment import some

    sku_ids = _sku_ids(path)
    rows, unknown = index.known_skus(sku_ids)
    if not rows.count:
        raise UserError(f"--within {path}: {some(unknown)} is not in the index, so no SKU is left")
    if len(unknown):
        counted = f"{len(unknown)} of {len(set(sku_ids))} ids {'is' if len(unknown) == 1 else 'are'}"
        click.echo(f"--within {path}: {counted} not in the index: {some(unknown)}", err=True)
    return rows


def _sku_ids(path: Path) -> list[str]:
    """The ids of a file: its column sku_id if it has one, else its lines."""
    from skufp_pipeline.datasets.cells import sku_id_of
    from skufp_pipeline.datasets.text_files import read_cells, read_text

    text = read_text(path)
    lines = text.splitlines()
    header = next((line for line in lines if line.strip()), "")
    if column := ID_COLUMN.search(header):
        rows = read_cells(path, text, [column["name"]])
        place = [name.strip() for name in rows[0]].index(column["name"])
        lines = [row[place] for row in rows[1:] if len(row) > place]
    try:
        sku_ids = [sku_id_of(line) for line in lines if line.strip()]
    except ItemError as error:
        raise UserError(f"--within {path}: {error.detail}") from error
    if not sku_ids:
        raise UserError(f"--within {path} holds no SKU id; expected one a line")
    return sku_ids


def _save_picture(
    answer: "Answer", query: "NDArray[np.uint8] | str", engine: "QueryEngine", target: Path
) -> None:
    from skufp_pipeline.evaluation.figures import GridRow, results_grid

    hits = [(engine.picture(hit.sku_id) or b"", hit.sku_id, hit.score) for hit in answer.hits]
    try:
        target.write_bytes(results_grid([GridRow(query, None, hits)], shown=len(hits)))
    except OSError as error:
        raise UserError(f"--save {target}: {error}") from error
    click.echo(f"saved {target}", err=True)


if __name__ == "__main__":
    sys.exit(main())
