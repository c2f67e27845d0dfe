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
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from skufp_pipeline.compute import cores_available
from skufp_pipeline.datasets.crops import CropSettings, write_crops
from skufp_pipeline.datasets.manifest import ManifestSettings, read_manifest
from skufp_pipeline.datasets.splits import SplitSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import FORMATS
from skufp_pipeline.query.engine import read_photo

Mutation = Callable[[bytearray, Random], bytearray]
FOLDER = 50  # images read as one catalogue
ACCEPTED = "accepted"
SIZE = (40, 28)  # of the originals: two numbers that no format uses for much else
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F")
SUFFIXES = ("jpg", "png", "webp", "gif", "bmp", "tif", "avif", "jp2", "heic", "txt")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
EXTREMES = (0, 1, 2, 39, 41, 255, 256, 4096, 65_500, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
PNG = b"\x89PNG\r\n\x1a\n"
VARIANTS: dict[str, dict[str, Any]] = {
    "JPEG progressive": {"progressive": True},
    "TIFF LZW": {"compression": "tiff_lzw"},
    "TIFF JPEG": {"compression": "jpeg"},
    "TIFF deflated": {"compression": "tiff_adobe_deflate"},
    "JPEG2000 codestream": {"no_jp2": True},
    "WEBP lossless": {"lossless": True},
}


@dataclass(frozen=True)
class Verdict:
    """What both sides said of one image."""

    image: str  # seed, number, original and mutation
    catalogue: str  # accepted, or the reason
    query: str
    fault: str | None  # a crash, or how the sides disagree


@lru_cache(maxsize=1)
def originals() -> dict[str, bytes]:
    """One small picture per format that Pillow writes and mode that it holds, with EXIF where it can."""
    Image.init()
    found = {}
    for kind in sorted(set(Image.SAVE) - {"PDF", "EPS"}):  # those two hold pages
        for mode in MODES:
            found[f"{kind} {mode}"] = _encoded(mode, kind, {})
            if kind in Image.SAVE_ALL:
                frames = {"save_all": True, "append_images": [_picture(mode).rotate(180)]}
                found[f"{kind} {mode} animated"] = _encoded(mode, kind, frames)
    found |= {name: _encoded("RGB", name.split()[0], options) for name, options in VARIANTS.items()}
    return {name: content for name, content in found.items() if content is not None}


def mutated(seed: int, number: int) -> tuple[str, str, bytes]:
    """Image `number` of a seed: what it was and what was done to it, its file suffix, and its bytes."""
    random = Random(f"{seed} {number}")
    every = sorted({name.split()[0] for name in originals()})
    kind = random.choice((*FORMATS, "MPO") if random.random() < 0.9 else every)
    name = random.choice([name for name in originals() if name.split()[0] == kind])
    mutation = random.choice(list(MUTATIONS))
    content = MUTATIONS[mutation](bytearray(originals()[name]), random)
    if content.startswith(PNG) and random.random() < 0.7:  # else nothing behind the checksum is reached
        content = _with_checksums(content)
    return f"{name}, {mutation}", random.choice(SUFFIXES), bytes(content)


def flip_bits(content: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return content


def flip_header_bits(content: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 2, 4))):
        content[random.randrange(min(len(content), 200))] ^= 1 << random.randrange(8)
    return content


def truncate(content: bytearray, random: Random) -> bytearray:
    return content[: random.choice((random.randrange(len(content)), len(content) - 1, random.randrange(64)))]


def add_bytes(content: bytearray, random: Random) -> bytearray:
    at = random.choice((0, len(content), random.randrange(len(content))))
    return content[:at] + random.randbytes(random.choice((1, 7, 400))) + content[at:]


def splice(content: bytearray, random: Random) -> bytearray:
    other = random.choice(list(originals().values()))
    return content[: random.randrange(len(content))] + other[random.randrange(len(other)) :]


