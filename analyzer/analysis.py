"""The one place that knows the order of the stages: captures in, case out.

read -> Tracker -> measure -> talks and sightings -> path ledgers -> subjects -> judge -> Case
"""

from __future__ import annotations

import gc
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import case as c
from . import keylog, maillog
from .capture.packets import Batch, CaptureInfo, IcmpError, address_text
from .capture.reading import WHOLE, ReadOptions, Span, read, spans
from .capture.wanted import DEFAULT_PORTS
from .detect import mails, paths
from .detect.engine import ADDED, Draft, judge, screen
from .detect.facts import VOCABULARY, Subject, Value
from .detect.inside import Chunk, Ends, ends_of
from .detect.regular import RegularGroup
from .detect.rule import RulePack, load
from .smtp.dialogue import Mail
from .smtp.terminator import LENGTH
from .summary import HANGING, limits, summarize
from .tcp.connections import Group, HandedOver, Tracker
from .tcp.delivery import Delivery, Trace, measure
from .tcp.path_mtu import Sighting, examine
from .whatif import what_if

# So many connections go through columns together: enough for NumPy to pay, few enough to need little memory.
CONNECTIONS_AT_ONCE = 2048

FourTuple = tuple[int, int, int, int]  # (source, source port, destination, destination port)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose. ports: TCP ports that are SMTP; rules: files or folders added to the built-in pack."""

    ports: frozenset[int] = DEFAULT_PORTS
    all_tcp: bool = False
    rules: tuple[str, ...] = ()
    max_bytes: int | None = None
    jobs: int = 1  # processes; 0: one per processor
    engine: str = "auto"
    keylog: str | None = None  # file with secrets of TLS sessions
    maillog: tuple[str, ...] = ()  # log files of the mailers on either side
    log_timezone: str | None = None  # of log lines that name none; None: that of this machine
    stripped: frozenset[tuple[str, int]] = frozenset()  # servers whose STARTTLS a second point of capture shows removed
    # what the keys of TLS open, by the two ends of a connection
    said_in_tls: Mapping[Ends, Sequence[Chunk]] = field(default_factory=dict, compare=False)
    shortcuts: bool = True  # False: every connection goes the long way (tests compare)


def analyze(
    captures: Sequence[str], options: Options | None = None, progress: Callable[[int], None] | None = None
) -> c.Case:
    """One case out of the captures. Never raises for what a capture holds; RuleError for a rule file."""
    options = options or Options()
    check(options, captures)
    pack = load(options.rules)
    with _without_cycle_collector():
        run = _read_in_parts(captures, options, progress)
        case = _Verdict(run, pack).case()
    if options.keylog:
        case = _opened(case, captures, options, pack, options.keylog)
    return _completed(case, options)


def _opened(case: c.Case, captures: Sequence[str], options: Options, pack: RulePack, keys: str) -> c.Case:
    """The case judged again, with what was said inside TLS. Which connections are TLS had to be known first."""
    said, limit = keylog.opened(case, keys)
    if said:
        # the shortcuts know what is in the clear
        again = replace(options, said_in_tls=said, shortcuts=False)
        case = _Verdict(_read_all(captures, again, None), pack).case()
    case.limits += limit
    return case


def check(options: Options, captures: Sequence[str] = ()) -> None:
    """Says before the work that some option cannot be used. UsageError or ToolError."""
    maillog.zone(options.log_timezone)
    if options.keylog:
        keylog.check(options.keylog, captures)


def _completed(case: c.Case, options: Options) -> c.Case:
    """With what is told of a case that has been judged."""
    case.what_if = what_if(case)
    if options.maillog:
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
        self._run = _Analysis(options)
        self.captures = self._run.captures
        self.reading = _reading(options)

    def take(self, batch: Batch) -> None:
        """The next packets, of the last one of `captures`."""
        self._run.take_batch(batch)

    def interrupt(self) -> None:
        """Something is there that was not read."""
        self._run.interrupted = True

    def case(self) -> c.Case:
        """The case as it stands; connections that are open are judged with what was seen of them."""
        self._run.finish()
        return _completed(_Verdict(self._run, self._pack).case(), self._options)


def _reading(options: Options) -> ReadOptions:
    return ReadOptions(ports=options.ports, all_tcp=options.all_tcp, max_bytes=options.max_bytes, engine=options.engine)


def _read_all(
    captures: Sequence[str],
    options: Options,
    progress: Callable[[int], None] | None,
    part: int = 0,
    span: Span = WHOLE,
) -> _Analysis:
    """Read the captures, or a span of them. What is open at the end of a span is left open, for the next one."""
    run = _Analysis(options, first_key=1 + part * _KEYS_OF_A_PART, continues=part > 0)
    try:
        for batch in read(captures, _reading(options), run.captures, span=span):
            run.take_batch(batch)
            if progress:
                progress(run.counts["frames"])
    except KeyboardInterrupt:
        run.interrupted = True
    if span.stop is None:
        run.finish()
    return run


# Far more connections than one part can hold: the keys of two parts never meet.
_KEYS_OF_A_PART = 1 << 40
# Below this one process has finished before a second one has started.
_WORTH_SHARING_BYTES = 64 << 20


