"""Group `query`: the detector that finds the items of a whole photo, its export, and what it is worth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import DetectionReport, DetectorCheckpoint, FoundRegions, write_unused
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_CHECKPOINT,
    DETECTION_REPORT,
    DETECTOR_CHECKPOINT,
    DETECTOR_ONNX,
    FINGERPRINTS,
    FOUND_REGIONS,
    LOOK_TWICE_CHECKPOINT,
    RAW_DATASET,
    SKU_CROPS,
)
from skufp_pipeline.artifacts.stored import left_out
from skufp_pipeline.checks.detection import FINDS_ITEMS, detector_finds_items
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.compute import Needs
from skufp_pipeline.detection.settings import DetectorSettings
from skufp_pipeline.encoders.tables import no_queries
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import markdown_table, picture, picture_file
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs, weights_summary

DETECTION = "skufp_pipeline.detection."
DATA = ("skufp_pipeline.datasets.boxes",)
PARITY_PHOTOS = 50


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `detector`."""
    detector, compute = preset.detector, preset.compute
    if detector is None:
        return Group.of("query", preset, [])
    trained = detector.model is None
    data = (RAW_DATASET, ANNOTATIONS)
    exported = (DETECTOR_ONNX,) if preset.query_encoder.engine == "onnx" else ()
    small: dict[str, Any] = {"seed": preset.seed, "synthetic": preset.synthetic.model_dump(mode="json")}
    checkpoint = Step(
        stored=DETECTOR_CHECKPOINT,
        make=detector_checkpoint,
        stage="train_models",
        apart=trained,
        kinds={"pytorch", "safetensors"},
        code=(DETECTION + "train", *DATA) if trained else (DETECTION + "pretrained",),
        config={
            "detector": detector.model_dump(mode="json", exclude={"report_photos", "thresholds"}),
            **(small if trained else {}),
        },
        needs=compute.network_needs,
        deps=(*data, SKU_CROPS) if trained else (),
    )
    onnx = Step(
        stored=DETECTOR_ONNX,
        make=detector_onnx,
        stage="build_index",
        apart=True,
        kinds={"onnx"},
        code=(DETECTION + "export",),
        needs=Needs(compute.cores, compute.memory_gib),
        deps=(*data, DETECTOR_CHECKPOINT),
    )
    head = (LOOK_TWICE_CHECKPOINT,) if preset.look_twice else ()
    asked = (*data, CLIP_CHECKPOINT, DETECTOR_CHECKPOINT, *exported, *head)
    crops = preset.crops.model_dump(mode="json")
    regions = Step(
        stored=FOUND_REGIONS,
        make=found_regions,
        stage="build_index",
        kinds={"pytorch", "parquet"},
        code=("skufp_pipeline.query.photo_regions", DETECTION + "files"),
        config={"crops": crops},
        needs=compute.network_needs,
        deps=asked,
    )
    report = Step(
        stored=DETECTION_REPORT,
        make=detection_report,
        stage="build_index",
        apart=True,
        weekly=True,
        kinds={"pytorch", "parquet"},
        code=("skufp_pipeline.evaluation.regions", DETECTION + "files", *DATA),
        config={
            "photos": detector.report_photos,
            "resamples": preset.evaluation.resamples,
            "crops": crops,
            "seed": preset.seed,
        },
        needs=compute.network_needs,
        deps=(*asked, FINGERPRINTS),
        check_specs=(FINDS_ITEMS,),
    )
    judging = [regions] if preset.confidence else []
    steps = [checkpoint, *([onnx] if exported else []), *judging, report]
    return Group.of("query", preset, steps, no_leaks)


def detector_checkpoint(run: Run) -> dg.MaterializeResult:
    """The detector: a model of transformers as it is, or a small one trained on photos with known boxes."""
    settings = _settings(run)
    run.inputs.add(weight_inputs(settings.weight_files()))
    build = _train if settings.model is None else _take
    made = build(run, settings)

    def empty(directory: Path) -> None:
        write_unused(directory, no_queries())

    result = run.produce_or_off(DETECTOR_CHECKPOINT, made, empty)
    judged = [] if result.off else [{**row, "epoch": row["step"]} for row in result.history()]
    curve = picture(training_curves(judged, ("loss",), "development_recall")) if judged else "nothing trained"
    return run.done(result, {"curve": curve})


def _take(run: Run, settings: DetectorSettings) -> Any:
    """A function that copies the pretrained model, so that a version of the index keeps it."""

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.detection.files import save_detector
        from skufp_pipeline.detection.pretrained import PretrainedModel

        assert settings.model is not None
        save_detector(PretrainedModel.load(settings.model, settings), directory)
        DetectorCheckpoint.write(directory, [], no_queries())
        return {"weights": weights_summary(settings.weight_files()), **left_out("trained on no query")}

    return build


def _train(run: Run, settings: DetectorSettings) -> Any:
    """A function that trains the small detector."""
    raw, items, crops = run.read(RAW_DATASET), run.read(ANNOTATIONS), run.read_all(SKU_CROPS)
    run.inputs.add(run.preset.synthetic.inputs())

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.detection.data import training_photos
        from skufp_pipeline.detection.files import save_detector
        from skufp_pipeline.detection.small import SmallModel
        from skufp_pipeline.detection.train import train_detector
        from skufp_pipeline.training.synthetic_photos import catalogue_pictures

        preset, table = run.preset, items.items()
        boxes = lambda images: preset.dataset.boxes(raw.path, table, images)  # noqa: E731
        pictures = pl.concat([catalogue_pictures(shard.table(), shard.path) for shard in crops])
        known = table, preset.dataset.find(raw.path), boxes
        photos = training_photos(*known, pictures, settings, preset.synthetic, preset.seed, run.scratch)
        device = run.models.torch_device()
        network, history = train_detector(*photos, settings, preset.seed, device, run.scratch, run.log)
        save_detector(SmallModel(network.cpu(), settings), directory)
        DetectorCheckpoint.write(directory, history, pl.concat([part.used for part in photos]))
        return photos_summary(*photos)

    return build


