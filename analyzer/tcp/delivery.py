"""The fate of each segment: sent, sent again, acknowledged, selectively acknowledged, never.

`measure` works on whole columns, many connections at once; `Trace` is the view of one connection for whoever reasons
about it or draws it. Sequence numbers are unwrapped and relative: 0 is the first payload byte after the SYN (or the
first byte seen), so they grow past 2**32 and may be negative for what was sent before the capture began.

A resend is an overlap of byte ranges, never an equality of sequence numbers: stacks cut resends anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.packets import ACK, FIN, RST, SYN, IcmpError, PacketTable, address_text
from .connections import Bools, Group, Ints

NOT_ACK = np.iinfo(np.int64).min  # `ack` of a packet without the ACK flag
_FAR = np.int64(1) << 44  # larger than any relative sequence number: keeps directions apart in cumulative maxima

NO_PAYLOAD, ACKED, SACKED, LOST, UNKNOWN = 0, 1, 2, 3, 4  # values of `fate`

# A router between two captured interfaces forwards within microseconds; no stack resends that soon (RFC 6298: RTO >= 200 ms
# on Linux; a fast retransmit needs three ACKs, which takes longer than this on any real link).
DUPLICATE_NS = 2_000_000
# Share of the packets of one direction that a mirror port shows a second time: all, but for what it drops when busy. No
# stack sends three of four packets again within DUPLICATE_NS.
MIRRORED = 0.75


ClosedBy = Literal["client-fin", "server-fin", "client-rst", "server-rst", "open"]


class Endpoint(NamedTuple):
    ip: str
    port: int


class Delivery(NamedTuple):
    """Per row of a Group's table, shape (n,); per direction (2 * connection + from_server), shape (2k,)."""

    group: Group
    bounds: Ints  # (2k + 1,) rows of each direction
    seq: Ints  # relative to this direction's first byte
    end: Ints  # seq + payload_bytes
    ack: Ints  # relative to the other direction's first byte; NOT_ACK without the flag
    resend: Bools  # has payload that was sent before (duplicates of capture excluded)
    duplicate: Bools  # the same packet captured twice (router with `-i any`, mirror port)
    sent_once: Bools  # has payload of which no byte was sent before or after
    acked: Ints  # (2k,) highest acknowledgment from the peer, as relative byte; NOT_ACK if none
    sent: Ints  # (2k,) end of the highest byte seen; 0 if none
    based: Bools  # (2k,) the SYN fixed the origin

    def direction_of(self, rows: Ints) -> Ints:
        return np.searchsorted(self.bounds, rows, side="right") - 1

    def trace(self, k: int) -> Trace:
        """The k-th connection of the group."""
        t = self.group.table
        b = self.bounds
        c, m, s = int(b[2 * k]), int(b[2 * k + 1]), int(b[2 * k + 2])
        first = t[c:m] if m > c else t[m:s]
        ends = [
            Endpoint(address_text(int(first.src_hi[0]), int(first.src_lo[0])), int(first.src_port[0])),
            Endpoint(address_text(int(first.dst_hi[0]), int(first.dst_lo[0])), int(first.dst_port[0])),
        ]
        if m == c:
            ends.reverse()
        t0 = min(int(t.time_ns[i]) for i in (c, m) if i < s and (i < m or m < s)) if s > c else 0
        return Trace(
            client=ends[0],
            server=ends[1],
            t0_ns=t0,
            client_known=bool(self.group.client_known[k]),
            c2s=self._direction(2 * k, c, m),
            s2c=self._direction(2 * k + 1, m, s),
        )

    def _direction(self, d: int, lo: int, hi: int) -> Direction:
        return Direction(
            self.group.table[lo:hi],
            self.seq[lo:hi],
            self.end[lo:hi],
            self.ack[lo:hi],
            self.resend[lo:hi],
            self.duplicate[lo:hi],
            self.sent_once[lo:hi],
            int(self.acked[d]) if self.acked[d] != NOT_ACK else None,
            bool(self.based[d]),
        )


