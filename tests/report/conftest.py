"""Hand-built cases for the reports: an incident, a clean capture, one without SMTP, one that is full of hostile text."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest

from analyzer.capture.packets import ACK, COLUMNS, PSH, SYN, CaptureInfo, IcmpError, PacketTable
from analyzer.case import (
    Case,
    Connection,
    Endpoint,
    Evidence,
    Finding,
    Frame,
    Message,
    Path,
    Remedy,
    Rival,
    SizeFate,
    Terminator,
)
from analyzer.tcp.connections import Tracker
from analyzer.tcp.delivery import Trace, measure
from analyzer.whatif import what_if

T0 = 1_709_647_391_123_456_789  # 2024-03-05 14:03:11.123456789 UTC
SECOND = 1_000_000_000
SENDER, SENDER6 = "192.0.2.10", "2001:db8:1::10"
HOLE, HOLE6 = "198.51.100.20", "2001:db8:40::25"
MASKED, SPLIT = "198.51.100.77", "198.51.100.90"
MASK = "*" * 38 + "0" + "*" * 6 + "20 ****200**0*********0*00"

CLAMP = "iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"

# Every kind of text that a capture can carry and that some output format could trip over.
HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\" onmouseover='window.pwned=1' "
    "\x1b]0;pwned\x07\x1b[31m\x9b31m \u202egpj.exe\u2066 | a | [x](javascript:alert(1)) `code` ``` ![i](http://x/y) "
    "{{7*7}} {% raw %} %s %n {0} ]]> &amp; \x00 \x01 \ud800 \ufffe \r\n# heading\n=1+1"
)


def incident() -> Case:
    """A hundred and fifty connections to twenty destinations: two black holes, one mask, splits that fail, the rest well."""
    rng = random.Random(6)
    case = Case(
        captures=[
            CaptureInfo(
                1, "incident.pcapng", "pcapng", ["Ethernet"], 18_234, 9_482_113, T0, T0 + 612 * SECOND, 262_144
            ),
        ]
    )
    others = [f"203.0.113.{n}" for n in range(1, 17)]
    frame = 1
    for n in range(150):
        target = [HOLE, HOLE6, MASKED, SPLIT, *others][n % 20]
        start = T0 + n * 4 * SECOND + rng.randrange(SECOND)
        case.connections.append(_connection(n + 1, target, start, frame))
        size = rng.choice((420, 900, 1_100, 5_200, 14_000, 48_000, 230_000))
        case.messages.append(_message(n + 1, target, size, start, frame + 12, rng))
        frame += case.connections[-1].frame_count
    case.paths = _paths(case)
    case.findings = _findings(case)
    case.icmp = []
    hole_mails = sum(m.outcome == "end-of-data-timeout" for m in case.messages if _server(case, m) == HOLE)
    case.summary = [
        (
            f"Mail from {SENDER} to {HOLE} hangs when it needs packets of 1500 bytes: {hole_mails} mails stuck, every mail "
            "that fits packets of 1397 bytes passed. Large mails to 16 other destinations passed."
        ),
        f"The same over IPv6 from {SENDER6} to {HOLE6}.",
        f"{SPLIT} does not answer mails whose end is cut inside '.CRLF'; whole ends are answered.",
    ]
    case.limits = [
        "No ICMP is visible here: whether a router sent it and a filter dropped it takes a second capture near the receiver.",
        "7 connections used STARTTLS: their dialogue after it is not readable without keys.",
    ]
    case.services = {443: 2_204, 53: 81, 22: 9}
    case.counts = {"tcp_connections": 188, "smtp_connections": 150}
    return case


def clean() -> Case:
    """Everything was delivered and nothing was lost."""
    case = incident()
    case.connections = [c for c in case.connections if c.server.ip.startswith("203.0.113.")]
    keep = {c.id for c in case.connections}
    case.messages = [replace(m, outcome="delivered", reply_code=250) for m in case.messages if m.connection in keep]
    case.paths = [p for p in case.paths if p.verdict == "no-fault"]
    case.findings, case.summary, case.limits = [], [], []
    return case


def no_smtp() -> Case:
    """A readable capture in which nobody speaks SMTP."""
    return Case(
        captures=[CaptureInfo(1, "web.pcap", "pcap", ["Ethernet"], 900, 800_000, T0, T0 + SECOND, 65_535)],
        services={443: 812, 8080: 41, 40_001: 3},
        counts={"tcp_connections": 17},
    )


def broken() -> Case:
    """The second of two captures is cut off."""
    case = clean()
    case.captures.append(CaptureInfo(
        2, "cut.pcap", "pcap", ["Linux SLL"], 77, 41_000, T0, T0 + SECOND, 65_535, complete=False,
        problems=["cut.pcap: record of frame 78 is cut off: 1514 bytes announced, 212 present"],
    ))  # fmt: skip
    return case


def hostile() -> Case:
    """The incident, with hostile text wherever a capture, a file name or a rule could put it."""
    case = incident()
    case.captures[0].path = "evil" + HOSTILE + ".pcap"
    case.captures[0].problems = [HOSTILE]
    case.captures[0].complete = False
    for c in case.connections[:5]:
        c.banner, c.client_name, c.ehlo_keywords = HOSTILE, HOSTILE, (HOSTILE,)
        c.expected_log = {"client": HOSTILE}
    for m in case.messages[:5]:
        m.mail_from, m.recipients = HOSTILE, (HOSTILE, "=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "+1", "\t=1")
    f = case.findings[0]
    f.title, f.explanation, f.against = HOSTILE, HOSTILE, (HOSTILE,)
    f.facts = {HOSTILE: HOSTILE, "nested": {"banner": [HOSTILE]}}
    f.rivals = (Rival(HOSTILE, HOSTILE),)
    f.remedies = (Remedy("network", HOSTILE, HOSTILE, (HOSTILE,), HOSTILE),)
    f.evidence = (Evidence(1, (Frame(1, 5),), HOSTILE, HOSTILE), *f.evidence)
    case.summary, case.limits = [HOSTILE], [HOSTILE]
    return case


def large(connections: int = 50_000) -> Case:
    """The incident and very many connections that are well."""
    case = incident()
    rng = random.Random(1)
    for n in range(151, connections + 1):
        target = f"203.0.{113 + n % 3}.{n % 250 + 1}"
        start = T0 + n * SECOND // 40
        case.connections.append(_connection(n, target, start, 18_000 + n * 20))
        case.messages.append(_message(n, target, rng.choice((900, 5_200, 48_000)), start, 18_012 + n * 20, rng))
    case.counts = {"tcp_connections": connections + 38, "smtp_connections": connections}
    return case


def _connection(number: int, target: str, start: int, frame: int) -> Connection:
    ipv6 = ":" in target
    banner = MASK if target == MASKED else "mx.example.net ESMTP Postfix"
    return Connection(
        id=number, client=Endpoint(SENDER6 if ipv6 else SENDER, 40_000 + number % 20_000), server=Endpoint(target, 25),
        start_ns=start, end_ns=start + (180 if target in (HOLE, HOLE6) else 2) * SECOND,
        frame_count=31 if target in (HOLE, HOLE6) else 118, handshake_seen=True, closed_by="client-fin",
        tls="starttls" if number % 20 == 7 else "none", banner=banner, vantage="client-side", first_frame=Frame(1, frame),
        client_name="mail.example.org", phase="end-of-data" if target in (HOLE, HOLE6, SPLIT) else "quit",
        ehlo_keywords=("PIPELINING", "SIZE", "8BITMIME"), client_mss=1440 if ipv6 else 1460, server_mss=1460, rtt_s=0.0213,
        client_bytes=5_000, server_bytes=400,
        expected_log={"client": "timed out while sending end of data -- message may be sent more than once"}
        if target == HOLE else {},
    )  # fmt: skip


def _message(number: int, target: str, size: int, start: int, frame: int, rng: random.Random) -> Message:
    largest = min(1500, size + 80)
    cut: tuple[int, ...] = (rng.choice((2, 3, 4)),) if target == SPLIT else ()
    outcome, code = "delivered", 250
    if (target in (HOLE, HOLE6) and largest > 1400) or any(c > 2 for c in cut):
        outcome, code = "end-of-data-timeout", None
    elif number % 41 == 0:
        outcome, code = "rejected", 554
    pieces = (cut[0], 5 - cut[0]) if cut else (5,)
    end = Terminator(pieces, cut, False, tuple(Frame(1, frame + n) for n in range(len(pieces))))
    return Message(
        id=number, connection=number, index=1, mail_from="news@example.org", recipients=(f"user{number}@example.net",),
        size=size, via="data", terminator=end, reply_code=code, outcome=outcome,  # type: ignore[arg-type]
        start_ns=start + SECOND // 4, end_ns=start + SECOND, reply_delay_s=0.3 if code else None,
        largest_packet_bytes=largest,
    )  # fmt: skip


def _server(case: Case, message: Message) -> str:
    return case.connections[message.connection - 1].server.ip


def _paths(case: Case) -> list[Path]:
    targets = dict.fromkeys(c.server.ip for c in case.connections)
    paths = []
    for n, target in enumerate(targets, 1):
        connections = tuple(c.id for c in case.connections if c.server.ip == target)
        path = Path(n, SENDER6 if ":" in target else SENDER, target, "no-fault", 1500, None, None, (), connections, 0,
                    (SizeFate(52, 90, 0, 2), SizeFate(612, 8, 0, 0), SizeFate(1500, 74, 0, 0)), vantage="client-side")  # fmt: skip
        if target in (HOLE, HOLE6):
            low = 1397 if target == HOLE else 1290
            links = (
                "1492 PPPoE",
                "1480 IPIP/6in4",
                "1476 GRE",
                "1450 VXLAN",
                "1420 WireGuard",
                "1400 IPsec or cloud VPN",
            )
            path = replace(path, verdict="black-hole", mtu_at_least=low, mtu_below=1500, messages_stuck=5,
                           links=links if target == HOLE else (),
                           sizes=(SizeFate(52, 90, 0, 2), SizeFate(96, 8, 0, 0), SizeFate(612, 3, 0, 0), SizeFate(1132, 1, 0, 0),
                                  SizeFate(low, 6, 0, 0), SizeFate(1500, 0, 63, 4)))  # fmt: skip
        paths.append(path)
    return paths


def _findings(case: Case) -> list[Finding]:
    holes = [_black_hole(n, p) for n, p in enumerate((p for p in case.paths if p.verdict == "black-hole"), 1)]
    masked = tuple(c.id for c in case.connections if c.server.ip == MASKED)
    cut = tuple(m.id for m in case.messages if m.outcome == "end-of-data-timeout" and _server(case, m) == SPLIT)
    split = Finding(
        3, "split-terminator", f"{SPLIT} does not answer mails whose end is cut inside '.CRLF'", "cause", None, "high",
        "likely", "server", SENDER, SPLIT, cut, cut, (),
        (Evidence(cut[0], (Frame(1, 2_301), Frame(1, 2_303)), "frame.number in {2301, 2303}", "CRLF . | CRLF"),),
        {"cut_at": [3, 4]}, "The dot and the CRLF that end the mail left in two packets, and no answer came. Whole ends to "
        "this server were answered.", (), (Rival("the server is slow", "whole ends were answered within 0.3 s"),),
        (Remedy("firewall", SPLIT, "Turn the SMTP inspection off, or upgrade.", ("no fixup protocol smtp 25",),
                "Send a mail whose end is cut."),
         Remedy("client-admin", SENDER, "Send '.CRLF' in a packet of its own.",
                ("postconf -e 'smtp_pix_workarounds=disable_esmtp,delay_dotcrlf'",), "The queue to this host empties.")),
        "f3-5f6a0b77")  # fmt: skip
    mask = Finding(
        4, "masked-banner", f"A firewall masks the greeting of {MASKED}", "observation", None, "medium", "certain", "server",
        SENDER, MASKED, masked, (), (),
        (Evidence(masked[0], (Frame(1, 240),), "frame.number == 240", "every character but 2 and 0 is a star"),),
        {"banner": MASK}, "Every line of the 220 greeting is made of stars, 2, 0 and spaces.", (), (),
        (Remedy("firewall", MASKED, "Do not inspect SMTP.", ("no inspect esmtp",), "telnet HOST 25 shows a plain greeting."),),
        "f4-0c1d2e3f")  # fmt: skip
    stuck = tuple(m.id for m in case.messages if m.outcome == "end-of-data-timeout" and _server(case, m) == HOLE)
    symptom = Finding(
        5, "end-of-data-timeout", f"{len(stuck)} mails to {HOLE} were never answered", "symptom", 1, "high", "certain", "path",
        SENDER, HOLE, stuck, stuck, (1,), (), {}, "The end of the mail got no reply.", (), (), (), "f5-77aa0012")  # fmt: skip
    small = Finding(6, "small-mss", "203.0.113.4 announces a small MSS", "observation", None, "info", "certain", "host",
                    SENDER, "203.0.113.4", (8,), (), (), (), {"mss": 1360}, "It protects the path.", (), (), (), "f6-1")  # fmt: skip
    return [*holes, split, mask, symptom, small]


def _black_hole(number: int, path: Path) -> Finding:
    first, last = path.connections[0], path.connections[-1]
    v6 = ":" in path.sender
    return Finding(
        id=number, rule="pmtud-black-hole", title=f"Large packets from {path.sender} to {path.receiver} vanish", role="cause",
        explained_by=None, severity="critical", confidence="certain", scope="path", sender=path.sender,
        receiver=path.receiver, connections=path.connections, messages=path.connections, paths=(path.id,),
        evidence=(
            Evidence(first, tuple(Frame(1, n) for n in (14, 21, 22, 24, 25, 26, 28, 29, 30)),
                     "frame.number in {14, 21, 22, 24, 25, 26, 28, 29, 30}",
                     "the same 1500-byte packet sent 9 times in 106.2 s, never acknowledged"),
            Evidence(first, (Frame(1, 23),), "frame.number == 23",
                     f"the mail's {path.mtu_at_least}-byte tail behind it was acknowledged (SACK)"),
            Evidence(last, (Frame(1, 17_002), Frame(1, 17_004)),
                     f"{'ipv6' if v6 else 'ip'}.addr == {path.receiver} && tcp.port == {40_000 + last} && "
                     "tcp.analysis.retransmission", "the same in the last connection"),
        ),
        facts={"largest_delivered_bytes": path.mtu_at_least, "smallest_lost_bytes": 1500, "resends": 8, "stuck_s": 106.2,
               "df": True, "icmp_seen": False},
        explanation=f"Packets above {path.mtu_at_least} bytes that may not be fragmented are lost between {path.sender} and "
        f"{path.receiver}, smaller ones pass, and no ICMP 'fragmentation needed' came back to this point of capture. "
        "TCP sends the same segment again and again until the mailer gives up.",
        against=("The capture does not show what happens behind the sender's router.",),
        rivals=(Rival("the path is dead", "smaller packets were acknowledged meanwhile"),
                Rival("random loss", "63 of 63 packets of 1500 bytes were lost, none of 108 smaller ones"),
                Rival("the receiver stopped reading", "its window stayed at 64,240 bytes")),
        remedies=(
            Remedy("network", None, "Let ICMP type 3 code 4 through; until then clamp the MSS on the router.", (CLAMP,),
                   f"ping -M do -s 1372 {path.receiver} passes and tracepath shows the MTU."),
            Remedy("client-admin", path.sender, "Let TCP find the size by itself.", ("sysctl -w net.ipv4.tcp_mtu_probing=1",),
                   "A mail of 10 KB is delivered."),
            Remedy("server-admin", path.receiver, "Lower the interface MTU so that the MSS announces it.",
                   ("ip link set dev eth0 mtu 1400",), "The SYN-ACK shows MSS 1360."),
        ),
        fingerprint=f"f{number}-9b1deb4d",
    )  # fmt: skip


# (seconds, from the client, first byte, payload bytes, acknowledged bytes of the peer, more columns)
Packet = tuple[float, bool, int, int, int, dict[str, Any]]
HANDSHAKE: list[Packet] = [
    (0.0, True, -1, 0, 0, {"flags": SYN, "mss": 1460, "window_scale": 7, "sack_permitted": True}),
    (0.02, False, -1, 0, 0, {"flags": SYN | ACK, "mss": 1460, "window_scale": 7, "sack_permitted": True}),
    (0.0201, True, 0, 0, 0, {}),
]
# A black hole as its sender sees it: four segments of 1500 bytes vanish, the tail is SACKed, the first is sent again.
BLACK_HOLE: list[Packet] = [
    *HANDSHAKE,
    (0.05, False, 0, 40, 0, {}),
    (0.06, True, 0, 140, 40, {}),
    (0.09, False, 40, 37, 140, {}),
    *[(0.1 + n * 1e-5, True, 140 + 1448 * n, 1448, 77, {}) for n in range(4)],
    (0.1001, True, 140 + 4 * 1448, 900, 77, {}),
    (0.1212, False, 77, 0, 140, {"sacks": [(140 + 4 * 1448, 140 + 4 * 1448 + 900)]}),
    *[(0.1 + pause, True, 140, 1448, 77, {}) for pause in (0.2, 0.6, 1.5, 3.1, 6.5, 13.0, 26.5, 53.0)],
]
# The same at its receiver: a hole, and behind it the tail.
RECEIVER: list[Packet] = [p for p in BLACK_HOLE if p[3] != 1448]
# Nothing is lost.
WELL: list[Packet] = [
    *BLACK_HOLE[:6],
    *[(0.1 + n * 1e-2, True, 140 + 1448 * n, 1448, 77, {}) for n in range(4)],
    (0.2, False, 77, 0, 140 + 4 * 1448, {}),
]


def trace_of(packets: Iterable[Packet], icmp: Iterable[IcmpError] = ()) -> Trace:
    """A trace of the incident's first connection, made by the same code that reads captures."""
    rows, blocks = [], []
    hosts = [(0xFFFF << 32 | int(IPv4Address(ip)), port) for ip, port in ((SENDER, 40_001), (HOLE, 25))]
    for n, (at, from_client, seq, payload, ack, more) in enumerate(packets, 1):
        (src, src_port), (dst, dst_port) = hosts if from_client else hosts[::-1]
        base, peer = (5_001, 9_001) if from_client else (9_001, 5_001)
        row = dict.fromkeys(COLUMNS, 0) | {
            "time_ns": T0 + round(at * SECOND), "capture": 1, "frame": n, "ip_version": 4, "src_lo": src, "dst_lo": dst,
            "src_port": src_port, "dst_port": dst_port, "df": True, "ip_bytes": payload + 52, "seq": base + seq,
            "ack": peer + ack, "flags": ACK | (PSH if payload else 0), "window": 502, "payload_bytes": payload,
            "window_scale": -1, "outgoing": -1,
        }  # fmt: skip
        sacks = more.get("sacks", [])
        row |= {k: v for k, v in more.items() if k != "sacks"} | {"sack_at": len(blocks), "sack_count": len(sacks)}
        blocks += [(peer + left, peer + right) for left, right in sacks]
        rows.append(row)
    columns = {name: np.array([row[name] for row in rows], dtype) for name, (dtype, _) in COLUMNS.items()}
    table = PacketTable(columns, np.array(blocks, np.uint32).reshape(-1, 2), (np.zeros(1, np.uint8),))
    trace = measure(Tracker().add(table, None)).trace(0)
    trace.icmp = list(icmp)
    return trace


