"""The columnar engine: the headers of thousands of packets at once.

A batch of records goes through three sieves, each of which gathers one row of bytes per packet and reads the fields it
needs as columns of those rows:

    link      where does the IP header lie, and which version is it      (Ethernet with up to two tags, cooked, raw, null)
    network   is it an ordinary TCP packet, and are its ports wanted     (most packets end here in a mixed capture)
    transport the columns of the packet table                            (TCP options included)

Tunnels over IPv4 (IP in IP, plain GRE, VXLAN, GENEVE) lead from the second sieve back to it, one IP header further in.
What is not ordinary is declined: IP options, extension headers, fragments, other tunnels, ICMP errors, packets cut off
inside their headers, rare link types. The exact engine takes those. Bytes after the end of a packet are gathered along with it
(they belong to the next record); nothing is concluded from them, because each sieve first asks what was captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .exact import AUTHENTICATION as AUTHENTICATION_HEADER
from .exact import FRAGMENT as FRAGMENT_HEADER
from .exact import (
    GENEVE_PORT,
    GRE,
    ICMP,
    ICMP6,
    ICMP6_ERRORS,
    ICMP_ERRORS,
    IP4,
    IP6,
    IP6_IN_IP,
    IP_IN_IP,
    MAX_DEPTH,
    MPLS,
    PPPOE_SESSION,
    SIZED_EXTENSIONS,
    TCP,
    TRANSPARENT_ETHERNET,
    UDP,
    VLANS,
    VXLAN_PORTS,
)
from .framing import Records
from .packets import COLUMNS, Array, PacketTable
from .walk import sliding
from .wanted import GREETINGS, Tally, Wanted, is_greeting
from .windows import Bytes

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# What the network sieve looks at: the longest link header (cooked v2, 20), the IPv6 header, and TCP up to its flags.
SIEVE_BYTES = 20 + 40 + 16
MAPPED = np.uint64(0xFFFF << 32)  # IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2)
MAX_TAGS = 2


class Fields:
    """Header fields of many packets: one row of bytes per packet, gathered from where its header lies."""

    def __init__(self, buffer: Bytes, at: Rows, width: int) -> None:
        self.bytes: Bytes = sliding(buffer, f"V{width}")[at].view(np.uint8)
        self._shape, self._stride, self._skip = (len(at),), (width,), 0

    def skip(self, size: int) -> Fields:
        """The same rows, fields counted from `size` bytes further on."""
        other = object.__new__(Fields)
        other.bytes, other._shape, other._stride, other._skip = self.bytes, self._shape, self._stride, self._skip + size
        return other

    def place(self, rows: Rows, at: int) -> Rows:
        """Where the byte `at` of these rows lies in `bytes`."""
        return rows * self._stride[0] + (self._skip + at)

    def u1(self, at: int) -> Array:
        return np.ndarray(self._shape, "u1", self.bytes, self._skip + at, self._stride)

    def u2(self, at: int) -> Array:
        return np.ndarray(self._shape, ">u2", self.bytes, self._skip + at, self._stride)

    def u4(self, at: int) -> Array:
        return np.ndarray(self._shape, ">u4", self.bytes, self._skip + at, self._stride)

    def u8(self, at: int) -> Array:
        return np.ndarray(self._shape, ">u8", self.bytes, self._skip + at, self._stride)


def _set(values: frozenset[int], size: int) -> Mask:
    member = np.zeros(size, bool)
    member[list(values)] = True
    return member


# What an IP protocol means for this engine.
_DECLINED_PROTOCOLS = _set(
    frozenset({IP_IN_IP, IP6_IN_IP, GRE, FRAGMENT_HEADER, AUTHENTICATION_HEADER}) | SIZED_EXTENSIONS, 256
)
_DECLINED_PROTOCOLS4 = _set(frozenset({IP_IN_IP, IP6_IN_IP, GRE}), 256)
_TUNNEL_PORTS = _set(VXLAN_PORTS | {GENEVE_PORT}, 65536)
_DECLINED_ETHERTYPES = _set(frozenset(range(0x0600)) | VLANS | MPLS | {PPPOE_SESSION, TRANSPARENT_ETHERNET}, 65536)
_VLANS = _set(VLANS, 65536)
_ICMP_ERRORS, _ICMP6_ERRORS = _set(ICMP_ERRORS, 256), _set(ICMP6_ERRORS, 256)
_GREETING_STARTS = _set(frozenset(int.from_bytes(g[:2]) for g in GREETINGS), 65536)


@dataclass(slots=True)
class _Packets:
    """Some packets of a batch on their way through the sieves."""

    row: Rows  # which record
    at: Rows  # where the next header lies
    captured: Rows  # bytes present from there on
    depth: int = 0  # IP headers in front of it
    outer_bytes: Array | None = None  # length of the outermost IP packet, inside a tunnel
    tags: int = 0  # VLAN tags in front of it

    def pick(self, rows: Rows | Mask, skip: Array | int = 0) -> _Packets:
        """Some of them, `skip` bytes further on."""
        outer = None if self.outer_bytes is None else self.outer_bytes[rows]
        return _Packets(self.row[rows], self.at[rows] + skip, self.captured[rows] - skip, self.depth, outer, self.tags)


class _Found(NamedTuple):
    """Wanted TCP packets whose IP headers, of one version, lie at `packets.at`."""

    packets: _Packets
    version: int


def decode(records: Records, wanted: Wanted, capture: int, tally: Tally) -> tuple[PacketTable, Rows]:
    """The wanted TCP packets among the records, and the records that the exact engine has to look at."""
    sieve = _Sieve(records, wanted, tally)
    for link_type in distinct(records.link_type):
        sieve.link(int(link_type))
    table = _Columns(records, sieve, capture).table()
    if wanted.only is not None:
        keep = wanted.address_mask(table.columns)
        _count_other(tally, table.columns["src_port"][~keep], table.columns["dst_port"][~keep])
        table = table[keep]
    declined = np.concatenate(sieve.declined) if sieve.declined else np.empty(0, np.int64)
    declined.sort()
    return table, declined


def distinct(values: Array) -> Array:
    """The different values: mostly one, and then there is nothing to sort (nor `numpy.ma` to load, as unique does)."""
    if not len(values) or (values == values[0]).all():
        return values[:1]
    return np.unique(values)


def _count_other(tally: Tally, src_port: Array, dst_port: Array) -> None:
    if len(src_port):
        tally.add("other-tcp", len(src_port))
        ports = np.bincount(np.minimum(src_port, dst_port))
        tally.tcp_ports[: len(ports)] += ports


class _Sieve:
    """Finds the wanted TCP packets of a batch; what is neither found nor declined is counted."""

    def __init__(self, records: Records, wanted: Wanted, tally: Tally) -> None:
        self.records, self.wanted, self.tally = records, wanted, tally
        self.found: list[_Found] = []
        self.declined: list[Rows] = []
        self.outgoing = records.outgoing

    def link(self, link_type: int) -> None:
        """The packets of one link type, down to their IP headers."""
        records = self.records
        rows = np.arange(len(records))
        captured, at = records.captured, records.at
        of_this_type = records.link_type == link_type
        if not of_this_type.all():
            rows = np.flatnonzero(of_this_type)
            captured, at = captured[rows], at[rows]
        header_bytes = {1: 14, 113: 16, 276: 20, 0: 4, 108: 4, 101: 0, 12: 0, 14: 0, 228: 0, 229: 0}.get(link_type)
        if header_bytes is None:
            self.declined.append(rows)
            return
        short = captured < max(header_bytes, 1)
        if short.any():
            self.declined.append(rows[short])
            rows, captured, at = rows[~short], captured[~short], at[~short]
            if not len(rows):
                return
        packets = _Packets(rows, at + header_bytes, captured - header_bytes)
        fields = Fields(records.buffer, at, SIEVE_BYTES)
        if link_type == 1:
            ethertype = fields.u2(12)
        elif link_type == 113:
            ethertype = fields.u2(14)
            self._cooked_direction(rows, fields.u2(0) == 4)
        elif link_type == 276:
            ethertype = fields.u2(0)
            self._cooked_direction(rows, fields.u1(10) == 4)
        elif link_type in (0, 108):
            ethertype = _of_family(fields.u4(0))
        elif link_type in (228, 229):
            ethertype = np.full(len(rows), IP4 if link_type == 228 else IP6, np.uint16)
        else:
            ethertype = np.array([IP4 if v == 4 else IP6 if v == 6 else 0 for v in range(16)], np.uint16)[
                fields.u1(0) >> 4
            ]
        self.network(fields.skip(header_bytes), packets, ethertype.astype(np.uint16))

    def _cooked_direction(self, rows: Rows, outgoing: Mask) -> None:
        if self.outgoing is self.records.outgoing:
            self.outgoing = self.outgoing.copy()
        self.outgoing[rows] = outgoing

    def network(self, ip: Fields, packets: _Packets, ethertype: Array) -> None:
        """Packets whose IP headers (or VLAN tags) lie at `packets.at`; `ip` reads from there."""
        # An ordinary TCP packet: no options in the IP header, no fragment, long enough for a TCP header (total length 0:
        # as long as the frame), as captured.
        tcp4 = (
            (ethertype == IP4)
            & (ip.u1(0) == 0x45)
            & (ip.u4(6) & 0x3FFF00FF == TCP)  # fragment, time to live, protocol
            & (ip.u2(2) - np.uint16(1) >= 39)
            & (packets.captured >= 40)
        )
        if packets.depth:
            tcp4 &= ip.u2(2) != 0  # the frame does not tell the length of what is inside
        self._tcp(ip.skip(20), packets, tcp4, 4)
        if tcp4.all():
            return
        tcp6 = ethertype == IP6
        if tcp6.any():
            tcp6 &= (ip.u1(6) == TCP) & (ip.u1(0) >> 4 == 6) & (packets.captured >= 60)
            tcp6 &= ip.u2(4) - np.uint16(1) >= 19
            if packets.depth:
                tcp6 &= ip.u2(4) != 0
            self._tcp(ip.skip(40), packets, tcp6, 6)
        rest = np.flatnonzero(~(tcp4 | tcp6))
        if len(rest):
            self._others(ip, packets, ethertype, rest)

    def _others(self, ip: Fields, packets: _Packets, ethertype: Array, rest: Rows) -> None:
        """What is no ordinary TCP packet is followed further in, counted by what it is, or declined."""
        ethertype = ethertype[rest]
        captured = packets.captured[rest]
        is4, is6 = ethertype == IP4, ethertype == IP6
        declined_type = _DECLINED_ETHERTYPES[ethertype]
        self.tally.add("not-ip", int((~(declined_type | is4 | is6)).sum()))
        done = ~(declined_type | is4 | is6)
        if packets.tags < MAX_TAGS:
            tagged = _VLANS[ethertype] & (captured >= 4)
            if tagged.any():
                self._below_tag(packets.pick(rest[tagged], 4))
                done |= tagged
        first, part = ip.u1(0)[rest], ip.u2(6)[rest]
        protocol = ip.u1(9)[rest]
        told = ip.u2(2)[rest]
        plain = is4 & (first == 0x45) & (captured >= 20) & (told - np.uint16(1) >= 19)
        plain &= (protocol != TCP) & ((part & 0x3FFF == 0) | (protocol == UDP))
        inside = plain & (part & 0x3FFF == 0) & (told != 0) & (packets.depth < MAX_DEPTH)
        done |= self._inside(ip, packets, rest, protocol, inside)
        plain &= ~_DECLINED_PROTOCOLS4[protocol]
        udp = plain & (protocol == UDP) & (part & 0x1FFF == 0)
        plain[udp] = ((captured >= 28) & ~_TUNNEL_PORTS[ip.u2(22)[rest]])[udp]
        icmp = plain & (protocol == ICMP)
        plain[icmp] = ((captured >= 28) & ~_ICMP_ERRORS[ip.u1(20)[rest]])[icmp]
        protocol = ip.u1(6)[rest]
        plain6 = is6 & (first >> 4 == 6) & (captured >= 40)
        plain6 &= (protocol != TCP) & ~_DECLINED_PROTOCOLS[protocol]
        udp = plain6 & (protocol == UDP)
        plain6[udp] = ((captured >= 48) & ~_TUNNEL_PORTS[ip.u2(42)[rest]])[udp]
        icmp = plain6 & (protocol == ICMP6)
        plain6[icmp] = ((captured >= 48) & ~_ICMP6_ERRORS[ip.u1(40)[rest]])[icmp]
        plain |= plain6
        self.tally.add("not-tcp", int(plain.sum()))
        decline = ~(done | plain)
        if decline.any():
            self.declined.append(packets.row[rest[decline]])

    def _below_tag(self, packets: _Packets) -> None:
        """IEEE 802.1Q: two bytes of priority and VLAN, then the next ethertype; `packets.at` is behind it."""
        fields = Fields(self.records.buffer, packets.at - 2, 2 + 40 + 16)
        packets.tags += 1
        self.network(fields.skip(2), packets, fields.u2(0).astype(np.uint16))

    def _inside(self, ip: Fields, packets: _Packets, rest: Rows, protocol: Array, may: Mask) -> Mask:
        """Follows the tunnels among the packets of `may`; tells which have been followed."""
        may = may & (_DECLINED_PROTOCOLS4[protocol] | ((protocol == UDP) & _TUNNEL_PORTS[ip.u2(22)[rest]]))
        if not may.any():
            return may
        rows, protocol = rest[may], protocol[may]
        skip, ethertype = _tunnels(ip, rows, protocol)
        in_ethernet = ethertype == TRANSPARENT_ETHERNET
        skip[in_ethernet] += 14
        followed = (skip >= 20) & (packets.captured[rows] >= skip)
        may[may] = followed
        rows, skip, ethertype, in_ethernet = rows[followed], skip[followed], ethertype[followed], in_ethernet[followed]
        if not len(rows):
            return may
        inner = packets.pick(rows, skip)
        if inner.outer_bytes is None:
            inner.outer_bytes = ip.u2(2)[rows].astype(np.int32)
        inner.depth, inner.tags = packets.depth + 1, 0
        fields = Fields(self.records.buffer, inner.at - 2, 2 + 40 + 16)
        self.network(fields.skip(2), inner, np.where(in_ethernet, fields.u2(0), ethertype).astype(np.uint16))
        return may

    def _tcp(self, tcp: Fields, packets: _Packets, mask: Mask, version: int) -> None:
        """The packets of `mask` are TCP: keeps the wanted ones, counts the others."""
        src_port, dst_port = tcp.u2(0).astype(np.uint16), tcp.u2(2).astype(np.uint16)
        wanted = self.wanted.port_mask(src_port, dst_port)
        keep = np.flatnonzero(mask & wanted)
        if len(keep):
            self.found.append(_Found(packets.pick(keep), version))
        others = np.flatnonzero(mask & ~wanted)
        if len(others):
            src_port, dst_port = src_port[others], dst_port[others]
            _count_other(self.tally, src_port, dst_port)
            if self.wanted.discovers:
                self._discover(packets.row[others], packets.at[others], version, tcp.u1(12)[others], dst_port)

    def _discover(self, rows: Rows, ip_at: Rows, version: int, offset: Array, dst_port: Array) -> None:
        """Notes the ports that a HELO is said to. Two bytes are compared for all, the rest for those that match."""
        at = ip_at + (20 if version == 4 else 40) + (offset >> 4).astype(np.int64) * 4
        buffer, records = self.records.buffer, self.records
        starts = sliding(buffer, ">u2")[at] & 0xDFDF  # upper case
        for i in np.flatnonzero(_GREETING_STARTS[starts]):
            record, ip = int(rows[i]), int(ip_at[i])
            told = int.from_bytes(buffer[ip + 2 : ip + 4]) if version == 4 else int.from_bytes(buffer[ip + 4 : ip + 6])
            end = int(records.at[record] + records.captured[record])
            if told:  # what follows the IP packet is padding, or the next record
                end = min(end, ip + told + (0 if version == 4 else 40))
            if at[i] + 5 <= end and is_greeting(buffer[at[i] : at[i] + 5].tobytes()):
                self.tally.greeted.add(int(dst_port[i]))


def _tunnels(ip: Fields, rows: Rows, protocol: Array) -> tuple[Rows, Array]:
    """Bytes from the outer IPv4 header to what a tunnel carries, and its ethertype; 0 bytes: not one of the plain ones."""
    skip = np.zeros(len(rows), np.int64)
    ethertype = np.full(len(rows), IP4, np.uint16)
    skip[(protocol == IP_IN_IP) | (protocol == IP6_IN_IP)] = 20
    ethertype[protocol == IP6_IN_IP] = IP6
    gre = np.flatnonzero(protocol == GRE)
    flags = ip.u2(20)[rows[gre]]
    skip[gre] = np.where(flags == 0, 24, np.where(flags == 0x2000, 28, 0))  # nothing, or a key (RFC 2890)
    ethertype[gre] = ip.u2(22)[rows[gre]]
    udp = np.flatnonzero(protocol == UDP)
    geneve = ip.u2(22)[rows[udp]] == GENEVE_PORT
    flags = ip.u1(28)[rows[udp]]
    skip[udp] = np.where(np.where(geneve, flags & 0x3F == 0, flags & 0x08 != 0), 36, 0)
    ethertype[udp] = np.where(geneve, ip.u2(30)[rows[udp]], TRANSPARENT_ETHERNET)
    return skip, ethertype


def _of_family(family: Array) -> Array:
    """LINKTYPE_NULL: the address family in either byte order; see exact._loopback."""
    value = np.minimum(family.astype(np.uint32), family.astype(np.uint32).byteswap())
    ethertype = np.zeros(len(value), np.uint16)
    ethertype[value == 2] = IP4
    ethertype[np.isin(value, (10, 24, 28, 30))] = IP6
    return ethertype


def _repeated(values: list[int], found: list[_Found]) -> Array:
    """A value of each group, once per packet of it."""
    return np.repeat(np.array(values, np.uint8), [len(f.packets.row) for f in found])


class _Columns:
    """Builds the packet table of the packets that the sieve found."""

    def __init__(self, records: Records, sieve: _Sieve, capture: int) -> None:
        self.records, self.sieve, self.capture = records, sieve, capture
        found = sieve.found
        self.one_version = found[0].version if len({f.version for f in found}) == 1 else 0
        self.version: Array | None = None
        self.tunnels = any(f.packets.depth for f in found)
        if len(found) == 1:
            self.row, self.ip_at = found[0].packets.row, found[0].packets.at
            order: Any = slice(None)
        elif found:
            row = np.concatenate([f.packets.row for f in found])
            order = np.argsort(row, kind="stable")
            self.row = row[order]
            self.ip_at = np.concatenate([f.packets.at for f in found])[order]
            self.version = _repeated([f.version for f in found], found)[order]
        if self.tunnels:
            self.depth = _repeated([f.packets.depth for f in found], found)[order]
            outer = [
                np.zeros(len(f.packets.row), np.int32) if f.packets.outer_bytes is None else f.packets.outer_bytes
                for f in found
            ]
            self.outer_bytes = np.concatenate(outer)[order]

    def table(self) -> PacketTable:
        if not self.sieve.found:
            return PacketTable.empty()
        columns = self._ip()
        tcp_at = self.ip_at + np.where(columns["ip_version"] == 4, 20, 40)
        columns |= self._frame()
        blocks = self._tcp(columns, tcp_at)
        good = self._good
        table = PacketTable({name: columns[name] for name in COLUMNS}, blocks, (self.records.buffer,))
        if not good.all():
            self.sieve.declined.append(self.row[~good])
            table = table[good]
        return table

    def _frame(self) -> dict[str, Array]:
        """The columns that the record tells."""
        records, row = self.records, self.row
        n = len(row)
        return {
            "time_ns": records.time_ns[row],
            "capture": np.full(n, self.capture, np.uint16),
            "frame": records.frame[row],
            "interface": records.interface[row],
            "outgoing": self.sieve.outgoing[row],
            "frame_bytes": records.original[row].astype(np.int32),
            "captured_bytes": records.captured[row].astype(np.int32),
            "fragments": np.zeros(n, np.uint8),
            "fragment_bytes": np.zeros(n, np.int32),
            "tunnel_depth": self.depth if self.tunnels else np.zeros(n, np.uint8),
            "outer_bytes": self.outer_bytes if self.tunnels else np.zeros(n, np.int32),
            "buffer": np.zeros(n, np.uint8),
            "ip_at": self.ip_at,
        }

    def _ip(self) -> dict[str, Array]:
        """The columns of the IP header."""
        if self.one_version:
            return self._ip4(slice(None)) if self.one_version == 4 else self._ip6(slice(None))
        assert self.version is not None
        rows4, rows6 = np.flatnonzero(self.version == 4), np.flatnonzero(self.version == 6)
        parts4, parts6 = self._ip4(rows4), self._ip6(rows6)
        columns = {}
        for name, part in parts4.items():
            column = columns[name] = np.empty(len(self.row), part.dtype)
            column[rows4] = part
            column[rows6] = parts6[name]
        return columns

    def _ip4(self, rows: Array | slice) -> dict[str, Array]:
        at = self.ip_at[rows]
        ip = Fields(self.records.buffer, at, 20)
        total = ip.u2(2).astype(np.int32)
        n = len(at)
        zero = np.zeros(n, np.uint64)
        return {
            "ip_version": np.full(n, 4, np.uint8),
            "src_hi": zero,
            "src_lo": ip.u4(12) | MAPPED,
            "dst_hi": zero.copy(),
            "dst_lo": ip.u4(16) | MAPPED,
            "ip_id": ip.u2(4).astype(np.uint16),
            "ttl": ip.u1(8).copy(),
            "df": ip.u1(6) & 0x40 != 0,
            "ip_bytes": self._length(total, total == 0, rows, at),
        }

    def _ip6(self, rows: Array | slice) -> dict[str, Array]:
        at = self.ip_at[rows]
        ip = Fields(self.records.buffer, at, 40)
        payload = ip.u2(4).astype(np.int32)
        n = len(at)
        return {
            "ip_version": np.full(n, 6, np.uint8),
            "src_hi": ip.u8(8).astype(np.uint64),
            "src_lo": ip.u8(16).astype(np.uint64),
            "dst_hi": ip.u8(24).astype(np.uint64),
            "dst_lo": ip.u8(32).astype(np.uint64),
            "ip_id": np.zeros(n, np.uint16),
            "ttl": ip.u1(7).copy(),
            "df": np.ones(n, bool),
            "ip_bytes": self._length(payload + np.int32(40), payload == 0, rows, at),
        }

    def _length(self, told: Array, untold: Mask, rows: Array | slice, at: Rows) -> Array:
        """The IP packet's length; where the header says 0 (TSO), as far as the frame goes."""
        if untold.any():
            records, row = self.records, self.row[rows]
            whole = np.maximum(records.original[row], records.captured[row])
            told[untold] = (records.at[row] + whole - at)[untold]
        return told

    def _tcp(self, columns: dict[str, Array], tcp_at: Rows) -> npt.NDArray[np.uint32]:
        """The columns of the TCP header; returns the SACK blocks."""
        tcp = Fields(self.records.buffer, tcp_at, 60)
        header_bytes = (tcp.u1(12) >> 4).astype(np.int32) * np.int32(4)
        ip_bytes = columns["ip_bytes"]
        payload_bytes = ip_bytes - (tcp_at - self.ip_at).astype(np.int32) - header_bytes
        payload_at = tcp_at + header_bytes
        captured_end = self.records.at[self.row] + self.records.captured[self.row]
        self._good = (header_bytes >= 20) & (payload_bytes >= 0) & (payload_at <= captured_end)
        columns |= {
            "src_port": tcp.u2(0).astype(np.uint16),
            "dst_port": tcp.u2(2).astype(np.uint16),
            "seq": tcp.u4(4).astype(np.uint32),
            "ack": tcp.u4(8).astype(np.uint32),
            "flags": tcp.u1(13).astype(np.uint16),
            "window": tcp.u2(14).astype(np.uint16),
            "payload_bytes": payload_bytes,
            "payload_at": payload_at,
            "payload_captured": np.maximum(np.minimum(captured_end, self.ip_at + ip_bytes) - payload_at, 0).astype(
                np.int32
            ),
        }
        return _options(tcp.skip(20), header_bytes - 20, columns)