# What is asked of a trace that was let go: see detect.paths.weigh.
_KEPT = {"table", "ack", "duplicate", "acked", "based", "peer"}
_KEPT_COLUMNS = (
    *("time_ns", "capture", "frame", "ip_version", "ip_bytes", "df", "flags", "mss"),
    *("fragments", "payload_bytes", "payload_captured"),
)


@dataclass
class Direction:
    """What one side sent: arrays of equal length n in capture order, duplicates of capture included (see `duplicate`)."""

    table: PacketTable
    seq: Ints
    end: Ints
    ack: Ints
    resend: Bools
    duplicate: Bools
    sent_once: Bools
    acked: int | None  # the peer's highest acknowledgment of these bytes
    based: bool
    peer: Direction = field(init=False, repr=False)  # set by Trace

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def time_ns(self) -> Ints:
        return self.table.time_ns

    @cached_property
    def frame(self) -> Ints:
        return self.table.frame

    @property
    def capture(self) -> npt.NDArray[np.uint16]:
        return self.table.capture

    @cached_property
    def payload_bytes(self) -> npt.NDArray[np.int32]:
        return self.table.payload_bytes

    @cached_property
    def ip_bytes(self) -> npt.NDArray[np.int32]:
        return self.table.ip_bytes

    @cached_property
    def df(self) -> Bools:
        return self.table.df

    @cached_property
    def flags(self) -> npt.NDArray[np.uint16]:
        return self.table.flags

    @cached_property
    def data(self) -> Bools:
        """Rows that carry payload and are no duplicate of capture."""
        rows: Bools = (self.table.payload_bytes > 0) & ~self.duplicate
        return rows

    @cached_property
    def mss(self) -> int | None:
        """The MSS that this side announced in its SYN (RFC 9293 3.7.1): a limit for what the *peer* sends."""
        announced = self.table.mss[(self.flags & SYN) != 0]
        return int(announced[0]) if len(announced) and announced[0] else None

    @cached_property
    def window_scale(self) -> int | None:
        """Shift count of this side's windows; None when the handshake was not seen."""
        for side in (self, self.peer):
            shifts = side.table.window_scale[(side.flags & SYN) != 0]
            if not len(shifts):
                return None
            if shifts[0] < 0:
                return 0  # RFC 7323 2.2: scaling only when both sides offer it
        return int(self.table.window_scale[(self.flags & SYN) != 0][0])

    @cached_property
    def window_bytes(self) -> Ints:
        """Receive window as announced, scaled; with unknown scale as sent (then it is a lower bound)."""
        shift = np.where((self.flags & SYN) != 0, 0, self.window_scale or 0)
        return self.table.window.astype(np.int64) << shift

    @cached_property
    def sent(self) -> int:
        """End of the highest payload byte seen from this side."""
        ends = self.end[self.table.payload_bytes > 0]
        return int(ends.max()) if len(ends) else 0

    @cached_property
    def sack_permitted(self) -> bool | None:
        """SACK agreed on by both SYNs (RFC 2018 section 2); None when the handshake was not seen."""
        offered = []
        for side in (self, self.peer):
            syn = (side.flags & SYN) != 0
            if not syn.any():
                return True if len(self.sacks) or len(self.peer.sacks) else None
            offered.append(bool(side.table.sack_permitted[syn].any()))
        return all(offered)

    @cached_property
    def sacks(self) -> list[tuple[int, int, int]]:
        """(time_ns, left, right) of the believable SACK blocks that *this side sent*, relative to the peer's bytes.

        Left out: D-SACKs (RFC 2883), and blocks outside of what the peer sent (see `sacks_outside`).
        """
        return list(zip(*(column[self._believable].tolist() for column in self._all_sacks), strict=True))

    @cached_property
    def _believable(self) -> Bools:
        _, left, right = self._all_sacks
        believable: Bools = (left >= 0) & (right <= self._peer_end)
        return believable

    def sacked(self, since_ns: int | None = None) -> list[tuple[int, int]]:
        """The union of the believable blocks (that were sent since then), as sorted and disjoint (left, right)."""
        time, left, right = (column[self._believable] for column in self._all_sacks)
        if since_ns is not None:
            left, right = left[time >= since_ns], right[time >= since_ns]
        order = np.argsort(left)
        left, top = left[order], np.maximum.accumulate(right[order])
        begins = np.ones(len(left), bool)
        begins[1:] = left[1:] > top[:-1]
        return list(zip(left[begins].tolist(), top[np.roll(begins, -1)].tolist(), strict=True))

    @cached_property
    def tells_sack(self) -> bool:
        """SACK blocks of this side would be seen: agreed on, and not cut off by the snap length."""
        if len(self._all_sacks[0]) or not self.sack_permitted:
            return len(self._all_sacks[0]) > 0
        cut = (self.payload_bytes == 0) & (self.table.captured_bytes < self.table.frame_bytes)
        return not cut.any()

    @cached_property
    def sacks_outside(self) -> int:
        """SACK blocks outside of what the peer sent: a middlebox shifted sequence numbers but not SACK."""
        return int((~self._believable).sum())

    @cached_property
    def _peer_end(self) -> int:
        """End of what the peer is known to have sent; data that this capture missed counts by its ACK."""
        # a capture behind the sender, or begun late, may miss what was selectively acknowledged: a megabyte of window is
        # generous
        slack = 0 if self.peer.based and len(self.peer.table) and self.peer.data.any() else 1 << 20
        return max(self.peer.sent, self.peer.acked or 0) + 1 + slack

    @cached_property
    def _sack_blocks(self) -> SackBlocks:
        return sack_blocks(self.table, self.ack)

    @cached_property
    def _all_sacks(self) -> tuple[Ints, Ints, Ints]:
        blocks = self._sack_blocks
        real = ~blocks.duplicate & (blocks.left < blocks.right)
        return self.time_ns[blocks.row[real]], blocks.left[real], blocks.right[real]

    @cached_property
    def told_twice(self) -> int:
        """How often this side reported bytes of the peer that arrived twice (RFC 2883): a resend was needless."""
        blocks = self._sack_blocks
        return int((blocks.first & (blocks.right <= self.ack[blocks.row]) & (blocks.left >= 0)).sum())

    @cached_property
    def fate(self) -> npt.NDArray[np.uint8]:
        """Per row: NO_PAYLOAD, ACKED, SACKED, LOST (never acknowledged although a SACK shows later bytes, or sent in vain
        to the end), UNKNOWN (the peer's side is not in the capture)."""
        fate = np.full(len(self), UNKNOWN, np.uint8)
        fate[self.table.payload_bytes == 0] = NO_PAYLOAD
        if self.acked is None and not len(self.peer):
            return fate
        data = self.table.payload_bytes > 0
        acked = data & (self.end <= (self.acked if self.acked is not None else 0))
        fate[data] = LOST
        for left, right in self.peer.sacked():
            fate[data & (self.seq >= left) & (self.end <= right)] = SACKED
        fate[acked] = ACKED
        return fate

    @cached_property
    def wire_limit(self) -> int | None:
        """Largest IP packet this side can put on the wire: the peer's MSS + headers. A longer frame is offloaded."""
        mss = self.peer.mss
        if mss is None:
            return None
        return mss + (40 if len(self.table) == 0 or self.table.ip_version[0] == 4 else 60)

    @cached_property
    def offloaded(self) -> Bools:
        """Rows whose frame is longer than any packet on the wire (TSO, GSO, GRO, LRO)."""
        limit = self.wire_limit
        # without the handshake: above 1500 bytes only jumbo hosts send real packets, and they are rare on the way to an MX
        rows: Bools = self.table.ip_bytes > (limit if limit is not None else 1500)
        return rows


