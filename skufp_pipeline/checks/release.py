"""Checks that a candidate index must pass before it is put in use."""

from collections.abc import Iterable

import dagster as dg

from skufp_pipeline.evaluation.settings import Thresholds
from skufp_pipeline.presets import Preset
from skufp_pipeline.search.images import least_recall, open_index
from skufp_pipeline.search.index import FingerprintIndex
from skufp_pipeline.search.judging import QUERIES, coverage, recall, wrong_answers
from skufp_pipeline.search.versions import Versions
from skufp_pipeline.store import Artifact

RECALL = "development_recall@1"  # key in the summary of a version, measured while it is built

_DESCRIPTIONS = {
    "index_is_exact": "The candidate answers as float64 brute force does (by HNSW: nearly); its files are "
    "whole.",
    "skus_are_covered": "The candidate holds the catalogue's SKUs, but for a tolerated share that is listed.",
    "recall_holds": "Recall@1 of development queries is not below the version in use by more than the "
    "preset allows.",
    "not_rolled_back": "The candidate is not a version that was rolled back.",
}


def release_checks(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks of an asset that builds an index."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=True, description=text)
        for name, text in _DESCRIPTIONS.items()
    ]


def index_is_exact(candidate: Artifact, index: FingerprintIndex, seed: int) -> dg.AssetCheckResult:
    """Passes if every file has its checksum and every answer equals brute force's; of an engine that is not
    exact, if enough of the best answers are found."""
    damaged, wrong, least = candidate.damaged_files(), wrong_answers(index, seed), least_recall(index)
    found = {} if least is None else {"recall": recall(index, seed), "needed": least}
    return dg.AssetCheckResult(
        check_name="index_is_exact",
        passed=not damaged and (wrong == 0 if least is None else found["recall"] >= least),
        metadata={"damaged_files": damaged, "queries": QUERIES, "wrong_answers": wrong, **found},
    )


def skus_are_covered(
    index: FingerprintIndex, catalogue: Iterable[str], thresholds: Thresholds
) -> dg.AssetCheckResult:
    """Passes if enough of the SKUs with catalog views can be found."""
    found = coverage(index, catalogue)
    return dg.AssetCheckResult(
        check_name="skus_are_covered",
        passed=found.share >= thresholds.index_coverage,
        metadata={
            "share": found.share,
            "needed": thresholds.index_coverage,
            "missing": len(found.missing),
            "missing_skus": found.missing[:20],
        },
    )


def recall_holds(
    candidate: Artifact, current: Artifact | None, thresholds: Thresholds
) -> dg.AssetCheckResult:
    """Passes if there is nothing to compare with, or the drop is within what the preset allows."""
    now = candidate.summary.get(RECALL)
    before = None if current is None else current.summary.get(RECALL)
    allowed = thresholds.index_recall_drop
    fallen = 0.0 if now is None or before is None else before - now
    return dg.AssetCheckResult(
        check_name="recall_holds",
        passed=allowed is None or fallen <= allowed + 1e-9,
        metadata={"recall": str(now), "in_use": str(before), "allowed_drop": str(allowed)},
    )


def not_rolled_back(version: str, withdrawn: Iterable[str]) -> dg.AssetCheckResult:
    """Passes unless this very version was rolled back."""
    return dg.AssetCheckResult(
        check_name="not_rolled_back",
        passed=version not in withdrawn,
        metadata={"version": version, "to_publish_it": f"skufp index publish {version}"},
    )


def judge(
    candidate: Artifact, versions: Versions, catalogue: Iterable[str], preset: Preset
) -> list[dg.AssetCheckResult]:
    """Runs all checks on a candidate, which is put in use if all of them pass."""
    thresholds = preset.evaluation.thresholds
    index = open_index(candidate.path)
    return [
        index_is_exact(candidate, index, preset.seed),
        skus_are_covered(index, catalogue, thresholds),
        recall_holds(candidate, versions.find(), thresholds),
        not_rolled_back(candidate.path.name, versions.releases().withdrawn),
    ]
