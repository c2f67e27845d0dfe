import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.lexical import FOLDER, LexicalIndex, Match, open_lexical
from skufp_pipeline.search.settings import LexicalSettings

SKUS = pl.DataFrame(
    {
        "sku_id": ["A-1", "B-2", "C-3", "D-4", "E-5", "F-6"],
        "title": ["Granny Smith", "Pink Lady", "Nordvik Trail Runner", "Nordvik Lamp", "綠茶包", None],
        "category_name": ["Apple", "Apple", "Shoe", "Lamp", "Tea", "Shoe"],
        "text": [
            "Sour.",
            "Milder than Granny Smith.",
            "A light shoe.",
            "For the desk.",
            "Green tea.",
            "Waxed.",
        ],
        "brand": ["Orchard", "Orchard", "Nordvik", "Nordvik", "Café Нож", "Zed & Co"],
        "model": ["AB-100.2", "AB-100.3", None, "ab 77", "B-2", "x"],
        "gtin": [4006381333931, 4006381333932, 4006381333933, 4006381333934, None, 4006381333936],
        "stock": [1, 2, 3, 4, 5, 6],
        "tags": [["new in", "eco"], None, ["eco"], [], None, None],
    }
)
FURTHER = ["brand", "model", "gtin", "stock", "tags"]


@pytest.fixture(scope="module")
def lexical() -> LexicalIndex:
    return LexicalIndex.build(SKUS, LexicalSettings(), FURTHER)


def first(lexical: LexicalIndex, query: str) -> list[int]:
    """The rows that words put before all others."""
    match = lexical.match(query)
    boosts = lexical.boosts(match, exact=5)
    return match.rows[boosts == boosts.max(initial=0)].tolist()


def as_lists(match: Match) -> tuple[list, ...]:
    return match.rows.tolist(), match.shares.tolist(), match.exact.tolist(), list(match.words)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("A-1", [0]),
        (" a-1\n", [0]),
        ("\uff21\uff0d\uff11", [0]),
        ("a1", [0]),
        ("AB-100.2", [0]),
        ("ab1002", [0]),
        ("ab 100 2", [0]),
        ("AB77", [3]),
        ("4006381333933", [2]),
        ("nordvik", [2, 3]),
        ("Nordvik lamp", [3]),
        ("granny smith", [0]),
        ("GRANY SMITH", [0]),
        ("granny smiht", [0]),
        ("trial runer", [2]),
        ("綠茶", [4]),
        ("cafe", [4]),
        ("nozh", [4]),
        ("new in", [0]),
        ("zed", [5]),
        ("waxed", [5]),
        ("apple", [0, 1]),
    ],
)
def test_ids_codes_names_and_misspelt_words_are_found(
    lexical: LexicalIndex, query: str, rows: list[int]
) -> None:
    assert first(lexical, query) == rows


def test_an_id_comes_before_a_cell_that_equals_it(lexical: LexicalIndex) -> None:
    match = lexical.match("b-2")
    assert dict(zip(match.rows.tolist(), match.exact.tolist(), strict=True)) == {1: 3, 4: 2}


def test_words_in_a_description_count_less_than_in_a_name(lexical: LexicalIndex) -> None:
    match = lexical.match("Granny Smith")
    shares = dict(zip(match.rows.tolist(), match.shares.tolist(), strict=True))
    assert shares[0] == 1
    # BM25 with k1 = 1.2: 1 / 2.2 for a word that stands once, 3 / 4.2 for one of a name.
    assert shares[1] == pytest.approx((1 / 2.2) / (3 / 4.2), abs=1e-6)


@pytest.mark.parametrize(
    "query", ["something for a long journey by sea", "9", "qqq", "!?", "", "xyzzy plugh"]
)
def test_other_texts_find_nothing(lexical: LexicalIndex, query: str) -> None:
    assert lexical.match(query).rows.tolist() == []


def test_codes_are_not_taken_for_misspelt_ones(lexical: LexicalIndex) -> None:
    assert lexical.match("4006381333999").rows.tolist() == []


