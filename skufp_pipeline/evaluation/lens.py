"""Cross-validates an extractor: trained without a fold's products, asked for all of them (docs/lens.md).

`zero` are the products of the fold, `seen` all others, those that chose the epoch among them. Two questions
are asked of the whole catalogue, before and after the training:

- `product`: a synthetic photo of a product; its own pictures are relevant.
- `category`: a product's picture, without the product itself; pictures of its category are relevant.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from skufp_pipeline.datasets.table import DEVELOPMENT, EVALUATION, GALLERY, TRAIN, item_id
from skufp_pipeline.encoders.dataset import TextShard, training_rows
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.evaluation.settings import LensSettings
from skufp_pipeline.extractors.data import gather_extractor_data, is_held_out, pictures_to_judge
from skufp_pipeline.extractors.extractor import Extractor, create_extractor
from skufp_pipeline.extractors.settings import ExtractorSettings, ExtractorTrainingSettings
from skufp_pipeline.extractors.train import loss_of, train_extractor
from skufp_pipeline.hashing import stable_fraction, stable_hash
from skufp_pipeline.measures.ranks import ranks_of, right_items
from skufp_pipeline.training.loop import Log

SEEN, ZERO, BOTH = "seen", "zero", "seen+zero"
BEFORE, AFTER = "before", "after"
PRODUCT, CATEGORY = "product", "category"
TEST = "test"  # the part of a fold that its training must not see
KS = (1, 3, 5, 10)
_BLOCK = 256  # queries scored at once
_TIES = 1e-9  # products of float32 unit rows that differ by less are equal

PRODUCT_SCHEMA: dict[str, pl.DataType] = {"fold": pl.Int32(), "sku_id": pl.String(), "part": pl.String()}
LOSS_SCHEMA: dict[str, pl.DataType] = {
    "fold": pl.Int32(),
    "state": pl.String(),  # before | after
    "train_loss": pl.Float64(),
    "test_loss": pl.Float64(),  # of the fold's own pictures
    "epochs": pl.Int32(),  # until the kept one; 0 before
}
QUERY_SCHEMA: dict[str, pl.DataType] = {
    "fold": pl.Int32(),
    "state": pl.String(),
    "setting": pl.String(),  # seen | zero
    "relevance": pl.String(),  # product | category
    "query_id": pl.String(),
    "sku_id": pl.String(),
    "chance": pl.Float64(),  # share of what may be found that is relevant: precision of a random order
    "reciprocal_rank": pl.Float64(),  # of the first relevant item
    **{f"precision@{k}": pl.Float64() for k in KS},
    **{f"recall@{k}": pl.Float64() for k in KS},
}


class FoldTables(NamedTuple):
    """Rows of `PRODUCT_SCHEMA`, `LOSS_SCHEMA` and `QUERY_SCHEMA`."""

    products: pl.DataFrame
    losses: pl.DataFrame
    queries: pl.DataFrame


@dataclass(frozen=True)
class LensData:
    """A catalogue and its synthetic photos.

    Attributes:
        shards: with the pictures that are trained on.
        pictures: `item_id`, `sku_id`, `category_name`, `path` of every catalogue picture, by SKU.
        photos: `item_id`, `sku_id`, `path` of the synthetic photos of role `evaluation`.
    """

    shards: Sequence[TextShard]
    pictures: pl.DataFrame
    photos: pl.DataFrame

    @classmethod
    def of(cls, shards: Sequence[TextShard], photos: Sequence[tuple[pl.DataFrame, Path]]) -> "LensData":
        """Collects them from image-text shards, and from tables of synthetic photos with their folders."""
        columns = ["item_id", "sku_id", "path"]
        pictures = [_with_path(s.image_text.with_columns(item_id()), s.crop_dir) for s in shards]
        asked = [_with_path(table, folder) for table, folder in photos]
        return cls(
            shards,
            pl.concat(pictures)
            .filter((pl.col("role") == GALLERY) & (pl.col("split") == "train"))
            .sort("sku_id", "item_id")
            .select(*columns, "category_name"),
            pl.concat(asked)
            .filter((pl.col("role") == EVALUATION) & (pl.col("split") == "train"))
            .select(columns),
        )

    @property
    def products(self) -> list[str]:
        return self.pictures["sku_id"].unique().sort().to_list()


def fold_of(sku_id: str, folds: int) -> int:
    """Returns the fold of a product; it depends on nothing else."""
    return stable_hash(sku_id, "lens fold") % folds


def judge_folds(
    data: LensData, settings: ExtractorSettings, lens: LensSettings, seed: int, scratch: Path,
    device: torch.device, log: Log,
) -> FoldTables:  # fmt: skip
    """Trains the extractor once for each fold that is judged, without its products, and asks for them.

    `scratch` keeps what a killed run goes on from, the training of each fold. Empty folds are left out.

    Raises:
        TooLittleError: a fold leaves too few products to train on, or all are in one.
    """
    there = sorted({fold_of(sku_id, lens.folds) for sku_id in data.products})
    if len(there) < 2:
        raise TooLittleError(f"{len(data.products)} products are too few for {lens.folds} folds")
    tables = [
        _judge_fold(fold, data, settings, lens, seed, scratch / f"fold_{fold}", device, log)
        for fold in there[: lens.judged_folds(len(data.products))]
    ]
    return FoldTables(*(pl.concat(parts) for parts in zip(*tables, strict=True)))


def _judge_fold(
    fold: int, data: LensData, settings: ExtractorSettings, lens: LensSettings, seed: int, scratch: Path,
    device: torch.device, log: Log,
) -> FoldTables:  # fmt: skip
    parts = parts_of_fold(data.products, fold, lens.folds, settings)
    tested = [sku_id for sku_id, part in parts.items() if part == TEST]
    shards = _without(data.shards, tested)
    scratch.mkdir(parents=True, exist_ok=True)
    training, _ = gather_extractor_data(shards, settings, _folder(scratch, "training"))
    # As many as are tested: a loss within a batch depends on the batch's size.
    fitted = [sku_id for sku_id in _in_order(parts) if parts[sku_id] == TRAIN][: len(tested)]
    judged = {
        "train_loss": pictures_to_judge(data.shards, fitted, settings, _folder(scratch, "train")),
        "test_loss": pictures_to_judge(data.shards, tested, settings, _folder(scratch, "test")),
    }
    extractor = create_extractor(settings, device, seed)
    losses, queries = [], []

    def measure(state: str, epochs: int) -> None:
        found = {name: loss_of(extractor, part, settings) for name, part in judged.items()}
        losses.append({"fold": fold, "state": state, **found, "epochs": epochs})
        asked = ask(extractor, data, _asked(parts, lens.most_asked), settings.batch_size)
        queries.append(asked.with_columns(fold=pl.lit(fold), state=pl.lit(state)))

    measure(BEFORE, 0)
    trained = train_extractor(
        extractor, training, settings, seed, scratch, lambda line: log(f"fold {fold + 1}: {line}")
    )
    scores = [row[trained.quality] for row in trained.history]
    measure(AFTER, len(scores) if np.isnan(scores).any() else int(np.argmax(scores)) + 1)
    told = ", ".join(f"{name.replace('_', ' ')} {losses[1][name]:.4g}" for name in judged)
    log(f"{settings.name}: fold {fold + 1} of {lens.folds}: {told}")
    # What the training was given, and not what it should have been: the check compares both.
    given = training_rows(shards)[0]["sku_id"].unique().sort()
    used = [(fold, sku_id, DEVELOPMENT if parts[sku_id] == DEVELOPMENT else TRAIN) for sku_id in given]
    settings_of = {sku_id: ZERO if part == TEST else SEEN for sku_id, part in parts.items()}
    setting = pl.col("sku_id").replace_strict(settings_of).alias("setting")
    every = pl.concat(queries).with_columns(setting)
    return FoldTables(
        pl.DataFrame([*used, *((fold, sku_id, TEST) for sku_id in tested)], PRODUCT_SCHEMA, orient="row"),
        pl.DataFrame(losses, schema=LOSS_SCHEMA),
        every.select(*QUERY_SCHEMA).cast(pl.Schema(QUERY_SCHEMA)),
    )


def parts_of_fold(
    products: Collection[str], fold: int, folds: int, settings: ExtractorSettings
) -> dict[str, str]:
    """Returns what each product is used for in a fold: train, development (it chooses the epoch), test."""
    training = settings.training
    share = training.held_out if isinstance(training, ExtractorTrainingSettings) else 0.0

    def part(sku_id: str) -> str:
        if fold_of(sku_id, folds) == fold:
            return TEST
        return DEVELOPMENT if is_held_out(sku_id, share) else TRAIN

    return {sku_id: part(sku_id) for sku_id in sorted(products)}


def ask(extractor: Extractor, data: LensData, products: Collection[str], batch_size: int) -> pl.DataFrame:
    """Asks an extractor for products by their photos, and for their categories by their pictures.

    Returns `QUERY_SCHEMA` without fold, state and setting.
    """
    pictures = data.pictures
    photos = data.photos.filter(pl.col("sku_id").is_in(list(products)))
    rows, asked = (
        embed_crops(extractor, [Path(path) for path in table["path"]], batch_size)
        for table in (pictures, photos)
    )
    is_asked = pictures["sku_id"].is_in(list(products)).to_numpy() & _can_be_missed(pictures)
    chosen, owners = np.flatnonzero(is_asked), pictures["sku_id"]
    by_photo = found_products(asked, photos["sku_id"], rows, owners)
    by_picture = found_categories(rows, owners, pictures["category_name"], chosen)
    return pl.concat([_listed(PRODUCT, photos, by_photo), _listed(CATEGORY, pictures[chosen], by_picture)])


def found_products(
    photos: NDArray[np.float32], of_photos: pl.Series, pictures: NDArray[np.float32], of_pictures: pl.Series
) -> dict[str, NDArray[np.float64]]:
    """Returns the measures of each photo: one product is relevant, which scores its best picture.

    Args:
        photos, pictures: (Q, D) and (S, D) unit rows.
        of_photos, of_pictures: the product of each; pictures of one product lie together.
    """
    owner = of_pictures.rle_id().to_numpy().astype(np.int64)
    products = of_pictures.unique(maintain_order=True)
    ranks = ranks_of(photos, pictures, right_items(of_photos, products), owner=owner)
    hits = {k: (ranks <= k).astype(np.float64) for k in KS}
    return {
        "chance": np.full(len(ranks), 1 / len(products)),
        "reciprocal_rank": 1.0 / ranks,
        **{f"precision@{k}": hits[k] / k for k in KS},
        **{f"recall@{k}": hits[k] for k in KS},
    }


def found_categories(
    pictures: NDArray[np.float32], of_pictures: pl.Series, categories: pl.Series, asked: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Returns the measures of some pictures as queries: pictures of its category but of other products are
    relevant, and its own product is not searched. Ties count against the query.

    Args:
        pictures: (S, D) unit rows.
        of_pictures, categories: the product and the category of each.
        asked: rows of those that ask; each has a relevant one.
    """
    product, category = (column.rank("dense").to_numpy() for column in (of_pictures, categories))
    exact = pictures.astype(np.float64)
    blocks = np.array_split(asked, max(-(-len(asked) // _BLOCK), 1))
    parts = [_graded(exact, block, product, category) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _graded(
    pictures: NDArray[np.float64], block: NDArray[np.int64], product: NDArray, category: NDArray
) -> dict[str, NDArray[np.float64]]:
    others = product[block, None] != product[None, :]
    alike = (category[block, None] == category[None, :]) & others
    scores = pictures[block] @ pictures.T - _TIES * alike
    scores[~others] = -np.inf
    most = min(max(KS), scores.shape[1])
    best = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    hits = np.take_along_axis(alike, np.take_along_axis(best, order, axis=1), axis=1).cumsum(axis=1)
    relevant = alike.sum(axis=1)
    nearest = np.where(alike, scores, -np.inf).max(axis=1)
    first = (scores > nearest[:, None]).sum(axis=1) + 1.0
    found = {k: hits[:, min(k, most) - 1] for k in KS}
    return {
        "chance": relevant / others.sum(axis=1),
        "reciprocal_rank": 1 / first,
        **{f"precision@{k}": found[k] / k for k in KS},
        **{f"recall@{k}": found[k] / relevant for k in KS},
    }


def _can_be_missed(pictures: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether a picture's category has another product, and is not the only one."""
    products = pl.col("sku_id").n_unique()
    counted = pictures.select(of_category=products.over("category_name"), every=products)
    return counted.select((pl.col("of_category") > 1) & (pl.col("of_category") < pl.col("every")))[
        "of_category"
    ].to_numpy()


def _listed(relevance: str, asked: pl.DataFrame, found: dict[str, NDArray[np.float64]]) -> pl.DataFrame:
    named = asked.select(pl.lit(relevance).alias("relevance"), pl.col("item_id").alias("query_id"), "sku_id")
    return named.with_columns(**{name: pl.Series(values) for name, values in found.items()})


def _asked(parts: dict[str, str], most: int) -> list[str]:
    """Returns the products to ask for: those of the test, and of the others, `most` of each by a hash."""
    order = _in_order(parts)
    seen, zero = ([sku for sku in order if (parts[sku] == TEST) == is_test] for is_test in (False, True))
    return [*seen[:most], *zero[:most]]


def _in_order(products: Collection[str]) -> list[str]:
    """Returns the products in an order that no other property of theirs decides."""
    return sorted(products, key=lambda sku_id: stable_fraction(sku_id, "lens query"))


def _without(shards: Sequence[TextShard], sku_ids: Collection[str]) -> list[TextShard]:
    """Returns the shards without some SKUs: what a training is given can't hold them."""
    is_left = ~pl.col("sku_id").is_in(list(sku_ids))
    return [
        replace(
            shard,
            image_text=shard.image_text.filter(is_left),
            text_queries=shard.text_queries.filter(is_left),
            catalog_texts=shard.catalog_texts.filter(is_left),
        )
        for shard in shards
    ]


def _with_path(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    return table.with_columns(path=pl.format("{}/{}", pl.lit(str(folder)), "image_path"))


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder
