"""The logger of a person at a terminal."""

import dagster as dg
import pytest

from skufp_pipeline.resources.logger import plain_logger


def run(capfd: pytest.CaptureFixture[str], *assets: dg.AssetsDefinition) -> str:
    """What a run of these assets prints."""
    job = dg.Definitions(assets=assets, loggers={"plain": plain_logger})
    job.resolve_implicit_global_asset_job_def().execute_in_process(
        run_config={"loggers": {"plain": {}}}, raise_on_error=False
    )
    return capfd.readouterr().err


def test_prints_what_an_asset_says_and_none_of_dagsters_bookkeeping(capfd) -> None:
    @dg.asset
    def shirts(context: dg.AssetExecutionContext) -> None:
        context.log.debug("not for people")
        context.log.info("3 shirts")
        context.log.warning("one is torn")

    assert run(capfd, shirts) == "    shirts: 3 shirts\n    shirts: one is torn\n"


def test_leaves_a_failure_to_the_command_line(capfd) -> None:
    @dg.asset
    def shirts(context: dg.AssetExecutionContext) -> None:
        raise dg.Failure("no shirts", allow_retries=False)

    @dg.asset(deps=["shirts"])
    def sold_shirts() -> None: ...

    assert run(capfd, shirts, sold_shirts) == ""