def _options(options: Fields, size: Array, columns: dict[str, Array]) -> npt.NDArray[np.uint32]:
    """The columns of the TCP options (`size` bytes of them per packet); returns the SACK blocks.

    What nearly all packets carry is read where it stands: NOP, NOP, timestamps (RFC 7323 appendix A); NOP, NOP, SACK, alone
    or behind these; and the SYN of Linux: MSS, SACK permitted, timestamps, NOP, window scale. The others are walked option
    by option, all packets in step.
    """
    n = len(size)
    usual = (size == 12) & (options.u4(0) == 0x0101080A)
    columns["has_ts"] = usual
    columns["ts_val"] = options.u4(4) * usual
    columns["ts_ecr"] = options.u4(8) * usual
    columns["mss"] = np.zeros(n, np.uint16)
    columns["window_scale"] = np.full(n, -1, np.int8)
    columns["sack_permitted"] = np.zeros(n, bool)
    columns["sack_at"] = np.zeros(n, np.int32)
    columns["sack_count"] = np.zeros(n, np.uint8)
    others = np.flatnonzero((size > 0) > usual)
    blocks = np.empty((0, 2), np.uint32)
    if len(others):
        others = _linux_syn(options, size, others, columns)
    for sack_at in (12, 0):
        if len(others):
            others, more = _usual_sack(options, size, others, columns, sack_at, len(blocks))
            blocks = np.concatenate((blocks, more))
    if len(others):
        blocks = np.concatenate((blocks, _walk_options(options, size, others, columns, len(blocks))))
    return blocks


