"""The exact engine: packet by packet, through every encapsulation, with dpkt reading the IP and TCP headers.

It is the reference that the columnar engine is measured against, and the way for what that one declines: tunnels, IP
options, extension headers, fragments, ICMP errors, rare link types. It believes no length and raises for no bytes.

Headers outside the innermost IP packet are peeled one at a time:

    link type -> ethertype -> (VLAN, MPLS, PPPoE ...) -> IP -> (extension headers) -> TCP
                     ^                                    |
                     +---- GRE, VXLAN, GENEVE, IP in IP --+
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .fragments import Fragment, Reassembly
from .framing import Records
from .packets import COLUMNS, IcmpError, PacketTable
from .wanted import Tally, Wanted, is_greeting

# Tunnels inside tunnels, and tags or labels in a row: real networks nest two or three; more is an attack on decoders.
MAX_DEPTH = 8
# A TCP header cut short of its window field (byte 16) by a small snap length still tells sequence numbers and flags.
MIN_TCP_BYTES = 14
UNKNOWN_WINDOW = 65535

IP4, IP6, VLANS = 0x0800, 0x86DD, frozenset({0x8100, 0x88A8, 0x9100})
MPLS, PPPOE_SESSION, TRANSPARENT_ETHERNET = frozenset({0x8847, 0x8848}), 0x8864, 0x6558
PPP_PROTOCOLS = {0x0021: IP4, 0x0057: IP6}  # RFC 1332, RFC 5072

ICMP, IP_IN_IP, TCP, UDP, IP6_IN_IP, GRE, ICMP6 = 1, 4, 6, 17, 41, 47, 58
FRAGMENT, AUTHENTICATION = 44, 51
SIZED_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})  # hop-by-hop, routing, destination, mobility, HIP, shim6
VXLAN_PORTS, GENEVE_PORT = frozenset({4789, 8472}), 6081  # RFC 7348 and Linux's default before it; RFC 8926
# Only what can lead to a TCP header is put together again.
REASSEMBLED = frozenset({TCP, IP_IN_IP, IP6_IN_IP, GRE})

# Errors that quote a packet; the informational types do not (RFC 792, RFC 4443).
ICMP_ERRORS, ICMP6_ERRORS = frozenset({3, 4, 5, 11, 12}), frozenset({1, 2, 3, 4})


class _Stop(Exception):
    """A frame that gives no row; the name under which it is counted."""


class _Bytes(NamedTuple):
    """Contiguous bytes of a packet, and where they lie in one of the table's buffers."""

    data: bytes  # what was captured
    end: int  # where the packet ends on the wire, counted like the indices of `data`
    base: int  # offset of data[0] in the buffer
    buffer: int  # 0 = the window, 1 = reassembled datagrams
    frame: dict[str, int]  # the columns that describe the frame
    fragments: int = 0
    fragment_bytes: int = 0


class _Ip(NamedTuple):
    """An IP header that was read."""

    version: int
    at: int
    src: int
    dst: int
    ident: int
    ttl: int
    df: bool
    total: int  # bytes, headers included
    end: int
    depth: int
    outer_bytes: int


