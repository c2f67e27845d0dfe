"""The lexical index: finds SKUs by ids, codes, names and other exact words, also misspelt ones.

It is BM25 (Robertson and Zaragoza 2009; the library bm25s, Lù 2024) over the words of each SKU, without a
penalty for long texts. A word of a name (id, title, category, any further column) counts as three, one of
the description once, however often it stands there. A word that no SKU has is replaced by the nearest known
ones, by edit distance.

lexical/
    lexical.json            number of SKUs and of spellings, settings
    words/                  BM25 of SKUs by word
        terms.npy           (T,) uint64 hashes of the words, ascending
        data.csc.index.npy  indices.csc.index.npy  indptr.csc.index.npy: bm25s's scores by word
    spellings.txt           words that a misspelt one may stand for, one a line
    trigrams/               BM25 of spellings by trigram, files as in words/
"""

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.search.words import normal, squeezed, trigrams, words
from skufp_pipeline.settings import Settings

FOLDER, ABOUT_FILE, SPELLINGS_FILE = "lexical", "lexical.json", "spellings.txt"
SATURATION = 1.2  # k1 of BM25
NAMED = 3  # how often a word of a name counts: in a description alone it has 0.64 of its weight
LONGEST_CELL = 128  # characters of a cell that is found as a whole
CODE_DIGITS, CODE_SHARE = 5, 0.9  # of a column of codes: digits (median), share of distinct values
SHORTEST, LONG = 3, 6  # letters of a word that may have one, two typos: Lucene's automatic fuzziness
CANDIDATES, REPLACEMENTS = 256, 3  # spellings that are compared with a misspelt word, and that stand for it
MISSPELT = 0.8  # of a word's score is left for each typo
KEPT_WORDS = 4096  # cached replacements
SQUEEZED, CELL, ID = "squeezed\0", "cell\0", "id\0"  # before a term that stands for a whole cell


class About(Settings):
    """Schema of `lexical.json`."""

    format: Literal[1] = 1
    skus: int = Field(ge=1)
    spellings: int = Field(ge=0)
    settings: LexicalSettings


@dataclass(frozen=True)
class Match:
    """The SKUs that have words of a query.

    Attributes:
        rows: (M,) int64 row numbers, ascending.
        shares: (M,) float64 in 0 to 1, the share of the query's words that a SKU has, by their weight.
        exact: (M,) int64: 3 the query is the SKU's id, 2 another cell, 1 that but for signs, 0 otherwise.
        words: each word of the query with the numbers of the terms that it is found by.
    """

    rows: NDArray[np.int64]
    shares: NDArray[np.float64]
    exact: NDArray[np.int64]
    words: tuple[tuple[str, tuple[int, ...]], ...]


