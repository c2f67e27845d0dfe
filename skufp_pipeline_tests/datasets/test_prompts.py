from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.datasets.attributes import ItemAttributes
from skufp_pipeline.datasets.crops import crop_path
from skufp_pipeline.datasets.prompts import (
    CATALOG_TEXT_SCHEMA,
    IMAGE_TEXT_SCHEMA,
    TEXT_SCHEMA,
    PromptSettings,
    attribute_prompt,
    build_catalog_texts,
    build_image_text,
    build_text_queries,
    metadata_prompt,
    sentences,
    source_queries,
    training_texts,
    with_supervision_tokens,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline_tests.datasets.trees import table

STRIPED = ItemAttributes(("navy", "white"), "striped", "dark")
HALVES = SplitSettings(evaluation_fraction=0.4, development_fraction=0.2)


def row(**changes: Any) -> dict[str, Any]:
    return table(changes).row(0, named=True)


def image_text(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> pl.DataFrame:
    """The table of plain red crops, with half of the sentences held out."""
    items = table(*rows)
    paths = [crop_path(item) for item in items.iter_rows(named=True)]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (200, 20, 20)).save(tmp_path / path)
    crops = items.with_columns(crop_path=pl.Series(paths, dtype=pl.String))
    return build_image_text(crops, tmp_path, PromptSettings(**settings), HALVES)


def query(**changes: Any) -> dict[str, Any]:
    return {"domain": "query", "role": "train", "image_id": "000002"} | changes


def product(sku_id: str, split: str = "train", **changes: Any) -> dict[str, Any]:
    """A row of a manifest: no DeepFashion2 labels, the catalogue's own words."""
    unlabelled = dict.fromkeys(("pair_id", "style", "category_id", "occlusion", "viewpoint"))
    return {
        "sku_id": sku_id,
        "split": split,
        "image_id": sku_id,
        **unlabelled,
        "category_name": "Apple",
    } | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"domain": "query", "occlusion": 3, "viewpoint": 3},
            "A user photo of a person wearing a heavily occluded short sleeve top from the side or back.",
        ),
        (
            {"domain": "query", "occlusion": 2, "viewpoint": 2, "category_name": "dress"},
            "A user photo of a person wearing a partially occluded dress from the front.",
        ),
        ({}, "A catalog photo of a person wearing a short sleeve top from the front."),
        ({"viewpoint": 1}, "A catalog photo of a short sleeve top, not worn."),
        (
            {"viewpoint": 1, "occlusion": 2, "category_name": "skirt"},
            "A catalog photo of a partially occluded skirt, not worn.",
        ),
        ({"category_name": "shorts"}, "A catalog photo of a person wearing shorts from the front."),
        ({"occlusion": None, "viewpoint": None, "category_name": "Apple"}, "A catalog photo of an Apple."),
        ({"occlusion": None, "viewpoint": None, "category_name": "uniform"}, "A catalog photo of a uniform."),
        (
            {"domain": "query", "occlusion": None, "viewpoint": None, "title": "Granny Smith"},
            "A user photo of Granny Smith.",
        ),
    ],
)
def test_metadata_prompts_have_the_reports_form(changes: dict, expected: str) -> None:
    assert metadata_prompt(row(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "attributes", "expected"),
    [
        (
            {"domain": "query"},
            STRIPED,
            "A user photo of a person wearing a dark navy and white striped short sleeve top from the front.",
        ),
        (
            {"occlusion": 3, "category_name": "vest"},
            ItemAttributes(("orange",), "plain", "medium"),
            "A catalog photo of a person wearing a heavily occluded orange plain sleeveless vest "
            "from the front.",
        ),
        (
            {"viewpoint": 1},
            ItemAttributes(("orange",), "plain", "medium"),
            "A catalog photo of an orange plain short sleeve top, not worn.",
        ),
        (
            {"viewpoint": 1},
            ItemAttributes(("black",), "checked", "dark"),
            "A catalog photo of a black checked short sleeve top, not worn.",
        ),
        (
            {"viewpoint": 1, "category_name": "trousers"},
            ItemAttributes(("blue",), "plain", "light"),
            "A catalog photo of light blue plain trousers, not worn.",
        ),
    ],
)
def test_attribute_prompts_say_what_the_pixels_tell(
    changes: dict, attributes: ItemAttributes, expected: str
) -> None:
    assert attribute_prompt(row(**changes), attributes) == expected