class Decoder:
    """Turns records into rows; keeps the fragments of unfinished datagrams from window to window."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.reassembly = Reassembly()

    def decode(
        self, records: Records, rows: Iterable[int], capture: int, tally: Tally
    ) -> tuple[PacketTable, list[IcmpError]]:
        """The wanted TCP packets and ICMP errors among these records; the others are counted in `tally`."""
        self._records, self._capture, self._tally = records, capture, tally
        self._rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._blocks: list[tuple[int, int]] = []
        self._icmp: list[IcmpError] = []
        self._arena = bytearray()
        memory = memoryview(records.buffer)
        for i in rows:
            at, captured = int(records.at[i]), int(records.captured[i])
            # The original length is not believed where less was sent than captured (some writers leave it 0).
            whole = max(int(records.original[i]), captured)
            data = bytes(memory[at : at + captured])
            self._frame(_Bytes(data, whole, at, 0, self._of_frame(i, data)), int(records.link_type[i]))
        del memory
        table = self._table()
        del self._records  # it holds on to the window
        return table, self._icmp

    def _frame(self, packet: _Bytes, link_type: int) -> None:
        link = LINKS.get(link_type)
        if link is None:
            self._tally.unknown_link(link_type)
            return
        try:
            ethertype, at = link(packet.data, 0)
            self._network(packet, ethertype, at, depth=0, outer_bytes=0)
        except _Stop as reason:
            self._tally.add(str(reason))

    # Network layer.

    def _network(self, packet: _Bytes, ethertype: int, at: int, depth: int, outer_bytes: int) -> None:
        """Peels tags and labels until an IP header lies at `at`."""
        for _ in range(MAX_DEPTH + 1):
            if ethertype == IP4:
                self._ip4(packet, at, depth, outer_bytes)
                return
            if ethertype == IP6:
                self._ip6(packet, at, depth, outer_bytes)
                return
            if ethertype in VLANS:
                (ethertype,) = _take(">2xH", packet.data, at)
                at += 4
                if ethertype < 0x0600:
                    raise _Stop("not-ip")
            elif ethertype in MPLS:
                ethertype, at = _below_mpls(packet.data, at)
            elif ethertype == PPPOE_SESSION:
                ethertype, at = _pppoe(packet.data, at)
            elif ethertype == TRANSPARENT_ETHERNET:
                ethertype, at = _ethernet(packet.data, at)
            else:
                raise _Stop("not-ip")
        raise _Stop("too-deep")

    def _ip4(self, packet: _Bytes, at: int, depth: int, outer_bytes: int) -> None:
        header = _ip4_header(packet.data, at)
        header_bytes = header.hl * 4
        room = packet.end - at
        total = header.len or room  # 0 where the network card was to cut the packet (TSO)
        if header.v != 4 or header_bytes < 20 or total < header_bytes:
            raise _Stop("undecodable")
        protocol, offset, more = packet.data[at + 9], header.offset * 8, bool(header.mf)
        ip = _Ip(
            version=4,
            at=at,
            src=_mapped(header.src),
            dst=_mapped(header.dst),
            ident=header.id,
            ttl=header.ttl,
            df=bool(header.df),
            total=total,
            end=at + total,
            depth=depth,
            outer_bytes=outer_bytes,
        )
        if (offset or more) and protocol in REASSEMBLED:
            self._fragment(packet, ip, protocol, at + header_bytes, offset, more, (header.id, protocol))
        elif offset:
            raise _Stop("not-tcp")
        else:
            self._transport(packet, ip, protocol, at + header_bytes)

    def _ip6(self, packet: _Bytes, at: int, depth: int, outer_bytes: int) -> None:
        header = _ip6_header(packet.data, at)
        if header.v != 6:
            raise _Stop("undecodable")
        total = 40 + header.plen if header.plen else packet.end - at
        ip = _Ip(
            version=6,
            at=at,
            src=int.from_bytes(header.src),
            dst=int.from_bytes(header.dst),
            ident=0,
            ttl=header.hlim,
            df=True,
            total=total,
            end=at + total,
            depth=depth,
            outer_bytes=outer_bytes,
        )
        if total < 40:
            raise _Stop("undecodable")
        protocol, at, fragment = _below_extensions(packet.data, packet.data[at + 6], at + 40)
        if fragment is not None:
            offset, more, ident = fragment
            if protocol in REASSEMBLED and (offset or more):
                self._fragment(packet, ip, protocol, at, offset, more, (ident, -1))
                return
            if offset:
                raise _Stop("not-tcp")
        self._transport(packet, ip, protocol, at)

    def _transport(self, packet: _Bytes, ip: _Ip, protocol: int, at: int) -> None:
        if at > ip.end:
            raise _Stop("undecodable")
        if protocol == TCP:
            self._tcp(packet, ip, at)
        elif protocol == ICMP and ip.version == 4:
            self._icmp_error(packet, ip, at, ICMP_ERRORS)
        elif protocol == ICMP6 and ip.version == 6:
            self._icmp_error(packet, ip, at, ICMP6_ERRORS)
        else:
            self._tunnel(packet, ip, protocol, at)

    def _tunnel(self, packet: _Bytes, ip: _Ip, protocol: int, at: int) -> None:
        """Goes on with the packet that this one carries."""
        inner = self._inside(packet, protocol, at)
        if inner is None:
            raise _Stop("not-tcp")
        if ip.depth >= MAX_DEPTH:
            raise _Stop("too-deep")
        ethertype, at = inner
        # The tunnel's packet ends what is inside, so that padding of the frame is not taken for data.
        packet = packet._replace(end=min(packet.end, ip.end))
        self._network(packet, ethertype, at, ip.depth + 1, ip.outer_bytes or ip.total)

    def _inside(self, packet: _Bytes, protocol: int, at: int) -> tuple[int, int] | None:
        """The ethertype and place of what a tunnel carries, or None if this is no tunnel."""
        if protocol == IP_IN_IP:
            return IP4, at
        if protocol == IP6_IN_IP:
            return IP6, at
        if protocol == GRE:
            return _below_gre(packet.data, at)
        if protocol == UDP:
            (port,) = _take(">2xH4x", packet.data, at)
            if port in VXLAN_PORTS:
                (flags,) = _take("B7x", packet.data, at + 8)
                return _ethernet(packet.data, at + 16) if flags & 0x08 else None
            if port == GENEVE_PORT:
                version_length, ethertype = _take(">BxH4x", packet.data, at + 8)
                return ethertype, at + 16 + (version_length & 0x3F) * 4
        return None

    def _fragment(
        self, packet: _Bytes, ip: _Ip, protocol: int, at: int, offset: int, more: bool, ident: tuple[int, int]
    ) -> None:
        """Takes in one fragment; when it completes its datagram, goes on with the whole."""
        length = ip.end - at
        if length < 0 or offset + length > 65535 or packet.fragments:  # a datagram inside fragments is cut only once
            raise _Stop("undecodable")
        piece = Fragment(
            offset=offset,
            length=length,
            more=more,
            ip_bytes=ip.total,
            header=packet.data[ip.at : at] if ip.version == 4 else packet.data[ip.at : ip.at + 40],
            data=packet.data[at : ip.end],
            time_ns=packet.frame["time_ns"],
            frame=packet.frame,
        )
        outcome = self.reassembly.add((self._capture, ip.src, ip.dst, *ident), piece)
        if isinstance(outcome, str):
            raise _Stop(outcome)
        header = outcome.first.header
        base = len(self._arena)
        self._arena += header + outcome.data
        whole = _Bytes(
            data=header + outcome.data[: outcome.captured],
            end=len(header) + len(outcome.data),
            base=base,
            buffer=1,
            frame=outcome.first.frame,
            fragments=min(outcome.pieces, 255),
            fragment_bytes=outcome.largest,
        )
        first = struct.unpack_from(">6xHB", header) if ip.version == 4 else None
        ip = ip._replace(at=0, total=whole.end, end=whole.end, df=bool(first[0] & 0x4000) if first else True)
        self._transport(whole, ip._replace(ttl=first[1] if first else header[7]), protocol, len(header))

    # Transport layer.

    def _tcp(self, packet: _Bytes, ip: _Ip, at: int) -> None:
        data = packet.data[at : min(ip.end, len(packet.data))]
        src_port, dst_port = _take(">HH", data, 0)
        if not self.wanted.connection(ip.src, src_port, ip.dst, dst_port):
            if self.wanted.discovers and len(data) > 12 and is_greeting(data[(data[12] >> 4) * 4 :][:5]):
                self._tally.greeted.add(dst_port)
            self._tally.other_tcp(src_port, dst_port)
            return
        if len(data) < MIN_TCP_BYTES:
            raise _Stop("undecodable")
        import dpkt

        try:
            segment = dpkt.tcp.TCP(data[:20].ljust(20, b"\0"))
        except dpkt.UnpackError:
            raise _Stop("undecodable") from None
        header_bytes = segment.off * 4
        payload_bytes = ip.end - at - header_bytes
        if payload_bytes < 0:
            raise _Stop("undecodable")
        payload_captured = max(0, min(len(packet.data), ip.end) - at - header_bytes)
        options = _options(data[20:header_bytes])
        self._append(
            **packet.frame,
            ip_version=ip.version,
            src_hi=ip.src >> 64,
            src_lo=ip.src & (1 << 64) - 1,
            dst_hi=ip.dst >> 64,
            dst_lo=ip.dst & (1 << 64) - 1,
            ip_id=ip.ident,
            ttl=ip.ttl,
            df=ip.df,
            ip_bytes=ip.total,
            fragments=packet.fragments,
            fragment_bytes=packet.fragment_bytes,
            tunnel_depth=ip.depth,
            outer_bytes=ip.outer_bytes,
            src_port=segment.sport,
            dst_port=segment.dport,
            seq=segment.seq,
            ack=segment.ack,
            flags=segment.flags & 0xFF,
            window=segment.win if len(data) >= 16 else UNKNOWN_WINDOW,
            payload_bytes=payload_bytes,
            has_ts=options.timestamps is not None,
            ts_val=options.timestamps[0] if options.timestamps else 0,
            ts_ecr=options.timestamps[1] if options.timestamps else 0,
            mss=options.mss,
            window_scale=options.window_scale,
            sack_permitted=options.sack_permitted,
            sack_at=len(self._blocks) if options.sacks else 0,
            sack_count=len(options.sacks),
            buffer=packet.buffer,
            ip_at=packet.base + ip.at,
            payload_at=packet.base + min(at + header_bytes, len(packet.data)),
            payload_captured=payload_captured,
        )
        self._blocks += options.sacks

    def _icmp_error(self, packet: _Bytes, ip: _Ip, at: int, errors: frozenset[int]) -> None:
        """RFC 792 / RFC 4443: type, code, checksum, four bytes, then the head of the packet that caused it."""
        kind, code, word = _take(">BB2xI", packet.data, at)
        if kind not in errors:
            raise _Stop("not-tcp")
        quoted = _quote(packet.data[at + 8 :])
        if quoted is None:
            raise _Stop("not-tcp")
        ports = quoted.src_port is not None and quoted.dst_port is not None
        if ports and not self.wanted.connection(quoted.src, quoted.src_port or 0, quoted.dst, quoted.dst_port or 0):
            raise _Stop("not-tcp")
        mtu = None
        if ip.version == 4 and (kind, code) == (3, 4):
            mtu = word & 0xFFFF  # RFC 1191 section 4
        elif ip.version == 6 and kind == 2:
            mtu = word  # RFC 4443 section 3.2
        self._icmp.append(
            IcmpError(
                time_ns=packet.frame["time_ns"],
                capture=self._capture,
                frame=packet.frame["frame"],
                outgoing=packet.frame["outgoing"],
                ip_version=ip.version,
                type=kind,
                code=code,
                mtu=mtu,
                src=ip.src,
                dst=ip.dst,
                ttl=ip.ttl,
                quoted_src=quoted.src,
                quoted_dst=quoted.dst,
                quoted_src_port=quoted.src_port,
                quoted_dst_port=quoted.dst_port,
                quoted_seq=quoted.seq,
                quoted_ip_bytes=quoted.ip_bytes,
                quoted_df=quoted.df,
            )
        )
        self._tally.add("icmp-errors")

    # Rows.

    def _of_frame(self, index: int, data: bytes) -> dict[str, int]:
        records = self._records
        return {
            "time_ns": int(records.time_ns[index]),
            "capture": self._capture,
            "frame": int(records.frame[index]),
            "interface": int(records.interface[index]),
            "outgoing": _outgoing(int(records.link_type[index]), data, int(records.outgoing[index])),
            "frame_bytes": int(records.original[index]),
            "captured_bytes": int(records.captured[index]),
        }

    def _append(self, **row: Any) -> None:
        for name, value in row.items():
            self._rows[name].append(value)

    def _table(self) -> PacketTable:
        columns = {name: np.array(self._rows[name], dtype) for name, (dtype, _) in COLUMNS.items()}
        buffers = [self._records.buffer]
        if self._arena:
            buffers.append(np.frombuffer(bytes(self._arena), np.uint8))
        blocks = np.array(self._blocks, np.uint32).reshape(-1, 2)
        return PacketTable(columns, blocks, tuple(buffers))


# Link layers and what lies between them and IP: each function gives an ethertype and where its payload begins.


def _ethernet(data: bytes, at: int) -> tuple[int, int]:
    (ethertype,) = _take(">12xH", data, at)
    if ethertype < 0x0600:  # IEEE 802.3: a length; SNAP with an ethertype may follow (RFC 1042)
        if data[at + 14 : at + 20] == b"\xaa\xaa\x03\x00\x00\x00":
            (ethertype,) = _take(">H", data, at + 20)
            return ethertype, at + 22
        raise _Stop("not-ip")
    return ethertype, at + 14


def _cooked(data: bytes, at: int) -> tuple[int, int]:
    """LINKTYPE_LINUX_SLL: packet type, ARP type, address length, address (8), protocol."""
    (protocol,) = _take(">14xH", data, at)
    return protocol, at + 16


def _cooked2(data: bytes, at: int) -> tuple[int, int]:
    """LINKTYPE_LINUX_SLL2: protocol, reserved, interface, ARP type, packet type, address length, address (8)."""
    (protocol,) = _take(">H18x", data, at)
    return protocol, at + 20


def _outgoing(link_type: int, data: bytes, known: int) -> int:
    """Cooked headers tell the packet's direction: 4 is PACKET_OUTGOING."""
    if link_type == 113 and len(data) >= 2:
        return int(data[0] == 0 and data[1] == 4)
    if link_type == 276 and len(data) >= 11:
        return int(data[10] == 4)
    return known


