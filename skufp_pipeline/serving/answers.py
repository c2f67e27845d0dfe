"""Asks an engine as the command line does, and says its answer as `/v1` does."""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any
from urllib.parse import quote

from skufp_pipeline.errors import UserError
from skufp_pipeline.query import answers
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.regions import AUTO, WHOLE, RegionChoice
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.serving.engines import Served
from skufp_pipeline.serving.schemas import (
    AnsweredItem,
    Hit,
    Range,
    Region,
    SearchAnswer,
    SearchRequest,
    Value,
)

Fields = Sequence[str] | None  # columns that an answer shows; None: all of the catalogue's own
SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def searched(
    served: Served, asked: SearchRequest, photos: Sequence[SeenPhoto], within: Rows | None = None
) -> answers.Answer:
    """Answers a request.

    Args:
        photos: those that the request names.
        within: restricts it further; the request's own filters still count.

    Raises:
        UserError: see `QueryEngine.search`, `FingerprintIndex.where` and `compare`.
    """
    wish = Wish(
        photos=photos,
        text=asked.text,
        text_weight=asked.text_weight,
        avoided=asked.not_text,
        avoided_weight=asked.not_weight,
        liked=[_composed(sku_id) for sku_id in asked.like],
        disliked=[_composed(sku_id) for sku_id in asked.unlike],
    )
    region = region_of(asked)
    if region != AUTO and len(photos) != 1:
        raise UserError("box, item and whole are parts of one photo; give one photo with them")
    index = served.engine.index
    chosen = [*selected(index, asked.where), *([] if within is None else [within])]
    rows = reduce(and_, chosen) if chosen else None
    return served.engine.search(wish, asked.top, rows, asked.facets or None, region)


def region_of(asked: Region) -> RegionChoice:
    """What of a photo a request means."""
    if asked.box is not None:
        return asked.box
    return asked.item or (WHOLE if asked.whole else AUTO)


def selected(index: FingerprintIndex, where: Mapping[str, list[Value] | Range]) -> list[Rows]:
    """The rows of each filter; all of them narrow a search."""
    found = []
    for column, wanted in where.items():
        name = _composed(column)
        if isinstance(wanted, Range):
            ends = wanted.model_dump(exclude_none=True)
            found += [index.compare(name, SIGNS[end], _composed(value)) for end, value in ends.items()]
        else:
            found.append(index.where(**{name: [_composed(value) for value in wanted]}))
    return found


def search_answer(
    served: Served,
    asked: SearchRequest,
    answer: answers.Answer,
    request_id: str,
    waited: float,
    fields: Fields,
) -> SearchAnswer:
    """The body of an answer; `waited` are milliseconds in the queue."""
    return SearchAnswer(
        request_id=request_id,
        index=served.name,
        index_version=served.version,
        hits=[_hit(served, hit, answer, fields) for hit in answer.hits],
        verdict=answer.verdict,
        confidence=answer.confidence,
        no_verdict=answer.no_verdict,
        facets=answer.facets,
        action=answer.action,
        box=answer.box,
        item=answer.item,
        items=[
            AnsweredItem(
                number=item.number,
                box=item.box,
                label=item.label,
                score=item.found,
                sku_id=item.sku_id,
                similarity=item.score,
            )
            for item in answer.items
        ],
        ms={"queue": waited, **answer.milliseconds},
    )


def image_url(served: Served, sku_id: str, image: str | None) -> str | None:
    """Where the picture of a SKU is; None if the index has none. `image` is what its table says of it."""
    if served.engine.pictures is None or image is None:
        return None
    return f"/v1/products/{quote(sku_id, safe='')}/image?index={quote(served.name)}&v={served.version}"


def shown_fields(columns: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """The columns that an answer shows, in the order of the settings."""
    return dict(columns) if fields is None else {name: columns[name] for name in fields if name in columns}


def _hit(served: Served, hit: answers.Hit, answer: answers.Answer, fields: Fields) -> Hit:
    return Hit(
        sku_id=hit.sku_id,
        title=hit.title,
        category=hit.category_name,
        fields=shown_fields(hit.columns, fields),
        image_url=image_url(served, hit.sku_id, hit.image),
        rank=hit.rank,
        score=hit.score,
        similarity_percent=min(max(100 * hit.cosine, 0.0), 100.0),
        confidence=answer.confidence if hit.rank == 1 else None,
        maxsim=hit.maxsim,
        matched=hit.matched,
    )


def _composed(value: Any) -> Any:
    """Text in Unicode's composed form, as SKU tables hold it."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value
