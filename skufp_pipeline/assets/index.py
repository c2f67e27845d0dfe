"""Group `index`: the bundle that a search loads, and the exported encoder for query photos."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import (
    Annotations,
    Embeddings,
    Encoder,
    ImageEncoder,
    Patches,
    SearchIndex,
    Teachers,
)
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    BEST_SHOT_TEACHERS,
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    DETECTOR_CHECKPOINT,
    DETECTOR_ONNX,
    FINGERPRINT_CHECKPOINT,
    FINGERPRINTS,
    FIRST_INDEX,
    FOUND_REGIONS,
    FROZEN_CLIP_CHECKPOINT,
    FROZEN_CLIP_EMBEDDINGS,
    IMAGE_ENCODER_ONNX,
    IMAGE_TEXT,
    LOOK_TWICE_CHECKPOINT,
    SEARCH_INDEX,
    SKU_CROPS,
    SKU_PATCHES,
    SYNTHETIC_EMBEDDINGS,
    VLA_CHECKPOINT,
)
from skufp_pipeline.artifacts.stored import Reader, Stored, left_out
from skufp_pipeline.checks.index import parity_holds
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.checks.release import RECALL, judge, release_checks
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.counts import lost_skus
from skufp_pipeline.datasets.table import DEVELOPMENT, GALLERY
from skufp_pipeline.encoders.settings import RANKING
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.presets import Preset
from skufp_pipeline.query.settings import ConfidenceSettings
from skufp_pipeline.search.bundle import build_index, picture_paths
from skufp_pipeline.search.images import open_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.judging import recall_at_1
from skufp_pipeline.search.parity import parity_photos
from skufp_pipeline.search.patches import ShownPictures
from skufp_pipeline.search.versions import FIRST, Versions, keep_encoders, publish_first
from skufp_pipeline.show import counts_table, frame_metadata
from skufp_pipeline.steps import Group, Run, Step

NO_PHOTOS = "no training photos: the exported encoder is compared with PyTorch on catalog pictures"
STAGE = "build_index"


def group(preset: Preset) -> Group:
    """The steps of this group; the exported encoder is included only if the preset uses ONNX."""
    needs = Needs(preset.compute.cores, preset.compute.memory_gib)
    exported = preset.query_encoder.engine == "onnx"
    index = Step(
        stored=SEARCH_INDEX,
        make=search_index,
        stage=STAGE,
        apart=True,
        kinds={"numpy", "parquet"},
        code=(
            "skufp_pipeline.search.bundle",
            "skufp_pipeline.search.judging",
            *(["skufp_pipeline.query.confidence"] if preset.confidence else []),
            *(["skufp_pipeline.query.look_twice"] if preset.look_twice else []),
        ),
        config={
            "segment_rows": preset.index_segment_rows,
            "picture_side": preset.index_picture_side,
            "update_rows": None if preset.look_twice else preset.index_update_rows,  # patches are by row
            "lexical": lexical.model_dump() if (lexical := preset.search.lexical) else None,
            **_look_twice_config(preset),
            **({"confidence": preset.confidence.model_dump()} if preset.confidence else {}),
        },
        needs=needs,
        deps=(
            ANNOTATIONS, SKU_CROPS, IMAGE_TEXT, CLIP_EMBEDDINGS, BEST_SHOT_TEACHERS, FINGERPRINTS,
            FINGERPRINT_CHECKPOINT, *query_encoders(preset), *_patches(preset),
            *((SYNTHETIC_EMBEDDINGS,) if preset.calibrates_on_synthetic else ()), *_regions(preset),
        ),
        check_specs=tuple(release_checks(SEARCH_INDEX.name)),
        fresh_hours=preset.automation.index_fresh_hours,
    )  # fmt: skip
    encoder = Step(
        stored=IMAGE_ENCODER_ONNX,
        make=image_encoder_onnx,
        stage=STAGE,
        apart=True,
        kinds={"onnx"},
        code=("skufp_pipeline.encoders.export", "skufp_pipeline.search.parity"),
        config={
            "query_encoder": preset.query_encoder.model_dump(include={"precision", "parity_photos"}),
            "max_views": preset.fingerprint.max_views,
        },
        needs=needs,
        deps=(SKU_CROPS, CLIP_CHECKPOINT, CLIP_EMBEDDINGS, *_patch_head(preset)),
    )
    first = Step(
        stored=FIRST_INDEX,
        make=first_index,
        stage="build_first_index",
        weekly=True,
        kinds={"numpy", "parquet"},
        code=("skufp_pipeline.search.bundle", "skufp_pipeline.fingerprint.make"),
        config={
            "segment_rows": preset.index_segment_rows,
            "picture_side": preset.index_picture_side,
            "max_views": preset.fingerprint.max_views,
            "catalog_text_weight": preset.fingerprint.catalog_text_weight,
        },
        needs=needs,
        deps=(ANNOTATIONS, SKU_CROPS, IMAGE_TEXT, *_first_tower(preset)),
        priority=2,
    )
    steps = [
        *([first] if preset.encoder.is_pretrained or preset.first_index else []),
        index,
        *([encoder] if exported else []),
    ]
    return Group.of(
        "index",
        preset,
        steps,
        lambda group_steps: [*no_leaks(group_steps), *([parity_holds(preset)] if exported else [])],
    )


def _first_tower(preset: Preset) -> tuple[Stored[Encoder], Stored[Embeddings]]:
    """The encoder of the first index, and its embeddings."""
    if preset.encoder.is_pretrained:
        return FROZEN_CLIP_CHECKPOINT, FROZEN_CLIP_EMBEDDINGS
    return CLIP_CHECKPOINT, CLIP_EMBEDDINGS


def first_index(run: Run) -> dg.MaterializeResult:
    """An index by the encoder before any training, or after its own if it is not pretrained: the mean of each
    SKU's views, with its texts. It is put in use if none is: a search answers while the rest is trained."""
    tower, vectors = _first_tower(run.preset)
    preset, checkpoint, items = run.preset, run.read(tower), run.read(ANNOTATIONS)
    texts, embeddings = run.read_all(IMAGE_TEXT), run.read_all(vectors)
    run.inputs.crop_files()

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.fingerprint.make import untrained_fingerprints

        tables = EmbeddingTables.of(embeddings)
        views = tables.images.filter(pl.col("role") == GALLERY).unique("sku_id", keep="first")
        shards = {SKU_CROPS.key_in(run.store, text.shard): text.images() for text in texts}
        fingerprints = untrained_fingerprints(tables, preset.fingerprint).lazy()
        parts = (fingerprints, views, shards, {CLIP_CHECKPOINT.name: checkpoint.digest})
        sizes = {name: run.step.config[name] for name in ("segment_rows", "picture_side")}
        index = build_index(directory, *parts, **sizes, find=run.store.local_path, columns=items.skus())
        return {FIRST: 1, "skus": len(index), RECALL: development_recall(index, embeddings)}

    result = run.produce(FIRST_INDEX, build)
    made = result.artifact, checkpoint.artifact, CLIP_CHECKPOINT.name
    if published := publish_first(run.store, Versions(run.store), *made):
        run.log(f"a first index answers: skufp search --preset {preset.name} --image PHOTO")
    return run.done(result, {"published": int(published)})


