"""Group `query`: patches for the second look at the best SKUs, and the projection that makes them."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Patches, write_unused
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    CLIP_EMBEDDINGS,
    FROZEN_CLIP_CHECKPOINT,
    LOOK_TWICE_CHECKPOINT,
    SKU_CROPS,
    SKU_PATCHES,
    SYNTHETIC_EMBEDDINGS,
    SYNTHETIC_PHOTOS,
)
from skufp_pipeline.artifacts.stored import Stored, left_out, write_frames, write_json
from skufp_pipeline.checks.leaks import no_leaks
from skufp_pipeline.encoders.settings import RANKING
from skufp_pipeline.encoders.tables import no_queries
from skufp_pipeline.evaluation.figures import training_curves
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import frame_metadata, markdown_table, picture
from skufp_pipeline.steps import Group, Run, Step
from skufp_pipeline.views.selection import with_paths

ENCODERS = "skufp_pipeline.encoders."
NO_PHOTOS = "no training photos: the patch head was trained on synthetic photos of the catalogue's pictures"


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset has no `look_twice`."""
    settings = preset.look_twice
    if settings is None:
        return Group.of("query", preset, [])
    needs = preset.compute.network_needs
    towers = (CLIP_CHECKPOINT, *_view_tower(preset))
    synthetic = (SYNTHETIC_PHOTOS, SYNTHETIC_EMBEDDINGS) if preset.calibrates_on_synthetic else ()
    training = settings.model_dump(mode="json", exclude=RANKING)
    checkpoint = Step(
        stored=LOOK_TWICE_CHECKPOINT,
        make=look_twice_checkpoint,
        stage="train_look_twice",
        kinds={"pytorch", "safetensors"},
        code=(ENCODERS + "late_interaction", ENCODERS + "patch_tables"),
        config={
            "look_twice": training,
            "synthetic": preset.synthetic.model_dump(mode="json", exclude={"photos"}),
            "seed": preset.seed,
        },
        needs=needs,
        deps=(SKU_CROPS, CLIP_EMBEDDINGS, *towers),
    )
    patches = Step(
        stored=SKU_PATCHES,
        make=sku_patches,
        stage="make_patches",
        kinds={"pytorch", "parquet"},
        code=(ENCODERS + "patch_tables",),
        config={"batch_size": preset.encoder.batch_size},
        needs=needs,
        deps=(SKU_CROPS, CLIP_EMBEDDINGS, LOOK_TWICE_CHECKPOINT, *towers, *synthetic),
    )
    return Group.of("query", preset, [checkpoint, patches], no_leaks)


def look_twice_checkpoint(run: Run) -> dg.MaterializeResult:
    """Projection of the image tower's maps to patches, trained by late interaction: a photo has to find its
    SKU among its nearest neighbours."""
    preset, settings = run.preset, run.preset.look_twice
    assert settings is not None
    towers = [run.read(stored) for stored in (CLIP_CHECKPOINT, *_view_tower(preset))]
    shards = zip(run.read_all(CLIP_EMBEDDINGS), run.read_all(SKU_CROPS), strict=True)
    images = pl.concat([with_paths(shard.images(), crops.path) for shard, crops in shards])
    run.inputs.add(preset.synthetic.inputs())

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.late_interaction import train_patch_head
        from skufp_pipeline.encoders.patch_tables import Towers, gather_patch_data, sample_of_maps
        from skufp_pipeline.encoders.patches import PatchGrid, PatchHead

        photos, *views = [run.models.load_encoder(tower.folder) for tower in towers]
        head = PatchHead(PatchGrid.of(photos, settings))
        camera = preset.synthetic.camera, preset.synthetic.backgrounds
        places = settings, preset.seed, run.scratch, run.progress("pictures and photos read")
        rows = images.rename({"item_id": "query_id"})
        data, used = gather_patch_data(
            Towers(photos, (views or [photos])[0]), head.grid, rows, camera, *places
        )
        head.start(sample_of_maps(data))
        history = train_patch_head(head, data, settings, preset.seed, run.scratch, run.log)
        return write_patch_head(directory, head, history, used, len(data.photos))

    result = run.produce_or_off(LOOK_TWICE_CHECKPOINT, build, _write_off)
    return run.done(result, _curve(result.history()))


def sku_patches(run: Run) -> dg.MaterializeResult:
    """int8 patches of the shard's catalogue pictures, at most 4 KiB a SKU, and of its development photos."""
    checkpoint, crops = run.read(LOOK_TWICE_CHECKPOINT), run.read(SKU_CROPS)
    towers = [run.read(stored) for stored in (CLIP_CHECKPOINT, *_view_tower(run.preset))]
    images = with_paths(run.read(CLIP_EMBEDDINGS).images(), crops.path)
    if run.preset.calibrates_on_synthetic:
        rendered = with_paths(run.read(SYNTHETIC_EMBEDDINGS).images(), run.read(SYNTHETIC_PHOTOS).path)
        images = pl.concat([images, rendered.select(images.columns)])

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.patch_tables import patch_tables
        from skufp_pipeline.encoders.patches import PatchEncoder, PatchHead

        head = PatchHead.load(checkpoint.needed().path)
        encoders = [PatchEncoder(run.models.load_encoder(tower.folder), head) for tower in towers]
        batches = run.preset.encoder.batch_size, run.progress("patches")
        tables = patch_tables(encoders[-1], encoders[0], images, *batches)
        return Patches.write(directory, *tables, head.grid.shape)

    result = run.produce_or_off(SKU_PATCHES, build)
    return run.done(result, {} if result.off else frame_metadata(result.views().drop("patches")))


def write_patch_head(
    directory: Path, head: Any, history: list[dict[str, float]], used: pl.DataFrame, photos: int
) -> dict[str, Any]:
    """Writes the files of `PatchHeadFiles`; returns their summary."""
    head.save(directory)
    write_json(directory, "history", history)
    write_frames(directory, used_queries=used)
    grid = {"patches": head.grid.patches, "dimension": head.grid.dimension, "views": head.grid.views}
    return {**grid, "photos": photos, "steps": len(history), **left_out(None if used.height else NO_PHOTOS)}


def _write_off(directory: Path) -> None:
    write_unused(directory, no_queries())


def _curve(history: list[dict[str, float]]) -> dict[str, Any]:
    if not history:
        return {}
    return {
        "curve": picture(
            training_curves([{**row, "epoch": row["step"]} for row in history], ("loss",), "found")
        ),
        "history": markdown_table(pl.DataFrame(history[:: max(1, len(history) // 20)])),
    }


def _view_tower(preset: Preset) -> tuple[Stored[Any], ...]:
    """The frozen tower, which makes the catalogue's patches where the other is adapted to its vectors."""
    return () if preset.encoder.adaptation is None else (FROZEN_CLIP_CHECKPOINT,)
