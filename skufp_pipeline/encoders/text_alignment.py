"""Learns the projection of a frozen text model into the image tower's space, in closed form.

The projection P of W into D dimensions is a sum of two maps. The first predicts the picture from the sentence
by ridge regression, from words to pictures and not back, which makes fewer hubs (Shigeto et al., 2015). Its
targets are half-whitened pictures: directions that tell a product from others, as the rows of a classifier
do. Where the image tower's weight file has its ImageNet classifier, the names of the 1,000 classes and its
rows are further pairs (Frome et al., 2013), so that a catalogue of few words is aligned too. The second
map is an isometry into directions in which pictures hardly vary: sentences keep their cosines, so that words
find a product by its catalogue text, and photos barely see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from open_clip.factory import load_state_dict
from timm.data import ImageNetInfo

from skufp_pipeline.datasets.table import GALLERY
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import embed_images, in_halves, with_anchors
from skufp_pipeline.encoders.settings import EncoderSettings, TextAlignmentSettings
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.hashing import stable_hash
from skufp_pipeline.progress import Progress
from skufp_pipeline.training.weights import resolve

IMAGENET = 1000  # classes
MOST_SKUS = 2000  # whose pictures the projection is learnt from
_AT_ONCE = 128  # sentences

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class PictureTexts:
    """The catalogue's pictures and sentences of training SKUs.

    Attributes:
        images: (M, D) unit rows of catalog views.
        image_skus: (M,) the SKU of each.
        texts: N sentences; several SKUs may share one.
        text_skus: (N,) the SKU of each, one that has a picture.
    """

    images: NDArray[np.float32]
    image_skus: Sequence[str]
    texts: Sequence[str]
    text_skus: Sequence[str]

    @classmethod
    def of(cls, images: pl.DataFrame, texts: pl.DataFrame) -> "PictureTexts":
        """Takes the gallery rows of training SKUs from embedding tables, or tables with their columns.

        Args:
            images: `sku_id`, `split`, `role`, `embedding`.
            texts: `sku_id`, `split`, `role`, `text`; of SKUs without a picture they are left out.
        """
        mine = (pl.col("role") == GALLERY) & (pl.col("split") == "train")
        images = images.filter(mine)
        texts = texts.filter(mine).join(images.select("sku_id").unique(), on="sku_id", how="semi")
        texts = texts.sort("sku_id", "text")
        return cls(
            embedding_rows(images),
            images["sku_id"].to_list(),
            texts["text"].to_list(),
            texts["sku_id"].to_list(),
        )


@dataclass(frozen=True)
class Classes:
    """Classes that the image tower was trained on: K texts, and the classifier's row (K, D) of each."""

    texts: Sequence[str]
    rows: Rows


def align_text_tower(
    encoder: Encoder,
    pairs: PictureTexts,
    settings: TextAlignmentSettings,
    seed: int,
    classes: Classes | None = None,
) -> dict[str, int]:
    """Learns the projection of `encoder`'s text model and writes it into the encoder.

    It depends on `pairs.images` and no other result of the image tower: call it again when the tower has
    changed. Without pairs and classes the projection is an isometry.

    Returns:
        The numbers of `pictures`, `sentences` and `classes` it was learnt from.

    Raises:
        ValueError: the encoder has no text model (`encoder.text_tower_weights`).
    """
    if not encoder.has_text_model:
        raise ValueError("only a text model is aligned; this encoder has none (encoder.text_tower_weights)")
    named = Classes([], np.empty((0, encoder.dimension))) if classes is None else classes
    outputs = sentence_rows(encoder, [*pairs.texts, *named.texts])
    sentences, names = outputs[: len(pairs.texts)], outputs[len(pairs.texts) :]
    learnt = learn_projection(sentences, pairs, names, named.rows, settings, seed)
    weight = encoder.model.text.proj.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(learnt.T))
    return {"pictures": len(pairs.images), "sentences": len(pairs.texts), "classes": len(named.texts)}


def align_to_catalogue(
    encoder: Encoder,
    shards: Sequence[tuple[pl.DataFrame, pl.DataFrame, Path]],
    settings: EncoderSettings,
    seed: int,
    progress: Progress | None = None,
    frozen: pl.DataFrame | None = None,
) -> dict[str, int]:
    """Aligns the text model with the image tower as it is now; does nothing for an encoder without one.

    Args:
        frozen: embeddings by the frozen tower, if `encoder` was adapted (`with_anchors`).
        shards: of each, the image-text table, the catalogue's texts and the folder of its crops. Pictures of
            `MOST_SKUS` training SKUs are enough, those that come first by a stable hash.

    Returns as `align_text_tower`; empty if the encoder has no text model.
    """
    if not encoder.has_text_model:
        return {}
    mine = (pl.col("role") == GALLERY) & (pl.col("split") == "train")
    known = pl.concat([images.filter(mine).select("sku_id").unique() for images, _, _ in shards])["sku_id"]
    chosen = sorted(known, key=lambda sku_id: stable_hash(sku_id, "alignment"))[:MOST_SKUS]
    wanted = mine & pl.col("sku_id").is_in(chosen)
    images = pl.concat(
        embed_images(encoder, table.filter(wanted), crops, settings.batch_size, progress)
        for table, _, crops in shards
    )
    images = images if frozen is None else with_anchors(images, frozen)
    pairs = PictureTexts.of(images, pl.concat([texts for _, texts, _ in shards]))
    return align_text_tower(encoder, pairs, settings.text_alignment, seed, image_classes(settings))