def search_index(run: Run) -> dg.MaterializeResult:
    """The bundle that a search loads: fingerprints, SKU table, references to encoders, aggregator and policy.
    A candidate that passes its checks is put in use: `CURRENT` beside it names it."""
    preset, versions = run.preset, Versions(run.store)
    fingerprints, teachers = run.read(FINGERPRINTS), run.read(BEST_SHOT_TEACHERS)
    texts, embeddings, items = run.read_all(IMAGE_TEXT), run.read_all(CLIP_EMBEDDINGS), run.read(ANNOTATIONS)
    patches = [shard for stored in _patches(preset) for shard in run.read_all(stored)]
    synthetic = run.read_all(SYNTHETIC_EMBEDDINGS) if preset.calibrates_on_synthetic else []
    regions = [run.read(stored) for stored in _regions(preset)]
    run.inputs.crop_files()
    encoders = {stored.name: run.read(stored) for stored in query_encoders(preset)}
    model = {FINGERPRINT_CHECKPOINT.name: run.read(FINGERPRINT_CHECKPOINT)}
    references = {name: reader.digest for name, reader in [*encoders.items(), *model.items()]}

    def build(directory: Path) -> dict[str, Any]:
        tables = {SKU_CROPS.key_in(run.store, text.shard): text.images() for text in texts}
        parts = (fingerprints.scan(), teachers.table(), tables, references)
        given = preset.index_segment_rows, preset.index_picture_side, run.store.local_path, items.skus()
        before = _unchanged_from(run, versions, fingerprints.summary["skus"])
        index = build_index(directory, *parts, *given, preset.search.lexical, before)
        look, photos = _write_look_twice(run, directory, index, embeddings, patches, teachers)
        calibration = embeddings, synthetic, photos, [files.photos() for files in regions if not files.off]
        judged = _write_confidence(directory, index, *calibration, preset.confidence)
        said = [judged, *(f"{name}: {reader.off}" for name, reader in encoders.items() if reader.off)]
        return {**_size(index), **look, RECALL: development_recall(index, embeddings), **left_out(*said)}

    candidate = run.produce(SEARCH_INDEX, build)
    return released(run, candidate, versions, encoders.values(), items)


