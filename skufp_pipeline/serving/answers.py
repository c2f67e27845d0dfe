"""Asks an engine as the command line does, and says its answer as `/v1` does."""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.detection.regions import Box, trimmed
from skufp_pipeline.errors import UserError
from skufp_pipeline.query import answers
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.combine import Wish
from skufp_pipeline.query.engine import read_views
from skufp_pipeline.query.explain import Explanation
from skufp_pipeline.query.regions import AUTO, WHOLE, RegionChoice
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.bundle import catalogue_columns
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.serving.engines import Served
from skufp_pipeline.serving.problems import Refusal
from skufp_pipeline.serving.schemas import (
    AnsweredItem,
    ExplainAnswer,
    ExplainRequest,
    Hit,
    Map,
    PairOfPlaces,
    ProductAnswer,
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
    if not photos and region != AUTO:
        raise UserError("box, item and whole say which part of a photo is meant; give a photo with them")
    if len(photos) > 1 and region not in (AUTO, WHOLE):
        raise UserError("box and item are parts of one photo; give one photo with them, or leave them out")
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


def product_answer(served: Served, sku_id: str, fields: Fields) -> ProductAnswer:
    """What the index says of a SKU; raises a Refusal (404) if it lacks it."""
    (row,) = row_of(served, sku_id)
    known = served.engine.index.skus.row(int(row), named=True)
    columns = {name: known[name] for name in catalogue_columns(served.engine.index.skus)}
    return ProductAnswer(
        sku_id=sku_id,
        title=known["title"],
        category=known["category_name"],
        fields=shown_fields(columns, fields),
        image_url=image_url(served, sku_id, known["image"]),
        index_version=served.version,
    )


def explanation_of(served: Served, asked: ExplainRequest, photo: SeenPhoto) -> tuple[Explanation, Box | None]:
    """Why a SKU answers a photo, and the box of the photo that it is of.

    Raises as `QueryEngine.explain`; a Refusal (404) if the index lacks the SKU.
    """
    sku_id, engine = _composed(asked.sku_id), served.engine
    row_of(served, sku_id)
    view = read_views(photo.content, region_of(asked), engine.detector, Clock())[0]
    box = view.box
    if view.item is not None and box is not None and engine.detector is not None:
        box = trimmed(box, engine.detector.trim)
    return engine.explain(view.image, sku_id), box


def explain_answer(served: Served, found: Explanation, box: Box | None) -> ExplainAnswer:
    """The body of an explanation."""
    view = None
    if found.view is not None and found.view_map is not None:
        view = _map(found.view_map, found.view_seen, found.view.size)
    return ExplainAnswer(
        sku_id=found.sku_id,
        index_version=served.version,
        cosine=found.cosine,
        method=found.method,
        box=box,
        photo=_map(found.photo_map, found.photo_seen, found.photo.size),
        view=view,
        view_url=None if found.view is None else f"{_picture_url(served, found.sku_id)}&explained=true",
        maxsim=found.maxsim,
        pairs=[
            PairOfPlaces(
                photo_box=pair.photo_box, view_box=pair.view_box, similarity=pair.similarity, lead=pair.lead
            )
            for pair in found.pairs
        ],
        left_out=found.left_out,
    )


def row_of(served: Served, sku_id: str) -> NDArray[np.int64]:
    """(1,) row of a SKU; raises a Refusal (404) if the index lacks it."""
    rows, _ = served.engine.index.known_skus([sku_id])
    if not rows.count:
        raise Refusal(404, f"there is no SKU {sku_id!r} in the index {served.name!r}")
    return rows.numbers()


def image_url(served: Served, sku_id: str, image: str | None) -> str | None:
    """Where the picture of a SKU is; None if the index has none. `image` is what its table says of it."""
    if served.engine.pictures is None or image is None:
        return None
    return _picture_url(served, sku_id)


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
        confidence=answer.confidence if hit.sku_id == answer.judged else None,
        maxsim=hit.maxsim,
        parts=hit.parts,
        matched=hit.matched,
        rule=served.moved.get(hit.sku_id),
    )


def _picture_url(served: Served, sku_id: str) -> str:
    return f"/v1/products/{quote(sku_id, safe='')}/image?index={quote(served.name)}&v={served.version}"


def _map(cells: NDArray[np.float64], seen: tuple[float, float, float, float], size: tuple[int, int]) -> Map:
    return Map(cells=cells.tolist(), seen=seen, width=size[0], height=size[1])


def _composed(value: Any) -> Any:
    """Text in Unicode's composed form, as SKU tables hold it."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value
