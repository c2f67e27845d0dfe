from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.search.bundle import build_index, catalogue_columns, current_index, seen_looks
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.search.versions import CURRENT, Versions
from skufp_pipeline.store import ArtifactStore

from .conftest import publish_index

Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
Build = Callable[..., FingerprintIndex]


def tables(vectors: list[list[float]]) -> Tables:
    """Fingerprints, teachers and image-text rows of SKUs `0`, `1`, ..."""
    names = [str(number) for number in range(len(vectors))]
    fingerprints = pl.DataFrame(
        {"sku_id": names, "split": "train", "num_views": 1, "bias": 0.0}
    ).with_columns(embedding_column(np.array(vectors, dtype=np.float32)).alias("fingerprint"))
    teachers = pl.DataFrame({"sku_id": names, "image_path": [f"{name}.jpg" for name in names]})
    shown = {"domain": "catalog", "category_name": "skirt", "title": None, "text": "a skirt"}
    looks = {"colours": [["red"]] * len(names), "pattern": "plain", "lightness": "dark"}
    return fingerprints, teachers, pl.DataFrame({"sku_id": names, **shown, **looks})


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """An index of tables like the above, in segments of so many rows."""

    def build_here(
        fingerprints: pl.DataFrame,
        teachers: pl.DataFrame,
        text: pl.DataFrame,
        segment_rows: int = 100,
        columns: pl.DataFrame | None = None,
    ) -> FingerprintIndex:
        folder = tmp_path / f"index{segment_rows}"
        folder.mkdir()
        tables = (fingerprints.lazy(), teachers, {"crops/0": text}, {}, segment_rows)
        return build_index(folder, *tables, columns=columns)

    return build_here


