"""The dialogues of connections to which nothing odd happened, many at a time, without reading the mails.

`dialogue.read_dialogue` reads two streams of bytes and copes with anything. Here both streams are known to be whole, and
to have been acknowledged, so these shortcuts hold, and the lines of all connections of a group can be found together:

* the dialogue is strict alternation: a request, its reply, the next request, however many were under way at once. So the
  n-th reply that is not the last word on a mail answers the n-th command;
* a mail begins with the first bytes that the client sent after it had heard the 354, and its terminator stands in the
  last bytes that the server had received when it sent its next reply; what lies between is never looked at;
* TLS begins with the first bytes that the client sent after it had heard a second 220 (RFC 3207 4);
* the same row of verbs and codes always means the same (states.Machine), and most connections say what others said:
  what rows mean, greetings and replies are remembered.

What comes out is columns: commands, replies and mails of all connections one after the other. A connection that breaks
the alternation, or any rule that is used here, is not `plain`, and is read the long way. The long way is the truth that
tests compare with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from . import grammar
from .dialogue import COMMANDS_LIMIT, Command, Dialogue
from .pairing import TEXT_LIMIT
from .replies import Reply
from .states import Machine, MailShape, Shape
from .terminator import LENGTH, TERMINATOR

# In these bytes before the last acknowledged one the end of a mail is looked for. What may follow it in the same write
# is QUIT, or the envelope of the next mail (RFC 2920).
TAIL_BYTES = 600
# Command lines are at most 512 bytes and what extensions add (RFC 5321 4.5.3.1.4); longer ones go the long way.
LINE_BYTES = 1000
# A client that says more outside of its mails than some hundred recipients take may be sending chunks (RFC 3030).
COMMANDS_BYTES = 4000
REMEMBERED = 4096  # greetings, commands and shapes; a capture has a few dozen, an attacker's as many as he likes

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FAR = np.int64(1) << 44  # larger than any offset: keeps streams apart in columns that run over all of them
_CR, _LF, _SPACE, _HYPHEN = b"\r\n -"


@dataclass(slots=True)
class Pieces:
    """What both sides of k connections sent for the first time: n pieces, by stream, then by offset, without gaps.

    Stream 2i is what the client of connection i sent, stream 2i + 1 what its server sent; each begins at offset 0.
    """

    bounds: Ints  # (2k + 1,) pieces of each stream
    start: Ints  # (n,) offset in the stream
    end: Ints
    ack: Ints  # bytes of the peer's stream that were acknowledged with it; negative: none
    data: Callable[[Ints, Ints, Ints], bytes]  # pieces, and for each the range of its stream: these bytes, joined
    place: Ints = field(init=False)  # ascending numbers for the pieces: their offsets, streams apart

    def __post_init__(self) -> None:
        streams = np.repeat(np.arange(len(self.bounds) - 1) * _FAR, np.diff(self.bounds))
        self.place = self.start + streams

    def __len__(self) -> int:
        return len(self.start)

    def at(self, stream: Ints, offset: Ints) -> Ints:
        """The piece that holds the byte at this offset, which must have been sent."""
        found: Ints = np.searchsorted(self.place, offset + stream * _FAR, side="right") - 1
        return found

    def length(self) -> Ints:
        """(2k,) bytes of each stream."""
        last = self.bounds[1:] - 1
        return np.where(last >= self.bounds[:-1], self.end[last] if len(self) else 0, 0)

    def text(self, stream: Ints, start: Ints, stop: Ints) -> tuple[bytes, Ints]:
        """These ranges of bytes, joined, and where each begins in the result (and, at last, where that ends)."""
        size = stop - start
        filled = size > 0
        first = self.at(stream[filled], start[filled])
        count = self.at(stream[filled], stop[filled] - 1) - first + 1
        owner = np.repeat(np.flatnonzero(filled), count)
        piece = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - first, count)
        begin, end = np.maximum(start[owner], self.start[piece]), np.minimum(stop[owner], self.end[piece])
        return self.data(piece, begin, end), np.append(0, np.cumsum(size))


class Commands(NamedTuple):
    """Commands of all connections, one after the other. `first` and `last` are the pieces with its first and last byte."""

    bounds: Ints  # (k + 1,) commands of each connection
    start: Ints
    end: Ints
    first: Ints
    last: Ints
    answer: Ints  # its reply; -1: none
    mailbox: list[str | None]  # of MAIL and RCPT


class Replies(NamedTuple):
    bounds: Ints  # (k + 1,)
    code: Ints
    start: Ints
    end: Ints
    piece: Ints  # with its first byte


class Bodies(NamedTuple):
    bounds: Ints  # (k + 1,)
    start: Ints
    end: Ints  # of CR LF . CR LF; with BDAT: of the chunk
    terminator_end: Ints  # -1 with BDAT
    size: Ints


class MailOutline(NamedTuple):
    """What the row of verbs and codes tells of one mail; numbers count from the connection's first command, reply, body."""

    mail: int  # its MAIL command
    recipients: tuple[int, ...]  # commands; those that were accepted first
    bodies: tuple[int, int] | None  # first and last; None: the content was not sent
    reply: int | None  # the last word on it
    reply_code: int | None
    outcome: str
    via: str


