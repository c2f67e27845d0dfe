"""`skufp index`: the kept versions of an index."""

import click

from skufp_pipeline.cli.options import index_option, preset_option, user_errors
from skufp_pipeline.presets import load_preset
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import ArtifactStore


@click.group("index")
def index_group() -> None:
    """Index versions: list them, roll back, publish one in spite of failed checks."""


@index_group.command("list")
@preset_option
@index_option
@user_errors
def index_list(name: str | None, index: str | None) -> None:
    """List the kept versions, the last published first."""
    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    versions = Versions(store, index or preset.usual_index)
    if not versions.listed():
        versions.read()  # raises UserError with the reason
    for version in versions.by_publication():
        summary = store.read_manifest(versions.key(version)).summary
        click.echo(
            f"{version}  {versions.state(version):<9}  " + ", ".join(f"{k} {v}" for k, v in summary.items())
        )


@index_group.command("rollback")
@preset_option
@index_option
@click.argument("version", required=False)
@user_errors
def index_rollback(name: str | None, index: str | None, version: str | None) -> None:
    """Put the previous version (or VERSION) back in use; runs do not publish the present one again."""
    preset = load_preset(name)
    versions = Versions(ArtifactStore(preset.data_root), index or preset.usual_index)
    click.echo(f"in use: {versions.roll_back(version)}")


@index_group.command("publish")
@preset_option
@index_option
@click.argument("version")
@user_errors
def index_publish(name: str | None, index: str | None, version: str) -> None:
    """Put VERSION in use even if a check failed or it was rolled back."""
    preset = load_preset(name)
    versions = Versions(ArtifactStore(preset.data_root), index or preset.usual_index)
    versions.publish(version, preset.kept_index_versions)
    click.echo(f"in use: {version}")
