"""How the service runs."""

from typing import Annotated

from pydantic import Field

from skufp_pipeline.photos import MaxPixels
from skufp_pipeline.settings import Settings


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
        batch: photos that are embedded together at most; 1 keeps an answer free of other customers' photos.
        body_seconds: that a request's body may take to arrive; then it is refused (408).
        body_seconds: float = Field(30, gt=0)
    watch_seconds: between looks at the version in use.
        notice_seconds: that the service answers on after SIGTERM while it says that it is not ready, so that
            load balancers can turn to others.
        notice_seconds: float = Field(2, ge=0)
    drain_seconds: that running requests have to end when the service stops.
        keys: file of API keys (docs/serving.md); null: none, and no operator's request is accepted.
        open: shoppers' requests need no key.
        rate, upload_rate: requests and uploads of one key or address, as `limits` writes it ("50/second").
        proxies: addresses whose X-Forwarded-For is believed.
        origins: other sites whose pages may ask the service (CORS).
        feedback: keep shoppers' thumbs; the graph can read them as further queries.
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
    batch: int = Field(1, ge=1)
    body_seconds: float = Field(30, gt=0)
    watch_seconds: float = Field(1, gt=0)
    notice_seconds: float = Field(2, ge=0)
    drain_seconds: float = Field(20, gt=0)
    keys: str | None = None
    open: bool = True
    rate: str = "50/second"
    upload_rate: str = "10/second"
    proxies: list[str] = []
    origins: list[str] = []
    feedback: bool = False
    indexes: Annotated[list[str], Field(min_length=1)] = ["fingerprints"]
