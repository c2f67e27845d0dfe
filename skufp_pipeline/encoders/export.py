"""Exports an encoder's image tower to ONNX in float32, or in int8 where the parity with PyTorch allows it.

int8 is ONNX Runtime's dynamic quantization (weights per output channel, activations at run time), which
needs no calibration. It covers matrix products; a tower of convolutions stays float32.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image
from torch import Tensor, nn

from skufp_pipeline.encoders.clip import Encoder
from skufp_pipeline.encoders.embed import embed_crops
from skufp_pipeline.encoders.onnx import (
    CONFIG_FILE,
    INPUT,
    MODEL_FILE,
    OUTPUT,
    PATCHES,
    PROBE_FILE,
    PROBE_ROW_FILE,
    OnnxImageEncoder,
)
from skufp_pipeline.encoders.parity import FLOAT32, INT8, Parity
from skufp_pipeline.encoders.patches import PatchHead, PhotoTower
from skufp_pipeline.encoders.settings import QueryEncoderSettings
from skufp_pipeline.errors import UserError
from skufp_pipeline.photos import read_crop

AUTO = "auto"
LEAST_PHOTOS = 20  # on which int8 is judged, unless a preset demands it
OPSET = 20  # the first with Gelu
_MATMUL_OPS = ("MatMul", "Gemm")
_LARGEST_BATCH = 4096
_LARGEST_FILE = 2**31  # bytes: protobuf's limit


class _UnitImageTower(nn.Module):
    """Image tower and projection with unit rows as output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.model.encode_image(pixels), dim=-1)


def build_image_encoder(
    encoder: Encoder,
    photos: Sequence[Path],
    reference: NDArray[np.float32],
    judge: Callable[[NDArray[np.float32]], Parity],
    settings: QueryEncoderSettings,
    directory: Path,
    head: PatchHead | None = None,
) -> dict[str, Any]:
    """Writes the files of `onnx.load_image_encoder`, in the lowest precision that settings and parity allow.

    Args:
        photos: files to measure the parity on, at least one.
        reference: (N, D) embeddings of the photos by `encoder`.
        judge: computes the parity of other embeddings of the same photos.
        head: the tower makes patches too.

    Returns:
        The precision, the reason for it, and the figures of every precision that was tried.

    Raises:
        UserError: the tower can't be exported, or the parity fails for float32 or for a required int8.
    """
    candidate = directory / MODEL_FILE
    export_image_tower(encoder, candidate, head)
    found = {FLOAT32: _parity(candidate, encoder, photos, judge)}
    if not found[FLOAT32].holds(FLOAT32):
        raise UserError(
            f"the exported image encoder differs from PyTorch: {found[FLOAT32]}; "
            "set query_encoder.engine: pytorch in the preset"
        )
    precision, why = FLOAT32, "as the preset asks"
    if settings.precision == AUTO and len(photos) < LEAST_PHOTOS:
        why = f"int8 is judged on {LEAST_PHOTOS} photos at least, found {len(photos)}"
    elif settings.precision != FLOAT32:
        smaller = directory / "int8.onnx"
        if quantize_image_tower(candidate, smaller):
            found[INT8] = _parity(smaller, encoder, photos, judge)
        precision, why = _choose(found, settings.precision)
        if precision == INT8:
            smaller.replace(candidate)
        smaller.unlink(missing_ok=True)
    (directory / CONFIG_FILE).write_text(json.dumps({"precision": precision}) + "\n")
    _write_probe(directory, encoder, photos[0], reference[0])
    figures = {
        f"{name}_{key}": value for name, parity in found.items() for key, value in asdict(parity).items()
    }
    return {"precision": precision, "why": why, "opset": OPSET, **figures}


