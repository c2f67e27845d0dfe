"""What this machine has, and what an asset needs, said once for every executor (a leaf: no dagster)."""

import os
import sys
from dataclasses import dataclass
from typing import Any

GPU_POOL = "gpu"


@dataclass(frozen=True)
class Needs:
    """Resources of one step.

    Attributes:
        cores: CPU cores.
        memory_gib: GiB of memory.
        gpus: whole GPUs; a step that uses one waits for a place in the `gpu` pool.
        threads: that torch computes with on a CPU; None: as many as it likes.
    """

    cores: float = 1.0
    memory_gib: float = 2.0
    gpus: int = 0
    threads: int | None = None


def declare(needs: Needs, priority: int = 0) -> dict[str, Any]:
    """`pool` and `op_tags` of an asset, agreeing for Kubernetes and Ray.

    Args:
        priority: of steps that are ready at once, the highest start first.
    """
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
    """CPU cores that this process may use; macOS does not tell, there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mib() -> int:
    """Most memory that this process held so far, in MiB."""
    import resource  # Windows has none; the definitions load there all the same

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
