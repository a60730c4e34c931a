"""What the way between two neighbouring points did to the packets that passed them.

`measure` pairs the packets of every connection that both points saw. What did not arrive is told by size; what arrived
otherwise than it left is a `Change`. Facts only: what they mean, verdict.py says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.packets import SYN, IcmpError
from ..case import Frame
from ..smtp import banner
from ..smtp.dialogue import Reply
from ..smtp.terminator import LENGTH
from ..tcp.delivery import LOST as NEVER_ACKED
from ..tcp.delivery import Direction
from .packets import ARRIVED, LOST, UNKNOWN, Clocks, Pairing, by_bytes, by_identity, clocks, shift_of
from .point import Point, Sighting, by_connection
from .same import Flow, Ways

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

ChangeKind = Literal[
    "address-translated", "sequence-shifted", "tcp-terminated", "mss-changed", "option-removed", "df-cleared", "fragmented",
    "greeting-masked", "greeting-changed", "keywords-changed", "starttls-removed", "commands-masked", "bytes-changed",
    "end-cut-differently", "end-of-mail-lost", "swallowed", "kept-back", "reordered", "delayed", "duplicated",
]  # fmt: skip

MOST_FRAMES = 20  # of the evidence of one change
# A packet is delayed when it took this much longer than the quickest one of its direction: the user of a mail does not
# notice less, and queues of routers hold about as much (0.1 to 1 s).
DELAYED_NS = 500_000_000


class Size(NamedTuple):
    """How packets of one size (IP bytes) fared."""

    ip_bytes: int
    arrived: int
    lost: int


@dataclass
class Run:
    """What one connection sent in one direction: arrays of equal length, a row per packet, duplicates of capture left out."""

    flow: int
    ends: tuple[str, str]  # the two hosts, as the nearer point names them
    ip_bytes: Ints  # as on the wire: an offloaded frame counts as the segments that it becomes
    fate: Bytes  # ARRIVED, LOST, UNKNOWN
    time_ns: Ints  # by the clock of the point where it left
    data: Bools  # carries payload
    for_good: Bools  # lost, and its bytes never came in another packet either
    stuck: Bools  # sent again, never acknowledged, and of unknown fate at the other point


@dataclass
class Traffic:
    """One direction over one stretch."""

    from_client: bool
    arrived: int = 0
    lost: int = 0
    unknown: int = 0  # left while the other point was not capturing
    missed: int = 0  # not in the other capture, but acknowledged there: that capture lost them
    runs: list[Run] = field(default_factory=list)
    lost_frames: list[Frame] = field(default_factory=list)
    hops: Counter[int] = field(default_factory=Counter)  # by how much the TTL fell

    def by_size(self) -> list[Size]:
        """Packets with payload by their size."""
        sizes: Counter[tuple[int, int]] = Counter()
        for run in self.runs:
            sizes.update(zip(run.ip_bytes[run.data].tolist(), run.fate[run.data].tolist(), strict=True))
        return [
            Size(n, sizes[n, ARRIVED], sizes[n, LOST])
            for n in sorted({size for size, fate in sizes if fate in (ARRIVED, LOST)})
        ]


@dataclass
class Change:
    """Something that left the one point otherwise than it came to the other. before, after: in the direction of travel."""

    kind: ChangeKind
    from_client: bool
    before: str
    after: str
    flows: list[int] = field(default_factory=list)  # positions of the connections
    frames: list[Frame] = field(default_factory=list)  # at the point where it left
    frames_after: list[Frame] = field(default_factory=list)


@dataclass
class IcmpFate:
    """ICMP errors of one kind that one of the points saw and the other did not."""

    mtu: int | None
    too_big: bool
    about_client: bool  # they quote the client's packets, so they travel towards the client
    seen_at: int  # id of the point
    missing_at: int
    towards_sender: (
        bool  # the point that did not see them lies on their way: they were lost; else they were made between
    )
    count: int = 0
    frames: list[Frame] = field(default_factory=list)


@dataclass
class Stretch:
    """Between two neighbouring points; `near` is the one nearer to the client."""

    near: Point
    far: Point
    clocks: Clocks | None = None
    connections: int = 0  # seen at both
    traffic: tuple[Traffic, Traffic] = field(default_factory=lambda: (Traffic(True), Traffic(False)))
    changes: list[Change] = field(default_factory=list)
    icmp: list[IcmpFate] = field(default_factory=list)
    missing: list[tuple[int, bool]] = field(default_factory=list)  # flow, and whether the near point saw it

    def change(self, kind: ChangeKind) -> Change | None:
        return next((c for c in self.changes if c.kind == kind), None)


def measure(near: Point, far: Point, flows: Sequence[Flow], how: Ways) -> Stretch:
    """Everything about the stretch between two points next to each other."""
    stretch = Stretch(near, far)
    shared: list[tuple[int, Sighting, Sighting]] = []
    for i, flow in enumerate(flows):
        a, b = flow[near.id - 1], flow[far.id - 1]
        if a is not None and b is not None:
            shared.append((i, a, b))
        elif a is not None or b is not None:
            stretch.missing.append((i, a is not None))
    stretch.connections = len(shared)
    packets = [(i, a, b) for i, a, b in shared if how[i, near.id, far.id] != "content"]
    identified = [
        (i, a, b, by_identity(a.trace.c2s, b.trace.c2s), by_identity(b.trace.s2c, a.trace.s2c)) for i, a, b in packets
    ]
    there = [pair for _, _, _, p, _ in identified for pair in _times(p)]
    back = [(a, b) for _, _, _, _, p in identified for b, a in _times(p)]
    stretch.clocks = clocks(there, back)
    offset = stretch.clocks.offset_ns if stretch.clocks else 0
    for i, a, b, forth, home in identified:
        for pairing, begin, end, ahead in ((forth, near, far, offset), (home, far, near, -offset)):
            whole = by_bytes(pairing, ahead)
            traffic = stretch.traffic[0 if begin is near else 1]
            hosts = (a.trace.client.ip, a.trace.server.ip)
            _count(i, whole, hosts if begin is near else hosts[::-1], traffic, end, ahead)
            stretch.changes += _packet_changes(i, whole, from_client=begin is near)
        stretch.changes += _swallowed(i, a, b)
    for i, a, b in shared:
        if how[i, near.id, far.id] == "content":  # two connections: nothing of TCP can be compared
            stretch.changes.append(Change("tcp-terminated", True, _ends(a), _ends(b), [i]))
            stretch.changes += _kept_back(i, a, b)
        else:
            stretch.changes += _handshake_changes(i, a, b)
        stretch.changes += _dialogue_changes(i, a, b)
    stretch.changes = _merged(stretch.changes)
    stretch.icmp = _icmp(near, far, shared)
    return stretch


def _times(p: Pairing) -> list[tuple[int, int]]:
    rows = np.flatnonzero(p.at >= 0)
    return list(zip(p.sent.time_ns[rows].tolist(), p.received.time_ns[p.at[rows]].tolist(), strict=True))


def _frames(d: Direction, rows: Sequence[int]) -> list[Frame]:
    return [Frame(int(d.capture[i]), int(d.frame[i])) for i in rows[:MOST_FRAMES]]


# -- losses ------------------------------------------------------------------------------------------------------


def fates(p: Pairing, end: Point, ahead_ns: int) -> Bytes:
    """Per row of `sent`: ARRIVED, LOST, or UNKNOWN where the other point was not capturing at that time."""
    fate = np.full(len(p.sent), LOST, np.uint8)
    fate[(p.at >= 0) | p.covered] = ARRIVED
    when = p.sent.time_ns + ahead_ns
    if end.first_ns is not None and end.last_ns is not None:
        outside = (when < end.first_ns) | (when > end.last_ns)
        fate[(fate == LOST) & outside] = UNKNOWN
    return fate


MISSED = 0


def _count(i: int, p: Pairing, ends: tuple[str, str], traffic: Traffic, end: Point, ahead_ns: int) -> None:
    sent = p.sent
    fate = fates(p, end, ahead_ns)
    beyond = _seen_beyond(p)
    # bytes that were acknowledged at the other point, and not seen there in any packet: that capture lost the packet
    if p.received.acked is not None:
        fate[(fate == LOST) & sent.data & (sent.end <= p.received.acked) & ~beyond] = MISSED
    rows = np.flatnonzero(~sent.duplicate & (fate != MISSED))
    traffic.missed += int((~sent.duplicate & (fate == MISSED)).sum())
    traffic.arrived += int((fate[rows] == ARRIVED).sum())
    traffic.lost += int((fate[rows] == LOST).sum())
    traffic.unknown += int((fate[rows] == UNKNOWN).sum())
    sizes = np.where(sent.offloaded, sent.wire_limit or 1500, sent.ip_bytes).astype(np.int64)
    lost = (fate == LOST) & sent.data
    stuck = (fate == UNKNOWN) & sent.data & sent.resend & (sent.fate == NEVER_ACKED)
    traffic.runs.append(
        Run(i, ends, sizes[rows], fate[rows], sent.time_ns[rows], sent.data[rows], (lost & ~beyond)[rows], stuck[rows])
    )
    traffic.lost_frames += _frames(sent, np.flatnonzero(lost & ~sent.duplicate).tolist())[
        : max(MOST_FRAMES - len(traffic.lost_frames), 0)
    ]
    matched = np.flatnonzero(p.at >= 0)
    fell = sent.table.ttl[matched].astype(np.int64) - p.received.table.ttl[p.at[matched]].astype(np.int64)
    traffic.hops.update(fell.tolist())


def _seen_beyond(p: Pairing) -> Bools:
    """Per row of `sent`: its bytes were seen at the other point after all, in another sending: this one was lost."""
    seen = np.zeros(len(p.sent), bool)
    data = np.flatnonzero(p.received.data)
    if len(data):
        starts, ends = p.received.seq[data], p.received.end[data]
        shift = shift_of(p.sent, p.received)
        for i in np.flatnonzero(p.sent.data).tolist():
            seen[i] = bool(((starts < p.sent.end[i] + shift) & (ends > p.sent.seq[i] + shift)).any())
    return seen


def _swallowed(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    """Bytes that the client has an acknowledgment for, and that the far point never saw, nor an acknowledgment of them."""
    for from_client, sent, received in ((True, a.trace.c2s, b.trace.c2s), (False, b.trace.s2c, a.trace.s2c)):
        if sent.acked is None or not len(received) or not sent.based or not received.based:
            continue
        reached = max(received.sent, received.acked or 0)
        if sent.acked > reached + 1 and sent.sent > reached:  # one more: a FIN
            rows = np.flatnonzero(sent.data & (sent.end > reached) & (sent.end <= sent.acked)).tolist()
            yield Change(
                "swallowed", from_client, f"{min(sent.acked, sent.sent) - reached} bytes, acknowledged", "never seen", [i],
                _frames(sent, rows),
            )  # fmt: skip


def _kept_back(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    """Bytes that a proxy acknowledged, and that never came out of it as far as the other point."""
    for from_client, sent, passed in (
        (True, a.trace.c2s, b.client_stream),
        (False, b.trace.s2c, a.server_stream),
    ):
        if sent.acked is None or not sent.based or not passed.direction.based:
            continue
        taken = min(sent.acked, sent.sent)
        came = sum(min(s.end, taken) - s.start for s in passed.segments if s.start < taken)
        if came < taken:
            rows = np.flatnonzero(sent.data & (sent.end > came) & (sent.end <= taken)).tolist()
            yield Change("kept-back", from_client, f"{taken} bytes", f"{came}", [i], _frames(sent, rows))


# -- changes of packets ------------------------------------------------------------------------------------------


def _packet_changes(i: int, p: Pairing, *, from_client: bool) -> Iterator[Change]:
    rows = np.flatnonzero(p.at >= 0)
    if not len(rows):
        return
    sent, received, there = p.sent, p.received, p.at[rows]
    cleared = rows[sent.df[rows] & ~received.df[there]]
    if len(cleared):
        yield Change(
            "df-cleared", from_client, "don't fragment", "may be fragmented", [i], _frames(sent, cleared.tolist())
        )
    cut = rows[(received.table.fragments[there] > 0) & (sent.table.fragments[rows] == 0)]
    if len(cut):
        largest = int(received.table.fragment_bytes[p.at[cut]].max())
        size = int(sent.ip_bytes[cut].max())
        yield Change(
            "fragmented",
            from_client,
            f"{size} bytes",
            f"fragments of up to {largest} bytes",
            [i],
            _frames(sent, cut.tolist()),
        )
    late = np.flatnonzero(np.diff(there) < 0)
    if len(late):
        yield Change(
            "reordered", from_client, "in order", "overtaken by later packets", [i], _frames(sent, rows[late].tolist())
        )
    delay = received.time_ns[there] - sent.time_ns[rows]
    slow = rows[delay - delay.min() >= DELAYED_NS]
    if len(slow):
        worst = float((delay - delay.min()).max()) / 1e9
        yield Change(
            "delayed",
            from_client,
            "",
            f"up to {worst:.1f} s longer than the quickest",
            [i],
            _frames(sent, slow.tolist()),
        )
    changed = [k for k in rows.tolist() if _differ(sent, received, k, int(p.at[k]))]
    if changed:
        yield Change("bytes-changed", from_client, "", "", [i], _frames(sent, changed),
                     _frames(received, [int(p.at[k]) for k in changed]))  # fmt: skip


def _differ(sent: Direction, received: Direction, row: int, there: int) -> bool:
    """The payloads differ where both captures hold them."""
    if not sent.payload_bytes[row]:
        return False
    one, two = sent.table.payload(row), received.table.payload(there)
    n = min(len(one), len(two))
    return one[:n] != two[:n]


def _handshake_changes(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    yield from _address_changes(i, a, b)
    for from_client in (True, False):
        sent, received = a.direction(from_client=from_client), b.direction(from_client=from_client)
        if not from_client:
            sent, received = received, sent
        one, two = np.flatnonzero(sent.flags & SYN), np.flatnonzero(received.flags & SYN)
        if not len(one) or not len(two):
            continue
        s, r = int(one[0]), int(two[0])
        frames, after = _frames(sent, [s]), _frames(received, [r])
        if sent.table.seq[s] != received.table.seq[r] and {int(x) for x in sent.table.seq[one]}.isdisjoint(
            {int(x) for x in received.table.seq[two]}
        ):
            yield Change("sequence-shifted", from_client, "", "", [i], frames, after)
        if (sent.mss or 0) != (received.mss or 0):
            yield Change(
                "mss-changed",
                from_client,
                f"MSS {sent.mss or 'absent'}",
                f"MSS {received.mss or 'absent'}",
                [i],
                frames,
                after,
            )
        options = (
            ("SACK", bool(sent.table.sack_permitted[s]), bool(received.table.sack_permitted[r])),
            ("timestamps", bool(sent.table.has_ts[s]), bool(received.table.has_ts[r])),
            ("window scaling", sent.table.window_scale[s] >= 0, received.table.window_scale[r] >= 0),
        )
        gone = [name for name, before, now in options if before and not now]
        if gone:
            yield Change("option-removed", from_client, ", ".join(gone), "absent", [i], frames, after)


def _ends(s: Sighting) -> str:
    return f"{s.trace.client.ip}:{s.trace.client.port} to {s.trace.server.ip}:{s.trace.server.port}"


def _address_changes(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    for one, two, from_client in ((a.trace.client, b.trace.client, True), (a.trace.server, b.trace.server, False)):
        if one.ip != two.ip:
            yield Change("address-translated", from_client, one.ip, two.ip, [i])


# -- changes of the dialogue -------------------------------------------------------------------------------------


def _dialogue_changes(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    near, far = a.dialogue, b.dialogue  # the server's words travel from far to near
    yield from _greeting_changes(i, a, b)
    answers = [next((c.reply for c in reversed(d.commands) if c.verb == "EHLO" and c.reply), None) for d in (near, far)]
    whole = all(_is_whole(s, reply) for s, reply in zip((a, b), answers, strict=True))
    if whole and far.keywords and near.keywords and far.helo == near.helo == "EHLO":
        gone = [k for k in far.keywords if k not in near.keywords]
        new = [k for k in near.keywords if k not in far.keywords]
        if gone or new:
            kind: ChangeKind = "starttls-removed" if "STARTTLS" in gone else "keywords-changed"
            yield Change(kind, False, " ".join(gone), " ".join(new), [i])
    said, heard = [c.verb for c in near.commands], [c.verb for c in far.commands]
    masked = [(x, y) for x, y in zip(said, heard, strict=False) if x != y and banner.masked_commands([y])]
    if masked:
        yield Change(
            "commands-masked",
            True,
            " ".join(dict.fromkeys(x for x, _ in masked)),
            " ".join(dict.fromkeys(y for _, y in masked)),
            [i],
        )
    yield from _end_changes(i, a, b)


def _is_whole(s: Sighting, reply: Reply | None) -> bool:
    """No byte up to the end of the reply is missing: what a loss has cut short is not rewritten."""
    first = next(iter(s.server_stream.pieces()), None)
    if reply is None or not reply.complete or first is None:
        return False
    start, run = first
    return start <= s.server_stream.start and reply.end <= start + len(run)


def _greeting_changes(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    near, far = a.dialogue.greeting, b.dialogue.greeting
    if near is None or far is None or near.lines == far.lines or not (_is_whole(a, near) and _is_whole(b, far)):
        return
    masked = banner.is_masked(near.lines) and not banner.is_masked(far.lines)
    yield Change(
        "greeting-masked" if masked else "greeting-changed", False, far.text, near.text, [i],
        _frames(b.trace.s2c, b.server_stream.rows(far.start, far.end)),
        _frames(a.trace.s2c, a.server_stream.rows(near.start, near.end)),
    )  # fmt: skip


def _end_changes(i: int, a: Sighting, b: Sighting) -> Iterator[Change]:
    """The end of each mail: how it was cut at both points, and whether it came through at all."""
    arrived = b.client_stream
    for mail in a.dialogue.mails:
        if mail.body_end is None or mail.terminator_end is None or mail.via != "data":
            continue
        start = mail.terminator_end - LENGTH
        pieces = [_pieces(s, start, mail.terminator_end) for s in (a, b)]
        rows = a.client_stream.rows(start, mail.terminator_end)
        frames = _frames(a.trace.c2s, rows)
        last = arrived.segment_at(mail.terminator_end - 1)
        if last is None and b.trace.c2s.based and a.trace.c2s.based:
            if arrived.segment_at(start) is not None or (start > 0 and arrived.segment_at(start - 1) is not None):
                yield Change("end-of-mail-lost", True, _cut(pieces[0]), "never seen", [i], frames)
        elif last is not None and pieces[0] and pieces[1] and pieces[0] != pieces[1]:
            yield Change("end-cut-differently", True, _cut(pieces[0]), _cut(pieces[1]), [i], frames,
                         _frames(b.trace.c2s, arrived.rows(start, mail.terminator_end)))  # fmt: skip


def _pieces(s: Sighting, start: int, end: int) -> tuple[int, ...]:
    """Bytes of CR LF . CR LF in each segment; empty where a part was not seen."""
    stream = s.client_stream
    if stream.segment_at(start) is None or stream.segment_at(end - 1) is None:
        return ()
    cuts = [start, *stream.cuts(start, end), end]
    return tuple(b - a for a, b in pairwise(cuts))


def _cut(pieces: tuple[int, ...]) -> str:
    names, out, at = ("CR", "LF", ".", "CR", "LF"), [], 0
    for n in pieces:
        out.append(" ".join(names[at : at + n]))
        at += n
    return " | ".join(out) if pieces else "CR LF . CR LF, partly seen"


def _merged(changes: Sequence[Change]) -> list[Change]:
    """The same change of many connections told once."""
    known: dict[tuple[object, ...], Change] = {}
    for c in changes:
        # what was removed and how the frames were cut is the same everywhere; times and byte counts are told for the first
        own = (
            ()
            if c.kind in ("delayed", "swallowed", "kept-back", "fragmented", "tcp-terminated")
            else (c.before, c.after)
        )
        first = known.get((c.kind, c.from_client, own))
        if first is None:
            known[c.kind, c.from_client, own] = c
            continue
        first.flows += [f for f in c.flows if f not in first.flows]
        first.frames += c.frames[: MOST_FRAMES - len(first.frames)]
        first.frames_after += c.frames_after[: MOST_FRAMES - len(first.frames_after)]
    return list(known.values())


# -- ICMP --------------------------------------------------------------------------------------------------------


def _icmp(near: Point, far: Point, shared: Sequence[tuple[int, Sighting, Sighting]]) -> list[IcmpFate]:
    """The errors about the shared connections that one of the points did not see."""
    of_near = by_connection([a for _, a, _ in shared], near.icmp)
    of_far = by_connection([b for _, _, b in shared], far.icmp)
    found: dict[tuple[object, ...], IcmpFate] = {}
    for _, a, b in shared:
        here, there = of_near.get(a, []), of_far.get(b, [])
        for seen, other, at, missing in ((here, there, near, far), (there, here, far, near)):
            left = Counter(_icmp_key(e, about) for e, about in other)
            for e, about_client in seen:
                key = _icmp_key(e, about_client)
                if left[key]:
                    left[key] -= 1
                    continue
                # errors about the client's packets travel towards the client: from far to near
                towards = missing is near if about_client else missing is far
                group = (e.mtu, e.is_too_big, about_client, at.id)
                fate = found.setdefault(group, IcmpFate(e.mtu, e.is_too_big, about_client, at.id, missing.id, towards))
                fate.count += 1
                if len(fate.frames) < MOST_FRAMES:
                    fate.frames.append(Frame(e.capture, e.frame))
    return list(found.values())


def _icmp_key(e: IcmpError, about_client: bool) -> tuple[object, ...]:
    return e.type, e.code, e.mtu, e.quoted_seq, about_client


def unanswered(s: Sighting, *, from_client: bool) -> Counter[int]:
    """IP bytes of packets that this point saw sent, sent again, and never acknowledged: how many of each size."""
    d = s.direction(from_client=from_client)
    again = d.data & d.resend & (d.fate == NEVER_ACKED)
    if not again.any():
        return Counter()
    rows = d.data & (d.fate == NEVER_ACKED)
    return Counter(np.where(d.offloaded, d.wire_limit or 1500, d.ip_bytes)[rows].tolist())
