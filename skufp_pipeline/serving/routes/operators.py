"""What an operator asks: versions of the indexes, rules for single SKUs, products for the graph."""

import asyncio
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from skufp_pipeline.artifacts.places import CLIP_CHECKPOINT, image_encoder
from skufp_pipeline.errors import UserError
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.bodies import read_all_parts
from skufp_pipeline.serving.engines import Served
from skufp_pipeline.serving.gate import for_role
from skufp_pipeline.serving.problems import Refusal, problems
from skufp_pipeline.serving.products import PICTURES, put_product
from skufp_pipeline.serving.rules import Rule
from skufp_pipeline.serving.schemas import (
    FailedVersion,
    IndexesAnswer,
    IndexRequest,
    IndexState,
    IndexVersion,
    ProductStored,
    ReloadRequest,
    RulesAnswer,
    RuleState,
)
from skufp_pipeline.serving.service import Service, service_of

Asked = Annotated[Service, Depends(service_of)]
Sku = Annotated[str, Path(min_length=1, max_length=512)]
router = APIRouter(prefix="/v1", route_class=for_role("admin"), responses=problems(401, 403, 422, 429))
PRODUCT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["row", "picture"],
                    "properties": {
                        "row": {"type": "string", "description": "A JSON object with a manifest's columns."},
                        "picture": {
                            "type": "array",
                            "maxItems": PICTURES,
                            "items": {"type": "string", "format": "binary"},
                        },
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


@router.get("/index")
async def indexes(service: Asked) -> IndexesAnswer:
    """Every index: the version in use, the kept ones, and what could not be opened."""
    return await asyncio.to_thread(_indexes, service)


@router.post("/index/reload", responses=problems(404, 409))
async def reload(asked: ReloadRequest, service: Asked) -> IndexesAnswer:
    """Looks at once whether another version is in use, and tries again what could not be opened."""
    names = service.rooms.names if asked.index is None else (_known(service, asked.index),)
    return await asyncio.to_thread(_looked, service, names)


@router.post("/index/rollback", responses=problems(404, 409))
async def roll_back(asked: IndexRequest, service: Asked) -> IndexesAnswer:
    """Uses an earlier version of an index again, by default the one before; runs of the graph do not publish
    the present one again."""
    name = _known(service, asked.index)

    def go_back() -> IndexesAnswer:
        with _told():
            Versions(service.store, name).roll_back(asked.version)
        return _looked(service, (name,))

    return await asyncio.to_thread(go_back)


@router.get("/rules")
async def rules(service: Asked) -> RulesAnswer:
    """The rules for single SKUs."""
    return _rules(service)


@router.put("/rules/{sku_id:path}", responses=problems(409))
async def put_rule(sku_id: Sku, rule: Rule, service: Asked) -> RulesAnswer:
    """Pins, buries or hides a SKU. One that no index has yet may have a rule, too."""

    def put() -> RulesAnswer:
        with _told():
            service.rules.put(unicodedata.normalize("NFC", sku_id), rule)
        return _followed(service)

    return await asyncio.to_thread(put)


@router.delete("/rules/{sku_id:path}", responses=problems(404, 409))
async def delete_rule(sku_id: Sku, service: Asked) -> RulesAnswer:
    """Removes the rule of a SKU."""

    def delete() -> RulesAnswer:
        with _told():
            had = service.rules.delete(unicodedata.normalize("NFC", sku_id))
        if not had:
            raise Refusal(404, f"SKU {sku_id!r} has no rule.")
        return _followed(service)

    return await asyncio.to_thread(delete)


@router.put(
    "/products",
    status_code=202,
    response_model=ProductStored,
    openapi_extra=PRODUCT_BODY,
    responses=problems(408, 409, 413, 415),
)
async def products(request: Request, service: Asked) -> Response:
    """Adds a product to the catalogue, or replaces what was added of it; a refresh makes it searchable."""
    parts = await read_all_parts(request, {"row": 1, "picture": PICTURES})
    stored = await asyncio.to_thread(put_product, service.preset, parts["row"][0], parts["picture"])
    return Response(stored.model_dump_json(), 202, media_type="application/json")


@contextmanager
def _told() -> Iterator[None]:
    """Raises a Refusal (409) for a UserError: the request is sound, and the store is not ready for it."""
    try:
        yield
    except UserError as error:
        raise Refusal(409, str(error)) from error


def _known(service: Service, name: str | None) -> str:
    name = name or service.rooms.names[0]
    if name not in service.rooms.names:
        raise Refusal(404, f"There is no index {name!r} here; there is {', '.join(service.rooms.names)}.")
    return name


def _looked(service: Service, names: tuple[str, ...]) -> IndexesAnswer:
    """Looks at indexes now; raises a Refusal (409) if the version in use of one can't be opened."""
    for name in names:
        service.rooms.look(name, again=True)
        if (failed := service.rooms.failed.get(name)) is not None:
            raise Refusal(409, f"Version {failed.version} of {name!r} can't be opened: {failed.reason}")
    return _indexes(service)


def _followed(service: Service) -> RulesAnswer:
    service.rules.read_again()
    service.rooms.follow(service.rules.by_sku)
    return _rules(service)


def _rules(service: Service) -> RulesAnswer:
    served = service.rooms.all
    return RulesAnswer(
        rules=[
            RuleState(
                sku_id=sku_id,
                rule=rule.rule,
                bias=rule.bias,
                unused_in=[index.name for index in served if sku_id in index.unused],
            )
            for sku_id, rule in service.rules.by_sku.items()
        ],
        problem=service.rules.problem,
    )


def _indexes(service: Service) -> IndexesAnswer:
    return IndexesAnswer(indexes=[_state(service, name) for name in service.rooms.names])


def _state(service: Service, name: str) -> IndexState:
    served = next((served for served in service.rooms.all if served.name == name), None)
    failed = service.rooms.failed.get(name)
    engine = None if served is None else served.engine
    hidden = 0 if served is None or served.plain is None else len(served.plain.index)
    return IndexState(
        name=name,
        version=None if served is None else served.version,
        created=None if served is None else served.created.isoformat(),
        age_seconds=None if served is None else served.age_seconds,
        num_skus=None if engine is None else len(engine.index),
        num_hidden=0 if engine is None or not hidden else hidden - len(engine.index),
        encoder=None if engine is None else _tower(engine),
        encoder_digest=None
        if served is None
        else served.artifact.manifest.recipe.inputs.get(_checkpoint_of(served)),
        versions=_versions(service, name),
        failed=None
        if failed is None
        else FailedVersion(version=failed.version, reason=failed.reason, when=failed.when.isoformat()),
    )


def _checkpoint_of(served: Served) -> str:
    """The name of the checkpoint that embedded the pictures."""
    index = served.engine.index
    return image_encoder(index.of)[0].name if isinstance(index, ImageIndex) else CLIP_CHECKPOINT.name


def _tower(engine: QueryEngine) -> str:
    """What kind of network embeds pictures."""
    if isinstance(engine.index, ImageIndex) and not engine.reads_words:
        return engine.index.of
    vision = engine.encoder.model_config["vision_cfg"]
    return vision.get("timm_model_name") or f"ViT of patches of {vision['patch_size']} pixels"


def _versions(service: Service, name: str) -> list[IndexVersion]:
    """The stored versions, the last published first, candidates last."""
    versions, found = Versions(service.store, name), []
    for version in versions.by_publication():
        try:
            summary = service.store.read_manifest(versions.key(version)).summary
            created = service.store.written(versions.key(version)).isoformat()
        except (UserError, FileNotFoundError):  # pruned meanwhile
            continue
        state = versions.state(version)
        found.append(
            IndexVersion(version=version, state=state, created=created, num_skus=summary.get("skus"))
        )
    return found