class Outline(NamedTuple):
    """What a row of verbs and codes means."""

    shape: Shape
    commands: list[Command]
    replies: list[Reply]
    mails: tuple[MailOutline, ...] | None  # None: something about them is odd


class Plain(NamedTuple):
    """The dialogues of k connections. Where `plain` is False nothing else is to be believed."""

    plain: Bools  # (k,)
    dialogue: list[Dialogue | None]  # without mails and offsets; shared by all connections that said the same
    outline: list[Outline | None]
    commands: Commands
    replies: Replies
    bodies: Bodies
    hello_reply: Ints  # (k,) to the first EHLO or HELO that got one; -1: none
    tls_start: Ints  # (k, 2) where TLS begins, in the client's stream and in the server's; -1: nowhere


# RFC 5321 4.1.2, paths of ASCII without quoted strings and source routes; the rest is for grammar.path.
_MAIL = re.compile(rb"MAIL FROM:<([!#-9;=?-~]*)>(?: [^\r\n]*)?\r\Z")
_RCPT = re.compile(rb"RCPT TO:<([!#-9;=?-~]*)>(?: [^\r\n]*)?\r\Z")
# Requests whose reply leaves the next bytes of the client a command line, whatever it is.
_VERBS = tuple("? EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT STARTTLS".split())
_LAST_CHUNK = len(_VERBS)
_NUMBER = {verb: number for number, verb in enumerate(_VERBS)}
_ODD, _EHLO, _HELO, _MAIL_FROM, _RCPT_TO, _DATA, _BDAT = range(7)  # numbers in _VERBS
_STARTTLS = _NUMBER["STARTTLS"]

K = TypeVar("K")
V = TypeVar("V")
_Hello = tuple[str, str, int, bytes]  # verb, argument, code of the reply (0: none), the reply
_Said = tuple[int, str, str | None]  # number of the verb, argument, mailbox
_Line = tuple[int, int, int, int, int, _Said]  # connection, start, end, asked to, verb, said
_commands: dict[bytes, _Said] = {}
_outlines: dict[tuple[bytes, bytes], Outline] = {}
_dialogues: dict[tuple[object, ...], Dialogue] = {}


def read_plain(pieces: Pieces) -> Plain:
    """The dialogues of many connections."""
    return _Reading(pieces).run()


