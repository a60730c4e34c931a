"""Connections to which nothing odd happened, many at a time, without an object for each.

`path_mtu.examine` looks at one direction of one connection and weighs what it sees. For nine connections of ten there is
nothing to weigh: both handshakes were seen, what was sent was all acknowledged, whatever was lost or overtaken on the way.
What `examine` would say of these follows from columns, and `survey` says it for a whole group of connections at once
(but for bytes that the capture missed, or that were sent three times). Whatever is not plain goes the long way; the two
give equal cases (tests/detect/test_regular.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.packets import FIN, RST, SYN, PacketTable
from .connections import Bools, Ints
from .delivery import NOT_ACK, Delivery, sack_blocks
from .path_mtu import INITIAL_TTLS, REORDERING_S, SAME_SIZE_BYTES, UNCUT_BYTES, UNHEARD_SENDS, At

_FAR = np.int64(1) << 44  # keeps directions apart in columns that run over all of them (see delivery)
NEVER = np.iinfo(np.int64).max  # a time that did not come
AT: tuple[At, ...] = ("unknown", "at_sender", "middle", "at_receiver")
UNKNOWN, AT_SENDER, MIDDLE, AT_RECEIVER = range(4)
DELIVERED, LOST, UNDECIDED, DELIVERED_DF_OFF, JOINED = range(5)
# A hole that stood as long is evidence to be weighed: see paths.BRIEF_HOLE_S.
LONG_HOLE_NS = 1_000_000_000


class Sizes(NamedTuple):
    """How IP packets of one size fared in one direction: one row per direction, fate and size; times of sending."""

    direction: Ints
    fate: Ints
    ip_bytes: Ints  # of a full packet, where the fate is JOINED
    packets: Ints
    first_ns: Ints
    last_ns: Ints


class Survey(NamedTuple):
    """Facts of a group's regular connections; columns of connections have shape (k,), of directions (2k,)."""

    delivery: Delivery
    regular: Bools  # (k,)
    whole: Bools  # (k,) all bytes are in the capture
    more: Bools  # (2k,) there is more to say: some bytes are missing, or were sent three times (path_mtu.examine_more)
    at: npt.NDArray[np.int8]  # (2k,) where the capture was taken, seen from that direction's data; number in AT
    start_ns: Ints
    end_ns: Ints
    closed_by: Ints  # (k,) number in CLOSED_BY
    client_gone_ns: Ints  # (k,) NEVER if it did not go
    handshake_ns: tuple[Ints, Ints, Ints]  # (k,) each: last SYN, first SYN-ACK, first ACK
    sent_segments: Ints  # (2k,)
    lost_segments: Ints  # (2k,)
    lost_joined: Ints  # (2k,) of these: frames that offload may have joined
    delayed_ns: Ints  # (2k,)
    df_on: Ints  # (2k,)
    df_off: Ints  # (2k,)
    mss: Ints  # (2k,) announced by that side; 0 when it announced none
    wire_limit: Ints  # (2k,) largest IP packet of that side: what is longer was joined by offload
    sizes: Sizes
    fresh: (
        Ints  # rows that carry bytes for the first time, of `whole` regular connections; by direction, in stream order
    )
    again: Ints  # rows that carry bytes once more, in capture order


# A packet that came again holds the beginnings of two or three, itself among them; of 64 KB, joined by offload, of some
# dozen. Directions with more than this for each of their packets were made on purpose: what is kept grows with it.
MOST_PAIRS = 8
# Of pieces that share bytes and were cut anew so many at most are compared with each other.
MOST_COMPARED = 64

CLOSED_BY = ("client-fin", "client-rst", "server-fin", "server-rst", "open")


def survey(delivery: Delivery, odd: Bools) -> Survey:
    """Which connections of a group are regular, and their facts. odd: (k,) those that something else speaks against."""
    return _Surveying(delivery).run(odd)