class Bm25:
    """Scores of documents by term, held as a sparse matrix; memory-mapped if it was loaded."""

    def __init__(self, terms: NDArray[np.uint64], scores: Any) -> None:
        self.terms, self._scores = terms, scores

    @classmethod
    def build(cls, documents: Iterable[Sequence[str]]) -> "Bm25":
        """Counts the terms of each document; the result depends on nothing but their hashes and order."""
        numbers: dict[str, int] = {}
        listed = [
            array("I", [numbers.setdefault(term, len(numbers)) for term in document])
            for document in documents
        ]
        hashes = np.fromiter((stable_hash(term) for term in numbers), np.uint64, len(numbers))
        del numbers  # most of the memory: free it before the scores are made
        terms, place = np.unique(hashes, return_inverse=True)
        places = place.tolist()
        for document in listed:
            document[:] = array("I", [places[number] for number in document])
        scores = _bm25s()
        scores.scores = scores.build_index_from_ids(list(range(len(terms))), listed, False)
        return cls(terms, scores)

    def save(self, folder: Path) -> None:
        """Writes the arrays into a new folder."""
        folder.mkdir()
        arrays = {name: self._scores.scores[name] for name in ("data", "indices", "indptr")}
        for name, held in arrays.items():
            np.save(folder / f"{name}.csc.index.npy", held)
        np.save(folder / "terms.npy", self.terms)

    @classmethod
    def load(cls, folder: Path, documents: int) -> "Bm25":
        """Opens the arrays; raises ValueError or OSError if they don't belong together."""
        scores = _bm25s()
        scores.load_scores(folder, num_docs=documents, mmap=True)
        terms = np.load(folder / "terms.npy", allow_pickle=False)
        held = scores.scores
        kinds = {"data": "float32", "indices": "int32", "indptr": "int64"}
        if any(held[name].dtype != kind or held[name].ndim != 1 for name, kind in kinds.items()):
            raise ValueError(f"{folder.name} holds arrays of other types than expected")
        starts, rows = np.asarray(held["indptr"]), held["indices"]
        fits = len(starts) == len(terms) + 1 and terms.dtype == np.uint64
        if not fits or len(rows) != len(held["data"]) or starts[0] != 0 or starts[-1] != len(rows):
            raise ValueError(f"the arrays of {folder.name} do not fit together")
        outside = len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < documents
        if (np.diff(starts) < 0).any() or outside:
            raise ValueError(f"{folder.name} refers to documents that do not exist")
        return cls(terms, scores)

    def find(self, term: str) -> int | None:
        """Returns the number of a term; None if no document has it."""
        wanted = np.uint64(stable_hash(term))
        place = int(np.searchsorted(self.terms, wanted))
        return place if place < len(self.terms) and self.terms[place] == wanted else None

    def scores(self, terms: Sequence[int]) -> NDArray[np.float32]:
        """(N,) sums of the scores of these terms."""
        found: NDArray[np.float32] = self._scores.get_scores_from_ids(list(terms))
        return found

    def documents(self, term: int) -> NDArray[np.int32]:
        """The documents that have a term, ascending."""
        held = self._scores.scores
        rows: NDArray[np.int32] = held["indices"][held["indptr"][term] : held["indptr"][term + 1]]
        return rows

    def full(self, term: int | None) -> float:
        """The score of a document that names a term, the weight of a word; None is a term of no document."""
        having = 0 if term is None else len(self.documents(term))
        rarity = np.log(1 + (self._scores.scores["num_docs"] - having + 0.5) / (having + 0.5))
        return float(rarity * NAMED / (NAMED + SATURATION))


