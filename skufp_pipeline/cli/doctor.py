"""`skufp doctor` and `setup-instance`: whether the results and Dagster's home are in order."""

import click

from skufp_pipeline.cli.options import preset_option, user_errors
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore


@click.command()
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


@click.command("setup-instance")
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
