"""The check of the exported image encoder: published complete, and close to PyTorch on real photos."""

import dagster as dg

from skufp_pipeline.artifacts.inputs import Inputs
from skufp_pipeline.artifacts.kinds import ImageEncoder
from skufp_pipeline.artifacts.places import CLIP_CHECKPOINT, CLIP_EMBEDDINGS, IMAGE_ENCODER_ONNX
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.encoders.parity import LEAST_COSINE
from skufp_pipeline.errors import UserError
from skufp_pipeline.fingerprint.tables import EmbeddingTables
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.search.parity import parity_photos

PHOTOS = 32  # embedded again here; the asset's own figures use many more


def parity_holds(preset: Preset) -> dg.AssetChecksDefinition:
    """The check of `image_encoder_onnx`."""

    @dg.asset_check(
        asset=IMAGE_ENCODER_ONNX.name,
        name="parity_holds",
        blocking=True,
        description="The published model is whole and embeds photos as PyTorch did: cosine at least 0.999 "
        "in float32, 0.99 in int8.",
        **declare(Needs(preset.compute.cores, preset.compute.memory_gib)),
    )
    def check(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        inputs = Inputs(artifacts.get(), preset.shards)
        exported = inputs.read(IMAGE_ENCODER_ONNX)
        if damaged := exported.artifact.damaged_files():
            return dg.AssetCheckResult(passed=False, metadata={"damaged_files": damaged})
        precision = exported.summary["precision"]
        try:
            least = _least_cosine(exported, inputs, preset)
        except UserError as error:
            return dg.AssetCheckResult(passed=False, metadata={"problem": str(error)})
        return dg.AssetCheckResult(
            passed=least >= LEAST_COSINE[precision],
            metadata={"precision": precision, "cosine_least": least, "needed": LEAST_COSINE[precision]},
        )

    return check


def _least_cosine(exported: ImageEncoder, inputs: Inputs, preset: Preset) -> float:
    """Embeds photos with the published model; returns the least cosine with PyTorch's embeddings."""
    import torch

    from skufp_pipeline.encoders.clip import load_encoder
    from skufp_pipeline.encoders.embed import embed_crops
    from skufp_pipeline.encoders.onnx import load_image_encoder

    checkpoint, crop_of = inputs.read(CLIP_CHECKPOINT), inputs.crop_files()
    images = EmbeddingTables.of(inputs.read_all(CLIP_EMBEDDINGS)).images
    inputs.digests()  # raises if the inputs are inconsistent
    photos = parity_photos(images, PHOTOS, preset.fingerprint.max_views)
    files = [crop_of(row) for row in photos.rows.iter_rows(named=True)]
    encoder = load_encoder(checkpoint.folder, torch.device("cpu"))
    if preset.encoder.adaptation is not None:
        photos = photos.as_queries(encoder, files, preset.encoder.batch_size)
    model = load_image_encoder(exported.path, encoder.preprocess, torch.get_num_threads())
    return photos.judge(embed_crops(model, files, batch_size=1)).cosine_least
