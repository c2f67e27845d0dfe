"""What each stage after the search in an index of pictures adds and takes, photo by photo.

Asked are the annotated parts of photos, stage after stage: the pictures alone, the texts, the re-ranker; and
photos as they are: whole, the item that answers best, all items together, then the stages again on what the
preset searches for. Texts at .5 and .5 and the re-ranker at 1 stand beside what was chosen. A stage of
weight 0 is off, and changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.evaluation.stages import AskedPhoto, EmbeddedPhotos
from skufp_pipeline.measures.ranks import UNRANKED
from skufp_pipeline.query.answers import Clock
from skufp_pipeline.query.engine import EmbeddedPhoto, QueryEngine
from skufp_pipeline.query.multi_stage import RERANK_FOLDER, TEXTS_FOLDER, MultiStage
from skufp_pipeline.query.regions import AUTO, MERGE, WHOLE, RegionChoice
from skufp_pipeline.query.seen import SeenPhoto
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.rows import Rows

BOX, PHOTO = "annotated part", "photo"
PICTURES, HALVES, CAPTIONS = "pictures", "captions at .5", "captions"
EVENLY, RERANK = "rerank at 1", "rerank"
BEST_ITEM, ALL_ITEMS = "best item", "all items"
LISTED = 10  # answers that are looked at
HALF = 0.5
_SEEING: tuple[str, ...] = ("decode", "preprocess", "encode", "detect", "cut")
_WORDS, _AGAIN = ("caption", "encode_caption"), ("encode_rerank",)


class Judged(NamedTuple):
    """The answers of one system to Q photos in one setting.

    Attributes:
        asked: `BOX` or `PHOTO`: the annotated part of each, or the photo as it is.
        skus: (Q,) the right SKU of each.
        ranks: (Q,) its rank among the first `LISTED` answers, from 1; `UNRANKED` beyond them.
        milliseconds: (Q,) from photo to answer.
        over: the system that it is compared with.
        off: whether this stage has weight 0.
        folders: of the bundle, of the stages that answer.
    """

    system: str
    asked: str
    setting: str
    skus: NDArray[np.str_]
    ranks: NDArray[np.int64]
    milliseconds: NDArray[np.float64]
    over: str | None = None
    off: bool = False
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A chain with some of its stages.

    Attributes:
        stages: those that are on; None: an index without any.
        spent: laps of a photo's clock that it needs.
        over, off: as in `Judged`.
        region: what of a photo it searches for, where a photo is asked as it is.
    """

    system: str
    stages: MultiStage | None = None
    spent: tuple[str, ...] = _SEEING
    over: str | None = None
    off: bool = False
    region: RegionChoice = WHOLE

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the bundle that its stages read."""
        stages = self.stages or MultiStage()
        texts = (TEXTS_FOLDER,) if stages.fusion else ()
        return (*texts, RERANK_FOLDER) if stages.reranker else texts


@dataclass(frozen=True)
class Chain:
    """An index of pictures with all its stages, those of weight 0 too, and what it is asked.

    Attributes:
        photos: as they are, for detection; none where the index has no detector. One that can't be read is
            left out.
    """

    engine: QueryEngine
    photos: Sequence[AskedPhoto] = ()


def judge_chain(chain: Chain, asked: EmbeddedPhotos) -> list[Judged]:
    """Judges every stage in each setting that has photos and SKUs of its splits.

    Args:
        asked: annotated parts of photos, embedded by the chain's engine.
    """
    stages = chain.engine.multi_stage
    assert stages is not None
    found = judge_embedded(chain.engine, asked, list(_after_search(stages, PICTURES, WHOLE)))
    return found + _judge_photos(chain, list(_of_photos(stages)))


def judge_embedded(engine: QueryEngine, asked: EmbeddedPhotos, variants: Sequence[Variant]) -> list[Judged]:
    """Judges the answers of an engine's index to what it has embedded, by each variant."""
    found = []
    for setting, mine, within in _settings(engine, asked.photos):
        for variant in variants:
            ranks, times = [], []
            for number in mine:
                clock = Clock()
                sku_ids = _answers(engine, variant.stages, asked.embedded[number], within, clock)
                ranks.append(_rank(asked.photos[number].sku_id, sku_ids))
                times.append(
                    _sum(asked.clocks[number].milliseconds, variant.spent) + _sum(clock.milliseconds)
                )
            found.append(
                _judged(variant, BOX, setting, [asked.photos[number] for number in mine], ranks, times)
            )
    return found


