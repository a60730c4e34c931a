"""Bytes in order, with gaps as values, and which frame carried which byte.

Offsets are the relative sequence numbers of `delivery`: 0 is the first payload byte. Where two segments disagree about
a byte, the one captured first wins (the reading of most receivers), and the conflict is counted.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..capture.packets import FIN, RST, SYN
from .delivery import NOT_ACK, Direction


class Segment(NamedTuple):
    """Bytes [start, end) as first carried by `row` of the direction; `data` is shorter when the snap length cut it."""

    start: int
    end: int
    row: int
    data: bytes


class Stream:
    """One direction's byte stream. Implements what `smtp` asks of a stream: start, end, pieces(), peer_at(), time_at()."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.conflicting_bytes = 0
        self.segments = self._assemble()
        self._starts = [s.start for s in self.segments]

    def _assemble(self) -> list[Segment]:
        d = self.direction
        segments: list[Segment] = []
        starts: list[int] = []
        rows = np.flatnonzero(d.data)
        carried = zip(rows.tolist(), d.seq[rows].tolist(), d.end[rows].tolist(), d.table.payloads(rows), strict=True)
        for row, start, end, data in carried:
            if not segments or start >= segments[-1].end:  # in order: nearly always
                segments.append(Segment(start, end, row, data))
                starts.append(start)
                continue
            i = max(bisect_right(starts, start) - 1, 0)
            at = start
            while at < end:
                if i < len(segments) and segments[i].start <= at:
                    if segments[i].end > at:  # known already
                        known = segments[i]
                        upto = min(end, known.end)
                        self._compare(known, at, data[at - start : upto - start])
                        at = upto
                    i += 1
                    continue
                upto = min(end, segments[i].start) if i < len(segments) else end
                segments.insert(i, Segment(at, upto, row, data[at - start : upto - start]))
                starts.insert(i, at)
                at = upto
                i += 1
        return segments

    def _compare(self, known: Segment, at: int, again: bytes) -> None:
        old = known.data[at - known.start : at - known.start + len(again)]
        if old != again[: len(old)]:
            self.conflicting_bytes += sum(a != b for a, b in zip(old, again, strict=False))

    @cached_property
    def start(self) -> int:
        """0 when the handshake was seen, else the first byte known."""
        if self.direction.based:
            return 0
        return self._starts[0] if self._starts else 0

    @cached_property
    def end(self) -> int:
        """After the last byte known to have been sent, captured or not: a jumped sequence number or an ACK tells of more."""
        d = self.direction
        ends = [s.end for s in self.segments[-1:]]
        fin = np.flatnonzero(d.flags & FIN)
        if len(fin):
            return max([*ends, int(d.end[fin].max())])
        talk = (d.flags & (SYN | RST)) == 0
        if talk.any():
            ends.append(int(d.seq[talk].max()))
        seen = max(ends, default=self.start)
        # an ACK one past the last byte covers a FIN that was not captured
        if d.acked is not None and d.acked > seen + 1:
            return d.acked
        return seen

    def pieces(self) -> list[tuple[int, bytes]]:
        """Sorted, disjoint, maximal runs of captured bytes as (offset, bytes)."""
        runs: list[tuple[int, list[bytes]]] = []
        at = None
        for s in self.segments:
            if s.start == at:
                runs[-1][1].append(s.data)
            elif s.data:
                runs.append((s.start, [s.data]))
            at = s.start + len(s.data) if s.data else None
        return [(start, parts[0] if len(parts) == 1 else b"".join(parts)) for start, parts in runs]

    def segment_at(self, offset: int) -> Segment | None:
        i = bisect_right(self._starts, offset) - 1
        if i >= 0 and self.segments[i].end > offset:
            return self.segments[i]
        return None

    def peer_at(self, offset: int) -> int | None:
        """How many bytes of the peer had been acknowledged by the packet that first carried this byte."""
        s = self.segment_at(offset)
        if s is None or self.direction.ack[s.row] == NOT_ACK:
            return None
        return int(self.direction.ack[s.row])

    def time_at(self, offset: int) -> int | None:
        s = self.segment_at(offset)
        return int(self.direction.time_ns[s.row]) if s else None

    def rows(self, start: int, end: int) -> list[int]:
        """Rows that first carried bytes of [start, end), in stream order."""
        i = max(bisect_right(self._starts, start) - 1, 0)
        out = []
        while i < len(self.segments) and self.segments[i].start < end:
            if self.segments[i].end > start:
                out.append(self.segments[i].row)
            i += 1
        return out

    def cuts(self, start: int, end: int) -> list[int]:
        """Offsets strictly inside (start, end) where one segment ends and another begins."""
        rows = self.rows(start, end)
        at = bisect_right(self._starts, start)
        return [s.start for s in self.segments[at : at + len(rows)] if start < s.start < end]
