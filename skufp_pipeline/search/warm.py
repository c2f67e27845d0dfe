"""Compiles every kernel of the search into the cache: `python -m skufp_pipeline.search.warm`, for an image.

Compiling takes about a minute, loading from the cache two seconds. The cache is of this processor's kind: on
another one the kernels are compiled when the service starts.
"""

import numpy as np
import polars as pl

from skufp_pipeline.search.index import FingerprintIndex

SKUS, DIMENSION = 2000, 64


def compile_kernels() -> None:
    """Opens and warms an index of random fingerprints."""
    rows = np.random.default_rng(0).standard_normal((SKUS, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = pl.DataFrame({"sku_id": [str(number) for number in range(SKUS)]})
    FingerprintIndex(rows.astype(np.float32), names).warm_up()


if __name__ == "__main__":
    compile_kernels()
