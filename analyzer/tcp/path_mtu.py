"""What the packets of one direction say about the path's MTU: sizes delivered and lost, ICMP judged, offload, vantage.

`examine` looks at one connection and direction and returns what was *seen* (`Sighting`); `detect.facts` words and
`detect.paths` weigh it together with the other connections between the same hosts.

Theory. A packet above the path MTU with DF set vanishes each time it is sent, smaller ones pass (RFC 2923 2.1). Seen
from before the narrow link: one byte range goes out again and again (RTO back-off, RFC 6298) while something smaller is
answered. Seen from behind it: a hole in the sequence space that nothing fills. A dead path looks the same by size; what
tells them apart is a small packet that provably passes after the first loss:

* SACK (RFC 2018) of a smaller segment beyond the hole;
* the peer sends its own last data again, gets our pure ACK, and stops: the ACK arrived;
* without SACK: duplicate ACKs, when smaller segments were sent beyond the hole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ..capture.packets import ACK, FIN, RST, SYN, IcmpError, address_text
from .connections import Ints
from .covers import next_carriers
from .delivery import ACKED, LOST, NOT_ACK, SACKED, Direction, Trace
from .streams import Stream

At = Literal["at_sender", "middle", "at_receiver", "unknown"]

# Two packets count as different in size when they differ by more than a change of TCP options can explain: a timestamp
# or SACK block appearing moves at most one 8-byte block between resends of the same bytes.
SAME_SIZE_BYTES = 8
# A sender still puts out at the old size what was queued below TCP when the ICMP arrived; one RTT and the smallest Linux
# RTO (200 ms) later every packet is a decision taken in its knowledge.
ICMP_GRACE_NS = 200_000_000
# RFC 1191 section 3: no IPv4 link has an MTU below 68; RFC 8200 section 5: none below 1280 for IPv6.
FLOOR = {4: 68, 6: 1280}
# Every link in use carries this (RFC 1122 3.3.2): a frame of this size was not joined from what had to be smaller.
UNCUT_BYTES = 576
# Without numbers that tell a resend from an overtaken packet: reordering on real paths stays below this (it comes from
# parallel links and queues), a resend needs a round trip or a time-out.
REORDERING_S = 0.02
# One round trip of a bad path: what left later may be acknowledged after the capture's end.
UNDER_WAY_NS = 1_000_000_000
# Interfaces and queues of one host hand their packets over in turn: what belongs together may be some milliseconds out of
# order in its capture.
DISORDER_NS = 10_000_000
# Each resend of bytes that had arrived is answered at once (RFC 9293 3.10.7.4): so many without an answer are no accident.
UNHEARD_SENDS = 3
# What a peer says while our data is stuck is a reply or two; of one that says more, so many of the last ones are followed.
PEER_SENDS = 100
INITIAL_TTLS = (64, 128, 255)  # Linux, BSD, macOS / Windows / Solaris, network gear


class Stuck(NamedTuple):
    """One byte range that was sent several times (rows of a Direction, in time order)."""

    seq: int
    rows: list[int]
    sizes: list[int]  # IP bytes on the wire of each send; an offloaded frame counts as a full packet
    first_ns: int
    last_ns: int
    acked_ns: int | None  # when the peer acknowledged its first byte
    lost_sizes: list[int]  # of the sends that are known to be lost
    passed_size: int | None  # of the send that got through (the last before the ACK)
    next_due_ns: int  # when the next resend was due: a capture that ends before proves less
    df_cleared: bool = False  # what got through allowed fragmentation, what was lost did not

    @property
    def ip_bytes(self) -> int:
        """The smallest size in which it was lost, more than once if any was: every larger one is lost for the same reason."""
        often = [size for size in self.lost_sizes if self.lost_sizes.count(size) > 1]
        return min(often or self.lost_sizes or self.sizes)

    @property
    def span_s(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9

    @property
    def shrank(self) -> bool:
        """It passed in the end, and only after the sender had cut it smaller, or allowed the routers to do so."""
        return self.df_cleared or (
            self.passed_size is not None
            and bool(self.lost_sizes)
            and self.passed_size < min(self.lost_sizes) - SAME_SIZE_BYTES
        )


class Hole(NamedTuple):
    """Bytes that never came by here, at the receiver's ACK, with proof that later bytes exist."""

    seq: int
    bytes: int  # length as far as known
    since_ns: int
    until_ns: int
    later: Literal["bytes", "jumped-ack"]
    later_rows: list[int]
    filled_ns: int | None
    fill_sizes: list[int]
    fits_segments: bool
    segments: int | None  # how many full ones fit into it
    lost_ip_bytes: int  # no lost packet was larger than this; the full size when the hole is full segments
    peer_resend_answered: bool | None
    size_known: bool  # the handshake bounds `lost_ip_bytes`, or the hole itself does; else it is Ethernet's usual size

    @property
    def s(self) -> float:
        return (self.until_ns - self.since_ns) / 1e9


class IcmpSighting(NamedTuple):
    """An ICMP "too big" about this direction, judged as a host should judge it (RFC 5927 4.1, RFC 1191, RFC 8201)."""

    error: IcmpError
    suspicion: str | None  # None = to be believed
    resends_above: list[int]  # rows: quoted bytes sent again above the MTU, later than RTT + 200 ms
    shrank: bool
    went_on: bool


class Passed(NamedTuple):
    """A packet that got through after a given time, and how that is known."""

    size: int
    how: Literal["sack", "ack", "peer-resend-stopped", "new-data"]
    time_ns: int  # when it was sent
    rows: list[int]
    of_peer: bool = False  # the rows belong to the peer's direction


