"""What each stage after the search in an index of pictures adds and takes, photo by photo.

The stages follow one another on the annotated part of each photo, as `evaluation.stages` has it: the pictures
alone, the texts at .5 and .5 beside what was chosen, the re-ranker. Detection is judged on the photos as they
are, with all stages: the whole photo, the item that answers best, all items together.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.evaluation.report import Stage
from skufp_pipeline.evaluation.stages import AskedPhoto, EmbeddedPhotos, stage_rows
from skufp_pipeline.measures.ranks import right_items
from skufp_pipeline.query.answers import Answer, Clock
from skufp_pipeline.query.engine import EmbeddedPhoto, QueryEngine, read_photo
from skufp_pipeline.query.multi_stage import MultiStage, Ranked, first_pass, reranked
from skufp_pipeline.query.regions import AUTO, MERGE, WHOLE, RegionChoice
from skufp_pipeline.search.images import ImageIndex
from skufp_pipeline.search.rows import Rows

HALF = 0.5
PICTURES, HALVES, CAPTIONS, RERANK = "pictures", "captions at .5", "captions", "rerank"
_SPENT = {
    PICTURES: ("decode", "preprocess", "encode", "search"),
    HALVES: ("caption", "encode_caption", "fuse at .5"),
    CAPTIONS: ("caption", "encode_caption", "fuse"),
    RERANK: ("encode_rerank", "rerank"),
}
_REGIONS: dict[str, RegionChoice] = {"whole photo": WHOLE, "best item": AUTO, "all items": MERGE}
_FINDING = ("detect", "cut", "merge")
Answered = tuple[dict[str, int], dict[str, float]]  # by stage, the first answer's row and the milliseconds


@dataclass(frozen=True)
class Chain:
    """An index of pictures with all its stages, those of weight 0 too, and what it is asked.

    Attributes:
        photos: as they are, for detection; none where the index has no detector. One that can't be read is
            left out.
    """

    engine: QueryEngine
    photos: Sequence[AskedPhoto] = ()


def judge_chain(chain: Chain, asked: EmbeddedPhotos, seed: int, resamples: int) -> list[Stage]:
    """Judges every stage in each setting that has photos and SKUs of its splits.

    Args:
        asked: annotated parts of photos, embedded by the chain's engine.
    """
    engine, plain, draws = chain.engine, _without_merge(chain.engine), (seed, resamples)
    photos = [photo for photo in chain.photos if _can_be_read(photo)]

    def after_stages(number: int, within: Rows) -> Answered:
        return _stages_of(engine, asked, number, within)

    def of_regions(number: int, within: Rows) -> Answered:
        return _regions_of(plain, photos[number], within)

    stages = _judged(engine, asked.photos, *draws, after_stages)
    return stages + _judged(engine, photos, *draws, of_regions)


def _judged(
    engine: QueryEngine,
    photos: Sequence[AskedPhoto],
    seed: int,
    resamples: int,
    ask: Callable[[int, Rows], Answered],
) -> list[Stage]:
    """The report's rows of every setting."""
    rows, skus = [], [photo.sku_id for photo in photos]
    truth = right_items(skus, engine.index.skus["sku_id"])
    for setting, splits in SETTING_SPLITS.items():
        known = [split for split in splits if (engine.index.skus["split"] == split).any()]
        mine = [number for number, photo in enumerate(photos) if photo.split in splits]
        if not (known and mine):
            continue
        within = engine.index.where(split=known)
        answers = [ask(number, within) for number in mine]
        stages = list(answers[0][0])
        right = truth[mine]
        hits = {
            stage: (np.array([first[stage] for first, _ in answers]) == right).astype(float)
            for stage in stages
        }
        spent = {stage: [milliseconds[stage] for _, milliseconds in answers] for stage in stages}
        of_skus = np.array([skus[number] for number in mine])
        rows += stage_rows(setting, hits, of_skus, spent, seed, resamples, beside=(HALVES,))
    return rows


def _stages_of(engine: QueryEngine, asked: EmbeddedPhotos, number: int, within: Rows) -> Answered:
    """Answers by what was embedded of a photo, stage after stage."""
    index, stages, photo = engine.index, engine.multi_stage, asked.embedded[number]
    assert isinstance(index, ImageIndex)
    clock, first = asked.clocks[number].resumed(), {}
    given = index, photo.query, within
    first[PICTURES] = _after(clock, "search", *given, None, photo, 1).rows[0]
    found, wanted = None, stages.reranker.top if stages and stages.reranker else 1
    if stages is not None and stages.fusion is not None:
        half = replace(stages, fusion=replace(stages.fusion, weight=HALF))
        first[HALVES] = _after(clock, "fuse at .5", *given, half, photo, 1).rows[0]
        found = _after(clock, "fuse", *given, stages, photo, wanted)
        first[CAPTIONS] = found.rows[0]
    if stages is not None and stages.reranker is not None and photo.further is not None:
        found = found or _after(clock, "search again", *given, None, photo, wanted)
        assert photo.further.picture is not None
        first[RERANK] = reranked(stages.reranker, found, photo.further.picture).rows[0]
        clock.lap("rerank")
    spent = {
        stage: sum(clock.milliseconds.get(part, 0.0) for part in parts) for stage, parts in _SPENT.items()
    }
    return {stage: int(row) for stage, row in first.items()}, spent


def _after(
    clock: Clock,
    lap: str,
    index: ImageIndex,
    query: NDArray[np.float32],
    within: Rows,
    stages: MultiStage | None,
    photo: EmbeddedPhoto,
    top: int,
) -> Ranked:
    """The first pass with the texts of `stages`, timed as `lap`."""
    sentence = None if photo.further is None else photo.further.sentence
    found = first_pass(index, None if stages is None else stages.fusion, query, sentence, top, within)
    clock.lap(lap)
    return found


def _regions_of(engine: QueryEngine, photo: AskedPhoto, within: Rows) -> Answered:
    """Answers a whole photo by what of it is searched for."""
    answers = {name: engine.search_image(photo.path, 1, within, region) for name, region in _REGIONS.items()}
    sku_ids = [answer.hits[0].sku_id for answer in answers.values()]
    rows = right_items(sku_ids, engine.index.skus["sku_id"]).tolist()
    return dict(zip(answers, rows, strict=True)), {name: _finding(answer) for name, answer in answers.items()}


def _can_be_read(photo: AskedPhoto) -> bool:
    try:
        read_photo(photo.path)
    except UserError:
        return False
    return True


def _finding(answer: Answer) -> float:
    return sum(answer.milliseconds.get(part, 0.0) for part in _FINDING)


def _without_merge(engine: QueryEngine) -> QueryEngine:
    """The engine as it answers by the best item unless it is asked for all."""
    if engine.multi_stage is None or not engine.multi_stage.merge:
        return engine
    plain = copy(engine)
    plain.multi_stage = replace(engine.multi_stage, merge=False)
    return plain
