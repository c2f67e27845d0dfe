"""Uploaded photos: what is refused, what is kept of them, and for how long."""

import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from skufp_pipeline.photos import FORMATS, open_photo, size_of, whole_photo, without_metadata
from skufp_pipeline.query.seen import KEPT, MOST_BYTES, SeenPhoto
from skufp_pipeline.serving.photos import PhotoStore
from skufp_pipeline.serving.problems import Refusal
from skufp_pipeline.store import ArtifactStore

from ..datasets.trees import write_png_bomb
from ..encoders.examples import picture
from ..graphs import REPOSITORY
from .running import encoded, refused, serving, tiny_preset, uploaded

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from mutate_images import mutated

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
HEADERS = {"content-type": "multipart/form-data; boundary=b"}


def part(content: bytes, name: str = "photo") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../../x"\r\n\r\n'.encode()
    return head + content + b"\r\n"


def with_place() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a phone"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.5)
    return exif


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"hello", 422, "it is no readable JPEG"),
        (b"", 422, "the file is empty"),
        (b"<!DOCTYPE html><p>", 415, "it is a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "it is an SVG"),
        (HEIC, 415, "HEIC photo; save it as JPEG"),
        (encoded(picture("red", (300, 200)))[:-400], 422, "can't be read as an image"),
        (encoded(picture("red", (60, 40)), "PNG")[:60], 422, "can't be read as an image"),
    ],
)
def test_what_is_no_whole_photo_is_refused_with_what_to_do(
    client: httpx.Client, content: bytes, status: int, told: str
) -> None:
    answer = client.post("/v1/photos", files={"photo": ("photo.jpg", content, "image/jpeg")})
    assert told in refused(answer, status)


def test_too_many_pixels_are_refused_before_they_are_decoded(tiny: ArtifactStore, tmp_path: Path) -> None:
    write_png_bomb(tmp_path / "bomb.png", 40_000, 40_000)
    with serving(tiny_preset(tiny, photo_pixels=1000)) as (client, _):
        assert "40 x 30 pixels; the limit is 1,000" in refused(
            client.post("/v1/photos", files={"photo": encoded(picture("red", (40, 30)))}), 413
        )
        answer = client.post("/v1/photos", files={"photo": (tmp_path / "bomb.png").read_bytes()})
        assert "pixels" in refused(answer, 413)


def test_a_body_that_is_too_large_is_refused_told_or_counted(tiny: ArtifactStore) -> None:
    with serving(tiny_preset(tiny, photo_megabytes=0.1)) as (client, _):
        large = part(os.urandom(400_000)) + b"--b--\r\n"
        for body in (large, iter([large[:300_000], large[300_000:]])):  # with Content-Length, and without
            told = refused(client.post("/v1/photos", content=body, headers=HEADERS), 413)
            assert told == "The request's body has more than 165,536 bytes."
        json = b'{"text": "' + b"a" * 2**20 + b'"}'
        answer = client.post("/v1/search", content=json, headers={"content-type": "application/json"})
        refused(answer, 413)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (part(b"x", "other") + b"--b--\r\n", "found another part"),
        (part(b"x") + part(b"x") + b"--b--\r\n", "found several"),
        (b"--b--\r\n", "found none"),
        (part(b"x"), "no complete"),
        (b"no multipart", "no complete"),
    ],
)
def test_there_is_exactly_one_part(client: httpx.Client, body: bytes, told: str) -> None:
    assert told in refused(client.post("/v1/photos", content=body, headers=HEADERS), 422)


