"""Traffic that is meant to hurt: each story is a capture whose size grows with `n`, in linear time and little memory.

    SCENES["syn-flood"].write(path, n)

Made by `struct` from nothing, so that a hundred megabytes take seconds. Packets are Ethernet, IPv4 and TCP unless the
story says otherwise; what the dialogues say is RFC 5321, and worse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAC = b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"
CLIENT, SERVER = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
FIN, SYN, RST, ACK = 1, 2, 4, 16
SEGMENT = 1448
START_S = 1_700_000_000
DOC = Callable[[int], Iterator[bytes]]


def tcp(
    payload: bytes, *, sport: int = 40000, dport: int = 25, seq: int, ack: int = 0, flags: int = ACK, src: bytes = CLIENT,
    dst: bytes = SERVER,
) -> bytes:  # fmt: skip
    """An Ethernet frame."""
    size = min(40 + len(payload), 65535)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, seq & 0xFFFF, 0x4000, 64, 6, 0, src, dst)
    head = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 500, 0, 0)
    return MAC + b"\x08\x00" + ip + head + payload


class Talk:
    """One connection: who says what, with the sequence numbers that belong to it."""

    def __init__(self, isn: int = 1000, peer_isn: int = 5000, sport: int = 40000) -> None:
        self.seq = {"c": isn, "s": peer_isn}
        self.sport = sport

    def handshake(self) -> Iterator[bytes]:
        yield self.packet("c", flags=SYN)
        self.seq["c"] += 1
        yield self.packet("s", flags=SYN | ACK)
        self.seq["s"] += 1
        yield self.packet("c")

    def packet(self, who: str, payload: bytes = b"", *, flags: int = ACK, at: int = 0) -> bytes:
        """Without moving on; `at` = bytes from where this side is."""
        other = "s" if who == "c" else "c"
        ends = {"src": CLIENT, "dst": SERVER, "sport": self.sport, "dport": 25}
        if who == "s":
            ends = {"src": SERVER, "dst": CLIENT, "sport": 25, "dport": self.sport}
        ack = self.seq[other] if flags & ACK else 0
        return tcp(payload, seq=self.seq[who] + at, ack=ack, flags=flags, **ends)  # type: ignore[arg-type]

    def say(self, who: str, data: bytes, size: int = SEGMENT) -> Iterator[bytes]:
        for i in range(0, len(data), size):
            part = data[i : i + size]
            yield self.packet(who, part)
            self.seq[who] += len(part)

    def opening(self) -> Iterator[bytes]:
        yield from self.handshake()
        yield from self.say("s", b"220 mx.example.com ESMTP\r\n")
        yield from self.say("c", b"EHLO client.example.net\r\n")
        yield from self.say("s", b"250-mx.example.com\r\n250 PIPELINING\r\n")

    def envelope(self) -> Iterator[bytes]:
        yield from self.opening()
        yield from self.say("c", b"MAIL FROM:<a@example.net>\r\n")
        yield from self.say("s", b"250 ok\r\n")
        yield from self.say("c", b"RCPT TO:<b@example.com>\r\n")
        yield from self.say("s", b"250 ok\r\n")
        yield from self.say("c", b"DATA\r\n")
        yield from self.say("s", b"354 go on\r\n")

    def end(self) -> Iterator[bytes]:
        yield from self.say("c", b"\r\n.\r\n")
        yield from self.say("s", b"250 queued\r\n")
        yield from self.say("c", b"QUIT\r\n")
        yield from self.say("s", b"221 bye\r\n")


# -- stories: the frames, in order ------------------------------------------------------------------------------------


def syn_flood(n: int) -> Iterator[bytes]:
    """n SYNs from as many addresses and ports."""
    for i in range(n):
        yield tcp(b"", src=struct.pack(">I", 0x0B000000 + i), sport=1024 + i % 60000, seq=i * 7919, flags=SYN)


def open_connections(n: int) -> Iterator[bytes]:
    """n connections that begin to talk and never close."""
    for i in range(n):
        talk = Talk(i, i, sport=1024 + i % 60000)
        source = struct.pack(">I", 0x0B000000 + i // 60000)
        for frame in (talk.packet("c", flags=SYN), talk.packet("c", b"EHLO x\r\n", at=1)):
            yield frame[:26] + source + frame[30:]


def commands(n: int) -> Iterator[bytes]:
    """n commands and as many replies in one connection."""
    talk = Talk()
    yield from talk.opening()
    for _ in range(n):
        yield from talk.say("c", b"NOOP\r\n")
        yield from talk.say("s", b"250 ok\r\n")


def pipelined_commands(n: int) -> Iterator[bytes]:
    """n commands in full packets, the replies behind them."""
    talk = Talk()
    yield from talk.opening()
    yield from talk.say("c", b"RSET\r\n" * n)
    yield from talk.say("s", b"250 ok\r\n" * n)


def unasked_replies(n: int) -> Iterator[bytes]:
    """n replies that nobody asked for."""
    talk = Talk()
    yield from talk.opening()
    yield from talk.say("s", b"250 ok\r\n" * n)
    yield from talk.say("c", b"QUIT\r\n")


def wordy_replies(n: int) -> Iterator[bytes]:
    """n commands, each answered by 200 lines of 500 bytes."""
    talk = Talk()
    yield from talk.opening()
    reply = b"".join(b"250-" + b"%07d " % i * 62 + b"\r\n" for i in range(199)) + b"250 ok\r\n"
    for _ in range(n):
        yield from talk.say("c", b"NOOP\r\n")
        yield from talk.say("s", reply)


def blank_lines(n: int) -> Iterator[bytes]:
    """n command lines, and as many replies, that are all but a few letters blanks: what makes patterns try again."""
    talk = Talk()
    yield from talk.opening()
    for start in (b"NOOP a", b"MAIL FROM:<a", b"RCPT TO :", b"BDAT 1", b"AUTH PLAIN", b"") * (n // 6):
        yield from talk.say("c", start + b" " * 12000 + b"b\r\n")
        yield from talk.say("s", b"500 a" + b"\t" * 12000 + b"b\r\n")


def recipients(n: int) -> Iterator[bytes]:
    """A mail for n recipients."""
    talk = Talk()
    yield from talk.opening()
    yield from talk.say(
        "c", b"MAIL FROM:<a@example.net>\r\n" + b"".join(b"RCPT TO:<r%d@example.com>\r\n" % i for i in range(n))
    )
    yield from talk.say("s", b"250 ok\r\n" * (n + 1))
    yield from talk.say("c", b"DATA\r\n")
    yield from talk.say("s", b"354 go on\r\n")
    yield from talk.end()


def mails(n: int) -> Iterator[bytes]:
    """n mails in one connection."""
    talk = Talk()
    yield from talk.opening()
    for _ in range(n):
        yield from talk.say("c", b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        yield from talk.say("s", b"250 ok\r\n250 ok\r\n354 go on\r\n")
        yield from talk.say("c", b"x\r\n.\r\n")
        yield from talk.say("s", b"250 queued\r\n")


def endless_line(n: int) -> Iterator[bytes]:
    """A command line of n bytes without its end."""
    talk = Talk()
    yield from talk.opening()
    yield from talk.say("c", b"MAIL FROM:<")
    for _ in range(n // SEGMENT):
        yield from talk.say("c", b"a" * SEGMENT)


def endless_mail(n: int) -> Iterator[bytes]:
    """A mail of n bytes in one line, which ends."""
    talk = Talk()
    yield from talk.envelope()
    for _ in range(n // SEGMENT):
        yield from talk.say("c", b"a" * SEGMENT)
    yield from talk.end()


def long_banner(n: int) -> Iterator[bytes]:
    """A greeting of n bytes in one line."""
    talk = Talk()
    yield from talk.handshake()
    yield from talk.say("s", b"220 " + b"*" * n + b"\r\n")
    yield from talk.say("c", b"EHLO x\r\n")


def many_keywords(n: int) -> Iterator[bytes]:
    """An EHLO reply of n lines."""
    talk = Talk()
    yield from talk.handshake()
    yield from talk.say("s", b"220 mx\r\n")
    yield from talk.say("c", b"EHLO x\r\n")
    yield from talk.say("s", b"".join(b"250-X%07d\r\n" % i for i in range(n)) + b"250 HELP\r\n")
    yield from talk.say("c", b"QUIT\r\n")


def false_ends(n: int) -> Iterator[bytes]:
    """A mail of n bytes that is full of ends that are none, and of SMTP."""
    talk = Talk()
    yield from talk.envelope()
    fake = b"\r\n..\r\n\n.\n\r.\r250 ok\r\nMAIL FROM:<x@y>\r\nDATA\r\n\r\n. \r\nQUIT\r\n\n.\r\n \r\n.x\r\n220 "
    for _ in range(n // len(fake)):
        yield from talk.say("c", fake)
    yield from talk.end()


def nothing_but_cr(n: int) -> Iterator[bytes]:
    """n bytes of what line ends are made of, NULs, 8-bit and overlong UTF-8 on either side."""
    talk = Talk()
    yield from talk.opening()
    for _ in range(n // 12):
        yield from talk.say("c", b"\r\r\n\0\r\xc0\xaf\xff\n.\r\r")
        yield from talk.say("s", b"2\r\r50\0\n\r\xe0\x80\xaf")


def small_segments(n: int) -> Iterator[bytes]:
    """A mail of n bytes, one in each packet."""
    talk = Talk()
    yield from talk.envelope()
    for _ in range(n):
        yield from talk.say("c", b"a")
    yield from talk.end()


def backwards(n: int) -> Iterator[bytes]:
    """A mail of n segments, the last one first."""
    talk = Talk()
    yield from talk.envelope()
    for i in range(n - 1, -1, -1):
        yield talk.packet("c", b"a" * 100, at=100 * i)
    talk.seq["c"] += 100 * n
    yield from talk.end()


def holes(n: int) -> Iterator[bytes]:
    """A mail of n segments of which every other one is missing; then all of them again, shifted, with other bytes."""
    talk = Talk()
    yield from talk.envelope()
    for i in range(n):
        yield talk.packet("c", b"a" * 50, at=100 * i)
    for i in range(n):
        yield talk.packet("c", b"b" * 100, at=100 * i + 25)
    talk.seq["c"] += 100 * n
    yield from talk.end()


def liar(n: int) -> Iterator[bytes]:
    """Every segment sent n times with different content."""
    talk = Talk()
    yield from talk.opening()
    for i in range(n):
        yield talk.packet("c", b"RCPT TO:<%d@example.com>\r\n" % i)
    for i in range(n):
        yield talk.packet("s", b"2%02d reply of another kind\r\n" % (i % 60))


def wrap(n: int) -> Iterator[bytes]:
    """A mail of n segments whose sequence numbers pass 2**32."""
    talk = Talk(isn=(1 << 32) - 5000, peer_isn=(1 << 32) - 20)
    yield from talk.envelope()
    yield from talk.say("c", b"a" * (100 * n), 100)
    yield from talk.end()


def jumps(n: int) -> Iterator[bytes]:
    """Sequence numbers that jump by 2**31 and a little, forth and back."""
    talk = Talk()
    yield from talk.envelope()
    for i in range(n):
        yield talk.packet("c", b"a" * 100, at=i * ((1 << 31) + (i % 3 - 1) * 100))
        yield talk.packet("s", at=i * 0x40000000)


def huge_segments(n: int) -> Iterator[bytes]:
    """Segments of nothing and of all that an IP packet can hold, in turn."""
    talk = Talk()
    yield from talk.envelope()
    for _ in range(n):
        yield talk.packet("c")
        yield from talk.say("c", b"a" * 65495, 65495)
    yield from talk.end()


def acknowledges_anything(n: int) -> Iterator[bytes]:
    """A server that acknowledges, and reports in SACKs, whatever it likes."""
    talk = Talk()
    yield from talk.envelope()
    for i in range(n):
        yield from talk.say("c", b"a" * 100)
        ack = i * 2654435761 & 0xFFFFFFFF
        blocks = b"".join(struct.pack(">II", ack * k & 0xFFFFFFFF, ack * 7 * k & 0xFFFFFFFF) for k in range(4))
        options = b"\x01\x01\x05\x22" + blocks
        frame = tcp(options, src=SERVER, dst=CLIENT, sport=25, dport=40000, seq=talk.seq["s"], ack=ack)
        yield frame[:46] + b"\xe0" + frame[47:]


def resends(n: int) -> Iterator[bytes]:
    """One segment sent n times."""
    talk = Talk()
    yield from talk.envelope()
    for _ in range(n):
        yield talk.packet("c", b"a" * SEGMENT)


def reused_ports(n: int) -> Iterator[bytes]:
    """n connections one after the other from the same port, each reset."""
    for i in range(n):
        talk = Talk(isn=i * 100_003, peer_isn=i * 7)
        yield from talk.handshake()
        yield from talk.say("s", b"421 no\r\n")
        yield talk.packet("s", flags=RST | ACK)


def icmp_garbage(n: int) -> Iterator[bytes]:
    """n "fragmentation needed" that quote garbage, this connection, or themselves."""
    talk = Talk()
    yield from talk.envelope()
    quoted = talk.packet("c", b"a" * 8)[14:]
    for i in range(n):
        quote = (quoted, bytes(28), quoted[: i % 30], b"\x4f" * 40, quoted[:20] + b"\xff" * 8)[i % 5]
        icmp = struct.pack(">BBHHH", 3, 4, 0, i % 65536, i * 31 % 65536) + quote
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), i % 65536, 0, 64, 1, 0, b"\x0a\x00\x00\x09", CLIENT)
        yield MAC + b"\x08\x00" + ip + icmp


def teardrop(n: int) -> Iterator[bytes]:
    """Fragments that overlap, that end before they begin, and that never become a packet: n identifications."""
    for i in range(n):
        for offset, size, more in ((0, 48, 1), (3, 16, 0), (1, 24, 1), (8189, 16, 1), (0, 48, 1)):
            ip = struct.pack(
                ">BBHHHBBH4s4s", 0x45, 0, 20 + size, i % 65536, more << 13 | offset, 64, 6, 0, CLIENT,
                struct.pack(">I", 0x0A000002 + i // 65536),
            )  # fmt: skip
            yield MAC + b"\x08\x00" + ip + b"\x9c\x40\x00\x19" + bytes(size - 4)


def nested(n: int) -> Iterator[bytes]:
    """Tags, tunnels and labels inside each other, up to n of them (64 and more), again and again."""
    inner = tcp(b"EHLO x\r\n", seq=1)[14:]
    for depth in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, n):
        vlan = MAC + b"\x81\x00\x00\x05" * depth + b"\x08\x00" + inner
        mpls = MAC + b"\x88\x47" + b"\x00\x01\x00\x40" * (depth - 1) + b"\x00\x01\x01\x40" + inner
        packet = inner
        for _ in range(min(depth, 3000)):
            size = min(20 + len(packet), 65535)
            packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 1, 0, 64, 4, 0, CLIENT, SERVER) + packet
        six = inner
        for _ in range(min(depth, 1500)):
            six = (
                struct.pack(">IHBB", 6 << 28, min(len(six), 65535), 41 if six is not inner else 4, 64) + bytes(32) + six
            )
        extension = struct.pack(">IHBB", 6 << 28, min(8 * depth + 28, 65535), 60, 64) + bytes(32)
        extension += (b"\x3c\x00" + bytes(6)) * (depth - 1) + b"\x06\x00" + bytes(6) + inner[20:]
        yield from (vlan, mpls, MAC + b"\x08\x00" + packet, MAC + b"\x86\xdd" + six, MAC + b"\x86\xdd" + extension)


def new_ports(n: int) -> Iterator[bytes]:
    """Somebody says EHLO on each of n ports: each of them becomes one to look at."""
    for i in range(n):
        yield tcp(b"EHLO x\r\n", dport=1 + i % 65535, seq=i)


@dataclass(frozen=True)
class Scene:
    """A story, the size that `make fuzz` tries, and the size of the tests."""

    name: str
    frames: DOC
    large: int
    small: int

    def __str__(self) -> str:
        return self.name

    def write(self, path: Path, n: int) -> None:
        with open(path, "wb", buffering=1 << 20) as out:
            pcap(out, self.frames(n))


def pcap(out: BinaryIO, frames: Iterator[bytes | int]) -> None:
    """A packet each 100 µs; a number among the frames is seconds in which nothing happens."""
    out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
    ticks = START_S * 10_000
    for frame in frames:
        if isinstance(frame, int):
            ticks += frame * 10_000
            continue
        second, tick = divmod(ticks, 10_000)
        out.write(struct.pack("<IIII", second, tick * 100, len(frame), len(frame)) + frame)
        ticks += 1


SCENES = {
    scene.name: scene
    for scene in (
        Scene("syn-flood", syn_flood, 1_000_000, 5000),
        Scene("open-connections", open_connections, 1_000_000, 3000),
        Scene("commands", commands, 1_000_000, 3000),
        Scene("pipelined-commands", pipelined_commands, 1_000_000, 5000),
        Scene("unasked-replies", unasked_replies, 1_000_000, 5000),
        Scene("wordy-replies", wordy_replies, 1000, 20),
        Scene("blank-lines", blank_lines, 4000, 60),
        Scene("recipients", recipients, 300_000, 3000),
        Scene("mails", mails, 100_000, 500),
        Scene("endless-line", endless_line, 100 << 20, 1 << 20),
        Scene("endless-mail", endless_mail, 100 << 20, 1 << 20),
        Scene("long-banner", long_banner, 10 << 20, 1 << 18),
        Scene("many-keywords", many_keywords, 100_000, 5000),
        Scene("false-ends", false_ends, 50 << 20, 1 << 18),
        Scene("nothing-but-cr", nothing_but_cr, 3 << 20, 1 << 16),
        Scene("small-segments", small_segments, 1_000_000, 5000),
        Scene("backwards", backwards, 200_000, 3000),
        Scene("holes", holes, 200_000, 3000),
        Scene("liar", liar, 300_000, 3000),
        Scene("wrap", wrap, 200_000, 3000),
        Scene("jumps", jumps, 200_000, 3000),
        Scene("huge-segments", huge_segments, 3000, 100),
        Scene("acknowledges-anything", acknowledges_anything, 200_000, 3000),
        Scene("resends", resends, 200_000, 3000),
        Scene("reused-ports", reused_ports, 200_000, 2000),
        Scene("icmp-garbage", icmp_garbage, 300_000, 3000),
        Scene("teardrop", teardrop, 200_000, 1000),
        Scene("nested", nested, 3000, 300),
        Scene("new-ports", new_ports, 300_000, 1000),
    )
}
