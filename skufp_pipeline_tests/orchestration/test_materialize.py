"""A materialization stops at the first mistake and tells it in one line; its instance is set up for it."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from skufp_pipeline.errors import UserError
from skufp_pipeline.orchestration import materialize
from skufp_pipeline.orchestration.materialize import Outcome, instance_home, materialize_graph
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore

from ..datasets.trees import truncate
from ..graphs import SMALL, Graph, command, copy_graph, digests, environment, times_of_change, write_preset
from ..living import materialized
from ..servers import wait_until

MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def message(assets: list) -> str:
    """What `materialize_graph` would say of a run of these assets."""
    result = dg.materialize(assets, raise_on_error=False)
    assert not result.success
    return materialize._first_failure(result)


def test_a_users_mistake_is_told_in_its_own_words_and_not_in_its_causes() -> None:
    @dg.asset
    def shirts() -> None:
        try:
            raise OSError("[Errno 5]")
        except OSError as error:
            raise dg.Failure("shirts.csv can't be read; mend it", allow_retries=False) from error

    assert message([shirts]) == "shirts failed: shirts.csv can't be read; mend it"


def test_a_users_mistake_inside_a_check_is_told_in_its_own_words() -> None:
    @dg.asset
    def shirts() -> None: ...

    @dg.asset_check(asset=shirts)
    def counted() -> dg.AssetCheckResult:
        try:
            raise OSError("[Errno 5]")
        except OSError as error:
            raise UserError("no shirts; add some") from error

    assert message([shirts, counted]) == "shirts_counted failed: no shirts; add some"


def test_any_other_error_is_told_by_the_first_line_of_its_cause() -> None:
    @dg.asset
    def shirts() -> None:
        try:
            raise ValueError("bad size\nand a long story")
        except ValueError as error:
            raise RuntimeError("wrapped") from error

    assert message([shirts]) == "shirts failed: ValueError: bad size"


def test_a_blocking_check_is_told_with_what_it_found() -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("counted", asset="shirts", blocking=True)])
    def shirts() -> dg.MaterializeResult:
        failed = dg.AssetCheckResult(check_name="counted", passed=False, metadata={"found": 2, "wanted": 3})
        return dg.MaterializeResult(check_results=[failed])

    assert message([shirts]) == "the check shirts:counted did not pass: found 2, wanted 3"


def test_an_unchanged_graph_is_skipped_file_by_file(spoilt: Graph, instance: dg.DagsterInstance) -> None:
    root = Path(spoilt.preset.data_root)
    before = times_of_change(root)
    lines: list[str] = []
    outcome = materialize_graph(spoilt.preset, instance, lines.append)
    after = times_of_change(root)
    changed = {file for file in {*before, *after} if before.get(file) != after.get(file)}
    assert changed <= {"index/fingerprints/CURRENT"}
    assert outcome.failed_checks == []
    computed = [
        record.asset_materialization.metadata["computed"].value  # type: ignore[union-attr]
        for key in instance.all_asset_keys()
        for record in instance.fetch_materializations(key, limit=100).records
    ]
    shards, sharded, single = 2, 5, 12
    assert computed == [0] * (shards * sharded + single)
    assert re.fullmatch(
        r"\[2/6\] build_catalog_shards took \S+ s, skipped 4 of 4 results as unchanged", lines[3]
    )


@pytest.fixture
def instance_on_disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@dataclass(frozen=True)
class SideBySide:
    """A materialization by workers: its instance, what it said, and what came of it."""

    instance: dg.DagsterInstance
    lines: list[str]
    outcome: Outcome


@pytest.fixture(scope="module")
def side_by_side(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SideBySide]:
    """The small graph again, each of its steps one thread, on an instance on disk."""
    preset = copy_graph(small_graph, tmp_path_factory.mktemp("again")).preset
    preset = preset.model_copy(update={"compute": preset.compute.model_copy(update={"threads": 1})})
    lines: list[str] = []
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance:
        yield SideBySide(instance, lines, materialize_graph(preset, instance, lines.append))


def test_on_an_instance_on_disk_two_workers_make_every_run(
    small_graph: Graph, side_by_side: SideBySide
) -> None:
    instance = side_by_side.instance
    assert len(materialized(instance)) == len(small_graph.steps)
    assert sum(" took " in line for line in side_by_side.lines) == len(side_by_side.outcome.seconds) == 6
    processes = {
        event.pid
        for run in instance.get_runs()
        for event in (record.dagster_event for record in instance.all_logs(run.run_id))
        if event is not None and event.pid is not None
    }
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_runs_side_by_side_wait_for_what_they_need(small_graph: Graph, side_by_side: SideBySide) -> None:
    instance = side_by_side.instance
    spans: dict[str, list[tuple[float, float]]] = {}
    for record in instance.get_run_records():
        for event in instance.all_logs(record.dagster_run.run_id, of_type=MATERIALIZATION):
            key = event.get_dagster_event().asset_key
            assert key is not None
            spans.setdefault(key.to_user_string(), []).append((record.start_time or 0, event.timestamp))
    for name, step in small_graph.steps.items():
        for need in step.upstream:
            own_run = {span[0] for span in spans[name]} & {span[0] for span in spans[need]}
            assert own_run or max(end for _, end in spans[need]) <= min(start for start, _ in spans[name])


def test_the_last_shard_of_a_stage_is_made_when_all_others_are(side_by_side: SideBySide) -> None:
    for stage in ("build_catalog_shards", "embed_shards"):
        records = [r for r in side_by_side.instance.get_run_records() if r.dagster_run.job_name == stage]
        for made in {record.dagster_run.asset_selection for record in records}:
            mine = [record for record in records if record.dagster_run.asset_selection == made]
            *others, last = sorted(mine, key=lambda record: record.dagster_run.tags["dagster/partition"])
            assert all((other.end_time or 0) <= (last.start_time or 0) for other in others)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers under /proc")
def test_workers_do_not_outlive_a_command_that_was_killed(tmp_path: Path) -> None:
    preset = write_preset(tmp_path, {**SMALL, "compute": {"threads": 1}})
    words, variables = command("materialize", "--preset", preset), environment(DAGSTER_HOME=str(tmp_path))
    with subprocess.Popen(words, env=variables, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        assert any("[2/" in line for line in killed.stderr)
        workers = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
        assert len(workers) >= 2  # two, and what looks after shared memory
        killed.kill()
    wait_until(
        lambda: not any(Path("/proc", worker).exists() for worker in workers), "no worker", patience=20
    )


def test_a_mistake_in_a_worker_is_told_in_its_own_words(
    tmp_path: Path, instance_on_disk: dg.DagsterInstance
) -> None:
    missing = {"source": "deepfashion2", "path": str(tmp_path / "nowhere")}
    preset = load_preset(
        str(write_preset(tmp_path, {**SMALL, "dataset": missing, "compute": {"threads": 1}}))
    )
    with pytest.raises(UserError, match=r"^raw_dataset failed: dataset.path '.*nowhere' is no folder"):
        materialize_graph(preset, instance_on_disk, lambda line: None)


def test_checks_that_do_not_block_are_reported_and_stop_nothing(
    spoilt: Graph, instance: dg.DagsterInstance
) -> None:
    preset = spoilt.preset
    thresholds = preset.evaluation.thresholds.model_copy(update={"encoder_recall_low": 2.0})
    evaluation = preset.evaluation.model_copy(update={"thresholds": thresholds})
    outcome = materialize_graph(
        preset.model_copy(update={"evaluation": evaluation}), instance, lambda line: None
    )
    assert outcome.failed_checks == ["retrieval_report:encoder_recall_in_range"]
    assert list(outcome.seconds) == [
        "read_catalog",
        "build_catalog_shards",
        "train_models",
        "embed_shards",
        "train_fingerprints",
        "build_index",
    ]


def test_a_blocking_check_stops_the_graph(spoilt: Graph, instance: dg.DagsterInstance) -> None:
    crop = sorted(spoilt.store.read("crops/shard_0001").path.rglob("*.jpg"))[0]
    truncate(crop)
    lines: list[str] = []
    with pytest.raises(
        UserError, match=r"the check sku_crops:crops_complete did not pass: broken \['"
    ) as told:
        materialize_graph(spoilt.preset, instance, lines.append)
    assert crop.name in str(told.value)
    assert [line for line in lines if line.startswith("[3/6]")] == []


def test_a_mistake_in_the_data_stops_the_graph_before_anything_is_written(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    missing = {"source": "deepfashion2", "path": str(tmp_path / "nowhere")}
    preset = load_preset(str(write_preset(tmp_path, {**SMALL, "dataset": missing})))
    with pytest.raises(UserError, match=r"^raw_dataset failed: dataset.path '.*nowhere' is no folder"):
        materialize_graph(preset, instance, lambda line: None)
    assert digests(ArtifactStore(preset.data_root)) == {}


def test_sharded_stages_run_one_shard_at_a_time(spoilt: Graph, instance: dg.DagsterInstance) -> None:
    materialize_graph(spoilt.preset, instance, lambda line: None)
    runs = [run for run in instance.get_runs() if run.job_name == "embed_shards"]
    for made in {run.asset_selection for run in runs}:
        shards = [run.tags["dagster/partition"] for run in runs if run.asset_selection == made]
        assert sorted(shards) == ["shard_0000", "shard_0001"]


def test_a_home_that_is_named_is_used_and_gets_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert instance_home(load_preset("ci")) == tmp_path / "home"
    settings = yaml.safe_load((tmp_path / "home" / "dagster.yaml").read_text())
    assert settings["telemetry"] == {"enabled": False}


def test_without_one_each_preset_has_a_home_of_its_own_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.chdir(tmp_path)
    assert instance_home(load_preset("ci")) == tmp_path / ".dagster_home" / "ci"
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / ".dagster_home" / "ci")


def test_settings_that_are_there_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: true\n")
    instance_home(load_preset("ci"))
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry:\n  enabled: true\n"


def test_a_home_that_can_not_be_made_is_a_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"DAGSTER_HOME .*file can't be used"):
        instance_home(load_preset("ci"))


def test_the_instance_of_a_new_home_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.from_config(str(instance_home(load_preset("ci")))) as opened:
        assert opened.telemetry_enabled is False
        assert opened.get_runs() == []
