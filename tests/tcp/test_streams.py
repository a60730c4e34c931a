"""Bytes in order, with gaps as values."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from analyzer.tcp.streams import Stream

from .wire import Wire


def client_stream(wire: Wire) -> Stream:
    return Stream(wire.trace().c2s)


def test_a_gap_is_a_value() -> None:
    """What was not captured is neither skipped nor invented."""
    s = client_stream(Wire().handshake().c(1, 0, b"EHLO a\r\n").c(2, 100, b"QUIT\r\n"))
    assert s.pieces() == [(0, b"EHLO a\r\n"), (100, b"QUIT\r\n")]
    assert s.end == 106


def test_the_end_is_known_from_a_jumped_sequence_number() -> None:
    """A pure ACK behind bytes that never came tells of them."""
    s = client_stream(Wire().handshake().c(1, 0, b"DATA\r\n").c(300, 14_486, b""))
    assert s.end == 14_486


def test_an_ack_of_a_fin_is_no_byte() -> None:
    s = client_stream(Wire().handshake().c(1, 0, b"QUIT\r\n").s(2, ack=7))
    assert s.end == 6


def test_the_first_capture_of_a_byte_wins_and_the_conflict_is_counted() -> None:
    s = client_stream(Wire().handshake().c(1, 0, b"AAAA").c(2, 2, b"BBBB"))
    assert s.pieces() == [(0, b"AAAABB")]
    assert s.conflicting_bytes == 2


def test_a_frame_cut_by_the_snap_length_leaves_a_gap() -> None:
    s = client_stream(Wire().handshake().c(1, 0, b"MAIL FROM:<a@b>\r\n", payload_captured=4).c(2, 17, b"X"))
    assert s.pieces() == [(0, b"MAIL"), (17, b"X")]


def test_cuts_are_where_one_segment_ends() -> None:
    s = client_stream(Wire().handshake().c(1, 0, b"body\r\n.").c(2, 7, b"\r\n"))
    assert s.cuts(4, 9) == [7]


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_segmentation_order_and_duplication_gives_the_same_bytes(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=8)))
    edges = [0, *[c for c in cuts if c < len(body)], len(body)]
    pieces = [(a, body[a:b]) for a, b in itertools.pairwise(edges)]
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=5))
    order = data.draw(st.permutations(pieces + again))
    wire = Wire().handshake()
    for i, (at, part) in enumerate(order):
        wire.c(10 + 10 * i, at, part)
    assert client_stream(wire).pieces() == [(0, body)]
