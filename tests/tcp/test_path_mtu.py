"""What packets say about the path MTU, and what only looks like it. Times of resends are those of real Linux stacks."""

from __future__ import annotations

from analyzer.capture.packets import FIN, IcmpError
from analyzer.tcp.path_mtu import Sighting, capture_point, examine, hops

from .wire import MS, START_NS, Wire, too_big

RESENDS_MS = (210, 630, 1470, 3100, 6600, 13_200)
EHLO = b"EHLO mail.example.org\r\n"
GREETING = b"220 mx.example.net ESMTP\r\n"
READY = b"354 go ahead\r\n"


def opening(wire: Wire) -> tuple[Wire, int, int]:
    """Handshake, greeting, one command, 354. Returns where the client's and the server's next bytes are."""
    wire.handshake().s(2, 0, GREETING).c(3, 0, EHLO, ack=len(GREETING))
    wire.s(4, len(GREETING), READY, ack=len(EHLO))
    return wire, len(EHLO), len(GREETING) + len(READY)


def seen(wire: Wire, icmp: tuple[IcmpError, ...] = (), end_ms: float = 30_000) -> Sighting:
    """The sighting of the client's data."""
    trace = wire.trace()
    trace.icmp = list(icmp)
    return examine(trace, START_NS + int(end_ms * MS))[0]


def body(wire: Wire, at: int, ack: int, sizes: tuple[int, ...], start_ms: float = 5) -> int:
    for i, n in enumerate(sizes):
        wire.c(start_ms + i / 100, at, n, ack=ack)
        at += n
    return at


def black_hole(tail: int = 500) -> tuple[Wire, int, int]:
    """Five full segments vanish, the short tail is selectively acknowledged, the first one is sent again and again."""
    wire, at, ack = opening(Wire())
    end = body(wire, at, ack, (1460,) * 5 + (tail,))
    wire.s(6, ack, ack=at, sacks=((end - tail, end),))
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    return wire, at, end


def test_a_silent_black_hole_resends_one_segment() -> None:
    s = seen(black_hole()[0])
    assert s.main is not None
    assert len(s.main.rows) == 7
    assert s.main.ip_bytes == 1500
    assert [(x.size, x.how) for x in s.small_passed] == [(540, "sack")]
    assert not s.peer_silent
    assert max(s.delivered) == 540


def test_a_resend_of_the_peer_that_stops_proves_that_small_packets_pass() -> None:
    """The server's 354 was acknowledged by lost data only: it comes once more, gets our pure ACK, and stops."""
    wire, at, ack = opening(Wire())
    body(wire, at, ack, (1460,) * 10)
    wire.s(230, ack - len(READY), READY, ack=at).c(231, at + 14_600, ack=ack)
    for t in RESENDS_MS:
        wire.c(t + 50, at, 1460, ack=ack)
    s = seen(wire)
    assert [x.how for x in s.small_passed] == ["peer-resend-stopped"]


def test_a_peer_that_goes_on_resending_proves_that_small_packets_die() -> None:
    """A firewall drops all packets of the client: its ACKs leave and change nothing."""
    wire, at, ack = opening(Wire())
    body(wire, at, ack, (1460,) * 10)
    for t in RESENDS_MS[:5]:
        wire.s(t, ack - len(READY), READY, ack=at).c(t + 1, at + 14_600, ack=ack)
    for t in RESENDS_MS:
        wire.c(t + 50, at, 1460, ack=ack)
    s = seen(wire)
    assert s.small_passed == []
    assert s.small_failed


def test_a_dead_path_is_silent_although_the_peer_owes_a_word() -> None:
    wire, at, ack = opening(Wire())
    body(wire, at, ack, (1460,) * 3)
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    s = seen(wire)
    assert s.peer_silent
    assert s.peer_owes_word


def test_a_silent_peer_that_was_acknowledged_owes_nothing() -> None:
    """Its 354 had been acknowledged by a packet of its own: silence then proves nothing."""
    wire, at, ack = opening(Wire())
    wire.c(4.5, at, ack=ack)
    body(wire, at, ack, (1460,) * 3)
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    s = seen(wire)
    assert s.peer_silent
    assert not s.peer_owes_word


