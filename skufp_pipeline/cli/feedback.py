"""`skufp feedback`: what shoppers called right and wrong."""

from pathlib import Path

import click

from skufp_pipeline.cli.options import preset_option, say, user_errors, write_csv
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import load_preset
from skufp_pipeline.store import ArtifactStore


@click.group("feedback")
def feedback_group() -> None:
    """Shoppers' thumbs (serving.feedback)."""


@feedback_group.command("export")
@preset_option
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.csv",
    help="Written with sku_id, image_path, domain and bbox; the photos go into a folder beside it.",
)
@user_errors
def export_feedback(name: str | None, target: Path) -> None:
    """Write the photos that shoppers called right as a CSV for `skufp evaluate`, or as rows of a manifest.

    Look at them first: anyone who can use the service can give a thumb. Photos that a manifest trains on tell
    nothing when they are evaluated.
    """
    from skufp_pipeline.serving.feedback import labelled_photos, read_feedback

    if target.suffix != ".csv":
        raise UserError(f"--to {target}: expected a file that ends in .csv")
    found = labelled_photos(
        read_feedback(ArtifactStore(load_preset(name).data_root)), f"{target.stem}_photos"
    )
    for reason, count in found.left_out.items():
        say(f"left out: {count} ({reason})")
    try:
        for path, content in found.files.items():
            place = target.parent / path
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.partial")
            temporary.write_bytes(content)
            temporary.replace(place)
    except OSError as error:
        raise UserError(f"--to {target}: {error}") from error
    write_csv(found.photos, target)
