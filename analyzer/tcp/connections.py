"""Who talks to whom: packets -> connections, and which of them are over.

A connection is the packets between two endpoints from one SYN to the next (RFC 9293 section 3.5). Rows are held only
while their connection may still go on: a connection is let go when it closed in order and stayed quiet for `LINGER_S`,
or was silent for `IDLE_S` by the capture's clock. The same two limits split a flow whose ports were used again without
a SYN in the capture, so the outcome does not depend on where the windows of the capture happen to end. Beyond
`BUDGET_BYTES` (a flood, a mail without end) those that were silent longest are let go as they stand, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.packets import ACK, FIN, RST, SYN, Array, LazyColumns, PacketTable

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# After both FINs a lost last ACK makes the peer send its FIN again after one RTO (at least 200 ms, mostly under 1 s).
LINGER_S = 2.0
# Longer than the longest silence of a live SMTP session: 10 minutes at the end of data (RFC 5321 4.5.3.2.6), and than
# the longest gap between two resends (120 s on Linux and BSD).
IDLE_S = 1200.0
LINGER_NS, IDLE_NS = int(LINGER_S * 1e9), int(IDLE_S * 1e9)
# What the packets of all open connections may take together, in bytes: with what reading and judging need beside it, the
# process stays below half a gigabyte. One connection may take all of it: a mail of 100 MB fits in.
BUDGET_BYTES = 192 << 20
# The most packets of one connection: a mail of 300 MB with its ACKs. Read the long way, each becomes a few Python objects.
CONNECTION_PACKETS = 400_000
# A packet without its payload: 139 bytes of columns on the shelf, 43 here, and as much as both together now and then, while
# packets are sorted into connections (the mean of many and few connections).
ROW_BYTES = 290


@dataclass(slots=True)
class Group:
    """Connections that are over, many at a time.

    `table` has n rows sorted by connection, then direction (client's packets first), then capture order.
    Connection k owns rows first[k]:first[k+1]; the server's packets begin at middle[k].
    """

    table: PacketTable
    first: Ints  # (k + 1,)
    middle: Ints  # (k,)
    client_known: Bools  # (k,) the SYN or SYN-ACK told who opened it

    def __len__(self) -> int:
        return len(self.middle)

    def parts(self, most: int) -> Iterator[Group]:
        """The group cut into groups of at most so many connections."""
        if len(self) <= most:
            yield self
            return
        for k in range(0, len(self), most):
            first = self.first[k : k + most + 1]
            rows = slice(int(first[0]), int(first[-1]))
            known, middle = self.client_known[k : k + most], self.middle[k : k + most]
            yield Group(self.table[rows], first - first[0], middle - first[0], known)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    return x ^ (x >> np.uint64(32))


def _flow_keys(t: PacketTable) -> tuple[npt.NDArray[np.uint64], Bools]:
    """A 64-bit key per row, equal for both directions of a flow; and whether the row runs from the higher endpoint."""
    c1, c2 = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
    a = _mix(t.src_hi * c1 + t.src_lo) + t.src_port.astype(np.uint64) * c2
    b = _mix(t.dst_hi * c1 + t.dst_lo) + t.dst_port.astype(np.uint64) * c2
    swapped = a > b
    return _mix(_mix(np.minimum(a, b)) * c1 ^ np.maximum(a, b)), swapped


def _numbered(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Flows numbered from 0 in the order of their first row, without sorting 64-bit keys.

    Every row writes its number into a table at a slot that its key tells, the first row last, so that it stays. A row
    that then finds another key in its slot (two flows share it) goes through `np.unique`; there are few.
    """
    n = len(key)
    bits = max(int(n - 1).bit_length() + 2, 4)
    slot = (key >> np.uint64(64 - bits)).astype(np.int64)
    table = np.empty(1 << bits, np.int32)
    rows = np.arange(n, dtype=np.int32)
    table[slot[::-1]] = rows[::-1]
    lead = table[slot]
    lost = np.flatnonzero(key[lead] != key)
    if len(lost):
        _, first, inverse = np.unique(key[lost], return_index=True, return_inverse=True)
        lead[lost] = lost[first][inverse]
    is_lead = lead == rows
    number = np.cumsum(is_lead, dtype=np.int32) - np.int32(1)
    return number[lead]


def _grouped(number: npt.NDArray[np.int32]) -> Ints:
    """A stable argsort of small numbers: NumPy sorts 16-bit integers by radix, in linear time."""
    order = np.argsort((number & 0xFFFF).astype(np.uint16), kind="stable")
    if len(number) and int(number.max()) > 0xFFFF:
        order = order[np.argsort((number >> 16)[order].astype(np.uint16), kind="stable")]
    return order


class _Rows(NamedTuple):
    """What tells which connections are over: some columns of packets, and where on the shelf the others are."""

    place: Ints
    key: npt.NDArray[np.uint64]
    swapped: Bools
    time_ns: Ints
    flags: npt.NDArray[np.uint16]
    seq: npt.NDArray[np.uint32]
    ack: npt.NDArray[np.uint32]
    payload_bytes: npt.NDArray[np.int32]

    def take(self, rows: Ints) -> _Rows:
        return _Rows._make(column.take(rows) for column in self)

    def then(self, more: _Rows) -> _Rows:
        columns: Iterator[tuple[Array, Array]] = zip(self, more, strict=True)
        return _Rows._make(np.concatenate(pair) for pair in columns) if len(self.place) else more


_NO_ROWS = _Rows._make(np.empty(0, dtype) for dtype in ("i8", "u8", "?", "i8", "u2", "u4", "u4", "i4"))


class _Sorted:
    """Rows in the order of their connections, in columns as far as they are looked at all over."""

    def __init__(self, held: _Rows, order: Ints) -> None:
        self.held = held
        self.order = order  # where each row stands in `held`

    @cached_property
    def time_ns(self) -> Ints:
        return self.held.time_ns.take(self.order)

    @cached_property
    def flags(self) -> npt.NDArray[np.uint16]:
        return self.held.flags.take(self.order)

    @cached_property
    def swapped(self) -> Bools:
        return self.held.swapped.take(self.order)


class _Kept(NamedTuple):
    table: PacketTable
    base: int  # place of its first row
    private: bool  # its bytes are a copy


class _Shelf:
    """Windows' tables as they came, for as long as a connection in them is open.

    Most connections are over before their packets would have to be copied: the last table is kept as it is, with the
    bytes that it points into. Of older ones only the rows of open connections are kept, copied.
    """

    MOST = 32  # tables; more are copied into one (a row tells its buffer in one byte)

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._next = 0

    def put(self, table: PacketTable, *, private: bool = False) -> Ints:
        """Returns the places of the table's rows."""
        places = np.arange(self._next, self._next + len(table))
        if len(table):
            self._kept.append(_Kept(table, self._next, private))
            self._next += len(table)
        return places

    def rows(self, places: Ints) -> PacketTable:
        """The table of these places, its columns gathered when they are asked for."""
        return self._rows(self._kept, places)

    @classmethod
    def _rows(cls, all_kept: list[_Kept], places: Ints) -> PacketTable:
        base = np.array([kept.base for kept in all_kept], np.int64)
        which = np.searchsorted(base, places, side="right") - 1
        used = np.flatnonzero(np.bincount(which, minlength=len(base)))
        tables = [all_kept[i].table for i in used.tolist()]
        lengths = np.array([len(table) for table in tables], np.int64)
        shift = np.zeros(len(base), np.int64)
        shift[used] = np.cumsum(lengths) - lengths - base[used]
        rows = places + shift[which]
        buffers = [buffer for table in tables for buffer in table.buffers]
        first_buffer = np.cumsum([0, *(len(table.buffers) for table in tables)])
        blocks = [table.sack_blocks for table in tables]
        first_block = np.cumsum([0, *map(len, blocks)])

        def gather(name: str) -> Array:
            parts: list[Array] = [table.columns[name] for table in tables]
            if name == "buffer":
                parts = [part + np.uint8(first) for part, first in zip(parts, first_buffer, strict=False)]
            elif name == "sack_at":
                counts = [table.sack_count for table in tables]
                parts = [
                    np.where(count > 0, part + np.int32(first), np.int32(0))
                    for part, first, count in zip(parts, first_block, counts, strict=False)
                ]
            column: Array = np.concatenate(parts) if len(parts) > 1 else parts[0]
            chosen: Array = column[rows]
            return chosen

        columns = LazyColumns(gather, len(rows), lambda part: cls._rows(all_kept, places[part]))
        return PacketTable(columns, np.concatenate(blocks), tuple(buffers))

    def clear(self, places: Ints) -> Ints:
        """Let go of all rows but these (ascending); returns their new places."""
        kept, self._kept = self._kept, []
        bounds = np.searchsorted(places, [*(k.base for k in kept), self._next]).tolist()
        recent = next((k.base for k in reversed(kept) if not k.private), None)
        crowded = len(kept) > self.MOST
        moved = [np.empty(0, np.int64)]
        for (table, base, private), a, b in zip(kept, bounds, bounds[1:], strict=False):
            rows = places[a:b] - base
            if not len(rows):
                continue
            if crowded or (2 * len(rows) < len(table) if private else base != recent):
                table, rows, private = table[rows].detach(), np.arange(len(rows)), True
            moved.append(rows + self._next)
            self.put(table, private=private)
        if crowded:
            joined = PacketTable.concat([k.table for k in self._kept]).detach()
            self._kept = []
            return self.put(joined, private=True)
        return np.concatenate(moved)


class HandedOver(NamedTuple):
    """What the tracker of a later part of a capture can not judge alone, and what the one before must know of it."""

    heads: PacketTable  # of connections that are over and began earlier
    open: PacketTable  # of those that may go on behind this part
    key: npt.NDArray[np.uint64]  # flows of which some connection began here and is over, its SYN if it had one
    swapped: Bools
    isn: Ints  # -1: none


class Tracker:
    """Holds the packets of open connections; gives back the connections that are over.

    Of the later part of a capture (`continues`) what does not begin with a SYN is kept: somebody else has its beginning.
    He gives it to `join` of the tracker of the earlier part.
    """

    def __init__(
        self,
        server_ports: frozenset[int] = frozenset({25, 465, 587, 2525}),
        budget_bytes: int = BUDGET_BYTES,
        *,
        continues: bool = False,
    ) -> None:
        self.server_ports = server_ports
        self.budget_bytes = budget_bytes
        self.continues = continues
        self._heads: list[PacketTable] = []
        self._gone: list[tuple[npt.NDArray[np.uint64], Bools, Ints]] = []  # HandedOver.key, swapped, isn
        self._ended = np.empty(0, np.uint64)  # flows whose heads were joined: nothing may follow behind them
        self.let_go = 0  # connections, for want of memory, before they were over
        self._shelf = _Shelf()
        self._open = _NO_ROWS

    @property
    def packets(self) -> int:
        """Of open connections."""
        return len(self._open.place)

    def add(self, packets: PacketTable, clock_ns: int | None) -> Group:
        """Take one window's packets; return the connections that are over by `clock_ns` (the window's end)."""
        self._open = self._open.then(self._put(packets))
        return self._split(self._open, clock_ns)

    def finish(self) -> Group:
        """All connections that are still held."""
        return self._split(self._open, None)

    def hand_over(self) -> HandedOver:
        """What is left, for `join` of the tracker of the part before."""
        nothing = np.empty(0, np.uint64), np.empty(0, bool), np.empty(0, np.int64)
        left = self._shelf.rows(self._open.place).detach() if len(self._open.place) else PacketTable.empty()
        heads = PacketTable.concat(self._heads)
        return HandedOver(heads, left, *map(np.concatenate, zip(nothing, *self._gone, strict=True)))

    def join(self, part: HandedOver) -> bool:
        """Take what the part behind this one handed over. False when it may have taken the rest of a connection of ours
        for one of its own, or if not all can be told apart: then the capture has to be read in one."""
        held = self._open
        head_key = _flow_keys(part.heads)[0]
        keys, flags = np.append(held.key, head_key), np.append(held.flags, part.heads.flags)
        times, speaks = np.append(held.time_ns, part.heads.time_ns), flags & (SYN | RST) == 0
        known = np.isin(part.key, held.key) & (part.isn >= 0)
        for key, swapped, isn in zip(part.key[known], part.swapped[known], part.isn[known], strict=True):
            syns = (held.key == key) & (held.swapped == swapped) & ((held.flags & SYN) != 0)
            mine = keys == key
            said = times[mine & speaks]
            # a SYN behind nothing but SYNs and RSTs, which may have begun a connection of their own, belongs to them
            if (held.seq[syns] == isn).any() or not len(said) or times[mine].max() - said.max() > LINGER_NS:
                return False
        for packets in (part.heads, part.open):
            rows = self._put(packets, private=True)
            if np.isin(rows.key, self._ended).any():
                return False
            held = held.then(rows)
            if packets is part.heads:
                self._ended = np.union1d(self._ended, rows.key)
        self._ended = np.union1d(self._ended, part.key[np.isin(part.key, held.key)])
        self._open = held
        return True

    def _put(self, packets: PacketTable, *, private: bool = False) -> _Rows:
        """Packets onto the shelf, and what is looked at of them."""
        key, swapped = _flow_keys(packets)
        columns = (packets.time_ns, packets.flags, packets.seq, packets.ack, packets.payload_bytes)
        return _Rows(self._shelf.put(packets, private=private), key, swapped, *columns)

    def _split(self, held: _Rows, clock_ns: int | None) -> Group:
        n = len(held.place)
        if not n:
            return Group(PacketTable.empty(), np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        number = _numbered(held.key)
        order = _grouped(number)
        number = number[order]
        rows = _Sorted(held, order)
        new = np.empty(n, bool)
        new[0] = True
        np.not_equal(number[1:], number[:-1], out=new[1:])
        closes = _Closes(rows)
        _split_flows(rows, closes, number, new)
        first = np.append(np.flatnonzero(new), n)
        # a connection behind which another one of its flow began gets no more packets
        followed = number[first[1:-1]] == number[first[1:-1] - 1]
        over = np.append(followed, False)
        if clock_ns is None:
            over[:] = True
        else:
            over |= _is_over(rows, closes, first, clock_ns)
            over |= self._beyond_budget(rows, first, over)
        count = np.diff(first)
        staying = np.zeros(n, bool)
        staying[order[np.repeat(~over, count)]] = True
        heads = self._heads_among(rows, first, np.append(False, followed), over) if self.continues else None
        if heads is not None:
            over &= ~heads
        if not over.all():
            rows = _Sorted(held, order[np.repeat(over, count)])
            first = np.append(0, np.cumsum(count[over]))
        group = self._group(rows, first)
        self._open = held.take(np.flatnonzero(staying))
        self._open = self._open._replace(place=self._shelf.clear(self._open.place))
        return group

    def _heads_among(self, rows: _Sorted, first: Ints, behind: Bools, over: Bools) -> Bools | None:
        """Which of the connections that are over began before this part: no SYN, and nothing of their flow before them.

        Their packets are laid aside; the flows of the others are noted.
        """
        head = rows.held.take(rows.order[first[:-1]])
        syn = (head.flags & (SYN | ACK)) == SYN
        heads: Bools = over & ~behind & ~syn
        if heads.any() and self._gone:
            heads &= ~np.isin(head.key, np.concatenate([key for key, _, _ in self._gone]))
        if heads.any():
            mine = rows.order[np.repeat(heads, np.diff(first))]
            self._heads.append(self._shelf.rows(np.sort(rows.held.place[mine])).detach())
        isn = np.where(syn, head.seq.astype(np.int64), -1)
        self._gone.append((head.key[over], head.swapped[over], isn[over]))
        return heads if heads.any() else None

    def _beyond_budget(self, rows: _Sorted, first: Ints, over: Bools) -> Bools:
        """The connections to let go so that the others take half of the budget: those that were silent longest.

        Besides, whatever has more packets than one connection may have.
        """
        most = int(rows.held.payload_bytes.sum(dtype=np.int64)) + ROW_BYTES * len(rows.order)
        spent: Bools = (np.diff(first) > CONNECTION_PACKETS) & ~over
        self.let_go += int(spent.sum())
        over = over | spent
        if most <= self.budget_bytes:  # nearly always
            return spent
        # what was cut off by the snap length takes nothing
        payload = self._shelf.rows(rows.held.place[rows.order]).payload_captured
        cost = np.add.reduceat(payload, first[:-1], dtype=np.int64) + ROW_BYTES * np.diff(first)
        cost[over] = 0
        if cost.sum() <= self.budget_bytes:
            return spent
        silent = np.argsort(rows.time_ns[first[1:] - 1], kind="stable")
        left = cost.sum() - np.cumsum(cost[silent])
        quiet = np.zeros(len(over), bool)
        quiet[silent[: int(np.argmax(left <= self.budget_bytes // 2)) + 1]] = True
        quiet &= ~over
        self.let_go += int(quiet.sum())
        return spent | quiet

    def _group(self, rows: _Sorted, first: Ints) -> Group:
        if not len(rows.order):
            return Group(PacketTable.empty(), np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        client, known = self._clients(rows, first)
        # Within each connection the client's rows go first; each side keeps its order.
        count = np.diff(first)
        from_server = rows.swapped != np.repeat(client, count)
        to_client = np.add.reduceat(from_server, first[:-1], dtype=np.int64)
        to_server = count - to_client
        servers = np.repeat(np.tile([False, True], len(count)), np.stack((to_server, to_client), axis=1).reshape(-1))
        source = rows.held.place.take(rows.order)
        place = np.empty(len(source), np.int64)
        place[servers], place[~servers] = source[from_server], source[~from_server]
        middle = first[:-1] + to_server
        return Group(self._shelf.rows(place), first, middle, known)

    def _clients(self, rows: _Sorted, first: Ints) -> tuple[Bools, Bools]:
        """Per connection: does the client's side run `swapped`; and is that known from the handshake."""
        known = np.zeros(len(first) - 1, bool)
        heads = self._shelf.rows(rows.held.place[rows.order[first[:-1]]])
        sport, dport = heads.src_port, heads.dst_port
        row_swapped = rows.swapped[first[:-1]]
        served = np.zeros(65536, bool)
        served[list(self.server_ports)] = True
        # the first packet goes to the server if its destination port is served, or is the lower one
        to_server = (served[dport] & ~served[sport]) | ((served[dport] == served[sport]) & (dport < sport))
        client = np.where(to_server, row_swapped, ~row_swapped)
        syn = np.flatnonzero(rows.flags & SYN)[::-1]  # the earliest wins
        pure = (rows.flags[syn] & ACK) == 0
        conn = np.searchsorted(first, syn, side="right") - 1
        client[conn] = np.where(pure, rows.swapped[syn], ~rows.swapped[syn])
        known[conn] = True
        return client, known


def _split_flows(rows: _Sorted, closes: _Closes, number: npt.NDArray[np.int32], new: Bools) -> None:
    """Mark in `new` where a flow's ports were used again: a SYN with another ISN, or a packet long after the close."""
    gap = np.append(0, rows.time_ns[1:] - rows.time_ns[:-1])
    new |= gap > IDLE_NS
    # SYN of either kind whose ISN differs from the last SYN of the same side in this flow
    syn = np.flatnonzero(rows.flags & SYN)
    side = number[syn].astype(np.int64) * 2 + rows.swapped[syn]
    by_side = np.argsort(side, kind="stable")
    syn, side = syn[by_side], side[by_side]
    seq = rows.held.seq[rows.order[syn]]
    pure = (rows.flags[syn] & ACK) == 0
    follows = np.append(False, side[1:] == side[:-1])[: len(syn)]
    before = np.where(follows, np.append(-1, syn)[: len(syn)], -1)  # that SYN; -1: there is none
    other_isn = follows & (seq != np.append(seq[:1], seq)[: len(syn)])
    new[syn[pure & other_isn]] = True
    # a first SYN in mid-flow, when the capture began inside the previous connection
    _begin_in_mid_flow(rows.flags, new, syn[pure & ~follows])
    pauses = np.flatnonzero((gap > LINGER_NS) & ~new)
    if len(pauses):
        _split_closed(closes, new, pauses)
    # What a SYN was compared with may belong to a connection that is over by now: to its own one it is the first SYN,
    # whatever its ISN, and begins another only behind more than SYNs and RSTs.
    inside = pure & (number[syn - 1] == number[syn]) & (syn > 0) & (gap[syn] <= IDLE_NS)
    first = inside & (other_isn | ~follows) & (before < _last(np.flatnonzero(new), np.maximum(syn, 1)))
    if first.any():
        new[syn[first]] = False
        paused = np.sort(syn[first & (gap[syn] > LINGER_NS)])
        if len(paused):
            _split_closed(closes, new, paused)
    _begin_in_mid_flow(rows.flags, new, syn[inside & (before < _last(np.flatnonzero(new), syn + 1))])


def _split_closed(closes: _Closes, new: Bools, pauses: Ints) -> None:
    """A packet after a pause, behind the close, begins a connection of its own."""
    begin = _last(np.flatnonzero(new), pauses)
    closed = closes.both_fins(pauses, begin)
    last = 0
    for i, start in zip(pauses[closed].tolist(), begin[closed].tolist(), strict=True):
        if closes.in_order(np.array([i]), np.array([max(start, last)]))[0]:
            new[i] = True
            last = i


def _last(places: Ints, before: Ints) -> Ints:
    """For each of `before`: the last of these places (ascending) before it; -1 where there is none."""
    return np.append(-1, places)[np.searchsorted(places, before)]


def _begin_in_mid_flow(flags: npt.NDArray[Any], new: Bools, syn: Ints) -> None:
    """These SYNs, the first of their side, begin a connection unless only SYNs came before (a handshake out of order)."""
    for i in np.sort(syn[~new[syn]]).tolist():
        if not _only_syn_before(flags, new, i):
            new[i] = True


def _is_over(rows: _Sorted, closes: _Closes, first: Ints, clock_ns: int) -> Bools:
    quiet = clock_ns - rows.time_ns[first[1:] - 1]
    over: Bools = quiet > IDLE_NS
    quiet_ones = np.flatnonzero((quiet > LINGER_NS) & ~over)
    over[quiet_ones] = closes.in_order(first[1:][quiet_ones], first[:-1][quiet_ones])
    return over


def _only_syn_before(flags: npt.NDArray[Any], new: Bools, i: int) -> bool:
    """True when all earlier packets of this connection are SYNs or RSTs (a handshake seen out of order)."""
    j = i - 1
    while True:
        if not flags[j] & (SYN | RST):
            return False
        if new[j]:
            return True
        j -= 1


class _Closes:
    """Whether a connection had closed in order before some row: both sides sent a FIN and the other's last ACK covers it.

    A FIN behind lost data does not close a connection: the data is still being sent again (RFC 9293 section 3.6).
    """

    def __init__(self, rows: _Sorted) -> None:
        self.rows = rows
        fins = np.flatnonzero(rows.flags & FIN)
        swapped = rows.swapped[fins]
        self.fins = fins[swapped], fins[~swapped]

    @cached_property
    def acks(self) -> tuple[Ints, Ints]:
        """Rows that acknowledge what the one side, and the other, sent."""
        ack = (self.rows.flags & ACK) != 0
        return np.flatnonzero(ack & ~self.rows.swapped), np.flatnonzero(ack & self.rows.swapped)

    def both_fins(self, end: Ints, begin: Ints) -> Bools:
        """Per pair: both sides sent a FIN in rows begin:end."""
        both: Bools = (_last(self.fins[0], end) >= begin) & (_last(self.fins[1], end) >= begin)
        return both

    def in_order(self, end: Ints, begin: Ints) -> Bools:
        """Per pair: the connection whose rows are begin:end had closed in order."""
        held, order = self.rows.held, self.rows.order
        closed = self.both_fins(end, begin)
        pairs = np.flatnonzero(closed)
        end, begin = end[pairs], begin[pairs]
        for fins, acks in zip(self.fins, self.acks, strict=True):
            a = _last(acks, end)
            fin, ack = order[_last(fins, end)], order[a]
            fin_end = (held.seq[fin].astype(np.int64) + held.payload_bytes[fin] + 1) & 0xFFFFFFFF
            closed[pairs] &= (a >= begin) & (fin_end == held.ack[ack])
        return closed