@dataclass
class Sighting:
    """All that one connection shows about one direction."""

    direction: Direction
    at: At
    stuck: list[Stuck] = field(default_factory=list)
    hole: Hole | None = None
    icmp: list[IcmpSighting] = field(default_factory=list)
    small_passed: list[Passed] = field(default_factory=list)  # after the main stuck range was first sent
    small_failed: list[tuple[int, list[int]]] = field(default_factory=list)  # (size, rows)
    peer_resends: int = 0  # of the peer's last data, after the first loss
    peer_silent: bool = False  # nothing at all from the peer after the first loss
    peer_owes_word: bool = False  # although over a narrow path it would have had to send again
    delivered: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # size -> (count, first sent, last sent)
    lost: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    undecided: dict[int, int] = field(default_factory=dict)
    joined: dict[int, tuple[int, int, int]] = field(
        default_factory=dict
    )  # full packets inside acknowledged offloaded frames
    delivered_df_off: dict[int, tuple[int, int, int]] = field(
        default_factory=dict
    )  # somehow: routers may have cut them
    cut: dict[int, int] = field(default_factory=dict)  # size -> how many lost ones came again in smaller packets
    cut_ns: dict[int, int] = field(default_factory=dict)  # size -> when the last of them was sent
    sent_segments: int = 0
    lost_segments: int = 0
    lost_joined: int = 0  # of these: frames that the ledger of sizes leaves out, since offload may have joined them
    delayed_s: float = 0.0  # longest time from first send to acknowledgment, of resent bytes
    ack_past_hole: int = 0  # bytes that were acknowledged and are not in the capture
    sack_outside: int = 0
    bad_checksums: list[int] = field(default_factory=list)
    window_shut: bool = False
    window_scaling_broken: bool = False
    reordered: bool = False
    capture_end_ns: int = 0

    @property
    def main(self) -> Stuck | None:
        """The stuck range with the strongest evidence: unresolved before resolved, more sends before fewer."""
        return max(self.stuck, key=lambda s: (s.acked_ns is None, len(s.rows)), default=None)


def hops(ttls: np.ndarray) -> int | None:
    """Routers passed, from the TTL and the nearest initial value at or above it (None without packets)."""
    if not len(ttls):
        return None
    ttl = int(np.bincount(ttls).argmax())
    return min(i - ttl for i in INITIAL_TTLS if i >= ttl)


def _hops_of(d: Direction) -> int | None:
    """A router captured on all its interfaces shows each packet twice: the copy it sent on tells that it is a router."""
    return hops(d.table.ttl[d.duplicate] if d.duplicate.any() else d.table.ttl)


def capture_point(trace: Trace) -> tuple[At, At]:
    """Where the capture was taken, seen from the client's data and from the server's data.

    TTL first (no router between a host and the capture leaves the initial value); for two hosts without a router between
    them the capturing host's own marks (packet type of Linux cooked capture), frames longer than the wire allows
    (outgoing TSO), and the handshake's timing.
    """
    c, s = trace.c2s, trace.s2c
    near_client: tuple[At, At] = ("at_sender", "at_receiver")
    near_server: tuple[At, At] = ("at_receiver", "at_sender")
    for own, label in ((c, near_client), (s, near_server)):
        other = s if own is c else c
        out = own.table.outgoing[own.table.outgoing >= 0]
        back = other.table.outgoing[other.table.outgoing >= 0]
        if len(out) and out.all() and not (len(back) and back.any()):
            return label
    ch, sh = _hops_of(c), _hops_of(s)
    if ch is None or sh is None:
        seen = ch if ch is not None else sh
        if seen is None or seen != 0:
            return "unknown", "unknown"
        return near_client if ch == 0 else near_server
    if ch == 0 and sh > 0:
        return near_client
    if sh == 0 and ch > 0:
        return near_server
    if ch > 0 and sh > 0:
        return "middle", "middle"
    times = trace.handshake_times_ns
    if times:
        there, back_ns = times[1] - times[0], times[2] - times[1]
        # who answers at once is near; 4 : 1 keeps a busy host's scheduling delay from deciding
        if there > 4 * back_ns and there > 200_000:
            return near_client
        if back_ns > 4 * there and back_ns > 200_000:
            return near_server
    if c.offloaded.any() and not s.offloaded.any() and c.based:
        return near_client
    return "unknown", "unknown"


def _covering(d: Direction, seq: int) -> list[int]:
    rows: list[int] = np.flatnonzero(d.data & (d.seq <= seq) & (d.end > seq)).tolist()
    return rows


def _wire_size(d: Direction, row: int, seq: int) -> int:
    """IP bytes of the packet on the wire that carried byte `seq` of this row.

    An offloaded frame is cut by the network card at multiples of the segment size from its beginning; the last piece is
    what remains.
    """
    size = int(d.ip_bytes[row])
    limit = d.wire_limit
    if limit is None or size <= limit:
        return size
    header = size - int(d.payload_bytes[row])
    segment = max(limit - header, 1)
    start = int(d.seq[row]) + (seq - int(d.seq[row])) // segment * segment
    return min(segment, int(d.end[row]) - start) + header


def _acked_times(d: Direction) -> tuple[Ints, Ints]:
    """The peer's cumulative acknowledgment over time: (time_ns, highest ack so far), in capture order."""
    rows = np.flatnonzero(d.peer.ack != NOT_ACK)
    return d.peer.time_ns[rows], np.maximum.accumulate(d.peer.ack[rows]) if len(rows) else d.peer.ack[rows]


def _first_ack_above(times: Ints, top: Ints, seq: int) -> int | None:
    i = int(np.searchsorted(top, seq, side="right"))
    return int(times[i]) if i < len(top) else None