def processors() -> int:
    """Those that this process may use; not every system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _spans(captures: Sequence[str], options: Options) -> list[Span]:
    """What each of several processes reads. All of them open the captures, so these must be files."""
    jobs = options.jobs or processors()
    if jobs < 2 or not hasattr(os, "fork") or options.engine == "tshark":
        return [WHOLE]
    try:
        size = sum(os.stat(name).st_size for name in captures if os.path.isfile(name))
    except OSError:
        return [WHOLE]
    files = all(os.path.isfile(name) for name in captures)
    return spans(captures, jobs) if files and size >= _WORTH_SHARING_BYTES else [WHOLE]


def _read_in_parts(captures: Sequence[str], options: Options, progress: Callable[[int], None] | None) -> _Analysis:
    """The captures cut by ranges of bytes, a process for each; connections that cross a cut are joined and judged here.

    Exact or not at all: where a part can not be read without what came before (a port found there, a fragment that waits
    for its rest), where connections do not join beyond doubt, or where a process died, the captures are read in one.
    """
    cut = _spans(captures, options)
    if len(cut) == 1:
        return _read_all(captures, options, progress)
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
        run = _read_all(captures, options, progress, 0, cut[0])
        fits = True
        for _, receiver in workers:
            fits = fits and run.joins(_received(receiver))
    finally:
        for worker, receiver in workers:
            receiver.close()
            worker.terminate()
            worker.join()
    if not fits:
        return _read_all(captures, options, progress)
    run.finish()
    return run


def _received(receiver: Any) -> _Part | None:
    """What a process found out; None when it died."""
    try:
        part: _Part = receiver.recv()
    except (EOFError, OSError):
        return None
    return part


def _work(sender: Any, captures: Sequence[str], options: Options, part: int, span: Span) -> None:
    """One part, in a process of its own."""
    with suppress(KeyboardInterrupt, BrokenPipeError):
        sender.send(_read_all(captures, options, None, part, span).part())


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


def trace(case: c.Case, connection: int) -> Trace:
    """One connection's packets, read again from the captures. KeyError when the case has no such connection."""
    return traces(case, [connection])[connection]


def traces(case: c.Case, connections: Collection[int]) -> dict[int, Trace]:
    """The packets of these connections by id, read again from the captures in one pass. KeyError where there are none."""
    wanted = {x.id: x for x in case.connections if x.id in connections}
    for connection in connections:
        if connection not in wanted:
            raise KeyError(f"no connection {connection} in this case")
    flows = {(_address(x.client.ip), x.client.port, _address(x.server.ip), x.server.port) for x in wanted.values()}
    ports = frozenset(x.server.port for x in wanted.values())
    reading = ReadOptions(ports=ports, only=frozenset(flows | {(*flow[2:], *flow[:2]) for flow in flows}))
    captures: list[CaptureInfo] = []
    points = _Points(captures, ports)
    icmp: list[IcmpError] = []
    seen: dict[frozenset[object], list[Trace]] = defaultdict(list)  # a pair of ports may be used again

    def keep(group: Group) -> None:
        delivery = measure(Group(group.table.detach(), group.first, group.middle, group.client_known))
        for k in range(len(group)):
            found = delivery.trace(k)
            seen[frozenset((found.client, found.server))].append(found)

    for batch in read([x.path for x in case.captures], reading, captures):
        icmp += batch.icmp
        keep(points.tracker().add(batch.packets, batch.last_time_ns))
    for tracker in points.trackers:
        keep(tracker.finish())
    return {x.id: _nearest(seen[frozenset((x.client, x.server))], x, icmp) for x in wanted.values()}


def _nearest(candidates: Sequence[Trace], conn: c.Connection, icmp: Sequence[IcmpError]) -> Trace:
    """Of the connections between the same two ports the one that began when `conn` did, with the ICMP that quotes it."""
    found = min(
        candidates,
        key=lambda t: (t.first_capture != conn.first_frame.capture, abs(t.start_ns - conn.start_ns)),
        default=None,
    )
    if found is None:
        raise KeyError(f"the packets of connection {conn.id} are not in the captures any more")
    found.icmp = [e for e in icmp if _quotes(e, conn)]
    return found


def _address(text: str) -> int:
    from ipaddress import ip_address

    ip = ip_address(text)
    return int(ip) | 0xFFFF << 32 if ip.version == 4 else int(ip)


def _text(address: int) -> str:
    return address_text(address >> 64, address & (1 << 64) - 1)


def _quotes(e: IcmpError, conn: c.Connection) -> bool:
    ends = {(_text(e.quoted_src), e.quoted_src_port), (_text(e.quoted_dst), e.quoted_dst_port)}
    return ends == {tuple(conn.client), tuple(conn.server)}


class _Points:
    """The points of capture: files of a rotated set follow each other at one of them; captures that overlap in time were
    taken at different ones, and what both hold are the same packets seen twice, not resends."""

    def __init__(self, captures: list[CaptureInfo], ports: frozenset[int], *, continues: bool = False) -> None:
        self.captures = captures  # grows while they are read; the last one is being read
        self.ports = ports
        self.continues = continues
        self.trackers: list[Tracker] = []  # one per point
        self.of: dict[int, int] = {}  # capture id -> point, from 0

    def tracker(self) -> Tracker:
        """The tracker for the capture that is being read."""
        current = self.captures[-1]
        if current.id not in self.of:
            taken = {self.of[x.id] for x in self.captures[:-1] if x.id in self.of and _overlap(x, current)}
            self.of[current.id] = next(n for n in range(len(taken) + 1) if n not in taken)
            self._make_trackers()
        return self.trackers[self.of[current.id]]

    def take(self, of: dict[int, int]) -> None:
        """The points as they are known where the captures were read further."""
        self.of |= of
        self._make_trackers()

    def _make_trackers(self) -> None:
        while len(self.trackers) <= max(self.of.values(), default=-1):
            self.trackers.append(Tracker(self.ports, continues=self.continues))


