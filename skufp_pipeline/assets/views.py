"""Group `views`: a diffusion model, its adapter, filters, and the views generated from the catalogue's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, GeneratedViews, SmallBase, ViewFilters
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    GENERATED_VIEW_EMBEDDINGS,
    GENERATED_VIEWS,
    IMAGE_TEXT,
    SD_BASE,
    SD_LORA,
    SKU_CROPS,
    VIEW_FILTERS,
)
from skufp_pipeline.assets.encoder import TRAIN
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.off import not_measured
from skufp_pipeline.checks.views import (
    ACCEPTANCE_IN_RANGE,
    DRIFT_IS_LOWER,
    FILTERS_TELL,
    VIEWS_DECODABLE,
    acceptance_in_range,
    filters_tell_views_apart,
    identity_drift_is_lower,
    views_decodable,
)
from skufp_pipeline.compute import Needs
from skufp_pipeline.evaluation.figures import loss_curves
from skufp_pipeline.hashing import shard_part
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import counts_table, frame_metadata, markdown_table, picture, picture_file
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.training.weights import weight_inputs
from skufp_pipeline.views.selection import all_views, require_calibration, shard_views, with_paths
from skufp_pipeline.views.settings import ViewsSettings

VIEWS = "skufp_pipeline.views."
CALIBRATE, GENERATE = "calibrate_filters", "generate_views"


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `views`, `sd_base` only if it trains one."""
    views, compute = preset.views, preset.compute
    if views is None:
        return Group.of("views", preset, [])
    heavy = compute.network_needs
    resumed = {"checkpoint_every"}  # affects where a killed run resumes, not its result
    common = {
        "image_size": views.image_size,
        "prompts": views.prompts.model_dump(mode="json"),
        "seed": preset.seed,
    }
    base = (SD_BASE,) if views.base is not None else ()
    steps = [
        Step(
            stored=VIEW_FILTERS,
            make=view_filters,
            stage=CALIBRATE,
            kinds={"numpy", "opencv"},
            code=(VIEWS + "calibration",),
            config={"filters": views.filters.model_dump(mode="json"), "seed": preset.seed},
            needs=Needs(compute.cores, compute.memory_gib, threads=compute.threads),
            deps=(SKU_CROPS, CLIP_CHECKPOINT, CLIP_EMBEDDINGS),
            check_specs=(FILTERS_TELL,),
        ),
        Step(
            stored=SD_LORA,
            make=sd_lora,
            stage=TRAIN,
            apart=True,
            kinds={"pytorch", "diffusers", "peft", "safetensors"},
            code=(VIEWS + "lora",),
            config={
                **common,
                "model": views.model,
                "lora": views.lora.model_dump(mode="json", exclude=resumed),
                "generation": views.generation.model_dump(mode="json", exclude={"max_skus", "views_per_sku"}),
                "filters": views.filters.model_dump(mode="json"),
            },
            needs=heavy,
            deps=(SKU_CROPS, IMAGE_TEXT, CLIP_CHECKPOINT, *base),
            check_specs=(DRIFT_IS_LOWER,),
        ),
        Step(
            stored=GENERATED_VIEWS,
            make=generated_views,
            stage=GENERATE,
            kinds={"pytorch", "diffusers", "jpeg", "parquet"},
            code=(VIEWS + "shard",),
            config={
                **common,
                "model": views.model,
                "generation": views.generation.model_dump(mode="json"),
                "side": views.filters.side,
                "zero_shot": preset.encoder.is_pretrained,
            },
            needs=heavy,
            deps=(SKU_CROPS, IMAGE_TEXT, CLIP_CHECKPOINT, VIEW_FILTERS, SD_LORA, *base),
            check_specs=(VIEWS_DECODABLE, ACCEPTANCE_IN_RANGE),
        ),
        Step(
            stored=GENERATED_VIEW_EMBEDDINGS,
            make=generated_view_embeddings,
            stage=GENERATE,
            kinds={"pytorch", "parquet"},
            code=(VIEWS + "tables",),
            needs=heavy,
            deps=(IMAGE_TEXT, CLIP_CHECKPOINT, GENERATED_VIEWS),
            check_specs=(embeddings_sound_spec(GENERATED_VIEW_EMBEDDINGS.name),),
        ),
    ]
    if views.base is not None:
        trained = Step(
            stored=SD_BASE,
            make=sd_base,
            stage=TRAIN,
            apart=True,
            kinds={"pytorch", "diffusers", "safetensors"},
            code=(VIEWS + "base",),
            config={**common, "base": views.base.model_dump(mode="json", exclude=resumed)},
            needs=heavy,
            deps=(SKU_CROPS, IMAGE_TEXT),
            priority=1,
        )
        steps.insert(0, trained)
    return Group.of("views", preset, steps)


