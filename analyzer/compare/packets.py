"""Which packet of one point is which of another, and how far the clocks of the two points are apart.

A packet is recognised by its place in the stream, its TCP timestamp and its IP id. Network cards cut and join segments
(offload), so that one packet of a capture may be several of another: then the ranges of bytes are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..capture.packets import FIN, RST, SYN
from ..tcp.delivery import Direction

Ints = npt.NDArray[np.int64]

# One sending's copy at the other point is looked for this far from where the clocks would have it. Linux resends after
# 200 ms at the earliest (RTO_MIN), so the nearest within 100 ms is the same sending.
NEAR_NS = 100_000_000

ARRIVED, LOST, UNKNOWN = 1, 2, 3


class Pairing(NamedTuple):
    """Packets of one direction of one connection, from the point that they pass first to the next one."""

    sent: Direction
    received: Direction
    at: Ints  # (n,) per row of `sent` the row of `received` that is the same packet; -1 none
    covered: npt.NDArray[np.bool_]  # (n,) its bytes arrived in packets cut otherwise
    extra: Ints  # rows of `received` with payload that no row of `sent` explains


def shift_of(sent: Direction, received: Direction) -> int:
    """What to add to a relative sequence number of `sent` to have that of `received` (0 where both saw the SYN)."""
    if (sent.based and received.based) or not len(sent) or not len(received):
        return 0
    origins = [(int(d.table.seq[0]) - int(d.seq[0])) & 0xFFFFFFFF for d in (sent, received)]
    return (origins[0] - origins[1] + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def by_identity(sent: Direction, received: Direction) -> Pairing:
    """Packets that agree in place, length, flags, timestamp and IP id; the n-th with the n-th where several do."""
    n, shift = len(sent), shift_of(sent, received)
    at = np.full(n, -1, np.int64)
    there: dict[object, list[int]] = defaultdict(list)
    for row, key in _identities(received, 0):
        there[key].append(row)
    for rows in there.values():
        rows.reverse()
    for row, key in _identities(sent, shift):
        if there.get(key):
            at[row] = there[key].pop()
    return Pairing(sent, received, at, np.zeros(n, bool), np.empty(0, np.int64))


def _identities(d: Direction, shift: int) -> list[tuple[int, object]]:
    t = d.table
    columns = (d.seq + shift, t.payload_bytes, t.flags & (SYN | FIN | RST), t.ip_id, np.where(t.has_ts, t.ts_val, 0))
    rows = np.flatnonzero(~d.duplicate)
    return list(zip(rows.tolist(), zip(*(c[rows].tolist() for c in columns), strict=True), strict=True))


def by_bytes(pairing: Pairing, offset_ns: int) -> Pairing:
    """The rest: equal ranges nearest in time, then ranges covered by packets cut otherwise."""
    sent, received, at = pairing.sent, pairing.received, pairing.at.copy()
    shift = shift_of(sent, received)
    free = received.data.copy()
    free[at[at >= 0]] = False
    covered = np.zeros(len(sent), bool)
    open_rows = np.flatnonzero(sent.data & (at < 0))
    if len(open_rows) and free.any():
        _equal_ranges(sent, received, open_rows, at, free, shift, offset_ns)
        open_rows = open_rows[at[open_rows] < 0]
        _covering(sent, received, open_rows, covered, free, shift, offset_ns)
    return Pairing(sent, received, at, covered, np.flatnonzero(free & ~received.duplicate))


def _equal_ranges(
    sent: Direction, received: Direction, rows: Ints, at: Ints, free: npt.NDArray[np.bool_], shift: int, offset_ns: int
) -> None:
    there: dict[tuple[int, int], list[int]] = defaultdict(list)
    for j in np.flatnonzero(free).tolist():
        there[int(received.seq[j]), int(received.end[j])].append(j)
    for i in rows.tolist():
        candidates = there.get((int(sent.seq[i]) + shift, int(sent.end[i]) + shift), [])
        when = int(sent.time_ns[i]) + offset_ns
        best = min(candidates, key=lambda j: abs(int(received.time_ns[j]) - when), default=None)
        if best is not None and abs(int(received.time_ns[best]) - when) <= NEAR_NS:
            at[i] = best
            free[best] = False
            candidates.remove(best)


def _covering(
    sent: Direction,
    received: Direction,
    rows: Ints,
    covered: npt.NDArray[np.bool_],
    free: npt.NDArray[np.bool_],
    shift: int,
    offset_ns: int,
) -> None:
    """Offload: one large frame here, its segments there, or the other way round; they leave at the same time."""
    others = np.flatnonzero(free)
    used: set[int] = set()
    for i in rows.tolist():
        low, high = int(sent.seq[i]) + shift, int(sent.end[i]) + shift
        near = np.abs(received.time_ns[others] - (int(sent.time_ns[i]) + offset_ns)) <= NEAR_NS
        inside = others[near & (received.seq[others] < high) & (received.end[others] > low)]
        reach = low
        for j in sorted(inside.tolist(), key=lambda j: int(received.seq[j])):
            if int(received.seq[j]) <= reach:
                reach = max(reach, int(received.end[j]))
        if reach >= high:
            covered[i] = True
            used |= set(inside.tolist())
    free[list(used)] = False


@dataclass(frozen=True)
class Clocks:
    """How the second point's clock stands to the first one's, from packets that passed both in both directions.

    A packet there takes at least no time, one back as well: the offset lies between two bounds, and their distance is the
    round trip between the points. The middle is right when both ways take the same time.
    """

    offset_ns: int
    uncertainty_ns: int
    skew_ppm: float | None  # how much faster the second clock runs; None: not to be told from the delays
    packets: int

    @property
    def round_trip_s(self) -> float:
        """Between the two points and back, at best."""
        return max(2 * self.uncertainty_ns, 0) / 1e9


# A drift is told when it has moved the clocks by more than the delays vary, over at least this time: the crystals of
# servers are off by 1 to 50 millionths, which is 1.5 ms in 30 s at most, as much as a queue in the way.
SKEW_SPAN_NS = 30_000_000_000
SKEW_PACKETS = 12


def clocks(there: Sequence[tuple[int, int]], back: Sequence[tuple[int, int]]) -> Clocks | None:
    """From (time at the first point, time at the second point) of packets that ran there, and of those that ran back."""
    if not there and not back:
        return None
    skew = _skew(there, back)
    origin = min(a for a, _ in (*there, *back))
    drift = skew * 1e-6 if skew else 0.0
    forth = [b - a - round((a - origin) * drift) for a, b in there]
    home = [b - a - round((a - origin) * drift) for a, b in back]
    if not forth or not home:
        known = min(forth) if forth else max(home)
        return Clocks(known, 0, skew, len(forth) + len(home))
    high, low = min(forth), max(home)
    return Clocks((high + low) // 2, max((high - low) // 2, 0), skew, len(forth) + len(home))


def _skew(there: Sequence[tuple[int, int]], back: Sequence[tuple[int, int]]) -> float | None:
    """Drift in millionths: the slope of the quickest packets' differences, equal in both directions or not told."""
    slopes = []
    for pairs, quickest in ((there, min), (back, max)):
        if len(pairs) < SKEW_PACKETS:
            return None
        begin, end = min(a for a, _ in pairs), max(a for a, _ in pairs)
        if end - begin < SKEW_SPAN_NS:
            return None
        third = (end - begin) / 3
        early = [(a, b - a) for a, b in pairs if a <= begin + third]
        late = [(a, b - a) for a, b in pairs if a >= end - third]
        one, two = quickest(early, key=lambda p: p[1]), quickest(late, key=lambda p: p[1])
        slopes.append((two[1] - one[1]) / (two[0] - one[0]) * 1e6)
    middle = sum(slopes) / 2
    return middle if abs(slopes[0] - slopes[1]) <= abs(middle) / 2 and abs(middle) >= 1 else None
