"""Training of the aggregator, on settings given here in full."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from skufp_pipeline.errors import UserError
from skufp_pipeline.fingerprint import aggregator_train as train_room
from skufp_pipeline.fingerprint.aggregator import (
    AggregatorEnsemble,
    fingerprints,
    load_aggregator,
    save_aggregator,
)
from skufp_pipeline.fingerprint.aggregator_train import (
    _drop_views,
    spread_queries,
    train_aggregator,
)
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    FingerprintTrainingSettings,
)
from skufp_pipeline.fingerprint.tables import FingerprintData, Queries
from skufp_pipeline.fingerprint.teachers import best_shot
from skufp_pipeline.fingerprint.views import mean_sku

from .examples import random_views, unit_rows

CPU = torch.device("cpu")
SKUS, DIMENSION = 12, 8
AGGREGATOR = AggregatorSettings(
    members=2, tokens=2, layers=1, heads=2, feedforward=16, dropout=0.1, residual=True
)
TRAINING: dict[str, Any] = {
    "image_weight": 1.0,
    "text_weight": 0.5,
    "rank_weight": 1.0,
    "classification_weight": 1.0,
    "rank_temperature": 0.1,
    "classification_temperature": 0.1,
    "text_query_weight": 0.2,
    "epochs": 4,
    "skus_per_batch": 8,
    "queries_per_batch": 16,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "warmup_fraction": 0.1,
    "view_dropout": 0.3,
    "query_spread": 1.1,
    "query_swap": 0.1,
}


def silent(message: str) -> None:
    pass


def queries(each: int, seed: int) -> Queries:
    centres = mean_sku(random_views([1 + sku % 4 for sku in range(SKUS)], DIMENSION))
    truth = np.repeat(np.arange(SKUS), each)
    noisy = centres[truth] + 0.6 * unit_rows((len(truth), DIMENSION), seed)
    return Queries((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32), truth)


@pytest.fixture
def data() -> FingerprintData:
    views = random_views([1 + sku % 4 for sku in range(SKUS)], DIMENSION)
    images = queries(4, 1)
    teachers = best_shot(views, images.embeddings, images.truth).vectors
    texts = unit_rows((SKUS, DIMENSION), 5)
    texts[::3] = 0  # SKUs without text
    return FingerprintData(views, images, queries(1, 2), queries(2, 3), teachers, texts)


def train(
    data: FingerprintData, seed: int = 3, log: Callable[[str], None] = silent, **changes: Any
) -> tuple[AggregatorEnsemble, list[dict[str, float]]]:
    settings = FingerprintSettings(
        aggregator=AGGREGATOR, training=FingerprintTrainingSettings(**{**TRAINING, **changes})
    )
    with TemporaryDirectory() as scratch:
        return train_aggregator(data, settings, seed, CPU, Path(scratch), log)


def equal(one: AggregatorEnsemble, other: AggregatorEnsemble) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return all(weights[name].equal(others[name]) for name in weights)


def reciprocal_rank(model: AggregatorEnsemble, data: FingerprintData) -> float:
    """Mean reciprocal rank of the development queries, counted one by one."""
    made = fingerprints(model, data.views, CPU)
    scores = data.development.embeddings @ made.T
    ranks = [
        int((row >= row[truth]).sum()) for row, truth in zip(scores, data.development.truth, strict=True)
    ]
    return float(np.mean([1 / rank for rank in ranks]))


def test_the_same_seed_gives_the_same_weights_and_another_others(data: FingerprintData) -> None:
    one, history = train(data)
    two, again = train(data)
    assert equal(one, two)
    assert history == again
    assert not equal(one, train(data, seed=4)[0])


def test_the_model_is_that_of_the_best_development_epoch(data: FingerprintData) -> None:
    model, history = train(data, epochs=8, learning_rate=0.05)
    measured = [row["development_mrr"] for row in history]
    assert len(set(measured)) > 1
    assert reciprocal_rank(model, data) == pytest.approx(max(measured), abs=1e-6)
    assert not model.training


@pytest.mark.parametrize(
    ("measured", "best"), [([0.2, 0.9, 0.5], 2), ([0.9, 0.5, 0.5], 1), ([0.1, 0.2, 0.3], 3)]
)
def test_the_weights_of_the_best_epoch_are_kept(
    data: FingerprintData, measured: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model: AggregatorEnsemble, tensors: object) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return measured[len(seen) - 1]

    monkeypatch.setattr(train_room, "_development_mrr", measure)
    model, history = train(data, epochs=3)
    assert [row["development_mrr"] for row in history] == measured
    kept = model.state_dict()
    assert all(value.equal(kept[name]) for name, value in seen[best - 1].items())
    assert not all(value.equal(kept[name]) for name, value in seen[best % 3].items())


def test_without_development_queries_the_last_epoch_is_kept(data: FingerprintData) -> None:
    none = Queries(np.empty((0, DIMENSION), np.float32), np.empty(0, np.int64))
    model, history = train(replace(data, development=none))
    assert len(history) == 4
    assert all(math.isnan(row["development_mrr"]) for row in history)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_training_lowers_the_loss(data: FingerprintData) -> None:
    _, history = train(
        data, epochs=25, learning_rate=0.01, view_dropout=0.0, query_spread=1.0, query_swap=0.0
    )
    total = [
        sum(value for name, value in row.items() if name not in ("epoch", "development_mrr"))
        for row in history
    ]
    assert total[-1] < 0.8 * total[0]


def test_the_history_is_numbered_and_finite(data: FingerprintData) -> None:
    _, history = train(data)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for row in history for value in row.values())


def test_progress_is_told_with_losses_score_and_rate(data: FingerprintData) -> None:
    said: list[str] = []
    train(data, log=said.append)
    assert said[-1].startswith("aggregator: epoch 4/4, loss ")
    assert "development MRR" in said[-1]
    assert said[-1].endswith(" epochs/s")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_view_dropout_hides_its_share_and_never_all_views_of_a_sku(share: float) -> None:
    mask = torch.from_numpy(random_views([1 + sku % 6 for sku in range(600)], DIMENSION).mask)
    kept = _drop_views(mask, torch.zeros_like(mask), share, torch.Generator().manual_seed(0))
    assert kept.any(dim=1).all()
    assert not (kept & ~mask).any()
    assert kept[:, 0][mask.sum(dim=1) == 1].all()
    six = kept[mask.sum(dim=1) == 6].float().mean().item()
    assert six == pytest.approx(1 - share, abs=0.08) or share > 0.9


@pytest.mark.parametrize("share", [0.0, 0.99])
def test_training_is_sound_whatever_the_view_dropout(data: FingerprintData, share: float) -> None:
    model, history = train(data, view_dropout=share)
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    "weight", ["image_weight", "text_weight", "rank_weight", "classification_weight", "text_query_weight"]
)
def test_each_term_may_be_switched_off_and_each_matters(data: FingerprintData, weight: str) -> None:
    model, history = train(data, **{weight: 0.0})
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert not equal(model, train(data)[0])


def test_a_catalogue_without_texts_is_trained_on_images_alone(data: FingerprintData) -> None:
    none = Queries(np.empty((0, DIMENSION), np.float32), np.empty(0, np.int64))
    zero = np.zeros((SKUS, DIMENSION), np.float32)
    model, history = train(replace(data, text_queries=none, text_teachers=zero))
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert torch.isfinite(torch.from_numpy(fingerprints(model, data.views, CPU))).all()


def test_batches_may_be_larger_than_the_data(data: FingerprintData) -> None:
    _, history = train(data, skus_per_batch=10_000, queries_per_batch=10_000)
    assert len(history) == 4


@pytest.mark.parametrize(("skus", "kept"), [(1, 4), (SKUS, 0)])
def test_too_little_to_train_on_is_told(data: FingerprintData, skus: int, kept: int) -> None:
    few = Queries(data.image_queries.embeddings[:kept], data.image_queries.truth[:kept])
    small = replace(data, views=data.views.select(np.arange(skus)), image_queries=few)
    with pytest.raises(UserError, match=f"found {skus} SKUs and {kept} photos of role train"):
        train(small)


def test_fingerprints_are_unit_rows_whatever_the_batch(data: FingerprintData) -> None:
    model, _ = train(data)
    made = fingerprints(model, data.views, CPU)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made.astype(np.float64), axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(fingerprints(model, data.views, CPU, batch=5), made, atol=1e-6)


def test_a_new_skus_fingerprint_needs_nothing_but_its_views(data: FingerprintData) -> None:
    model, _ = train(data)
    every = random_views([2, 3, 1], DIMENSION, seed=50)
    together = fingerprints(model, every, CPU)
    alone = fingerprints(model, every.select(np.array([1])), CPU)
    np.testing.assert_allclose(alone, together[[1]], atol=1e-6)


def test_no_skus_have_no_fingerprints(data: FingerprintData) -> None:
    model, _ = train(data, epochs=1)
    assert fingerprints(model, data.views.select(np.array([], dtype=np.int64)), CPU).shape == (0, DIMENSION)


@pytest.mark.parametrize("residual", [True, False])
def test_a_saved_aggregator_comes_back_as_it_was(
    data: FingerprintData, tmp_path: Path, residual: bool
) -> None:
    torch.manual_seed(0)
    settings = AGGREGATOR.model_copy(update={"residual": residual})
    model = AggregatorEnsemble(DIMENSION, settings).eval()
    save_aggregator(model, DIMENSION, settings, tmp_path)
    loaded = load_aggregator(tmp_path, CPU)
    assert not loaded.training
    assert [member.residual for member in loaded.members] == [residual] * 2
    np.testing.assert_array_equal(fingerprints(loaded, data.views, CPU), fingerprints(model, data.views, CPU))


def test_a_spread_of_one_without_swaps_leaves_the_queries_as_they_are():
    rows, means = torch.from_numpy(unit_rows((6, 4), seed=1)), torch.from_numpy(unit_rows((6, 4), seed=2))
    assert spread_queries(rows, means, 1.0, 0.0, torch.Generator()) is rows


def test_a_spread_of_two_doubles_the_offset_from_the_mean_and_normalises():
    query, mean = torch.tensor([[0.8, 0.6]]), torch.tensor([[1.0, 0.0]])
    spread = spread_queries(query, mean, 2.0, 0.0, torch.Generator().manual_seed(1))
    wanted = torch.tensor([[0.6, 1.2]]) / math.sqrt(0.6**2 + 1.2**2)
    torch.testing.assert_close(spread, wanted)


def test_a_swapped_query_keeps_its_mean_and_takes_the_offset_of_a_query_of_the_batch():
    rows, means = torch.from_numpy(unit_rows((9, 4), seed=3)), torch.from_numpy(unit_rows((9, 4), seed=4))
    swapped = spread_queries(rows, means, 1.0, 1.0, torch.Generator().manual_seed(5))
    possible = torch.nn.functional.normalize(means[:, None] + (rows - means)[None], dim=-1)
    distance = (swapped[:, None] - possible).norm(dim=-1)
    assert distance.min(dim=1).values.max() < 1e-6
    assert (distance.argmin(dim=1) != torch.arange(9)).any()


def test_a_sku_never_keeps_generated_views_alone() -> None:
    mask = torch.ones(500, 3, dtype=torch.bool)
    generated = torch.tensor([[False, True, True]]).expand(500, 3)
    kept = _drop_views(mask, generated, 0.7, torch.Generator().manual_seed(0))
    assert kept[:, 0].all()
    hidden = (~kept[:, 1:]).float().mean()
    assert 0.1 < hidden < 0.7