def _raw(data: bytes, at: int) -> tuple[int, int]:
    (first,) = _take("B", data, at)
    return {4: IP4, 6: IP6}.get(first >> 4, 0), at


def _loopback(data: bytes, at: int) -> tuple[int, int]:
    """LINKTYPE_NULL and LOOP: the address family, in the byte order of who captured; BSDs disagree on IPv6's."""
    (little,) = _take("<I", data, at)
    (big,) = _take(">I", data, at)
    return {2: IP4, 10: IP6, 24: IP6, 28: IP6, 30: IP6}.get(min(little, big), 0), at + 4


def _ppp(data: bytes, at: int) -> tuple[int, int]:
    """RFC 1661, RFC 1662: address and control may be there or not, the protocol may be one byte or two."""
    if data[at : at + 2] == b"\xff\x03":
        at += 2
    (first,) = _take("B", data, at)
    if first & 1:
        return PPP_PROTOCOLS.get(first, 0), at + 1
    (protocol,) = _take(">H", data, at)
    return PPP_PROTOCOLS.get(protocol, 0), at + 2


def _pppoe(data: bytes, at: int) -> tuple[int, int]:
    """RFC 2516: version and type, code (0 = session data), session, length."""
    (code,) = _take("xB4x", data, at)
    if code:
        raise _Stop("not-ip")
    return _ppp(data, at + 6)


