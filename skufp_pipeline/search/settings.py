"""Settings of the search."""

from typing import Literal

from pydantic import Field

from skufp_pipeline.settings import Settings


class LexicalSettings(Settings):
    """How much the words of a query count beside its vector."""

    weight: float = Field(0.5, ge=0, le=2)  # added to the cosine of a SKU that has every word of the query
    least: float = Field(0.6, ge=0, lt=1)  # a SKU whose share of the query's words is no larger gets nothing


class SearchSettings(Settings):
    """What an index holds beside its vectors."""

    lexical: LexicalSettings | None = LexicalSettings()  # words, codes and names; null: vectors alone


class ImageIndexSettings(Settings):
    """Indexes of one row per catalogue picture: a product scores what its best picture scores."""

    of: list[str] = Field(min_length=1)  # whose embeddings, one index each, asked by --index NAME
    engine: Literal["exact", "flat", "hnsw"] = "exact"  # flat and hnsw are FAISS's, of the extra `export`
    neighbours: int = Field(32, ge=2)  # of a picture in HNSW's graph
    breadth: int = Field(64, ge=1)  # candidates that HNSW keeps while it searches
    least_recall: float = Field(0.95, ge=0, le=1)  # of the ten best, for an engine that is not exact
