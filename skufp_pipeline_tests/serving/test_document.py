"""docs/serving.md says what the service has."""

import re

from skufp_pipeline.serving.settings import ServingSettings

from ..graphs import REPOSITORY

TEXT = (REPOSITORY / "docs" / "serving.md").read_text()


def test_every_setting_is_there_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", TEXT, re.MULTILINE)
    told = {}
    for names, defaults in rows:
        keys = re.findall(r"`([a-z_]+)`", names)
        told |= dict(zip(keys, defaults.strip().split(", "), strict=True))
    settings = {name: getattr(ServingSettings(), name) for name in ServingSettings.model_fields}
    assert told == {name: written(value) for name, value in settings.items()}


def written(value: object) -> str:
    """A default as the table has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`" if value else "[]"
    if isinstance(value, int | float):
        return f"{value:,.0f}"
    return str(value)


def test_every_program_that_it_names_is_there() -> None:
    named = set(re.findall(r"(?:benchmarks|deploy)/[a-z/]+\.(?:py|yaml)|deploy/kubernetes/Dockerfile", TEXT))
    assert len(named) > 5
    assert [path for path in sorted(named) if not (REPOSITORY / path).is_file()] == []
