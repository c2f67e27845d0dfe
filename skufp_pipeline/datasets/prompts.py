"""Texts for images. DeepFashion2 has none, so prompts are generated (report, appendix D).

Of the two templates, `metadata` is the report's (category, domain, occlusion, viewpoint) and `attributes`
adds colours, pattern and lightness from the pixels, to say more than the category. `captions` are generated
by an image-to-text model, if a preset names one. A SKU with a title or description is *described*: the
catalogue's text is used.

To keep text queries out of training, `build_image_text` assigns a role to each sentence of a described SKU
once; everything else only reads `sentences` and `sentence_roles`. Catalog views of a training SKU carry only
its `train` sentences; the held-out ones appear only in `build_text_queries`. All sentences of SKUs of other
splits are held out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from skufp_pipeline.datasets.attributes import ItemAttributes, cut_of, describe
from skufp_pipeline.datasets.reading import DECODE_THREADS, Row, map_in_threads
from skufp_pipeline.datasets.splits import SplitSettings, query_role
from skufp_pipeline.datasets.table import (
    CATALOG,
    EVALUATION,
    GALLERY,
    ITEM_ORDER,
    ITEM_SCHEMA,
    QUERY,
    TRAIN,
    item_id,
)
from skufp_pipeline.hashing import stable_fraction, stable_hash
from skufp_pipeline.photos import read_crop
from skufp_pipeline.settings import Settings

# The fields of the JSONL contract, in its order.
CONTRACT_FIELDS = (
    "split",
    "sku_id",
    "pair_id",
    "style",
    "category_id",
    "category_name",
    "domain",
    "image_path",  # of the crop: <split>/<domain>/<sku_id>/<image_id>_item<idx>.jpg
    "orig_image_path",
    "image_id",
    "item_idx",
    "bbox",
    "occlusion",
    "viewpoint",
    "text",
)
IMAGE_TEXT_SCHEMA: dict[str, pl.DataType] = {
    **{name: ITEM_SCHEMA.get(name, pl.String()) for name in CONTRACT_FIELDS},
    "role": pl.String(),
    "title": pl.String(),
    "description": pl.String(),  # includes held-out sentences: never train on it
    "colours": pl.List(pl.String()),
    "pattern": pl.String(),
    "lightness": pl.String(),
    "sleeve": pl.String(),  # short, long or sleeveless; null if the category does not say
    "length": pl.String(),  # short or long; null likewise
    "text_metadata": pl.String(),
    "text_attributes": pl.String(),
    "text_captions": pl.String(),  # null without an image-to-text model or if its caption is empty
    "sentences": pl.List(pl.String()),  # of all the SKU's rows; empty if it is not described
    "sentence_roles": pl.List(pl.String()),  # train | development | evaluation, one per sentence
}
TEXT_SCHEMA: dict[str, pl.DataType] = {
    "text_id": pl.String(),  # stable: independent of the rest of the shard
    "sku_id": pl.String(),
    "split": pl.String(),
    "role": pl.String(),
    "text": pl.String(),
}
CATALOG_TEXT_SCHEMA: dict[str, pl.DataType] = {
    **TEXT_SCHEMA,
    "image_id": pl.String(),  # of the catalog view that the text belongs to
    "item_idx": pl.Int32(),
}

TEXT_SOURCES = ("metadata", "attributes", "captions")  # each has a column `text_<source>`
PHOTO = {CATALOG: "catalog photo", QUERY: "user photo"}
NOT_WORN = 1
VIEWPOINT = {2: "from the front", 3: "from the side or back"}
OCCLUSION = {2: "partially occluded", 3: "heavily occluded"}
# Words whose first vowel is pronounced as a consonant, and the reverse.
SOUNDS_LIKE_CONSONANT = re.compile(r"(uni|use|usu|eu|one\b|once\b)", re.IGNORECASE)
SOUNDS_LIKE_VOWEL = re.compile(r"(hour|honest|heir)", re.IGNORECASE)
# After . ! or ?, unless a lower-case letter or digit follows ("approx. 5 cm"); at a new line.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?![a-z0-9])|[\r\n]+")
ATTRIBUTE_SIDE = 96  # pixels: twice what describe() uses; JPEG decodes to it directly


PIXELS = "pixels"


class CaptionSettings(Settings):
    """An image-to-text model of transformers that captions every crop."""

    # A hub id, or a folder that save_pretrained wrote, here or in a package; `pixels`: no model, but colours,
    # lightness and pattern as they are measured.
    model: str
    prompt: str | None = None  # text input; Florence-2 needs "<CAPTION>", BLIP nothing
    batch_size: int = Field(16, ge=1)
    max_new_tokens: int = Field(30, ge=1)

    def weight_files(self) -> dict[str, str | None]:
        """Returns the weights by the setting that names them."""
        return {"prompts.captions.model": None if self.model == PIXELS else self.model}


class PromptSettings(Settings):
    """Which prompts are used, and how often training texts carry supervision tokens."""

    kind: Literal["metadata", "attributes", "captions"] = "attributes"
    captions: CaptionSettings | None = None  # a third source of prompts; null disables it
    supervision_tokens: bool = False  # append "(style X, SKU Y)" to training texts
    token_dropout: float = Field(0.5, ge=0, le=1)  # share of training texts without the tokens

    def decisive(self) -> dict[str, Any]:
        """Returns what affects the prompts, JSON-able; the batch size of captions does not."""
        return self.model_dump(exclude={"captions": {"batch_size"}})

    @model_validator(mode="after")
    def _captions_have_a_model(self) -> Self:
        if self.kind == "captions" and self.captions is None:
            raise ValueError("kind captions needs captions.model")
        return self


def metadata_prompt(row: Mapping[str, Any]) -> str:
    """Fills the report's template for one item, from the columns of the internal table.

    "A user photo of a person wearing a heavily occluded short sleeve top from the side or back."
    """
    return _prompt(row, [])


def attribute_prompt(row: Mapping[str, Any], attributes: ItemAttributes) -> str:
    """Adds lightness, colours, pattern and an implied "sleeveless" before the category.

    "A user photo of a person wearing a dark navy and white striped short sleeve top from the front."
    """
    sleeve = ["sleeveless"] if cut_of(row["category_name"]).sleeve == "sleeveless" else []
    return _prompt(row, [*_adjectives(attributes), *sleeve])


def pixel_caption(image: np.ndarray) -> str:
    """Says what (H, W, 3) uint8 RGB pixels show without any model; the category stays unknown.

    >>> pixel_caption(np.full((8, 8, 3), (25, 35, 75), np.uint8))
    'dark navy plain clothes'
    """
    return " ".join([*_adjectives(describe(image)), "clothes"])


def _adjectives(attributes: ItemAttributes) -> list[str]:
    says_itself = attributes.colours[0] in ("black", "white")
    lightness = [] if says_itself or attributes.lightness == "medium" else [attributes.lightness]
    return [*lightness, " and ".join(attributes.colours), attributes.pattern]


def _prompt(row: Mapping[str, Any], adjectives: list[str]) -> str:
    occlusion = OCCLUSION.get(row["occlusion"])
    thing = _noun_phrase(row, [occlusion, *adjectives] if occlusion else adjectives)
    photo = f"A {PHOTO[row['domain']]} of"
    viewpoint = row["viewpoint"]
    if viewpoint == NOT_WORN:
        return f"{photo} {thing}, not worn."
    if viewpoint in VIEWPOINT:
        return f"{photo} a person wearing {thing} {VIEWPOINT[viewpoint]}."
    return f"{photo} {thing}."


def _noun_phrase(row: Mapping[str, Any], adjectives: list[str]) -> str:
    """Adds an article, except to a title, which is a name, and to a plural such as "shorts"."""
    title = row.get("title")
    name = " ".join((title or row["category_name"]).split()).rstrip(" .!?")
    phrase = " ".join([*adjectives, name])
    is_plural = name.endswith("s") and not name.endswith("ss")
    return phrase if title or is_plural else f"{_article(phrase)} {phrase}"


def _article(phrase: str) -> str:
    if SOUNDS_LIKE_VOWEL.match(phrase):
        return "an"
    starts_with_vowel = phrase[:1].lower() in set("aeiou")
    return "an" if starts_with_vowel and not SOUNDS_LIKE_CONSONANT.match(phrase) else "a"


def with_supervision_tokens(prompt: str, row: Mapping[str, Any]) -> str:
    """Appends the SKU's identity to the prompt: for training only, never for a query."""
    style = "" if row["style"] is None else f"style {row['style']}, "
    return f"{prompt} ({style}SKU {row['sku_id']})"


