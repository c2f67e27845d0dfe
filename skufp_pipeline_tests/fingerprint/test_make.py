"""Fingerprints of all SKUs, made some SKUs at a time."""

import numpy as np
import pytest
import torch

from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.fingerprint import make
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.gaussian import fit_gaussian
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    GaussianSettings,
    HubnessSettings,
)
from skufp_pipeline.fingerprint.tables import Queries, fingerprint_data, teacher_table

from .examples import view_set
from .test_tables import make_tables

SETTINGS = FingerprintSettings(
    aggregator=AggregatorSettings(heads=2, tokens=2, feedforward=8),
    gaussian=GaussianSettings(),
    hubness=HubnessSettings(strength=0.5),
)


@pytest.mark.parametrize("skus", [1, 2, 5])
def test_how_many_skus_are_held_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch, skus: int) -> None:
    tables = make_tables()
    data = fingerprint_data(tables, teacher_table(tables, 8)[0], 8)
    assert SETTINGS.gaussian is not None
    known = fit_gaussian(data.views, data.image_queries, SETTINGS.gaussian)
    torch.manual_seed(0)
    aggregator = AggregatorEnsemble(4, SETTINGS.aggregator)
    at_once, used_at_once = make.make_fingerprints(aggregator, known, tables, SETTINGS, torch.device("cpu"))
    monkeypatch.setattr(make, "SKUS_AT_ONCE", skus)
    table, used = make.make_fingerprints(aggregator, known, tables, SETTINGS, torch.device("cpu"))
    assert table["sku_id"].to_list() == ["t1", "t2", "t3", "v", "x"]
    assert table.drop("fingerprint", "bias").equals(at_once.drop("fingerprint", "bias"))
    np.testing.assert_allclose(
        embedding_rows(table, "fingerprint"), embedding_rows(at_once, "fingerprint"), atol=1e-6
    )
    np.testing.assert_allclose(table["bias"], at_once["bias"], atol=1e-6)
    assert used.equals(used_at_once)
    assert set(used["role"]) == {"train"}


def test_texts_turn_the_vectors_of_the_skus_that_have_some() -> None:
    views = view_set([(1.0, 0.0)], [(1.0, 0.0)])
    aggregated = np.array([[1, 0], [1, 0]], np.float32)
    texts = np.array([[0, 1], [0, 0]], np.float32)
    none = Queries(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    settings = FingerprintSettings(gaussian=None, catalog_text_weight=0.75)
    rows, biases = make.join_parts(aggregated, None, views, none, texts, settings)
    np.testing.assert_allclose(rows, [[0.8, 0.6], [1, 0]], atol=1e-6)
    assert not biases.any()
    settings = settings.model_copy(update={"catalog_text_weight": 0.0})
    rows, _ = make.join_parts(aggregated, None, views, none, texts, settings)
    np.testing.assert_array_equal(rows, aggregated)