class _Reading:
    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.k = (len(pieces.bounds) - 1) // 2
        self.length = pieces.length().reshape(self.k, 2)
        self.plain = self.length.min(axis=1) > 0
        self.plain &= self.length[:, 1] < TEXT_LIMIT
        # what the client had heard so far when it sent a piece: the first one with so much is found by searching
        client = np.flatnonzero(np.repeat(np.arange(2 * self.k) & 1, np.diff(pieces.bounds)) == 0)
        connection = np.repeat(np.arange(self.k), np.diff(pieces.bounds)[::2])
        self.client = client
        self.heard = np.maximum.accumulate(np.maximum(pieces.ack[client], 0) + connection * _FAR)
        self.client_stop = np.cumsum(np.diff(pieces.bounds)[::2])

    def run(self) -> Plain:
        self._read_replies()
        self._find_tls()
        self._find_bodies()
        self._read_commands()
        self._pair()
        return self._understand()

    def _odd(self, connections: Ints) -> None:
        self.plain[connections] = False

    def _bounds(self, connection: Ints) -> Ints:
        return np.searchsorted(connection, np.arange(self.k + 1))

    def _sent_after(self, connection: Ints, heard: Ints) -> Ints:
        """Offset of the first byte that the client sent when it had heard so many bytes; where there is none: its end."""
        at = np.searchsorted(self.heard, heard + connection * _FAR)
        known = at < self.client_stop[connection]
        first = self.pieces.start[self.client[np.minimum(at, len(self.client) - 1)]]
        return np.where(known, first, self.length[connection, 0])

    # ------------------------------------------------------------ the server's side

    def _read_replies(self) -> None:
        """All whole replies (RFC 5321 4.2) up to the first line that is none; grammar.reply_line takes more for one."""
        everyone = np.arange(self.k)
        length = np.where(self.plain, self.length[:, 1], 0)
        self.text, base = self.pieces.text(2 * everyone + 1, np.zeros_like(length), length)
        self.base = base
        octets = np.frombuffer(self.text + b"\0\0\0\0", np.uint8)
        stop = np.flatnonzero(octets == _LF) + 1
        connection = np.searchsorted(base, stop - 1, side="right") - 1
        start = np.maximum(np.append(0, stop)[:-1], base[connection])
        first, second, third, mark = (octets[start + i] for i in range(4))
        returns = np.searchsorted(np.flatnonzero(octets == _CR), np.append(start, stop))
        one_return = returns[len(start) :] - returns[: len(start)] == 1
        final = (mark == _SPACE) | ((mark == _CR) & (stop - start == 5))
        is_line = (first >= 0x32) & (first <= 0x35) & (second >= 0x30) & (second <= 0x39) & (third >= 0x30)
        is_line &= (third <= 0x39) & (final | (mark == _HYPHEN)) & one_return
        is_line &= (stop - start >= 5) & (octets[stop - 2] == _CR)
        # lines behind the first that is none are not looked at
        others = np.append(0, np.cumsum(~is_line))
        readable = others[1:] == others[np.searchsorted(connection, connection)]
        connection, start, stop, final = connection[readable], start[readable], stop[readable], final[readable]
        code = first.astype(np.int64) * 100 + second.astype(np.int64) * 10 + third - 0x30 * 111
        code = code[readable]
        last = np.flatnonzero(final)
        line = np.maximum(np.append(0, last + 1)[:-1], np.searchsorted(connection, connection[last]))
        self._set_replies(connection[last], code[line], start[line], stop[last])

    def _set_replies(self, connection: Ints, code: Ints, start: Ints, stop: Ints) -> None:
        self.reply_of = connection
        self.reply_at = start, stop  # in the text
        start, stop = start - self.base[connection], stop - self.base[connection]
        piece = self.pieces.at(2 * connection + 1, start)
        self.replies = Replies(self._bounds(connection), code, start, stop, piece)

    def _find_tls(self) -> None:
        """Where TLS begins: behind a 220 that is not the greeting."""
        r = self.replies
        self.tls_start = np.full((self.k, 2), -1)
        first = r.bounds[self.reply_of]
        go = np.flatnonzero((r.code == 220) & (np.arange(len(r.code)) > first) & self.plain[self.reply_of])[::-1]
        connection = self.reply_of[go]
        self.tls_start[connection, 0] = self._sent_after(connection, r.end[go])
        self.tls_start[connection, 1] = r.end[go]  # the first one wins
        tls_end = self.tls_start[self.reply_of, 1]
        inside = (tls_end >= 0) & (r.end > tls_end)
        if inside.any():
            start, stop = self.reply_at
            self._set_replies(self.reply_of[~inside], r.code[~inside], start[~inside], stop[~inside])
        r = self.replies
        count = np.diff(r.bounds)
        self.plain &= count > 0
        read = np.zeros(self.k, np.int64)
        read[count > 0] = r.end[r.bounds[1:][count > 0] - 1]
        self.plain &= (self.tls_start[:, 0] >= 0) | (read == self.length[:, 1])
        self._odd(self.reply_of[self.pieces.ack[r.piece] < 0])

    # ------------------------------------------------------------ mails

    def _find_bodies(self) -> None:
        """The mails behind each 354, found by their final replies."""
        r, p = self.replies, self.pieces
        go = np.flatnonzero((r.code == 354) & self.plain[self.reply_of])
        final = np.minimum(go + 1, len(r.code) - 1)
        connection = self.reply_of[go]
        start = self._sent_after(connection, r.end[go])
        received = p.ack[r.piece[final]]
        odd = (final == go) | (self.reply_of[final] != connection) | (r.code[final] == 421) | (r.code[final] == 354)
        odd |= (received <= start) | (received > self.length[connection, 0])
        self._odd(connection[odd])
        go, connection, start, received = go[~odd], connection[~odd], start[~odd], received[~odd]
        tail = np.maximum(start, received - TAIL_BYTES)
        text, base = p.text(2 * connection, tail, received)
        found = np.array(
            [_terminator(text, a, b) for a, b in zip(base.tolist(), base[1:].tolist(), strict=False)], np.int64
        )
        empty = np.array([text.startswith(b".\r\n", a) for a in base[:-1].tolist()], bool) & (tail == start)
        odd = (found < 0) | empty
        self._odd(connection[odd])
        self.body_of, self.body_go = connection[~odd], go[~odd]
        start, end = start[~odd], (tail + found - base[:-1])[~odd]
        self.bodies = Bodies(self._bounds(self.body_of), start, end, end + LENGTH, end + 2 - start)

    # ------------------------------------------------------------ the client's side

    def _read_commands(self) -> None:
        """The lines between the mails."""
        b = self.bodies
        everyone = np.arange(self.k)
        # stretches of commands: up to each mail, and behind the last one
        stretch_of = np.repeat(everyone, np.diff(b.bounds) + 1)
        start, stop = np.zeros((2, len(stretch_of)), np.int64)
        start[np.arange(len(b.start)) + self.body_of + 1] = b.terminator_end
        stop[np.arange(len(b.start)) + self.body_of] = b.start
        limit = np.where(self.tls_start[:, 0] >= 0, self.tls_start[:, 0], self.length[:, 0])
        stop[b.bounds[1:] + everyone] = limit
        self._odd(stretch_of[start > stop])
        much = np.bincount(stretch_of, stop - start, self.k) > COMMANDS_BYTES
        wanted = self.plain[stretch_of] & ~much[stretch_of] & (start < stop)
        stretch_of, start, stop = stretch_of[wanted], start[wanted], stop[wanted]
        text, base = self.pieces.text(2 * stretch_of, start, stop)
        octets = np.frombuffer(text, np.uint8)
        self._odd(stretch_of[octets[base[1:] - 1] != _LF])
        line_end = np.flatnonzero(octets == _LF) + 1
        stretch = np.searchsorted(base, line_end - 1, side="right") - 1
        line = np.maximum(np.append(0, line_end)[:-1], base[stretch])
        said = [_parse(text[i : j - 1]) for i, j in zip(line.tolist(), line_end.tolist(), strict=True)]
        connection = stretch_of[stretch]
        self._odd(connection[line_end - line > LINE_BYTES])
        shift = (start - base[:-1])[stretch]
        verb = np.array([number for number, _, _ in said], np.uint8)
        chunked = much & self.plain
        chunked[connection[verb == _BDAT]] = True
        chunked &= self.plain
        self._set_commands(connection, line + shift, line_end + shift, line_end + shift, verb, said)
        if chunked.any():
            self._walk_chunks(np.flatnonzero(chunked), limit)
        self._odd(self.command_of[self.verb == _ODD])
        self.plain &= np.bincount(self.command_of, minlength=self.k) < COMMANDS_LIMIT

    def _set_commands(
        self, connection: Ints, start: Ints, end: Ints, asked_to: Ints, verb: npt.NDArray[Any], said: list[_Said]
    ) -> None:
        self.command_of, self.start, self.end = connection, start, end
        self.asked_to = asked_to  # bytes that the server must have received to answer it
        self.verb, self.said = verb.astype(np.uint8), said

    def _walk_chunks(self, connections: Ints, limit: Ints) -> None:
        """Read the lines of clients that may send chunks, which only reading tells from lines, one after the other.

        The bytes that the clients' walks ask for next are put together for all of them at once.
        """
        keep = np.flatnonzero(~np.isin(self.command_of, connections))
        lines: list[_Line] = []
        chunks: list[tuple[int, int, int]] = []  # connection, start, end
        walks = {c: self._walk(c, int(limit[c]), lines, chunks) for c in connections.tolist()}
        wanted = {c: next(walk) for c, walk in walks.items()}
        while asked := {c: pos for c, pos in wanted.items() if pos is not None}:
            connection, start = np.array([*asked.items()], np.int64).T
            text, base = self.pieces.text(2 * connection, start, np.minimum(start + LINE_BYTES, limit[connection]))
            wanted = {c: walks[c].send(text[a:b]) for c, (a, b) in zip(asked, pairwise(base.tolist()), strict=True)}
        columns: tuple[npt.NDArray[Any], ...] = self.command_of, self.start, self.end, self.asked_to, self.verb
        more = np.array([line[:5] for line in lines], np.int64).reshape(-1, 5).T
        joined = [np.append(column[keep], new) for column, new in zip(columns, more, strict=True)]
        said_all = [self.said[i] for i in keep.tolist()] + [line[5] for line in lines]
        order = np.argsort(joined[0], kind="stable")
        connection, start, stop, asked_to, verb = (column[order] for column in joined)
        self._set_commands(connection, start, stop, asked_to, verb, [said_all[i] for i in order.tolist()])
        new = np.array(chunks, np.int64).reshape(-1, 3).T
        none = np.full(len(chunks), -1)
        body_of, go = np.append(self.body_of, new[0]), np.append(self.body_go, none)
        found = new[1], new[2], none, new[2] - new[1]
        body = [np.append(column, chunk) for column, chunk in zip(self.bodies[1:], found, strict=True)]
        order = np.lexsort((body[0], body_of))
        self.body_of, self.body_go = body_of[order], go[order]
        self.bodies = Bodies(self._bounds(self.body_of), *(column[order] for column in body))

    def _walk(
        self, c: int, end: int, lines: list[_Line], chunks: list[tuple[int, int, int]]
    ) -> Generator[int | None, bytes, None]:
        """One client's lines and chunks. Asks for the bytes behind an offset; at last for none."""
        b = self.bodies
        mine = slice(int(b.bounds[c]), int(b.bounds[c + 1]))
        mails = dict(zip(b.start[mine].tolist(), b.terminator_end[mine].tolist(), strict=True))
        pos, ahead, base = 0, b"", 0
        while pos < end:
            if pos in mails:
                pos = mails[pos]
                continue
            newline = ahead.find(b"\n", pos - base)
            if newline < 0:
                ahead, base = (yield pos), pos
                newline = ahead.find(b"\n")
            said = _parse(ahead[pos - base : newline]) if newline >= 0 else _NOTHING
            chunk = grammar.chunk(said[1]) if said[0] == _BDAT else None
            behind = base + newline + 1
            if said[0] == _ODD or (said[0] == _BDAT and chunk is None):
                self.plain[c] = False
                break
            to, number = behind, said[0]
            if chunk is not None:
                chunks.append((c, behind, behind + chunk[0]))
                if chunk[1]:
                    to, number = behind + chunk[0], _LAST_CHUNK
            lines.append((c, pos, behind, to, number, said))
            pos = behind + (chunk[0] if chunk is not None else 0)
        if pos > end:
            self.plain[c] = False
        yield None

    # ------------------------------------------------------------ who answers whom

    def _pair(self) -> None:
        """The n-th reply that is neither the greeting nor the last word on a mail answers the n-th command."""
        r, verb, command_of = self.replies, self.verb, self.command_of
        number = np.arange(len(r.code))
        after_go = np.append(False, (r.code == 354)[:-1])
        greeting = number == r.bounds[self.reply_of]
        answers = np.flatnonzero(~greeting & ~after_go)
        bounds, given = self._bounds(command_of), self._bounds(self.reply_of[answers])
        unanswered = np.diff(bounds) - np.diff(given)
        self.plain &= (unanswered == 0) | (unanswered == 1)
        position = given[command_of] + np.arange(len(command_of)) - bounds[command_of]
        answered = position < given[command_of + 1]
        answer = np.full(len(command_of), -1)
        answer[answered] = answers[position[answered]]
        # what stands behind the last reply, and the last command, is found by number -1: there is none
        code = np.append(r.code, 0)[answer]
        received = np.append(self.pieces.ack[r.piece], _FAR)[answer]
        odd = (received < self.asked_to) | (~answered & (verb == _LAST_CHUNK))
        odd |= (code == 354) != ((verb == _DATA) & answered & (code < 400))
        self._odd(command_of[odd])
        self._odd(self.reply_of[greeting & (r.code == 354)])
        # a mail begins where its DATA ended
        asked = np.full(len(r.code), -1)
        asked[answer[answered]] = np.flatnonzero(answered)
        sent = np.flatnonzero(self.body_go >= 0)
        data_end = np.append(self.end, -1)[asked[self.body_go[sent]]]
        self._odd(self.body_of[sent][data_end != self.bodies.start[sent]])
        # TLS begins where its STARTTLS ended, which is the last command
        in_tls = self.tls_start[:, 0] >= 0
        starting = answered & (verb == _STARTTLS) & (code < 400)
        self.plain &= np.bincount(command_of[starting], minlength=self.k) == in_tls
        last = bounds[1:] - 1
        ends = np.append(starting, False)[last] & (np.append(self.end, -1)[last] == self.tls_start[:, 0])
        self.plain &= ~in_tls | (ends & (unanswered == 0))
        self.answer, self.bounds = answer, bounds

    # ------------------------------------------------------------ what it means

    def _understand(self) -> Plain:
        r, bounds, text = self.replies, self.bounds, self.text
        verbs, codes = self.verb.tobytes(), r.code.astype(np.int16).tobytes()
        begin, end = (x.tolist() for x in self.reply_at)
        hellos: dict[int, list[_Hello]] = {}
        hello_reply = np.full(self.k, -1)
        for i in np.flatnonzero((self.verb == _EHLO) | (self.verb == _HELO)).tolist():
            c, reply = int(self.command_of[i]), int(self.answer[i])
            answer = (int(r.code[reply]), text[begin[reply] : end[reply]]) if reply >= 0 else (0, b"")
            hellos.setdefault(c, []).append((_VERBS[self.verb[i]], self.said[i][1], *answer))
            if reply >= 0 and hello_reply[c] < 0:
                hello_reply[c] = reply
        outlines: list[Outline | None] = [None] * self.k
        dialogues: list[Dialogue | None] = [None] * self.k
        of_commands, of_replies = bounds.tolist(), r.bounds.tolist()
        for c in np.flatnonzero(self.plain).tolist():
            first = of_replies[c]
            key = verbs[of_commands[c] : of_commands[c + 1]], codes[2 * first : 2 * of_replies[c + 1]]
            outline = _outlines.get(key)
            if outline is None:
                outline = _remember(_outlines, key, _worked_out(*key))
            outlines[c] = outline
            dialogues[c] = _dialogue(key, outline, text[begin[first] : end[first]], hellos.get(c, ()))
        offsets = np.concatenate((self.start, self.end - 1)) + np.tile(self.command_of, 2) * 2 * _FAR
        first_piece, last_piece = (np.searchsorted(self.pieces.place, offsets, side="right") - 1).reshape(2, -1)
        mailboxes = [mailbox for _, _, mailbox in self.said]
        commands = Commands(bounds, self.start, self.end, first_piece, last_piece, self.answer, mailboxes)
        return Plain(self.plain, dialogues, outlines, commands, r, self.bodies, hello_reply, self.tls_start)


