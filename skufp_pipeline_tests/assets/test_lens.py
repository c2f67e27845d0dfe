"""The graph of a folder of pictures: extractors, their indexes and their comparison, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from skufp_pipeline.artifacts.places import LENS_REPORT, extractor_checkpoint, extractor_folds
from skufp_pipeline.definitions import build_defs, graph_steps
from skufp_pipeline.extractors.extractor import create_extractor, load_extractor
from skufp_pipeline.extractors.settings import ExtractorsSettings
from skufp_pipeline.presets import PACKAGED, Preset, load_preset
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.serving.keys import hash_of
from skufp_pipeline.store import ArtifactStore

from ..cli.asking import ask, found
from ..encoders.examples import VIT_VISION, write_model
from ..extractors.examples import RATES
from ..graphs import Graph, checks, materialize_here, metadata, run_asset, write_preset
from ..serving.running import serving, uploaded

BRIEF = {"epochs": 2, "batch_size": 8, "cache_side": 32, "patience": None, **RATES}
LENS: dict[str, Any] = {
    "name": "tiny-lens",
    "seed": 5,
    "shards": 2,
    "graph": "pictures",
    "extractors": {
        "resnet50": {
            "model": "test_resnet",
            "image_size": [32, 32],
            "training": {**BRIEF, "images_per_sku": 2},
        },
        "autoencoder": {"channels": [4, 8], "dimension": 8, "image_size": [16, 16], "training": BRIEF},
    },
    "image_index": {"of": ["resnet50", "autoencoder"]},
    "synthetic": {"photos": {"train": 0, "development": 0, "evaluation": 1, "side": 48}},
    "lens": {"folds": 2, "resamples": 100, "latency_queries": 3},
    "evaluation": {"thresholds": {"rows_left_out": 0.5}},
    "serving": {"indexes": ["resnet50", "autoencoder"]},
}


def write_pictures(folder: Path) -> None:
    """24 pictures of two categories, each of four coloured quarters, a copy, and a broken one."""
    generator = np.random.default_rng(1)
    for number in range(24):
        quarters = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        path = folder / ("boots", "sandals")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(quarters.repeat(20, axis=0).repeat(16, axis=1)).save(path)
    (folder / "copy.png").write_bytes((folder / "boots" / "00.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The graph of a folder, materialized. Read it only."""
    folder = tmp_path_factory.mktemp("lens")
    write_pictures(folder / "shop")
    dataset = {"source": "pictures", "path": str(folder / "shop")}
    return materialize_here(write_preset(folder, {**LENS, "dataset": dataset}))


def a_picture(graph: Graph) -> Path:
    return Path(graph.preset_file.parent / "shop" / "boots" / "04.png")


def test_a_folder_of_pictures_becomes_an_index_for_each_extractor(lens: Graph) -> None:
    for name in ("resnet50", "autoencoder"):
        assert Versions(lens.store, name).in_use is not None
        first = found("--image", a_picture(lens), "--index", name, "--preset", lens.preset_file)[0]
        assert first == "boots:04.png"
    assert found("--image", a_picture(lens), "--preset", lens.preset_file)[0] == "boots:04.png"
    assert ask("doctor", "--preset", lens.preset_file).exit_code == 0


def test_what_was_left_out_is_listed(lens: Graph) -> None:
    skipped = pl.read_parquet(lens.store.read("tables/annotations").path / "skipped_items.parquet")
    assert dict(skipped.select("path", "reason").iter_rows()) == {
        "broken.jpg": "broken_image",
        "copy.png": "duplicate_picture",
    }


def test_over_http_the_answers_are_those_of_the_command_line(lens: Graph) -> None:
    photo = a_picture(lens)
    with serving(lens.preset) as (client, _):
        photo_id = uploaded(client, photo.read_bytes())["photo_id"]
        names = [index["name"] for index in client.get("/v1/service").json()["indexes"]]
        assert names == ["resnet50", "autoencoder"]
        for name in names:
            answer = client.post("/v1/search", json={"photo_id": photo_id, "index": name, "top": 10})
            assert answer.status_code == 200, answer.text
            hits = answer.json()["hits"]
            skus = found("--image", photo, "--index", name, "--preset", lens.preset_file)
            assert [hit["sku_id"] for hit in hits] == skus
            assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
            picture = client.get(hits[0]["image_url"])
            assert picture.headers["content-type"] == "image/jpeg"


def test_an_operator_sees_which_extractor_an_index_is_of(lens: Graph, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump([{"name": "ann", "role": "admin", "sha256": hash_of("key")}]))
    settings = lens.preset.serving.model_copy(update={"keys": str(keys)})
    with serving(lens.preset.model_copy(update={"serving": settings})) as (client, _):
        states = client.get("/v1/index", headers={"Authorization": "Bearer key"}).json()["indexes"]
    made = [extractor_checkpoint(name).read(lens.store).digest for name in ("resnet50", "autoencoder")]
    assert [(state["encoder"], state["encoder_digest"]) for state in states] == [
        ("resnet50", made[0]),
        ("autoencoder", made[1]),
    ]


