"""What tshark says about a capture, in one run: per TCP packet its stream, analysis, payload and SMTP, and each stream followed.

Nothing of the package under test is used here.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

RESENT = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
MARKS = (*RESENT, "lost_segment", "ack_lost_segment", "duplicate_ack", "keep_alive", "zero_window_probe")
# SMTP is looked for on the ports that are ours by default; a plain dialogue may run on 465's neighbours too.
SMTP_PORTS = (25, 587, 2525)


@dataclass(frozen=True)
class Row:
    """One TCP packet as tshark sees it. Numbers are tshark's relative ones: 1 is the first byte after the SYN."""

    frame: int
    stream: int
    ends: tuple[tuple[str, int], tuple[str, int]]  # (address, port) of sender and receiver
    seq: int
    ack: int
    payload_bytes: int
    flags: int
    marks: frozenset[str]
    commands: tuple[str, ...]
    codes: tuple[int, ...]
    payload: bytes
    sack: bool


FIELDS = [
    "frame.number", "tcp.stream", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport",
    "tcp.seq", "tcp.ack", "tcp.len", "tcp.flags", "smtp.req.command", "smtp.response.code", "tcp.payload",
    "tcp.options.sack_le", *(f"tcp.analysis.{mark}" for mark in MARKS),
]  # fmt: skip


def read(capture: Path, streams: int) -> tuple[list[Row], dict[int, tuple[bytes, bytes] | None]]:
    """The TCP rows; and per stream the bytes of (client, server), None for one with bytes missing from the capture."""
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;"]
    for port in SMTP_PORTS:
        command += ["-d", f"tcp.port=={port},smtp"]
    for field in FIELDS:
        command += ["-e", field]
    command += ["-Y", "tcp"]
    for i in range(streams):
        command += ["-z", f"follow,tcp,raw,{i}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    rows: list[Row] = []
    followed: dict[int, list[str]] = {}
    number = -1
    for line in done.stdout.split("\n"):  # splitlines() would also split at control characters of the mail
        if line.startswith("Filter: tcp.stream eq "):
            number = int(line.split()[-1])
            followed[number] = []
        elif line.count("\t") == len(FIELDS) - 1:
            row = _row(line.split("\t"))
            if row:
                rows.append(row)
        elif number >= 0 and not line.startswith(("=", "Follow:", "Node ")) and line.strip():
            followed[number].append(line)
    return rows, {number: _stream(lines) for number, lines in followed.items()}


def _row(cells: list[str]) -> Row | None:
    """The innermost headers: in a tunnel there are several. What an ICMP error quotes is no packet of its own."""
    frame, stream, src4, dst4, src6, dst6, sport, dport, seq, ack, size, flags, verbs, codes, payload, sack = cells[:16]
    if not size:
        return None

    def last(*values: str) -> str:
        return next((v.split(";")[-1] for v in values if v), "")

    six = bool(src6)  # IPv6 inside IPv4 is the only mixture among the samples
    ends = (
        (last(src6 if six else src4), int(last(sport))),
        (last(dst6 if six else dst4), int(last(dport))),
    )
    marks = frozenset(mark for mark, cell in zip(MARKS, cells[16:], strict=True) if cell)
    return Row(
        int(frame), int(last(stream)), ends, int(last(seq)), int(last(ack) or 0), int(last(size)), int(last(flags), 16),
        marks, tuple(v for v in verbs.split(";") if v), tuple(int(c) for c in codes.split(";") if c),
        bytes.fromhex(last(payload).replace(":", "")), bool(sack),
    )  # fmt: skip


def _stream(lines: list[str]) -> tuple[bytes, bytes] | None:
    """`follow,tcp,raw`: hex per line; what the server says is indented."""
    sides = [b"", b""]
    for line in lines:
        data = bytes.fromhex(line.strip())
        if b"bytes missing in capture file]" in data:
            return None
        sides[line.startswith("\t")] += data
    return sides[0], sides[1]
