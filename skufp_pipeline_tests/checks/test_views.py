"""The checks of generated views pass and fail where they should."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.checks.views import (
    acceptance_in_range,
    filters_tell_views_apart,
    identity_drift_is_lower,
    views_decodable,
)
from skufp_pipeline.store import Artifact, ArtifactStore, Recipe
from skufp_pipeline.views.settings import ViewsThresholds

LIMITS = ViewsThresholds(
    acceptance_low=0.3, acceptance_high=0.95, planted_rejected=0.99, real_accepted=0.9, drift_is_lower=True
)
GOOD = {"bad": {"accepted": 0.01}, "second_view": {"accepted": 0.9}}


@pytest.mark.parametrize(
    ("accepted", "candidates", "passed"), [(3, 10, True), (2, 10, False), (96, 100, False), (0, 0, True)]
)
def test_acceptance_is_held_against_both_bounds(accepted: int, candidates: int, passed: bool) -> None:
    assert acceptance_in_range(accepted, candidates, LIMITS).passed == passed
    assert acceptance_in_range(accepted, candidates, ViewsThresholds()).passed


@pytest.mark.parametrize(
    ("cosine", "distance", "passed"),
    [(0.1, -0.1, True), (-0.1, -0.1, False), (0.1, 0.1, False), (0, 0, False)],
)
def test_drift_is_lower_where_both_scores_improve(cosine: float, distance: float, passed: bool) -> None:
    figures = {"clip_cosine_gain": cosine, "hsv_distance_gain": distance}
    assert identity_drift_is_lower(figures, LIMITS).passed == passed
    assert identity_drift_is_lower(figures, ViewsThresholds()).passed


@pytest.mark.parametrize(
    ("bad", "second", "passed"),
    [(0.01, 0.9, True), (0.011, 1.0, False), (0.0, 0.89, False), (1.0, 0.0, False)],
)
def test_filters_must_hold_on_every_set_of_skus(bad: float, second: float, passed: bool) -> None:
    other = {"bad": {"accepted": bad}, "second_view": {"accepted": second}}
    assert filters_tell_views_apart({"training": GOOD, "unseen": other}, LIMITS).passed == passed
    assert filters_tell_views_apart({"training": GOOD}, LIMITS).passed


def shard(tmp_path: Path, names: list[str], broken: str = "") -> Artifact:
    def build(directory: Path) -> dict[str, int]:
        (directory / "images").mkdir()
        for name in names:
            Image.new("RGB", (8, 8)).save(directory / "images" / name)
            if name == broken:
                (directory / "images" / name).write_bytes(b"\xff\xd8 no more")
        return {}

    return ArtifactStore(tmp_path).produce("views/generated/shard_0000", Recipe(code_version="1"), build)


@pytest.mark.parametrize(
    ("names", "broken", "passed"),
    [(["a.jpg", "b.jpg"], "", True), (["a.jpg"], "", False), (["a.jpg", "b.jpg"], "b.jpg", False),
     (["a.jpg", "b.jpg", "c.jpg"], "", False)],
)  # fmt: skip
def test_accepted_images_are_all_there_decode_and_are_alone(
    names: list[str], broken: str, passed: bool, tmp_path: Path
) -> None:
    accepted = pl.DataFrame({"image_path": ["a.jpg", "b.jpg"]})
    assert views_decodable(shard(tmp_path, names, broken), accepted).passed == passed