def released(
    run: Run, candidate: SearchIndex, versions: Versions, encoders: Iterable[Reader], items: Annotations
) -> dg.MaterializeResult:
    """Keeps the encoders of a candidate, checks it, and puts it in use if it passes."""
    preset = run.preset
    keep_encoders(run.store, [encoder.artifact for encoder in encoders])
    checks = judge(candidate.artifact, versions, _catalogue(items), preset)
    version, passed = run.recipe.digest, all(check.passed for check in checks)
    pruned = versions.publish(version, preset.kept_index_versions) if passed else 0
    release = {"version": version, "published": int(passed), "pruned_versions": pruned}
    return run.done(candidate, {**_shown(open_index(candidate.path).skus), **release}, *checks)


def image_encoder_onnx(run: Run) -> dg.MaterializeResult:
    """The encoder's image tower for ONNX Runtime, for query photos: int8 if that stays close to PyTorch, else
    float32. The gallery is embedded by PyTorch."""
    preset, settings = run.preset, run.preset.query_encoder
    checkpoint, crop_of = run.read(CLIP_CHECKPOINT), run.inputs.crop_files()
    images = EmbeddingTables.of(run.read_all(CLIP_EMBEDDINGS)).images
    heads = [run.read(stored) for stored in _patch_head(preset)]

    def build(directory: Path) -> dict[str, Any]:
        import torch

        from skufp_pipeline.encoders.clip import load_encoder
        from skufp_pipeline.encoders.export import build_image_encoder
        from skufp_pipeline.encoders.patches import PatchHead

        photos = parity_photos(images, settings.parity_photos, preset.fingerprint.max_views)
        files = [crop_of(row) for row in photos.rows.iter_rows(named=True)]
        ImageEncoder.write(directory, photos.used())
        encoder = load_encoder(checkpoint.folder, torch.device("cpu"))
        if preset.encoder.adaptation is not None:
            photos = photos.as_queries(encoder, files, preset.encoder.batch_size)
        head = next((PatchHead.load(files.path) for files in heads if not files.off), None)
        judged = photos.reference, photos.judge
        made = build_image_encoder(encoder, files, *judged, settings, directory, head)
        return {**made, **left_out(None if photos.used().height else NO_PHOTOS)}

    result = run.produce(IMAGE_ENCODER_ONNX, build)
    return run.done(result, {"model_megabytes": round(result.model.stat().st_size / 1e6, 1)})


def query_encoders(preset: Preset) -> tuple[Stored[Any], ...]:
    """The results that turn queries into vectors; they are kept with each version of the index."""
    by_onnx = preset.query_encoder.engine == "onnx"
    exported = (IMAGE_ENCODER_ONNX,) if by_onnx else ()
    policy = (VLA_CHECKPOINT,) if preset.policy else ()
    detector = (DETECTOR_CHECKPOINT, *((DETECTOR_ONNX,) if by_onnx else ())) if preset.detector else ()
    return (CLIP_CHECKPOINT, *exported, *policy, *_patch_head(preset), *detector)


