"""The report's pictures as PNG bytes: recall curves, latency and search results.

The same input gives the same bytes: no dates, no system fonts, no global plotting state.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from skufp_pipeline.datasets.contact_sheet import fitted
from skufp_pipeline.datasets.lettering import dejavu, readable, write_lines
from skufp_pipeline.evaluation.protocol import MODALITIES, Evaluation, SettingResult
from skufp_pipeline.evaluation.tables import SETTING_LABELS
from skufp_pipeline.measures.metrics import Bin, recall_at_k
from skufp_pipeline.photos import open_photo

# Colour-blind-safe palette (Okabe and Ito, 2008), and line styles.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)))
RIGHT, WRONG, INK, UNREADABLE = "#009E73", "#c8c8c8", "#222222", "#eeeeee"
LARGEST_PNG = 150_000
THUMBNAILS = (112, 96, 80, 64, 48, 32)  # pixels; the largest whose grid stays below LARGEST_PNG
SHOWN = 5
CAPTION, SENTENCE = 9, 11  # points


@dataclass(frozen=True)
class GridRow:
    """One query of the results grid.

    Attributes:
        query: (H, W, 3) uint8 photo, or the query text.
        truth_sku: the right SKU, None if unknown.
        results: (image, sku_id, score), best first; an unreadable image becomes a grey tile.
    """

    query: np.ndarray | str
    truth_sku: str | None
    results: Sequence[tuple[Path | bytes, str, float]]


def recall_curve(evaluation: Evaluation, largest_k: int = 20) -> bytes:
    """Recall@K for K = 1 .. `largest_k`, a line per model; settings in columns, modalities in rows.

    Settings without queries get no panel. The panels of a row share their axis for comparison.
    """
    panels = {
        (modality, setting): by_modality[modality]
        for modality in MODALITIES
        for setting, by_modality in evaluation.settings.items()
        if by_modality[modality].models
    }
    modalities = list(dict.fromkeys(modality for modality, _ in panels))
    settings = [s for s in evaluation.settings if any(s == setting for _, setting in panels)]
    names = _models_in_order(list(panels.values()))
    figure = _figure(width=3.2 * max(len(settings), 1) + 0.4, height=2.6 * max(len(modalities), 1) + 0.5)
    grid = figure.subplots(max(len(modalities), 1), max(len(settings), 1), sharey="row", squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (modality, setting), result in panels.items():
        axes = grid[modalities.index(modality), settings.index(setting)]
        axes.set_axis_on()
        _draw_recall(axes, result, names, largest_k)
        axes.set_title(f"{modality}, {SETTING_LABELS[setting]}", fontsize=9)
    for row in grid:
        row[0].set_ylabel("Recall@K", fontsize=8)
        row[0].set_ylim(bottom=0)  # last, since it ends autoscaling, which must see all panels
    lines = {str(line.get_label()): line for axes in grid.flat for line in axes.get_lines()}
    figure.legend(
        [lines[name] for name in names], names, loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return _png(figure)


def verdict_curves(
    curves: Mapping[str, Sequence[Bin]], rocs: Mapping[str, tuple[np.ndarray, np.ndarray]], alpha: float
) -> bytes:
    """Left, the reliability diagram by setting; right, the shares of absent and present products rejected.

    Args:
        curves, rocs: by setting, `measures.metrics.reliability` and `verdicts.roc`.
        alpha: the share of present products that may be rejected, marked.
    """
    figure = _figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    for number, setting in enumerate(curves):
        label = SETTING_LABELS[setting]
        style: dict[str, Any] = {"color": COLOURS[number], "linestyle": LINE_STYLES[number], "label": label}
        bins = curves[setting]
        left.plot(
            [part.probability for part in bins], [part.share for part in bins], marker="o", ms=3, **style
        )
        right.plot(*rocs[setting], **style)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=WRONG, linewidth=0.8)
    right.axvline(alpha, color="black", linewidth=0.8)
    left.set(xlabel="confidence", ylabel="first answer is right")
    right.set(xlabel="present products rejected", ylabel="absent products rejected")
    left.legend(fontsize=8, frameon=False)
    return _png(figure)


def training_curves(history: Sequence[Mapping[str, float]], losses: Sequence[str], quality: str) -> bytes:
    """A trainer's history: losses at the left; at the right `quality`, which chose the epoch, if known.

    Learning rate and gradient norm follow if the history has them. It has one row per epoch, with `epoch`
    and every name of `losses`.
    """
    steps = [name for name in ("learning_rate", "gradient_norm") if name in history[0]]
    figure = _figure(9.0 if not steps else 12.0, 3.2)
    left, right, *more = figure.subplots(1, 2 + bool(steps))
    epochs = [row["epoch"] for row in history]
    for number, name in enumerate(losses):
        style = LINE_STYLES[number % len(LINE_STYLES)]
        values = [row[name] for row in history]
        left.plot(epochs, values, label=name, color=COLOURS[number % len(COLOURS)], linestyle=style)
    right.plot(epochs, [row.get(quality, math.nan) for row in history], color=COLOURS[2])
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(fontsize=8, frameon=False)
    right.set(xlabel="epoch", ylabel=quality.replace("_", " "))
    for number, name in enumerate(steps):  # twin y axes over the epochs
        axes = more[0] if number == 0 else more[0].twinx()
        colour = COLOURS[3 + number]
        axes.plot(epochs, [row[name] for row in history], color=colour, linestyle=LINE_STYLES[number])
        axes.set_xlabel("epoch")
        axes.set_ylabel(name.replace("_", " "), color=colour)
    return _png(figure)


def adaptation_curves(history: Sequence[Mapping[str, float]], judged: pl.DataFrame, alpha: float) -> bytes:
    """The loss of an adaptation by step, and how synthetic photos are found at each alpha.

    Args:
        judged: columns `alpha`, `recall`, `hard_recall`, `kept_neighbours` ...
        alpha: the one that was taken, marked.
    """
    figure = _figure(9.0, 3.2)
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in history], [row["loss"] for row in history], color=COLOURS[0])
    left.set(xlabel="step", ylabel="loss")
    for number, name in enumerate(("recall", "hard_recall", "kept_neighbours")):
        style = LINE_STYLES[number % len(LINE_STYLES)]
        label = name.replace("_", " ").replace("recall", "Recall@1")
        right.plot(judged["alpha"], judged[name], label=label, color=COLOURS[number], linestyle=style)
    right.axvline(alpha, color="black", linewidth=0.8)
    right.set(xlabel="alpha (0: frozen, 1: adapted)")
    right.legend(fontsize=8, frameon=False)
    return _png(figure)


def policy_arms(panels: Mapping[str, pl.DataFrame], marked: str) -> bytes:
    """R@1 gained over `off` by each arm of the query policy, with its interval; a panel each, same order.

    Args:
        panels: by title, the rows of `evaluation.policy.judge_policy` of one setting and part.
        marked: the arm through whose gain a line is drawn.
    """
    figure = _figure(4.0 + 3.5 * len(panels), 4.2)
    for axes, (title, rows) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        low, gain, high = (rows[f"recall@1_{end}"].to_numpy() for end in ("low", "gain", "high"))
        places = np.arange(len(gain))
        axes.errorbar(gain, places, xerr=[gain - low, high - gain], fmt="o", ms=4, color=COLOURS[0])
        axes.axvline(0, color=WRONG, linewidth=0.8)
        axes.axvline(gain[rows["arm"].to_list().index(marked)], color=COLOURS[1], linewidth=0.8)
        axes.set_yticks(places, rows["arm"], fontsize=8)
        axes.set_title(f"{title} ({rows['queries'][0]} photos)", fontsize=9, loc="left")
        axes.set_xlabel(f"R@1 - off (line: {marked})", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    figure.axes[0].invert_yaxis()
    return _png(figure)


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """The `loss` by `step` of each trained part, a panel each."""
    figure = _figure(4.5 * max(len(curves), 1), 3.0)
    panels = figure.subplots(1, max(len(curves), 1), squeeze=False)[0]
    for axes, (part, history) in zip(panels, curves.items(), strict=False):
        axes.plot([row["step"] for row in history], [row["loss"] for row in history], color=COLOURS[0])
        axes.set(xlabel="step", ylabel=f"{part} loss")
    return _png(figure)


def latency_histogram(stages: Mapping[str, Sequence[float]]) -> bytes:
    """Histogram of each stage's milliseconds per query."""
    figure = _figure(width=7.0, height=1.1 * max(len(stages), 1) + 0.6)
    for i, (stage, samples) in enumerate(stages.items()):
        axes = figure.add_subplot(len(stages), 1, i + 1)
        p50, p95 = np.quantile(samples, [0.5, 0.95])
        # Outliers would squeeze the rest into one bar; the last bar counts them.
        edge = max(float(np.quantile(samples, 0.99)), p95 * 1.02)
        axes.hist(np.minimum(samples, edge), bins=80, range=(0, edge), color=COLOURS[0])
        axes.axvline(p95, color=COLOURS[1], linewidth=1.2)
        axes.set_title(f"{stage}: p50 {p50:.3g} ms, p95 {p95:.3g} ms", fontsize=9, loc="left")
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    if stages:
        figure.axes[-1].set_xlabel("ms per query (line: p95)", fontsize=8)
    return _png(figure)