def _overlap(earlier: CaptureInfo, later: CaptureInfo) -> bool:
    """The second begins inside the first (captures are read in the order of their first packets)."""
    if earlier.first_ns is None or earlier.last_ns is None or later.first_ns is None:
        return False
    return earlier.first_ns <= later.first_ns < earlier.last_ns


class _Part(NamedTuple):
    """What was found out in one part of the captures."""

    talks: list[mails.Talk]
    ledgers: dict[tuple[str, str], paths.PathLedger]
    captures: list[CaptureInfo]
    counts: dict[str, int]
    services: dict[int, int]
    icmp: list[IcmpError]
    used_icmp: set[tuple[int, int]]
    clock_ns: int
    points: dict[int, int]  # _Points.of
    handed_over: list[HandedOver]  # by each of its trackers
    carries: bool
    let_go: int
    interrupted: bool


@dataclass
class _Analysis:
    """What is known while the captures are read: a talk per connection, a ledger per path."""

    options: Options
    captures: list[CaptureInfo] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    services: Counter[int] = field(default_factory=Counter)
    icmp: list[IcmpError] = field(default_factory=list)
    clock_ns: int = 0
    interrupted: bool = False
    talks: list[mails.Talk] = field(default_factory=list)
    ledgers: dict[tuple[str, str], paths.PathLedger] = field(default_factory=dict)
    points: _Points = field(init=False)
    _by_flow: dict[FourTuple, list[IcmpError]] = field(default_factory=lambda: defaultdict(list))
    _used_icmp: set[tuple[int, int]] = field(default_factory=set)
    carries: bool = False  # what follows can not be read rightly without what the reader remembers
    first_key: InitVar[int] = 1
    continues: InitVar[bool] = False  # the beginning of the captures is read by somebody else
    _next_key: int = field(init=False)
    _next_mail: int = field(init=False)

    def __post_init__(self, first_key: int, continues: bool) -> None:
        self.points = _Points(self.captures, self.options.ports, continues=continues)
        self._next_key = self._next_mail = first_key

    def part(self) -> _Part:
        """All that is known, to be joined to the part before."""
        return _Part(
            self.talks,
            self.ledgers,
            self.captures,
            dict(self.counts),
            dict(self.services),
            self.icmp,
            self._used_icmp,
            self.clock_ns,
            self.points.of,
            [tracker.hand_over() for tracker in self.points.trackers],
            self.carries,
            sum(tracker.let_go for tracker in self.points.trackers),
            self.interrupted,
        )

    def joins(self, part: _Part | None) -> bool:
        """Take in the part that follows. False (and this is of no use any more) when it can not be joined exactly."""
        if part is None:
            return False
        self.interrupted |= part.interrupted
        let_go = part.let_go + sum(tracker.let_go for tracker in self.points.trackers)
        if (self.carries or let_go) and not self.interrupted:
            return False
        self.captures[:] = part.captures
        self.points.take(part.points)
        for tracker, handed_over in zip(self.points.trackers, part.handed_over, strict=False):
            if not tracker.join(handed_over):
                return False
        self.talks += part.talks
        for ends, ledger in part.ledgers.items():
            self._ledger(ends).join(ledger)
        self.counts.update(part.counts)
        self.services.update(part.services)
        self.take_icmp(part.icmp)
        self._used_icmp |= part.used_icmp
        self.clock_ns = max(self.clock_ns, part.clock_ns)
        self.carries = part.carries
        return True

    def renumber(self) -> None:
        """Keys in the order of first packets, whatever order the connections closed in and whoever read them."""
        self.talks.sort(key=lambda t: (t.start_ns, t.first_frame))
        talk_key = {t.key: n for n, t in enumerate(self.talks, 1)}
        mail_key = {m.key: n for n, m in enumerate((m for t in self.talks for m in t.mails), 1)}
        for t in self.talks:
            t.key = talk_key[t.key]
            for m in t.mails:
                m.key, m.talk = mail_key[m.key], t.key
        for ledger in self.ledgers.values():
            ledger.connections = sorted(talk_key[k] for k in ledger.connections)
            ledger.messages = sorted(mail_key[k] for k in ledger.messages)
            ledger.views = [
                view._replace(
                    connection=talk_key[view.connection],
                    stuck_messages=tuple(mail_key[k] for k in view.stuck_messages),
                )
                for view in ledger.views
            ]
            ledger.views.sort(key=lambda view: view.connection)

    def take_icmp(self, errors: Sequence[IcmpError]) -> None:
        for e in errors:
            self.icmp.append(e)
            if e.quoted_src_port is not None and e.quoted_dst_port is not None:
                self._by_flow[(e.quoted_src, e.quoted_src_port, e.quoted_dst, e.quoted_dst_port)].append(e)

    def count_services(self, tcp_ports: Any) -> None:
        for port in tcp_ports.nonzero()[0].tolist():
            self.services[port] += int(tcp_ports[port])

    def take_batch(self, batch: Batch) -> None:
        """The next packets of the captures; connections that are over by now are judged and let go."""
        self.carries = batch.carries
        self.take_icmp(batch.icmp)
        if batch.last_time_ns is not None:
            self.clock_ns = max(self.clock_ns, batch.last_time_ns)
        self.counts.update(batch.counts)
        if batch.tcp_ports is not None:
            self.count_services(batch.tcp_ports)
        self.take(self.points.tracker().add(batch.packets, batch.last_time_ns))

    def finish(self) -> None:
        """Judge what is still open; nothing can be taken after it."""
        for tracker in self.points.trackers:
            self.take(tracker.finish())
            if tracker.let_go:
                self.counts["let_go"] += tracker.let_go

    def take(self, group: Group) -> None:
        """Judge the connections that are over."""
        for part in group.parts(CONNECTIONS_AT_ONCE):
            self._take_part(part)

    def _take_part(self, group: Group) -> None:
        delivery = measure(group)
        self.counts["tcp_connections"] += len(group)
        regular = RegularGroup(delivery, self._quoted(delivery), self.clock_ns) if self.options.shortcuts else None
        for k, silent in enumerate(self._silent(delivery)):
            if silent:
                self._next_key += 1
                self.counts["not_smtp"] += 1
                continue
            if regular is None or not regular.regular[k]:
                trace = delivery.trace(k)
                if not self._take_connection(trace):
                    trace.part()
                continue
            talk = regular.talk(k, self._next_key, self._next_mail)
            if talk is None:
                trace = delivery.trace(k)
                talk = mails.read_talk(self._next_key, trace, self.clock_ns, self._next_mail)
                trace.part()
            self._next_key += 1
            if not self._is_smtp(talk) and not self.options.all_tcp:
                self.counts["not_smtp"] += 1
                continue
            self._next_mail += len(talk.mails)
            self.talks.append(talk)
            for direction, ends in enumerate(((talk.client[0], talk.server[0]), (talk.server[0], talk.client[0]))):
                ledger = self._ledger(ends)
                regular.add_to(ledger, k, direction, talk)
                if not direction:
                    ledger.messages += [m.key for m in talk.mails]

    def _silent(self, delivery: Delivery) -> list[bool]:
        """Per connection: nobody said anything (scans, floods), so that it is no SMTP."""
        if self.options.all_tcp:
            return [False] * len(delivery.group)
        spoken = np.append(0, np.cumsum(delivery.group.table.payload_bytes > 0))[delivery.group.first]
        silent: list[bool] = (np.diff(spoken) == 0).tolist()
        return silent

    def _quoted(self, delivery: Delivery) -> Any:
        """Mask of the connections that some ICMP error quotes."""
        quoted = np.zeros(len(delivery.group), bool)
        if self._by_flow:
            heads = delivery.group.table[delivery.group.first[:-1]]
            columns = (heads.src_hi, heads.src_lo, heads.src_port, heads.dst_hi, heads.dst_lo, heads.dst_port)
            for k, (a, b, port, c, d, other) in enumerate(zip(*(x.tolist() for x in columns), strict=True)):
                one, two = (a << 64 | b, port), (c << 64 | d, other)
                quoted[k] = (*one, *two) in self._by_flow or (*two, *one) in self._by_flow
        return quoted

    def _ledger(self, ends: tuple[str, str]) -> paths.PathLedger:
        ledger = self.ledgers.get(ends)
        if ledger is None:
            ledger = self.ledgers[ends] = paths.PathLedger(*ends)
        ledger.capture_end_ns = max(ledger.capture_end_ns, self.clock_ns)
        return ledger

    def _take_connection(self, trace: Trace) -> bool:
        """Read and weigh one connection the long way; True when its trace is kept as evidence."""
        key = self._next_key
        self._next_key += 1
        trace.icmp = self._icmp_of(trace)
        said = self.options.said_in_tls.get(ends_of(trace.client, trace.server), ())
        talk = mails.read_talk(key, trace, self.clock_ns, self._next_mail, said)
        is_smtp = self._is_smtp(talk)
        if not is_smtp and not self.options.all_tcp:
            self.counts["not_smtp"] += 1
            return False
        self._next_mail += len(talk.mails)
        self.talks.append(talk)
        self._used_icmp.update((e.capture, e.frame) for e in trace.icmp)
        return self._weigh(key, trace, talk)

    def _is_smtp(self, talk: mails.Talk) -> bool:
        """An SMTP dialogue; or, on a port of SMTP, data of which the beginning was not captured or is TLS."""
        if talk.dialogue.is_smtp:
            return True
        return talk.server[1] in self.options.ports and talk.client_bytes + talk.server_bytes > 0

    def _icmp_of(self, trace: Trace) -> list[IcmpError]:
        if not self._by_flow:
            return []
        a, b = (_address(trace.client.ip), trace.client.port), (_address(trace.server.ip), trace.server.port)
        found = self._by_flow.get((*a, *b), []) + self._by_flow.get((*b, *a), [])
        # ports are used again: only what arrived while this connection lived (and a little later: slow routers)
        # (a capture that begins in mid-connection may show the ICMP first)
        from_ns = trace.start_ns if trace.handshake_seen else trace.start_ns - 5_000_000_000
        return [e for e in found if from_ns <= e.time_ns <= trace.end_ns + 5_000_000_000]

    def _weigh(self, key: int, trace: Trace, talk: mails.Talk) -> bool:
        """Both directions into their ledgers; True when one of them keeps the packets as evidence."""
        kept = False
        for sighting, sender_is in zip(examine(trace, self.clock_ns), ("client", "server"), strict=True):
            ends = (trace.client.ip, trace.server.ip)
            ledger = self._ledger(ends if sender_is == "client" else ends[::-1])
            lost = self._lost_at(sighting)
            stuck: list[int] = []
            if sender_is == "client":
                ledger.messages += [m.key for m in talk.mails]
                stuck = _stuck_mails(talk, sighting, lost)
            kept |= ledger.add(
                paths.View(
                    key,
                    trace,
                    sighting,
                    sender_is,
                    tuple(stuck),
                    _in_handshake(talk, lost),
                    sender_is == "client"
                    and lost is not None
                    and any(_in_terminator(m, lost) for m in talk.dialogue.mails),
                    sender_is == "client" and _after_go_ahead(talk, lost),
                    talk.stream,
                )
            )
        return kept

    @staticmethod
    def _lost_at(sighting: Sighting) -> int | None:
        main = sighting.main
        if main is not None and main.acked_ns is None:
            return int(main.seq)
        if sighting.hole is not None and sighting.hole.filled_ns is None:
            return int(sighting.hole.seq)
        return None


