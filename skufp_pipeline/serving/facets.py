"""What the searches of an index can be narrowed by."""

from skufp_pipeline.query.facets import count_facets
from skufp_pipeline.search.bundle import catalogue_columns
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.serving.schemas import ColumnFacet


def column_facets(index: FingerprintIndex) -> list[ColumnFacet]:
    """The columns of few values with their counts, and those of many numbers or dates with their ends."""
    skus = index.present_skus
    counted = count_facets(skus, index.sku_ids.to_list())
    found = [ColumnFacet(column=column, counts=counts, ends=None) for column, counts in counted.items()]
    for column in catalogue_columns(skus):
        kind = skus.schema[column]
        if column in counted or not (kind.is_numeric() or kind.is_temporal()):
            continue
        values = skus[column].drop_nulls()
        values = values.drop_nans() if kind.is_float() else values
        if len(values):
            ends = values.min(), values.max()
            low, high = (str(end) if kind.is_temporal() else end for end in ends)
            found.append(ColumnFacet(column=column, counts=None, ends=(low, high)))
    return found
