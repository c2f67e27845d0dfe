"""The report by Street2Shop's own rule; in the graph only where the data set is Street2Shop."""

from pathlib import Path
from typing import Any

import dagster as dg

from skufp_pipeline.artifacts.kinds import Embeddings, Street2ShopReport
from skufp_pipeline.artifacts.places import (
    ANNOTATIONS,
    CLIP_EMBEDDINGS,
    FINGERPRINTS,
    FROZEN_CLIP_EMBEDDINGS,
    STREET2SHOP_REPORT,
    extractor_embeddings,
)
from skufp_pipeline.artifacts.stored import Stored
from skufp_pipeline.checks.street2shop import street_photos_disjoint
from skufp_pipeline.compute import Needs
from skufp_pipeline.datasets.sources import Street2ShopDataset
from skufp_pipeline.presets import Preset
from skufp_pipeline.steps import Group, Run, Step


def group(preset: Preset) -> Group:
    """The one step of this group; none for another data set."""
    if not isinstance(preset.dataset, Street2ShopDataset):
        return Group.of("evaluation", preset, [])
    report = Step(
        stored=STREET2SHOP_REPORT,
        make=street2shop_report,
        stage="build_index",
        weekly=True,
        kinds={"numpy", "parquet"},
        code=("skufp_pipeline.evaluation.street2shop",),
        config={"resamples": preset.evaluation.resamples, "seed": preset.seed},
        needs=Needs(preset.compute.cores, preset.compute.memory_gib),
        deps=(ANNOTATIONS, FINGERPRINTS, *image_level(preset).values()),
    )
    return Group.of("evaluation", preset, [report], lambda steps: [street_photos_disjoint()])


def image_level(preset: Preset) -> dict[str, Stored[Embeddings]]:
    """The embeddings of the towers whose every catalogue photo is searched, by the name in the report."""
    frozen = [FROZEN_CLIP_EMBEDDINGS] if preset.encoder.is_pretrained else []
    own = [extractor_embeddings(name) for name in preset.extractors.wanted()]
    return {stored.name.removesuffix("_embeddings"): stored for stored in [CLIP_EMBEDDINGS, *frozen, *own]}


def street2shop_report(run: Run) -> dg.MaterializeResult:
    """Top-1/3/5/10/20 accuracy by Street2Shop's own rule: a cut street photo asks its category's whole
    retrieval set; of every tower on all catalogue photos, and of the fingerprints."""
    from skufp_pipeline.evaluation import street2shop
    from skufp_pipeline.fingerprint.tables import EmbeddingTables

    annotations, fingerprints = run.read(ANNOTATIONS), run.read(FINGERPRINTS)
    embeddings = {name: run.read_all(stored) for name, stored in image_level(run.preset).items()}

    def build(directory: Path) -> dict[str, Any]:
        category_of = dict(annotations.items().select("sku_id", "category_name").unique().iter_rows())
        tables = {
            name: EmbeddingTables.images_of(shards)
            for name, shards in embeddings.items()
            if not shards[0].off
        }
        models = [street2shop.image_model(name, images) for name, images in tables.items()]
        models.append(street2shop.fingerprint_model(tables["clip"], fingerprints.table()))
        draws = run.preset.evaluation.resamples, run.preset.seed
        accuracy = street2shop.judge_street2shop(models, category_of, *draws)
        Street2ShopReport.write(directory, accuracy)
        return {"top_20_of_test_pairs": street2shop.headline(accuracy)}

    result = run.produce(STREET2SHOP_REPORT, build)
    tables = street2shop.accuracy_tables(result.accuracy())
    return run.done(result, {"tables": dg.MetadataValue.md(tables)})
