"""What a query is answered with."""

import time
from dataclasses import dataclass, field
from typing import Any

from skufp_pipeline.query.facets import Facets


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        rank: 1 for the best.
        score: cosine of query and fingerprint, plus the SKU's bias if the index has biases, plus what the
            words of a text add; above 2 if the text equals the SKU's id or another of its cells.
        cosine: of query and fingerprint alone.
        maxsim: of the second look, which may have ranked the hit before one of a higher score; None if it was
            not looked at twice.
        image: the SKU's representative image, relative to the data root.
        columns: what else the catalogue says of the SKU, typed as in the catalogue.
        parts: what the stages after the search in an index of pictures say of the SKU: `picture`, `text` and
            `rerank`; empty without such stages. Its score is then their weighted sum.
        matched: words of a text query that the SKU has, in the form in which they are compared.
    """

    rank: int
    sku_id: str
    score: float
    category_name: str | None
    title: str | None
    image: str
    columns: dict[str, Any] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    maxsim: float | None = None
    cosine: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """An item that the detector found in a photo, and its first answer.

    Attributes:
        number: from 1, in the detector's order.
        box: x1, y1, x2, y2 in pixels of the upright photo.
        found: the detector's score.
        sku_id: of its first hit, with that hit's score; None if nothing was searched.
    """

    number: int
    box: tuple[int, int, int, int]
    label: str
    found: float
    sku_id: str | None
    score: float | None


@dataclass(frozen=True)
class Answer:
    """Ranked SKUs, milliseconds per stage, and the policy's action (None if no policy was used).

    Attributes:
        confidence: probability that the first answer is right; None where it is unknown.
        verdict: match | similar | none (`query.confidence`); None where there is none.
        judged: the SKU whose probability `confidence` is: the first hit, unless biases moved another up.
        facets: counts of the catalogue's values among the best answers, if asked for (`query.facets`).
        no_verdict: why the index gives no verdicts on photos; None where it does, or was built without.
        box: the part of the photo that was searched for; None for the whole, or without a photo.
        item: number of the item that it is; None if the detector did not choose it.
        items: all items that were searched for.
    """

    hits: list[Hit]
    milliseconds: dict[str, float]
    action: str | None = None
    confidence: float | None = None
    verdict: str | None = None
    judged: str | None = None
    no_verdict: str | None = None
    facets: Facets | None = None
    box: tuple[int, int, int, int] | None = None
    item: int | None = None
    items: list[Item] = field(default_factory=list)


class Clock:
    """Measures milliseconds between laps, summed per stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def resumed(self) -> "Clock":
        """Returns a clock that goes on from these times, without what happened since the last lap."""
        clock = Clock()
        clock.milliseconds = dict(self.milliseconds)
        return clock

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + (now - self._last) * 1000
        self._last = now
