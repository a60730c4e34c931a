#!/usr/bin/env python3
"""Captures of any size for the benchmark, with the truth about them beside them. Same arguments, same bytes.

    generate.py A --size 1GB --out build/bench/A.pcap        # and build/bench/A.truth.json

| workload | what it holds |
|---|---|
| A | SMTP only: several mailers, several mails in a connection, STARTTLS, BDAT; 1 % of the data segments sent again |
| B | 3 % SMTP (by bytes) in a stream of HTTPS, QUIC, DNS and SSH |
| C | like A with 5 % loss, reordering, unequal overlaps, holes in the capture, IPv6, VLAN tags; pcapng |
| F | connections that never finish: SYN flood, half-open, greeted and silent |

(D is A and B at 4 GB, E is A at 10 MB, G is A compressed: `run.py` makes them.)

How it can be quick: a few hundred *templates* are played through the TCP model once; the capture is made of copies of
them, shifted in time, each with its own addresses, ports, initial sequence numbers, timestamps, IP identifications and
envelope. A copy differs from its template by 32-bit words that are "template value + the copy's base", so whole
batches of packets are stamped with NumPy; checksums follow from the template's sum and those words (RFC 1624).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as FilePath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from dialogues import GREETINGS, MAILERS, MASKED, TOKEN, Mail, Script, chatter, conversation, dns, https, mail_bytes
from tcp_model import ACK, CLIENT, MS, SECOND, SERVER, SYN, Exchange, Host, Packet, Path

Array = npt.NDArray[Any]

EPOCH_NS = 1_767_603_600 * SECOND  # 2026-01-05 09:00 UTC
BATCH = 32_768  # packets stamped at a time: some 30 MB
LOCAL = int(IPv4Address("192.0.2.10"))  # this host's addresses (documentation range, RFC 5737)
REMOTE = int(IPv4Address("198.18.0.1"))  # the others': benchmark range (RFC 2544)
PLANTED = int(IPv4Address("203.0.113.0"))
TEMPLATE_HOSTS = 16  # remote hosts per template: 500 templates make 8000
FLOOD_HOSTS = 20_000  # of workload F's six templates
V6_LOCAL, V6_REMOTE = IPv6Address("2001:db8:1::"), IPv6Address("2001:db8:2::")
VLAN_ID = 112
QUIC = b"\x45\xc0\xff\xee\x00\x01\x02\x03\x04"  # a short header and its connection id (RFC 9000 17.3)

# Bases that a copy adds to its template's words.
ISN_C, ISN_S, CLOCK_C, CLOCK_S, ADDR_C, ADDR_S, PORTS_CS, PORTS_SC, TOKEN_HI, TOKEN_LO = range(10)
BASES = 10


@dataclass
class Template:
    """One conversation as the capture point saw it, ready to be copied."""

    rel_ns: list[int] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)  # with the record header of the file format
    sum_at: list[int] = field(default_factory=list)  # where the TCP/UDP checksum stands
    sum_const: list[int] = field(default_factory=list)
    ip_at: list[int] = field(default_factory=list)  # 0 = IPv6: no identification, no header checksum
    ip_const: list[int] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    side: list[int] = field(default_factory=list)
    patches: list[list[tuple[int, int, int, bool]]] = field(default_factory=list)  # offset, value, base, odd
    resend: list[bool] = field(default_factory=list)  # some of these bytes were captured before
    mails: list[Mail] = field(default_factory=list)
    notable: list[int] = field(default_factory=list)  # packets that the truth names by frame number
    tcp: bool = True
    smtp: bool = True
    tls: bool = False
    outgoing: bool = True  # the client is the capturing host
    server_port: int = 25
    remote: int | None = None  # a planted peer
    greeter: int = 0  # which of the capturing host's servers speaks: each greets alike
    label: str = ""
    ipv6: bool = False

    @property
    def bytes(self) -> int:
        return sum(map(len, self.frames))


def fold(total: Array) -> Array:
    """The Internet checksum's end-around carry (RFC 1071), twice is enough for sums under 2**32."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def word_sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    return int(np.frombuffer(data, ">u2").sum(dtype=np.uint64))


@dataclass(frozen=True)
class Format:
    """How a frame is wrapped in the file, and where its time stands."""

    pcapng: bool = False
    vlan: bool = False

    def wrap(self, frame: bytes) -> bytes:
        n = len(frame)
        if not self.pcapng:
            return struct.pack("<IIII", 0, 0, n, n) + frame
        pad = -n % 4
        size = 32 + n + pad
        return struct.pack("<IIIIIII", 6, size, 0, 0, 0, n, n) + frame + bytes(pad) + struct.pack("<I", size)

    @property
    def header_bytes(self) -> int:
        return 28 if self.pcapng else 16


