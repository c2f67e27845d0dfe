import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from skufp_pipeline.datasets.crops import CropSettings, write_crops
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import (
    FORMATS,
    SIDE,
    PhotoError,
    decodes,
    open_photo,
    read_crop,
    size_of,
    what_is_wrong,
    whole_photo,
)
from skufp_pipeline.query.engine import read_photo

from .datasets.trees import table, truncate, write_changed_image, write_image, write_png_bomb

SUFFIXES = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
    "JPEG2000": "jp2",
}
WITHOUT_EXIF = ("BMP", "GIF", "JPEG2000")


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """Smooth colours, no two corners alike."""
    colours = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def see_through(image: Image.Image) -> Image.Image:
    """Opaque at the bottom, transparent at the top."""
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def exif(value: int) -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = value
    return found


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def turned(image: Image.Image, value: int) -> bytes:
    """As a phone stores it whose sensor lies as `value` says: the viewer sees `image`."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose
    stored = image.transpose(Image.Transpose(undo[value])) if value in undo else image
    return encoded(stored, "PNG", exif=exif(value))


def of_two_frames(kind: str) -> bytes:
    return encoded(scene(), kind, save_all=True, append_images=[Image.new("RGB", (60, 40), "red")])


SMALL, LARGE = scene(), scene(1300, 1100)
PALETTE = SMALL.quantize(16)
SEVERAL_FRAMES = ("GIF", "WEBP", "PNG", "MPO", "TIFF", "AVIF")


def pictures() -> dict[str, Callable[[], bytes]]:
    """What a shop or a phone may send: every format, orientation, colour model and depth."""
    found: dict[str, Callable[[], bytes]] = {}

    def add(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        found[f"{kind} {name}"] = lambda: encoded(image, kind, **options)

    for kind in FORMATS:
        add("plain", SMALL, kind)
        add("large", LARGE, kind)
        if kind not in WITHOUT_EXIF:
            add("on its side", SMALL, kind, exif=exif(6))
    for kind in ("PNG", "WEBP", "TIFF", "AVIF"):
        add("transparent", see_through(SMALL), kind)
    for kind in SEVERAL_FRAMES:
        found[f"{kind} of two frames"] = partial(of_two_frames, kind)
    for mode in ("1", "L", "P"):
        add(mode, SMALL.convert(mode), "PNG")
    for mode in ("CMYK", "YCbCr", "I", "F"):
        add(mode, SMALL.convert(mode), "TIFF")
    for mode in ("L", "CMYK"):
        add(mode, SMALL.convert(mode), "JPEG")
    add("LA", see_through(SMALL).convert("LA"), "PNG")
    add("P with a transparent colour", PALETTE, "PNG", transparency=3)
    add("P with a transparent colour", PALETTE, "GIF", transparency=3)
    add("P with alpha", PALETTE, "PNG", transparency=bytes(range(0, 256, 16)))
    add("RGB with a transparent colour", SMALL, "PNG", transparency=SMALL.getpixel((0, 0)))
    add("I;16", grey16(SMALL), "PNG")
    add("I;16", grey16(SMALL), "TIFF")
    add("I;16 large", grey16(LARGE), "PNG")
    add("progressive", LARGE, "JPEG", progressive=True)
    add("large on its side", LARGE, "JPEG", exif=exif(8))
    add("large transparent", see_through(LARGE), "PNG")
    return found


PICTURES = pictures()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("picture", PICTURES)
def test_index_and_query_see_the_same_pixels(picture: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.jpg"
    path.write_bytes(PICTURES[picture]())
    items = table({"orig_image_path": path.name, "bbox": [0, 0, *size_of(path)]})
    crops, skipped = write_crops(items, tmp_path.joinpath, tmp_path / "crops", CropSettings())
    assert skipped.is_empty()
    photo = read_photo(path)
    assert max(photo.size) <= SIDE
    written = (tmp_path / "crops" / crops["crop_path"][0]).read_bytes()
    assert written == encoded(photo, "JPEG", quality=CropSettings().quality)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("picture", PICTURES)
def test_bytes_are_read_as_their_file_is(picture: str, tmp_path: Path) -> None:
    content = PICTURES[picture]()
    (tmp_path / "a.png").write_bytes(content)
    from_bytes, from_file = open_photo(content), open_photo(tmp_path / "a.png")
    assert size_of(content) == size_of(tmp_path / "a.png") == from_file.size
    assert from_bytes.info == from_file.info == {}
    np.testing.assert_array_equal(pixels(from_bytes), pixels(from_file))
    np.testing.assert_array_equal(pixels(read_photo(content)), pixels(read_photo(tmp_path / "a.png")))


def test_grey_of_any_depth_is_the_same_grey() -> None:
    grey = np.asarray(SMALL.convert("L"))
    for values, kinds in {
        "8": (grey, ("PNG", "TIFF")),
        "16": (grey.astype(np.uint16) * 257, ("PNG", "TIFF")),
        "32": (grey.astype(np.int32), ("TIFF",)),
        "float": (grey.astype(np.float32), ("TIFF",)),
        "float to 1": (grey.astype(np.float32) / 255, ("TIFF",)),
    }.values():
        for kind in kinds:
            found = pixels(open_photo(encoded(Image.fromarray(values), kind)))
            np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


def test_integers_and_floats_are_grey_by_the_range_that_holds_them() -> None:
    def read(values: np.ndarray) -> list[int]:
        return pixels(open_photo(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist()

    assert read(np.array([[0, 257, 65535, -4]], np.int32)) == [0, 1, 255, 0]
    assert read(np.array([[0, 2**30, 2**31 - 1]], np.int32)) == [0, 128, 255]
    assert read(np.array([[0, 0.5, -1, np.nan]], np.float32)) == [0, 128, 0, 0]
    assert read(np.array([[0, 1e30, np.inf]], np.float32)) == [0, 255, 255]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGBX"])
def test_colours_of_another_model_are_the_same_colours(mode: str) -> None:
    found = pixels(open_photo(encoded(SMALL.convert(mode), "TIFF")))
    assert np.abs(found - pixels(SMALL)).max() <= 4


def test_inverted_cmyk_of_adobe_is_not_a_negative() -> None:
    found = pixels(open_photo(encoded(SMALL.convert("CMYK"), "JPEG", quality=100)))
    assert np.abs(found - pixels(SMALL)).mean() < 4


def test_ycck_is_the_same_picture() -> None:
    """Photoshop's form of CMYK: what Pillow writes as CMYK, its first three planes turned to YCbCr."""
    inks = Image.merge("RGB", [Image.eval(band, lambda value: 255 - value) for band in SMALL.split()])
    planes = [Image.eval(band, lambda value: 255 - value) for band in inks.convert("YCbCr").split()]
    cmyk = Image.merge("CMYK", [*planes, Image.new("L", SMALL.size, 0)])
    content = bytearray(encoded(cmyk, "JPEG", quality=100, subsampling=0))
    content[content.index(b"Adobe") + 11] = 2  # the marker's transform
    assert np.abs(pixels(open_photo(bytes(content))) - pixels(SMALL)).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_becomes_white_by_its_share(kind: str) -> None:
    layer = Image.new("RGBA", (3, 1), (200, 0, 100, 255))
    layer.putpixel((1, 0), (200, 0, 100, 51))
    layer.putpixel((2, 0), (200, 0, 100, 0))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(open_photo(encoded(layer, kind, **options)))
    assert found[0].tolist() == [[200, 0, 100], [244, 204, 224], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "I;16"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    image = Image.new("RGB", (2, 1), "white")
    image.putpixel((0, 0), (0, 0, 0))
    image = grey16(image) if mode == "I;16" else image.convert(mode)
    found = open_photo(encoded(image, "PNG", transparency=image.getpixel((0, 0))))
    assert pixels(found).min() == 255


@pytest.mark.parametrize("value", range(1, 9))
def test_a_picture_is_turned_upright(value: int) -> None:
    content = turned(SMALL, value)
    assert size_of(content) == (60, 40)
    np.testing.assert_array_equal(pixels(open_photo(content)), pixels(SMALL))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in WITHOUT_EXIF])
