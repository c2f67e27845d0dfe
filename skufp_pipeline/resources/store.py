"""The artifact store as a Dagster resource."""

import dagster as dg

from skufp_pipeline.store import ArtifactStore


class ArtifactStoreResource(dg.ConfigurableResource):
    """Where every asset reads and writes.

    Attributes:
        root: the data root, a local path or an fsspec URL.
    """

    root: str

    def get(self) -> ArtifactStore:
        return ArtifactStore(self.root)
