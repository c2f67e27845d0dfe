"""The stages cover the graph, in an order in which it can run."""

import pytest

from skufp_pipeline.assets.declare import Step
from skufp_pipeline.automation import stages
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.presets import load_preset

STAGE_NAMES = [
    "read_catalog",
    "build_catalog_shards",
    "train_encoder",
    "embed_shards",
    "train_views",
    "generate_views",
    "train_fingerprints",
    "label_policy",
    "train_policy",
    "build_index",
]


@pytest.fixture(params=["ci", "df2"])
def steps(request: pytest.FixtureRequest) -> dict[str, Step]:
    return graph_steps(load_preset(request.param))


def test_every_asset_is_in_exactly_one_stage(steps: dict[str, Step]) -> None:
    staged = [name for stage in stages(steps) for name in stage.assets]
    assert sorted(staged) == sorted(steps)


def test_no_stage_needs_what_a_later_one_makes(steps: dict[str, Step]) -> None:
    made: set[str] = set()
    for stage in stages(steps):
        made.update(stage.assets)
        for name in stage.assets:
            assert set(steps[name].deps) <= made, name


def test_the_assets_of_a_stage_are_all_sharded_or_none(steps: dict[str, Step]) -> None:
    for stage in stages(steps):
        assert {steps[name].shards is not None for name in stage.assets} == {stage.sharded}


def test_the_frozen_encoder_is_embedded_only_where_it_is_pretrained() -> None:
    embedded = {
        preset: next(s.assets for s in stages(graph_steps(load_preset(preset))) if s.name == "embed_shards")
        for preset in ("ci", "df2")
    }
    assert embedded == {
        "ci": ("clip_embeddings", "reid_embeddings"),
        "df2": ("clip_embeddings", "frozen_clip_embeddings", "reid_embeddings"),
    }


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
        "annotations_splits_disjoint",
    }
