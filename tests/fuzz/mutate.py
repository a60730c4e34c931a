"""Captures that are broken on purpose, each known by its number: the same seed and number give the same bytes.

Families, in turn (number modulo their count):

    cut      a sample that ends early: at each of its first 4096 bytes, or at one of 2,000 random places after them
    header   one byte of a file, record, block, IP or TCP header of one of twenty samples set to 0, 255 or anything
    field    a length, count, offset, id or time set to an extreme
    packet   a field of an IP, TCP or ICMP header set to an extreme, in some or all packets
    order    records left out, doubled, moved, moved in time, or taken from another sample; link types mixed
    bytes    blind damage: bytes flipped, runs deleted, doubled or overwritten
    inside   a capture that lies in the payload of another's packets, or behind another, or inside a record header
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

FIRST_BYTES = 4096  # cut at each of them
LATER_CUTS = 2000  # and at so many random places after them
HEADER_SAMPLES = 20
# What a 32-bit length, count, offset or time is set to: nothing, the least block, signs, and all ones.
EXTREMES = (0, 1, 3, 4, 8, 11, 12, 13, 16, 0x7F, 0xFF, 0xFFFF, 0x10000, 262144, 262145, 0x0FFFFFFF, 0x7FFFFFFF, 0x80000000,
            0xFFFFFFFC, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
LINK_TYPES = (0, 1, 9, 12, 50, 51, 101, 104, 105, 108, 113, 127, 147, 228, 229, 239, 276, 65535)
# A prime that divides no number of cuts: stepping by it visits them all, far apart from each other.
STRIDE = 1_000_000_007


@dataclass(frozen=True, slots=True)
class Mutant:
    number: int
    family: str
    sample: str
    what: str
    data: bytes
    shortened: bool = False  # nothing but the end is missing

    def __str__(self) -> str:
        return f"{self.number} {self.family} of {self.sample}: {self.what}"


class Sample:
    """A capture and where its parts lie: `headers` are (offset, size) of what is no payload."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data
        self.order = "<" if data[:1] in (b"\xd4", b"\x4d", b"\x0a") else ">"
        self.ng = data[:4] == b"\n\r\r\n"

    @property
    @lru_cache  # noqa: B019 - samples live as long as the run
    def records(self) -> list[tuple[int, int, int]]:
        """(offset of the record or packet block, offset of the packet, its captured bytes)."""
        found = []
        data, at = self.data, 0 if self.ng else 24
        while at + 16 <= len(data):
            if self.ng:
                kind, size = struct.unpack_from("<II", data, at)
                if kind == 6:
                    found.append((at, at + 28, struct.unpack_from("<I", data, at + 20)[0]))
            else:
                size = 16 + struct.unpack_from(self.order + "I", data, at + 8)[0]
                found.append((at, at + 16, size - 16))
            at += max(size, 12)
        return found

    @property
    def link_type(self) -> int:
        at = struct.unpack_from("<I", self.data, 4)[0] + 8 if self.ng else 20
        return int(struct.unpack_from(self.order + "H", self.data, at)[0])

    def packets(self) -> list[tuple[int, bytes]]:
        """(time in microseconds, packet); times of a pcapng are taken as they are."""
        found = []
        for at, packet, size in self.records:
            high, low = struct.unpack_from(self.order + "II", self.data, at + 12 if self.ng else at)
            time = high << 32 | low if self.ng else high * 1_000_000 + low
            found.append((time, self.data[packet : packet + size]))
        return found


def as_pcap(packets: Sequence[tuple[int, bytes]], link_type: int, order: str = "<") -> bytes:
    out = [struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)]
    for time, data in packets:
        seconds, micro = divmod(time & (1 << 51) - 1, 1_000_000)
        out.append(struct.pack(order + "IIII", seconds & 0xFFFFFFFF, micro, len(data), len(data)) + data)
    return b"".join(out)


