"""A connection as the steps of a ladder: who said what when, and where the end of a mail was cut.

Only verbs, reply codes and lengths are told: no argument, no text of a mail, so that a picture can be passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..capture.packets import FIN, RST
from ..smtp import grammar
from ..smtp.dialogue import Dialogue, read_dialogue
from ..tcp.delivery import LOST, Direction, Trace
from ..tcp.streams import Stream
from . import wording

END = ("CR", "LF", ".", "CR", "LF")  # the five bytes that end a mail (RFC 5321 4.1.1.4)


class Step(NamedTuple):
    """One line of a ladder: who said what when, and whether it arrived."""

    time_ns: int
    from_client: bool
    text: str
    frame: int | None = None
    lost: bool = False
    cut: bool = False  # the end of the mail was cut before this piece


def steps(trace: Trace) -> list[Step]:
    """The steps of a connection in time order; packets of one mail that follow each other are told together."""
    dialogue = read_dialogue(Stream(trace.c2s), Stream(trace.s2c), from_start=trace.handshake_seen)
    pieces = [
        *_side(trace.c2s, _Client(dialogue), from_client=True),
        *_side(trace.s2c, _Server(dialogue), from_client=False),
    ]
    return [p.step() for p in _together(sorted(pieces, key=lambda p: (p.time_ns, p.frame)))]


@dataclass(slots=True)
class _Piece:
    """A packet, or several of the same kind."""

    time_ns: int
    frame: int
    from_client: bool
    text: str
    body_bytes: int  # > 0: nothing but text of a mail (or TLS), which may be told together with more of it
    again: bool
    lost: bool
    cut: bool
    packets: int = 1
    last_ns: int = 0  # of the last time that it was sent again, when it was so several times

    def step(self) -> Step:
        text = self.text
        if self.body_bytes:
            text = f"{wording.size(self.body_bytes)} of {text}"
            if self.packets > 1 and not self.again:
                text += f" in {self.packets} packets"
        if self.again and self.packets > 1:
            text += f", {self.packets} times in {wording.duration((self.last_ns - self.time_ns) / 1e9)}"
        return Step(
            self.time_ns,
            self.from_client,
            f"again: {text}" if self.again else text,
            self.frame,
            self.lost,
            self.cut and not self.again,
        )

    def joins(self, other: _Piece) -> bool:
        """More of the same mail; or the very same bytes once more."""
        alike = (self.from_client, self.text, self.again, self.lost) == (
            other.from_client, other.text, other.again, other.lost
        )  # fmt: skip
        return alike and (self.body_bytes == other.body_bytes if self.again else self.body_bytes * other.body_bytes > 0)


def _together(pieces: list[_Piece]) -> Iterator[_Piece]:
    current: _Piece | None = None
    for piece in pieces:
        if current is not None and current.joins(piece):
            current.body_bytes += 0 if current.again else piece.body_bytes
            current.packets += 1
            current.last_ns = piece.time_ns
            continue
        if current is not None:
            yield current
        current = piece
    if current is not None:
        yield current


def _side(direction: Direction, speech: _Client | _Server, *, from_client: bool) -> Iterator[_Piece]:
    fate = direction.fate
    for row in range(len(direction)):
        flags = int(direction.flags[row])
        if direction.duplicate[row]:
            continue
        start, end = int(direction.seq[row]), int(direction.end[row])
        if end > start:
            text, body_bytes, cut = speech.told(start, end)
        else:
            text, body_bytes, cut = "", 0, False
        closing = " + ".join(name for bit, name in ((FIN, "FIN"), (RST, "RST")) if flags & bit)
        if not text and not closing:
            continue
        if closing:
            text, body_bytes = (
                " + ".join(t for t in (f"{wording.size(body_bytes)} of {text}" if body_bytes else text, closing) if t),
                0,
            )
        yield _Piece(
            int(direction.time_ns[row]), int(direction.frame[row]), from_client, text, body_bytes,
            bool(direction.resend[row]), int(fate[row]) == LOST, cut,
        )  # fmt: skip


class _Client:
    """What a range of the client's bytes holds."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    def told(self, start: int, end: int) -> tuple[str, int, bool]:
        """The words for it; the bytes of mail if it is nothing else; whether it begins inside the end of a mail."""
        tls = self.dialogue.tls_client_start
        if tls is not None and start >= tls:
            return "TLS", end - start, False
        said: list[tuple[int, str]] = []
        body, cut = 0, False
        for c in self.dialogue.commands:
            if start <= c.start < end:
                said.append((c.start, _verb(c.verb)))
            elif c.start < start < c.end:
                said.append((start, f"rest of {_verb(c.verb)}"))
        for m in self.dialogue.mails:
            if m.body_start is None:
                continue
            body_end = m.body_end if m.body_end is not None else end
            part = min(end, body_end) - max(start, m.body_start)
            if part > 0:
                body += part
                said.append((max(start, m.body_start), f"{wording.size(part)} of mail"))
            if m.terminator_end is not None and start < m.terminator_end and end > body_end:
                first, last = max(start - body_end, 0), min(end, m.terminator_end) - body_end
                said.append((body_end + first, " ".join(END[first:last])))
                cut = cut or first > 0
        if body == end - start:
            return "mail", body, False
        return ", ".join(text for _, text in sorted(said)) or wording.size(end - start), 0, cut


def _verb(verb: str) -> str:
    if verb == grammar.UNKNOWN:
        return "an unknown command"
    return "an AUTH line" if verb == grammar.AUTH_RESPONSE else verb


class _Server:
    """What a range of the server's bytes holds."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue

    def told(self, start: int, end: int) -> tuple[str, int, bool]:
        tls = self.dialogue.tls_server_start
        if tls is not None and start >= tls:
            return "TLS", end - start, False
        greeting = self.dialogue.greeting
        said = []
        for r in self.dialogue.replies:
            if r.start < end and r.end > start:
                name = f"{r.code} greeting" if greeting is not None and r.start == greeting.start else str(r.code)
                said.append(name if r.start >= start else f"rest of {name}")
        return ", ".join(said) or wording.size(end - start), 0, False
