"""Threads of a search.

A sum of floats depends on how many threads share it. So the service and the command line use as many; then
their answers are equal to the last bit."""

import cv2
import torch
from threadpoolctl import threadpool_limits

from skufp_pipeline.compute import cores_available


def threads_of_one(running: int) -> int:
    """Threads of each of `running` searches at once that share the processors."""
    return max(1, cores_available() // running)


def share_processors(threads: int) -> None:
    """Limits the threads that each search may use, of every library that has its own.

    On two cores, two searches of two threads each took seven times the processor time of single-threaded
    ones: threads of BLAS wait for one another by spinning.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    threadpool_limits(threads, user_api="blas")
