"""Who may teach: over tables in which every SKU has rows of every role, in every split."""

import io
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from skufp_pipeline.artifacts.kinds import Embeddings
from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_rows
from skufp_pipeline.fingerprint.settings import SyntheticUse
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    catalog_texts,
    fingerprint_data,
    fingerprint_table,
    teacher_table,
    teacher_table_by_shard,
    training_photos,
    used_by_fingerprints,
)
from skufp_pipeline.fingerprint.views import gather_views, medoid
from skufp_pipeline.store import Artifact, Manifest, Recipe

from .examples import image_table, text_table, unit_rows, view_set

ROLES = ("gallery", "train", "development", "evaluation")
SPLIT_OF = {"t1": "train", "t2": "train", "t3": "train", "v": "validation", "x": "test"}
EVERYTHING = [(sku, role, number) for sku, role, number in product(SPLIT_OF, ROLES, range(2))]
Row = tuple[str, str, str, str, list[float]]


def rows(kept: list[tuple[str, str, int]], kind: str, seed: int) -> list[Row]:
    """One row for each (SKU, role, number), its id telling all three."""
    vectors = dict(zip(EVERYTHING, unit_rows((len(EVERYTHING), 4), seed).tolist(), strict=True))
    return [
        (f"{kind} {sku} {role} {number}", sku, SPLIT_OF[sku], role, vectors[sku, role, number])
        for sku, role, number in kept
    ]


def make_tables(
    images: list[tuple[str, str, int]] = EVERYTHING, texts: list[tuple[str, str, int]] = EVERYTHING
) -> EmbeddingTables:
    return EmbeddingTables(image_table(rows(images, "image", 0)), text_table(rows(texts, "text", 1)))


def vectors_of(table: pl.DataFrame, split: str, *roles: str) -> set[tuple[float, ...]]:
    chosen = table.filter((pl.col("split") == split) & pl.col("role").is_in(roles))
    return {tuple(row) for row in embedding_rows(chosen).tolist()}


def as_set(rows: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(row) for row in rows.tolist()}


def test_the_aggregator_sees_training_skus_and_their_roles_alone() -> None:
    tables = make_tables()
    data = fingerprint_data(tables, teacher_table(tables, 8)[0], 8)
    assert data.views.sku_ids == ["t1", "t2", "t3"]
    assert set(data.views.splits) == {"train"}
    assert as_set(data.views.views[data.views.mask]) == vectors_of(tables.images, "train", "gallery")
    assert as_set(data.image_queries.embeddings) == vectors_of(tables.images, "train", "train")
    assert as_set(data.text_queries.embeddings) == vectors_of(tables.texts, "train", "train")
    assert as_set(data.development.embeddings) == vectors_of(tables.images, "train", "development")
    assert as_set(data.image_teachers) <= vectors_of(tables.images, "train", "gallery")
    assert as_set(data.text_teachers) <= vectors_of(tables.texts, "train", "gallery")
    for queries in (data.image_queries, data.text_queries, data.development):
        assert queries.truth.tolist() == [0, 0, 1, 1, 2, 2]


def test_what_the_aggregator_used_is_told() -> None:
    used = used_by_fingerprints(make_tables(), SyntheticUse())
    assert dict(used.schema) == USED_SCHEMA
    skus = ("t1", "t2", "t3")
    assert set(used.rows()) == {
        *[
            (f"{kind} {sku} train {n}", sku, "train", "train")
            for kind in ("image", "text")
            for sku in skus
            for n in (0, 1)
        ],
        *[
            (f"image {sku} development {n}", sku, "development", "development")
            for sku in skus
            for n in (0, 1)
        ],
    }


def test_what_chose_the_teachers_is_told() -> None:
    _, used = teacher_table(make_tables(), 8)
    assert dict(used.schema) == USED_SCHEMA
    assert set(used["query_id"]) == {
        f"{kind} {sku} train {n}" for kind in ("image", "text") for sku in ("t1", "t2", "t3") for n in (0, 1)
    }
    assert set(used["use"]) == {"train"}