class _Surveying:
    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.table: PacketTable = delivery.group.table
        self.bounds = delivery.bounds
        self.dirs = len(delivery.bounds) - 1
        self.direction = np.repeat(np.arange(self.dirs), np.diff(delivery.bounds))
        self.shift = self.direction * _FAR
        flags = self.table.flags
        self.syn, self.leaving = (flags & SYN) != 0, (flags & (FIN | RST)) != 0
        self.data = self.table.payload_bytes > 0
        self.place = delivery.seq + self.shift  # of a row's first byte, or where it would be

    def run(self, odd: Bools) -> Survey:
        k = len(self.delivery.group)
        both_sides = np.diff(self.bounds).reshape(k, 2).min(axis=1) > 0
        odd_direction = self.count(self._odd_rows()) > 0
        odd_direction |= ~self.delivery.based | self._unsettled()
        mss = self._first(self.syn, self.table.mss.astype(np.int64), 0)
        odd_direction |= self._offload(mss)
        self._lay_out()
        odd_direction[self.direction[self.odd_pieces]] = True
        odd_direction |= self.thrice & self._unheard()
        odd_direction |= self._sacks_outside()
        ttl, constant = self._constant(self.table.ttl)
        outgoing, same_way = self._constant(self.table.outgoing)
        odd_direction |= ~constant | ~same_way
        handshake = self._handshake()
        regular = ~odd & both_sides & ~odd_direction.reshape(k, 2).any(axis=1)
        regular &= (handshake[0] != NEVER) & (handshake[1] != NEVER) & (handshake[2] != NEVER)
        self.regular_row = regular[self.direction >> 1]
        whole = ~(self.gapped[0::2] | self.gapped[1::2])
        at = self._vantage(ttl, outgoing, handshake)
        time = self.table.time_ns
        heads = np.minimum(self.bounds[:-1], max(len(self.table) - 1, 0)).reshape(k, 2)
        tails = np.maximum(self.bounds[1:] - 1, 0).reshape(k, 2)
        gone = [self._first((self.table.flags & flag) != 0, time, NEVER).reshape(k, 2) for flag in (FIN, RST)]
        leavings = np.stack((gone[0][:, 0], gone[1][:, 0], gone[0][:, 1], gone[1][:, 1]), axis=1)
        closed_by = np.where(leavings.min(axis=1) == NEVER, 4, leavings.argmin(axis=1))
        lost, lost_joined, delayed = self._losses(at, mss)
        sent, df_on = self.count(self.data), self.count(self.data & self.table.df)
        return Survey(
            delivery=self.delivery,
            regular=regular,
            whole=whole,
            more=self.thrice | self.gapped,
            at=at,
            start_ns=time[heads].min(axis=1),
            end_ns=time[tails].max(axis=1),
            closed_by=closed_by,
            client_gone_ns=leavings[:, :2].min(axis=1),
            handshake_ns=handshake,
            sent_segments=sent,
            lost_segments=lost,
            lost_joined=lost_joined,
            delayed_ns=delayed,
            df_on=df_on,
            df_off=sent - df_on,
            mss=mss,
            wire_limit=self.wire_limit,
            sizes=self._sizes(at),
            fresh=self.fresh[(regular & whole)[self.direction[self.fresh] >> 1]],
            again=np.sort(self.again),
        )

    # ------------------------------------------------------------ helpers: rows -> directions

    def count(self, mask: Bools) -> Ints:
        """Per direction: rows for which `mask` holds."""
        return np.bincount(self.direction[mask], minlength=self.dirs)

    def _first(self, mask: Bools, values: npt.NDArray[np.int64], default: int) -> Ints:
        """Per direction: the value at its first row for which `mask` holds."""
        out = np.full(self.dirs, default, np.int64)
        rows = np.flatnonzero(mask)[::-1]
        out[self.direction[rows]] = values[rows]  # the earliest wins: later assignments overwrite
        return out

    def _constant(self, column: npt.NDArray[np.generic]) -> tuple[Ints, Bools]:
        """Per direction: the value at its first row, and whether all rows have it."""
        heads = np.minimum(self.bounds[:-1], max(len(column) - 1, 0))
        value = column[heads].astype(np.int64)
        return value, self.count(column != value[self.direction]) == 0

    def _header(self) -> Ints:
        heads = np.minimum(self.bounds[:-1], max(len(self.table) - 1, 0))
        return np.where(self.table.ip_version[heads] == 4, 40, 60)

    # ------------------------------------------------------------ what is not plain

    def _odd_rows(self) -> Bools:
        """Bytes before the beginning, cut off or in fragments; a shut window; time that runs backwards."""
        t, d = self.table, self.delivery
        odd: Bools = self.data & ((d.seq < 0) | self.syn | (t.payload_captured != t.payload_bytes))
        odd |= (t.fragments > 0) | d.duplicate
        odd |= (t.window == 0) & ((t.flags & (SYN | RST)) == 0)
        odd[1:] |= (t.time_ns[1:] < t.time_ns[:-1]) & (self.direction[1:] == self.direction[:-1])
        return odd

    def _unsettled(self) -> Bools:
        """Not all that was sent was acknowledged; or more was acknowledged, or counted, than was sent."""
        d = self.delivery
        open_ = (d.acked < d.sent) | (d.acked > d.sent + 1)
        beyond = ((self.table.flags & (SYN | RST)) == 0) & (d.seq > d.acked[self.direction])
        unsettled: Bools = open_ | (self.count(beyond) > 0)
        return unsettled

    def _unheard(self) -> Bools:
        """Directions that went on for so long after the peer's last word that it may be gone: see path_mtu._stuck_at."""
        last = self.table.time_ns[np.maximum(self.bounds[1:] - 1, 0)][np.arange(self.dirs) ^ 1]
        unheard: Bools = self.count(self.data & (self.table.time_ns > last[self.direction])) >= UNHEARD_SENDS
        return unheard

    def _lay_out(self) -> None:
        """The pieces of each stream side by side: `fresh` rows carry its bytes for the first time, in stream order.

        Regular pieces tile the stream, but for what the capture missed (`gapped`). What was sent `again` may have been cut
        anew, and any number of times, but holds no byte that is new. Behind a loss or a detour `late` rows fill a hole.
        What is none of that ends in `odd_pieces`.
        """
        rows = np.flatnonzero(self.data)
        start = self.place[rows]
        stop = start + self.table.payload_bytes[rows]
        top = np.maximum.accumulate(stop)
        before = np.maximum(np.append(0, top[:-1]), self.shift[rows])
        disorder = np.zeros(self.dirs, bool)
        disorder[self.direction[rows[start > before]]] = True
        first = start == before
        partly = rows[(start < before) & (stop > before)]
        odd = [partly[~disorder[self.direction[partly]]]]
        self.gapped, self.late = np.zeros(self.dirs, bool), np.empty(0, np.int64)
        if disorder.any():
            out_of_order = np.flatnonzero(disorder[self.direction[rows]])
            some = out_of_order[np.argsort(start[out_of_order], kind="stable")]
            first[some], neither = _first_carriers(some, start[some], stop[some])
            odd.append(rows[some[neither]])
            some = some[first[some]]
            tiles = rows[some]
            begins = np.ones(len(tiles), bool)
            begins[1:] = self.direction[tiles[1:]] != self.direction[tiles[:-1]]
            apart = start[some] != np.where(begins, self.shift[tiles], np.append(0, stop[some][:-1]))
            odd.append(tiles[apart & begins])
            self.gapped[self.direction[tiles[apart]]] = True
            late = out_of_order[first[out_of_order] & (start[out_of_order] < before[out_of_order])]
            self.late = rows[late]
            self.beyond = rows[np.searchsorted(top, start[late], side="right")]
        self.fresh = rows[first]
        if disorder.any():
            self.fresh = self.fresh[np.argsort(start[first], kind="stable")]
        self.again = rows[~first]
        odd += [self._sent_again(), self._long_holes()]
        odd.append(self.again[self.table.payload_bytes[self.again] == 1])  # keep-alives and window probes
        self.odd_pieces = np.concatenate(odd)

    def _sent_again(self) -> Ints:
        """Which rows were sent in vain (`superseded`: a later one carries their first byte), and in which directions some
        bytes were sent `thrice`. Returns the rows that make it odd.

        Each row of `again` is paired with the rows that begin in it.
        """
        t, again = self.table, self.again
        self.superseded, self.thrice = np.zeros(len(t), bool), np.zeros(self.dirs, bool)
        if not len(again):
            return np.empty(0, np.int64)
        start = self.place[again]
        stop = start + t.payload_bytes[again]
        by_place = np.argsort(start, kind="stable")
        overlapping = start[by_place][1:] < np.maximum.accumulate(stop[by_place])[:-1]
        self.thrice[self.direction[again[by_place[1:]][overlapping]]] = True
        rows = np.flatnonzero(self.data)
        place = self.place[rows]
        order = np.argsort(place, kind="stable")
        place = place[order]
        begin = np.searchsorted(place, start)
        count = np.searchsorted(place, stop) - begin
        own = self.direction[again]
        too_many = (np.bincount(own, count, self.dirs) > MOST_PAIRS * self.count(self.data))[own]
        count[too_many] = 0
        at = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        row, later = rows[order[at]], np.repeat(again, count)
        earlier = row < later
        row, later = row[earlier], later[earlier]
        carrier = np.full(len(t), len(t))  # the next row that carries its first byte
        np.minimum.at(carrier, row, later)
        lost = np.flatnonzero(carrier < len(t))
        self.superseded[lost] = True
        # what came again in a smaller packet may have been too big: that is for path_mtu to weigh
        cover = carrier[lost]
        smaller = self.offloaded[cover] | (t.ip_bytes[cover] < t.ip_bytes[lost] - SAME_SIZE_BYTES)
        odd: Ints = np.concatenate((again[too_many], lost[smaller & self.single[lost]]))
        return odd

    def _long_holes(self) -> Ints:
        """Rows that came late, a second or more after something (an ACK alone, maybe) pointed beyond them."""
        t, d = self.table, self.delivery
        reach = d.end + self.shift
        silent = np.flatnonzero(((t.flags & (SYN | RST)) != 0) & ~self.data)
        reach[silent] = self.shift[silent]
        reach = np.maximum.accumulate(reach)
        # only where something pointed beyond a row before it came
        late = self.fresh[np.append(0, reach[:-1])[self.fresh] > self.place[self.fresh]]
        beyond = np.searchsorted(reach, self.place[late], side="right")
        long: Ints = late[t.time_ns[late] - t.time_ns[beyond] >= LONG_HOLE_NS]
        return long

    def _sacks_outside(self) -> Bools:
        """Directions whose SACK blocks lie outside of what the peer sent; counts D-SACKs on the way (`needless`)."""
        t, d = self.table, self.delivery
        row, first, left, right, duplicate = sack_blocks(t, d.ack)
        peer = self.direction[row] ^ 1
        told = first & (right <= d.ack[row]) & (left >= 0)
        self.needless = np.bincount(peer[told], minlength=self.dirs)
        end = np.maximum(d.sent, np.maximum(d.acked, 0))[peer] + 1
        outside = ~duplicate & (left < right) & ((left < 0) | (right > end))
        directions: Bools = np.bincount(self.direction[row[outside]], minlength=self.dirs) > 0
        return directions

    def _offload(self, mss: Ints) -> Bools:
        """Which rows are longer than the wire allows: `offloaded`; of these, which are full packets joined: `joined`; and
        which are one packet on the wire: `single`. See path_mtu._largest_single and _joined.

        Returns the directions for which columns do not tell.
        """
        t, peer = self.table, np.arange(self.dirs) ^ 1
        self.wire_limit = np.where(mss > 0, mss + self._header(), 1500)[peer]
        self.offloaded = t.ip_bytes > self.wire_limit[self.direction]
        self.single, self.joined = ~self.offloaded, self.offloaded
        odd = self._may_hide_joined_frames()
        if self.offloaded.any():
            offers = np.where(mss > 0, mss, mss[peer])
            offer = np.minimum(offers, offers[peer])
            self.full_packet = offer + self._header()
            full = offer - np.where(self.count(t.has_ts) > 0, 12, 0)  # its payload: see path_mtu._full_segment
            of_data = self.offloaded & self.data
            self.joined = of_data & (t.payload_bytes % np.maximum(full, 1)[self.direction] == 0)
            # with a segment size below the MSS joined frames hide below the limit as well
            hidden = 2 * self.count(self.joined) < self.count(of_data)
            self.single &= ~hidden[self.direction] | (t.ip_bytes <= UNCUT_BYTES)
            odd &= ~hidden
            odd |= (self.count(self.offloaded) > 0) & ((mss[peer] == 0) | (full < 1))
        return odd

    def _may_hide_joined_frames(self) -> Bools:
        """Directions with a size whose multiples occur as well, all within the limit."""
        payload = np.where(self.offloaded, 0, self.table.payload_bytes)
        largest = np.zeros(self.dirs, np.int64)
        filled = np.diff(self.bounds) > 0
        largest[filled] = np.maximum.reduceat(payload, self.bounds[:-1][filled])
        rows = np.flatnonzero(payload >= 256)
        rows = rows[2 * payload[rows] <= largest[self.direction[rows]]]
        key, count = np.unique((self.direction[rows] << 32) + payload[rows], return_counts=True)
        out = np.zeros(self.dirs, bool)
        for number in key[count >= 2].tolist():
            direction, size = number >> 32, number & 0xFFFFFFFF
            sizes = payload[self.bounds[direction] : self.bounds[direction + 1]]
            out[direction] |= bool(((sizes > size) & (sizes % size == 0)).any())
        return out

    # ------------------------------------------------------------ what `examine` would say

    def _handshake(self) -> tuple[Ints, Ints, Ints]:
        """See Trace.handshake_times_ns; NEVER where it is not known."""
        time, k = self.table.time_ns, self.dirs // 2
        from_client = (self.direction & 1) == 0
        answered = self._first(self.syn, time, NEVER)[1::2]
        asked = np.full(k, NEVER)
        rows = np.flatnonzero(self.syn & from_client)
        rows = rows[time[rows] <= answered[self.direction[rows] >> 1]]
        asked[self.direction[rows] >> 1] = time[rows]  # the last one wins
        later = from_client & ((self.table.flags & (SYN | RST)) == 0) & (time >= answered[self.direction >> 1])
        return asked, answered, self._first(later, time, NEVER)[0::2]

    def _vantage(self, ttl: Ints, outgoing: Ints, handshake: tuple[Ints, Ints, Ints]) -> npt.NDArray[np.int8]:
        """See path_mtu.capture_point; the later answers are overwritten by the earlier ones."""
        initial = np.array(INITIAL_TTLS)
        hops = initial[np.minimum(np.searchsorted(initial, ttl), len(initial) - 1)] - ttl
        ch, sh = hops[0::2], hops[1::2]
        there, back = handshake[1] - handshake[0], handshake[2] - handshake[1]
        near = np.full(len(ch), UNKNOWN, np.int8)
        offloads = self.count(self.offloaded) > 0
        near[offloads[0::2] & ~offloads[1::2]] = AT_SENDER
        near[(back > 4 * there) & (back > 200_000)] = AT_RECEIVER
        near[(there > 4 * back) & (there > 200_000)] = AT_SENDER
        near[(ch > 0) & (sh > 0)] = MIDDLE
        near[(sh == 0) & (ch > 0)] = AT_RECEIVER
        near[(ch == 0) & (sh > 0)] = AT_SENDER
        near[(outgoing[1::2] == 1) & (outgoing[0::2] < 1)] = AT_RECEIVER
        near[(outgoing[0::2] == 1) & (outgoing[1::2] < 1)] = AT_SENDER
        both = np.empty(self.dirs, np.int8)
        both[0::2] = near
        both[1::2] = np.array([UNKNOWN, AT_RECEIVER, MIDDLE, AT_SENDER], np.int8)[near]
        return both

    def _losses(self, at: npt.NDArray[np.int8], mss: Ints) -> tuple[Ints, Ints, Ints]:
        """Per direction: segments that were lost, how many of them may have been joined ones, and the longest time from
        a lost send to its acknowledgment."""
        t, d = self.table, self.delivery
        lost = np.maximum(self.count(self.superseded) - self.needless, 0)
        joined = self.count(self.superseded & ~self.single)
        delayed = np.zeros(self.dirs, np.int64)
        rows = np.flatnonzero(self.superseded & self.regular_row)
        if len(rows):
            acks = np.flatnonzero(d.ack != NOT_ACK)
            top = np.maximum.accumulate(d.ack[acks] + self.shift[acks])
            i = np.searchsorted(top, d.seq[rows] + (self.direction[rows] ^ 1) * _FAR, side="right")
            np.maximum.at(delayed, self.direction[rows], t.time_ns[acks[i]] - t.time_ns[rows])
        behind = at == AT_RECEIVER
        lost[behind] = joined[behind] = delayed[behind] = 0
        if len(self.late):
            # see path_mtu._late_fills
            late, beyond = self.late, self.beyond
            stood = t.time_ns[late] - t.time_ns[beyond]
            by_id = (t.ip_id[late] > 0) & (t.ip_id[beyond] > 0)
            by_ts = ~by_id & t.has_ts[late] & (t.ts_val[late] != t.ts_val[beyond])
            resent = np.where(by_ts, (t.ts_val[late] - t.ts_val[beyond]) < 0x80000000, stood > REORDERING_S * 1e9)
            resent = np.where(by_id, (t.ip_id[late] - t.ip_id[beyond]) < 0x8000, resent)
            offers = np.where(mss > 0, mss, NEVER)
            offer = np.minimum(offers[0::2], offers[1::2])[self.direction[late] >> 1]
            full = np.where(offer < NEVER, offer + np.where(t.ip_version[late] == 4, 40, 60), 0)
            hole = d.seq[beyond] - d.seq[late]
            resent &= (t.payload_bytes[late] >= hole) | (t.ip_bytes[late] >= full)
            resent &= behind[self.direction[late]]
            lost += np.bincount(self.direction[late[resent]], minlength=self.dirs)
            np.maximum.at(delayed, self.direction[late[resent]], stood[resent])
        return lost, joined, delayed

    def _sizes(self, at: npt.NDArray[np.int8]) -> Sizes:
        """The ledger of sizes: see path_mtu._sizes."""
        t, d = self.table, self.delivery
        joined = self.joined & d.sent_once
        rows = np.flatnonzero(self.data & self.regular_row & (self.single | joined))
        behind = at[self.direction[rows]] == AT_RECEIVER
        good = behind | (d.sent_once[rows] & t.df[rows])
        fate = np.where(d.sent_once[rows], DELIVERED_DF_OFF, np.where(self.superseded[rows], LOST, UNDECIDED))
        fate = np.where(good, DELIVERED, fate)
        size = t.ip_bytes[rows].astype(np.int64)
        joined = joined[rows]
        if joined.any():
            fate[joined] = JOINED
            size[joined] = self.full_packet[self.direction[rows[joined]]]
        key = ((self.direction[rows] * 8 + fate) << 24) + size
        order = np.argsort(key, kind="stable")
        key, rows = key[order], rows[order]
        new = np.ones(len(key), bool)
        new[1:] = key[1:] != key[:-1]
        first = np.flatnonzero(new)
        bounds = np.append(first, len(key))
        key = key[first]
        return Sizes(
            direction=key >> 27,
            fate=(key >> 24) & 7,
            ip_bytes=key & 0xFFFFFF,
            packets=np.diff(bounds),
            first_ns=t.time_ns[rows[first]],
            last_ns=t.time_ns[rows[bounds[1:] - 1]],
        )


