"""Trains the aggregator on eq. 14: regression, rank distillation and classification together.

Each step samples SKUs and queries of theirs; the tensors of all SKUs fit in memory. The weights of the epoch
that ranks the development queries best are kept.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skufp_pipeline.errors import TooLittleError
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble
from skufp_pipeline.fingerprint.losses import classification, embedding_regression, rank_distillation
from skufp_pipeline.fingerprint.settings import FingerprintSettings, FingerprintTrainingSettings
from skufp_pipeline.fingerprint.tables import FingerprintData, Queries
from skufp_pipeline.fingerprint.views import mean_sku
from skufp_pipeline.measures.metrics import reciprocal_rank
from skufp_pipeline.measures.ranks import ranks
from skufp_pipeline.training.history import History, unscored
from skufp_pipeline.training.loop import Log, Part, RandomNumbers, Training, set_learning_rate
from skufp_pipeline.training.schedule import warm_cosine


def train_aggregator(
    data: FingerprintData,
    settings: FingerprintSettings,
    seed: int,
    device: torch.device,
    scratch: Path,
    log: Log,
) -> tuple[AggregatorEnsemble, History]:
    """Returns the ensemble of the best epoch, and the history of all epochs (losses, development MRR).

    The members train side by side, each on its own loss; the best epoch is chosen by the ensemble's score.

    Raises:
        TooLittleError: no training photos, or fewer than two SKUs.
    """
    if len(data.views.sku_ids) < 2 or len(data.image_queries.truth) == 0:
        raise TooLittleError(
            f"the fingerprint model needs two training SKUs and their photos at least; found "
            f"{len(data.views.sku_ids)} SKUs and {len(data.image_queries.truth)} photos of role train"
        )
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = AggregatorEnsemble(data.views.views.shape[2], settings.aggregator).to(device)
    tensors, options = _Tensors(data, device), settings.training
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    steps = math.ceil(len(data.image_queries.truth) / options.queries_per_batch)
    random = RandomNumbers(generator, device)
    parts: dict[str, Part] = {"model": model, "optimizer": optimizer, "random": random}
    training = Training("aggregator", scratch, parts, log)
    for epoch in training.rounds(options.epochs):
        model.train()
        totals: dict[str, float] = {}
        for step in range(epoch * steps, (epoch + 1) * steps):
            factor = warm_cosine(step, steps * options.epochs, options.warmup_fraction)
            set_learning_rate(optimizer, options.learning_rate * factor)
            losses = _member_losses(model, tensors, options, generator)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item() / steps
        score = _development_mrr(model, tensors)
        training.history.append({"epoch": epoch + 1, **totals, "development_mrr": score})
        training.keep_best(score, model, later=False)
        training.tell(
            f"loss {sum(totals.values()):.3f}, development MRR {score:.4f} (best {training.best_score:.4f})"
        )
    training.load_best(model)
    return model, training.history


def aggregator_or_mean(
    data: FingerprintData,
    settings: FingerprintSettings,
    seed: int,
    device: torch.device,
    scratch: Path,
    log: Log,
) -> tuple[AggregatorEnsemble, History, str | None]:
    """Does the same as `train_aggregator`; with too little to learn from, returns one that means the views.

    The third result says what was left out, if anything.
    """
    try:
        model, history = train_aggregator(data, settings, seed, device, scratch, log)
    except TooLittleError as reason:
        said = f"the aggregator is not trained and takes the mean of the catalog views: {reason}"
        log(said)
        residual = settings.aggregator.model_copy(update={"residual": True})  # adds 0 before training
        return AggregatorEnsemble(data.views.views.shape[2], residual).eval(), [], said
    return model, history, unscored(history, "development_mrr")


class _Tensors:
    """The training data as tensors on the device."""

    def __init__(self, data: FingerprintData, device: torch.device) -> None:
        self.views = torch.from_numpy(data.views.views).to(device)
        self.mask = torch.from_numpy(data.views.mask).to(device)
        self.generated = torch.from_numpy(data.views.generated).to(device)
        self.means = torch.from_numpy(mean_sku(data.views)).to(device)
        self.image_teachers = torch.from_numpy(data.image_teachers).to(device)
        self.text_teachers = torch.from_numpy(data.text_teachers).to(device)
        self.image_queries = _on(data.image_queries, device)
        self.text_queries = _on(data.text_queries, device)
        self.development = _on(data.development, device)


def _on(queries: Queries, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(queries.embeddings).to(device), torch.from_numpy(queries.truth).to(device)


def _member_losses(
    model: AggregatorEnsemble,
    data: _Tensors,
    settings: FingerprintTrainingSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each loss term summed over the members; every member draws its own batch."""
    totals: dict[str, Tensor] = {}
    for member in model.members:
        for name, value in _losses(member, data, settings, generator).items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def _losses(
    model: nn.Module, data: _Tensors, settings: FingerprintTrainingSettings, generator: torch.Generator
) -> dict[str, Tensor]:
    """The weighted terms of eq. 14 on one batch of SKUs and their queries."""
    skus = torch.randperm(len(data.views), generator=generator)[: settings.skus_per_batch].sort().values
    mask, generated = data.mask[skus], data.generated[skus]
    mask = _drop_views(mask, generated, settings.view_dropout, generator)
    fingerprints = model(data.views[skus], mask, generated)
    image_teachers, text_teachers = data.image_teachers[skus], data.text_teachers[skus]
    has_text = text_teachers.abs().sum(dim=1) > 0
    losses = {
        "regression_image": settings.image_weight * embedding_regression(fingerprints, image_teachers),
        "rank": fingerprints.new_zeros(()),
        "classification": fingerprints.new_zeros(()),
    }
    if has_text.any():
        losses["regression_text"] = settings.text_weight * embedding_regression(
            fingerprints[has_text], text_teachers[has_text]
        )
    for (embeddings, truth), teachers, weight in (
        (data.image_queries, image_teachers, 1.0),
        (data.text_queries, text_teachers, settings.text_query_weight),
    ):
        queries, rows = _draw(embeddings, truth, skus, len(data.views), settings.queries_per_batch, generator)
        if weight == 0 or len(queries) == 0:
            continue
        means = data.means[skus][rows]
        queries = spread_queries(queries, means, settings.query_spread, settings.query_swap, generator)
        rank_loss = rank_distillation(queries, teachers, fingerprints, settings.rank_temperature)
        class_loss = classification(queries, fingerprints, rows, settings.classification_temperature)
        losses["rank"] = losses["rank"] + weight * settings.rank_weight * rank_loss
        losses["classification"] = (
            losses["classification"] + weight * settings.classification_weight * class_loss
        )
    return losses


