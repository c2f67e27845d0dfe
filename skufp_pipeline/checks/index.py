"""The check of the exported image encoder: published whole, and near PyTorch on real photos."""

import dagster as dg

from skufp_pipeline.assets.fingerprints import read_embedding_shards
from skufp_pipeline.assets.index import photos_of_training
from skufp_pipeline.compute import Needs, declare
from skufp_pipeline.encoders.parity import LEAST_COSINE
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset
from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.steps import Step
from skufp_pipeline.store import Artifact, ArtifactStore

PHOTOS = 32  # embedded again; the asset's own figures come from many more


def index_checks(preset: Preset, steps: dict[str, Step]) -> list[dg.AssetChecksDefinition]:
    """The check of `image_encoder_onnx`, where the preset has that asset."""
    if "image_encoder_onnx" not in steps:
        return []
    step = steps["image_encoder_onnx"]

    @dg.asset_check(
        asset=step.name,
        blocking=True,
        description="The published model is whole and embeds photos as PyTorch did: cosine at least 0.999 "
        "in float32, 0.99 in int8.",
        **declare(Needs(preset.compute.cores, preset.compute.memory_gib)),
    )
    def parity_holds(artifacts: ArtifactStoreResource) -> dg.AssetCheckResult:
        store = artifacts.get()
        artifact = store.read(step.key)
        if damaged := artifact.damaged_files():
            return dg.AssetCheckResult(passed=False, metadata={"damaged_files": damaged})
        precision = artifact.summary["precision"]
        try:
            least = _least_cosine(artifact, store, steps, preset)
        except UserError as error:
            return dg.AssetCheckResult(passed=False, metadata={"problem": str(error)})
        return dg.AssetCheckResult(
            passed=least >= LEAST_COSINE[precision],
            metadata={"precision": precision, "cosine_least": least, "needed": LEAST_COSINE[precision]},
        )

    return [parity_holds]


def _least_cosine(artifact: Artifact, store: ArtifactStore, steps: dict[str, Step], preset: Preset) -> float:
    """Of photos embedded by the published model here and now, with what PyTorch made of them."""
    import torch

    from skufp_pipeline.encoders.clip import load_encoder
    from skufp_pipeline.encoders.embed import embed_crops
    from skufp_pipeline.encoders.onnx import load_image_encoder

    shards = read_embedding_shards(store, steps["clip_embeddings"], steps["clip_checkpoint"], preset)
    checkpoint = store.read(steps["clip_checkpoint"].key)
    artifact.require_input("clip_checkpoint", checkpoint.digest)
    photos, files = photos_of_training(store, shards, steps["sku_crops"], preset, PHOTOS)
    encoder = load_encoder(checkpoint.path / "encoder", torch.device("cpu"))
    exported = load_image_encoder(artifact.path, encoder.preprocess, torch.get_num_threads())
    return photos.judge(embed_crops(exported, files, batch_size=1)).cosine_least