def _stuck_mails(talk: mails.Talk, sighting: Sighting, lost: int | None) -> list[int]:
    """The mails whose bytes are those that the path lost."""
    stuck = []
    for m, mail in zip(talk.mails, talk.dialogue.mails, strict=True):
        # 421: the server's own time-out, not an answer to the mail (RFC 5321 3.8)
        if lost is None or not m.in_data or (m.answered is True and m.reply_code != 421):
            continue
        end = mail.terminator_end or max(mail.body_end or 0, lost + 1)
        m.stuck = mail.start <= lost < end
        if m.stuck:
            stuck.append(m.key)
            if sighting.hole is not None:
                # behind the narrow link the packets that this mail needed are not seen, their hole is
                m.largest_packet_bytes = max(m.largest_packet_bytes or 0, sighting.hole.lost_ip_bytes)
    return stuck


def _in_handshake(talk: mails.Talk, lost: int | None) -> bool:
    """A TLS handshake message is what hangs, before any mail."""
    tls_start = talk.dialogue.tls_client_start
    if tls_start is None or lost is None or lost < tls_start or any(m.in_data for m in talk.mails):
        return False
    return not any(command.start >= tls_start for command in talk.dialogue.commands)  # read with its keys


def _after_go_ahead(talk: mails.Talk, lost: int | None) -> bool:
    """The loss begins where large data first leaves: behind DATA and its 354, behind STARTTLS, in a BDAT chunk."""
    places = {mail.data.end for mail in talk.dialogue.mails if mail.data is not None}
    places |= {m.data.start for m in talk.dialogue.mails if m.via == "bdat" and m.data is not None}
    return lost is not None and lost in places | {talk.dialogue.tls_client_start}