def _terminator(text: bytes, begin: int, end: int) -> int:
    """Where the only CR LF . CR LF of text[begin:end] stands; -1: there is none, or more than one."""
    found = text.find(TERMINATOR, begin, end)
    return found if found < 0 or text.find(TERMINATOR, found + 3, end) < 0 else -1


_NOTHING: _Said = (_ODD, "", None)


def _parse(line: bytes) -> _Said:
    """Number of the verb, argument, mailbox of a command line (its CR included)."""
    said = _commands.get(line)
    if said is not None:
        return said
    found = _RCPT.match(line)
    if found is not None:
        return _RCPT_TO, "", found[1].decode("ascii")
    found = _MAIL.match(line)
    if found is not None:
        return _MAIL_FROM, "", found[1].decode("ascii")
    command = grammar.command(line[:-1])
    if not line.endswith(b"\r") or command.verb not in _NUMBER:
        return _NOTHING
    number = _NUMBER[command.verb]
    if number == _MAIL_FROM:
        return number, "", grammar.path(command.argument)
    if number == _RCPT_TO:
        return number, "", grammar.path(command.argument) or ""
    return _remember(_commands, line, (number, command.argument, None))


def _remember(memory: dict[K, V], key: K, value: V) -> V:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


def _dialogue(key: tuple[bytes, bytes], outline: Outline, greeting: bytes, hellos: Sequence[_Hello]) -> Dialogue:
    whole = (key, greeting, *hellos)
    dialogue = _dialogues.get(whole)
    if dialogue is None:
        dialogue = Dialogue(greeting=_spoken(greeting), commands=outline.commands, replies=outline.replies)
        dialogue.phase, dialogue.awaited = outline.shape.phase, outline.shape.awaited
        if dialogue.phase == "connect" and outline.replies[0].code < 300:
            dialogue.phase = "greeting"
        _introduce(dialogue, hellos)
        _remember(_dialogues, whole, dialogue)
    return dialogue


