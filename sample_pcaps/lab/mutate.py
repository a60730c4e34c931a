"""Recordings changed on purpose: what must not change a diagnosis, and what must change it in a known way.

usage: mutate.py CAPTURE MUTATION OUT      writes one changed recording (mutations: see MUTATIONS)

A mutation takes a `Recording` and returns another; it knows nothing of the analyzer. Frames are edited in place of
their headers: Ethernet (with tags), Linux cooked and raw IP, IPv4 and IPv6, TCP, and the packets that ICMP errors quote.
Tunnels are left as they are. Checksums are carried along by RFC 1624, so that wrong ones stay wrong.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
ETHERNET, RAW, SLL, SLL2 = 1, 101, 113, 276
_TAGS = (0x8100, 0x88A8)


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured packet. wire_bytes: its length before the snap length cut it."""

    time_ns: int
    data: bytes
    wire_bytes: int


@dataclass(frozen=True)
class Recording:
    """What a capture file holds, in the order of the file."""

    link_type: int
    frames: tuple[Frame, ...]
    snaplen: int = 262144

    def with_frames(self, frames: Iterable[Frame]) -> Recording:
        return replace(self, frames=tuple(frames))


# ---------------------------------------------------------------- files


def load(path: Path) -> Recording:
    """A pcap in any byte order, or a pcapng with one interface."""
    blob = path.read_bytes()
    if blob[:4] == b"\x0a\x0d\x0d\x0a":
        return _load_pcapng(blob)
    order = "<" if blob[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    unit = 1 if b"\x3c\xb2" in (blob[1:3], blob[1:3][::-1]) else 1000
    snaplen, link_type = struct.unpack(order + "II", blob[16:24])
    frames, at = [], 24
    while at + 16 <= len(blob):
        sec, fraction, kept, wire = struct.unpack(order + "IIII", blob[at : at + 16])
        frames.append(Frame(sec * 10**9 + fraction * unit, blob[at + 16 : at + 16 + kept], wire))
        at += 16 + kept
    return Recording(link_type, tuple(frames), snaplen)


def _load_pcapng(blob: bytes) -> Recording:
    frames, link_type, snaplen, unit, at = [], ETHERNET, 0, 1000, 0
    while at + 12 <= len(blob):
        kind, length = struct.unpack("<II", blob[at : at + 8])
        body = blob[at + 8 : at + length - 4]
        if kind == 1:
            link_type, _, snaplen = struct.unpack("<HHI", body[:8])
            options = 8
            while options + 4 <= len(body):
                code, size = struct.unpack("<HH", body[options : options + 4])
                if code == 9:  # if_tsresol
                    unit = 10 ** (9 - body[options + 4])
                options += 4 + (size + 3) // 4 * 4
        elif kind == 6:
            _, high, low, kept, wire = struct.unpack("<IIIII", body[:20])
            frames.append(Frame((high << 32 | low) * unit, body[20 : 20 + kept], wire))
        at += length
    return Recording(link_type, tuple(frames), snaplen or 262144)


def pcap(r: Recording, order: str = "<", *, nano: bool = False) -> bytes:
    unit = 1 if nano else 1000
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, r.snaplen, r.link_type)]
    for f in r.frames:
        sec, fraction = divmod(f.time_ns, 10**9)
        out.append(struct.pack(order + "IIII", sec, fraction // unit, len(f.data), f.wire_bytes) + f.data)
    return b"".join(out)


def pcapng(r: Recording, order: str = "<", *, nano: bool = False) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))

    unit = 1 if nano else 1000
    resolution = struct.pack(order + "HHB3xHH", 9, 1, 9 if nano else 6, 0, 0)
    out = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", r.link_type, 0, r.snaplen) + resolution),
    ]
    for f in r.frames:
        ticks = f.time_ns // unit
        out.append(
            block(6, struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(f.data), f.wire_bytes) + f.data)
        )
    return b"".join(out)


# ---------------------------------------------------------------- one packet


