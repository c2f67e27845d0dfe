"""`skufp report` and `evaluate`: how good the results are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import polars as pl

from skufp_pipeline.artifacts.places import ANNOTATIONS, LENS_REPORT, RETRIEVAL_REPORT
from skufp_pipeline.cli.options import index_option, open_engine, preset_option, say, user_errors, write_csv
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore

if TYPE_CHECKING:
    from skufp_pipeline.evaluation.photos import PhotoReport

LISTED = 5  # photos that are named on stderr


@click.command()
@preset_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@user_errors
def report(name: str | None, as_json: bool) -> None:
    """Print the tables of the last retrieval report, or of the comparison of a graph of pictures."""
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    if preset.graph == "pictures":
        print_comparison(store, as_json)
    else:
        print_report(store, as_json)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@preset_option
@index_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    help="Write a row per photo to this file: the rank of the right product, or why it was left out.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Judge this many of the photos; all by default.")
@user_errors
def evaluate(
    photos: Path, name: str | None, index: str | None, as_json: bool, csv_file: Path | None, limit: int | None
) -> None:
    """Judge the index in use with labelled photos that no training has seen.

    PHOTOS is a CSV or Parquet file of the columns sku_id and image_path, which is relative to its folder, and
    optionally bbox ("x1,y1,x2,y2", pixels of the upright photo).
    """
    from skufp_pipeline.datasets.manifest import ManifestSettings, read_photos
    from skufp_pipeline.evaluation.photos import judge_photos, photos_to_judge, text_report
    from skufp_pipeline.show import progress

    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    found = read_photos(photos, ManifestSettings(path=str(photos)))
    engine = open_engine(preset, store, index=index)
    used = ANNOTATIONS.read(store).items()
    judged = photos_to_judge(found, photos.parent, used, limit)
    result = judge_photos(
        engine, judged, preset.seed, preset.evaluation.resamples, progress(say, "photos judged")
    )
    _say_what_is_special(result)
    if csv_file is not None:
        write_csv(result.listing(), csv_file)
    click.echo(json.dumps(result.summary(), indent=1) if as_json else text_report(result))


def print_report(store: ArtifactStore, as_json: bool) -> None:
    from skufp_pipeline.evaluation.report import Report
    from skufp_pipeline.evaluation.tables import text_tables

    found = Report.read(RETRIEVAL_REPORT.read(store).report)
    click.echo(found.to_json() if as_json else text_tables(found))


def print_comparison(store: ArtifactStore, as_json: bool) -> None:
    from skufp_pipeline.evaluation.lens_report import lens_tables

    found = LENS_REPORT.read(store).json("lens_report")
    click.echo(json.dumps(found, indent=1) if as_json else lens_tables(found))


def _say_what_is_special(result: "PhotoReport") -> None:
    """Says on stderr which photos were left out and which SKUs the index lacks."""
    for (reason,), rows in result.left_out.group_by("reason", maintain_order=True):
        say(f"left out: {_counted(rows['path'])} ({reason}: {rows['detail'][0]})")
    missed = result.table.filter(pl.col("rank").is_null())
    if missed.height:
        skus = ", ".join(result.unknown_skus()[:LISTED])
        say(f"not found: {_counted(missed['image_path'])}: the index lacks their SKUs, such as {skus}")


def _counted(paths: pl.Series) -> str:
    shown = ", ".join(str(path) for path in paths.head(LISTED))
    return f"{len(paths)} of the photos, {shown}{', ...' if len(paths) > LISTED else ''}"
