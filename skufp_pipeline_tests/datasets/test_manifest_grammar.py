"""Any manifest that a shop may write goes in whole or says why not, whatever the order of its rows."""

import csv
import io
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import Catalogue
from skufp_pipeline.errors import UserError

from .trees import write_image

CELLS: dict[str, list[Any]] = {
    "sku_id": [
        *("1001", "1001.0", "2002.0", "007", "7", "", "caf\u00e9", "cafe\u0301", "梨" * 128, "x" * 129),
        *("a\nb", "..", "a/b", "ключ", "مفتاح", "1E5", "4.01E+12", "a\u200bb", "12.50", "-0", "nul\0"),
    ],
    "image_path": [
        *("a.png", "./a.png", "b.png", "\u00e9.png", "e\u0301.png", "gone.png", "../a.png", "", "nul\0"),
        *("a" * 300, "a.png/b.png", "~", "broken.png"),
    ],
    "domain": ["catalog", "catalog", "query", "shop", ""],
    "split": ["train", "train", "validation", "test", "", "dev"],
    "bbox": ["", "", "0,0,5,5", "[1, 1, 9, 9]", "0,0,99,99", "9,9,1,1", "1,2", "nan,0,1,1", "1e400,0,1,1"],
}
# A SKU has one value of each, so that which row comes first is of no account.
WORDS: dict[str, list[Any]] = {
    "title": ["", "Crème", "two\nlines", " padded "],
    "category": ["", "Apple"],
    "attributes": ["", "warm; dry"],
    "price": ["", "9.90", "9,90", "1,000", "12", "free", "1e3", "00", "9" * 40],
    "colour": ["", "navy", "ma\u0308nnlich"],
    "image": ["", "https://example.com/a.png"],
    "titel": ["", "x"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    for name in ("a.png", "b.png", "\u00e9.png"):
        write_image(folder / name, size=(10, 10))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@st.composite
def manifests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of a manifest; a SKU's words stand on some of its rows."""
    names = ["sku_id", "image_path", "domain", *draw(st.sets(st.sampled_from(["split", "bbox", *WORDS])))]
    rows = draw(
        st.lists(
            st.fixed_dictionaries({name: st.sampled_from(CELLS.get(name, [""])) for name in names}),
            min_size=1,
            max_size=12,
        )
    )
    of_sku = {name: draw(st.sampled_from(WORDS[name])) for name in names if name in WORDS}
    for row in rows:
        row.update({name: draw(st.sampled_from(["", value])) for name, value in of_sku.items()})
    return rows


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str]:
    """The delimiter and the encoding of a CSV."""
    return draw(st.sampled_from(",;\t")), draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))


def read_csv(folder: Path, rows: list[dict[str, Any]], delimiter: str, encoding: str) -> Catalogue | None:
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "manifest.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    return read_or_refuse(path)


def read_or_refuse(path: Path) -> Catalogue | None:
    """The catalogue, or None if no row is usable; only a UserError refuses."""
    try:
        return read_manifest(path, ManifestSettings(path=str(path)), SplitSettings())
    except UserError as error:
        if "no usable item; left out: " not in str(error):
            raise
        return None


def assert_same(found: Catalogue | None, again: Catalogue | None) -> None:
    if found is None or again is None:
        assert found is again
        return
    assert found.items.equals(again.items)
    assert found.skus.equals(again.skus)
    assert found.skipped["reason"].sort().equals(again.skipped["reason"].sort())


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(manifests(), files(), st.randoms(use_true_random=False))
def test_every_row_of_a_csv_is_kept_or_listed_whatever_their_order(
    folder: Path, rows: list[dict[str, Any]], form: tuple[str, str], random: Random
) -> None:
    found = read_csv(folder, rows, *form)
    if found is not None:
        assert found.items.height + found.skipped.height == len(rows)
        assert found.items.select("image_id", "split", "item_idx").is_unique().all()
        assert (
            found.items.select("sku_id", "title", "category_name").unique().height
            == found.items["sku_id"].n_unique()
        )
    random.shuffle(rows)
    assert_same(found, read_csv(folder, rows, *form))


VALUES = st.one_of(
    st.none(),
    st.sampled_from(["1001", "caf\u00e9", "1001.0", ""]),
    st.integers(-5, 2**62),
    st.sampled_from([1001.0, 1001.5, float("nan"), float("inf"), 2.0**60]),
    st.sampled_from([b"A-1", b"\xff"]),
    st.lists(st.sampled_from(["red", "navy", None]), max_size=2),
    st.fixed_dictionaries({"fit": st.sampled_from(["slim", None])}),
    st.dates(),
    st.decimals(0, 100, places=2),
    st.booleans(),
)


@QUICK
@given(st.lists(st.sampled_from(["a.png", "b.png"]), min_size=1, max_size=4), st.data())
def test_a_parquet_of_any_types_goes_in_or_is_refused(
    folder: Path, paths: list[str], data: st.DataObject
) -> None:
    rows = pl.DataFrame({"image_path": paths, "domain": "catalog"})
    for name in ("sku_id", "title", "extra"):
        first = data.draw(VALUES)
        cells = [first, *data.draw(st.lists(st.sampled_from([first, None]), max_size=3))]
        rows = rows.with_columns(pl.Series(name, (cells * 4)[: len(paths)], strict=False))
    rows.write_parquet(folder / "manifest.parquet")
    found = read_or_refuse(folder / "manifest.parquet")
    if found is not None:
        assert found.items.height + found.skipped.height == len(paths)
    rows.reverse().write_parquet(folder / "manifest.parquet")
    assert_same(found, read_or_refuse(folder / "manifest.parquet"))
