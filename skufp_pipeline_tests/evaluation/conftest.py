"""The evaluation of two models of the made-up SKUs in `examples`."""

import pytest

from skufp_pipeline.evaluation.labels import Labels
from skufp_pipeline.evaluation.protocol import Evaluation, Model, evaluate
from skufp_pipeline.evaluation.report import Report, source_results

from .examples import DIRECTIONS, LATENCY, gallery, queries, report_of


@pytest.fixture
def evaluation() -> Evaluation:
    """`right` is always right; `swapped` has a and b the wrong way round, and knows no text."""
    swapped = {**DIRECTIONS, "a": DIRECTIONS["b"], "b": DIRECTIONS["a"]}
    models = [
        Model("right", {"image": queries(), "text": queries("ad")}, gallery()),
        Model("swapped", {"image": queries()}, gallery(vectors=swapped)),
    ]
    return evaluate(models, [("right", "swapped")], seed=0, resamples=200)


@pytest.fixture
def report(evaluation: Evaluation) -> Report:
    return report_of(evaluation, latency=LATENCY)


@pytest.fixture
def by_source(evaluation: Evaluation) -> Report:
    """By metadata one query in six is right, by attributes all are."""
    labels = {
        "category": {"a": "skirt", "b": "skirt", "c": "vest", "d": "vest"},
        "colour": {"a": "red", "b": "blue", "c": "red", "d": "red"},
    }
    of_queries = {
        name: {f"q{i}": values[sku] for i, sku in enumerate("aabccd")} for name, values in labels.items()
    }
    turned = queries()
    turned.embeddings[:] = DIRECTIONS["b"]
    asked = {"metadata": turned, "attributes": queries()}
    judged = {
        source: evaluate(
            [Model("fingerprint", {"text": words}, gallery())], [], 0, 50, Labels(labels, of_queries)
        )
        for source, words in asked.items()
    }
    return report_of(evaluation, latency=LATENCY, text_sources=source_results(judged))
