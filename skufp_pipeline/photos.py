"""Decodes all pictures, of the catalogue and of queries, from a path or bytes to upright 8-bit RGB.

- The format, one of `FORMATS`, is detected from the content; only the first frame is used.
- Pictures above `max_pixels` are rejected by their header, before decoding. A JPEG may have four times as
  many (phones' have 50 to 200 million), because it can be decoded at half its size; not so a progressive one.
- JPEGs larger than needed are reduced by 2, 4 or 8 while decoding (libjpeg's scaled DCT).
- EXIF orientation is applied if it precedes the pixels, so that `size_of` need not decode them.
- Any colour model and depth becomes 8-bit RGB, and transparency becomes white.
- Whatever a decoder raises is a `PhotoError` of this one file; its warnings are not shown.
- Metadata is dropped. ICC profiles are ignored, as they were when the encoders were trained.

Catalogue pictures without a box and query photos are both read by `whole_photo`, so that the same picture has
the same pixels in both. A box of the catalogue is cut at full resolution (`open_photo`) and then reduced; for
one of a query photo a JPEG may be decoded at a smaller scale (`datasets.crops.read_items`).
"""

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import ExifTags, Image
from pydantic import Field

from skufp_pipeline.errors import ItemError, UserError, in_a_line

PhotoSource = Path | bytes

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")  # JPEG includes phones' MPO
SIDE = 512  # pixels; at least twice the input size of the encoders and of the policy

LARGEST = 2**28  # pixels; Pillow rejects a larger image in any case
MaxPixels = Annotated[int, Field(gt=0, le=LARGEST)]
MAX_PIXELS = 100_000_000  # of query photos, and the default for catalogue pictures
Image.MAX_IMAGE_PIXELS = LARGEST // 2  # Pillow rejects from twice this
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata, palettes and sizes

MISSING = "can't be read: it does not exist or is no file"
START = 64  # bytes, which tell a format
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
HEIC = (
    "can't be read as an image: it is a HEIC photo; save it as JPEG "
    "(iPhones take JPEGs with Settings > Camera > Formats > Most Compatible)"
)
OTHERS = {  # lower case, after white space
    "a web page": (b"<!doctype html", b"<html"),
    "an SVG or another XML file": (b"<svg", b"<?xml"),
    "a PDF file": (b"%pdf-",),
    "a PostScript file": (b"%!ps",),
    "a Photoshop file": (b"8bps",),
    "a JPEG XL file": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
    "an icon file": (b"\0\0\1\0",),
}

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # but those within coded data
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # APP0 and APP14 say what the colours are

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(ItemError):
    """A picture that can't be used.

    Attributes:
        reason: missing_image, unreadable_image (access denied), image_too_large, unsupported_image (a format
            that is not read) or broken_image.
        why: what is wrong, worded to follow the picture's name.
    """

    def __init__(self, reason: str, name: str, why: str) -> None:
        super().__init__(reason, f"{name} {why}")
        self.why = why


def what_is_wrong(error: PhotoError | OSError) -> str:
    """Why a picture was not read, worded to follow its name."""
    return error.why if isinstance(error, PhotoError) else f"can't be read: {error}"