def _in_terminator(mail: Mail, offset: int) -> bool:
    """The stuck bytes begin inside `.CRLF`: what a PIX swallows, and no packet of that size is lost for its size."""
    return (
        not mail.in_tls
        and mail.terminator_end is not None
        and mail.terminator_end - LENGTH + 3 <= offset < mail.terminator_end
    )


class _Verdict:
    """From ledgers and talks to the finished case: subjects, findings, ids."""

    def __init__(self, run: _Analysis, pack: RulePack) -> None:
        run.renumber()
        self.run = run
        self.pack = pack
        self.talks = run.talks
        self.by_key = {t.key: t for t in self.talks}

    def case(self) -> c.Case:
        run = self.run
        self._stray_icmp()
        ledgers = sorted(run.ledgers.values(), key=self._ledger_order)
        weighed, subjects, silent = [], [], []
        may_fire = self._screen("path", tuple(VOCABULARY["path"].keys() - ADDED))
        rows: dict[tuple[Value, ...], dict[str, Value]] = {}
        for number, ledger in enumerate(ledgers, 1):
            stuck = tuple(dict.fromkeys(m for v in ledger.views for m in v.stuck_messages))
            w = paths.weigh(ledger, stuck)
            w.subject.paths = (number,)
            self._mail_facts(w, ledger)
            weighed.append(w)
            if not ledger.is_plain or may_fire(w.subject.facts):
                subjects.append(w.subject)
            else:
                silent.append(w.subject)
                # what comparisons and its row need: alike on many paths, and there may be very many
                kept = {name: w.subject.facts[name] for name in ("captured_at", "ip_version", "mtu_at_least")}
                w.subject.facts = rows.setdefault(tuple(kept.values()), kept)
        self._compare_paths(weighed)
        subjects += self._host_subjects(weighed)
        subjects.append(self._case_subject())
        subjects += mails.message_subjects(self.talks, run.points.of, self._screen("message", mails.MESSAGE_SCREEN))
        subjects += mails.connection_subjects(self.talks, self._screen("connection", mails.CONNECTION_SCREEN))
        subjects += mails.server_subjects(self.talks, self._screen("server", mails.SERVER_SCREEN), run.options.stripped)
        drafts = judge(self.pack, subjects, silent=silent)
        return self._finish(drafts, ledgers, weighed)

    def _host_subjects(self, weighed: list[paths.Weighed]) -> list[Subject]:
        """One subject per host that sends data on a path where something was lost."""
        by_sender: dict[str, list[paths.Weighed]] = defaultdict(list)
        for w in weighed:
            by_sender[w.subject.sender or ""].append(w)
        subjects = []
        for sender, own in by_sender.items():
            broken = [w for w in own if w.mtu_below_by_loss is not None]
            if broken:
                # an MTU was tested where something as large as what broke elsewhere was sent
                below = min(w.mtu_below_by_loss or 0 for w in broken)
                tested = [w for w in own if w in broken or (w.mtu_at_least or 0) >= below]
                subjects.append(
                    Subject(
                        kind="host",
                        facts={"sender": sender, "paths_broken": len(broken), "paths_tested": len(tested)},
                        sender=sender,
                        connections=tuple(k for w in broken for k in w.subject.connections),
                        paths=tuple(n for w in broken for n in w.subject.paths),
                        key="host",
                    )
                )
        return subjects

    def _case_subject(self) -> Subject:
        captures = self.run.captures
        records = [m for t in self.talks for m in t.mails]
        return Subject(
            kind="case",
            facts={
                "connections_total": self.run.counts["tcp_connections"],
                "mails_total": len(records),
                "mails_passed": sum(1 for m in records if m.answered),
                "mails_hung": sum(1 for m in records if m.stuck or m.outcome in HANGING),
                "captures": len(captures),
                "captures_incomplete": sum(1 for x in captures if not x.complete),
            },
            key="case",
        )

    def _screen(self, kind: str, known: tuple[str, ...]) -> mails.MayFire:
        return screen(self.pack, kind, known if self.run.options.shortcuts else ())

    def _ledger_order(self, ledger: paths.PathLedger) -> tuple[int, int]:
        first = min((self.by_key[k].start_ns, k) for k in ledger.connections)
        client_sends = self.by_key[first[1]].client[0] == ledger.sender
        return first[0], 0 if client_sends else 1

    def _stray_icmp(self) -> None:
        """ "Too big" that quotes a flow between hosts that we know, but no connection of theirs; and other unreachables."""
        run = self.run
        by_sender: dict[str, list[paths.PathLedger]] = defaultdict(list)
        for known in run.ledgers.values():
            by_sender[known.sender].append(known)
        for e in run.icmp:
            ledger: paths.PathLedger | None = run.ledgers.get((_text(e.quoted_src), _text(e.quoted_dst)))
            if not e.is_too_big:
                if ledger is not None:
                    ledger.other_errors.append(e)
            elif (e.capture, e.frame) not in run._used_icmp:
                if ledger is None and by_sender.get(_text(e.dst)):
                    ledger = by_sender[_text(e.dst)][0]
                if ledger is not None:
                    ledger.stray_icmp.append(e)

    def _mail_facts(self, w: paths.Weighed, ledger: paths.PathLedger) -> None:
        """Which mails of this path passed and which hang, by size of mail and of packet (mail direction only)."""
        records = [
            m for k in ledger.connections for m in self.by_key[k].mails if self.by_key[k].client[0] == ledger.sender
        ]
        records = [m for m in records if m.in_data]
        records.sort(key=lambda m: m.start_ns or 0)
        refused = {"rejected", "deferred"}
        passed = [m for m in records if m.answered and m.outcome not in refused]
        hung = [
            m
            for m in records
            if m.answered is False and (m.stuck or m.outcome in ("end-of-data-timeout", "lost-connection"))
        ]
        f = w.subject.facts
        f["mails_passed"], f["mails_hung"] = len(passed), len(hung)
        if not hung:
            return
        first_hang = min(m.start_ns or 0 for m in hung)
        f["passed_after_first_hang"] = sum(1 for m in passed if (m.start_ns or 0) > first_hang)

        def of(pick: Callable[[list[int]], int], values: list[int | None]) -> int | None:
            known = [v for v in values if v is not None]
            return pick(known) if known else None

        unseen = f.get("smallest_lost_bytes") if f.get("hole_connections") else None

        def needed(m: mails.MailRecord) -> int | None:
            """The mail's largest packet; at the receiver the one that never came, whose size its connection's MSS tells."""
            if m.stuck and isinstance(unseen, int):
                return max(m.largest_packet_bytes or 0, unseen)
            return m.largest_packet_bytes

        extremes = {
            "largest_passed_packet_bytes": of(max, [m.largest_packet_bytes for m in passed]),
            "smallest_hung_packet_bytes": of(min, [needed(m) for m in hung]),
            "largest_passed_mail_bytes": of(max, [m.size for m in passed]),
            "smallest_hung_mail_bytes": of(min, [m.size or m.data_bytes_sent for m in hung]),
        }
        f |= {k: v for k, v in extremes.items() if v is not None}
        packet = extremes["smallest_hung_packet_bytes"]
        size = extremes["smallest_hung_mail_bytes"]
        f["long_mail_in_small_packets"] = any(
            m.size is not None
            and size is not None
            and packet is not None
            and m.size >= size
            and (m.largest_packet_bytes or packet) < packet
            for m in passed
        )

    def _compare_paths(self, weighed: list[paths.Weighed]) -> None:
        """What the same sender's other paths show: large packets that pass elsewhere, or die alike."""
        by_sender: dict[str | None, list[paths.Weighed]] = defaultdict(list)
        for w in weighed:
            by_sender[w.subject.sender].append(w)
        for w in weighed:
            below = w.subject.facts.get("mtu_below")
            if not isinstance(below, int):
                continue
            others = [o for o in by_sender[w.subject.sender] if o is not w]
            w.subject.facts["other_receivers_large_ok"] = sum(1 for o in others if (o.mtu_at_least or 0) >= below)
            w.subject.facts["other_receivers_broken"] = sum(1 for o in others if o.mtu_below_by_loss is not None)
        self._compare_families(weighed)

    def _compare_families(self, weighed: list[paths.Weighed]) -> None:
        """Whether the same two hosts, known by the names in EHLO and greeting, get large packets by the other IP version."""
        names: dict[str | None, str] = {}
        for t in self.talks:
            greeted = (t.banner_text or "").split(" ")[0].lower()
            if "." in greeted and not t.masked:
                names[t.server[0]] = greeted
            if t.dialogue.client_name and "." in t.dialogue.client_name:
                names[t.client[0]] = t.dialogue.client_name.lower()
        largest: dict[tuple[str, str, object], int] = defaultdict(int)
        ends = {id(w): (names.get(w.subject.sender), names.get(w.subject.receiver)) for w in weighed}
        for w in weighed:
            sender, receiver = ends[id(w)]
            if sender and receiver:
                key = (sender, receiver, w.subject.facts["ip_version"])
                largest[key] = max(largest[key], w.mtu_at_least or 0)
        for w in weighed:
            (sender, receiver), below = ends[id(w)], w.subject.facts.get("mtu_below")
            if sender and receiver and isinstance(below, int):
                other = (sender, receiver, 4 if w.subject.facts["ip_version"] == 6 else 6)
                if other in largest:
                    w.subject.facts["other_family_ok"] = largest[other] >= below

    # ------------------------------------------------------------ ids and rows

    def _finish(self, drafts: list[Draft], ledgers: list[paths.PathLedger], weighed: list[paths.Weighed]) -> c.Case:
        run = self.run
        named = {k for d in drafts for k in d.connections}
        listed = [t for t in self.talks if self._is_listed(t) or t.key in named]
        conn_id = {t.key: i for i, t in enumerate(listed, 1)}
        records = [m for t in listed for m in t.mails]
        mail_id = {m.key: i for i, m in enumerate(records, 1)}
        verdicts: dict[int, tuple[str, Draft]] = {}
        for d in drafts:
            for number in d.paths:
                if d.verdict and number not in verdicts:
                    verdicts[number] = (d.verdict, d)
        case = c.Case(
            captures=run.captures,
            connections=[_connection(t, conn_id[t.key]) for t in listed],
            messages=[_message(m, mail_id[m.key], conn_id[m.talk]) for m in records],
            icmp=sorted(run.icmp, key=lambda e: (e.time_ns, e.capture, e.frame)),
            services=dict(run.services),
            counts=dict(run.counts),
            interrupted=run.interrupted,
        )
        case.paths = [
            _path(number, ledger, w, verdicts.get(number), conn_id)
            for number, (ledger, w) in enumerate(zip(ledgers, weighed, strict=True), 1)
            if any(k in conn_id for k in ledger.connections)
        ]
        path_id = {p.id: i for i, p in enumerate(case.paths, 1)}
        for p in case.paths:
            p.id = path_id[p.id]
        case.findings = [_finding(i, d, conn_id, mail_id, path_id) for i, d in enumerate(drafts, 1)]
        case.summary = summarize(case)
        case.limits = _seen_twice(listed, run.points.of) + _passed_over(listed, conn_id) + limits(case)
        return case

    def _is_listed(self, t: mails.Talk) -> bool:
        return t.dialogue.is_smtp or t.server[1] in self.run.options.ports


