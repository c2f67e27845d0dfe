"""Cross-validation of extractors: measures by hand, and no product on both sides of a fold."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from skufp_pipeline.datasets.prompts import build_catalog_texts, build_image_text, build_text_queries
from skufp_pipeline.datasets.sources import PicturesDataset
from skufp_pipeline.encoders.dataset import TextShard
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.evaluation import lens
from skufp_pipeline.evaluation.lens_report import Costs, lens_report, lens_rows, lens_tables
from skufp_pipeline.evaluation.settings import LensSettings
from skufp_pipeline.extractors.objective import ExtractorData

from ..extractors.examples import small

SKUS = [f"p{number}" for number in range(40)]
COSTS = Costs(memory=2**20, bytes=2**21, vector=32, p50_ms=1.0, p95_ms=2.0)


def rows_of(*angles: float) -> np.ndarray:
    """Unit rows in the plane, by their angle in degrees."""
    turned = np.deg2rad(angles)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_a_product_scores_its_best_picture_and_is_one_of_the_products() -> None:
    pictures, owners = rows_of(0, 90, 40, 60), pl.Series(["a", "a", "b", "c"])
    found = lens.found_products(rows_of(95, 50), pl.Series(["a", "c"]), pictures, owners)
    assert found["reciprocal_rank"].tolist() == pytest.approx(
        [1, 1 / 2]
    )  # b ties with c: it counts against it
    assert found["recall@1"].tolist() == [1, 0]
    assert found["precision@3"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert found["chance"].tolist() == pytest.approx([1 / 3] * 2)


def test_a_category_is_found_by_pictures_of_its_other_products() -> None:
    owners = pl.Series(["a", "a", "b", "c", "d", "e"])
    categories = pl.Series(["boot", "boot", "boot", "boot", "shoe", "shoe"])
    found = lens.found_categories(rows_of(0, 1, 30, 50, 20, 180), owners, categories, np.array([0, 4]))
    # a's other picture is not searched; d is nearest, then b and c, of two that are alike.
    assert found["precision@1"][0] == 0
    assert found["precision@3"][0] == pytest.approx(2 / 3)
    assert found["recall@3"][0] == 1
    assert found["reciprocal_rank"][0] == pytest.approx(1 / 2)
    assert found["chance"][0] == pytest.approx(2 / 4)
    assert found["recall@10"][1] == 1
    assert found["reciprocal_rank"][1] == pytest.approx(1 / 5)


def test_equal_vectors_find_nothing_by_chance() -> None:
    same, owners = np.ones((6, 1), np.float32), pl.Series(list("abcdef"))
    by_photo = lens.found_products(same, owners, same, owners)
    by_picture = lens.found_categories(same, owners, pl.Series(list("xxxyyy")), np.arange(6))
    assert by_photo["recall@5"].sum() == by_photo["recall@1"].sum() == 0
    assert by_picture["precision@3"].sum() == 0


def test_every_product_is_tested_once_and_the_parts_of_a_fold_part_the_products(tmp_path: Path) -> None:
    settings = small("autoencoder", tmp_path, held_out=0.3)
    tested: Counter[str] = Counter()
    for fold in range(4):
        parts = lens.parts_of_fold(SKUS, fold, 4, settings)
        assert list(parts) == sorted(SKUS)
        assert set(parts.values()) == {"train", "development", "test"}
        tested.update(sku_id for sku_id, part in parts.items() if part == "test")
    assert tested == Counter(SKUS)
    # A product stays in its fold, whatever is beside it.
    assert (
        lens.parts_of_fold(SKUS[:7], 2, 4, settings).items()
        <= lens.parts_of_fold(SKUS, 2, 4, settings).items()
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> lens.LensData:
    """40 pictures of one grey each, in two categories, and a photo of each: the picture itself."""
    from skufp_pipeline.datasets.crops import CropSettings, write_crops
    from skufp_pipeline.datasets.prompts import PromptSettings
    from skufp_pipeline.datasets.splits import SplitSettings

    folder = tmp_path_factory.mktemp("pictures")
    from ..datasets.trees import write_image

    for number, name in enumerate(SKUS):
        grey = 6 * number
        write_image(folder / "raw" / "xy"[number % 2] / f"{name}.png", (16, 16), f"rgb({grey},{grey},{grey})")
    dataset = PicturesDataset.model_validate({"source": "pictures", "path": str(folder / "raw")})
    items = dataset.catalogue(folder / "raw", SplitSettings(), 1).items
    crops, _ = write_crops(items, dataset.find(folder / "raw"), folder / "crops", CropSettings())
    table = build_image_text(crops, folder / "crops", PromptSettings(), SplitSettings())
    shard = TextShard(table, build_text_queries(table), build_catalog_texts(table), folder / "crops")
    photos = table.select(
        "sku_id",
        "split",
        "image_path",
        pl.lit("evaluation").alias("role"),
        item_id=pl.format("photo/{}", "sku_id"),
    )
    return lens.LensData.of([shard], [(photos, folder / "crops")])


def judged(data: lens.LensData, name: str, folder: Path, **changes: Any) -> lens.FoldTables:
    settings, cpu = small(name, folder, held_out=0.2, **changes), torch.device("cpu")
    return lens.judge_folds(
        data, settings, LensSettings(folds=2), 3, folder / "scratch", cpu, lambda line: None
    )


@pytest.mark.parametrize("name", ["autoencoder", "resnet50", "clip", "vit"])
def test_no_training_gets_a_picture_of_the_products_that_it_is_tested_on(
    name: str, pictures: lens.LensData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, greys = lens.train_extractor, []

    def spied(extractor: Any, data: ExtractorData, *rest: Any) -> Any:
        every = np.concatenate([data.images.pixels, data.development.pixels])
        greys.append({round(float(pixels.mean()) / 6) for pixels in every})
        return train(extractor, data, *rest)

    monkeypatch.setattr(lens, "train_extractor", spied)
    found = judged(pictures, name, tmp_path, epochs=1)
    for fold, shown in enumerate(greys):
        tested = {
            row for row, name in enumerate(SKUS) if lens.fold_of(f"{'xy'[row % 2]}:{name}.png", 2) == fold
        }
        assert shown == set(range(len(SKUS))) - tested
    zero = found.queries.filter(setting="zero", relevance="product", state="after")
    assert sorted(zero["sku_id"]) == pictures.products  # each once
    seen = found.queries.filter(setting="seen", relevance="product", state="after")
    assert seen.height == len(SKUS)
    assert found.losses["epochs"].to_list() == [0, 1] * 2
    assert found.losses["test_loss"].is_finite().all()


def test_a_catalogue_of_many_products_is_judged_by_one_fold_and_some_of_them(
    pictures: lens.LensData, tmp_path: Path
) -> None:
    settings, cpu = small("autoencoder", tmp_path, epochs=1), torch.device("cpu")
    chosen = LensSettings(folds=2, cross_validated=len(SKUS) - 1, most_asked=5)
    found = lens.judge_folds(pictures, settings, chosen, 3, tmp_path / "scratch", cpu, lambda line: None)
    assert set(found.products["fold"]) == {0}
    asked = found.queries.filter(state="after", relevance="product")
    assert dict(asked["setting"].value_counts().iter_rows()) == {"seen": 5, "zero": 5}


def test_the_report_has_intervals_and_the_gain_of_the_training(
    pictures: lens.LensData, tmp_path: Path
) -> None:
    found = judged(pictures, "autoencoder", tmp_path, epochs=2)
    rows = lens_rows("autoencoder", found.losses, found.queries, COSTS, 100, 0)
    assert [row["setting"] for row in rows] == ["seen", "zero", "seen+zero"]
    assert [row["queries"] for row in rows] == [40, 40, 80]
    for row in rows:
        asked = found.queries.filter(relevance="product")
        if row["setting"] != "seen+zero":
            asked = asked.filter(setting=row["setting"])
        after, before = (asked.filter(state=state)["recall@1"].mean() for state in ("after", "before"))
        assert row["recall@1"] == pytest.approx(after)
        assert row["gain"] == pytest.approx(after - before)  # type: ignore[operator]
        assert row["recall@1_low"] <= row["recall@1"] <= row["recall@1_high"]
        assert row["category_precision@1"] is not None
    told = lens_tables(lens_report(rows, 2, 2, 40, {"clip": "too little"}))
    assert "| autoencoder | zero | 40 |" in told
    assert "clip is left out: too little" in told


def test_a_catalogue_of_one_category_has_no_figures_of_categories(
    pictures: lens.LensData, tmp_path: Path
) -> None:
    one = lens.LensData(
        pictures.shards, pictures.pictures.with_columns(category_name=pl.lit("x")), pictures.photos
    )
    found = judged(one, "autoencoder", tmp_path, epochs=1)
    assert set(found.queries["relevance"]) == {"product"}
    rows = lens_rows("autoencoder", found.losses, found.queries, COSTS, 100, 0)
    assert rows[1]["category_precision@10"] is None
    assert "same category" not in lens_tables(lens_report(rows, 2, 2, 40, {}))


def test_few_pictures_are_judged_by_the_folds_that_have_some_and_too_few_by_none(
    pictures: lens.LensData, tmp_path: Path
) -> None:
    settings, cpu = small("autoencoder", tmp_path, epochs=1), torch.device("cpu")

    def judged_folds(count: int) -> set[int]:
        few = pictures.products[:count]
        is_one = pl.col("sku_id").is_in(few)
        shards = [replace(shard, image_text=shard.image_text.filter(is_one)) for shard in pictures.shards]
        data = lens.LensData(shards, pictures.pictures.filter(is_one), pictures.photos.filter(is_one))
        given = settings, LensSettings(folds=9), 3, tmp_path / f"scratch_{count}", cpu, lambda line: None
        return set(lens.judge_folds(data, *given).products["fold"])

    assert judged_folds(5) == {lens.fold_of(sku_id, 9) for sku_id in pictures.products[:5]}
    with pytest.raises(TooLittleError, match="1 products are too few for 9 folds"):
        judged_folds(1)