def learn_projection(
    sentences: Rows,
    pairs: PictureTexts,
    names: Rows,
    rows: Rows,
    settings: TextAlignmentSettings,
    seed: int,
) -> Rows:
    """Returns the projection P (W, D): a sentence s (W,) is embedded as the direction of s P.

    Args:
        sentences: (N, W) unit rows of the text model for the texts of `pairs`.
        names, rows: (K, W) unit rows of the text model for the classes, and their (K, D) classifier.
    """
    images, targets = pairs.images.astype(np.float64), sentence_targets(pairs, settings.whitening)
    width, dimension = sentences.shape[1], images.shape[1]
    isometry = isometry_beside(images, width, dimension, seed)
    if len(sentences) + len(names) == 0:
        return isometry
    centre = without_mean(sentences if len(sentences) else names)
    inputs = unit(np.concatenate([sentences, names]) @ centre)
    outputs = np.concatenate([targets, unit(rows)])
    weights = np.concatenate([np.ones(len(sentences)), np.full(len(names), settings.class_weight)])
    weighted = inputs.T * weights
    gram = weighted @ inputs
    ridge = settings.regularisation * np.trace(gram) / width
    predicted = np.linalg.solve(gram + ridge * np.eye(width), weighted @ outputs)
    typical = np.sqrt(np.mean(np.sum((inputs[: len(sentences) or None] @ predicted) ** 2, axis=1)))
    return centre @ (predicted / max(typical, 1e-12) + settings.isometry * isometry)


def without_mean(sentences: Rows) -> Rows:
    """Returns (W, W): takes the mean direction out of a sentence, the more so the more sentences there are.

    Unrelated sentences then have a cosine of about 0: else a SKU that has a text would score higher for any
    words than one that has none.
    """
    mean = unit(sentences.mean(axis=0))
    known = len(np.unique(sentences, axis=0))
    found: Rows = np.eye(len(mean)) - known / (known + 10) * np.outer(mean, mean)
    return found


def sentence_targets(pairs: PictureTexts, whitening: float) -> Rows:
    """Returns (N, D) unit rows: the mean picture of each sentence's SKU, centred and whitened.

    `whitening` is the power of the inverse covariance, shrunk by the mean of its eigenvalues above 0: from 0,
    the picture as it is, to 1, the direction of a linear discriminant (Hariharan et al., 2012).
    """
    images = pairs.images.astype(np.float64)
    if len(images) == 0:
        return images
    skus, owner = np.unique(np.asarray(pairs.image_skus, dtype=str), return_inverse=True)
    means = np.zeros((len(skus), images.shape[1]))
    np.add.at(means, owner, images)
    centred = means / np.bincount(owner)[:, None]
    if len(skus) > 1:  # one product differs from nothing
        centred = centred - centred.mean(axis=0)
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        variances = values**2 / len(centred)
        shrinkage = variances.mean()
        stretch = (variances / max(shrinkage, 1e-12) + 1) ** -whitening - 1
        centred = centred + (centred @ directions.T * stretch) @ directions
    return unit(centred)[np.searchsorted(skus, np.asarray(pairs.text_skus, dtype=str))]


def isometry_beside(images: Rows, width: int, dimension: int, seed: int) -> Rows:
    """Returns (width, dimension) random orthonormal rows beside the directions in which `images` lie most.

    With `dimension` below twice the width, only the strongest directions are avoided, and half of the
    dimensions at most; the rows then keep the norm of a sentence on average.
    """
    avoided = max(dimension - width, dimension // 2)
    _, values, directions = np.linalg.svd(images, full_matrices=False)
    used = directions[:avoided][values[:avoided] > 1e-9]
    kept = min(width, dimension - len(used))
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((dimension, kept))
    beside, _ = np.linalg.qr(drawn - used.T @ (used @ drawn))
    turned, _ = np.linalg.qr(generator.standard_normal((width, kept)))
    found: Rows = np.sqrt(width / kept) * turned @ beside.T
    return found


def image_classes(settings: EncoderSettings) -> Classes | None:
    """Reads the ImageNet classifier out of the image tower's weight file, with the names of its classes.

    Returns:
        Two texts a class, its names and its description in WordNet, each with the classifier's row less the
        mean of all; None if the weights are not on this machine or have no classifier of 1,000 classes.
    """
    if settings.image_tower_weights is None:
        return None
    weights = resolve(settings.image_tower_weights, "encoder.image_tower_weights")
    if weights.path is None or not weights.path.is_file():
        return None
    found = [
        value
        for value in load_state_dict(str(weights.path), device="cpu", weights_only=True).values()
        if value.ndim == 2 and len(value) == IMAGENET
    ]
    if not found:
        return None
    rows = found[-1].double().numpy()
    texts = _imagenet_texts()
    return Classes(texts, np.tile(rows - rows.mean(axis=0), (2, 1)))


@cache
def _imagenet_texts() -> tuple[str, ...]:
    info = ImageNetInfo()
    return tuple(
        info.index_to_description(place, detailed=detailed)
        for detailed in (False, True)
        for place in range(IMAGENET)
    )


def unit(rows: Rows) -> Rows:
    """Rows divided by their norm; a zero row stays zero."""
    found: Rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return found


def sentence_rows(encoder: Encoder, texts: Sequence[str]) -> Rows:
    """Returns (N, W) unit rows of the text model, each different text computed once."""
    unique = sorted(set(texts), key=lambda text: (len(text), text))  # batches of like length: less padding
    rows = [np.empty((0, encoder.text_width), np.float32)]
    for start in range(0, len(unique), _AT_ONCE):
        rows += in_halves(encoder.text_outputs, unique[start : start + _AT_ONCE])
    row_of_text = {text: row for row, text in enumerate(unique)}
    return np.concatenate(rows)[[row_of_text[text] for text in texts]].astype(np.float64)