def _stuck_at(d: Direction, seq: int, times: Ints, top: Ints, capture_end_ns: int) -> Stuck | None:
    rows = _covering(d, seq)
    if len(rows) < 2:
        return None
    acked_ns = _first_ack_above(times, top, seq)
    if acked_ns is not None and (d.time_ns[rows] > d.peer.time_ns[-1]).sum() >= UNHEARD_SENDS:
        acked_ns = None  # seen here, but the sender goes on as if it had not come, and nobody answers any more
    if acked_ns is not None:
        rows = [r for r in rows if d.time_ns[r] <= acked_ns] or rows[:1]
    sizes = [_wire_size(d, r, seq) for r in rows]
    sent_at = [int(d.time_ns[r]) for r in rows]
    passed = sizes[-1] if acked_ns is not None else None
    # the last one passed; or, if it left just before the capture ends, nobody knows
    open_end = acked_ns is not None or sent_at[-1] > capture_end_ns - UNDER_WAY_NS
    lost = sizes[:-1] if open_end else sizes
    last_gap = sent_at[-1] - sent_at[-2] if len(rows) > 1 else 200_000_000
    due_ns = sent_at[-1] + 2 * max(last_gap, 200_000_000)
    df_cleared = acked_ns is not None and bool(d.df[rows[0]]) and not d.df[rows[-1]]
    return Stuck(seq, rows, sizes, sent_at[0], sent_at[-1], acked_ns, lost, passed, due_ns, df_cleared)


def _find_stuck(d: Direction, capture_end_ns: int) -> list[Stuck]:
    """Ranges sent at least three times, and the one at the receiver's last ACK if it was sent at least twice."""
    times, top = _acked_times(d)
    resent = d.seq[d.resend]
    if not len(resent):
        return []
    starts, count = np.unique(resent, return_counts=True)
    # re-cut resends begin elsewhere: every start counts that is covered often enough; at most the 16 most resent
    candidates = starts[np.argsort(-count, kind="stable")][:16].tolist()
    if d.acked is not None and d.acked < d.sent:
        candidates.insert(0, d.acked)
    found: dict[tuple[int, ...], Stuck] = {}
    sent = np.flatnonzero(d.data)
    at = np.array(candidates)[:, None]
    sends = ((d.seq[sent] <= at) & (d.end[sent] > at)).sum(axis=1).tolist()
    for seq, often in zip(candidates, sends, strict=True):
        if often < 3 and seq != d.acked:
            continue
        if not len(top) and d.acked is not None and seq < d.acked:
            continue  # the sender went on: somebody must have acknowledged it
        stuck = _stuck_at(d, seq, times, top, capture_end_ns)
        if stuck is None:
            continue
        if stuck.acked_ns is None and len(top):
            # sent again since it is the first missing byte; if not, its turn is still to come (a first ACK that is already
            # there tells nothing of when it was reached)
            i = int(np.searchsorted(top, seq, side="left"))
            if (i or d.based) and stuck.last_ns < int(times[min(i, len(times) - 1)]):
                continue
        if len(stuck.rows) >= 3 or (seq == d.acked and len(stuck.rows) >= 2):
            found.setdefault(tuple(stuck.rows), stuck)
    return list(found.values())


def _peer_resend_verdict(d: Direction, since_ns: int, end_ns: int) -> tuple[int, list[Passed], bool]:
    """What became of what the *peer* sent after `since_ns`: (times it sent its last data again, proof that our ACK
    arrived, proof that our ACKs die)."""
    p = d.peer
    talk = np.flatnonzero(((p.data) | ((p.flags & FIN) != 0)) & (p.time_ns > since_ns) & ~p.duplicate)
    if not len(talk):
        return 0, [], False
    proofs: list[Passed] = []
    resends = 0
    failed = False
    need = p.end + ((p.flags & FIN) != 0)
    before = np.flatnonzero(p.data & (p.time_ns <= since_ns))
    for seq in sorted(set(p.seq[talk].tolist()))[-PEER_SENDS:]:
        same, earlier = talk[p.seq[talk] == seq], before[p.seq[before] == seq]
        again = len(same) if len(earlier) else len(same) - 1
        resends = max(resends, again)
        last = int(same[-1])
        acks, sent_ns = d.ack >= need[last], int(p.time_ns[last])
        if again >= 3:
            failed |= bool((acks & (d.time_ns < sent_ns)).any())
            continue
        small = np.flatnonzero(acks & (d.time_ns >= sent_ns) & (d.payload_bytes == 0))
        if not len(small):
            continue
        history = np.concatenate((earlier[-1:], same))
        gap = int(np.diff(p.time_ns[history]).max()) if len(history) > 1 else 200_000_000
        # the next resend would have come after twice the last interval (RFC 6298 5.5)
        if end_ns >= sent_ns + 2 * max(gap, 200_000_000):
            row = int(small[0])
            proofs.append(
                Passed(int(d.ip_bytes[row]), "peer-resend-stopped", int(d.time_ns[row]), [last], of_peer=True)
            )
    return resends, proofs, failed


