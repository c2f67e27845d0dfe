"""Prompts for catalogue views: category, visibility, studio background (sec. 4.4)."""

from collections.abc import Mapping
from typing import Any

from skufp_pipeline.datasets.prompts import NOT_WORN, OCCLUSION, VIEWPOINT
from skufp_pipeline.errors import UserError


def view_prompt(row: Mapping[str, Any], template: str) -> str:
    """Fills `{category}` and `{visibility}` of one image-text row into `template`.

    Raises:
        UserError: the template has other fields.
    """
    try:
        return template.format(category=row["category_name"], visibility=visibility(row))
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"views.prompts.prompt {template!r} can't be filled in ({error}); it may hold {{category}} and "
            "{visibility}"
        ) from error


def visibility(row: Mapping[str, Any]) -> str:
    """Describes occlusion and viewpoint: "fully visible, from the front"; a null viewpoint is omitted."""
    seen = OCCLUSION.get(row["occlusion"], "fully visible")
    if row["viewpoint"] == NOT_WORN:
        return f"{seen}, not worn"
    angle = VIEWPOINT.get(row["viewpoint"])
    return f"{seen}, {angle}" if angle else seen
