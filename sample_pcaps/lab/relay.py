#!/usr/bin/env python3
"""A wire in userspace: copies Ethernet frames between w1 (toward the sender) and w2 (toward the receiver).

    relay.py [--delay-ms MS] [BOX...]

Each BOX is a middlebox, `name` or `name=value`; see BOXES. Both TCP stacks stay the real ones of the hosts: a box may
drop, delay, rewrite or answer frames, but it does not terminate connections.
"""

from __future__ import annotations

import argparse
import heapq
import random
import select
import socket
import struct
import time

ETH_IP4, ETH_IP6 = 0x0800, 0x86DD
PACKET_OUTGOING = 4
CLIENT_TO_SERVER, SERVER_TO_CLIENT = True, False
FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Packet:
    """One Ethernet frame with TCP inside, its fields writable; `bytes(packet)` has fresh checksums."""

    def __init__(self, frame: bytes) -> None:
        self.frame = bytearray(frame)
        self.version = 4 if struct.unpack_from("!H", frame, 12)[0] == ETH_IP4 else 6
        self.ip = 14
        if self.version == 4:
            self.tcp = 14 + (frame[14] & 15) * 4
            self.end = 14 + struct.unpack_from("!H", frame, 16)[0]
        else:
            self.tcp = 54
            self.end = 54 + struct.unpack_from("!H", frame, 18)[0]
        self.data_at = self.tcp + (frame[self.tcp + 12] >> 4) * 4

    sport = property(lambda s: struct.unpack_from("!H", s.frame, s.tcp)[0])
    dport = property(lambda s: struct.unpack_from("!H", s.frame, s.tcp + 2)[0])
    flags = property(lambda s: s.frame[s.tcp + 13])
    size = property(lambda s: s.end - s.ip)
    payload = property(lambda s: bytes(s.frame[s.data_at:s.end]))

    @property
    def seq(self) -> int:
        return struct.unpack_from("!I", self.frame, self.tcp + 4)[0]

    @seq.setter
    def seq(self, value: int) -> None:
        struct.pack_into("!I", self.frame, self.tcp + 4, value & 0xFFFFFFFF)

    @property
    def ack(self) -> int:
        return struct.unpack_from("!I", self.frame, self.tcp + 8)[0]

    @ack.setter
    def ack(self, value: int) -> None:
        struct.pack_into("!I", self.frame, self.tcp + 8, value & 0xFFFFFFFF)

    def addresses(self) -> tuple[bytes, bytes]:
        f = self.frame
        return (bytes(f[26:30]), bytes(f[30:34])) if self.version == 4 else (bytes(f[22:38]), bytes(f[38:54]))

    def source(self) -> str:
        return socket.inet_ntop(socket.AF_INET if self.version == 4 else socket.AF_INET6, self.addresses()[0])

    def destination(self) -> str:
        return socket.inet_ntop(socket.AF_INET if self.version == 4 else socket.AF_INET6, self.addresses()[1])

    def replace_payload(self, data: bytes) -> None:
        """Same length only: sequence numbers stay true."""
        if len(data) != self.end - self.data_at:
            raise ValueError(f"payload of {self.end - self.data_at} bytes replaced by {len(data)}")
        self.frame[self.data_at:self.end] = data

    def options(self) -> list[tuple[int, int, int]]:
        """(kind, offset, length) of each TCP option."""
        found, at = [], self.tcp + 20
        while at < self.data_at:
            kind = self.frame[at]
            length = 1 if kind in (0, 1) else self.frame[at + 1]
            if kind == 0 or length == 0:
                break
            found.append((kind, at, length))
            at += length
        return found

    def __bytes__(self) -> bytes:
        f = self.frame[: self.end]
        if self.version == 4:
            struct.pack_into("!H", f, 24, 0)
            struct.pack_into("!H", f, 24, checksum(bytes(f[14:self.tcp])))
        struct.pack_into("!H", f, self.tcp + 16, 0)
        segment = bytes(f[self.tcp:])
        pseudo = b"".join(self.addresses()) + struct.pack("!II", len(segment), 6)
        struct.pack_into("!H", f, self.tcp + 16, checksum(pseudo + segment))
        return bytes(f)


def parse(frame: bytes) -> Packet | None:
    kind = struct.unpack_from("!H", frame, 12)[0]
    if (kind == ETH_IP4 and frame[23] == 6) or (kind == ETH_IP6 and frame[20] == 6):
        return Packet(frame)
    return None