class LexicalIndex:
    """The words of the SKUs of an index, row by row; thread-safe.

    >>> skus = pl.DataFrame({"sku_id": ["A-1", "B-2"], "title": ["Granny Smith", "Pink Lady"]})
    >>> lexical = LexicalIndex.build(skus, LexicalSettings())
    >>> lexical.match("b-2").rows.tolist(), lexical.match("grany").rows.tolist()
    ([1], [0])
    """

    def __init__(self, about: About, terms: Bm25, spellings: Sequence[str], trigram_index: Bm25) -> None:
        self.about, self.terms = about, terms
        self._spellings, self._trigrams = spellings, trigram_index
        self._nearest = lru_cache(KEPT_WORDS)(self._nearest_words)

    @classmethod
    def build(
        cls,
        skus: pl.DataFrame,
        settings: LexicalSettings,
        columns: Sequence[str] = (),
        described: Iterable[str] | None = None,
    ) -> "LexicalIndex":
        """Reads the SKU table of an index: `sku_id` and, where it has them, title, category_name and text.

        Args:
            skus: one row per row of the index; without a `sku_id` where a SKU was removed.
            columns: further columns; those of words, and those of whole numbers that are codes, are read.
            described: SKUs whose `text` is the catalogue's own; by default all.
        """
        whole = None if described is None else set(described)
        wordy = [name for name in ("title", "category_name", *columns) if _is_wordy(skus.schema.get(name))]
        named, codes = ["sku_id", *wordy], [name for name in columns if _is_code(skus[name].drop_nulls())]
        texts = skus["text"] if "text" in skus.columns else pl.repeat(None, len(skus), eager=True)
        wanted = (
            text if whole is None or sku_id in whole else None
            for sku_id, text in zip(skus["sku_id"], texts, strict=True)
        )
        spellings: dict[str, None] = {}
        names = skus.select(named).iter_rows()
        numbers: Iterable[tuple[Any, ...]] = skus.select(codes).iter_rows() if codes else [()] * len(skus)
        terms = Bm25.build(
            _document(sku, name, number, text, spellings)
            for sku, name, number, text in zip(skus["sku_id"], names, numbers, wanted, strict=True)
        )
        listed = sorted(spellings)
        about = About(skus=len(skus), spellings=len(listed), settings=settings)
        return cls(about, terms, listed, Bm25.build(trigrams(word) for word in listed or [""]))

    def save(self, directory: Path) -> None:
        """Writes the folder `lexical` into an index bundle."""
        folder = directory / FOLDER
        folder.mkdir()
        self.terms.save(folder / "words")
        self._trigrams.save(folder / "trigrams")
        (folder / SPELLINGS_FILE).write_text("".join(f"{word}\n" for word in self._spellings))
        (folder / ABOUT_FILE).write_text(json.dumps(self.about.model_dump(), indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "LexicalIndex":
        """Opens the lexical index of a bundle, memory-mapped; raises UserError if it can't be read."""
        folder = directory / FOLDER
        try:
            about = _about(folder)
            spellings = (folder / SPELLINGS_FILE).read_text().split()
            if len(spellings) != about.spellings:
                raise ValueError(f"{SPELLINGS_FILE} holds {len(spellings)} words, not {about.spellings}")
            terms = Bm25.load(folder / "words", about.skus)
            near = Bm25.load(folder / "trigrams", max(about.spellings, 1))
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"the words of index bundle {directory} can't be read: {error}; materialize search_index"
            ) from error
        return cls(about, terms, spellings, near)

    def match(self, query: str) -> Match:
        """Finds the SKUs that have words of the query: all of them, with their shares."""
        found, weight = [], 0.0
        for word in words(query):
            for text, terms, full in self._terms_of(word.whole, word.parts):
                found.append((text, terms))
                weight += full
        numbers = [number for _, terms in found for number in terms]
        exact = self._exact(query)
        if not numbers and not exact:
            return Match(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), ())
        shares = np.minimum(self.terms.scores(numbers).astype(np.float64) / max(weight, 1e-9), 1)
        ranks = np.zeros(len(shares), np.int64)
        for rank, term in exact:
            ranks[self.terms.documents(term)] = rank
        rows = np.flatnonzero((shares > self.about.settings.least) | (ranks > 0))
        return Match(rows, shares[rows], ranks[rows], tuple(found))

    def matched(self, match: Match, row: int) -> list[str]:
        """The words of the query that a SKU has."""
        return list(dict.fromkeys(word for word, terms in match.words if any(map(self._has(row), terms))))

    def boosts(self, match: Match, exact: float) -> NDArray[np.float64]:
        """(M,) what is added to the scores of `match.rows`; `exact` for each rank of an exact match."""
        settings = self.about.settings
        above = np.maximum(match.shares - settings.least, 0) / (1 - settings.least)
        return settings.weight * above + exact * match.exact

    def _has(self, row: int) -> Callable[[int], bool]:
        def has(term: int) -> bool:
            rows = self.terms.documents(term)
            place = int(np.searchsorted(rows, row))
            return place < len(rows) and int(rows[place]) == row

        return has

    def _exact(self, query: str) -> list[tuple[int, int]]:
        """The terms of cells that the query equals, with their rank, the least exact first."""
        plain, letters = normal(query), squeezed(normal(query))
        asked = ((1, SQUEEZED + letters), (1, CELL + letters), (2, CELL + plain), (3, ID + plain))
        found = ((rank, self.terms.find(term)) for rank, term in asked)
        return [(rank, term) for rank, term in found if term is not None]

    def _terms_of(self, whole: str, parts: Sequence[str]) -> list[tuple[str, tuple[int, ...], float]]:
        """Each looked-up word with its terms and the score of a SKU that has it in full."""
        known = self.terms.find(whole)
        if known is not None:
            return [(whole, (known,), self.terms.full(known))]
        if parts:
            return [found for part in parts for found in self._terms_of(part, ())]
        distance, near = self._nearest(whole)
        if not near:
            return [(whole, (), self.terms.full(None))]
        full = max(self.terms.full(term) for term in near)
        return [(whole, near, full / MISSPELT**distance)]

    def _nearest_words(self, word: str) -> tuple[int, tuple[int, ...]]:
        """The least edit distance (optimal string alignment) of known words, and their terms."""
        from rapidfuzz.distance import OSA

        allowed = 0 if not word.isalpha() or len(word) < SHORTEST else 1 if len(word) < LONG else 2
        grams = [number for gram in trigrams(word) if (number := self._trigrams.find(gram)) is not None]
        if not allowed or not self._spellings or not grams:
            return 0, ()
        scores = self._trigrams.scores(grams)
        likely = np.argpartition(-scores, min(CANDIDATES, len(scores)) - 1)[:CANDIDATES]
        apart = sorted(
            (OSA.distance(word, self._spellings[at], score_cutoff=allowed), -float(scores[at]), at)
            for at in likely.tolist()
        )
        least = apart[0][0]
        if least > allowed:
            return 0, ()
        best = [self._spellings[at] for distance, _, at in apart if distance == least][:REPLACEMENTS]
        return least, tuple(number for text in best if (number := self.terms.find(text)) is not None)


