"""Dialogues as people write them down, turned into the two streams that `read_dialogue` reads.

    S: 220 mx.example.com ESMTP
    C: EHLO me
    C! MAIL FROM:<a@example.com>        the capture missed this line
    C> QUIT                             sent before the server's lines above had arrived
    C: Subject: x\\n                     a line that ends as written, not with CR LF (\\n, \\r, \\0: as in Python)

Lines that follow each other on one side leave together, as they do on real networks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from analyzer.smtp.dialogue import Dialogue, read_dialogue

# From the envelope to the mail itself.
ENVELOPE = """\
    C: MAIL FROM:<a@b>
    S: 250 ok
    C: RCPT TO:<c@d>
    S: 250 ok
    C: DATA
    S: 354 go
"""


class Stream:
    """A `StreamView` in memory: bytes, which of them are missing, and what the peer had said when they were sent."""

    def __init__(self, data: bytes = b"", *, start: int = 0, acknowledged: bool = True) -> None:
        self.data = bytearray(data)
        self.start = start
        self.lost: list[tuple[int, int]] = []
        self.flights: list[tuple[int, int]] = [(0, 0)]  # (offset, bytes of the peer that had arrived by then)
        self.acknowledged = acknowledged
        self.cut: int | None = None  # the capture ended here

    @property
    def end(self) -> int:
        return len(self.data) if self.cut is None else self.cut

    def pieces(self) -> Sequence[tuple[int, bytes]]:
        at, found = self.start, []
        for first, last in [*self.lost, (self.end, self.end)]:
            if first > at:
                found.append((at, bytes(self.data[at : min(first, self.end)])))
            at = max(at, last)
        return [(start, data) for start, data in found if data]

    def peer_at(self, offset: int) -> int | None:
        if not self.acknowledged or not self.start <= offset < self.end:
            return None
        return self.flights[bisect_right(self.flights, (offset, 1 << 62)) - 1][1]

    def time_at(self, offset: int) -> int | None:
        return offset if self.start <= offset < self.end else None

    def say(self, data: bytes, heard: int, *, missed: bool = False) -> None:
        at = len(self.data)
        if missed:
            self.lose(at, at + len(data))
        if heard > self.flights[-1][1]:
            self.flights.append((at, heard))
        self.data += data

    def lose(self, start: int, end: int) -> None:
        """The capture missed [start, end)."""
        self.lost = sorted([*self.lost, (start, end)])


def streams(script: str, *, acknowledged: bool = True) -> tuple[Stream, Stream]:
    """(client, server) of a script."""
    client, server = Stream(acknowledged=acknowledged), Stream(acknowledged=acknowledged)
    heard = {"C": 0, "S": 0}
    for line in script.split("\n"):
        line = line.lstrip()
        if not line:
            continue
        side, mark, text = line[0], line[1], line[3:]
        if text.endswith(("\\n", "\\r", "\\")):
            data = text.removesuffix("\\").encode().decode("unicode_escape").encode("latin-1")
        else:
            data = text.encode() + b"\r\n"
        speaker, listener = (client, server) if side == "C" else (server, client)
        if mark != ">":
            heard[side] = len(listener.data)
        speaker.say(data, heard[side], missed=mark == "!")
    return client, server


def talk(script: str, *, from_start: bool = True, acknowledged: bool = True) -> Dialogue:
    client, server = streams(script, acknowledged=acknowledged)
    return read_dialogue(client, server, from_start=from_start)


def spoken(dialogue: Dialogue) -> list[str]:
    """Commands and their answers, one line each: ``EHLO 250``; ``-`` where no reply was seen."""
    return [f"{c.verb} {c.reply.code if c.reply else '-'}" for c in dialogue.commands]