def _first_carriers(rows: Ints, start: Ints, stop: Ints) -> tuple[Bools, Bools]:
    """Which of these pieces carry their bytes for the first time; and which carry some that are new and some that are not.

    rows: place in time of each piece; sorted by start, and in time where it is the same.
    """
    apart = np.ones(len(rows), bool)  # shares no byte with those before
    apart[1:] = start[1:] >= np.maximum.accumulate(stop)[:-1]
    first, neither = apart.copy(), np.zeros(len(rows), bool)
    anew = ~apart
    anew[1:] &= (start[1:] != start[:-1]) | (stop[1:] != stop[:-1])
    if anew.any():  # cut anew: one by one, in the order of time
        bounds = np.append(np.flatnonzero(apart), len(rows))
        for heap in np.unique(np.searchsorted(bounds, np.flatnonzero(anew), side="right") - 1).tolist():
            lo, hi = bounds[heap : heap + 2].tolist()
            if hi - lo > MOST_COMPARED:
                neither[lo:hi] = True
                continue
            pieces = zip(rows[lo:hi].tolist(), range(lo, hi), start[lo:hi].tolist(), stop[lo:hi].tolist(), strict=True)
            known: list[tuple[int, int]] = []
            for _, i, a, b in sorted(pieces):
                shared = sum(max(min(b, right) - max(a, left), 0) for left, right in known)
                first[i], neither[i] = not shared, 0 < shared < b - a
                if not shared:
                    known.append((a, b))
    return first, neither