def sd_base(run: Run) -> dg.MaterializeResult:
    """A small Stable Diffusion trained on catalogue crops of training SKUs, as a stock diffusers pipeline."""
    from skufp_pipeline.views.base import train_base
    from skufp_pipeline.views.noise import prompted_crops
    from skufp_pipeline.views.pipeline import save_pipeline

    settings, seed = _settings(run), run.preset.seed
    base = settings.base
    assert base is not None
    views = all_views(run.read_all(IMAGE_TEXT), run.read_all(SKU_CROPS), settings.prompts.prompt)
    run.inputs.add(weight_inputs(settings.weight_files()))

    def build(directory: Path) -> dict[str, Any]:
        require_calibration(views, settings.filters.skus)
        training = views.filter(pl.col("split") == "train")
        cache, progress = run.scratch / "crops.npy", run.progress("crops decoded")
        crops = prompted_crops(training, settings.image_size, cache, progress)
        pipeline = run.models.new_diffusion(base.config, seed)
        history = train_base(pipeline, crops, base, seed, run.scratch, run.log)
        save_pipeline(pipeline, SmallBase.pipeline_in(directory))
        SmallBase.write_history(directory, history)
        last = {f"{part}_loss": rows[-1]["loss"] for part, rows in history.items()}
        return {"crops": training.height, **last}

    result = run.produce_or_off(SD_BASE, build)
    return run.done(result, {} if result.off else {"curves": picture(loss_curves(result.history()))})


def view_filters(run: Run) -> dg.MaterializeResult:
    """Filter thresholds calibrated on training SKUs' real views, the curve, and results on planted
    candidates."""
    from skufp_pipeline.views.calibration import calibrate_and_measure, each_figure

    settings, preset = _settings(run), run.preset
    checkpoint = run.read(CLIP_CHECKPOINT)
    crops, embeddings = run.read_all(SKU_CROPS), run.read_all(CLIP_EMBEDDINGS)

    def build(directory: Path) -> dict[str, Any]:
        pairs = zip(embeddings, crops, strict=True)
        images = pl.concat([with_paths(shard.images(), crop.path) for shard, crop in pairs])
        encoder, batch_size = run.models.load_encoder(checkpoint.folder), preset.encoder.batch_size
        found = calibrate_and_measure(images, encoder, batch_size, settings.filters, preset.seed)
        ViewFilters.write(directory, found)
        return {f"{name}_{kind}_accepted": figure["accepted"] for name, kind, figure in each_figure(found)}

    result = run.produce_or_off(VIEW_FILTERS, build, ViewFilters.write_off)
    if result.off:
        return run.done(result, {}, not_measured(FILTERS_TELL, result.off))
    found = result.found()
    rows = [{"skus": name, "planted": kind, **figure} for name, kind, figure in each_figure(found)]
    metadata = {
        "thresholds": dg.MetadataValue.json(found["thresholds"]),
        "calibration": markdown_table(pl.DataFrame(found["curve"])),
        "figures": markdown_table(pl.DataFrame(rows)),
    }
    return run.done(result, metadata, filters_tell_views_apart(found["figures"], settings.thresholds))


