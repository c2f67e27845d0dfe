"""Answers photo and text queries: decode, encode, apply the policy, search; each stage is timed."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    DETECTOR_CHECKPOINT,
    DETECTOR_ONNX,
    IMAGE_ENCODER_ONNX,
    LOOK_TWICE_CHECKPOINT,
    VLA_CHECKPOINT,
    image_encoder,
)
from skufp_pipeline.artifacts.stored import OFF
from skufp_pipeline.detection.regions import Box, Detector, Region
from skufp_pipeline.encoders.clip import Encoder, load_encoder
from skufp_pipeline.encoders.embed import ImageEncoder
from skufp_pipeline.encoders.patches import PatchEncoder, PatchHead
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import Patches
from skufp_pipeline.photos import (
    SIDE,
    PhotoError,
    PhotoSource,
    open_photo,
    reduced,
    what_is_wrong,
    whole_photo,
)
from skufp_pipeline.policy.actions import ACTIONS, IDENTITY
from skufp_pipeline.policy.enhance import fuse, processed, working_copy
from skufp_pipeline.policy.network import Policy, load_policy
from skufp_pipeline.policy.quality import quality_features
from skufp_pipeline.query.answers import Answer, Clock, Hit, Item
from skufp_pipeline.query.combine import Wish, mean_query, pushed_away, rocchio
from skufp_pipeline.query.confidence import LISTED, Confidence, NoVerdicts, features_of, read_confidence
from skufp_pipeline.query.explain import Explanation, ExplanationSettings, Matched, explain
from skufp_pipeline.query.facets import count_facets
from skufp_pipeline.query.image_encoders import load_image_encoder_of
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.query.multi_stage import Further, MultiStage
from skufp_pipeline.query.regions import (
    AUTO,
    MERGE,
    WHOLE,
    RegionChoice,
    View,
    best_item,
    merged_hits,
    views_of,
)
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.bundle import catalogue_columns, current_index
from skufp_pipeline.search.fusion import best_fused
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.index import FingerprintIndex, SearchResult, mix
from skufp_pipeline.search.lexical import LexicalFolder, LexicalIndex, open_lexical
from skufp_pipeline.search.pictures import Pictures, load_pictures
from skufp_pipeline.search.rows import Rows
from skufp_pipeline.search.versions import FINGERPRINTS, FIRST, encoder_of
from skufp_pipeline.store import Artifact, ArtifactStore

CACHED_TEXTS = 4096  # cached text embeddings: 8 MB at 512 dimensions
NO_PATCHES = "The index has no second look (look_twice), so the catalogue's picture has no heat map."
NOT_SHOWN = "The index does not say which pictures its patches are of, so this one has no heat map."
UsePolicy = Literal["on", "off", "auto"]  # auto: on if the index has a policy


class EmbeddedPhoto(NamedTuple):
    """A photo's embedding (1, D) without the policy and as the query, the policy's action, if any, and the
    (P, d) patches of the photo as it is, if the encoder makes them; `further` is for the stages that follow.
    """

    plain: NDArray[np.float32]
    query: NDArray[np.float32]
    action: str | None
    patches: Patches | None = None
    further: Further | None = None


class EmbeddedView(NamedTuple):
    """A part of a photo, embedded; `box`, `item` and `number` as in `regions.View`."""

    photo: EmbeddedPhoto
    box: Box | None = None
    item: Region | None = None
    number: int | None = None


class QueryEngine:
    """An index and the encoder that made its fingerprints.

    Args:
        encoder: embeds texts, and photos if there is no `image_encoder`; None: photos alone can be asked.
        image_encoder: embeds photos instead of `encoder`.
        policy: chooses how a photo is processed; None leaves photos unchanged.
        pictures: thumbnails of the SKUs, if the index has them.
        lexical: words of the SKUs; None compares texts by their vectors alone.
        look_twice: ranks the best SKUs of a photo by patches; its encoder must make them.
        confidence: judges the answers to photos; None gives no verdicts.
        multi_stage: what follows the search for a photo in an index of pictures; None: nothing.
        detector: finds the items of a photo; None searches for whole photos, or for the boxes that are given.
    """

    def __init__(
        self,
        index: FingerprintIndex,
        encoder: Encoder | None,
        image_encoder: ImageEncoder | None = None,
        policy: Policy | None = None,
        pictures: Pictures | None = None,
        lexical: LexicalIndex | LexicalFolder | None = None,
        look_twice: LookTwice | None = None,
        confidence: Confidence | NoVerdicts | None = None,
        detector: Detector | None = None,
        multi_stage: MultiStage | None = None,
    ) -> None:
        self._search_in(index)
        self._made_of: QueryEngine | None = None
        self.multi_stage = multi_stage
        self.confidence = confidence
        self.detector = detector
        self._lexical = lexical
        self.pictures = pictures
        self._encoder = encoder
        self.image_encoder: ImageEncoder = image_encoder or self.encoder
        self.policy = policy
        self.look_twice = look_twice
        self._text_row = lru_cache(CACHED_TEXTS)(lambda text: _reading(encoder).embed_texts([text]))

    @classmethod
    def open(
        cls,
        store: ArtifactStore,
        device: torch.device,
        settings: QueryEncoderSettings | None = None,
        use_policy: UsePolicy = "auto",
        name: str = FINGERPRINTS,
        use_words: bool = True,
        use_look_twice: bool = True,
        version: str | None = None,
        threads: int | None = None,
        all_stages: bool = False,
    ) -> "QueryEngine":
        """Opens a version of index `name`, by default that in use, with its encoder; `settings` may select
        ONNX Runtime.

        `use_words=False` leaves out the index's words, if it has any: texts count by their vectors alone.
        `use_look_twice=False` leaves the order of the first pass, and gives no verdicts.
        Of an index of pictures `use_look_twice=False` leaves out all stages after the search; `all_stages`
        opens those of weight 0 too. `threads` are those of one search, by default all cores.

        Raises:
            UserError: the index, its encoder, the encoder's ONNX export or a required policy is missing.
        """
        artifact, index = current_index(store, name, version, threads)
        index.warm_up()
        if isinstance(index, ImageIndex):
            engine = cls._open_pictures(store, artifact, index, device, use_policy, use_words)
            if use_look_twice:
                engine.multi_stage = MultiStage.open(store, artifact, index, device, all_stages)
            return engine
        checkpoint = encoder_of(store, artifact, CLIP_CHECKPOINT.name, CLIP_CHECKPOINT.key)
        artifact.require_input("clip_checkpoint", checkpoint.digest)
        encoder = load_encoder(checkpoint.path / "encoder", device)
        policy, pictures = _open_policy(store, artifact, use_policy), load_pictures(artifact.path)
        lexical = open_lexical(artifact.path, index.row_count) if use_words else None
        look_twice = LookTwice.open(artifact.path, index.row_count) if use_look_twice else None
        by_onnx = settings is not None and settings.engine == "onnx" and not artifact.summary.get(FIRST)
        wanted = settings.threads if settings is not None else 0
        threads = wanted or threads or torch.get_num_threads()
        kept: dict[str, Any] = {
            "policy": policy,
            "pictures": pictures,
            "lexical": lexical,
            "look_twice": look_twice,
            "confidence": read_confidence(artifact.path) if use_look_twice else None,
            "detector": _open_detector(store, artifact, device, threads if by_onnx else None),
        }
        if not by_onnx:
            seeing = None if look_twice is None else _with_patches(store, artifact, encoder)
            return cls(index, encoder, seeing, **kept)
        from skufp_pipeline.encoders.onnx import load_image_encoder  # needs onnxruntime

        exported = encoder_of(store, artifact, IMAGE_ENCODER_ONNX.name, IMAGE_ENCODER_ONNX.key)
        exported.require_input("clip_checkpoint", checkpoint.digest)
        image_encoder = load_image_encoder(exported.path, encoder.preprocess, threads)
        return cls(index, encoder, image_encoder, **kept)

    def _search_in(self, index: FingerprintIndex, unmoved: "QueryEngine | None" = None) -> None:
        self.index = index
        self._unmoved = unmoved
        spread = index.biases.max(initial=0) - index.biases.min(initial=0)
        self._exact = 5 + float(spread)  # more than cosine, bias and words can tell two SKUs apart

    @property
    def unmoved(self) -> "QueryEngine":
        """The engine that judges answers: this one, but for biases that `over` ranks by."""
        return self._unmoved or self

    def over(self, index: FingerprintIndex, moved: FingerprintIndex | None = None) -> "QueryEngine":
        """This engine over another index with the same rows, such as one without some of the SKUs.

        Args:
            moved: `index` with other biases, by which answers are ranked. Confidence, verdict, the choice of
                an item and the runner-up of an explanation are those of `index`.
        """
        engine = copy.copy(self)
        engine._made_of = self._made_of or self
        engine._search_in(index)
        if moved is None:
            return engine
        ranking = copy.copy(engine)
        ranking._search_in(moved, engine)
        return ranking

    @classmethod
    def _open_pictures(
        cls,
        store: ArtifactStore,
        artifact: Artifact,
        index: ImageIndex,
        device: torch.device,
        use_policy: UsePolicy,
        use_words: bool,
    ) -> "QueryEngine":
        """Opens an index of pictures with the encoder that embedded them, in PyTorch."""
        stored, _ = image_encoder(index.of)
        checkpoint = encoder_of(store, artifact, stored.name, stored.key)
        artifact.require_input(stored.name, checkpoint.digest)
        seeing = load_image_encoder_of(index.of, checkpoint.path / "encoder", device)
        encoder = seeing if isinstance(seeing, Encoder) else None
        policy, pictures = _open_policy(store, artifact, use_policy), load_pictures(artifact.path)
        lexical = open_lexical(artifact.path, index.row_count) if use_words else None
        detector = _open_detector(store, artifact, device, None)
        return cls(index, encoder, seeing, policy, pictures, lexical, detector=detector)

    @property
    def encoder(self) -> Encoder:
        """The encoder that embeds texts; raises UserError if the index was made without one."""
        return _reading(self._encoder)

    @property
    def reads_words(self) -> bool:
        """Whether a text can be asked."""
        return self._encoder is not None

    @property
    def lexical(self) -> LexicalIndex | None:
        """The words of the SKUs, if the index has them; raises UserError if they can't be read."""
        return self._lexical.index if isinstance(self._lexical, LexicalFolder) else self._lexical

    def picture(self, sku_id: str) -> bytes | None:
        """Returns the JPEG thumbnail of a SKU, or None if the index has none."""
        return None if self.pictures is None else self.pictures.get(sku_id)

    def explained_picture(self, sku_id: str) -> bytes | None:
        """Returns the JPEG of a SKU that `explain` shows, or None if the index has none."""
        pictures = None if self.look_twice is None else self.look_twice.pictures
        return (None if pictures is None else pictures.get(sku_id)) or self.picture(sku_id)

    def search_image(
        self,
        photo: PhotoSource | SeenPhoto,
        top: int,
        within: Rows | None = None,
        region: RegionChoice = AUTO,
    ) -> Answer:
        """Finds the SKUs nearest to a photo, or to an item in it.

        There is a verdict if the index has any and all of it is searched.

        Args:
            within: restricts the search to these SKUs (`index.where`, `index.of_skus`); by default all.
            region: what of the photo is searched for (`query.regions`).

        Raises:
            UserError: the file is missing, not an image, truncated or too large, or has no such region.
        """
        clock = Clock()
        _require_top(top)

        def answer(engine: QueryEngine, embedded: EmbeddedPhoto) -> Answer:
            found = engine._answer_photo(embedded, top, within, clock)
            return found if within is not None else engine._judged(found, embedded, clock)

        return self._best_of(photo, region, clock, answer)

    def _answer_photo(self, photo: EmbeddedPhoto, top: int, within: Rows | None, clock: Clock) -> Answer:
        if photo.further is not None:
            return self._answer_stages(photo, photo.further, top, within, clock)
        first = self.first_pass(photo, top, within)
        clock.lap("search")
        if self.look_twice is None or photo.patches is None:
            return Answer(self._hits(first, photo.query), clock.milliseconds, photo.action)
        second = self.look_twice.again(first, photo.patches)
        clock.lap("look_twice")
        ranked = SearchResult(second.rows[:top], second.scores[:top])
        hits = self._hits(ranked, photo.query, maxsim=second.maxsim)
        return Answer(hits, clock.milliseconds, photo.action)

    def _answer_stages(
        self, photo: EmbeddedPhoto, further: Further, top: int, within: Rows | None, clock: Clock
    ) -> Answer:
        assert self.multi_stage is not None
        assert isinstance(self.index, ImageIndex)
        found = self.multi_stage.rank(self.index, photo.query, further, top, within, clock)
        hits = self._hits(SearchResult(found.rows, found.scores), photo.query)
        told = [replace(hit, parts=parts) for hit, parts in zip(hits, found.parts, strict=True)]
        return Answer(told, clock.milliseconds, photo.action)

    def first_pass(self, photo: EmbeddedPhoto, top: int, within: Rows | None = None) -> SearchResult:
        """Returns the best `top` SKUs by fingerprint, or as many as the second look takes, if it is more."""
        wanted = top if self.look_twice is None else max(top, self.look_twice.top)
        return self.index.search(photo.query, wanted, within)[0]

    def search_text(self, text: str, top: int, within: Rows | None = None) -> Answer:
        """Finds the SKUs nearest to a text, and those that have its words; text embeddings are cached.

        Raises UserError if the text is empty or the index's words can't be read.
        """
        clock = Clock()
        query = self._embed_text(text)
        clock.lap("encode")
        return self._answer(query, top, within, clock, words=(text, 1))

    def search_mixed(
        self,
        photo: PhotoSource | SeenPhoto,
        text: str,
        text_weight: float,
        top: int,
        within: Rows | None = None,
        region: RegionChoice = AUTO,
    ) -> Answer:
        """Finds the SKUs nearest to a photo and a text combined.

        `text_weight` is 0 for the photo alone, 1 for the text alone; it also scales what the words of the
        text add. Raises as `search_image`, `search_text` and `mix` do.
        """
        if text_weight == 0:
            return self.search_image(photo, top, within, region)
        clock = Clock()

        def answer(engine: QueryEngine, embedded: EmbeddedPhoto) -> Answer:
            query = mix(embedded.query, engine._embed_text(text), text_weight)
            clock.lap("encode")
            return engine._answer(query, top, within, clock, embedded.action, (text, text_weight))

        return self._best_of(photo, region, clock, answer)

    def search_like(self, sku_id: str, top: int, within: Rows | None = None) -> Answer:
        """Finds the SKUs nearest to a SKU, excluding itself; raises UserError if the index lacks the SKU."""
        _require_top(top)
        clock = Clock()
        result = self.index.search_like(sku_id, top, within)
        clock.lap("search")
        return Answer(self._hits(result, self.index.fingerprints_of([sku_id])), clock.milliseconds)

    def explain(
        self,
        photo: PhotoSource | Image.Image,
        sku_id: str,
        settings: ExplanationSettings | None = None,
        region: RegionChoice = WHOLE,
    ) -> Explanation:
        """Says where a photo and a SKU are alike (`query.explain`).

        The photo is explained as the encoder in PyTorch sees it, without the policy. The runner-up is the
        best SKU beside this one in the whole index.

        Args:
            region: what of the photo is explained, the `item` or `box` of its answer; `auto`: the first item.

        Raises:
            UserError: the photo can't be read or has no such region, or the index lacks the SKU.
        """
        image = photo
        if not isinstance(image, Image.Image):
            image = read_views(image, region, self.detector, Clock())[0].image
        (row,) = self.index.of_skus([sku_id]).numbers().tolist()
        plain, patches = self._encoded(self.image_encoder.preprocess(image)[None])
        own, rivals, why = None, None, NO_PATCHES
        if self.look_twice is not None and patches is not None:
            own = self.look_twice.patches.of_picture(row)
            first = self.unmoved.first_pass(EmbeddedPhoto(plain, plain, None, patches), 2)
            others = [other for other in self.look_twice.again(first, patches).rows.tolist() if other != row]
            rivals = self.look_twice.patches.of_sku(others[0]) if others else None
            why = "" if own is not None else NOT_SHOWN
        shown = self.explained_picture(sku_id)
        picture = None if shown is None else read_photo(shown)
        matched = Matched(sku_id, self.index.fingerprints_of([sku_id])[0], picture, own, rivals)
        return explain(self.encoder, image, patches, matched, settings or ExplanationSettings(), why)

    def search(
        self,
        wish: Wish,
        top: int,
        within: Rows | None = None,
        facets_over: int | None = None,
        region: RegionChoice = AUTO,
    ) -> Answer:
        """Answers whatever is combined in a wish (`query.combine`) with one exact search.

        Liked and disliked SKUs are no answers. What is not combined is answered as `search_image`,
        `search_text`, `search_mixed` or `search_like` answer it; only `search_image` gives a verdict.

        Args:
            facets_over: number of best answers whose values are counted (`query.facets`); None counts none.
            region: what of the photo is searched for; of several photos, or with likes and words to avoid,
                each is taken whole.

        Raises UserError as those do, if a SKU is not in the index, or if the parts cancel out.
        """
        _require_top(top)
        if facets_over is None:
            return self._search_wish(wish, top, within, region)
        answer = self._search_wish(wish, max(top, facets_over), within, region)
        counted = count_facets(self.index.skus, [hit.sku_id for hit in answer.hits[:facets_over]])
        return replace(answer, hits=answer.hits[:top], facets=counted)

    def _search_wish(self, wish: Wish, top: int, within: Rows | None, region: RegionChoice) -> Answer:
        if wish.is_plain:
            return self._search_plain(wish, top, within, region)
        if region not in (AUTO, WHOLE, MERGE):
            raise UserError(
                "item and box are for one photo, alone or with a text; with several photos, likes or "
                "words to avoid photos are taken whole"
            )
        clock = Clock()
        embedded = [self.embedded_views(photo, WHOLE, clock)[0].photo for photo in wish.photos]
        query: NDArray[np.floating] | None = None
        if embedded:
            query = mean_query([photo.query for photo in embedded], wish.photo_weights)
        words, text_weight = wish.text, wish.text_weight if embedded else 1.0
        if words is not None:
            row = self._embed_text(words)
            query = row if query is None else mix(query, row, text_weight)
        if wish.liked or wish.disliked:
            rated = self.index.of_skus([*wish.liked, *wish.disliked])
            within = ~rated & (self.index.present if within is None else within)
            rows = [self.index.fingerprints_of(skus) for skus in (wish.liked, wish.disliked)]
            query = rocchio(query, *rows)
        assert query is not None
        avoided = [self._embed_text(text) for text in wish.avoided]
        query = pushed_away(query, avoided, wish.avoided_weight)
        clock.lap("combine")
        action = embedded[0].action if len(embedded) == 1 else None
        told = ("", 0.0) if words is None else (words, text_weight)
        return self._answer(query, top, within, clock, action, told)

    def _search_plain(self, wish: Wish, top: int, within: Rows | None, region: RegionChoice) -> Answer:
        if wish.liked:
            return self.search_like(wish.liked[0], top, within)
        if not wish.photos:
            return self.search_text(wish.text or "", top, within)
        if wish.text is None:
            return self.search_image(wish.photos[0], top, within, region)
        return self.search_mixed(wish.photos[0], wish.text, wish.text_weight, top, within, region)

    def embedded_views(
        self, source: PhotoSource | SeenPhoto, region: RegionChoice, clock: Clock
    ) -> Sequence[EmbeddedView]:
        """Returns what of a photo is searched for, embedded; of a seen photo what is kept of it.

        Raises as `read_views`.
        """
        if not isinstance(source, SeenPhoto):
            views = read_views(source, region, self.detector, clock)
            return [
                EmbeddedView(self.embed_image(view.image, clock), view.box, view.item, view.number)
                for view in views
            ]
        embeds = self._made_of or self  # engines over other indexes embed alike
        items = source.kept(embeds, AUTO) if isinstance(region, int) else None
        chosen = [view for view in items or () if view.number == region]
        return chosen or source.seen(
            embeds, region, lambda: self.embedded_views(source.content, region, clock)
        )

    def _best_of(
        self,
        source: PhotoSource | SeenPhoto,
        region: RegionChoice,
        clock: Clock,
        answer: Callable[["QueryEngine", EmbeddedPhoto], Answer],
    ) -> Answer:
        """Answers each view of a photo that the region asks for; returns the best answer, or all in one."""
        if region == AUTO and self.multi_stage is not None and self.multi_stage.merge:
            region = MERGE
        views = self.embedded_views(source, region, clock)
        answers = [answer(self, view.photo) for view in views]
        judged = answers
        if self.unmoved is not self and any(found.confidence is None for found in answers):
            judged = [answer(self.unmoved, view.photo) for view in views]
        best = best_item(judged)
        items = [_item(view, found) for view, found in zip(views, answers, strict=True) if view.item]
        if region == MERGE and len(answers) > 1:
            merged = merged_hits([found.hits for found in answers], len(answers[best].hits))
            clock.lap("merge")
            whole = replace(answers[best], hits=merged, confidence=None, verdict=None)
            return replace(whole, milliseconds=clock.milliseconds, items=items)
        return replace(answers[best], box=views[best].box, item=views[best].number, items=items)

    def embed_image(self, image: Image.Image, clock: Clock) -> EmbeddedPhoto:
        """Embeds a decoded photo as every search does; the stages are timed on `clock`."""
        photo = self._embed_by_policy(image, clock)
        return (
            photo if self.multi_stage is None else photo._replace(further=self.multi_stage.see(image, clock))
        )

    def _embed_by_policy(self, image: Image.Image, clock: Clock) -> EmbeddedPhoto:
        pixels = self.image_encoder.preprocess(image)[None]
        clock.lap("preprocess")
        plain, patches = self._encoded(pixels)
        clock.lap("encode")
        if self.policy is None:
            return EmbeddedPhoto(plain, plain, None, patches)
        photo = working_copy(image, self.policy.actions)
        action = self.policy.always
        if action is None:
            features = quality_features(photo, image.width, image.height)[None]
            action = ACTIONS[int(self.policy.decide(plain, features).gated[0])]
        if action == IDENTITY:
            clock.lap("policy")
            return EmbeddedPhoto(plain, plain, action, patches)
        picture = processed(photo, action, self.policy.actions)
        clock.lap("policy")
        changed = self.image_encoder.embed_pixels(self.image_encoder.preprocess(picture)[None])
        query = fuse(plain, changed, self.policy.actions)
        clock.lap("encode_again")
        return EmbeddedPhoto(plain, query, action, patches)

    def _encoded(self, pixels: Tensor) -> tuple[NDArray[np.float32], Patches | None]:
        """Returns the embedding (1, D) of a preprocessed photo, and its patches if they are needed."""
        if self.look_twice is None:
            return self.image_encoder.embed_pixels(pixels), None
        seeing: Any = self.image_encoder
        rows, patches = seeing.embed_with_patches(pixels)
        return rows, patches[0]

    def _judged(self, answer: Answer, photo: EmbeddedPhoto, clock: Clock) -> Answer:
        """Adds confidence and verdict, by the photo as the calibration saw its photos: without the policy."""
        if self.confidence is None or len(self.index) < LISTED:
            return answer
        if isinstance(self.confidence, NoVerdicts):
            return replace(answer, no_verdict=self.confidence.off)
        sure = float(self.confidence.judge(self._evidence(photo))[0])
        clock.lap("confidence")
        unmoved = self.unmoved
        first = answer if unmoved is self else unmoved._answer_photo(photo, 1, None, clock)
        verdict = self.confidence.verdict(sure)
        return replace(answer, confidence=sure, verdict=verdict, judged=first.hits[0].sku_id)

    def _evidence(self, photo: EmbeddedPhoto) -> dict[str, NDArray[np.float64]]:
        """The features (1,) of a photo that say how sure its first answer is."""
        look = self.look_twice
        count = LISTED - 1 if look is None else max(LISTED - 1, look.top)
        (first,) = self.unmoved.index.search(photo.plain, count)
        if look is None or photo.patches is None:
            return features_of(first.scores[None])
        return features_of(first.scores[None], look.ranked(first, photo.patches)[None])

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        if not text.strip():
            raise UserError("the text to search for is empty")
        return self._text_row(text)

    def _answer(
        self,
        query: NDArray[np.floating],
        top: int,
        within: Rows | None,
        clock: Clock,
        action: str | None = None,
        words: tuple[str, float] = ("", 0),
    ) -> Answer:
        """`words` is a text and the weight of what its words add."""
        _require_top(top)
        text, weight = words
        lexical = self.lexical if weight > 0 else None
        if lexical is None:
            result = self.index.search(query, top, within)[0]
            clock.lap("search")
            return Answer(self._hits(result, query), clock.milliseconds, action)
        match = lexical.match(text)
        boosts = weight * lexical.boosts(match, self._exact)
        clock.lap("words")
        result = best_fused(self.index, query, top, match.rows, boosts, within)
        clock.lap("search")
        matched = [lexical.matched(match, row) for row in result.rows.tolist()]
        return Answer(self._hits(result, query, matched), clock.milliseconds, action)

    def _hits(
        self,
        result: SearchResult,
        query: NDArray[np.floating],
        matched: list[list[str]] | None = None,
        maxsim: NDArray[np.float64] | None = None,
    ) -> list[Hit]:
        table = self.index.skus[result.rows]
        further = table.select(catalogue_columns(table)).to_dicts()
        shown = table.select("sku_id", "category_name", "title", "image").rows()
        cosines = self.index.cosines(query, result.rows).tolist()
        return [
            Hit(
                rank + 1,
                sku_id,
                float(score),
                category,
                title,
                image,
                further[rank] if further else {},
                matched[rank] if matched else [],
                None if maxsim is None or np.isnan(maxsim[rank]) else float(maxsim[rank]),
                cosines[rank],
            )
            for rank, ((sku_id, category, title, image), score) in enumerate(
                zip(shown, result.scores, strict=True)
            )
        ]


