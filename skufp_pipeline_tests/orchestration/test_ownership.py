"""A Dagster instance keeps the results of one data root, and refuses those of a second."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.definitions import build_defs
from skufp_pipeline.errors import UserError
from skufp_pipeline.orchestration.ownership import claim_instance
from skufp_pipeline.presets import Preset, load_preset

from ..graphs import SMALL, failure, write_preset


def preset_in(folder: Path) -> Preset:
    (folder / "data").mkdir(parents=True)
    return load_preset(str(write_preset(folder, SMALL)))


def raw_dataset(preset: Preset, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = build_defs(preset).resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey("raw_dataset")]
    return job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def test_no_step_of_a_second_preset_is_recorded_in_the_instance_of_the_first(tmp_path: Path) -> None:
    first, second = preset_in(tmp_path / "first"), preset_in(tmp_path / "second")
    with dg.DagsterInstance.ephemeral() as instance:
        claim_instance(instance, first)
        told = failure(raw_dataset(second, instance))
        assert str(tmp_path / "first" / "data") in told
        assert str(tmp_path / "second" / "data") in told
        assert told.endswith("set DAGSTER_HOME to another folder for it")
        assert instance.get_latest_materialization_event(dg.AssetKey("raw_dataset")) is None
        assert list((tmp_path / "second" / "data").iterdir()) == []


def test_an_instance_on_disk_remembers_its_data_root(tmp_path: Path) -> None:
    first, second = preset_in(tmp_path / "first"), preset_in(tmp_path / "second")
    home = str(tmp_path)
    with dg.DagsterInstance.local_temp(home) as instance:
        claim_instance(instance, first)
    with dg.DagsterInstance.local_temp(home) as instance:
        claim_instance(instance, first)
        with pytest.raises(UserError, match=r"^\$DAGSTER_HOME holds the runs of the data root .*first"):
            claim_instance(instance, second)


def test_an_instance_whose_data_root_is_gone_takes_another(tmp_path: Path) -> None:
    first, second = preset_in(tmp_path / "first"), preset_in(tmp_path / "second")
    with dg.DagsterInstance.ephemeral() as instance:
        claim_instance(instance, first)
        shutil.rmtree(first.data_root)
        claim_instance(instance, second)
        with pytest.raises(UserError, match=r"holds the runs of the data root .*second"):
            claim_instance(instance, preset_in(tmp_path / "third"))