def whole_photo(source: PhotoSource, side: int = SIDE, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a picture reduced to at most `side` pixels on the longer side. Raises as `open_photo`."""
    with _opened(source, max_pixels) as image:
        return reduced(_upright(image, max_pixels, side), side)


def open_photo(source: PhotoSource, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> Image.Image:
    """Reads a picture as upright 8-bit RGB on white, without metadata.

    A JPEG of more than `max_pixels` comes at half its size (see `size_of`) or less.

    Args:
        enough: a JPEG is decoded at the smallest scale with at least this many pixels per side.

    Raises:
        PhotoError: see its reasons.
        OSError: disk or network failure; the picture may be intact.
    """
    with _opened(source, max_pixels) as image:
        return _upright(image, max_pixels, enough)


def size_of(source: PhotoSource, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header alone. Raises as `open_photo`.

    >>> buffer = io.BytesIO()
    >>> Image.new("L", (30, 20)).save(buffer, "PNG")
    >>> size_of(buffer.getvalue()), open_photo(buffer.getvalue()).mode
    ((30, 20), 'RGB')
    """
    with _opened(source, max_pixels) as image:
        lies_on_its_side = _orientation(image) >= 5
        return (image.height, image.width) if lies_on_its_side else image.size


def without_metadata(source: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """The same picture without EXIF, GPS, comments, previews, or anything after its end.

    Whatever is read of it has the same pixels. A JPEG keeps its coded data; another format becomes a PNG.
    Raises as `open_photo`.
    """
    with _opened(source, max_pixels) as image:
        if image.format in ("JPEG", "MPO"):
            return _bare_jpeg(source, _orientation(image))
        buffer = io.BytesIO()
        _upright(image, max_pixels, None).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def read_crop(path: Path, enough: int | None = None) -> Image.Image:
    """Reads a picture that the pipeline wrote; raises UserError if it is missing or can't be decoded."""
    try:
        return open_photo(path, enough=enough)
    except (PhotoError, OSError) as error:
        raise UserError(f"crop {path} {what_is_wrong(error)}; materialize sku_crops again") from error


def decodes(path: Path) -> bool:
    """Whether the file exists and can be decoded completely."""
    try:
        open_photo(path)
    except (PhotoError, OSError):
        return False
    return True


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """Scales the longer side down to `side` pixels; smaller pictures stay unchanged."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to 8-bit RGB; transparency becomes white, as on a shop's page."""
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer)
    return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16-bit grey by its high byte, 32-bit grey by its range because its files don't define white.

    White is the first of 1 (floats only), 255, 65535 and 2^31 - 1 that no pixel exceeds.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = np.where(values == image.info.get("transparency"), 255, values >> 8)
    else:
        values = np.nan_to_num(values)
        whites = (1, 255, 2**16 - 1, 2**31 - 1)[image.mode == "I" :]
        white = next((white for white in whites if values.max() <= white), whites[-1])
        grey = np.clip(values / white, 0, 1) * 255 + 0.5
    return Image.fromarray(grey.astype(np.uint8))


def _bare_jpeg(source: bytes, orientation: int) -> bytes:
    """A JPEG file of its first picture's segments that libjpeg decodes by, and the orientation (ITU-T T.81,
    annex B)."""
    kept, place, in_scan = [b"\xff\xd8"], 2, False
    if orientation != 1:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        content = exif.tobytes()
        kept.append(b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content)
    while (found := _JPEG_MARKER.search(source, place)) is not None:
        if in_scan:
            kept.append(source[place : found.start()])
        if (marker := found[1][0]) == _END_OF_IMAGE:
            return b"".join((*kept, b"\xff\xd9"))
        place = found.end() + int.from_bytes(source[found.end() : found.end() + 2], "big")
        in_scan = marker == _START_OF_SCAN
        if marker not in _JPEG_METADATA:
            kept.append(source[found.start() : place])
    return b"".join((*kept, source[place:] if in_scan else b""))


def _upright(image: Image.Image, max_pixels: int, enough: int | None) -> Image.Image:
    turn = _TURNS.get(_orientation(image))  # before loading, which adds EXIF data after a PNG's pixels
    half = 2 if _is_halved(image, max_pixels) else 1
    if enough is not None or half == 2:
        side = enough or max(image.size)
        image.draft(None, (min(side, image.width // half), min(side, image.height // half)))
    picture = to_rgb(image)
    picture.info = {}
    return picture if turn is None else picture.transpose(turn)


def _is_halved(image: Image.Image, max_pixels: int) -> bool:
    """Whether it has more than `max_pixels` and can be decoded at half its size or less.

    A progressive JPEG can too, but all its coefficients are kept in memory meanwhile.
    """
    can_be = image.format in ("JPEG", "MPO") and "progressive" not in image.info and min(image.size) > 1
    return can_be and image.width * image.height > max_pixels


@contextmanager
def _opened(source: PhotoSource, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image lazily, reading only its header.

    Decoding errors inside the `with` block are raised as PhotoError too.
    """
    name = source.name if isinstance(source, Path) else "the picture"
    start = b""
    if isinstance(source, Path) and not os.path.isfile(source):
        raise PhotoError("missing_image", name, MISSING)
    try:
        # Pillow maps the file of a path into memory; if it is cut short meanwhile, that ends the process.
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            start = file.read(START)
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image, name, max_pixels)
                yield image
    except Image.DecompressionBombError as error:
        raise PhotoError("image_too_large", name, f"has more than {LARGEST:,} pixels") from error
    except MemoryError as error:
        raise PhotoError("image_too_large", name, "needs more memory than is free") from error
    except Image.UnidentifiedImageError as error:
        raise _not_identified(name, start) from error
    except FileNotFoundError as error:  # removed meanwhile
        raise PhotoError("missing_image", name, MISSING) from error
    except PermissionError as error:
        why = "can't be read: access is denied; change its permissions"
        raise PhotoError("unreadable_image", name, why) from error
    except PhotoError:
        raise
    except Exception as error:  # decoders raise many types on broken files
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # EINVAL: an offset below 0
            raise
        raise PhotoError("broken_image", name, f"can't be read as an image: {in_a_line(error)}") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    half = 2 if _is_halved(image, max_pixels) else 1
    if -(-width // half) * -(-height // half) > max_pixels:
        limit = f"{max_pixels:,}" if half == 1 else f"{4 * max_pixels:,} for a JPEG"
        raise PhotoError("image_too_large", name, f"has {width} x {height} pixels; the limit is {limit}")


def _not_identified(name: str, start: bytes) -> PhotoError:
    """The error for a file of no format in `FORMATS`, which says what it is if its first bytes tell."""
    if not start:
        return PhotoError("broken_image", name, "can't be read as an image: the file is empty")
    if start[4:8] == b"ftyp" and any(brand in start[8:START] for brand in HEIC_BRANDS):
        return PhotoError("unsupported_image", name, HEIC)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    for what, marks in OTHERS.items():
        if text.startswith(marks):
            why = f"can't be read as an image: it is {what}; save it as {known}"
            return PhotoError("unsupported_image", name, why)
    return PhotoError("broken_image", name, f"can't be read as an image: it is no readable {known} file")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image that is not loaded yet; 1 if there is none."""
    if image.format == "TIFF":  # Pillow applies it
        return 1
    try:
        exif = Image.Image.getexif(image)  # a PNG's own method would decode the pixels
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `_opened`
        return 1
    return value if value in range(1, 9) else 1
