"""The stages that may follow the search in an index of pictures: texts beside the picture, and a re-ranker.

    captions   the photo's caption, embedded, against the catalogue's: the text score of a product is the
               cosine of its best text
    fusion     (1 - w) picture + w text, joined by product: exact over the whole index (Fagin, Lotem and Naor,
               "Optimal aggregation algorithms for middleware", 2001, the threshold algorithm). A product
               without a text scores `absent`, what an unrelated text scores on average. A photo whose caption
               is empty is ranked by its picture.
    rerank     the best `top` by their score so far + r times the cosine of another network's embeddings of
               photo and picture, the best picture of each product; the others keep their order

w and r are chosen on development photos, by mean reciprocal rank; 0 is among the choices and leaves the stage
off. In the bundle:

    multi_stage.json   what is on, the weights, and how each weight did
    texts/, rerank/    an `ImageIndex` each: texts and pictures by product
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from skufp_pipeline.artifacts.kinds import StageModels
from skufp_pipeline.artifacts.places import STAGE_MODELS, extractor_checkpoint
from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.captions import Captioner, load_captioner
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.encoders.sentences import SentenceEncoder, load_sentences, saved
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.encoders.timm_tower import load_timm_tower
from skufp_pipeline.errors import UserError, in_a_line
from skufp_pipeline.extractors.extractor import load_extractor
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.look_twice import Reranker
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex, SearchResult
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.search.versions import encoder_of
from skufp_pipeline.settings import Settings
from skufp_pipeline.store import Artifact, ArtifactStore

CONFIG_FILE, TEXTS_FOLDER, RERANK_FOLDER = "multi_stage.json", "texts", "rerank"
AT_ONCE = 50  # products that are asked for at first, of pictures and of texts
Floats = NDArray[np.float64]


class Chosen(Settings):
    """A weight, and how it was chosen.

    Attributes:
        chosen_on: development photos; None where the weight was not chosen on any.
        tried: `weight`, `recall@1`, `mrr` of each.
    """

    weight: float
    chosen_on: int | None = None
    tried: list[dict[str, float]] = []


class TextsFile(Chosen):
    """The text stage: the model that captions, and the score of a product without a text."""

    captions: CaptionSettings
    absent: float


class RerankFile(Chosen):
    """The re-ranker: how many products it ranks, and which extractor it is (None: one of `STAGE_MODELS`)."""

    top: int
    extractor: str | None = None


class MultiStageFile(Settings):
    """Schema of `multi_stage.json`."""

    boxes: Literal["best", "merge"] = "best"
    texts: TextsFile | None = None
    rerank: RerankFile | None = None


class Further(NamedTuple):
    """What the stages know of a photo: its caption, the (1, D) embedding of that (None if it is empty), and
    its (1, D) embedding for the re-ranker."""

    caption: str | None = None
    sentence: NDArray[np.float32] | None = None
    picture: NDArray[np.float32] | None = None


class Ranked(NamedTuple):
    """Products, best first, with what ranked them, and what each stage says of each, by its name."""

    rows: NDArray[np.int64]
    scores: Floats
    parts: list[dict[str, float]]


@dataclass(frozen=True)
class OfProducts:
    """Texts or pictures of products, joined to the rows of an index by SKU id.

    Attributes:
        index: one row per product that has any.
        places: (N,) row there of each product of the other index, -1 if it has none.
        owners: the reverse: (M,) rows in the other index.
    """

    index: ImageIndex
    places: NDArray[np.int64]
    owners: NDArray[np.int64]

    @classmethod
    def joined(cls, index: ImageIndex, sku_ids: pl.Series) -> "OfProducts":
        """Raises UserError if there is a product that the other index has not."""
        places, owners = (
            right_items(sku_ids, index.skus["sku_id"]),
            right_items(index.skus["sku_id"], sku_ids),
        )
        if (owners < 0).any():
            unknown = index.skus["sku_id"][int(np.argmin(owners))]
            raise UserError(f"SKU {unknown!r} of a stage is not in the index; materialize the index again")
        return cls(index, places, owners)

    @classmethod
    def load(cls, directory: Path, index: ImageIndex) -> "OfProducts":
        """Opens texts or pictures of the products of an index; raises UserError if they can't be read."""
        return cls.joined(ImageIndex.load(directory), index.skus["sku_id"])

    @classmethod
    def write(cls, directory: Path, rows: pl.DataFrame, index: ImageIndex) -> "OfProducts":
        """Writes texts or pictures (`item_id`, `sku_id`, `embedding`) of an index's products; opens them."""
        table = rows.sort("sku_id", "item_id")
        vectors = FingerprintIndex(embedding_rows(table), table.select(sku_id="item_id"))
        owners = table["sku_id"].rle_id().to_numpy().astype(np.int64)
        products = table.select("sku_id").unique(maintain_order=True)
        directory.mkdir()
        ImageIndex.of_pictures(vectors, products, owners).save(directory)
        return cls.load(directory, index)

    def scores(self, query: NDArray[np.floating], rows: NDArray[np.int64], absent: float) -> Floats:
        """(n,) cosines with the best of each product; `absent` of a product that has none."""
        found, places = np.full(len(rows), absent), self.places[rows]
        found[places >= 0] = self.index.cosines(query, places[places >= 0])
        return found

    def search(self, query: NDArray[np.floating], count: int, within: Rows | None) -> SearchResult:
        """The best products, by rows of the other index."""
        chosen = None
        if within is not None:
            mask = np.zeros(len(self.places), bool)
            mask[within.numbers()] = True
            parts = np.split(mask[self.owners], np.cumsum(self.index.present.sizes)[:-1])
            chosen = Rows.of_masks(parts)
        found = self.index.search(query, count, chosen)[0]
        return SearchResult(self.owners[found.rows], found.scores)