def shuffle_segments(content: bytearray, random: Random) -> bytearray:
    """Swaps, drops or repeats two of the format's own segments, or of 8 equal parts if it has none."""
    bounds = _segments(content) or list(range(0, len(content), max(len(content) // 8, 1)))
    parts = [content[a:b] for a, b in pairwise([0, *bounds, len(content)])]
    for _ in range(random.choice((1, 1, 3))):
        a, b = random.randrange(len(parts)), random.randrange(len(parts))
        match random.choice(("swap", "drop", "repeat")):
            case "swap":
                parts[a], parts[b] = parts[b], parts[a]
            case "drop" if len(parts) > 1:
                del parts[a]
            case _:
                parts.insert(b, parts[a])
    return bytearray().join(parts)


def change_sizes(content: bytearray, random: Random) -> bytearray:
    """Replaces the width or the height, wherever the header says it."""
    side = random.choice(SIZE)
    forms = [(width, order) for width in (4, 2) for order in ("big", "little")]
    for width, order in random.sample(forms, len(forms)):
        at = content.find(side.to_bytes(width, order), 4, 1000)  # type: ignore[arg-type]
        if at >= 0:
            value = random.choice(EXTREMES) % 256**width
            content[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
            return content
    return flip_header_bits(content, random)


def garble_exif(content: bytearray, random: Random) -> bytearray:
    """Changes tags, types, counts and values of the EXIF data, which a TIFF is as a whole."""
    starts = [at for mark in (b"II*\0", b"MM\0*") if (at := content.find(mark)) >= 0]
    if not starts:
        return add_bytes(content, random)
    for _ in range(random.choice((1, 2, 5, 20))):
        at = min(starts) + 8 + random.randrange(200)
        if at + 4 <= len(content):
            order = random.choice(("big", "little"))
            width = random.choice((1, 2, 4))
            value = random.choice((*EXTREMES, random.randrange(2**32))) % 256**width
            content[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
    return content


def rename(content: bytearray, random: Random) -> bytearray:
    """Changes nothing: the suffix is drawn in any case, and seldom right."""
    return content


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        *(flip_bits, flip_header_bits, truncate, add_bytes, splice),
        *(shuffle_segments, change_sizes, garble_exif, rename),
    )
}


def judge(seed: int, first: int, count: int) -> list[Verdict]:
    """Reads images `first` to `first + count` as one catalogue, and each as a query."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names, told = {}, {}
        for number in range(first, first + count):
            what, suffix, content = mutated(seed, number)
            names[number] = f"{number}.{suffix}"
            told[number] = f"seed {seed}, image {number} ({what})"
            (folder / names[number]).write_bytes(content)
        try:
            found = _catalogue(folder, list(names.values()))
        except Exception as error:
            fault = f"the catalogue of images {first} to {first + count - 1} stopped: {error!r}"
            return [Verdict(told[number], "crash", "", fault) for number in names]
        return [_verdict(told[number], folder / name, *found[name]) for number, name in names.items()]


def _catalogue(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """By name: accepted and the crop's bytes, or the reason why it was left out."""
    Image.new("RGB", SIZE).save(folder / "good.png")  # a catalogue without any item is refused as a whole
    rows = [f"{name},{name},catalog,train" for name in ("good.png", *names)]
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(["sku_id,image_path,domain,split", *rows]))
    catalogue = read_manifest(manifest, ManifestSettings(path=str(manifest)), SplitSettings())
    crops, skipped = write_crops(catalogue.items, folder.joinpath, folder / "crops", CropSettings())
    left_out = [*catalogue.skipped.iter_rows(named=True), *skipped.iter_rows(named=True)]
    found = {row["path"]: (row["reason"], b"") for row in left_out}
    for row in crops.iter_rows(named=True):
        found[row["orig_image_path"]] = (ACCEPTED, (folder / "crops" / row["crop_path"]).read_bytes())
    return found


def _verdict(image: str, path: Path, catalogue: str, crop: bytes) -> Verdict:
    queries = []
    for source in (path, path.read_bytes()):
        try:
            photo = read_photo(source)
        except UserError as error:
            queries.append((getattr(error.__cause__, "reason", "not told"), b""))
        except Exception as error:
            return Verdict(image, catalogue, "crash", f"the query stopped: {error!r}")
        else:
            buffer = io.BytesIO()
            photo.save(buffer, "JPEG", quality=CropSettings().quality)
            queries.append((ACCEPTED, buffer.getvalue()))
    (query, pixels), from_bytes = queries
    fault = None
    if from_bytes != queries[0]:
        fault = f"as a file: {query}, as bytes: {from_bytes[0]}, or other pixels"
    elif catalogue != query:
        fault = f"the catalogue says {catalogue}, the query {query}"
    elif crop != pixels:
        fault = "the catalogue's pixels are not the query's"
    return Verdict(image, catalogue, query, fault)


def _encoded(mode: str, kind: str, options: dict[str, Any]) -> bytes | None:
    buffer = io.BytesIO()
    if not (kind == "AVIF" and "save_all" in options):  # writing EXIF then ends the process (Pillow 13.0)
        options = {**options, "exif": _exif(), "xmp": XMP}
    try:
        _picture(mode).save(buffer, kind, **options)
    except Exception:  # a format that does not hold this mode, or only through another program
        return None
    return buffer.getvalue()


def _picture(mode: str) -> Image.Image:
    colours = np.random.default_rng(3).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return (
        image if mode == "RGBA" else image.convert("RGB").convert("L" if mode == "F" else mode).convert(mode)
    )


def _exif() -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = 6
    found[ExifTags.Base.XResolution] = 72.5
    found[ExifTags.Base.Make] = "a phone"
    found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.5)
    return found


def _segments(content: bytearray) -> list[int]:
    """Where the chunks, markers or boxes of a PNG, JPEG, WebP, AVIF or JPEG 2000 file begin."""
    if content.startswith(PNG):
        return _walk(content, 8, 0, "big", 12)
    if content.startswith(b"\xff\xd8"):
        return _walk(content, 2, 2, "big", 2, width=2)
    if content.startswith(b"RIFF"):
        return _walk(content, 12, 4, "little", 8)
    if content[4:8] in (b"ftyp", b"jP  "):
        return _walk(content, 0, 0, "big", 0)
    return []


def _walk(content: bytearray, at: int, field: int, order: Any, more: int, width: int = 4) -> list[int]:
    """Follows length fields, `field` bytes into each segment, which count all of it but `more` bytes."""
    found = []
    while at + field + width <= len(content):
        found.append(at)
        length = int.from_bytes(content[at + field : at + field + width], order) + more
        at += max(length + (length % 2 if order == "little" else 0), 1)
    return found


def _with_checksums(content: bytearray) -> bytearray:
    """A PNG whose chunks have the checksum of what they hold now."""
    for start in _walk(content, 8, 0, "big", 12):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if end + 4 <= len(content):
            content[end : end + 4] = zlib.crc32(content[start + 4 : end]).to_bytes(4, "big")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first image, to repeat a part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=cores_available())
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    ends = options.first + options.images
    starts = list(range(options.first, ends, FOLDER))
    verdicts: list[Verdict] = []
    died = False
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(judge, options.seed, at, min(FOLDER, ends - at)) for at in starts]
        for at, part in zip(starts, parts, strict=True):
            try:
                verdicts += part.result()
            except BrokenProcessPool:
                died = True
                print(f"a worker died in or after images {at} to {at + FOLDER - 1}")
                break
    seconds = time.perf_counter() - started
    return report(verdicts, seconds) or int(died)


def report(verdicts: Sequence[Verdict], seconds: float) -> int:
    """Prints the counts and every fault; returns 1 if there is one."""
    print(f"{len(verdicts)} images in {seconds:.0f} s")
    for verdict, count in sorted(Counter(verdict.catalogue for verdict in verdicts).items()):
        print(f"  {verdict}: {count}")
    faults = [verdict for verdict in verdicts if verdict.fault is not None]
    print(f"crashes and disagreements: {len(faults)}")
    for verdict in faults:
        print(f"  {verdict.image}: {verdict.fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
