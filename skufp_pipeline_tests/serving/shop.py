"""A small shop for tests of the service: fourteen SKUs with words, verdicts and pictures, in a store."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from fastapi.testclient import TestClient

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.presets import Preset, load_preset
from skufp_pipeline.query.confidence import Logistic, write_confidence
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.lexical import LexicalIndex
from skufp_pipeline.search.pictures import write_pictures
from skufp_pipeline.search.settings import LexicalSettings
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.app import create_app
from skufp_pipeline.serving.keys import hash_of
from skufp_pipeline.serving.settings import ServingSettings
from skufp_pipeline.store import ArtifactStore, Recipe
from skufp_pipeline_tests.encoders.examples import picture
from skufp_pipeline_tests.query.examples import calibrated
from skufp_pipeline_tests.search.conftest import publish_encoder

SKUS = [f"s{number}" for number in range(14)]
ADMIN, SHOPPER, EXPIRED = "admin-key", "shopper-key", "expired-key"
# No test waits for a rate or is refused because the machine is busy.
PATIENT = {"rate": "10000/second", "upload_rate": "10000/second", "watch_seconds": 0.05, "queue_seconds": 60}
ELSEWHERE = ("192.0.2.7", 50_000)
SURE = calibrated(
    Logistic(features=("top", "margin"), means=(0.5, 0.0), scales=(1, 1), weights=(3, 5), intercept=0),
    match=0.8,
    reject_below=0.4,
)


def shop_index(encoder: Encoder) -> FingerprintIndex:
    """s0 is the red one, s1 is near it, the others are at all angles to it; each has a bias of its own."""
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((len(SKUS), encoder.dimension))
    rows[0] = encoder.embed_images([picture("red")])[0]
    rows[1] = rows[0] + 0.2 * rows[1] / np.linalg.norm(rows[1])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    skus = pl.DataFrame(
        {
            "sku_id": SKUS,
            "category_name": "x",
            "title": [f"Thing {number}" for number in range(len(SKUS))],
            "image": "red.png",
        }
    )
    index = FingerprintIndex(rows.astype(np.float32), skus)
    return index.with_biases(generator.uniform(-0.02, 0.02, len(SKUS)))


def photo_of(colour: str) -> bytes:
    buffer = io.BytesIO()
    picture(colour).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Shop:
    """A store with an index, and what serves it."""

    folder: Path
    store: ArtifactStore
    index: FingerprintIndex
    clip: str

    @classmethod
    def open(cls, folder: Path, encoder: Encoder) -> "Shop":
        """Makes a shop with the version `one`, and the file of keys."""
        store = ArtifactStore(folder / "root")
        (folder / "red.png").write_bytes(photo_of("red"))
        keys = [
            {"name": "ann", "role": "admin", "sha256": hash_of(ADMIN)},
            {"name": "till", "role": "shopper", "sha256": hash_of(SHOPPER)},
            {"name": "old", "role": "admin", "sha256": hash_of(EXPIRED), "expires": "2020-01-01T00:00:00Z"},
        ]
        (folder / "keys.yaml").write_text(yaml.safe_dump(keys))
        shop = cls(folder, store, shop_index(encoder), publish_encoder(store, encoder))
        shop.publish("one")
        return shop

    def publish(self, version: str) -> None:
        def build(directory: Path) -> dict[str, Any]:
            self.index.save(directory)
            LexicalIndex.build(self.index.skus, LexicalSettings()).save(directory)
            write_confidence(directory, SURE)
            images = ["red.png"] * len(SKUS)
            write_pictures(directory, SKUS, images, 32, lambda name: self.folder / name)
            return {"skus": len(self.index)}

        versions = Versions(self.store)
        recipe = Recipe(code_version=version, inputs={"clip_checkpoint": self.clip})
        self.store.produce(versions.key(version), recipe, build)
        versions.publish(version, kept=5)

    def preset(self, **serving: Any) -> Preset:
        """The ci preset over this store."""
        settings = {**PATIENT, **serving}
        changes = {
            "data_root": self.store.root,
            "query_encoder": QueryEncoderSettings(engine="pytorch"),
            "serving": ServingSettings(**settings),
        }
        return load_preset("ci").model_copy(update=changes)

    @contextmanager
    def served(
        self, preset: Preset | None = None, ready: bool = True, **serving: Any
    ) -> Iterator[TestClient]:
        """A client on another machine, once the service is ready."""
        app = create_app(preset or self.preset(keys=str(self.folder / "keys.yaml"), **serving), self.store)
        with TestClient(app, raise_server_exceptions=False, client=ELSEWHERE) as client:
            end = time.monotonic() + 60
            while ready and client.get("/readyz").status_code != 200:
                assert time.monotonic() < end, client.get("/readyz").text
                time.sleep(0.05)
            yield client


def until(condition: Any, seconds: float = 60) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def as_who(key: str | None) -> dict[str, str]:
    """The headers of a request with a key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def upload(client: TestClient, content: bytes, **headers: str) -> str:
    """The id of an uploaded photo."""
    answer = client.post("/v1/photos", files={"photo": content}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["photo_id"])
