"""The packets of single connections, read again from the captures: for plots, ladders and annotated captures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from .. import case as c
from ..capture.packets import CaptureInfo, IcmpError, address_number, number_text
from ..capture.reading import ReadOptions, read
from ..tcp.connections import Group
from ..tcp.delivery import Trace, measure
from .gathering import Points


def trace(case: c.Case, connection: int) -> Trace:
    """One connection's packets, read again from the captures. KeyError when the case has no such connection."""
    return traces(case, [connection])[connection]


def traces(case: c.Case, connections: Collection[int]) -> dict[int, Trace]:
    """The packets of these connections by id, read again from the captures in one pass. KeyError where there are none."""
    wanted = {x.id: x for x in case.connections if x.id in connections}
    for connection in connections:
        if connection not in wanted:
            raise KeyError(f"no connection {connection} in this case")
    flows = {
        (address_number(x.client.ip), x.client.port, address_number(x.server.ip), x.server.port)
        for x in wanted.values()
    }
    ports = frozenset(x.server.port for x in wanted.values())
    reading = ReadOptions(ports=ports, only=frozenset(flows | {(*flow[2:], *flow[:2]) for flow in flows}))
    captures: list[CaptureInfo] = []
    points = Points(captures, ports)
    icmp: list[IcmpError] = []
    seen: dict[frozenset[object], list[Trace]] = defaultdict(list)  # a pair of ports may be used again

    def keep(group: Group) -> None:
        delivery = measure(Group(group.table.detach(), group.first, group.middle, group.client_known))
        for k in range(len(group)):
            found = delivery.trace(k)
            seen[frozenset((found.client, found.server))].append(found)

    for batch in read([x.path for x in case.captures], reading, captures):
        icmp += batch.icmp
        keep(points.tracker().add(batch.packets, batch.last_time_ns))
    for tracker in points.trackers:
        keep(tracker.finish())
    return {x.id: _nearest(seen[frozenset((x.client, x.server))], x, icmp) for x in wanted.values()}


def _nearest(candidates: Sequence[Trace], conn: c.Connection, icmp: Sequence[IcmpError]) -> Trace:
    """Of the connections between the same two ports the one that began when `conn` did, with the ICMP that quotes it."""
    found = min(
        candidates,
        key=lambda t: (t.first_capture != conn.first_frame.capture, abs(t.start_ns - conn.start_ns)),
        default=None,
    )
    if found is None:
        raise KeyError(f"the packets of connection {conn.id} are not in the captures any more")
    found.icmp = [e for e in icmp if _quotes(e, conn)]
    return found


def _quotes(e: IcmpError, conn: c.Connection) -> bool:
    ends = {(number_text(e.quoted_src), e.quoted_src_port), (number_text(e.quoted_dst), e.quoted_dst_port)}
    return ends == {tuple(conn.client), tuple(conn.server)}
