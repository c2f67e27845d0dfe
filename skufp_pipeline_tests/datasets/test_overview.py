"""What a catalogue's owner is told of it."""

from pathlib import Path

from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.overview import Overview
from skufp_pipeline.datasets.splits import SplitSettings

from .trees import write_image


def test_pictures_words_photos_and_what_is_left_out_are_summed_up(tmp_path: Path) -> None:
    for name in "abcdef":
        write_image(tmp_path / f"{name}.jpg")
    (tmp_path / "shop.csv").write_text(
        "sku_id,image_path,domain,split,category,title\n"
        "1,a.jpg,catalog,train,Boot,Alpine\n"
        "1,b.jpg,catalog,train,,\n"
        "1,c.jpg,catalog,train,,\n"
        "2,d.jpg,catalog,validation,,\n"
        "2,e.jpg,query,validation,,\n"
        "3,f.jpg,query,test,,\n"
        "4,gone.jpg,catalog,train,,\n"
    )
    settings = ManifestSettings(path=str(tmp_path / "shop.csv"))
    found = Overview.of(read_manifest(tmp_path / "shop.csv", settings, SplitSettings()))
    assert found.pictures == 4
    assert found.pictures_of_sku == (1, 2.0, 3)
    assert found.without_picture == 1
    assert found.photos == {"train": 0, "development": 0, "evaluation": 2}
    assert found.training_pictures == 3
    assert (found.worded, found.categories) == (1, 1)
    lines = list(found.lines())
    assert lines[0].startswith("7 rows read, 6 kept, 1 left out (missing_image 1); 4 SKUs read, 3 kept")
    assert lines[1].startswith("  left out: gone.jpg: row 7: gone.jpg can't be read")
    assert lines[2:] == [
        "4 catalog pictures, 1 to 3 a SKU (median 2)",
        "1 SKUs have no catalog picture: no search can find them",
        "words: 1 of 3 SKUs have a title or a description; 1 categories",
        "customers' photos: 0 for train, 0 for development, 2 for evaluation",
    ]


def test_of_many_rows_left_out_each_reason_is_shown(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "broken.jpg").write_text("no picture")
    rows = ["1,a.jpg", "2,a.jpg", *(f"{n},gone{n}.jpg" for n in range(3, 20)), "20,broken.jpg"]
    (tmp_path / "shop.csv").write_text("\n".join(["sku_id,image_path", *rows]))
    settings = ManifestSettings(path=str(tmp_path / "shop.csv"))
    found = Overview.of(read_manifest(tmp_path / "shop.csv", settings, SplitSettings()))
    assert len(found.examples) == 5
    assert sum("(broken_image)" in example for example in found.examples) == 1
    assert "  left out: 13 more" in list(found.lines())
    assert list(found.lines())[-1].endswith("all its pictures are taken as catalog pictures")