subsets = st.lists(st.sampled_from(EVERYTHING), min_size=1, unique=True)


@examples(deadline=None, max_examples=60)
@given(images=subsets, texts=subsets)
def test_whatever_rows_there_are_no_held_out_one_gets_in(
    images: list[tuple[str, str, int]], texts: list[tuple[str, str, int]]
) -> None:
    images = [*images, ("t1", "gallery", 0), ("v", "gallery", 0)] if images else images
    images = list(dict.fromkeys(images))
    tables = make_tables(images, texts)
    teachers, chosen_with = teacher_table(tables, 8)
    data = fingerprint_data(tables, teachers, 8)
    assert set(data.views.splits) == {"train"}
    assert as_set(data.image_queries.embeddings) <= vectors_of(tables.images, "train", "train")
    assert as_set(data.text_queries.embeddings) <= vectors_of(tables.texts, "train", "train")
    assert as_set(data.development.embeddings) <= vectors_of(tables.images, "train", "development")
    for used in (chosen_with, used_by_fingerprints(tables, SyntheticUse())):
        for query_id, sku_id, role, use in used.iter_rows():
            assert SPLIT_OF[sku_id] == "train"
            assert role == use
            assert role in ("train", "development")
            assert role in query_id


def test_held_out_rows_change_nothing_that_is_learned_from() -> None:
    tables = make_tables()
    without = make_tables(
        [key for key in EVERYTHING if key[1] != "evaluation"],
        [key for key in EVERYTHING if key[1] not in ("evaluation", "development")],
    )
    one, other = (fingerprint_data(t, teacher_table(t, 8)[0], 8) for t in (tables, without))
    for name in ("image_teachers", "text_teachers"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("image_queries", "text_queries", "development"):
        np.testing.assert_array_equal(getattr(one, name).embeddings, getattr(other, name).embeddings)
        np.testing.assert_array_equal(getattr(one, name).truth, getattr(other, name).truth)


def test_every_sku_has_a_teacher_and_those_outside_training_their_medoid() -> None:
    tables = make_tables()
    table, _ = teacher_table(tables, 8)
    assert table["sku_id"].to_list() == ["t1", "t2", "t3", "v", "x"]
    assert table["split"].to_list() == ["train"] * 3 + ["validation", "test"]
    assert table["chosen_by"].to_list() == ["queries"] * 3 + ["medoid"] * 2
    assert table["num_queries"].to_list() == [2, 2, 2, 0, 0]
    assert table["reciprocal_rank"].is_nan().to_list() == [False] * 3 + [True] * 2
    rows, views = embedding_rows(table, "image_teacher"), gather_views(tables.images, 8)
    np.testing.assert_array_equal(rows[3:], medoid(views)[3:])


def test_a_teachers_path_is_that_of_its_vector() -> None:
    tables = make_tables()
    table, _ = teacher_table(tables, 8)
    known = dict(zip(tables.images["image_path"], embedding_rows(tables.images).tolist(), strict=True))
    for path, vector in zip(
        table["image_path"], embedding_rows(table, "image_teacher").tolist(), strict=True
    ):
        assert known[path] == vector


def test_a_sku_without_text_has_a_text_teacher_of_zero() -> None:
    texts = [key for key in EVERYTHING if key[0] != "t2" and key[1] == "gallery"]
    table, _ = teacher_table(make_tables(texts=texts), 8)
    norms = np.linalg.norm(embedding_rows(table, "text_teacher"), axis=1)
    np.testing.assert_allclose(norms, [1, 0, 1, 1, 1], atol=1e-6)


def test_a_catalogue_without_texts_has_text_teachers_of_zero() -> None:
    images = image_table(rows(EVERYTHING, "image", 0))
    texts = text_table(rows(EVERYTHING, "text", 1)).clear()
    tables = EmbeddingTables(images, texts)
    table, _ = teacher_table(tables, 8)
    assert not embedding_rows(table, "text_teacher").any()
    assert len(fingerprint_data(tables, table, 8).text_queries.truth) == 0


@pytest.mark.parametrize("max_views", [1, 2])
def test_the_number_of_views_is_limited(max_views: int) -> None:
    tables = make_tables()
    data = fingerprint_data(tables, teacher_table(tables, max_views)[0], max_views)
    assert data.views.views.shape[1] == max_views


def test_queries_of_a_sku_without_views_are_left_out() -> None:
    tables = make_tables(images=[key for key in EVERYTHING if key[:2] != ("t2", "gallery")])
    data = fingerprint_data(tables, teacher_table(tables, 8)[0], 8)
    assert data.views.sku_ids == ["t1", "t3"]
    assert data.image_queries.truth.tolist() == [0, 0, 1, 1]
    assert data.text_queries.truth.tolist() == [0, 0, 1, 1]


def test_a_fingerprint_is_made_from_no_photos_but_those_of_role_train() -> None:
    tables = make_tables()
    photos, used = training_photos(tables, tables.views(8))
    assert as_set(photos.embeddings) == vectors_of(tables.images, "train", "train")
    assert photos.truth.tolist() == [0, 0, 1, 1, 2, 2]
    assert dict(used.schema) == USED_SCHEMA
    assert set(used["query_id"]) == {f"image {sku} train {n}" for sku in ("t1", "t2", "t3") for n in (0, 1)}


def test_a_fingerprint_is_made_from_no_texts_but_the_catalogs() -> None:
    texts = [key for key in EVERYTHING if key[0] != "t2"]
    views = make_tables().views(8)
    found = catalog_texts(make_tables(texts=texts), views, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, 1], atol=1e-6)
    of_catalog = [key for key in texts if key[1] == "gallery"]
    np.testing.assert_array_equal(found, catalog_texts(make_tables(texts=of_catalog), views, 8))
    first = catalog_texts(make_tables(texts=texts), views, 1)
    assert as_set(first[[0, 2]]) <= vectors_of(make_tables().texts, "train", "gallery")