@dataclass
class Trace:
    """One connection, both directions, and the ICMP errors that quote it."""

    client: Endpoint
    server: Endpoint
    t0_ns: int
    client_known: bool
    c2s: Direction
    s2c: Direction
    icmp: list[IcmpError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.c2s.peer, self.s2c.peer = self.s2c, self.c2s

    def __len__(self) -> int:
        return len(self.c2s) + len(self.s2c)

    def let_go(self) -> None:
        """Keep own copies of what a path is weighed by: whoever holds a trace for long holds only what is its own."""
        for d in self.directions:
            d.table = d.table.without_bytes(_KEPT_COLUMNS)
            d.ack, d.duplicate = d.ack.copy(), d.duplicate.copy()
            for name in d.__dict__.keys() - _KEPT:  # and with them what was worked out
                delattr(d, name)

    def part(self) -> None:
        """Undo the tie between the two directions, so that the trace is freed when its holder lets go of it."""
        for d in self.directions:
            del d.peer

    @property
    def directions(self) -> tuple[Direction, Direction]:
        return self.c2s, self.s2c

    @cached_property
    def handshake_seen(self) -> bool:
        return self.c2s.based and self.s2c.based

    @cached_property
    def start_ns(self) -> int:
        return min(int(d.time_ns.min()) for d in self.directions if len(d))

    @cached_property
    def end_ns(self) -> int:
        return max(int(d.time_ns.max()) for d in self.directions if len(d))

    @property
    def first_capture(self) -> int:
        """Id of the capture that holds the first packet."""
        return min((int(d.time_ns[0]), int(d.capture[0])) for d in self.directions if len(d))[1]

    @cached_property
    def rtt_s(self) -> float | None:
        """Handshake round trip at the capture point: SYN to the ACK that completes it (None without both SYNs)."""
        times = self.handshake_times_ns
        return (times[2] - times[0]) / 1e9 if times else None

    @cached_property
    def handshake_times_ns(self) -> tuple[int, int, int] | None:
        """Times of the last SYN before the SYN-ACK, the first SYN-ACK, and the client's first ACK after it."""
        syn = self.c2s.time_ns[(self.c2s.flags & SYN) != 0]
        synack = self.s2c.time_ns[(self.s2c.flags & SYN) != 0]
        if not len(syn) or not len(synack):
            return None
        done = self.c2s.time_ns[((self.c2s.flags & (SYN | RST)) == 0) & (self.c2s.time_ns >= synack[0])]
        before = syn[syn <= synack[0]]
        if not len(done) or not len(before):
            return None
        return int(before[-1]), int(synack[0]), int(done[0])

    @cached_property
    def closed_by(self) -> ClosedBy:
        """client-fin, server-fin, client-rst, server-rst or open: who ended it first."""
        first: tuple[int, ClosedBy] | None = None
        ways: tuple[tuple[Direction, int, ClosedBy], ...] = (
            (self.c2s, FIN, "client-fin"),
            (self.c2s, RST, "client-rst"),
            (self.s2c, FIN, "server-fin"),
            (self.s2c, RST, "server-rst"),
        )
        for d, flag, how in ways:
            rows = np.flatnonzero(d.flags & flag)
            if len(rows):
                at = int(d.time_ns[rows[0]])
                if first is None or at < first[0]:
                    first = (at, how)
        return first[1] if first else "open"


class SackBlocks(NamedTuple):
    """SACK blocks of many packets, one after the other, relative to the peer's bytes."""

    row: Ints  # of the packet
    first: Bools  # it is the first one in its packet
    left: Ints
    right: Ints
    duplicate: Bools  # D-SACK: it reports what came twice


def sack_blocks(t: PacketTable, ack: Ints) -> SackBlocks:
    """All SACK blocks of these packets; ack: relative, NOT_ACK without the flag."""
    rows = np.flatnonzero((t.sack_count > 0) & (ack != NOT_ACK))
    count = t.sack_count[rows].astype(np.int64)
    behind = np.cumsum(count)
    at = np.repeat(t.sack_at[rows] - (behind - count), count) + np.arange(len(count) and behind[-1])
    row = np.repeat(rows, count)
    first = np.ones(len(row), bool)
    first[1:] = row[1:] != row[:-1]
    # as the nearest signed numbers (RFC 9293 3.4: modulo 2**32)
    edges = (t.sack_blocks[at] - t.ack[row][:, None]).view(np.int32) + ack[row][:, None]
    left, right = edges[:, 0], edges[:, 1]
    # RFC 2883: a first block below the ACK, or inside the second block, reports a duplicate
    duplicate = first & (right <= ack[row])
    duplicate[:-1] |= first[:-1] & ~first[1:] & (left[1:] <= left[:-1]) & (right[:-1] <= right[1:])
    return SackBlocks(row, first, left, right, duplicate)


def _last_before(bounds: Ints, n: int) -> Ints:
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)) if n else np.empty(0, np.int64)