def _open_policy(store: ArtifactStore, index: Artifact, use: UsePolicy) -> Policy | None:
    """Loads and warms up the policy that the index was published with, if it is to be used."""
    expected = index.manifest.recipe.inputs.get(VLA_CHECKPOINT.name)
    if use == "off" or (use == "auto" and expected is None):
        return None
    if expected is None:
        raise UserError(
            "--policy on: the index in use was made without a query policy; add a policy block to the preset "
            "and materialize the graph, or search with --policy auto"
        )
    checkpoint = encoder_of(store, index, VLA_CHECKPOINT.name, VLA_CHECKPOINT.key)
    index.require_input(VLA_CHECKPOINT.name, checkpoint.digest)
    if (reason := checkpoint.summary.get(OFF)) is not None:
        if use == "auto":
            return None
        raise UserError(
            f"--policy on: the index in use has no query policy: {reason}; search with --policy auto"
        )
    policy = load_policy(checkpoint.path)
    policy.decide(*policy.example())
    return policy


def _with_patches(store: ArtifactStore, index: Artifact, encoder: Encoder) -> PatchEncoder:
    """The encoder with the patch head that the index was published with."""
    files = encoder_of(store, index, LOOK_TWICE_CHECKPOINT.name, LOOK_TWICE_CHECKPOINT.key)
    index.require_input(LOOK_TWICE_CHECKPOINT.name, files.digest)
    return PatchEncoder(encoder, PatchHead.load(files.path))