def test_shares_are_those_of_a_hand_computed_reference(lexical: LexicalIndex) -> None:
    # "nordvik" is named by 2 of 6 SKUs, "lamp" by 1, "zzzzzzz" by none.
    rarity = [np.log(1 + (6 - having + 0.5) / (having + 0.5)) for having in (2, 1, 0)]
    match = lexical.match("nordvik lamp zzzzzzz")
    assert match.rows.tolist() == []
    settings = LexicalSettings(least=0.1)
    match = LexicalIndex.build(SKUS, settings, FURTHER).match("nordvik lamp zzzzzzz")
    assert match.rows.tolist() == [2, 3]
    expected = [rarity[0] / sum(rarity), (rarity[0] + rarity[1]) / sum(rarity)]
    np.testing.assert_allclose(match.shares, expected, atol=1e-6)


def test_a_boost_grows_from_the_least_share_to_the_weight() -> None:
    lexical = LexicalIndex.build(SKUS, LexicalSettings(weight=0.8, least=0.5), FURTHER)
    rows = np.arange(3)
    match = Match(rows, np.array([0.5, 0.75, 1.0]), np.array([0, 0, 2]), ())
    np.testing.assert_allclose(lexical.boosts(match, 5), [0, 0.4, 10.8])


def test_a_hit_tells_the_words_that_it_has(lexical: LexicalIndex) -> None:
    match = lexical.match("nordvik runner tea")
    assert lexical.matched(match, 2) == ["nordvik", "runner"]
    assert lexical.matched(match, 4) == ["tea"]
    assert lexical.matched(match, 5) == []


def test_a_prompt_is_not_read_as_the_catalogues_text() -> None:
    lexical = LexicalIndex.build(SKUS, LexicalSettings(), FURTHER, described=["A-1"])
    assert first(lexical, "sour") == [0]
    assert lexical.match("waxed").rows.tolist() == []


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_saved_index_answers_as_before_and_has_the_same_bytes(
    lexical: LexicalIndex, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        LexicalIndex.build(SKUS, LexicalSettings(), FURTHER).save(tmp_path / name)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    loaded = LexicalIndex.load(tmp_path / "one")
    for query in ("A-1", "nordvik lamp", "grany", "綠茶", "nothing of it"):
        assert as_lists(loaded.match(query)) == as_lists(lexical.match(query))


def test_a_changed_title_is_found_in_the_next_version(tmp_path: Path) -> None:
    changed = SKUS.with_columns(title=pl.Series(["Golden Crown", *SKUS["title"][1:]]))
    lexical = LexicalIndex.build(changed, LexicalSettings(), FURTHER)
    assert first(lexical, "golden crown") == [0]
    assert first(lexical, "granny smith") == [1]


def test_a_bundle_without_words_has_none(tmp_path: Path) -> None:
    assert open_lexical(tmp_path, 6) is None


@pytest.mark.parametrize(
    "file",
    [
        *("lexical.json", "spellings.txt", "words/terms.npy", "words/data.csc.index.npy"),
        *("words/indices.csc.index.npy", "words/indptr.csc.index.npy", "trigrams/terms.npy"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "short", "noise"])
def test_a_damaged_file_is_told(lexical: LexicalIndex, tmp_path: Path, file: str, damage: str) -> None:
    lexical.save(tmp_path)
    path = tmp_path / FOLDER / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "short" else b"\x80noise")
    opened = open_lexical(tmp_path, len(SKUS))
    assert opened is not None
    with pytest.raises(
        UserError, match=r"the words of index bundle .* can't be read: .*; materialize search_index"
    ):
        _ = opened.index


def test_rows_outside_the_index_are_told(lexical: LexicalIndex, tmp_path: Path) -> None:
    lexical.save(tmp_path)
    path = tmp_path / FOLDER / "words" / "indices.csc.index.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(UserError, match="words refers to documents that do not exist"):
        LexicalIndex.load(tmp_path)


def test_words_of_another_index_are_told(lexical: LexicalIndex, tmp_path: Path) -> None:
    lexical.save(tmp_path)
    opened = open_lexical(tmp_path, 7)
    assert opened is not None
    with pytest.raises(UserError, match="are of 6 SKUs, its fingerprints of 7; materialize search_index"):
        _ = opened.index
    shutil.rmtree(tmp_path / FOLDER)
    assert open_lexical(tmp_path, 7) is None
