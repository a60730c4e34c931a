"""Captures read in one, or cut by ranges of bytes, a process for each."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO, NamedTuple

from ..capture.reading import WHOLE, Span, place_near, read, share_wanted, spans
from ..capture.windows import Border
from .gathering import Gathered, Part
from .options import Options, reading_options

# Far more connections than one part can hold: the keys of two parts never meet.
_KEYS_OF_A_PART = 1 << 40
# Below this one process has finished before a second one has started. Where a part has to skim what lies before it, the
# packets that are worked on count: of 1 GB with 3 % SMTP two processes made 0.84 s then, and one 0.73 s.
_WORTH_SHARING_BYTES = 64 << 20
# Who has read his part takes half of what another one has left, if that is so much: connections that cross a cut more take
# as long as 20 MB.
_WORTH_HELPING_BYTES = 64 << 20


def processors() -> int:
    """Those that this process may use; not every system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gather(
    captures: Sequence[str],
    options: Options,
    progress: Callable[[int], None] | None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Gathered:
    """The captures cut by ranges of bytes, a process for each; connections that cross a cut are joined and judged here.

    `meanwhile` is called before anything is read here, and when other processes read already.

    Nobody knows beforehand how long a part will take: mail may be all in one place, a processor busy with something else.
    Who has nothing left to read here helps the others (but where what lies before has to be skimmed).

    Exact or not at all: where a part can not be read without what came before (a port found there, a fragment that waits
    for its rest), where connections do not join beyond doubt, or where a process died, the captures are read in one.
    """
    cut = _spans(captures, options)
    workers = _started(captures, options, cut)
    if not workers:
        meanwhile()
        return _read(captures, options, progress)
    try:
        meanwhile()
        run = _read(captures, options, progress, 0, cut[0])
        fits = True
        try:
            found: list[tuple[int, Callable[[], Part | None]]] = [
                (w.span.start[1], partial(_received, w)) for w in workers
            ]
            last = run
            while cut[0].apart and not last.interrupted and (span := _left(captures, workers)):
                last = _read(captures, options, progress, 1 + len(found), span)
                found.append((span.start[1], last.part))
            if cut[0].apart:
                found.sort(key=lambda part: part[0])
            for begin, part in found:
                if cut[0].apart and run.captures[0].bytes > begin:
                    continue  # who was told to stop here was further already
                fits = fits and run.joins(part(), begin if cut[0].apart else None)
        except KeyboardInterrupt:
            run.interrupted = True
    finally:
        _stop(workers)
    if not fits and not run.interrupted:  # after Ctrl-C what there is has to do
        return _read(captures, options, progress)
    run.finish()
    # which ones had no room depends on the order in which they were judged
    return _read(captures, options, progress) if run.counts["not_judged"] and not run.interrupted else run


def _read(
    captures: Sequence[str],
    options: Options,
    progress: Callable[[int], None] | None,
    part: int = 0,
    span: Span = WHOLE,
    border: Border | None = None,
) -> Gathered:
    """Read the captures, or a span of them. What is open at the end of a span is left open, for the next one."""
    run = Gathered(options, first_key=1 + part * _KEYS_OF_A_PART, continues=part > 0)
    try:
        for batch in read(captures, reading_options(options), run.captures, span=span, border=border):
            run.take_batch(batch)
            if progress:
                progress(run.counts["frames"])
    except KeyboardInterrupt:
        run.interrupted = True
    if span.stop is None and not (border and border.stop):
        run.finish()
    return run


def _spans(captures: Sequence[str], options: Options) -> list[Span]:
    """What each of several processes reads. All of them open the captures, so these must be files."""
    jobs = options.jobs or processors()
    if jobs < 2 or not hasattr(os, "fork") or options.engine == "tshark":
        return [WHOLE]
    try:
        size = sum(os.stat(name).st_size for name in captures if os.path.isfile(name))
    except OSError:
        return [WHOLE]
    if size < _WORTH_SHARING_BYTES or not all(os.path.isfile(name) for name in captures):
        return [WHOLE]
    # of a capture read up to a limit the end is not known, and what was said in TLS is known by frame numbers
    found = spans(captures, jobs, apart=options.max_bytes is None and not options.said_in_tls)
    if options.jobs or found[-1].apart:
        return found
    return found if size * share_wanted(captures, reading_options(options)) >= _WORTH_SHARING_BYTES else [WHOLE]


class _Worker(NamedTuple):
    """A process that reads one part."""

    process: int
    found: BinaryIO  # what it found out
    span: Span
    border: Border  # where it ends, if that is not the end of the span


def _started(captures: Sequence[str], options: Options, cut: Sequence[Span]) -> list[_Worker]:
    """A process for each span but the first; none where the system has no room for all of them."""
    workers: list[_Worker] = []
    try:
        for part, span in enumerate(cut[1:], 1):
            workers.append(_start(captures, options, part, span))
    except OSError:  # a limit on processes, or on open files
        _stop(workers)
        return []
    return workers


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.found.close()
        os.kill(worker.process, signal.SIGTERM)  # it has not been waited for: the number is still its own
        os.waitpid(worker.process, 0)


def _start(captures: Sequence[str], options: Options, part: int, span: Span) -> _Worker:
    """A fork, and nothing else: to load `multiprocessing` takes as long as to read 20 MB."""
    border = Border.shared(span.start[1])
    readable, writable = os.pipe()
    try:
        process = os.fork()
    except OSError:
        os.close(readable)
        os.close(writable)
        raise
    if process:
        os.close(writable)
        return _Worker(process, open(readable, "rb"), span, border)
    try:
        os.close(readable)
        _work(writable, captures, options, part, span, border)
    finally:
        os._exit(0)  # whatever happened: who gets nothing reads the captures in one, and tells


def _work(target: int, captures: Sequence[str], options: Options, part: int, span: Span, border: Border) -> None:
    """One part, in a process of its own."""
    with suppress(KeyboardInterrupt, BrokenPipeError), open(target, "wb") as out:
        out.write(pickle.dumps(_read(captures, options, None, part, span, border).part(), pickle.HIGHEST_PROTOCOL))


def _left(captures: Sequence[str], workers: Sequence[_Worker]) -> Span | None:
    """Half of what somebody has left to read, who is told; None where that is little, or the file is gone."""
    try:
        size = sum(os.stat(name).st_size for name in captures)
    except OSError:
        return None
    ends = [w.border.stop or (w.span.stop[1] if w.span.stop else size) for w in workers]
    left, end, worker = max(
        (end - w.border.claimed, end, n) for n, (w, end) in enumerate(zip(workers, ends, strict=True))
    )
    if left < _WORTH_HELPING_BYTES:
        return None
    place = place_near(captures, end - left // 2)
    if place is None or not workers[worker].border.claimed < place < end:
        return None
    workers[worker].border.stop = place
    return Span((1, place), (1, end) if end < size else None, apart=True)


def _received(worker: _Worker) -> Part | None:
    """What a process found out; None when it died."""
    try:
        part: Part = pickle.loads(worker.found.read())  # noqa: S301 - our own process wrote it
    except (EOFError, OSError, pickle.UnpicklingError):
        return None
    return part
