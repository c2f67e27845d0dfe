"""Whether the service lives, whether requests should come here, and its metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from skufp_pipeline.serving.gate import is_local, require
from skufp_pipeline.serving.problems import problems
from skufp_pipeline.serving.schemas import ReadyAnswer
from skufp_pipeline.serving.service import Service, service_of

Asked = Annotated[Service, Depends(service_of)]
router = APIRouter()


@router.get("/livez")
async def lives() -> dict[str, bool]:
    """Answers as long as the process does."""
    return {"alive": True}


@router.get("/readyz", response_model=ReadyAnswer, responses={503: {"model": ReadyAnswer}})
async def ready(service: Asked) -> Response:
    """Whether requests should come here: 503 before the indexes are open, and once the service is stopping.

    A newer version that can't be opened leaves the service ready, and is told.
    """
    reason = service.why_not_ready()
    body = ReadyAnswer(
        ready=reason is None,
        reason=reason,
        versions={served.name: served.version for served in service.rooms.all},
        failed={name: failed.reason for name, failed in service.rooms.failed.items()},
        problems=[text for text in (service.rules.problem, service.keys.problem) if text is not None],
    )
    status = 200 if reason is None else 503
    return Response(body.model_dump_json(), status, media_type="application/json")


@router.get("/metrics", responses=problems(401, 403))
async def metrics(request: Request, service: Asked) -> Response:
    """Metrics for Prometheus; from another machine, or through a proxy, with the key of an admin."""
    if not is_local(request):
        require(request, "admin")
    return Response(service.metrics.text(), media_type=service.metrics.content_type)
