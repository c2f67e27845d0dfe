"""Every result of the graph: its asset's name, its key in the store and its typed form."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from skufp_pipeline.artifacts import kinds
from skufp_pipeline.artifacts.stored import Stored, StoredVersions
from skufp_pipeline.datasets.table import SYNTHETIC
from skufp_pipeline.hashing import stable_shard
from skufp_pipeline.store import ArtifactStore

RAW_DATASET = Stored("raw_dataset", "raw/dataset", kinds.RawDataset)
ANNOTATIONS = Stored("annotations", "tables/annotations", kinds.Annotations, parts="items/*.parquet")
SKU_CROPS = Stored("sku_crops", "crops", kinds.Crops, sharded=True)
IMAGE_TEXT = Stored("image_text", "tables/image_text", kinds.ImageText, sharded=True)
SYNTHETIC_PHOTOS = Stored("synthetic_photos", "synthetic_photos", kinds.SyntheticPhotos, sharded=True)

FROZEN_CLIP_CHECKPOINT = Stored(
    "frozen_clip_checkpoint", "checkpoints/frozen_clip", kinds.Encoder, trained=True
)
CLIP_CHECKPOINT = Stored("clip_checkpoint", "checkpoints/clip", kinds.Encoder, trained=True)
CLIP_EMBEDDINGS = Stored("clip_embeddings", "tables/clip_embeddings", kinds.Embeddings, sharded=True)
FROZEN_CLIP_EMBEDDINGS = Stored(
    "frozen_clip_embeddings", "tables/frozen_clip_embeddings", kinds.Embeddings, sharded=True
)
SYNTHETIC_EMBEDDINGS = Stored(
    "synthetic_embeddings", "tables/synthetic_embeddings", kinds.Embeddings, sharded=True
)
FROZEN_SYNTHETIC_EMBEDDINGS = Stored(
    "frozen_synthetic_embeddings", "tables/frozen_synthetic_embeddings", kinds.Embeddings, sharded=True
)
LOOK_TWICE_CHECKPOINT = Stored(
    "look_twice_checkpoint", "checkpoints/look_twice", kinds.PatchHeadFiles, trained=True
)
STAGE_MODELS = Stored("stage_models", "checkpoints/stages", kinds.StageModels, trained=True)
STAGE_EMBEDDINGS = Stored("stage_embeddings", "tables/stage_embeddings", kinds.StageEmbeddings, sharded=True)
SKU_PATCHES = Stored("sku_patches", "tables/sku_patches", kinds.Patches, sharded=True)

SD_BASE = Stored("sd_base", "checkpoints/sd_base", kinds.SmallBase, trained=True)
VIEW_FILTERS = Stored(
    "view_filters", "views/filters", kinds.ViewFilters, trained=True, parts="thresholds.json"
)
SD_LORA = Stored("sd_lora", "checkpoints/sd_lora", kinds.Lora, trained=True)
GENERATED_VIEWS = Stored("generated_views", "views/generated", kinds.GeneratedViews, sharded=True)
GENERATED_VIEW_EMBEDDINGS = Stored(
    "generated_view_embeddings", "tables/generated_view_embeddings", kinds.Embeddings, sharded=True
)

BEST_SHOT_TEACHERS = Stored("best_shot_teachers", "tables/best_shot_teachers", kinds.Teachers)
FINGERPRINT_CHECKPOINT = Stored(
    "fingerprint_checkpoint", "checkpoints/fingerprint", kinds.Aggregator, trained=True
)
FINGERPRINTS = Stored("fingerprints", "tables/fingerprints", kinds.Fingerprints)

VLA_LABELS = Stored("vla_labels", "tables/vla_labels", kinds.PolicyLabels, sharded=True)
VLA_CHECKPOINT = Stored("vla_checkpoint", "checkpoints/vla", kinds.PolicyCheckpoint, trained=True)
POLICY_REPORT = Stored("policy_report", "reports/policy", kinds.PolicyReport)

DETECTOR_CHECKPOINT = Stored(
    "detector_checkpoint", "checkpoints/detector", kinds.DetectorCheckpoint, trained=True
)
DETECTOR_ONNX = Stored("detector_onnx", "checkpoints/detector_onnx", kinds.DetectorExport, trained=True)
FOUND_REGIONS = Stored("found_regions", "tables/found_regions", kinds.FoundRegions)
DETECTION_REPORT = Stored("detection_report", "reports/detection", kinds.DetectionReport)

IMAGE_ENCODER_ONNX = Stored(
    "image_encoder_onnx", "checkpoints/image_encoder_onnx", kinds.ImageEncoder, trained=True
)
FIRST_INDEX = Stored("first_index", "tables/first_index", kinds.SearchIndex)
SEARCH_INDEX = StoredVersions("search_index", "index/fingerprints", kinds.SearchIndex)
RETRIEVAL_REPORT = Stored("retrieval_report", "reports/retrieval", kinds.ReportFiles)
IMAGE_SEARCH_REPORT = Stored("image_search_report", "reports/image_search", kinds.ImageSearchReport)
STREET2SHOP_REPORT = Stored("street2shop_report", "reports/street2shop", kinds.Street2ShopReport)
LENS_REPORT = Stored("lens_report", "reports/lens", kinds.LensReport)


_RENAMED = {"clip": "clip_extractor"}  # `clip_checkpoint` is that of the encoder


@cache
def extractor_checkpoint(name: str) -> Stored[kinds.ExtractorFiles]:
    """The trained extractor of this name: `reid_checkpoint`; of `clip`, `clip_extractor_checkpoint`."""
    stem = _RENAMED.get(name, name)
    return Stored(f"{stem}_checkpoint", f"checkpoints/{stem}", kinds.ExtractorFiles, trained=True)


@cache
def extractor_embeddings(name: str) -> Stored[kinds.Embeddings]:
    """What the extractor of this name embeds: `reid_embeddings`; of `clip`, `clip_extractor_embeddings`."""
    stem = f"{_RENAMED.get(name, name)}_embeddings"
    return Stored(stem, f"tables/{stem}", kinds.Embeddings, sharded=True)


@cache
def extractor_onnx(name: str) -> Stored[kinds.ExtractorExport]:
    """The exported tower of the extractor of this name."""
    stem = f"{_RENAMED.get(name, name)}_onnx"
    return Stored(stem, f"checkpoints/{stem}", kinds.ExtractorExport, trained=True)


@cache
def extractor_folds(name: str) -> Stored[kinds.ExtractorFolds]:
    """How the extractor of this name finds products that a training has not seen, fold by fold."""
    stem = f"{_RENAMED.get(name, name)}_folds"
    return Stored(stem, f"tables/{stem}", kinds.ExtractorFolds)


ENCODER = "encoder"  # the graph's own, among those whose pictures are indexed


@cache
def image_index(name: str) -> StoredVersions[kinds.SearchIndex]:
    """The index of catalogue pictures as this encoder embeds them: `reid_index`, in `index/reid`."""
    return StoredVersions(f"{name}_index", f"index/{name}", kinds.SearchIndex)


def image_encoder(name: str) -> tuple[Stored[Any], Stored[kinds.Embeddings]]:
    """The checkpoint and the embeddings of an encoder whose pictures can be indexed."""
    if name == ENCODER:
        return CLIP_CHECKPOINT, CLIP_EMBEDDINGS
    return extractor_checkpoint(name), extractor_embeddings(name)


def crop_file(store: ArtifactStore, row: Mapping[str, Any], num_shards: int) -> Path:
    """Returns the local crop of an item (`row`: `sku_id`, `image_path`), fetching no other file.

    A row of the domain `synthetic` gets its synthetic photo.
    """
    shard = stable_shard(row["sku_id"], num_shards)
    stored = SYNTHETIC_PHOTOS if row.get("domain") == SYNTHETIC else SKU_CROPS
    return store.local_path(f"{stored.key_in(store, shard)}/{row['image_path']}")