def _linux_syn(options: Fields, size: Array, rows: Rows, columns: dict[str, Array]) -> Rows:
    """Reads the rows that have the layout of a Linux SYN; gives back the others."""
    is_syn = (size[rows] == 20) & (options.u2(0)[rows] == 0x0204) & (options.u4(4)[rows] == 0x0402080A)
    is_syn &= options.u4(16)[rows] >> 8 == 0x010303
    syn = rows[is_syn]
    columns["mss"][syn] = options.u2(2)[syn]
    columns["sack_permitted"][syn] = columns["has_ts"][syn] = True
    columns["ts_val"][syn] = options.u4(8)[syn]
    columns["ts_ecr"][syn] = options.u4(12)[syn]
    columns["window_scale"][syn] = np.minimum(options.u1(19)[syn], 14)
    others: Rows = rows[~is_syn]
    return others


def _usual_sack(
    options: Fields, size: Array, rows: Rows, columns: dict[str, Array], at: int, before: int
) -> tuple[Rows, npt.NDArray[np.uint32]]:
    """Reads the rows with NOP, NOP, SACK at the end, which is at byte 0 or (`at` 12) behind NOP, NOP, timestamps.

    Gives back the others, and the SACK blocks.
    """
    rest = size[rows] - (at + 4)  # what is left for SACK blocks of 8 bytes, 4 at most
    is_sack = (rest >= 8) & (rest % 8 == 0) & (options.u4(at)[rows] == 0x01010502 + rest)
    if at:
        is_sack &= options.u4(0)[rows] == 0x0101080A
    sacks = rows[is_sack]
    if at:
        columns["has_ts"][sacks] = True
        columns["ts_val"][sacks] = options.u4(4)[sacks]
        columns["ts_ecr"][sacks] = options.u4(8)[sacks]
    blocks = _take_blocks(options.bytes, options.place(sacks, at + 4), rest[is_sack] >> 3, sacks, columns, before)
    others: Rows = rows[~is_sack]
    return others, blocks


