"""Who talks to whom: packets -> connections, and which of them are over.

A connection is the packets between two endpoints from one SYN to the next (RFC 9293 section 3.5). Rows are held only
while their connection may still go on: a connection is let go when it closed in order and stayed quiet for `LINGER_S`,
or was silent for `IDLE_S` by the capture's clock. The same two limits split a flow whose ports were used again without
a SYN in the capture, so the outcome does not depend on where the windows of the capture happen to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..capture.packets import ACK, FIN, RST, SYN, PacketTable

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# After both FINs a lost last ACK makes the peer send its FIN again after one RTO (at least 200 ms, mostly under 1 s).
LINGER_S = 2.0
# Longer than the longest silence of a live SMTP session: 10 minutes at the end of data (RFC 5321 4.5.3.2.6), and than
# the longest gap between two resends (120 s on Linux and BSD).
IDLE_S = 1200.0


@dataclass(slots=True)
class Group:
    """Connections that are over, many at a time.

    `table` has n rows sorted by connection, then direction (client's packets first), then capture order.
    Connection k owns rows first[k]:first[k+1]; the server's packets begin at middle[k]. `born` is the capture order of a
    connection's first packet (capture id, frame), by which ids are given.
    """

    table: PacketTable
    first: Ints  # (k + 1,)
    middle: Ints  # (k,)
    client_known: Bools  # (k,) the SYN or SYN-ACK told who opened it

    def __len__(self) -> int:
        return len(self.middle)


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


class Tracker:
    """Holds the packets of open connections; gives back the connections that are over."""

    def __init__(self, server_ports: frozenset[int] = frozenset({25, 465, 587, 2525})) -> None:
        self.server_ports = server_ports
        self._held: PacketTable = PacketTable.empty()

    def add(self, packets: PacketTable, clock_ns: int | None) -> Group:
        """Take one window's packets; return the connections that are over by `clock_ns` (the window's end)."""
        return self._split(PacketTable.concat([self._held, packets]), clock_ns)

    def finish(self) -> Group:
        """All connections that are still held."""
        return self._split(self._held, None)

    def _split(self, table: PacketTable, clock_ns: int | None) -> Group:
        if not len(table):
            return Group(table, np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        key, swapped = _flow_keys(table)
        order = np.argsort(key, kind="stable")
        key, swapped = key[order], swapped[order]
        new = np.empty(len(order), bool)
        new[0] = True
        np.not_equal(key[1:], key[:-1], out=new[1:])
        self._split_flows(table, order, swapped, new)
        conn = np.cumsum(new) - 1
        first = np.append(np.flatnonzero(new), len(order))
        client, known = self._clients(table, order, swapped, conn, first)
        if clock_ns is not None:
            over = self._is_over(table, order, swapped, first, clock_ns)
            keep = np.repeat(~over, np.diff(first))
            self._held = table[np.sort(order[keep])].detach() if keep.any() else PacketTable.empty()
            drop = ~keep
            order, swapped = order[drop], swapped[drop]
            count = np.diff(first)[over]
            first = np.concatenate(([0], np.cumsum(count)))
            client, known = client[over], known[over]
            conn = np.repeat(np.arange(len(count)), count)
        else:
            self._held = PacketTable.empty()
        from_server = swapped != client[conn]
        by_direction = np.argsort(conn * 2 + from_server, kind="stable")
        to_server = np.add.reduceat(~from_server, first[:-1]) if len(client) else np.empty(0, np.int64)
        return Group(table[order[by_direction]], first, first[:-1] + to_server, known)

    def _split_flows(self, t: PacketTable, order: Ints, swapped: Bools, new: Bools) -> None:
        """Mark in `new` where a flow's ports were used again: a SYN with another ISN, or a packet long after the close."""
        flags, seq, time = t.flags[order], t.seq[order], t.time_ns[order]
        # SYN of either kind whose ISN differs from the last SYN of the same side in this flow
        syn = np.flatnonzero(flags & SYN)
        last: dict[tuple[int, bool], int] = {}
        flow = np.cumsum(new)
        for i in syn.tolist():
            side = (int(flow[i]), bool(swapped[i]))
            isn = int(seq[i])
            # another ISN; or a first SYN in mid-flow, when the capture began inside the previous connection
            if not flags[i] & ACK and (
                last[side] != isn if side in last else not new[i] and not _only_syn_before(flags, new, i)
            ):
                new[i] = True
            last[side] = isn
        gap = np.zeros(len(order), np.int64)
        gap[1:] = time[1:] - time[:-1]
        for i in np.flatnonzero((gap > LINGER_S * 1e9) & ~new).tolist():
            if gap[i] > IDLE_S * 1e9:
                new[i] = True
                continue
            start = i - 1
            while not new[start]:
                start -= 1
            rows = slice(start, i)
            if _closed_in_order(t[order[rows]], swapped[rows], np.array([0, i - start]))[0]:
                new[i] = True

    def _clients(self, t: PacketTable, order: Ints, swapped: Bools, conn: Ints, first: Ints) -> tuple[Bools, Bools]:
        """Per connection: does the client's side run `swapped`; and is that known from the handshake."""
        flags = t.flags[order]
        client = np.zeros(len(first) - 1, bool)
        known = np.zeros(len(first) - 1, bool)
        sport, dport = t.src_port[order[first[:-1]]], t.dst_port[order[first[:-1]]]
        row_swapped = swapped[first[:-1]]
        served = np.zeros(65536, bool)
        served[list(self.server_ports)] = True
        # the first packet goes to the server if its destination port is served, or is the lower one
        to_server = (served[dport] & ~served[sport]) | ((served[dport] == served[sport]) & (dport < sport))
        client[:] = np.where(to_server, row_swapped, ~row_swapped)
        syn = np.flatnonzero(flags & SYN)[::-1]  # the earliest wins
        pure = (flags[syn] & ACK) == 0
        client[conn[syn]] = np.where(pure, swapped[syn], ~swapped[syn])
        known[conn[syn]] = True
        return client, known

    def _is_over(self, t: PacketTable, order: Ints, swapped: Bools, first: Ints, clock_ns: int) -> Bools:
        quiet = clock_ns - t.time_ns[order[first[1:] - 1]]
        over: Bools = quiet > IDLE_S * 1e9
        over |= (quiet > LINGER_S * 1e9) & _closed_in_order(t[order], swapped, first)
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


def _closed_in_order(t: PacketTable, swapped: Bools, first: Ints) -> Bools:
    """Per connection (rows first[k]:first[k+1] of `t`): both sides sent a FIN and the last ACK of the other covers it.

    A FIN behind lost data does not close a connection: the data is still being sent again (RFC 9293 section 3.6).
    """
    n = len(t)
    rows = np.arange(n)

    def last(mask: Bools) -> Ints:
        found: Ints = np.maximum.reduceat(np.where(mask, rows, -1), first[:-1])
        return found

    fin = (t.flags & FIN) != 0
    acks = (t.flags & ACK) != 0
    fin_end = (t.seq.astype(np.int64) + t.payload_bytes + 1) & 0xFFFFFFFF
    closed = np.ones(len(first) - 1, bool)
    for side, other in ((swapped, ~swapped), (~swapped, swapped)):
        f, a = last(fin & side), last(acks & other)
        closed &= (f >= 0) & (a >= 0) & (fin_end[f] == t.ack[a])
    return closed
