"""Synthetic photos as queries and as views: where they are taken, and that none for evaluation ever is."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from skufp_pipeline.datasets.table import is_synthetic, synthetic_id
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.gaussian import fit_gaussian
from skufp_pipeline.fingerprint.make import make_fingerprints, parts_left_out
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    GaussianSettings,
    HubnessSettings,
    SyntheticUse,
)
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    photos_to_fit,
    synthetic_means,
    teacher_table,
    training_photos,
    used_by_fingerprints,
)
from skufp_pipeline.fingerprint.views import unit

from .examples import image_table, unit_rows
from .test_tables import EVERYTHING, SPLIT_OF, make_tables

CPU = torch.device("cpu")
COUNTS = {"train": 2, "development": 1, "evaluation": 2}
ALL = SyntheticUse(teachers=True, aggregator=True, gaussian=True, hubness=True, view_weight=0.5, viewed="all")


def synthetic() -> pl.DataFrame:
    """Photos of every SKU, in every split."""
    keys = [(sku, role, n) for sku in SPLIT_OF for role, count in COUNTS.items() for n in range(1, count + 1)]
    vectors = unit_rows((len(keys), 4), 7).tolist()
    return image_table(
        [
            (synthetic_id(role, sku, n), sku, SPLIT_OF[sku], role, vector)
            for (sku, role, n), vector in zip(keys, vectors, strict=True)
        ]
    )


def tables(*photos: tuple[str, str, int]) -> EmbeddingTables:
    """Catalogue views of every SKU, these photos of customers, and synthetic ones."""
    views = [key for key in EVERYTHING if key[1] == "gallery"]
    return replace(make_tables([*views, *photos], texts=views), synthetic=synthetic())


def fingerprints(
    found: EmbeddingTables, use: SyntheticUse, hubness: HubnessSettings | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Made by an untrained aggregator and a Gaussian model of all SKUs' train photos."""
    settings = FingerprintSettings(
        aggregator=AggregatorSettings(heads=2, tokens=2, feedforward=8),
        gaussian=GaussianSettings(),
        catalog_text_weight=0.0,
        hubness=hubness,
        synthetic=use,
    )
    torch.manual_seed(0)
    aggregator = AggregatorEnsemble(4, settings.aggregator)
    views = make_tables().views(8)
    photos, _ = training_photos(make_tables(), views)
    assert settings.gaussian is not None
    known = fit_gaussian(views, photos, settings.gaussian)
    return make_fingerprints(aggregator, known, found, settings, CPU)


def test_they_stand_in_where_there_is_no_customers_photo_to_train_on() -> None:
    joined = tables().with_stand_ins(True)
    assert set(joined.queries("train")[0]["query_id"]) == {
        synthetic_id("train", sku, n) for sku in ("t1", "t2", "t3") for n in (1, 2)
    }
    assert joined.queries("development")[0].height == 3
    assert tables().with_stand_ins(False).queries("train")[0].is_empty()
    one = tables(("t2", "train", 0))
    assert one.with_stand_ins(True) is one
    development = tables(("t2", "development", 0)).with_stand_ins(True).queries("development")[0]
    assert development["query_id"].to_list() == ["image t2 development 0"]
    assert joined.images["sku_id"].is_sorted()


def test_a_photo_of_a_new_sku_does_not_count_as_one_to_train_on() -> None:
    assert tables(("v", "train", 0)).with_stand_ins(True).queries("train")[0].height == 6


@pytest.mark.parametrize(
    ("photo", "judged"),
    [
        (None, "synthetic"),
        (("t1", "train", 0), "synthetic"),
        (("x", "evaluation", 0), "synthetic"),  # no report scores SKUs of the split test
        (("v", "evaluation", 0), "customers"),
        (("t1", "evaluation", 0), "customers"),
    ],
)
def test_one_photo_of_a_customer_to_judge_and_no_synthetic_one_is(
    photo: tuple[str, str, int] | None, judged: str
) -> None:
    images = tables(*([photo] if photo else [])).judged().images
    held = images.filter((pl.col("role") == "evaluation") & (pl.col("split") != "test"))
    made = held.filter(is_synthetic("item_id")).height
    assert (made, held.height) == ((8, 8) if judged == "synthetic" else (0, 1))


