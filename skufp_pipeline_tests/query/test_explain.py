"""Explanations: which places are paired, what the maps hold, and what is drawn."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from skufp_pipeline.encoders.clip import Encoder, create_encoder
from skufp_pipeline.encoders.onnx import OnnxImageEncoder
from skufp_pipeline.encoders.patches import PatchEncoder, PatchGrid, PatchHead, TowerWithMap, maps_of
from skufp_pipeline.encoders.settings import LookTwiceSettings, QueryEncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import maxsim
from skufp_pipeline.query.engine import NO_PATCHES, NOT_SHOWN, QueryEngine
from skufp_pipeline.query.explain import ExplanationSettings, Pair, cell_box, find_pairs, seen
from skufp_pipeline.query.explanation_picture import heated
from skufp_pipeline.query.look_twice import LookTwice
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.patches import PatchIndex
from skufp_pipeline.search.pictures import load_pictures, write_pictures
from skufp_pipeline.store import ArtifactStore
from skufp_pipeline_tests.encoders.examples import TIMM_VISION, VIT_VISION, noise, picture, write_model
from skufp_pipeline_tests.search.conftest import publish_encoder, publish_image_encoder, publish_index

CPU = torch.device("cpu")
SKUS = ["one", "two", "three"]
WHOLE = ((0.0, 0.0, 20.0, 20.0), (20, 20))  # all of a picture of 20 x 20 pixels
SHOWN = (WHOLE, WHOLE)


def test_the_right_places_are_paired() -> None:
    similar = np.array([[0.1, 0.2, 0.3, 0.95], [0.1, 0.9, 0, 0.1], [0.2, 0, 0.1, 0.92], [0.8, 0.1, 0, 0.1]])
    pairs = find_pairs(similar, None, (2, 2), SHOWN, 5)
    assert pairs == [
        Pair((1, 1), (0, 0), (10, 10, 20, 20), (0, 0, 10, 10), 0.95, None),
        Pair((0, 1), (0, 1), (10, 0, 20, 10), (10, 0, 20, 10), 0.9, None),
    ]  # (1, 0) would have the place of (1, 1) again; (1, 1) is found worse than the mean, 0.8925
    assert find_pairs(similar, None, (2, 2), SHOWN, 1) == pairs[:1]
    assert find_pairs(similar, None, (2, 2), SHOWN, 0) == []
    alike = find_pairs(np.eye(4) * 0.7, None, (2, 2), SHOWN, 5)
    assert [pair.view_cell for pair in alike] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_what_the_runner_up_has_too_comes_last() -> None:
    similar = np.array([[0.95, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0.85, 0], [0, 0, 0, 0.4]])
    rivals = np.array([[0.95, 0.1, 0.2, 0], [0, 0, 0.7, 0]])  # as good as the first; near the third
    pairs = find_pairs(similar, rivals, (2, 2), SHOWN, 4)
    assert [pair.view_cell for pair in pairs] == [(0, 1), (1, 0), (0, 0)]
    assert [pair.lead for pair in pairs] == pytest.approx([0.7, 0.15, 0])
    assert [pair.similarity for pair in pairs] == pytest.approx([0.8, 0.85, 0.95])


def test_padding_is_in_no_pair() -> None:
    wide = (seen((20, 6), "longest"), (20, 6))  # 7 pixels of padding, 6 of the picture, 7 of padding
    pairs = find_pairs(np.eye(9), None, (3, 3), (wide, wide), 9)
    assert [pair.photo_cell for pair in pairs] == [(1, 0), (1, 1), (1, 2)]
    assert [pair.photo_box for pair in pairs] == [(0, 0, 7, 6), (7, 0, 13, 6), (13, 0, 20, 6)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("squash", [(0, 0, 10, 3), (0, 3, 10, 7)]),
        ("shortest", [(10, 0, 13, 3), (10, 3, 13, 7)]),
        ("longest", [None, (0, 0, 10, 10)]),  # the first is padding alone
    ],
)
def test_a_cell_is_where_the_encoder_looks(mode: str, expected: list[tuple[int, ...] | None]) -> None:
    size = (30, 10)
    assert [cell_box((row, 0), 3, seen(size, mode), size) for row in (0, 1)] == expected


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> PatchEncoder:
    """A tower with maps, and its untrained patch head."""
    path = tmp_path_factory.mktemp("towers") / "tiny-explained.json"
    encoder = create_encoder(write_model(path, {**TIMM_VISION, "image_size": 64}), CPU, seed=0)
    head = PatchHead(PatchGrid.of(encoder, LookTwiceSettings(dimension=32)))
    pixels = torch.stack([encoder.preprocess(noise(seed)) for seed in range(8)])
    head.start(torch.from_numpy(maps_of(TowerWithMap(encoder, head.grid), pixels).astype(np.float32)))
    return PatchEncoder(encoder, head)


def quarters(seed: int) -> Image.Image:
    """A picture of 16 colours, a square each."""
    return noise(seed, (4, 4)).resize((64, 64), Image.Resampling.NEAREST)


def engine_of(seeing: PatchEncoder, folder: Path, shown: int | None = 0) -> QueryEngine:
    """Three SKUs of two pictures each; the bundle shows the one of number `shown`."""
    views = [[quarters(2 * sku), quarters(2 * sku + 1)] for sku in range(len(SKUS))]
    for sku_id, two in zip(SKUS, views, strict=True):
        two[shown or 0].save(folder / f"{sku_id}.png")
    write_pictures(folder, SKUS, [f"{sku_id}.png" for sku_id in SKUS], 64, lambda name: folder / name)
    found = [seeing.view_patches(torch.stack([seeing.preprocess(one) for one in two])) for two in views]
    places = None if shown is None else np.full(len(SKUS), shown, np.uint8)
    patches = PatchIndex(np.stack(found), np.full(len(SKUS), 2, np.uint8), places)
    rows = seeing.encoder.embed_images([two[0] for two in views])
    skus = pl.DataFrame({"sku_id": SKUS, "category_name": None, "title": None, "image": "x.jpg"})
    index = FingerprintIndex(rows, skus)
    pictures, look = load_pictures(folder), LookTwice(patches, 2, 0.5)
    return QueryEngine(index, seeing.encoder, seeing, pictures=pictures, look_twice=look)


def test_the_photos_map_sums_to_the_engines_own_score(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path)
    photo = tmp_path / "photo.png"
    noise(9, (70, 50)).save(photo)
    for hit in engine.search_image(photo, 3).hits:
        found = engine.explain(photo, hit.sku_id)
        assert found.method == "contributions"
        assert found.photo_map.sum() == pytest.approx(hit.score, abs=1e-5)
        assert found.cosine == pytest.approx(hit.score, abs=1e-5)
        assert found.photo.size == (70, 50)


def test_photos_that_are_encoded_by_onnx_are_explained_by_the_pytorch_tower(
    store: ArtifactStore, index: FingerprintIndex, encoder: Encoder
) -> None:
    clip = publish_encoder(store, encoder)
    publish_index(store, index, "one", clip=clip)
    publish_image_encoder(store, encoder, clip)
    engine = QueryEngine.open(store, CPU, QueryEncoderSettings(threads=1))
    assert isinstance(engine.image_encoder, OnnxImageEncoder)
    found = engine.explain(noise(4), "lime")
    assert found.photo_map.sum() == pytest.approx(found.cosine, abs=1e-5)
    assert found.cosine == pytest.approx(
        encoder.embed_images([noise(4)])[0] @ index.fingerprints[1], abs=1e-5
    )


def test_the_pictures_map_is_what_the_second_look_sees_in_it(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path, shown=1)
    content = io.BytesIO()
    quarters(3).save(content, "PNG")  # the second picture of SKU "two"
    found = engine.explain(content.getvalue(), "two")
    assert engine.look_twice is not None
    patches = engine.look_twice.patches
    photo = seeing.embed_with_patches(seeing.preprocess(quarters(3))[None])[1][0]
    assert found.view_map is not None
    assert found.view_map.shape == (4, 4)
    assert found.maxsim == pytest.approx(maxsim(photo, patches.patches[1:2, 1:], np.ones(1, int))[0])
    assert found.view_map.mean() == pytest.approx(found.maxsim)
    assert found.maxsim == pytest.approx(1, abs=0.01)
    assert [pair.photo_cell for pair in found.pairs] == [pair.view_cell for pair in found.pairs]
    leads = [pair.lead for pair in found.pairs if pair.lead is not None]
    assert len(leads) == 5
    assert leads == sorted(leads, reverse=True)
    assert found.left_out == ""


def test_patches_of_an_unknown_picture_explain_nothing(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path, shown=None)
    found = engine.explain(quarters(1), "one")
    assert (found.view_map, found.maxsim, found.pairs, found.left_out) == (None, None, [], NOT_SHOWN)
    assert found.view is not None
    assert found.picture().height > replace(found, left_out="").picture().height  # a line says why


def test_without_a_second_look_only_the_photo_has_a_map(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path)
    plain = QueryEngine(engine.index, engine.encoder)
    found = plain.explain(quarters(1), "one")
    assert (found.view, found.view_map, found.pairs, found.left_out) == (None, None, [], NO_PATCHES)
    assert found.photo_map.sum() == pytest.approx(found.cosine, abs=1e-5)
    assert found.picture().height > replace(found, left_out="").picture().height  # a line says why


def test_covering_squares_can_be_asked_for_and_is_what_other_towers_get(
    seeing: PatchEncoder, tmp_path: Path
) -> None:
    engine = engine_of(seeing, tmp_path)
    asked = engine.explain(quarters(1), "one", ExplanationSettings(occlude=True, cells=3, pairs=2))
    assert (asked.method, asked.photo_map.shape, len(asked.pairs)) == ("occlusion", (3, 3), 2)
    transformer = create_encoder(write_model(tmp_path / "vit.json", VIT_VISION), CPU, seed=0)
    other = QueryEngine(engine.index, transformer).explain(quarters(1), "one")
    assert (other.method, other.photo_map.shape) == ("occlusion", (7, 7))


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_photo_of_nothing_is_explained_too(seeing: PatchEncoder, tmp_path: Path, colour: str) -> None:
    engine = engine_of(seeing, tmp_path)
    for occlude in (False, True):
        settings = ExplanationSettings(occlude=occlude)
        found = engine.explain(picture(colour, (3, 200)), "three", settings)
        assert np.isfinite(found.photo_map).all()
        assert found.picture().mode == "RGB"


def test_an_index_of_one_sku_has_no_runner_up(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path)
    alone = QueryEngine(
        engine.index.remove(["two", "three"]), seeing.encoder, seeing, look_twice=engine.look_twice,
        pictures=engine.pictures,
    )  # fmt: skip
    pairs = alone.explain(quarters(0), "one").pairs
    assert len(pairs) == 5
    assert {pair.lead for pair in pairs} == {None}


def test_a_sku_that_is_not_there_is_told(seeing: PatchEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SKU 'pear' is not in the index"):
        engine_of(seeing, tmp_path).explain(quarters(1), "pear")


def test_the_same_explanation_is_the_same_picture(seeing: PatchEncoder, tmp_path: Path) -> None:
    engine = engine_of(seeing, tmp_path)
    one, two = (np.asarray(engine.explain(quarters(1), "one").picture()) for _ in range(2))
    assert (one == two).all()
    other = replace(engine.explain(quarters(1), "one"), cosine=0.123)
    assert (np.asarray(other.picture()) != one).any()


def test_heat_is_bright_where_the_map_is_high_and_only_where_the_encoder_looks() -> None:
    grey = picture("grey", (40, 20))
    found = np.asarray(heated(grey, np.array([[0.0, 1.0]]), (10, 0, 30, 20))).astype(int).sum(axis=2)
    assert found[:, 28].min() > found[:, 12].max()
    assert (found[:, :10] == found[:, 30:]).all()  # not seen: as dark as can be
    flat = np.asarray(heated(grey, np.full((2, 2), 0.3), (0, 0, 40, 20)))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="pears"):
        ExplanationSettings.model_validate({"pears": 3})
