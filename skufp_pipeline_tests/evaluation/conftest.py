"""The evaluation of two models of the made-up SKUs in `examples`."""

import pytest

from skufp_pipeline.evaluation.protocol import Evaluation, Model, evaluate

from .examples import DIRECTIONS, gallery, queries


@pytest.fixture
def evaluation() -> Evaluation:
    """`right` is always right; `swapped` has a and b the wrong way round, and knows no text."""
    swapped = {**DIRECTIONS, "a": DIRECTIONS["b"], "b": DIRECTIONS["a"]}
    models = [
        Model("right", {"image": queries(), "text": queries("ad")}, gallery()),
        Model("swapped", {"image": queries()}, gallery(vectors=swapped)),
    ]
    return evaluate(models, [("right", "swapped")], seed=0, resamples=200)
