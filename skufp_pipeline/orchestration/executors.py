"""The executor of a preset and the limits of its pools.

Resources are declared on the assets (`compute.py`). The executor only sets the concurrency, as resources set
there would override the assets'.
"""

from collections.abc import Iterable

import dagster as dg

from skufp_pipeline.compute import declare
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import ComputeSettings
from skufp_pipeline.steps import Step


def executor(settings: ComputeSettings) -> dg.ExecutorDefinition:
    """The executor of runs from the UI, schedules and sensors; raises UserError if it isn't installed."""
    width = {"max_concurrent": settings.max_concurrent}
    try:
        match settings.executor:
            case "in_process":
                return dg.in_process_executor
            case "multiprocess":
                return dg.multiprocess_executor.configured(width)
            case "ray":
                from dagster_ray import ray_executor

                ray: dg.ExecutorDefinition = ray_executor.configured({})
                return ray
            case "k8s":
                from dagster_k8s import k8s_job_executor

                k8s: dg.ExecutorDefinition = k8s_job_executor.configured(width)
                return k8s
    except ImportError as error:
        extra = settings.executor
        raise UserError(
            f"compute.executor {extra} needs a package that is not installed ({error.name}): "
            f"pip install 'skufp-pipeline[{extra}]'"
        ) from error


def set_pool_limits(
    instance: dg.DagsterInstance, steps: Iterable[Step], settings: ComputeSettings
) -> dict[str, int]:
    """Sets the limit of every pool that a step uses; returns the limits by pool.

    Raises UserError if the preset has no limit for a pool.
    """
    pools = sorted({pool for step in steps if (pool := declare(step.needs)["pool"]) is not None})
    if missing := [pool for pool in pools if pool not in settings.pools]:
        raise UserError(
            f"compute.pools has no limit for {', '.join(missing)}; add one, such as {missing[0]}: 1"
        )
    limits = {pool: settings.pools[pool] for pool in pools}
    for pool, limit in limits.items():
        instance.event_log_storage.set_concurrency_slots(pool, limit)
    return limits
