"""Packets become connections; those that are over are let go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.capture.packets import SYN, PacketTable
from analyzer.tcp import connections
from analyzer.tcp.connections import IDLE_S, LINGER_S, Tracker

from .wire import MS, START_NS, Wire


def sizes(wire: Wire) -> list[int]:
    return np.diff(Tracker().add(wire.table(), None).first).tolist()


def test_the_syn_tells_who_is_the_client() -> None:
    """Even on a port that no server of ours uses."""
    wire = Wire()
    wire.ports = (25, 3025)  # the client sends from port 25
    trace = wire.handshake().trace()
    assert trace.client.port == 25
    assert trace.client_known


def test_without_a_handshake_the_served_port_tells() -> None:
    """A capture that begins in the middle still knows which side is the mail server."""
    trace = Wire().s(0, 0, b"250 ok\r\n").c(1, 0, b"DATA\r\n", ack=8).trace()
    assert (trace.client.port, trace.server.port) == (40000, 25)
    assert not trace.client_known


def test_a_new_isn_on_the_same_ports_is_a_new_connection() -> None:
    wire = Wire().handshake().c(5, 0, b"EHLO a\r\n")
    wire.isn = {"c": 90_000, "s": 80_000}
    wire.handshake(100)
    assert sizes(wire) == [4, 3]


def test_a_syn_sent_again_is_the_same_connection() -> None:
    wire = Wire().c(0, ack=None, flags=SYN).c(1000, ack=None, flags=SYN).handshake(3000)
    assert sizes(wire) == [5]


def test_a_closed_connection_is_let_go_when_it_has_been_quiet() -> None:
    wire = Wire().handshake().close(10, 0, 0)
    tracker = Tracker()
    assert len(tracker.add(wire.table(), START_NS + 100 * MS)) == 0
    later = START_NS + int((LINGER_S + 1) * 1e9)
    assert len(tracker.add(PacketTable.empty(), later)) == 1
    assert len(tracker.finish()) == 0


def test_a_fin_behind_lost_data_does_not_close() -> None:
    """The server gave up and the client's FIN waits behind what is still sent again."""
    wire = Wire().handshake().c(10, 0, 1000).s(20, 0, b"", flags=1).c(30, 1000, b"", flags=1, ack=1)
    tracker = Tracker()
    assert len(tracker.add(wire.table(), START_NS + int(60e9))) == 0
    assert len(tracker.add(PacketTable.empty(), START_NS + int((IDLE_S + 2) * 1e9))) == 1


def test_an_orphan_long_after_the_close_is_a_connection_of_its_own() -> None:
    wire = Wire().handshake().close(10, 0, 0).c(60_000, 1, ack=1)
    assert sizes(wire) == [6, 1]


@given(st.lists(st.integers(0, 400), max_size=6), st.integers(1, 4))
def test_connections_do_not_depend_on_where_windows_end(cuts: list[int], flows: int) -> None:
    """Whatever the windows, the same connections come out."""
    wire = Wire()
    for flow in range(flows):
        wire.ports = (40_000 + flow % 2, 25)
        wire.isn = {"c": 1000 * (flow + 1), "s": 7000 * (flow + 1)}
        wire.handshake(flow * 5000).c(flow * 5000 + 100, 0, b"EHLO a\r\n").close(flow * 5000 + 200, 8, 0)
    table = wire.table()
    tracker = Tracker()
    found: list[tuple[int, ...]] = []

    def note(group: object) -> None:
        for k in range(len(group)):  # type: ignore[arg-type]
            rows = slice(int(group.first[k]), int(group.first[k + 1]))  # type: ignore[attr-defined]
            found.append(tuple(sorted(group.table.frame[rows].tolist())))  # type: ignore[attr-defined]

    edges = [0, *sorted(min(c, len(table)) for c in cuts), len(table)]
    for a, b in itertools.pairwise(edges):
        part = table[a:b]
        note(tracker.add(part, int(part.time_ns[-1]) if len(part) else None) if len(part) else [])
    note(tracker.finish())
    whole = Tracker().add(table, None)
    expected = [
        tuple(sorted(whole.table.frame[int(whole.first[k]) : int(whole.first[k + 1])].tolist()))
        for k in range(len(whole))
    ]
    assert sorted(found) == sorted(expected)


def test_beyond_the_budget_the_most_silent_connections_are_let_go() -> None:
    """Memory stays bounded, no packet is lost, and how many were judged early is counted."""
    wire = Wire()
    for flow in range(20):
        wire.ports = (40_000 + flow, 25)
        wire.handshake(flow * 100).c(flow * 100 + 10, 0, 5000)
    packets = wire.table()
    tracker = Tracker(budget_bytes=50_000)
    group = tracker.add(packets, int(packets.time_ns[-1]))
    assert 0 < len(group) < 20
    assert tracker.let_go == len(group)
    left = tracker.finish()
    assert len(left) * 5000 <= 25_000
    assert int(group.table.time_ns.max()) < int(left.table.time_ns.min())
    assert len(group.table) + len(left.table) == len(packets)


def test_within_the_budget_nothing_is_let_go() -> None:
    wire = Wire().handshake().c(10, 0, 5000)
    tracker = Tracker(budget_bytes=10_000)
    assert not len(tracker.add(wire.table(), START_NS + 20 * MS))
    assert not tracker.let_go


def test_a_connection_of_too_many_packets_is_judged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTION_PACKETS", 5)
    wire = Wire().handshake().c(10, 0, 5).c(11, 5, 5).c(12, 10, 5)
    tracker = Tracker()
    assert len(tracker.add(wire.table(), START_NS + 20 * MS)) == 1
    assert tracker.let_go == 1
    assert not len(tracker.finish())
