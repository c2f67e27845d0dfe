"""The words of a view: category, visibility, studio."""

import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.views.prompts import view_prompt, visibility
from skufp_pipeline.views.settings import PromptTemplates

ROW = {"category_name": "short sleeve top", "occlusion": 1, "viewpoint": 2}


def test_the_default_prompt_says_category_visibility_and_studio() -> None:
    told = view_prompt(ROW, PromptTemplates().prompt)
    expected = "a catalog photo of a short sleeve top, fully visible, from the front, plain studio background"
    assert told == expected


@pytest.mark.parametrize(
    ("occlusion", "viewpoint", "expected"),
    [
        (None, None, "fully visible"),
        (2, 1, "partially occluded, not worn"),
        (3, 3, "heavily occluded, from the side or back"),
    ],
)
def test_visibility_is_occlusion_and_viewpoint(occlusion, viewpoint, expected) -> None:
    assert visibility({"occlusion": occlusion, "viewpoint": viewpoint}) == expected


@pytest.mark.parametrize("template", ["a {colour} top", "a {category", "a {}"])
def test_a_template_with_another_field_is_a_users_mistake(template: str) -> None:
    with pytest.raises(UserError, match=r"views\.prompts\.prompt"):
        view_prompt(ROW, template)