def _open_detector(
    store: ArtifactStore, index: Artifact, device: torch.device, onnx_threads: int | None
) -> Detector | None:
    """Loads and warms up the detector that the index was published with; None if it has none, or if there was
    too little to train one. With `onnx_threads` its export is opened, if the index has one."""
    inputs = index.manifest.recipe.inputs
    if DETECTOR_CHECKPOINT.name not in inputs:
        return None
    checkpoint = encoder_of(store, index, DETECTOR_CHECKPOINT.name, DETECTOR_CHECKPOINT.key)
    index.require_input(DETECTOR_CHECKPOINT.name, checkpoint.digest)
    if checkpoint.summary.get(OFF) is not None:
        return None
    from skufp_pipeline.detection.files import load_detector

    if onnx_threads is None or DETECTOR_ONNX.name not in inputs:
        return load_detector(checkpoint.path, device)
    exported = encoder_of(store, index, DETECTOR_ONNX.name, DETECTOR_ONNX.key)
    exported.require_input(DETECTOR_CHECKPOINT.name, checkpoint.digest)
    return load_detector(checkpoint.path, device, exported.path, onnx_threads)


def _item(view: EmbeddedView, answer: Answer) -> Item:
    assert view.item is not None
    assert view.number is not None
    sku_id, score = (answer.hits[0].sku_id, answer.hits[0].score) if answer.hits else (None, None)
    return Item(view.number, view.item.box, view.item.label, view.item.score, sku_id, score)


