"""The one place that knows the order of the stages: captures in, case out.

read -> Tracker -> measure -> talks and sightings -> path ledgers (gathering.py, in parts.py for several processes)
-> subjects -> judge -> Case (verdict.py, rows.py).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import case as c
from ..capture.packets import Batch
from .again import trace, traces
from .gathering import Gathered
from .options import Options, reading_options
from .parts import gather, processors

if TYPE_CHECKING:
    from ..detect.rule import RulePack

__all__ = ["Incident", "Options", "analyze", "check", "processors", "trace", "traces"]

# To take a large case's connections and mails apart costs a fiftieth of the time that it took to find them.
_kept: list[Gathered] = []


def analyze(
    captures: Sequence[str], options: Options | None = None, progress: Callable[[int], None] | None = None
) -> c.Case:
    """One case out of the captures. Never raises for what a capture holds; RuleError for a rule file."""
    options = options or Options()
    check(options, captures)
    packs: list[RulePack] = []
    with _without_cycle_collector():
        run = gather(captures, options, progress, lambda: packs.append(load(options.rules)))
        case = _judged(run, packs[0])
        if options.ends:
            _kept.append(run)
        del run
    if options.keylog:
        case = _opened(case, captures, options, packs[0], options.keylog)
    return _completed(case, options)


def load(rules: Sequence[str]) -> RulePack:
    """The rules; and what judges by them, which nobody needs who only reads. RuleError for a rule file."""
    from ..detect.rule import load as load_rules
    from . import verdict  # noqa: F401 - a third of the start-up

    return load_rules(rules)


def _judged(run: Gathered, pack: RulePack) -> c.Case:
    from .verdict import Verdict

    return Verdict(run, pack).case()


def _opened(case: c.Case, captures: Sequence[str], options: Options, pack: RulePack, keys: str) -> c.Case:
    """The case judged again, with what was said inside TLS. Which connections are TLS had to be known first."""
    from .. import keylog

    said, limit = keylog.opened(case, keys)
    if said:
        # the shortcuts know what is in the clear
        again = options._replace(said_in_tls=said, shortcuts=False)
        case = _judged(gather(captures, again, None), pack)
    case.limits += limit
    return case


def check(options: Options, captures: Sequence[str] = ()) -> None:
    """Says before the work that some option cannot be used. UsageError or ToolError."""
    if options.log_timezone is not None:
        from .. import maillog

        maillog.zone(options.log_timezone)
    if options.keylog:
        from .. import keylog

        keylog.check(options.keylog, captures)


def _completed(case: c.Case, options: Options) -> c.Case:
    """With what is told of a case that has been judged."""
    from ..whatif import what_if

    case.what_if = what_if(case)
    if options.maillog:
        from .. import maillog

        maillog.join(case, options.maillog, maillog.zone(options.log_timezone))
    return case


class Incident:
    """A case under way: packets in as they come, its verdict at the end.

    What the verdict would be now is asked of a copy (a forked process is one): asking is the end.
    """

    def __init__(self, options: Options) -> None:
        check(options)
        self._options = options
        self._pack = load(options.rules)
        self._run = Gathered(options)
        self.captures = self._run.captures
        self.reading = reading_options(options)

    def take(self, batch: Batch) -> None:
        """The next packets, of the last one of `captures`."""
        self._run.take_batch(batch)

    def interrupt(self) -> None:
        """Something is there that was not read."""
        self._run.interrupted = True

    def case(self) -> c.Case:
        """The case as it stands; connections that are open are judged with what was seen of them."""
        self._run.finish()
        return _completed(_judged(self._run, self._pack), self._options)


@contextmanager
def _without_cycle_collector() -> Iterator[None]:
    """A case is a million small objects without cycles; looking for cycles among them takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # all that was made meanwhile becomes old, without a look at it: else it would be searched at once, as young
            gc.freeze()
            gc.unfreeze()
            gc.enable()