def as_pcapng(packets: Sequence[tuple[int, bytes]], link_types: Sequence[int], order: str = "<") -> bytes:
    """Packets in turn on interfaces of these link types; options on blocks, so that there are some to break."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)

    comment = struct.pack(order + "HH", 1, 6) + b"broken\0\0"
    end = struct.pack(order + "HH", 0, 0)
    out = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + comment + end)]
    clock = struct.pack(order + "HHI", 9, 1, 6 if order == "<" else 6 << 24)
    out += [block(1, struct.pack(order + "HHI", link, 0, 262144) + clock + end) for link in link_types]
    flags = struct.pack(order + "HHI", 2, 4, 1)
    for n, (time, data) in enumerate(packets):
        head = struct.pack(
            order + "IIIII", n % len(link_types), time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(data), len(data)
        )
        out.append(block(6, head + data + bytes(-len(data) % 4) + (flags + end if n % 2 else b"")))
    return b"".join(out)


class Mutants:
    """All mutants of a folder of samples."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.seed = seed
        files = [file for file in sorted(folder.iterdir()) if file.suffix in (".pcap", ".pcapng")]
        self.samples = [Sample(file.name, file.read_bytes()) for file in files]
        # The headers of one in so many samples: of different scenarios, as they stand in alphabetical order.
        self.headed = self.samples[:: max(len(self.samples) // HEADER_SAMPLES, 1)][:HEADER_SAMPLES]
        self._cuts = []
        total = 0
        for sample in self.samples:
            total += min(len(sample.data), FIRST_BYTES) + (LATER_CUTS if len(sample.data) > FIRST_BYTES else 0)
            self._cuts.append(total)
        self.families: list[tuple[str, Callable[[int, Random], Mutant]]] = [
            (name, getattr(self, f"_{name}"))
            for name in ("cut", "header", "field", "packet", "order", "bytes", "inside")
        ]

    def __getitem__(self, number: int) -> Mutant:
        name, make = self.families[number % len(self.families)]
        return make(number, Random(f"{self.seed} {name} {number}"))

    def _any(self, random: Random) -> Sample:
        return random.choice(self.samples)

    # -- families ------------------------------------------------------------------------------------------------

    def _cut(self, number: int, random: Random) -> Mutant:
        turn = number // len(self.families) * STRIDE % self._cuts[-1]
        which = next(i for i, total in enumerate(self._cuts) if turn < total)
        sample = self.samples[which]
        at = turn - (self._cuts[which - 1] if which else 0)
        if at >= min(len(sample.data), FIRST_BYTES):
            at = random.randrange(FIRST_BYTES, len(sample.data))
        return Mutant(number, "cut", sample.name, f"at byte {at}", sample.data[:at], shortened=True)

    def _header(self, number: int, random: Random) -> Mutant:
        sample = random.choice(self.headed)
        record, packet, size = random.choice(sample.records)
        # 14 of Ethernet, up to 60 of IP, up to 60 of TCP; or the beginning of the file with its file or section header
        first, last = (0, 64) if random.random() < 0.3 else (record, min(packet + min(size, 134), len(sample.data)))
        at = random.randrange(first, min(last, len(sample.data)))
        value = random.choice((0, 255, random.randrange(256)))
        data = bytearray(sample.data)
        data[at] = value
        return Mutant(number, "header", sample.name, f"byte {at} = {value}", bytes(data))

    def _field(self, number: int, random: Random) -> Mutant:
        sample = self._any(random)
        order = random.choice("<>")
        if random.random() < 0.5:
            data = bytearray(as_pcap(sample.packets(), sample.link_type, order))
            fields = [4, 6, 8, 12, 16, 20]  # version, zone, accuracy, snap length, link type
            fields += [
                at + off
                for at, _, _ in random.sample(_in(data), min(8, len(sample.records)))
                for off in range(0, 16, 4)
            ]
        else:
            data = bytearray(as_pcapng(sample.packets(), [sample.link_type], order))
            blocks = _blocks(data, order)
            fields = []
            for at, size in [*blocks[:2], *random.sample(blocks, min(6, len(blocks)))]:
                fields += [
                    at,
                    at + 4,
                    at + 8,
                    at + 12,
                    at + 16,
                    at + 20,
                    at + 24,
                    at + size - 4,
                    at + size - 8,
                    at + size - 12,
                ]
        done = []
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            at = random.choice(fields)
            value = random.choice(EXTREMES) if random.random() < 0.8 else random.getrandbits(32)
            if random.random() < 0.3:
                (now,) = struct.unpack_from(order + "I", data, at)
                value = now + random.choice((-4, -1, 1, 4)) & 0xFFFFFFFF
            struct.pack_into(order + "I", data, at, value)
            done.append(f"{at} = {value:#x}")
        return Mutant(number, "field", sample.name, f"{order} " + ", ".join(done), bytes(data))

    def _packet(self, number: int, random: Random) -> Mutant:
        sample = self._any(random)
        data = bytearray(sample.data)
        records = sample.records
        chosen = (
            records if random.random() < 0.2 else random.sample(records, min(random.choice((1, 3, 20)), len(records)))
        )
        off = random.choice((2, 3, 4, 6, 7, 8, 9, *range(20, 40), 46, 47)) + random.choice((14, 14, 14, 0, 16))
        value = random.choice((0, 1, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xF0, 0xFF, random.randrange(256)))
        for _, packet, size in chosen:
            if off < size:
                data[packet + off] = value if random.random() < 0.9 else random.randrange(256)
        return Mutant(number, "packet", sample.name, f"byte {off} of {len(chosen)} packets = {value}", bytes(data))

    def _order(self, number: int, random: Random) -> Mutant:
        sample = self._any(random)
        packets = sample.packets()
        done = []
        for _ in range(random.randrange(1, 4)):
            what = random.choice(("drop", "double", "swap", "shuffle", "late", "far", "zero", "other", "reverse"))
            done.append(what)
            i = random.randrange(len(packets))
            time, packet = packets[i]
            if what == "drop":
                packets = [p for p in packets if random.random() < 0.7] or packets
            elif what == "double":
                packets[i:i] = packets[max(i - random.randrange(20), 0) : i]
            elif what == "swap":
                packets[i:] = [*packets[i + 1 :], packets[i]]
            elif what == "shuffle":
                times = [t for t, _ in packets]
                random.shuffle(packets)
                packets = [(t, p) for t, (_, p) in zip(times, packets, strict=True)]
            elif what == "late":
                packets[i] = (max(time - random.randrange(1, 10**9), 0), packet)
            elif what == "far":  # 2106, or what a 64-bit clock can say
                packets[i] = (random.choice((0xFFFFFFFF * 10**6, (1 << 64) - 1, 1 << 63)), packet)
            elif what == "zero":
                packets = [(0, p) for _, p in packets]
            elif what == "other":
                packets[i:i] = self._any(random).packets()[: random.randrange(1, 50)]
            elif what == "reverse":
                packets.reverse()
        if random.random() < 0.5:
            return Mutant(number, "order", sample.name, " ".join(done), as_pcap(packets, sample.link_type))
        links = [sample.link_type, *random.sample(LINK_TYPES, random.randrange(3))]
        return Mutant(number, "order", sample.name, f"{' '.join(done)} on {links}", as_pcapng(packets, links))

    def _bytes(self, number: int, random: Random) -> Mutant:
        sample = self._any(random)
        data = bytearray(sample.data)
        done = []
        for _ in range(random.choice((1, 2, 5, 30))):
            what = random.choice(("flip", "set", "delete", "double", "overwrite", "insert"))
            at = random.randrange(len(data)) if len(data) > 1 else 0
            size = random.choice((1, 2, 4, 16, 100, 3000))
            done.append(f"{what} {size} at {at}")
            if not data:
                break
            if what == "flip":
                data[at] ^= 1 << random.randrange(8)
            elif what == "set":
                data[at] = random.choice((0, 255, random.randrange(256)))
            elif what == "delete":
                del data[at : at + size]
            elif what == "double":
                data[at:at] = data[at : at + size]
            elif what == "overwrite":
                data[at : at + size] = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))
            else:
                data[at:at] = random.randbytes(size)
        return Mutant(number, "bytes", sample.name, "; ".join(done[:4]), bytes(data))

    def _inside(self, number: int, random: Random) -> Mutant:
        sample, other = self._any(random), self._any(random)
        inner = other.data[:60000]
        how = random.choice(("payload", "behind", "packet", "many"))
        if how == "behind":  # two files put together by cat
            return Mutant(number, "inside", sample.name, f"{other.name} behind it", sample.data + other.data)
        packets = sample.packets()
        if how == "packet":
            packets = [(t, inner) for t, _ in packets[:30]]
        else:
            for i in range(len(packets)) if how == "many" else [random.randrange(len(packets))]:
                time, packet = packets[i]
                start = random.randrange(len(inner))
                packets[i] = time, packet[:54] + inner[start : start + len(packet) - 54 if how == "many" else None]
        make = as_pcap(packets, sample.link_type) if random.random() < 0.5 else as_pcapng(packets, [sample.link_type])
        return Mutant(number, "inside", sample.name, f"{how} of {other.name}", make)


def _in(data: bytes | bytearray) -> list[tuple[int, int, int]]:
    return Sample("", bytes(data)).records


def _blocks(data: bytes | bytearray, order: str) -> list[tuple[int, int]]:
    found, at = [], 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(order + "I", data, at + 4)
        found.append((at, size))
        at += size
    return found
