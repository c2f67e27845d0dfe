"""`skufp report`: how good the results are."""

import click

from skufp_pipeline.artifacts.places import RETRIEVAL_REPORT
from skufp_pipeline.cli.options import preset_option, user_errors
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore


@click.command()
@preset_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@user_errors
def report(name: str | None, as_json: bool) -> None:
    """Print the tables of the last retrieval report."""
    print_report(ArtifactStore(load_preset(name).data_root), as_json)


def print_report(store: ArtifactStore, as_json: bool) -> None:
    from skufp_pipeline.evaluation.report import Report
    from skufp_pipeline.evaluation.tables import text_tables

    found = Report.read(RETRIEVAL_REPORT.read(store).report)
    click.echo(found.to_json() if as_json else text_tables(found))
