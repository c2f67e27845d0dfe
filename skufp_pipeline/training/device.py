"""Selects the device that a model runs on and measures its peak memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from skufp_pipeline.compute import peak_memory_mib
from skufp_pipeline.errors import UserError


def pick_device(name: str) -> torch.device:
    """Returns the device for `auto`, `cpu` or `cuda`.

    Raises:
        UserError: `cuda` was requested and is not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("compute.device is 'cuda' but torch sees no GPU; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Sets the number of torch threads to `count` and restores the previous number on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether bfloat16 training is faster than float32: on a GPU, or a CPU with bfloat16 support."""
    if device.type == "cuda":
        return True
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype | None = torch.bfloat16) -> Iterator[None]:
    """Computes what is safe in `dtype`, on a CPU in bfloat16 if it multiplies that; None: all in float32.

    On a CPU attention is computed in its parts: the fused one takes many times as long backwards in bfloat16.
    """
    on_cpu = device.type == "cpu"
    with ExitStack() as stack:
        if dtype is not None and multiplies_bfloat16(device):
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16 if on_cpu else dtype))
            if on_cpu:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory so far: of tensors on a GPU, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory_mib() / 2**10
