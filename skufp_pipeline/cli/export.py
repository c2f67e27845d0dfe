"""`skufp export`: results in the formats of other programs."""

import os
from pathlib import Path
from typing import Any

import click

from skufp_pipeline.artifacts.places import IMAGE_TEXT, RAW_DATASET, SKU_CROPS
from skufp_pipeline.cli.options import index_option, preset_option, say, user_errors
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore


@click.group()
def export() -> None:
    """Export results in the formats of other programs."""


@export.command("df2-jsonl")
@preset_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@user_errors
def export_df2(name: str | None, out: Path) -> None:
    """Write the crop tree, *_sku_metadata.json and *_image_text.jsonl, as the reference pipeline does."""
    from skufp_pipeline.datasets.export import export_df2_jsonl

    preset = load_preset(name)
    store = ArtifactStore(preset.data_root)
    root = preset.dataset.root(RAW_DATASET.read(store).path)

    def shards() -> Any:
        for shard in range(preset.shards):
            yield IMAGE_TEXT.read(store, shard).images(), SKU_CROPS.read(store, shard).path

    counts = export_df2_jsonl(shards(), out, str(root))
    click.echo(f"{out}: " + ", ".join(f"{count} {split} rows" for split, count in counts.items()))


@export.command("fingerprints")
@preset_option
@click.option(
    "--format", "file_format", required=True, type=click.Choice(["parquet", "numpy", "faiss", "qdrant"])
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@index_option
@user_errors
def export_index(name: str | None, file_format: str, out: Path, index: str | None) -> None:
    """Write all fingerprints with their SKU ids; faiss and qdrant need the extra `export`."""
    from skufp_pipeline.search.bundle import current_index
    from skufp_pipeline.search.export import export_fingerprints

    preset = load_preset(name)
    _, found = current_index(ArtifactStore(preset.data_root), index or preset.usual_index)
    written = export_fingerprints(found, file_format, out)
    click.echo(f"{out}: {len(found)} fingerprints of {found.dimension} dimensions in {', '.join(written)}")


@export.command("qdrant")
@preset_option
@click.option("--url", help="A Qdrant server, such as http://localhost:6333; its key in $QDRANT_API_KEY.")
@click.option(
    "--path", type=click.Path(path_type=Path), help="The folder of a local Qdrant, instead of --url."
)
@click.option("--alias", help="The name that searches use; by default the index's.")
@click.option("--shards", type=click.IntRange(min=1), default=1, show_default=True, help="Of a collection.")
@click.option("--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Of each shard.")
@index_option
@user_errors
def export_qdrant(
    name: str | None,
    url: str | None,
    path: Path | None,
    alias: str | None,
    shards: int,
    replicas: int,
    index: str | None,
) -> None:
    """Put the index in use into Qdrant: a collection of its own, then the alias switched to it."""
    place = path if url is None else url
    if place is None or (url is not None and path is not None):
        raise UserError("give one of --url and --path: the Qdrant to write to")
    from skufp_pipeline.search.bundle import current_index
    from skufp_pipeline.search.qdrant import connect, publish
    from skufp_pipeline.show import progress

    preset = load_preset(name)
    asked = index or preset.usual_index
    artifact, found = current_index(ArtifactStore(preset.data_root), asked)
    version, alias = artifact.manifest.recipe.digest, alias or asked
    with connect(place, os.environ.get("QDRANT_API_KEY")) as client:
        deleted = publish(
            client, found, alias, version, shards=shards, replicas=replicas, progress=progress(say, "points")
        )
    click.echo(f"{place}: {alias} is {alias}-{version}, {len(found)} points; {len(deleted)} older deleted")
