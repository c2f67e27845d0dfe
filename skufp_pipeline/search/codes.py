"""The coded copy of the fingerprints that a search scans first, stored next to them in the bundle."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.kernels.addresses import aligned
from skufp_pipeline.search.kernels.bounds import HIGH_LINES
from skufp_pipeline.search.kernels.encode import encode_rows, rotate
from skufp_pipeline.search.kernels.shapes import BLOCK, NO_ROW, Codes
from skufp_pipeline.search.kernels.simd import BYTES

CODES_FILE = "codes.json"
PLANES = ("codes_high.npy", "codes_low.npy")
BOUNDS_FILE, ROTATION_FILE = "codes_bounds.npy", "codes_rotation.npy"
VERSION = 3
MAX_DIMENSION = 32_768  # above it 2 * 255 * 127 * D would overflow 32 bits
MAX_NORM = 1e6
BUILD_ROWS = 8_192


@dataclass(frozen=True)
class CodedFingerprints:
    """N fingerprints, rotated, centred and coded.

    Attributes:
        signs: (2, D) of -1 and 1, the rotation.
        centre: (D,) mean of the rotated rows.
        largest_norm: largest norm of a centred row or of its decoded values; `with_biases` adds the
            largest absolute bias.
    """

    codes: Codes
    signs: NDArray[np.float64]
    centre: NDArray[np.float64]
    largest_norm: float


def encode(fingerprints: NDArray[np.float32], threads: int) -> CodedFingerprints:
    """Encodes (N, D) fingerprints; raises UserError on an unsupported D, a non-finite or implausible row."""
    count, dimension = fingerprints.shape
    if not 1 <= dimension <= MAX_DIMENSION:
        raise UserError(f"index: fingerprints have {dimension} dimensions; 1 to {MAX_DIMENSION} are possible")
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (2, dimension))
    centre = fingerprints.mean(axis=0, dtype=np.float64) if count else np.zeros(dimension)
    if not np.isfinite(centre).all():
        raise UserError("index: a fingerprint holds NaN or infinity; materialize fingerprints again")
    rotate(centre, signs)
    codes = _empty(count, dimension)
    starts = range(0, count, BUILD_ROWS)

    def encode_part(begin: int) -> float:
        return encode_rows(fingerprints, signs, centre, codes, begin, min(begin + BUILD_ROWS, count))

    with ThreadPoolExecutor(threads) as pool:
        largest_norm = max(pool.map(encode_part, starts), default=0.0)
    if not largest_norm < MAX_NORM:
        raise UserError(f"index: a fingerprint has norm {largest_norm:.3g}; materialize fingerprints again")
    return CodedFingerprints(codes, signs, centre, largest_norm)


def with_biases(coded: CodedFingerprints, biases: NDArray[np.float32]) -> CodedFingerprints:
    """The same codes with upper bounds that include (N,) biases."""
    codes, padding = coded.codes, len(coded.codes.scales) - len(biases)
    added = np.pad(biases, (0, padding)).astype(np.float64)

    def raised(errors: NDArray[np.float32]) -> NDArray[np.float32]:
        rounded_up = np.nextafter((errors + added).astype(np.float32), np.float32(np.inf))
        return np.where(errors == NO_ROW, errors, rounded_up)

    largest = float(np.abs(biases).max(initial=0))
    codes = codes._replace(coarse_errors=raised(codes.coarse_errors), fine_errors=raised(codes.fine_errors))
    return replace(coded, codes=codes, largest_norm=coded.largest_norm + largest)


def save_codes(coded: CodedFingerprints, directory: Path, count: int) -> None:
    """Writes the codes of `count` fingerprints."""
    codes = coded.codes
    np.save(directory / PLANES[0], codes.high)
    np.save(directory / PLANES[1], codes.low)
    np.save(directory / BOUNDS_FILE, np.stack([codes.scales, codes.coarse_errors, codes.fine_errors]))
    np.save(directory / ROTATION_FILE, np.concatenate([coded.signs, coded.centre[None]]))
    known = {"version": VERSION, "rows": count, "largest_norm": coded.largest_norm}
    (directory / CODES_FILE).write_text(json.dumps(known, indent=1) + "\n")


def load_codes(directory: Path, count: int, dimension: int) -> CodedFingerprints:
    """Loads the codes of (count, dimension) fingerprints, memory-mapped.

    Raises OSError or ValueError if a file is missing, unreadable, of another version or of another shape.
    """
    known = json.loads((directory / CODES_FILE).read_text())
    if known.get("version") != VERSION or known.get("rows") != count:
        raise ValueError(f"{CODES_FILE} is for {known.get('rows')} rows in version {known.get('version')}")
    width, padded = _width(dimension), _padded(count)
    high, low = (
        _array(directory / name, np.uint8, (size,))
        for name, size in zip(PLANES, _plane_sizes(padded, width), strict=True)
    )
    bounds = _array(directory / BOUNDS_FILE, np.float32, (3, padded))
    rotation = np.array(_array(directory / ROTATION_FILE, np.float64, (3, dimension)))
    codes = Codes(high, low, bounds[0], bounds[1], bounds[2], width)
    return CodedFingerprints(codes, rotation[:2], rotation[2], float(known["largest_norm"]))


def _empty(count: int, dimension: int) -> Codes:
    """Empty codes to fill; the padding rows can never be found."""
    width, padded = _width(dimension), _padded(count)
    high, low = (aligned(size, np.uint8) for size in _plane_sizes(padded, width))
    scales, coarse, fine = aligned((3, padded), np.float32)
    coarse[count:] = fine[count:] = NO_ROW
    return Codes(high, low, scales, coarse, fine, width)


def _width(dimension: int) -> int:
    return -(-dimension // (2 * BYTES)) * BYTES


def _plane_sizes(padded: int, width: int) -> tuple[int, int]:
    """Sizes in bytes of the high plane (five bits per dimension) and of the low plane."""
    return padded * width // 4 * HIGH_LINES, padded * width


def _padded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def _array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != dtype or found.shape != shape:
        raise ValueError(f"{path.name} holds {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}")
    return np.asarray(found)