def photos_summary(train: Any, held: Any) -> dict[str, Any]:
    """What was trained on and what chose the weights."""
    rendered = train.synthetic + held.synthetic
    said = f"{rendered} synthetic photos stand for photos with boxes" if rendered else None
    counts = {
        "photos": len(train),
        "held_photos": len(held),
        "unreadable": train.unreadable + held.unreadable,
    }
    return {**counts, "synthetic_photos": rendered, **left_out(said)}


def detector_onnx(run: Run) -> dg.MaterializeResult:
    """The detector for ONNX Runtime, for query photos; its parity with PyTorch is measured on photos."""
    raw, items, checkpoint = run.read(RAW_DATASET), run.read(ANNOTATIONS), run.read(DETECTOR_CHECKPOINT)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.detection.data import readable_photos
        from skufp_pipeline.detection.export import build_detector
        from skufp_pipeline.detection.files import load_model

        model, find = load_model(checkpoint.needed().path), run.preset.dataset.find(raw.path)
        return build_detector(model, readable_photos(items.items(), find, PARITY_PHOTOS), directory)

    return run.done(run.produce_or_off(DETECTOR_ONNX, build), {})


def found_regions(run: Run) -> dg.MaterializeResult:
    """Development photos as a search sees them, cut to what the detector finds: verdicts on found regions are
    calibrated on these."""
    items, opened = run.read(ANNOTATIONS), _opener(run)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.query.photo_regions import ask_photos, development_photos, found_table

        photos = development_photos(items.items())
        detector, encoder, head, find = opened()
        say = run.progress("development photos")
        asked = ask_photos(photos, find, detector, encoder, run.preset.crops, say, head)
        counts = FoundRegions.write(directory, found_table(asked), len(asked))
        return {**counts, "unreadable": photos.height - len(asked)}

    return run.done(run.produce_or_off(FOUND_REGIONS, build), {})


def _opener(run: Run) -> Callable[[], tuple[Any, Any, Any, Callable[[str], Path]]]:
    """Reads what a whole photo goes through; returns a function that opens the detector, the encoder, its
    patch head, if the index looks twice, and the finder of photos."""
    preset, raw = run.preset, run.read(RAW_DATASET)
    encoder, checkpoint = run.read(CLIP_CHECKPOINT), run.read(DETECTOR_CHECKPOINT)
    exported = run.read(DETECTOR_ONNX) if preset.query_encoder.engine == "onnx" else None
    files = run.read(LOOK_TWICE_CHECKPOINT) if preset.look_twice else None

    def opened() -> tuple[Any, Any, Any, Callable[[str], Path]]:
        from skufp_pipeline.detection.files import load_detector
        from skufp_pipeline.encoders.patches import PatchEncoder, PatchHead

        folder, threads = None if exported is None else exported.path, preset.query_encoder.threads or 1
        detector = load_detector(checkpoint.needed().path, run.models.torch_device(), folder, threads)
        tower = run.models.load_encoder(encoder.folder)
        head = None if files is None or files.off else PatchEncoder(tower, PatchHead.load(files.path))
        return detector, tower, head, preset.dataset.find(raw.path)

    return opened


def detection_report(run: Run) -> dg.MaterializeResult:
    """The detector on evaluation photos: recall, time, and R@1 of annotated, detected and whole regions."""
    preset, raw, items = run.preset, run.read(RAW_DATASET), run.read(ANNOTATIONS)
    fingerprints, opened = run.read(FINGERPRINTS), _opener(run)

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.evaluation.regions import report_detection, sampled_photos

        table, everything = fingerprints.table(), items.items()
        detector, encoder, head, find = opened()
        photos = sampled_photos(everything, table["sku_id"], _settings(run).report_photos)
        images = photos["orig_image_path"].unique().sort().to_list()
        has_boxes = bool(preset.dataset.boxes(raw.path, everything, images))
        models = detector, encoder, table
        draws, say = (preset.evaluation.resamples, preset.seed), run.progress("evaluation photos")
        made = report_detection(photos, find, has_boxes, *models, preset.crops, draws, say, head)
        DetectionReport.write(directory, *made)
        return {"photos": made[0]["photos"]}

    result = run.produce_or_off(DETECTION_REPORT, build)
    if result.off:
        return run.done(result, {}, not_measured(FINDS_ITEMS, result.off))
    check = detector_finds_items(result.figures(), _settings(run).thresholds)
    return run.done(result, report_metadata(result), check)


def report_metadata(result: DetectionReport) -> dict[str, Any]:
    """Tables and pictures of a report."""
    figures = result.figures()
    return {
        "regions": markdown_table(result.regions()),
        "by_split": dg.MetadataValue.json(figures["by_split"]),
        "detect_p50_ms": figures["detect"]["p50_ms"],
        "detect_p95_ms": figures["detect"]["p95_ms"],
        "boxes": picture_file(result.sheet),
    }


def _settings(run: Run) -> DetectorSettings:
    assert run.preset.detector is not None
    return run.preset.detector