def sentences(title: str | None, description: str | None) -> list[str]:
    """Returns the title, if any, and the sentences of the description, each once.

    >>> sentences("Linen shirt", "Cut wide. Cut wide. Washes well.")
    ['Linen shirt', 'Cut wide.', 'Washes well.']
    """
    parts = [] if title is None else [title]
    parts += [] if description is None else SENTENCE_END.split(description)
    cleaned = (" ".join(part.split()) for part in parts)
    by_key = {
        _sentence_key(part): part for part in reversed([part for part in cleaned if _sentence_key(part)])
    }
    return list(reversed(by_key.values()))


def _sentence_key(sentence: str) -> str:
    """Returns the key by which sentences are compared, without capitals and final stop."""
    return sentence.casefold().strip(" .!?")


def build_image_text(
    crops: pl.DataFrame,
    crop_dir: Path,
    settings: PromptSettings,
    splits: SplitSettings,
    caption: Callable[[list[Path]], list[str]] | None = None,
) -> pl.DataFrame:
    """Builds the image-text table of a shard.

    Args:
        crops: items with a `crop_path` relative to `crop_dir`. All items of a SKU must be in it,
            because the role of a sentence holds for the whole SKU.
        splits: its fractions apply to sentences as they do to query images.
        caption: returns a line of text for each crop file, empty if it has none.

    Returns:
        `IMAGE_TEXT_SCHEMA`, one row per crop, sorted by `ITEM_ORDER`. `text` never has supervision tokens. On
        a catalog row of a described SKU it is the catalogue's text: the `train` sentences of a training SKU,
        all of another's. Elsewhere it is the prompt of `settings.kind` (`metadata` if a caption is empty).

    Raises:
        UserError: a crop can't be read.
    """
    rows = list(crops.sort(ITEM_ORDER).iter_rows(named=True))
    attributes = map_in_threads(
        lambda row: describe(np.asarray(read_crop(crop_dir / row["crop_path"], ATTRIBUTE_SIDE))),
        rows,
        threads=DECODE_THREADS,
    )
    captions = caption([crop_dir / row["crop_path"] for row in rows]) if caption else [""] * len(rows)
    roles_of_sku = _sentence_roles(rows, splits)
    built = [
        _image_text_row(row, described, line, roles_of_sku[row["sku_id"]], settings)
        for row, described, line in zip(rows, attributes, captions, strict=True)
    ]
    return pl.DataFrame(built, schema=IMAGE_TEXT_SCHEMA)


