"""The examples in docstrings are run: of the functions that a user of the library calls first."""

import doctest
import importlib

import pytest

EXAMPLES = {
    "evaluation.verdicts": {"roc"},
    "datasets.prompts": {"pixel_caption", "sentences"},
    "hashing": {"stable_shard"},
    "measures.bootstrap": {"paired_bootstrap"},
    "measures.metrics": {"area_under_roc", "per_query_metrics", "reliability"},
    "measures.ranks": {"ranks_of"},
    "photos": {"size_of"},
    "presets": {"load_preset"},
    "query.combine": {"mean_query", "pushed_away", "rocchio"},
    "query.confidence": {"conformal_threshold", "features_of"},
    "search.index": {"FingerprintIndex", "mix"},
    "store": {"ArtifactStore.produce"},
    "training.weights": {"resolve"},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_module_are_there_and_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKUFP_PRESET", raising=False)
    module = importlib.import_module(f"skufp_pipeline.{name}")
    found = [test for test in doctest.DocTestFinder().find(module, module.__name__) if test.examples]
    assert {test.name.removeprefix(f"{module.__name__}.") for test in found} == EXAMPLES[name]
    result = doctest.testmod(module)
    assert result.attempted >= len(found)
    assert result.failed == 0


def test_twenty_functions_have_examples() -> None:
    assert sum(map(len, EXAMPLES.values())) == 20