def results_grid(rows: Sequence[GridRow], shown: int = SHOWN) -> bytes:
    """Each query with its first `shown` results; the right one framed green, the others thin grey.

    The thumbnails are the largest with at most `LARGEST_PNG` bytes, else the smallest.
    """
    for side in THUMBNAILS:
        data = _image_png(_draw_grid(rows, side, shown))
        if len(data) <= LARGEST_PNG:
            break
    return data


def _models_in_order(results: Sequence[SettingResult]) -> list[str]:
    """The models whose gains the differences report come first and get the plainest lines."""
    claimed = [pair.split("-")[0] for result in results for pair in result.differences]
    return list(dict.fromkeys([*claimed, *(name for result in results for name in result.models)]))


def _draw_recall(axes: Any, result: SettingResult, names: Sequence[str], largest_k: int) -> None:
    ks = np.arange(1, largest_k + 1)
    for name, scores in result.models.items():
        style = names.index(name)
        recall = [recall_at_k(scores.ranks, int(k)).mean() for k in ks]
        colour, line = COLOURS[style % len(COLOURS)], LINE_STYLES[style % len(LINE_STYLES)]
        axes.plot(ks, recall, label=name, color=colour, linestyle=line, linewidth=1.6)
    axes.set_xlabel("K", fontsize=8)
    axes.set_xlim(1, largest_k)
    axes.set_xticks([1, *range(5, largest_k + 1, 5)])
    axes.tick_params(labelsize=7)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, independent of pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return _image_png(open_photo(buffer.getvalue()))