@pytest.fixture(name="black_hole")
def _black_hole_trace() -> Trace:
    return trace_of(BLACK_HOLE, [too_big()])


@pytest.fixture(name="receiver_side")
def _receiver_side() -> Trace:
    return trace_of(RECEIVER)


@pytest.fixture(name="well")
def _well() -> Trace:
    return trace_of(WELL)


def too_big(mtu: int = 1400) -> IcmpError:
    """Fragmentation needed from a router, for a packet of the incident's first connection."""
    mapped = 0xFFFF << 32
    sender, hole = mapped | 0xC000020A, mapped | 0xC6336414
    return IcmpError(T0 + SECOND, 1, 24, 0, 4, 3, 4, mtu, mapped | 0xC6336401, sender, 64, sender, hole, 40_001, 25,
                     1_000, 1_500, True)  # fmt: skip


@pytest.fixture(name="incident")
def _incident() -> Case:
    return incident()


@pytest.fixture(name="clean")
def _clean() -> Case:
    return clean()


@pytest.fixture(name="no_smtp")
def _no_smtp() -> Case:
    return no_smtp()


@pytest.fixture(name="broken")
def _broken() -> Case:
    return broken()


@pytest.fixture(name="hostile")
def _hostile() -> Case:
    return hostile()


@pytest.fixture(name="too_big")
def _too_big() -> IcmpError:
    return too_big()


@pytest.fixture(name="large")
def _large() -> Case:
    return large()


@pytest.fixture(scope="session", name="illustrated_page")
def _illustrated_page() -> str:
    """The HTML report of the incident with all its pictures, drawn once; short tables, as checkers look at every cell."""
    from analyzer.report import html

    case = incident()
    case.connections, case.messages = case.connections[:40], case.messages[:40]
    case.what_if = what_if(case)
    return html.render(case, traces={1: trace_of(BLACK_HOLE, [too_big()])})