def test_sizes_are_those_of_the_upright_image(kind: str, value: int) -> None:
    content = encoded(SMALL, kind, exif=exif(value))
    assert open_photo(content).size == size_of(content) == ((60, 40) if value < 5 else (40, 60))


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_out_of_range_counts_as_none(value: int) -> None:
    assert size_of(encoded(SMALL, "JPEG", exif=exif(value))) == (60, 40)


def test_an_orientation_after_the_pixels_is_not_waited_for() -> None:
    chunks = turned(SMALL, 6).split(b"eXIf")
    length = int.from_bytes(chunks[0][-4:], "big")
    exif_chunk = chunks[0][-4:] + b"eXIf" + chunks[1][: length + 4]
    rest = chunks[0][:-4] + chunks[1][length + 4 :]
    content = rest[:-12] + exif_chunk + rest[-12:]
    assert open_photo(content).size == size_of(content) == (40, 60)


def test_a_large_jpeg_is_reduced_while_it_is_decoded() -> None:
    content = encoded(LARGE, "JPEG", quality=95)
    assert open_photo(content).size == (1300, 1100)
    assert open_photo(content, enough=SIDE).size == (650, 550)
    assert open_photo(content, enough=1100).size == (1300, 1100)
    assert open_photo(encoded(LARGE, "PNG"), enough=SIDE).size == (1300, 1100)
    found, plain = whole_photo(content), LARGE.resize((512, 433), Image.Resampling.LANCZOS)
    assert found.size == plain.size
    assert np.abs(pixels(found) - pixels(plain)).mean() < 1