def measure(group: Group) -> Delivery:
    """Relative numbers, resends and acknowledgments for all rows of a group, in columns."""
    t, k = group.table, len(group)
    n = len(t)
    bounds = np.empty(2 * k + 1, np.int64)
    bounds[0::2] = group.first
    bounds[1::2] = group.middle
    direction = _last_before(bounds, n)
    nonempty = np.diff(bounds) > 0
    head = bounds[:-1][nonempty]  # first row of each direction that has rows
    payload = t.payload_bytes > 0
    syn = (t.flags & SYN) != 0
    has_ack = ((t.flags & ACK) != 0) & ((t.flags & RST) == 0)  # the ack field of a RST is not to be trusted

    base, based = _origins(t, bounds, direction, syn, has_ack)
    seq = _unwrap(t.seq, base[nonempty], head)
    end = seq + t.payload_bytes
    ack = np.full(n, NOT_ACK, np.int64)
    rows = np.flatnonzero(has_ack)
    if len(rows):
        d = direction[rows]
        first = np.append(0, np.flatnonzero(d[1:] != d[:-1]) + 1)
        ack[rows] = _unwrap(t.ack[rows], base[d[first] ^ 1], first)

    sent = np.zeros(2 * k, np.int64)
    acked = np.full(2 * k, NOT_ACK, np.int64)
    if n:
        sent[nonempty] = np.maximum(np.maximum.reduceat(np.where(payload, end, 0), head), 0)
        best = np.full(2 * k, NOT_ACK, np.int64)
        best[nonempty] = np.maximum.reduceat(ack, head)
        acked = best[np.arange(2 * k) ^ 1]

    resend, sent_once, by_place = _overlaps(seq, end, payload, direction)
    duplicate = _duplicates(t, seq, by_place, direction)
    if duplicate.any():
        real = payload & ~duplicate
        resend, sent_once, _ = _overlaps(seq, end, real, direction)
    return Delivery(group, bounds, seq, end, ack, resend, duplicate, sent_once, acked, sent, based)


