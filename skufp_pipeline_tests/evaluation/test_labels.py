import polars as pl

from skufp_pipeline.evaluation.labels import make_labels

SKUS = pl.DataFrame(
    {
        "sku_id": ["a", "b"],
        "category_name": ["skirt", "vest"],
        "colour": ["red", "blue"],
        "pattern": ["plain", "striped"],
        "lightness": ["dark", "light"],
    }
)
PHOTO = pl.DataFrame(
    {
        "split": ["validation"],
        "image_id": ["000007"],
        "item_idx": [1],
        "colours": [["navy", "white"]],
        "pattern": ["checked"],
        "lightness": ["dark"],
    }
)


def test_a_skus_labels_are_its_category_and_what_most_of_its_views_show() -> None:
    labels = make_labels(SKUS, PHOTO, pl.DataFrame({"text_id": [], "sku_id": []}, schema_overrides=STRINGS))
    assert labels.of_skus("category", ["b", "a"]).tolist() == ["vest", "skirt"]
    assert labels.of_skus("attributes", ["a"]).tolist() == ["red/plain/dark"]
    assert labels.of_skus("colour", ["stranger"]).tolist() == [""]


def test_a_query_made_of_a_photo_asks_for_what_the_photo_shows() -> None:
    texts = pl.DataFrame({"text_id": ["validation/000007_item1"], "sku_id": ["a"]})
    labels = make_labels(SKUS, PHOTO, texts)
    asked = {name: labels.of_queries(name, texts["text_id"].to_list()) for name in ("category", "colour")}
    assert {name: values.tolist() for name, values in asked.items()} == {
        "category": ["skirt"],
        "colour": ["navy"],
    }
    assert labels.of_queries("attributes", ["validation/000007_item1"]).tolist() == ["navy/checked/dark"]


def test_a_sentence_of_the_catalogue_asks_for_a_category_alone() -> None:
    labels = make_labels(SKUS, PHOTO, pl.DataFrame({"text_id": ["a#1f"], "sku_id": ["a"]}))
    assert labels.of_queries("category", ["a#1f"]).tolist() == ["skirt"]
    assert labels.of_queries("colour", ["a#1f"]) is None
    assert labels.of_queries("attributes", ["a#1f"]) is None


STRINGS = {"text_id": pl.String(), "sku_id": pl.String()}