def test_a_small_picture_keeps_its_pixels() -> None:
    np.testing.assert_array_equal(pixels(whole_photo(encoded(SMALL, "PNG"))), pixels(SMALL))
    assert whole_photo(encoded(Image.new("RGB", (2000, 1)), "PNG"), side=100).size == (100, 1)


def test_of_several_frames_the_first_is_read() -> None:
    for kind in SEVERAL_FRAMES:
        found = pixels(open_photo(of_two_frames(kind)))
        assert np.abs(found - pixels(SMALL)).mean() < 8, kind


def test_the_name_does_not_say_what_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(encoded(SMALL, "PNG"))
    np.testing.assert_array_equal(pixels(open_photo(tmp_path / "a.txt")), pixels(SMALL))


def test_a_colour_profile_changes_no_pixel() -> None:
    plain = encoded(SMALL, "PNG")
    np.testing.assert_array_equal(
        pixels(open_photo(encoded(SMALL, "PNG", icc_profile=b"no profile at all"))), pixels(open_photo(plain))
    )


def reason_of(source: Path | bytes, max_pixels: int = 100_000_000) -> str:
    with pytest.raises(PhotoError) as caught:
        open_photo(source, max_pixels)
    name = source.name if isinstance(source, Path) else "the picture"
    assert caught.value.detail == f"{name} {caught.value.why}"
    assert what_is_wrong(caught.value) == caught.value.why
    if isinstance(source, Path):
        assert not decodes(source)
        with pytest.raises(UserError, match=r"^crop .*; materialize sku_crops again$") as told:
            read_crop(source)
        assert str(source) in str(told.value)
    return caught.value.reason


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_wrong_with_an_image_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "short.jpg", size=(200, 200))
    truncate(tmp_path / "short.jpg")
    write_image(tmp_path / "progressive.jpg", size=(200, 200), progressive=True)
    truncate(tmp_path / "progressive.jpg", keep=0.9)
    write_image(tmp_path / "short.png", size=(200, 200))
    truncate(tmp_path / "short.png", keep=0.7)
    (tmp_path / "words.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "script.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    )
    SMALL.save(tmp_path / "icon.ico")
    write_image(tmp_path / "wide.png", size=(7, 1))
    write_png_bomb(tmp_path / "bomb.png", 30_000, 30_000)
    write_png_bomb(tmp_path / "large.png", 12_000, 12_000)
    found = {path.name: reason_of(path) for path in sorted(tmp_path.iterdir()) if path.name != "wide.png"}
    assert found == {
        "bomb.png": "image_too_large",
        "empty.jpg": "broken_image",
        "folder.jpg": "missing_image",
        "icon.ico": "unsupported_image",
        "large.png": "image_too_large",
        "page.pdf": "unsupported_image",
        "progressive.jpg": "broken_image",
        "script.eps": "unsupported_image",
        "short.jpg": "broken_image",
        "short.png": "broken_image",
        "words.jpg": "broken_image",
    }
    assert open_photo(tmp_path / "wide.png", max_pixels=7).size == size_of(tmp_path / "wide.png", 7) == (7, 1)
    with pytest.raises(PhotoError, match=r"wide.png has 7 x 1 pixels; the limit is 6"):
        open_photo(tmp_path / "wide.png", max_pixels=6)
    assert reason_of(tmp_path / "nowhere.jpg") == "missing_image"
    assert reason_of(tmp_path / ("x" * 5000)) == "missing_image"
    for name in ("short.jpg", "short.png", "words.jpg", "empty.jpg", "bomb.png", "large.png"):
        assert reason_of((tmp_path / name).read_bytes()) == found[name]


def test_the_formats_that_are_read_are_told() -> None:
    with pytest.raises(
        PhotoError, match="is no readable JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or JPEG2000 file"
    ):
        open_photo(b"GIF, so it says")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_picture_is_broken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"short.{SUFFIXES[kind]}"
    Image.effect_noise((200, 200), 90).convert("RGB").save(path)
    assert read_photo(path).size == (200, 200)
    assert decodes(path)
    truncate(path)
    assert reason_of(path) == "broken_image"
    with pytest.raises(UserError, match="can't be read as an image") as caught:
        read_photo(path)
    assert str(path) in str(caught.value)


