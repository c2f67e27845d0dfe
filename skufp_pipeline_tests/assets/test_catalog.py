"""From a data set on disk to its shards, one asset at a time, through Dagster."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.presets import Preset
from skufp_pipeline.store import ArtifactStore

from ..datasets.trees import good_pair, truncate, write_manifest
from ..encoders.examples import BLIP_WORDS, write_blip
from ..graphs import Graph, checks, digests, failure, metadata, run_asset, times_of_change

SKUS = ("shirt", "skirt", "hat", "belt")
SHARDS = 2


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def catalogue_of_mine(folder: Path, *extra: dict[str, Any]) -> Path:
    """A manifest of four SKUs, three photos each, and whatever rows a test adds."""
    rows = []
    for number, sku in enumerate(SKUS):
        for view, domain in enumerate(("catalog", "catalog", "query")):
            path = f"photos/{sku}_{view}.jpg"
            photo(folder / path, 10 * number + view)
            rows.append({"sku_id": sku, "image_path": path, "domain": domain, "split": "train"})
    return write_manifest(folder, [*rows, *extra])


def manifest_preset(manifest: Path, data: Path, shards: int = SHARDS, **evaluation: Any) -> Preset:
    return Preset.model_validate(
        {
            "name": "mine",
            "data_root": str(data),
            "shards": shards,
            "dataset": {"source": "manifest", "read": {"path": str(manifest)}},
            "encoder": {"model": "skufp-tiny"},
            "evaluation": evaluation,
        }
    )


def df2_preset(folder: Path, data: Path) -> Preset:
    return Preset.model_validate(
        {
            "name": "df2",
            "data_root": str(data),
            "shards": 1,
            "dataset": {"source": "deepfashion2", "path": str(folder)},
            "encoder": {"model": "skufp-tiny"},
        }
    )


def run_catalog(preset: Preset) -> None:
    for name in ("raw_dataset", "annotations"):
        assert run_asset(preset, name).success
    for shard in range(preset.shards):
        for name in ("sku_crops", "image_text"):
            assert run_asset(preset, name, shard).success


def test_a_manifest_becomes_crops_and_texts_of_every_sku(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data")
    run_catalog(preset)
    store = ArtifactStore(preset.data_root)
    found = []
    for shard in range(SHARDS):
        crops = store.read(f"crops/shard_{shard:04d}")
        texts = pl.read_parquet(
            store.read(f"tables/image_text/shard_{shard:04d}").path / "image_text.parquet"
        )
        found += texts["sku_id"].unique().to_list()
        assert all((crops.path / path).is_file() for path in texts["image_path"])
        assert all(stable_shard(sku, SHARDS) == shard for sku in texts["sku_id"])
    assert sorted(found) == sorted(SKUS)


def test_rows_that_cannot_be_used_are_listed_with_reasons_and_counted_in_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    photo(folder / "photos" / "good.jpg", 99)
    (folder / "photos" / "text.jpg").write_text("no photo")
    good = {"sku_id": "scarf", "image_path": "photos/good.jpg", "domain": "catalog", "split": "train"}
    manifest = catalogue_of_mine(
        folder,
        {**good, "image_path": "photos/gone.jpg"},
        {**good, "image_path": "photos/text.jpg"},
        {**good, "image_path": "../outside.jpg"},
        {**good, "domain": "shelf"},
        {**good, "sku_id": ""},
    )
    preset = manifest_preset(manifest, tmp_path / "data", thresholds={"rows_left_out": 1.0})
    assert run_asset(preset, "raw_dataset").success
    told = metadata(run_asset(preset, "annotations"))
    skipped = pl.read_parquet(
        ArtifactStore(preset.data_root).read("tables/annotations").path / "skipped_items.parquet"
    )
    reasons = dict(skipped.group_by("reason").len().iter_rows())
    assert reasons == {
        "missing_image": 1,
        "broken_image": 1,
        "bad_image_path": 1,
        "bad_domain": 1,
        "bad_sku_id": 1,
    }
    assert skipped["detail"].str.starts_with("row ").all()
    assert (told["items"], told["skipped_items"]) == (12, 5)
    assert all(f"| {reason} | 1 |" in " ".join(told["skipped_by_reason"].split()) for reason in reasons)


def test_a_catalogue_of_one_shard_works(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data", shards=1)
    run_catalog(preset)
    crops = ArtifactStore(preset.data_root).read("crops/shard_0000")
    assert crops.summary == {"items": 12, "crops": 12, "skipped_items": 0}


def test_a_shard_without_skus_is_empty_and_sound(tmp_path: Path) -> None:
    shards = 16
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data", shards=shards)
    taken = {stable_shard(sku, shards) for sku in SKUS}
    empty = min(set(range(shards)) - taken)
    for name in ("raw_dataset", "annotations"):
        assert run_asset(preset, name).success
    cut = run_asset(preset, "sku_crops", empty)
    assert (metadata(cut)["crops"], checks(cut)) == (0, {"crops_complete": True})
    assert metadata(run_asset(preset, "image_text", empty))["dagster/row_count"] == 0


def test_a_changed_photo_reruns_the_shard_of_its_sku_alone(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data")
    run_catalog(preset)
    before = times_of_change(tmp_path / "data")
    photo(tmp_path / "mine" / "photos" / "hat_0.jpg", 1234)
    run_catalog(preset)
    after = times_of_change(tmp_path / "data")
    rewritten = {str(Path(file).parent) for file in after if after[file] != before.get(file)}
    shards = {folder for folder in rewritten if "shard_" in folder and "annotations" not in folder}
    mine = f"shard_{stable_shard('hat', SHARDS):04d}"
    assert {f"crops/{mine}", f"tables/image_text/{mine}"} <= shards
    assert all(f"/{mine}" in folder for folder in shards)


def test_deepfashion2_without_its_test_split_is_read(tmp_path: Path) -> None:
    good_pair(tmp_path / "df2", "train", 1, first_id=1)
    good_pair(tmp_path / "df2", "validation", 2, first_id=3)
    preset = df2_preset(tmp_path / "df2", tmp_path / "data")
    run_catalog(preset)
    items = pl.read_parquet(tmp_path / "data" / "tables" / "annotations" / "items" / "*.parquet")
    assert dict(items.group_by("split").len().iter_rows()) == {"train": 2, "validation": 2}


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    told = failure(run_asset(df2_preset(tmp_path / "nowhere", tmp_path / "data"), "raw_dataset"))
    assert f"dataset.path '{tmp_path / 'nowhere'}' is no folder" in told
    assert len(told.splitlines()) == 1


def test_a_manifest_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    told = failure(run_asset(manifest_preset(tmp_path / "no.csv", tmp_path / "data"), "raw_dataset"))
    assert "no.csv' is no file; expected a .csv or .parquet manifest" in told
    assert len(told.splitlines()) == 1


def test_a_folder_that_is_no_deepfashion2_is_refused(tmp_path: Path) -> None:
    preset = df2_preset(tmp_path, tmp_path / "data")
    run_asset(preset, "raw_dataset")
    told = failure(run_asset(preset, "annotations"))
    assert "train/annos" in told
    assert len(told.splitlines()) == 1


def test_too_many_photos_that_do_not_decode_fail_the_check_of_their_shard(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data", shards=1)
    truncate(tmp_path / "mine" / "photos" / "belt_2.jpg")
    for name in ("raw_dataset", "annotations"):
        assert run_asset(preset, name).success
    result = run_asset(preset, "sku_crops", 0)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("crops_complete", False)
    assert check.metadata["skipped_items"].value == 1

    lenient = manifest_preset(
        tmp_path / "mine" / "manifest.csv", tmp_path / "data", shards=1, thresholds={"skipped_fraction": 0.1}
    )
    assert checks(run_asset(lenient, "sku_crops", 0)) == {"crops_complete": True}


def test_a_deleted_shard_is_made_again_the_same_and_the_others_are_left_alone(spoilt: Graph) -> None:
    before, times = digests(spoilt.store), times_of_change(Path(spoilt.preset.data_root))
    shutil.rmtree(spoilt.store.read("crops/shard_0001").path)
    assert metadata(run_asset(spoilt.preset, "sku_crops", 1))["computed"] == 1
    assert digests(spoilt.store) == before
    after = times_of_change(Path(spoilt.preset.data_root))
    assert {file for file in times if times[file] != after[file]} == {
        file for file in times if file.startswith("crops/shard_0001/")
    }


def test_an_unchanged_shard_is_skipped_and_says_so(spoilt: Graph) -> None:
    times = times_of_change(Path(spoilt.preset.data_root))
    for name in ("sku_crops", "image_text"):
        told = metadata(run_asset(spoilt.preset, name, 0))
        assert (told["computed"], told["skipped_as_unchanged"]) == (0, 1)
    assert times_of_change(Path(spoilt.preset.data_root)) == times


def test_texts_of_crops_that_are_not_there_are_refused_by_the_shards_name(spoilt: Graph) -> None:
    shutil.rmtree(spoilt.store.read("crops/shard_0001").path)
    told = failure(run_asset(spoilt.preset, "image_text", 1))
    assert told.startswith("no complete crops/shard_0001 under ")
    assert run_asset(spoilt.preset, "image_text", 0).success


def test_the_metadata_of_crops_shows_some(small_graph: Graph) -> None:
    told = metadata(run_asset(small_graph.preset, "sku_crops", 0))
    assert told["contact_sheet"].startswith("![sheet](data:image/jpeg;base64,")
    assert told["dagster/row_count"] == small_graph.store.read("crops/shard_0000").summary["crops"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_rendering_processes_is_no_part_of_the_recipe(small_graph: Graph, workers: int) -> None:
    preset = small_graph.preset
    render = preset.dataset.render.model_copy(update={"workers": workers})  # type: ignore[union-attr]
    same = preset.model_copy(update={"dataset": preset.dataset.model_copy(update={"render": render})})
    assert metadata(run_asset(same, "raw_dataset"))["computed"] == 0


def with_captions(preset: Preset, **captions: Any) -> Preset:
    prompts = preset.prompts.model_copy(update={"captions": CaptionSettings(**captions)})
    return preset.model_copy(update={"prompts": prompts})


def test_a_preset_with_a_model_gets_captions_and_none_are_made_twice(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data", shards=1)
    (tmp_path / "blip").mkdir()
    model = str(write_blip(tmp_path / "blip"))
    run_catalog(with_captions(preset, model=model, batch_size=4))
    folder = ArtifactStore(preset.data_root).read("tables/image_text/shard_0000").path
    lines = pl.read_parquet(folder / "image_text.parquet")["text_captions"].drop_nulls().to_list()
    assert set(" ".join(lines).split()) <= set(BLIP_WORDS)
    assert lines
    other_batch = with_captions(preset, model=model, batch_size=1)
    assert metadata(run_asset(other_batch, "image_text", 0))["computed"] == 0
    (tmp_path / "blip" / "note.txt").write_text("another model")
    assert metadata(run_asset(other_batch, "image_text", 0))["computed"] == 1


def test_a_misspelt_caption_model_is_told_by_name(tmp_path: Path) -> None:
    preset = manifest_preset(catalogue_of_mine(tmp_path / "mine"), tmp_path / "data", shards=1)
    run_catalog(preset)
    told = failure(run_asset(with_captions(preset, model="no/such-model"), "image_text", 0))
    assert told.startswith("prompts.captions.model 'no/such-model' could not be loaded")