def _sacked_passes(d: Direction, since_ns: int, until_ns: int, below: int) -> Iterator[Passed]:
    """Packets of less than `below` bytes, sent in this time, that a SACK vouches for; a part of an offloaded frame counts
    with its own length."""
    small = d.data & (d.time_ns >= since_ns) & (d.time_ns < until_ns) & ((d.ip_bytes < below) | d.offloaded)
    rows = np.flatnonzero(small).tolist()
    if not rows:
        return
    ranges = d.peer.sacked(since_ns)
    full = d.wire_limit
    if full is None:  # no handshake seen: single packets, resends above all, show how large one is
        single = d.ip_bytes[d.data & ~d.offloaded]
        full = int(single.max()) if len(single) else None
    for row in rows:
        start, end = int(d.seq[row]), int(d.end[row])
        for left, right in ranges:
            a, b = max(start, left), min(end, right)
            if a >= b:
                continue
            size = int(d.ip_bytes[row])
            if d.offloaded[row]:
                if full is None:
                    continue
                size = min(b - a + size - int(d.payload_bytes[row]), full)
            elif a != start or b != end or not (d.sent_once[row] or _alone_arrived(d, row, left, right)):
                continue
            if size < below:
                yield Passed(size, "sack", int(d.time_ns[row]), [row])


def _alone_arrived(d: Direction, row: int, left: int, right: int) -> bool:
    """The block vouches for this packet although its bytes left in others too: of those it leaves parts out, so they did
    not arrive; or they were no larger."""
    shared = np.flatnonzero(d.data & (d.seq < d.end[row]) & (d.end > d.seq[row]) & (d.ip_bytes > d.ip_bytes[row]))
    return not bool(((d.seq[shared] >= left) & (d.end[shared] <= right)).any())


def _window_shut(d: Direction, stuck: Stuck) -> bool:
    """The receiver's last word before the resends, and every later one, leaves no room for the stuck packet."""
    p = d.peer
    acks = np.flatnonzero((p.ack != NOT_ACK) & ((p.flags & (SYN | RST)) == 0))
    if not len(acks):
        return False
    right_edge = p.ack[acks] + p.window_bytes[acks]
    later = p.time_ns[acks] >= stuck.first_ns
    edge = right_edge[later].max() if later.any() else right_edge[-1]
    if d.peer.window_scale is None:
        # unscaled windows are lower bounds: only a zero window is shut for certain
        words = p.table.window[acks][later] if later.any() else p.table.window[acks][-1:]
        return bool((words == 0).all())
    return bool(edge < stuck.seq + 1)


def _sizes(d: Direction, sighting: Sighting) -> None:
    """The ledger of sizes: delivered for certain, lost for certain, undecided; and how many losses there were."""
    rows = np.flatnonzero(d.data)
    if not len(rows):
        return
    at_receiver = sighting.at == "at_receiver"
    fate, size, time_ns, df, once = (x[rows] for x in (d.fate, d.ip_bytes, d.time_ns, d.df, d.sent_once))
    in_one = d.table.fragments[rows] == 0
    whole = ~d.offloaded[rows] & (size <= _largest_single(d, rows))
    again = _carried_again(d, rows)
    superseded = again >= 0
    if at_receiver:  # a packet that is here was delivered, acknowledged or not
        good = whole & in_one
        bad = loose = np.zeros(len(rows), bool)
    else:
        passed = whole & once & ((fate == ACKED) | (fate == SACKED))
        good, loose = passed & df & in_one, passed & ~df
        # what left in the last second may still be under way
        settled = time_ns < sighting.capture_end_ns - UNDER_WAY_NS
        bad = whole & ~good & ~loose & (superseded | ((fate == LOST) & settled & (len(d.peer) > 0)))
    ledgers = (sighting.delivered, sighting.lost, sighting.delivered_df_off)
    fared = np.where(good, 0, np.where(bad, 1, np.where(loose, 2, 3)))
    columns = (size, time_ns, fared, whole)
    for ip_bytes, sent_ns, ledger, single in zip(*(column.tolist() for column in columns), strict=True):
        if ledger < 3:
            known = ledgers[ledger]
            count, first, last = known.get(ip_bytes, (0, sent_ns, 0))
            known[ip_bytes] = count + 1, first, max(last, sent_ns)
        if single and ledger > 1:
            sighting.undecided[ip_bytes] = sighting.undecided.get(ip_bytes, 0) + 1
    _joined(d, rows, sighting)
    sighting.sent_segments = len(rows)
    if at_receiver:
        late = _late_fills(d, rows)
        sighting.lost_segments = len(late)
        sighting.delayed_s = max((s for _, s in late), default=0.0)
        return
    lost = np.flatnonzero(superseded)
    if len(lost):
        sighting.lost_segments = max(len(lost) - d.peer.told_twice, 0)
        sighting.lost_joined = int((~whole[lost]).sum())
        for ip_bytes, sent_ns in _came_smaller(d, rows, lost[whole[lost]], again):
            sighting.cut[ip_bytes] = sighting.cut.get(ip_bytes, 0) + 1
            sighting.cut_ns[ip_bytes] = sent_ns
        times, top = _acked_times(d)
        acked_ns = np.append(times, time_ns[-1])[np.searchsorted(top, d.seq[rows[lost]], side="right")]
        sighting.delayed_s = max(int((acked_ns - time_ns[lost]).max()), 0) / 1e9


def _came_smaller(d: Direction, rows: Ints, lost: Ints, again: Ints) -> Iterator[tuple[int, int]]:
    """(size, when sent) of lost packets that came again in smaller ones: the sender had learnt that they were too big."""
    columns = (rows[lost], rows[again[lost]], d.seq[rows[lost]], d.ip_bytes[rows[lost]])
    for row, carrier, seq, size in zip(*(column.tolist() for column in columns), strict=True):
        if _wire_size(d, carrier, seq) < size - SAME_SIZE_BYTES:
            yield size, int(d.time_ns[row])


