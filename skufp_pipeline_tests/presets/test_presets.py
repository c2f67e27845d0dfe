"""Presets: those that come with the project load, and a mistake in one is told in a line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._utils.schedules import is_valid_cron_schedule
from pydantic import ValidationError

from skufp_pipeline.datasets.sources import (
    DeepFashion2Dataset,
    ManifestDataset,
    SampleDataset,
    Street2ShopDataset,
)
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import (
    PACKAGED,
    AutomationSettings,
    ComputeSettings,
    Preset,
    another_rendering,
    load_preset,
)

PRESETS = sorted(PACKAGED.glob("*.yaml"))
SMALL: dict[str, Any] = {
    "name": "small",
    "data_root": "data/small",
    "dataset": {"source": "deepfashion2", "path": "DeepFashion2"},
    "encoder": {"model": "ViT-B-32"},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def complaint(path: Path) -> str:
    """What the user sees: one line that names the file."""
    with pytest.raises(UserError) as caught:
        load_preset(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_of_the_project_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(variable, "somewhere")
    preset = load_preset(str(path))
    assert preset.name == path.stem
    assert preset == load_preset(path.stem)


@pytest.mark.parametrize(
    ("changes", "asking"),
    [
        ({"fingerprint": {"synthetic": {"view_weight": 0.1}}}, "fingerprint.synthetic"),
        ({"fingerprint": {"synthetic": {"teachers": True}}}, "fingerprint.synthetic"),
        ({"policy": {"synthetic": True}}, "policy.synthetic"),
    ],
)
def test_a_use_of_synthetic_photos_that_are_not_stored_is_refused(
    tmp_path: Path, changes: dict[str, Any], asking: str
) -> None:
    told = complaint(write(tmp_path, **changes))
    assert f"{asking} would use synthetic photos, and none are stored; set synthetic.photos" in told
    load_preset(str(write(tmp_path, **changes, synthetic={"photos": {}})))


def test_the_project_has_presets() -> None:
    assert {"ci", "df2", "photos", "street2shop", "street2shop-mini"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ({"source": "sample", "render": {"num_skus": 50}}, SampleDataset),
        ({"source": "deepfashion2", "path": "x"}, DeepFashion2Dataset),
        ({"source": "street2shop", "path": "x"}, Street2ShopDataset),
        (
            {"source": "street2shop", "hub": "petr7555/street2shop", "read": {"ratio": 0.1}},
            Street2ShopDataset,
        ),
        ({"source": "street2shop", "render": {"num_skus": 50}}, Street2ShopDataset),
        ({"source": "manifest", "read": {"path": "x.csv"}}, ManifestDataset),
    ],
)
def test_the_source_decides_the_kind_of_data_set(tmp_path: Path, dataset: dict[str, Any], kind: type) -> None:
    assert isinstance(load_preset(str(write(tmp_path, dataset=dataset))).dataset, kind)


def test_the_environment_names_the_preset_where_the_caller_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKUFP_PRESET", str(write(tmp_path)))
    assert load_preset().name == "small"
    assert load_preset("ci").name == "ci"


def test_presets_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_preset("ci").name == "ci"


def test_a_preset_in_the_users_own_presets_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "presets").mkdir()
    write(tmp_path / "presets", name="mine").rename(tmp_path / "presets" / "ci.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_preset("ci").name == "mine"


def test_variables_are_expanded_with_and_without_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path,
        data_root="${SMALL_ROOT}/skufp",
        shards="${SMALL_SHARDS:-5}",
        dataset={"source": "deepfashion2", "path": "${SMALL_DF2:-}"},
    )
    monkeypatch.setenv("SMALL_ROOT", "s3://bucket")
    monkeypatch.delenv("SMALL_SHARDS", raising=False)
    preset = load_preset(str(path))
    assert (preset.data_root, preset.shards) == ("s3://bucket/skufp", 5)
    assert preset.dataset.path == ""
    monkeypatch.setenv("SMALL_SHARDS", "6")
    assert load_preset(str(path)).shards == 6


def test_an_unset_variable_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMALL_DF2", raising=False)
    path = write(tmp_path, dataset={"source": "deepfashion2", "path": "${SMALL_DF2}"})
    assert "dataset.path needs the environment variable SMALL_DF2" in complaint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 3}, "sead: unknown key"),
        ({"encoder": {"model": "ViT-B-32", "training": {"epoch": 3}}}, "encoder.training.epoch: unknown key"),
        (
            {"dataset": {"source": "sample", "render": {"skus": 5}}},
            "dataset.sample.render.skus: unknown key",
        ),
        ({"shards": 0}, "shards: Input should be greater than or equal to 1"),
        ({"shards": "many"}, "shards: Input should be a valid integer"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"encoder": {}}, "encoder.model: Field required"),
        ({"encoder": None}, "encoder: Input should be a valid dictionary"),
        ({"dataset": {"source": "street2shop"}}, "street2shop"),
        ({"dataset": {}}, "dataset: Unable to extract tag using discriminator 'source'"),
        ({"compute": {"device": "tpu"}}, "compute.device: Input should be 'auto', 'cpu' or 'cuda'"),
        ({3: "x"}, "3"),
    ],
)
def test_a_bad_value_is_named_with_its_key(tmp_path: Path, changes: dict[Any, Any], message: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    found = complaint(path)
    assert message in found
    assert "\n" not in found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = complaint(write(tmp_path, shards=0, sead=1))
    assert "shards" in message
    assert "sead" in message


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just words\n"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small.yaml").write_bytes(content)
    assert "the file: Input should be a valid dictionary" in complaint(tmp_path / "small.yaml")


@pytest.mark.parametrize("content", [b"name: [1, 2\n", b"\tname: x\n", b"name: \xff\xfe\n", b"\x00\x01"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small.yaml").write_bytes(content)
    assert "is not YAML" in complaint(tmp_path / "small.yaml")


def test_a_missing_preset_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no preset 'dmeo': expected a YAML file or one of .*ci.*df2"):
        load_preset("dmeo")
    with pytest.raises(UserError, match="no preset"):
        load_preset(str(tmp_path))


def test_a_preset_survives_a_round_trip_through_json(tmp_path: Path) -> None:
    preset = load_preset(str(write(tmp_path)))
    assert Preset.model_validate_json(preset.model_dump_json()) == preset


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threads": 1}, True),
        ({}, False),
        ({"threads": 1, "gpus": 1}, False),
        ({"threads": 1, "max_concurrent": 1}, False),
        ({"threads": 1, "executor": "ray"}, False),
    ],
)
def test_runs_are_made_side_by_side_only_where_threads_are_limited(changes: Any, expected: bool) -> None:
    assert ComputeSettings(**changes).side_by_side is expected


def test_another_rendering_differs_in_its_seed_and_its_place_alone(tmp_path: Path) -> None:
    preset = load_preset("demo")
    other = another_rendering(preset, 101, tmp_path, num_skus=50)
    assert isinstance(preset.dataset, SampleDataset)
    assert isinstance(other.dataset, SampleDataset)
    assert (other.dataset.render.seed, other.dataset.render.num_skus) == (101, 50)
    assert preset.dataset.render.seed != 101
    assert other.data_root == str(tmp_path)
    back = {"dataset": preset.dataset, "data_root": preset.data_root}
    assert other.model_copy(update=back) == preset
    same_size = another_rendering(preset, 101, tmp_path).dataset
    assert isinstance(same_size, SampleDataset)
    assert same_size.render.num_skus == preset.dataset.render.num_skus


def test_a_data_set_that_is_given_has_no_other_rendering(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="small renders no sample"):
        another_rendering(load_preset(str(write(tmp_path))), 101, tmp_path)


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 8-18 * * mon-fri", "0,30 4 1 jan 0", "5 4 * * 7"])
def test_a_cron_schedule_that_dagster_takes_is_taken(cron: str) -> None:
    assert is_valid_cron_schedule(cron)
    assert AutomationSettings(daily=cron).daily == cron


@pytest.mark.parametrize("cron", ["", "nightly", "0 3 * *", "61 3 * * *", "0 24 * * *", "0 3 0 * *"])
def test_a_cron_schedule_that_dagster_refuses_is_refused(cron: str) -> None:
    assert not is_valid_cron_schedule(cron)
    with pytest.raises(ValidationError, match="is no cron schedule; expected five fields"):
        AutomationSettings(weekly=cron)


def test_settings_of_the_automation_are_checked_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("SMALL_DF2", raising=False)
    automation = {
        "daily": "at three",
        "timezone": "Europe/Pari",
        "webhook": "chat.example/hook",
        "drop_folder": str(tmp_path / "file"),
    }
    dataset = {"source": "deepfashion2", "path": "${SMALL_DF2}"}
    message = complaint(write(tmp_path, automation=automation, dataset=dataset))
    assert "\n" not in message
    for told in (
        "dataset.path needs the environment variable SMALL_DF2",
        "automation.daily: 'at three' is no cron schedule",
        "automation.timezone: 'Europe/Pari' is no timezone; expected one such as Europe/Paris",
        "automation.webhook: 'chat.example/hook' is no web address",
        "automation.drop_folder: ",
    ):
        assert told in message
