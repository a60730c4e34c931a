"""A mail told packet by packet, for stacks of which no recording is at hand. Bytes come out, and a capture file.

Knows nothing of the package under test. What each stack does is said where a story is told, with its source.
"""

from __future__ import annotations

import struct
from pathlib import Path

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
CLIENT, SERVER = b"\x0a\x01\x00\x02", b"\x0a\x03\x00\x02"
START_S = 1_700_000_000


class Story:
    """Packets of one connection, seen at the client (the server is two routers away). Offsets are relative: 0 = first byte."""

    def __init__(
        self, *, mss: int = 1460, sack: bool = True, timestamps: bool = True, scale: int | None = 7, port: int = 40000
    ) -> None:
        self.mss, self.sack, self.timestamps, self.scale = mss, sack, timestamps, scale
        self.port = port
        self.now_ms = 0.0
        self.sent = {"c": 0, "s": 0}
        self.ident = {"c": 100, "s": 9000}
        self.records: list[bytes] = []

    @property
    def full(self) -> int:
        """Payload of a full packet."""
        return self.mss - (12 if self.timestamps else 0)

    # ---- packets

    def packet(
        self,
        who: str,
        seq: int,
        payload: bytes = b"",
        ack: int = 0,
        flags: int = ACK,
        *,
        df: bool = True,
        window: int = 500,
        sacks: tuple[tuple[int, int], ...] = (),
    ) -> Story:
        own, peer = (1000, 5000) if who == "c" else (5000, 1000)
        ports = (self.port, 25) if who == "c" else (25, self.port)
        ends = CLIENT + SERVER if who == "c" else SERVER + CLIENT
        syn = bool(flags & SYN)
        options = b""
        if syn:
            options += struct.pack(">BBH", 2, 4, self.mss) + (b"\x04\x02" if self.sack else b"")
            options += b"" if self.scale is None else bytes([3, 3, self.scale])
        if self.timestamps:
            options += b"\x01\x01" + struct.pack(">BBII", 8, 10, int(self.now_ms) + 1, 1)
        if sacks and self.sack:
            options += b"\x01\x01" + bytes([5, 2 + 8 * len(sacks)])
            options += b"".join(struct.pack(">II", peer + 1 + a, peer + 1 + b) for a, b in sacks)
        options += b"\x01" * (-len(options) % 4)
        number = own + (0 if syn else 1) + seq
        flags |= PSH if payload else 0
        head = struct.pack(
            ">HHIIBBHHH",
            *ports,
            number,
            peer + 1 + ack if flags & ACK else 0,
            (5 + len(options) // 4) << 4,
            flags,
            window,
            0,
            0,
        )
        segment = head + options + payload
        self.ident[who] += 1
        ttl = 64 if who == "c" else 62
        ip = struct.pack(">BBHHHBBH8s", 0x45, 0, 20 + len(segment), self.ident[who], df << 14, ttl, 6, 0, ends)
        frame = bytes(12) + b"\x08\x00" + ip + segment
        sec, ms = divmod(self.now_ms, 1000)
        self.records.append(struct.pack("<IIII", START_S + int(sec), int(ms * 1000), len(frame), len(frame)) + frame)
        return self

    def wait(self, ms: float) -> Story:
        self.now_ms += ms
        return self

    def say(self, who: str, text: bytes, *, acked: bool = True) -> Story:
        """New bytes that arrive, and (unless told otherwise) a pure ACK of them."""
        other = "s" if who == "c" else "c"
        self.wait(1).packet(who, self.sent[who], text, self.sent[other])
        self.sent[who] += len(text)
        if acked:
            self.wait(1).packet(other, self.sent[other], b"", self.sent[who])
        return self

    def until_data(self) -> Story:
        """Handshake and envelope, up to and with the 354 and its ACK."""
        self.packet("c", 0, flags=SYN).wait(10).packet("s", 0, flags=SYN | ACK).wait(0.1).packet("c", 0)
        self.say("s", b"220 mx.example.net ESMTP\r\n").say("c", b"EHLO a.example.org\r\n")
        self.say("s", b"250-mx.example.net\r\n250 8BITMIME\r\n").say("c", b"MAIL FROM:<a@example.org>\r\n")
        self.say("s", b"250 Ok\r\n").say("c", b"RCPT TO:<b@example.net>\r\n").say("s", b"250 Ok\r\n")
        return self.say("c", b"DATA\r\n").say("s", b"354 go ahead\r\n")

    def close(self) -> Story:
        c, s = self.sent["c"], self.sent["s"]
        self.wait(1).packet("c", c, ack=s, flags=FIN | ACK).wait(10).packet("s", s, ack=c + 1, flags=FIN | ACK)
        return self.wait(1).packet("c", c + 1, ack=s + 1)

    def accepted(self) -> Story:
        """The final reply, and the end."""
        return self.say("s", b"250 queued\r\n").say("c", b"QUIT\r\n").say("s", b"221 bye\r\n").close()

    def beside(self, other: Story) -> Story:
        """The packets of another connection among these, by time."""
        self.records = sorted([*self.records, *other.records], key=lambda record: struct.unpack("<II", record[:8]))
        return self

    def write(self, path: Path) -> Path:
        path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + b"".join(self.records))
        return path


def mail(size: int) -> bytes:
    """So many bytes of mail, the end included."""
    text = b"Subject: tide table\r\n\r\n" + b"high water and low water, in plain words\r\n" * (size // 42 + 1)
    return text[: size - 5] + b"\r\n.\r\n"
