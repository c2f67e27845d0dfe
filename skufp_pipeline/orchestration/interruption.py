"""Ctrl-C and SIGTERM: work stops within seconds, its runs end as canceled, and nothing is retried.

Python runs the handler of a signal in the main thread, between two of its steps, and Dagster replaces the
handlers. A thread that reads the signals from a socket acts at once, even if the main thread is in compiled
code or waits for other threads.
"""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

import dagster as dg

INTERRUPTS = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
COMMAND_TAG = "skufp/command"  # host and process of the command that started a run
UNFINISHED = [
    dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
]
GRACE_SECONDS = 1.0


class StepInterrupted(dg.DagsterError, dg.DagsterExecutionInterruptedError):
    """A step was interrupted.

    Dagster applies the retry policy to interrupts, but passes on its own errors; those of them that are
    interrupts end the run.
    """


@contextmanager
def interruptible_step(run: dg.DagsterRun, instance: dg.DagsterInstance) -> Iterator[None]:
    """Marks the run as canceled if an interrupt reaches its step, and raises StepInterrupted.

    Ends the process if the step goes on for `GRACE_SECONDS`.
    """
    ended = threading.Event()

    def stop(number: int) -> None:
        if not ended.wait(GRACE_SECONDS):
            end_process(number, lambda: instance.report_run_canceled(run, "Interrupted."))

    with watched(stop):
        try:
            yield
        except INTERRUPTS as interrupt:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second one would end this as a failure
                signal.signal(number, signal.SIG_IGN)
            instance.report_run_canceling(run, "Interrupted.")
            raise StepInterrupted("interrupted; the next run goes on from the last checkpoint") from interrupt
        finally:
            ended.set()


@contextmanager
def interruptible_command(instance: dg.DagsterInstance, say: Callable[[str], None]) -> Iterator[None]:
    """Ends this process and its workers at a signal with status 128 + signal number, after one sentence."""

    def stop(number: int) -> None:
        say("interrupted; run it again: it goes on from here")
        end_process(number, lambda: cancel_runs(instance))

    # Python's own process that tidies up after killed workers would print a warning.
    filters = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, filters))
    resource_tracker.ensure_running()  # it would unblock the signal
    with watched(stop):
        # Child processes inherit the mask: a terminal sends them Ctrl-C too, but only this process answers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def watched(stop: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop` with the number of the first SIGINT or SIGTERM, in a thread of its own.

    Does nothing within another watch, and outside the main thread, which alone can watch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        outer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if outer != -1:
            signal.set_wakeup_fd(outer)
            yield
            return
        terminate = signal.getsignal(signal.SIGTERM)
        if terminate is signal.SIG_DFL:  # only signals that Python handles are written to the socket
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        thread = threading.Thread(target=_watch, args=(reader, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            writer.shutdown(socket.SHUT_WR)
            while thread.is_alive():  # it still acts on a signal that was received
                with suppress(*INTERRUPTS):
                    thread.join()
            signal.set_wakeup_fd(-1)
            if terminate is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, terminate)


def _watch(reader: socket.socket, stop: Callable[[int], None]) -> None:
    while received := reader.recv(1):
        if received[0] in (signal.SIGINT, signal.SIGTERM):
            stop(received[0])
            return


def command_id() -> str:
    """Host and process of the command that this process belongs to."""
    parent = multiprocessing.parent_process()
    return f"{socket.gethostname()}:{os.getpid() if parent is None else parent.pid}"


def cancel_runs(instance: dg.DagsterInstance) -> None:
    """Marks the unfinished runs of this command as canceled; their slots of pools become free."""
    for run in instance.get_runs(dg.RunsFilter(tags={COMMAND_TAG: command_id()}, statuses=UNFINISHED)):
        instance.report_run_canceled(run, "Interrupted.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def end_process(number: int, cancel: Callable[[], object] = lambda: None) -> None:
    """Ends the children and this process, after `cancel` or `GRACE_SECONDS`, if the database is locked."""
    for child in multiprocessing.active_children():
        child.kill()
    canceling = threading.Thread(target=cancel, daemon=True)
    canceling.start()
    canceling.join(GRACE_SECONDS)
    os._exit(128 + number)