def _after_search(stages: MultiStage, before: str, region: RegionChoice) -> Iterator[Variant]:
    """The pictures alone, called `before`, and the stages after them."""
    on, spent = MultiStage(), _SEEING
    if before == PICTURES:
        yield Variant(PICTURES, on, region=region)
    if (fusion := stages.fusion) is not None:
        halves = replace(on, fusion=replace(fusion, weight=HALF))
        yield Variant(HALVES, halves, spent + _WORDS, before, region=region)
        if fusion.weight:
            on, spent = replace(on, fusion=fusion), spent + _WORDS
        yield Variant(CAPTIONS, on, spent, before, not fusion.weight, region)
        before = CAPTIONS
    if (reranker := stages.reranker) is not None:
        evenly = replace(on, reranker=replace(reranker, weight=1.0))
        yield Variant(EVENLY, evenly, spent + _AGAIN, before, region=region)
        if reranker.weight:
            on, spent = replace(on, reranker=reranker), spent + _AGAIN
        yield Variant(RERANK, on, spent, before, not reranker.weight, region)


def _of_photos(stages: MultiStage) -> Iterator[Variant]:
    """The photo whole, its items, and the stages after what the preset searches for."""
    yield Variant(PICTURES, MultiStage())
    yield Variant(BEST_ITEM, MultiStage(), over=PICTURES, region=AUTO)
    yield Variant(ALL_ITEMS, MultiStage(), over=BEST_ITEM, off=not stages.merge, region=MERGE)
    searched = (ALL_ITEMS, MERGE) if stages.merge else (BEST_ITEM, AUTO)
    yield from _after_search(stages, *searched)


def _judge_photos(chain: Chain, variants: Sequence[Variant]) -> list[Judged]:
    seen = [(photo, views) for photo in chain.photos if (views := _seen(chain.engine, photo)) is not None]
    engines = [chain.engine.over(chain.engine.index) for _ in variants]  # they share what is embedded
    for engine, variant in zip(engines, variants, strict=True):
        engine.multi_stage = variant.stages
    found = []
    for setting, mine, within in _settings(chain.engine, [photo for photo, _ in seen]):
        for engine, variant in zip(engines, variants, strict=True):
            ranks, times = [], []
            for number in mine:
                photo, (content, spent) = seen[number]
                answer = engine.search_image(content, LISTED, within, variant.region)
                ranks.append(_rank(photo.sku_id, [hit.sku_id for hit in answer.hits]))
                times.append(_sum(spent[variant.region], variant.spent) + _sum(answer.milliseconds))
            photos = [seen[number][0] for number in mine]
            found.append(_judged(variant, PHOTO, setting, photos, ranks, times))
    return found


def _seen(
    engine: QueryEngine, photo: AskedPhoto
) -> tuple[SeenPhoto, dict[RegionChoice, Mapping[str, float]]] | None:
    """A photo with its embedded views, and what they took by region; None if it can't be read."""
    spent: dict[RegionChoice, Mapping[str, float]] = {}
    try:
        content = SeenPhoto(photo.path.read_bytes())
        for region in (WHOLE, AUTO):
            clock = Clock()
            views = engine.embedded_views(content, region, clock)
            spent[region] = clock.milliseconds
    except (OSError, UserError):
        return None
    content.seen(engine, MERGE, lambda: views)
    return content, {**spent, MERGE: spent[AUTO]}


def _settings(engine: QueryEngine, photos: Sequence[AskedPhoto]) -> Iterator[tuple[str, list[int], Rows]]:
    """Every setting with the numbers of its photos and the SKUs that they are asked of."""
    for setting, splits in SETTING_SPLITS.items():
        known = [split for split in splits if (engine.index.skus["split"] == split).any()]
        mine = [number for number, photo in enumerate(photos) if photo.split in splits]
        if known and mine:
            yield setting, mine, engine.index.where(split=known)


def _answers(
    engine: QueryEngine, stages: MultiStage | None, photo: EmbeddedPhoto, within: Rows, clock: Clock
) -> list[str]:
    if stages is None or photo.further is None:
        rows = engine.index.search(photo.query, LISTED, within)[0].rows
        clock.lap("search")
    else:
        assert isinstance(engine.index, ImageIndex)
        rows = stages.rank(engine.index, photo.query, photo.further, LISTED, within, clock).rows
    sku_ids: list[str] = engine.index.skus["sku_id"].gather(rows).to_list()
    return sku_ids


def _judged(
    variant: Variant,
    asked: str,
    setting: str,
    photos: Sequence[AskedPhoto],
    ranks: Sequence[int],
    times: Sequence[float],
) -> Judged:
    skus = np.array([photo.sku_id for photo in photos])
    figures = np.array(ranks, np.int64), np.array(times)
    about = {name: getattr(variant, name) for name in ("over", "off", "folders")}
    return Judged(variant.system, asked, setting, skus, *figures, **about)


def _rank(sku_id: str, found: Sequence[str]) -> int:
    return found.index(sku_id) + 1 if sku_id in found else int(UNRANKED)


def _sum(milliseconds: Mapping[str, float], parts: Sequence[str] | None = None) -> float:
    kept = milliseconds if parts is None else [part for part in parts if part in milliseconds]
    return sum(milliseconds[part] for part in kept)