def test_loss_that_ends_at_full_size_is_no_matter_of_size() -> None:
    wire, at, ack = opening(Wire())
    body(wire, at, ack, (1460,))
    for t in RESENDS_MS[:3]:
        wire.c(t, at, 1460, ack=ack)
    wire.s(1500, ack, ack=at + 1460)
    s = seen(wire)
    assert s.main is not None
    assert s.main.acked_ns is not None
    assert not s.main.shrank


def test_a_sender_that_cuts_smaller_and_passes_has_recovered() -> None:
    """Linux with tcp_mtu_probing=1: 1024 bytes of payload after about three seconds."""
    wire, at, ack = opening(Wire())
    body(wire, at, ack, (1460,))
    for t in RESENDS_MS[:3]:
        wire.c(t, at, 1460, ack=ack)
    wire.c(3100, at, 1024, ack=ack).s(3101, ack, ack=at + 1024)
    s = seen(wire)
    assert s.main is not None
    assert s.main.shrank
    assert (s.main.ip_bytes, s.main.passed_size) == (1500, 1064)


def test_the_size_of_an_offloaded_frame_says_nothing() -> None:
    """A frame of four segments that was sent again in single ones did not shrink, and delivered no 5 KB packet."""
    wire, at, ack = opening(Wire())
    wire.c(5, at, 5840, ack=ack)
    for t in RESENDS_MS[:3]:
        wire.c(t, at, 1460, ack=ack)
    wire.s(1500, ack, ack=at + 5840)
    s = seen(wire)
    assert s.main is not None
    assert not s.main.shrank
    assert max(s.delivered) < 1500


def test_the_last_piece_of_an_offloaded_frame_is_small() -> None:
    """What is stuck may be the remainder of the frame, not a full packet of it."""
    wire, at, ack = opening(Wire())
    wire.c(5, at, 2 * 1460 + 300, ack=ack)
    wire.s(6, ack, ack=at + 2920)
    for t in RESENDS_MS[:4]:
        wire.c(t, at + 2920, 300, ack=ack)
    s = seen(wire)
    assert s.main is not None
    assert s.main.sizes[0] == 340


def test_frames_joined_below_the_mss_are_no_packets() -> None:
    """With a learnt path MTU of 564 the card joins two segments of 524: 1088 bytes never were on the wire."""
    wire, at, ack = opening(Wire())
    end = body(wire, at, ack, (524, 524, 1048, 1048, 1048, 524))
    s = seen(wire.s(10, ack, ack=end))
    assert max(s.delivered) == 564


def test_a_shut_window_is_no_loss() -> None:
    wire, at, ack = opening(Wire())
    wire.s(4.5, ack, ack=at, window=0)
    for t in (5, *RESENDS_MS[:4]):
        wire.c(t, at, 1, ack=ack)
        wire.s(t + 1, ack, ack=at, window=0)
    assert seen(wire).window_shut


def receiver_side(wire: Wire) -> Wire:
    wire.ttl = {"c": 62, "s": 64}
    return wire


def test_at_the_receiver_a_hole_and_later_bytes() -> None:
    """Full segments never come, the short tail does, and the receiver's ACK stays before the hole."""
    wire, at, ack = opening(receiver_side(Wire()))
    wire.c(6, at + 4 * 1460, 500, ack=ack).s(7, ack, ack=at, sacks=((at + 5840, at + 6340),))
    hole = seen(wire).hole
    assert hole is not None
    assert (hole.bytes, hole.later, hole.fits_segments, hole.lost_ip_bytes) == (5840, "bytes", True, 1500)
    assert hole.s > 3


def test_at_the_receiver_a_pure_ack_that_jumped() -> None:
    """The server's 354 comes again; the ACK for it carries a sequence number far behind the hole."""
    wire, at, ack = opening(receiver_side(Wire()))
    wire.s(210, ack - len(READY), READY, ack=at).c(211, at + 14_600, ack=ack)
    hole = seen(wire).hole
    assert hole is not None
    assert (hole.bytes, hole.later, hole.segments) == (14_600, "jumped-ack", 10)
    assert hole.peer_resend_answered


