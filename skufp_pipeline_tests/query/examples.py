"""Examples that tests of several rooms share."""

from typing import Any

from skufp_pipeline.query.confidence import Confidence, Logistic


def calibrated(logistic: Logistic, match: float, reject_below: float, **others: Any) -> Confidence:
    """A calibration of this model and these thresholds; what else it says of itself is of no account."""
    said = {"alpha": 0.05, "absent": 0.5, "photos": 1, "skus": 1, "synthetic": False, "curve": ()}
    return Confidence(
        logistic=logistic, match=match, reject_below=reject_below, calibration_error=0.0, **(said | others)
    )
