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
        maxsim: of the second look, which may have ranked the hit before one of a higher score; None if it was
            not looked at twice.
        image: the SKU's representative image, relative to the data root.
        columns: what else the catalogue says of the SKU, typed as in the catalogue.
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


@dataclass(frozen=True)
class Answer:
    """Ranked SKUs, milliseconds per stage, and the policy's action (None if no policy was used).

    Attributes:
        confidence: probability that the first answer is right; None where it is unknown.
        verdict: match | similar | none (`query.confidence`); None where there is none.
        facets: counts of the catalogue's values among the best answers, if asked for (`query.facets`).
        no_verdict: why the index gives no verdicts on photos; None where it does, or was built without.
    """

    hits: list[Hit]
    milliseconds: dict[str, float]
    action: str | None = None
    confidence: float | None = None
    verdict: str | None = None
    no_verdict: str | None = None
    facets: Facets | None = None


class Clock:
    """Measures milliseconds between laps, summed per stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + (now - self._last) * 1000
        self._last = now
