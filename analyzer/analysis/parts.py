"""Captures read in one, or cut by ranges of bytes, a process for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..capture.reading import WHOLE, Span, read, share_wanted, spans
from .gathering import Gathered, Part
from .options import Options, reading_options

# Far more connections than one part can hold: the keys of two parts never meet.
_KEYS_OF_A_PART = 1 << 40
# Below this, of packets that are worked on, one process has finished before a second one has started. (What is only
# walked over is bound by memory, which processes share: a 1 GB capture with 3 % SMTP takes one 0.73 s, and two 0.84 s.)
_WORTH_SHARING_BYTES = 64 << 20


def processors() -> int:
    """Those that this process may use; not every system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gather(captures: Sequence[str], options: Options, progress: Callable[[int], None] | None) -> Gathered:
    """The captures cut by ranges of bytes, a process for each; connections that cross a cut are joined and judged here.

    Exact or not at all: where a part can not be read without what came before (a port found there, a fragment that waits
    for its rest), where connections do not join beyond doubt, or where a process died, the captures are read in one.
    """
    cut = _spans(captures, options)
    if len(cut) == 1:
        return _read(captures, options, progress)
    from multiprocessing import get_context

    processes = get_context("fork")
    workers = []
    for part, span in list(enumerate(cut))[1:]:
        receiver, sender = processes.Pipe(duplex=False)
        worker = processes.Process(target=_work, args=(sender, captures, options, part, span), daemon=True)
        worker.start()
        sender.close()
        workers.append((worker, receiver))
    try:
        run = _read(captures, options, progress, 0, cut[0])
        fits = True
        try:
            for (_, receiver), span in zip(workers, cut[1:], strict=True):
                fits = fits and run.joins(_received(receiver), span.start[1] if span.apart else None)
        except KeyboardInterrupt:
            run.interrupted = True
    finally:
        for worker, receiver in workers:
            receiver.close()
            worker.terminate()
            worker.join()
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
) -> Gathered:
    """Read the captures, or a span of them. What is open at the end of a span is left open, for the next one."""
    run = Gathered(options, first_key=1 + part * _KEYS_OF_A_PART, continues=part > 0)
    try:
        for batch in read(captures, reading_options(options), run.captures, span=span):
            run.take_batch(batch)
            if progress:
                progress(run.counts["frames"])
    except KeyboardInterrupt:
        run.interrupted = True
    if span.stop is None:
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


def _received(receiver: Any) -> Part | None:
    """What a process found out; None when it died."""
    try:
        part: Part = receiver.recv()
    except (EOFError, OSError):
        return None
    return part


def _work(sender: Any, captures: Sequence[str], options: Options, part: int, span: Span) -> None:
    """One part, in a process of its own."""
    with suppress(KeyboardInterrupt, BrokenPipeError):
        sender.send(_read(captures, options, None, part, span).part())
