from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from skufp_pipeline.datasets.crops import CropSettings
from skufp_pipeline.detection.regions import Region
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.evaluation.regions import (
    AskedPhoto,
    judge_regions,
    region_ranks,
    report_detection,
    sampled_photos,
)

from ..encoders.examples import write_model
from ..encoders.test_clip import CPU

EYE = np.eye(4, dtype=np.float32)
SKUS = ["a", "b", "c", "d"]


def gallery(vectors: np.ndarray = EYE) -> pl.DataFrame:
    table = pl.DataFrame({"sku_id": SKUS, "split": ["train", "train", "validation", "validation"]})
    bias = pl.lit(0.0, dtype=pl.Float32)
    return table.with_columns(embedding_column(vectors).alias("fingerprint"), bias=bias)


def asked(sku_id: str, embeddings: list[list[float]], boxes: list[tuple[int, int, int, int]]) -> AskedPhoto:
    """A photo whose item is at 0, 0, 10, 10; rows: annotated, whole, regions."""
    split = "train" if sku_id in "ab" else "validation"
    row: dict[str, Any] = {
        "query_id": f"of {sku_id}",
        "sku_id": sku_id,
        "split": split,
        "bbox": [0, 0, 10, 10],
    }
    found = [Region(box, "item", 0.9) for box in boxes]
    return AskedPhoto(row, np.array(embeddings, np.float32), found, 1.0)


RIGHT, FAR = (0, 0, 10, 9), (50, 50, 60, 60)
# The item that answers best is another; a shopper points at the right one.
MISLED = asked("a", [[1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0.9, 0], [0.8, 0, 0, 0]], [FAR, RIGHT])
NOTHING = asked("c", [[0, 0, 1, 0], [0, 0.9, 0, 0]], [])


def test_each_region_has_the_rank_of_its_own_embedding() -> None:
    found = region_ranks([MISLED, NOTHING], gallery(), True)
    assert [*found] == ["annotated", "detected", "tapped", "whole"]
    is_first = {region: (ranks == 1).tolist() for region, ranks in found.items()}
    assert is_first["annotated"] == [True, True]
    assert is_first["detected"] == [False, False], "nothing found: the whole photo, which is wrong"
    assert is_first["tapped"] == [True, False]
    assert is_first["whole"] == [False, False]
    without = region_ranks([MISLED, NOTHING], gallery(), False)
    assert [*without] == ["whole", "detected"]


def test_differences_are_paired_with_the_annotated_box_in_each_setting() -> None:
    table, photos = judge_regions([MISLED, NOTHING], gallery(), True, 100, 0)
    rows = {(row["setting"], row["region"]): row for row in table.to_dicts()}
    assert {setting for setting, _ in rows} == {"seen", "zero", "seen+zero"}
    assert (rows["seen", "tapped"]["recall@1"], rows["seen", "tapped"]["gallery"]) == (1.0, 2)
    both = rows["seen+zero", "tapped"]
    assert (both["photos"], both["gallery"], both["recall@1"], both["delta"]) == (2, 4, 0.5, -0.5)
    assert rows["seen+zero", "annotated"]["delta"] == 0
    assert photos["iou"].to_list() == pytest.approx([0.9, 0])
    assert photos["regions"].to_list() == [2, 0]


def test_only_evaluation_photos_of_skus_with_a_fingerprint_are_judged() -> None:
    rows = [
        ("a", "evaluation"),
        ("a", "train"),
        ("b", "development"),
        ("x", "evaluation"),
        ("c", "evaluation"),
    ]
    skus, roles = zip(*rows, strict=True)
    items = pl.DataFrame(
        {"sku_id": skus, "role": roles, "split": "train", "image_id": [*"12345"], "item_idx": 1}
    )
    found = sampled_photos(items, gallery()["sku_id"], 99)
    assert found["query_id"].to_list() == ["train/1_item1", "train/5_item1"]
    assert sampled_photos(items, gallery()["sku_id"], 1)["query_id"][0] in found["query_id"].to_list()


class Half:
    trim = 0.0

    def find(self, image: Image.Image) -> list[Region]:
        return [Region((0, 0, image.width // 2, image.height), "item", 0.8)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return create_encoder(write_model(tmp_path_factory.mktemp("models") / "tiny-regions.json"), CPU, seed=0)


def test_the_report_counts_what_could_not_be_read_and_knows_the_detector_s_recall(
    encoder: Encoder, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos = pl.DataFrame(
        {
            "query_id": ["1", "2"], "sku_id": ["a", "c"], "split": ["train", "validation"],
            "orig_image_path": ["good.png", "broken.png"], "role": "evaluation", "bbox": [[0, 0, 20, 20]] * 2,
        }
    )  # fmt: skip
    dimension = encoder.embed_images([Image.new("RGB", (9, 9))]).shape[1]
    table = gallery(np.eye(4, dimension, dtype=np.float32))
    parts = tmp_path.joinpath, True, Half(), encoder, table, CropSettings(), (100, 0)
    figures, regions, per_photo, found, sheet = report_detection(photos, *parts)
    assert (figures["photos"], figures["unreadable"], figures["found_nothing"]) == (1, 1, 0)
    assert figures["by_split"]["train"]["recall"] == figures["by_split"]["train"]["mean_iou"] == 1
    assert figures["detect"]["p50_ms"] > 0
    ranks = per_photo.to_dicts()[0]
    assert ranks["rank_annotated"] == ranks["rank_detected"] == ranks["rank_tapped"], "the very same box"
    assert set(regions["region"]) == {"annotated", "detected", "tapped", "whole"}
    assert sheet.width > 100
    assert found.select("item_id", "sku_id", "region_score").rows() == [("1", "a", 0.8)]
    with pytest.raises(TooLittleError, match="there are no evaluation photos to judge the detector on"):
        report_detection(photos.tail(1), *parts)
