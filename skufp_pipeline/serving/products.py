"""Puts products beside the manifest, where the drop folder's sensor sees them and the graph reads them.

The service writes files only: a product is found once a refresh has built an index with it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skufp_pipeline.datasets.added import write_added
from skufp_pipeline.datasets.manifest import ManifestSettings, checked_row
from skufp_pipeline.datasets.sources import ManifestDataset
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset
from skufp_pipeline.serving.jpeg import upright_jpeg
from skufp_pipeline.serving.photos import checked
from skufp_pipeline.serving.problems import Refusal
from skufp_pipeline.serving.schemas import ProductStored

PICTURES = 8  # of one request
COLUMNS, CHARACTERS = 200, 20_000  # of a row
NO_DROP_FOLDER = (
    "The preset names no automation.drop_folder, so nothing would read a product; set it to {!r}, the folder "
    "of the manifest."
)


def put_product(preset: Preset, row: bytes, pictures: Sequence[bytes]) -> ProductStored:
    """Writes a product: a JSON object with a manifest's columns, and pictures; takes a moment, for a thread.

    Raises:
        Refusal: 409 if the graph would not read it or it can't be written, 413 for too many pixels.
        UserError: the row or a picture is none.
    """
    manifest = _manifest(preset)
    path = Path(manifest.path)
    cells = checked_row(path, manifest, _object(row))
    limit = min(preset.serving.photo_pixels, manifest.max_pixels)
    for picture in pictures:
        checked(picture, limit)
    prepared = [upright_jpeg(picture) for picture in pictures]
    try:
        file, stored = write_added(path, cells, prepared)
    except UserError as error:
        raise Refusal(409, str(error)) from error
    return ProductStored(sku_id=cells["sku_id"], row=file.name, pictures=[picture.name for picture in stored])


def _manifest(preset: Preset) -> ManifestSettings:
    """The manifest that products are added to; raises a Refusal (409) if there is none or none is watched."""
    if not isinstance(preset.dataset, ManifestDataset):
        raise Refusal(409, f"The catalogue is no manifest but of source {preset.dataset.source!r}.")
    folder, drop = preset.dataset.folder, preset.automation.drop_folder
    if drop is None:
        raise Refusal(409, NO_DROP_FOLDER.format(folder.resolve().name or "."))
    if not folder.resolve().is_relative_to(Path(drop).resolve()):
        raise Refusal(
            409,
            "automation.drop_folder does not hold the manifest, so nothing would read a product; set it to "
            "the folder of the manifest.",
        )
    return preset.dataset.read


def _object(row: bytes) -> dict[str, Any]:
    """The row as JSON; raises UserError if it is no object of plain cells."""
    try:
        found = json.loads(row, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UserError('row is no JSON; expected an object such as {"sku_id": "A-100"}') from None
    if not isinstance(found, dict) or len(found) > COLUMNS or len(row) > COLUMNS * CHARACTERS:
        raise UserError(f"row is no object of at most {COLUMNS} columns")
    for name, value in found.items():
        cells = value if isinstance(value, list) else [value]
        if any(isinstance(cell, (dict, list)) or len(str(cell)) > CHARACTERS for cell in cells):
            raise UserError(
                f"{name[:100]} is no cell; expected a text of at most {CHARACTERS:,} characters, a number, "
                "true, false, null, or a list of texts"
            )
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)
