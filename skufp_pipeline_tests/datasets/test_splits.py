from collections import Counter
from random import Random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skufp_pipeline.datasets.splits import SplitSettings, assign_roles, query_role

from .trees import table

QUARTER = SplitSettings(evaluation_fraction=0.25, development_fraction=0.1)
ROLES = {"train", "development", "evaluation"}


def queries(image_ids: list[str], **changes: str) -> pl.DataFrame:
    return table(*[{"image_id": image_id, "domain": "query"} | changes for image_id in image_ids])


@pytest.mark.parametrize(
    ("image_id", "role"),
    [
        ("000001", "train"),
        ("000002", "train"),
        ("000006", "evaluation"),
        ("000007", "development"),
        ("000010", "evaluation"),
        ("000016", "development"),
    ],
)
def test_roles_are_the_same_for_ever(image_id: str, role: str) -> None:
    assert query_role(image_id, QUARTER) == role


def test_about_a_quarter_is_held_out_and_a_tenth_serves_for_choices() -> None:
    counts = Counter(query_role(f"{number:06d}", QUARTER) for number in range(8000))
    assert counts["evaluation"] / 8000 == pytest.approx(0.25, abs=0.02)
    assert counts["development"] / 8000 == pytest.approx(0.10, abs=0.015)


@given(st.text())
def test_a_larger_fraction_only_adds_to_what_is_held_out(image_id: str) -> None:
    """An image once held out for the score stays so when more is held out."""
    if query_role(image_id, QUARTER) == "evaluation":
        assert query_role(image_id, SplitSettings(evaluation_fraction=0.5)) == "evaluation"


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12), st.randoms())
def test_a_role_depends_on_nothing_but_its_own_row(image_ids: list[str], random: Random) -> None:
    items = queries(image_ids)
    shuffled = list(image_ids)
    random.shuffle(shuffled)
    roles = dict(assign_roles(items, QUARTER).select("image_id", "role").iter_rows())
    assert dict(assign_roles(queries(shuffled), QUARTER).select("image_id", "role").iter_rows()) == roles
    alone = assign_roles(queries(image_ids[:1]), QUARTER)
    assert alone["role"].item() == roles[image_ids[0]]
    assert set(roles.values()) <= ROLES


def test_items_of_one_image_share_its_role_whatever_their_sku() -> None:
    rows = [
        {"image_id": f"{image:06d}", "item_idx": item, "sku_id": f"{image}-{item}", "domain": "query"}
        for image in range(40)
        for item in (1, 2)
    ]
    roles = assign_roles(table(*rows), QUARTER)
    assert roles.group_by("image_id").agg(pl.col("role").n_unique())["role"].unique().to_list() == [1]
    assert set(roles["role"]) == ROLES


@pytest.mark.parametrize("split", ["validation", "test"])
def test_queries_of_skus_outside_training_are_all_for_the_score(split: str) -> None:
    roles = assign_roles(queries([str(number) for number in range(50)], split=split), QUARTER)["role"]
    assert set(roles) == {"evaluation"}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_catalog_views_are_gallery_in_every_split(split: str) -> None:
    views = assign_roles(table(*[{"image_id": str(n), "split": split} for n in range(20)]), QUARTER)
    assert set(views["role"]) == {"gallery"}


def test_an_empty_table_has_no_roles() -> None:
    assert assign_roles(table(), QUARTER).is_empty()


@pytest.mark.parametrize(
    ("evaluation", "development", "role"),
    [(0.9999, 0.0, "evaluation"), (0.0, 0.9999, "development"), (0, 0, "train")],
)
def test_fractions_of_nearly_all_and_nothing(evaluation: float, development: float, role: str) -> None:
    settings = SplitSettings(evaluation_fraction=evaluation, development_fraction=development)
    assert {query_role(str(number), settings) for number in range(100)} == {role}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"evaluation_fraction": 1.0}, "evaluation_fraction\n  Input should be less than 1"),
        (
            {"development_fraction": -0.1},
            "development_fraction\n  Input should be greater than or equal to 0",
        ),
        ({"evaluation_fraction": float("nan")}, "evaluation_fraction"),
        ({"evaluation_fraction": 0.6, "development_fraction": 0.5}, "are 1.1 together; expected less than 1"),
        ({"evaluation_fraction": 0.5, "development_fraction": 0.5}, "are 1 together"),
    ],
)
def test_fractions_that_leave_nothing_to_train_on_are_refused(
    fractions: dict[str, float], message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        SplitSettings(**fractions)
    assert message in str(refused.value)