def file_header(pcapng: bool) -> bytes:
    if not pcapng:
        return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("<IIHHIHHBxxxHHI", 1, 32, 1, 0, 262144, 9, 1, 9, 0, 0, 32)  # if_tsresol 9: nanoseconds
    return section + interface


class Builder:
    """Makes templates out of exchanges: Ethernet, VLAN, IP, TCP or UDP around the payloads."""

    def __init__(self, style: Format, ipv6: bool, outgoing: bool) -> None:
        self.style, self.ipv6, self.outgoing = style, ipv6, outgoing
        ours, theirs = b"\x02\x00\xc0\x00\x02\x0a", b"\x02\x00\xc6\x12\x00\x01"
        client, server = (ours, theirs) if outgoing else (theirs, ours)
        kind = struct.pack(">H", 0x86DD if ipv6 else 0x0800)
        tag = struct.pack(">HH", 0x8100, VLAN_ID) if style.vlan else b""
        self.ethernet = (server + client + tag + kind, client + server + tag + kind)
        prefixes = (V6_LOCAL.packed[:12], V6_REMOTE.packed[:12])
        self.prefix = prefixes if outgoing else prefixes[::-1]  # client's, server's

    def add(
        self, t: Template, side: int, rel_ns: int, protocol: int, segment: bytes, sum_at: int, ttl: int, number: int,
        patches: list[tuple[int, int, int, bool]], *, resend: bool = False,
    ) -> None:  # fmt: skip
        """One IP packet; `segment` with zeros where `patches` (offsets in the segment) will write."""
        source, target = (ADDR_C, ADDR_S) if side == CLIENT else (ADDR_S, ADDR_C)
        if self.ipv6:
            a, b = self.prefix[side], self.prefix[1 - side]
            ip = struct.pack(">IHBB", 0x60000000, len(segment), protocol, ttl) + a + bytes(4) + b + bytes(4)
            pseudo = word_sum(a + b)
            address_at = (20, 36)
        else:
            ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(segment), 0, 0x4000, ttl, protocol, 0, 0, 0)
            pseudo = 0
            address_at = (12, 16)
        ip_at = self.style.header_bytes + len(self.ethernet[side])
        transport_at = ip_at + len(ip)
        t.rel_ns.append(rel_ns)
        t.frames.append(self.style.wrap(self.ethernet[side] + ip + segment))
        t.sum_at.append(transport_at + sum_at)
        t.sum_const.append(pseudo + protocol + len(segment) + word_sum(segment))
        t.ip_at.append(0 if self.ipv6 else ip_at)
        t.ip_const.append(word_sum(ip))
        t.number.append(number)
        t.side.append(side)
        t.resend.append(resend)
        t.patches.append(
            [(ip_at + address_at[0], 0, source, False), (ip_at + address_at[1], 0, target, False)]
            + [(transport_at + at, value, base, odd) for at, value, base, odd in patches]
        )

    def tcp(
        self, t: Template, p: Packet, hosts: tuple[Host, Host], timestamps: bool, tap: float, *, again: bool
    ) -> None:
        mine, theirs = (ISN_C, ISN_S) if p.side == CLIENT else (ISN_S, ISN_C)
        my_clock, their_clock = (CLOCK_C, CLOCK_S) if p.side == CLIENT else (CLOCK_S, CLOCK_C)
        patches = [(0, 0, PORTS_CS if p.side == CLIENT else PORTS_SC, False), (4, p.seq, mine, False)]
        if p.flags & ACK:
            patches.append((8, p.ack, theirs, False))
        options = b""
        if p.flags & SYN:
            options += struct.pack(">BBHBB", 2, 4, hosts[p.side].mss, 4, 2)
        elif timestamps:
            options += b"\x01\x01"
        if timestamps:
            at = 20 + len(options) + 2
            options += b"\x08\x0a" + bytes(8)
            patches.append((at, p.ts_ms, my_clock, False))
            if p.flags & ACK:
                patches.append((at + 4, p.echo_ms, their_clock, False))
        if p.flags & SYN:
            options += struct.pack(">BBBB", 1, 3, 3, hosts[p.side].window_scale)
            options += b"\x01" * (-len(options) % 4)
        if p.sacks:
            options += struct.pack(">BBBB", 1, 1, 5, 2 + 8 * len(p.sacks))
            for left, right in p.sacks:
                patches += [(20 + len(options), left, theirs, False), (24 + len(options), right, theirs, False)]
                options += bytes(8)
        header = struct.pack(">HHIIBBHHH", 0, 0, 0, 0, (20 + len(options)) << 2, p.flags, p.window, 0, 0) + options
        payload = p.payload
        for found in re.finditer(re.escape(TOKEN), payload) if t.mails else ():
            at = len(header) + found.start()
            patches += [(at, 0, TOKEN_HI, bool(at % 2)), (at + 4, 0, TOKEN_LO, bool(at % 2))]
        if t.mails:
            payload = payload.replace(TOKEN, bytes(len(TOKEN)))
            if b"#" in payload:
                raise CutToken
        hops = 0 if (p.side == CLIENT) == self.outgoing and tap in (0, 1) else 11
        self.add(t, p.side, p.time_ns, 6, header + payload, 16, hosts[p.side].ttl - hops, p.number, patches,
                 resend=again)  # fmt: skip

    def udp(self, t: Template, side: int, rel_ns: int, payload: bytes, number: int) -> None:
        ports = PORTS_CS if side == CLIENT else PORTS_SC
        segment = struct.pack(">HHHH", 0, 0, 8 + len(payload), 0) + payload
        self.add(t, side, rel_ns, 17, segment, 6, 64 if (side == CLIENT) == self.outgoing else 53, number,
                 [(0, 0, ports, False)])  # fmt: skip


