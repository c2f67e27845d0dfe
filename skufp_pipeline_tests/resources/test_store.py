"""The store as a resource: opened where an asset needs it."""

from pathlib import Path

import dagster as dg

from skufp_pipeline.resources.store import ArtifactStoreResource
from skufp_pipeline.store import Recipe


def test_an_asset_writes_below_the_resources_root(tmp_path: Path) -> None:
    @dg.asset
    def shirts(artifacts: ArtifactStoreResource) -> None:
        artifacts.get().produce("tables/shirts", Recipe(code_version="1"), lambda _: {"rows": 3})

    assert dg.materialize(
        [shirts], resources={"artifacts": ArtifactStoreResource(root=str(tmp_path))}
    ).success
    assert (tmp_path / "tables" / "shirts" / "manifest.json").is_file()
    assert ArtifactStoreResource(root=str(tmp_path)).get().read("tables/shirts").summary == {"rows": 3}
