"""The graph as Dagster sees it, held against tables written here by hand."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.definitions import defs as loaded_by_dagster
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.extractors.settings import ExtractorsSettings
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import OWNERS

from .graphs import REPOSITORY, environment

SHARDS = "by SKU shard"

# group, partitions, upstream assets
ASSETS: dict[str, tuple[str, str | None, set[str]]] = {
    "raw_dataset": ("catalog", None, set()),
    "annotations": ("catalog", None, {"raw_dataset"}),
    "sku_crops": ("catalog", SHARDS, {"raw_dataset", "annotations"}),
    "image_text": ("catalog", SHARDS, {"sku_crops"}),
    "clip_checkpoint": ("encoder", None, {"sku_crops", "image_text"}),
    "clip_embeddings": ("encoder", SHARDS, {"sku_crops", "image_text", "clip_checkpoint"}),
    "reid_checkpoint": ("extractors", None, {"sku_crops", "image_text"}),
    "reid_embeddings": ("extractors", SHARDS, {"sku_crops", "image_text", "reid_checkpoint"}),
    "sd_base": ("views", None, {"sku_crops", "image_text"}),
    "view_filters": ("views", None, {"sku_crops", "clip_checkpoint", "clip_embeddings"}),
    "sd_lora": ("views", None, {"sku_crops", "image_text", "clip_checkpoint", "sd_base"}),
    "generated_views": (
        "views",
        SHARDS,
        {"sku_crops", "image_text", "clip_checkpoint", "view_filters", "sd_lora", "sd_base"},
    ),
    "generated_view_embeddings": ("views", SHARDS, {"image_text", "clip_checkpoint", "generated_views"}),
    "best_shot_teachers": ("fingerprints", None, {"clip_checkpoint", "clip_embeddings"}),
    "fingerprint_checkpoint": (
        "fingerprints",
        None,
        {"clip_checkpoint", "clip_embeddings", "best_shot_teachers", "generated_view_embeddings"},
    ),
    "fingerprints": (
        "fingerprints",
        None,
        {"clip_checkpoint", "clip_embeddings", "fingerprint_checkpoint", "generated_view_embeddings"},
    ),
    "vla_labels": ("policy", SHARDS, {"sku_crops", "clip_checkpoint", "clip_embeddings", "fingerprints"}),
    "vla_checkpoint": ("policy", None, {"clip_checkpoint", "fingerprints", "vla_labels"}),
    "policy_report": (
        "policy",
        None,
        {
            "raw_dataset",
            "sku_crops",
            "clip_checkpoint",
            "clip_embeddings",
            "fingerprints",
            "vla_checkpoint",
        },
    ),
    "search_index": (
        "index",
        None,
        {
            "annotations",
            "sku_crops",
            "image_text",
            "clip_checkpoint",
            "clip_embeddings",
            "best_shot_teachers",
            "fingerprint_checkpoint",
            "fingerprints",
            "image_encoder_onnx",
            "vla_checkpoint",
            "look_twice_checkpoint",
            "sku_patches",
        },
    ),
    "image_encoder_onnx": (
        "index",
        None,
        {"sku_crops", "clip_checkpoint", "clip_embeddings", "look_twice_checkpoint"},
    ),
    "look_twice_checkpoint": ("query", None, {"sku_crops", "clip_checkpoint", "clip_embeddings"}),
    "sku_patches": (
        "query",
        SHARDS,
        {"sku_crops", "clip_checkpoint", "clip_embeddings", "look_twice_checkpoint"},
    ),
    "retrieval_report": (
        "evaluation",
        None,
        {
            "annotations",
            "sku_crops",
            "image_text",
            "clip_checkpoint",
            "clip_embeddings",
            "reid_checkpoint",
            "reid_embeddings",
            "best_shot_teachers",
            "fingerprints",
            "search_index",
            "image_encoder_onnx",
            "generated_view_embeddings",
            "fingerprint_checkpoint",
            "vla_checkpoint",
            "look_twice_checkpoint",
        },
    ),
}
# With a pretrained encoder there is also what fine-tuning has to beat; a pretrained diffusion model needs no
# base of its own.
PRETRAINED_ASSETS = {
    **{
        name: (group, partitions, deps - {"sd_base"})
        for name, (group, partitions, deps) in ASSETS.items()
        if name != "sd_base"
    },
    "frozen_clip_checkpoint": ("encoder", None, {"sku_crops", "image_text"}),
    "frozen_clip_embeddings": ("encoder", SHARDS, {"sku_crops", "image_text", "frozen_clip_checkpoint"}),
    "first_index": (
        "index",
        None,
        {"annotations", "sku_crops", "image_text", "frozen_clip_checkpoint", "frozen_clip_embeddings"},
    ),
    "retrieval_report": ("evaluation", None, {*ASSETS["retrieval_report"][2], "frozen_clip_embeddings"}),
}
_QUERY_MODELS = {"detector_checkpoint", "detector_onnx"}
# With a detector that the graph trains: it is kept with the index.
DETECTOR_ASSETS = {
    "detector_checkpoint": ("query", None, {"raw_dataset", "annotations", "sku_crops"}),
    "detector_onnx": ("query", None, {"raw_dataset", "annotations", "detector_checkpoint"}),
    "found_regions": (
        "query",
        None,
        {"raw_dataset", "annotations", "clip_checkpoint", "look_twice_checkpoint", *_QUERY_MODELS},
    ),
    "detection_report": (
        "query",
        None,
        {
            "raw_dataset",
            "annotations",
            "clip_checkpoint",
            "fingerprints",
            "look_twice_checkpoint",
            *_QUERY_MODELS,
        },
    ),
    "search_index": ("index", None, {*ASSETS["search_index"][2], *_QUERY_MODELS, "found_regions"}),
    "retrieval_report": (
        "evaluation",
        None,
        {*ASSETS["retrieval_report"][2], *_QUERY_MODELS, "detection_report"},
    ),
}
GPU_ASSETS = {
    "clip_checkpoint",
    "clip_embeddings",
    "frozen_clip_checkpoint",
    "frozen_clip_embeddings",
    "reid_checkpoint",
    "reid_embeddings",
    "fingerprint_checkpoint",
    "sd_lora",
    "generated_views",
    "generated_view_embeddings",
    "vla_labels",
    "policy_report",
    "look_twice_checkpoint",
    "sku_patches",
}

# asset:check, and whether it stops what comes after
CHECKS = {
    "annotations:catalogue_read": True,
    "annotations:few_skus_removed": True,
    "annotations:splits_disjoint": True,
    "sku_crops:crops_complete": True,
    "clip_embeddings:embeddings_sound": True,
    "reid_embeddings:embeddings_sound": True,
    "reid_checkpoint:no_evaluation_query_used": True,
    "reid_checkpoint:loss_falls": False,
    "view_filters:filters_tell_views_apart": False,
    "sd_lora:identity_drift_is_lower": False,
    "generated_views:views_decodable": True,
    "generated_views:acceptance_in_range": False,
    "generated_view_embeddings:embeddings_sound": True,
    "clip_checkpoint:no_evaluation_query_used": True,
    "best_shot_teachers:no_evaluation_query_used": True,
    "fingerprint_checkpoint:no_evaluation_query_used": True,
    "fingerprints:no_evaluation_query_used": True,
    "vla_checkpoint:no_evaluation_query_used": True,
    "look_twice_checkpoint:no_evaluation_query_used": True,
    "policy_report:policy_does_no_harm": False,
    "policy_report:policy_helps_degraded_photos": False,
    "search_index:index_is_exact": True,
    "search_index:skus_are_covered": True,
    "search_index:recall_holds": True,
    "search_index:not_rolled_back": True,
    "image_encoder_onnx:parity_holds": True,
    "image_encoder_onnx:no_evaluation_query_used": True,
    "retrieval_report:generated_views_do_no_harm": False,
    "retrieval_report:absent_products_are_told": False,
    "retrieval_report:encoder_recall_in_range": False,
    "retrieval_report:fingerprint_beats_mean_sku": False,
    "retrieval_report:search_latency_within_budget": False,
}


@pytest.fixture(params=["ci", "df2"])
def preset(request: pytest.FixtureRequest) -> Preset:
    return load_preset(request.param)


DETECTOR_CHECKS = {
    "detection_report:detector_finds_items": False,
    "detector_checkpoint:no_evaluation_query_used": True,
}
CI_ASSETS, CI_CHECKS = {**ASSETS, **DETECTOR_ASSETS}, {**CHECKS, **DETECTOR_CHECKS}


def asset_definitions(preset: Preset) -> dict[str, dg.AssetsDefinition]:
    definitions = build_defs(preset)
    return {asset.key.to_user_string(): asset for asset in definitions.assets or []}


def check_definitions(preset: Preset) -> list[dg.AssetChecksDefinition]:
    definitions = build_defs(preset)
    return [*(definitions.assets or []), *(definitions.asset_checks or [])]


def spec(asset: dg.AssetsDefinition) -> dg.AssetSpec:
    return asset.get_asset_spec(asset.key)


def test_the_definitions_can_be_loaded(preset: Preset) -> None:
    dg.Definitions.validate_loadable(build_defs(preset))


def test_assets_groups_partitions_and_dependencies_are_those_of_the_table(preset: Preset) -> None:
    found = {
        name: (
            spec(asset).group_name,
            None if asset.partitions_def is None else SHARDS,
            {dep.asset_key.to_user_string() for dep in spec(asset).deps},
        )
        for name, asset in asset_definitions(preset).items()
    }
    expected = PRETRAINED_ASSETS if preset.encoder.is_pretrained else ASSETS
    assert found == ({**expected, **DETECTOR_ASSETS} if preset.detector else expected)


def test_every_sharded_asset_has_one_partition_a_shard(preset: Preset) -> None:
    for asset in asset_definitions(preset).values():
        if asset.partitions_def is not None:
            keys = asset.partitions_def.get_partition_keys()
            assert len(keys) == preset.shards
            assert keys[0] == "shard_0000"
            assert keys[-1] == f"shard_{preset.shards - 1:04d}"


def test_every_asset_is_described_owned_kinded_and_versioned(preset: Preset) -> None:
    for name, asset in asset_definitions(preset).items():
        described = spec(asset)
        assert described.description
        assert described.description.endswith("."), name
        assert list(described.owners) == OWNERS
        assert described.kinds, name
        assert described.code_version == graph_steps(preset)[name].code_version
        (place,) = described.metadata["dagster/code_references"].code_references
        line = Path(place.file_path).read_text().splitlines()[place.line_number - 1]
        shared = tuple(f"def {work}(run: Run, name: str)" for work in ("train", "embed", "export"))
        assert line.startswith(shared if described.group_name == "extractors" else f"def {name}(run: Run)")


def test_every_asset_carries_the_tags_of_what_its_step_needs(preset: Preset) -> None:
    for name, asset in asset_definitions(preset).items():
        declared = declare(graph_steps(preset)[name].needs)
        tags = asset.op.tags
        for executor in ("dagster-k8s/config", "dagster-ray/config"):
            assert tag_value(tags[executor]) == declared["op_tags"][executor], name
        assert asset.op.pool == declared["pool"], name


def tag_value(tag: object) -> object:
    """Dagster keeps a tag that is no string as JSON."""
    return json.loads(tag) if isinstance(tag, str) else tag


def test_gpu_assets_ask_for_a_gpu_and_wait_in_its_pool_where_the_preset_has_gpus() -> None:
    steps = graph_steps(load_preset("df2"))
    assert {name for name, step in steps.items() if step.needs.gpus} == GPU_ASSETS
    pools = {name: asset.op.pool for name, asset in asset_definitions(load_preset("df2")).items()}
    assert {name for name, pool in pools.items() if pool == "gpu"} == GPU_ASSETS


def test_no_asset_asks_for_a_gpu_where_the_preset_has_none() -> None:
    assert not any(step.needs.gpus for step in graph_steps(load_preset("ci")).values())
    assert {asset.op.pool for asset in asset_definitions(load_preset("ci")).values()} == {None}


@pytest.mark.parametrize("name", ["ci", "df2"])
def test_without_views_in_the_preset_there_is_no_such_stage(name: str) -> None:
    without = load_preset(name).model_copy(update={"views": None})
    dg.Definitions.validate_loadable(build_defs(without))
    assert {spec(asset).group_name for asset in asset_definitions(without).values()}.isdisjoint({"views"})


def test_without_an_extractor_in_the_preset_there_is_no_such_group(preset: Preset) -> None:
    without = preset.model_copy(update={"extractors": ExtractorsSettings()})
    dg.Definitions.validate_loadable(build_defs(without))
    groups = {spec(asset).group_name for asset in asset_definitions(without).values()}
    assert "extractors" not in groups


@pytest.mark.parametrize("name", ["ci", "df2"])
def test_without_a_policy_in_the_preset_there_is_no_such_stage(name: str) -> None:
    without = load_preset(name).model_copy(update={"policy": None, "detector": None})
    dg.Definitions.validate_loadable(build_defs(without))
    assets = asset_definitions(without)
    assert {spec(asset).group_name for asset in assets.values()}.isdisjoint({"policy"})
    needed = {dep.asset_key.to_user_string() for dep in spec(assets["search_index"]).deps}
    assert needed == ASSETS["search_index"][2] - {"vla_checkpoint"}


def test_without_a_detector_in_the_preset_there_is_no_such_stage() -> None:
    without = asset_definitions(load_preset("ci").model_copy(update={"detector": None}))
    assert not {*without} & {"detector_checkpoint", "detector_onnx", "detection_report"}
    needed = {dep.asset_key.to_user_string() for dep in spec(without["search_index"]).deps}
    assert needed == ASSETS["search_index"][2]


@pytest.mark.parametrize("name", ["ci", "df2"])
def test_without_a_second_look_in_the_preset_there_is_no_such_stage(name: str) -> None:
    without = load_preset(name).model_copy(update={"look_twice": None, "detector": None})
    dg.Definitions.validate_loadable(build_defs(without))
    assets = asset_definitions(without)
    assert {spec(asset).group_name for asset in assets.values()}.isdisjoint({"query"})
    for asset in ("search_index", "image_encoder_onnx"):
        needed = {dep.asset_key.to_user_string() for dep in spec(assets[asset]).deps}
        assert needed == ASSETS[asset][2] - {"look_twice_checkpoint", "sku_patches"}


def test_a_detector_of_a_library_needs_no_photos() -> None:
    preset = load_preset("ci")
    changed = preset.model_copy(update={"detector": DetectorSettings(model="some/model")})
    dg.Definitions.validate_loadable(build_defs(changed))
    assert not list(spec(asset_definitions(changed)["detector_checkpoint"]).deps)


def test_checks_are_those_of_the_table(preset: Preset) -> None:
    expected = dict(CHECKS)
    if preset.encoder.is_pretrained:
        expected["frozen_clip_embeddings:embeddings_sound"] = True
        expected["frozen_clip_checkpoint:no_evaluation_query_used"] = True
    expected |= DETECTOR_CHECKS if preset.detector else {}
    specs = [spec for definition in check_definitions(preset) for spec in definition.check_specs]
    found = {f"{s.asset_key.to_user_string()}:{s.name}": s.blocking for s in specs}
    assert found == expected
    assert all(spec.description for spec in specs)


def test_checks_that_stand_alone_carry_their_own_tags(preset: Preset) -> None:
    for check in build_defs(preset).asset_checks or []:
        tags, needs = check.op.tags, Needs()
        if check.check_key.name == "parity_holds":  # it holds two encoders and all embeddings
            needs = Needs(preset.compute.cores, preset.compute.memory_gib)
        for executor in ("dagster-k8s/config", "dagster-ray/config"):
            assert tag_value(tags[executor]) == declare(needs)["op_tags"][executor]


def test_a_test_can_put_its_own_definition_in_place_of_any(preset: Preset) -> None:
    @dg.asset(name="clip_checkpoint")
    def checkpoint() -> None: ...

    @dg.asset_check(asset="annotations", name="splits_disjoint")
    def check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    job = dg.define_asset_job("train_policy", selection="clip_checkpoint")
    schedule = dg.ScheduleDefinition(name="daily_refresh", job_name="read_catalog", cron_schedule="@daily")
    sensor = dg.SensorDefinition(
        name="refresh_goes_on", job_name="read_catalog", evaluation_fn=lambda _: None
    )
    elsewhere = ArtifactStoreResource(root="memory://elsewhere")
    replaced = {
        "clip_checkpoint": checkpoint,
        "annotations:splits_disjoint": check,
        "train_policy": job,
        "daily_refresh": schedule,
        "refresh_goes_on": sensor,
        "artifacts": elsewhere,
    }
    before, after = build_defs(preset), build_defs(preset, replaced)
    for found in (after.assets, after.asset_checks, after.jobs, after.schedules, after.sensors):
        assert found is not None
        assert sum(any(one is mine for mine in replaced.values()) for one in found) == 1
    assert after.resources is not None
    assert after.resources["artifacts"] is elsewhere
    assert len(list(after.assets or [])) == len(list(before.assets or []))


def test_a_replacement_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to replace under the names no_such_asset"):
        build_defs(load_preset("ci"), {"no_such_asset": object()})


def test_dagster_loads_the_preset_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKUFP_PRESET", "df2")
    assert build_defs().resources["artifacts"].root == load_preset("df2").data_root  # type: ignore[index]
    found = loaded_by_dagster()
    assert "frozen_clip_embeddings" in {asset.key.to_user_string() for asset in found.assets}


def test_dg_finds_nothing_wrong_with_the_project() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs"],
        cwd=REPOSITORY,
        env=environment(SKUFP_PRESET="ci", VIRTUAL_ENV=sys.prefix),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All definitions loaded successfully" in done.stdout + done.stderr
