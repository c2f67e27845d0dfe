"""`skufp search --explain`, on an index of three SKUs made by hand."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from skufp_pipeline.artifacts.places import LOOK_TWICE_CHECKPOINT
from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, PatchHead, TowerWithMap, maps_of
from skufp_pipeline.encoders.settings import LookTwiceSettings
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.patches import (
    LookTwiceFile,
    PatchIndex,
    ShownPictures,
    save_look_twice,
)
from skufp_pipeline.search.pictures import write_pictures
from skufp_pipeline.search.versions import CURRENT, Versions
from skufp_pipeline.store import ArtifactStore, Recipe
from skufp_pipeline_tests.encoders.examples import TIMM_VISION, noise, write_model
from skufp_pipeline_tests.search.conftest import publish_encoder

from ..graphs import SMALL, write_preset
from .asking import ask, refused

SKUS = ["ant", "bee", "cow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset `small.yaml`, its data root with an index that looks twice, and a photo of each SKU."""
    folder = tmp_path_factory.mktemp("explained")
    write_preset(folder, {**SMALL, "query_encoder": {"engine": "pytorch"}})
    store = ArtifactStore(folder / "data")
    vision = {**TIMM_VISION, "image_size": 64}
    encoder = create_encoder(write_model(folder / "tiny-asked.json", vision), torch.device("cpu"), seed=0)
    for number, sku_id in enumerate(SKUS):
        noise(number, (4, 6)).resize((64, 96), Image.Resampling.NEAREST).save(folder / f"{sku_id}.png")
    publish(store, encoder, folder)
    return folder


def publish(store: ArtifactStore, encoder: Encoder, folder: Path) -> None:
    """Puts an encoder, its patch head and an index of the photos of `folder` into the store."""
    head = PatchHead(PatchGrid.of(encoder, LookTwiceSettings()))
    pixels = torch.stack([encoder.preprocess(Image.open(folder / f"{sku_id}.png")) for sku_id in SKUS])
    head.start(torch.from_numpy(maps_of(TowerWithMap(encoder, head.grid), pixels).astype(np.float32)))
    seeing = PatchEncoder(encoder, head)
    named = pl.DataFrame({"sku_id": SKUS, "category_name": "animal", "title": None, "image": "x.png"})
    patches = pl.Series("patches", seeing.view_patches(pixels).reshape(3, -1)).cast(
        pl.Array(pl.Int8, head.grid.patches * head.grid.dimension)
    )
    views = pl.DataFrame({"sku_id": SKUS, "item_id": SKUS}).with_columns(patches)
    images = views.select(
        "sku_id", "item_id", image=pl.format("{}.png", "sku_id"), is_shown=pl.lit(value=True)
    )

    def build_head(directory: Path) -> dict[str, int]:
        head.save(directory)
        return {}

    def build_index(directory: Path) -> dict[str, int]:
        index = FingerprintIndex(encoder.embed_pixels(pixels), named)
        index.save(directory)
        grid = head.grid
        shown = ShownPictures(images, 64, lambda path: folder / path)
        PatchIndex.write(directory, named["sku_id"], [views], (1, grid.patches, grid.dimension), shown)
        save_look_twice(directory, LookTwiceFile(top=2, weight=1.0, chosen_on=None))
        write_pictures(directory, SKUS, images["image"].to_list(), 64, lambda path: folder / path)
        return {"skus": len(index)}

    made = store.produce(LOOK_TWICE_CHECKPOINT.key, Recipe(code_version="1"), build_head)
    made_with = {"clip_checkpoint": publish_encoder(store, encoder), LOOK_TWICE_CHECKPOINT.name: made.digest}
    versions = Versions(store)
    store.produce(versions.key("one"), Recipe(code_version="1", inputs=made_with), build_index)
    store.write_pointer(versions.key(CURRENT), "one")


def asked(folder: Path, *words: str | Path) -> tuple[str | Path, ...]:
    return "search", "--preset", folder / "small.yaml", *words


def test_the_first_answer_is_explained_in_a_picture(folder: Path, tmp_path: Path) -> None:
    targets = [tmp_path / "why.png", tmp_path / "again.png"]
    for target in targets:
        result = ask(*asked(folder, "--image", folder / "bee.png", "--explain", target))
        assert result.exit_code == 0, result.stderr
        assert result.stderr == f"saved {target}\n"
        assert "bee" in result.stdout.splitlines()[0]
    assert targets[0].read_bytes() == targets[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(targets)
    with Image.open(targets[0]) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115)):  # of the first three pairs
        assert (pixels == colour).all(axis=2).any()


def test_json_says_where_the_explanation_is(folder: Path, tmp_path: Path) -> None:
    photo = ("--image", folder / "cow.png", "--json")
    answer = json.loads(ask(*asked(folder, *photo, "--explain", tmp_path / "why.png")).stdout)
    assert answer["explained"] == str(tmp_path / "why.png")
    assert answer["hits"][0]["sku_id"] == "cow"
    assert answer["hits"][0]["maxsim"] == pytest.approx(1, abs=0.02)
    assert "explained" not in json.loads(ask(*asked(folder, *photo)).stdout)


def test_a_photo_with_words_is_explained_too(folder: Path, tmp_path: Path) -> None:
    words = ("--image", folder / "ant.png", "--text", "an ant", "--explain", tmp_path / "why.png")
    assert ask(*asked(folder, *words)).exit_code == 0
    assert (tmp_path / "why.png").is_file()


def test_the_part_of_the_photo_that_was_searched_is_explained(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "bee.png") as photo:
        wide = Image.new("RGB", (200, 150), "grey")
        wide.paste(photo, (100, 20))
    wide.save(tmp_path / "wide.png")
    box = ("--box", "100,20,164,116")
    pictures = []
    for name, query in (("part", (tmp_path / "wide.png", *box)), ("bee", (folder / "bee.png",))):
        target = tmp_path / f"why-{name}.png"
        result = ask(*asked(folder, "--image", *query, "--explain", target))
        assert result.exit_code == 0, result.stderr
        pictures.append(target.read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("query", [("--text", "a bee"), ("--like", "bee")])
def test_only_a_photo_can_be_explained(folder: Path, tmp_path: Path, query: tuple[str, str]) -> None:
    told = refused(ask(*asked(folder, *query, "--explain", tmp_path / "why.png")))
    assert told == "--explain says why a SKU is like a photo: give one --image FILE with it"


def test_an_explanation_that_can_not_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "no" / "why.png", tmp_path, Path(".")):
        told = refused(ask(*asked(folder, "--image", folder / "bee.png", "--explain", target)))
        assert told.startswith(f"--explain {target}: ")
    assert list(tmp_path.iterdir()) == []
