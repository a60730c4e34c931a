"""Packets and capture files out of parts, for the tests of this folder. Knows nothing of the package under test.

Recorded samples prove more than built bytes; these are for what no stack sends on request. That they are what they
claim to be is checked against tshark in test_wireshark.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

A4, B4 = IPv4Address("192.0.2.1").packed, IPv4Address("198.51.100.2").packed
A6, B6 = IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8:1::2").packed
MAC = b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 25,
    seq: int = 1,
    ack: int = 1,
    flags: int = 0x18,
    window: int = 1000,
    options: bytes = b"",
    offset: int | None = None,
) -> bytes:
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if offset is None else offset
    return struct.pack(">HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, window, 0, 0) + options + payload


def ip4(
    payload: bytes,
    *,
    protocol: int = 6,
    src: bytes = A4,
    dst: bytes = B4,
    ident: int = 7,
    df: bool = True,
    more: bool = False,
    offset: int = 0,
    options: bytes = b"",
    total: int | None = None,
    ttl: int = 64,
) -> bytes:
    """`offset` in bytes, a multiple of 8."""
    options += bytes(-len(options) % 4)
    head = 20 + len(options)
    part = df << 14 | more << 13 | offset // 8
    length = head + len(payload) if total is None else total
    return (
        struct.pack(">BBHHHBBH4s4s", 0x40 | head // 4, 0, length, ident, part, ttl, protocol, 0, src, dst)
        + options
        + payload
    )


def ip6(
    payload: bytes, *, protocol: int = 6, src: bytes = A6, dst: bytes = B6, length: int | None = None, hops: int = 60
) -> bytes:
    return (
        struct.pack(">IHBB", 6 << 28, len(payload) if length is None else length, protocol, hops) + src + dst + payload
    )


def extension(protocol: int, payload: bytes, size: int = 0) -> bytes:
    """A hop-by-hop, routing or destination header in front of `payload`, whose protocol is `protocol`."""
    return struct.pack("BB", protocol, size) + b"\x01\x04" + bytes(4 + 8 * size) + payload


def fragment6(protocol: int, payload: bytes, offset: int, more: bool, ident: int = 9) -> bytes:
    return struct.pack(">BBHI", protocol, 0, offset | more, ident) + payload


def udp(payload: bytes, dport: int, sport: int = 5000) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def ethernet(payload: bytes, ethertype: int = 0x0800, tags: Sequence[int] = ()) -> bytes:
    types = [*tags, ethertype]
    return MAC + b"".join(struct.pack(">HH", kind, 5) for kind in types[:-1]) + struct.pack(">H", ethertype) + payload


def cooked(payload: bytes, ethertype: int = 0x0800, kind: int = 0) -> bytes:
    return struct.pack(">HHH8sH", kind, 1, 6, bytes(8), ethertype) + payload


def cooked2(payload: bytes, ethertype: int = 0x0800, kind: int = 0) -> bytes:
    return struct.pack(">HHIHBB8s", ethertype, 0, 2, 1, kind, 6, bytes(8)) + payload


def vxlan(frame: bytes, port: int = 4789) -> bytes:
    return udp(b"\x08\0\0\0\0\0\x05\0" + frame, port)


def geneve(frame: bytes, ethertype: int = 0x6558, options: bytes = b"") -> bytes:
    return udp(struct.pack(">BBHI", len(options) // 4, 0, ethertype, 0x500) + options + frame, 6081)


def icmp4(quoted: bytes, kind: int = 3, code: int = 4, mtu: int = 1400) -> bytes:
    return struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quoted


def icmp6(quoted: bytes, kind: int = 2, code: int = 0, mtu: int = 1280) -> bytes:
    return struct.pack(">BBHI", kind, code, 0, mtu) + quoted


def pcap(
    packets: Iterable[bytes],
    *,
    link_type: int = 1,
    order: str = "<",
    nano: bool = False,
    snaplen: int = 262144,
    cut: int | None = None,
    start_s: int = 1_700_000_000,
) -> bytes:
    """A pcap, one packet per millisecond; `cut` = bytes kept of each packet."""
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link_type)]
    for i, packet in enumerate(packets):
        kept = packet if cut is None else packet[:cut]
        fraction = i % 1000 * (1_000_000 if nano else 1000)
        out.append(struct.pack(order + "IIII", start_s + i // 1000, fraction, len(kept), len(packet)) + kept)
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = 12 + len(body)
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, *, snaplen: int = 262144, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(
    packet: bytes,
    ticks: int = 0,
    *,
    interface_id: int = 0,
    original: int | None = None,
    options: bytes = b"",
    order: str = "<",
) -> bytes:
    head = struct.pack(
        order + "IIIII",
        interface_id,
        ticks >> 32,
        ticks & 0xFFFFFFFF,
        len(packet),
        len(packet) if original is None else original,
    )
    return block(6, head + packet + bytes(-len(packet) % 4) + options, order)


def simple(packet: bytes, original: int | None = None, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(packet) if original is None else original) + packet, order)


def old_packet(packet: bytes, ticks: int = 0, *, interface_id: int = 0, order: str = "<") -> bytes:
    head = struct.pack(order + "HHIIII", interface_id, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet))
    return block(2, head + packet, order)


def pcapng(packets: Iterable[bytes], *, link_type: int = 1, order: str = "<", start_s: int = 1_700_000_000) -> bytes:
    return (
        section(order)
        + interface(link_type, order=order)
        + b"".join(enhanced(p, (start_s * 1000 + i) * 1000, order=order) for i, p in enumerate(packets))
    )