def _cisco_hdlc(data: bytes, at: int) -> tuple[int, int]:
    (protocol,) = _take(">2xH", data, at)
    return protocol, at + 4


def _below_mpls(data: bytes, at: int) -> tuple[int, int]:
    """RFC 3032: labels until the bottom of the stack; then IP by its version, or Ethernet after a control word (RFC 4385)."""
    for _ in range(MAX_DEPTH):
        (label,) = _take(">I", data, at)
        at += 4
        if label & 0x100:
            (first,) = _take("B", data, at)
            if first >> 4 == 0:
                return TRANSPARENT_ETHERNET, at + 4
            return {4: IP4, 6: IP6}.get(first >> 4, 0), at
    raise _Stop("too-deep")


def _below_gre(data: bytes, at: int) -> tuple[int, int]:
    """RFC 2784, RFC 2890; version 1 carries PPP (RFC 2637)."""
    flags, ethertype = _take(">HH", data, at)
    checksum_or_routing, key, sequence = flags & 0xC000, flags & 0x2000, flags & 0x1000
    size = 4 + 4 * bool(checksum_or_routing) + 4 * bool(key) + 4 * bool(sequence)
    if flags & 7 == 1:
        if not sequence:  # an acknowledgment without data
            raise _Stop("not-tcp")
        return _ppp(data, at + size + 4 * bool(flags & 0x80))
    return ethertype, at + size