def build_text_queries(image_text: pl.DataFrame) -> pl.DataFrame:
    """Returns the text queries, `TEXT_SCHEMA`: one per sentence of a described SKU, with the sentence's role,
    and one per query row of any other SKU, with the row's text and role."""
    templates = image_text.filter(_is_template() & (pl.col("domain") == QUERY))
    of_rows = templates.select(item_id().alias("text_id"), "sku_id", "split", "role", "text")
    return _sorted_texts([of_rows, _sku_sentences(image_text)], TEXT_SCHEMA)


def source_queries(image_text: pl.DataFrame, source: str) -> pl.DataFrame:
    """Returns evaluation queries, `TEXT_SCHEMA`, of SKUs that are not described, worded by one of
    `TEXT_SOURCES`; for comparison all sources cover the same photos (less those without a caption)."""
    queries = image_text.filter(
        _is_template() & (pl.col("domain") == QUERY) & (pl.col("role") == EVALUATION)
    ).with_columns(text=pl.col(f"text_{source}"))
    texts = queries.drop_nulls("text").select(item_id().alias("text_id"), "sku_id", "split", "role", "text")
    return _sorted_texts([texts], TEXT_SCHEMA)


def build_catalog_texts(image_text: pl.DataFrame) -> pl.DataFrame:
    """Returns the gallery's texts, `CATALOG_TEXT_SCHEMA`, with role `gallery`.

    The encoder may train on those of training SKUs, and text teachers are chosen from them. A described SKU
    has its `train` sentences, with its first catalog view (none outside the training split, where every
    sentence is a query); any other has the text of each of its catalog rows.
    """
    views = image_text.filter(pl.col("domain") == CATALOG).with_columns(role=pl.lit(GALLERY))
    templates = views.filter(_is_template()).with_columns(text_id=item_id())
    first_view = (
        views.group_by("sku_id", maintain_order=True).first().select("sku_id", "image_id", "item_idx")
    )
    training_sentences = (
        _sku_sentences(image_text).filter(pl.col("role") == TRAIN).with_columns(role=pl.lit(GALLERY))
    )
    of_skus = training_sentences.join(first_view, on="sku_id")
    return _sorted_texts([templates, of_skus], CATALOG_TEXT_SCHEMA)


def training_texts(image_text: pl.DataFrame, settings: PromptSettings, epoch: int = 0) -> pl.DataFrame:
    """Returns the (crop, text) pairs an encoder may train on in one epoch, in the order of `image_text`.

    These are rows of training SKUs with role `gallery` or `train`, with the columns image_path, sku_id,
    domain, image_id, item_idx and text. With `supervision_tokens`, a stable draw per crop and epoch appends
    them to all but `token_dropout` of the texts.
    """
    allowed = (pl.col("split") == "train") & pl.col("role").is_in([GALLERY, TRAIN])
    rows = image_text.filter(allowed)
    texts = [_training_text(row, settings, epoch) for row in rows.iter_rows(named=True)]
    columns = rows.select("image_path", "sku_id", "domain", "image_id", "item_idx")
    return columns.with_columns(text=pl.Series(texts, dtype=pl.String))


