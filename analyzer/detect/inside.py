"""What was said inside TLS, put where its records lie in the stream of bytes.

Somebody who has the keys (`keylog`) gives what each side said, chunk by chunk, with the frame in which the record that
holds it was complete. Here it is read as any dialogue is, and its places are then made those of the records: who knows
when a byte was sent and whether it was acknowledged knows it of the line that is inside.

A line is as long as its record: it has been sent when the last byte of the record was sent, and it has arrived when that
was acknowledged. Where the end of a mail was cut is not told: nobody on the way can see an end inside TLS.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

from ..smtp.dialogue import Dialogue, Mail, Reply, read_dialogue
from ..smtp.terminator import LENGTH
from ..tcp.delivery import Trace
from ..tcp.streams import Stream

# Bytes of either end of a body that tell two mails apart (Message-ID and Date stand in the first, the text ends in the last).
PRINT_BYTES = 512

# What a record adds to its content at least: its header, and the tag of an AEAD cipher (RFC 8446 5.2, RFC 7905).
LEAST_OVERHEAD_BYTES = 5 + 16

Ends = frozenset[tuple[str, int]]  # address and port of client and server
Print = tuple[int, int]  # size of a body, checksum of both its ends


class Chunk(NamedTuple):
    """The content of one record. `frame` of `capture`: where the last byte of the record was seen."""

    capture: int
    frame: int
    from_client: bool
    data: bytes


def ends_of(one: tuple[str, int], other: tuple[str, int]) -> Ends:
    """What a connection is known by, whoever sends."""
    return frozenset((one, other))


class _Side:
    """What one side said, as one stream: bytes from the content, acknowledgements and times from its records."""

    start = 0

    def __init__(self, stream: Stream, chunks: Sequence[Chunk], from_offset: int) -> None:
        d = stream.direction
        rows = d.data.nonzero()[0].tolist()
        packets = {(int(d.capture[row]), int(d.frame[row])): (int(d.seq[row]), int(d.end[row])) for row in rows}
        self.stream = stream
        self.peer: _Side
        self.data = b"".join(chunk.data for chunk in chunks)
        self._begins: list[int] = []  # of each chunk, in the content
        self._records: list[tuple[int, int]] = []  # where its record lies: [start, end) in the stream
        at, reached = 0, from_offset
        # records that end in one packet are not told apart
        for place, together in groupby(chunks, lambda chunk: (chunk.capture, chunk.frame)):
            own = list(together)
            first, last = packets[place]
            # records of the handshake may lie before it: it begins in this packet, or as far ahead as it is long
            content = sum(len(chunk.data) + LEAST_OVERHEAD_BYTES for chunk in own)
            record = max(reached, min(first, last - content)), max(reached, last)
            reached = record[1]
            for chunk in own:
                self._begins.append(at)
                self._records.append(record)
                at += len(chunk.data)

    @property
    def end(self) -> int:
        return len(self.data)

    @property
    def behind(self) -> int:
        """Where the first record begins that could not be opened: it is not whole, or none."""
        return self._records[-1][1] if self._records else self.stream.end

    def pieces(self) -> Sequence[tuple[int, bytes]]:
        return [(0, self.data)] if self.data else []

    def _record(self, offset: int) -> tuple[int, int]:
        return self._records[max(bisect_right(self._begins, offset) - 1, 0)]

    def peer_at(self, offset: int) -> int | None:
        heard = self.stream.peer_at(self._record(offset)[0])
        return None if heard is None else self.peer.said_until(heard)

    def said_until(self, place: int) -> int:
        """How much of the content lies in records that end by this place of the stream."""
        whole = sum(end <= place for _, end in self._records)
        return self._begins[whole] if whole < len(self._begins) else len(self.data)

    def time_at(self, offset: int) -> int | None:
        return self.stream.time_at(self._record(offset)[1] - 1)

    def start_of(self, offset: int) -> int:
        """Where the record begins that holds this byte."""
        return self._record(offset)[0] if offset < len(self.data) else self.behind

    def end_of(self, offset: int) -> int:
        """Where the record ends that holds the byte before."""
        return self._record(offset - 1)[1]


def read_inside(
    outside: Dialogue, trace: Trace, client: Stream, server: Stream, said: Sequence[Chunk]
) -> list[Print | None] | None:
    """Put the dialogue inside the TLS of a connection into `outside`, in the place of what was estimated of its mails.

    Returns the prints of the bodies, mail by mail; None (and nothing is changed) when nothing of this connection is said.
    """
    frames = {(int(c), int(f)) for d in trace.directions for c, f in zip(d.capture, d.frame, strict=True)}
    own = [chunk for chunk in said if (chunk.capture, chunk.frame) in frames]
    if not own or outside.tls_client_start is None or outside.tls_server_start is None:
        return None
    ours = _Side(client, [c for c in own if c.from_client], outside.tls_client_start)
    theirs = _Side(server, [c for c in own if not c.from_client], outside.tls_server_start)
    ours.peer, theirs.peer = theirs, ours
    # behind STARTTLS there is no greeting: the client speaks first (RFC 3207 4.2); in implicit TLS the server does
    inside = read_dialogue(ours, theirs, from_start=not own[0].from_client)
    if not inside.commands and not inside.mails and not inside.replies:
        return None
    prints = [_print(mail, ours.data) for mail in inside.mails]
    _place(inside, ours, theirs)
    in_clear = [mail for mail in outside.mails if mail.via != "tls"]
    _join(outside, inside, in_clear)
    return [None] * len(in_clear) + prints


def _print(mail: Mail, data: bytes) -> Print | None:
    if mail.body_start is None or mail.body_end is None:
        return None
    body = memoryview(data)[mail.body_start : mail.body_end]
    return len(body), crc32(body[-PRINT_BYTES:], crc32(body[:PRINT_BYTES]))


def _place(inside: Dialogue, ours: _Side, theirs: _Side) -> None:
    """Every offset becomes one of the connection's own stream."""
    for command in inside.commands:
        command.start, command.end = ours.start_of(command.start), ours.end_of(command.end)
    told = [*inside.replies, *inside.unasked, *(r for m in inside.mails for r in (*m.replies, *m.refusals))]
    told += [inside.greeting] if inside.greeting is not None else []
    placed: dict[int, Reply] = {id(reply): reply for reply in told}  # each once, however often it is named
    for reply in placed.values():
        reply.start, reply.end = theirs.start_of(reply.start), theirs.end_of(reply.end)
    for mail in inside.mails:
        _place_mail(mail, ours)
    if inside.mails:
        _add_unopened(inside.mails[-1], ours)


