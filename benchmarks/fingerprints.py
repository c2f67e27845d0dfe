"""What makes the best single vector per SKU, on the embeddings of a materialized data root.

python benchmarks/fingerprints.py --data data/demo --tables pooling --tables many --json F
python benchmarks/fingerprints.py --data data/other --render-seed 101 --tables weights

Only aggregators are trained. Every table has image and text queries; differences are paired by query, means
over seeds, with a 95% interval over SKUs. `--role development` asks the development slice instead, which is
where choices are made; it has no `zero`.

pooling   poolings and aggregators against the mean and against the paper's own recipe
losses    the four terms of eq. 14, each alone and each left out, in the residual aggregator
views     quality by how many catalogue views of a SKU there are
weights   each weight of the fingerprint's parts moved alone: how they were chosen, on another rendering
hubness   query-bank normalisation by strength, and the skew of 10-occurrence before and after
many      one vector a SKU against all catalogue views, the best counting: quality, bytes, latency
new       SKUs kept from training: as new ones, as new ones with photos, and after training again
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import dagster as dg
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from skufp_pipeline.datasets.table import EVALUATION
from skufp_pipeline.encoders.tables import embedding_rows
from skufp_pipeline.errors import UserError
from skufp_pipeline.evaluation.protocol import (
    MODALITIES,
    SETTING_SPLITS,
    Gallery,
    Model,
    QuerySet,
    evaluate,
    evaluation_queries,
)
from skufp_pipeline.extractors.settings import ExtractorsSettings
from skufp_pipeline.fingerprint.aggregator import AggregatorEnsemble, fingerprints
from skufp_pipeline.fingerprint.aggregator_train import train_aggregator
from skufp_pipeline.fingerprint.gaussian import fit_gaussian
from skufp_pipeline.fingerprint.hubness import occurrence_skew, query_bank_biases
from skufp_pipeline.fingerprint.losses import classification
from skufp_pipeline.fingerprint.make import join_parts
from skufp_pipeline.fingerprint.settings import (
    AggregatorSettings,
    FingerprintSettings,
    FingerprintTrainingSettings,
    HubnessSettings,
)
from skufp_pipeline.fingerprint.tables import (
    EmbeddingTables,
    Queries,
    catalog_texts,
    fingerprint_data,
    teacher_table,
    training_photos,
)
from skufp_pipeline.fingerprint.views import ViewSet, gather_views, mean_sku, medoid, trimmed_mean, unit
from skufp_pipeline.hashing import stable_fraction
from skufp_pipeline.measures.bootstrap import paired_bootstrap
from skufp_pipeline.orchestration.materialize import materialize_graph
from skufp_pipeline.presets import Preset, another_rendering, load_preset
from skufp_pipeline.search.index import FingerprintIndex

CPU = torch.device("cpu")
TERMS = ("image_weight", "text_weight", "rank_weight", "classification_weight")
TABLES = ("pooling", "losses", "views", "weights", "hubness", "many", "new")
GAUSSIAN_WEIGHTS = {"photo_weight": (0.0, 2.0), "aggregator_weight": (0.5, 2.0), "power": (0.5, 1.0)}
NEW_SHARE = 0.2  # of the training SKUs that are kept from training in `new`
MEASURED = ("setting", "queries", "count", "r1", "mrr")
Rows = NDArray[np.float32]
Scores = dict[tuple[str, str], dict[str, NDArray[np.float64]]]  # by setting and modality, then by metric

# The paper's recipe: one plain Q-Former, weights 1, 0.5, 1, 1, every view and query as it is.
PAPER = FingerprintSettings(
    aggregator=AggregatorSettings(members=1, residual=False),
    training=FingerprintTrainingSettings(view_dropout=0.0),
    gaussian=None,
    catalog_text_weight=0.0,
)


@dataclass(frozen=True)
class Vectors:
    """(N, D) rows of a gallery, the SKU of each as a row of the views, and (N,) biases."""

    rows: Rows
    owner: NDArray[np.int64]
    biases: Rows | None = None

    @classmethod
    def of(cls, rows: Rows, biases: Rows | None = None) -> "Vectors":
        """One row a SKU."""
        return cls(rows, np.arange(len(rows)), biases)


class Bench:
    """The tables of a data root, and what is asked of them."""

    def __init__(
        self, data: Path, ours: FingerprintSettings, paper: FingerprintSettings, seeds: int, role: str
    ) -> None:
        folder = data / "tables" / "clip_embeddings"
        if not any(folder.glob("*/images.parquet")):
            raise UserError(
                f"{folder} holds no embeddings; materialize clip_embeddings, or name another --data"
            )
        images, texts = (
            pl.read_parquet(folder / "*" / f"{name}.parquet").sort("sku_id", maintain_order=True)
            for name in ("images", "texts")
        )
        self.tables = EmbeddingTables(images, texts)
        self.ours, self.paper, self.seeds = ours, paper, seeds
        self.aggregated = ours.model_copy(update={"gaussian": None, "hubness": None})
        self.views = self.tables.views(ours.max_views)
        self.texts = catalog_texts(self.tables, self.views, ours.max_views)
        self.teachers, _ = teacher_table(self.tables, ours.max_views)
        self.photos, _ = training_photos(self.tables, self.views)
        self.queries = {"image": _asked(images, "item_id", role), "text": _asked(texts, "text_id", role)}
        self._models: dict[tuple[str, int], AggregatorEnsemble] = {}

    def aggregate(self, settings: FingerprintSettings, seed: int, views: ViewSet | None = None) -> Rows:
        """(S, D) rows of an aggregator trained with these settings; of all SKUs by default."""
        key = (settings.aggregator.model_dump_json() + settings.training.model_dump_json(), seed)
        if key not in self._models:
            data = fingerprint_data(self.tables, self.teachers, settings.max_views)
            with TemporaryDirectory() as scratch:
                trained = train_aggregator(data, settings, seed, CPU, Path(scratch), lambda line: None)
            self._models[key] = trained[0]
        return fingerprints(self._models[key], views or self.views, CPU)

    def full(
        self,
        aggregated: Rows,
        views: ViewSet,
        photos: Queries,
        texts: Rows,
        settings: FingerprintSettings | None = None,
    ) -> Vectors:
        """The fingerprints of these settings, the preset's by default, biases and all."""
        known, settings = None, settings or self.ours
        if settings.gaussian:
            data = fingerprint_data(self.tables, self.teachers, settings.max_views)
            known = fit_gaussian(data.views, data.image_queries, settings.gaussian)
        return Vectors.of(*join_parts(aggregated, known, views, photos, texts, settings))

    def fingerprint(self, seed: int, settings: FingerprintSettings | None = None) -> Vectors:
        aggregated = self.aggregate(self.aggregated, seed)
        return self.full(aggregated, self.views, self.photos, self.texts, settings)

    def by_views(self, seed: int, views: ViewSet | None = None) -> Vectors:
        """Fingerprints that know no photos and no texts; of all views by default."""
        shown, none = views or self.views, Queries(self.photos.embeddings[:0], self.photos.truth[:0])
        return self.full(self.aggregate(self.aggregated, seed, shown), shown, none, np.zeros_like(self.texts))

    def by_seed(self, make: Callable[[int], Vectors]) -> list[Vectors]:
        return [make(seed) for seed in range(self.seeds)]

    def scores(self, galleries: list[Vectors], kept: NDArray[np.bool_] | None = None) -> Scores:
        """Metrics by query, averaged over the galleries of one way's seeds.

        Args:
            kept: (S,) SKUs whose queries are asked; all by default.
        """
        names, splits = np.array(self.views.sku_ids), np.array(self.views.splits)
        queries = {
            kind: asked if kept is None else _of_skus(asked, set(names[kept].tolist()))
            for kind, asked in self.queries.items()
        }
        models = [
            Model(
                f"seed{number}",
                queries,
                Gallery(names[v.owner].tolist(), splits[v.owner].tolist(), v.rows, v.biases),
            )
            for number, v in enumerate(galleries)
        ]
        judged = evaluate(models, [], resamples=1).settings
        found: Scores = {}
        for setting in SETTING_SPLITS:
            for kind in MODALITIES:
                result = judged[setting][kind]
                runs = [model.per_query for model in result.models.values()]
                if runs:
                    values = {m: np.mean([run[m] for run in runs], axis=0) for m in ("recall@1", "mrr")}
                    found[setting, kind] = {**values, "sku": np.array(result.sku_ids)}
        return found


