import pytest
from pydantic import ValidationError

from skufp_pipeline.settings import Settings


class Oven(Settings):
    heat: int = 180


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="haet"):
        Oven(haet=200)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Oven().heat = 200