def _patch_head(preset: Preset) -> tuple[Stored[Any], ...]:
    return (LOOK_TWICE_CHECKPOINT,) if preset.look_twice else ()


def _patches(preset: Preset) -> tuple[Stored[Any], ...]:
    return (SKU_PATCHES,) if preset.look_twice else ()


def _regions(preset: Preset) -> tuple[Stored[Any], ...]:
    return (FOUND_REGIONS,) if preset.detector and preset.confidence else ()


def _look_twice_config(preset: Preset) -> dict[str, Any]:
    """What decides how the index looks twice; the training's settings are of `look_twice_checkpoint`."""
    if preset.look_twice is None:
        return {}
    return {"look_twice": preset.look_twice.model_dump(mode="json", include=RANKING)}


def _write_look_twice(
    run: Run,
    directory: Path,
    index: FingerprintIndex,
    shards: Sequence[Embeddings],
    patches: Sequence[Patches],
    teachers: Teachers,
) -> tuple[dict[str, Any], pl.DataFrame | None]:
    """Adds the patches to a bundle, with what MaxSim weighs; returns their part of the summary, and the
    patches of development photos."""
    settings, side = run.preset.look_twice, run.preset.index_picture_side
    if settings is None or any(shard.off for shard in patches):
        return {}, None
    from skufp_pipeline.query.look_twice import write_look_twice

    photos = pl.concat([shard.photos() for shard in patches])
    views = (shard.views() for shard in patches)
    images = EmbeddingTables.images_of(shards)
    listed = picture_paths(index.skus, teachers.table(), images.filter(pl.col("role") == GALLERY))
    shown = None if side is None else ShownPictures(listed, side, run.store.local_path)
    parts = directory, index, views, photos, images, patches[0].shape, settings, shown
    return write_look_twice(*parts), photos


def _unchanged_from(run: Run, versions: Versions, skus: int) -> Path | None:
    """The version in use if its unchanged files are to be linked: an index of so many SKUs is large."""
    least = run.step.config["update_rows"]
    current = None if least is None or skus < least else versions.find()
    return None if current is None or current.damaged_files() else current.path


def _catalogue(items: Annotations) -> set[str]:
    """The SKUs that the index should hold."""
    table = items.items()
    return {*table.filter(table["role"] == GALLERY)["sku_id"], *lost_skus(table, items.skipped())}


def _write_confidence(
    directory: Path,
    index: FingerprintIndex,
    shards: Sequence[Embeddings],
    synthetic: Sequence[Embeddings],
    patches: pl.DataFrame | None,
    regions: Sequence[pl.DataFrame],
    settings: ConfidenceSettings | None,
) -> str | None:
    """Writes the calibration of the verdicts, if they are asked for; returns why there are none, if so."""
    if settings is None:
        return None
    from skufp_pipeline.query.confidence import (
        NoVerdicts,
        calibrated,
        calibrated_on_regions,
        second_looks,
        write_confidence,
    )
    from skufp_pipeline.query.look_twice import LookTwice

    tables = EmbeddingTables.images_of(shards), EmbeddingTables.images_of(synthetic) if synthetic else None
    look = None if patches is None else LookTwice.open(directory, index.row_count)
    confidence = calibrated(index, *tables, settings, second_looks(look, patches))
    for table in regions:
        confidence = calibrated_on_regions(index, confidence, table, look, settings)
    write_confidence(directory, confidence)
    return confidence.off if isinstance(confidence, NoVerdicts) else None


def _shown(skus: pl.DataFrame) -> dict[str, Any]:
    return {**frame_metadata(skus), "skus_by_category": counts_table(skus, ["split", "category_name"])}


def _size(index: FingerprintIndex) -> dict[str, int]:
    return {"skus": len(index), "dimension": index.dimension, "segments": len(index.segments)}


def development_recall(index: FingerprintIndex, shards: Sequence[Embeddings]) -> float | None:
    is_development = (pl.col("role") == DEVELOPMENT) & (pl.col("split") == "train")
    queries = EmbeddingTables.images_of(shards).filter(is_development)
    return recall_at_1(index, embedding_rows(queries), queries["sku_id"])
