"""Counts the values of the catalogue's columns among the answers, so that a search can be narrowed.

The counts are over the N best SKUs of those that the filters select (all SKUs without a filter), ties broken
by row as in every search: what a person would see by paging to the N-th answer.
"""

from collections.abc import Sequence

import polars as pl

from skufp_pipeline.search.bundle import LOOKS, catalogue_columns

MOST_VALUES = 30  # of a column in the whole index; one with more is no facet
OVER = 100  # answers that are counted by default

Facets = dict[str, dict[str, int]]  # by column, then by value, the most frequent first


def facet_columns(skus: pl.DataFrame) -> list[str]:
    """The columns of an index's SKU table with 2 to `MOST_VALUES` values: category, looks, the catalogue's.

    Columns of fractions are left out; `--where` takes ranges of them.
    """
    candidates = dict.fromkeys(("category_name", *LOOKS, *catalogue_columns(skus)))
    return [
        name
        for name in candidates
        if name in skus.columns
        and not skus.schema[name].is_float()
        and 2 <= _values(skus[name]).n_unique() <= MOST_VALUES
    ]


def count_facets(skus: pl.DataFrame, sku_ids: Sequence[str]) -> Facets:
    """Counts the values of every facet column of an index's SKU table among these SKUs.

    A SKU without a value is not counted; a column of lists counts each of a SKU's values once. Values of one
    count are in alphabetical order.
    """
    found = skus.filter(pl.col("sku_id").is_in(pl.Series(sku_ids, dtype=skus.schema["sku_id"]).implode()))
    counted = {}
    for name in facet_columns(skus):
        counts = _values(found[name]).value_counts(name="count")
        rows = ((str(value), count) for value, count in counts.rows())
        counted[name] = dict(sorted(rows, key=lambda row: (-row[1], row[0])))
    return counted


def _values(column: pl.Series) -> pl.Series:
    """The values of all SKUs, those of a list one by one."""
    if isinstance(column.dtype, pl.List):
        column = column.list.unique().explode()
    return column.drop_nulls()