def sd_lora(run: Run) -> dg.MaterializeResult:
    """LoRA on the attention of the diffusion model, trained on some of the training SKUs, in diffusers'
    format, with the identity drift on held-out SKUs before and after."""
    from skufp_pipeline.views.drift import drift_figures
    from skufp_pipeline.views.lora import adapt

    settings, seed, models = _settings(run), run.preset.seed, run.models
    views = all_views(run.read_all(IMAGE_TEXT), run.read_all(SKU_CROPS), settings.prompts.prompt)
    base, checkpoint = _base_pipeline(run, settings), run.read(CLIP_CHECKPOINT)

    def build(directory: Path) -> dict[str, Any]:
        pipeline, encoder = models.diffusion(base()), models.load_encoder(checkpoint.folder)
        return adapt(pipeline, views, encoder, settings, seed, run.scratch, directory, run.log)

    result = run.produce_or_off(SD_LORA, build)
    if result.off:
        return run.done(result, {}, not_measured(DRIFT_IS_LOWER, result.off))
    figures = drift_figures(result.drift())
    metadata = {
        "curve": picture(loss_curves({"lora": result.history()})),
        "samples": picture_file(result.sheet),
        "drift": markdown_table(pl.DataFrame([figures])),
    }
    return run.done(result, metadata, identity_drift_is_lower(figures, settings.thresholds))


def generated_views(run: Run) -> dg.MaterializeResult:
    """Candidates of the shard's views by low-noise img2img, with scores and verdicts; the accepted images."""
    from skufp_pipeline.views.shard import generate_shard

    settings, preset, models = _settings(run), run.preset, run.models
    texts, crops, checkpoint = run.read(IMAGE_TEXT), run.read(SKU_CROPS), run.read(CLIP_CHECKPOINT)
    base, adapter, filters = _base_pipeline(run, settings), run.read(SD_LORA), run.read(VIEW_FILTERS)

    def build(directory: Path) -> dict[str, Any]:
        model, lora = base(), adapter.needed().path
        return generate_shard(
            lambda: models.diffusion(model, settings.generation.precision, lora),
            shard_views(texts, crops, settings.prompts.prompt),
            shard_part(settings.generation.max_skus, preset.shards, texts.shard or 0),
            models.load_encoder(checkpoint.folder),
            settings,
            filters.needed().thresholds(),
            preset.encoder.is_pretrained,
            run.scratch,
            directory,
            run.progress("candidates"),
        )

    result = run.produce_or_off(GENERATED_VIEWS, build)
    if result.off:
        return run.done(result, {}, *(not_measured(spec, result.off) for spec in run.step.check_specs))
    return _with_verdicts(run, result, settings)


def _with_verdicts(run: Run, result: GeneratedViews, settings: ViewsSettings) -> dg.MaterializeResult:
    """Shows the candidates and checks the accepted ones."""
    table, accepted = result.candidates(), result.accepted()
    verdicts = counts_table(table, ["strength", "verdict"])
    metadata = {**frame_metadata(table), "verdicts": verdicts, "contact_sheet": picture_file(result.sheet)}
    in_range = acceptance_in_range(accepted.height, table.height, settings.thresholds)
    return run.done(result, metadata, views_decodable(result.artifact, accepted), in_range)


def generated_view_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard's accepted views."""
    views, texts, checkpoint = run.read(GENERATED_VIEWS), run.read(IMAGE_TEXT), run.read(CLIP_CHECKPOINT)
    batch_size = run.preset.encoder.batch_size

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.views.tables import embed_generated

        encoder = run.models.load_encoder(checkpoint.folder)
        candidates, words = views.needed().candidates(), texts.images()
        return Embeddings.write(
            directory, embed_generated(candidates, words, views.images, encoder, batch_size)
        )

    result = run.produce_or_off(GENERATED_VIEW_EMBEDDINGS, build)
    if result.off:
        return run.done(result, {}, not_measured(run.step.check_specs[0], result.off))
    images = result.images()
    return run.done(result, frame_metadata(images), embeddings_sound(GENERATED_VIEW_EMBEDDINGS.name, images))


def _settings(run: Run) -> ViewsSettings:
    settings = run.preset.views
    assert settings is not None
    return settings


def _base_pipeline(run: Run, settings: ViewsSettings) -> Callable[[], str]:
    """What returns the base model: the graph's own, unless that is switched off, or the preset's."""
    if settings.base is not None:
        trained = run.read(SD_BASE)
        return lambda: str(trained.needed().pipeline)
    model = settings.model
    assert model is not None
    run.inputs.add(weight_inputs(settings.weight_files()))
    return lambda: model
