"""The dialogue of a connection to which nothing odd happened, without reading the mails.

`dialogue.read_dialogue` reads two streams of bytes and copes with anything. Here both streams are known to be whole,
and to have been acknowledged, so three shortcuts hold:

* the dialogue is strict alternation: a request, its reply, the next request, however many were under way at once;
* a mail begins where the client went on after the 354, and its terminator stands in the last bytes that the server had
  received when it sent the final reply; what lies between is never looked at (nor handed over: see `Pieces`);
* the same row of verbs and codes always means the same (states.Machine), and most connections say what others said:
  shapes, greetings and replies are remembered.

Whatever breaks the alternation, or any rule that is used here, raises `Odd`, and the connection is read the long way.
The long way is the truth that tests compare with.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import grammar
from .dialogue import COMMANDS_LIMIT, Command, Dialogue
from .pairing import TEXT_LIMIT
from .replies import Reply
from .states import BODY, Machine, Shape
from .terminator import TERMINATOR

# In these bytes before the last acknowledged one the end of a mail is looked for. What may follow it in the same write
# is QUIT, or the envelope of the next mail (RFC 2920).
TAIL_BYTES = 600
# Command lines are at most 512 bytes and what extensions add (RFC 5321 4.5.3.1.4); longer ones go the long way.
LINE_BYTES = 1000
REMEMBERED = 4096  # greetings, commands and shapes; a capture has a few dozen, an attacker's as many as he likes


class Odd(Exception):
    """Not a plain dialogue."""


class Pieces(NamedTuple):
    """What one side sent for the first time, in order, of many connections one after the other.

    Inner pieces of a long flight (bytes sent without hearing from the peer) may be left out: bodies.
    """

    start: list[int]  # offset in the stream
    end: list[int]
    ack: list[int]  # bytes of the peer's stream that were acknowledged with it
    data: Callable[[int], bytes]


class Said(NamedTuple):
    """A command and where it stands; `first` and `last` are the pieces with its first and its last byte."""

    verb: str
    mailbox: str | None  # of MAIL and RCPT
    start: int
    end: int
    first: int
    last: int


class Answer(NamedTuple):
    code: int
    start: int
    end: int
    piece: int  # with its first byte


class Body(NamedTuple):
    start: int
    end: int  # of CR LF . CR LF; with BDAT: of the chunk
    terminator_end: int | None
    size: int


class Plain(NamedTuple):
    dialogue: Dialogue  # without mails and offsets; shared by all connections that said the same
    shape: Shape
    commands: list[Said]
    replies: list[Answer]
    bodies: list[Body]
    hello_reply: Answer | None  # to the first EHLO or HELO that got one
    tls_start: tuple[int, int] | None  # where TLS begins, in the client's stream and in the server's


# RFC 5321 4.2, one whole reply; every line with its code (grammar.reply_line is wider).
_REPLY = re.compile(rb"(?:[2-5]\d\d-[^\r\n]*\r\n)*[2-5]\d\d(?: [^\r\n]*)?\r\n")
# RFC 5321 4.1.2, paths of ASCII without quoted strings and source routes; the rest is for grammar.path.
_MAIL = re.compile(rb"MAIL FROM:<([!#-9;=?-~]*)>(?: [^\r\n]*)?\r\Z")
_RCPT = re.compile(rb"RCPT TO:<([!#-9;=?-~]*)>(?: [^\r\n]*)?\r\Z")
# Requests whose reply leaves the next bytes of the client a command line, whatever it is.
_SIMPLE = frozenset("EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT STARTTLS".split())
_HELLOS = ("EHLO", "HELO")

K = TypeVar("K")
V = TypeVar("V")
_Hello = tuple[str, str, int, bytes]  # verb, argument, code of the reply (0: none), the reply
_commands: dict[bytes, grammar.Command] = {}
_shapes: dict[tuple[str | int | None, ...], tuple[Shape, list[Command], list[Reply]]] = {}
_dialogues: dict[tuple[object, ...], Dialogue] = {}


def read_plain(client: Pieces, client_range: range, client_end: int, server: Pieces, server_range: range) -> Plain:
    """The dialogue of one connection, whose pieces have these indices; `client_end`: bytes that the client sent."""
    return _Reading(client, client_range, client_end, server, server_range).run()


class _Reading:
    __slots__ = ("at", "client", "client_end", "heard", "last", "piece", "replies", "server", "text")

    def __init__(
        self, client: Pieces, client_range: range, client_end: int, server: Pieces, server_range: range
    ) -> None:
        self.client, self.server = client, server
        self.piece, self.last = client_range.start, client_range.stop  # of the client, from which it is read on
        self.client_end = client_end
        self.heard = server_range.start  # piece of the server
        self.text = b"".join(map(server.data, server_range))
        self.at = 0  # in the text
        self.replies: list[Answer] = []

    def run(self) -> Plain:
        client, client_end, replies = self.client, self.client_end, self.replies
        starts, ends = client.start, client.end
        greeting = self.reply(0)
        if greeting is None:
            raise Odd
        tokens: list[str | int | None] = [replies[0].code]
        commands: list[Said] = []
        bodies: list[Body] = []
        hellos: list[_Hello] = []
        hello_reply: Answer | None = None
        tls_start: tuple[int, int] | None = None
        pos = base = 0
        data = b""
        while pos < client_end:
            begin = pos - base
            if begin >= len(data):
                self.seek(pos)
                data, base = client.data(self.piece), starts[self.piece]
                begin = pos - base
            first = i = self.piece
            newline = data.find(b"\n", begin)
            while newline < 0:
                i += 1
                if i >= self.last or starts[i] != ends[i - 1] or len(data) - begin > LINE_BYTES:
                    raise Odd
                data += client.data(i)
                newline = data.find(b"\n", begin)
            self.piece = i
            line = data[begin:newline]
            end = base + newline + 1
            verb, argument, mailbox = _parse(line)
            commands.append(Said(verb, mailbox, pos, end, first, i))
            pos = end
            if verb == "BDAT":
                chunk = grammar.chunk(argument)
                if chunk is None:
                    raise Odd
                pos += chunk[0]
                if pos > client_end:
                    raise Odd
                bodies.append(Body(end, pos, None, chunk[0]))
                if chunk[1]:
                    verb, end = "BDAT LAST", pos
                data = b""
                base = pos
            tokens.append(verb)
            raw = self.reply(end)
            if raw is None:
                if pos < client_end or (bodies and verb == "BDAT LAST"):
                    raise Odd
                tokens.append(None)
                if verb in _HELLOS:
                    hellos.append((verb, argument, 0, b""))
                break
            code = replies[-1].code
            tokens.append(code)
            if verb in _HELLOS:
                hellos.append((verb, argument, code, raw))
                hello_reply = hello_reply or replies[-1]
            elif verb == "STARTTLS" and code < 400:
                if code >= 300 or pos > end:
                    raise Odd
                tls_start = pos, self.at
                break
            elif verb == "DATA" and code < 400:
                if code != 354:
                    raise Odd
                body = self.body(pos)
                bodies.append(body)
                tokens += (BODY, replies[-1].code)
                assert body.terminator_end is not None
                base = pos = body.terminator_end
                data = b""
        if self.at < len(self.text) and tls_start is None:
            raise Odd
        if len(commands) >= COMMANDS_LIMIT or len(self.text) >= TEXT_LIMIT:
            raise Odd
        shape, dialogue = _understood(tuple(tokens), greeting, hellos)
        return Plain(dialogue, shape, commands, replies, bodies, hello_reply, tls_start)

    def seek(self, pos: int) -> None:
        """Go to the client's piece that holds this byte, most often the next one."""
        i = self.piece + 1
        if i < self.last and self.client.start[i] == pos:
            self.piece = i
            return
        i = bisect_right(self.client.start, pos, self.piece, self.last) - 1
        if i < self.piece or self.client.end[i] <= pos:
            raise Odd
        self.piece = i

    def reply(self, end: int) -> bytes | None:
        """The next reply, None when there is none. The server must have received all before `end` when it sent it."""
        found = _REPLY.match(self.text, self.at)
        if found is None:
            if self.at < len(self.text):
                raise Odd
            return None
        server, at = self.server, self.at
        i = self.heard
        while server.end[i] <= at:
            i += 1
        self.heard = i
        if server.ack[i] < end:
            raise Odd
        self.at = found.end()
        raw = found[0]
        self.replies.append(Answer(int(raw[:3]), at, self.at, i))
        return raw

    def body(self, start: int) -> Body:
        """The mail that begins here, found by its final reply."""
        client = self.client
        told = self.at
        if self.reply(start) is None:
            raise Odd
        self.seek(start)
        if client.ack[self.piece] < told or self.replies[-1].code == 421:
            raise Odd  # it did not wait for the 354
        received = self.server.ack[self.replies[-1].piece]
        i = bisect_right(client.start, received - 1, self.piece, self.last) - 1
        if client.end[i] < received:
            raise Odd
        base = client.start[i]
        tail = client.data(i)[: received - base]
        while len(tail) < TAIL_BYTES and base > start:
            i -= 1
            if client.end[i] != base:
                raise Odd
            base = client.start[i]
            tail = client.data(i) + tail
        begin = max(start - base, 0)
        found = tail.find(TERMINATOR, begin)
        if found < 0 or tail.find(TERMINATOR, found + 3) >= 0:
            raise Odd
        if base <= start and tail.startswith(b".\r\n", begin):
            raise Odd  # an empty mail
        end = base + found
        self.seek(end + len(TERMINATOR) - 1)
        return Body(start, end, end + len(TERMINATOR), end + 2 - start)