def test_the_biases_of_the_table_are_those_of_the_index(build: Build) -> None:
    fingerprints, teachers, text = tables([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    biased = fingerprints.with_columns(bias=pl.Series([0.0, 2.0, -0.5]))
    index = build(biased, teachers, text, segment_rows=2)
    assert index.biases.tolist() == [0.0, 2.0, -0.5]
    assert index.search(np.array([1.0, 0.0]), 1)[0].rows.tolist() == [1]


def test_a_bundle_shows_each_sku_with_its_picture(index: FingerprintIndex) -> None:
    assert index.skus.rows(named=True) == [
        {
            "sku_id": sku_id,
            "split": "train",
            "num_views": views,
            "category_name": "fruit",
            "title": f"A {sku_id}",
            "text": "x",
            "colour": colour,
            "pattern": "plain",
            "lightness": "medium",
            "image": f"crops/shard_000{shard}/{sku_id}.jpg",
        }
        for sku_id, colour, views, shard in (
            ("apple", "red", 1, 0),
            ("lime", "lime", 2, 0),
            ("plum", "purple", 3, 1),
        )
    ]
    assert index.references == {"clip_checkpoint": "abc"}
    np.testing.assert_allclose(np.linalg.norm(index.fingerprints, axis=1), 1, atol=1e-6)


def test_what_is_shown_comes_from_the_first_catalog_row(build: Build) -> None:
    fingerprints, teachers, text = tables([[1, 0]])
    query = text.with_columns(domain=pl.lit("query"), text=pl.lit("a photo"))
    later = text.with_columns(text=pl.lit("another"))
    skus = build(fingerprints, teachers, pl.concat([query, text, later])).skus
    assert skus["text"].to_list() == ["a skirt"]


def test_a_version_made_from_another_has_the_words_of_its_own_skus_alone(tmp_path: Path) -> None:
    names = ["belt", "hat", "shirt", "skirt", "sock", "scarf", "glove", "coat"]
    fingerprints, teachers, text = tables(np.eye(8).tolist())
    text = text.with_columns(title=pl.Series(names), sentences=pl.lit([], pl.List(pl.String)))
    versions = {name: tmp_path / name for name in ("old", "new")}
    for folder in versions.values():
        folder.mkdir()
    words, made = LexicalSettings(), (teachers, {"crops/0": text}, {}, 100)
    build_index(versions["old"], fingerprints.lazy(), *made, lexical=words)
    text = text.with_columns(title=pl.Series(["cape", *names[1:]]))
    made = (teachers, {"crops/0": text}, {}, 100)
    left = fingerprints.filter(pl.col("sku_id") != "1")
    index = build_index(versions["new"], left.lazy(), *made, lexical=words, before=versions["old"])
    assert index.skus["title"].to_list() == [*names, "cape"]
    found = LexicalIndex.load(versions["new"])
    rows = {word: found.match(word).rows.tolist() for word in ("belt", "hat", "1", "cape", "0", "coat")}
    assert rows == {"belt": [], "hat": [], "1": [], "cape": [8], "0": [8], "coat": [7]}


def test_what_is_filtered_by_is_what_most_catalog_views_show(build: Build) -> None:
    fingerprints, teachers, text = tables([[1, 0], [0, 1]])
    views = pl.DataFrame(
        {
            "sku_id": ["0", "0", "0", "0", "1", "1"],
            "domain": ["query", "catalog", "catalog", "catalog", "catalog", "catalog"],
            "colours": [["green"], ["navy", "red"], ["red"], ["red", "navy"], ["teal"], ["mint"]],
            "pattern": ["checked", "plain", "striped", "striped", None, None],
            "lightness": ["dark", "light", "light", "dark", "dark", "light"],
        }
    ).join(text.select("sku_id", "category_name", "title", "text"), on="sku_id")
    skus = build(fingerprints, teachers, views).skus
    assert skus["colour"].to_list() == ["red", "teal"]
    assert skus["pattern"].to_list() == ["striped", None]
    assert skus["lightness"].to_list() == ["light", "dark"]


def test_further_columns_of_the_catalogue_are_kept_with_their_types(build: Build) -> None:
    columns = pl.DataFrame(
        {"sku_id": ["1", "0", "x"], "price": [5.0, 9.9, 1.0], "colour": ["navy", None, "z"], "image": "u"}
    )
    index = build(*tables([[1, 0], [0, 1]]), segment_rows=1, columns=columns)
    skus = index.skus
    assert skus["price"].to_list() == [9.9, 5.0]
    assert skus["colour"].to_list() == [None, "navy"]
    assert skus["photo_colour"].to_list() == ["red", "red"]
    assert skus["image"].to_list() == ["crops/0/0.jpg", "crops/0/1.jpg"]
    assert skus["catalogue_image"].to_list() == ["u", "u"]
    assert catalogue_columns(skus) == ["price", "colour", "catalogue_image"]
    assert seen_looks(skus)["colour"].to_list() == ["red", "red"]
    assert index.compare("price", "<=", "5").numbers().tolist() == [1]


def test_a_bundle_holds_the_words_of_names_and_of_the_catalogues_own_texts(tmp_path: Path) -> None:
    fingerprints, teachers, text = tables([[1, 0], [0, 1]])
    text = text.with_columns(title=pl.lit("Alpine"), sentences=pl.Series([["a skirt"], []]))
    columns = pl.DataFrame({"sku_id": ["0", "1"], "brand": ["Zed", "Yot"], "stock": [10_001, 10_002]})
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = (fingerprints.lazy(), teachers, {"crops/0": text}, {}, 1)
        build_index(tmp_path / name, *made, columns=columns, lexical=LexicalSettings())
        files = sorted(path for path in (tmp_path / name / "lexical").rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    lexical = LexicalIndex.load(tmp_path / "one")
    found = {query: lexical.match(query).rows.tolist() for query in ("zed", "10002", "alpine", "skirt", "a")}
    assert found == {"zed": [0], "10002": [1], "alpine": [0, 1], "skirt": [0, 1], "a": [0]}
    assert LexicalIndex.load(tmp_path / "two").about.settings == LexicalSettings()


def test_a_bundle_without_the_setting_has_no_words(build: Build, tmp_path: Path) -> None:
    build(*tables([[1, 0]]))
    assert not list(tmp_path.rglob("lexical"))


def test_without_further_columns_a_hit_has_none(index: FingerprintIndex) -> None:
    assert catalogue_columns(index.skus) == []
    assert seen_looks(index.skus).equals(index.skus)


def test_rows_follow_the_fingerprints_whatever_the_order_of_the_rest(build: Build) -> None:
    fingerprints, teachers, text = tables([[1, 0], [0, 1], [0.6, 0.8]])
    skus = build(fingerprints, teachers.reverse(), text.reverse()).skus
    assert skus["sku_id"].to_list() == ["0", "1", "2"]
    assert skus["image"].to_list() == [f"crops/0/{n}.jpg" for n in range(3)]


@pytest.mark.parametrize("bad", [[0.0, 0.0], [1.0, 1.0], [float("nan"), 0.0], [float("inf"), 0.0]])
def test_fingerprints_that_are_no_unit_rows_are_refused(build: Build, bad: list[float]) -> None:
    with pytest.raises(UserError, match="not unit rows; materialize fingerprints again"):
        build(*tables([[1, 0], bad]))


@pytest.mark.parametrize("segment_rows", [1, 2, 3])
def test_an_index_of_small_segments_answers_as_one_of_a_single_segment(
    build: Build, segment_rows: int
) -> None:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 5).repeat(2)  # each twice: ties across segments
    parts = tables(np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist())
    one, many = build(*parts), build(*parts, segment_rows)
    assert (len(one.segments), len(many.segments)) == (1, -(-10 // segment_rows))
    assert many.skus.equals(one.skus)
    for expected, found in zip(one.search(np.eye(2), 7), many.search(np.eye(2), 7), strict=True):
        assert found.rows.tolist() == expected.rows.tolist()
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_an_index_without_fingerprints_finds_nothing(build: Build) -> None:
    fingerprints, teachers, text = tables([[1, 0]])
    (result,) = build(fingerprints[:0], teachers, text).search([1, 0], 3)
    assert result.rows.tolist() == []


def test_the_published_version_is_the_one_in_use(store: ArtifactStore, index: FingerprintIndex) -> None:
    for version in ("one", "two"):
        publish_index(store, index, version)
        artifact, loaded = current_index(store)
        assert artifact.path.name == version
        assert loaded.skus.equals(index.skus)
        np.testing.assert_array_equal(loaded.fingerprints, index.fingerprints)


def test_without_an_index_the_user_is_told_what_to_do(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="has no search index; materialize the graph first"):
        current_index(store)


def test_a_pointer_to_nothing_is_told(store: ArtifactStore) -> None:
    store.write_pointer(Versions(store).key(CURRENT), "gone")
    with pytest.raises(UserError, match=r"no complete index/fingerprints/gone under .*; materialize it"):
        current_index(store)


def test_an_index_in_use_can_be_searched_while_a_new_one_is_published(
    store: ArtifactStore, index: FingerprintIndex
) -> None:
    publish_index(store, index, "old")
    _, old = current_index(store)
    publish_index(store, index, "new")
    Versions(store).prune(1)
    assert Versions(store).listed() == ["new"]
    assert old.search(index.fingerprints[1], 1)[0].rows.tolist() == [1]


def test_indexes_of_two_dimensions_share_a_data_root(store: ArtifactStore, index: FingerprintIndex) -> None:
    flat = FingerprintIndex(np.eye(2, dtype=np.float32), pl.DataFrame({"sku_id": ["x", "y"]}))
    publish_index(store, index, "one")
    publish_index(store, flat, "one", name="flat")
    publish_index(store, flat.remove(["x"]), "two", name="flat")
    assert current_index(store)[1].skus.equals(index.skus)
    assert current_index(store, "flat")[1].dimension == 2
    assert len(current_index(store, "flat")[1]) == 1
