"""Who may ask: keys and rates are looked at before anything else of a request is read."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from skufp_pipeline.serving.keys import MAKE_ONE, Key, Keys, Role, presented_key
from skufp_pipeline.serving.limits import MovingWindow, caller_of
from skufp_pipeline.serving.problems import Refusal, problem
from skufp_pipeline.serving.record import record_of
from skufp_pipeline.serving.settings import ServingSettings

API, METRICS = "/v1/", "/metrics"
SEARCHES = {f"{API}{name}" for name in ("photos", "search", "explain")}  # what waits for `admission`
UPLOADS = {("POST", "/v1/photos"), ("PUT", "/v1/products")}
PICTURES = 20  # times the rate: a page of hits asks for as many pictures at once
TOO_MANY = "Too many requests; ask again in {} s."
UNKNOWN = "The API key is unknown or has expired."
NO_KEYS = f"No API key is accepted here, because the service has none; {MAKE_ONE}."
BROKEN_KEYS = "No API key is accepted, because the file of keys can't be read; the service's log says why."
NEEDED = "This needs an API key{}: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
BEARER = {"WWW-Authenticate": "Bearer"}


class Gate:
    """ASGI middleware that counts requests to the API and finds whose key they have.

    A search for which there is no place is refused here (429), before its body is read: under load most
    requests are, and what they cost is taken from the others.

    A caller is a key, or without a valid one an address. Pictures of products have a rate of their own,
    uploads have one besides. Health, metrics and the page are not counted. Where there are keys, one that is
    unknown or has expired is refused (401), even if none is needed.
    """

    def __init__(self, app: ASGIApp, keys: Keys, settings: ServingSettings) -> None:
        self.app = app
        self._keys = keys
        self._is_open = settings.open
        self._requests = MovingWindow(settings.rate)
        self._pictures = MovingWindow(settings.rate, PICTURES)
        self._uploads = MovingWindow(settings.upload_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith(API) or path == METRICS):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._admit(request, scope["method"], path)
        await (self.app if refused is None else refused)(scope, receive, send)

    def _admit(self, request: Request, method: str, path: str) -> Response | None:
        """Notes the key of a request; returns a refusal, if it is refused."""
        presented = presented_key(request.headers)
        key = None if presented is None else self._keys.find(presented)
        request.state.key = key
        record = record_of(request)
        record.key = None if key is None else key.name
        if path != METRICS:
            caller = caller_of(record.key, request.client.host if request.client else None)
            is_picture = method in ("GET", "HEAD") and path.endswith("/image")
            windows = [self._pictures if is_picture else self._requests]
            windows += [self._uploads] if (method, path) in UPLOADS else []
            if wait := max(window.seconds_to_wait(caller) for window in windows):
                record.refused = "rate"
                return problem(request, 429, TOO_MANY.format(wait), {"Retry-After": str(wait)})
        are_known = self._keys.path is not None and self._keys.problem is None
        if presented is not None and key is None and are_known:
            return problem(request, 401, UNKNOWN, BEARER)
        if method == "POST" and path in SEARCHES and (self._is_open or key is not None):
            admission = request.app.state.service.admission
            if admission.is_full:
                record.route, busy = path, admission.busy()
                return problem(request, busy.status_code, busy.detail, busy.headers)
        return None


def for_role(role: Role) -> type[APIRoute]:
    """The class of routes that need a role; it is checked before a body is read.

    Shoppers' routes need a key only where `serving.open` is false.
    """

    class Guarded(APIRoute):
        needs = role

        def get_route_handler(self) -> Callable[[Request], Awaitable[Any]]:  # type: ignore[override]
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Any:
                require(request, role)
                return await handler(request)

            return guarded

    return Guarded


def require(request: HTTPConnection, role: Role) -> None:
    """Raises a Refusal, 401 or 403, unless a request's key may do what needs `role`."""
    service = request.app.state.service
    if role == "shopper" and service.settings.open:
        return
    key: Key | None = request.state.key
    keys: Keys = service.keys
    if keys.path is None:
        raise Refusal(403, NO_KEYS)
    if keys.problem is not None:
        raise Refusal(403, BROKEN_KEYS)
    if key is None:
        raise Refusal(401, NEEDED.format("" if role == "shopper" else f" with the role {role}"), BEARER)
    if not key.may(role):
        raise Refusal(403, f"The key {key.name} has the role {key.role}; this needs {role}.")


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine and from no proxy on it."""
    forwarded = {"forwarded", "x-forwarded-for"} & set(request.headers.keys())
    return not forwarded and request.client is not None and request.client.host in ("127.0.0.1", "::1")
