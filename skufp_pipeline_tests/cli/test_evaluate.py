"""`skufp report` and `evaluate`: what they print."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.artifacts.places import ANNOTATIONS, RAW_DATASET
from skufp_pipeline.cli.options import open_engine
from skufp_pipeline.search.bundle import current_index

from ..datasets.trees import write_image
from ..graphs import Graph
from .asking import ask, refused


def test_the_report_is_printed_as_tables_and_as_json(graph: Graph, preset: tuple[str, Path]) -> None:
    tables = ask("report", *preset).stdout
    assert "Table 1: Image-to-SKU retrieval (preset ci, leak-free protocol)" in tables
    assert "fingerprint - mean_sku" in tables
    found = json.loads(ask("report", *preset, "--json").stdout)
    assert found == json.loads((graph.store.read("reports/retrieval").path / "report.json").read_text())


def test_an_index_is_judged_with_photos_that_training_has_not_seen(
    small_graph: Graph, tmp_path: Path
) -> None:
    """Two held-out photos, one that training used, one of an unknown product, and one that is none."""
    items = ANNOTATIONS.read(small_graph.store).items().filter(domain="query")
    held = items.filter(pl.col("role") == "evaluation").head(2)
    chosen = pl.concat([held, items.filter(pl.col("role") == "train").head(1)])
    rows = []
    for number, row in enumerate(chosen.iter_rows(named=True)):
        original = RAW_DATASET.read(small_graph.store).path / row["orig_image_path"]
        shutil.copy(original, tmp_path / f"{number}.jpg")
        rows.append((row["sku_id"], f"{number}.jpg", ",".join(map(str, row["bbox"]))))
    write_image(tmp_path / "other.jpg")
    (tmp_path / "none.jpg").write_text("no photo")
    rows += [("unheard-of", "other.jpg", ""), (rows[0][0], "none.jpg", "")]
    photos, listed = tmp_path / "photos.csv", tmp_path / "listed.csv"
    pl.DataFrame(rows, schema=["sku_id", "image_path", "bbox"], orient="row").write_csv(photos)
    asked = ("evaluate", photos, "--preset", small_graph.preset_file)
    result = ask(*asked, "--json", "--csv", listed)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["queries"] == 3
    assert found["skus"] == len(current_index(small_graph.store)[1])
    ranks = dict(pl.read_csv(listed).select("image_path", "rank").iter_rows())
    assert set(ranks) == {"0.jpg", "1.jpg", "2.jpg", "other.jpg", "none.jpg"}
    assert found["mrr"] == pytest.approx((1 / ranks["0.jpg"] + 1 / ranks["1.jpg"]) / 3)
    engine = open_engine(small_graph.preset, small_graph.store)
    box = tuple(map(int, rows[0][2].split(",")))
    with Image.open(tmp_path / "0.jpg") as image:
        image.crop(box).save(tmp_path / "cut.png")
    order = [hit.sku_id for hit in engine.search_image(tmp_path / "cut.png", 1000).hits]
    assert order.index(rows[0][0]) + 1 == ranks["0.jpg"]
    assert "left out: 1 of the photos, 2.jpg (in_the_catalogue: " in result.stderr
    assert "left out: 1 of the photos, none.jpg (broken_image: " in result.stderr
    assert (
        "not found: 1 of the photos, other.jpg: the index lacks their SKUs, such as unheard-of"
        in result.stderr
    )
    assert ask(*asked).stdout.startswith("3 photos of 2 products, each searched for among ")


def test_a_list_of_photos_that_is_none_is_told(small_graph: Graph, tmp_path: Path) -> None:
    preset = ("--preset", small_graph.preset_file)
    assert "there is no manifest" in refused(ask("evaluate", tmp_path / "gone.csv", *preset))
    (tmp_path / "photos.csv").write_text("sku,image_path\na,b.jpg\n")
    assert "lacks the column 'sku_id'" in refused(ask("evaluate", tmp_path / "photos.csv", *preset))
