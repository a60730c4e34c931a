"""The exact engine sees through encapsulations, puts fragments together, and believes nothing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from analyzer.capture import exact, fragments

from . import build
from .tables import Result, read_all

SEGMENT = build.tcp(b"MAIL FROM:<a@example.org>\r\n", seq=99)
INNER = build.ip4(SEGMENT)
INNER6 = build.ip6(SEGMENT)
OUTER: dict[str, Any] = {"src": b"\x0a\0\0\1", "dst": b"\x0a\0\0\2", "df": False}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "capture"


def read_frames(scratch: Path, *frames: bytes, link_type: int = 1, **options: Any) -> Result:
    scratch.write_bytes(build.pcap(frames, link_type=link_type, cut=options.pop("cut", None)))
    return read_all(scratch, **options)


def gre(inner: bytes, ethertype: int = 0x0800, flags: int = 0, extra: bytes = b"") -> bytes:
    return build.ip4(struct.pack(">HH", flags, ethertype) + extra + inner, protocol=47, **OUTER)


ENCAPSULATIONS = {
    "QinQ": (build.ethernet(INNER, tags=[0x88A8, 0x8100]), 0),
    "three tags": (build.ethernet(INNER, tags=[0x88A8, 0x8100, 0x8100]), 0),
    "MPLS": (build.ethernet(struct.pack(">II", 16 << 12 | 64, 17 << 12 | 0x100 | 64) + INNER, 0x8847), 0),
    "MPLS, IPv6": (build.ethernet(struct.pack(">I", 17 << 12 | 0x100 | 64) + INNER6, 0x8847), 0),
    "Ethernet over MPLS": (build.ethernet(struct.pack(">II", 17 << 12 | 0x100, 0) + build.ethernet(INNER), 0x8847), 0),
    "PPPoE": (build.ethernet(struct.pack(">BBHHH", 0x11, 0, 5, len(INNER) + 2, 0x0021) + INNER, 0x8864), 0),
    "PPPoE, IPv6": (build.ethernet(struct.pack(">BBHHH", 0x11, 0, 5, len(INNER6) + 2, 0x0057) + INNER6, 0x8864), 0),
    "IPIP": (build.ethernet(build.ip4(INNER, protocol=4, **OUTER)), 1),
    "6in4": (build.ethernet(build.ip4(INNER6, protocol=41, **OUTER)), 1),
    "4in6": (build.ethernet(build.ip6(INNER, protocol=4), 0x86DD), 1),
    "GRE": (build.ethernet(gre(INNER)), 1),
    "GRE with checksum, key, sequence": (build.ethernet(gre(INNER, flags=0xB000, extra=bytes(12))), 1),
    "gretap": (build.ethernet(gre(build.ethernet(INNER), 0x6558)), 1),
    "PPTP": (build.ethernet(gre(b"\xff\x03\x00\x21" + INNER, 0x880B, 0x3081, bytes(12))), 1),
    "VXLAN": (build.ethernet(build.ip4(build.vxlan(build.ethernet(INNER)), protocol=17, **OUTER)), 1),
    "VXLAN, old port": (build.ethernet(build.ip4(build.vxlan(build.ethernet(INNER), 8472), protocol=17, **OUTER)), 1),
    "GENEVE": (
        build.ethernet(build.ip4(build.geneve(build.ethernet(INNER), options=bytes(8)), protocol=17, **OUTER)),
        1,
    ),
    "GENEVE, IP inside": (build.ethernet(build.ip4(build.geneve(INNER, 0x0800), protocol=17, **OUTER)), 1),
    "IP options": (build.ethernet(build.ip4(SEGMENT, options=b"\x94\x04\0\0")), 0),
    "extension headers": (
        build.ethernet(build.ip6(build.extension(43, build.extension(6, SEGMENT, 1)), protocol=0), 0x86DD),
        0,
    ),
    "atomic fragment": (build.ethernet(build.ip6(build.fragment6(6, SEGMENT, 0, False), protocol=44), 0x86DD), 0),
    "SNAP": (build.MAC + struct.pack(">H", len(INNER) + 8) + b"\xaa\xaa\x03\0\0\0\x08\0" + INNER, 0),
    "VLAN in VXLAN in VLAN": (
        build.ethernet(
            build.ip4(build.vxlan(build.ethernet(INNER, tags=[0x8100])), protocol=17, **OUTER), tags=[0x8100]
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", ENCAPSULATIONS)
def test_encapsulations(scratch: Path, name: str) -> None:
    """The innermost TCP packet is found; inner and outer sizes are kept apart."""
    frame, depth = ENCAPSULATIONS[name]
    table = read_frames(scratch, frame).packets
    assert table.seq.tolist() == [99]
    assert table.payload(0) == b"MAIL FROM:<a@example.org>\r\n"
    assert table.tunnel_depth.tolist() == [depth]
    assert table.ip_bytes[0] >= len(SEGMENT) + 20
    assert (table.outer_bytes[0] > table.ip_bytes[0]) if depth else (table.outer_bytes[0] == 0)


LINKS = {
    0: struct.pack("<I", 30) + INNER6,
    9: b"\xff\x03\x00\x21" + INNER,
    12: INNER,
    50: b"\xff\x03\x00\x57" + INNER6,
    51: struct.pack(">BBHHH", 0x11, 0, 5, len(INNER) + 2, 0x0021) + INNER,
    101: INNER6,
    104: b"\x0f\0\x08\0" + INNER,
    108: struct.pack(">I", 2) + INNER,
    113: build.cooked(INNER),
    228: INNER,
    229: INNER6,
    276: build.cooked2(INNER6, 0x86DD),
}


@pytest.mark.parametrize("link_type", LINKS)
def test_link_types(scratch: Path, link_type: int) -> None:
    """Every link type leads to the IP header."""
    table = read_frames(scratch, LINKS[link_type], link_type=link_type).packets
    assert table.seq.tolist() == [99]


def nested(depth: int) -> bytes:
    packet = INNER
    for _ in range(depth):
        packet = build.ip4(packet, protocol=4)
    return build.ethernet(packet)


def test_nesting_ends_at_a_limit(scratch: Path) -> None:
    """Eight IP headers around the inner one are followed; more, and long rows of tags or labels, are counted and said."""
    assert read_frames(scratch, nested(exact.MAX_DEPTH)).packets.tunnel_depth.tolist() == [8]
    labels = struct.pack(">I", 16 << 12) * 64 + struct.pack(">I", 0x100)
    result = read_frames(
        scratch,
        nested(9),
        nested(64),
        build.ethernet(INNER, tags=[0x8100] * 64),
        build.ethernet(labels + INNER, 0x8847),
    )
    assert len(result.packets) == 0
    assert result.counts["too-deep"] == 4
    assert result.problems == ["4 frames have more than 8 tunnels or tags inside each other: they were not read"]


def pieces(ip: bytes, size: int) -> list[bytes]:
    """An IPv4 packet cut into fragments of `size` payload bytes (a multiple of 8)."""
    data = ip[20:]
    return [
        build.ethernet(build.ip4(data[at : at + size], more=at + size < len(data), offset=at, df=False, ident=5))
        for at in range(0, len(data), size)
    ]


BIG = build.ip4(build.tcp(b"0123456789" * 30, seq=7))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_fragments_are_put_together(scratch: Path, order: list[int]) -> None:
    """In any order; the row stands at the first fragment, with the whole packet's size and the largest fragment's."""
    cut = pieces(BIG, 128)
    assert len(cut) == 3
    result = read_frames(scratch, *(cut[i] for i in order))
    table = result.packets
    assert table.seq.tolist() == [7]
    assert table.frame.tolist() == [order.index(0) + 1]
    assert table.payload(0) == b"0123456789" * 30
    assert (table.fragments[0], table.fragment_bytes[0], table.ip_bytes[0], bool(table.df[0])) == (3, 148, 340, False)
    assert result.counts["fragments"] == 2


def test_ipv6_fragments(scratch: Path) -> None:
    """Behind the fragment header."""
    segment = build.tcp(b"0123456789" * 30, seq=7)
    frames = [
        build.ethernet(build.ip6(build.fragment6(6, segment[at : at + 160], at, at == 0), protocol=44), 0x86DD)
        for at in (0, 160)
    ]
    table = read_frames(scratch, *frames).packets
    assert table.payload(0) == b"0123456789" * 30
    assert (table.fragments[0], table.fragment_bytes[0], table.ip_bytes[0]) == (2, 208, 360)


def test_a_fragment_that_never_came(scratch: Path) -> None:
    """An unfinished datagram was delivered to nobody: no row."""
    result = read_frames(scratch, *pieces(BIG, 128)[:2])
    assert len(result.packets) == 0
    assert result.counts["fragments"] == 2


def test_a_repeated_fragment_is_a_duplicate_of_the_capture(scratch: Path) -> None:
    """Captures on `any` show every fragment twice."""
    cut = pieces(BIG, 128)
    result = read_frames(scratch, cut[0], cut[0], cut[1], cut[1], cut[2])
    assert result.packets.payload(0) == b"0123456789" * 30
    assert result.packets.fragments.tolist() == [3]


def test_overlapping_fragments_condemn_the_datagram(scratch: Path) -> None:
    """RFC 5722: nobody can say which reading the receiver took."""
    cut = pieces(BIG, 128)
    teardrop = build.ethernet(build.ip4(BIG[20 + 120 : 20 + 248], more=True, offset=120, df=False, ident=5))
    result = read_frames(scratch, cut[0], teardrop, cut[1], cut[2])
    assert len(result.packets) == 0
    assert result.counts["fragment-overlaps"] == 3


def test_fragments_cut_by_the_snap_length(scratch: Path) -> None:
    """Lengths come from the headers; payload is believed up to the first byte that was not captured."""
    table = read_frames(scratch, *pieces(BIG, 128), cut=100).packets
    assert (table.payload_bytes[0], table.payload_captured[0]) == (300, 46)


def test_a_tunnel_in_fragments(scratch: Path) -> None:
    """The outer packet is put together first; the inner one was sent whole."""
    table = read_frames(scratch, *pieces(build.ip4(BIG, protocol=4), 128), engine="dpkt").packets
    assert len(table) == 0  # the pieces above claim TCP; what they hold is no TCP header
    data = BIG
    frames = [
        build.ethernet(build.ip4(data[at : at + 128], protocol=4, more=at + 128 < len(data), offset=at, df=False))
        for at in range(0, len(data), 128)
    ]
    table = read_frames(scratch, *frames).packets
    assert table.payload(0) == b"0123456789" * 30
    assert (table.tunnel_depth[0], table.ip_bytes[0], table.outer_bytes[0]) == (1, 340, 360)


def test_unfinished_datagrams_are_bounded() -> None:
    """A flood of first fragments costs a fixed amount of memory."""
    reassembly = fragments.Reassembly()
    piece = fragments.Fragment(0, 1400, True, 1420, bytes(20), bytes(1400), 0, {})
    for ident in range(100_000):
        assert reassembly.add((1, 1, 2, ident, 6), piece) == "fragments"
    assert len(reassembly.snapshot()[0]) <= fragments.MAX_PENDING


@pytest.mark.parametrize("quote", [None, 28, 24, 20])
def test_icmp_errors_quote_tcp_packets(scratch: Path, quote: int | None) -> None:
    """What the quote is too short for is None."""
    quoted = INNER[:quote]
    result = read_frames(scratch, build.ethernet(build.ip4(build.icmp4(quoted), protocol=1, ttl=63)))
    (error,) = result.icmp
    assert error.is_too_big
    assert (error.mtu, error.type, error.code, error.ttl, error.frame) == (1400, 3, 4, 63, 1)
    assert error.quoted_ip_bytes == len(INNER)
    assert error.quoted_df is True
    assert error.quoted_src == 0xFFFF << 32 | int.from_bytes(build.A4)
    assert (error.quoted_src_port, error.quoted_dst_port) == ((None, None) if quote == 20 else (40000, 25))
    assert error.quoted_seq == (99 if quote in (None, 28) else None)


def test_packet_too_big_of_ipv6(scratch: Path) -> None:
    """RFC 4443: the MTU has 32 bits."""
    result = read_frames(scratch, build.ethernet(build.ip6(build.icmp6(INNER6[:60], mtu=1280), protocol=58), 0x86DD))
    (error,) = result.icmp
    assert error.is_too_big
    assert (error.mtu, error.quoted_seq, error.quoted_ip_bytes) == (1280, 99, len(INNER6))


@pytest.mark.parametrize(
    "quoted",
    [
        b"",
        b"E",
        bytes(60),
        build.ip4(build.udp(b"", 53), protocol=17),
        build.ip4(SEGMENT, offset=8),
        b"\x4f" + INNER[1:20],
    ],
)
def test_icmp_that_quotes_something_else(scratch: Path, quoted: bytes) -> None:
    """Garbage, UDP, later fragments: not about a TCP packet of ours."""
    result = read_frames(scratch, build.ethernet(build.ip4(build.icmp4(quoted), protocol=1)))
    assert [e for e in result.icmp if e.quoted_src_port is not None] == []
    assert len(result.packets) == 0


def test_ip_length_zero_takes_the_frame(scratch: Path) -> None:
    """A capture before segmentation offload may say 0."""
    table = read_frames(
        scratch, build.ethernet(build.ip4(SEGMENT, total=0)), build.ethernet(build.ip6(SEGMENT, length=0), 0x86DD)
    ).packets
    assert table.ip_bytes.tolist() == [20 + len(SEGMENT), 40 + len(SEGMENT)]
    assert table.payload_bytes.tolist() == [27, 27]


@pytest.mark.parametrize("engine", ["columnar", "dpkt"])
def test_snap_length_68(scratch: Path, engine: str) -> None:
    """IPv4 headers are whole; IPv6 ones end before the window, which is then not zero but unknown."""
    result = read_frames(scratch, build.ethernet(INNER), build.ethernet(INNER6, 0x86DD), cut=68, engine=engine)
    table = result.packets
    assert table.seq.tolist() == [99, 99]
    assert table.payload_bytes.tolist() == [27, 27]
    assert table.payload_captured.tolist() == [14, 0]
    assert table.window.tolist() == [1000, exact.UNKNOWN_WINDOW]
