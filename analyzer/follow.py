"""A running incident: findings as they become provable, while the capture is still being written.

    what grows (capture/growing.py)  ->  batches  ->  the incident  ->  now and then: a verdict  ->  what has changed in it

The verdict at any moment is that of `analyze` on what has been captured by then. A forked process gives it: what it
knows is a copy, so it may close the connections that are open here, and end.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from . import analysis
from .capture.growing import Growing
from .case import Case, Finding
from .errors import ToolError, UsageError
from .report import json as case_json
from .report.escape import visible
from .report.wording import frames

SCHEMA = "smtpscope-follow/1"

# A person who watches wants to know within seconds; judging takes milliseconds at first.
JUDGE_EVERY_S = 1.0
# A long incident takes longer to be judged: it then has so many times that long in which nothing is judged.
REST = 10


class Change(NamedTuple):
    """A finding that is new, or that says something else than before, or that more packets have refuted."""

    kind: Literal["new", "changed", "gone"]
    time_ns: int  # of the last packet captured by then
    finding: Finding  # as it is now; of one that is gone: as it was


def follow(
    place: str,
    options: analysis.Options,
    tell: Callable[[Change], None],
    stop: Callable[[], bool] = lambda: False,
    shown: Callable[[Case], Case] = lambda case: case,
) -> Case:
    """The case of a capture that is still being written, judged when `stop` says so (or the pipe it comes from ends).

    `place` is a file, a folder, a glob, or - for stdin; it need not be there yet. Until then `tell` gets each change of
    the findings once, as they stand in the case that `shown` makes of the case (redaction).
    """
    if options.keylog:
        raise UsageError("--follow reads packets once, --keylog twice: open TLS when the capture is complete")
    watch = _Watch(options, tell, shown)
    growing = Growing(place, watch.look, stop)
    incident = watch.incident
    try:
        for batch in growing.batches(incident.reading, incident.captures):
            incident.take(batch)
            watch.taken(batch.last_time_ns)
            if stop() and growing.behind:
                incident.interrupt()
                break
    except KeyboardInterrupt:
        incident.interrupt()
    case = incident.case()
    watch.compare(shown(case).findings)
    return case


class _Watch:
    """Asks for the verdict when there is something new and it is time, and tells what has changed."""

    def __init__(
        self, options: analysis.Options, tell: Callable[[Change], None], shown: Callable[[Case], Case]
    ) -> None:
        self.incident = analysis.Incident(options)
        self._tell, self._shown = tell, shown
        self._known: dict[str, Finding] = {}
        self._clock_ns = 0
        self._is_fresh = False
        self._next_at = time.monotonic() + JUDGE_EVERY_S

    def taken(self, last_time_ns: int | None) -> None:
        """More packets are known."""
        self._is_fresh = True
        self._clock_ns = max(self._clock_ns, last_time_ns or 0)
        self.look()

    def look(self) -> None:
        """Judge, where there is something new and it is time."""
        began = time.monotonic()
        if self._is_fresh and began >= self._next_at:
            self._is_fresh = False
            self.compare(_judged(self.incident, self._shown))
            ended = time.monotonic()
            self._next_at = ended + max(JUDGE_EVERY_S, REST * (ended - began))

    def compare(self, findings: Sequence[Finding]) -> None:
        """Tell what these findings say that was not told before."""
        now = {finding.fingerprint: finding for finding in findings}
        for finding in findings:
            known = self._known.get(finding.fingerprint)
            if known is None or _saying(known) != _saying(finding):
                self._tell(Change("new" if known is None else "changed", self._clock_ns, finding))
        for fingerprint, finding in self._known.items():
            if fingerprint not in now:
                self._tell(Change("gone", self._clock_ns, finding))
        self._known = now


def _saying(finding: Finding) -> tuple[object, ...]:
    """What makes it worth telling again: not that there is one mail more, but that it is worse, or surer."""
    return finding.title, finding.severity, finding.confidence, finding.explained_by is None


def _judged(incident: analysis.Incident, shown: Callable[[Case], Case]) -> Sequence[Finding]:
    """The findings as they are now, by a process that is a copy of this one."""
    from multiprocessing import get_context

    try:
        context = get_context("fork")
    except ValueError:
        raise ToolError("--follow needs a system that can copy a process (fork): Linux, BSD, macOS") from None
    receiver, sender = context.Pipe(duplex=False)
    judge = context.Process(target=_judge, args=(sender, incident, shown), daemon=True)
    judge.start()
    sender.close()
    try:
        answer: Sequence[Finding] | Exception = receiver.recv()
    except EOFError:
        answer = ToolError("the process that judges died; was it out of memory?")
    finally:
        receiver.close()
        judge.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _judge(sender: Any, incident: analysis.Incident, shown: Callable[[Case], Case]) -> None:
    """In the copy. Control-C is for the process that follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer: Sequence[Finding] | Exception = shown(incident.case()).findings
    except Exception as error:  # noqa: BLE001 - raised where somebody hears it
        answer = error
    with suppress(BrokenPipeError):
        sender.send(answer)


# -- told --------------------------------------------------------------------------------------------------------

_SAID = {"new": "new", "changed": "now", "gone": "no longer"}


def text(change: Change) -> str:
    """One change for a terminal: what, between whom, how sure, and the packets that show it."""
    finding = change.finding
    where = " to ".join(visible(end) for end in (finding.sender, finding.receiver) if end)
    sure = f"{finding.severity} {finding.role}, {finding.confidence}"
    when = case_json.timestamp(change.time_ns)[:19].replace("T", " ")
    line = f"{when} UTC  {_SAID[change.kind]}: {': '.join(filter(None, (visible(finding.title), where)))} ({sure})\n"
    if change.kind != "gone" and finding.evidence:
        shown = finding.evidence[0]
        several = max((frame.capture for frame in shown.frames), default=1)
        line += f"    {visible(shown.note)}: {frames(shown.frames, several, most=9)}\n"
    return line


def line(change: Change) -> str:
    """One change for programs: a JSON document on one line, schema smtpscope-follow/1."""
    document = {
        "schema": SCHEMA,
        "change": change.kind,
        "time": case_json.timestamp(change.time_ns),
        "finding": case_json.finding(change.finding),
    }
    return f"{json.dumps(document)}\n"