class CutToken(Exception):
    """A packet boundary fell inside a place-holder: the template is made again with other sizes."""


# ---- templates


@dataclass(frozen=True)
class Recipe:
    """What a workload's connections are made with."""

    style: Format = Format()
    loss: float = 0.0
    reorder: float = 0.0
    collapse: bool = False
    ipv6: float = 0.0
    vlan: float = 0.0


def draw_hosts(rng: np.random.Generator) -> tuple[Host, Host]:
    kinds = (
        Host(ack_every=2),
        Host(ack_every=3, window=501),
        Host(timestamps=False, ttl=128, window_scale=8, window=1026, ack_every=2),
        Host(mss=1460, window=8212, window_scale=6, ack_every=4),
    )
    picks = rng.choice(len(kinds), 2, p=(0.35, 0.3, 0.1, 0.25))
    return kinds[picks[0]], kinds[picks[1]]


def play(
    script: Script, recipe: Recipe, rng: np.random.Generator, *, outgoing: bool, path: Path,
    hosts: tuple[Host, Host] | None = None, ipv6: bool = False, horizon_ns: int = 120 * SECOND, **how: Any,
) -> tuple[Template, Exchange]:  # fmt: skip
    """The script through the model; the template and what happened."""
    hosts = hosts or draw_hosts(rng)
    if ipv6:  # whose header takes 20 bytes more of the same MTU
        hosts = replace(hosts[0], mss=hosts[0].mss - 20), replace(hosts[1], mss=hosts[1].mss - 20)
    exchange = Exchange(script.turns, path, *hosts, rng, horizon_ns=horizon_ns, collapse=recipe.collapse, **how)
    t = Template(mails=script.mails, tls=script.tls, outgoing=outgoing, ipv6=ipv6, greeter=script.greeter)
    style = Format(recipe.style.pcapng, bool(rng.random() < recipe.vlan))
    builder = Builder(style, ipv6, outgoing)
    first_ns = exchange.packets[0].time_ns
    for p, again in zip(exchange.packets, seen_again(exchange.packets), strict=True):
        p.time_ns -= first_ns
        builder.tcp(t, p, hosts, exchange.timestamps, path.tap, again=again)
    for mail in t.mails:
        if mail.via == "data":
            cuts = exchange.cuts[CLIENT]
            mail.cut_at = tuple(k for k in range(1, 5) if mail.body_end + k in cuts)
    return t, exchange


def seen_again(packets: Sequence[Packet]) -> list[bool]:
    """Of each packet: whether the capture point has seen some of its bytes before."""
    ranges: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    highest = [0, 0]
    out = []
    for p in packets:
        end = p.seq + len(p.payload)
        before = ranges[p.side]
        out.append(p.seq < highest[p.side] and any(a < end and p.seq < b for a, b in before))
        if p.payload:
            before.append((p.seq, end))
            highest[p.side] = max(highest[p.side], end)
    return out


def draw_path(rng: np.random.Generator, recipe: Recipe, *, outgoing: bool, ipv6: bool) -> Path:
    return Path(
        one_way_ns=int(min(rng.lognormal(np.log(9), 0.9), 120) * MS),
        segment_ns=int(rng.choice([1_200, 12_000, 120_000])),
        loss=recipe.loss,
        reorder=recipe.reorder,
        tap=0.0 if outgoing else 1.0,
        ipv6=ipv6,
    )


def draw_size(rng: np.random.Generator) -> int:
    """Mail sizes: log-normal, median 24 KB, with the attachments' long tail."""
    return int(np.clip(rng.lognormal(np.log(24_000), 1.25), 600, 1_500_000))


# Of twenty connections: Postfix ten, Exim three, sendmail two, smtplib three, BDAT two.
MAILER_MIX = [m for m, n in zip(MAILERS, (10, 3, 2, 3, 2), strict=True) for _ in range(n)]