def test_a_slow_body_is_refused(tiny: ArtifactStore) -> None:
    with serving(tiny_preset(tiny, body_seconds=0.2)) as (client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as slow:
            slow.sendall(
                b"POST /v1/photos HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            slow.settimeout(30)
            answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert client.get("/v1/service").status_code == 200


def test_no_upload_touches_the_disk(tiny: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), np.uint8)
    content = encoded(Image.fromarray(noise), "PNG")  # more than python-multipart keeps in memory
    assert len(content) > 2**21
    opened: list[Any] = []
    watched = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watched[0] and event == "open" and isinstance(arguments[2], int):
            written = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            opened.extend([arguments[0]] if written and str(arguments[0]) != os.devnull else [])

    with serving(tiny_preset(tiny)) as (client, _):
        sys.addaudithook(hook)
        uploaded(client, content)
        watched[0] = False
    assert opened == []


@pytest.mark.parametrize("kind", FORMATS)
def test_the_place_where_a_photo_was_taken_is_not_kept_but_its_pixels_are(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((700, 530))
    options = {} if kind in ("GIF", "BMP", "JPEG2000") else {"exif": with_place()}
    content = encoded(image, kind, **options)
    bare = without_metadata(content + b"a phone" if kind == "JPEG" else content)
    assert (b"a phone" in content) == bool(options)
    assert b"a phone" not in bare
    assert b"GPS" not in bare
    assert size_of(bare) == size_of(content)
    for side in (512, 60):  # a JPEG is decoded at another scale for each
        assert whole_photo(bare, side).tobytes() == whole_photo(content, side).tobytes()
    assert open_photo(bare).tobytes() == open_photo(content).tobytes()


def test_a_progressive_or_two_picture_jpeg_keeps_its_pixels() -> None:
    image = picture("red", (90, 60))
    progressive = encoded(image, "JPEG", progressive=True, comment=b"a phone")
    two = encoded(image, "MPO", save_all=True, append_images=[picture("blue")])
    for content in (progressive, two):
        bare = without_metadata(content)
        assert open_photo(bare).tobytes() == open_photo(content).tobytes()
        assert len(bare) < len(content)


def test_no_hostile_upload_is_an_error_of_the_service(client: httpx.Client) -> None:
    statuses = set()
    for number in range(150):
        what, suffix, content = mutated(7, number)
        answer = client.post("/v1/photos", files={"photo": (f"a.{suffix}", content)})
        statuses.add(answer.status_code)
        assert answer.status_code in (201, 413, 415, 422), f"{what}: {answer.text}"
    assert {201, 422} <= statuses
    random = Random(3)
    body = part(encoded(picture("red"))) + b"--b--\r\n"
    for _ in range(150):
        broken = bytearray(body)
        for _ in range(random.choice((1, 3, 20))):
            broken[random.randrange(len(broken))] = random.randrange(256)
        answer = client.post("/v1/photos", content=bytes(broken), headers=HEADERS)
        assert answer.status_code in (201, 413, 415, 422), broken


def test_a_photo_is_forgotten_after_its_time_and_for_later_ones() -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    photos = PhotoStore(15, 2 * (MOST_BYTES + 40), 1, lambda: now[0])
    first, second = (photos.add(SeenPhoto(b"x" * 40), (1, 1)).photo_id for _ in range(2))
    photos.get(first)
    third = photos.add(SeenPhoto(b"x" * 40), (1, 1))
    with pytest.raises(Refusal, match="upload it again"):
        photos.get(second)  # it was asked for longest ago
    assert photos.get(first).photo_id == first
    now[0] += timedelta(minutes=15)
    with pytest.raises(Refusal, match="upload it again"):
        photos.get(third.photo_id)
    photos.forget_old()
    assert (len(photos), photos.num_bytes) == (0, 0)


def test_only_so_many_uploads_arrive_at_once() -> None:
    photos = PhotoStore(15, 100, 1)
    with photos.arriving(), pytest.raises(Refusal) as error, photos.arriving():
        pass
    assert (error.value.status_code, error.value.headers) == (
        429,
        {"Retry-After": "1", "Connection": "close"},
    )
    with photos.arriving():
        pass


def test_a_photo_keeps_what_an_engine_saw_while_the_engine_lives() -> None:
    class Engine:
        pass

    one, photo = Engine(), SeenPhoto(b"")
    asked: list[int] = []

    def look(number: int) -> list[int]:
        asked.append(number)
        return [number]

    for number in (*range(KEPT + 1), KEPT, 0):
        assert photo.seen(one, number, lambda number=number: look(number)) == [number]
    assert asked == [*range(KEPT + 1), 0]  # the first was the oldest
    assert photo.kept(Engine(), KEPT) is None
    del one
    assert len(photo._views) == 0
