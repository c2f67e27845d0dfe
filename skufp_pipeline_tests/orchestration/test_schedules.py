"""The stages cover the graph, in an order in which it can run."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pytest

from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.orchestration.schedules import stages
from skufp_pipeline.presets import AutomationSettings, Preset, load_preset
from skufp_pipeline.steps import Step

STAGE_NAMES = [
    "read_catalog",
    "build_catalog_shards",
    "train_models",
    "embed_shards",
    "calibrate_filters",
    "generate_views",
    "train_fingerprints",
    "label_policy",
    "train_policy",
    "train_look_twice",
    "make_patches",
    "build_index",
]


@pytest.fixture(params=["ci", "df2"])
def steps(request: pytest.FixtureRequest) -> dict[str, Step]:
    return graph_steps(load_preset(request.param))


def test_every_asset_is_in_exactly_one_stage(steps: dict[str, Step]) -> None:
    staged = [name for stage in stages(steps) for name in stage.assets]
    assert sorted(staged) == sorted(steps)


def test_no_run_needs_what_a_later_one_makes(steps: dict[str, Step]) -> None:
    made: set[str] = set()
    for run in (run for stage in stages(steps) for run in stage.runs):
        made.update(run)
        for name in run:
            assert set(steps[name].upstream) <= made, name


def test_slow_assets_have_runs_of_their_own() -> None:
    (stage,) = [stage for stage in stages(graph_steps(load_preset("ci"))) if stage.name == "build_index"]
    assert stage.runs == (
        ("detector_onnx",),
        ("image_encoder_onnx",),
        ("detection_report",),
        ("found_regions",),
        ("search_index",),
        ("retrieval_report",),
    )


def test_the_assets_of_a_stage_are_all_sharded_or_none(steps: dict[str, Step]) -> None:
    for stage in stages(steps):
        assert {steps[name].shards is not None for name in stage.assets} == {stage.sharded}


def test_the_frozen_encoder_is_embedded_only_where_it_is_pretrained() -> None:
    by_name = {
        preset: {stage.name: stage.assets for stage in stages(graph_steps(load_preset(preset)))}
        for preset in ("ci", "df2")
    }
    assert "embed_frozen" not in by_name["ci"]
    assert by_name["df2"]["embed_frozen"] == ("frozen_clip_embeddings",)


def test_training_reads_whole_photos_where_it_moves_the_boxes_in_them() -> None:
    needed = {name: graph_steps(load_preset(name))["clip_checkpoint"].upstream for name in ("demo", "ci")}
    assert "raw_dataset" in needed["demo"]
    assert "raw_dataset" not in needed["ci"]


def test_a_first_index_is_built_before_anything_is_trained() -> None:
    names = [stage.name for stage in stages(graph_steps(load_preset("df2")))]
    first = names.index("build_first_index")
    assert names[:first] == ["read_catalog", "build_catalog_shards", "load_encoder", "embed_frozen"]
    assert {"train_models", "generate_views"} <= {*names[first:]}


def test_there_is_one_job_a_stage_that_runs_its_assets_and_their_checks() -> None:
    preset = load_preset("ci")
    definitions = build_defs(preset)
    jobs = {job.name: job for job in definitions.resolve_all_job_defs() if job.name in STAGE_NAMES}
    assert set(jobs) == set(STAGE_NAMES)
    for stage in stages(graph_steps(preset)):
        nodes = {node.name for node in jobs[stage.name].nodes}
        assert set(stage.assets) <= nodes
    assert {node.name for node in jobs["read_catalog"].nodes} == {
        "raw_dataset",
        "annotations",
        "annotations_few_skus_removed",
        "annotations_splits_disjoint",
    }


def automated(tmp_path: Path, **settings: Any) -> tuple[dg.Definitions, Preset]:
    preset = load_preset("ci")
    automation = AutomationSettings(**settings)
    preset = preset.model_copy(update={"automation": automation, "data_root": str(tmp_path / "data")})
    return build_defs(preset), preset


def sensor_of(definitions: dg.Definitions, name: str) -> Any:
    return next(sensor for sensor in definitions.sensors or [] if sensor.name == name)


def test_the_schedules_are_the_presets_in_its_timezone(tmp_path: Path) -> None:
    definitions, _ = automated(tmp_path, daily="5 1 * * *", weekly="0 2 * * 6", timezone="Europe/Berlin")
    found = {schedule.name: schedule for schedule in definitions.schedules or []}
    assert {name: s.cron_schedule for name, s in found.items()} == {  # type: ignore[union-attr]
        "daily_refresh": "5 1 * * *",
        "weekly_refresh": "0 2 * * 6",
    }
    for schedule in found.values():
        assert schedule.execution_timezone == "Europe/Berlin"  # type: ignore[union-attr]
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED  # type: ignore[union-attr]


def test_schedules_start_by_themselves_only_where_the_preset_says_so(tmp_path: Path) -> None:
    definitions, _ = automated(tmp_path, running=True)
    for schedule in definitions.schedules or []:
        assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["daily", "weekly"])
def test_a_tick_reads_the_catalogue_in_a_refresh_of_its_own(tmp_path: Path, kind: str) -> None:
    definitions, _ = automated(tmp_path)
    schedule: Any = next(s for s in definitions.schedules or [] if s.name == f"{kind}_refresh")
    assert schedule.job_name == "read_catalog"
    keys = set()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for day in (1, 2):
            request = schedule(at(day, instance))
            assert request.tags["skufp/refresh"] == kind
            assert request.tags["skufp/refresh_id"] == request.run_key
            keys.add(request.run_key)
    assert len(keys) == 2


def at(day: int, instance: dg.DagsterInstance) -> dg.ScheduleEvaluationContext:
    time = datetime(2026, 1, day, 3, tzinfo=UTC)
    return dg.build_schedule_context(instance, scheduled_execution_time=time)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS])
def test_a_tick_starts_nothing_while_a_refresh_is_under_way(
    tmp_path: Path, status: dg.DagsterRunStatus
) -> None:
    definitions, _ = automated(tmp_path)
    schedule: Any = next(s for s in definitions.schedules or [] if s.name == "weekly_refresh")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        job = definitions.resolve_job_def("read_catalog")
        instance.create_run_for_job(job, tags={"skufp/refresh": "daily"}, status=status)
        assert schedule(at(1, instance)).skip_message == "a refresh is under way"


def test_a_drop_folder_is_waited_for_until_its_files_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    sensor = sensor_of(automated(tmp_path, drop_folder=str(folder))[0], "drop_folder")
    cursor, asked = None, []
    instance = dg.DagsterInstance.ephemeral()

    def tick() -> None:
        nonlocal cursor
        with dg.build_sensor_context(instance, cursor=cursor) as context:
            found = sensor(context)
            cursor = context.cursor
            if isinstance(found, dg.SensorResult):
                asked.append(found.run_requests[0].tags["skufp/refresh"])
                cursor = found.cursor

    (folder / "a.jpg").write_bytes(b"1")
    tick()
    assert asked == []
    (folder / "b.jpg").write_bytes(b"2")
    tick()
    assert asked == []
    tick()
    assert asked == ["daily"]
    tick()
    assert asked == ["daily"]


def test_a_drop_folder_that_is_not_there_is_told_and_no_folder_means_no_sensor(tmp_path: Path) -> None:
    sensor = sensor_of(automated(tmp_path, drop_folder=str(tmp_path / "drop"))[0], "drop_folder")
    with dg.build_sensor_context() as context:
        assert "is no folder" in sensor(context).skip_message
    names = {s.name for s in automated(tmp_path)[0].sensors or []}
    assert names == {"refresh_goes_on", "tell_of_failures"}


class Listener(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def failed_run(instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, Any]:
    @dg.op
    def spill() -> None:
        raise dg.Failure("the paint is spilt; fetch a cloth")

    @dg.job
    def paint() -> None:
        spill()

    run = paint.execute_in_process(instance=instance, raise_on_error=False).dagster_run
    (entry,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    return run, entry.get_dagster_event()


def tell(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    run, event = failed_run(instance)
    context = dg.build_run_status_sensor_context("tell_of_failures", event, instance, run)
    sensor_of(definitions, "tell_of_failures")(context.for_run_failure())


def test_a_failure_is_sent_to_the_webhook_with_its_own_words(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    definitions, _ = automated(tmp_path, webhook=f"http://127.0.0.1:{server.server_port}/hook")
    with dg.DagsterInstance.ephemeral() as instance:
        tell(definitions, instance)
    thread.join(10)
    server.server_close()
    (message,) = Listener.received
    assert message["text"] == "paint failed: spill: the paint is spilt; fetch a cloth"
    assert message["job"] == "paint"


def test_a_webhook_that_does_not_answer_breaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    definitions, _ = automated(tmp_path, webhook="http://127.0.0.1:9/nobody")
    with dg.DagsterInstance.ephemeral() as instance:
        tell(definitions, instance)


def test_the_index_is_overdue_after_the_presets_hours(tmp_path: Path) -> None:
    definitions, _ = automated(tmp_path, index_fresh_hours=5)
    policies = {
        spec.key.to_user_string(): spec.freshness_policy
        for asset in definitions.assets or []
        for spec in asset.specs  # type: ignore[union-attr]
        if spec.freshness_policy is not None
    }
    assert policies == {"search_index": dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=5))}