def smtp_template(rng: np.random.Generator, recipe: Recipe, number: int) -> Template:
    """An ordinary connection in which everything goes well in the end; `number` decides the mailer."""
    while True:
        outgoing = bool(rng.random() < 0.7)
        ipv6 = bool(rng.random() < recipe.ipv6)
        mailer = MAILER_MIX[number * 7 % len(MAILER_MIX)]
        sizes = [draw_size(rng) for _ in range(int(rng.choice([1, 2, 3, 6], p=(0.75, 0.13, 0.08, 0.04))))]
        outcomes = [str(rng.choice(["delivered", "rejected", "deferred"], p=(0.94, 0.03, 0.03))) for _ in sizes]
        starttls = number % 8 == 5
        script = conversation(rng, mailer, sizes, outcomes=outcomes, starttls=starttls)
        path = draw_path(rng, recipe, outgoing=outgoing, ipv6=ipv6)
        try:
            t, exchange = play(script, recipe, rng, outgoing=outgoing, path=path, ipv6=ipv6)
        except CutToken:
            continue
        # A cut inside `.CRLF` is a finding: only the planted ones may have it.
        if exchange.finished and not any({3, 4} & set(m.cut_at) for m in t.mails):
            t.server_port = int(rng.choice([25, 25, 25, 587])) if not outgoing else 25
            return t


def planted(rng: np.random.Generator, recipe: Recipe) -> list[Template]:
    """The faults that an analysis has to find; each template is used once."""
    out: list[Template] = []
    clean = Recipe(recipe.style)
    host = Host()

    def plant(
        label: str, octet: int, script: Script, *, mtu: int | None = None, tap: float = 0.0, **how: Any
    ) -> Template:
        path = Path(one_way_ns=15 * MS, mtu=mtu, tap=tap)
        t, _ = play(script, clean, rng, outgoing=tap == 0, path=path, hosts=(host, host), **how)
        t.label, t.remote = label, PLANTED + octet
        out.append(t)
        return t

    # Black holes seen by the sender, to two destinations: large mails hang, small ones arrive.
    for octet, mtu, hung, passed in ((11, 1400, 4, 4), (12, 1476, 3, 3)):
        for i in range(passed):
            plant(
                f"hole{octet}",
                octet,
                conversation(rng, "postfix", [700 + 40 * i], name="small", greeting=GREETINGS[0]),
                mtu=mtu,
            )
        for i in range(hung):
            script = conversation(rng, "postfix", [9_000 + 14_000 * i], name="hung", greeting=GREETINGS[0])
            for mail in script.mails:
                mail.outcome = "stuck"
            t = plant(f"hole{octet}", octet, script, mtu=mtu, horizon_ns=80 * SECOND)
            first = next(k for k, n in enumerate(t.frames) if t.side[k] == CLIENT and len(n) > mtu + 14)
            t.notable = [first, *(k for k, again in enumerate(t.resend) if again and t.side[k] == CLIENT)]
    # One seen by the receiver: the large segments never show, the server waits and gives up.
    for i in range(2):
        plant("hole13", 13, conversation(rng, "postfix", [800], name="small", greeting=GREETINGS[0]), mtu=1452, tap=1.0)
        script = conversation(rng, "postfix", [20_000 + 20_000 * i], name="hung", greeting=GREETINGS[0])
        for mail in script.mails:
            mail.outcome = "stuck"
        late = (60 * SECOND, b"421 4.4.2 mx.example.net Error: timeout exceeded\r\n")
        plant("hole13", 13, script, mtu=1452, tap=1.0, horizon_ns=80 * SECOND, server_gives_up=late)
    # A firewall that masks its banner, and loses the end of a mail that was cut inside `.CRLF`.
    for i in range(3):
        plant("masked", 21, conversation(rng, "smtplib", [3_000 + 999 * i], name="masked", greeting=MASKED))
    for k, answered, octet in ((3, False, 21), (4, False, 21), (3, True, 22)):
        t = plant(f"split{k}", octet, split_script(rng, k, answered=answered, masked=octet == 21))
        mail = t.mails[0]
        if k not in mail.cut_at:
            raise AssertionError(f"the planted mail is cut at {mail.cut_at}, not at {k}")
        if not answered:
            mail.outcome = "end-of-data-timeout"
    return out


def split_script(rng: np.random.Generator, k: int, *, answered: bool, masked: bool) -> Script:
    """A mail whose size makes the last full segment end after k bytes of CRLF.CRLF."""
    size = 4 * 1448 * 2 - k + 2  # the terminator's CRLF is the body's own: the body ends 2 bytes into it
    body = mail_bytes(rng, size, f"split{TOKEN.decode()}.0@example.org", 0)
    body = body[: size - 2] + b"\r\n" if len(body) >= size else body[:-2] + b"x" * (size - len(body)) + b"\r\n"
    mailer = "smtplib" if masked else "postfix"
    return conversation(
        rng, mailer, [size], name="split", greeting=MASKED if masked else None, answered=answered, exact_body=body
    )