class LexicalFolder:
    """The lexical index of a bundle, opened when it is first asked."""

    def __init__(self, directory: Path, rows: int) -> None:
        self._directory, self._rows = directory, rows

    @cached_property
    def index(self) -> LexicalIndex:
        """Raises UserError if it can't be read or belongs to another index."""
        found = LexicalIndex.load(self._directory)
        if found.about.skus != self._rows:
            raise UserError(
                f"the words of index bundle {self._directory} are of {found.about.skus} SKUs, its "
                f"fingerprints of {self._rows}; materialize search_index"
            )
        return found


def open_lexical(directory: Path, rows: int) -> LexicalFolder | None:
    """The lexical index of a bundle; None if it has none, as older versions of an index."""
    return LexicalFolder(directory, rows) if (directory / FOLDER).is_dir() else None


def _about(folder: Path) -> About:
    try:
        return About.model_validate_json((folder / ABOUT_FILE).read_text())
    except ValidationError as error:
        raise ValueError(f"{ABOUT_FILE}: {error.errors()[0]['msg']}") from error


def _bm25s() -> Any:
    import bm25s  # imports SciPy and Numba, which loading the definitions should not

    empty = bm25s.BM25(k1=SATURATION, b=0, method="lucene", backend="numpy", csc_backend="numpy")
    empty.nonoccurrence_array = None  # this method has none; `load_scores` does not say so
    return empty


def _document(
    sku_id: Any, names: Iterable[Any], numbers: Iterable[Any], text: str | None, spellings: dict[str, None]
) -> list[str]:
    """The terms of one SKU, none without an id; adds its words of letters to `spellings`."""
    if sku_id is None:
        return []
    cells = [str(cell) for value in names for cell in _cells(value)]
    cells += [str(number) for number in numbers if number is not None]
    found = list(dict.fromkeys(token for cell in cells for token in _tokens(cell))) * NAMED
    found += dict.fromkeys(_tokens(text or ""))
    for token in found:
        if len(token) >= SHORTEST and token.isascii() and token.isalpha():
            spellings.setdefault(token)
    exact = {ID + normal(str(sku_id))}
    for plain in (normal(cell) for cell in cells if len(cell) <= LONGEST_CELL):
        letters = squeezed(plain)
        exact |= {CELL + plain, SQUEEZED + letters} if letters not in ("", plain) else {CELL + plain}
    return found + sorted(exact)


def _tokens(text: str) -> list[str]:
    return [token for word in words(text) for token in word.tokens]


def _cells(value: Any) -> Sequence[Any]:
    listed = value if isinstance(value, list) else [value]
    return [cell for cell in listed if cell is not None]


def _is_wordy(kind: pl.DataType | None) -> bool:
    return kind in (pl.String(), pl.List(pl.String()))


def _is_code(values: pl.Series) -> bool:
    """Whether a column of whole numbers is one of codes, such as gtin: long, and nearly all distinct."""
    if not values.dtype.is_integer() or not len(values):
        return False
    digits = values.cast(pl.String).str.len_chars().median()
    distinct = values.n_unique() >= CODE_SHARE * len(values)
    return distinct and isinstance(digits, float) and digits >= CODE_DIGITS
