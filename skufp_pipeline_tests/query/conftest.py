"""The fixtures of the search, which queries ask."""

from skufp_pipeline_tests.search.conftest import encoder, index, store

__all__ = ["encoder", "index", "store"]
