"""/docs: what the service answers, as a plain page made of its OpenAPI document."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, select_autoescape

TEMPLATE = Path(__file__).with_name("docs.html.j2")
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Lists the addresses of the service, what they take and what they answer."""
    return HTMLResponse(_page(request.app))


@lru_cache(1)
def _page(app: FastAPI) -> str:
    template = Environment(autoescape=select_autoescape(default=True)).from_string(TEMPLATE.read_text())
    document = app.openapi()
    bodies = document["components"]["schemas"]
    return template.render(
        title=document["info"]["title"],
        addresses=[
            _address(path, method, told)
            for path, methods in document["paths"].items()
            for method, told in methods.items()
        ],
        bodies={name: json.dumps(body, indent=1) for name, body in bodies.items()},
    )


def _address(path: str, method: str, told: dict[str, Any]) -> dict[str, Any]:
    contents = told.get("requestBody", {}).get("content", {})
    return {
        "name": f"{method.upper()} {path}",
        "says": told.get("description", ""),
        "parameters": [
            (given["name"], given["in"], given.get("description", ""), given.get("required", False))
            for given in told.get("parameters", ())
        ],
        "takes": [(kind, _body(content)) for kind, content in contents.items()],
        "answers": [
            (status, kind, _body(content))
            for status, answer in told["responses"].items()
            for kind, content in answer.get("content", {"": {}}).items()
        ],
    }


def _body(content: dict[str, Any]) -> str:
    """The name of a body's schema, or the names of its parts."""
    schema = content.get("schema", {})
    return str(schema.get("$ref", "").rpartition("/")[2] or ", ".join(schema.get("properties", ())))
