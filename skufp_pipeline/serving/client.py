"""A client of the service, in the bodies of `serving.schemas`; imports no model library.

with Client("http://localhost:8000") as client:
    photo = client.upload("shirt.jpg")
    answer = client.search(photo, text="with long sleeves", top=5)
"""

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from skufp_pipeline.serving.schemas import (
    Box,
    ExplainAnswer,
    ExplainRequest,
    FacetsAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    IndexesAnswer,
    IndexName,
    IndexRequest,
    PhotoAnswer,
    ProductAnswer,
    ProductStored,
    Range,
    ReloadRequest,
    RulesAnswer,
    SearchAnswer,
    SearchRequest,
    ServiceAnswer,
    Value,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Answer = TypeVar("Answer", bound=BaseModel)
GONE, BUSY = 404, 429


class SkufpError(Exception):
    """What the service refused: its sentence, the HTTP status (0: no answer) and the request's id."""

    def __init__(self, detail: str, status: int = 0, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.request_id = status, request_id


@dataclass
class Photo:
    """An uploaded photo: its bytes, to send it again once the service has forgotten it, and the answer."""

    content: bytes
    answer: PhotoAnswer

    @property
    def photo_id(self) -> str:
        return self.answer.photo_id


class Asked(TypedDict, total=False):
    """What a search may say beside its photos; see `schemas.SearchRequest`."""

    box: Box | None
    item: int | None
    whole: bool
    text: str | None
    text_weight: float
    not_text: list[str]
    not_weight: float
    like: list[str]
    unlike: list[str]
    where: dict[str, list[Value] | Range]
    top: int
    facets: int
    index: IndexName


class Client:
    """Asks a service; usable from several threads.

    Args:
        url: of the service, such as `http://localhost:8000`.
        key: an API key; operators' calls need one.
        timeout: seconds that one request may take.
        patience: seconds that a call may spend, in all, on waiting as long as a busy service says (429).
        transport: what carries the requests instead of the network.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 30,
        patience: float = 10,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/", headers=headers, timeout=timeout, transport=transport
        )
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- shoppers -------------------------------------------------------------------------------------------

    def service(self) -> ServiceAnswer:
        """What the service can do."""
        return self._get(ServiceAnswer, "service")

    def upload(self, photo: "str | Path | bytes | Image") -> Photo:
        """Sends a photo: a file, its bytes, or a picture of PIL, which is sent as PNG."""
        content = _bytes_of(photo)
        return Photo(content, self._upload(content))

    def search(self, *photos: "Photo | str | Path | bytes | Image", **asked: Unpack[Asked]) -> SearchAnswer:
        """Finds SKUs by photos of one item, words, liked SKUs, or these together.

        A photo that is not uploaded yet is; one that the service has forgotten is sent once more.
        """
        sent = [photo if isinstance(photo, Photo) else self.upload(photo) for photo in photos]

        def ask() -> SearchAnswer:
            ids = [photo.photo_id for photo in sent]
            named: dict[str, Any] = {"photo_id": ids[0]} if len(ids) == 1 else {"photo_ids": ids}
            return self._post(SearchAnswer, "search", SearchRequest(**named, **asked))

        return self._with_photos(sent, ask)

    def explain(
        self,
        photo: "Photo | str | Path | bytes | Image",
        sku_id: str,
        *,
        box: Box | None = None,
        item: int | None = None,
        whole: bool = False,
        index: IndexName | None = None,
    ) -> ExplainAnswer:
        """Where a photo and a SKU are alike."""
        sent = photo if isinstance(photo, Photo) else self.upload(photo)

        def ask() -> ExplainAnswer:
            body = ExplainRequest(
                photo_id=sent.photo_id, sku_id=sku_id, box=box, item=item, whole=whole, index=index
            )
            return self._post(ExplainAnswer, "explain", body)

        return self._with_photos([sent], ask)

    def product(self, sku_id: str, index: IndexName | None = None) -> ProductAnswer:
        return self._get(ProductAnswer, f"products/{_path(sku_id)}", index=index)

    def picture(self, sku_id: str, size: int | None = None, index: IndexName | None = None) -> bytes:
        """A JPEG of the product, `size` pixels wide and high at most."""
        path = f"products/{_path(sku_id)}/image"
        return self._send("GET", path, params=_given({"index": index, "size": size})).content

    def similar(self, sku_id: str, top: int = 20, index: IndexName | None = None) -> SearchAnswer:
        return self._get(SearchAnswer, f"products/{_path(sku_id)}/similar", top=top, index=index)

    def facets(self, index: IndexName | None = None) -> FacetsAnswer:
        """What a search can be narrowed by."""
        return self._get(FacetsAnswer, "facets", index=index)

    def feedback(self, answer: SearchAnswer, sku_id: str, good: bool) -> FeedbackAnswer:
        """Says whether a hit of an answer was right."""
        body = FeedbackRequest(request_id=answer.request_id, sku_id=sku_id, good=good)
        return self._post(FeedbackAnswer, "feedback", body)

    # -- operators ------------------------------------------------------------------------------------------

    def indexes(self) -> IndexesAnswer:
        """Every index: the version in use, the kept ones, and what could not be opened."""
        return self._get(IndexesAnswer, "index")

    def reload(self, index: IndexName | None = None) -> IndexesAnswer:
        """Looks at once whether another version is in use, of all indexes by default."""
        return self._post(IndexesAnswer, "index/reload", ReloadRequest(index=index))

    def roll_back(self, version: str | None = None, index: IndexName | None = None) -> IndexesAnswer:
        """Uses an earlier version again, by default the one before."""
        return self._post(IndexesAnswer, "index/rollback", IndexRequest(index=index, version=version))

    def rules(self) -> RulesAnswer:
        """The SKUs that are pinned, buried or hidden."""
        return self._get(RulesAnswer, "rules")

    def put_rule(
        self, sku_id: str, rule: Literal["pin", "bury", "hide"], bias: float | None = None
    ) -> RulesAnswer:
        """Pins, buries or hides a SKU; `bias` is a difference of cosines, by default the usual one."""
        answer = self._send("PUT", f"rules/{_path(sku_id)}", json={"rule": rule, "bias": bias})
        return RulesAnswer.model_validate_json(answer.content)

    def delete_rule(self, sku_id: str) -> RulesAnswer:
        return RulesAnswer.model_validate_json(self._send("DELETE", f"rules/{_path(sku_id)}").content)

    def put_product(
        self, row: Mapping[str, Value], pictures: Sequence["str | Path | bytes | Image"] = ()
    ) -> ProductStored:
        """Adds a product to the catalogue, by a manifest's columns; a refresh makes it searchable."""
        parts = [("row", ("row", json.dumps(row).encode()))]
        parts += [("picture", ("picture", _bytes_of(picture))) for picture in pictures]
        return ProductStored.model_validate_json(self._send("PUT", "products", files=parts).content)

    # -- sending --------------------------------------------------------------------------------------------

    def _upload(self, content: bytes) -> PhotoAnswer:
        answer = self._send("POST", "photos", files={"photo": ("photo", content)})
        return PhotoAnswer.model_validate_json(answer.content)

    def _with_photos(self, photos: Sequence[Photo], ask: Any) -> Any:
        try:
            return ask()
        except SkufpError as error:
            if error.status != GONE or not photos:
                raise
        for photo in photos:
            photo.answer = self._upload(photo.content)
        return ask()

    def _get(self, kind: type[Answer], path: str, **params: Any) -> Answer:
        return kind.model_validate_json(self._send("GET", path, params=_given(params)).content)

    def _post(self, kind: type[Answer], path: str, body: BaseModel) -> Answer:
        sent = self._send("POST", path, json=body.model_dump(mode="json", exclude_unset=True))
        return kind.model_validate_json(sent.content)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Sends a request, again while the service is busy and there is time; raises SkufpError."""
        until = time.monotonic() + self._patience
        while True:
            try:
                answer = self._http.request(method, path, **request)
            except httpx.HTTPError as error:
                place = self._http.base_url.join("/")
                raise SkufpError(f"no answer from {place}: {error or type(error).__name__}") from error
            wait = _retry_after(answer)
            if answer.status_code != BUSY or wait is None or time.monotonic() + wait > until:
                break
            time.sleep(wait)
        if answer.is_success:
            return answer
        problem = _problem(answer)
        detail = (
            problem.get("detail")
            or f"{method} {answer.url.path}: {answer.status_code} {answer.reason_phrase}"
        )
        raise SkufpError(detail, answer.status_code, problem.get("request_id"))


def _bytes_of(photo: "str | Path | bytes | Image") -> bytes:
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    written = io.BytesIO()
    photo.save(written, format="PNG")
    return written.getvalue()


def _path(sku_id: str) -> str:
    return quote(sku_id, safe="")


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
