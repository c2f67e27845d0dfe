"""An index in Qdrant: it answers as the index itself does, and a version is whole before it is in use."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search import qdrant
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.qdrant import ask, connect, exported_rows, in_use, publish, write_collection

pytest.importorskip("qdrant_client", reason="needs the extra `export`")
SKUS, DIMENSION = 600, 24


def clustered(seed: int = 0, skus: int = SKUS) -> FingerprintIndex:
    """Look-alikes in clusters of 20, a tenth of a standard deviation apart."""
    draw = np.random.default_rng(seed)
    centres = np.repeat(draw.standard_normal((-(-skus // 20), DIMENSION)), 20, axis=0)[:skus]
    rows = centres + 0.1 * draw.standard_normal((skus, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    numbers = np.arange(skus)
    table = pl.DataFrame(
        {
            "sku_id": [f"sku-{number:03d}-é" for number in numbers],
            "colour": np.array(["red", "blue", "green"])[numbers % 3],
            "price": numbers / 4,
            "sizes": [["S", "M"] if number % 2 else ["L"] for number in numbers],
            "since": [date(2026, 1, 1 + number % 28) for number in numbers],
            "sold": numbers % 5 == 0,
            "pieces": numbers % 7,
            "note": None,
        }
    )
    return FingerprintIndex(rows.astype(np.float32), table)


def ids(index: FingerprintIndex, queries: np.ndarray, within: Any = None) -> list[list[str]]:
    return [index.skus["sku_id"][found.rows].to_list() for found in index.search(queries, 10, within)]


def names(answers: list[list[tuple[str, float]]]) -> list[list[str]]:
    return [[sku_id for sku_id, _ in answer] for answer in answers]


QUERIES = clustered().fingerprints[::29].astype(np.float64) + 0.05 * np.random.default_rng(7).standard_normal(
    (21, DIMENSION)
)


@pytest.fixture
def client() -> Iterator[Any]:
    from qdrant_client import QdrantClient

    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


def test_the_alias_answers_with_the_ten_of_the_index_and_their_scores(client: Any) -> None:
    index = clustered()
    publish(client, index, "shop", "v1")
    answers = ask(client, "shop", QUERIES, 10)
    assert names(answers) == ids(index, QUERIES)
    (mine,) = index.search(QUERIES[:1], 10)
    norm = np.linalg.norm(QUERIES[0])
    assert [score / norm for _, score in answers[0]] == pytest.approx(mine.scores, abs=1e-5)


def test_biases_count_in_qdrant_as_in_the_index(client: Any) -> None:
    biased = clustered().with_biases(np.linspace(-0.3, 0.3, SKUS))
    unit = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)
    publish(client, biased, "shop", "v1")
    assert names(ask(client, "shop", unit, 10)) == ids(biased, unit) != ids(clustered(), unit)


@pytest.mark.parametrize(
    ("where", "select"),
    [
        ({"colour": ["red"]}, lambda index: index.where(colour="red")),
        (
            {"colour": ["red", "blue"], "sold": [True]},
            lambda index: index.where(colour=["red", "blue"], sold=True),
        ),
        (
            {"price": {"gt": 20, "lte": 90.5}},
            lambda index: index.compare("price", ">", 20) & index.compare("price", "<=", 90.5),
        ),
        ({"price": [12.25]}, lambda index: index.where(price=12.25)),
        ({"pieces": [3, 4]}, lambda index: index.where(pieces=[3, 4])),
        ({"sizes": ["S"]}, lambda index: index.where(sizes="S")),
        ({"since": {"gte": "2026-01-20"}}, lambda index: index.compare("since", ">=", "2026-01-20")),
    ],
    ids=lambda where: str(where) if isinstance(where, dict) else "",
)
def test_a_filter_leaves_what_the_index_leaves(client: Any, where: dict[str, Any], select: Any) -> None:
    index = clustered()
    publish(client, index, "shop", "v1")
    assert names(ask(client, "shop", QUERIES, 10, where)) == ids(index, QUERIES, select(index))


def test_a_new_version_takes_the_alias_and_only_the_one_before_it_stays(client: Any) -> None:
    versions = {f"v{number}": clustered(number, 40) for number in (1, 2, 3)}
    assert [publish(client, index, "shop", name) for name, index in versions.items()] == [[], [], ["shop-v1"]]
    assert in_use(client, "shop") == "shop-v3"
    assert {found.name for found in client.get_collections().collections} == {"shop-v2", "shop-v3"}
    assert names(ask(client, "shop", QUERIES, 10)) == ids(versions["v3"], QUERIES)
    assert publish(client, versions["v2"], "shop", "v2") == []  # rolled back: what is there is used
    assert names(ask(client, "shop", QUERIES, 10)) == ids(versions["v2"], QUERIES)


def test_another_index_of_the_same_server_is_left_alone(client: Any) -> None:
    publish(client, clustered(1, 40), "other", "v1")
    for version in ("v1", "v2", "v3"):
        publish(client, clustered(0, 40), "shop", version)
    assert in_use(client, "other") == "other-v1"


def test_a_killed_export_goes_on_where_it_was_and_the_alias_waits_for_it(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "BATCH", 100)
    publish(client, clustered(1), "shop", "v1")
    index, upsert, written = clustered(), client.upsert, []

    def dies_at_250(name: str, batch: Any, **options: Any) -> None:
        if batch.ids[0] >= 300:
            raise KeyboardInterrupt
        upsert(name, batch, **options)

    monkeypatch.setattr(client, "upsert", dies_at_250)
    with pytest.raises(KeyboardInterrupt):
        publish(client, index, "shop", "v2")
    assert in_use(client, "shop") == "shop-v1"
    monkeypatch.setattr(client, "upsert", upsert)
    publish(client, index, "shop", "v2", progress=lambda done, total: written.append((done, total)))
    assert written == [(400, 600), (500, 600), (600, 600)]
    assert names(ask(client, "shop", QUERIES, 10)) == ids(index, QUERIES)


def test_a_collection_with_other_points_is_not_put_in_use(client: Any) -> None:
    write_collection(client, "shop-v1", *exported_rows(clustered(0, 60)))
    with pytest.raises(UserError, match="'shop-v1' has 60 points, expected 40; delete it and export again"):
        publish(client, clustered(0, 40), "shop", "v1")
    assert in_use(client, "shop") is None


def test_a_collection_of_the_aliass_name_is_told(client: Any) -> None:
    write_collection(client, "shop", *exported_rows(clustered(0, 40)))
    with pytest.raises(UserError, match="has a collection 'shop', so that no alias"):
        publish(client, clustered(0, 40), "shop", "v1")


def test_removed_skus_are_not_exported(client: Any) -> None:
    index = clustered().remove(["sku-000-é", "sku-029-é"])
    publish(client, index, "shop", "v1")
    assert names(ask(client, "shop", QUERIES, 10)) == ids(index, QUERIES)


def test_a_server_that_is_not_there_is_told() -> None:
    refused = pytest.raises(UserError, match=r"^Qdrant at http://127\.0\.0\.1:9: .*refused")
    with refused, connect("http://127.0.0.1:9") as nobody:
        in_use(nobody, "shop")


def test_a_local_qdrant_that_is_open_elsewhere_is_told(tmp_path: Path) -> None:
    with connect(tmp_path), pytest.raises(UserError, match=r"can't be opened: .*already accessed"):
        connect(tmp_path).__enter__()
