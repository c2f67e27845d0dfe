from pathlib import Path

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import USED_SCHEMA, embedding_column, embedding_rows, used_queries


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = np.array([[1.5, -2.0], [0.1, 3.0], [np.pi, 0]], dtype=np.float32)
    table = pl.DataFrame({"id": ["a", "b", "c"]}).with_columns(embedding_column(rows))
    assert table.schema["embedding"] == pl.Array(pl.Float32, 2)
    path = tmp_path / "table.parquet"
    table.write_parquet(path)
    for found in (embedding_rows(table), embedding_rows(pl.read_parquet(path))):
        np.testing.assert_array_equal(found, rows)
        assert found.dtype == np.float32
        assert found.flags.writeable
    chosen = table.filter(pl.col("id") != "b")
    np.testing.assert_array_equal(embedding_rows(chosen), rows[[0, 2]])


def test_chunked_tables_give_all_rows() -> None:
    parts = [embedding_column(np.full((2, 3), value, np.float32)).to_frame() for value in (1, 2)]
    assert embedding_rows(pl.concat(parts, rechunk=False))[:, 0].tolist() == [1, 1, 2, 2]


def test_a_table_without_rows_keeps_its_dimension() -> None:
    table = embedding_column(np.empty((0, 5), np.float32)).to_frame()
    assert embedding_rows(table).shape == (0, 5)


def test_a_list_column_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding must be a fixed-size list"):
        embedding_rows(pl.DataFrame({"embedding": [[1.0, 2.0]]}))


def test_used_queries_leave_views_out_and_say_the_use() -> None:
    frame = pl.DataFrame(
        {
            "query_id": ["v", "q", "d"],
            "sku_id": ["a", "a", "b"],
            "role": ["gallery", "train", "development"],
            "more": [1, 2, 3],
        }
    )
    used = used_queries(frame, "train")
    assert used.rows() == [("q", "a", "train", "train"), ("d", "b", "development", "train")]
    assert dict(used.schema) == USED_SCHEMA
    assert used_queries(frame.clear(), "train").is_empty()
