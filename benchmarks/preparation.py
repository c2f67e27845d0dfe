"""What it is worth to remove the colour cast from every image, in training and ever after.

python benchmarks/preparation.py --preset demo --share 0.7 --json preparation.json

The preset's encoder is fine-tuned with `encoder.white_balance` 0 and each `--share`, from the same seeds on
the crops at the data root. Development photos of training SKUs choose the share: each is looked for among the
training SKUs, by the means of their catalogue views. Only then, once, evaluation photos judge it against 0.
Differences are averaged over seeds and paired by photo, with a 95% interval over SKUs.

A training that is killed goes on where it stood, and a trained encoder in `--work` is not trained again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from recipes import read_text_shards

from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY
from skufp_pipeline.encoders.clip import Encoder, create_encoder, load_encoder
from skufp_pipeline.encoders.clip_train import fine_tune
from skufp_pipeline.encoders.dataset import TextShard, gather_training_data
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.evaluation.protocol import SETTING_SPLITS
from skufp_pipeline.measures.bootstrap import paired_bootstrap
from skufp_pipeline.measures.ranks import ranks_of
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.training.device import pick_device

OFF = 0.0


class Bench:
    """The crops of a data root, and the encoders that are trained on them."""

    def __init__(self, preset: Preset, shards: list[TextShard], work: Path) -> None:
        self.preset, self.shards, self.work = preset, shards, work
        self.device = pick_device(preset.compute.device)
        paths = [pl.format("{}/{}", pl.lit(str(shard.crop_dir)), "image_path") for shard in shards]
        self.images = pl.concat(
            [shard.image_text.with_columns(path=path) for shard, path in zip(shards, paths, strict=True)]
        )

    def encoder(self, share: float, seed: int) -> Encoder:
        """The encoder that is trained with this white balance, or that was in an earlier run."""
        training = self.preset.encoder.training
        folder = self.work / f"balance_{share:g}_seed_{seed}_epochs_{training.epochs}"
        if not (folder / "encoder").is_dir():
            settings = self.preset.encoder.model_copy(update={"white_balance": share})
            scratch = folder / "scratch"
            scratch.mkdir(parents=True, exist_ok=True)
            data, _ = gather_training_data(
                self.shards, self.preset.prompts, training.cache_side, scratch, white_balance=share
            )
            encoder = create_encoder(settings, self.device, seed)
            fine_tune(encoder, data, training, seed, scratch, click.echo)
            encoder.save(folder / "partial")
            (folder / "partial").rename(folder / "encoder")
        return load_encoder(folder / "encoder", self.device)

    def photos(self, role: str, splits: Sequence[str]) -> pl.DataFrame:
        """The photos of a role whose SKU has catalogue views, and lies in one of the splits."""
        views = self.views(splits)
        return self.images.filter(
            (pl.col("role") == role)
            & pl.col("split").is_in(splits)
            & pl.col("sku_id").is_in(views["sku_id"].implode())
        )

    def views(self, splits: Sequence[str]) -> pl.DataFrame:
        """The catalogue views of the splits."""
        return self.images.filter((pl.col("role") == GALLERY) & pl.col("split").is_in(splits))

    def hits(self, encoder: Encoder, role: str, splits: Sequence[str]) -> NDArray[np.float64]:
        """(Q,) 1 where a photo's own SKU has the nearest mean of views."""
        views, photos = self.views(splits), self.photos(role, splits)
        skus, owner = np.unique(views["sku_id"].to_numpy().astype(str), return_inverse=True)
        means = np.zeros((len(skus), encoder.dimension))
        np.add.at(means, owner, self._embedded(encoder, views))
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        truth = np.searchsorted(skus, photos["sku_id"].to_numpy().astype(str))
        return (ranks_of(self._embedded(encoder, photos), means, truth) == 1).astype(np.float64)

    def _embedded(self, encoder: Encoder, rows: pl.DataFrame) -> NDArray[np.float32]:
        return embed_crops(encoder, [Path(path) for path in rows["path"]], self.preset.encoder.batch_size)

    def compare(self, shares: Sequence[float], seeds: int, role: str, setting: str) -> list[dict[str, Any]]:
        """R@1 of each share on the photos of a role, its mean over seeds, and its difference from 0."""
        splits = SETTING_SPLITS[setting]
        skus = self.photos(role, splits)["sku_id"].to_numpy().astype(str)
        if len(skus) == 0:
            return []
        found = {
            share: np.stack([self.hits(self.encoder(share, seed), role, splits) for seed in range(seeds)])
            for share in shares
        }
        rows = []
        for share, hits in found.items():
            gain = paired_bootstrap(hits.mean(axis=0), found[OFF].mean(axis=0), skus)
            row = {"photos": role, "setting": setting, "white_balance": share, "queries": len(skus)}
            figures = {"r1": float(hits.mean()), "seeds": hits.mean(axis=1).tolist()}
            rows.append({**row, **figures, "gain": gain.delta, "low": gain.low, "high": gain.high})
        return rows


def show(row: dict[str, Any]) -> str:
    """A row for a terminal."""
    return (
        f"{row['photos']:<11} {row['setting']:<9} {row['queries']:>6} photos, white balance "
        f"{row['white_balance']:<4g} R@1 {row['r1']:.3f}, against 0: {row['gain']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}]"
    )


@click.command()
@click.option("--preset", "name", default="demo", show_default=True, help="A preset's name or YAML file.")
@click.option("--root", help="A data root that holds the preset's crops; the preset's own by default.")
@click.option("--share", "shares", multiple=True, type=click.FloatRange(0, 1, min_open=True), default=(0.7,))
@click.option("--epochs", type=click.IntRange(1), help="As many as the preset's by default.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--work", type=click.Path(path_type=Path), default=Path("preparation"), show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write every figure there.")
def main(
    name: str,
    root: str | None,
    shares: tuple[float, ...],
    epochs: int | None,
    seeds: int,
    work: Path,
    target: Path | None,
) -> None:
    """Chooses a white balance by development photos, and judges it once by evaluation photos."""
    preset = load_preset(name)
    if epochs is not None:
        training = preset.encoder.training.model_copy(update={"epochs": epochs})
        preset = preset.model_copy(
            update={"encoder": preset.encoder.model_copy(update={"training": training})}
        )
    if root is not None:
        preset = preset.model_copy(update={"data_root": root})
    bench = Bench(preset, read_text_shards(preset), work)
    rows = bench.compare((OFF, *sorted(set(shares))), seeds, DEVELOPMENT, "seen")
    if not rows:
        raise click.ClickException(f"{preset.data_root} has no development photo to choose by")
    chosen = max(rows, key=lambda row: (row["r1"], -row["white_balance"]))["white_balance"]
    for setting in SETTING_SPLITS if chosen != OFF else ():
        rows += bench.compare((OFF, chosen), seeds, EVALUATION, setting)
    click.echo("\n".join(map(show, rows)))
    click.echo(f"development photos choose white_balance: {chosen:g}")
    if target is not None:
        about = {"preset": preset.name, "epochs": preset.encoder.training.epochs, "seeds": seeds}
        found = {**about, "threads": torch.get_num_threads(), "chosen": chosen, "rows": rows}
        target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
