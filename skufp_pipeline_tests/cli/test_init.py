"""`skufp init`: what it says, what it writes, and what it never does."""

from pathlib import Path

import pytest

from skufp_pipeline.presets import load_preset

from ..datasets.trees import write_image
from .asking import ask, refused


@pytest.fixture(autouse=True)
def shop_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a catalogue of two SKUs and one row that names no file."""
    for name, colour in (("hat", "red"), ("boot", "green")):
        write_image(tmp_path / "pictures" / f"{name}.jpg", colour=colour)
    rows = ["H-1;pictures/hat.jpg;A hat", "B-1;pictures/boot.jpg;A boot", "X-1;pictures/gone.jpg;Gone"]
    (tmp_path / "catalogue.csv").write_text("\n".join(["sku_id;image_path;title", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_catalogue_becomes_a_preset_with_the_next_three_commands(shop_folder: Path) -> None:
    for name in ("H-1/a.jpg", "H-1/b.jpg", "unknown/a.jpg"):
        write_image(shop_folder / "photos" / name)
    result = ask("init", "catalogue.csv", "--tower", "tiny", "--photos", "photos")
    assert result.exit_code == 0, result.stderr
    told = result.stdout
    assert "3 rows read, 2 kept, 1 left out (missing_image 1); 3 SKUs read, 2 kept, 1 lost entirely" in told
    assert "catalogue.csv has no column 'domain': all its pictures are taken as catalog pictures" in told
    assert "customers' photos: none" in told
    assert "photos: 2 photos, SKUs: 1, for `skufp evaluate` alone" in told
    assert "left out: folders that name no SKU, 1: unknown" in told
    assert "time on this machine: less than a minute: " in told
    assert [line.strip() for line in told.splitlines()[-3:]] == [
        "skufp materialize --preset shop",
        "skufp search --preset shop --image PHOTO.jpg",
        "skufp evaluate photos/photos.csv --preset shop",
    ]
    preset = load_preset("shop")
    assert (preset.name, preset.shards, preset.encoder.model) == ("shop", 1, "skufp-tiny")
    assert preset.dataset.read.path == "catalogue.csv"  # type: ignore[attr-defined]
    listed = (shop_folder / "photos" / "photos.csv").read_text(encoding="utf-8-sig")
    assert listed.splitlines() == ["sku_id,image_path", "H-1,H-1/a.jpg", "H-1,H-1/b.jpg"]
    assert ask("catalog", "check", "--preset", "shop").stdout.startswith("3 rows read, 2 kept")


def test_what_is_there_is_not_overwritten_without_force(shop_folder: Path) -> None:
    (shop_folder / "mine.yaml").write_text("name: mine\n")
    asked = ("init", "catalogue.csv", "--tower", "tiny", "--name", "mine", "--out", "mine.yaml")
    assert refused(ask(*asked)) == "mine.yaml exists; --force overwrites it"
    assert (shop_folder / "mine.yaml").read_text() == "name: mine\n"
    result = ask(*asked, "--force")
    assert result.exit_code == 0, result.stderr
    assert "skufp materialize --preset mine.yaml" in result.stdout
    assert load_preset("mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone.csv", "--tower", "tiny"), "there is no manifest gone.csv"),
        (("catalogue.csv", "--tower", "tiny", "--name", "a b"), "--name 'a b': expected letters"),
        (("catalogue.csv", "--tower", "tiny", "--clip"), "--clip and --tower tiny name two towers"),
        (("catalogue.csv", "--tower", "tiny", "--photos", "nowhere"), "nowhere is no folder"),
        (("one.csv", "--tower", "tiny"), "a search needs catalog pictures of two SKUs at least; found one"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_nothing_is_written(
    shop_folder: Path, words: tuple[str, ...], message: str
) -> None:
    (shop_folder / "one.csv").write_text("sku_id,image_path\nH-1,pictures/hat.jpg\n")
    result = ask("init", *words)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert not (shop_folder / "presets").exists()
