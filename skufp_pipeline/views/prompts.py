"""The pipeline's words for a catalogue view: category, visibility, studio background (sec. 4.4)."""

from collections.abc import Mapping
from typing import Any

from skufp_pipeline.datasets.prompts import NOT_WORN, OCCLUSION, VIEWPOINT
from skufp_pipeline.errors import UserError


def view_prompt(row: Mapping[str, Any], template: str) -> str:
    """`template` with `{category}` and `{visibility}` of one row of the image-text table filled in.

    Raises:
        UserError: the template names something else.
    """
    try:
        return template.format(category=row["category_name"], visibility=visibility(row))
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"views.prompts.prompt {template!r} can't be filled in ({error}); it may hold {{category}} and "
            "{visibility}"
        ) from error


def visibility(row: Mapping[str, Any]) -> str:
    """How the garment is seen: "fully visible, from the front"; columns that are null say nothing."""
    seen = OCCLUSION.get(row["occlusion"], "fully visible")
    if row["viewpoint"] == NOT_WORN:
        return f"{seen}, not worn"
    angle = VIEWPOINT.get(row["viewpoint"])
    return f"{seen}, {angle}" if angle else seen
