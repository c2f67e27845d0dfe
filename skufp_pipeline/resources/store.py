"""The artifact store as a Dagster resource."""

import dagster as dg

from skufp_pipeline.store import ArtifactStore


class ArtifactStoreResource(dg.ConfigurableResource):
    """The store that all assets use; `root` is the data root, a local path or an fsspec URL."""

    root: str

    def get(self) -> ArtifactStore:
        return ArtifactStore(self.root)
