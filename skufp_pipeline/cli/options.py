"""What all commands share: their options, their error handling, and how they print and write."""

import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset
from skufp_pipeline.search.versions import FINGERPRINTS
from skufp_pipeline.store import ArtifactStore

if TYPE_CHECKING:
    from skufp_pipeline.query.engine import QueryEngine, UsePolicy

preset_option = click.option(
    "--preset", "name", help="A preset's name or YAML file; $SKUFP_PRESET or demo by default."
)

index_option = click.option(
    "--index",
    "index",
    help=f"Which index of the data root; by default {FINGERPRINTS}, or the first that the preset serves.",
)

removals_option = click.option(
    "--allow-removals", is_flag=True, help="Go on although the catalogue lacks many of the SKUs in use."
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


def say(line: str) -> None:
    click.echo(line, err=True)


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        frame.write_csv(temporary, include_bom=True)  # without it a spreadsheet misreads UTF-8
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--csv {path}: {error}") from error
    say(f"saved {path}")


def open_engine(
    preset: Preset,
    store: ArtifactStore,
    policy: "UsePolicy" = "auto",
    index: str | None = None,
    words: bool = True,
    look_twice: bool = True,
) -> "QueryEngine":
    """Opens the engine of an index, with as many threads as the service has, so that both answer alike."""
    from skufp_pipeline.query.engine import QueryEngine
    from skufp_pipeline.query.threads import share_processors, threads_of_one
    from skufp_pipeline.training.device import pick_device

    device, asked = pick_device(preset.compute.device), index or preset.usual_index
    threads = threads_of_one(preset.serving.running)
    share_processors(threads)
    given = policy, asked, words, look_twice
    return QueryEngine.open(store, device, preset.query_encoder, *given, threads=threads)
