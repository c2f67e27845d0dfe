"""Encodes query photos with an image tower exported by `encoders.export`, in ONNX Runtime on the CPU.

The preprocessing is that of the PyTorch encoder.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skufp_pipeline.encoders.parity import LEAST_COSINE, unit_cosines
from skufp_pipeline.errors import UserError
from skufp_pipeline.measures.maxsim import SCALE, Patches

MODEL_FILE, CONFIG_FILE = "image_encoder.onnx", "image_encoder.json"
PROBE_FILE, PROBE_ROW_FILE = "probe_pixels.npy", "probe_embedding.npy"
INPUT, OUTPUT, PATCHES = "pixels", "embedding", "patches"


class OnnxImageEncoder:
    """An exported image tower.

    Args:
        model: the ONNX file.
        preprocess: the preprocessing of the exported encoder.
        threads: size of ONNX Runtime's thread pool.

    Raises:
        UserError: the file is missing or not an ONNX model.
    """

    def __init__(self, model: Path, preprocess: Callable[[Image.Image], Tensor], threads: int) -> None:
        self.preprocess = preprocess
        self._session = open_session(model, threads)

    @property
    def dimension(self) -> int:
        return int(self._session.get_outputs()[0].shape[1])

    def embed_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """Returns (B, D) float32 unit rows of preprocessed images (B, 3, side, side).

        int8 scales activations by the batch maximum, so a row depends slightly on the other rows.
        """
        rows: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: pixels.numpy()})[0]
        return rows

    @property
    def has_patches(self) -> bool:
        return any(output.name == PATCHES for output in self._session.get_outputs())

    def embed_with_patches(self, pixels: Tensor) -> tuple[NDArray[np.float32], Patches]:
        """Returns what `embed_pixels` does, and (B, P, d) int8 patches, of a tower exported with them."""
        rows, patches = self._session.run([OUTPUT, PATCHES], {INPUT: pixels.numpy()})
        return rows, np.rint(patches * SCALE).astype(np.int8)


def load_image_encoder(
    directory: Path, preprocess: Callable[[Image.Image], Tensor], threads: int
) -> OnnxImageEncoder:
    """Loads the exported tower in `directory` and runs it on the stored probe, as warm-up and check.

    Raises:
        UserError: a file is missing or damaged, or the probe's embedding differs from PyTorch's.
    """
    encoder = OnnxImageEncoder(directory / MODEL_FILE, preprocess, threads)
    try:
        precision = json.loads((directory / CONFIG_FILE).read_text())["precision"]
        pixels = np.load(directory / PROBE_FILE, allow_pickle=False)
        expected = np.load(directory / PROBE_ROW_FILE, allow_pickle=False)
        cosine = float(unit_cosines(encoder.embed_pixels(torch.from_numpy(pixels)), expected).min())
    except Exception as error:  # numpy, json and onnxruntime raise many kinds
        raise UserError(
            f"the image encoder in {directory} can't be read: {error}; materialize image_encoder_onnx"
        ) from error
    if not cosine >= LEAST_COSINE[precision]:
        raise UserError(
            f"the image encoder in {directory} ({precision}) differs from PyTorch on this machine: cosine "
            f"{cosine:.4f}, expected at least {LEAST_COSINE[precision]}; set query_encoder.precision: "
            "float32 or query_encoder.engine: pytorch in the preset, and materialize image_encoder_onnx"
        )
    return encoder


def open_session(model: Path, threads: int, asset: str = "image_encoder_onnx") -> Any:
    """Opens an ONNX file on the CPU; raises UserError, which names the asset to materialize, if it can't."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads spin during a run, where it is faster, but not after it, when the search needs the CPU.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises one kind per status code
        first = str(error).splitlines()[0]
        raise UserError(f"{model} can't be loaded: {first}; materialize {asset}") from error
