"""Packets become connections; those that are over are let go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.capture.packets import COLUMNS, SYN, PacketTable
from analyzer.tcp import connections
from analyzer.tcp.connections import IDLE_S, LINGER_S, Group, Tracker

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


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(1, 5))
def test_a_group_cut_into_parts_holds_the_same_packets(cuts: list[int], most: int) -> None:
    """Connections of several windows, judged some at a time: no column and no payload is another one."""
    wire = Wire()
    for flow in range(4):
        wire.ports = (40_000 + flow, 25)
        said = b"EHLO %d\r\n" % flow
        wire.handshake(flow).c(100 + flow, 0, said).s(200 + flow, 0, b"250 %d\r\n" % flow, ack=len(said))
    table = wire.table()
    tracker = Tracker()
    edges = [0, *sorted(min(c, len(table)) for c in cuts), len(table)]
    for a, b in itertools.pairwise(edges):
        assert not len(tracker.add(table[a:b], START_NS))
    group = tracker.finish()
    parts = list(group.parts(most))
    assert [len(part) for part in parts[:-1]] == [most] * (len(parts) - 1)
    assert sum(map(len, parts)) == len(group) == 4
    whole = group.table
    for name in COLUMNS.keys() - {"buffer", "sack_at", "ip_at", "payload_at"}:  # which say where in which buffers
        assert np.concatenate([part.table.columns[name] for part in parts]).tolist() == whole.columns[name].tolist()
    rows = np.arange(len(whole))
    assert [p for part in parts for p in part.table.payloads(np.arange(len(part.table)))] == whole.payloads(rows)


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


@st.composite
def flows(draw: st.DrawFn) -> PacketTable:
    """Two pairs of ports in use, and in use again; SYNs sent again, pauses, strays, closes with and without an end."""
    wire = Wire()
    at = 0.0
    isn = {40_000: 1000, 40_001: 500_000}
    asked = {40_000: False, 40_001: False}  # its last packet was a SYN
    for _ in range(draw(st.integers(1, 14))):
        port = 40_000 + draw(st.integers(0, 1))
        at += draw(st.sampled_from([10, 50, LINGER_S * 1000 + 1, IDLE_S * 1000 + 1]))
        kind = draw(st.sampled_from(["syn", "handshake", "data", "answer", "close", "reset"]))
        if kind in ("syn", "handshake") and not (asked[port] and draw(st.booleans())):
            isn[port] += 1000
        asked[port] = kind == "syn"
        wire.ports = (port, 25)
        wire.isn = {"c": isn[port], "s": 7000}
        if kind == "syn":
            wire.c(at, ack=None, flags=SYN)
        elif kind == "handshake":
            wire.handshake(at)
        elif kind == "close":
            wire.close(at, 8, 0)
        elif kind == "reset":
            wire.reset("s", at, 0)
        elif kind == "data":
            wire.c(at, 0, b"EHLO a\r\n")
        else:
            wire.s(at, 0, b"250 a\r\n")
    return wire.table()


@given(flows(), st.lists(st.integers(0, 60), min_size=1, max_size=3))
@settings(max_examples=300)
def test_parts_of_a_capture_join_exactly_or_say_that_they_do_not(table: PacketTable, cuts: list[int]) -> None:
    """Each part reads alone; joined, the connections are those of one tracker that saw the same windows."""
    edges = [0, *sorted(min(c, len(table)) for c in cuts), len(table)]
    one, ours = Tracker(), Tracker()
    expected: list[tuple[int, ...]] = []
    found: list[tuple[int, ...]] = []

    def note(group: Group, frames: list[tuple[int, ...]]) -> None:
        bounds = itertools.pairwise(group.first.tolist())
        frames.extend(tuple(sorted(group.table.frame[first:stop].tolist())) for first, stop in bounds)

    fits = True
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        tracker = ours if not number else Tracker(continues=True)
        for i in range(a, b, 5):
            window = table[i : min(i + 5, b)]
            note(one.add(window, int(window.time_ns[-1])), expected)
            note(tracker.add(window, int(window.time_ns[-1])), found)
        if number == len(edges) - 2:
            note(tracker.finish(), found)
        if number:
            fits = fits and ours.join(tracker.hand_over())
    note(ours.finish(), found)
    note(one.finish(), expected)
    assert not fits or sorted(found) == sorted(expected)


def test_what_is_over_is_no_measure_for_a_syn_wherever_windows_end() -> None:
    """Resets long after a connection, then a SYN with another ISN: they belong together in one window and in three."""
    wire = Wire().c(0, ack=None, flags=SYN).reset("s", IDLE_S * 1000 + 1, 0)
    wire.isn = {"c": 90_000, "s": 80_000}
    table = wire.c(IDLE_S * 1000 + 11, ack=None, flags=SYN).table()
    for windows in ([table], [table[:1], table[1:2], table[2:]]):
        tracker = Tracker()
        groups = [tracker.add(window, int(window.time_ns[-1])) for window in windows]
        groups.append(tracker.finish())
        found = [g.table.frame[a:b].tolist() for g in groups for a, b in itertools.pairwise(g.first.tolist())]
        assert sorted(map(sorted, found)) == [[1], [2, 3]]


def test_a_part_that_begins_with_another_connection_fits() -> None:
    """Ports used again across the cut, with another ISN: nobody has to read again."""
    wire = Wire().handshake().c(5, 0, b"EHLO a\r\n")
    cut = len(wire.table())
    wire.isn = {"c": 90_000, "s": 80_000}
    table = wire.handshake(100).table()
    before, behind = Tracker(), Tracker(continues=True)
    assert not len(before.add(table[:cut], int(table.time_ns[cut - 1])))
    behind.add(table[cut:], int(table.time_ns[-1]))
    assert len(behind.finish()) == 1
    assert before.join(behind.hand_over())
    assert len(before.finish()) == 1


def test_a_syn_sent_again_across_the_cut_does_not_fit() -> None:
    """The part behind takes it for the beginning."""
    table = Wire().c(0, ack=None, flags=SYN).c(1000, ack=None, flags=SYN).handshake(3000).table()
    before, behind = Tracker(), Tracker(continues=True)
    before.add(table[:1], int(table.time_ns[0]))
    behind.add(table[1:], int(table.time_ns[-1]))
    behind.finish()
    assert not before.join(behind.hand_over())
