"""Settings of the search."""

from pydantic import Field

from skufp_pipeline.settings import Settings


class LexicalSettings(Settings):
    """How much the words of a query count beside its vector."""

    weight: float = Field(0.5, ge=0, le=2)  # added to the cosine of a SKU that has every word of the query
    least: float = Field(0.6, ge=0, lt=1)  # a SKU whose share of the query's words is no larger gets nothing


class SearchSettings(Settings):
    """What an index holds beside its vectors."""

    lexical: LexicalSettings | None = LexicalSettings()  # words, codes and names; null: vectors alone