def _place_mail(mail: Mail, ours: _Side) -> None:
    mail.in_tls = True
    mail.start = ours.start_of(mail.start)
    if mail.body_start is not None:
        mail.body_start = ours.start_of(mail.body_start)
    if mail.terminator_end is not None:
        mail.terminator_end = ours.end_of(mail.terminator_end)
        mail.body_end = mail.terminator_end - LENGTH
    elif mail.body_end is not None:
        mail.body_end = ours.end_of(mail.body_end)


def _add_unopened(mail: Mail, ours: _Side) -> None:
    """A record that is not whole cannot be opened: in the middle of a mail it holds more of the mail."""
    begun = mail.body_start is not None or any(r.code == 354 for r in [mail.data.reply] if r) if mail.data else False
    if begun and not mail.complete and ours.stream.end > ours.behind:
        if mail.body_start is None:
            mail.body_start = ours.behind
        mail.seen_bytes += ours.stream.end - ours.behind


def _join(outside: Dialogue, inside: Dialogue, in_clear: list[Mail]) -> None:
    outside.greeting = outside.greeting or inside.greeting
    outside.commands += inside.commands
    outside.replies += inside.replies
    outside.unasked += inside.unasked
    outside.mails = in_clear + inside.mails
    outside.client_name = inside.client_name or outside.client_name
    outside.helo = inside.helo or outside.helo
    # a server offers STARTTLS in the clear only (RFC 3207 4.2): both offers are its
    outside.keywords = tuple(dict.fromkeys(outside.keywords + inside.keywords))
    outside.phase, outside.awaited = inside.phase, inside.awaited
    outside.notes += [note for note in inside.notes if note not in outside.notes]
    outside.passed_over += inside.passed_over