def test_supervision_tokens_name_style_and_sku() -> None:
    assert with_supervision_tokens("A dress.", row()) == "A dress. (style 1, SKU 000001_01_01)"
    assert with_supervision_tokens("Granny Smith.", row(style=None)) == "Granny Smith. (SKU 000001_01_01)"


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        (None, None, []),
        ("Granny Smith", None, ["Granny Smith"]),
        (None, "One. Two! Three?", ["One.", "Two!", "Three?"]),
        (
            "Milk",
            "1.5 percent fat. Weighs approx. 5 kg. Good.",
            ["Milk", "1.5 percent fat.", "Weighs approx. 5 kg.", "Good."],
        ),
        ("Milk", "milk.\nFresh  milk\n\nFRESH MILK", ["Milk", "Fresh milk"]),
        ("...", " . ", []),
    ],
)
def test_sentences_are_the_title_and_then_each_once(
    title: str | None, description: str | None, expected: list[str]
) -> None:
    assert sentences(title, description) == expected


def test_the_image_text_table_has_the_contracts_fields_and_the_variants(tmp_path: Path) -> None:
    found = image_text(tmp_path, {"viewpoint": 2}, query(role="evaluation"))
    assert dict(found.schema) == IMAGE_TEXT_SCHEMA
    first = found.row(0, named=True)
    assert first["image_path"] == "train/catalog/000001_01_01/000001_item1.jpg"
    assert (first["colours"], first["pattern"], first["lightness"]) == (["red"], "plain", "medium")
    assert (first["sleeve"], first["length"]) == ("short", None)
    assert first["text_metadata"] == "A catalog photo of a person wearing a short sleeve top from the front."
    assert first["text_attributes"] == (
        "A catalog photo of a person wearing a red plain short sleeve top from the front."
    )
    assert found["text"].equals(found["text_attributes"])
    metadata = image_text(tmp_path, {}, query(), kind="metadata")
    assert metadata["text"].equals(metadata["text_metadata"])


def test_captions_are_a_source_of_their_own_and_the_text_where_a_preset_says_so(tmp_path: Path) -> None:
    rows = ({}, query(role="evaluation"), query(image_id="000003", role="evaluation"))
    image_text(tmp_path, *rows)  # writes the crops
    items = table(*rows)
    paths = [crop_path(item) for item in items.iter_rows(named=True)]
    crops = items.with_columns(crop_path=pl.Series(paths, dtype=pl.String))
    said = {paths[0]: "a red skirt", paths[1]: "a vest", paths[2]: ""}

    def caption(files: list[Path]) -> list[str]:
        return [said[str(file.relative_to(tmp_path))] for file in files]

    kept, used = (
        build_image_text(crops, tmp_path, PromptSettings(kind=kind, captions={"model": "x"}), HALVES, caption)
        for kind in ("attributes", "captions")
    )
    assert used["text_captions"].to_list() == ["a red skirt", "a vest", None]
    assert used["text"].to_list() == ["a red skirt", "a vest", used["text_metadata"][2]]
    assert kept["text"].equals(kept["text_attributes"])
    assert source_queries(kept, "captions")["text"].to_list() == ["a vest"]


def test_captions_need_a_model() -> None:
    with pytest.raises(ValueError, match=r"kind captions needs captions\.model"):
        PromptSettings(kind="captions")


def test_an_empty_shard_gives_empty_tables(tmp_path: Path) -> None:
    crops = table({}).clear().with_columns(crop_path=pl.lit("", pl.String))
    found = build_image_text(crops, tmp_path, PromptSettings(), HALVES)
    assert dict(found.schema) == IMAGE_TEXT_SCHEMA
    assert dict(build_text_queries(found).schema) == TEXT_SCHEMA
    assert dict(build_catalog_texts(found).schema) == CATALOG_TEXT_SCHEMA
    assert training_texts(found, PromptSettings()).is_empty()


def test_a_missing_crop_is_a_user_error(tmp_path: Path) -> None:
    crops = table({}).with_columns(crop_path=pl.lit("gone.jpg"))
    with pytest.raises(UserError, match=r"gone\.jpg can't be read: .* no file; materialize sku_crops"):
        build_image_text(crops, tmp_path, PromptSettings(), HALVES)


