"""SKU ids in paths: they may hold slashes, spaces, signs and letters of any script, quoted as in any URL."""

import unicodedata
from typing import Annotated
from urllib.parse import unquote

from fastapi import Path
from starlette.types import ASGIApp, Receive, Scope, Send

from skufp_pipeline.serving.problems import Refusal

PRODUCTS = "/v1/products/"


class QuotedPaths:
    """ASGI middleware: leaves the paths of products quoted, so that a slash within an id is none of the
    path's; `sku_of_path` unquotes the id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            quoted = scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
            if quoted.startswith(PRODUCTS):
                scope["path"] = quoted
        await self.app(scope, receive, send)


def sku_of_path(sku: Annotated[str, Path(description="A SKU id, quoted as in a URL.", min_length=1)]) -> str:
    """The SKU id of a path, as SKU tables hold it; raises a Refusal (404) if it is none."""
    try:
        return unicodedata.normalize("NFC", unquote(sku, errors="strict"))
    except UnicodeDecodeError:
        raise Refusal(404, "the SKU id in the path is not UTF-8") from None