# ---- boxes: `see` answers the frames that go on, each with its direction (True: toward the server) ----
class Box:
    def __init__(self, value: str) -> None:
        self.value = value
        self.setup()

    def setup(self) -> None:
        """For the subclasses."""

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        raise NotImplementedError


class MaskBanner(Box):
    """mask-banner: every character of the greeting except 2, 0, space and the line end becomes an asterisk, as PIX fixup does."""

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        data = p.payload
        if not to_server and data.startswith((b"220 ", b"220-")) and b"\r\n" in data and b"TLS" not in data:
            lines = [line[:4] + bytes(c if c in b"20 " else ord("*") for c in line[4:]) for line in data.split(b"\r\n")]
            p.replace_payload(b"\r\n".join(lines))
        return [(bytes(p), to_server)]


class MaskKeywords(Box):
    """mask-keywords[=A,B]: EHLO keywords that the firewall does not know (or those named) become `XXXXXXXA`."""

    KNOWN = (b"SIZE", b"8BITMIME", b"DSN", b"PIPELINING", b"AUTH", b"HELP", b"EXPN", b"VRFY")

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        data = p.payload
        if not to_server and data.startswith(b"250-"):
            lines, letter = data.split(b"\r\n"), ord("A")
            for n, line in enumerate(lines[1:], 1):
                word = line[4:].split(b" ")[0]
                hide = word.decode("ascii", "replace") in self.value.split(",") if self.value else word not in self.KNOWN
                if line.startswith(b"250") and word and hide:
                    lines[n] = line[:4] + b"X" * (len(word) - 1) + bytes([letter]) + line[4 + len(word):]
                    letter += 1
            p.replace_payload(b"\r\n".join(lines))
        return [(bytes(p), to_server)]


class MaskCommands(Box):
    """mask-commands: a command outside the seven of RFC 821 reaches the server as X."""

    HIDDEN = (b"EHLO", b"STARTTLS", b"AUTH", b"BDAT")

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        data = p.payload
        for word in self.HIDDEN:
            if to_server and data[: len(word)].upper() == word:
                p.replace_payload(b"X" * len(word) + data[len(word):])
        return [(bytes(p), to_server)]


class SwallowSplit(Box):
    """swallow-split=drop|ack: loses the end of a mail whose `.CRLF` arrives in two packets (CSCds90792).

    drop: the packet with the rest is discarded each time; ack: it is acknowledged in the server's name and discarded.
    """

    def setup(self) -> None:
        self.tails: dict[tuple, tuple[int, bytes]] = {}
        self.server: dict[tuple, bytes] = {}

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        if not to_server:
            self.server[p.destination(), p.dport] = bytes(p)
            return [(bytes(p), to_server)]
        key, data = (p.source(), p.sport), p.payload
        end, tail = self.tails.get(key, (p.seq, b""))
        if data and p.seq == end:
            if (tail.endswith(b"\r\n.") and data.startswith(b"\r\n")) or (tail.endswith(b"\r\n.\r") and data.startswith(b"\n")):
                return [(self.acknowledge(p, key), False)] if self.value == "ack" else []
            self.tails[key] = (p.seq + len(data), (tail + data)[-8:])
        elif p.flags & SYN:
            self.tails[key] = (p.seq + 1, b"")
        return [(bytes(p), to_server)]

    def acknowledge(self, p: Packet, key: tuple) -> bytes:
        like = Packet(self.server[key])
        answer = Packet(bytes(like.frame[: like.data_at]))
        answer.end = answer.data_at
        if answer.version == 4:
            struct.pack_into("!H", answer.frame, 16, answer.end - 14)
        else:
            struct.pack_into("!H", answer.frame, 18, answer.end - 54)
        answer.frame[answer.tcp + 13] = ACK
        answer.seq, answer.ack = like.seq + len(like.payload), p.seq + len(p.payload)
        echoes = {kind: at for kind, at, _length in p.options()}
        for kind, at, _length in answer.options():
            if kind == 8 and 8 in echoes:  # our echo is the timestamp of the packet that we acknowledge
                answer.frame[at + 6:at + 10] = p.frame[echoes[8] + 2:echoes[8] + 6]
        return bytes(answer)


class MaxSize(Box):
    """max-size=N: frames with more than N bytes of IP toward the server vanish, as at a layer-2 limit; max-size-back=N the other way."""

    toward = CLIENT_TO_SERVER

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        return [] if to_server is self.toward and p.size > int(self.value) else [(bytes(p), to_server)]


