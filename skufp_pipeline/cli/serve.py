"""`skufp serve`: answers over HTTP."""

import socket

import click

from skufp_pipeline.cli.options import preset_option, say, user_errors
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore


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


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises UserError if it can't."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"can't listen on {host}:{port}: {error}; choose another --host or --port") from error
