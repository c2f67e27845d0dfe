"""The rules of the house: who may import whom, and what loading the definitions costs."""

import ast
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from skufp_pipeline.orchestration.materialize import INSTANCE_SETTINGS
from skufp_pipeline.presets import load_preset

from .graphs import PRESETS, REPOSITORY, environment

PACKAGE = REPOSITORY / "skufp_pipeline"
DAGSTER_LAYER = {
    *("assets", "checks", "resources", "orchestration", "definitions", "steps", "show", "cli"),
}
# The rooms of the science; each may import those before it.
ROOMS = (
    "camera",
    "datasets",
    "artifacts",
    "measures",
    "training",
    "encoders",
    "extractors",
    "detection",
    "views",
    "fingerprint",
    "policy",
    "search",
    "query",
    "evaluation",
    "serving",
)
LEAVES = (
    "errors",
    "hashing",
    "settings",
    "photos",
    "store",
    "compute",
    "provenance",
    "progress",
    "randomness",
)
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "peft", "open_clip", "timm")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def science_files() -> list[Path]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in DAGSTER_LAYER]
    assert {room_of(path) for path in files} == {*ROOMS, *LEAVES, "presets", "__init__"}
    return files


def rooms_imported(path: Path) -> set[str]:
    """The rooms of this package that a file imports, but its own."""
    own = {name.split(".")[1] for name in imports(path) if name.startswith("skufp_pipeline.")}
    return own - {room_of(path)}


def test_no_science_module_imports_dagster() -> None:
    guilty = [
        str(path)
        for path in science_files()
        if any(name.split(".")[0].startswith("dagster") for name in imports(path))
    ]
    assert guilty == []


def test_no_science_module_imports_the_dagster_layer() -> None:
    guilty = {str(path): rooms_imported(path) & DAGSTER_LAYER for path in science_files()}
    assert not any(guilty.values()), guilty


def test_rooms_depend_downward_only() -> None:
    for path in science_files():
        if room_of(path) in ROOMS:
            allowed = {*ROOMS[: ROOMS.index(room_of(path))], *LEAVES}
            if room_of(path) == "serving":
                allowed.add("presets")  # a service is made of a whole preset
            assert rooms_imported(path) <= allowed, path


@pytest.mark.parametrize("leaf", ["errors", "hashing", "settings", "compute", "provenance", "progress"])
def test_a_leaf_imports_nothing_of_the_package(leaf: str) -> None:
    assert rooms_imported(PACKAGE / f"{leaf}.py") == set()


def test_the_decoder_imports_no_more_than_errors_and_settings() -> None:
    assert rooms_imported(PACKAGE / "photos.py") <= {"errors", "settings"}


def test_a_picture_is_decoded_in_one_place() -> None:
    decoders = ("Image.open", "imread", "imdecode", "exif_transpose")
    guilty = [
        path.name for path in PACKAGE.rglob("*.py") if any(name in path.read_text() for name in decoders)
    ]
    assert guilty == ["photos.py"]


def test_nothing_but_the_definitions_imports_the_assets() -> None:
    programs = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")]
    guilty = [
        str(path)
        for path in programs
        if path.parent.name != "assets"
        and any(name.startswith("skufp_pipeline.assets") for name in imports(path))
    ]
    assert guilty == [str(PACKAGE / "definitions.py")]


def test_no_asset_function_is_longer_than_thirty_lines() -> None:
    for path in (PACKAGE / "assets").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name != "group":
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 30, f"{path.name}: {node.name}"


def test_no_room_is_called_utils() -> None:
    assert not [path for path in PACKAGE.rglob("*") if path.stem in ("utils", "util", "helpers", "common")]


def test_loading_the_definitions_imports_no_model_library_and_writes_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from skufp_pipeline.definitions import defs; import dagster as dg\n"
        "assert isinstance(defs() if callable(defs) else defs, dg.Definitions)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(SKUFP_PRESET="ci"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_workspace_and_dg_load_the_same_location() -> None:
    (entry,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert entry["python_module"]["module_name"] == project["code_location_target_module"]
    assert entry["python_module"]["location_name"] == project["code_location_name"]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_under_its_file_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKUFP_MANIFEST", "SKUFP_PICTURES", "SKUFP_TOWER"):
        monkeypatch.setenv(name, "somewhere")
    assert load_preset(str(path)).name == path.stem
    assert load_preset(path.stem) == load_preset(str(path))


def test_the_packaged_instance_is_the_laptop_deployment() -> None:
    deployed = REPOSITORY / "deploy" / "laptop" / "dagster.yaml"
    assert INSTANCE_SETTINGS.read_text() == deployed.read_text()
    assert yaml.safe_load(deployed.read_text())["telemetry"] == {"enabled": False}


def test_every_data_file_of_the_package_is_installed_with_it() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = pyproject["tool"]["setuptools"]["package-data"]["skufp_pipeline"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    present = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert present <= packed


def test_telemetry_is_off_before_any_library_that_has_it_is_imported() -> None:
    program = (
        "import skufp_pipeline, sys, os\n"
        "libraries = ('onnxruntime', 'huggingface_hub', 'dagster', 'ray')\n"
        "print([name for name in libraries if name in sys.modules])\n"
        "from huggingface_hub import constants\n"
        "from dagster._core.telemetry_upload import is_running_in_test\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, is_running_in_test())\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    asked = environment(HF_HUB_DISABLE_TELEMETRY="0", ORT_DISABLE_TELEMETRY="0")
    done = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "True", "True", "1", "0"], done.stderr


def test_every_switch_of_telemetry_is_known_to_its_library() -> None:
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    compiled = (Path(spec.origin).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    assert all(b"ORT_DISABLE_TELEMETRY" in path.read_bytes() for path in compiled)
