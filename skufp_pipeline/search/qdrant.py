"""An index in Qdrant, for what no machine's memory holds: a server's shards, each searched exactly.

A version is a collection of its own, `<alias>-<version>`. The alias names the version in use and is switched
when its collection is whole, so that a search meets one version or the other. The collection before it stays.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.progress import Progress
from skufp_pipeline.search.index import FingerprintIndex

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

Where = Mapping[str, Sequence[Any] | Mapping[str, Any]]
BATCH = 500  # points of an upsert: 5 MB at 512 dimensions; a server takes 32 MB
TIMEOUT = 60  # seconds


@contextmanager
def connect(place: str | Path, api_key: str | None = None) -> Iterator["QdrantClient"]:
    """Opens the server at a URL or the local Qdrant in a folder; raises UserError for what either refuses."""
    qdrant = library("qdrant_client", "qdrant-client")
    refusals = importlib.import_module("qdrant_client.http.exceptions").ApiException
    try:
        if isinstance(place, Path):
            client = qdrant.QdrantClient(path=str(place))
        else:
            client = qdrant.QdrantClient(
                url=place, api_key=api_key, timeout=TIMEOUT, check_compatibility=False
            )
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: another program has the folder open
        raise UserError(f"Qdrant at {place} can't be opened: {error}") from error
    try:
        yield client
    except (OSError, refusals) as error:
        raise UserError(f"Qdrant at {place}: {str(error) or type(error).__name__}") from error
    finally:
        client.close()


def publish(
    client: "QdrantClient",
    index: FingerprintIndex,
    alias: str,
    version: str,
    *,
    shards: int = 1,
    replicas: int = 1,
    progress: Progress | None = None,
) -> list[str]:
    """Writes a version, puts it in use under `alias` and deletes all but it and the one before it.

    What a killed run has written of the version is not written again.

    Args:
        shards, replicas: of the collection on the server's nodes.

    Returns:
        The names of the deleted collections.

    Raises:
        UserError: `alias` is the name of a collection, or the collection is not whole afterwards.
    """
    collection, known = f"{alias}-{version}", _collections(client)
    if alias in known:
        raise UserError(f"Qdrant has a collection {alias!r}, so that no alias can be called so; give another")
    write_collection(client, collection, *exported_rows(index), shards, replicas, progress)
    before = in_use(client, alias)
    if before == collection:
        return []
    _switch(client, alias, before, collection)
    old = [name for name in known if name.startswith(f"{alias}-") and name not in (collection, before)]
    for name in old:
        client.delete_collection(name)
    return old


def exported_rows(index: FingerprintIndex) -> tuple[NDArray[np.float32], pl.DataFrame]:
    """The fingerprints and the SKU table of the present rows; biases, if any, are a last dimension."""
    rows, skus = index.contents()
    biases = index.biases[index.present.numbers()]
    return (np.column_stack([rows, biases]) if biases.any() else rows), skus


def write_collection(
    client: "QdrantClient",
    name: str,
    rows: NDArray[np.float32],
    skus: pl.DataFrame,
    shards: int = 1,
    replicas: int = 1,
    progress: Progress | None = None,
) -> None:
    """Writes N points, numbered as the rows, with the SKU table as payload; goes on where a killed run ended.

    There is no approximate graph (`m=0`): it would cost memory, and exact search doesn't use it.
    """
    from qdrant_client import models

    if not client.collection_exists(name):
        vectors = models.VectorParams(size=rows.shape[1], distance=models.Distance.DOT)
        graph = models.HnswConfigDiff(m=0)
        client.create_collection(
            name,
            vectors_config=vectors,
            hnsw_config=graph,
            shard_number=shards,
            replication_factor=replicas,
        )
    _index_payload(client, name, skus.schema)
    done = client.count(name, exact=True).count  # a prefix: batches are waited for, in their order
    begun = done - done % BATCH if done < len(rows) else done  # of a batch some points may be there
    for start in range(begun, len(rows), BATCH):
        stop = min(start + BATCH, len(rows))
        batch = models.Batch(
            ids=list(range(start, stop)),
            vectors=rows[start:stop].tolist(),
            payloads=_payloads(skus[start:stop]),
        )
        client.upsert(name, batch, wait=True)
        if progress is not None:
            progress(stop, len(rows))
    written = client.count(name, exact=True).count
    if written != len(rows):
        raise UserError(
            f"Qdrant's {name!r} has {written} points, expected {len(rows)}; delete it and export again"
        )


def ask(
    client: "QdrantClient", name: str, queries: ArrayLike, top: int, where: Where | None = None
) -> list[list[tuple[str, float]]]:
    """Returns the ids and scores of the best `top` SKUs of each query, best first, by exact search.

    Args:
        name: an alias or a collection.
        queries: (Q, D) unit rows.
        where: by column, alternatives or a range (gt, gte, lt, lte), as the `where` of `/v1/search`.
    """
    from qdrant_client import models

    rows = np.atleast_2d(np.asarray(queries, np.float32))
    vectors: Any = client.get_collection(in_use(client, name) or name).config.params.vectors
    if vectors.size == rows.shape[1] + 1:  # biases
        rows = np.column_stack([rows, np.ones(len(rows), np.float32)])
    requests = [
        models.QueryRequest(
            query=row.tolist(),
            limit=top,
            filter=payload_filter(where or {}),
            params=models.SearchParams(exact=True),
            with_payload=["sku_id"],
        )
        for row in rows
    ]
    answers = client.query_batch_points(name, requests)
    return [[(point.payload["sku_id"], point.score) for point in answer.points] for answer in answers]  # type: ignore[index]


def payload_filter(where: Where) -> "Filter":
    """The conditions of `where` as Qdrant writes them."""
    from qdrant_client import models

    return models.Filter(must=[_condition(column, asked) for column, asked in where.items()])


def in_use(client: "QdrantClient", alias: str) -> str | None:
    """The collection that an alias names."""
    named = {found.alias_name: found.collection_name for found in client.get_aliases().aliases}
    return named.get(alias)


def library(module: str, package: str) -> Any:
    """Imports a library of the extra `export`; raises UserError without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this format needs {package}, which is not installed: pip install 'skufp-pipeline[export]'"
        ) from error


