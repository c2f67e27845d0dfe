"""Group `synthetic`: photos rendered from the catalogue's pictures, and what the encoders embed of them."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from skufp_pipeline.artifacts.kinds import Embeddings, Encoder, SyntheticPhotos
from skufp_pipeline.artifacts.places import (
    CLIP_CHECKPOINT,
    FROZEN_CLIP_CHECKPOINT,
    FROZEN_SYNTHETIC_EMBEDDINGS,
    SKU_CROPS,
    SYNTHETIC_EMBEDDINGS,
    SYNTHETIC_PHOTOS,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.checks.encoder import embeddings_sound, embeddings_sound_spec
from skufp_pipeline.checks.synthetic import PHOTOS_COMPLETE, photos_complete
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.presets import Preset
from skufp_pipeline.show import counts_table, frame_metadata, picture
from skufp_pipeline.steps import Group, Run, Step

EMBED = "embed_synthetic"


def group(preset: Preset) -> Group:
    """The steps of this group; none if the preset stores no synthetic photos, and the photos alone in a graph
    without an encoder."""
    if preset.synthetic.photos is None:
        return Group.of("synthetic", preset, [])
    embed: dict[str, Any] = {
        "stage": EMBED,
        "kinds": {"pytorch", "parquet"},
        "code": ("skufp_pipeline.encoders.embed",),
        "needs": preset.compute.network_needs,
    }
    steps = [
        Step(
            stored=SYNTHETIC_PHOTOS,
            make=synthetic_photos,
            stage="render_photos",
            kinds={"opencv", "jpeg", "parquet"},
            code=("skufp_pipeline.training.synthetic_photos",),
            config={"synthetic": preset.synthetic.model_dump(mode="json"), "seed": preset.seed},
            needs=Needs(cores=preset.compute.cores, memory_gib=2),
            deps=(SKU_CROPS,),
            check_specs=(PHOTOS_COMPLETE,),
            priority=-1,
        ),
        Step(
            stored=SYNTHETIC_EMBEDDINGS,
            make=synthetic_embeddings,
            deps=(SYNTHETIC_PHOTOS, CLIP_CHECKPOINT),
            check_specs=(embeddings_sound_spec(SYNTHETIC_EMBEDDINGS.name),),
            **embed,
        ),
    ]
    if preset.graph == "pictures":
        return Group.of("synthetic", preset, steps[:1])
    if preset.encoder.is_pretrained:
        frozen = Step(
            stored=FROZEN_SYNTHETIC_EMBEDDINGS,
            make=frozen_synthetic_embeddings,
            weekly=True,
            deps=(SYNTHETIC_PHOTOS, FROZEN_CLIP_CHECKPOINT),
            check_specs=(embeddings_sound_spec(FROZEN_SYNTHETIC_EMBEDDINGS.name),),
            **embed,
        )
        steps.append(frozen)
    return Group.of("synthetic", preset, steps)


def synthetic_photos(run: Run) -> dg.MaterializeResult:
    """Synthetic photos of the shard's SKUs by role, as JPEG files, with the box of the product in each."""
    from skufp_pipeline.training.synthetic_photos import catalogue_pictures, render_photos, sheet_of_photos

    settings, crops = run.preset.synthetic, run.read(SKU_CROPS)
    photos, seed = settings.photos, run.preset.seed
    assert photos is not None
    pictures = catalogue_pictures(crops.table(), crops.path)
    run.inputs.add(settings.inputs())

    def build(directory: Path) -> dict[str, Any]:
        progress = run.progress("SKUs photographed")
        rendered = render_photos(pictures, settings, photos, seed, run.scratch, directory, progress)
        return SyntheticPhotos.write(directory, rendered)

    result = run.produce(SYNTHETIC_PHOTOS, build)
    table = result.table()
    metadata = {
        **frame_metadata(table),
        "photos_by_role": counts_table(table, ["split", "role"]),
        "contact_sheet": picture(sheet_of_photos(table, result.path)),
    }
    return run.done(result, metadata, photos_complete(result, pictures["sku_id"].unique(), photos))


def synthetic_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard's synthetic photos."""
    return _embed(run, SYNTHETIC_EMBEDDINGS, run.read(CLIP_CHECKPOINT), pl.lit(True))


def frozen_synthetic_embeddings(run: Run) -> dg.MaterializeResult:
    """Unit embeddings of the shard's synthetic evaluation photos by the encoder before training."""
    is_judged = pl.col("role") == EVALUATION
    return _embed(run, FROZEN_SYNTHETIC_EMBEDDINGS, run.read(FROZEN_CLIP_CHECKPOINT), is_judged)


def _embed(
    run: Run, stored: Stored[Embeddings], checkpoint: Encoder, chosen: pl.Expr
) -> dg.MaterializeResult:
    photos, batch_size = run.read(SYNTHETIC_PHOTOS), run.preset.encoder.batch_size

    def build(directory: Path) -> dict[str, Any]:
        from skufp_pipeline.encoders.embed import embed_synthetic

        encoder, progress = run.models.load_encoder(checkpoint.folder), run.progress("photos embedded")
        rows = photos.table().filter(chosen)
        return Embeddings.write(directory, embed_synthetic(encoder, rows, photos.path, batch_size, progress))

    result = run.produce(stored, build)
    images = result.images()
    return run.done(result, frame_metadata(images), embeddings_sound(stored.name, images))
