"""Trains and judges the small worlds of the image-level systems, and prints one table from their reports.

python benchmarks/sisters.py --json sisters.json --markdown

street2shop-mini   photos of the street ask towers, fingerprints and every stage of the chain
lens               synthetic photos ask for pictures that a fold's training has not seen (zero), or has (seen)

Each preset is materialized as by `skufp materialize --preset`, in the data root that its file names
($SKUFP_DATA_ROOT, which would be one for both, is not read); what is there already is not computed again.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from skufp_pipeline.artifacts.places import IMAGE_SEARCH_REPORT, LENS_REPORT
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.image_search import FINGERPRINT, TOP
from skufp_pipeline.evaluation.tables import ABSENT, SETTING_LABELS, Table, interval_text
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.store import ArtifactStore

PRESETS = ("street2shop-mini", "lens")
OF_ONE_PRESET = ("DAGSTER_HOME", "SKUFP_PRESET", "SKUFP_DATA_ROOT")
NOTE = (
    "± is half of the 95% bootstrap interval over products. A gain in R@1 is paired with what Over names, * "
    "if its interval leaves out 0; in lens it is the training's own. p95 is from the photo to the answer. A "
    "stage that is off got weight 0 by development photos."
)
Row = Mapping[str, Any]


def materialize(name: str) -> dict[str, float]:
    """Materializes a preset by the command line, with a Dagster instance of its own; returns what it took."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-m", "skufp_pipeline.cli", "materialize", "--preset", name]
    if subprocess.run(words, check=False).returncode:
        raise click.ClickException(f"preset {name} could not be materialized; its last line says why")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begin, "processor_seconds": spent}


def rows_of(preset: Preset) -> list[dict[str, Any]]:
    """The rows of a preset's report, in the same columns for both worlds."""
    store = ArtifactStore(preset.data_root)
    if preset.lens is not None:
        found = LENS_REPORT.read(store).rows()
        return [
            {**row, "method": named(row["extractor"], preset), "over": "before training"} for row in found
        ]
    figures = IMAGE_SEARCH_REPORT.read(store).figures().to_dicts()
    return [{**row, "method": method_of(row, preset)} for row in figures]


def method_of(row: Row, preset: Preset) -> str:
    """The name of a system, and of a stage with what was asked."""
    if FINGERPRINT in (row["system"], row["over"]):
        return named(row["system"], preset)
    return f"chain, {row['asked']}: {row['system']}{', off' if row['off'] else ''}"


def named(system: str, preset: Preset) -> str:
    """A system with its network."""
    settings = preset.extractors.wanted().get(system, preset.encoder)
    return f"{system} ({settings.model})" if hasattr(settings, "model") else system


def table_of(worlds: Mapping[str, Iterable[Row]]) -> Table:
    """The one table."""
    header = ["Method", "Setting", "World", "Queries", *(f"R@{top}" for top in TOP)]
    header += ["Gain in R@1", "Over", "p95 (ms)", "MB"]
    return Table(header, [[*cells(row, world)] for world, rows in worlds.items() for row in rows])


def cells(row: Row, world: str) -> Iterable[str]:
    yield from (row["method"], SETTING_LABELS[row["setting"]], world, f"{row['queries']:,}")
    for top in TOP:
        low, high = row[f"recall@{top}_low"], row[f"recall@{top}_high"]
        yield f"{row[f'recall@{top}']:.3f} ± {(high - low) / 2:.3f}"
    gained = row["gain"] is not None
    yield interval_text(row["gain"], row["gain_low"], row["gain_high"]) if gained else ABSENT
    yield from (row["over"] or ABSENT, f"{row['p95_ms']:.1f}", f"{row['bytes'] / 1e6:.2f}")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write rows and times here.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def main(names: tuple[str, ...], json_path: Path | None, markdown: bool) -> None:
    """Materializes both worlds, or the presets NAMES, and prints their table."""
    names = names or PRESETS
    for variable in OF_ONE_PRESET:
        os.environ.pop(variable, None)
    try:
        presets = {name: load_preset(name) for name in names}
        spent = {name: materialize(name) for name in names}
        worlds = {name: rows_of(preset) for name, preset in presets.items()}
        table = table_of(worlds)
        click.echo(f"{table.markdown() if markdown else table.text()}\n\n{NOTE}\n")
        for name, one in spent.items():
            click.echo(f"{name}: {one['seconds']:.0f} s, {one['processor_seconds']:.0f} s of processor time")
        if json_path:
            json_path.write_text(json.dumps({"spent": spent, "worlds": worlds}, indent=1) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