def export_image_tower(encoder: Encoder, target: Path, head: PatchHead | None = None) -> None:
    """Exports the image tower with its projection: `pixels` (B, 3, side, side) to `embedding` (B, D).

    With a patch head there is a second output, `patches` (B, P, d). All rows have unit norm, B is variable,
    and equal weights give equal bytes.

    Raises:
        UserError: PyTorch can't express the tower in ONNX, or it is 2 GiB or larger.
    """
    model = copy.deepcopy(encoder.model).to("cpu", memory_format=torch.contiguous_format).eval()
    tower: nn.Module = _UnitImageTower(model)
    if head is not None:
        tower = PhotoTower(
            replace(encoder, model=model, device=torch.device("cpu")), copy.deepcopy(head).cpu()
        )
    if sum(weights.nbytes for weights in model.visual.parameters()) >= _LARGEST_FILE:
        raise UserError("the image tower is too large for an ONNX file; set query_encoder.engine: pytorch")
    example = torch.stack([encoder.preprocess(Image.new("RGB", (8, 8)))] * 2)
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    outputs = (OUTPUT,) if head is None else (OUTPUT, PATCHES)
    export_module(tower, example, target, INPUT, outputs, "the image tower", {0: batch})


def export_module(
    module: nn.Module,
    example: Tensor,
    target: Path,
    input_name: str,
    output_names: Sequence[str],
    what: str,
    variable: dict[int, Any] | None = None,
) -> None:
    """Exports a module of one input to an ONNX file without metadata.

    Args:
        variable: dimensions of the input whose size may differ from that of `example`.

    Raises:
        UserError: PyTorch can't express `what` in ONNX.
    """
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=None if variable is None else (variable,),
            )
        except Exception as error:  # torch.export and onnxscript raise their own kinds
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"{what} can't be exported to ONNX ({type(error).__name__}: {first}); "
                "set query_encoder.engine: pytorch in the preset"
            ) from error
    assert program is not None
    proto = program.model_proto
    _strip_metadata(proto)
    onnx.save(proto, target)


def quantize_image_tower(source: Path, target: Path) -> bool:
    """Quantizes an exported tower to int8; returns False, and writes nothing, if convolutions dominate it."""
    if not _is_mostly_matmul(onnx.load(source)):
        return False
    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_MATMUL_OPS),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits: CPUs without VNNI add pairs of 8-bit products in 16 bits
            extra_options={"MatMulConstBOnly": True},
        )
    return True


def _choose(found: dict[str, Parity], requested: str) -> tuple[str, str]:
    """Returns the precision to publish and the reason."""
    if INT8 not in found:
        why = "the tower's weights are those of convolutions, which stay float32"
    elif found[INT8].holds(INT8):
        return INT8, "near enough to PyTorch"
    else:
        why = f"int8 is too far from PyTorch ({found[INT8]})"
    if requested == INT8:
        raise UserError(f"query_encoder.precision is int8, but {why}; set it to auto or float32")
    return FLOAT32, why


def _parity(
    model: Path, encoder: Encoder, photos: Sequence[Path], judge: Callable[[NDArray[np.float32]], Parity]
) -> Parity:
    """Measures the parity of a model, one photo per batch as for queries."""
    exported = OnnxImageEncoder(model, encoder.preprocess, torch.get_num_threads())
    return judge(embed_crops(exported, photos, batch_size=1))


def _write_probe(directory: Path, encoder: Encoder, photo: Path, row: NDArray[np.float32]) -> None:
    np.save(directory / PROBE_FILE, encoder.preprocess(read_crop(photo)).numpy()[None])
    np.save(directory / PROBE_ROW_FILE, row[None])


def _is_mostly_matmul(model: onnx.ModelProto) -> bool:
    """Returns whether most of the weights belong to matrix products."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    products, others = 0, 0
    for node in model.graph.node:
        size = sum(sizes.get(name, 0) for name in node.input)
        products, others = (
            (products + size, others) if node.op_type in _MATMUL_OPS else (products, others + size)
        )
    return products > others


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Removes source lines and stack traces, which contain local paths."""
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    for part in (*model.graph.input, *model.graph.output):
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses log messages and warnings of the exporters."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)  # without a handler, logging.info() would install a permanent one
    before = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