def test_a_hole_that_the_ack_went_past_is_the_captures_own() -> None:
    wire, at, ack = opening(receiver_side(Wire()))
    wire.c(6, at + 1460, 500, ack=ack).s(7, ack, ack=at + 1960)
    s = seen(wire)
    assert s.hole is None
    assert s.ack_past_hole == 1460


def test_a_hole_filled_by_smaller_packets_is_a_recovery_seen_from_behind() -> None:
    wire, at, ack = opening(receiver_side(Wire()))
    wire.c(6, at + 1460, 500, ack=ack).s(7, ack, ack=at, sacks=((at + 1460, at + 1960),))
    wire.c(3100, at, 1024, ack=ack).c(3101, at + 1024, 436, ack=ack).s(3102, ack, ack=at + 1960)
    hole = seen(wire).hole
    assert hole is not None
    assert hole.filled_ns is not None
    assert hole.fill_sizes == [1064, 476]


def test_reordering_is_told_from_loss_by_the_order_of_sending() -> None:
    """At the receiver: the late packet carries the earlier IP id, so it was overtaken, not sent again."""
    overtaken, at, ack = opening(receiver_side(Wire()))
    overtaken.c(6, at + 1000, 1000, ack=ack, ip_id=501).c(6.4, at, 1000, ack=ack, ip_id=500).s(7, ack, ack=at + 2000)
    resent, at, ack = opening(receiver_side(Wire()))
    resent.c(6, at + 1000, 1000, ack=ack, ip_id=501).c(6.4, at, 1000, ack=ack, ip_id=502).s(7, ack, ack=at + 2000)
    assert (seen(overtaken).lost_segments, seen(resent).lost_segments) == (0, 1)


def test_icmp_in_flight_is_believed_and_what_follows_is_counted() -> None:
    """Resends above the MTU count from one RTT and 200 ms after the ICMP: what was queued before does not."""
    wire, at, _ = black_hole()
    (icmp,) = seen(wire, (too_big(50, 1400, at),)).icmp
    assert icmp.suspicion is None
    assert len(icmp.resends_above) == 5  # the one after 210 ms may have been on its way
    assert not icmp.shrank


def test_icmp_that_no_stack_should_believe() -> None:
    """RFC 5927: a sequence number outside of what is under way. RFC 1191: an MTU that is not smaller, or under 68."""
    wire, at, _ = black_hole()
    errors = (
        too_big(5.5, 1400, at + 500_000),
        too_big(5.6, 1500, at),
        too_big(5.7, 40, at),
        too_big(5.8, 0, at),
    )
    assert [i.suspicion for i in seen(wire, errors).icmp] == [
        "sequence-outside-window",
        "mtu-not-below-packet",
        "mtu-under-floor",
        None,  # a router older than RFC 1191
    ]


def test_working_discovery_shrinks_and_goes_on() -> None:
    wire, at, ack = opening(Wire())
    end = body(wire, at, ack, (1460,) * 4)
    for i, (a, n) in enumerate(((0, 1360), (1360, 1360), (2720, 1360), (4080, 1360), (5440, 400))):
        wire.c(6 + i / 100, at + a, n, ack=ack)
    wire.s(8, ack, ack=end)
    (icmp,) = seen(wire, (too_big(5.5, 1400, at),)).icmp
    assert (icmp.suspicion, icmp.resends_above, icmp.shrank, icmp.went_on) == (None, [], True, True)


def test_a_one_way_capture_infers_what_was_acknowledged() -> None:
    """TCP sends the first unacknowledged byte again: what lies before it arrived."""
    wire = Wire().c(0, 0, 1460).c(1, 1460, 1460)
    for t in RESENDS_MS:
        wire.c(t, 1460, 1460)
    s = seen(wire)
    assert s.main is not None
    assert s.delivered == {1500: (1, START_NS, START_NS)}


def test_damaged_packets_are_told_from_checksums_that_nobody_computed() -> None:
    """Crafted packets carry no headers here, so no checksum can be judged, and none is called wrong."""
    assert seen(black_hole()[0]).bad_checksums == []


def test_routers_passed_are_counted_from_the_nearest_initial_ttl() -> None:
    import numpy as np

    assert [hops(np.array([ttl], np.uint8)) for ttl in (64, 61, 128, 120, 255, 250)] == [0, 3, 0, 8, 0, 5]


