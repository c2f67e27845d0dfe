"""Evaluates the query policy: each way of choosing an action (arm) on the same evaluation photos.

`off` takes no action, `always_*` takes one action on all photos, `constant` the one that is best on
development photos, `random` draws one, `average` uses the mean of all seven embeddings, `likeliest` is the
paper's policy, `gated` is ours, and `oracle` takes each photo's best action. The control `mirror` fuses the
photo's embedding with its mirror image's, without an action: what a second encode adds by itself. Ranks
follow the protocol of the retrieval report; every difference, from `off` and from `constant`, is paired, over
SKUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tabulate import tabulate

from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.encoders.embed import ImageEncoder, in_halves
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.fingerprint.tables import biased_queries, biased_rows
from skufp_pipeline.fingerprint.views import unit
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.measures.bootstrap import percentile_interval, resampled_means
from skufp_pipeline.measures.metrics import per_query_metrics
from skufp_pipeline.measures.ranks import ranks_of, right_items
from skufp_pipeline.policy.actions import ACTIONS, IDENTITY
from skufp_pipeline.policy.enhance import fuse
from skufp_pipeline.policy.labels import (
    Progress,
    embed_actions,
    margins_and_ranks,
    read_working_copy,
    winners,
)
from skufp_pipeline.policy.network import Decisions, Policy
from skufp_pipeline.policy.settings import ActionSettings

OFF, RANDOM, AVERAGE, MIRROR = "off", "random", "average", "mirror"
LIKELIEST, GATED, CONSTANT, ORACLE = "likeliest", "gated", "constant", "oracle"
METRICS = ("recall@1", "recall@5", "mrr")
DEGRADED = "degraded"
DEGRADED_SEVERITY = 0.3  # of the rendered sample; rather more than half of the demo's photos exceed it
_BLOCK = 64  # photos
WORST = 0.25  # share of the photos that a single degradation affects most
# Columns of the sample's side table; worse are larger values (1), smaller (-1), larger absolute values (0).
KINDS: dict[str, int] = {
    "cast": 1, "exposure": 0, "haze": 1, "blur": 1, "shake": 1, "resolution": -1, "noise": 1,
    "jpeg_quality": -1, "hidden": 1, "outside": 1,
}  # fmt: skip


@dataclass(frozen=True)
class ActionQueries:
    """Evaluation photos after each action.

    Attributes:
        rows: `query_id`, `sku_id`, `split`.
        embeddings: (Q, A, D) unit rows of the queries in the order of `ACTIONS`.
        mirrored: (Q, D) unit rows of the `mirror` control.
        features: (Q, F) quality features.
        decisions: the policy's, for these photos.
    """

    rows: pl.DataFrame
    embeddings: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    features: NDArray[np.float32]
    decisions: Decisions

    def decided_by(self, policy: Policy) -> "ActionQueries":
        """The same photos with the decisions of another policy for the same actions."""
        return replace(self, decisions=policy.decide(self.embeddings[:, 0], self.features))

    def select(self, rows: NDArray[np.int64]) -> "ActionQueries":
        """The photos of these rows, in this order."""
        decisions = Decisions(*(getattr(self.decisions, field.name)[rows] for field in fields(Decisions)))
        arrays = (self.embeddings[rows], self.mirrored[rows], self.features[rows])
        return ActionQueries(self.rows[rows.tolist()], *arrays, decisions)


def pooled(runs: Sequence[ActionQueries]) -> ActionQueries:
    """The same photos as decided by several policies, concatenated."""
    parts = [run.decisions for run in runs]
    decisions = Decisions(
        *(np.concatenate([getattr(d, field.name) for d in parts]) for field in fields(Decisions))
    )
    return ActionQueries(
        pl.concat([run.rows for run in runs]),
        np.concatenate([run.embeddings for run in runs]),
        np.concatenate([run.mirrored for run in runs]),
        np.concatenate([run.features for run in runs]),
        decisions,
    )


def evaluation_photos(images: pl.DataFrame, sku_ids: pl.Series, limit: int | None) -> pl.DataFrame:
    """The evaluation photos to judge, id renamed to `query_id`: all, or a stable sample of `limit`.

    `images` is the embedding table of all shards; `sku_ids` are the SKUs that have a fingerprint.
    """
    held = images.filter(
        (pl.col("role") == EVALUATION)
        & pl.col("split").is_in(SETTING_SPLITS["seen+zero"])
        & pl.col("sku_id").is_in(sku_ids.implode())
    )
    draw = pl.col("item_id").map_elements(lambda i: stable_hash(i, "policy-report"), return_dtype=pl.UInt64)
    chosen = held.sort(draw) if limit is None else held.sort(draw).head(limit)
    return chosen.rename({"item_id": "query_id"}).sort("query_id")


def try_actions(
    photos: pl.DataFrame, encoder: ImageEncoder, policy: Policy, progress: Progress | None = None
) -> ActionQueries:
    """Embeds `photos` (`query_id`, `sku_id`, `split`, `embedding`, `path`) after each action and decides."""
    rows, mirrored, features = [], [], []
    for start in range(0, photos.height, _BLOCK):
        batch = photos.slice(start, _BLOCK)
        embeddings, quality = embed_actions(batch, encoder, policy.actions)
        rows.append(embeddings)
        mirrored.append(_mirrored(batch, encoder, policy.actions))
        features.append(quality)
        if progress is not None:
            progress(start + batch.height, photos.height)
    quality = np.concatenate(features)
    return ActionQueries(
        photos.select("query_id", "sku_id", "split"),
        np.concatenate(rows),
        np.concatenate(mirrored),
        quality,
        policy.decide(embedding_rows(photos), quality),
    )


def _mirrored(photos: pl.DataFrame, encoder: ImageEncoder, settings: ActionSettings) -> NDArray[np.float32]:
    """(B, D) unit rows of the `mirror` control."""
    copies = [read_working_copy(Path(path), settings)[0] for path in photos["path"]]
    pixels = torch.stack([encoder.preprocess(ImageOps.mirror(Image.fromarray(copy))) for copy in copies])
    changed = np.concatenate(in_halves(encoder.embed_pixels, pixels))
    return fuse(embedding_rows(photos), changed, settings)


def arm_actions(decisions: Decisions, seed: int) -> dict[str, NDArray[np.int64]]:
    """(Q,) action of each arm that takes one of the seven without knowing the right SKU."""
    count = len(decisions.gated)
    always = {f"always_{name}": np.full(count, index) for index, name in enumerate(ACTIONS) if index}
    return {
        OFF: np.zeros(count, dtype=np.int64),
        **always,
        RANDOM: np.random.default_rng(seed).integers(len(ACTIONS), size=count),
        CONSTANT: decisions.constant,
        LIKELIEST: decisions.likeliest,
        GATED: decisions.gated,
    }


def arm_ranks(
    queries: ActionQueries, fingerprints: NDArray[np.float32], truth: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.int64]]:
    """(Q,) ranks of the right SKU, by arm, among the `fingerprints` (S, D + 1) of `biased_rows`.

    `truth` (Q,) is the row of each query's SKU among them.
    """
    count, actions, dimension = queries.embeddings.shape
    query_rows = biased_queries(queries.embeddings.reshape(-1, dimension))
    flat = ranks_of(query_rows, fingerprints, np.repeat(truth, actions)).reshape(count, actions)
    indices = np.arange(count)
    ranks = {name: flat[indices, taken] for name, taken in arm_actions(queries.decisions, seed).items()}
    ranks[MIRROR] = ranks_of(biased_queries(queries.mirrored), fingerprints, truth)
    average = biased_queries(unit(queries.embeddings.mean(axis=1)))
    ranks[AVERAGE] = ranks_of(average, fingerprints, truth)
    ranks[ORACLE] = flat.min(axis=1)
    return ranks


def judge_policy(
    queries: ActionQueries,
    fingerprints: pl.DataFrame,
    degradations: pl.DataFrame | None,
    resamples: int,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The report's table, and every query's ranks.

    Args:
        fingerprints: `sku_id`, `split`, `bias`, `fingerprint`; every query's SKU is among them.
        degradations: `query_id` and `DEGRADATION_SCHEMA`, if known.

    Returns:
        One row per setting, part of the queries and arm: `queries`, `METRICS`, the difference of each from
        `off` (`_gain`, `_low`, `_high`) and from `constant` (`_over_constant` and its interval), and
        `encoded_twice`, the share of photos that are encoded again. And one row per query of the setting
        seen+zero: the gate's `action`, and the rank by arm.
    """
    rows, per_query = [], pl.DataFrame()
    for setting, splits in SETTING_SPLITS.items():
        chosen = np.flatnonzero(np.isin(queries.rows["split"].to_numpy().astype(str), splits))
        if len(chosen) == 0:
            continue
        subset = queries.select(chosen)
        gallery = fingerprints.filter(pl.col("split").is_in(splits))
        truth = right_items(subset.rows["sku_id"], gallery["sku_id"])
        ranks = arm_ranks(subset, biased_rows(gallery), truth, seed)
        taken = {name: actions > 0 for name, actions in arm_actions(subset.decisions, seed).items()}
        for part, in_part in query_parts(subset.rows, degradations).items():
            rows += [
                {"setting": setting, "part": part, **row}
                for row in _arm_rows(ranks, taken, in_part, subset.rows["sku_id"].to_numpy(), resamples, seed)
            ]
        actions = [ACTIONS[action] for action in subset.decisions.gated]
        per_query = subset.rows.with_columns(pl.Series("action", actions), **ranks)  # seen+zero is last
    return pl.DataFrame(rows), per_query


