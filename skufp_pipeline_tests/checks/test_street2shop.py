"""A street photo in two places is found by its bytes."""

import polars as pl
import pytest

from skufp_pipeline.checks.street2shop import shared_photos

SOUND = [
    ("a", "train", "train", "query"),
    ("a", "train", "train", "query"),  # two items of one photo
    ("b", "validation", "evaluation", "query"),
    ("c", "train", "gallery", "catalog"),
    ("c", "validation", "gallery", "catalog"),  # a catalogue picture of two products
]


def items(*rows: tuple[str, str, str, str]) -> pl.DataFrame:
    return pl.DataFrame([*SOUND, *rows], schema=["image_digest", "split", "role", "domain"], orient="row")


def test_items_of_one_photo_and_pictures_of_two_products_are_no_leak() -> None:
    assert shared_photos(items()).is_empty()


@pytest.mark.parametrize(
    "row",
    [
        ("a", "validation", "evaluation", "query"),
        ("a", "train", "development", "query"),
        ("b", "validation", "gallery", "catalog"),
    ],
)
def test_a_photo_in_two_splits_roles_or_domains_is_one(row: tuple[str, str, str, str]) -> None:
    assert shared_photos(items(row))["image_digest"].to_list() == [row[0]]
