"""Products over HTTP: into the drop folder, and from there through the graph."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from PIL import ExifTags, Image

from skufp_pipeline.artifacts.places import ANNOTATIONS
from skufp_pipeline.datasets.catalogue import folder_listing
from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.presets import AutomationSettings, Preset
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline_tests.assets.test_catalog import catalogue_of_mine, manifest_preset
from skufp_pipeline_tests.graphs import run_asset
from skufp_pipeline_tests.search.conftest import encoder
from skufp_pipeline_tests.serving.shop import ADMIN, Shop, as_who, photo_of

__all__ = ["encoder"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Shop:
    return Shop.open(tmp_path_factory.mktemp("shop"), encoder)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return catalogue_of_mine(tmp_path / "mine")


@pytest.fixture(scope="module")
def watched(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """A client of the shop with a manifest in its drop folder, and the folder of what is added."""
    manifest = catalogue_of_mine(tmp_path_factory.mktemp("watched"))
    with shop.served(with_catalogue(shop, manifest, manifest.parent)) as client:
        yield client, manifest.parent / "manifest.added"


def with_catalogue(shop: Shop, manifest: Path, drop: Path | None) -> Preset:
    """The shop with this manifest as its catalogue."""
    changes = {
        "dataset": manifest_preset(manifest, Path("unused")).dataset,
        "automation": AutomationSettings(drop_folder=None if drop is None else str(drop)),
    }
    return shop.preset(keys=str(shop.folder / "keys.yaml")).model_copy(update=changes)


def put(client: TestClient, row: Any, *pictures: bytes, name: str = "../../evil.php") -> Any:
    text = row if isinstance(row, bytes) else json.dumps(row).encode()
    files = [("row", ("row", text))] + [("picture", (name, picture)) for picture in pictures]
    return client.put("/v1/products", files=files, headers=as_who(ADMIN))


def phone_photo() -> bytes:
    """A JPEG that lies on its side and says where it was taken."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_a_product_that_is_put_comes_out_of_the_graph(shop: Shop, manifest: Path, tmp_path: Path) -> None:
    preset = manifest_preset(manifest, tmp_path / "data")
    for asset in ("raw_dataset", "annotations"):
        assert run_asset(preset, asset).success
    store = ArtifactStore(preset.data_root)
    before, listed = ANNOTATIONS.read(store).items(), folder_listing(manifest.parent)["digest"]
    with shop.served(with_catalogue(shop, manifest, manifest.parent)) as client:
        row = {"sku_id": "scarf", "title": "Red scarf", "price": 12.5}
        answer = put(client, row, phone_photo(), photo_of("lime"))
        assert (answer.status_code, answer.json()["sku_id"]) == (202, "scarf")
        assert put(client, row, phone_photo(), photo_of("lime")).json() == answer.json()
    folder = manifest.parent / "manifest.added"
    assert {path.name for path in folder.iterdir()} == {answer.json()["row"], *answer.json()["pictures"]}
    assert folder_listing(manifest.parent)["digest"] != listed  # which the drop folder's sensor waits for
    for asset in ("raw_dataset", "annotations"):
        assert run_asset(preset, asset).success
    items = ANNOTATIONS.read(store).items()
    new = items.filter(pl.col("sku_id") == "scarf")
    assert (new.height, new["title"].unique().to_list()) == (2, ["Red scarf"])
    assert sorted(new["bbox"].to_list()[0]) == [0, 0, 40, 60]  # upright
    kept = items.filter(pl.col("sku_id") != "scarf").drop("shard")
    assert kept.equals(before.drop("shard"))


def test_a_stored_picture_is_upright_and_says_nothing_of_where_it_was_taken(
    watched: tuple[TestClient, Path],
) -> None:
    client, folder = watched
    (name,) = put(client, {"sku_id": "scarf"}, phone_photo()).json()["pictures"]
    with Image.open(folder / name) as stored:
        assert (stored.format, stored.size, len(stored.getexif())) == ("JPEG", (40, 60), 0)


@pytest.mark.parametrize(
    ("row", "picture", "status", "told"),
    [
        (b"{", photo_of("red"), 422, "row is no JSON"),
        (b"[1]", photo_of("red"), 422, "row is no object"),
        (b'{"sku_id": NaN}', photo_of("red"), 422, "row is no JSON"),
        ({"sku_id": "x", "size": {"a": 1}}, photo_of("red"), 422, "size is no cell"),
        ({"title": "x"}, photo_of("red"), 422, "sku_id is empty"),
        ({"sku_id": "x", "split": "test"}, photo_of("red"), 422, "the row names split"),
        ({"sku_id": "x"}, b"<html>", 415, "it is a web page"),
        ({"sku_id": "x"}, photo_of("red")[:-30], 422, "can't be read as an image"),
    ],
    ids=["broken", "a list", "no number", "no cell", "no id", "a split", "a page", "cut short"],
)
def test_what_is_no_product_is_refused_and_leaves_nothing(
    watched: tuple[TestClient, Path], row: Any, picture: bytes, status: int, told: str
) -> None:
    client, folder = watched
    before = sorted(folder.glob("*"))
    answer = put(client, row, picture)
    assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text
    assert sorted(folder.glob("*")) == before


def test_a_product_that_nothing_would_read_is_refused(shop: Shop, manifest: Path, tmp_path: Path) -> None:
    for drop, told in (
        (None, "names no automation.drop_folder"),
        (tmp_path / "elsewhere", "does not hold the manifest"),
    ):
        with shop.served(with_catalogue(shop, manifest, drop)) as client:
            answer = put(client, {"sku_id": "x"}, photo_of("red"))
            assert (answer.status_code, told in answer.json()["detail"]) == (409, True)
    with shop.served() as client:
        answer = put(client, {"sku_id": "x"}, photo_of("red"))
        assert (answer.status_code, answer.json()["detail"]) == (
            409,
            "The catalogue is no manifest but of source 'sample'.",
        )


def test_a_product_has_one_to_eight_pictures(watched: tuple[TestClient, Path]) -> None:
    client, _ = watched
    assert "1 to 8 parts named 'picture'" in put(client, {"sku_id": "x"}).json()["detail"]
    assert put(client, {"sku_id": "x"}, *[photo_of("red")] * 9).status_code == 422