def _late_fills(d: Direction, rows: Ints) -> list[tuple[int, float]]:
    """Seen from the receiver: rows that fill a hole because they were sent again, and how long the hole stood (s).

    What only overtook each other has numbers in the order of sending: IPv4 identification, else the TCP timestamp. A
    resend has later ones than the packets beyond the hole. A resend in smaller packets than were lost is no accident of
    the line: the sender has learnt the path MTU.
    """
    offers = [m for m in (d.mss, d.peer.mss) if m]
    # without the handshake full is what Ethernet carries
    full = min(offers) + (40 if d.table.ip_version[0] == 4 else 60) if offers else 1500
    top = np.maximum.accumulate(d.end[rows])
    out: list[tuple[int, float]] = []
    for i in (np.flatnonzero(d.seq[rows][1:] < top[:-1]) + 1).tolist():
        row = int(rows[i])
        if d.resend[row] and not _fills(d, rows[:i], row):
            continue
        beyond = int(rows[int(np.searchsorted(top, d.seq[row], side="right"))])
        stood_s = (int(d.time_ns[row]) - int(d.time_ns[beyond])) / 1e9
        if d.table.ip_id[row] and d.table.ip_id[beyond]:
            later = (int(d.table.ip_id[row]) - int(d.table.ip_id[beyond])) & 0xFFFF < 0x8000
        elif d.table.has_ts[row] and d.table.ts_val[row] != d.table.ts_val[beyond]:
            later = (int(d.table.ts_val[row]) - int(d.table.ts_val[beyond])) & 0xFFFFFFFF < 0x80000000
        else:
            later = stood_s > REORDERING_S
        hole = int(d.seq[beyond]) - int(d.seq[row])
        whole = int(d.payload_bytes[row]) >= hole or int(d.ip_bytes[row]) >= full
        if later and whole:
            out.append((row, stood_s))
    return out


def _fills(d: Direction, before: Ints, row: int) -> bool:
    """The row's first byte had not been here before."""
    return not bool(((d.seq[before] <= d.seq[row]) & (d.end[before] > d.seq[row])).any())


def _joined(d: Direction, rows: Ints, sighting: Sighting) -> None:
    """Offloaded frames of whole full segments that were acknowledged: the wire carried full packets, and they passed.

    This counts against a narrow path only. It raises no lower bound of its MTU: a frame's length is no packet's.
    """
    full = _full_segment(d) or _full_resend(d)
    if full is None:
        return
    whole = d.offloaded[rows] & d.sent_once[rows] & (d.fate[rows] == ACKED) & (d.payload_bytes[rows] % full[0] == 0)
    if whole.any():
        times = d.time_ns[rows][whole]
        sighting.joined[full[1]] = (int(whole.sum()), int(times.min()), int(times.max()))


def _full_resend(d: Direction) -> tuple[int, int] | None:
    """(payload, IP bytes) of a full packet where no handshake tells: resends leave one by one, as full packets."""
    rows = np.flatnonzero(d.resend & ~d.offloaded & (d.payload_bytes > 0))
    if not len(rows):
        return None
    row = rows[int(d.payload_bytes[rows].argmax())]
    return int(d.payload_bytes[row]), int(d.ip_bytes[row])


def _largest_single(d: Direction, rows: Ints) -> int:
    """The largest frame that can be one packet on the wire, where the host's offload may have joined several.

    With a segment size below the MSS (a path MTU learnt earlier) joined frames hide below the MSS as well. They give
    themselves away: joined frames are multiples of the true segment size.
    """
    payload = d.payload_bytes[rows]
    full = _full_segment(d)
    joined = payload[d.offloaded[rows]]
    if len(joined) and full is not None and (joined % full[0] == 0).mean() < 0.5:
        return UNCUT_BYTES
    sizes, count = np.unique(payload[~d.offloaded[rows]], return_counts=True)
    for size, n in zip(sizes.tolist(), count.tolist(), strict=True):
        larger = sizes > size
        multiples = int(count[larger & (sizes % size == 0)].sum())
        # a few others are the last pieces of what was joined
        if size >= 256 and n >= 2 and multiples and multiples >= 0.8 * int(count[larger].sum()):
            return int(size) + int((d.ip_bytes[rows] - payload).max())
    return 1 << 30


def _carried_again(d: Direction, rows: Ints) -> Ints:
    """Per row: the place among them of the next one that carries its first byte (then this send was lost, or its ACK was);
    -1 when there is none.

    A packet of one byte is no such send, neither first nor again: keep-alives repeat the last byte (RFC 9293 3.8.4), and
    probes of a shut window the next one (3.8.6.1), in order to be answered.
    """
    again = np.full(len(rows), -1, np.int64)
    real = np.flatnonzero(d.payload_bytes[rows] > 1)
    seq, end = d.seq[rows[real]], d.end[rows[real]]
    lowest_later = np.minimum.accumulate(seq[::-1])[::-1]
    candidates = np.flatnonzero(lowest_later[1:] < end[:-1])
    carriers = next_carriers(seq[candidates], candidates, seq, end)
    again[real[candidates]] = np.where(carriers >= 0, real[carriers], -1)
    return again