def _worked_out(verbs: bytes, codes: bytes) -> Outline:
    machine = Machine()
    commands: list[Command] = []
    replies: list[Reply] = []
    coming = iter([Reply(code, (), 0, 0) for code in np.frombuffer(codes, np.int16).tolist()])

    def reply() -> Reply | None:
        said = next(coming, None)
        if said is not None:
            replies.append(said)
            machine.reply(said.code)
        return said

    reply()
    for number in verbs:
        verb = _VERBS[number] if number != _LAST_CHUNK else "BDAT"
        if verb == "BDAT":
            machine.chunk(last=number == _LAST_CHUNK, complete=True)
        else:
            machine.command(verb)
        commands.append(Command(verb, "", 0, 0, reply()))
        if verb == "DATA" and replies[-1].code == 354 and commands[-1].reply is not None:
            machine.body(complete=True)
            reply()
    shape = machine.result()
    mails = [_outlined(mail, shape, [r.code for r in replies]) for mail in shape.mails]
    known = tuple(mail for mail in mails if mail is not None)
    return Outline(shape, commands, replies, known if len(known) == len(mails) else None)


def _outlined(mail: MailShape, shape: Shape, codes: list[int]) -> MailOutline | None:
    """See dialogue.Mail; None when that would have to look closer."""
    refused = {n: codes[a] for n in mail.recipients if (a := shape.answers[n]) is not None and codes[a] >= 400}
    accepted = [n for n in mail.recipients if n not in refused]
    final = [codes[number] for number in mail.replies]
    outcome = _outcome(final if accepted else list(refused.values()) or final, mail)
    whole = bool(final) and mail.complete
    if mail.mail is None or outcome is None or 421 in final or (mail.bodies and not whole):
        return None
    return MailOutline(
        mail.mail,
        (*accepted, *refused),
        (mail.bodies[0], mail.bodies[-1]) if mail.bodies else None,
        mail.replies[-1] if mail.replies else None,
        final[-1] if final else None,
        outcome,
        mail.via,
    )


def _outcome(codes: list[int], mail: MailShape) -> str | None:
    """See dialogue.Mail.outcome."""
    if not codes:
        return "aborted" if mail.ended_by in ("rset", "quit", "ehlo", "mail") and not mail.complete else None
    if any(code < 400 for code in codes):
        return "delivered"
    return "deferred" if any(code < 500 for code in codes) else "rejected"


def _spoken(raw: bytes) -> Reply:
    lines = [grammar.reply_line(line) for line in raw.removesuffix(b"\r\n").split(b"\r\n")]
    texts = tuple(grammar.text(line.text) for line in lines if line is not None)
    return Reply(int(raw[:3]), texts, 0, 0)


def _introduce(dialogue: Dialogue, hellos: Sequence[_Hello]) -> None:
    """See dialogue._Reading.introduce."""
    for i, (verb, argument, code, raw) in enumerate(hellos):
        accepted = 0 < code < 300
        if accepted or dialogue.helo is None or i == len(hellos) - 1:
            dialogue.helo = verb  # type: ignore[assignment]
            dialogue.client_name = argument or dialogue.client_name
        if accepted and verb != "HELO":
            dialogue.keywords = tuple(k for k in map(grammar.keyword, _spoken(raw).lines[1:]) if k)
