"""Bytes -> lines: a stream with gaps, read forwards.

A gap is never glued over: a line that a gap interrupts is not whole, and what stands behind a gap may be the rest of
something. Each byte is looked at a fixed number of times, however long the lines are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from .terminator import TERMINATOR

# The longest line that any RFC allows: 12288 octets inside an AUTH exchange (RFC 4954 4.3); commands and replies have
# 512 (RFC 5321 4.5.3.1.4, 4.5.3.1.5) and a few hundred more by extensions. What is longer is cut off, and noted.
LINE_LIMIT = 12288


class StreamView(Protocol):
    """The bytes that one side sent, as far as they were captured. Offsets count from its first payload byte."""

    @property
    def start(self) -> int:
        """Offset of the first byte that is known to exist."""
        ...

    @property
    def end(self) -> int:
        """Offset behind the last byte that is known to exist (it may lie in a gap)."""
        ...

    def pieces(self) -> Sequence[tuple[int, bytes]]:
        """(offset, bytes), sorted and disjoint: the runs that were captured."""
        ...

    def peer_at(self, offset: int) -> int | None:
        """Bytes of the peer's stream that this side had acknowledged when it first sent the byte at `offset`."""
        ...

    def time_at(self, offset: int) -> int | None:
        """Capture time, ns, at which the byte at `offset` was first seen."""
        ...


class Line(NamedTuple):
    start: int
    end: int  # behind its line ending
    text: bytes  # without it; at most LINE_LIMIT bytes
    whole: bool  # False: its line ending was not seen


class Cursor:
    """A place in a stream that only moves forward."""

    def __init__(self, view: StreamView) -> None:
        self._pieces = list(joined(view.pieces()))
        self._index = 0
        first = self._pieces[0] if self._pieces else (view.start, b"")
        last = self._pieces[-1] if self._pieces else first
        self.pos = min(view.start, first[0])
        self.end = max(view.end, last[0] + len(last[1]))
        self.too_long = False  # a line was cut off
        self.bare_lf = False  # a line ended without CR
        self._terminator_from, self._terminator_at = 0, -1
        self._settle()

    def _settle(self) -> None:
        while self._index < len(self._pieces) and self.piece_end <= self.pos:
            self._index += 1

    @property
    def done(self) -> bool:
        """Nothing that was captured lies ahead."""
        return self._index >= len(self._pieces)

    @property
    def next_start(self) -> int:
        """Offset of the next captured byte (the end of the stream when done)."""
        return self.end if self.done else max(self.pos, self._pieces[self._index][0])

    @property
    def at_gap(self) -> bool:
        return not self.done and self._pieces[self._index][0] > self.pos

    @property
    def piece_end(self) -> int:
        start, data = self._pieces[self._index]
        return start + len(data)

    @property
    def followed(self) -> bool:
        """Something is known to lie behind this piece: a gap, not the end of what was captured."""
        return self._index + 1 < len(self._pieces) or self.piece_end < self.end

    @property
    def hidden_end(self) -> bool:
        """The stream goes on behind everything that was captured."""
        return self.done and self.pos < self.end

    def cross(self) -> None:
        """Go over the gap."""
        self.pos = self.next_start

    def move(self, pos: int) -> None:
        """Go to `pos`, which lies ahead (or, at most, at the beginning of the line read last)."""
        self.pos = pos
        if self._index and self._pieces[self._index - 1][0] + len(self._pieces[self._index - 1][1]) > pos:
            self._index -= 1
        self._settle()

    def peek(self, count: int) -> bytes:
        if self.done or self.at_gap:
            return b""
        start, data = self._pieces[self._index]
        return data[self.pos - start : self.pos - start + count]

    def line(self) -> Line | None:
        """The line at this place, without moving; None: nothing captured here."""
        if self.done or self.at_gap:
            return None
        start, data = self._pieces[self._index]
        begin = self.pos - start
        newline = data.find(b"\n", begin)
        whole = newline >= 0
        stop = newline + 1 if whole else len(data)
        text_end = newline if whole else len(data)
        if whole and text_end > begin and data[text_end - 1] == 13:
            text_end -= 1
        elif whole:
            self.bare_lf = True
        if text_end - begin > LINE_LIMIT:
            self.too_long = True
            text_end = begin + LINE_LIMIT
        return Line(self.pos, start + stop, data[begin:text_end], whole)

    def data(self) -> tuple[int, bytes]:
        """The piece at this place: its offset and its bytes."""
        return self._pieces[self._index]

    def terminator(self) -> int | None:
        """Offset of the next CR LF . CR LF in this piece, wherever in it it lies ahead.

        Remembered, so that many mails that end otherwise do not make the search quadratic.
        """
        start, data = self._pieces[self._index]
        if not (self._terminator_from <= self.pos <= self._terminator_at):
            if self._terminator_at == self.piece_end and self._terminator_from <= self.pos:
                return None  # known: none up to the end of this piece
            found = data.find(TERMINATOR, self.pos - start)
            self._terminator_from = self.pos
            self._terminator_at = start + found if found >= 0 else self.piece_end
        return self._terminator_at if self._terminator_at < self.piece_end else None


def joined(pieces: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same bytes in maximal runs: neighbours put together, empty ones left out."""
    run: list[bytes] = []
    begin, length = 0, 0
    for start, data in pieces:
        if run and start != begin + length:
            yield begin, b"".join(run)
            run = []
            length = 0
        if data:
            if not run:
                begin = start
            run.append(data)
            length += len(data)
    if run:
        yield begin, b"".join(run)