def _judge_icmp(d: Direction, errors: list[IcmpError], rtt_ns: int) -> list[IcmpSighting]:
    times, top = _acked_times(d)
    ends = np.maximum.accumulate(np.where(d.table.payload_bytes > 0, d.end, 0)) if len(d) else d.end
    out = []
    for e in errors:
        mtu = e.mtu or 0
        suspicion = None
        quoted = None
        if e.quoted_seq is not None and len(d):
            quoted = int(d.seq[0]) + ((e.quoted_seq - int(d.table.seq[0]) + 0x80000000 & 0xFFFFFFFF) - 0x80000000)
            i = int(np.searchsorted(d.time_ns, e.time_ns + DISORDER_NS, side="right")) - 1
            j = int(np.searchsorted(times, e.time_ns - DISORDER_NS, side="right")) - 1
            nxt = int(ends[i]) if i >= 0 else 0
            low = 0 if d.based else int(d.seq[: i + 1][d.data[: i + 1]].min(initial=nxt))
            una = int(top[j]) if j >= 0 else low
            if not d.based and (i < 0 or quoted < low):
                continue  # about what was sent before the capture began: neither to be believed nor to be doubted
            if not una <= quoted < max(nxt, 1):
                suspicion = "sequence-outside-window"
        # MTU 0: a router older than RFC 1191 (its section 5), not a lie; Linux then goes down to 552
        if suspicion is None and mtu and e.quoted_ip_bytes is not None and mtu >= e.quoted_ip_bytes:
            suspicion = "mtu-not-below-packet"
        if suspicion is None and (mtu or e.ip_version == 6) and mtu < FLOOR[e.ip_version]:
            suspicion = "mtu-under-floor"
        after = d.data & (d.time_ns > e.time_ns + rtt_ns + ICMP_GRACE_NS)
        above: list[int] = []
        shrank = went_on = False
        if suspicion is None:
            limit = mtu or 576  # RFC 1191 section 5: without an MTU, at most the plateau of 576
            big = after & (d.ip_bytes > limit) & ~d.offloaded
            if quoted is not None:
                above = np.flatnonzero(big & (d.seq <= quoted) & (d.end > quoted)).tolist()
                went_on = (_first_ack_above(times, top, quoted) or 0) > e.time_ns - DISORDER_NS
            shrank = not big.any() or (mtu == 0 and went_on)
        out.append(IcmpSighting(e, suspicion, above, shrank, went_on))
    return out


def _full_segment(d: Direction) -> tuple[int, int] | None:
    """(payload, IP bytes) of a full packet in this direction: the smaller MSS of the two, timestamps counted (RFC 6691)."""
    offers = [m for m in (d.mss, d.peer.mss) if m]
    if not offers:
        return None
    header = 40 if d.table.ip_version.size == 0 or d.table.ip_version[0] == 4 else 60
    options = 12 if bool(d.table.has_ts.any()) else 0
    return min(offers) - options, min(offers) + header


def _find_hole(d: Direction, end_ns: int) -> Hole | None:
    """The receiver's ACK waits at a byte that never passed this point although later bytes exist."""
    if d.acked is None or not len(d):
        return None
    at = d.acked
    covering = _covering(d, at)
    beyond = np.flatnonzero(d.data & (d.seq > at))
    jumped = np.flatnonzero(
        ((d.flags & (SYN | RST)) == 0) & ((d.flags & ACK) != 0) & (d.payload_bytes == 0) & (d.seq > at) & ~d.duplicate
    )
    if covering and not len(beyond):
        return None
    later_rows = beyond if len(beyond) else jumped
    if not len(later_rows):
        return _filled_hole(d)
    if covering:
        return None
    acks, top = _acked_times(d)
    reached = int(acks[int(np.searchsorted(top, at, side="left"))])
    since = max(reached, min(int(d.time_ns[later_rows[0]]), reached) if reached else 0)
    stream = Stream(d)
    next_known = min((s.start for s in stream.segments if s.start > at), default=stream.end)
    length = next_known - at
    return _hole(d, at, length, since, end_ns, "bytes" if len(beyond) else "jumped-ack", later_rows.tolist(), None, [])


def _filled_hole(d: Direction) -> Hole | None:
    """The longest-lasting hole that was filled in the end: what first lies, or points, beyond it; and what filled it."""
    told = np.flatnonzero(
        (d.data | ((d.payload_bytes == 0) & ((d.flags & ACK) != 0))) & ((d.flags & (SYN | RST)) == 0) & ~d.duplicate
    )
    if len(told) < 2:
        return None
    reach = np.maximum.accumulate(np.where(d.data[told], d.end[told], d.seq[told]))
    arrived = np.maximum.accumulate(np.where(d.data[told], d.end[told], 0))
    best: tuple[int, int, int, int, int, Ints] | None = None
    jumps = np.flatnonzero((d.seq[told][1:] > arrived[:-1]) & (d.seq[told][1:] > reach[:-1])) + 1
    for j in jumps[:64].tolist():
        at, start = int(arrived[j - 1]), int(d.seq[told[j]])
        later = told[j + 1 :]
        later = later[d.data[later]]
        fill = later[(d.seq[later] <= at) & (d.end[later] > at)]
        if not len(fill):
            continue
        since, until = int(d.time_ns[told[j]]), int(d.time_ns[fill[0]])
        if best is None or until - since > best[1] - best[0]:
            best = since, until, at, start, int(told[j]), later
    if best is None:
        return None
    since, until, at, start, beyond, later = best
    sizes = d.ip_bytes[later[(d.seq[later] >= at) & (d.seq[later] < start)]].tolist()
    return _hole(d, at, start - at, since, until, "bytes" if d.data[beyond] else "jumped-ack", [beyond], until, sizes)


def _hole(
    d: Direction,
    at: int,
    length: int,
    since: int,
    until: int,
    later: Literal["bytes", "jumped-ack"],
    later_rows: list[int],
    filled_ns: int | None,
    fill_sizes: list[int],
) -> Hole:
    full = _full_segment(d)
    header = (40 if d.table.ip_version[0] == 4 else 60) + (12 if bool(d.table.has_ts.any()) else 0)
    fits = full is not None and length % full[0] == 0
    lost = length + header
    # without the handshake: what was seen to arrive, or Ethernet, bounds what one packet can have been
    most = full[1] if full is not None else max(1500, int(d.ip_bytes[~d.offloaded].max(initial=0)))
    size_known = full is not None or lost <= most
    lost = min(lost, most)
    _, proofs, failed = _peer_resend_verdict(d, since - 1, until)
    answered = True if proofs else (False if failed else None)
    segments = length // full[0] if full is not None else None
    return Hole(
        at, length, since, until, later, later_rows, filled_ns, fill_sizes, fits, segments, lost, answered, size_known
    )