def other_template(rng: np.random.Generator, recipe: Recipe) -> Template:
    """What is not mail: HTTPS, SSH over TCP; QUIC and DNS over UDP."""
    kind = str(rng.choice(["https", "quic", "dns", "ssh"], p=(0.45, 0.15, 0.35, 0.05)))
    if kind in ("https", "ssh"):
        size = int(np.clip(rng.lognormal(np.log(60_000), 1.3), 500, 3_000_000))
        turns = https(rng, size) if kind == "https" else chatter(rng, 40)
        path = draw_path(rng, recipe, outgoing=True, ipv6=False)
        t, exchange = play(Script(turns), recipe, rng, outgoing=True, path=path)
        if not exchange.finished:
            return other_template(rng, recipe)
        t.server_port = 443 if kind == "https" else 22
    else:
        t = Template(server_port=443 if kind == "quic" else 53, tcp=False)
        builder = Builder(recipe.style, False, True)
        back = int(rng.lognormal(np.log(15), 0.8) * MS)
        if kind == "dns":
            question, answer = dns(rng)
            builder.udp(t, CLIENT, 0, question, 0)
            builder.udp(t, SERVER, back, answer, 0)
        else:
            now, sent = 0, [0, 0]
            for i in range(int(np.clip(rng.lognormal(np.log(60), 1.0), 4, 1500))):
                builder.udp(t, SERVER if i else CLIENT, now, QUIC + rng.bytes(1192 if i else 1243), sent[bool(i)])
                sent[bool(i)] += 1
                now += int(rng.exponential(0.1 * MS)) + (back if i % 20 == 0 else 0)
                if i % 4 == 3:
                    builder.udp(t, CLIENT, now, QUIC + rng.bytes(29), sent[0])
                    sent[0] += 1
    t.smtp = False
    return t


def unfinished_templates(rng: np.random.Generator, recipe: Recipe) -> list[Template]:
    """Connections to port 25 that never finish: a lone SYN, a half-open one, a greeting into silence."""
    out = []
    host = Host()
    for kind in ("flood", "flood", "flood", "half-open", "idle", "idle"):
        path = Path(one_way_ns=int(rng.integers(5, 60)) * MS, tap=1.0)
        script = Script()
        if kind == "idle":
            script = conversation(rng, "postfix", [900])
            script.turns, script.mails = script.turns[: int(rng.integers(1, 4))], []
        t, _ = play(script, recipe, rng, outgoing=False, path=path, hosts=(host, host))
        if kind in ("flood", "half-open"):
            keep = 1 if kind == "flood" else 2
            for name in ("rel_ns", "frames", "sum_at", "sum_const", "ip_at", "ip_const", "number", "side",
                         "patches", "resend"):  # fmt: skip
                rows = getattr(t, name)
                del rows[keep:]
                if kind == "half-open":  # the SYN+ACK is sent again after 1, 2 and 4 s (RFC 6298 5)
                    rows += [rows[1]] * 3
            if kind == "half-open":
                t.rel_ns = [0, 0, 1 * SECOND, 3 * SECOND, 7 * SECOND]
                t.resend = [False, False, True, True, True]
        t.smtp, t.label = kind == "idle", kind
        out.append(t)
    return out


# ---- copies


