"""Effects of light and camera on a picture: folds, colour cast, exposure, blur, resolution, noise, JPEG."""

from dataclasses import dataclass

import cv2
import numpy as np

from skufp_pipeline.randomness import chance


@dataclass(frozen=True)
class Degradation:
    """How a customer's photo was degraded."""

    severity: float  # scales the spread of all others; 0 fair, 1 nearly unusable
    cast: float  # standard deviation over the channels of the logarithm of their gains
    exposure: float  # logarithm of the gain of all channels together
    haze: float  # share of a grey veil
    tone: float  # exponent of the tone curve; above 1 it darkens
    blur: float  # standard deviation of the Gaussian blur, as a share of the side
    shake: float  # length of the motion blur, as a share of the side
    resolution: float  # share of the side's pixels that were left before it was enlarged again
    noise: float  # standard deviation in grey levels


def fold(rng: np.random.Generator, rgb: np.ndarray, depth: float) -> np.ndarray:
    """Adds folds to cloth (S, S, 3): smooth waves of brightness with a spread of about `depth`."""
    size = rgb.shape[0]
    rows, columns = (int(n) for n in rng.integers(3, 12, 2))
    waves = rng.normal(0, depth, (rows, columns)).astype(np.float32)
    field = 1 + cv2.resize(waves, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(rgb * field[..., None], 0, 255).astype(np.uint8)


def studio_photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Makes a shop's photo: a little warmer or colder, lighter or darker."""
    gain = np.exp(rng.normal(0, 0.02, 3) + rng.normal(0, 0.06)).astype(np.float32)
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def phone_photo(
    rng: np.random.Generator, image: np.ndarray, severity: float
) -> tuple[np.ndarray, Degradation]:
    """Makes a customer's photo, degraded in proportion to `severity` (0 fair, 1 nearly unusable)."""
    lit, light = _light(rng, image, severity)
    soft, softness = _blurred(rng, lit, severity)
    small, resolution = _small(rng, soft, severity)
    grainy, noise = _noisy(rng, small, severity)
    return grainy, Degradation(severity, **light, **softness, resolution=resolution, noise=noise)


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """Encodes a picture, (H, W, 3) uint8 RGB, as a JPEG file."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {rgb.shape}")
    return data.tobytes()


def _light(
    rng: np.random.Generator, image: np.ndarray, severity: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Applies colour cast, exposure, uneven light, haze and the tone curve."""
    size = image.shape[0]
    cast = rng.normal(0, 0.04 + 0.16 * severity, 3)
    exposure = rng.normal(-0.05, 0.08 + 0.32 * severity)
    spots = np.exp(rng.normal(0, 0.04 + 0.2 * severity, (3, 3))).astype(np.float32)
    field = cv2.resize(spots, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    haze = np.float32(rng.uniform(0, 0.05 + 0.25 * severity))
    veil = np.float32(rng.uniform(90, 255))
    lit = image * (field * np.exp(cast + exposure).astype(np.float32))
    lit = lit + haze * (veil - lit)
    curve = np.exp(rng.normal(0, 0.05 + 0.2 * severity))
    drawn = {
        "cast": float(cast.std()),
        "exposure": float(exposure + cast.mean()),
        "haze": float(haze),
        "tone": float(curve),
    }
    return _apply_curve(np.clip(lit, 0, 255).astype(np.uint8), curve), drawn


def _apply_curve(image: np.ndarray, exponent: float) -> np.ndarray:
    table = np.round(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return cv2.LUT(image, table)


def _blurred(
    rng: np.random.Generator, image: np.ndarray, severity: float
) -> tuple[np.ndarray, dict[str, float]]:
    size = image.shape[0]
    if chance(rng, 0.25 + 0.3 * severity):
        length = size * rng.uniform(0.01, 0.02 + 0.05 * severity)
        return _shaken(rng, image, length), {"blur": 0.0, "shake": length / size}
    spread = size * rng.uniform(0, 0.004 + 0.014 * severity)
    if spread <= 0.3:
        return image, {"blur": 0.0, "shake": 0.0}
    return cv2.GaussianBlur(image, (0, 0), spread), {"blur": spread / size, "shake": 0.0}


def _shaken(rng: np.random.Generator, image: np.ndarray, length: float) -> np.ndarray:
    """Applies motion blur along a straight line."""
    reach = max(1, round(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    angle = rng.uniform(0, np.pi)
    x, y = round(reach * np.cos(angle)), round(reach * np.sin(angle))
    cv2.line(kernel, (reach - x, reach - y), (reach + x, reach + y), 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _small(rng: np.random.Generator, image: np.ndarray, severity: float) -> tuple[np.ndarray, float]:
    """Reduces the image and enlarges it again; also returns the share of the side that was left."""
    size = image.shape[0]
    share = rng.uniform(max(0.3, 0.85 - 0.55 * severity), 1.0)
    if share > 0.92:
        return image, 1.0
    fewer = cv2.resize(image, (round(size * share),) * 2, interpolation=cv2.INTER_AREA)
    return cv2.resize(fewer, (size, size), interpolation=cv2.INTER_LINEAR), share


def _noisy(rng: np.random.Generator, image: np.ndarray, severity: float) -> tuple[np.ndarray, float]:
    grain = rng.standard_normal(image.shape, np.float32)
    deviation = rng.uniform(0.5, 3 + 11 * severity)
    return np.clip(image + grain * np.float32(deviation), 0, 255).astype(np.uint8), deviation
