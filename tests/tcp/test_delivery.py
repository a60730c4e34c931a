"""The fate of each segment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from analyzer.capture.packets import RST
from analyzer.tcp.delivery import ACKED, LOST, NO_PAYLOAD, SACKED, UNKNOWN

from .wire import Wire


def test_a_resend_is_an_overlap_not_an_equal_number() -> None:
    """Four segments of 1448 sent again as 1348 and 100 are resends; new data is none."""
    d = Wire().handshake().c(1, 0, 1448).c(2, 1448, 1448).c(300, 0, 1348).c(301, 1348, 100).c(302, 2896, 10).trace().c2s
    assert d.resend.tolist() == [False, False, False, False, True, True, False]


def test_sent_once_means_that_no_byte_left_twice() -> None:
    d = Wire().handshake().c(1, 0, 1000).c(2, 1000, 1000).c(3, 2000, 500).c(300, 900, 200).trace().c2s
    assert d.sent_once.tolist()[2:] == [False, False, True, False]


def test_acknowledged_selectively_acknowledged_lost() -> None:
    wire = Wire().handshake().c(1, 0, 100).c(2, 100, 1448).c(3, 1548, 200)
    d = wire.s(4, 0, ack=100, sacks=((1548, 1748),)).trace().c2s
    assert d.fate.tolist() == [NO_PAYLOAD, NO_PAYLOAD, ACKED, LOST, SACKED]


def test_without_the_other_direction_the_fate_is_unknown() -> None:
    """A one-way capture proves no loss."""
    d = Wire().c(1, 0, 100).c(2, 0, 100).trace().c2s
    assert d.fate.tolist() == [UNKNOWN, UNKNOWN]
    assert d.acked is None


def test_a_d_sack_acknowledges_nothing_new() -> None:
    """RFC 2883: the first block below the ACK reports what came twice."""
    wire = Wire().handshake().c(1, 0, 100).s(2, ack=100).c(300, 0, 100).s(301, ack=100, sacks=((0, 100),))
    assert wire.trace().s2c.sacks == []


def test_sack_blocks_outside_of_what_was_sent_are_not_believed() -> None:
    """A firewall that shifts sequence numbers, and not the SACK option."""
    d = Wire().handshake().c(1, 0, 1448).c(2, 1448, 1448).s(3, ack=0, sacks=((500_000_000, 500_001_448),)).trace().s2c
    assert d.sacks == []
    assert d.sacks_outside == 1


def test_the_ack_field_of_a_reset_is_not_believed() -> None:
    d = Wire().handshake().c(1, 0, 100).s(2, ack=100).s(3, ack=1_000_000, flags=RST).trace().c2s
    assert d.acked == 100


def test_a_second_capture_of_a_packet_is_no_resend() -> None:
    """A router with `-i any` shows each packet twice: same IP id, microseconds apart, the hop limit one less."""
    wire = Wire().handshake().c(1, 0, 1448, ip_id=7).c(1.02, 0, 1448, ip_id=7, ttl=63).c(400, 0, 1448, ip_id=9)
    d = wire.trace().c2s
    assert d.duplicate.tolist()[2:] == [False, True, False]
    assert d.resend.tolist()[2:] == [False, False, True]


def test_the_window_is_scaled_when_both_sides_offered_it() -> None:
    d = Wire().handshake().s(1, window=10).trace().s2c
    assert d.window_bytes.tolist() == [500, 10 << 7]


def test_an_offloaded_frame_is_longer_than_the_wire_allows() -> None:
    d = Wire(mss=1460).handshake().c(1, 0, 5792).c(2, 5792, 1448).trace().c2s
    assert d.offloaded.tolist()[2:] == [True, False]


@given(
    isn=st.integers(0, 2**32 - 1),
    writes=st.lists(st.integers(1, 70_000), min_size=1, max_size=30),
)
def test_numbers_survive_the_wrap(isn: int, writes: list[int]) -> None:
    """Relative numbers grow past 2**32 - isn as if nothing had happened."""
    wire = Wire(client_isn=isn).handshake()
    at = 0
    for i, n in enumerate(writes):
        wire.c(10 + i, at, n)
        at += n
    d = wire.s(1000, ack=at).trace().c2s
    assert d.end.tolist()[-1] == at == d.acked
    assert not d.resend.any()
