"""Errors as `application/problem+json` (RFC 9457) with plain sentences, and the ids of requests."""

import logging
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import PhotoError
from skufp_pipeline.serving import schemas

PROBLEM_JSON = "application/problem+json"
REQUEST_ID = "X-Request-ID"
FAILED = "The service failed to answer; its log has the reason under this request id."
NO_ADDRESS = "There is nothing at this address; /docs lists what the service answers."
OF_PHOTOS = {"unsupported_image": 415, "image_too_large": 413}  # by reason; any other is 422
CLIENT_GONE = 499  # as nginx logs it: nobody reads this answer
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOLD = 3  # mistakes of a request's body

log = logging.getLogger(__name__)


class Refusal(HTTPException):
    """A request that is not answered: a status, a sentence for the person who asks, and further headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


class RequestIds:
    """ASGI middleware: takes the caller's X-Request-ID if it is one, else makes one, and answers with it.

    It is `request.state.request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = REQUEST_ID.lower().encode()
        given = dict(scope["headers"]).get(name, b"").decode("latin-1")
        request_id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (name, request_id.encode())]
            await send(message)

        await self.app(scope, receive, answered)


def request_id_of(request: Request) -> str:
    """The id of a request; empty for one that failed before it had one."""
    return str(getattr(request.state, "request_id", ""))


def problem(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    told = schemas.Problem(
        title=_title(status), status=status, detail=detail, request_id=request_id_of(request)
    )
    return Response(told.model_dump_json(), status, headers, PROBLEM_JSON)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of what an address may refuse with."""
    body = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": schemas.Problem.__doc__, "content": body} for status in statuses}


def handle_problems(app: FastAPI) -> None:
    """Makes every error of an app a problem; of what nobody foresaw only that it failed is told."""
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _misspelt)
    app.add_exception_handler(UserError, _mistaken)
    app.add_exception_handler(Exception, failed)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404 and not isinstance(error, Refusal):
        detail = NO_ADDRESS
    return problem(request, error.status_code, detail, error.headers)


async def _misspelt(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    lines = [f"{_where(mistake['loc'])}: {_said(mistake['msg'])}" for mistake in found[:_TOLD]]
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return problem(request, 422, "; ".join(lines) + more)


async def _mistaken(request: Request, error: Exception) -> Response:
    cause = error.__cause__
    status = OF_PHOTOS.get(cause.reason, 422) if isinstance(cause, PhotoError) else 422
    return problem(request, status, " ".join(str(error).split()))


async def failed(request: Request, error: Exception) -> Response:
    """The answer to a request that nobody foresaw to fail."""
    log.error("request %s failed", request_id_of(request), exc_info=error)
    return problem(request, 500, FAILED)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_GONE else HTTPStatus(status).phrase


def _where(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
