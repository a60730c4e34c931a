"""What was said inside TLS, read through tshark with the secrets of the sessions (`--keylog`).

The secrets come from a file in the format of NSS (SSLKEYLOGFILE), as OpenSSL, Python and the mailers' debugging builds
write it. tshark decrypts; what it tells is put where the records lie in the streams (detect/inside.py), and the connection
is judged as in the clear.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .capture.packets import CaptureInfo
from .case import Case, Connection, Endpoint
from .detect.inside import Chunk, Ends, ends_of
from .errors import ToolError, UsageError

# A line of the file: label, client random (32 bytes), secret.
_SECRET = re.compile(rb"^[A-Z][A-Z0-9_]* [0-9A-Fa-f]{64} [0-9A-Fa-f]+\r?$", re.MULTILINE)
STREAMS_AT_ONCE = 50  # of one run of tshark: each costs an argument and its memory
TIME_LIMIT_S = 600
HEAD_BYTES = 1 << 20  # of the key file, in which a secret must be


def check(path: str, captures: Sequence[str] = ()) -> None:
    """Says before the work that the secrets can not be used."""
    for name in captures:
        if name == "-" or "://" in name or Path(name).is_fifo():
            raise UsageError(f"--keylog needs files, which are read twice; {name} is none")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"--keylog {path}: {error.strerror or error}") from None
    if not _SECRET.search(head):
        raise UsageError(
            f"--keylog {path}: no TLS secret in it; lines as CLIENT_RANDOM or CLIENT_TRAFFIC_SECRET_0 are expected"
        )
    if shutil.which("tshark") is None:
        raise ToolError("--keylog needs tshark (of Wireshark), which is not installed")


def opened(case: Case, path: str) -> tuple[dict[Ends, list[Chunk]], list[str]]:
    """What was said inside the TLS connections of the case, by their two ends; and what could not be opened, in words."""
    encrypted = [c for c in case.connections if c.tls != "none"]
    said: dict[Ends, list[Chunk]] = defaultdict(list)
    if encrypted:
        with _whole(case.captures) as parts:
            for file, captures in parts:
                for ends, chunks in _decrypted(file, captures, path, encrypted).items():
                    said[ends] += chunks
    count = sum(ends_of(c.client, c.server) in said for c in encrypted)
    if not encrypted:
        return {}, []
    if count == len(encrypted):
        return said, []
    return said, [f"{path} opens {count} of {len(encrypted)} TLS connections; of the others sizes are estimates."]


class _Sent(NamedTuple):
    """A frame with TLS in it: the ends of its connection, and who sent it."""

    ends: Ends
    sender: Endpoint


@contextmanager
def _whole(captures: Sequence[CaptureInfo]) -> Iterator[list[tuple[str, list[CaptureInfo]]]]:
    """What tshark is to read: a session that goes on from one rotated file to the next is only opened in one piece.

    Captures of different points, which overlap in time, stay apart: the same packets twice would confuse it.
    """
    times = [(c.first_ns, c.last_ns) for c in captures if c.first_ns is not None and c.last_ns is not None]
    rotated = all(later[0] >= earlier[1] for earlier, later in pairwise(times))
    apart = [(c.path, [c]) for c in captures]
    if len(captures) < 2 or not rotated or shutil.which("mergecap") is None:
        yield apart
        return
    with tempfile.NamedTemporaryFile(prefix="smtpscope-") as joined:  # mode 0600
        command = ["mergecap", "-a", "-F", "pcapng", "-w", joined.name, *(c.path for c in captures)]
        done = subprocess.run(command, capture_output=True, timeout=TIME_LIMIT_S, check=False)
        yield apart if done.returncode else [(joined.name, list(captures))]


def _decrypted(
    file: str, captures: Sequence[CaptureInfo], keys: str, connections: Sequence[Connection]
) -> dict[Ends, list[Chunk]]:
    clients = {ends_of(c.client, c.server): c.client for c in connections}
    # records are opened in the order of their bytes, whatever packet came late
    common = ["-n", "-r", file, "-o", f"tls.keylog_file:{keys}", "-o", "tcp.reassemble_out_of_order:TRUE"]
    # TLS from the first byte on ports that Wireshark does not know, and STARTTLS on those of other services
    for port in sorted({c.server.port for c in connections}):
        kind = "tls" if any(c.tls == "implicit" and c.server.port == port for c in connections) else "smtp"
        common += ["-d", f"tcp.port=={port},{kind}"]
    streams: dict[int, Ends] = {}
    sent: dict[int, _Sent] = {}
    for number, stream, sender, receiver in _frames_with_tls(common):
        ends = ends_of(sender, receiver)
        if ends in clients:
            streams[stream] = ends
            sent[number] = _Sent(ends, sender)
    numbers = sorted(streams)
    said: dict[Ends, list[Chunk]] = defaultdict(list)
    for at in range(0, len(numbers), STREAMS_AT_ONCE):
        part = numbers[at : at + STREAMS_AT_ONCE]
        text = _run([*common, "-q", *(w for n in part for w in ("-z", f"follow,tls,yaml,{n}"))])
        for number, data in _followed(text):
            if number in sent:
                ends, sender = sent[number]
                said[ends].append(Chunk(*_place(number, captures), sender == clients[ends], data))
    return said


def _place(number: int, captures: Sequence[CaptureInfo]) -> tuple[int, int]:
    """The capture and its frame, of a frame of all of them one behind the other."""
    for capture in captures[:-1]:
        if number <= capture.frames:
            return capture.id, number
        number -= capture.frames
    return captures[-1].id, number


def _frames_with_tls(common: list[str]) -> Iterator[tuple[int, int, Endpoint, Endpoint]]:
    """Frame, tshark's number of its connection, sender, receiver; of packets in tunnels the innermost."""
    fields = ["frame.number", "tcp.stream", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport"]
    listed = _run([*common, "-Y", "tls", "-T", "fields", *(w for f in fields for w in ("-e", f))])
    for line in listed.splitlines():
        frame, stream, a4, a6, a_port, b4, b6, b_port = (cell.split(",")[-1] for cell in line.split("\t"))
        if stream.isdigit() and a_port.isdigit() and b_port.isdigit():
            yield int(frame), int(stream), Endpoint(a4 or a6, int(a_port)), Endpoint(b4 or b6, int(b_port))


# An entry of tshark's `follow` in YAML: the frame in which a record was complete, who sent it, when, and its content.
_ENTRY = re.compile(
    r"^  - packet: (\d+)\n    peer: \d+\n(?:    \w+: .*\n)*?    data: !!binary \|\n((?:      [\w+/=]+\n)*)",
    re.MULTILINE | re.ASCII,
)


def _followed(text: str) -> Iterator[tuple[int, bytes]]:
    """Frame and content of each record."""
    for entry in _ENTRY.finditer(text):
        yield int(entry[1]), b64decode(entry[2])


def _run(arguments: list[str]) -> str:
    try:
        done = subprocess.run(["tshark", *arguments], capture_output=True, timeout=TIME_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"tshark: {error}") from None
    return done.stdout.decode("utf-8", "replace")