def with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + chunk + content[33:]


def test_a_bomb_in_a_text_or_a_profile_does_not_go_off() -> None:
    zeros = zlib.compress(bytes(200_000_000), 9)
    for kind in (b"zTXt", b"iCCP"):
        assert reason_of(with_chunk(encoded(SMALL, "PNG"), kind, b"name\0\0" + zeros)) == "broken_image"


def test_more_pixel_data_than_the_header_says_is_not_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(100_000_000), 9), b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert open_photo(content).size == (4, 4)


def test_a_failing_disk_is_not_taken_for_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png")

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(5, "gone")

    monkeypatch.setattr(Image.Image, "convert", failing)
    with pytest.raises(OSError, match="gone"):
        open_photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"photo .*a\.png can't be read: .*gone"):
        read_photo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"crop .*a\.png can't be read: .*gone; materialize"):
        read_crop(tmp_path / "a.png")


def test_a_file_that_may_not_be_read_is_not_taken_for_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png")

    def denied(*_: Any, **__: Any) -> None:  # root may read everything: said here as the system says it
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(PhotoError, match=r"^a\.png can't be read: access is denied; change its") as caught:
        size_of(tmp_path / "a.png")
    assert caught.value.reason == "unreadable_image"
    with pytest.raises(UserError, match=r"photo .*a\.png can't be read: access is denied"):
        read_photo(tmp_path / "a.png")
    assert not decodes(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error",
    [
        *(struct.error("cut"), SyntaxError("no IDAT"), OverflowError("too large"), MemoryError(), EOFError()),
        *(
            ZeroDivisionError("0/0"),
            RecursionError("deep"),
            Image.DecompressionBombError("bomb"),
            KeyError(3),
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_decoder_raises_skips_one_picture_of_a_catalogue_and_is_told_of_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_image(tmp_path / "bad.png", size=(7, 5))
    write_image(tmp_path / "good.png", size=(40, 60))
    load = Image.Image.convert

    def failing(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        if image.size == (7, 5):
            raise error
        return load(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "convert", failing)
    items = table(
        {"image_id": "bad", "orig_image_path": "bad.png", "bbox": [0, 0, 7, 5]},
        {"image_id": "good", "orig_image_path": "good.png", "bbox": [0, 0, 40, 60]},
    )
    crops, skipped = write_crops(items, tmp_path.joinpath, tmp_path / "crops", CropSettings())
    assert crops["image_id"].to_list() == ["good"]
    by_size = isinstance(error, (MemoryError, Image.DecompressionBombError))
    expected = "image_too_large" if by_size else "broken_image"
    assert skipped.select("image_id", "reason").rows() == [("bad", expected)]
    with pytest.raises(UserError, match=r"^photo .*bad\.png (can't be read as an image|has more|needs more)"):
        read_photo(tmp_path / "bad.png")


def test_a_box_that_memory_does_not_hold_skips_its_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png")

    def failing(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "crop", failing)
    _, skipped = write_crops(
        table({"orig_image_path": "a.png"}), tmp_path.joinpath, tmp_path / "crops", CropSettings()
    )
    assert skipped["reason"].to_list() == ["image_too_large"]


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TiffTags.SIGNED_LONG, -6),
        (TiffTags.LONG, 2**32 - 1),
        (TiffTags.SIGNED_RATIONAL, -6.0),
        (TiffTags.SIGNED_RATIONAL, 0.5),
        (TiffTags.ASCII, "six"),
        (TiffTags.UNDEFINED, b"\6"),
        (TiffTags.DOUBLE, float("nan")),
    ],
)
def test_odd_exif_costs_no_picture_and_turns_none(kind: int, value: Any) -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.tagtype = {ExifTags.Base.Orientation: kind, ExifTags.Base.XResolution: TiffTags.SIGNED_RATIONAL}
    directory[ExifTags.Base.Orientation] = value
    directory[ExifTags.Base.XResolution] = -72.5
    data = b"Exif\0\0II*\0\x08\0\0\0" + directory.tobytes(8)
    assert Image.open(io.BytesIO(encoded(SMALL, "JPEG", exif=data))).getexif()[ExifTags.Base.XResolution] < 0
    for kind_of_file in ("JPEG", "PNG", "WEBP"):
        content = encoded(SMALL, kind_of_file, exif=data)
        assert size_of(content) == open_photo(content).size == (60, 40)


def test_an_uncompressed_tiff_on_its_side_is_the_same_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(encoded(SMALL.convert("L"), "TIFF", exif=exif(6)))
    upright = SMALL.convert("L").transpose(Image.Transpose.ROTATE_270).convert("RGB")
    np.testing.assert_array_equal(pixels(open_photo(tmp_path / "a.tif")), pixels(upright))


def test_a_jpeg_of_up_to_four_times_the_limit_is_decoded_at_half_its_size(tmp_path: Path) -> None:
    path = tmp_path / "raw.jpg"
    SMALL.save(path, quality=95)
    assert size_of(path, 600) == (60, 40)
    assert open_photo(path, 600).size == whole_photo(path, 100, 600).size == (30, 20)
    assert whole_photo(path, 15, 600).size == (15, 10)
    with pytest.raises(PhotoError, match="has 60 x 40 pixels; the limit is 2,396 for a JPEG"):
        size_of(path, 599)
    for content in (encoded(SMALL, "JPEG", progressive=True), encoded(SMALL, "PNG")):
        assert reason_of(content, 2399) == "image_too_large"


def test_a_box_of_a_halved_jpeg_is_the_same_part_of_it(tmp_path: Path) -> None:
    LARGE.save(tmp_path / "raw.jpg", quality=95)
    items = table({"orig_image_path": "raw.jpg", "bbox": [200, 101, 500, 300]})
    crops, _ = write_crops(items, tmp_path.joinpath, tmp_path / "crops", CropSettings(max_pixels=500_000))
    found = open_photo(tmp_path / "crops" / crops["crop_path"][0])
    expected = LARGE.reduce(2).crop((100, 50, 250, 150))
    assert found.size == expected.size
    assert np.abs(pixels(found) - pixels(expected)).mean() < 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_phone_s_200_million_pixels_are_read_by_catalogue_and_query(tmp_path: Path) -> None:
    path = tmp_path / "raw.jpg"
    Image.new("L", (16_384, 12_288), 90).save(path, exif=exif(6))
    size = size_of(path)
    assert size == (12_288, 16_384)
    items = table({"orig_image_path": "raw.jpg", "bbox": [0, 0, *size]})
    crops, _ = write_crops(items, tmp_path.joinpath, tmp_path / "crops", CropSettings())
    assert crops.select("width", "height").rows() == [(384, 512)]
    assert read_photo(path).size == (384, 512)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC photo; save it as JPEG .*Most Compatible"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "it is a HEIC photo; save it as JPEG .*Most Compatible"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page; save it as JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG or another XML file; save it as JPEG"),
        (b"\xff\x0a\0\0", "it is a JPEG XL file; save it as JPEG"),
    ],
)
def test_a_format_that_is_not_read_is_told_with_the_remedy(content: bytes, told: str) -> None:
    assert reason_of(content) == "unsupported_image"
    with pytest.raises(UserError, match=told):
        read_photo(content)