class MaxSizeBack(MaxSize):
    toward = SERVER_TO_CLIENT


class IcmpTooBig(Box):
    """icmp=LIMIT,MTU,KIND: drop packets above LIMIT and answer with a frag-needed that names MTU.

    KIND: plain; foreign (quotes another host's ports); stale (quotes a sequence number far outside the window);
    forged (stale, and the packet itself passes).
    """

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        limit, mtu, kind = self.value.split(",")
        if not to_server or p.size <= int(limit) or p.version != 4:
            return [(bytes(p), to_server)]
        quote = bytearray(p.frame[p.ip:p.ip + 28])
        if kind == "foreign":
            struct.pack_into("!HH", quote, 20, 51515, 2525)
        if kind in ("stale", "forged"):
            struct.pack_into("!I", quote, 24, (p.seq - 500_000_000) & 0xFFFFFFFF)
        body = struct.pack("!BBHHH", 3, 4, 0, 0, int(mtu)) + quote
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0, socket.inet_aton("10.2.0.9"), p.addresses()[0])
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        answer = (bytes(p.frame[6:12] + p.frame[0:6] + p.frame[12:14]) + head + body, False)
        return [(bytes(p), True), answer] if kind == "forged" else [answer]


class ShiftSequence(Box):
    """shift-sequence=N: adds N to the client's sequence numbers (and takes it from the server's ACKs), but forgets the SACK blocks."""

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        if to_server:
            p.seq += int(self.value)
        elif p.flags & ACK:
            p.ack -= int(self.value)
        return [(bytes(p), to_server)]


class StopAt(Box):
    """stop-at=N: a client's bytes beyond N of a connection never pass, whatever the packet's size; nor do later pure ACKs."""

    def setup(self) -> None:
        self.first: dict[tuple, int] = {}

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        if to_server:
            key = (p.source(), p.sport)
            if p.flags & SYN:
                self.first[key] = p.seq
            if ((p.seq + len(p.payload) - self.first.get(key, p.seq)) & 0xFFFFFFFF) > int(self.value):
                return []
        return [(bytes(p), to_server)]


class BadChecksum(Box):
    """bad-checksum=N: packets above N bytes toward the server arrive with a wrong TCP checksum, as behind a broken offload."""

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        frame = bytearray(bytes(p))
        if to_server and p.size > int(self.value):
            frame[p.tcp + 16] ^= 0x5A
        return [(bytes(frame), to_server)]


class Reorder(Box):
    """reorder=N: every N-th large packet toward the server waits for the next one."""

    def setup(self) -> None:
        self.count, self.held = 0, []

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        here = (bytes(p), to_server)
        if not to_server:
            return [here]
        if self.held:
            out, self.held = [here, *self.held], []
            return out
        self.count += p.size > 1000
        if p.size > 1000 and self.count % int(self.value) == 0:
            self.held = [here]
            return []
        return [here]


class ClearDf(Box):
    """clear-df: the box clears DF, so the narrow router behind it fragments."""

    def see(self, p: Packet, to_server: bool) -> list[tuple[bytes, bool]]:
        if p.version == 4:
            p.frame[20] &= 0xBF
        return [(bytes(p), to_server)]


BOXES = {"mask-banner": MaskBanner, "mask-keywords": MaskKeywords, "mask-commands": MaskCommands,
         "swallow-split": SwallowSplit, "max-size": MaxSize, "max-size-back": MaxSizeBack, "icmp": IcmpTooBig,
         "shift-sequence": ShiftSequence, "stop-at": StopAt, "bad-checksum": BadChecksum, "reorder": Reorder, "clear-df": ClearDf}


class Chain:
    """The boxes in the order of the words: `name[@ADDRESS][=value]`, with an address only for that server's connections.

    `first=N`: only the first N connections are touched; the rest go another way.
    """

    def __init__(self, words: list[str]) -> None:
        self.boxes: list[tuple[Box, str]] = []
        self.first, self.touched = 1 << 30, {}
        for word in words:
            name, _, value = word.partition("=")
            name, _, address = name.partition("@")
            if name == "first":
                self.first = int(value)
            else:
                self.boxes.append((BOXES[name](value), address))

    def through(self, frame: bytes, to_server: bool) -> list[tuple[bytes, bool]]:
        packet = parse(frame)
        if packet is None or not self.boxes:
            return [(frame, to_server)]
        port = packet.sport if to_server else packet.dport
        if self.touched.setdefault(port, len(self.touched)) >= self.first:
            return [(frame, to_server)]
        frames = [(frame, to_server)]
        for box, address in self.boxes:
            if address and address not in (packet.source(), packet.destination()):
                continue
            passed: list[tuple[bytes, bool]] = []
            for one, direction in frames:
                inner = parse(one)
                passed += [(one, direction)] if inner is None or direction is not to_server else box.see(inner, direction)
            frames = passed
        return frames


