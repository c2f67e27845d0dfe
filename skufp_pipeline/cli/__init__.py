"""The `skufp` command line. A UserError prints one line on stderr and exits with status 1.

One module per family of commands; what they share is in `options`. A command imports the heavy libraries that
it needs when it runs.
"""

import sys

import click

from skufp_pipeline.cli import catalog, doctor, evaluate, export, feedback, index, init, run, search, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One fingerprint per SKU: build the graph, search it, read its report."""
    if sys.platform == "win32":
        raise click.ClickException("skufp runs on Linux and macOS; on Windows, run it inside WSL 2")


for command in (
    *(
        init.init,
        run.materialize,
        run.refresh,
        run.demo,
        search.search,
        serve.serve,
        serve.serve_key,
        feedback.feedback_group,
        evaluate.report,
        evaluate.evaluate,
    ),
    *(catalog.catalog, index.index_group, export.export, doctor.doctor, doctor.setup_instance),
):
    main.add_command(command)