def fuse(
    index: ImageIndex,
    texts: OfProducts,
    query: NDArray[np.floating],
    sentence: NDArray[np.floating],
    weight: float,
    absent: float,
    top: int,
    within: Rows | None = None,
) -> Ranked:
    """The best `top` products by (1 - weight) picture + weight text, exactly; ties are broken by row.

    No product beyond both lists can score more than the ends of the lists do together; the lists grow until
    the last answer is better than that.
    """
    count = max(AT_ONCE, top)
    while True:
        seen, said = index.search(query, count, within)[0], texts.search(sentence, count, within)
        rows = np.union1d(seen.rows, said.rows)
        pictures, spoken = index.cosines(query, rows), texts.scores(sentence, rows, absent)
        scores = (1 - weight) * pictures + weight * spoken
        best = np.lexsort((rows, -scores))[:top]
        if len(seen.rows) < count:
            break  # all products are there
        unseen = max(absent, said.scores[-1]) if len(said.rows) == count else absent
        if scores[best[-1]] > (1 - weight) * seen.scores[-1] + weight * unseen:
            break
        count *= 4
    pairs = zip(pictures[best].tolist(), spoken[best].tolist(), strict=True)
    return Ranked(rows[best], scores[best], [{"picture": one, "text": other} for one, other in pairs])


@dataclass(frozen=True)
class Fusion:
    """Texts of the catalogue beside its pictures, and what they weigh."""

    texts: OfProducts
    weight: float
    absent: float


def first_pass(
    index: ImageIndex,
    fusion: Fusion | None,
    query: NDArray[np.floating],
    sentence: NDArray[np.floating] | None,
    top: int,
    within: Rows | None = None,
) -> Ranked:
    """The best `top` products by picture and text, or by the picture alone where there is no text."""
    if fusion is not None and sentence is not None:
        return fuse(index, fusion.texts, query, sentence, fusion.weight, fusion.absent, top, within)
    found = index.search(query, top, within)[0]
    return Ranked(*found, [{"picture": score} for score in found.scores.tolist()])


@dataclass(frozen=True)
class PictureReranker(Reranker):
    """Ranks products anew by another network's (1, D) embedding of the photo and those of their pictures."""

    pictures: OfProducts
    top: int
    weight: float

    def compared(self, rows: NDArray[np.int64], photo: NDArray[Any]) -> Floats:
        return self.pictures.scores(photo, rows, 0.0)


@dataclass(frozen=True)
class Words:
    """The models that put a photo into words and embed them."""

    captioner: Captioner
    sentences: SentenceEncoder