def _reading(encoder: Encoder | None) -> Encoder:
    """The encoder, if it reads texts; holds no engine, so that an engine is freed with its last user."""
    if encoder is None:
        raise UserError(
            "the index in use is by an encoder of pictures that reads no words: ask it with a photo or a "
            "SKU; texts and explanations need an index of fingerprints, or of the encoder"
        )
    return encoder


def _require_top(top: int) -> None:
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")


def read_photo(source: PhotoSource) -> Image.Image:
    """Reads a query photo like a catalogue photo: upright, RGB, at most 512 pixels on the longer side.

    Raises:
        UserError: the photo is missing, not an image, truncated, or too large (see photos.py).
    """
    with _told_of(source):
        return whole_photo(source)


def read_views(
    source: PhotoSource, region: RegionChoice, detector: Detector | None, clock: Clock
) -> list[View]:
    """Reads what of a photo is searched for; raises as `read_photo` and `views_of` do."""
    with _told_of(source):
        decoded = open_photo(source, enough=SIDE)
        photo = reduced(decoded, SIDE)
        clock.lap("decode")
        return views_of(source, photo, region, detector, clock, decoded)


@contextmanager
def _told_of(source: PhotoSource) -> Iterator[None]:
    """Raises a `UserError` that names the photo if it can't be read."""
    try:
        yield
    except (PhotoError, OSError) as error:
        name = f"photo {source}" if isinstance(source, Path) else "the photo"
        raise UserError(f"{name} {what_is_wrong(error)}") from error