class Stamp:
    """All templates laid out flat, and the way to write copies of them."""

    def __init__(self, templates: Sequence[Template], pcapng: bool) -> None:
        self.pcapng = pcapng
        self.rows = np.array([len(t.frames) for t in templates])
        self.first = np.concatenate(([0], np.cumsum(self.rows)[:-1]))
        self.frames = [f for t in templates for f in t.frames]
        self.length = np.array([len(f) for f in self.frames], np.int64)

        def flat(name: str, kind: type) -> Array:
            return np.array([v for t in templates for v in getattr(t, name)], kind)

        self.rel_ns = flat("rel_ns", np.int64)
        self.sum_at, self.ip_at = flat("sum_at", np.int64), flat("ip_at", np.int64)
        self.sum_const, self.ip_const = flat("sum_const", np.uint32), flat("ip_const", np.uint32)
        self.number, self.side = flat("number", np.uint32), flat("side", np.int64)
        self.resend = flat("resend", bool)
        self.udp = np.repeat([not t.tcp for t in templates], self.rows)
        per_row = [ps for t in templates for ps in t.patches]
        self.patches = np.array([len(ps) for ps in per_row])
        self.patch_first = np.concatenate(([0], np.cumsum(self.patches)[:-1]))
        table = [p for ps in per_row for p in ps]
        self.patch_at = np.array([p[0] for p in table], np.int64)
        self.patch_value = np.array([p[1] & 0xFFFFFFFF for p in table], np.uint32)
        self.patch_base = np.array([p[2] for p in table], np.int64)
        self.patch_odd = np.array([p[3] for p in table], bool)

    def write(self, out: BinaryIO, row: Array, copy: Array, time_ns: Array, bases: Array, ident: Array) -> None:
        """Packets `row` of copies `copy`, seen at `time_ns`; `bases[copy, base]`, `ident[copy, side]`."""
        buffer = bytearray().join(map(self.frames.__getitem__, row.tolist()))
        length = self.length[row]
        start = np.cumsum(length) - length
        big32 = np.ndarray((len(buffer) - 3,), ">u4", buffer=buffer, strides=(1,))
        big16 = np.ndarray((len(buffer) - 1,), ">u2", buffer=buffer, strides=(1,))
        little32 = np.ndarray((len(buffer) - 3,), "<u4", buffer=buffer, strides=(1,))
        count = self.patches[row]
        begin = np.cumsum(count) - count
        patch = np.repeat(self.patch_first[row] - begin, count) + np.arange(int(count.sum()))
        value = self.patch_value[patch] + bases.ravel()[np.repeat(copy * BASES, count) + self.patch_base[patch]]
        big32[np.repeat(start, count) + self.patch_at[patch]] = value
        word = (value >> 16) + (value & 0xFFFF)
        odd = np.flatnonzero(self.patch_odd[patch])
        swapped = fold(word[odd])
        word[odd] = (swapped >> 8) | ((swapped & 0xFF) << 8)
        total = fold(np.add.reduceat(word, begin) + self.sum_const[row])
        total = 0xFFFF - total
        total[(total == 0) & self.udp[row]] = 0xFFFF  # there 0 means "no checksum" (RFC 768)
        big16[start + self.sum_at[row]] = total
        four = np.flatnonzero(self.ip_at[row])
        r, c, at = row[four], copy[four], start[four] + self.ip_at[row[four]]
        number = (ident[c, self.side[r]] + self.number[r]) & 0xFFFF
        big16[at + 4] = number
        address = bases[c, ADDR_C], bases[c, ADDR_S]
        total = sum((a >> 16) + (a & 0xFFFF) for a in address) + number + self.ip_const[r]
        big16[at + 10] = 0xFFFF - fold(total)
        if self.pcapng:
            little32[start + 12] = time_ns >> 32
            little32[start + 16] = time_ns & 0xFFFFFFFF
        else:
            little32[start] = time_ns // SECOND
            little32[start + 4] = time_ns % SECOND // 1000
        out.write(buffer)


def hex_words(number: Array) -> tuple[Array, Array]:
    """Eight lower-case hex digits of each number, as two big-endian words of ASCII."""
    digits = (number[:, None] >> np.arange(28, -4, -4)) & 15
    text = np.where(digits < 10, digits + 48, digits + 87).astype(np.uint8)
    words = np.ascontiguousarray(text).view(">u4").astype(np.uint32)
    return words[:, 0], words[:, 1]


