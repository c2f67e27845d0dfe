"""The one table of the image-level systems, from the rows of two reports."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from skufp_pipeline.artifacts.kinds import ImageSearchReport, LensReport
from skufp_pipeline.artifacts.places import IMAGE_SEARCH_REPORT, LENS_REPORT
from skufp_pipeline.evaluation.image_search import FIGURES_SCHEMA
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore, Recipe

from .programs import load_program

RECALLS = {f"recall@{top}{end}": 0.5 for top in (1, 3, 5, 10) for end in ("", "_low", "_high")}
COSTS = {"queries": 40, "p95_ms": 7.25, "bytes": 2_500_000, **RECALLS}
GAIN = {"gain": 0.25, "gain_low": 0.125, "gain_high": 0.375}


def figure(system: str, **changes: Any) -> dict[str, Any]:
    empty = dict.fromkeys(FIGURES_SCHEMA)
    given = {"system": system, "asked": "annotated part", "setting": "zero", "off": False}
    return {**empty, **COSTS, **given, **changes}


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports of both presets, in the folder that the program is started in."""
    monkeypatch.chdir(tmp_path)
    figures = [
        figure("fingerprint"),
        figure("xception", over="fingerprint", **GAIN),
        figure("captions", over="pictures", asked="photo", off=True, gain=0, gain_low=0, gain_high=0),
    ]
    table = pl.DataFrame(figures, schema=FIGURES_SCHEMA)
    store = ArtifactStore(load_preset("street2shop-mini").data_root)
    store.produce(
        IMAGE_SEARCH_REPORT.key,
        Recipe(code_version="1"),
        lambda folder: ImageSearchReport.write(folder, table) or {},
    )
    rows = {"rows": [{"extractor": "vit", "setting": "seen+zero", **COSTS, **GAIN}]}
    ArtifactStore(load_preset("lens").data_root).produce(
        LENS_REPORT.key, Recipe(code_version="1"), lambda folder: LensReport.write(folder, rows, {}) or {}
    )
    return tmp_path


def test_both_worlds_stand_in_one_table(worlds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("sisters")
    asked: list[str] = []

    def materialized(name: str) -> dict[str, float]:
        asked.append(name)
        return {"seconds": 60.0, "processor_seconds": 90.0}

    monkeypatch.setattr(program, "materialize", materialized)
    done = CliRunner().invoke(program.main, ["--json", "sisters.json"])
    assert done.exit_code == 0, done.output
    assert asked == ["street2shop-mini", "lens"]
    lines = [line.split("  ") for line in done.output.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    recalls = ["0.500 ± 0.000"] * 4
    assert cells[2:6] == [
        [
            "fingerprint (skufp-tiny)",
            "Zero-shot",
            "street2shop-mini",
            "40",
            *recalls,
            "-",
            "-",
            "7.2",
            "2.50",
        ],
        [
            *("xception (test_resnet)", "Zero-shot", "street2shop-mini", "40", *recalls),
            *("+0.250 [+0.125, +0.375]*", "fingerprint", "7.2", "2.50"),
        ],
        [
            *("chain, photo: captions, off", "Zero-shot", "street2shop-mini", "40", *recalls),
            *("+0.000 [+0.000, +0.000]", "pictures", "7.2", "2.50"),
        ],
        [
            *("vit (test_vit)", "Seen+Zero", "lens", "40", *recalls),
            *("+0.250 [+0.125, +0.375]*", "before training", "7.2", "2.50"),
        ],
    ]
    assert "lens: 60 s, 90 s of processor time" in done.output
    assert (
        json.loads((worlds / "sisters.json").read_text())["worlds"]["lens"][0]["method"] == "vit (test_vit)"
    )
    assert "| vit (test_vit)" in CliRunner().invoke(program.main, ["--markdown"]).output


def test_a_preset_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(load_program("sisters").main, ["nope"])
    assert done.exit_code == 1
    assert "no preset 'nope'" in done.output
