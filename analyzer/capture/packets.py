"""PacketTable: the only currency between the capture engines and everything above them.

One row is one TCP packet (an IP datagram put together again from its fragments counts as one row, at the frame of
its first fragment). ICMP errors that quote a TCP packet travel beside it as a list, because they are few.

An engine is anything that fills this table; one test demands equal tables from all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

# Name -> (dtype, meaning). IPv4 addresses are kept as IPv4-mapped IPv6 (RFC 4291 2.5.5.2): hi = 0, lo = 0xffff<<32 | address.
COLUMNS: dict[str, tuple[str, str]] = {
    "time_ns": ("i8", "capture time, nanoseconds since 1970-01-01 UTC"),
    "capture": ("u2", "capture id, from 1"),
    "frame": ("i8", "frame number in its capture, from 1, as Wireshark counts"),
    "interface": ("u2", "pcapng interface id within its section; 0 in pcap"),
    "outgoing": ("i1", "1 sent by the capturing host, 0 received, -1 unknown (SLL packet type, pcapng epb_flags)"),
    "frame_bytes": ("i4", "length of the frame on the wire, as the capture tells it (original length)"),
    "captured_bytes": ("i4", "bytes of the frame present in the capture"),
    "ip_version": ("u1", "4 or 6; of the innermost IP header that carries the TCP header"),
    "src_hi": ("u8", "source address, high 64 bits"),
    "src_lo": ("u8", "source address, low 64 bits"),
    "dst_hi": ("u8", "destination address, high 64 bits"),
    "dst_lo": ("u8", "destination address, low 64 bits"),
    "ip_id": ("u2", "IPv4 identification; 0 for IPv6"),
    "ttl": ("u1", "time to live / hop limit"),
    "df": ("?", "don't fragment; always true for IPv6 (RFC 8200: routers never fragment)"),
    "ip_bytes": ("i4", "length of the IP packet, headers included; taken from the frame where the header says 0 (TSO)"),
    "fragments": ("u1", "0 = the packet was not fragmented; else the number of fragments seen"),
    "fragment_bytes": ("i4", "largest fragment as an IP packet; 0 when not fragmented"),
    "tunnel_depth": ("u1", "IP headers outside this one; VLAN tags, MPLS labels and PPPoE do not count"),
    "outer_bytes": ("i4", "length of the outermost IP packet; 0 when there is no tunnel"),
    "src_port": ("u2", "TCP source port"),
    "dst_port": ("u2", "TCP destination port"),
    "seq": ("u4", "TCP sequence number as sent"),
    "ack": ("u4", "TCP acknowledgment number as sent"),
    "flags": ("u2", "TCP flags, low 8 bits (CWR ECE URG ACK PSH RST SYN FIN)"),
    "window": ("u2", "TCP window as sent, not scaled; 65535 where the capture cut the header off before it"),
    "payload_bytes": ("i4", "TCP payload length on the wire (may be more than was captured)"),
    "has_ts": ("?", "TCP timestamps option present"),
    "ts_val": ("u4", "TCP timestamp value; 0 when absent"),
    "ts_ecr": ("u4", "TCP timestamp echo reply; 0 when absent"),
    "mss": ("u2", "MSS option; 0 when absent"),
    "window_scale": ("i1", "window scale option, 14 at most (RFC 7323 section 2.3); -1 when absent"),
    "sack_permitted": ("?", "SACK-permitted option present"),
    "sack_at": ("i4", "row of the first block in sack_blocks; 0 when there is none"),
    "sack_count": ("u1", "number of SACK blocks"),
    "buffer": ("u1", "which of `buffers` holds the bytes"),
    "ip_at": ("i8", "offset of the IP header in that buffer (of the first fragment)"),
    "payload_at": (
        "i8",
        "offset of the TCP payload in that buffer; where the captured bytes end, if that is before it",
    ),
    "payload_captured": ("i4", "payload bytes present in that buffer, from payload_at on"),
}


@lru_cache(maxsize=65536)
def address_text(hi: int, lo: int) -> str:
    """The printable form of an address held as two 64-bit halves (RFC 5952 for IPv6)."""
    if hi == 0 and lo >> 32 == 0xFFFF:
        return str(IPv4Address(lo & 0xFFFFFFFF))
    return str(IPv6Address(hi << 64 | lo))


def number_text(address: int) -> str:
    """The same of a whole address as a 128-bit integer, IPv4 as IPv4-mapped IPv6."""
    return address_text(address >> 64, address & (1 << 64) - 1)


def address_number(text: str) -> int:
    """The 128-bit integer of an address in its printable form. ValueError for what is none."""
    ip = ip_address(text)
    return int(ip) | 0xFFFF << 32 if ip.version == 4 else int(ip)


class LazyColumns(dict[str, Array]):
    """Columns that are put together when they are first asked for, by name: most of the 37 never are.

    What was asked for before is found at the cost of a dict. `cut` makes the table of a slice without them.
    """

    __slots__ = ("_make", "cut", "rows")

    def __init__(
        self, make: Callable[[str], Array], rows: int, cut: Callable[[slice], PacketTable] | None = None
    ) -> None:
        self._make = make
        self.rows = rows
        self.cut = cut

    def __missing__(self, name: str) -> Array:
        if name not in COLUMNS:
            raise KeyError(name)
        column = self[name] = self._make(name)
        return column


@dataclass(slots=True)
class PacketTable:
    """Columns of equal length, as `COLUMNS` describes them; rows in capture order.

    `buffers` hold the raw bytes that `ip_at` and `payload_at` point into. They belong to the window that is being read:
    whoever keeps rows for longer calls `detach`.
    """

    columns: dict[str, Array]
    sack_blocks: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty((0, 2), np.uint32))
    buffers: tuple[npt.NDArray[np.uint8], ...] = ()

    def __len__(self) -> int:
        columns = self.columns
        return columns.rows if type(columns) is LazyColumns else len(columns["time_ns"])

    def __getattr__(self, name: str) -> Array:
        # Only reached when normal lookup fails: the names in COLUMNS.
        if name == "columns" or name.startswith("__"):  # a copy in the making, from another process
            raise AttributeError(name)
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, rows: Any) -> PacketTable:
        """A table of the chosen rows (index array, mask or slice); buffers and SACK blocks are shared."""
        columns = self.columns
        if isinstance(rows, slice):
            count = len(range(*rows.indices(len(self))))
            if count and type(columns) is LazyColumns and columns.cut:
                return columns.cut(rows)
        else:
            rows = np.asarray(rows)
            count = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        return PacketTable(LazyColumns(lambda name: columns[name][rows], count), self.sack_blocks, self.buffers)

    def payload(self, row: int) -> bytes:
        """The captured payload bytes of one row (may be fewer than `payload_bytes`)."""
        at, n = int(self.columns["payload_at"][row]), int(self.columns["payload_captured"][row])
        return self.buffers[int(self.columns["buffer"][row])][at : at + n].tobytes() if n else b""

    def payloads(self, rows: npt.NDArray[np.int64]) -> list[bytes]:
        """The same of many rows."""
        views = [memoryview(buffer) for buffer in self.buffers]
        start, length = self.columns["payload_at"][rows], self.columns["payload_captured"][rows]
        where = zip(self.columns["buffer"][rows].tolist(), start.tolist(), (start + length).tolist(), strict=True)
        return [bytes(views[b][i:j]) if i < j else b"" for b, i, j in where]

    def packet(self, row: int) -> bytes:
        """The captured bytes of one row from its IP header to the end of its TCP payload."""
        at = int(self.columns["ip_at"][row])
        end = int(self.columns["payload_at"][row]) + int(self.columns["payload_captured"][row])
        return self.buffers[int(self.columns["buffer"][row])][at:end].tobytes()

    def sacks(self, row: int) -> list[tuple[int, int]]:
        """SACK blocks of one row as (left, right) sequence numbers (RFC 2018)."""
        at, n = int(self.columns["sack_at"][row]), int(self.columns["sack_count"][row])
        return [(int(a), int(b)) for a, b in self.sack_blocks[at : at + n]]

    def detach(self) -> PacketTable:
        """A copy whose bytes live in one private buffer, so that the window can be let go."""
        columns = self.columns  # which nobody changes; a part of a longer one would hold on to all of it
        cols = {name: columns[name] if columns[name].flags.owndata else columns[name].copy() for name in COLUMNS}
        if not len(self):
            return PacketTable(cols)
        start = cols["ip_at"]
        end = np.maximum(cols["payload_at"] + cols["payload_captured"], start)
        # Slices of a memoryview joined are one copy of each packet at the speed of memcpy.
        views = [memoryview(buf) for buf in self.buffers]
        if len(views) == 1:
            pieces = map(views[0].__getitem__, map(slice, start.tolist(), end.tolist()))
            arena = b"".join(pieces)
        else:
            which = zip(cols["buffer"].tolist(), start.tolist(), end.tolist(), strict=True)
            arena = b"".join([views[b][i:j] for b, i, j in which])
        at = np.cumsum(end - start) - (end - start)
        cols["payload_at"] = cols["payload_at"] - start + at
        cols["ip_at"] = at
        cols["buffer"] = np.zeros(len(at), np.uint8)
        sacks, cols["sack_at"] = _take_blocks(self.sack_blocks, cols["sack_at"], cols["sack_count"])
        return PacketTable(cols, sacks, (np.frombuffer(arena, np.uint8),))

    def without_bytes(self, names: Sequence[str]) -> PacketTable:
        """A copy of these columns alone, without SACK blocks and the bytes of the packets."""
        return PacketTable({name: self.columns[name].copy() for name in names})

    @staticmethod
    def empty() -> PacketTable:
        return PacketTable({k: np.empty(0, dtype) for k, (dtype, _) in COLUMNS.items()})

    @staticmethod
    def concat(tables: Sequence[PacketTable]) -> PacketTable:
        """One table after the other; rows are not sorted."""
        tables = [t for t in tables if len(t)]
        if not tables:
            return PacketTable.empty()
        if len(tables) == 1:
            return tables[0]
        buffers: list[npt.NDArray[np.uint8]] = []
        parts: dict[str, list[Array]] = {k: [] for k in COLUMNS}
        blocks_before = 0
        for t in tables:
            where = []
            for buf in t.buffers:
                known = next((i for i, b in enumerate(buffers) if b is buf), None)
                if known is None:
                    known = len(buffers)
                    buffers.append(buf)
                where.append(known)
            for k in COLUMNS:
                col = t.columns[k]
                if k == "buffer":
                    col = np.asarray(where, np.uint8)[col]
                elif k == "sack_at" and blocks_before:
                    col = np.where(t.columns["sack_count"] > 0, col + np.int32(blocks_before), 0).astype(np.int32)
                parts[k].append(col)
            blocks_before += len(t.sack_blocks)
        return PacketTable(
            {k: np.concatenate(v) for k, v in parts.items()},
            np.concatenate([t.sack_blocks for t in tables]),
            tuple(buffers),
        )


def _take_blocks(
    blocks: npt.NDArray[np.uint32], at: Array, count: Array
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    """The SACK blocks of the chosen rows, packed; and where each row's blocks now begin."""
    new_at = np.zeros(len(at), np.int32)
    new_at[1:] = np.cumsum(count[:-1], dtype=np.int64)
    rows = np.repeat(at.astype(np.int64) - new_at, count) + np.arange(int(count.sum()))
    return blocks[rows], np.where(count > 0, new_at, 0).astype(np.int32)


