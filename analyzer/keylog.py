"""What was said inside TLS, read through tshark with the secrets of the sessions (`--keylog`).

The secrets come from a file in the format of NSS (SSLKEYLOGFILE), as OpenSSL, Python and the mailers' debugging builds
write it. tshark decrypts; the dialogue is then read as in the clear. How the end of a mail was cut into packets is not told:
no firewall can see an end inside TLS.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .case import Case, Connection, Message, Outcome
from .errors import ToolError, UsageError
from .smtp.dialogue import Dialogue, Mail, read_dialogue

# A line of the file: label, client random (32 bytes), secret.
_SECRET = re.compile(rb"^[A-Z][A-Z0-9_]* [0-9A-Fa-f]{64} [0-9A-Fa-f]+\r?$", re.MULTILINE)
STREAMS_AT_ONCE = 50  # of one run of tshark: each costs an argument and its memory
TIME_LIMIT_S = 600
HEAD_BYTES = 1 << 20  # of the key file, in which a secret must be

Chunk = tuple[bool, bytes]  # whether the client said it, and what


def check(path: str) -> None:
    """Says before the work that the secrets can not be used."""
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


def read_inside(case: Case, path: str) -> None:
    """Puts the mails that were sent inside TLS into the case, in the place of what was estimated of them."""
    encrypted = [c for c in case.connections if c.tls != "none"]
    said: dict[int, Dialogue] = {}
    for capture in case.captures:
        if capture.path != "-" and encrypted:
            for connection, chunks in _decrypted(capture.path, path, encrypted):
                dialogue = _dialogue(chunks)
                if dialogue.commands or dialogue.mails:
                    said[connection.id] = dialogue
    _put(case, said)
    if encrypted and len(said) < len(encrypted):
        case.limits.append(
            f"{path} opens {len(said)} of {len(encrypted)} TLS connections; of the others sizes are estimates."
        )


def _put(case: Case, said: dict[int, Dialogue]) -> None:
    """New rows for the mails, numbered anew; what named the old ones names the new ones."""
    messages: list[Message] = []
    renamed: dict[int, int] = {}
    for c in case.connections:
        own = [m for m in case.messages if m.connection == c.id]
        if c.id in said:
            clear = [m for m in own if m.via != "tls"]
            own = clear + _mails(said[c.id], c, [m for m in own if m.via == "tls"], len(clear))
            c.ehlo_keywords = said[c.id].keywords or c.ehlo_keywords
            c.phase = said[c.id].phase
        for m in own:
            messages.append(m)
            if m.id:
                renamed.setdefault(m.id, len(messages))
            m.id = len(messages)
    case.messages = messages
    for finding in case.findings:
        finding.messages = tuple(renamed[i] for i in finding.messages if i in renamed)


def _mails(dialogue: Dialogue, c: Connection, estimates: Sequence[Message], before: int) -> list[Message]:
    """The mails of a dialogue as rows; times from the estimates, where there is one for each."""
    times = estimates if len(estimates) == len(dialogue.mails) else [None] * len(dialogue.mails)
    return [
        Message(
            id=guess.id if guess else 0,
            connection=c.id,
            index=before + n,
            mail_from=mail.mail_from,
            recipients=mail.recipients,
            size=mail.size,
            via=mail.via,
            terminator=None,
            reply_code=mail.reply.code if mail.reply else None,
            outcome=_outcome(mail, c),
            start_ns=guess.start_ns if guess else c.start_ns,
            end_ns=guess.end_ns if guess else c.end_ns,
            reply_delay_s=guess.reply_delay_s if guess else None,
            largest_packet_bytes=guess.largest_packet_bytes if guess else None,
        )
        for n, (mail, guess) in enumerate(zip(dialogue.mails, times, strict=True), 1)
    ]


def _outcome(mail: Mail, c: Connection) -> Outcome:
    """As said; a mail without a last word in a connection that was closed was lost with it."""
    if mail.outcome is not None:
        return mail.outcome
    return "unknown" if c.closed_by == "open" else "lost-connection"


# -- the streams -------------------------------------------------------------------------------------------------------


@dataclass
class _Heard:
    """What one side said, in chunks: a StreamView without packets."""

    data: bytes = b""
    begins: list[tuple[int, int]] = field(default_factory=list)  # offset of a chunk, and bytes of the peer before it
    start: int = 0

    @property
    def end(self) -> int:
        return len(self.data)

    def pieces(self) -> Sequence[tuple[int, bytes]]:
        return [(0, self.data)] if self.data else []

    def peer_at(self, offset: int) -> int | None:
        return max((peer for begin, peer in self.begins if begin <= offset), default=None)

    def time_at(self, offset: int) -> int | None:
        del offset  # tshark's streams have no times
        return None


def _dialogue(chunks: Sequence[Chunk]) -> Dialogue:
    client, server = _Heard(), _Heard()
    for from_client, data in chunks:
        one, other = (client, server) if from_client else (server, client)
        one.begins.append((one.end, other.end))
        one.data += data
    # behind STARTTLS there is no greeting: the client speaks first (RFC 3207 4.2); in implicit TLS the server does
    return read_dialogue(client, server, from_start=bool(chunks) and not chunks[0][0])


def _decrypted(capture: str, keys: str, connections: Sequence[Connection]) -> Iterator[tuple[Connection, list[Chunk]]]:
    by_ends = {frozenset((tuple(c.client), tuple(c.server))): c for c in connections}
    ports = sorted({c.server.port for c in connections})
    common = ["-n", "-r", str(Path(capture)), "-o", f"tls.keylog_file:{keys}"]
    # TLS from the first byte on ports that Wireshark does not know, and STARTTLS on those of other services
    for port in ports:
        kind = "tls" if any(c.tls == "implicit" and c.server.port == port for c in connections) else "smtp"
        common += ["-d", f"tcp.port=={port},{kind}"]
    fields = ["tcp.stream", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport"]
    listed = _run([*common, "-Y", "tls", "-T", "fields", *(w for f in fields for w in ("-e", f))])
    streams: dict[int, Connection] = {}
    for line in listed.splitlines():
        stream, a4, a6, a_port, b4, b6, b_port = (cell.split(",")[-1] for cell in line.split("\t"))
        if stream.isdigit() and a_port.isdigit() and b_port.isdigit():
            found = by_ends.get(frozenset(((a4 or a6, int(a_port)), (b4 or b6, int(b_port)))))
            if found is not None:
                streams[int(stream)] = found
    numbers = sorted(streams)
    for at in range(0, len(numbers), STREAMS_AT_ONCE):
        part = numbers[at : at + STREAMS_AT_ONCE]
        text = _run([*common, "-q", *(w for n in part for w in ("-z", f"follow,tls,raw,{n}"))])
        for number, chunks in _followed(text, streams):
            yield streams[number], chunks


def _followed(text: str, streams: dict[int, Connection]) -> Iterator[tuple[int, list[Chunk]]]:
    """tshark's `follow` output: a head with the two nodes, then a line of hex per chunk, node 1's behind a tab."""
    for block in re.split(r"^=+\nFollow: tls,raw\n", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"Filter: tcp\.stream eq (\d+)\nNode 0: (\S*)\nNode 1: (\S*)\n", block)
        if head is None or int(head[1]) not in streams:
            continue
        connection = streams[int(head[1])]
        # tshark leaves a node out (":0") when it has decrypted only what the other one began with
        zero_is_client = head[2].endswith(f":{connection.client.port}") and connection.client.ip in head[2]
        chunks = []
        for line in block[head.end() :].splitlines():
            raw = line.strip()
            if raw and set(raw) <= set("0123456789abcdefABCDEF") and len(raw) % 2 == 0:
                chunks.append((line.startswith("\t") != zero_is_client, bytes.fromhex(raw)))
        if chunks:
            yield int(head[1]), chunks


def _run(arguments: list[str]) -> str:
    try:
        done = subprocess.run(["tshark", *arguments], capture_output=True, timeout=TIME_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"tshark: {error}") from None
    return done.stdout.decode("utf-8", "replace")
