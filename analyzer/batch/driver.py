"""A batch: which units are left to do, who does them, and the summary of what is there.

    find -> what is not done yet, large ones first -> executor -> folder, as each one is done -> summary over all

The executor is any of `concurrent.futures`: threads of this process, or Dask's. A thread only waits for the process that
does the work (nursery.py), so that one code runs here and there and gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..analysis import Options, processors
from ..api import Case
from ..case import Confidence, Severity
from ..errors import ToolError, UsageError
from . import dataset, nursery, told
from .folder import Folder, Task
from .nursery import Outcome
from .settings import Settings, program
from .stored import case_of
from .summary import Summary
from .units import find
from .worker import DONE, FAILED, SKIPPED

# A unit whose process, nursery or machine was lost is tried again: three losses are no accident (Dask asks for as many).
ATTEMPTS = 3

# Units in the hands of the executor for each worker: the next one is there when one is done, and little is lost.
AHEAD = 2

# A cluster whose first worker does not come within a minute is told, not waited for; nor is a scheduler that is gone.
FIRST_WORKER_S = 60

# How often the size of a cluster is asked for: workers come and go in minutes.
LOOK_AGAIN_S = 5.0

# What reading a capture of this size costs, any case costs: for the estimate of the time left.
FIXED_BYTES = 8 << 20


class Progress(NamedTuple):
    """How far the batch is; `share` of the work that was to do, by size."""

    done: int
    of: int
    failed: int
    share: float


@dataclass(slots=True)
class Result:
    """What the batch says; `summary` is summary.json."""

    summary: dict[str, Any]
    counting: int  # findings that count for --fail-on
    done_before: int


Width = Callable[[], int]  # how many units can run at a time
Report = Callable[[Progress], None]


def run(
    sources: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    sets: bool = True,
    retry: bool = False,
    fail_on: Severity | None = None,
    min_confidence: Confidence = "likely",
    known: frozenset[str] = frozenset(),
    rules: Sequence[str] = (),
    progress: Report | None = None,
) -> Result:
    """Every capture set that `sources` name becomes a case under `out`, if it is not one yet; and the summary of all.

    `jobs` processes work here, as many as there are processors by default, or a Dask cluster at `scheduler`.
    `retry` tries captures again that failed with the same limits. Findings from `fail_on` and `min_confidence` on that are
    not `known` (fingerprints) are the failures of the JUnit report, which lists the `rules` (ids).
    Ctrl-C ends what is in hand; the summary of what is done is written all the same.
    """
    settings = settings or Settings()
    dataset.check()
    folder = Folder(Path(out), shared=bool(settings.redact_key))
    with folder.locked():
        asked = settings.fingerprint()
        batch = _Batch(folder, settings, [Task(unit, unit.key(asked)) for unit in find(sources, sets=sets)])
        done_before = batch.look(retry=retry)
        lost: ToolError | None = None
        try:
            if batch.todo:
                with _executor(jobs, scheduler, len(batch.todo)) as (executor, width):
                    batch.work(executor, width, progress)
        except KeyboardInterrupt:
            batch.interrupted = True
        except ToolError as error:  # the cluster is gone: what is done is told all the same
            batch.interrupted, lost = True, error
        levels = (fail_on, min_confidence, known) if fail_on else None
        summary, counting = _summarise(batch, levels, rules)
        if lost is not None:
            raise lost
        return Result(summary, counting, done_before)


@dataclass(slots=True)
class _Batch:
    folder: Folder
    settings: Settings
    tasks: list[Task]
    todo: list[Task] = field(default_factory=list)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)  # by key
    interrupted: bool = False

    def look(self, *, retry: bool) -> int:
        """Finds out what is left to do; how many cases are done already."""
        done = 0
        for task in self.tasks:
            if self.folder.is_done(task):
                done += 1
                continue
            known = self.folder.failure(task)
            if known is not None and not retry and known["limits"] == self._limits() and known["final"]:
                self.failures[task.key] = known
            else:
                self.todo.append(task)
        self.todo = ordered(self.todo)
        return done

    def _limits(self) -> list[float]:
        return [self.settings.time_limit_s, self.settings.memory_limit_bytes]

    def work(self, executor: Executor, width: Width, progress: Report | None) -> None:
        """Keeps the executor busy until nothing is left; each result is written as it comes."""
        finished: queue.SimpleQueue[tuple[Task, int, Future[Outcome]]] = queue.SimpleQueue()
        waiting = iter(self.todo)
        of, total = len(self.todo), sum(t.unit.size + FIXED_BYTES for t in self.todo)
        in_hand = done = failed = did = 0

        def start(task: Task, attempt: int) -> None:
            future = executor.submit(nursery.deliver, task.unit, self.settings, program())
            future.add_done_callback(lambda future: finished.put((task, attempt, future)))

        while True:
            for task in islice(waiting, max(width() * AHEAD - in_hand, 0)):
                start(task, 1)
                in_hand += 1
            if not in_hand:
                return
            task, attempt, future = finished.get()
            width()  # before a lost cluster is taken for the fault of a capture
            outcome = _outcome(future)
            if outcome.state == FAILED and outcome.again and attempt < ATTEMPTS:
                start(task, attempt + 1)
                continue
            in_hand -= 1
            self._keep(task, outcome, attempt)
            done, failed, did = done + 1, failed + (outcome.state == FAILED), did + task.unit.size + FIXED_BYTES
            if progress:
                progress(Progress(done, of, failed, did / total))

    def _keep(self, task: Task, outcome: Outcome, attempts: int) -> None:
        failure = None
        if outcome.state != DONE:
            # What is no fault of the captures (a machine was lost) is tried again by the next run.
            reason = outcome.reason + (f" ({attempts} times)" if outcome.again and attempts > 1 else "")
            failure = {"state": outcome.state, "reason": reason, "final": not outcome.again, "limits": self._limits()}
            self.failures[task.key] = failure
        self.folder.keep(task, outcome, failure)


def ordered(tasks: Sequence[Task]) -> list[Task]:
    """The largest first, so that none of them is begun last and waited for; after each the smallest that is left, so
    that the driver is never asked for thousands of small ones at once. What comes last is of middle size.

    Chosen by tests/bench/simulate.py out of three orders, on 1,000 workers: clearly better for very many units of unequal
    size, where the largest alone first ends at the driver's pace. With few units for each worker, slow or dying ones among
    them, chance decides, and the others are sometimes better.
    """
    largest = sorted(tasks, key=lambda task: (-task.unit.size, task.key))
    return list(chain.from_iterable(zip(largest, reversed(largest), strict=True)))[: len(largest)]


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - whatever an executor makes of a machine that is gone
        return Outcome(FAILED, f"{type(error).__name__}: {error}", again=True)


def fingerprints(file: str | os.PathLike[str]) -> frozenset[str]:
    """The fingerprints of the findings in an earlier summary.json (`--baseline`)."""
    try:
        findings = json.loads(Path(file).read_text(encoding="utf-8"))["findings"]
        return frozenset(known for finding in findings for known in finding["fingerprints"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{os.fspath(file)}: not the summary.json of a batch") from None


# -- who does the work ---------------------------------------------------------------------------------------------


@contextmanager
def _executor(jobs: int | None, scheduler: str | None, units: int) -> Iterator[tuple[Executor, Width]]:
    """Where the units run, and how many at a time."""
    if scheduler:
        with _dask(scheduler) as found:
            yield found
        return
    workers = min(jobs or processors(), units)
    pool = ThreadPoolExecutor(workers, "nursery")
    try:
        yield pool, lambda: workers
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        nursery.close_all()
        raise
    pool.shutdown()
    nursery.close_all()


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, Width]]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise UsageError("--scheduler needs Dask: pip install 'smtpscope[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=FIRST_WORKER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ToolError(f"--scheduler {address}: {str(error) or type(error).__name__}") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it would say is said by us, in one line
    looked, threads = 0.0, 1

    def width() -> int:
        """The threads of all workers, looked at now and then: a cluster grows and shrinks."""
        nonlocal looked, threads
        if client.status in ("closing", "closed", "failed"):
            raise ToolError(
                f"--scheduler {address}: the scheduler is gone; what is done is kept: the same command goes on from there"
            )
        if time.monotonic() - looked > LOOK_AGAIN_S:
            looked, threads = time.monotonic(), max(sum(client.nthreads().values()), 1)
        return threads

    with client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except TimeoutError:
            raise ToolError(f"--scheduler {address}: no worker came within {FIRST_WORKER_S} s") from None
        # pure=False: Dask must not take the same unit in two runs for one; what is done already is decided here.
        executor = client.get_executor(pure=False)
        try:
            yield executor, width
        finally:
            with suppress(Exception):  # of what kind depends on the version: no scheduler is there to be told
                executor.shutdown(wait=False)


# -- the summary ---------------------------------------------------------------------------------------------------


def _summarise(
    batch: _Batch, levels: tuple[Severity, Confidence, frozenset[str]] | None, rules: Sequence[str]
) -> tuple[dict[str, Any], int]:
    """Everything that is made from the cases: one pass over the documents, then the dataset. And how many findings count."""
    folder, summary, count = batch.folder, Summary(interrupted=batch.interrupted), 0
    days: dict[str, list[Task]] = {}
    failed: list[dict[str, Any]] = []
    with folder.written(folder.path / "junit.xml") as report:
        report.write(b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="smtpscope">\n')
        for task in batch.tasks:
            title = f"case {task.key}" if folder.shared else task.unit.title
            known = batch.failures.get(task.key)
            if known is not None:
                _count_failure(summary, task, title, known)
                if known["state"] == SKIPPED:
                    continue
                failed.append(_failed_row(task, title, known))
                report.write(told.failed_suite(title, known["reason"]))
            elif not folder.is_done(task):
                summary.units["left"] += 1
            else:
                document = folder.document(task)
                days.setdefault(summary.add(document, task.key, title), []).append(task)
                case = Case(case_of(document), Options())
                counted = case.counting(*levels) if levels else None
                count += len(counted or ())
                report.writelines(told.suites(case.data, rules, None if counted is None else [f.id for f in counted]))
        report.write(b"</testsuites>\n")
    dataset.write(folder, days, failed, summary)
    document = summary.document()
    folder.write(folder.path / "summary.json", json.dumps(document, indent=1).encode() + b"\n")
    folder.write(folder.path / "summary.md", told.markdown_text(document).encode("utf-8", "backslashreplace"))
    return document, count


def _count_failure(summary: Summary, task: Task, title: str, known: dict[str, Any]) -> None:
    if known["state"] == SKIPPED:
        summary.units["skipped"] += 1
    else:
        summary.fail(task.key, title, known["reason"])


def _failed_row(task: Task, title: str, known: dict[str, Any]) -> dict[str, Any]:
    row = {"case": task.key, "names": [title], "state": "failed", "reason": known["reason"], "size": task.unit.size}
    return row | {"complete": False}
