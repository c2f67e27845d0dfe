"""The bodies of requests: read in memory only, counted and timed while they arrive."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skufp_pipeline.serving.problems import CLIENT_GONE, Refusal, problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

JSON_BYTES = 2**20  # of any body but an upload
AROUND = 2**16  # bytes of an upload beside its parts
MULTIPART = "multipart/form-data"
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the client is told what is wrong
TOO_SLOW = "The request's body did not arrive within {:g} s."
TOO_LARGE = "The request's body has more than {:,} bytes."


class BodyLimits:
    """ASGI middleware: refuses bodies that are too large (413) or arrive too slowly (408), and closes the
    connection.

    Args:
        upload_bytes: of an upload's parts together, at most.
        seconds: from the headers to the end of the body.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int, seconds: float) -> None:
        self.app, self.upload_bytes, self.seconds = app, upload_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_upload = headers.get("content-type", "").startswith(MULTIPART)
        limit = self.upload_bytes + AROUND if is_upload else JSON_BYTES
        too_large = Refusal(413, TOO_LARGE.format(limit), {"Connection": "close"})
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > limit:
            await self._refused(too_large, scope, receive, send)
            return
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def counted() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()  # waits for the end of the connection
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, TOO_SLOW.format(self.seconds), {"Connection": "close"}) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > limit:
                raise too_large
            return message

        await self.app(scope, counted, send)

    async def _refused(self, error: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
        answer = problem(Request(scope), error.status_code, error.detail, error.headers)
        await answer(scope, receive, send)


async def read_parts(request: Request, names: Sequence[str]) -> dict[str, bytes]:
    """Reads a body of exactly one part of each of these names. Raises as `read_all_parts`."""
    found = await read_all_parts(request, dict.fromkeys(names, 1))
    return {name: content for name, (content,) in found.items()}


async def read_all_parts(request: Request, most: Mapping[str, int]) -> dict[str, list[bytes]]:
    """Reads a multipart/form-data body in memory: of each of these names at least one part and at most so
    many. File names and types that the client tells are not looked at.

    Raises a Refusal: 415 for another kind of body, 422 for other parts or a broken one.
    """
    expected = " and ".join(
        f"one part named {name!r}" if count == 1 else f"1 to {count} parts named {name!r}"
        for name, count in most.items()
    )
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != MULTIPART.encode() or not options.get(b"boundary"):
        raise Refusal(415, f"Expected a {MULTIPART} body with {expected}.")
    parts = _Parts(most)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks)
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except ClientDisconnect:
        raise Refusal(CLIENT_GONE, "The client went away.") from None
    except FormParserError:
        parts.ended = False
    if not parts.ended:
        raise Refusal(422, f"The body is no complete {MULTIPART} body; expected {expected}.")
    if set(parts.found) != set(most):
        raise Refusal(422, f"Expected {expected}, found {', '.join(map(repr, parts.found)) or 'none'}.")
    return {name: [bytes(content) for content in contents] for name, contents in parts.found.items()}


class _Parts:
    """Collects the parts of a body.

    Attributes:
        found: contents by name.
        ended: whether the last boundary was read.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        self.most, self.found, self.ended = most, dict[str, list[bytearray]](), False
        self._field, self._value = b"", b""
        self._name = ""
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begins,
            "on_header_field": self._field_goes_on,
            "on_header_value": self._value_goes_on,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._content_begins,
            "on_part_data": self._content_goes_on,
            "on_end": self._ends,
        }

    def _part_begins(self) -> None:
        self._name = ""

    def _field_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _value_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = parse_options_header(self._value)[1].get(b"name", b"")
            self._name = name.decode("utf-8", errors="replace")
        self._field = self._value = b""

    def _content_begins(self) -> None:
        if self._name not in self.most:
            raise Refusal(422, f"Expected only {' and '.join(self.most)} in the body, found another part.")
        contents = self.found.setdefault(self._name, [])
        if len(contents) == self.most[self._name]:
            if len(contents) == 1:
                raise Refusal(422, f"Expected one part named {self._name!r}, found several.")
            raise Refusal(422, f"Expected at most {len(contents)} parts named {self._name!r}, found more.")
        contents.append(bytearray())

    def _content_goes_on(self, data: bytes, start: int, end: int) -> None:
        self.found[self._name][-1] += memoryview(data)[start:end]

    def _ends(self) -> None:
        self.ended = True
