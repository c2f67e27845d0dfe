"""What the service is asked and what it answers: the bodies of `/v1`.

Boxes are x1, y1, x2, y2 in pixels of the upright photo; x2 and y2 are outside.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Box = tuple[int, int, int, int]
Value = str | int | float | bool
SkuId = Annotated[str, Field(min_length=1, max_length=512)]
Words = Annotated[str, Field(min_length=1, max_length=1000)]
PhotoId = Annotated[str, Field(min_length=1, max_length=64)]
IndexName = Annotated[str, Field(min_length=1, max_length=128)]
Weight = Annotated[float, Field(ge=0, le=1)]
MOST = 100  # hits of an answer


class Body(BaseModel):
    """The body of a request; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(Body):
    """Numbers or dates of a column; at least one end."""

    gt: Value | None = None
    gte: Value | None = None
    lt: Value | None = None
    lte: Value | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "Range":
        if not self.model_dump(exclude_none=True):
            raise ValueError("give one of gt, gte, lt and lte")
        return self


class Region(Body):
    """What of a photo is meant: an item by its number, a box, or the whole; by default the item that answers
    best."""

    box: Box | None = None
    item: Annotated[int, Field(ge=1)] | None = None
    whole: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> "Region":
        if (self.box is not None) + (self.item is not None) + self.whole > 1:
            raise ValueError("give one of box, item and whole")
        return self


class SearchRequest(Region):
    """What is looked for: one photo or several of one item, words, liked SKUs, or these together.

    Attributes:
        photo_id, photo_ids: of uploads, one or several of one item.
        text_weight: 0 for the photo alone, 1 for the words alone.
        not_text, not_weight: words that push away, and how far.
        like, unlike: SKU ids; they are no answers.
        where: by column, alternatives or a range; each column narrows the search.
        facets: over how many best answers values are counted; 0 counts none.
        index: which index is asked; the first that is served by default.
    """

    photo_id: PhotoId | None = None
    photo_ids: Annotated[list[PhotoId], Field(max_length=8)] = []
    text: Words | None = None
    text_weight: Weight = 0.5
    not_text: Annotated[list[Words], Field(max_length=8)] = []
    not_weight: Annotated[float, Field(ge=0, le=10)] = 0.5
    like: Annotated[list[SkuId], Field(max_length=100)] = []
    unlike: Annotated[list[SkuId], Field(max_length=100)] = []
    where: dict[str, Annotated[list[Value], Field(min_length=1, max_length=1000)] | Range] = {}
    top: Annotated[int, Field(ge=1, le=MOST)] = 20
    facets: Annotated[int, Field(ge=0, le=1000)] = 0
    index: IndexName | None = None


class ExplainRequest(Region):
    """Asks where a photo and a SKU are alike; without box, item or whole of the detector's first item."""

    photo_id: PhotoId
    sku_id: SkuId
    index: IndexName | None = None


class FeedbackRequest(Body):
    """Says whether an answer of a search was right."""

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    sku_id: SkuId
    good: bool


class FoundItem(BaseModel):
    """An item that the detector found in a photo; `number` counts from 1."""

    number: int
    box: Box
    label: str
    score: float


class PhotoAnswer(BaseModel):
    """An uploaded photo: its id, its upright size in pixels, when it is forgotten (ISO 8601), its items."""

    photo_id: str
    width: int
    height: int
    expires_at: str
    items: list[FoundItem]
    index_version: str


class Product(BaseModel):
    """A SKU; `fields` are its further columns, `image_url` is null if the index has no picture of it."""

    sku_id: str
    title: str | None
    category: str | None
    fields: dict[str, Any]
    image_url: str | None


class ProductAnswer(Product):
    """One product."""

    index_version: str


class Hit(Product):
    """One result.

    Attributes:
        score: what ranked it, as in `query.answers.Hit`.
        similarity_percent: cosine of query and vector in per cent, 0 to 100.
        confidence: calibrated probability that it is right; null where it is unknown.
        maxsim: of the second look, null without one.
        parts: of an index of pictures, what each stage after the search says (`query.answers.Hit`).
        matched: words of the text that the SKU has.
        rule: pin or bury, if an operator moved it.
    """

    rank: int
    score: float
    similarity_percent: float
    confidence: float | None
    maxsim: float | None
    parts: dict[str, float] = {}
    matched: list[str]
    rule: Literal["pin", "bury"] | None = None


class AnsweredItem(FoundItem):
    """An item that was searched for, and its first answer."""

    sku_id: str | None
    similarity: float | None


