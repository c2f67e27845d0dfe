"""Indexes of pictures beside the fingerprints: every system on the same photos, in every setting.

The photos are asked one at a time through the engine that answers a search, so that ranks, times and bytes
are those of the thing itself. A system is compared with another one on the same photos, with a 95% interval
over SKUs: an index of pictures with the fingerprints, a stage with what is before it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from skufp_pipeline.evaluation.chain import (
    BOX,
    PHOTO,
    Chain,
    Judged,
    Variant,
    judge_chain,
    judge_embedded,
)
from skufp_pipeline.evaluation.protocol import SETTINGS
from skufp_pipeline.evaluation.regions import sampled_photos
from skufp_pipeline.evaluation.settings import EvaluationSettings
from skufp_pipeline.evaluation.stages import AskedPhoto, embed_photos
from skufp_pipeline.evaluation.tables import ABSENT, SETTING_LABELS, Table, interval_text
from skufp_pipeline.measures.bootstrap import paired_bootstrap, percentile_interval, resampled_means
from skufp_pipeline.measures.metrics import recall_at_k
from skufp_pipeline.query.engine import QueryEngine
from skufp_pipeline.search.approximate import HNSW_FILE
from skufp_pipeline.search.images import IMAGES_FOLDER, OWNERS_FILE

TOP = (1, 3, 5, 10)
FINGERPRINT = "fingerprint"
NOTE = (
    "Each photo is asked one at a time through the engine that answers a search; ± is half of the 95% "
    "interval over products. A gain is paired with the row that Over names, * if its interval leaves out 0. "
    "A stage that is off has weight 0, by development photos. p95 is from the photo to the answer, Adds the "
    "median of what a row takes beyond the other; MB are vectors, codes and ids of the index."
)
FIGURES_SCHEMA: dict[str, pl.DataType] = {
    "system": pl.String(),  # fingerprint, the name of an index, or a stage of the chain
    "asked": pl.String(),  # annotated part | photo
    "setting": pl.String(),
    "queries": pl.Int64(),
    **{
        f"recall@{top}{end}": pl.Float64() for top in TOP for end in ("", "_low", "_high")
    },  # with 95% intervals over SKUs
    "over": pl.String(),  # what `gain` is over; null for the first
    "gain": pl.Float64(),  # in R@1, paired
    "gain_low": pl.Float64(),
    "gain_high": pl.Float64(),
    "p50_ms": pl.Float64(),  # from the photo to the answer
    "p95_ms": pl.Float64(),
    "added_ms": pl.Float64(),  # median of what it takes beyond `over`
    "bytes": pl.Int64(),  # of the files that it searches
    "off": pl.Boolean(),  # a stage of weight 0
}


def chain_of(
    engine: QueryEngine, items: pl.DataFrame, find: Callable[[str], Path], settings: EvaluationSettings
) -> Chain:
    """Returns the chain of an index with the photos that it is asked as they are: none without a detector.

    Args:
        items: the annotations.
        find: the file of a photo (`orig_image_path`).
    """
    if engine.detector is None:
        return Chain(engine)
    rows = sampled_photos(items, engine.index.skus["sku_id"], settings.stage_queries).iter_rows(named=True)
    photos = [AskedPhoto(find(row["orig_image_path"]), row["sku_id"], row["split"]) for row in rows]
    return Chain(engine, photos)


def judge_systems(
    fingerprints: tuple[QueryEngine, Path],
    indexes: Mapping[str, tuple[QueryEngine, Path]],
    photos: Sequence[AskedPhoto],
    chain: tuple[Chain, Path] | None,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """Returns rows of `FIGURES_SCHEMA`.

    Args:
        fingerprints, indexes, chain: engine and folder of the version in use of each.
        photos: annotated parts of evaluation photos.
    """
    rows = []
    for name, (engine, folder) in {FINGERPRINT: fingerprints, **indexes}.items():
        over = None if name == FINGERPRINT else FINGERPRINT
        judged = judge_embedded(engine, embed_photos(engine, photos), [Variant(name, over=over)])
        rows += [(found, index_bytes(folder)) for found in judged]
    table = figures_of(rows, resamples, seed)
    if chain is None:
        return table
    asked, folder = chain
    stages = judge_chain(asked, embed_photos(asked.engine, photos))
    sized = [(found, index_bytes(folder, found.folders)) for found in stages]
    return pl.concat([table, figures_of(sized, resamples, seed)])


def figures_of(judged: Sequence[tuple[Judged, int]], resamples: int, seed: int) -> pl.DataFrame:
    """Returns rows of `FIGURES_SCHEMA` of systems and the bytes that each searches."""
    known = {(found.system, found.asked, found.setting): found for found, _ in judged}
    rows = []
    for found, size in judged:
        other = known.get((found.over or "", found.asked, found.setting))
        rows.append(_row(found, other, size, resamples, seed))
    return pl.DataFrame(rows, schema=FIGURES_SCHEMA)


def _row(found: Judged, other: Judged | None, size: int, resamples: int, seed: int) -> dict[str, Any]:
    hits = np.stack([recall_at_k(found.ranks, top) for top in TOP], axis=1)
    draws = resampled_means(hits, found.skus, resamples, seed)
    row: dict[str, Any] = {"system": found.system, "asked": found.asked, "setting": found.setting}
    for place, top in enumerate(TOP):
        low, high = percentile_interval(draws[:, place])
        row |= {f"recall@{top}": hits[:, place].mean(), f"recall@{top}_low": low, f"recall@{top}_high": high}
    p50, p95 = np.percentile(found.milliseconds, [50, 95])
    row |= {"queries": len(hits), "p50_ms": p50, "p95_ms": p95, "bytes": size, "off": found.off}
    if other is None:
        return row
    gain = paired_bootstrap(hits[:, 0], recall_at_k(other.ranks, 1), found.skus, resamples, seed)
    added = float(np.median(found.milliseconds - other.milliseconds))
    gains = {"gain": gain.delta, "gain_low": gain.low, "gain_high": gain.high}
    return {**row, **gains, "over": other.system, "added_ms": added}


def index_bytes(folder: Path, stages: Sequence[str] = ()) -> int:
    """Bytes of what a search of this version compares: vectors, their codes and ids, and those of its stages.

    Words, thumbnails and models are left out.
    """
    part = folder / IMAGES_FOLDER if (folder / IMAGES_FOLDER).is_dir() else folder
    files = [*part.glob("segment_*/*"), *part.glob("biases_*.npy"), *part.glob(OWNERS_FILE)]
    files += folder.glob(HNSW_FILE)
    return sum(file.stat().st_size for file in files) + sum(index_bytes(folder / stage) for stage in stages)


def figure_sections(figures: pl.DataFrame) -> list[tuple[str, Table]]:
    """The tables that a person reads, with their titles."""
    systems = figures.filter(pl.col("system").is_in([FINGERPRINT]) | (pl.col("over") == FINGERPRINT))
    parts = {"Systems, asked with the annotated part of each photo": systems}
    of_chain = figures.join(systems, on=["system", "asked", "setting"], how="anti", maintain_order="left")
    titles = {BOX: "Stage by stage, annotated part", PHOTO: "Stage by stage, photos as they are"}
    parts |= {title: of_chain.filter(asked=asked) for asked, title in titles.items()}
    return [(title, _table(part)) for title, part in parts.items() if part.height]


def text_tables(figures: pl.DataFrame) -> str:
    """The tables for a terminal, and what they show."""
    return (
        "\n\n".join(f"{title}\n\n{table.text()}" for title, table in figure_sections(figures))
        + f"\n\n{NOTE}\n"
    )


def markdown_tables(figures: pl.DataFrame) -> str:
    """The tables for a document."""
    parts = (f"**{title}**\n\n{table.markdown()}" for title, table in figure_sections(figures))
    return "\n\n".join(parts) + f"\n\n{NOTE}\n"


def headline(figures: pl.DataFrame) -> dict[str, float]:
    """R@1 over all products of every system that was asked with annotated parts."""
    asked = figures.filter(asked=BOX, setting=SETTINGS[-1])
    return dict(asked.select("system", "recall@1").iter_rows())


def _table(figures: pl.DataFrame) -> Table:
    header = ["Method", "Setting", "Queries", *(f"R@{top}" for top in TOP)]
    header += ["Gain in R@1", "Over", "p95 (ms)", "Adds (ms)", "MB"]
    return Table(header, [_cells(row) for row in figures.iter_rows(named=True)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    recalls = [
        f"{row[f'recall@{top}']:.3f} ± {(row[f'recall@{top}_high'] - row[f'recall@{top}_low']) / 2:.3f}"
        for top in TOP
    ]
    gained = ABSENT if row["over"] is None else interval_text(row["gain"], row["gain_low"], row["gain_high"])
    added = ABSENT if row["added_ms"] is None else f"{row['added_ms']:.1f}"
    name = f"{row['system']} (off)" if row["off"] else row["system"]
    return [
        name,
        SETTING_LABELS[row["setting"]],
        str(row["queries"]),
        *recalls,
        gained,
        row["over"] or ABSENT,
        f"{row['p95_ms']:.1f}",
        added,
        f"{row['bytes'] / 1e6:.2f}",
    ]