def examine(trace: Trace, capture_end_ns: int) -> tuple[Sighting, Sighting]:
    """What one connection shows about the client's data and about the server's data."""
    points = capture_point(trace)
    rtt_ns = int((trace.rtt_s or 0.0) * 1e9)
    out = []
    for d, at in zip(trace.directions, points, strict=True):
        out.append(_examine_direction(trace, d, at, rtt_ns, capture_end_ns))
    return out[0], out[1]


def _examine_direction(trace: Trace, d: Direction, at: At, rtt_ns: int, capture_end_ns: int) -> Sighting:
    s = Sighting(d, at, capture_end_ns=capture_end_ns)
    if not len(d):
        return s
    source = (int(d.table.src_hi[0]) << 64) | int(d.table.src_lo[0])
    port = int(d.table.src_port[0])
    about = [e for e in trace.icmp if e.is_too_big and e.quoted_src == source and e.quoted_src_port == port]
    s.icmp = _judge_icmp(d, about, rtt_ns)
    if d.acked is None and d.resend.any():
        d.acked = _acked_unheard(d)
    if d.acked is not None and d.acked > d.sent + 1:
        s.ack_past_hole = d.acked - d.sent
    s.sack_outside = d.peer.sacks_outside
    _sizes(d, s)
    _gaps_and_resends(d, s, rtt_ns)
    return s


def examine_more(d: Direction, at: At, rtt_s: float | None, capture_end_ns: int) -> Sighting:
    """What `examine` would say of a direction but for what `regular.survey` knows of it."""
    s = Sighting(d, at, capture_end_ns=capture_end_ns)
    _gaps_and_resends(d, s, int((rtt_s or 0.0) * 1e9))
    return s


def _gaps_and_resends(d: Direction, s: Sighting, rtt_ns: int) -> None:
    s.ack_past_hole += _acked_gap_bytes(d)
    s.stuck = _find_stuck(d, s.capture_end_ns)
    main = s.main
    if main is not None:
        _after_first_loss(d, s, main, rtt_ns)
    if s.at != "at_sender":
        s.hole = _find_hole(d, s.capture_end_ns)


def _acked_unheard(d: Direction) -> int:
    """What was acknowledged, told from the sender's side alone (a one-way capture).

    TCP sends the first unacknowledged byte again, so all before it was acknowledged. New data after the last resend says
    that this one was acknowledged as well: the window of a time-out holds one packet (RFC 5681 3.1).
    """
    last = int(np.flatnonzero(d.resend)[-1])
    reach = int(d.end[: last + 1].max())
    new = np.flatnonzero(d.data[last + 1 :] & (d.seq[last + 1 :] >= reach))
    return int(d.seq[last + 1 + new[0]]) if len(new) else int(d.seq[last])


def _acked_gap_bytes(d: Direction) -> int:
    """Bytes below the highest ACK that the capture does not hold: the capture lost them, the path did not."""
    rows = np.flatnonzero(d.data)
    if d.acked is None or not len(rows):
        return 0
    start = d.seq[rows]
    if (start[1:] <= np.maximum.accumulate(d.end[rows])[:-1]).all():
        return 0  # nothing was jumped over
    order = np.argsort(start, kind="stable")
    start, top = start[order][1:], np.maximum.accumulate(d.end[rows][order])[:-1]
    missing = (start > top) & (start <= d.acked)
    return int((start - top)[missing].sum())


def _after_first_loss(d: Direction, s: Sighting, main: Stuck, rtt_ns: int) -> None:
    # the first send itself may have left before the capture began: then the bytes behind it tell when the loss was
    unacked = d.data & (d.end > main.seq) if main.acked_ns is None else d.data & (d.seq == main.seq)
    since = min(main.first_ns, int(d.time_ns[unacked].min())) if unacked.any() else main.first_ns
    until = main.acked_ns if main.acked_ns is not None else s.capture_end_ns
    size = main.ip_bytes
    p = d.peer
    s.small_passed += _sacked_passes(d, since, until, size)
    resends, proofs, failed = _peer_resend_verdict(d, since, until)
    s.peer_resends = resends
    s.small_passed += proofs
    if not d.peer.tells_sack:
        s.small_passed += _duplicate_acks(d, main, size, since)
    # nothing from the peer later than what was under way when the loss began
    grace = since + 2 * rtt_ns + 100_000_000
    s.peer_silent = bool(len(p)) and not bool(((p.time_ns > grace) & (p.time_ns < until)).any()) and not s.small_passed
    s.peer_owes_word = _owes_word(d, since)
    if failed or _answers_in_vain(d, since):
        acks = np.flatnonzero((d.payload_bytes == 0) & (d.time_ns > since) & (d.ack != NOT_ACK))
        if len(acks):
            s.small_failed.append((int(d.ip_bytes[acks].min()), acks.tolist()))
    _smaller_lost(d, s, main)
    s.window_shut = _window_shut(d, main)
    # the stuck segment is the first one that does not fit into a window of 65,535 bytes that nobody scales
    crosses = main.seq <= 65_535 < main.seq + max(int(d.payload_bytes[main.rows[0]]), 1)
    s.window_scaling_broken = bool(d.peer.window_scale) and crosses and not s.small_passed
    # a sending host leaves the checksum to its network card; behind a router somebody has computed it
    if s.at in ("middle", "at_receiver") or (s.at == "unknown" and _hops_of(d)):
        s.bad_checksums = _damaged(d, main)


