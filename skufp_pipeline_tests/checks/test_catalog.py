"""The checks of the catalogue pass on what is whole and fail on what is spoilt."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.artifacts.kinds import Crops
from skufp_pipeline.checks.catalog import catalogue_read, crops_complete
from skufp_pipeline.datasets.counts import CatalogueCounts
from skufp_pipeline.store import ArtifactStore, Recipe

from ..datasets.trees import truncate


def shard(root: Path, skipped: int = 0) -> Crops:
    """Ten items, of which `skipped` have no crop."""

    def build(directory: Path) -> dict[str, int]:
        paths = [f"{number}.jpg" for number in range(10 - skipped)]
        for path in paths:
            Image.effect_noise((20, 30), 50).convert("RGB").save(directory / path)
        table = pl.DataFrame({"crop_path": paths}, schema={"crop_path": pl.String})
        table.write_parquet(directory / "crops.parquet")
        return {"items": 10, "skipped_items": skipped}

    return Crops(ArtifactStore(root).produce("crops/shard_0000", Recipe(code_version="1"), build))


def test_a_whole_shard_passes(tmp_path: Path) -> None:
    assert crops_complete(shard(tmp_path), tolerated=0.0).passed


def test_a_crop_that_is_gone_fails_whatever_is_tolerated(tmp_path: Path) -> None:
    spoilt = shard(tmp_path)
    (spoilt.path / "3.jpg").unlink()
    result = crops_complete(spoilt, tolerated=1.0)
    assert not result.passed
    assert result.metadata["broken"].value == ["3.jpg"]


def test_a_crop_that_does_not_decode_fails_whatever_is_tolerated(tmp_path: Path) -> None:
    spoilt = shard(tmp_path)
    truncate(spoilt.path / "7.jpg")
    result = crops_complete(spoilt, tolerated=1.0)
    assert not result.passed
    assert result.metadata["broken"].value == ["7.jpg"]


@pytest.mark.parametrize(("tolerated", "passes"), [(0.19, False), (0.2, True), (0.5, True)])
def test_skipped_items_pass_up_to_the_tolerated_share(tmp_path: Path, tolerated: float, passes: bool) -> None:
    result = crops_complete(shard(tmp_path, skipped=2), tolerated)
    assert result.passed is passes
    assert result.metadata["skipped_share"].value == 0.2


def test_a_shard_of_which_every_item_was_skipped_fails(tmp_path: Path) -> None:
    assert not crops_complete(shard(tmp_path, skipped=10), tolerated=0.05).passed


def test_an_empty_shard_passes(tmp_path: Path) -> None:
    def build(directory: Path) -> dict[str, int]:
        pl.DataFrame(schema={"crop_path": pl.String}).write_parquet(directory / "crops.parquet")
        return {"items": 0, "skipped_items": 0}

    empty = ArtifactStore(tmp_path).produce("crops/shard_0000", Recipe(code_version="1"), build)
    assert crops_complete(Crops(empty), tolerated=0.0).passed


@pytest.mark.parametrize(("missing", "passes"), [(2, True), (3, False)])
def test_more_unreadable_rows_than_are_tolerated_fail(missing: int, passes: bool) -> None:
    counts = CatalogueCounts(98, 40, 0, missing + 50, {"missing_image": missing, "style_zero": 50})
    result = catalogue_read(counts, tolerated=0.02)
    assert result.passed == passes
    assert f"{148 + missing} rows read" in str(result.metadata["catalogue"].value)
