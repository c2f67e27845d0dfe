"""How many searches run and wait at once; one more is refused at once, with when to come again."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil
from typing import TypeVar

import torch
from fastapi import Request

from skufp_pipeline.query.threads import threads_of_one
from skufp_pipeline.serving.problems import CLIENT_GONE, Refusal

BUSY = "The service is busy; ask again in {} s."
T = TypeVar("T")


class Admission:
    """Runs work on a bounded number of threads; a bounded number of requests waits for one, first come first
    served.

    Attributes:
        at_work, in_queue: requests now.
    """

    def __init__(self, running: int, waiting: int, seconds: float) -> None:
        self.running, self.waiting, self.seconds = running, waiting, seconds
        self.at_work = self.in_queue = 0
        self._slots = asyncio.Semaphore(running)
        self._threads = ThreadPoolExecutor(
            running, "skufp-serving", lambda: torch.set_num_threads(threads_of_one(running))
        )

    async def run(self, request: Request, work: Callable[[float], T]) -> T:
        """Returns `work(milliseconds in the queue)`, done in a thread.

        Raises:
            Refusal: 429 if the queue is full or the wait too long; 499 if the client went away before the
                work began.
        """
        started = time.perf_counter()
        await self._admitted(request)
        try:
            self.at_work += 1
            waited = (time.perf_counter() - started) * 1000
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, waited)
        finally:
            self.at_work -= 1
            self._slots.release()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _admitted(self, request: Request) -> None:
        """Takes a slot; raises as `run` does."""
        if self.is_full:
            raise self.busy()
        if not self._slots.locked():
            await self._slots.acquire()
            return
        self.in_queue += 1
        slot, gone = asyncio.ensure_future(self._slots.acquire()), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({slot, gone}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() or not slot.done():
                raise Refusal(CLIENT_GONE, "The client went away.") if gone.done() else self.busy()
        except BaseException:
            if not slot.cancel() and not slot.cancelled():
                self._slots.release()
            raise
        finally:
            self.in_queue -= 1
            gone.cancel()

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused."""
        return self._slots.locked() and self.in_queue >= self.waiting

    def busy(self) -> Refusal:
        """What one more is told."""
        seconds = ceil(self.seconds)
        return Refusal(429, BUSY.format(seconds), {"Retry-After": str(seconds)})


async def _gone(request: Request) -> None:
    """Returns when the client has gone away; the request's body must have been read."""
    with suppress(Exception):
        while (await request.receive())["type"] != "http.disconnect":
            pass
