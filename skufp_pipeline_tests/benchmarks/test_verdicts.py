"""The program that judges verdicts on another rendering, run whole on the small graph."""

import json
from pathlib import Path

from skufp_pipeline.query.settings import ConfidenceSettings

from ..graphs import Graph, run_asset
from .programs import run_on


def test_an_index_without_verdicts_is_refused(spoilt: Graph) -> None:
    assert "gives no verdicts: it was built without `confidence`" in run_on(spoilt, "verdicts").output


def test_the_same_calibration_is_judged_on_other_products(spoilt: Graph, tmp_path: Path) -> None:
    asked = ConfidenceSettings(alpha=0.5, least_skus=2)
    run_asset(spoilt.preset.model_copy(update={"confidence": asked}), "search_index")
    done = run_on(
        spoilt,
        "verdicts",
        "--render-seed",
        101,
        "--other",
        tmp_path / "other",
        "--json",
        tmp_path / "found.json",
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["own", "rendering 101"]
    own, other = (part["settings"]["seen+zero"] for part in found.values())
    assert own["photos"] != other["photos"]
    for part in (own, other):
        assert abs(sum(share["share"] for share in part["present"].values()) - 1) < 1e-9
    assert found["own"]["calibration_photos"] == found["rendering 101"]["calibration_photos"]
    assert "Wrong against masked right" in done.output
