"""`skufp serve`: answers over HTTP."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skufp_pipeline.cli.options import preset_option, say, user_errors
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore

if TYPE_CHECKING:
    from skufp_pipeline.serving.keys import Role


@click.command()
@preset_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0: a free one."
)
@user_errors
def serve(name: str | None, host: str, port: int) -> None:
    """Answer searches over HTTP (`/v1`, described at /docs) and show a page to search with.

    New versions of the index are taken into use as they are published; Ctrl-C or SIGTERM ends the service
    once running requests are answered.
    """
    preset = load_preset(name)
    listening = _listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"open http://{shown}:{listening.getsockname()[1]}")
    from skufp_pipeline.serving.server import run

    run(preset, ArtifactStore(preset.data_root), listening)


@click.command("serve-key")
@click.argument("key_name", metavar="NAME")
@preset_option
@click.option(
    "--role",
    type=click.Choice(["shopper", "admin"]),
    default="shopper",
    show_default=True,
    help="What it may do.",
)
@click.option(
    "--expires", type=click.DateTime(["%Y-%m-%d"]), help="The day it ends, in UTC; never by default."
)
@user_errors
def serve_key(key_name: str, name: str | None, role: "Role", expires: datetime | None) -> None:
    """Make an API key for the service and print it, once; its hash goes into the file serving.keys."""
    preset = load_preset(name)
    if preset.serving.keys is None:
        raise UserError(
            f"preset {preset.name} names no file of API keys; give it one, such as "
            "`serving: {keys: keys.yaml}`"
        )
    from skufp_pipeline.serving.keys import add_key

    ends = None if expires is None else expires.replace(tzinfo=UTC)
    fresh = add_key(Path(preset.serving.keys), key_name, role, ends)
    say(f"{preset.serving.keys} has its hash; this is shown once:")
    click.echo(fresh)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises UserError if it can't."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"can't listen on {host}:{port}: {error}; choose another --host or --port") from error
