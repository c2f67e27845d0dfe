"""What a shopper asks: photos, searches, products."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.confidence import Confidence
from skufp_pipeline.query.regions import AUTO
from skufp_pipeline.serving.answers import search_answer, searched
from skufp_pipeline.serving.bodies import read_parts
from skufp_pipeline.serving.engines import Served
from skufp_pipeline.serving.photos import checked
from skufp_pipeline.serving.problems import PROBLEM_JSON, request_id_of
from skufp_pipeline.serving.schemas import (
    FoundItem,
    IndexInUse,
    PhotoAnswer,
    Problem,
    SearchAnswer,
    SearchRequest,
    ServiceAnswer,
)
from skufp_pipeline.serving.service import Service, service_of

INDEX_VERSION = "X-Index-Version"
ProblemDoc = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> ProblemDoc:
    """The OpenAPI of what an address may refuse with."""
    body = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": Problem.__doc__, "content": body} for status in statuses}


Asked = Annotated[Service, Depends(service_of)]
router = APIRouter(prefix="/v1", responses=problems(422, 429, 503))
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

        def look(_: float) -> tuple[Any, Any, list[FoundItem]]:
            photo, size = checked(content, service.settings.photo_pixels)
            views = served.engine.embedded_views(photo, AUTO, Clock())
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
    photo_ids = [*([] if asked.photo_id is None else [asked.photo_id]), *asked.photo_ids]
    photos = [service.photos.get(photo_id).seen for photo_id in photo_ids]

    def work(waited: float) -> Response:
        found = searched(served, asked, photos)
        fields = service.settings.fields
        return answered(search_answer(served, asked, found, request_id_of(request), waited, fields), served)

    return await service.admission.run(request, work)


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