def _image_png(image: Image.Image) -> bytes:
    """PNG with 256 colours, which are enough here and halve the size."""
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_grid(rows: Sequence[GridRow], side: int, shown: int) -> Image.Image:
    gap, caption = 8, 26
    cell_width, cell_height = side + gap, side + caption + gap
    # The query's column has extra space, and is wide enough for a sentence.
    query_width = max(side, 120) + 2 * gap
    size = (query_width + shown * cell_width + gap, max(len(rows), 1) * cell_height + gap)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for r, row in enumerate(rows):
        top = gap + r * cell_height
        _draw_query(image, draw, row, (gap, top), query_width - 2 * gap, side)
        for c, (path, sku_id, score) in enumerate(row.results[:shown]):
            left = query_width + c * cell_width
            image.paste(fitted(path, side, UNREADABLE), (left, top))
            right = sku_id == row.truth_sku
            frame = (left - 2, top - 2, left + side + 1, top + side + 1)
            draw.rectangle(frame, outline=RIGHT if right else WRONG, width=3 if right else 1)
            lines, colour = (sku_id, f"{score:.3f}"), RIGHT if right else INK
            write_lines(draw, (left, top + side + 3), lines, side, colour, CAPTION, spacing=1)
    return image


def _draw_query(
    image: Image.Image, draw: ImageDraw.ImageDraw, row: GridRow, at: tuple[int, int], width: int, side: int
) -> None:
    if isinstance(row.query, str):
        lines = _wrap(row.query, width)[: max(side // 14, 1)]
        write_lines(draw, at, lines, width, INK, SENTENCE, spacing=3)
    else:
        image.paste(fitted(row.query, side), at)
    if row.truth_sku is not None:
        below, lines = (at[0], at[1] + side + 3), ["right answer:", row.truth_sku]
        write_lines(draw, below, lines, width, INK, CAPTION, spacing=1)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in readable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and dejavu(SENTENCE).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def lens_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The comparison of extractors, `lens_report.lens_rows`: Recall@K of held-out products, the losses of
    training and test beside that before training, and Recall@1 against the size of the index.
    """
    names = list(dict.fromkeys(row["extractor"] for row in rows))
    colours = dict(zip(names, (COLOURS * len(names))[: len(names)], strict=True))
    figure = _figure(10.5, 3.6)
    curves, losses, sizes = figure.subplots(1, 3)
    ks = [int(name.split("@")[1]) for name in rows[0] if re.fullmatch(r"recall@\d+", name)]
    for row in rows:
        colour = colours[row["extractor"]]
        if row["setting"] == "seen+zero":
            continue
        held_out = row["setting"] == "zero"
        values = [row[f"recall@{k}"] for k in ks]
        curves.plot(ks, values, color=colour, linestyle="-" if held_out else ":", linewidth=1.6)
        if not held_out:
            continue
        curves.fill_between(
            ks, [row[f"recall@{k}_low"] for k in ks], [row[f"recall@{k}_high"] for k in ks],
            color=colour, alpha=0.12, linewidth=0,
        )  # fmt: skip
        place, before = names.index(row["extractor"]), row["test_loss_before"]
        for shift, name, strength in ((-0.2, "train_loss", 0.45), (0.2, "test_loss", 1.0)):
            share = row[name] / before if before and row[name] is not None else math.nan
            losses.bar(place + shift, share, width=0.36, color=colour, alpha=strength)
        sizes.errorbar(
            row["bytes"] / 2**20, row["recall@1"], fmt="o", color=colour, label=row["extractor"],
            yerr=[[row["recall@1"] - row["recall@1_low"]], [row["recall@1_high"] - row["recall@1"]]],
        )  # fmt: skip
        sizes.annotate(
            f"  {row['p95_ms']:.0f} ms", (row["bytes"] / 2**20, row["recall@1"]), fontsize=7, va="center"
        )
    curves.plot(ks, [k * rows[0]["chance"] for k in ks], color=WRONG, linewidth=0.8)
    curves.set(xlabel="K", ylabel="Recall@K", ylim=(0, None))
    curves.set_title("held out (line), seen (dots), chance (grey)")
    losses.axhline(1, color=WRONG, linewidth=0.8)
    losses.set(ylabel="loss / test loss before training", title="train (pale), test (full)")
    losses.set_xticks(range(len(names)), names, fontsize=7)
    sizes.set(xlabel="index, MiB", ylabel="Recall@1, held out", title="size, p95", ylim=(0, None))
    for axes in (curves, losses, sizes):
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = sizes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    return _png(figure)