# ---- tags: what a link inside a tunnel looks like ----------------------------------------------------
OUTER = socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.2")


def outer_ip(protocol: int, inner: bytes, to_server: bool) -> bytes:
    source, target = OUTER if to_server else OUTER[::-1]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(inner), random.getrandbits(16), 0, 64, protocol, 0, source, target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + inner


def wrap(kind: str, frame: bytes, to_server: bool) -> bytes:
    """The frame as it looks on a link of that kind."""
    macs, ethertype, packet = frame[:12], frame[12:14], frame[14:]
    if kind == "vlan":
        return macs + b"\x81\x00\x00\x2a" + frame[12:]
    if kind == "qinq":
        return macs + b"\x88\xa8\x00\x64\x81\x00\x00\x2a" + frame[12:]
    if ethertype not in (b"\x08\x00", b"\x86\xdd"):
        return frame  # ARP travels outside
    if kind == "mpls":
        return macs + b"\x88\x47" + struct.pack("!II", 1001 << 12 | 63, 2002 << 12 | 1 << 8 | 63) + packet
    if kind == "pppoe":
        ppp = (b"\x00\x21" if ethertype == b"\x08\x00" else b"\x00\x57") + packet
        return macs + b"\x88\x64" + struct.pack("!BBHH", 0x11, 0, 7, len(ppp)) + ppp
    if kind == "gre":
        return macs + b"\x08\x00" + outer_ip(47, b"\x00\x00" + ethertype + packet, to_server)
    if kind == "ipip":
        return macs + b"\x08\x00" + outer_ip(4 if ethertype == b"\x08\x00" else 41, packet, to_server)
    raise ValueError(f"unknown tag {kind}")


def unwrap(kind: str, frame: bytes) -> bytes:
    """The frame without the tag; the kernel has already taken an outer VLAN tag off what we read."""
    while frame[12:14] in (b"\x81\x00", b"\x88\xa8"):
        frame = frame[:12] + frame[16:]
    macs = frame[:12]

    def as_ip(packet: bytes) -> bytes:
        return macs + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet

    if kind == "mpls" and frame[12:14] == b"\x88\x47":
        return as_ip(frame[22:])
    if kind == "pppoe" and frame[12:14] == b"\x88\x64":
        return as_ip(frame[22:])
    if kind == "gre" and frame[12:14] == b"\x08\x00" and frame[23] == 47:
        return as_ip(frame[38:])
    if kind == "ipip" and frame[12:14] == b"\x08\x00" and frame[23] in (4, 41):
        return as_ip(frame[34:])
    return frame


# ---- the loop -----------------------------------------------------------------------------------------
def open_interface(name: str) -> socket.socket:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((name, 0))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--tag", default="", help="vlan, qinq, mpls, pppoe, gre, ipip: frames are wrapped between t1 and t2")
    parser.add_argument("box", nargs="*")
    options = parser.parse_args()
    chain = Chain(options.box)
    w1, w2 = open_interface("w1"), open_interface("w2")
    # (incoming interface) -> direction and what becomes of the frame
    t1, t2 = (open_interface("t1"), open_interface("t2")) if options.tag else (None, None)
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    print("ready", flush=True)
    sockets = [s for s in (w1, w2, t1, t2) if s]
    while True:
        timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for s in select.select(sockets, [], [], timeout)[0]:
            frame, address = s.recvfrom(65535)
            if address[2] == PACKET_OUTGOING:
                continue
            if s in (t1, t2):
                (w2 if s is t2 else w1).send(unwrap(options.tag, frame))
                continue
            for one, to_server in chain.through(frame, s is w1):
                if options.tag:
                    target, one = (t1 if to_server else t2), wrap(options.tag, one, to_server)
                else:
                    target = w2 if to_server else w1
                number += 1
                heapq.heappush(waiting, (time.monotonic() + options.delay_ms / 1000, number, target, one))
        while waiting and waiting[0][0] <= time.monotonic():
            _when, _number, target, frame = heapq.heappop(waiting)
            target.send(frame)


if __name__ == "__main__":
    main()