def _seen_twice(talks: Sequence[mails.Talk], points: dict[int, int]) -> list[str]:
    """Connections that two of the captures hold: said, and told apart."""
    where: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for t in talks:
        where[(t.client, t.server)].add(t.first_frame[0])
    both = [ids for ids in where.values() if len({points.get(i, 0) for i in ids}) > 1]
    if not both:
        return []
    ids = sorted(set().union(*both))
    named = " and ".join(map(str, ids[:4]))
    what = "1 connection stands" if len(both) == 1 else f"{len(both)} connections stand"
    text = f"{what} in several captures ({named}), taken at different points: once for each in the lists."
    return [f"{text} smtpscope compare tells what happened between the points."]


def _passed_over(talks: Sequence[mails.Talk], conn_id: dict[int, int]) -> list[str]:
    """What was not read of connections that were captured: by what, and where."""
    where: dict[str, list[int]] = defaultdict(list)
    for t in talks:
        for note in t.dialogue.passed_over:
            where[note].append(conn_id[t.key])
    out = []
    for note, ids in where.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        out.append(f"Connection{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:3]))}{more}: {note}.")
    return out


# by where a sender's data are captured: of the client's, of the server's
_VANTAGE: dict[Any, c.Vantage] = {"at_sender": "client-side", "at_receiver": "server-side", "middle": "middle"}
_VANTAGE_OF_SERVER: dict[Any, c.Vantage] = {
    "at_sender": "server-side",
    "at_receiver": "client-side",
    "middle": "middle",
}