def test_without_own_words_each_query_row_is_a_text_query(tmp_path: Path) -> None:
    found = image_text(tmp_path, {}, query(), query(image_id="000003", role="evaluation", viewpoint=3))
    queries = build_text_queries(found)
    assert dict(queries.schema) == TEXT_SCHEMA
    assert queries.rows(named=True) == [
        {
            "text_id": f"train/{image_id}_item1",
            "sku_id": "000001_01_01",
            "split": "train",
            "role": role,
            "text": f"A user photo of a person wearing a red plain short sleeve top from the {side}.",
        }
        for image_id, role, side in [("000002", "train", "front"), ("000003", "evaluation", "side or back")]
    ]
    catalog = build_catalog_texts(found).row(0, named=True)
    assert (catalog["role"], catalog["image_id"], catalog["item_idx"]) == ("gallery", "000001", 1)
    assert (
        catalog["text"] == "A catalog photo of a person wearing a red plain short sleeve top from the front."
    )


def test_every_source_words_the_same_evaluation_queries(tmp_path: Path) -> None:
    found = image_text(
        tmp_path,
        {},
        query(),
        query(image_id="000003", role="evaluation"),
        query(image_id="000004", role="development"),
        query(image_id="000005", role="evaluation", sku_id="a", title="Skirt"),
    )
    told = {source: source_queries(found, source) for source in ("metadata", "attributes")}
    assert {source: texts["text"].to_list() for source, texts in told.items()} == {
        "metadata": ["A user photo of a person wearing a short sleeve top from the front."],
        "attributes": ["A user photo of a person wearing a red plain short sleeve top from the front."],
    }
    for texts in told.values():
        assert dict(texts.schema) == TEXT_SCHEMA
        assert texts["text_id"].to_list() == ["train/000003_item1"]
        assert set(texts["text_id"]) <= set(build_text_queries(found).filter(role="evaluation")["text_id"])


def test_text_ids_are_unique_although_splits_number_their_images_alike(tmp_path: Path) -> None:
    validation = query(split="validation", sku_id="000002_01_01", role="evaluation")
    queries = build_text_queries(image_text(tmp_path, query(), validation))
    assert queries["text_id"].to_list() == ["train/000002_item1", "validation/000002_item1"]


def test_a_catalog_row_says_the_catalogues_own_words(tmp_path: Path) -> None:
    found = image_text(
        tmp_path,
        product("apple", "validation", title="Granny Smith", description="A green apple. Tart"),
        product("apple", "validation", title="Granny Smith", domain="query", image_id="b", role="evaluation"),
    )
    assert found["text_metadata"].to_list() == [
        "Granny Smith. A green apple. Tart.",
        "A user photo of Granny Smith.",
    ]
    assert found["text_attributes"].to_list() == [
        "Granny Smith. A green apple. Tart.",
        "A user photo of red plain Granny Smith.",
    ]


def test_the_title_of_a_training_sku_is_always_for_training(tmp_path: Path) -> None:
    rows = [product(f"sku{n}", title=f"Name {n}", description=f"Thing {n} is good.") for n in range(60)]
    queries = build_text_queries(image_text(tmp_path, *rows))
    titles = queries.filter(pl.col("text").str.starts_with("Name"))
    assert set(titles["role"]) == {"train"}
    shares = queries.filter(pl.col("text").str.starts_with("Thing"))["role"].value_counts()
    assert dict(shares.iter_rows()).keys() == {"train", "development", "evaluation"}
    assert 0.2 < dict(shares.iter_rows())["evaluation"] / 60 < 0.6


def test_sentences_of_other_splits_are_all_for_evaluation(tmp_path: Path) -> None:
    rows = [product(f"sku{n}", "validation", title=f"Name {n}", description="Good. Cheap.") for n in range(9)]
    found = image_text(tmp_path, *rows)
    queries = build_text_queries(found)
    assert queries["role"].to_list() == ["evaluation"] * 27
    assert build_catalog_texts(found).is_empty()


