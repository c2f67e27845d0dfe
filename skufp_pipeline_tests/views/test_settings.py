"""Settings of the stage refuse what can't be meant."""

from typing import Any

import pytest
from pydantic import ValidationError

from skufp_pipeline.views.settings import ViewsSettings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "expected either model"),
        ({"model": "a", "base": {}}, "expected either model"),
        ({"base": {}, "image_size": 60}, "multiple of 8"),
        ({"base": {}, "generation": {"strengths": [0.05], "steps": 10}}, "takes no step"),
        ({"base": {}, "generation": {"strengths": []}}, "at least 1"),
        ({"base": {}, "generation": {"strength": [0.3]}}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ViewsSettings.model_validate(given)


def test_a_base_or_a_model_is_enough() -> None:
    assert ViewsSettings(model="some/model").base is None
    assert ViewsSettings.model_validate({"base": {}}).model is None