def _below_extensions(data: bytes, protocol: int, at: int) -> tuple[int, int, tuple[int, bool, int] | None]:
    """Protocol and place of what follows the IPv6 extension headers; (offset, more, identification) of a fragment."""
    for _ in range(2 * MAX_DEPTH):
        if protocol in SIZED_EXTENSIONS:
            protocol, size = _take("BB", data, at)
            at += 8 + 8 * size
        elif protocol == AUTHENTICATION:
            protocol, size = _take("BB", data, at)
            at += 8 + 4 * size
        elif protocol == FRAGMENT:
            protocol, offset, ident = _take(">BxHI", data, at)
            at += 8
            if offset & 0xFFF8 or offset & 1:
                return protocol, at, (offset & 0xFFF8, bool(offset & 1), ident)
        else:
            return protocol, at, None
    raise _Stop("too-deep")


LINKS: dict[int, Callable[[bytes, int], tuple[int, int]]] = {
    0: _loopback,
    1: _ethernet,
    9: _ppp,
    12: _raw,
    14: _raw,
    50: _ppp,
    51: _pppoe,
    101: _raw,
    104: _cisco_hdlc,
    108: _loopback,
    113: _cooked,
    228: lambda _, at: (IP4, at),
    229: lambda _, at: (IP6, at),
    276: _cooked2,
}