def test_identical_sentences_of_different_skus_are_all_kept(tmp_path: Path) -> None:
    rows = [product(f"sku{n}", description=f"Thing {n}. Made of Swedish milk.") for n in range(5)]
    queries = build_text_queries(image_text(tmp_path, *rows)).filter(text="Made of Swedish milk.")
    assert queries["sku_id"].n_unique() == 5
    assert queries["text_id"].n_unique() == 5


def test_a_sentence_keeps_its_role_and_id_when_the_shard_changes(tmp_path: Path) -> None:
    rows = [
        product(f"sku{n}", title=f"N{n}", description=f"Item {n} is red. It costs {n}.") for n in range(8)
    ]
    alone = build_text_queries(image_text(tmp_path, rows[3]))
    among = build_text_queries(image_text(tmp_path, *rows)).filter(sku_id="sku3")
    assert alone.equals(among)


def test_a_sentence_inside_a_training_sentence_is_for_training_too(tmp_path: Path) -> None:
    rows = [
        product(f"sku{n}", title=f"Shirt {n}. Pure cotton", description="Pure cotton.") for n in range(30)
    ]
    queries = build_text_queries(image_text(tmp_path, *rows))
    assert set(queries["role"]) == {"train"}


def described_catalogue() -> list[dict[str, Any]]:
    """40 training and 10 validation SKUs, each with 8 sentences no other SKU has, and 3 pictures."""
    rows = []
    for n in range(50):
        split = "train" if n < 40 else "validation"
        facts = [f"Fact {fact} of product {n} is told here." for fact in range(7)]
        for view, (domain, role) in enumerate(
            [("catalog", "gallery"), ("query", "train"), ("query", "evaluation")]
        ):
            changes = {"image_id": f"{n}-{view}", "domain": domain, "role": role if n < 40 else "evaluation"}
            # A product's texts may be spread over its rows.
            words = " ".join(facts[:5] if view == 0 else facts[3:])
            texts = {"title": f"Product {n}", "description": words}
            rows.append(product(f"sku{n}", split, **changes, **texts))
    return rows


@pytest.mark.parametrize("kind", ["metadata", "attributes"])
def test_no_held_out_sentence_reaches_training(tmp_path: Path, kind: str) -> None:
    found = image_text(tmp_path, *described_catalogue(), kind=kind)
    queries = build_text_queries(found)
    assert len(queries) == 50 * 8
    held_out = queries.filter(pl.col("role") != "train")
    assert len(held_out.filter(split="train")) > 80
    assert len(held_out.filter(split="validation")) == 80

    settings = PromptSettings(kind=kind, supervision_tokens=True)
    trainable = found.filter(split="train").filter(pl.col("role").is_in(["gallery", "train"]))
    seen = [
        *trainable["text"],
        *trainable["text_metadata"],
        *trainable["text_attributes"],
        *build_catalog_texts(found)["text"],
        *training_texts(found, settings)["text"],
        *queries.filter(role="train")["text"],
    ]
    everything_seen = "\n".join(seen).casefold()
    for text in held_out["text"]:
        assert text.casefold().rstrip(".") not in everything_seen


def test_training_reads_training_rows_only(tmp_path: Path) -> None:
    found = image_text(
        tmp_path,
        {},
        query(),
        query(image_id="000003", role="development"),
        query(image_id="000004", role="evaluation"),
        {"split": "validation", "sku_id": "000002_01_01"},
    )
    texts = training_texts(found, PromptSettings())
    assert texts["image_id"].to_list() == ["000001", "000002"]
    assert texts["text"].to_list() == found["text"][:2].to_list()


def test_supervision_tokens_are_dropped_at_the_set_rate_and_anew_each_epoch(tmp_path: Path) -> None:
    found = image_text(tmp_path, *(query(image_id=f"{n:06d}") for n in range(300)))
    settings = PromptSettings(supervision_tokens=True, token_dropout=0.7)
    first, again, second = (training_texts(found, settings, epoch)["text"] for epoch in (0, 0, 1))
    with_tokens = first.str.ends_with("(style 1, SKU 000001_01_01)")
    assert 0.22 < np.mean(with_tokens.to_numpy()) < 0.38
    assert first.equals(again)
    assert not first.equals(second)
    assert not found["text"].str.contains("SKU").any()
    assert not build_text_queries(found)["text"].str.contains("SKU").any()
