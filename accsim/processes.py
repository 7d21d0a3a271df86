"""Runs in several processes, each with its share of the threads; all of them end with this one."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numba

from accsim.data import Dataset
from accsim.run import Status
from accsim.workload import WorkloadError

Task = Callable[[Dataset, Callable[[Status], None]], Any]

_given: dict[str, Any] = {}  # to a process at its start


def run_in_processes(
    tasks: Sequence[Task],
    dataset: Dataset,
    on_step: Callable[[Status], None],
    jobs: int,
) -> None:
    """Call every task with the data set and a function that tells `on_step`, `jobs` at a time.

    `on_step` is called in this process. If a task raises, or this process is interrupted, all are
    ended. Raises WorkloadError for tasks that other processes cannot be given, and for a process
    that was killed.
    """
    try:
        pickle.dumps(tasks)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise WorkloadError(
            "--jobs needs choices that pickle can hand to other processes, of classes of a module "
            f"and not of the workload's file: {error}"
        ) from error
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # threads do not survive a fork
    said = context.SimpleQueue()
    threads = max(1, numba.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, context, _begin, (dataset, said.put, threads)) as pool:
        try:
            pending = {pool.submit(_work, task) for task in tasks}
            while pending:
                done, pending = wait(pending, timeout=0.2)
                while not said.empty():
                    on_step(said.get())
                for future in done:
                    future.result()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise WorkloadError(
                    "a process of --jobs was killed, as for want of memory; fewer jobs need less, "
                    "and what is finished is kept"
                ) from error
            raise


def _begin(dataset: Dataset, say: Callable[[Status], None], threads: int) -> None:
    """Prepare a process: an interrupt is for its parent to answer, without which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numba.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch's, which reads it when it is imported
    _given.update(dataset=dataset, on_step=say)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _work(task: Task) -> None:
    task(_given["dataset"], _given["on_step"])
