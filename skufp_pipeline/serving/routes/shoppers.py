"""What a shopper asks: photos, searches, products."""

import asyncio
import io
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from skufp_pipeline.errors import UserError
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.confidence import Confidence
from skufp_pipeline.query.regions import AUTO
from skufp_pipeline.serving.answers import (
    explain_answer,
    explanation_of,
    product_answer,
    row_of,
    search_answer,
    searched,
)
from skufp_pipeline.serving.bodies import read_parts
from skufp_pipeline.serving.engines import Served
from skufp_pipeline.serving.feedback import Remembered
from skufp_pipeline.serving.gate import for_role
from skufp_pipeline.serving.paths import sku_of_path
from skufp_pipeline.serving.photos import checked
from skufp_pipeline.serving.problems import Refusal, problems, request_id_of
from skufp_pipeline.serving.record import record_of
from skufp_pipeline.serving.schemas import (
    MOST,
    ExplainAnswer,
    ExplainRequest,
    FacetsAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    FoundItem,
    IndexInUse,
    IndexName,
    PhotoAnswer,
    ProductAnswer,
    SearchAnswer,
    SearchRequest,
    ServiceAnswer,
)
from skufp_pipeline.serving.service import Service, service_of

INDEX_VERSION = "X-Index-Version"
Asked = Annotated[Service, Depends(service_of)]
Sku = Annotated[str, Depends(sku_of_path)]
Index = Annotated[
    IndexName | None, Query(description="Which index is asked; the first that is served by default.")
]
router = APIRouter(prefix="/v1", route_class=for_role("shopper"), responses=problems(401, 422, 429, 503))
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {"photo": {"type": "string", "format": "binary"}},
                    "additionalProperties": False,
                }
            }
        },
    }
}


def answered(body: BaseModel, served: Served, status: int = 200) -> Response:
    """An answer, with the version of the index that it is of."""
    return Response(
        body.model_dump_json(), status, {INDEX_VERSION: served.version}, media_type="application/json"
    )


@router.post(
    "/photos",
    status_code=201,
    response_model=PhotoAnswer,
    openapi_extra=PHOTO_BODY,
    responses=problems(408, 413, 415),
)
async def upload(request: Request, service: Asked) -> Response:
    """Keeps a photo in memory for some minutes and finds the items in it."""
    served = service.rooms.served(service.settings.indexes[0])
    with service.photos.arriving():
        content = (await read_parts(request, ["photo"]))["photo"]

        def look(waited: float) -> tuple[Any, Any, list[FoundItem]]:
            clock = Clock()
            photo, size = checked(content, service.settings.photo_pixels)
            views = served.engine.embedded_views(photo, AUTO, clock)
            stages = {"queue": waited, **clock.milliseconds}
            record_of(request).answered(served.name, served.version, stages)
            items = [
                FoundItem(number=view.number, box=view.box, label=view.item.label, score=view.item.score)
                for view in views
                if view.item is not None and view.number is not None and view.box is not None
            ]
            return photo, size, items

        photo, size, items = await service.admission.run(request, look)
    stored = service.photos.add(photo, size)
    body = PhotoAnswer(
        photo_id=stored.photo_id,
        width=stored.width,
        height=stored.height,
        expires_at=stored.expires.isoformat(),
        items=items,
        index_version=served.version,
    )
    return answered(body, served, 201)


@router.post("/search", response_model=SearchAnswer, responses=problems(404, 408, 413))
async def search(asked: SearchRequest, request: Request, service: Asked) -> Response:
    """Finds the SKUs that match photos, words, other SKUs or all together, best first."""
    served = service.rooms.served(asked.index)
    return await _searched(served, asked, request, service)


@router.get("/products/{sku}", response_model=ProductAnswer, responses=problems(404))
async def product(sku: Sku, service: Asked, index: Index = None) -> Response:
    """What the index knows of a SKU."""
    served = service.rooms.served(index)
    return answered(product_answer(served, sku, service.settings.fields), served)