def _asked(table: pl.DataFrame, name: str, role: str) -> QuerySet:
    """The queries of `role`, as the protocol takes them."""
    chosen = table.filter(pl.col("role") == role).with_columns(role=pl.lit(EVALUATION))
    return evaluation_queries(chosen.rename({name: "query_id"}))


def _of_skus(queries: QuerySet, skus: set[str]) -> QuerySet:
    kept = [row for row, sku in enumerate(queries.sku_ids) if sku in skus]
    return QuerySet(
        [queries.query_ids[row] for row in kept],
        [queries.sku_ids[row] for row in kept],
        [queries.splits[row] for row in kept],
        queries.embeddings[kept],
    )


def compare(ways: dict[str, Scores], against: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row for each way, setting and modality, with its differences from the ways `against`."""
    rows = []
    for name, scores in ways.items():
        for (setting, kind), values in scores.items():
            row: dict[str, Any] = {"way": name, "setting": setting, "queries": kind}
            row |= {"count": len(values["sku"]), "r1": values["recall@1"].mean(), "mrr": values["mrr"].mean()}
            for other in against:
                base = ways[other][setting, kind]
                gain = paired_bootstrap(values["recall@1"], base["recall@1"], values["sku"])
                row[f"r1 - {other}"] = [gain.delta, gain.low, gain.high]
            rows.append(row)
    return rows


def pooling(bench: Bench) -> list[dict[str, Any]]:
    views = gather_views(bench.tables.images, bench.ours.max_views)
    teachers = pl.DataFrame({"sku_id": views.sku_ids}).join(
        bench.teachers, on="sku_id", how="left", maintain_order="left"
    )
    mean, of_texts = mean_sku(views), bench.ours.catalog_text_weight * bench.texts
    wordless = bench.ours.model_copy(update={"catalog_text_weight": 0.0})
    made = {
        "mean": [Vectors.of(mean)],
        "mean with texts": [Vectors.of(unit(mean + of_texts))],
        "trimmed mean": [Vectors.of(trimmed_mean(views))],
        "medoid": [Vectors.of(medoid(views))],
        "best shot": [Vectors.of(embedding_rows(teachers, "image_teacher"))],
        "attention pooling": bench.by_seed(lambda seed: Vectors.of(attention_rows(bench, seed))),
        "paper": bench.by_seed(lambda seed: Vectors.of(bench.aggregate(bench.paper, seed))),
        "residual Q-Former": bench.by_seed(lambda seed: Vectors.of(bench.aggregate(bench.aggregated, seed))),
        "fingerprint, views alone": bench.by_seed(bench.by_views),
        "fingerprint, no texts": bench.by_seed(lambda seed: bench.fingerprint(seed, wordless)),
        "fingerprint": bench.by_seed(bench.fingerprint),
    }
    return compare({name: bench.scores(vectors) for name, vectors in made.items()}, ("mean", "paper"))


class AttentionPooling(nn.Module):
    """Views weighed by the softmax of their product with one learnt vector, which starts at 0: the mean."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.zeros(dimension))

    def forward(self, views: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = (views @ self.direction).masked_fill(~mask, -torch.inf).softmax(dim=1)
        return nn.functional.normalize((weights[..., None] * views).sum(dim=1), dim=-1)


def attention_rows(bench: Bench, seed: int, steps: int = 200) -> Rows:
    """(S, D) rows of attention pooling trained by cross-entropy over all training SKUs."""
    data = fingerprint_data(bench.tables, bench.teachers, bench.ours.max_views)
    generator = torch.Generator().manual_seed(seed)
    pool = AttentionPooling(data.views.views.shape[2])
    optimizer = torch.optim.Adam(pool.parameters(), 0.03)
    views, mask = torch.from_numpy(data.views.views), torch.from_numpy(data.views.mask)
    queries, truth = (torch.from_numpy(a) for a in (data.image_queries.embeddings, data.image_queries.truth))
    temperature = bench.ours.training.classification_temperature
    for _ in range(steps):
        chosen = torch.randperm(len(truth), generator=generator)[:512]
        loss = classification(queries[chosen], pool(views, mask), truth[chosen], temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        made = pool(torch.from_numpy(bench.views.views), torch.from_numpy(bench.views.mask))
    rows: Rows = made.numpy()
    return rows


def losses(bench: Bench) -> list[dict[str, Any]]:
    """One aggregator, so that the terms are not hidden by an ensemble."""
    single = bench.aggregated.aggregator.model_copy(update={"members": 1})
    arms: dict[str, dict[str, float]] = {"all": {}}
    for term in TERMS:
        arms[f"only {term}"] = {other: 0.0 for other in TERMS if other != term}
        arms[f"no {term}"] = {term: 0.0}
    ways = {"mean": bench.scores([Vectors.of(mean_sku(bench.views))])}
    for name, weights in arms.items():
        training = bench.aggregated.training.model_copy(update=weights)
        settings = bench.aggregated.model_copy(update={"aggregator": single, "training": training})
        ways[name] = bench.scores(
            bench.by_seed(lambda seed, settings=settings: Vectors.of(bench.aggregate(settings, seed)))  # type: ignore[misc]
        )
    return compare(ways, ("mean", "all"))


def first_views(views: ViewSet, count: int) -> ViewSet:
    """Each SKU with its first `count` catalog views."""
    place = np.cumsum(views.mask & ~views.generated, axis=1)
    kept = views.mask & ~views.generated & (place <= count)
    made = np.where(kept[:, :, None], views.views, 0).astype(np.float32)
    return replace(views, views=made, mask=kept, generated=np.zeros_like(kept))


def views_curve(bench: Bench) -> list[dict[str, Any]]:
    """The queries of SKUs that have five views or more, whose galleries hold the first 1, 2, 3, 5, all."""
    enough, counts = bench.views.counts >= 5, (1, 2, 3, 5, bench.ours.max_views)
    rows = []
    for count in counts:
        shown = first_views(bench.views, count)
        ways = {"mean": bench.scores([Vectors.of(mean_sku(shown))], enough)}
        made = bench.by_seed(lambda seed, shown=shown: bench.by_views(seed, shown))  # type: ignore[misc]
        ways["fingerprint, views alone"] = bench.scores(made, enough)
        rows += [{"views": count, **row} for row in compare(ways, ("mean",))]
    return rows


def weights(bench: Bench) -> list[dict[str, Any]]:
    """What is joined after training; it asks for a Gaussian part."""
    if bench.ours.gaussian is None:
        raise UserError("the table weights is of the Gaussian part, which these settings leave out")
    arms = {"ours": bench.ours}
    for value in (0.0, 0.1, 0.2, 0.3):
        arms[f"catalog_text_weight {value}"] = bench.ours.model_copy(update={"catalog_text_weight": value})
    for name, values in GAUSSIAN_WEIGHTS.items():
        for value in values:
            gaussian = bench.ours.gaussian.model_copy(update={name: value})
            arms[f"{name} {value}"] = bench.ours.model_copy(update={"gaussian": gaussian})
    ways = {
        name: bench.scores(bench.by_seed(lambda seed, arm=arm: bench.fingerprint(seed, arm)))  # type: ignore[misc]
        for name, arm in arms.items()
    }
    return compare(ways, ("ours",))


def hubness(bench: Bench) -> list[dict[str, Any]]:
    plain = bench.by_seed(bench.fingerprint)
    ways, skews = {}, {}
    asked = bench.queries["image"].embeddings
    for strength in (0.0, 0.1, 0.25, 0.5, 1.0):
        settings = HubnessSettings(strength=strength)
        biases = [_held_back(bench, vectors, settings) for vectors in plain]
        name = f"strength {strength}"
        ways[name] = bench.scores([replace(v, biases=b) for v, b in zip(plain, biases, strict=True)])
        scored = [asked @ v.rows.T + b for v, b in zip(plain, biases, strict=True)]
        skews[name] = np.mean([occurrence_skew(scores) for scores in scored])
    return [{**row, "skew": float(skews[row["way"]])} for row in compare(ways, ("strength 0.0",))]


def _held_back(bench: Bench, vectors: Vectors, settings: HubnessSettings) -> Rows:
    before = np.zeros(len(vectors.rows), np.float32) if vectors.biases is None else vectors.biases
    return query_bank_biases(bench.photos.embeddings, vectors.rows, before, settings)


def many(bench: Bench) -> list[dict[str, Any]]:
    """All views find ten SKUs for sure only among ten times the most views of one."""
    views = bench.views
    catalog = views.mask & ~views.generated
    owner, place = np.nonzero(catalog)
    every = Vectors(views.views[owner, place], owner)
    one = bench.by_seed(bench.fingerprint)
    ways = {"all views": bench.scores([every]), "mean": bench.scores([Vectors.of(mean_sku(views))])}
    ways["fingerprint"] = bench.scores(one)
    cost = {
        "all views": _cost(every, 10 * int(views.counts.max()), bench),
        "mean": _cost(Vectors.of(mean_sku(views)), 10, bench),
        "fingerprint": _cost(one[0], 10, bench),
    }
    return [{**row, **cost[row["way"]]} for row in compare(ways, ("all views",))]


def _cost(vectors: Vectors, k: int, bench: Bench) -> dict[str, float]:
    """Vectors, bytes of float32, and median milliseconds of one search on this machine."""
    ids = pl.DataFrame({"sku_id": [str(row) for row in range(len(vectors.rows))]})
    index = FingerprintIndex(vectors.rows, ids)
    if vectors.biases is not None:
        index = index.with_biases(vectors.biases)
    index.warm_up()
    taken = []
    for query in bench.queries["image"].embeddings[:200]:
        begin = time.perf_counter()
        index.best(query, k)
        taken.append((time.perf_counter() - begin) * 1000)
    return {"vectors": len(vectors.rows), "bytes": vectors.rows.nbytes, "p50_ms": float(np.median(taken))}


def new(bench: Bench) -> list[dict[str, Any]]:
    """The encoder has seen these SKUs; aggregator and Gaussian model have not, until trained again."""
    names = bench.views.sku_ids
    fresh = np.array([stable_fraction(name, "new-sku") < NEW_SHARE for name in names])
    fresh &= np.array(bench.views.splits) == "train"
    images, texts = (
        table.filter(~pl.col("sku_id").is_in(np.array(names)[fresh].tolist()))
        for table in (bench.tables.images, bench.tables.texts)
    )
    before = Bench.__new__(Bench)
    before.__dict__.update(bench.__dict__)
    before.tables, before._models = EmbeddingTables(images, texts), {}
    without = ~fresh[bench.photos.truth]
    known = Queries(bench.photos.embeddings[without], bench.photos.truth[without])
    rows = []
    for count in (1, 2, 3, bench.ours.max_views):
        # Only the new ones are short of views.
        short = first_views(bench.views, count)
        mask = np.where(fresh[:, None], short.mask, bench.views.mask)
        shown = replace(bench.views, mask=mask, views=np.where(mask[:, :, None], bench.views.views, 0))
        untrained = [before.aggregate(before.aggregated, seed, shown) for seed in range(bench.seeds)]
        trained = [bench.aggregate(bench.aggregated, seed, shown) for seed in range(bench.seeds)]
        of_new = catalog_texts(bench.tables, bench.views, count)
        all_texts = np.where(fresh[:, None], of_new, bench.texts)
        made = {
            "new": [before.full(made_rows, shown, known, all_texts) for made_rows in untrained],
            "new, with photos": [
                before.full(made_rows, shown, bench.photos, all_texts) for made_rows in untrained
            ],
            "trained again": [bench.full(made_rows, shown, bench.photos, all_texts) for made_rows in trained],
        }
        ways = {"mean": bench.scores([Vectors.of(mean_sku(shown))], fresh)}
        ways |= {name: bench.scores(vectors, fresh) for name, vectors in made.items()}
        rows += [{"views": count, **row} for row in compare(ways, ("mean", "new"))]
    return rows


MEASURES: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "pooling": pooling, "losses": losses, "views": views_curve, "weights": weights, "hubness": hubness,
    "many": many, "new": new,
}  # fmt: skip


def render_and_train(preset: Preset, seed: int, data: Path) -> None:
    """Materializes catalogue, encoder and fingerprints of another rendering, where they are not there."""
    preset = another_rendering(preset, seed, data)
    preset = preset.model_copy(update={"views": None, "policy": None, "extractors": ExtractorsSettings()})
    with dg.DagsterInstance.ephemeral() as instance:
        materialize_graph(preset, instance, lambda line: click.echo(line, err=True))


def _of_epochs(settings: FingerprintSettings, epochs: int | None) -> FingerprintSettings:
    if epochs is None:
        return settings
    training = settings.training.model_copy(update={"epochs": epochs})
    return settings.model_copy(update={"training": training})


def show(rows: list[dict[str, Any]]) -> None:
    """A Markdown table of R@1, one row a way, each figure with its differences; intervals are in the JSON."""
    if not rows:
        click.echo("nothing to compare: no query is asked of such SKUs here")
        return
    differences = [column for column in rows[0] if column.startswith("r1 - ")]
    about = [column for column in rows[0] if column not in (*MEASURED, *differences)]
    asked = list(dict.fromkeys((row["setting"], row["queries"]) for row in rows))
    by_way: dict[tuple[Any, ...], dict[tuple[str, str], str]] = {}
    for row in rows:
        found = [f"{row['r1']:.3f}", *(_difference(row[column]) for column in differences)]
        ways = by_way.setdefault(tuple(row[column] for column in about), {})
        ways[row["setting"], row["queries"]] = " ".join(found)
    told = ", ".join(column.removeprefix("r1 - ") for column in differences)
    click.echo(f"R@1, and its difference from {told}; * its 95% interval leaves out 0\n")
    header = about + [f"{setting}, {queries}" for setting, queries in asked]
    click.echo("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for known, cells in by_way.items():
        values = [*map(_cell, known), *(cells.get(place, "") for place in asked)]
        click.echo("| " + " | ".join(values) + " |")


def _difference(gain: list[float]) -> str:
    return f"{gain[0]:+.3f}{'*' if gain[1] * gain[2] > 0 else ''}"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
@click.option(
    "--preset", "name", default="demo", show_default=True, help="Whose fingerprint settings are ours."
)
@click.option("--render-seed", type=int, help="First materialize another rendering of the preset at --data.")
@click.option("--tables", multiple=True, type=click.Choice(TABLES), default=TABLES, help="May be repeated.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", type=int, help="Of every training; the settings' own by default.")
@click.option(
    "--role", type=click.Choice(["evaluation", "development"]), default=EVALUATION, show_default=True
)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    data: Path,
    name: str,
    render_seed: int | None,
    tables: tuple[str, ...],
    seeds: int,
    epochs: int | None,
    role: str,
    json_path: Path | None,
) -> None:
    """Compares ways to make one vector per SKU."""
    results = {}
    try:
        preset = load_preset(name)
        if render_seed is not None:
            render_and_train(preset, render_seed, data)
        ours = _of_epochs(preset.fingerprint, epochs)
        bench = Bench(data, ours, _of_epochs(PAPER, epochs), seeds, role)
        for table in tables:
            results[table] = MEASURES[table](bench)
            click.echo(f"\n{table} ({role} queries, {seeds} seeds)\n")
            show(results[table])
            if json_path:
                json_path.write_text(json.dumps(results, indent=1, default=float) + "\n")
    except UserError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
