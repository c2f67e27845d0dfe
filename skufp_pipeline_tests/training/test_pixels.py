from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skufp_pipeline.camera.white_balance import balanced
from skufp_pipeline.errors import UserError
from skufp_pipeline.training.pixels import Surrounded, decode_squares, read_square

from ..encoders.examples import COLOURS, noise, picture


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    """One PNG of each colour."""
    paths = [tmp_path / f"{colour}.png" for colour in COLOURS]
    for path, colour in zip(paths, COLOURS, strict=True):
        picture(colour).save(path)
    return paths


def test_squares_come_in_the_order_of_the_paths(crops: list[Path], tmp_path: Path) -> None:
    squares = decode_squares(crops[::-1], 8, tmp_path / "squares.npy")
    assert squares.shape == (4, 8, 8, 3)
    assert squares.dtype == np.uint8
    assert squares[:, 0, 0].tolist() == [[255, 255, 0], [0, 0, 255], [0, 128, 0], [255, 0, 0]]


def test_squares_are_read_only_and_memory_mapped(crops: list[Path], tmp_path: Path) -> None:
    squares = decode_squares(crops, 8, tmp_path / "squares.npy")
    assert isinstance(squares, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        squares[0] = 0


def test_a_second_call_decodes_nothing(crops: list[Path], tmp_path: Path) -> None:
    first = np.array(decode_squares(crops, 8, tmp_path / "squares.npy"))
    for path in crops:
        path.unlink()
    np.testing.assert_array_equal(decode_squares(crops, 8, tmp_path / "squares.npy"), first)


def test_squares_of_another_size_are_refused_by_name(crops: list[Path], tmp_path: Path) -> None:
    decode_squares(crops, 8, tmp_path / "squares.npy")
    with pytest.raises(
        UserError, match=r"squares.npy holds \(4, 8, 8, 3\), expected \(4, 9, 9, 3\); delete it"
    ):
        decode_squares(crops, 9, tmp_path / "squares.npy")


def test_no_crops_are_no_squares(tmp_path: Path) -> None:
    assert decode_squares([], 8, tmp_path / "none.npy").shape == (0, 8, 8, 3)


def test_more_than_one_block_is_told_as_it_goes(crops: list[Path], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = crops * 150
    squares = decode_squares(paths, 8, tmp_path / "many.npy", lambda done, total: told.append((done, total)))
    assert told == [(512, 600), (600, 600)]
    np.testing.assert_array_equal(squares[:4], squares[-4:])


def test_a_crop_that_cannot_be_read_is_named_and_nothing_is_kept(crops: list[Path], tmp_path: Path) -> None:
    crops[2].write_bytes(crops[2].read_bytes()[:60])
    with pytest.raises(UserError, match=r"blue.png can't be read .*; materialize sku_crops again"):
        decode_squares(crops, 8, tmp_path / "squares.npy")
    assert not (tmp_path / "squares.npy").exists()
    crops[2].unlink()
    with pytest.raises(UserError, match=r"blue.png"):
        read_square(crops[2], 8)


def test_the_whole_crop_is_squashed_into_the_square(tmp_path: Path) -> None:
    tall = Image.new("RGB", (10, 40), "white")
    tall.paste("black", (0, 20, 10, 40))
    tall.save(tmp_path / "tall.png")
    column = read_square(tmp_path / "tall.png", 4)[:, 0, 0]
    assert column.tolist() == [255, 255, 0, 0]


def test_shrinking_averages_and_grey_becomes_rgb(tmp_path: Path) -> None:
    noise(size=(64, 64)).convert("L").save(tmp_path / "grey.png")
    pixels = np.asarray(Image.open(tmp_path / "grey.png"), dtype=np.float64)
    square = read_square(tmp_path / "grey.png", 2)
    means = pixels.reshape(2, 32, 2, 32).mean(axis=(1, 3))
    for channel in range(3):
        np.testing.assert_allclose(square[..., channel], means, atol=0.51)


def test_the_cast_is_removed_from_each_crop_before_it_is_squeezed(tmp_path: Path) -> None:
    image = noise(seed=3, size=(20, 12))
    image.save(tmp_path / "photo.png")
    plain, less = (
        decode_squares([tmp_path / "photo.png"], 8, tmp_path / f"{share}.npy", white_balance=share)[0]
        for share in (0.0, 1.0)
    )
    Image.fromarray(balanced(np.asarray(image), 1.0)).save(tmp_path / "balanced.png")
    assert np.array_equal(less, read_square(tmp_path / "balanced.png", 8))
    assert np.array_equal(plain, read_square(tmp_path / "photo.png", 8))
    assert not np.array_equal(less, plain)


def test_an_item_is_read_with_what_is_around_it(tmp_path: Path) -> None:
    photo = noise(size=(40, 30))
    photo.save(tmp_path / "photo.png")
    pixels, item = np.asarray(photo), Surrounded(tmp_path / "photo.png", (10, 10, 30, 20), 0.2)
    assert item.is_boxed
    np.testing.assert_array_equal(item.read(), pixels[8:22, 6:34])


def test_the_border_is_repeated_where_the_photo_ends(tmp_path: Path) -> None:
    photo = noise(size=(40, 30))
    photo.save(tmp_path / "photo.png")
    corner = Surrounded(tmp_path / "photo.png", (30, 0, 40, 10), 0.5).read()
    assert corner.shape == (20, 20, 3)
    np.testing.assert_array_equal(corner[5:, :15], np.asarray(photo)[:15, 25:])
    assert (corner[:5] == corner[5]).all()
    assert (corner[:, 15:] == corner[:, 14:15]).all()
    whole = Surrounded(tmp_path / "photo.png", (0, 0, 40, 30), 0.5)
    assert not whole.is_boxed
    assert whole.read().shape == (60, 80, 3)
    with pytest.raises(UserError, match=r"photo .*none.png .* materialize the graph again"):
        Surrounded(tmp_path / "none.png", (0, 0, 4, 4), 0.1).read()