@pytest.mark.parametrize("photos", [[], [("t1", "train", 0)], EVERYTHING])
def test_none_for_evaluation_is_ever_used(photos: list[tuple[str, str, int]]) -> None:
    found = tables(*[key for key in photos if key[1] != "gallery"]).judged()
    use = ALL.model_copy(update={"photo_weight": 1.0})
    used = [
        teacher_table(found.with_stand_ins(True), 8)[1],
        used_by_fingerprints(found, use),
        fingerprints(found, use, HubnessSettings())[1],
    ]
    for table in used:
        assert table.filter(pl.col("role") == "evaluation").is_empty()
        assert table.filter(is_synthetic("query_id", "evaluation")).is_empty()
        made = pl.col("use").str.starts_with("synthetic ")
        assert table.filter(made != is_synthetic("query_id")).is_empty()
    assert used[2].filter(is_synthetic("query_id")).height


def test_their_mean_is_mixed_into_the_vectors_of_the_skus_that_have_none() -> None:
    found = tables(("t1", "train", 0))
    plain, _ = fingerprints(found, SyntheticUse())
    mixed, used = fingerprints(found, SyntheticUse(view_weight=0.5))
    train = synthetic().filter(role="train")
    own = {sku: unit(embedding_rows(train.filter(sku_id=sku)).sum(axis=0)[None])[0] for sku in SPLIT_OF}
    before, after = embedding_rows(plain, "fingerprint"), embedding_rows(mixed, "fingerprint")
    for row, sku in enumerate(plain["sku_id"]):
        expected = before[row] if sku == "t1" else unit((before[row] + 0.5 * own[sku])[None])[0]
        np.testing.assert_allclose(after[row], expected, atol=1e-6)
    assert set(used.filter(is_synthetic("query_id"))["sku_id"]) == set(SPLIT_OF) - {"t1"}
    views = found.views(8)
    assert synthetic_means(found, views, "all")[0].any(axis=1).all()


def test_as_photos_they_count_by_their_weight_where_a_sku_has_none() -> None:
    found = tables(("t1", "train", 0), ("t1", "train", 1))
    views = found.views(8)
    photos, used = training_photos(found, views, 0.25)
    assert photos.weights is not None
    assert photos.weights.tolist() == [1, 1] + [0.25] * 8
    assert [views.sku_ids[row] for row in photos.truth] == ["t1"] * 2 + [
        s for s in ["t2", "t3", "v", "x"] for _ in "ab"
    ]
    assert used["use"].to_list() == ["train"] * 2 + ["synthetic train"] * 8
    assert training_photos(found, views)[0].weights is None
    none, light, full = (
        embedding_rows(fingerprints(found, SyntheticUse(photo_weight=weight))[0], "fingerprint")
        for weight in (0.0, 1e-9, 1.0)
    )
    np.testing.assert_allclose(light, none, atol=1e-6)
    assert np.abs(full - none).max(axis=1).round(4).tolist()[0] == 0
    assert (np.abs(full - none).max(axis=1)[1:] > 1e-3).all()


def test_the_noise_is_estimated_from_them_only_if_wanted() -> None:
    views = tables().views(8)
    assert len(photos_to_fit(tables(), views, SyntheticUse()).truth) == 0
    fitted = photos_to_fit(tables(), views, SyntheticUse(gaussian=True, photo_weight=0.5))
    assert fitted.weights is not None
    assert fitted.weights.tolist() == [0.5] * 6
    customers = tables(("t1", "train", 0))
    assert photos_to_fit(customers, views, SyntheticUse(gaussian=True)).weights is None


def test_they_are_the_bank_against_hubs_only_if_wanted() -> None:
    without, used = fingerprints(tables(), SyntheticUse(), HubnessSettings())
    banked, bank = fingerprints(tables(), SyntheticUse(hubness=True), HubnessSettings())
    assert used.is_empty()
    assert bank.height == 6
    assert not np.allclose(without["bias"], banked["bias"])


def test_what_was_taken_and_what_is_left_out_is_told() -> None:
    settings = FingerprintSettings(gaussian=None, hubness=HubnessSettings(), synthetic=ALL)
    _, used = fingerprints(tables(), ALL, HubnessSettings())
    assert parts_left_out(settings, None, used) == [
        "10 synthetic photos were used as if they were customers'"
    ]
    nothing = settings.model_copy(update={"synthetic": SyntheticUse()})
    assert parts_left_out(nothing, None, used.clear())[1:] == [
        "no bias against hubs: its bank would be the training photos"
    ]
