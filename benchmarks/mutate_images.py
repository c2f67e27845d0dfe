"""Damages images and reads them as the catalogue does and as a query: does either crash, do they agree?

    python benchmarks/mutate_images.py --images 10000 --seed 0

Prints how many were accepted, how many refused by which reason, and each disagreement. Exits with 1 if
anything but the documented error was raised, a worker died, or the two sides differed in verdict or pixels.
Image N of a seed is the same on every machine that has the same Pillow.
"""

import argparse
import io
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from skufp_pipeline.datasets.crops import CropSettings, write_crops
from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import FORMATS, PhotoError, open_photo
from skufp_pipeline.search.engine import read_photo

FOLDER = 50  # images read as one catalogue
ACCEPTED = "accepted"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F")
SUFFIXES = ("jpg", "png", "webp", "gif", "bmp", "tif", "avif", "jp2", "heic", "txt")
Mutation = Callable[[bytearray, Random], bytearray]


@lru_cache(maxsize=1)
def originals() -> dict[str, bytes]:
    """One small picture per format that Pillow writes and mode that it holds, with EXIF where it can."""
    Image.init()
    kinds = sorted(set(Image.SAVE) - {"PDF", "EPS"})  # those need another program to be read
    found = {}
    for kind in kinds:
        for mode in MODES:
            for name, options in (
                ("", {}),
                (" animated", {"save_all": True, "append_images": [picture(mode)]}),
            ):
                if name and kind not in Image.SAVE_ALL:
                    continue
                buffer = io.BytesIO()
                try:
                    picture(mode).save(buffer, kind, **options, exif=some_exif(), xmp=XMP)
                except Exception:  # a format that does not hold this mode
                    continue
                found[f"{kind} {mode}{name}"] = buffer.getvalue()
    for name, options in {
        "JPEG progressive": {"progressive": True},
        "TIFF LZW": {"compression": "tiff_lzw"},
        "TIFF JPEG": {"compression": "jpeg"},
        "TIFF deflated": {"compression": "tiff_adobe_deflate"},
        "JPEG2000 codestream": {"no_jp2": True},
        "WEBP lossless": {"lossless": True},
    }.items():
        buffer = io.BytesIO()
        picture("RGB").save(buffer, name.split()[0], exif=some_exif(), **options)
        found[name] = buffer.getvalue()
    return found


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'


def picture(mode: str) -> Image.Image:
    colours = np.random.default_rng(3).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(colours, "RGBA").resize((40, 28), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return (
        image
        if mode == "RGBA"
        else image.convert("RGB" if mode == "RGB" else "L" if mode == "F" else "RGB").convert(mode)
    )


def some_exif() -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = 6
    found[ExifTags.Base.XResolution] = 72.5
    found[ExifTags.Base.Make] = "a phone"
    found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.5)
    return found