def _origins(t: PacketTable, bounds: Ints, direction: Ints, syn: Bools, has_ack: Bools) -> tuple[Ints, Bools]:
    """The raw sequence number of relative byte 0 per direction: ISN + 1, else the first seen, else the peer's first ACK."""
    dirs = len(bounds) - 1
    base = np.zeros(dirs, np.int64)
    based = np.zeros(dirs, bool)
    filled = np.diff(bounds) > 0
    if not filled.all():
        rows = np.flatnonzero(has_ack & ~filled[direction ^ 1])[::-1]
        base[direction[rows] ^ 1] = t.ack[rows]  # the earliest wins: later assignments overwrite
    base[filled] = t.seq[bounds[:-1][filled]]
    rows = np.flatnonzero(syn)[::-1]
    base[direction[rows]] = t.seq[rows].astype(np.int64) + 1
    based[direction[rows]] = True
    # A SYN-ACK tells both origins; a one-way capture has only that
    rows = rows[has_ack[rows]]
    other = direction[rows] ^ 1
    unseen = ~based[other]
    base[other[unseen]] = t.ack[rows][unseen]
    based[other[unseen]] = True
    return base & 0xFFFFFFFF, based


def _unwrap(raw: npt.NDArray[np.uint32], base: Ints, first: Ints) -> Ints:
    """Relative 64-bit numbers: each differs from the one before by the nearest signed 32-bit step.

    Runs of rows begin at `first`; the first row of each is as near to the run's `base` as can be.
    """
    step = np.zeros(len(raw), np.int64)
    if not len(raw):
        return step
    step[1:] = (raw[1:] - raw[:-1]).view(np.int32)
    step[first] = 0
    begin = (raw[first].astype(np.int64) - base + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    end = begin + np.add.reduceat(step, first)
    step[first] = begin - np.append(0, end[:-1])  # from where the run before ended
    return np.cumsum(step)


def _overlaps(seq: Ints, end: Ints, data: Bools, direction: Ints) -> tuple[Bools, Bools, Ints]:
    """Which data rows carry bytes sent before; which carry only bytes sent once; and, if any were sent again, the data
    rows in the order of their places."""
    resend = np.zeros(len(seq), bool)
    rows = np.flatnonzero(data)
    nowhere = np.empty(0, np.int64)
    if not len(rows):
        return resend, resend.copy(), nowhere
    d = direction[rows] * _FAR
    start, stop = seq[rows] + d, end[rows] + d
    # the highest end may belong to the direction before: then it is below this one's numbers
    again = start[1:] < np.maximum.accumulate(stop)[:-1]
    once = data.copy()
    if not again.any():
        return resend, once, nowhere
    resend[rows[1:][again]] = True
    # in order of sequence numbers a row shares bytes with another one if it does with its neighbours
    order = np.argsort(start, kind="stable")
    a, b = start[order], stop[order]
    shared = np.zeros(len(rows), bool)
    shared[1:] = np.maximum.accumulate(b)[:-1] > a[1:]
    shared[:-1] |= a[1:] < b[:-1]
    by_place = rows[order]
    once[by_place[shared]] = False
    return resend, once, by_place


def _duplicates(t: PacketTable, seq: Ints, by_place: Ints, direction: Ints) -> Bools:
    """Second captures of the same packet: same bytes, same IP id (IPv6: same timestamps, another hop limit), at once.

    Without an identification and with the same hop limit a twin may be a quick resend. A mirror port shows nearly every
    packet twice: then all of them are copies.

    Looked for only in directions where an apparent resend has a twin, so that a regular capture pays nothing.
    """
    twin = np.zeros(len(seq), bool)
    suspects = _with_twins(t, seq, by_place, direction)
    for d in suspects.tolist():
        lo, hi = np.searchsorted(direction, [d, d + 1])
        seen: dict[tuple[int, ...], tuple[int, int]] = {}
        unsure: list[int] = []
        part = t[lo:hi]
        cols = (part.time_ns, seq[lo:hi], part.payload_bytes, part.ip_id, part.ts_val, part.ack, part.flags, part.ttl)
        for i, (time, s, n, ip_id, ts, ack, flags, ttl) in enumerate(zip(*(c.tolist() for c in cols), strict=True)):
            key = (s, n, ip_id, ts, ack, flags)
            before = seen.get(key)
            if before and time - before[0] <= DUPLICATE_NS:
                if ip_id or ttl != before[1]:
                    twin[lo + i] = True
                else:
                    unsure.append(lo + i)
            else:
                seen[key] = (time, ttl)
        if len(unsure) >= MIRRORED * (hi - lo - len(unsure)):
            twin[unsure] = True
    return twin


def _with_twins(t: PacketTable, seq: Ints, by_place: Ints, direction: Ints) -> Ints:
    """Directions in which the same segment was captured twice at once: same place, length, acknowledgment, IP id."""
    again = np.flatnonzero(seq[by_place[1:]] == seq[by_place[:-1]])
    before, after = by_place[again], by_place[again + 1]
    alike = t.time_ns[after] - t.time_ns[before] <= DUPLICATE_NS
    for column in (direction, t.payload_bytes, t.ip_id, t.ts_val, t.ack, t.flags):
        alike &= column[after] == column[before]
    return np.flatnonzero(np.bincount(direction[after[alike]]))
