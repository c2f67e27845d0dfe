"""`skufp index`, and `--index` of the commands that have it."""

from pathlib import Path

import numpy as np
import polars as pl

from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import Recipe

from ..graphs import Graph
from .asking import ask, found, refused


def publish_as(graph: Graph, name: str, version: str, index: FingerprintIndex) -> None:
    """Publishes `index` as a version of the index `name`, made with the encoders of the one in use."""
    versions, recipe = Versions(graph.store, name), current_index(graph.store)[0].manifest.recipe

    def build(directory: Path) -> dict[str, int]:
        index.save(directory)
        return {"skus": len(index)}

    named = Recipe(code_version=version, inputs=recipe.inputs)
    graph.store.produce(versions.key(version), named, build)
    versions.publish(version, 3)


def test_an_index_is_asked_listed_and_rolled_back_by_its_name(spoilt: Graph, tmp_path: Path) -> None:
    _, whole = current_index(spoilt.store)
    ids = whole.skus["sku_id"].to_list()
    publish_as(spoilt, "few", "one", whole.remove(ids[3:]))
    publish_as(spoilt, "few", "two", whole.remove(ids[:-2]))
    preset, few = ("--preset", spoilt.preset_file), ("--index", "few")
    assert sorted(found(*preset, *few, "--text", "a dress")) == sorted(ids[-2:])
    assert len(found(*preset, "--text", "a dress", "--top", "1000")) == len(ids)
    own = ask("index", "list", *preset).stdout
    listed = ask("index", "list", *preset, *few).stdout
    assert listed == "two  in use     skus 2\none  published  skus 3\n"
    assert ask("index", "rollback", *preset, *few).stdout == "in use: one\n"
    assert sorted(found(*preset, *few, "--text", "a dress")) == sorted(ids[:3])
    listed = ask("index", "list", *preset, *few).stdout
    assert listed == "two  withdrawn  skus 2\none  in use     skus 3\n"
    assert ask("index", "publish", *preset, *few, "two").stdout == "in use: two\n"
    assert ask("index", "list", *preset).stdout == own
    export = ("export", "fingerprints", *preset, "--format", "numpy")
    assert ": 2 fingerprints" in ask(*export, *few, "--out", tmp_path / "few").stdout


def test_an_index_of_another_dimension_stands_beside(spoilt: Graph, tmp_path: Path) -> None:
    index = FingerprintIndex(np.eye(2, dtype=np.float32), pl.DataFrame({"sku_id": ["x", "y"]}))
    publish_as(spoilt, "flat", "one", index)
    export = ("export", "fingerprints", "--preset", spoilt.preset_file, "--format", "numpy")
    told = ask(*export, "--index", "flat", "--out", tmp_path / "flat").stdout
    assert "2 fingerprints of 2 dimensions" in told
    own = len(current_index(spoilt.store)[1])
    assert f": {own} fingerprints of" in ask(*export, "--out", tmp_path / "own").stdout


def test_an_index_that_is_not_there_is_told_with_those_that_are(small_graph: Graph, tmp_path: Path) -> None:
    for words in (
        ("search", "--text", "a dress"),
        ("export", "fingerprints", "--format", "numpy", "--out", tmp_path / "out"),
        ("index", "list"),
        ("index", "rollback"),
    ):
        told = refused(ask(*words, "--preset", small_graph.preset_file, "--index", "nope"))
        assert told.endswith("has no index 'nope'; it has fingerprints")
