"""`skufp catalog`: what it counts and lists."""

import json
from pathlib import Path

import polars as pl

from ..graphs import Graph
from .asking import ask, refused, shop


def test_products_with_the_same_picture_are_listed_and_counted_in_the_report(
    small_graph: Graph, tmp_path: Path
) -> None:
    preset, listed = ("--preset", small_graph.preset_file), tmp_path / "list.csv"
    result = ask("catalog", "duplicates", *preset, "--csv", listed)
    assert result.exit_code == 0, result.stderr
    rows = pl.read_csv(listed)
    counted = json.loads(ask("report", *preset, "--json").stdout)["duplicates"]
    groups = rows["group"].n_unique()
    same = rows.filter(kind="same").height
    assert counted == {"threshold": 0.98, "groups": groups, "skus": rows.height, "same": same}
    *lines, total = result.stdout.splitlines()
    assert total == f"{rows.height} SKUs in {groups} groups, cosine of at least 0.98"
    assert len(lines) == rows.height
    assert all(
        f" {row['sku_id']} " in line for row, line in zip(rows.iter_rows(named=True), lines, strict=True)
    )
    few = ask("catalog", "duplicates", *preset, "--threshold", "1").stdout.splitlines()
    assert len(few) <= len(lines) + 1
    told = refused(ask("catalog", "duplicates", *preset, "--csv", tmp_path / "no" / "list.csv"))
    assert told.startswith("--csv ")


def test_a_catalogue_is_checked_and_what_is_left_out_is_listed_without_building_anything(
    tmp_path: Path,
) -> None:
    table = tmp_path / "left_out.csv"
    result = ask("catalog", "check", "--preset", shop(tmp_path, 100, 2), "--csv", table)
    assert result.exit_code == 0, result.stderr
    assert "100 rows read, 98 kept, 2 left out (missing_image 2)" in result.stdout
    assert "100 SKUs read, 98 kept, 2 lost entirely" in result.stdout
    assert pl.read_csv(table).select("sku_id", "reason").rows() == [
        ("sku0", "missing_image"),
        ("sku1", "missing_image"),
    ]
    assert not (tmp_path / "data").exists()


def test_a_catalogue_of_which_too_much_is_unreadable_fails_the_check(tmp_path: Path) -> None:
    result = ask("catalog", "check", "--preset", shop(tmp_path, 100, 3), "--csv", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "3.0% of the wanted rows can't be read, 2.0% are tolerated" in result.stderr
    assert pl.read_csv(tmp_path / "out.csv").height == 3
