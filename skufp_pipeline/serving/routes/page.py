"""Serves the page: its document at `/`, its other files below `/static/`, all from memory."""

import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response

DOCUMENT = "index.html"
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
_WORDS = re.compile(r"words\.[A-Za-z0-9-]{2,35}\.json")
_METHODS = ["GET", "HEAD"]
router = APIRouter(include_in_schema=False)


class PageFile(NamedTuple):
    """A file of the page, as it is and compressed by gzip."""

    content: bytes
    compressed: bytes
    etag: str
    media_type: str


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by name."""
    found = {}
    for path in files("skufp_pipeline.serving").joinpath("page").iterdir():
        content, kind = path.read_bytes(), path.name.rpartition(".")[2]
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[path.name] = PageFile(content, gzip.compress(content, mtime=0), etag, TYPES[kind])
    return found


@router.api_route("/", methods=_METHODS)
async def document(request: Request) -> Response:
    """The page."""
    return _answer(page_files()[DOCUMENT], request)


@router.api_route("/static/{name}", methods=_METHODS)
async def file(name: str, request: Request) -> Response:
    """A file of the page; texts in a language that there is none of are English."""
    known = page_files()
    if name not in known and _WORDS.fullmatch(name):
        name = "words.en.json"
    if name not in known or name == DOCUMENT:
        raise HTTPException(404, f"the page has no file {name!r}")
    return _answer(known[name], request)


def _answer(found: PageFile, request: Request) -> Response:
    """The file, or 304 if the browser has it; it asks each time, so a new release is seen at once."""
    headers = {"ETag": found.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    asked = request.headers.get("If-None-Match", "")
    if found.etag in (each.strip().removeprefix("W/") for each in asked.split(",")):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(found.compressed, headers=headers, media_type=found.media_type)
    return Response(found.content, headers=headers, media_type=found.media_type)