def test_an_empty_file_is_told() -> None:
    with pytest.raises(PhotoError, match="can't be read as an image: the file is empty"):
        open_photo(b"")


def test_no_warning_of_pillow_is_shown() -> None:
    program = (
        "import io; from PIL import Image; from skufp_pipeline.photos import open_photo\n"
        "buffer = io.BytesIO()\n"
        "Image.new('P', (4, 4)).save(buffer, 'PNG', transparency=bytes([0, 9]))\n"
        "print(open_photo(buffer.getvalue()).size)"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(4, 4)\n", "")


def test_a_tiff_whose_pixels_lie_before_the_file_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGB", (16, 24)).save(path)
    before = struct.pack("<HHI", 273, 4, 1)  # StripOffsets, one unsigned integer
    head, _, tail = path.read_bytes().partition(before)
    path.write_bytes(head + struct.pack("<HHIi", 273, 9, 1, -1) + tail[4:])
    with pytest.raises(PhotoError) as error:
        open_photo(path)
    assert error.value.reason == "broken_image"


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kind=st.sampled_from(FORMATS), random=st.randoms())
def test_bytes_changed_anywhere_are_a_picture_or_an_error_that_names_it(
    tmp_path: Path, kind: str, random: Random
) -> None:
    path = tmp_path / "changed"
    write_changed_image(path, kind, random)
    try:
        picture = open_photo(path, 10_000)
        assert picture.mode == "RGB"
        assert picture.width * picture.height <= 10_000
        assert size_of(path) == picture.size
        reason = "none"
    except PhotoError as error:
        reason = error.reason
    assert reason in ("none", "broken_image", "image_too_large")
    try:
        outcome = read_photo(path).mode
    except UserError as error:
        outcome = str(error)
    assert outcome == "RGB" or str(path) in outcome