def test_the_point_of_capture() -> None:
    wire = Wire().handshake()
    assert capture_point(wire.trace()) == ("at_sender", "at_receiver")
    wire.ttl = {"c": 63, "s": 63}
    middle = Wire()
    middle.ttl = {"c": 63, "s": 63}
    assert capture_point(middle.handshake().trace()) == ("middle", "middle")
    assert capture_point(receiver_side(Wire()).handshake().trace()) == ("at_receiver", "at_sender")


def test_a_fin_of_the_server_that_is_answered_and_stops_is_proof_too() -> None:
    """The server gave up first: 421 and FIN, acknowledged by us, not sent again."""
    wire, at, ack = opening(Wire())
    wire.c(4.5, at, ack=ack)
    body(wire, at, ack, (1460,) * 3)
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    wire.s(14_000, ack, b"421 timeout\r\n", ack=at, flags=FIN).c(14_001, at + 4380, ack=ack + 14)
    assert [x.how for x in seen(wire).small_passed] == ["peer-resend-stopped"]


def test_what_the_sender_went_on_behind_was_acknowledged_in_a_one_way_capture() -> None:
    """New data after the last resend: the resends got through in the end, at full size."""
    wire = Wire().c(0, 0, 1460).c(1, 1460, 1460)
    for t in RESENDS_MS[:4]:
        wire.c(t, 1460, 1460)
    wire.c(3200, 2920, b"QUIT\r\n")
    s = seen(wire)
    assert s.main is None
    assert not s.direction.peer.seq.size


def test_the_first_acknowledgment_of_a_byte_is_no_duplicate() -> None:
    """Without SACK and handshake: only an ACK that comes again says that something beyond the hole arrived."""
    wire = Wire(sack=False).c(0, 0, 1460).c(1, 1460, 1460).c(1.1, 2920, 500)
    wire.s(3, ack=1460)
    for t in RESENDS_MS:
        wire.c(t, 1460, 1460)
    assert seen(wire).small_passed == []
    again = Wire(sack=False).c(0, 0, 1460).c(1, 1460, 1460).c(1.1, 2920, 500)
    again.s(3, ack=1460).s(3.1, ack=1460)
    for t in RESENDS_MS:
        again.c(t, 1460, 1460)
    assert [(x.size, x.how) for x in seen(again).small_passed] == [(540, "ack")]


def test_without_sack_the_last_piece_of_an_offloaded_frame_is_what_passed() -> None:
    wire, at, ack = opening(Wire(sack=False))
    wire.c(5, at, 2920, ack=ack).c(5.1, at + 2920, 2920 + 700, ack=ack)
    wire.s(6, ack, ack=at)
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    assert [(x.size, x.how) for x in seen(wire).small_passed] == [(740, "ack")]


def test_an_acknowledgment_that_the_sender_never_got_does_not_end_its_resends() -> None:
    """In the middle of a path that died behind this point, the last ACKs pass by and are lost later."""
    wire, at, ack = opening(Wire())
    end = body(wire, at, ack, (1460,) * 4)
    wire.s(6, ack, ack=end)
    for t in RESENDS_MS:
        wire.c(t, at, 1460, ack=ack)
    s = seen(wire)
    assert s.main is not None
    assert s.main.acked_ns is None
    assert s.peer_silent


def test_an_icmp_may_be_a_few_milliseconds_out_of_order() -> None:
    """Interfaces of one host hand their packets over in turn."""
    wire, at, _ = black_hole()
    (icmp,) = seen(wire, (too_big(4.5, 1400, at),)).icmp  # before the packet that it quotes
    assert icmp.suspicion is None


def test_an_icmp_about_bytes_below_the_first_of_a_late_capture_is_believed() -> None:
    """A capture that begins with later bytes: the resends that follow lie below what was seen first."""
    wire = Wire().c(0, 14_600, 1460)
    for t in RESENDS_MS:
        wire.c(t, 0, 1460)
    wire.s(20_000, ack=0)
    (icmp,) = seen(wire, (too_big(250, 1400, 0),)).icmp
    assert icmp.suspicion is None
    assert len(icmp.resends_above) == 5