def _take(layout: str, data: bytes, at: int) -> tuple[Any, ...]:
    """Fields at a place; a packet that ends before them is undecodable."""
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        raise _Stop("undecodable") from None


# dpkt is loaded where it is used: it brings fifty protocols, and many captures have no packet for it.
# It reads on through what follows an IP header, guessing where that is broken. It is handed the fixed header alone,
# with a protocol that it knows nothing of: 255 is reserved, 59 means that nothing follows.


def _ip4_header(data: bytes, at: int) -> Any:
    import dpkt

    header = data[at : at + 20]
    try:
        return dpkt.ip.IP(header[:9] + b"\xff" + header[10:])
    except dpkt.UnpackError:
        raise _Stop("undecodable") from None


def _ip6_header(data: bytes, at: int) -> Any:
    import dpkt

    header = data[at : at + 40]
    try:
        return dpkt.ip6.IP6(header[:6] + b"\x3b" + header[7:])
    except dpkt.UnpackError:
        raise _Stop("undecodable") from None


def _mapped(address: bytes) -> int:
    """IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2)."""
    return 0xFFFF << 32 | int.from_bytes(address)


@dataclass(slots=True)
class _Options:
    mss: int = 0
    window_scale: int = -1
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sacks: tuple[tuple[int, int], ...] = ()


def _options(data: bytes) -> _Options:
    """TCP options (RFC 9293 section 3.1, RFC 7323, RFC 2018); a length that can not be ends the list, the last one counts."""
    found = _Options()
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            break
        value = data[at + 2 : at + size]
        if kind == 2 and size == 4:
            found.mss = int.from_bytes(value)
        elif kind == 3 and size == 3:
            found.window_scale = min(value[0], 14)  # RFC 7323 section 2.3: more than 14 is read as 14
        elif kind == 4 and size == 2:
            found.sack_permitted = True
        elif kind == 5 and size in (10, 18, 26, 34):
            words = struct.unpack(f">{(size - 2) // 4}I", value)
            found.sacks = tuple(zip(words[::2], words[1::2], strict=True))
        elif kind == 8 and size == 10:
            found.timestamps = struct.unpack(">II", value)
        at += size
    return found


class _Quote(NamedTuple):
    """The packet that an ICMP error was sent for, as far as it is quoted."""

    src: int
    dst: int
    ip_bytes: int
    df: bool
    src_port: int | None
    dst_port: int | None
    seq: int | None


def _quote(data: bytes) -> _Quote | None:
    """The quoted TCP packet; None when something else is quoted, or too little to tell."""
    try:
        if _take("B", data, 0)[0] >> 4 == 4:
            header = _ip4_header(data, 0)
            protocol, at, ip_bytes, df = data[9], header.hl * 4, header.len, bool(header.df)
            src, dst = _mapped(header.src), _mapped(header.dst)
            if header.offset:
                return None
        else:
            header = _ip6_header(data, 0)
            protocol, at, fragment = _below_extensions(data, data[6], 40)
            ip_bytes, df = 40 + header.plen, True
            src, dst = int.from_bytes(header.src), int.from_bytes(header.dst)
            if header.v != 6 or (fragment is not None and fragment[0]):
                return None
    except _Stop:
        return None
    if protocol != TCP:
        return None
    rest = data[at : at + 8]
    src_port, dst_port = struct.unpack_from(">HH", rest) if len(rest) >= 4 else (None, None)
    seq = struct.unpack_from(">I", rest, 4)[0] if len(rest) >= 8 else None
    return _Quote(src, dst, ip_bytes, df, src_port, dst_port, seq)
