"""Where a mail ends: the search for CR LF . CR LF, through gaps, with the server's word where the bytes do not tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from . import grammar
from .lines import LINE_LIMIT, Cursor, StreamView
from .replies import Reply
from .terminator import TERMINATOR


class Body(NamedTuple):
    """The content of a mail, or a chunk of it. Offsets in the client's stream."""

    start: int | None  # None: out of sight, before the capture began or in a gap
    end: int | None  # of CR LF . CR LF; of a chunk: behind it
    terminator_end: int | None
    seen_from: int
    sent_to: int  # offset up to which it is known to have been sent
    size: int | None = None


class End(Enum):
    SEEN = "the end was seen"
    NOT_SEEN = "everything that was captured is part of the mail"
    HIDDEN = "it ended in the gap before this place"


class Final(NamedTuple):
    """The reply that may be the mail's final one."""

    reply: Reply
    received: int | None  # bytes of the client that the server had when it sent it
    certain: bool  # no older request waits for a reply


# A lone dot on a line, as lenient servers take it for the end: LF . LF and LF . CR LF.
_LENIENT_TERMINATOR = re.compile(rb"\n\.\r?\n")


class BodySearch:
    """Reads mails from a client's cursor. `final` tells the next reply that was not given to a request yet."""

    def __init__(self, client: StreamView, cursor: Cursor, final: Callable[[], Final | None]) -> None:
        self._client = client
        self._cursor = cursor
        self._final = final
        self.lenient = False  # a mail ended by a line that only lenient servers take for the end

    def find(self, start: int | None) -> tuple[Body, End]:
        """The mail from here on; `start`: where it begins, None when that was not seen. Leaves the cursor behind it."""
        cursor = self._cursor
        seen_from = cursor.pos
        if start != seen_from and self._ended_before(seen_from, start or 0):
            return self._hidden(start, seen_from)
        if not cursor.at_gap and start == seen_from and cursor.peek(3) == b".\r\n":
            cursor.move(start + 3)
            return Body(start, start - 2, start + 3, start, start + 3, 0), End.SEEN
        return self.go_on(start, seen_from)

    def go_on(self, start: int | None, seen_from: int) -> tuple[Body, End]:
        """The same for a mail of which the bytes from `seen_from` to here are known already."""
        cursor = self._cursor
        behind_gap = False
        while not cursor.done:
            if cursor.at_gap:
                gap_start = cursor.pos
                cursor.cross()
                behind_gap = True
                if self._ended_before(cursor.pos, gap_start):
                    return self._hidden(start, seen_from)
            found = self._end_in_piece(behind_gap)
            if found is not None:
                end, terminator_end, size_end = found
                cursor.move(terminator_end)
                size = None if start is None else size_end - start
                return Body(start, end, terminator_end, seen_from, terminator_end, size), End.SEEN
            cursor.move(cursor.piece_end)
        return Body(start, None, None, seen_from, max(seen_from, cursor.end)), End.NOT_SEEN

    def _hidden(self, start: int | None, seen_from: int) -> tuple[Body, End]:
        return Body(start, None, None, seen_from, max(seen_from, self._cursor.pos)), End.HIDDEN

    def _ended_before(self, pos: int, gap_start: int) -> bool:
        """True when the mail's final reply came before the client sent the byte at `pos`, behind a gap."""
        final = self._final()
        known = self._client.peer_at(pos)
        if final is None or known is None or known < final.reply.end:
            return False
        if final.received is None:
            return final.reply.code < 400 and final.certain
        return final.received > gap_start  # else it came early, or answers an older request: the mail goes on

    def _end_in_piece(self, behind_gap: bool) -> tuple[int, int, int] | None:
        """Where the mail ends in this piece: (start and end of the terminator, end of the last line)."""
        cursor = self._cursor
        pos = cursor.pos
        final = self._final()
        bound = None  # the server had received so much when it answered
        if final is not None and final.reply.code != 421 and final.received is not None and final.received > pos:
            bound = final.received
        rest = self._rest_of_terminator(bound) if behind_gap else 0
        if rest:
            end = pos + rest
            return end - len(TERMINATOR), end, end - 3
        strict = cursor.terminator()
        strict_end = None if strict is None else strict + len(TERMINATOR)
        if strict_end is None or (bound is not None and strict_end > bound):
            lenient = self._lenient_end(bound, early=final is not None and final.reply.code >= 400)
            if lenient is not None:
                self.lenient = True
                return lenient
        return None if strict is None else (strict, strict + 5, strict + 2)

    def _rest_of_terminator(self, bound: int | None) -> int:
        """Bytes of a terminator that began in the gap before this place; 0 when there is none."""
        cursor = self._cursor
        for length in (4, 3, 2, 1):
            if not TERMINATOR.endswith(cursor.peek(length)):
                continue
            if bound == cursor.pos + length:
                return length
            if length >= 3 and (cursor.pos + length == cursor.piece_end or self._command_at(length)):
                return length
        return 0

    def _command_at(self, skip: int) -> bool:
        """True when a command stands `skip` bytes ahead."""
        line = self._cursor.peek(skip + LINE_LIMIT)[skip:].split(b"\n", 1)
        return len(line) == 2 and grammar.is_unmistakable(line[0].removesuffix(b"\r"))

    def _lenient_end(self, bound: int | None, *, early: bool) -> tuple[int, int, int] | None:
        """An end without CR that the server's reply, or the client's own line endings, make likely."""
        if bound is None and not self._cursor.bare_lf:
            return None
        offset, data = self._cursor.data()
        begin = self._cursor.pos - offset
        stop = len(data) if bound is None else min(bound - offset, len(data))
        found = _LENIENT_TERMINATOR.search(data, max(begin - 1, 0), stop)
        if found is None or (early and found.end() + offset != bound):
            return None
        newline = found.start()
        first = newline - 1 if newline > begin and data[newline - 1] == 13 else newline
        return offset + first, offset + found.end(), offset + newline + 1
