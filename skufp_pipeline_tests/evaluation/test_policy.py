"""Arms of the policy report on photos whose ranks can be worked out by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.evaluation.figures import policy_arms
from skufp_pipeline.evaluation.policy import (
    ActionQueries,
    against_constant,
    arm_ranks,
    confusion,
    evaluation_photos,
    judge_policy,
    pooled,
    query_parts,
    shown_queries,
    text_table,
)
from skufp_pipeline.fingerprint.tables import biased_rows
from skufp_pipeline.photos import open_photo
from skufp_pipeline.policy.actions import ACTIONS
from skufp_pipeline.policy.network import Decisions
from skufp_pipeline.policy.quality import FEATURES

SHARPEN = ACTIONS.index("sharpen")


def direction(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def queries(gated: list[int]) -> ActionQueries:
    """Two photos of SKU a, at 0 degrees; b is at 90. As they are, the first points at a and the second at b;
    sharpening turns either around."""
    as_it_is = [direction(10), direction(80)]
    embeddings = np.stack([np.repeat(row[None], len(ACTIONS), axis=0) for row in as_it_is])
    embeddings[:, SHARPEN] = [direction(80), direction(10)]
    rows = pl.DataFrame({"query_id": ["q0", "q1"], "sku_id": ["a", "a"], "split": ["train", "validation"]})
    chosen = np.array(gated)
    nothing, mirrored = np.zeros((2, len(ACTIONS)), np.float32), np.stack([direction(20), direction(30)])
    features = np.zeros((2, len(FEATURES)), np.float32)
    return ActionQueries(
        rows,
        embeddings,
        mirrored,
        features,
        Decisions(nothing, nothing, np.array([SHARPEN, SHARPEN]), chosen, np.array([SHARPEN, SHARPEN])),
    )


GALLERY = np.stack([direction(0), direction(90)])
FINGERPRINTS = pl.DataFrame(
    {"sku_id": ["a", "b"], "split": ["train", "train"], "bias": [0.0, 0.0]}
).with_columns(embedding_column(GALLERY).alias("fingerprint"))
TRUTH, ROWS = np.array([0, 0]), biased_rows(FINGERPRINTS)


def test_every_arm_has_the_ranks_of_what_it_does() -> None:
    ranks = {name: rank.tolist() for name, rank in arm_ranks(queries([0, SHARPEN]), ROWS, TRUTH, 0).items()}
    assert ranks["off"] == [1, 2]
    assert ranks["always_sharpen"] == ranks["likeliest"] == ranks["constant"] == [2, 1]
    assert ranks["always_denoise"] == [1, 2]
    assert ranks["gated"] == ranks["oracle"] == [1, 1]
    assert ranks["mirror"] == [1, 1]
    assert ranks["average"] == [1, 2], "six of seven point where the photo does"
    assert set(ranks) == {
        *(f"always_{name}" for name in ACTIONS[1:]),
        *("off", "random", "average", "mirror", "likeliest", "gated", "constant", "oracle"),
    }


def test_the_random_arm_is_drawn_from_its_seed() -> None:
    many = queries([0, 0])
    drawn = [arm_ranks(many, ROWS, TRUTH, seed)["random"].tolist() for seed in (1, 1, *range(2, 30))]
    assert drawn[0] == drawn[1]
    assert len({tuple(ranks) for ranks in drawn}) > 1


def judged(gated: list[int], degradations: pl.DataFrame | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    one_split = queries(gated)
    rows = one_split.rows.with_columns(split=pl.lit("train"))
    return judge_policy(replace(one_split, rows=rows), FINGERPRINTS, degradations, resamples=100, seed=0)


def test_gains_are_paired_differences_from_doing_nothing() -> None:
    table, per_query = judged([0, SHARPEN])
    rows = {row["arm"]: row for row in table.filter(pl.col("setting") == "seen+zero").to_dicts()}
    assert rows["off"]["recall@1"] == 0.5
    assert rows["off"]["recall@1_gain"] == rows["off"]["recall@1_low"] == rows["off"]["recall@1_high"] == 0
    assert (rows["gated"]["recall@1"], rows["gated"]["recall@1_gain"]) == (1.0, 0.5)
    assert rows["gated"]["mrr_gain"] == 0.25
    assert rows["gated"]["encoded_twice"] == 0.5
    assert (rows["off"]["encoded_twice"], rows["always_denoise"]["encoded_twice"]) == (0, 1)
    assert per_query["action"].to_list() == ["identity", "sharpen"]
    assert per_query["gated"].to_list() == [1, 1]


def test_the_gate_is_compared_with_the_best_constant_photo_by_photo() -> None:
    table, _ = judged([0, SHARPEN])
    rows = {row["arm"]: row for row in table.filter(pl.col("setting") == "seen+zero").to_dicts()}
    ends = ("recall@1_over_constant", "recall@1_over_constant_low", "recall@1_over_constant_high")
    assert [rows["constant"][name] for name in ends] == [0, 0, 0]
    assert rows["off"]["recall@1_over_constant"] == 0, "half of the photos are right either way"
    # Both photos are of one SKU, so that every resample of SKUs is the same.
    assert [rows["gated"][name] for name in ends] == [0.5, 0.5, 0.5]
    assert rows["gated"]["mrr_over_constant"] == 0.25
    assert against_constant(table, "sharpen") == {
        "constant": "sharpen",
        "gated_recall@1": 1.0,
        "constant_recall@1": 0.5,
        "gated_over_constant": 0.5,
        "gated_over_constant_low": 0.5,
        "gated_over_constant_high": 0.5,
        "gated_encoded_twice": 0.5,
        "constant_encoded_twice": 1.0,
    }


def test_the_picture_of_the_arms_is_the_same_every_time() -> None:
    table, _ = judged([0, SHARPEN])
    panels = {"all": table.filter(pl.col("setting") == "seen")}
    first, second = (policy_arms(panels, "constant") for _ in range(2))
    assert first == second
    assert open_photo(first).width > 300
    assert policy_arms(panels, "gated") != first, "the line is drawn through another arm"


def test_a_setting_without_queries_is_left_out() -> None:
    table, _ = judged([0, 0])
    assert table["setting"].unique().sort().to_list() == ["seen", "seen+zero"]


def degradations() -> pl.DataFrame:
    names = (
        "cast",
        "exposure",
        "haze",
        "blur",
        "shake",
        "resolution",
        "noise",
        "jpeg_quality",
        "hidden",
        "outside",
    )
    table = {"query_id": [f"q{number}" for number in range(8)], "severity": [0.1] * 4 + [0.6] * 4}
    return pl.DataFrame({**table, **{name: [float(number) for number in range(8)] for name in names}})


def test_parts_are_the_degraded_and_the_worst_of_each_kind() -> None:
    table = degradations().with_columns(exposure=pl.Series([-9.0, 0, 0, 0, 0, 0, 1, 0]))
    parts = query_parts(table.select("query_id"), table)
    found = {name: np.flatnonzero(inside).tolist() for name, inside in parts.items()}
    assert found["all"] == list(range(8))
    assert found["degraded"] == [4, 5, 6, 7]
    assert found["cast"] == [6, 7]
    assert found["resolution"] == [0, 1], "few pixels are worse than many"
    assert 0 in found["exposure"], "too dark is as bad as too bright"
    assert list(query_parts(table.select("query_id"), None)) == ["all"]


def test_a_photo_whose_degradations_are_unknown_is_in_no_part() -> None:
    rows = pl.DataFrame({"query_id": ["q7", "stranger"]})
    parts = query_parts(rows, degradations())
    assert parts["degraded"].tolist() == [True, False]


def test_the_confusion_matrix_counts_named_against_best() -> None:
    table = confusion(queries([0, 0]), FINGERPRINTS)
    counts = {row["named"]: row for row in table.to_dicts()}
    assert counts["sharpen"]["best_identity"] == 1
    assert counts["sharpen"]["best_sharpen"] == 1
    assert sum(value for row in counts.values() for name, value in row.items() if name != "named") == 2


def test_only_evaluation_photos_are_judged_and_a_larger_draw_holds_the_smaller() -> None:
    images = pl.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(60)],
            "sku_id": ["gone" if number == 2 else "a" for number in range(60)],
            "split": [("train", "validation", "test")[number % 3] for number in range(60)],
            "role": [
                ("evaluation", "train", "evaluation", "development")[number % 4] for number in range(60)
            ],
        }
    )
    every, few = (evaluation_photos(images, pl.Series(["a"]), limit) for limit in (None, 5))
    assert set(every["role"]) == {"evaluation"}
    assert set(every["split"]) == {"train", "validation"}
    assert set(every["sku_id"]) == {"a"}
    assert few.height == 5
    assert set(few["query_id"]) < set(every["query_id"])


def test_the_sheet_shows_what_moved_most_both_ways() -> None:
    table = pl.DataFrame(
        {
            "query_id": [f"q{number}" for number in range(6)],
            "action": ["sharpen"] * 5 + ["identity"],
            "off": [10, 4, 1, 2, 1, 9],
            "gated": [1, 3, 1, 8, 2, 9],
        }
    )
    assert shown_queries(table, 4)["query_id"].to_list() == ["q0", "q1", "q4", "q3"]


def test_the_text_marks_intervals_that_leave_out_zero() -> None:
    text = text_table(judged([0, SHARPEN])[0])
    gated = next(line for line in text.splitlines() if "gated" in line and "seen+zero" in line)
    assert "+0.5000" in gated
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize("arm", ["off", "gated"])
def test_judging_twice_gives_the_same_table(arm: str) -> None:
    first, second = (judged([0, SHARPEN])[0].filter(pl.col("arm") == arm) for _ in range(2))
    assert first.equals(second)


def test_pooled_runs_count_every_photo_once_a_run() -> None:
    both = pooled(
        [
            replace(queries(gated), rows=queries(gated).rows.with_columns(split=pl.lit("train")))
            for gated in ([0, SHARPEN], [0, 0])
        ]
    )
    table, _ = judge_policy(both, FINGERPRINTS, None, resamples=100, seed=0)
    (gated,) = table.filter((pl.col("arm") == "gated") & (pl.col("setting") == "seen")).to_dicts()
    assert (gated["queries"], gated["recall@1"], gated["encoded_twice"]) == (4, 0.75, 0.25)