def _training_text(row: Row, settings: PromptSettings, epoch: int) -> str:
    draw = stable_fraction(row["image_path"], f"supervision-tokens-{epoch}")
    if not settings.supervision_tokens or draw < settings.token_dropout:
        return row["text"]
    return with_supervision_tokens(row["text"], row)


def _sentence_roles(rows: Sequence[Row], splits: SplitSettings) -> dict[str, dict[str, str]]:
    """Returns every SKU's roles by sentence; empty for one that is not described."""
    rows_of_sku: dict[str, list[Row]] = {}
    for row in rows:
        rows_of_sku.setdefault(row["sku_id"], []).append(row)
    return {sku_id: _roles_of_sku(sku_id, group, splits) for sku_id, group in rows_of_sku.items()}


def _roles_of_sku(sku_id: str, rows: Sequence[Row], splits: SplitSettings) -> dict[str, str]:
    """Returns the role of each sentence over all rows of a SKU.

    In a training SKU the first sentence of each row (its title, if any) is always `train`, because it names
    the views; so is a sentence that is part of a `train` sentence.
    """
    texts = dict.fromkeys((row["title"], row["description"]) for row in rows)  # without duplicates, in order
    of_rows = [sentences(title, description) for title, description in texts]
    by_key: dict[str, str] = {}
    for sentence in (sentence for own in of_rows for sentence in own):
        by_key.setdefault(_sentence_key(sentence), sentence)
    if rows[0]["split"] != "train":
        return dict.fromkeys(by_key.values(), EVALUATION)
    roles = {key: query_role(f"{sku_id}/{key}", splits) for key in by_key}
    roles |= {_sentence_key(own[0]): TRAIN for own in of_rows if own}
    shown = [key for key, role in roles.items() if role == TRAIN]
    return {
        sentence: TRAIN if any(key in text for text in shown) else roles[key]
        for key, sentence in by_key.items()
    }


def _image_text_row(
    row: Row, attributes: ItemAttributes, caption: str, roles: dict[str, str], settings: PromptSettings
) -> Row:
    texts: dict[str, str | None] = {
        "metadata": metadata_prompt(row),
        "attributes": attribute_prompt(row, attributes),
        "captions": caption or None,
    }
    if roles and row["domain"] == CATALOG:
        catalogue_text = _catalogue_text(row, roles)
        texts = dict.fromkeys(texts, catalogue_text)
    fields = {name: row[name] for name in IMAGE_TEXT_SCHEMA if name in row}
    cut = cut_of(row["category_name"])
    return fields | {
        "image_path": row["crop_path"],
        "text": texts[settings.kind] or texts["metadata"],
        "text_metadata": texts["metadata"],
        "text_attributes": texts["attributes"],
        "text_captions": texts["captions"],
        "colours": list(attributes.colours),
        "pattern": attributes.pattern,
        "lightness": attributes.lightness,
        "sleeve": cut.sleeve,
        "length": cut.length,
        "sentences": list(roles),
        "sentence_roles": list(roles.values()),
    }


def _catalogue_text(row: Row, roles: dict[str, str]) -> str:
    """Joins the sentences of the SKU that this row may show."""
    in_training = row["split"] == "train"
    shown = [sentence for sentence, role in roles.items() if role == TRAIN or not in_training]
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in shown)


def _is_template() -> pl.Expr:
    return pl.col("sentences").list.len() == 0


def _sku_sentences(image_text: pl.DataFrame) -> pl.DataFrame:
    """Returns one row of `TEXT_SCHEMA` per sentence of each described SKU."""
    of_sku = image_text.filter(~_is_template()).unique("sku_id", keep="first", maintain_order=True)
    long = of_sku.select("sku_id", "split", text="sentences", role="sentence_roles").explode("text", "role")
    ids = [
        f"{sku_id}#{stable_hash(_sentence_key(text), 'text-id'):016x}"
        for sku_id, text in long.select("sku_id", "text").iter_rows()
    ]
    return long.with_columns(text_id=pl.Series(ids, dtype=pl.String))


def _sorted_texts(parts: list[pl.DataFrame], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    return (
        pl.concat([part.select(*schema) for part in parts]).cast(pl.Schema(schema)).sort("sku_id", "text_id")
    )