def _answers_in_vain(d: Direction, since: int) -> bool:
    """A one-way capture: the unseen peer sends its last data again and again, although each time a pure ACK answers."""
    if len(d.peer):
        return False
    pure = (d.payload_bytes == 0) & ((d.flags & (SYN | FIN | RST)) == 0) & ~d.duplicate
    acks = np.flatnonzero(pure & (d.time_ns > since) & (d.ack != NOT_ACK))
    acks = acks[d.ack[acks] == d.ack[acks].max()] if len(acks) else acks
    # without SACK an ACK per arriving packet is normal; only the peer's time-outs are slower than this one after the other
    alone = int((np.diff(d.time_ns[acks]) > ICMP_GRACE_NS).sum())
    return alone >= 3


def _owes_word(d: Direction, since: int) -> bool:
    """The peer would have to speak over a narrow path: its last data was acknowledged by nothing but lost packets, so it
    must send it again, and that small packet would arrive."""
    p = d.peer
    told = np.flatnonzero(p.data & (p.time_ns <= since))
    if not len(told):
        return False
    before = d.ack[(d.time_ns < since) & (d.ack != NOT_ACK)]
    return not len(before) or int(before.max()) < int(p.end[told].max())


def _duplicate_acks(d: Direction, main: Stuck, size: int, since: int) -> list[Passed]:
    """Without SACK: pure duplicate ACKs at the hole, when smaller segments were sent beyond it."""
    p = d.peer
    same = np.flatnonzero((p.ack == main.seq) & ((p.flags & (SYN | RST | FIN)) == 0) & ~p.duplicate)
    dup = same[1:][p.payload_bytes[same[1:]] == 0]  # the first one answers what lies before the hole
    if not len(dup):
        return []
    until = int(p.time_ns[dup[-1]]) + DISORDER_NS
    later = np.flatnonzero(d.data & (d.time_ns >= since) & (d.end > main.seq) & (d.time_ns < until))
    for row in later.tolist():
        # the last piece of an offloaded frame is a packet of its own
        piece = _wire_size(d, row, int(d.end[row]) - 1)
        payload = piece - int(d.ip_bytes[row]) + int(d.payload_bytes[row])
        if piece < size and int(d.end[row]) - payload > main.seq:
            return [Passed(piece, "ack", int(d.time_ns[row]), [row])]
    return []


def _smaller_lost(d: Direction, s: Sighting, main: Stuck) -> None:
    """Smaller data that died as well although the peer still answered: counter-evidence against a narrow path."""
    if main.acked_ns is not None:
        return
    fate = d.fate
    alive = d.peer.time_ns[-1] if len(d.peer) else 0
    rows = np.flatnonzero(
        d.data
        & (d.time_ns >= main.first_ns)
        & (fate == LOST)
        & (d.ip_bytes < main.ip_bytes - SAME_SIZE_BYTES)
        & ~d.offloaded
    )
    for size in sorted(set(d.ip_bytes[rows].tolist())):
        same = rows[d.ip_bytes[rows] == size]
        # sent at least twice, or sent once while SACK is in use and the peer spoke later
        if len(same) >= 2 or (
            d.sack_permitted and d.peer.tells_sack and alive > int(d.time_ns[same[-1]]) + 1_000_000_000
        ):
            s.small_failed.append((int(size), same.tolist()))


def _damaged(d: Direction, main: Stuck) -> list[int]:
    """Stuck rows with a wrong TCP checksum.

    If all are wrong, nobody may have computed them: a virtual network leaves that to a card which is not there. Then
    the field holds the sum of the pseudo-header alone.
    """
    wrong = [r for r in main.rows if checksum_wrong(d, r)]
    if not wrong:
        return []
    smaller = np.flatnonzero((d.ip_bytes < main.ip_bytes) & ((d.flags & SYN) == 0))[:8].tolist()
    if len(smaller):
        return wrong if any(not checksum_wrong(d, r) for r in smaller) else []
    return [r for r in wrong if checksum_wrong(d, r, unfinished=True)]


def checksum_wrong(d: Direction, row: int, *, unfinished: bool = False) -> bool:
    """The TCP checksum of a whole captured packet is wrong (RFC 9293 3.1); False when it cannot be told.

    unfinished: the sum of the pseudo-header alone, as a host leaves it for its network card, counts as right.
    """
    t = d.table
    if (
        int(t.payload_captured[row]) < int(t.payload_bytes[row])
        or int(t.fragments[row])
        or int(t.ip_version[row]) not in (4, 6)
    ):
        return False
    packet = t.packet(row)
    header = int(t.ip_bytes[row]) - int(t.payload_bytes[row])
    ip_header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    segment = packet[ip_header:]
    if len(segment) < 20 or len(packet) < header:
        return False
    if packet[0] >> 4 == 4:
        pseudo = packet[12:20] + b"\x00\x06" + len(segment).to_bytes(2, "big")
    else:
        pseudo = packet[8:40] + len(segment).to_bytes(4, "big") + b"\x00\x00\x00\x06"
    if unfinished and int.from_bytes(segment[16:18], "little") == _ones_sum(pseudo):
        return False
    return _ones_sum(pseudo + segment) != 0xFFFF


def _ones_sum(data: bytes) -> int:
    total = sum(memoryview(data + b"\x00" * (len(data) & 1)).cast("H"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def icmp_source(e: IcmpError) -> str:
    return address_text(e.src >> 64, e.src & (1 << 64) - 1)
