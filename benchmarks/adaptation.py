"""How far synthetic photos of a catalogue's own pictures take a pretrained tower, judged on real photos.

python benchmarks/adaptation.py --manifest grocery/manifest.csv --work /tmp/adaptation --json adaptation.json

The manifest's photos judge and, but for `--photos`, take no part in anything else: the tower is adapted on
the pictures of all SKUs, and every photo is asked among all SKUs. A row is an alpha (the share of the adapted
weights; 0 is the frozen tower) and a gallery: the catalogue's pictures by the tower itself, by the frozen
tower, or the mean of both, which is the product's. `chosen` counts the seeds for which the product would take
this alpha, which it chooses without these photos. Intervals are over SKUs; with several seeds the mean over
seeds is shown, and the least and the largest.

With `--photos` the protocol's training photos take part: `synthetic` does not use them, `photos` nothing else
where a SKU has some, `both` half and half; judged are the evaluation photos, on seen and new SKUs.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.camera.settings import CameraSettings
from skufp_pipeline.compute import freed_memory_kept
from skufp_pipeline.datasets.crops import CropSettings, write_crops
from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, EVALUATION, TRAIN
from skufp_pipeline.encoders.adapt import AdaptationData, adapt
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.interpolation import choose_alpha, interpolate, judge_alphas, weights_of
from skufp_pipeline.encoders.settings import AdaptationSettings, EncoderSettings
from skufp_pipeline.measures.bootstrap import bootstrap_mean
from skufp_pipeline.measures.metrics import per_query_metrics
from skufp_pipeline.measures.ranks import ranks_of
from skufp_pipeline.presets.shop import TOWERS
from skufp_pipeline.training.pixels import decode_squares

BATCH = 64
METRICS = ("recall@1", "recall@5", "recall@10")
SETTINGS = {"seen": ("train",), "zero": ("validation",), "seen+zero": ("train", "validation")}
ARMS = {"synthetic": 0.0, "photos": 1.0, "both": 0.5}

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Catalogue:
    """Crops of a manifest: `pictures` by SKU, and `photos`; columns `sku_id`, `split`, `role`, `path`."""

    pictures: pl.DataFrame
    photos: pl.DataFrame
    squares: NDArray[np.uint8]
    squares_of_photos: NDArray[np.uint8]

    @classmethod
    def read(cls, manifest: Path, work: Path, side: int, with_photos: bool, every: int) -> "Catalogue":
        items = read_manifest(manifest, ManifestSettings(path=str(manifest)), SplitSettings()).items
        crops, _ = write_crops(items, manifest.parent.joinpath, work / "crops", CropSettings())
        crops = crops.drop_nulls("crop_path").with_columns(
            path=str(work / "crops") + "/" + pl.col("crop_path")
        )
        pictures = crops.filter(pl.col("domain") == CATALOG).sort("sku_id", maintain_order=True)
        photos = crops.filter(pl.col("domain") != CATALOG)
        if not with_photos:
            photos = photos[::every]
        decoded = photos.filter(pl.col("role") == TRAIN) if with_photos else photos.clear()
        return cls(
            pictures,
            photos,
            decode_squares(_paths(pictures), side, work / f"pictures_{side}.npy"),
            decode_squares(_paths(decoded), side, work / f"photos_{side}_{decoded.height}.npy"),
        )

    def data(self, encoder: Encoder, share: float | None) -> AdaptationData:
        """What the tower is adapted on: all SKUs, or with a `share` of photos the training SKUs."""
        fit = np.ones(self.pictures.height, bool) if share is None else self._training
        skus = self.pictures.filter(fit)["sku_id"]
        names = skus.unique().sort().to_list()
        anchors = embed_crops(encoder, _paths(self.pictures.filter(fit)), BATCH)
        labels = np.array([names.index(sku) for sku in skus], dtype=np.int64)
        sums = np.zeros((len(names), anchors.shape[1]))
        np.add.at(sums, labels, anchors)
        photos = self.photos.filter(pl.col("role") == TRAIN) if share else self.photos.clear()
        sizes = self.pictures.filter(fit).select(pl.col("width") / pl.col("height")).to_series()
        return AdaptationData(
            self.squares[fit],
            sizes.to_numpy(),
            labels,
            self.squares_of_photos if share else self.squares[:0],
            np.array([names.index(sku) for sku in photos["sku_id"]], dtype=np.int64),
            (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32),
            self.squares[:0],
        )

    @property
    def _training(self) -> NDArray[np.bool_]:
        return (self.pictures["split"] == "train").to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for crops")
    parser.add_argument("--tower", default="lite0", choices=[name for name in TOWERS if name != "tiny"])
    parser.add_argument("--weights", help="image_tower_weights in place of the tower's")
    parser.add_argument("--model", help="the model of these weights, such as skufp-efficientnet-lite2")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
    parser.add_argument("--severities", type=float, nargs="+", default=[CameraSettings().severity])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of AdaptationSettings")
    parser.add_argument("--photos", action="store_true", help="training photos take part, too")
    parser.add_argument("--every", type=int, default=1, help="judge each so many-th photo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for severity in options.severities:
        for arm, share in ARMS.items() if options.photos else [("synthetic", None)]:
            for seed in range(options.seeds):
                rows += run(options, severity, arm, share, seed)
    found = summary(rows)
    for line in table(found):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def run(options: Any, severity: float, arm: str, share: float | None, seed: int) -> list[dict[str, Any]]:
    """Adapts once and judges every alpha and gallery."""
    chosen = dict(TOWERS[options.tower].encoder)
    if options.weights:
        chosen |= {"image_tower_weights": options.weights, "model": options.model or chosen["model"]}
    settings = EncoderSettings.model_validate(chosen)
    assert settings.adaptation is not None
    changes = dict(pair.split("=", 1) for pair in options.set)
    adaptation = AdaptationSettings.model_validate(
        {**settings.adaptation.model_dump(), **changes, "alphas": options.alphas}
        | ({} if share is None else {"photo_share": share})
    )
    camera = CameraSettings(severity=severity)
    encoder = create_encoder(settings, torch.device("cpu"), seed)
    catalogue = Catalogue.read(
        options.manifest, options.work, adaptation.cache_side, options.photos, options.every
    )
    data, frozen = catalogue.data(encoder, share), weights_of(encoder)
    if options.photos:
        catalogue = replace(catalogue, photos=catalogue.photos.filter(pl.col("role") == EVALUATION))
    scratch = options.work / f"{time.time_ns()}"
    scratch.mkdir(parents=True)
    started = time.perf_counter()
    with freed_memory_kept():
        adapt(encoder, data, adaptation, camera, seed, scratch, print)
    seconds = time.perf_counter() - started
    adapted = weights_of(encoder)
    judged = judge_alphas(encoder, frozen, adapted, data, adaptation, camera, seed)
    taken = choose_alpha(judged, adaptation.kept_gain)
    interpolate(encoder, frozen, adapted, 0.0)
    anchors, rows = embed_crops(encoder, _paths(catalogue.pictures), BATCH), []
    for one in judged:
        interpolate(encoder, frozen, adapted, one.alpha)
        own = embed_crops(encoder, _paths(catalogue.pictures), BATCH)
        photos = embed_crops(encoder, _paths(catalogue.photos), BATCH)
        base = {"arm": arm, "severity": severity, "seed": seed, "seconds": seconds, "alpha": one.alpha}
        base |= {"chosen": one.alpha == taken, "hard_mrr": one.hard_mrr, "kept": one.kept_neighbours}
        for gallery, vectors in {"own": own, "frozen": anchors, "mean": own + anchors}.items():
            if one.alpha == 0 and gallery != "own":
                continue
            judged_rows = judge(catalogue, _unit(vectors), photos, options.photos)
            rows += [{**base, "gallery": gallery, **row} for row in judged_rows]
    return rows


def judge(catalogue: Catalogue, vectors: Rows, photos: Rows, by_setting: bool) -> list[dict[str, Any]]:
    """Judges the photos among all SKUs, or with `by_setting` the evaluation photos of each setting."""
    found = []
    for setting, splits in SETTINGS.items() if by_setting else {"all": ("train", "validation")}.items():
        mine = catalogue.pictures["split"].is_in(splits).to_numpy()
        asked = catalogue.photos["split"].is_in(splits)
        names, owner = np.unique(catalogue.pictures["sku_id"].to_numpy()[mine], return_inverse=True)
        skus = catalogue.photos.filter(asked)["sku_id"].to_numpy()
        truth = np.searchsorted(names, skus)
        ranks = ranks_of(photos[asked.to_numpy()], vectors[mine], truth, owner=owner)
        scores = per_query_metrics(ranks)
        row: dict[str, Any] = {"setting": setting, "photos": len(truth), "skus": len(names)}
        for metric in METRICS:
            interval = bootstrap_mean(scores[metric], skus)
            row |= {metric: interval.mean, f"{metric}_interval": [interval.low, interval.high]}
        found.append(row)
    return found


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, with the least and the largest; the interval is that of the first seed."""
    keys = ("severity", "arm", "setting", "alpha", "gallery")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    found = []
    for key, group in groups.items():
        one: dict[str, Any] = dict(zip(keys, key, strict=True)) | {"seeds": len(group)}
        one |= {name: group[0][name] for name in ("photos", "skus")}
        one["chosen"] = sum(row["chosen"] for row in group)
        for name in (*METRICS, "hard_mrr", "kept", "seconds"):
            values = [row[name] for row in group]
            one[name] = float(np.mean(values))
            if name in METRICS:
                one[f"{name}_seeds"] = [min(values), max(values)]
                one[f"{name}_interval"] = group[0][f"{name}_interval"]
        found.append(one)
    return found


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    head = ("severity", "arm", "setting", "alpha", "gallery", "chosen", "R@1", "95%", "seeds", "R@5", "R@10")
    lines = ["| " + " | ".join((*head, "hard MRR", "kept")) + " |", "|---" * (len(head) + 2) + "|"]
    for row in found:
        low, high = row["recall@1_interval"]
        least, most = row["recall@1_seeds"]
        cells = [
            f"{row['severity']:g}", row["arm"], row["setting"], f"{row['alpha']:g}", row["gallery"],
            f"{row['chosen']}/{row['seeds']}", f"{row['recall@1']:.3f}", f"{low:.3f}-{high:.3f}",
            f"{least:.3f}-{most:.3f}", f"{row['recall@5']:.3f}", f"{row['recall@10']:.3f}",
            f"{row['hard_mrr']:.3f}", f"{row['kept']:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    first = found[0]
    lines.append(f"\n{first['photos']} photos, {first['skus']} SKUs; adaptation {first['seconds']:.0f} s")
    return lines


def _paths(table: pl.DataFrame) -> list[Path]:
    return [Path(path) for path in table["path"]]


def _unit(rows: Rows) -> Rows:
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


if __name__ == "__main__":
    main()
