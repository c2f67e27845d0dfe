"""How the service runs."""

import re
from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from skufp_pipeline.photos import MaxPixels
from skufp_pipeline.settings import Settings

LARGEST_RATE = 10_000  # requests that are counted of one caller; each takes some bytes


class ServingSettings(Settings):
    """How the service runs.

    Attributes:
        title: of the page.
        fields: columns of the SKU table that an answer and the page's cards show; null: all of the
            catalogue's own.
        running, waiting: searches that run at once and that wait; one more is refused (429).
        queue_seconds: a search that has waited so long is refused (429).
        photo_megabytes, photo_pixels: of an uploaded photo, at most.
        photo_minutes, photos_megabytes: how long and how much of uploaded photos is kept, in memory only.
        body_seconds: that a request's body may take to arrive; then it is refused (408).
        watch_seconds: between looks at the version in use.
        notice_seconds: that the service answers on after SIGTERM while it says that it is not ready, so that
            load balancers can turn to others.
        drain_seconds: that running requests have to end when the service stops.
        keys: file of API keys (docs/serving.md); null: none, and no operator's request is accepted.
        open: shoppers' requests need no key.
        rate, upload_rate: requests and uploads of one key or address, as `limits` writes it ("50/second").
        proxies: addresses whose X-Forwarded-For is believed.
        origins: other sites whose pages may ask the service (CORS).
        feedback: keep shoppers' thumbs; the graph can read them as further queries.
        indexes: which are served, by name; uploads are looked at by the first one's detector.
    """

    title: str = "skufp"
    fields: list[str] | None = None
    running: int = Field(2, ge=1)
    waiting: int = Field(16, ge=0)
    queue_seconds: float = Field(1, gt=0)
    photo_megabytes: float = Field(10, gt=0)
    photo_pixels: MaxPixels = 50_000_000
    photo_minutes: float = Field(15, gt=0)
    photos_megabytes: float = Field(256, gt=0)
    body_seconds: float = Field(30, gt=0)
    watch_seconds: float = Field(1, gt=0)
    notice_seconds: float = Field(2, ge=0)
    drain_seconds: float = Field(20, gt=0)
    keys: str | None = None
    open: bool = True
    rate: str = "300/second"
    upload_rate: str = "100/second"
    proxies: list[str] = []
    origins: list[str] = []
    feedback: bool = False
    indexes: Annotated[list[str], Field(min_length=1)] = ["fingerprints"]

    @field_validator("rate", "upload_rate")
    @classmethod
    def _is_rate(cls, value: str) -> str:
        from limits import parse  # slow to import, and the defaults need no check

        try:
            amount = parse(value).amount
        except ValueError:
            raise ValueError(f"{value!r} is no rate; expected one such as 50/second or 600/minute") from None
        if not 1 <= amount <= LARGEST_RATE:
            raise ValueError(f"{value!r} allows {amount:,} requests; expected 1 to {LARGEST_RATE:,}")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, values: list[str]) -> list[str]:
        for value in values:
            try:
                ip_network(value)
            except ValueError:
                raise ValueError(
                    f"{value!r} is no address or network; expected some such as 10.0.0.5 or 10.0.0.0/8"
                ) from None
        return values

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, values: list[str]) -> list[str]:
        for value in values:
            if not re.fullmatch(r"https?://[^/?#\s*]+", value):
                raise ValueError(f"{value!r} is no origin; expected one such as https://shop.example")
        return values

    @model_validator(mode="after")
    def _closed_needs_keys(self) -> Self:
        if not self.open and self.keys is None:
            raise ValueError("open: false lets nobody in without keys; name a file of API keys as `keys`")
        return self