def _parse(line: bytes) -> tuple[str, str, str | None]:
    """Verb, argument, mailbox of a command line (its CR included)."""
    said = _commands.get(line)
    if said is None:
        found = _RCPT.match(line)
        if found is not None:
            return "RCPT", "", found[1].decode("ascii")
        found = _MAIL.match(line)
        if found is not None:
            return "MAIL", "", found[1].decode("ascii")
    if said is None:
        if not line.endswith(b"\r"):
            raise Odd
        said = grammar.command(line[:-1])
        if said.verb not in _SIMPLE:
            raise Odd
        if said.verb == "MAIL":
            return "MAIL", "", grammar.path(said.argument)
        if said.verb == "RCPT":
            return "RCPT", "", grammar.path(said.argument) or ""
        _remember(_commands, line, said)
    return said.verb, said.argument, None


def _remember(memory: dict[K, V], key: K, value: V) -> V:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


def _understood(tokens: tuple[str | int | None, ...], greeting: bytes, hellos: list[_Hello]) -> tuple[Shape, Dialogue]:
    known = _shapes.get(tokens)
    if known is None:
        known = _remember(_shapes, tokens, _worked_out(tokens))
    shape, commands, replies = known
    key = (tokens, greeting, *hellos)
    dialogue = _dialogues.get(key)
    if dialogue is None:
        dialogue = Dialogue(greeting=_spoken(greeting), commands=commands, replies=replies)
        dialogue.phase, dialogue.awaited = shape.phase, shape.awaited
        if dialogue.phase == "connect" and replies[0].code < 300:
            dialogue.phase = "greeting"
        _introduce(dialogue, hellos)
        _remember(_dialogues, key, dialogue)
    return shape, dialogue


