"""What decides a result is found in the code: edits that matter change its digest, and no others."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from skufp_pipeline.definitions import graph_steps
from skufp_pipeline.presets import PACKAGED, load_preset
from skufp_pipeline.provenance import code_digest, forget_sources, import_closure, library_versions

from .graphs import REPOSITORY, environment

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a package `shop`; what was read before is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()

    def write_module(name: str, text: str) -> None:
        (tmp_path / "shop" / f"{name}.py").write_text(text)
        forget_sources()
        importlib.invalidate_caches()

    yield write_module
    forget_sources()


def digest(*modules: str) -> str:
    return code_digest(tuple(f"shop.{name}" for name in modules))


def test_the_digest_changes_with_the_root(write: Write) -> None:
    write("prices", "price = 1\n")
    before = digest("prices")
    write("prices", "price = 2\n")
    assert digest("prices") != before


@pytest.mark.parametrize(
    "line",
    [
        "from shop.taxes import tax",
        "from shop import taxes",
        "import shop.taxes",
        "def price():\n    from shop.taxes import tax\n    return tax",
    ],
)
def test_the_digest_changes_with_what_the_root_imports_however_it_does(write: Write, line: str) -> None:
    write("taxes", "tax = 1\n")
    write("prices", f"{line}\n")
    before = digest("prices")
    assert import_closure(("shop.prices",)) == ("shop.prices", "shop.taxes")
    write("taxes", "tax = 2\n")
    assert digest("prices") != before


def test_imports_are_followed_as_far_as_they_go_and_round_in_circles(write: Write) -> None:
    write("prices", "import shop.taxes\n")
    write("taxes", "import shop.laws\n")
    write("laws", "import shop.prices\n")
    assert import_closure(("shop.prices",)) == ("shop.laws", "shop.prices", "shop.taxes")


def test_the_digest_stays_when_a_module_changes_that_nothing_imports(write: Write) -> None:
    write("prices", "price = 1\n")
    write("names", "name = 'shirt'\n")
    before = digest("prices")
    write("names", "name = 'skirt'\n")
    assert digest("prices") == before


def test_the_digest_stays_when_only_words_change(write: Write) -> None:
    write("prices", '"""Prices."""\n\ndef price():\n    """In cents."""\n    return 1\n')
    before = digest("prices")
    write("prices", '"""What things cost."""\n\n# Cents.\ndef price():\n    return 1\n')
    assert digest("prices") == before


def test_the_digest_stays_when_only_the_words_of_a_coroutine_change(write: Write) -> None:
    write("prices", 'async def price():\n    """In cents."""\n    return 1\n')
    before = digest("prices")
    write("prices", 'async def price():\n    """What it costs."""\n    return 1\n')
    assert digest("prices") == before


def test_settings_errors_and_what_only_a_type_checker_sees_decide_nothing(write: Write) -> None:
    for name in ("settings", "errors", "store", "views"):
        write(name, "value = 1\n")
    write(
        "prices",
        "from typing import TYPE_CHECKING\nfrom shop import errors, settings, store\n"
        "if TYPE_CHECKING:\n    import shop.views\n",
    )
    assert import_closure(("shop.prices",)) == ("shop.prices",)


def test_a_root_that_does_not_exist_is_an_error(write: Write) -> None:
    write("prices", "price = 1\n")
    with pytest.raises(ValueError, match=r"no module shop\.taxes"):
        digest("taxes")


def test_the_versions_are_those_of_the_libraries_that_the_closure_uses(write: Write) -> None:
    write("photos", "def read():\n    import cv2\n")
    write("prices", "from PIL import Image\nimport numpy\nimport shop.photos\n")
    assert library_versions(("shop.prices",)) == {
        "opencv-python-headless": version("opencv-python-headless"),
        "pillow": version("pillow"),
    }


def test_steps_know_the_libraries_that_shape_their_results() -> None:
    steps = graph_steps(load_preset("df2"))
    used = {name: set(step.libraries) for name, step in steps.items()}
    assert used["sku_crops"] == {"pillow"}
    assert {"torch", "timm", "open_clip_torch", "pillow"} <= used["clip_checkpoint"]
    assert {"torch", "diffusers", "transformers", "peft"} <= used["sd_lora"]
    assert "onnxruntime" in used["image_encoder_onnx"]
    assert "opencv-python-headless" in used["vla_labels"]
    assert "torch" not in used["best_shot_teachers"]


def test_editing_a_training_loss_changes_the_encoders_checkpoints_alone(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "skufp_pipeline", tmp_path / "skufp_pipeline")
    program = (
        "from pathlib import Path\n"
        "from skufp_pipeline.provenance import forget_sources\n"
        "from skufp_pipeline.definitions import graph_steps\n"
        "from skufp_pipeline.presets import load_preset\n"
        "def versions():\n"
        "    forget_sources()\n"
        f"    steps = graph_steps(load_preset('{PACKAGED / 'df2.yaml'}'))\n"
        "    return {name: step.code_version for name, step in steps.items()}\n"
        "before = versions()\n"
        "losses = Path('skufp_pipeline/encoders/losses.py')\n"
        "losses.write_text(losses.read_text() + '\\nMORE = 1\\n')\n"
        "print([name for name, version in versions().items() if version != before[name]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['clip_checkpoint', 'reid_checkpoint']"
