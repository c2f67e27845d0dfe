"""Candidates: seeds of their own, the same in any order and after a kill, smaller batches without memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from skufp_pipeline.views.generate import batches, candidate_seed, generate, plan_candidates
from skufp_pipeline.views.pipeline import Pipeline

from .examples import GENERATION, sources


def make(pipeline: Any, views: pl.DataFrame, out: Path, **changes: Any) -> dict[str, bytes]:
    settings = GENERATION.model_copy(update=changes)
    made = generate(pipeline, plan_candidates(views, settings), sources(views), out, 16, settings)
    return {one.candidate.candidate_id: one.path.read_bytes() for one in made}


class Counted:
    """A pipeline that notes the size of each batch, and has memory for so many only."""

    def __init__(self, pipeline: Pipeline, memory: int = 100) -> None:
        self.pipeline, self.memory, self.sizes = pipeline, memory, []

    def __call__(self, **arguments: Any) -> Any:
        self.sizes.append(len(arguments["prompt"]))
        if self.sizes[-1] > self.memory:
            raise torch.cuda.OutOfMemoryError
        return self.pipeline(**arguments)


def test_there_is_one_candidate_a_view_and_strength(views: pl.DataFrame) -> None:
    planned = plan_candidates(views, GENERATION)
    assert len(planned) == 12
    first, second = planned[:2]
    assert (first.candidate_id, second.candidate_id) == ("train/i00_item1_c0", "train/i00_item1_c1")
    assert (first.strength, second.strength) == (0.5, 0.3)
    assert second.image_path == "train/catalog/s0/i00_item1_c1.jpg"
    assert second.source_path == "train/catalog/s0/i00_item1.jpg"
    assert len({candidate.seed for candidate in planned}) == 12


def test_a_seed_depends_on_sku_view_and_candidate_and_nothing_else() -> None:
    assert candidate_seed("s0", "train/i00_item1", 0) == 2787526989540986636
    seeds = {candidate_seed(sku, view, n) for sku in "ab" for view in "cd" for n in (0, 1)}
    assert len(seeds) == 8


def test_batches_hold_one_strength_each(views: pl.DataFrame) -> None:
    found = batches(plan_candidates(views, GENERATION), 4)
    assert [[c.strength for c in batch] for batch in found] == [[0.3] * 4, [0.3] * 2, [0.5] * 4, [0.5] * 2]


def test_images_have_their_crops_proportions(pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path) -> None:
    make(pipeline, views.head(1), tmp_path)
    with Image.open(tmp_path / "train/catalog/s0/i00_item1_c0.jpg") as image:
        assert image.size == (11, 16)  # of a crop of 20 x 30


def test_a_second_run_gives_the_same_bytes(pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path) -> None:
    assert make(pipeline, views, tmp_path / "a") == make(pipeline, views, tmp_path / "b")


def test_neither_order_nor_batch_size_changes_a_candidate(
    pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path
) -> None:
    expected = make(pipeline, views, tmp_path / "a")
    for name, changed in (
        ("order", make(pipeline, views.reverse(), tmp_path / "order")),
        ("size", make(pipeline, views, tmp_path / "size", batch_size=3)),
    ):
        assert set(changed) == set(expected)
        for key, data in expected.items():
            (tmp_path / "one").write_bytes(data)
            (tmp_path / "other").write_bytes(changed[key])
            pixels = [np.asarray(Image.open(tmp_path / n)).astype(int) for n in ("one", "other")]
            assert np.abs(pixels[0] - pixels[1]).max() <= 2, name  # a last bit may turn a JPEG's rounding


def test_only_what_is_missing_is_generated(pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path) -> None:
    expected = make(pipeline, views, tmp_path / "a")
    (tmp_path / "a" / "batch_00002.json").unlink()
    (tmp_path / "a" / "train/catalog/s0/i00_item1_c1.jpg").unlink()  # of batch 0
    counted = Counted(pipeline)
    assert make(counted, views, tmp_path / "a") == expected
    assert counted.sizes == [4, 4]
    assert make(counted, views, tmp_path / "a") == expected
    assert counted.sizes == [4, 4]


def test_a_run_killed_between_batches_goes_on_to_the_same_bytes(
    pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path
) -> None:
    class Killed(Counted):
        def __call__(self, **arguments: Any) -> Any:
            if len(self.sizes) == 2:
                raise KeyboardInterrupt
            return super().__call__(**arguments)

    expected = make(pipeline, views, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        make(Killed(pipeline), views, tmp_path / "b")
    counted = Counted(pipeline)
    assert make(counted, views, tmp_path / "b") == expected
    assert counted.sizes == [4, 2]


def test_a_batch_too_large_for_the_gpu_is_halved(
    pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path
) -> None:
    counted = Counted(pipeline, memory=2)
    made = make(counted, views, tmp_path)
    assert len(made) == 12
    assert counted.sizes == [4, 2, 2, 2, 4, 2, 2, 2]


def test_no_memory_for_one_image_is_an_error(pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        make(Counted(pipeline, memory=0), views, tmp_path)


def test_the_safety_checkers_flags_are_kept_for_a_later_run(
    pipeline: Pipeline, views: pl.DataFrame, tmp_path: Path
) -> None:
    def flagged(**arguments: Any) -> Any:
        output = pipeline(**arguments)
        output.nsfw_content_detected = [True] + [False] * (len(arguments["prompt"]) - 1)
        return output

    settings = GENERATION.model_copy(update={"strengths": (0.5,)})
    planned = plan_candidates(views, settings)
    for run in (flagged, None):  # the second finds all batches whole
        made = generate(run, planned, sources(views), tmp_path, 16, settings)
        assert [one.unsafe for one in made] == [True, False, False, False, True, False]
    assert json.loads((tmp_path / "batch_00001.json").read_text())["unsafe"] == [True, False]