def make_bases(
    templates: Sequence[Template], which: Array, hosts: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Each copy's addresses, ports, sequence and clock bases; no two copies share addresses and ports.

    A template's copies are spread over `hosts` remote addresses of its own: one server always greets alike.
    """
    n = len(which)
    bases = np.zeros((n, BASES), np.uint32)
    bases[:, ISN_C : CLOCK_S + 1] = rng.integers(0, 2**32, (n, 4), np.uint32)
    order = np.argsort(which, kind="stable")
    uses = np.bincount(which, minlength=len(templates))
    rank = np.empty(n, np.int64)  # of the copy among its template's
    rank[order] = np.arange(n) - np.repeat(np.cumsum(uses) - uses, uses)
    fixed = np.array([t.remote or 0 for t in templates])[which]
    remote = np.where(fixed > 0, fixed, REMOTE + which * hosts + rank % hosts)
    own = LOCAL + rng.integers(0, 5, n)
    greeter = np.array([t.greeter for t in templates])[which]
    outgoing = np.array([t.outgoing for t in templates])[which]
    local = np.where(fixed > 0, LOCAL, np.where(outgoing, own, LOCAL + 10 + greeter))
    bases[:, ADDR_C] = np.where(outgoing, local, remote)
    bases[:, ADDR_S] = np.where(outgoing, remote, local)
    # On one remote host only `rank // hosts` differs; 7919 and 101 are prime to 28232: no port comes twice.
    client_port = (32768 + (rank // hosts * 7919 + which * 101) % 28232).astype(np.uint32)
    server_port = np.array([t.server_port for t in templates], np.uint32)[which]
    bases[:, PORTS_CS] = client_port << 16 | server_port
    bases[:, PORTS_SC] = server_port << 16 | client_port
    bases[:, TOKEN_HI], bases[:, TOKEN_LO] = hex_words(np.arange(n))
    return bases, rng.integers(0, 65536, (n, 2)).astype(np.uint32)


def fill(shares: Sequence[tuple[Array, float]], weight: Array, target: int, rng: np.random.Generator) -> Array:
    """Template numbers whose bytes add up to `target`, each group (template numbers, share) to its share."""
    picks = []
    for group, share in shares:
        mean = float(weight[group].mean())
        want = share * target
        rounds = int(want / mean / len(group)) + 2  # every template has its turn before one comes again
        drawn = np.concatenate([rng.permutation(group) for _ in range(rounds)])
        picks.append(drawn[: int(np.searchsorted(np.cumsum(weight[drawn]), want)) + 1])
    return np.concatenate(picks)


# ---- workloads


def workload(
    name: str, size: int, seed: int, connections: int
) -> tuple[list[Template], Callable[[np.random.Generator], Array], float, bool]:
    """Templates, a function that draws their copies, connections per second, and whether the file is pcapng."""
    rng = np.random.default_rng([seed, ord(name)])
    if name == "F":
        recipe = Recipe()
        templates = unfinished_templates(rng, recipe)
        return templates, lambda r: r.integers(0, len(templates), connections), 400.0, False
    pool = int(np.clip(size // 100_000, 40, 500))
    if name == "C":
        recipe = Recipe(Format(True), loss=0.05, reorder=0.02, collapse=True, ipv6=0.3, vlan=0.3)
    else:
        recipe = Recipe(loss=0.013)
    faults = planted(rng, recipe)
    if name == "B":
        others = [other_template(rng, Recipe(loss=0.002)) for _ in range(pool)]
        mails = [smtp_template(rng, recipe, i) for i in range(max(pool // 2, 40))]
        templates = faults + others + mails
        groups = [(len(others), 0.97), (len(mails), 0.03)]
    else:
        templates = faults + [smtp_template(rng, recipe, i) for i in range(pool)]
        groups = [(pool, 1.0)]
    weight = np.array([t.bytes for t in templates])
    left = size - int(weight[: len(faults)].sum())

    def draw(r: np.random.Generator) -> Array:
        at, shares = len(faults), []
        for count, share in groups:
            shares.append((np.arange(at, at + count), share))
            at += count
        picks = fill(shares, weight, max(left, 0), r)
        r.shuffle(picks)
        return np.concatenate((np.arange(len(faults)), picks))

    return templates, draw, 50.0 if name != "B" else 100.0, name == "C"


def capture_holes(name: str, copy: Array, exempt: Array, rng: np.random.Generator) -> Array:
    """Which packets the capture missed (C only): bursts, as a full buffer loses them; about 0.2 %."""
    missed = np.zeros(len(copy), bool)
    if name == "C":
        for at in rng.integers(0, len(copy), max(len(copy) // 15_000, 2)):
            missed[at : at + int(rng.integers(3, 60))] = True
        missed &= ~exempt[copy]
    return missed


def generate(name: str, size: int, out: FilePath, *, seed: int = 1, connections: int = 200_000) -> dict[str, Any]:
    """Write the capture to `out` and the truth about it to `out` with `.truth.json`; the truth."""
    templates, draw, rate, pcapng = workload(name, size, seed, connections)
    rng = np.random.default_rng([seed, ord(name), 2])
    which = draw(rng)
    n = len(which)
    bases, ident = make_bases(templates, which, FLOOD_HOSTS if name == "F" else TEMPLATE_HOSTS, rng)
    stamp = Stamp(templates, pcapng)
    seconds = max(n / rate, 60.0)
    begin = (np.sort(rng.random(n)) * seconds * SECOND).astype(np.int64)
    rng.shuffle(begin)
    is_planted = np.array([bool(t.label) and t.remote is not None for t in templates])[which]
    begin[is_planted] //= 3  # the holes need time to be seen
    begin += EPOCH_NS
    rows = stamp.rows[which]
    copy = np.repeat(np.arange(n, dtype=np.int32), rows)
    row = (np.repeat(stamp.first[which] - (np.cumsum(rows) - rows), rows) + np.arange(len(copy))).astype(np.int32)
    time_ns = begin[copy] + stamp.rel_ns[row]
    order = np.argsort(time_ns, kind="stable")
    copy, row, time_ns = copy[order], row[order], time_ns[order]
    del order
    missed = capture_holes(name, copy, is_planted, rng)
    gapped = np.zeros(n, bool)
    gapped[copy[missed]] = True
    if missed.any():
        copy, row, time_ns = copy[~missed], row[~missed], time_ns[~missed]
    with out.open("wb") as file:
        file.write(file_header(pcapng))
        for at in range(0, len(row), BATCH):
            part = slice(at, at + BATCH)
            stamp.write(file, row[part].astype(np.int64), copy[part].astype(np.int64), time_ns[part], bases, ident)
        written = file.tell()
    truth = {
        "generator": sources_digest(), "workload": name, "seed": seed, "bytes": written, "frames": len(row),
        "seconds": round(float(time_ns[-1] - time_ns[0]) / SECOND, 3),
        **describe(templates, which, gapped, bases, stamp, row, copy),
    }  # fmt: skip
    out.with_suffix(".truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def describe(
    templates: Sequence[Template], which: Array, gapped: Array, bases: Array, stamp: Stamp, row: Array, copy: Array
) -> dict[str, Any]:
    """What an analysis of this capture must find."""
    messages: Counter[str] = Counter()
    vias: Counter[str] = Counter()
    clean_messages = 0
    body_bytes = 0
    uses = np.bincount(which, minlength=len(templates))
    clean_uses = np.bincount(which[~gapped], minlength=len(templates))
    for t, used, clean in zip(templates, uses.tolist(), clean_uses.tolist(), strict=True):
        for mail in t.mails:
            messages[mail.outcome] += used
            vias[mail.via] += used
            body_bytes += used * mail.body_bytes
            clean_messages += clean
    holes: dict[str, dict[str, Any]] = {}
    splits, masked = [], []
    labelled = np.flatnonzero(np.array([t.remote is not None for t in templates])[which])
    for number in labelled.tolist():
        t = templates[which[number]]
        frames = np.flatnonzero(copy == number) + 1
        client, server = str(IPv4Address(int(bases[number, ADDR_C]))), str(IPv4Address(int(bases[number, ADDR_S])))
        port = int(bases[number, PORTS_CS] >> 16)
        senders = [m.sender.replace(TOKEN.decode(), f"{number:08x}") for m in t.mails]
        if t.label.startswith("hole"):
            seen_by = "sender" if t.outgoing else "receiver"
            mtu = {"hole11": 1400, "hole12": 1476, "hole13": 1452}[t.label]
            hole = holes.setdefault(
                t.label,
                {"sender": client, "receiver": server, "mtu": mtu, "seen_by": seen_by, "stuck": [], "passed": []},
            )
            entry = {"client_port": port, "mail_from": senders, "frames": frames[t.notable].tolist()}
            hole["stuck" if t.mails[0].outcome == "stuck" else "passed"].append(entry)
        if t.label == "masked" or (t.label.startswith("split") and t.remote == PLANTED + 21):
            masked.append({"server": server, "client_port": port, "connection_first_frame": int(frames[0])})
        if t.label.startswith("split"):
            mail = t.mails[0]
            splits.append({"server": server, "client_port": port, "mail_from": senders[0],
                           "cut_at": list(mail.cut_at), "answered": mail.outcome == "delivered"})  # fmt: skip
    smtp = np.array([t.smtp for t in templates])[which]
    tls = np.array([t.tls for t in templates])[which]
    return {
        "tcp_connections": int(uses[[t.tcp for t in templates]].sum()),
        "smtp_connections": int(smtp.sum()),
        "tls_connections": int(tls.sum()),
        "connections_with_capture_holes": int((gapped & smtp).sum()),
        "messages": dict(sorted(messages.items())),
        "messages_without_capture_holes": clean_messages,
        "messages_by_via": dict(sorted(vias.items())),
        "body_bytes": body_bytes,
        "segments_seen_again": int(stamp.resend[row].sum()),
        "black_holes": list(holes.values()),
        "split_terminators": splits,
        "masked_banners": masked,
    }


def sources_digest() -> str:
    """Tells captures of an older generator apart."""
    sources = (FilePath(__file__).with_name(name) for name in ("generate.py", "tcp_model.py", "dialogues.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]


def size_bytes(text: str) -> int:
    """`10MB`, `1GB`, or a plain number of bytes; decimal units."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text, re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (say 10MB or 1GB)")
    return int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices="ABCF")
    parser.add_argument("--size", type=size_bytes, default=10**9, help="bytes of the file, about (default 1GB)")
    parser.add_argument("--connections", type=int, default=200_000, help="of workload F (default 200000)")
    parser.add_argument("--out", type=FilePath, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    truth = generate(args.workload, args.size, args.out, seed=args.seed, connections=args.connections)
    print(f"{args.out}: {truth['bytes']:,} bytes, {truth['frames']:,} packets, {truth['smtp_connections']:,} SMTP "
          f"connections, {sum(truth['messages'].values()):,} messages")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
