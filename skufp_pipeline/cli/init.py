"""`skufp init`: from a catalogue to a preset."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skufp_pipeline.cli.options import say, user_errors, write_csv
from skufp_pipeline.compute import freed_memory_kept
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import YOURS, Preset
from skufp_pipeline.presets.shop import TOWERS, choose_tower, plan, preset_of, preset_text, work, write_text

if TYPE_CHECKING:
    from skufp_pipeline.datasets.overview import Overview
    from skufp_pipeline.datasets.table import Catalogue

LISTED = "photos.csv"  # in the folder of photos
MEASURED = 16  # pictures of the catalogue that the time is measured on


@click.command()
@click.argument("catalogue", type=click.Path(path_type=Path))
@click.option("--name", default="shop", show_default=True, help="The preset's name.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The preset's file; presets/NAME.yaml by default."
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    help="A folder of customers' photos, FOLDER/SKU_ID/*.jpg, to list for `skufp evaluate`; not trained on.",
)
@click.option(
    "--tower", type=click.Choice(list(TOWERS)), help="The encoder; by default one that is installed."
)
@click.option("--clip", is_flag=True, help="CLIP from the hub: the same as --tower clip.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@user_errors
def init(
    catalogue: Path,
    name: str,
    out: Path | None,
    photos: Path | None,
    tower: str | None,
    clip: bool,
    force: bool,
) -> None:
    """Read a catalogue, say what is in it and what will be done with it, and write its preset.

    CATALOGUE is a CSV or Parquet file of the columns sku_id and image_path (relative to its folder, or an
    address), and any words; see docs/your-own-catalogue.md.
    """
    from skufp_pipeline.datasets.overview import Overview

    if catalogue.is_dir():
        raise UserError(
            f"{catalogue} is a folder; expected a CSV or Parquet file. Pictures without SKUs need no init: "
            f"SKUFP_PICTURES={catalogue} skufp materialize --preset lens"
        )
    target = out or YOURS / f"{name}.yaml"
    if clip and tower not in (None, "clip"):
        raise UserError(f"--clip and --tower {tower} name two towers; give one")
    chosen = choose_tower("clip" if clip else tower)
    for path in (target, *([] if photos is None else [photos / LISTED])):
        if path.exists() and not force:
            raise UserError(f"{path} exists; --force overwrites it")
    found = _read(catalogue)
    overview = Overview.of(found)
    text = preset_text(name, catalogue, overview.counts.skus, chosen)
    preset = preset_of(text)
    click.echo(f"{catalogue}:")
    for line in overview.lines():
        click.echo(f"  {line}")
    time = _time(preset, found, overview)  # first, because it fails where the tower can't be had
    if photos is not None:
        _list_photos(photos, found)
    write_text(target, text)
    click.echo(f"\n{target} is written. It will do:")
    for line in [f"tower: {TOWERS[chosen].what}", *plan(preset, overview), time]:
        click.echo(f"  {line}")
    known_as = name if target == YOURS / f"{name}.yaml" else str(target)
    listed = "PHOTOS.csv" if photos is None else photos / LISTED
    click.echo(
        f"\nNext:\n  skufp materialize --preset {known_as}\n"
        f"  skufp search --preset {known_as} --image PHOTO.jpg\n"
        f"  skufp evaluate {listed} --preset {known_as}"
    )


def _read(catalogue: Path) -> "Catalogue":
    """The catalogue, read as `skufp catalog check` does."""
    from skufp_pipeline.datasets.catalogue import require_searchable
    from skufp_pipeline.datasets.sources import ManifestDataset
    from skufp_pipeline.datasets.splits import SplitSettings
    from skufp_pipeline.show import progress

    dataset = ManifestDataset.model_validate({"source": "manifest", "read": {"path": str(catalogue)}})
    found = dataset.items(Path(), SplitSettings(), progress(say, "rows and images"))
    require_searchable(found.items)
    return found


def _list_photos(folder: Path, found: "Catalogue") -> None:
    from skufp_pipeline.datasets.photo_folder import list_photos

    listed = list_photos(folder, found.items["sku_id"].unique())
    write_csv(listed.rows, folder / LISTED)
    skus = listed.rows["sku_id"].n_unique()
    click.echo(f"  {folder}: {listed.rows.height:,} photos, SKUs: {skus:,}, for `skufp evaluate` alone")
    left_out = {"folders that name no SKU": listed.unknown, "files that are no pictures": listed.unreadable}
    for what, names in left_out.items():
        if names:
            click.echo(f"  left out: {what}, {len(names)}: {_some(names)}")


def _time(preset: Preset, found: "Catalogue", overview: "Overview") -> str:
    """How long the encoder takes on this machine, measured on some pictures of the catalogue."""
    import polars as pl

    from skufp_pipeline.encoders.clip import create_encoder
    from skufp_pipeline.encoders.timing import measure_speed
    from skufp_pipeline.training.device import pick_device

    say("measuring how long the tower takes on this machine")
    find = preset.dataset.find(Path())
    catalog = found.items.filter(pl.col("domain") == "catalog")["orig_image_path"]
    paths = [find(path) for path in catalog.unique(maintain_order=True).head(MEASURED)]
    encoder = create_encoder(preset.encoder, pick_device(preset.compute.device), preset.seed)
    with freed_memory_kept():  # as in a run
        speed = measure_speed(encoder, paths, preset.encoder)
    todo = work(preset, overview)
    embedding, training = todo.embedded * speed.embedding, todo.trained * speed.training
    return (
        f"time on this machine: {about(embedding + training)}: training {about(training)} "
        f"({todo.trained:,} pictures, {1 / speed.training:.0f} a second), embedding {about(embedding)} "
        f"({todo.embedded:,} pictures, {1 / speed.embedding:.0f} a second)"
    )


def about(seconds: float) -> str:
    """A duration as a person would guess it.

    >>> [about(seconds) for seconds in (3, 70, 1500, 9000)]
    ['less than a minute', 'about 1 minute', 'about 25 minutes', 'about 2.5 hours']
    """
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    if minutes >= 90:
        return f"about {minutes / 60:.1f} hours"
    return f"about {minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
