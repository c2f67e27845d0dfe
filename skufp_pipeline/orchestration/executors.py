"""Where the steps of a run are executed, and how many at once: chosen by the preset, one graph for all.

What each step needs stands on the asset (`compute.py`). Nothing is set on the executor but its width: a
resource set there would override the asset's.
"""

from collections.abc import Iterable

import dagster as dg

from skufp_pipeline.compute import declare
from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import ComputeSettings
from skufp_pipeline.steps import Step


def executor(settings: ComputeSettings) -> dg.ExecutorDefinition:
    """The executor of runs that the UI, a schedule or a sensor starts.

    Raises:
        UserError: the executor's package is not installed.
    """
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
    """Gives every pool that a step waits in its limit; returns the limits.

    Raises:
        UserError: the preset has no limit for a pool.
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