def _worked_out(tokens: tuple[str | int | None, ...]) -> tuple[Shape, list[Command], list[Reply]]:
    machine = Machine()
    commands: list[Command] = []
    replies: list[Reply] = []
    for asked, code in zip(("", *tokens[1::2]), tokens[0::2], strict=True):
        reply = Reply(code, (), 0, 0) if isinstance(code, int) else None
        if asked == BODY:
            machine.body(complete=True)
        elif asked in ("BDAT", "BDAT LAST"):
            commands.append(Command("BDAT", "", 0, 0, reply))
            machine.chunk(last=asked == "BDAT LAST", complete=True)
        elif isinstance(asked, str) and asked:
            commands.append(Command(asked, "", 0, 0, reply))
            machine.command(asked)
        if reply is not None:
            replies.append(reply)
            machine.reply(reply.code)
    return machine.result(), commands, replies


def _spoken(raw: bytes) -> Reply:
    lines = [grammar.reply_line(line) for line in raw.removesuffix(b"\r\n").split(b"\r\n")]
    texts = tuple(grammar.text(line.text) for line in lines if line is not None)
    return Reply(int(raw[:3]), texts, 0, 0)


def _introduce(dialogue: Dialogue, hellos: list[_Hello]) -> None:
    """See dialogue._Reading.introduce."""
    for i, (verb, argument, code, raw) in enumerate(hellos):
        accepted = 0 < code < 300
        if accepted or dialogue.helo is None or i == len(hellos) - 1:
            dialogue.helo = verb  # type: ignore[assignment]
            dialogue.client_name = argument or dialogue.client_name
        if accepted and verb != "HELO":
            dialogue.keywords = tuple(k for k in map(grammar.keyword, _spoken(raw).lines[1:]) if k)
