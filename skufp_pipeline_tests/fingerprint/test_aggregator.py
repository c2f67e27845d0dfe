from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from skufp_pipeline.errors import UserError
from skufp_pipeline.fingerprint.aggregator import Aggregator, AggregatorEnsemble
from skufp_pipeline.fingerprint.settings import AggregatorSettings
from skufp_pipeline.fingerprint.views import ViewSet, mean_sku

from .examples import random_views

DIMENSION = 8


def make(residual: bool = True, trained: bool = True, **settings: Any) -> Aggregator:
    """A small aggregator in evaluation mode; `trained` moves every weight away from where it starts."""
    torch.manual_seed(0)
    small = {"tokens": 3, "layers": 2, "heads": 2, "feedforward": 16, "dropout": 0.1}
    model = Aggregator(DIMENSION, AggregatorSettings(**{**small, "residual": residual, **settings})).eval()
    if trained:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tensors(counts: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Views, which are there, and which were generated: every other one but the first."""
    views = random_views(counts, DIMENSION, seed)
    mask = torch.from_numpy(views.mask)
    return torch.from_numpy(views.views), mask, mask & (torch.arange(mask.shape[1]) % 2 == 1)


def arrays(views: ViewSet) -> list[Tensor]:
    return [torch.from_numpy(array) for array in (views.views, views.mask, views.generated)]


@pytest.mark.parametrize("residual", [True, False])
@examples(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_order_of_views_does_not_matter(residual: bool, counts: list[int], seed: int) -> None:
    model, (views, mask, made) = make(residual), tensors(counts, seed)
    order = torch.randperm(views.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        torch.testing.assert_close(
            model(views[:, order], mask[:, order], made[:, order]),
            model(views, mask, made),
            atol=2e-5,
            rtol=0,
        )


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("noise", [1.0, 1e30, float("inf"), float("nan")])
def test_what_stands_in_the_place_of_an_absent_view_does_not_matter(residual: bool, noise: float) -> None:
    model, (views, mask, made) = make(residual), tensors([1, 3, 2])
    filled = torch.where(mask.unsqueeze(-1), views, torch.full_like(views, noise))
    with torch.inference_mode():
        assert model(filled, mask, made).equal(model(views, mask, made))


@pytest.mark.parametrize("residual", [True, False])
def test_more_places_for_absent_views_change_nothing(residual: bool) -> None:
    model, (views, mask, made) = make(residual), tensors([1, 3, 2])
    wider = torch.nn.functional.pad(views, (0, 0, 0, 4))
    with torch.inference_mode():
        torch.testing.assert_close(
            model(wider, *(torch.nn.functional.pad(flags, (0, 4)) for flags in (mask, made))),
            model(views, mask, made),
            atol=1e-6,
            rtol=0,
        )


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_any_number_of_views_gives_a_unit_row(residual: bool, count: int) -> None:
    with torch.inference_mode():
        made = make(residual)(*tensors([count, 1]))
    assert made.shape == (2, DIMENSION)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("residual", [True, False])
def test_a_skus_fingerprint_depends_on_its_own_views_alone(residual: bool) -> None:
    model, (views, mask, made) = make(residual), tensors([1, 3, 2])
    with torch.inference_mode():
        together = model(views, mask, made)
        for sku in range(3):
            alone = model(views[[sku]], mask[[sku]], made[[sku]])
            torch.testing.assert_close(alone, together[[sku]], atol=1e-6, rtol=0)


def test_the_residual_form_starts_as_the_mean() -> None:
    views = random_views([1, 4, 3], DIMENSION)
    with torch.inference_mode():
        made = make(trained=False)(*arrays(views))
    np.testing.assert_allclose(made.numpy(), mean_sku(views), atol=1e-6)


def test_the_plain_form_does_not() -> None:
    views = random_views([1, 4, 3], DIMENSION)
    with torch.inference_mode():
        made = make(residual=False, trained=False)(*arrays(views))
    assert np.abs(made.numpy() - mean_sku(views)).max() > 0.1


@pytest.mark.parametrize("residual", [True, False])
def test_views_are_told_apart(residual: bool) -> None:
    """Trained weights give another answer than the mean, and one that each view has a part in."""
    model, (views, mask, made) = make(residual), tensors([3])
    views.requires_grad_()
    model(views, mask, made)[0, 0].backward()
    assert views.grad is not None
    assert (views.grad.abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("residual", [True, False])
def test_every_weight_learns_and_gradients_are_finite(residual: bool) -> None:
    model, (views, mask, made) = make(residual).train(), tensors([1, 3, 2])
    model(views, mask, made)[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_heads_that_do_not_divide_the_dimension_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"fingerprint.aggregator.heads 3 does not divide D = 8"):
        make(heads=3)


def test_an_ensemble_is_the_unit_mean_of_members_that_began_differently() -> None:
    torch.manual_seed(3)
    settings = AggregatorSettings(members=3, tokens=2, layers=1, heads=2, feedforward=16, residual=False)
    ensemble = AggregatorEnsemble(8, settings).eval()
    views = torch.nn.functional.normalize(torch.randn(5, 4, 8), dim=-1)
    mask = torch.ones(5, 4, dtype=torch.bool)
    alone = torch.stack([member(views, mask, ~mask) for member in ensemble.members])
    assert (alone[0] - alone[1]).norm(dim=-1).min() > 0.01
    mean = alone.mean(dim=0)
    torch.testing.assert_close(ensemble(views, mask, ~mask), mean / mean.norm(dim=-1, keepdim=True))


def test_a_generated_view_is_told_from_one_of_the_catalog() -> None:
    model, (views, mask, made) = make(), tensors([3])
    with torch.inference_mode():
        as_catalog = model(views, mask, torch.zeros_like(made))
        assert (model(views, mask, made) - as_catalog).abs().max() > 0.01


def test_the_residual_form_starts_as_the_mean_of_the_catalog_views_whatever_was_generated() -> None:
    views, mask, made = tensors([3, 4])
    with torch.inference_mode():
        with_generated = make(trained=False)(views, mask, made)
        without = make(trained=False)(views, mask & ~made, torch.zeros_like(made))
    torch.testing.assert_close(with_generated, without)
