"""The comparison of extractors: retrieval and losses of held-out products, times and sizes, in one table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from skufp_pipeline.evaluation.figures import GridRow, lens_figure, results_grid
from skufp_pipeline.evaluation.latency import processor_name, samples_ms, statistics_ms
from skufp_pipeline.evaluation.lens import AFTER, BEFORE, BOTH, CATEGORY, KS, PRODUCT, SEEN, ZERO
from skufp_pipeline.measures.bootstrap import bootstrap_mean, paired_bootstrap
from skufp_pipeline.photos import open_photo
from skufp_pipeline.query.engine import QueryEngine

SETTINGS = (SEEN, ZERO, BOTH)
MEASURES = ("mrr", *(f"recall@{k}" for k in KS), *(f"precision@{k}" for k in KS))
_SHOWN_PHOTOS, _SHOWN = 2, 5


@dataclass(frozen=True)
class Costs:
    """What a query by one extractor takes.

    Attributes:
        memory: bytes of its weights as they are loaded for photos.
        bytes: of the files of its index.
        vector: bytes of one picture's vector.
        p50_ms, p95_ms: of one query from file to answer, one at a time.
    """

    memory: int
    bytes: int
    vector: int
    p50_ms: float
    p95_ms: float


def costs_of(engine: QueryEngine, index_bytes: int, photos: Sequence[Path], queries: int) -> Costs:
    """Measures an index of pictures and its extractor with photos, one after the other."""
    turn = 0

    def ask() -> None:
        nonlocal turn
        engine.search_image(photos[turn % len(photos)], 10)
        turn += 1

    times = statistics_ms(samples_ms(ask, queries))
    tower: nn.Module = engine.image_encoder.tower  # type: ignore[attr-defined]
    weights = sum(part.numel() * part.element_size() for part in [*tower.parameters(), *tower.buffers()])
    return Costs(weights, index_bytes, 4 * engine.index.dimension, times["p50_ms"], times["p95_ms"])


def lens_rows(
    name: str, losses: pl.DataFrame, queries: pl.DataFrame, costs: Costs, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Returns one row per setting of an extractor, JSON-able.

    `MEASURES` are those of products, each with `_low` and `_high`; `category_...` those of categories, null
    where the catalogue has one alone. `gain` is that of the training in Recall@1, paired by query.
    """
    after = losses.filter(state=AFTER)
    shared = {
        # nan, where a loss can't be measured, becomes null
        "train_loss": after["train_loss"].drop_nans().mean(),
        "test_loss": after["test_loss"].drop_nans().mean(),
        "test_loss_before": losses.filter(state=BEFORE)["test_loss"].drop_nans().mean(),
        "epochs": after["epochs"].mean(),
        "p50_ms": costs.p50_ms,
        "p95_ms": costs.p95_ms,
        "memory_bytes": costs.memory,
        "bytes": costs.bytes,
        "vector_bytes": costs.vector,
    }
    rows = []
    for setting in SETTINGS:
        asked = queries if setting == BOTH else queries.filter(setting=setting)
        by_photo = asked.filter(relevance=PRODUCT)
        by_category = asked.filter(relevance=CATEGORY, state=AFTER)
        draws = resamples, seed
        rows.append({
            "extractor": name,
            "setting": setting,
            "queries": by_photo.filter(state=AFTER).height,
            "products": by_photo["sku_id"].n_unique(),
            "chance": by_photo["chance"].mean(),
            **_measured(by_photo.filter(state=AFTER), "", draws),
            **_gain(by_photo, draws),
            "category_chance": by_category["chance"].mean(),
            **_measured(by_category, "category_", draws),
            **shared,
        })  # fmt: skip
    return rows


