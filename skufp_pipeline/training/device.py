"""Which device a model runs on, and how much memory it took."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skufp_pipeline.compute import peak_memory_mib
from skufp_pipeline.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device.

    Raises:
        UserError: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("compute.device is 'cuda' but torch sees no GPU; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Lets torch compute with `count` threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether training in bfloat16 is faster there than in float32: a GPU, or a processor made for it."""
    if device.type == "cuda":
        return True
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that was held so far: on the GPU by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory_mib() / 2**10
