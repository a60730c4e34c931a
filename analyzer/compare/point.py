"""One point of capture: its connections with their packets, and the ICMP errors that passed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..capture.packets import CaptureInfo, IcmpError, address_text
from ..capture.reading import ReadOptions, read
from ..smtp.dialogue import Dialogue, read_dialogue
from ..tcp.connections import Group, Tracker
from ..tcp.delivery import Direction, Trace, measure
from ..tcp.streams import Stream


@dataclass(eq=False)
class Sighting:
    """One connection as one point saw it."""

    trace: Trace

    @cached_property
    def client_stream(self) -> Stream:
        return Stream(self.trace.c2s)

    @cached_property
    def server_stream(self) -> Stream:
        return Stream(self.trace.s2c)

    @cached_property
    def dialogue(self) -> Dialogue:
        return read_dialogue(self.client_stream, self.server_stream, from_start=self.trace.handshake_seen)

    def direction(self, *, from_client: bool) -> Direction:
        return self.trace.c2s if from_client else self.trace.s2c

    def quoted_by(self, error: IcmpError) -> bool | None:
        """Whether the error quotes a packet of this connection: True the client's, False the server's, None neither."""
        quoted = (_text(error.quoted_src), error.quoted_src_port), (_text(error.quoted_dst), error.quoted_dst_port)
        ends = tuple(self.trace.client), tuple(self.trace.server)
        if (
            not self.trace.start_ns <= error.time_ns <= self.trace.end_ns + 5_000_000_000
        ):  # slow routers; ports are used again
            return None
        return True if quoted == ends else False if quoted == ends[::-1] else None


@dataclass
class Point:
    """Where one of the captures was taken: id from 1, in the order in which a client's packets pass the points."""

    id: int
    name: str
    captures: list[CaptureInfo] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    icmp: list[IcmpError] = field(default_factory=list)

    @property
    def short_name(self) -> str:
        return self.name.rstrip("/").rpartition("/")[2] or self.name

    @property
    def first_ns(self) -> int | None:
        return min((c.first_ns for c in self.captures if c.first_ns is not None), default=None)

    @property
    def last_ns(self) -> int | None:
        return max((c.last_ns for c in self.captures if c.last_ns is not None), default=None)

    @property
    def complete(self) -> bool:
        return all(c.complete for c in self.captures)


def read_point(number: int, capture: str, options: ReadOptions, progress: Callable[[int], None] | None = None) -> Point:
    """Every connection on the wanted ports, those without a word as well: silence at one point is what is looked for."""
    point = Point(number, capture)
    tracker = Tracker(options.ports)

    def keep(group: Group) -> None:
        if not len(group):
            return
        delivery = measure(Group(group.table.detach(), group.first, group.middle, group.client_known))
        point.sightings += [Sighting(delivery.trace(k)) for k in range(len(group))]

    frames = 0
    for batch in read([capture], options, point.captures):
        point.icmp += batch.icmp
        keep(tracker.add(batch.packets, batch.last_time_ns))
        frames += batch.counts.get("frames", 0)
        if progress:
            progress(frames)
    keep(tracker.finish())
    point.sightings.sort(key=lambda s: s.trace.start_ns)
    return point


def by_connection(
    sightings: Sequence[Sighting], errors: Sequence[IcmpError]
) -> dict[Sighting, list[tuple[IcmpError, bool]]]:
    """The ICMP errors that quote each connection, and whether they quote the client's packet."""
    by_ends: dict[frozenset[object], list[Sighting]] = {}
    for s in sightings:
        by_ends.setdefault(frozenset((tuple(s.trace.client), tuple(s.trace.server))), []).append(s)
    found: dict[Sighting, list[tuple[IcmpError, bool]]] = {}
    for e in errors:
        ends = frozenset(((_text(e.quoted_src), e.quoted_src_port), (_text(e.quoted_dst), e.quoted_dst_port)))
        for s in by_ends.get(ends, ()):
            from_client = s.quoted_by(e)
            if from_client is not None:
                found.setdefault(s, []).append((e, from_client))
                break
    return found


def _text(address: int) -> str:
    return address_text(address >> 64, address & (1 << 64) - 1)