def _measured(queries: pl.DataFrame, prefix: str, draws: tuple[int, int]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for measure in MEASURES:
        names = [f"{prefix}{measure}", f"{prefix}{measure}_low", f"{prefix}{measure}_high"]
        if queries.is_empty():
            found |= dict.fromkeys(names)
            continue
        values = queries["reciprocal_rank" if measure == "mrr" else measure].to_numpy()
        interval = bootstrap_mean(values, queries["sku_id"].to_numpy(), *draws)
        found |= dict(zip(names, (interval.mean, interval.low, interval.high), strict=True))
    return found


def _gain(queries: pl.DataFrame, draws: tuple[int, int]) -> dict[str, float]:
    order = ["fold", "query_id"]
    before, after = (queries.filter(state=state).sort(order) for state in (BEFORE, AFTER))
    ours, theirs = after["recall@1"].to_numpy(), before["recall@1"].to_numpy()
    found = paired_bootstrap(ours, theirs, after["sku_id"].to_numpy(), *draws)
    return {"recall@1_before": float(theirs.mean()), "gain": found.delta, "gain_low": found.low,
            "gain_high": found.high}  # fmt: skip


def lens_report(
    rows: Sequence[Mapping[str, Any]], folds: int, judged: int, pictures: int, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the report: its rows, and under which conditions they were measured."""
    return {
        "pictures": pictures,
        "folds": folds,
        "judged_folds": judged,
        "threads": torch.get_num_threads(),
        "processor": processor_name(),
        "left_out": dict(left_out),
        "rows": list(rows),
    }


def lens_tables(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown."""
    rows = report["rows"]
    folds = f"{report['judged_folds']} of {report['folds']} folds"
    held = [
        [row["extractor"], row["setting"], f"{row['queries']:,}", *(_share(row, f"recall@{k}") for k in KS),
         _share(row, "mrr"), _gained(row)]
        for row in rows
    ]  # fmt: skip
    alike = [
        [row["extractor"], row["setting"], _figure(row["category_chance"]),
         *(_share(row, f"category_precision@{k}") for k in KS), _share(row, "category_recall@10")]
        for row in rows
        if row["category_precision@1"] is not None
    ]  # fmt: skip
    costs = [
        [row["extractor"], *(_figure(row[name]) for name in ("train_loss", "test_loss", "test_loss_before")),
         f"{row['epochs']:.1f}", f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}",
         f"{row['memory_bytes'] / 2**20:.1f}", f"{row['bytes'] / 2**20:.2f}", f"{row['vector_bytes']:,}"]
        for row in rows
        if row["setting"] == ZERO
    ]  # fmt: skip
    parts = [
        f"**A product by a synthetic photo of it**, among {report['pictures']:,} pictures, {folds}; R@1 by "
        f"chance is {_figure(rows[0]['chance']) if rows else '-'}. Gain: of the training, in R@1.",
        _table(["extractor", "setting", "queries", *(f"R@{k}" for k in KS), "MRR", "gain"], held),
    ]
    if alike:
        parts += [
            "**Pictures of the same category by a picture.** Precision by chance beside it.",
            _table(["extractor", "setting", "chance", *(f"P@{k}" for k in KS), "R@10"], alike),
        ]
    names = [
        *("train loss", "test loss", "before training", "epochs"),
        *("p50 ms", "p95 ms", "model MiB", "index MiB", "bytes a vector"),
    ]
    parts += [
        f"**Losses and costs.** Means over folds; {report['threads']} threads of {report['processor']}.",
        _table(["extractor", *names], costs),
        *(f"{name} is left out: {reason}" for name, reason in report["left_out"].items()),
    ]
    return "\n\n".join(parts)


def lens_pictures(
    report: Mapping[str, Any], engines: Mapping[str, QueryEngine], photos: Sequence[tuple[Path, str]]
) -> dict[str, bytes]:
    """Returns PNG files by name: the figures, and what each index answers to the same photos.

    Args:
        photos: each with its product; the first of them are shown.
    """
    drawn = {"comparison": lens_figure(report["rows"])} if report["rows"] else {}
    grid = list(_grid(engines, list(islice(photos, _SHOWN_PHOTOS))))
    return {**drawn, **({"answers": results_grid(grid, shown=_SHOWN)} if grid else {})}


def _grid(engines: Mapping[str, QueryEngine], photos: Sequence[tuple[Path, str]]) -> Iterator[GridRow]:
    for path, sku_id in photos:
        for engine in engines.values():
            hits = engine.search_image(path, _SHOWN).hits
            found = [(engine.picture(hit.sku_id) or b"", hit.sku_id, hit.score) for hit in hits]
            query: NDArray[np.uint8] = np.asarray(open_photo(path))
            yield GridRow(query, sku_id, found)


def _share(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{_figure(row[name])} [{_figure(low)}, {_figure(high)}]"


def _gained(row: Mapping[str, Any]) -> str:
    return f"{row['gain']:+.3f} [{row['gain_low']:.3f}, {row['gain_high']:.3f}]"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".lstrip("0") if abs(value) < 1 else f"{value:.3g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
