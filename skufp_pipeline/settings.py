"""The base of every typed configuration class: unknown keys are refused, values are frozen."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Configuration that rejects unknown keys, so that a misspelt setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