@dataclass(frozen=True)
class MultiStage:
    """The stages of an index; what is None is off.

    Attributes:
        merge: whether all items of a photo answer together (`regions.MERGE`) unless another region is asked.
        words, fusion: of the text stage.
        encoder, reranker: of the last; the encoder embeds photos for it.
    """

    merge: bool = False
    words: Words | None = None
    fusion: Fusion | None = None
    encoder: ImageEncoder | None = None
    reranker: PictureReranker | None = None

    @classmethod
    def open(
        cls,
        store: ArtifactStore,
        artifact: Artifact,
        index: ImageIndex,
        device: torch.device,
        all_on: bool = False,
    ) -> "MultiStage | None":
        """Opens the stages of an index with their models; None if it has none.

        Args:
            all_on: open stages of weight 0 too.

        Raises:
            UserError: a file or model is missing, or of another version.
        """
        file = read_multi_stage(artifact.path)
        if file is None:
            return None
        stages = cls(file.boxes == "merge")
        if not any(part and (all_on or part.weight) for part in (file.texts, file.rerank)):
            return stages
        if (texts := file.texts) and (all_on or texts.weight):
            sentences = load_sentences(saved(_models(store, artifact).sentences), device)
            joined = OfProducts.load(artifact.path / TEXTS_FOLDER, index)
            words = Words(load_captioner(texts.captions, device), sentences)
            stages = replace(stages, words=words, fusion=Fusion(joined, texts.weight, texts.absent))
        if (rerank := file.rerank) and (all_on or rerank.weight):
            pictures = OfProducts.load(artifact.path / RERANK_FOLDER, index)
            reranker = PictureReranker(pictures, rerank.top, rerank.weight)
            encoder = _reranking_encoder(store, artifact, rerank.extractor, device)
            stages = replace(stages, encoder=encoder, reranker=reranker)
        return stages

    def see(self, image: Image.Image, clock: Clock) -> Further:
        """Makes of a photo what the stages need."""
        caption = sentence = picture = None
        if self.words is not None:
            caption = self.words.captioner.caption_image(image)
            clock.lap("caption")
            if caption:
                sentence = self.words.sentences.embed([caption])
                clock.lap("encode_caption")
        if self.encoder is not None:
            picture = self.encoder.embed_pixels(self.encoder.preprocess(image)[None])
            clock.lap("encode_rerank")
        return Further(caption, sentence, picture)

    def rank(
        self,
        index: ImageIndex,
        query: NDArray[np.floating],
        photo: Further,
        top: int,
        within: Rows | None,
        clock: Clock,
    ) -> Ranked:
        """The best `top` products after every stage."""
        wanted = top if self.reranker is None else max(top, self.reranker.top)
        found = first_pass(index, self.fusion, query, photo.sentence, wanted, within)
        clock.lap("search" if self.fusion is None else "fuse")
        if self.reranker is not None and photo.picture is not None:
            found = reranked(self.reranker, found, photo.picture)
            clock.lap("rerank")
        return Ranked(found.rows[:top], found.scores[:top], found.parts[:top])


def _models(store: ArtifactStore, artifact: Artifact) -> StageModels:
    """The models that an index version was built with."""
    models = STAGE_MODELS.open(encoder_of(store, artifact, STAGE_MODELS.name, STAGE_MODELS.key))
    artifact.require_input(STAGE_MODELS.name, models.digest)
    return models


def _reranking_encoder(
    store: ArtifactStore, artifact: Artifact, extractor: str | None, device: torch.device
) -> ImageEncoder:
    """The network that an index version's answers are ranked anew by."""
    if extractor is None:
        return load_timm_tower(_models(store, artifact).reranker, device)
    stored = extractor_checkpoint(extractor)
    checkpoint = encoder_of(store, artifact, stored.name, stored.key)
    artifact.require_input(stored.name, checkpoint.digest)
    return load_extractor(checkpoint.path / "encoder", device)


def reranked(reranker: Reranker, first: Ranked, photo: NDArray[Any]) -> Ranked:
    """Ranks the best anew, with the scores that they are ranked by, and `rerank` among the parts of each."""
    second = reranker.again(SearchResult(first.rows, first.scores), photo)
    parts_of = dict(zip(first.rows.tolist(), first.parts, strict=True))
    compared = zip(second.rows.tolist(), second.maxsim.tolist(), strict=True)
    parts = [parts_of[row] | ({} if np.isnan(found) else {"rerank": found}) for row, found in compared]
    return Ranked(second.rows, second.scores + reranker.weight * np.nan_to_num(second.maxsim), parts)


def read_multi_stage(directory: Path) -> MultiStageFile | None:
    """What a bundle says of its stages; None if it has none. Raises UserError if it can't be read."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return MultiStageFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} can't be read: {in_a_line(error)}; materialize the index again") from error