def test_a_catalogue_without_texts_adds_none() -> None:
    tables = make_tables()
    without = EmbeddingTables(tables.images, tables.texts.clear())
    assert not catalog_texts(without, tables.views(8), 8).any()


def test_fingerprints_are_one_row_a_sku() -> None:
    views = view_set([(1.0, 0.0)], [(0.0, 1.0), (1.0, 0.0)], splits=["train", "validation"])
    made = unit_rows((2, 2), 0)
    table = fingerprint_table(views, made, np.array([0.0, 0.5], dtype=np.float32))
    assert table.drop("fingerprint").rows() == [("a", "train", 1, 0, 0.0), ("b", "validation", 2, 0, 0.5)]
    np.testing.assert_array_equal(embedding_rows(table, "fingerprint"), made)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_teachers_chosen_shard_by_shard_are_the_same_to_the_last_byte(tmp_path: Path, shards: int) -> None:
    """SKUs are spread over shards out of order; text rows lack where a SKU has none."""
    tables = make_tables(texts=[key for key in EVERYTHING if key[0] != "t2"])
    stored = []
    for number in range(shards):
        mine = pl.col("sku_id").is_in([sku for place, sku in enumerate(SPLIT_OF) if place % shards == number])
        (folder := tmp_path / str(number)).mkdir()
        Embeddings.write(folder, tables.images.filter(mine), tables.texts.filter(mine))
        manifest = Manifest(
            artifact="",
            digest="",
            recipe=Recipe(code_version=""),
            summary={},
            num_files=0,
            num_bytes=0,
            parts={},
        )
        stored.append(Embeddings(Artifact(folder, manifest)))
    whole = EmbeddingTables.of(stored)
    for mine, of_all in zip(teacher_table_by_shard(stored, 8), teacher_table(whole, 8), strict=True):
        written = [io.BytesIO(), io.BytesIO()]
        for table, file in zip((mine, of_all), written, strict=True):
            table.write_parquet(file, compression="zstd")
        assert written[0].getvalue() == written[1].getvalue()