@router.get(
    "/products/{sku}/image",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "As before."}, **problems(404)},
)
async def image(
    sku: Sku,
    request: Request,
    service: Asked,
    size: Annotated[int | None, Query(ge=16, le=1024, description="Pixels a side, at most.")] = None,
    explained: Annotated[bool, Query(description="The picture that explanations are of.")] = False,
    v: Annotated[str | None, Query(max_length=64, description="Version that the address is of.")] = None,
    index: Index = None,
) -> Response:
    """The picture of a SKU, a JPEG; never larger than the index holds it."""
    served = service.rooms.served(index)
    lasting = "max-age=31536000, immutable" if v == served.version else "max-age=60"
    headers = {
        "ETag": f'"{served.version}"',
        "Cache-Control": f"{'public' if service.settings.open else 'private'}, {lasting}",
        INDEX_VERSION: served.version,
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    found = await service.pictures.run(request, lambda _: served.picture(sku, size, explained))
    if found is None:
        raise Refusal(404, f"there is no picture of SKU {sku!r} in the index {index!r}")
    return Response(found, headers=headers, media_type="image/jpeg")


@router.get("/products/{sku}/similar", response_model=SearchAnswer, responses=problems(404))
async def similar(
    sku: Sku,
    request: Request,
    service: Asked,
    top: Annotated[int, Query(ge=1, le=MOST)] = 20,
    index: Index = None,
) -> Response:
    """The SKUs that are most like a SKU, itself left out."""
    served = service.rooms.served(index)
    row_of(served, sku)
    return await _searched(served, SearchRequest(like=[sku], top=top, index=index), request, service)


@router.get("/facets", response_model=FacetsAnswer, responses=problems(404))
async def facets(request: Request, service: Asked, index: Index = None) -> Response:
    """What searches can be narrowed by, over the whole index."""
    served = service.rooms.served(index)
    found = await service.pictures.run(request, lambda _: served.facets)
    return answered(FacetsAnswer(index_version=served.version, facets=found), served)


@router.post(
    "/explain",
    response_model=ExplainAnswer,
    responses={200: {"content": {"image/png": {}}}, **problems(404, 408, 413)},
)
async def explain(asked: ExplainRequest, request: Request, service: Asked) -> Response:
    """Where a photo and a SKU are alike: numbers, or drawn for a request that accepts image/png."""
    served = service.rooms.served(asked.index)
    photo = service.photos.get(asked.photo_id).seen
    is_drawn = request.headers.get("accept", "").split(",")[0].split(";")[0].strip() == "image/png"

    def work(_: float) -> Response:
        found, box = explanation_of(served, asked, photo)
        if not is_drawn:
            return answered(explain_answer(served, found, box), served)
        buffer = io.BytesIO()
        found.picture().save(buffer, "PNG")
        return Response(buffer.getvalue(), headers={INDEX_VERSION: served.version}, media_type="image/png")

    return await service.admission.run(request, work)


def remembered(asked: SearchRequest, body: SearchAnswer, photo_ids: Sequence[str]) -> Remembered:
    """What a thumb on this answer would be kept with: the photo if it alone was asked."""
    alone = len(photo_ids) == 1 and not (asked.text or asked.not_text or asked.like or asked.unlike)
    return Remembered(
        body.index,
        body.index_version,
        [hit.sku_id for hit in body.hits],
        asked.text,
        photo_ids[0] if alone else None,
        body.box if alone else None,
    )


@router.post("/feedback", response_model=FeedbackAnswer, status_code=201, responses=problems(403, 404))
async def feedback(asked: FeedbackRequest, service: Asked) -> FeedbackAnswer:
    """Keeps a thumb on an answer, where the shop keeps them, with the photo if it alone was asked."""
    search = service.feedback.find(asked.request_id)
    if not service.feedback.is_on:
        raise Refusal(403, "This shop keeps no feedback (serving.feedback is off).")
    if search is None or asked.sku_id not in search.shown:
        raise Refusal(404, "No search of this request id that found this SKU is remembered; search again.")
    photo = service.photos.find(search.photo_id) if search.photo_id is not None else None
    content = None if photo is None else photo.seen.content
    try:
        await asyncio.to_thread(service.feedback.add, asked.request_id, asked.sku_id, asked.good, content)
    except UserError as error:
        raise Refusal(503, str(error), {"Retry-After": "30"}) from error
    service.metrics.thumb(asked.good)
    return FeedbackAnswer(kept=True, photo_kept=content is not None)


@router.get("/service", response_model=ServiceAnswer)
async def about(service: Asked) -> ServiceAnswer:
    """What the service can do; answered before an index is ready, too."""
    settings = service.settings
    return ServiceAnswer(
        title=settings.title,
        indexes=[_in_use(served) for served in service.rooms.all],
        fields=settings.fields,
        feedback=settings.feedback,
        photo_megabytes=settings.photo_megabytes,
        photo_minutes=settings.photo_minutes,
    )


async def _searched(served: Served, asked: SearchRequest, request: Request, service: Service) -> Response:
    photo_ids = [*([] if asked.photo_id is None else [asked.photo_id]), *asked.photo_ids]
    photos = [service.photos.get(photo_id).seen for photo_id in photo_ids]

    def work(waited: float) -> Response:
        found = searched(served, asked, photos)
        fields = service.settings.fields
        body = search_answer(served, asked, found, request_id_of(request), waited, fields)
        record_of(request).answered(served.name, served.version, body.ms, body.verdict)
        service.feedback.remember(body.request_id, remembered(asked, body, photo_ids))
        return answered(body, served)

    return await service.admission.run(request, work)


def _in_use(served: Served) -> IndexInUse:
    engine = served.engine
    return IndexInUse(
        name=served.name,
        version=served.version,
        num_skus=len(engine.index),
        detects=engine.detector is not None,
        verdicts=isinstance(engine.confidence, Confidence),
        explains=engine.look_twice is not None,
        words=engine.lexical is not None,
    )