def _connection(t: mails.Talk, number: int) -> c.Connection:
    d = t.dialogue
    return c.Connection(
        id=number,
        client=c.Endpoint(*t.client),
        server=c.Endpoint(*t.server),
        start_ns=t.start_ns,
        end_ns=t.end_ns,
        frame_count=t.frame_count,
        handshake_seen=t.handshake_seen,
        closed_by=t.closed_by,  # type: ignore[arg-type]
        tls=d.tls,
        banner=t.banner_text,
        vantage=_VANTAGE.get(t.at, "unknown"),
        first_frame=c.Frame(*t.first_frame),
        is_smtp=d.is_smtp,
        client_name=d.client_name,
        phase=d.phase,
        ehlo_keywords=d.keywords,
        client_mss=t.client_mss,
        server_mss=t.server_mss,
        rtt_s=t.rtt_s,
        expected_log=t.expected_log,
        client_bytes=t.client_bytes,
        server_bytes=t.server_bytes,
    )


def _message(m: mails.MailRecord, number: int, connection: int) -> c.Message:
    terminator = None
    if m.cuts is not None:
        terminator = c.Terminator(
            m.cuts.pieces, m.cuts.cut_at, bool(m.cuts.inferred), tuple(c.Frame(*f) for f in m.end_frames)
        )
    return c.Message(
        id=number,
        connection=connection,
        index=m.index,
        mail_from=m.mail_from,
        recipients=m.recipients,
        size=m.size,
        via=m.via,  # type: ignore[arg-type]
        terminator=terminator,
        reply_code=m.reply_code,
        outcome=m.outcome,  # type: ignore[arg-type]
        size_estimated=m.size_estimated,
        start_ns=m.start_ns,
        end_ns=m.end_ns,
        reply_delay_s=m.reply_delay_s,
        largest_packet_bytes=m.largest_packet_bytes,
    )