@dataclass(slots=True)
class IcmpError:
    """An ICMP or ICMPv6 error that quotes a TCP packet (RFC 792, RFC 4443).

    Addresses are 128-bit integers, IPv4 as IPv4-mapped IPv6. `mtu` is the next-hop MTU of a "fragmentation needed"
    (type 3 code 4, RFC 1191 section 4; 0 = a router older than the RFC) or Packet Too Big (type 2), else None.
    Quoted fields are None where the quote is too short to tell.
    """

    time_ns: int
    capture: int
    frame: int
    outgoing: int
    ip_version: int
    type: int
    code: int
    mtu: int | None
    src: int
    dst: int
    ttl: int
    quoted_src: int
    quoted_dst: int
    quoted_src_port: int | None
    quoted_dst_port: int | None
    quoted_seq: int | None
    quoted_ip_bytes: int | None
    quoted_df: bool | None

    @property
    def is_too_big(self) -> bool:
        return (self.type, self.code) == (3, 4) if self.ip_version == 4 else self.type == 2


@dataclass(slots=True)
class Batch:
    """What one window of a capture gave: TCP rows, ICMP errors, and what was not kept."""

    packets: PacketTable
    icmp: list[IcmpError]
    last_time_ns: int | None  # the capture's clock at the end of the window (of any packet), None for an empty one
    counts: dict[str, int] = field(
        default_factory=dict
    )  # "frames" read, and those without a row by wanted.Tally's names
    tcp_ports: npt.NDArray[np.int64] | None = None  # packets per lower TCP port of what was not kept, length 65536
    carries: bool = False  # the reader remembers something without which the next window is not read rightly
    lacks: bool = False  # a look back was needed to where the reader did not begin
    disordered: bool = False  # frames stand far from their place in time (`reading.DISORDER_NS`)


@dataclass(slots=True)
class CaptureInfo:
    """What is known of one capture file once it has been read (grows while it is read)."""

    id: int
    path: str
    format: str = ""
    link_types: list[str] = field(default_factory=list)
    frames: int = 0
    bytes: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    snaplen: int | None = None
    complete: bool = True
    problems: list[str] = field(default_factory=list)
