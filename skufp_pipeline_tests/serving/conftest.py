"""A service of three SKUs of one colour each."""

from collections.abc import Iterator

import httpx
import pytest

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline_tests.search.conftest import encoder, index, store

from .running import publish, serving, tiny_preset

__all__ = ["encoder", "index", "store"]


@pytest.fixture
def tiny(store: ArtifactStore, index: FingerprintIndex, encoder: Encoder) -> ArtifactStore:
    """A store whose index of three SKUs is in use."""
    publish(store, index, encoder, "v1")
    return store


@pytest.fixture
def client(tiny: ArtifactStore) -> Iterator[httpx.Client]:
    with serving(tiny_preset(tiny)) as (client, _):
        yield client