def test_the_report_has_a_row_for_each_extractor_and_setting(lens: Graph) -> None:
    rows = LENS_REPORT.read(lens.store).rows()
    assert [(row["extractor"], row["setting"]) for row in rows] == [
        (name, setting) for name in ("resnet50", "autoencoder") for setting in ("seen", "zero", "seen+zero")
    ]
    for row in rows:
        assert {"recall@1", "recall@3", "recall@5", "recall@10", "precision@10", "p95_ms", "bytes"} <= set(
            row
        )
        assert row["products"] == 24
        assert 0 < row["p50_ms"] <= row["p95_ms"]
    tower = load_extractor(
        extractor_checkpoint("autoencoder").read(lens.store).folder, torch.device("cpu")
    ).tower
    assert rows[-1]["memory_bytes"] == sum(4 * part.numel() for part in tower.parameters())
    index = lens.store.read(
        Versions(lens.store, "autoencoder").key(Versions(lens.store, "autoencoder").in_use or "")
    )
    assert rows[-1]["bytes"] == index.manifest.num_bytes


def test_its_metadata_shows_a_table_a_plot_and_answers(lens: Graph) -> None:
    result = run_asset(lens.preset, "lens_report")
    told = metadata(result)
    assert told["computed"] == 0
    assert "| autoencoder | zero | 24 |" in told["tables"]
    for name in ("comparison", "answers"):
        assert told[name].startswith("![figure](data:image/png;base64,")
    assert set(checks(result)) == {"beats_chance"}
    assert told["tables"] in ask("report", "--preset", lens.preset_file).stdout
    again = run_asset(lens.preset, extractor_folds("resnet50").name)
    assert metadata(again)["computed"] == 0
    assert checks(again)["folds_disjoint"]


@pytest.mark.parametrize("name", ["lens", "lens-full"])
def test_the_graph_of_pictures_holds_nothing_of_fingerprints(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKUFP_PICTURES", "pictures")
    preset = load_preset(name)
    assert Preset.model_validate_json(preset.model_dump_json()) == preset  # as for a worker
    steps = graph_steps(preset)
    assert {step.group for step in steps.values()} == {
        *("catalog", "extractors", "synthetic", "image_index", "lens"),
    }
    assert not {
        name for name in steps if "fingerprint" in name or name.startswith(("sd_", "vla_", "clip_checkpoint"))
    }
    build_defs(preset)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": {"model": "skufp-tiny"}}, "graph: pictures has no encoder"),
        ({"look_twice": {}, "confidence": {}}, "graph: pictures has no look_twice, confidence"),
        ({"image_index": None}, "needs image_index.of"),
        ({"serving": {}}, "serving.indexes names 'fingerprints'; expected some of resnet50, autoencoder"),
        ({"synthetic": {}}, "set synthetic.photos.evaluation"),
        ({"graph": "fingerprints"}, "encoder is missing"),
    ],
)
def test_a_preset_of_pictures_that_can_not_be_built_is_refused(changes: dict[str, Any], told: str) -> None:
    given = {**LENS, "data_root": "data", "dataset": {"source": "pictures", "path": "x"}, **changes}
    with pytest.raises(ValidationError, match=told):
        Preset.model_validate(given)


def small_weights(folder: Path) -> dict[str, str]:
    """Weight files in the formats of the full preset's, by its variables."""
    torch.manual_seed(9)
    timm_weights = {"SKUFP_RESNET50": ("test_resnet", {}), "SKUFP_VIT": ("test_vit", {"img_size": (32, 32)})}
    for name, (model, options) in timm_weights.items():
        torch.save(timm.create_model(model, **options).state_dict(), folder / f"{name}.pth")
    write_model(folder / "clip.json", VIT_VISION)
    settings = ExtractorsSettings.model_validate({"clip": {"model": str(folder / "clip.json")}})
    clip: Any = create_extractor(settings.wanted()["clip"], torch.device("cpu"), 7).tower
    torch.save(clip.model.state_dict(), folder / "SKUFP_CLIP.pth")
    return {name: str(folder / f"{name}.pth") for name in (*timm_weights, "SKUFP_CLIP")}


def test_the_full_preset_is_parsed_built_and_stepped_on_small_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "shop")
    variables = {**small_weights(tmp_path), "SKUFP_PICTURES": str(tmp_path / "shop")}
    for name, value in {**variables, "SKUFP_DATA_ROOT": str(tmp_path / "data")}.items():
        monkeypatch.setenv(name, value)
    full = yaml.safe_load((PACKAGED / "lens-full.yaml").read_text())
    sizes = {
        "resnet50": {"model": "test_resnet", "image_size": [32, 32]},
        "clip": {"model": str(tmp_path / "clip.json")},
        "vit": {"model": "test_vit", "image_size": [32, 32]},
        "autoencoder": {"channels": [4, 8], "image_size": [16, 16]},
    }
    for name, size in sizes.items():
        full["extractors"][name] |= {**size, "training": {"epochs": 1, "cache_side": 32}}
    full |= {"shards": 1, "compute": {"device": "cpu"}}
    preset = load_preset(str(write_preset(tmp_path, full)))
    for name in ("raw_dataset", "annotations"):
        assert run_asset(preset, name).success
    for name in ("sku_crops", "image_text"):
        assert run_asset(preset, name, 0).success
    for name in sizes:
        asset = extractor_checkpoint(name).name
        told = metadata(run_asset(preset, asset))
        assert told["computed"] == 1
        assert "off" not in told
        made = extractor_checkpoint(name).read(ArtifactStore(preset.data_root))
        used = [given for given in made.artifact.manifest.recipe.inputs if "pretrained" in given]
        assert used == ([] if name == "autoencoder" else [f"extractors.{name}.pretrained"])