def query_parts(rows: pl.DataFrame, degradations: pl.DataFrame | None) -> dict[str, NDArray[np.bool_]]:
    """(Q,) membership in each part of the queries: all, the degraded, the worst of each kind."""
    parts = {"all": np.ones(rows.height, dtype=bool)}
    if degradations is None:
        return parts
    joined = rows.select("query_id").join(degradations, on="query_id", how="left", maintain_order="left")
    parts[DEGRADED] = (joined["severity"] > DEGRADED_SEVERITY).fill_null(False).to_numpy()
    for name, direction in KINDS.items():
        values = joined[name].abs() if direction == 0 else joined[name] * direction
        limit = values.quantile(1 - WORST)
        parts[name] = (values > limit).fill_null(False).to_numpy()
    return parts


def _arm_rows(
    ranks: Mapping[str, NDArray[np.int64]],
    taken: Mapping[str, NDArray[np.bool_]],
    in_part: NDArray[np.bool_],
    sku_ids: NDArray,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    if not in_part.any():
        return []
    values = {name: per_query_metrics(of_arm[in_part]) for name, of_arm in ranks.items()}
    # One bootstrap for all differences, so that they share the resamples of SKUs.
    compared = [(name, metric, other) for name in values for metric in METRICS for other in (OFF, CONSTANT)]
    differences = np.stack(
        [values[name][metric] - values[other][metric] for name, metric, other in compared], axis=1
    )
    drawn = resampled_means(differences, sku_ids[in_part], resamples, seed)
    found = {
        key: (float(difference.mean()), *percentile_interval(column))
        for key, difference, column in zip(compared, differences.T, drawn.T, strict=True)
    }
    rows = []
    for name, of_arm in values.items():
        row: dict[str, Any] = {"arm": name, "queries": int(in_part.sum())}
        for metric in METRICS:
            row[metric] = float(of_arm[metric].mean())
            names = (f"{metric}_gain", f"{metric}_low", f"{metric}_high")
            row |= zip(names, found[name, metric, OFF], strict=True)
            over = f"{metric}_over_constant"
            row |= zip((over, f"{over}_low", f"{over}_high"), found[name, metric, CONSTANT], strict=True)
        twice = taken[name][in_part].mean() if name in taken else 1.0  # the others always encode again
        rows.append({**row, "encoded_twice": float(twice)})
    return rows


def confusion(queries: ActionQueries, fingerprints: pl.DataFrame) -> pl.DataFrame:
    """Number of photos by the policy's likeliest action (row) and the best action (column)."""
    gallery = biased_rows(fingerprints).astype(np.float64)
    truth = right_items(queries.rows["sku_id"], fingerprints["sku_id"])
    counts = np.zeros((len(ACTIONS), len(ACTIONS)), dtype=np.int64)
    for start in range(0, len(truth), _BLOCK):
        part = slice(start, start + _BLOCK)
        margins, _ = margins_and_ranks(biased_queries(queries.embeddings[part]), gallery, truth[part])
        np.add.at(counts, (queries.decisions.likeliest[part], winners(margins)), 1)
    columns = {f"best_{name}": counts[:, index] for index, name in enumerate(ACTIONS)}
    return pl.DataFrame({"named": ACTIONS, **columns})


def shown_queries(per_query: pl.DataFrame, count: int) -> pl.DataFrame:
    """Photos for the sheet: those whose rank an action changed most, up to half of them for the worse."""
    moved = per_query.filter(pl.col("action") != IDENTITY).with_columns(
        step=(1 / pl.col(GATED)) - (1 / pl.col(OFF))
    )
    down = moved.filter(pl.col("step") < 0).sort("step", "query_id").head(count // 2)
    up = moved.filter(pl.col("step") > 0).sort(["step", "query_id"], descending=[True, False])
    return pl.concat([up.head(count - down.height), down])


def against_constant(table: pl.DataFrame, action: str) -> dict[str, Any]:
    """What the gated policy gains over the constant `action` on all photos of seen+zero, for a summary."""
    all_photos = table.filter((pl.col("setting") == "seen+zero") & (pl.col("part") == "all"))
    rows = {row["arm"]: row for row in all_photos.to_dicts()}
    gated, constant, over = rows[GATED], rows[CONSTANT], "recall@1_over_constant"
    return {
        "constant": action,
        "gated_recall@1": gated["recall@1"],
        "constant_recall@1": constant["recall@1"],
        "gated_over_constant": gated[over],
        "gated_over_constant_low": gated[f"{over}_low"],
        "gated_over_constant_high": gated[f"{over}_high"],
        "gated_encoded_twice": gated["encoded_twice"],
        "constant_encoded_twice": constant["encoded_twice"],
    }


def text_table(table: pl.DataFrame, parts: Sequence[str] = ("all", DEGRADED)) -> str:
    """The report's table for a terminal; `*` marks an interval that excludes 0."""
    rows = []
    for row in table.filter(pl.col("part").is_in(parts)).iter_rows(named=True):
        figures = [f"{row[name]:.3f}" for name in ("recall@1", "recall@5", "mrr")]
        gains = [
            _with_interval(*(row[f"recall@1_{end}"] for end in ends))
            for ends in (
                ("gain", "low", "high"),
                ("over_constant", "over_constant_low", "over_constant_high"),
            )
        ]
        names = row["setting"], row["part"], row["arm"], str(row["queries"])
        rows.append([*names, *figures, *gains, f"{row['encoded_twice']:.2f}"])
    header = ["Setting", "Photos", "Arm", "Queries", "R@1", "R@5", "MRR", "R@1 - off", "R@1 - constant"]
    align = (*("left",) * 3, *("right",) * 4, "left", "left", "right")
    return tabulate(rows, [*header, "encoded twice"], "simple", colalign=align, disable_numparse=True)


def _with_interval(value: float, low: float, high: float) -> str:
    star = "*" if low > 0 or high < 0 else " "
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]{star}"


def degradations_of(table: pl.DataFrame | None, photos: pl.DataFrame) -> pl.DataFrame | None:
    """Joins the degradations, by `split` and `image_id`, to the photos' `query_id`; None without a table."""
    if table is None:
        return None
    return photos.select("query_id", "split", "image_id").join(table, on=["split", "image_id"], how="left")
