"""The checks of an extractor's training pass where losses fall and the mean picture is beaten."""

from types import SimpleNamespace
from typing import Any

from skufp_pipeline.checks.extractors import beats_mean_picture, loss_falls


def result(losses: list[float], best: int = 2, **summary: Any) -> Any:
    history = [{"epoch": epoch + 1, "pair_loss": loss} for epoch, loss in enumerate(losses)]
    return SimpleNamespace(
        history=lambda: history, summary={"best_epoch": best, **summary}, off=summary.get("off")
    )


def test_a_loss_that_is_lower_in_the_kept_epoch_passes() -> None:
    assert loss_falls("xception_checkpoint", result([1.0, 0.5, 2.0])).passed
    assert not loss_falls("xception_checkpoint", result([1.0, 1.0, 0.2])).passed
    assert not loss_falls("xception_checkpoint", result([1.0, 0.5, 2.0], best=3)).passed


def test_one_epoch_or_none_is_not_measured() -> None:
    one = loss_falls("xception_checkpoint", result([1.0], best=1))
    assert one.passed
    assert "one epoch" in str(one.metadata["not_measured"].value)
    none = loss_falls("xception_checkpoint", result([], off="too few SKUs"))
    assert none.metadata["not_measured"].value == "too few SKUs"


def test_an_autoencoder_has_to_be_nearer_than_the_mean_picture() -> None:
    for error, passes in ((0.1, True), (0.2, False)):
        made = result([1.0], reconstruction_error=error, mean_picture_error=0.2)
        assert beats_mean_picture("autoencoder_checkpoint", made).passed == passes
    off = beats_mean_picture("autoencoder_checkpoint", result([], off="too few SKUs"))
    assert off.metadata["not_measured"].value == "too few SKUs"
