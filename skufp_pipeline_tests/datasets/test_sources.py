"""Every data set behind the same methods: the sample, DeepFashion2, a manifest, and one made up here."""

import json
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from skufp_pipeline.datasets.reading import build_catalogue
from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.writer import DEGRADATION_SCHEMA
from skufp_pipeline.datasets.sources import DeepFashion2Dataset, ManifestDataset, SampleDataset, Source
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, QUERY, Catalogue
from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.orchestration.staleness import catalog_diff
from skufp_pipeline.photos import size_of
from skufp_pipeline.presets import Preset
from skufp_pipeline.progress import Progress
from skufp_pipeline.settings import Settings

from ..graphs import Graph, metadata, run_asset
from .trees import good_pair, write_image, write_manifest


class ShelfSettings(Settings):
    suffix: str = ".png"


class ShelfDataset(Source):
    """A folder of `<domain>/<sku_id>.png`."""

    source: Literal["shelf"] = "shelf"
    shelf: str
    read: ShelfSettings = ShelfSettings()

    reader_code = ("skufp_pipeline_tests.datasets.test_sources",)

    @property
    def folder(self) -> Path:
        return Path(self.shelf)

    def items(self, raw: Path, splits: SplitSettings, progress: Progress | None = None) -> Catalogue:
        rows = [
            {
                "sku_id": path.stem,
                "split": "train",
                "domain": domain,
                "image_id": f"{domain}-{path.stem}",
                "item_idx": 1,
                "category_name": "product",
                "orig_image_path": f"{domain}/{path.name}",
                "bbox": [0, 0, *size_of(path)],
            }
            for domain in (CATALOG, QUERY)
            for path in sorted((self.folder / domain).glob(f"*{self.read.suffix}"))
        ]
        return build_catalogue(rows, [], True, splits, self.folder)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    for domain in (CATALOG, QUERY):
        for sku in ("hat", "belt"):
            write_image(tmp_path / "shelf" / domain / f"{sku}.png")
    return tmp_path / "shelf"


def test_a_new_source_is_a_class_and_the_graph_reads_it(small_graph: Graph, shelf: Path) -> None:
    given = {"dataset": ShelfDataset(shelf=str(shelf)), "data_root": str(shelf.parent / "data")}
    preset: Preset = small_graph.preset.model_copy(update=given)
    shard = stable_shard("hat", preset.shards)
    for name in ("raw_dataset", "annotations"):
        assert metadata(run_asset(preset, name))["computed"] == 1
    crops = metadata(run_asset(preset, "sku_crops", shard))
    assert crops["dagster/row_count"] == 2 * sum(
        stable_shard(sku, preset.shards) == shard for sku in ("hat", "belt")
    )
    assert metadata(run_asset(preset, "raw_dataset"))["computed"] == 0

    write_image(shelf / CATALOG / "hat.png", colour="blue")
    found = catalog_diff(preset, graph_steps(preset), ["annotations", "sku_crops"])
    assert found.changes.select("sku_id", "change").rows() == [("hat", "changed")]
    assert metadata(run_asset(preset, "raw_dataset"))["computed"] == 1


def test_the_sample_renders_its_files_and_knows_what_spoilt_them(tmp_path: Path) -> None:
    sample = SampleDataset(source="sample", render=SampleSettings(num_skus=50, image_size=32, workers=1))
    assert sample.listing() == {}
    assert sample.config() == {
        "source": "sample",
        "render": sample.render.model_dump(exclude={"workers"}),
    }
    assert sample.write_raw(tmp_path)["skus"] == 50
    assert sample.root(tmp_path) == tmp_path
    found = sample.catalogue(tmp_path, SplitSettings(), 4)
    assert set(found.items["shard"]) == {0, 1, 2, 3}
    assert sample.degradations(tmp_path).schema == pl.Schema(DEGRADATION_SCHEMA)


@pytest.mark.parametrize("source", ["deepfashion2", "manifest"])
def test_a_users_folder_is_listed_and_read_where_it_lies(tmp_path: Path, source: str) -> None:
    mine = tmp_path / "mine"
    good_pair(mine)
    row = {"sku_id": "hat", "image_path": "train/image/000001.jpg", "domain": "catalog"}
    manifest = write_manifest(mine, [row])
    dataset: Source = (
        DeepFashion2Dataset(source="deepfashion2", path=str(mine))
        if source == "deepfashion2"
        else ManifestDataset.model_validate({"source": "manifest", "read": {"path": str(manifest)}})
    )
    raw = tmp_path / "raw"
    raw.mkdir()
    summary = dataset.write_raw(raw)
    assert json.loads((raw / "inventory.json").read_text()) == summary == dataset.listing()
    assert summary["files"] == 5
    assert dataset.root(raw) == mine
    items = dataset.catalogue(raw, SplitSettings(), 1).items
    assert items["orig_image_path"][0] == "train/image/000001.jpg"
    assert items["image_digest"].null_count() == 0
    assert dataset.degradations(raw) is None
    assert dataset.another_rendering(3) is None
    assert "read" not in dataset.config()
