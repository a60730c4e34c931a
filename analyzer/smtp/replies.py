"""Lines -> replies: the server's half of the dialogue, in order, with the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import grammar
from .lines import Cursor, Line, StreamView

# Servers send about 15 EHLO lines; nothing useful has a thousand.
REPLY_LINES_LIMIT = 1000


@dataclass(slots=True)
class Reply:
    """One reply, all its lines. Offsets [start, end) in the server's stream."""

    code: int
    lines: tuple[str, ...]  # texts behind code and separator; inside AUTH only enhanced status codes
    start: int
    end: int
    complete: bool = True  # False: a gap hides some of it

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Gap(NamedTuple):
    """Bytes [start, end) that were not captured."""

    start: int
    end: int


class Read(NamedTuple):
    reply: Reply
    gap: Gap | None  # the bytes before it that were not captured: they may hide other replies


class ReplyReader:
    """Cuts a server's stream into replies."""

    def __init__(self, view: StreamView) -> None:
        self.cursor = Cursor(view)
        self.foreign_lines = 0  # whole lines that are no reply
        self.cut_off = False  # a reply had too many lines
        self._view = view
        self._gap: Gap | None = None  # crossed already, not yet told

    def read(self) -> Read | None:
        """The next reply; None when there is none, or when it is not known to be over."""
        found = self._first_line()
        if found is None:
            return None
        line, said = found
        gap, self._gap = self._gap, None
        reply = Reply(said.code, (), line.start, line.end, line.whole)
        texts = [grammar.text(said.text)]
        over = said.final
        while not over:
            more = self._next_line(reply)
            if more is None:
                break
            over = more.final
            if len(texts) < REPLY_LINES_LIMIT:
                texts.append(grammar.text(more.text))
            else:
                self.cut_off = True
        if not over and reply.complete:
            return None
        reply.lines = tuple(texts)
        return Read(reply, gap)

    def _first_line(self) -> tuple[Line, grammar.ReplyLine] | None:
        while True:
            self._cross()
            line = self._line()
            if line is None:
                return None
            said = _parse(line)
            if said is not None:
                return line, said
            self._skip(line)

    def _next_line(self, reply: Reply) -> grammar.ReplyLine | None:
        """The next line of a reply of several lines; None: not seen, and `reply.complete` says whether it can be."""
        cursor = self.cursor
        while True:
            if cursor.at_gap or (cursor.done and cursor.pos < cursor.end):
                reply.complete = False
                if cursor.done or self._heard_more(reply):
                    return None
                self._cross()
            elif not reply.complete and self._heard_more(reply):
                return None
            behind_gap = self._gap is not None and cursor.pos == self._gap.end
            before = cursor.pos
            line = self._line()
            if line is None:
                return None
            said = _parse(line)
            if said is None:
                self._skip(line)
                continue
            if behind_gap and said.code != reply.code:
                cursor.move(before)  # the gap hides its end, and this is another one
                return None
            if behind_gap:
                self._gap = None  # its own middle
            reply.end = line.end
            reply.complete = reply.complete and line.whole
            return said

    def _heard_more(self, reply: Reply) -> bool:
        """The server had received more by now than when it began the reply: so what comes is another one."""
        then = self._view.peer_at(reply.start)
        now = self._view.peer_at(self.cursor.next_start)
        return then is not None and now is not None and now > then

    def _cross(self) -> None:
        cursor = self.cursor
        if cursor.at_gap:
            self._gap = Gap(self._gap.start if self._gap else cursor.pos, cursor.next_start)
            cursor.cross()

    def _line(self) -> Line | None:
        cursor = self.cursor
        line = cursor.line()
        if line is None or not (line.whole or cursor.followed):
            return None
        cursor.move(line.end)
        return line

    def _skip(self, line: Line) -> None:
        rest = self._gap is not None and self._gap.end == line.start  # of a line that began in the gap
        if line.whole and not rest:
            self.foreign_lines += 1


def _parse(line: Line) -> grammar.ReplyLine | None:
    said = grammar.reply_line(line.text)
    if said is not None and not line.whole and len(line.text) < 4:
        return None  # code without separator: whether it is the last line cannot be told
    return said
