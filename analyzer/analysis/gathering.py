"""What is known while captures are read: a talk per connection, a ledger per path.

Packets -> Tracker -> measure -> talks and sightings -> path ledgers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, fields
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.framing import problem, renumbered
from ..capture.packets import ACK, RST, SYN, Batch, CaptureInfo, IcmpError, address_number, address_text
from ..detect import mails, paths
from ..detect.inside import ends_of
from ..detect.regular import RegularGroup
from ..detect.regular_paths import Sightings
from ..smtp.dialogue import Mail
from ..smtp.terminator import LENGTH
from ..tcp.connections import IDLE_NS, Group, HandedOver, Tracker
from ..tcp.delivery import Delivery, Trace, measure
from ..tcp.path_mtu import UNHEARD_SENDS, Sighting, examine, examine_more
from ..tcp.regular import AT
from .memory import give_back
from .options import Options

# The third SYN of real stacks leaves after 2 or 3 s (RFC 6298: an initial time-out of 1 s); a busy server answers sooner.
UNANSWERED_NS = 2_000_000_000
# A flood of SYNs is no mailer's new attempt: so many are kept as evidence.
UNANSWERED_KEPT = 10_000
# So many connections go through columns together: enough for NumPy to pay, few enough to need little memory.
CONNECTIONS_AT_ONCE = 2048
# Where so many connections, or packets of open ones, are sorted at once, what that took is more than what else is held.
MANY_AT_ONCE = 100_000

# ICMP errors that are kept: of honest routers one for each large packet, of a flood as many as there are. 1 KB each.
MOST_ICMP = 200_000
# Commands, or texts of so many bytes, that take the memory of a row.
COMMANDS_OF_A_ROW = 8
TEXT_OF_A_ROW_BYTES = 2000

FourTuple = tuple[int, int, int, int]  # (source, source port, destination, destination port)


class PackedTalks(NamedTuple):
    """Talks field by field, which go from process to process in a third of the time that objects take."""

    fields: list[Any]  # of each field of Talk the values; but of its mails how many there are
    mail_fields: list[Any]  # the same of all their MailRecords

    @classmethod
    def of(cls, talks: list[mails.Talk]) -> PackedTalks:
        columns = _columns(talks, _TALK_FIELDS)
        columns[_MAILS] = [len(records) for records in columns[_MAILS]]
        return cls(columns, _columns([m for t in talks for m in t.mails], _MAIL_FIELDS))

    def unpacked(self, frames: int) -> list[mails.Talk]:
        """The talks; `frames` came before the first frame that who packed them has seen."""
        records = map(mails.MailRecord, *_renumbered(self.mail_fields, frames))
        columns = _renumbered(self.fields, frames)
        columns[_MAILS] = [list(islice(records, count)) for count in columns[_MAILS]]
        return list(map(mails.Talk, *columns))


class PackedFrames(NamedTuple):
    """A column of frames, one for each row of the table, or any number."""

    capture: list[int]  # (n,) of all frames, row after row
    frame: npt.NDArray[np.int64]  # (n,)
    lengths: list[int] | None  # frames of each row; None: one each, which stands there itself and in no tuple

    @classmethod
    def of(cls, column: list[Any], *, rows: bool) -> PackedFrames:
        frames = list(chain.from_iterable(column)) if rows else column
        capture, frame = zip(*frames, strict=True) if frames else ((), ())
        return cls([*capture], np.array(frame, np.int64), [*map(len, column)] if rows else None)

    def unpacked(self, frames: int) -> list[Any]:
        refs = zip(self.capture, (self.frame + frames).tolist(), strict=True)
        return [*refs] if self.lengths is None else [tuple(islice(refs, length)) for length in self.lengths]


def _columns(rows: Sequence[Any], names: list[str]) -> list[Any]:
    """Of each field its values. Where frames are told the field is called so."""
    columns: list[Any] = [[*map(attrgetter(name), rows)] for name in names]
    for i, name in enumerate(names):
        if name.endswith(("_frame", "_frames")):
            columns[i] = PackedFrames.of(columns[i], rows=name.endswith("s"))
    return columns


def _renumbered(columns: list[Any], frames: int) -> list[Any]:
    return [column.unpacked(frames) if isinstance(column, PackedFrames) else column for column in columns]


_TALK_FIELDS, _MAIL_FIELDS = ([field.name for field in fields(kind)] for kind in (mails.Talk, mails.MailRecord))
_MAILS = _TALK_FIELDS.index("mails")


class Part(NamedTuple):
    """What was found out in one part of the captures."""

    talks: PackedTalks
    ledgers: dict[tuple[str, str], paths.PathLedger]
    sightings: list[Sightings]
    captures: list[CaptureInfo]
    counts: dict[str, int]
    services: dict[int, int]
    icmp: list[IcmpError]
    used_icmp: set[tuple[int, int]]
    clock_ns: int
    points: dict[int, int]  # Points.of
    handed_over: list[HandedOver]  # by each of its trackers
    carries: bool
    lacks: bool
    disordered: bool
    let_go: int
    rows: int
    interrupted: bool
    first_clock_ns: int | None

    def renumber_frames(self, frames: int) -> None:
        """`frames` came before the first one that was seen here: all but the talks learn of it."""
        for error in self.icmp:  # the same objects stand in the ledgers
            error.frame += frames
        used = {(capture, frame + frames) for capture, frame in self.used_icmp}
        self.used_icmp.clear()
        self.used_icmp.update(used)
        tables = [table for handed_over in self.handed_over for table in (handed_over.heads, handed_over.open)]
        views = [view for ledger in self.ledgers.values() for view in ledger.views]
        # one trace may be evidence on two paths: each table once
        tables += {id(d.table): d.table for view in views for d in view.trace.directions}.values()
        for ledger in self.ledgers.values():
            ledger.unanswered = [
                u._replace(frames=tuple((capture, frame + frames) for capture, frame in u.frames))
                for u in ledger.unanswered
            ]
        for table in tables:
            table.columns["frame"] = table.frame + frames
        for capture in self.captures:
            capture.frames += frames
            capture.problems[:] = [renumbered(text, frames) for text in capture.problems]


@dataclass
class Gathered:
    """What is known while the captures are read: a talk per connection, a ledger per path."""

    options: Options
    captures: list[CaptureInfo] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    services: Counter[int] = field(default_factory=Counter)
    icmp: list[IcmpError] = field(default_factory=list)
    clock_ns: int = 0
    interrupted: bool = False
    talks: list[mails.Talk] = field(default_factory=list)
    ledgers: dict[tuple[str, str], paths.PathLedger] = field(default_factory=dict)  # without the regular connections
    sightings: list[Sightings] = field(default_factory=list)  # of the regular ones
    points: Points = field(init=False)
    _by_flow: dict[FourTuple, list[IcmpError]] = field(default_factory=lambda: defaultdict(list))
    used_icmp: set[tuple[int, int]] = field(default_factory=set)
    carries: bool = False  # what follows can not be read rightly without what the reader remembers
    lacks: bool = False  # what came before was needed to read this rightly
    disordered: bool = False  # frames stand far from their place in time
    first_clock_ns: int | None = None  # the clock when the first connection was judged
    first_key: InitVar[int] = 1
    continues: InitVar[bool] = False  # the beginning of the captures is read by somebody else
    _next_key: int = field(init=False)
    _next_mail: int = field(init=False)
    rows: int = 0  # of the report, so far
    first_not_judged: tuple[int, int] | None = None  # capture and frame in which the first one begins that had no room

    def __post_init__(self, first_key: int, continues: bool) -> None:
        self.points = Points(self.captures, self.options.ports, continues=continues)
        self._next_key = self._next_mail = first_key

    def part(self) -> Part:
        """All that is known, to be joined to the part before."""
        return Part(
            PackedTalks.of(self.talks),
            self.ledgers,
            self.sightings,
            self.captures,
            dict(self.counts),
            dict(self.services),
            self.icmp,
            self.used_icmp,
            self.clock_ns,
            self.points.of,
            [tracker.hand_over() for tracker in self.points.trackers],
            self.carries,
            self.lacks,
            self.disordered,
            sum(tracker.let_go for tracker in self.points.trackers),
            self.rows,
            self.interrupted,
            self.first_clock_ns,
        )

    def joins(self, part: Part | None, cut: int | None = None) -> bool:
        """Take in the part that follows. False (and this is of no use any more) when it can not be joined exactly.

        `cut`: the byte of the only capture at which it seemed to whoever read the part that a record begins.
        """
        if part is None:
            return False
        frames = 0
        if cut is not None:
            capture, later = self.captures[0], part.captures[0]
            clock_ns = part.first_clock_ns or self.clock_ns
            proven = capture.complete and capture.bytes == cut
            if self.interrupted or part.lacks or not proven or clock_ns < self.clock_ns:
                return False
            if self.disordered or part.disordered:
                return False
            frames = capture.frames
            later.link_types[:] = dict.fromkeys([*capture.link_types, *later.link_types])
            part.renumber_frames(frames)
        self.interrupted |= part.interrupted
        let_go = part.let_go + sum(tracker.let_go for tracker in self.points.trackers)
        self.rows += part.rows
        if (self.carries or let_go or self.rows >= self.options.max_rows) and not self.interrupted:
            return False
        for earlier, capture in zip(self.captures, part.captures, strict=False):
            for name, nearest in (("first_ns", min), ("last_ns", max)):
                times = [t for t in (getattr(earlier, name), getattr(capture, name)) if t is not None]
                setattr(capture, name, nearest(times, default=None))
        self.captures[:] = part.captures
        self.points.take(part.points)
        for tracker, handed_over in zip(self.points.trackers, part.handed_over, strict=False):
            if not tracker.join(handed_over):
                return False
        self.talks += part.talks.unpacked(frames)
        for ends, ledger in part.ledgers.items():
            self._ledger(ends).join(ledger)
        self.sightings += part.sightings
        self.counts.update(part.counts)
        self.services.update(part.services)
        self.take_icmp(part.icmp)
        self.used_icmp |= part.used_icmp
        self.clock_ns = max(self.clock_ns, part.clock_ns)
        self.carries = part.carries
        return True

    def _has_room(self, talk: mails.Talk) -> bool:
        """False when the report is full: the connection is counted, and not judged."""
        if self.rows >= self.options.max_rows:
            self.counts["not_judged"] += 1
            self.first_not_judged = min(self.first_not_judged or talk.first_frame, talk.first_frame)
            return False
        text = recipients = 0
        for mail in talk.mails:
            text += len(mail.mail_from or "") + sum(map(len, mail.recipients))
            recipients += len(mail.recipients)
        self.rows += 1 + len(talk.mails) + text // TEXT_OF_A_ROW_BYTES + recipients // COMMANDS_OF_A_ROW
        return True

    def tell_not_judged(self) -> None:
        """A capture whose connections were left out was not read to its end."""
        if self.first_not_judged is not None:
            capture, frame = self.first_not_judged
            full = f"the report holds no more than {self.options.max_rows} connections and mails (--max-rows)"
            beyond = f"what is beyond was counted and not judged, first the connection that begins at frame {frame}"
            problem(self.captures[capture - 1], f"{full}; {beyond}")

    def renumber(self) -> None:
        """Keys in the order of first packets, whatever order the connections closed in and whoever read them."""
        self.talks.sort(key=lambda t: (t.start_ns, t.first_frame))
        old = np.array([t.key for t in self.talks], np.int64)
        by_key = np.argsort(old)
        self.sightings = [
            seen._replace(connection=by_key[np.searchsorted(old, seen.connection, sorter=by_key)] + 1)
            for seen in self.sightings
        ]
        talk_key = {key: n for n, key in enumerate(old.tolist(), 1)}
        mail_key = {m.key: n for n, m in enumerate((m for t in self.talks for m in t.mails), 1)}
        for t in self.talks:
            t.key = talk_key[t.key]
            for m in t.mails:
                m.key, m.talk = mail_key[m.key], t.key
        for ledger in self.ledgers.values():
            ledger.connections = sorted(talk_key[k] for k in ledger.connections)
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
            if len(self.icmp) >= MOST_ICMP:
                self.counts["icmp_left_out"] += 1
                continue
            self.icmp.append(e)
            if e.quoted_src_port is not None and e.quoted_dst_port is not None:
                self._by_flow[(e.quoted_src, e.quoted_src_port, e.quoted_dst, e.quoted_dst_port)].append(e)

    def count_services(self, tcp_ports: Any) -> None:
        for port in tcp_ports.nonzero()[0].tolist():
            self.services[port] += int(tcp_ports[port])

    def take_batch(self, batch: Batch) -> None:
        """The next packets of the captures; connections that are over by now are judged and let go."""
        self.carries, self.lacks = batch.carries, self.lacks or batch.lacks
        self.disordered |= batch.disordered
        self.take_icmp(batch.icmp)
        if batch.last_time_ns is not None:
            self.clock_ns = max(self.clock_ns, batch.last_time_ns)
        self.counts.update(batch.counts)
        if batch.tcp_ports is not None:
            self.count_services(batch.tcp_ports)
        tracker = self.points.tracker()
        self.take(tracker.add(batch.packets, batch.last_time_ns))
        if tracker.packets > MANY_AT_ONCE:
            give_back()

    def finish(self) -> None:
        """Judge what is still open; nothing can be taken after it."""
        for tracker in self.points.trackers:
            self.take(tracker.finish())
            if tracker.let_go:
                self.counts["let_go"] += tracker.let_go

    def take(self, group: Group) -> None:
        """Judge the connections that are over."""
        if len(group) > MANY_AT_ONCE:
            give_back()
        for part in group.parts(CONNECTIONS_AT_ONCE):
            self._take_part(part)

    def _take_part(self, group: Group) -> None:
        delivery = measure(group)
        if len(group):
            self.first_clock_ns = self.first_clock_ns or self.clock_ns
        self._note_unanswered(delivery)
        self.counts["tcp_connections"] += len(group)
        key, regular = self._next_key, None
        self._next_key += len(group)
        if self.options.shortcuts:
            regular = RegularGroup(delivery, self._quoted(delivery), key, self._next_mail)
            self._next_mail += regular.mails
        is_regular = regular.regular if regular is not None else [False] * len(group)
        taken: dict[int, mails.Talk] = {}  # of the regular ones, by the number of the connection in the group
        for k, silent in enumerate(self._silent(delivery)):
            if silent:
                self.counts["not_smtp"] += 1
            elif regular is None or not is_regular[k]:
                trace = delivery.trace(k)
                if not self._take_connection(trace, key + k):
                    trace.part()
            else:
                self._take_regular(regular, k, key + k, taken)
        if taken and regular is not None:
            self.sightings.append(Sightings.of(regular.survey, taken))

    def _take_regular(self, regular: RegularGroup, k: int, key: int, taken: dict[int, mails.Talk]) -> None:
        talk, more = regular.talks[k], regular.more[k]
        shared = talk is not None
        if talk is not None and not more:  # nearly always
            if self._takes(talk):
                taken[k] = talk
            return
        trace, kept = regular.delivery.trace(k), False
        if talk is None:
            talk = mails.read_talk(key, trace, self._next_mail)
            self._next_mail += len(talk.mails)
        if self._takes(talk):
            taken[k] = talk
            kept = more and self._weigh_more(regular, k, talk, trace)
            if not shared:
                self._abridge(talk)
        if not kept:
            trace.part()

    def _takes(self, talk: mails.Talk) -> bool:
        """Whether this connection is one to judge, and has room; then it is kept."""
        if not self._is_smtp(talk) and not self.options.all_tcp:
            self.counts["not_smtp"] += 1
            return False
        if not self._has_room(talk):
            return False
        self.talks.append(talk)
        return True

    def _weigh_more(self, regular: RegularGroup, k: int, talk: mails.Talk, trace: Trace) -> bool:
        """What the capture missed, and what got through after many resends: all that is left of `_weigh`."""
        ends = (talk.client[0], talk.server[0])
        kept = []
        for i, (d, who, path) in enumerate(
            zip(trace.directions, ("client", "server"), (ends, ends[::-1]), strict=True)
        ):
            if regular.survey.more[2 * k + i]:
                sighting = examine_more(d, AT[regular.survey.at[2 * k + i]], talk.rtt_s, self._watched_until(trace))
                if sighting.stuck or sighting.ack_past_hole:
                    kept.append(
                        (path, paths.View(talk.key, trace, sighting, who, (), False, False, False, talk.stream))
                    )
        for path, view in kept:
            self._ledger(path).keep(view)
        if kept:
            trace.let_go()
        return bool(kept)

    def _note_unanswered(self, delivery: Delivery) -> None:
        """Connections to a port of mail that the capture knows by nothing but SYNs, sent again and again."""
        t, first = delivery.group.table, delivery.group.first
        count = np.diff(first)
        opening = np.append(0, np.cumsum((t.flags & (SYN | ACK | RST)) == SYN))[first]
        for k in np.flatnonzero((count >= UNHEARD_SENDS) & (np.diff(opening) == count)).tolist():
            rows = t[int(first[k]) : int(first[k + 1])]
            begin, end = int(rows.time_ns[0]), int(rows.time_ns[-1])
            if int(rows.dst_port[0]) not in self.options.ports or end - begin < UNANSWERED_NS:
                continue
            self.counts["unanswered"] += 1
            if self.counts["unanswered"] > UNANSWERED_KEPT:
                continue
            ends = tuple(
                (address_text(int(hi[0]), int(lo[0])), int(port[0]))
                for hi, lo, port in (
                    (rows.src_hi, rows.src_lo, rows.src_port),
                    (rows.dst_hi, rows.dst_lo, rows.dst_port),
                )
            )
            frames = tuple(zip(rows.capture.tolist(), rows.frame.tolist(), strict=True))
            display = mails.display_filter(*ends)
            ledger = self._ledger((ends[0][0], ends[1][0]))
            ledger.unanswered.append(paths.Unanswered(begin, end, int(rows.ip_bytes[0]), display, frames))

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
        return ledger

    def _watched_until(self, trace: Trace) -> int:
        """Up to when it is known that nothing more came of a connection: the capture's clock, but no later than when it
        counts as over, so that it does not matter how much was read at once (nanoseconds since 1970)."""
        return min(self.clock_ns, trace.end_ns + IDLE_NS)

    def _take_connection(self, trace: Trace, key: int) -> bool:
        """Read and weigh one connection the long way; True when its trace is kept as evidence."""
        trace.icmp = self._icmp_of(trace)
        said = self.options.said_in_tls.get(ends_of(trace.client, trace.server), ())
        talk = mails.read_talk(key, trace, self._next_mail, said)
        if not self._takes(talk):
            return False
        self._next_mail += len(talk.mails)
        self.used_icmp.update((e.capture, e.frame) for e in trace.icmp)
        kept = self._weigh(key, trace, talk)
        self._abridge(talk)
        return kept

    def _abridge(self, talk: mails.Talk) -> None:
        """Of a talk whose dialogue is shared with nobody."""
        talk.dialogue.abridge()
        self.rows += 1 + len(talk.dialogue.commands) // COMMANDS_OF_A_ROW

    def _is_smtp(self, talk: mails.Talk) -> bool:
        """An SMTP dialogue; or, on a port of SMTP, data of which the beginning was not captured or is TLS."""
        if talk.dialogue.is_smtp:
            return True
        return talk.server[1] in self.options.ports and talk.client_bytes + talk.server_bytes > 0

    def _icmp_of(self, trace: Trace) -> list[IcmpError]:
        if not self._by_flow:
            return []
        a, b = (
            (address_number(trace.client.ip), trace.client.port),
            (address_number(trace.server.ip), trace.server.port),
        )
        found = self._by_flow.get((*a, *b), []) + self._by_flow.get((*b, *a), [])
        # ports are used again: only what arrived while this connection lived (and a little later: slow routers)
        # (a capture that begins in mid-connection may show the ICMP first)
        from_ns = trace.start_ns if trace.handshake_seen else trace.start_ns - 5_000_000_000
        return [e for e in found if from_ns <= e.time_ns <= trace.end_ns + 5_000_000_000]

    def _weigh(self, key: int, trace: Trace, talk: mails.Talk) -> bool:
        """Both directions into their ledgers; True when one of them keeps the packets as evidence."""
        kept = False
        for sighting, sender_is in zip(examine(trace, self._watched_until(trace)), ("client", "server"), strict=True):
            ends = (trace.client.ip, trace.server.ip)
            ledger = self._ledger(ends if sender_is == "client" else ends[::-1])
            lost = self._lost_at(sighting)
            stuck: list[int] = []
            if sender_is == "client":
                ledger.mails += len(talk.mails)
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
        if kept:
            trace.let_go()
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


class Points:
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