class SearchAnswer(BaseModel):
    """Ranked SKUs, as `query.answers.Answer` says; `ms` has milliseconds by stage, `queue` among them."""

    request_id: str
    index: str
    index_version: str
    hits: list[Hit]
    verdict: Literal["match", "similar", "none"] | None
    confidence: float | None
    no_verdict: str | None
    facets: dict[str, dict[str, int]] | None
    action: str | None
    box: Box | None
    item: int | None
    items: list[AnsweredItem]
    ms: dict[str, float]


class ColumnFacet(BaseModel):
    """A column that narrows a search: its values with their counts, or the ends of its numbers or dates."""

    column: str
    counts: dict[str, int] | None
    ends: tuple[Value, Value] | None


class FacetsAnswer(BaseModel):
    """What a search can be narrowed by, over the whole index."""

    index_version: str
    facets: list[ColumnFacet]


class Map(BaseModel):
    """A heat map over a picture.

    Attributes:
        cells: rows of numbers.
        seen: the part of the picture that the rows cover, x1, y1, x2, y2 in pixels; may reach outside.
        width, height: of the picture, pixels.
    """

    cells: list[list[float]]
    seen: tuple[float, float, float, float]
    width: int
    height: int


class PairOfPlaces(BaseModel):
    """Two places that are alike, in pixels of the two maps' pictures; see `query.explain.Pair`."""

    photo_box: Box
    view_box: Box
    similarity: float
    lead: float | None


class ExplainAnswer(BaseModel):
    """Why a SKU answers a photo; see `query.explain.Explanation`. `box` is the part of the photo."""

    sku_id: str
    index_version: str
    cosine: float
    method: str
    box: Box | None
    photo: Map
    view: Map | None
    view_url: str | None
    maxsim: float | None
    pairs: list[PairOfPlaces]
    left_out: str


class IndexInUse(BaseModel):
    """One index of the service, as a page needs it."""

    name: str
    version: str
    num_skus: int
    detects: bool
    verdicts: bool
    explains: bool
    words: bool


class ServiceAnswer(BaseModel):
    """What the service can do, and what a page needs to know of it."""

    title: str
    indexes: list[IndexInUse]
    fields: list[str] | None
    feedback: bool
    photo_megabytes: float
    photo_minutes: float


class IndexRequest(Body):
    """Names an index, and for a roll-back the version to use again: by default the one before."""

    index: IndexName | None = None
    version: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class ReloadRequest(Body):
    """Names the index to look at now; by default all."""

    index: IndexName | None = None


class IndexVersion(BaseModel):
    """A stored version of an index; `created` is ISO 8601."""

    version: str
    state: Literal["in use", "published", "withdrawn", "candidate"]
    created: str
    num_skus: int | None


class FailedVersion(BaseModel):
    """A version that could not be opened; the one before it answers on."""

    version: str
    reason: str
    when: str


class IndexState(BaseModel):
    """An index as an operator sees it.

    Attributes:
        version: that answers; null before any could be opened.
        num_skus: that are searched, without the hidden ones.
        encoder: kind of its image tower; `encoder_digest` is of the whole checkpoint.
        versions: the last published first.
    """

    name: str
    version: str | None
    created: str | None
    age_seconds: float | None
    num_skus: int | None
    num_hidden: int
    encoder: str | None
    encoder_digest: str | None
    versions: list[IndexVersion]
    failed: FailedVersion | None


class IndexesAnswer(BaseModel):
    """Every index of the service."""

    indexes: list[IndexState]


class RuleState(BaseModel):
    """A rule; `bias` is null for the index's usual one, `unused_in` names indexes without the SKU."""

    sku_id: str
    rule: Literal["pin", "bury", "hide"]
    bias: float | None
    unused_in: list[str]


class RulesAnswer(BaseModel):
    """All rules by SKU; `problem` says why the file of rules can't be read, if it can't."""

    rules: list[RuleState]
    problem: str | None


class ReadyAnswer(BaseModel):
    """Whether requests should come here.

    Attributes:
        reason: why not.
        versions: in use, by index.
        failed: why a newer version is not in use, by index.
        problems: what else an operator should look at.
    """

    ready: bool
    reason: str | None
    versions: dict[str, str]
    failed: dict[str, str]
    problems: list[str]


class ProductStored(BaseModel):
    """A product that was put into the drop folder; it is found once the graph has built an index with it."""

    sku_id: str
    row: str
    pictures: list[str]


class FeedbackAnswer(BaseModel):
    """What was kept of a thumb."""

    kept: bool
    photo_kept: bool


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
