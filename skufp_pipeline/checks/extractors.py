"""Checks of the extractors' training: the loss falls, and an autoencoder beats the mean picture."""

import dagster as dg

from skufp_pipeline.artifacts.kinds import ExtractorFiles

LOSS_FALLS, BEATS_MEAN = "loss_falls", "beats_mean_picture"


def training_specs(asset: str, redraws: bool) -> tuple[dg.AssetCheckSpec, ...]:
    """Declares the checks on an extractor's checkpoint; `redraws` if it is an autoencoder."""
    falls = dg.AssetCheckSpec(
        LOSS_FALLS, asset=asset, description="Every loss is lower in the kept epoch than in the first."
    )
    beats = dg.AssetCheckSpec(
        BEATS_MEAN,
        asset=asset,
        description="On pictures that it was not trained on, its reconstructions are nearer than the mean "
        "training picture.",
    )
    return (falls, beats) if redraws else (falls,)


def loss_falls(asset: str, result: ExtractorFiles) -> dg.AssetCheckResult:
    """Passes if every loss of the kept epoch is below that of the first; a single epoch shows no fall."""
    history = result.history()
    kept = next((row for row in history if row["epoch"] == result.summary.get("best_epoch")), None)
    if kept is None or len(history) < 2:
        reason = result.off or "nothing can fall within one epoch"
        return dg.AssetCheckResult(
            passed=True, check_name=LOSS_FALLS, asset_key=asset, metadata={"not_measured": reason}
        )
    losses = {name: (history[0][name], kept[name]) for name in kept if name.endswith("loss")}
    return dg.AssetCheckResult(
        passed=all(last < first for first, last in losses.values()),
        check_name=LOSS_FALLS,
        asset_key=asset,
        metadata={
            name: f"{first:.4g} in the first epoch, {last:.4g} in the kept one"
            for name, (first, last) in losses.items()
        },
    )


def beats_mean_picture(asset: str, result: ExtractorFiles) -> dg.AssetCheckResult:
    """Passes if the mean squared error of reconstructions is below that of the mean training picture."""
    if result.off is not None:
        return dg.AssetCheckResult(
            passed=True, check_name=BEATS_MEAN, asset_key=asset, metadata={"not_measured": result.off}
        )
    errors = {name: result.summary[name] for name in ("reconstruction_error", "mean_picture_error")}
    passed = errors["reconstruction_error"] < errors["mean_picture_error"]
    return dg.AssetCheckResult(passed=passed, check_name=BEATS_MEAN, asset_key=asset, metadata=errors)
