"""Resources of this machine and of assets, for all executors; imports nothing of the package, nor Dagster."""

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

GPU_POOL = "gpu"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = 2**17, 2**25, 65536  # bytes, bytes, blocks: glibc's own limits


@dataclass(frozen=True)
class Needs:
    """Resources of one step: CPU cores, GiB of memory, whole GPUs and torch's CPU threads (None: no limit).

    A step with a GPU waits for a slot in the `gpu` pool.
    """

    cores: float = 1.0
    memory_gib: float = 2.0
    gpus: int = 0
    threads: int | None = None


def declare(needs: Needs, priority: int = 0) -> dict[str, Any]:
    """`pool` and `op_tags` of an asset, for Kubernetes and Ray; ready steps start in order of `priority`."""
    resources = {"cpu": f"{needs.cores:g}", "memory": f"{needs.memory_gib:g}Gi"}
    limits = {"memory": resources["memory"]}
    if needs.gpus:
        limits["nvidia.com/gpu"] = str(needs.gpus)
    return {
        "pool": GPU_POOL if needs.gpus else None,
        "op_tags": {
            "dagster/priority": str(priority),
            "dagster-k8s/config": {
                "container_config": {"resources": {"requests": resources, "limits": limits}}
            },
            "dagster-ray/config": {
                "num_cpus": needs.cores,
                "num_gpus": needs.gpus,
                "memory": int(needs.memory_gib * 2**30),
            },
        },
    }


def cores_available() -> int:
    """CPU cores available to this process; all cores on macOS, which does not report it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mib() -> int:
    """Peak memory of this process so far, in MiB."""
    import resource  # imported lazily: the definitions must load on Windows, which has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keeps freed memory in this process while it lasts, then hands it back; does nothing without glibc.

    glibc takes blocks above 32 MB from the system and hands them back when they are freed, so that every
    batch through a convolution is given, and has to clear, all its memory anew. In a virtual machine that
    took longer than the convolutions: EfficientNet-Lite0 at 224 px, batches of 64 on 2 cores, 28 and then 76
    pictures a second (`python benchmarks/memory_kept.py`).
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _MMAP_MAX)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        libc.malloc_trim(0)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except OSError:  # musl, macOS
        return None


def exit_with_parent() -> None:
    """Ends this process, started by `multiprocessing`, once its parent has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
