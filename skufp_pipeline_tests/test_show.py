"""What a person sees of a result: counts, schemas, small tables and pictures."""

import base64
import io
import re

import polars as pl
from PIL import Image

from skufp_pipeline.show import (
    artifact_metadata,
    counts_table,
    frame_metadata,
    markdown_table,
    picture,
    progress,
)
from skufp_pipeline.store import Artifact, ArtifactStore, Recipe

FRAME = pl.DataFrame({"split": ["train", "train", "validation"], "price": [1.5, 2.0, 3.25]})


def artifact(root: str) -> Artifact:
    return ArtifactStore(root).produce(
        "tables/x", Recipe(code_version="1"), lambda _: {"rows": 3, "why": [1]}
    )


def test_metadata_says_whether_a_result_was_computed_or_skipped(tmp_path) -> None:
    first, second = artifact(str(tmp_path)), artifact(str(tmp_path))
    told = [artifact_metadata(found) for found in (first, second)]
    assert [(m["computed"], m["skipped_as_unchanged"]) for m in told] == [(1, 0), (0, 1)]
    assert told[0]["rows"] == 3
    assert "why" not in told[0]
    assert told[0]["digest"] == told[1]["digest"] == first.digest


def test_a_frame_is_described_by_its_rows_and_columns() -> None:
    described = frame_metadata(FRAME)
    assert described["dagster/row_count"] == 3
    columns = {column.name: column.type for column in described["dagster/column_schema"].columns}
    assert columns == {"split": "String", "price": "Float64"}


def test_counts_and_tables_are_markdown() -> None:
    table = [" ".join(line.split()) for line in str(counts_table(FRAME, ["split"]).value).splitlines()]
    assert (table[0], *table[2:]) == ("| split | rows |", "| train | 2 |", "| validation | 1 |")
    assert set(table[1]) == set("|:-")
    assert markdown_table(pl.DataFrame({"a|b": ["x|y"]})).value.split("\n")[-1].split()[1] == "x\\|y"


def test_a_picture_stands_in_the_metadata_itself() -> None:
    drawn = str(picture(Image.new("RGB", (4, 3), "red")).value)
    encoded = re.search(r"data:image/jpeg;base64,([^)]+)\)", drawn)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as image:
        assert image.size == (4, 3)
    assert "data:image/png;base64," in str(picture(b"\x89PNG").value)


def test_progress_logs_the_count_and_the_end() -> None:
    lines: list[str] = []
    told = progress(lines.append, "crops")
    for done in range(1, 4):
        told(done, 3)
    assert len(lines) == 1
    assert re.fullmatch(r"crops: 3/3, \d+/s", lines[0])