def _draw(
    embeddings: Tensor, truth: Tensor, skus: Tensor, num_skus: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws up to `count` queries of the batch's SKUs; returns them and their SKUs' rows in the batch."""
    batch_rows = torch.full((num_skus,), -1, dtype=torch.long, device=truth.device)
    batch_rows[skus] = torch.arange(len(skus), device=truth.device)
    candidates = torch.nonzero(batch_rows[truth] >= 0).squeeze(1)
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    return embeddings[chosen], batch_rows[truth[chosen]]


def spread_queries(
    queries: Tensor, means: Tensor, spread: float, swap: float, generator: torch.Generator
) -> Tensor:
    """Spreads (Q, D) unit queries as widely as those of SKUs that the encoder was not trained on.

    The encoder pulls the photos of training SKUs towards their views, so an aggregator that sees only those
    learns nothing about new SKUs. Each query's offset from its SKU's mean view is scaled, or replaced by the
    offset of another query of the batch.

    Args:
        means: (Q, D) unit mean of the views of each query's SKU.
        spread: factor of the offset; 1 keeps it.
        swap: probability that a query takes another one's offset.

    Returns:
        (Q, D) unit rows.
    """
    if spread == 1 and swap == 0:
        return queries
    offsets = queries - means
    others = offsets[torch.randperm(len(queries), generator=generator).to(queries.device)]
    swapped = (torch.rand(len(queries), 1, generator=generator) < swap).to(queries.device)
    return F.normalize(means + spread * torch.where(swapped, others, offsets), dim=-1)


def _drop_views(mask: Tensor, generated: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Hides each view with probability `share`; a SKU that would lose all catalog views keeps every view."""
    if share == 0:
        return mask
    kept = mask & (torch.rand(mask.shape, generator=generator) >= share).to(mask.device)
    return torch.where((kept & ~generated).any(dim=1, keepdim=True), kept, mask)


@torch.inference_mode()
def _development_mrr(model: nn.Module, data: _Tensors) -> float:
    """Mean reciprocal rank of the development queries; ties count against the right SKU."""
    queries, truth = data.development
    if len(queries) == 0:
        return float("nan")
    model.eval()
    scores = queries @ model(data.views, data.mask, data.generated).T
    return float(reciprocal_rank(ranks(scores.cpu().numpy(), truth.cpu().numpy())).mean())