def _condition(column: str, asked: Sequence[Any] | Mapping[str, Any]) -> Any:
    from qdrant_client import models

    if isinstance(asked, Mapping):
        dates = any(isinstance(value, str) for value in asked.values())
        kind: Callable[..., Any] = models.DatetimeRange if dates else models.Range
        return models.FieldCondition(key=column, range=kind(**asked))
    return models.Filter(should=[_equals(column, value) for value in asked])


def _equals(column: str, value: Any) -> Any:
    from qdrant_client import models

    if isinstance(value, float):  # Qdrant matches no fractions
        return models.FieldCondition(key=column, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=column, match=models.MatchValue(value=value))


def _collections(client: "QdrantClient") -> list[str]:
    return sorted(found.name for found in client.get_collections().collections)


def _switch(client: "QdrantClient", alias: str, before: str | None, collection: str) -> None:
    """Points the alias at a collection, in one request: no search finds it missing."""
    from qdrant_client import models

    deleted = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    made = models.CreateAlias(collection_name=collection, alias_name=alias)
    created = models.CreateAliasOperation(create_alias=made)
    client.update_collection_aliases([created] if before is None else [deleted, created])


def _index_payload(client: "QdrantClient", name: str, schema: pl.Schema) -> None:
    """Lets a server find values without reading every point; a local Qdrant only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local")
        for column, kind in schema.items():
            if (named := _payload_kind(kind)) is not None:
                client.create_payload_index(name, column, named)


def _payload_kind(kind: pl.DataType) -> Any:
    """Qdrant's type of a column; None for what can't be filtered by."""
    inner: Any = kind.inner if isinstance(kind, pl.List) else kind
    if inner.is_temporal():
        return "datetime" if inner in (pl.Date, pl.Datetime) else None
    if inner.is_numeric():
        return "integer" if inner.is_integer() else "float"
    return "bool" if inner == pl.Boolean else "keyword" if inner == pl.String else None


def _payloads(skus: pl.DataFrame) -> list[dict[str, Any]]:
    dates = pl.selectors.temporal()
    return skus.with_columns(dates.dt.to_string("iso")).to_dicts()
