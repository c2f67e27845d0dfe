"""The base class of typed configuration: unknown keys are rejected, instances are immutable."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable configuration that rejects unknown keys, so that a misspelt setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