@lru_cache(maxsize=65536)  # on many paths a size fares alike
def _size_fate(fate: tuple[int, int, int, int]) -> c.SizeFate:
    return c.SizeFate(*fate)


def _path(
    number: int, ledger: paths.PathLedger, w: paths.Weighed, verdict: tuple[str, Draft] | None, conn_id: dict[int, int]
) -> c.Path:
    """The row of paths[]: a loss bounds the MTU from above only where a rule found that size decides."""
    name = verdict[0] if verdict else None
    by_size = name in ("black-hole", "icmp-ignored", "recovered", "pmtud-working")
    below = w.mtu_below_by_loss if by_size else None
    if w.icmp_mtu:
        below = min(below, w.icmp_mtu + 1) if below is not None else w.icmp_mtu + 1
    at_least = w.mtu_at_least
    if at_least is None and not by_size:
        at_least = max(ledger.delivered, default=None)
    if below is not None and at_least is not None and at_least >= below:
        at_least = max((s for s in ledger.delivered if s < below), default=None)
    facts = w.subject.facts
    vantage = _VANTAGE_OF_SERVER if facts.get("sender_is") == "server" else _VANTAGE
    if name is None:
        name = "no-fault" if ledger.delivered else "unknown"
    return c.Path(
        id=number,
        sender=ledger.sender,
        receiver=ledger.receiver,
        verdict=name,  # type: ignore[arg-type]
        mtu_at_least=at_least,
        mtu_below=below,
        icmp_mtu=w.icmp_mtu,
        links=paths.links_for(at_least, below),
        connections=tuple(sorted(conn_id[k] for k in ledger.connections if k in conn_id)),
        messages_stuck=len(w.stuck_messages),
        sizes=tuple(map(_size_fate, paths.sizes_of(ledger))),
        icmp_frames=tuple(c.Frame(*f) for f in w.icmp_frames),
        vantage=vantage.get(facts.get("captured_at"), "unknown"),
    )


def _finding(
    number: int, d: Draft, conn_id: dict[int, int], mail_id: dict[int, int], path_id: dict[int, int]
) -> c.Finding:
    evidence = tuple(
        c.Evidence(
            conn_id.get(e["connection"]) if e.get("connection") is not None else None,
            tuple(c.Frame(*f) for f in e["frames"]),
            e["display_filter"],
            e["note"],
        )
        for e in d.evidence
    )
    return c.Finding(
        id=number,
        rule=d.rule,
        title=d.title,
        role=d.role,  # type: ignore[arg-type]
        explained_by=d.explained_by + 1 if d.explained_by is not None else None,
        severity=d.severity,  # type: ignore[arg-type]
        confidence=d.confidence,  # type: ignore[arg-type]
        scope=d.scope,  # type: ignore[arg-type]
        sender=d.sender,
        receiver=d.receiver,
        connections=tuple(sorted(conn_id[k] for k in d.connections if k in conn_id)),
        messages=tuple(sorted(mail_id[k] for k in d.messages if k in mail_id)),
        paths=tuple(sorted(path_id[k] for k in d.paths if k in path_id)),
        evidence=evidence,
        facts={k: list(v) if isinstance(v, tuple) else v for k, v in d.facts.items()},
        explanation=d.explanation,
        against=d.against,
        rivals=tuple(c.Rival(*r) for r in d.rivals),
        remedies=tuple(c.Remedy(a.who, a.host, a.what, a.commands, a.check) for a in d.remedies),  # type: ignore[arg-type]
        fingerprint=d.fingerprint,
    )