def _take_blocks(
    data: Bytes, at: Rows, count: Array, rows: Rows, columns: dict[str, Array], before: int
) -> npt.NDArray[np.uint32]:
    """The SACK blocks that begin at data[at], `count` for each of `rows`; `before` blocks were taken already."""
    first = np.cumsum(count) - count
    columns["sack_at"][rows] = first + before
    columns["sack_count"][rows] = count
    block = np.repeat(at - 8 * first, count) + 8 * np.arange(int(count.sum()))
    words = sliding(data, ">u4")
    return np.stack((words[block], words[block + 4]), axis=1).astype(np.uint32)


def _walk_options(
    options: Fields, size: Array, rows: Rows, columns: dict[str, Array], before: int
) -> npt.NDArray[np.uint32]:
    """One option of every packet per turn, until none has any left (see exact._options)."""
    width = options._stride[0]
    # 36 more bytes, so that the longest value (four SACK blocks) may be read at the last place; they are not believed.
    table = np.zeros((len(rows), 40 + 36), np.uint8)
    table[:, :40] = options.bytes.reshape(-1, width)[rows, 20:60]
    flat = table.reshape(-1)
    halves, words = sliding(flat, ">u2"), sliding(flat, ">u4")
    at = np.arange(len(rows)) * table.shape[1]
    end = at + size[rows]
    live = np.arange(len(rows))
    found: list[tuple[Array, ...]] = []  # per turn: row of `table`, place in it, kind and length of an option
    while len(live):
        place = at[live]
        kind = flat[place]
        length = flat[place + 1].astype(np.int64)
        length[place + 1 >= end[live]] = 0
        single = kind == 1
        length[single] = 1
        good = (kind != 0) & (single | (length >= 2)) & (place + length <= end[live])
        live, place, kind, length = live[good], place[good], kind[good], length[good]
        found.append((live, place, kind, length))
        at[live] += length
        live = live[at[live] < end[live]]
    where, place, kind, length = map(np.concatenate, zip(*found, strict=True))
    # of what a packet says twice the last one counts
    for code, sized, name in ((2, 4, "mss"), (3, 3, "window_scale"), (4, 2, "sack_permitted"), (8, 10, "has_ts")):
        hit = np.flatnonzero((kind == code) & (length == sized))
        row, value = rows[where[hit]], place[hit] + 2
        if name == "mss":
            columns[name][row] = halves[value]
        elif name == "window_scale":
            columns[name][row] = np.minimum(flat[value], 14)
        else:
            columns[name][row] = True
            if name == "has_ts":
                columns["ts_val"][row] = words[value]
                columns["ts_ecr"][row] = words[value + 4]
    hit = np.flatnonzero((kind == 5) & (length % 8 == 2) & (length >= 10) & (length <= 34))
    sack_from = np.full(len(rows), -1, np.int64)
    sack_from[where[hit]] = place[hit] + 2
    sack_count = np.zeros(len(rows), np.int64)
    sack_count[where[hit]] = length[hit] >> 3
    have = np.flatnonzero(sack_count)
    return _take_blocks(flat, sack_from[have], sack_count[have], rows[have], columns, before)
