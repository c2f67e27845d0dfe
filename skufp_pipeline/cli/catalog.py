"""`skufp catalog`: what is in the catalogue, what has changed, and products that look alike."""

import json
from pathlib import Path

import click

from skufp_pipeline.artifacts.places import CLIP_EMBEDDINGS, RAW_DATASET
from skufp_pipeline.cli.options import preset_option, say, user_errors, write_csv
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore, shard_name


@click.group()
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
    found = preset.dataset.items(raw, preset.splits, progress(say, "rows and images"))
    counts = CatalogueCounts.of(found.items, found.skipped)
    write_csv(found.skipped, table)
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
    found = find_duplicates(images, crop_of, threshold, progress(say, "blocks of pictures"))
    for row in found.iter_rows(named=True):
        alike = f"{row['kind']:<4}  {row['cosine']:.4f}  {row['sku_id']:<24} like {row['like_sku_id']:<24}"
        click.echo(f"{row['group']:>5}  {alike} {row['picture']}")
    click.echo(f"{found.height} SKUs in {found['group'].n_unique()} groups, cosine of at least {threshold:g}")
    if csv_file is not None:
        write_csv(found, csv_file)
