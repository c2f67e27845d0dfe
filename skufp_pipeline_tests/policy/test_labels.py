"""Labels: hand-checked margins, ties to identity, the same bytes twice and after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.errors import UserError
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.labels import (
    LABEL_SCHEMA,
    label_queries,
    labelled_queries,
    margins_and_ranks,
    winners,
)
from skufp_pipeline.policy.settings import ActionSettings

from .examples import garment

SETTINGS = ActionSettings()


class MeanColour:
    """An encoder of three dimensions: the photo's mean colour, its contrast added, as a unit row."""

    dimension = 3

    def __init__(self, killed_after: int | None = None) -> None:
        self.batches, self.killed_after = 0, killed_after

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.resize((8, 8)), dtype=np.float32)).permute(2, 0, 1) / 255

    def embed_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        if self.batches == self.killed_after:
            raise KeyboardInterrupt
        self.batches += 1
        rows = pixels.mean(dim=(2, 3)) + pixels.std(dim=(2, 3))
        return torch.nn.functional.normalize(rows, dim=1).numpy()


def photos(folder: Path, count: int = 7) -> pl.DataFrame:
    """Queries of three SKUs, their files below `folder`."""
    encoder = MeanColour()
    rows, embeddings = [], []
    for number in range(count):
        path = folder / f"q{number}.png"
        Image.fromarray(garment(number, 30, 24)).save(path)
        with Image.open(path) as image:
            embeddings.append(encoder.embed_pixels(encoder.preprocess(image)[None])[0])
        role = "development" if number % 3 == 0 else "train"
        rows.append(
            {"query_id": f"train/q{number}", "sku_id": f"s{number % 3}", "role": role, "path": str(path)}
        )
    return pl.DataFrame(rows).with_columns(embedding_column(np.stack(embeddings)))


def gallery() -> pl.DataFrame:
    vectors = np.eye(3, dtype=np.float32)
    return pl.DataFrame({"sku_id": ["s0", "s1", "s2"], "bias": [0.0, 0.0, 0.0]}).with_columns(
        embedding_column(vectors).alias("fingerprint")
    )


def label(queries: pl.DataFrame, scratch: Path, encoder: Any = None, batch: int = 3) -> pl.DataFrame:
    scratch.mkdir(exist_ok=True)
    return label_queries(queries, gallery(), encoder or MeanColour(), SETTINGS, batch, scratch)


def test_margins_and_ranks_are_those_worked_out_by_hand() -> None:
    fingerprints = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    rows = np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]], dtype=np.float32)
    margins, ranks = margins_and_ranks(rows, fingerprints, np.array([0]))
    assert margins[0] == pytest.approx([1 - 0.6, 0 - 1, 0.6 - 1], abs=1e-6)
    assert ranks[0].tolist() == [1, 3, 3]


def test_equal_scores_count_against_the_right_sku() -> None:
    _, ranks = margins_and_ranks(np.ones((1, 1, 2), np.float32), np.ones((3, 2)), np.array([1]))
    assert ranks.tolist() == [[3]]


def test_a_tie_goes_to_identity_and_a_last_bit_is_no_difference() -> None:
    margins = np.zeros((3, len(ACTIONS)))
    margins[1, 4], margins[2, 4] = 0.1, 1e-9
    assert [ACTIONS[place] for place in winners(margins)] == ["identity", "sharpen", "identity"]


def test_every_query_has_seven_scores_and_the_winner_is_the_best(tmp_path: Path) -> None:
    queries = photos(tmp_path)
    labels = label(queries, tmp_path / "scratch")
    assert labels.schema == pl.Schema({**LABEL_SCHEMA, "embedding": pl.Array(pl.Float32, 3)})
    assert labels["query_id"].equals(queries["query_id"])
    own = queries["embedding"].to_numpy()
    for row, sku in enumerate(queries["sku_id"]):
        truth = int(sku[1])
        expected = own[row, truth] - np.delete(own[row], truth).max()
        assert labels["margins"][row][0] == pytest.approx(expected, abs=1e-6), "identity's margin"
        assert labels["ranks"][row][0] == 1 + (np.delete(own[row], truth) >= own[row, truth]).sum()
        best = ACTIONS.index(labels["winner"][row])
        assert labels["margins"][row][best] == pytest.approx(max(labels["margins"][row]), abs=1e-6)
    assert labels["winner"].n_unique() > 1


def test_labels_reproduce_bit_for_bit(tmp_path: Path) -> None:
    queries = photos(tmp_path)
    first, second = (label(queries, tmp_path / name) for name in ("one", "two"))
    for name, table in (("one", first), ("two", second)):
        table.write_parquet(tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_killed_run_goes_on_with_the_batches_that_are_missing(tmp_path: Path) -> None:
    queries, per_batch = photos(tmp_path), len(ACTIONS) - 1
    whole = label(queries, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        label(queries, tmp_path / "killed", MeanColour(killed_after=per_batch + 2))
    resumed = MeanColour()
    assert label(queries, tmp_path / "killed", resumed).equals(whole)
    assert resumed.batches == 2 * per_batch, "the first of three batches was kept"


def test_batches_of_other_queries_are_refused(tmp_path: Path) -> None:
    queries = photos(tmp_path)
    label(queries, tmp_path / "scratch")
    with pytest.raises(UserError, match="holds the labels of other queries"):
        label(queries.reverse(), tmp_path / "scratch")


def test_a_query_whose_sku_has_no_fingerprint_is_left_aside(tmp_path: Path) -> None:
    queries = photos(tmp_path).with_columns(pl.col("sku_id").replace("s2", "gone"))
    assert set(label(queries, tmp_path / "scratch")["sku_id"]) == {"s0", "s1"}


def test_a_shard_without_queries_has_an_empty_table_of_the_same_schema(tmp_path: Path) -> None:
    queries = photos(tmp_path)
    empty, full = label(queries.clear(), tmp_path / "none"), label(queries, tmp_path / "scratch")
    assert empty.is_empty()
    assert empty.schema == full.schema


def test_a_photo_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    queries = photos(tmp_path)
    (tmp_path / "q3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"q3\.png can't be read"):
        label(queries, tmp_path / "scratch")


def images(count: int = 40) -> pl.DataFrame:
    roles = ["train", "development", "evaluation", "gallery"]
    return pl.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(count)],
            "split": ["validation" if number % 10 == 9 else "train" for number in range(count)],
            "role": [roles[number % 4] for number in range(count)],
        }
    )


def test_only_train_and_development_photos_of_training_skus_are_labelled() -> None:
    chosen = labelled_queries(images(), None)
    assert set(chosen["role"]) == {"train", "development"}
    assert set(chosen["split"]) == {"train"}
    expected = images().filter((pl.col("split") == "train") & pl.col("role").is_in(["train", "development"]))
    assert set(chosen["query_id"]) == set(expected["item_id"])


def test_a_limit_is_for_train_photos_and_a_larger_one_holds_the_smaller() -> None:
    few, more = (labelled_queries(images(), limit) for limit in (3, 6))
    assert (few["role"] == "train").sum() == 3
    assert set(few["query_id"]) < set(more["query_id"])
    held = images().filter((pl.col("role") == "development") & (pl.col("split") == "train")).height
    assert (few["role"] == "development").sum() == (more["role"] == "development").sum() == held