class Packet:
    """A frame's headers, editable. `ip` is None for what is not IP; `tcp` is None for what is not TCP (or cut off)."""

    def __init__(self, frame: Frame, link_type: int) -> None:
        self.frame, self.bytes = frame, bytearray(frame.data)
        self.cut = frame.wire_bytes - len(frame.data)
        self.ip = _ip_at(self.bytes, link_type)
        self.tcp: int | None = None
        self.icmp: int | None = None
        self.quoted: int | None = None  # where the quoted IP header begins
        if self.ip is None:
            return
        self.version = self.bytes[self.ip] >> 4
        head, protocol = _header(self.bytes, self.ip)
        if protocol == 6 and len(self.bytes) >= head + 20:
            self.tcp = head
        elif protocol in (1, 58) and len(self.bytes) >= head + 8:
            self.icmp = head
            kind, code = self.bytes[head], self.bytes[head + 1]
            error = kind in (3, 4, 5, 11, 12) if protocol == 1 else kind in (1, 2, 3, 4)
            if error and len(self.bytes) >= head + 8 + 20:
                self.quoted = head + 8
            self.too_big = (kind, code) == (3, 4) if protocol == 1 else kind == 2

    def done(self) -> Frame:
        return Frame(self.frame.time_ns, bytes(self.bytes), len(self.bytes) + self.cut)

    # ---- reading

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.bytes[at : at + size], "big")

    def addresses(self, ip: int | None = None) -> tuple[bytes, bytes]:
        at = self.ip if ip is None else ip
        assert at is not None
        if self.bytes[at] >> 4 == 4:
            return bytes(self.bytes[at + 12 : at + 16]), bytes(self.bytes[at + 16 : at + 20])
        return bytes(self.bytes[at + 8 : at + 24]), bytes(self.bytes[at + 24 : at + 40])

    @property
    def flow(self) -> tuple[bytes, int, bytes, int]:
        """(source, port, destination, port) of a TCP packet."""
        assert self.tcp is not None
        src, dst = self.addresses()
        return src, self.number(self.tcp, 2), dst, self.number(self.tcp + 2, 2)

    @property
    def quoted_flow(self) -> tuple[bytes, int, bytes, int] | None:
        if self.quoted is None:
            return None
        head, protocol = _header(self.bytes, self.quoted)
        if protocol != 6 or len(self.bytes) < head + 8:
            return None
        src, dst = self.addresses(self.quoted)
        return src, self.number(head, 2), dst, self.number(head + 2, 2)

    @property
    def ip_bytes(self) -> int:
        assert self.ip is not None
        if self.version == 4:
            return self.number(self.ip + 2, 2) or self.frame.wire_bytes - self.ip
        return 40 + self.number(self.ip + 4, 2)

    @property
    def payload_at(self) -> int:
        assert self.tcp is not None
        return self.tcp + (self.bytes[self.tcp + 12] >> 4) * 4

    @property
    def payload_bytes(self) -> int:
        assert self.ip is not None
        return self.ip + self.ip_bytes - self.payload_at

    @property
    def seq(self) -> int:
        assert self.tcp is not None
        return self.number(self.tcp + 4, 4)

    @property
    def ack(self) -> int:
        assert self.tcp is not None
        return self.number(self.tcp + 8, 4)

    @property
    def flags(self) -> int:
        assert self.tcp is not None
        return self.bytes[self.tcp + 13]

    def options(self, tcp: int | None = None) -> Iterator[tuple[int, int, int]]:
        """(kind, offset, length) of the TCP options that the capture holds."""
        at = self.tcp if tcp is None else tcp
        assert at is not None
        end = min(at + (self.bytes[at + 12] >> 4) * 4, len(self.bytes))
        at += 20
        while at < end:
            kind = self.bytes[at]
            if kind == 0:
                return
            length = 1 if kind == 1 else self.bytes[at + 1] if at + 1 < end else 0
            if length < 1 or at + length > end:
                return
            yield kind, at, length
            at += length

    # ---- writing

    def put(self, at: int, new: bytes, sums: Sequence[int] = ()) -> None:
        """Overwrite bytes; the checksums at `sums` follow (RFC 1624, eqn. 3)."""
        old = bytes(self.bytes[at : at + len(new)])
        self.bytes[at : at + len(new)] = new
        for place in sums:
            if place + 2 > len(self.bytes):
                continue
            # words of the checksum begin at even distances from its own place
            pad = (at - place) % 2
            before, after = bytes(pad) + old, bytes(pad) + new
            before += bytes(len(before) % 2)
            after += bytes(len(after) % 2)
            total = ~self.number(place, 2) & 0xFFFF
            for i in range(0, len(before), 2):
                total += (~int.from_bytes(before[i : i + 2], "big") & 0xFFFF) + int.from_bytes(after[i : i + 2], "big")
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            self.bytes[place : place + 2] = (~total & 0xFFFF).to_bytes(2, "big")

    def tcp_sums(self) -> tuple[int, ...]:
        assert self.tcp is not None
        return (self.tcp + 16,)

    def put_tcp(self, offset: int, value: int, size: int) -> None:
        assert self.tcp is not None
        self.put(self.tcp + offset, (value & (1 << 8 * size) - 1).to_bytes(size, "big"), self.tcp_sums())

    def put_addresses(self, new: Callable[[bytes], bytes]) -> None:
        """Of the packet, and of the one that it quotes."""
        assert self.ip is not None
        upper = [self.tcp + 16] if self.tcp is not None else []
        if self.icmp is not None and self.version == 6:
            upper.append(self.icmp + 2)
        self._put_addresses(self.ip, new, upper)
        if self.quoted is not None:
            assert self.icmp is not None
            self._put_addresses(self.quoted, new, [self.icmp + 2])

    def _put_addresses(self, ip: int, new: Callable[[bytes], bytes], sums: list[int]) -> None:
        src, dst = self.addresses(ip)
        first = 12 if len(src) == 4 else 8
        if len(src) == 4:
            sums = [*sums, ip + 10]
        self.put(ip + first, new(src), sums)
        self.put(ip + first + len(src), new(dst), sums)

    def put_df(self, df: bool) -> None:
        if self.version == 4:
            assert self.ip is not None
            flags = self.number(self.ip + 6, 2)
            self.put(self.ip + 6, (flags & 0xBFFF | df << 14).to_bytes(2, "big"), [self.ip + 10])

    def put_ttl(self, ttl: int) -> None:
        assert self.ip is not None
        if self.version == 4:
            self.put(self.ip + 8, bytes([ttl]), [self.ip + 10])
        else:
            self.bytes[self.ip + 7] = ttl

    @property
    def ttl(self) -> int:
        assert self.ip is not None
        return self.bytes[self.ip + (8 if self.version == 4 else 7)]

    def put_length(self, ip_bytes: int) -> None:
        assert self.ip is not None
        if self.version == 4:
            self.put(self.ip + 2, ip_bytes.to_bytes(2, "big"), [self.ip + 10])
        else:
            self.bytes[self.ip + 4 : self.ip + 6] = (ip_bytes - 40).to_bytes(2, "big")

    def sum_again(self) -> None:
        """The TCP checksum of a whole packet, computed anew."""
        assert self.ip is not None
        assert self.tcp is not None
        if self.cut:
            return
        self.bytes[self.tcp + 16 : self.tcp + 18] = b"\0\0"
        segment = bytes(self.bytes[self.tcp : self.ip + self.ip_bytes])
        src, dst = self.addresses()
        pseudo = src + dst + struct.pack(">II", len(segment), 6)
        data = pseudo + segment
        total = sum(struct.unpack(f">{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        self.bytes[self.tcp + 16 : self.tcp + 18] = (~total & 0xFFFF).to_bytes(2, "big")


def _header(data: bytearray, ip: int) -> tuple[int, int]:
    """(where the next header begins, its protocol)"""
    if data[ip] >> 4 == 4:
        return ip + (data[ip] & 15) * 4, data[ip + 9]
    return ip + 40, data[ip + 6]


def _ip_at(data: bytearray, link_type: int) -> int | None:
    if link_type == RAW:
        at, kind = 0, 0x0800 if data and data[0] >> 4 == 4 else 0x86DD
    elif link_type == SLL2:
        at, kind = 20, int.from_bytes(data[0:2], "big")
    elif link_type in (ETHERNET, SLL):
        at = 14 if link_type == ETHERNET else 16
        kind = int.from_bytes(data[at - 2 : at], "big")
        while kind in _TAGS:
            kind = int.from_bytes(data[at + 2 : at + 4], "big")
            at += 4
    else:
        return None
    if kind not in (0x0800, 0x86DD) or len(data) < at + (20 if kind == 0x0800 else 40):
        return None
    return at


def packets(r: Recording) -> Iterator[Packet]:
    return (Packet(f, r.link_type) for f in r.frames)


def is_plain(r: Recording) -> bool:
    """Every frame is TCP or ICMP (or no IP at all): nothing inside a tunnel, nothing fragmented."""
    for p in packets(r):
        if p.ip is None:
            continue
        if p.tcp is None and p.icmp is None:
            return False
        if p.version == 4 and p.number(p.ip + 6, 2) & 0x3FFF:
            return False
    return True


def clients(r: Recording) -> set[tuple[bytes, int]]:
    """(address, port) of those that open a connection; where no SYN is seen, whoever talks to port 25, 465, 587 or 2525."""
    found = set()
    for p in packets(r):
        if p.tcp is not None:
            src, sport, _, dport = p.flow
            if dport in (25, 465, 587, 2525) or p.flags & (SYN | ACK) == SYN:
                found.add((src, sport))
    return found


# ---------------------------------------------------------------- what must not change anything


def relink(r: Recording, link_type: int) -> Recording:
    """Another link layer around the same packets; raw IP has no room for what is not IP."""
    frames = []
    for p in packets(r):
        at = p.ip
        if at is None:
            if link_type == RAW or r.link_type != ETHERNET:
                continue
            at = 14
        kind = int.from_bytes(p.bytes[12:14], "big") if p.ip is None else 0x0800 if p.version == 4 else 0x86DD
        link = {
            RAW: b"",
            ETHERNET: bytes(12) + struct.pack(">H", kind),
            SLL: struct.pack(">HHH8sH", 3, 1, 6, bytes(8), kind),  # 3: sent to someone else by someone else
            SLL2: struct.pack(">HHIHBB8s", kind, 0, 2, 1, 3, 6, bytes(8)),
        }[link_type]
        frames.append(Frame(p.frame.time_ns, link + bytes(p.bytes[at:]), p.frame.wire_bytes - at + len(link)))
    return Recording(link_type, tuple(frames), r.snaplen)


def shift_sequence(r: Recording) -> Recording:
    """Each side's first sequence number becomes 2^32 - 3000: everything of interest lies around the wrap."""
    shift: dict[tuple[bytes, int, bytes, int], int] = {}
    for p in packets(r):
        if p.tcp is not None:
            flow = p.flow
            shift.setdefault(flow, (2**32 - 3000 - p.seq) & 0xFFFFFFFF)
            if p.flags & ACK:
                shift.setdefault((*flow[2:], *flow[:2]), (2**32 - 3000 - p.ack) & 0xFFFFFFFF)

    def edit(p: Packet) -> Frame:
        if p.tcp is not None:
            own = shift[p.flow]
            peer = shift.get((*p.flow[2:], *p.flow[:2]), 0)
            p.put_tcp(4, p.seq + own, 4)
            if p.flags & ACK:
                p.put_tcp(8, p.ack + peer, 4)
            for kind, at, length in p.options():
                if kind == 5:
                    for edge in range(at + 2, at + length, 4):
                        p.put(edge, (p.number(edge, 4) + peer & 0xFFFFFFFF).to_bytes(4, "big"), p.tcp_sums())
        elif p.quoted is not None:
            flow = p.quoted_flow
            if flow in shift:
                assert p.icmp is not None
                seq = _header(p.bytes, p.quoted)[0] + 4
                p.put(seq, (p.number(seq, 4) + shift[flow] & 0xFFFFFFFF).to_bytes(4, "big"), [p.icmp + 2])
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def other_addresses(r: Recording, first: int = 198) -> Recording:
    """10.x becomes 198.x, fd.. becomes 20.. (by `first`), wherever the headers name it."""

    def new(address: bytes) -> bytes:
        return bytes([first if len(address) == 4 else 0x20 | first & 7]) + address[1:]

    return _with_addresses(r, new)


def swap_hosts(r: Recording) -> Recording:
    """The two hosts of each connection exchange their addresses; ports and roles stay."""
    partner: dict[bytes, bytes] = {}
    for p in packets(r):
        if p.tcp is not None:
            src, _, dst, _ = p.flow
            if partner.setdefault(src, dst) != dst or partner.setdefault(dst, src) != src:
                raise ValueError("a host talks to several others")
    return _with_addresses(r, lambda a: partner.get(a, a))


def _with_addresses(r: Recording, new: Callable[[bytes], bytes]) -> Recording:
    def edit(p: Packet) -> Frame:
        if p.ip is not None:
            p.put_addresses(new)
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def merge(r: Recording, other: Recording) -> Recording:
    """Another recording's packets among these, from their own hosts, from the same moment on; none after their end."""
    other = other_addresses(other, 172)
    shift = r.frames[0].time_ns - other.frames[0].time_ns + 1_000_000
    last = r.frames[-1].time_ns
    guests = (replace(f, time_ns=f.time_ns + shift) for f in other.frames)
    together = [*r.frames, *(f for f in guests if f.time_ns < last)]
    return r.with_frames(sorted(together, key=lambda f: f.time_ns))


def rotate(r: Recording, files: int) -> list[Recording]:
    """The same frames in several files."""
    n = max(-(-len(r.frames) // files), 1)
    return [r.with_frames(r.frames[i : i + n]) for i in range(0, len(r.frames), n)]


def twice(r: Recording, after_us: int = 20, hops: int = 0) -> Recording:
    """Every frame captured twice: a mirror port (hops 0), or a router that shows a packet again as it sends it on."""
    frames = list(r.frames)
    for p in packets(r):
        if p.ip is not None and hops:
            p.put_ttl(max(p.ttl - hops, 1))
        f = p.done()
        frames.append(replace(f, time_ns=f.time_ns + after_us * 1000))
    return r.with_frames(sorted(frames, key=lambda f: f.time_ns))


def snap(r: Recording, length: int) -> Recording:
    return replace(r, snaplen=length).with_frames(replace(f, data=f.data[:length]) for f in r.frames)


# ---------------------------------------------------------------- what the capture does not hold


def thin(r: Recording, share: float = 0.01, seed: int = 1) -> Recording:
    """A capture that missed some frames (the path did not lose them)."""
    rng = random.Random(seed)
    return r.with_frames(f for f in r.frames if rng.random() >= share)


def without_icmp(r: Recording) -> Recording:
    return r.with_frames(p.frame for p in packets(r) if p.icmp is None)


def one_way(r: Recording, from_client: bool) -> Recording:
    """Only what the clients (or the servers) sent."""
    who = clients(r)
    return r.with_frames(
        p.frame for p in packets(r) if p.tcp is not None and (p.flow[:2] in who) == from_client
    )


def first_loss_ns(r: Recording) -> int | None:
    """When the first byte was first sent that was sent again later."""
    sent: dict[tuple[bytes, int, bytes, int], dict[int, int]] = {}
    found: list[int] = []
    for p in packets(r):
        if p.tcp is not None and p.payload_bytes > 0:
            first = sent.setdefault(p.flow, {})
            if p.seq in first and p.frame.time_ns - first[p.seq] > 100_000_000:
                found.append(first[p.seq])
            first.setdefault(p.seq, p.frame.time_ns)
    return min(found, default=None)


def cut_after(r: Recording, seconds: float) -> Recording:
    """The capture ends so long after the first loss (or after its first frame, where nothing was lost)."""
    start = first_loss_ns(r)
    end = (start if start is not None else r.frames[0].time_ns) + int(seconds * 1e9)
    return r.with_frames(f for f in r.frames if f.time_ns <= end)


def begin_late(r: Recording, share: float) -> Recording:
    """The capture begins after this share of the time before the first loss: the handshake is not in it."""
    start = first_loss_ns(r) or r.frames[-1].time_ns
    begin = r.frames[0].time_ns + int((start - r.frames[0].time_ns) * share)
    return r.with_frames(f for f in r.frames if f.time_ns > begin)


def begin_after_loss(r: Recording, seconds: float = 1.0) -> Recording:
    """The capture begins when the data already hangs."""
    start = first_loss_ns(r) or r.frames[-1].time_ns
    return r.with_frames(f for f in r.frames if f.time_ns > start + int(seconds * 1e9))


# ---------------------------------------------------------------- other stacks


def foreign_icmp(r: Recording) -> Recording:
    """Each ICMP error quotes another connection: its client's port is one that nobody uses."""
    who = clients(r)

    def edit(p: Packet) -> Frame:
        flow = p.quoted_flow
        if flow is not None:
            assert p.quoted is not None
            assert p.icmp is not None
            at = _header(p.bytes, p.quoted)[0] + (0 if flow[:2] in who else 2)
            p.put(at, (p.number(at, 2) ^ 0x1555).to_bytes(2, "big"), [p.icmp + 2])
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def icmp_mtu(r: Recording, mtu: int) -> Recording:
    """Each "too big" names this MTU."""

    def edit(p: Packet) -> Frame:
        if p.icmp is not None and p.too_big:
            size, at = (2, p.icmp + 6) if p.version == 4 else (4, p.icmp + 4)
            p.put(at, mtu.to_bytes(size, "big"), [p.icmp + 2])
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def without_timestamps(r: Recording) -> Recording:
    """No TCP timestamps: 12 bytes less in each packet, and an MSS that is 12 bytes smaller, so that they stay full."""

    def edit(p: Packet) -> Frame:
        if p.tcp is None:
            return p.done()
        if p.flags & SYN:
            for kind, at, length in list(p.options()):
                if kind == 8:
                    p.put(at, b"\x01" * length)
                elif kind == 2:
                    p.put(at + 2, (p.number(at + 2, 2) - 12).to_bytes(2, "big"))
            p.sum_again()
            return p.done()
        assert p.ip is not None
        end = p.payload_at
        rest = b"".join(bytes(p.bytes[at : at + n]) for kind, at, n in p.options() if kind not in (0, 1, 8))
        if not any(kind == 8 for kind, _, _ in p.options()) or end > len(p.bytes):
            return p.done()
        rest = b"\x01" * (-len(rest) % 4) + rest
        size, shorter = p.ip_bytes, end - p.tcp - 20 - len(rest)
        p.bytes[p.tcp + 20 : end] = rest
        p.bytes[p.tcp + 12] = (5 + len(rest) // 4) << 4 | p.bytes[p.tcp + 12] & 15
        p.put_length(size - shorter)
        p.sum_again()
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def _blank_options(r: Recording, *kinds: int) -> Recording:
    def edit(p: Packet) -> Frame:
        if p.tcp is not None:
            for kind, at, length in list(p.options()):
                if kind in kinds:
                    p.put(at, b"\x01" * length, p.tcp_sums())
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def without_sack(r: Recording) -> Recording:
    """Neither permitted nor sent."""
    return _blank_options(r, 4, 5)


def without_scale(r: Recording) -> Recording:
    """No window scaling: windows are announced as they are, 65,535 at most."""
    scale: dict[tuple[bytes, int], int] = {}
    for p in packets(r):
        if p.tcp is not None and p.flags & SYN:
            for kind, at, _ in p.options():
                if kind == 3:
                    scale[p.flow[:2]] = p.bytes[at + 2]

    def edit(p: Packet) -> Frame:
        if p.tcp is not None and not p.flags & (SYN | RST):
            window = p.number(p.tcp + 14, 2) << scale.get(p.flow[:2], 0)
            p.put_tcp(14, min(window, 65535), 2)
        return p.done()

    return _blank_options(r.with_frames(edit(p) for p in packets(r)), 3)


def with_ecn(r: Recording) -> Recording:
    """ECN agreed on (RFC 3168): ECE and CWR in the handshake, ECT(0) on data."""

    def edit(p: Packet) -> Frame:
        if p.tcp is None:
            return p.done()
        if p.flags & SYN:
            p.put_tcp(13, p.flags | (0x40 if p.flags & ACK else 0xC0), 1)
        elif p.payload_bytes:
            assert p.ip is not None
            if p.version == 4:
                p.put(p.ip + 1, bytes([p.bytes[p.ip + 1] | 2]), [p.ip + 10])
            else:
                p.bytes[p.ip + 1] |= 0x20
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def without_df(r: Recording) -> Recording:
    def edit(p: Packet) -> Frame:
        if p.tcp is not None and not p.flags & SYN:
            p.put_df(False)
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def zero_ip_id(r: Recording) -> Recording:
    """Identification 0 on every packet with DF (RFC 6864 allows it; FreeBSD and others do so)."""

    def edit(p: Packet) -> Frame:
        if p.ip is not None and p.version == 4 and p.number(p.ip + 6, 2) & 0x4000:
            p.put(p.ip + 4, b"\0\0", [p.ip + 10])
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def ttl_128(r: Recording) -> Recording:
    """Hosts that begin with a TTL of 128."""

    def edit(p: Packet) -> Frame:
        if p.tcp is not None and p.ttl <= 64:
            p.put_ttl(p.ttl + 64)
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def rst_for_fin(r: Recording) -> Recording:
    """Hosts that reset instead of closing: each first FIN without data becomes RST, the other one is not sent."""
    seen: set[frozenset[tuple[bytes, int]]] = set()
    frames = []
    for p in packets(r):
        if p.tcp is not None:
            flow = p.flow
            pair = frozenset((flow[:2], flow[2:]))
            if pair in seen and not p.flags & SYN:
                continue
            if p.flags & FIN and p.payload_bytes == 0:
                seen.add(pair)
                p.put_tcp(13, RST | ACK, 1)
        frames.append(p.done())
    return r.with_frames(frames)


def jitter(r: Recording, most_ms: float = 3.0, seed: int = 1) -> Recording:
    """Every time moved a little, the order kept."""
    rng = random.Random(seed)
    frames, at = [], 0
    for f in r.frames:
        at = max(at, f.time_ns + int(rng.random() * most_ms * 1e6))
        frames.append(replace(f, time_ns=at))
    return r.with_frames(frames)


def slower(r: Recording, factor: float) -> Recording:
    """Stacks with longer time-outs: all pauses after the first loss are so many times as long."""
    start = first_loss_ns(r)
    if start is None:
        return r
    return r.with_frames(
        f if f.time_ns <= start else replace(f, time_ns=start + int((f.time_ns - start) * factor)) for f in r.frames
    )


# ---------------------------------------------------------------- the end of a mail


def move_cut(r: Recording, by: int) -> Recording:
    """Two neighbouring segments that end a mail are cut `by` bytes later (earlier, if negative), resends alike."""
    ends = [p for p in packets(r) if p.tcp is not None and p.payload_bytes > 0 and _completes(p)]
    if not ends:
        raise ValueError("no mail ends in this recording")
    places = {(p.flow, p.seq) for p in ends if p.payload_bytes <= 11}
    if not places:
        raise ValueError("no end of a mail has a segment of its own")
    before: dict[tuple[tuple[bytes, int, bytes, int], int], Packet] = {}
    for p in packets(r):
        if p.tcp is not None and p.payload_bytes > 0:
            before.setdefault((p.flow, (p.seq + p.payload_bytes) & 0xFFFFFFFF), p)

    def edit(p: Packet) -> Frame:
        if p.tcp is None or p.payload_bytes <= 0:
            if p.tcp is not None and (reverse := (*p.flow[2:], *p.flow[:2])) and (reverse, p.ack) in places:
                p.put_tcp(8, p.ack + by, 4)
            return p.done()
        if (p.flow, p.seq) in places:
            head = before.get((p.flow, p.seq))
            at = p.payload_at
            if by > 0:
                _replace_payload(p, bytes(p.bytes[at + by :]))
            elif head is not None:
                _replace_payload(p, bytes(head.bytes[len(head.bytes) + by :]) + bytes(p.bytes[at:]))
            p.put_tcp(4, p.seq + by, 4)
            p.sum_again()
            return p.done()
        end = (p.seq + p.payload_bytes) & 0xFFFFFFFF
        if (p.flow, end) in places:
            tail = next(t for t in ends if (t.flow, t.seq) == (p.flow, end))
            at = p.payload_at
            if by > 0:
                _replace_payload(p, bytes(p.bytes[at:]) + bytes(tail.bytes[tail.payload_at : tail.payload_at + by]))
            else:
                _replace_payload(p, bytes(p.bytes[at:by]))
            p.sum_again()
        return p.done()

    return r.with_frames(edit(p) for p in packets(r))


def _completes(p: Packet) -> bool:
    payload = bytes(p.bytes[p.payload_at :])
    return payload in (b"\r\n", b"\n") or payload[:12].upper().startswith(
        (b".\r\n", b"\r\n.\r\n", b"\n.\r\n", b"\r\nQUIT", b"\nQUIT")
    )


def _replace_payload(p: Packet, payload: bytes) -> None:
    size = p.ip_bytes - p.payload_bytes + len(payload)
    p.bytes[p.payload_at :] = payload
    p.put_length(size)


MUTATIONS: dict[str, Callable[[Recording], Recording]] = {
    "raw-ip": partial(relink, link_type=RAW),
    "cooked": partial(relink, link_type=SLL),
    "cooked-2": partial(relink, link_type=SLL2),
    "sequence-wrap": shift_sequence,
    "other-addresses": other_addresses,
    "swapped-hosts": swap_hosts,
    "mirror-port": twice,
    "router-twice": partial(twice, hops=1),
    "ecn": with_ecn,
    "ttl-128": ttl_128,
    "ip-id-0": zero_ip_id,
    "no-scale": without_scale,
    "no-timestamps": without_timestamps,
    "no-sack": without_sack,
    "df-off": without_df,
    "rst-for-fin": rst_for_fin,
    "jitter": jitter,
    "slower": partial(slower, factor=3.0),
    "thin": thin,
    "snap-96": partial(snap, length=96),
    "no-icmp": without_icmp,
    "foreign-icmp": foreign_icmp,
    "client-only": partial(one_way, from_client=True),
    "server-only": partial(one_way, from_client=False),
    "ends-after-1s": partial(cut_after, seconds=1),
    "ends-after-3s": partial(cut_after, seconds=3),
    "ends-after-30s": partial(cut_after, seconds=30),
    "begins-late": partial(begin_late, share=0.5),
    "begins-after-loss": begin_after_loss,
}


def main() -> int:
    if len(sys.argv) != 4 or sys.argv[2] not in MUTATIONS:
        print(__doc__.split("\n\n")[1] + "\nmutations: " + ", ".join(MUTATIONS), file=sys.stderr)
        return 2
    Path(sys.argv[3]).write_bytes(pcap(MUTATIONS[sys.argv[2]](load(Path(sys.argv[1]))), nano=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
