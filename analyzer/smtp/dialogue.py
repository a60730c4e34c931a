"""Two streams of bytes in, one dialogue out.

`read_dialogue` cuts the streams into lines and bodies and feeds them to `states.Machine`, in lockstep: after each
request its reply, as far as there is one. In complete streams the order of requests and replies says everything. Where
bytes are missing, TCP's acknowledgements do (`StreamView.peer_at`), by two facts that no server and no client can get
around:

* a reply was sent after its command had arrived: the packet that first carried the reply acknowledges the command;
* what the client had acknowledged before it sent a command is no reply to that command.

A gap never ends the reading. What lies in it is "not seen": a reply None, an end None, a note. Memory and time are
linear in the captured bytes. Limits: `LINE_LIMIT`, `REPLY_LINES_LIMIT`.

The content of mails is not kept, nor are AUTH exchanges, nor the arguments of commands that carry nothing needed here
(see grammar.py).

    client = server = ...                      # two StreamViews
    dialogue = read_dialogue(client, server, from_start=True)
    dialogue.greeting.lines                    # ('mx.example.com ESMTP',)
    [c.verb for c in dialogue.commands]        # ['EHLO', 'MAIL', 'RCPT', 'DATA', 'QUIT']
    dialogue.mails[0].size, dialogue.mails[0].outcome, dialogue.mails[0].reply.code    # (1024, 'delivered', 250)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from . import grammar
from .states import BODY, CONNECT, EndedBy, Expect, Machine, MailShape, Phase
from .terminator import TERMINATOR

Tls = Literal["none", "starttls", "implicit"]
Outcome = Literal["delivered", "rejected", "deferred", "aborted"]

# The longest line that any RFC allows: 12288 octets inside an AUTH exchange (RFC 4954 4.3); commands and replies have
# 512 (RFC 5321 4.5.3.1.4, 4.5.3.1.5) and a few hundred more by extensions. What is longer is cut off, and noted.
LINE_LIMIT = 12288
# Servers send about 15 EHLO lines; nothing useful has a thousand.
REPLY_LINES_LIMIT = 1000


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


@dataclass(slots=True)
class Command:
    """One command, or one line of an AUTH exchange. Offsets [start, end) in the client's stream, line ending included."""

    verb: str  # upper case; grammar.UNKNOWN, grammar.AUTH_RESPONSE, or a run of X where a firewall masked it
    argument: str  # kept for EHLO, HELO, LHLO, MAIL, RCPT, BDAT only
    start: int
    end: int
    reply: Reply | None = None  # None: none seen


@dataclass(slots=True)
class Mail:
    """One mail transaction (RFC 5321 3.3). Offsets in the client's stream; None: not seen, or not yet sent."""

    mail_from: str | None  # "" is the null sender
    recipients: tuple[str, ...]  # accepted, or not yet answered
    refused_recipients: tuple[str, ...]
    start: int  # of MAIL, or of the first thing seen of it
    via: Literal["data", "bdat", "tls"] = "data"
    data: Command | None = None  # DATA, or the first BDAT
    body_start: int | None = None
    body_end: int | None = None  # of CR LF . CR LF; with BDAT: behind the last chunk
    terminator_end: int | None = None  # None: not seen, or BDAT
    size: int | None = None  # bytes on the wire as RFC 1870 5 counts (last CRLF yes, final dot no; stuffed dots too)
    size_estimated: bool = False
    declared_size: int | None = None  # MAIL ... SIZE=
    seen_bytes: int = 0  # of the body: how much of it is known to have been sent
    replies: tuple[Reply, ...] = ()  # the final one; one per recipient with LMTP; or the refusal of MAIL or DATA
    complete: bool = False  # the end of the content was seen
    ended_by: EndedBy | None = None  # None: nothing ended it as far as was seen
    refusals: tuple[Reply, ...] = ()  # of recipients

    @property
    def reply(self) -> Reply | None:
        """The reply that settled it; the last one where there are several (LMTP)."""
        return self.replies[-1] if self.replies else None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended by what was said; None: no final word was seen.

        delivered: the server took responsibility (for one recipient at least); aborted: the client gave it up
        by RSET, QUIT or EHLO before the end of the mail, without a refusal.
        """
        codes = [reply.code for reply in self.replies]
        if not codes and not self.recipients:
            codes = [reply.code for reply in self.refusals]
        if not codes:
            return "aborted" if self.ended_by in ("rset", "quit", "ehlo", "mail") and not self.complete else None
        if any(code < 400 for code in codes):
            return "delivered"
        return "deferred" if any(code < 500 for code in codes) else "rejected"


@dataclass(slots=True)
class Dialogue:
    greeting: Reply | None = None
    commands: list[Command] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    unasked: list[Reply] = field(default_factory=list)  # replies to nothing that was seen; a 421 among them: it closed
    tls: Tls = "none"
    tls_client_start: int | None = None
    tls_server_start: int | None = None
    client_name: str | None = None  # argument of the last EHLO, HELO or LHLO
    helo: Literal["EHLO", "HELO", "LHLO"] | None = None  # the last of them that was accepted, else the last one sent
    keywords: tuple[str, ...] = ()  # of the last EHLO reply, upper case, as they stand there (also X-runs)
    phase: Phase = "connect"  # how far it came
    awaited: str | None = None  # what the server owes a reply to: a verb, CONNECT (the greeting) or BODY (a mail)
    notes: list[str] = field(default_factory=list)  # oddities and limits, each once

    @property
    def is_smtp(self) -> bool:
        """A client that says EHLO or HELO, or sends a mail. (A 220 alone also greets in FTP.)"""
        return self.helo is not None or bool(self.mails)


def read_dialogue(client: StreamView, server: StreamView, *, from_start: bool) -> Dialogue:
    """Read the dialogue that two streams carry. from_start: both begin at the connection's first byte."""
    return _Reading(client, server, from_start).run()


# ---------------------------------------------------------------- bytes -> lines


class _Line(NamedTuple):
    start: int
    end: int  # behind its line ending
    text: bytes  # without it; at most LINE_LIMIT bytes
    whole: bool  # False: its line ending was not seen


class _Cursor:
    """A place in a stream that only moves forward."""

    def __init__(self, view: StreamView) -> None:
        self._pieces = list(_joined(view.pieces()))
        self._index = 0
        self.pos = self._pieces[0][0] if self._pieces else view.start
        last = self._pieces[-1] if self._pieces else (view.start, b"")
        self.end = max(view.end, last[0] + len(last[1]))
        self.too_long = False  # a line was cut off
        self.bare_lf = False  # a line ended without CR
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

    def cross(self) -> None:
        """Go over the gap."""
        self.pos = self.next_start

    def move(self, pos: int) -> None:
        self.pos = pos
        self._settle()

    def peek(self, count: int) -> bytes:
        if self.done or self.at_gap:
            return b""
        start, data = self._pieces[self._index]
        return data[self.pos - start : self.pos - start + count]

    def line(self) -> _Line | None:
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
        return _Line(self.pos, start + stop, data[begin:text_end], whole)

    def find(self, what: bytes, begin: int) -> int:
        """Offset of `what` at or behind `begin` within this piece, or -1."""
        start, data = self._pieces[self._index]
        found = data.find(what, max(begin - start, 0))
        return found + start if found >= 0 else -1


def _joined(pieces: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
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


# ---------------------------------------------------------------- lines -> dialogue


class _Body(NamedTuple):
    start: int
    end: int | None
    terminator_end: int | None
    sent_to: int  # offset up to which it is known to have been sent


class _Reading:
    """One run of `read_dialogue`."""

    def __init__(self, client: StreamView, server: StreamView, from_start: bool) -> None:
        self.client_view, self.server_view = client, server
        self.client, self.server = _Cursor(client), _Cursor(server)
        self.machine = Machine(from_start=from_start)
        self.out = Dialogue()
        self.bodies: list[_Body] = []
        self.ahead: deque[Reply] = deque()  # replies read but not yet fed

    def run(self) -> Dialogue:
        while True:
            self.feed_replies()
            if not self.client_step():
                break
        return self.finish()

    # ------------------------------------------------------------ the server's side

    def peek_reply(self) -> Reply | None:
        if not self.ahead:
            reply = self.read_reply()
            if reply:
                self.ahead.append(reply)
        return self.ahead[0] if self.ahead else None

    def read_reply(self) -> Reply | None:
        if self.out.tls_server_start is not None:
            return None
        cursor = self.server
        start, code = cursor.pos, 0
        lines: list[str] = []
        while (line := cursor.line()) and line.whole:
            parsed = grammar.reply_line(line.text)
            cursor.move(line.end)
            if parsed is None:
                self.note("the server sent a line that is no reply")
                continue
            if not code:
                start, code = line.start, parsed.code
            if len(lines) < REPLY_LINES_LIMIT:
                lines.append(grammar.text(parsed.text))
            else:
                self.note(f"a reply of more than {REPLY_LINES_LIMIT} lines was cut off")
            if parsed.final:
                return Reply(code, tuple(lines), start, line.end)
        return None

    def feed_replies(self) -> None:
        """All replies that belong to what the client has sent so far."""
        while (reply := self.peek_reply()) is not None:
            if self.machine.oldest is None:
                return
            self.ahead.popleft()
            self.feed(reply, asked=True)

    def feed(self, reply: Reply, *, asked: bool) -> None:
        request = self.machine.oldest
        if asked and request and request.verb in ("AUTH", "X-EXPS", grammar.AUTH_RESPONSE):
            reply.lines = tuple(grammar.status_only(line) for line in reply.lines)
        self.out.replies.append(reply)
        self.machine.reply(reply.code, asked=asked)
        if self.machine.shape.expect is Expect.TLS and self.out.tls == "none":
            self.begin_tls("starttls", self.client.pos, reply.end)

    # ------------------------------------------------------------ the client's side

    def client_step(self) -> bool:
        """One command, line or body; False when there is nothing more to read."""
        cursor, expect = self.client, self.machine.shape.expect
        if cursor.done or expect is Expect.TLS:
            return False
        if cursor.at_gap:
            cursor.cross()
        if not self.out.commands and cursor.pos == cursor.next_start and cursor.peek(2) in (b"\x16\x03", b"\x16"):
            self.begin_tls("implicit", cursor.pos, self.server.next_start)
            return False
        if expect is Expect.BODY or (expect is Expect.UNCLEAR and self.looks_like_a_mail()):
            self.read_body()
            return True
        line = cursor.line()
        if line is None or not line.whole:
            return False
        cursor.move(line.end)
        if expect is Expect.AUTH:
            self.add_command(line, grammar.Command(grammar.AUTH_RESPONSE, ""))
        else:
            self.add_command(line, grammar.command(line.text))
        return True

    def looks_like_a_mail(self) -> bool:
        line = self.client.line()
        return line is not None and not grammar.is_unmistakable(line.text)

    def add_command(self, line: _Line, said: grammar.Command) -> None:
        self.out.commands.append(Command(said.verb, said.argument, line.start, line.end))
        chunk = grammar.chunk(said.argument) if said.verb == "BDAT" else None
        if chunk is None:
            self.machine.command(said.verb)
            return
        size, last = chunk
        end = line.end + size
        sent_to = min(end, self.client.end)
        self.bodies.append(_Body(line.end, end, None, sent_to))
        self.client.move(sent_to)
        self.machine.chunk(last=last, complete=sent_to == end)

    def read_body(self) -> None:
        cursor = self.client
        start = cursor.pos
        if cursor.peek(3) == b".\r\n":
            self.end_body(start, start - 2, start + 3)
            return
        found = cursor.find(TERMINATOR, start)
        if found >= 0:
            self.end_body(start, found, found + len(TERMINATOR))
        else:
            cursor.move(cursor.end)
            self.bodies.append(_Body(start, None, None, cursor.end))
            self.machine.body(complete=False)

    def end_body(self, start: int, end: int, terminator_end: int) -> None:
        self.bodies.append(_Body(start, end, terminator_end, terminator_end))
        self.client.move(terminator_end)
        self.machine.body(complete=True)

    # ------------------------------------------------------------ the whole

    def begin_tls(self, tls: Tls, client_start: int, server_start: int) -> None:
        out = self.out
        out.tls, out.tls_client_start, out.tls_server_start = tls, client_start, server_start

    def note(self, text: str) -> None:
        if text not in self.out.notes:
            self.out.notes.append(text)

    def finish(self) -> Dialogue:
        while (reply := self.peek_reply()) is not None:
            self.ahead.popleft()
            self.feed(reply, asked=False)
        out, shape = self.out, self.machine.result()
        out.phase, out.awaited = shape.phase, shape.awaited
        if out.tls == "implicit":
            out.phase, out.awaited = "tls", None
        out.greeting = None if shape.greeting is None else out.replies[shape.greeting]
        out.unasked = [out.replies[number] for number in shape.unasked]
        for command, answer in zip(out.commands, shape.answers, strict=True):
            command.reply = None if answer is None else out.replies[answer]
        out.mails = [self.mail(m) for m in shape.mails]
        self.introduce()
        for cursor, who in ((self.client, "client"), (self.server, "server")):
            if cursor.too_long:
                self.note(f"a line of the {who} longer than {LINE_LIMIT} bytes was cut off")
            if cursor.bare_lf:
                self.note(f"the {who} ends lines with a bare LF")
        return out

    def introduce(self) -> None:
        """Who the client says it is, and what the server offers."""
        out = self.out
        hellos = [c for c in out.commands if c.verb in ("EHLO", "HELO", "LHLO")]
        for command in hellos:
            accepted = command.reply is not None and command.reply.code < 300
            if accepted or out.helo is None or command is hellos[-1]:
                out.helo = command.verb  # type: ignore[assignment]
                out.client_name = command.argument or out.client_name
            if accepted and command.reply and command.verb != "HELO":
                out.keywords = tuple(k for k in map(grammar.keyword, command.reply.lines[1:]) if k)

    def mail(self, shape: MailShape) -> Mail:
        out = self.out
        command = None if shape.mail is None else out.commands[shape.mail]
        accepted, refused, refusals = [], [], []
        for number in shape.recipients:
            rcpt = out.commands[number]
            mailbox = grammar.path(rcpt.argument) or ""
            if rcpt.reply is not None and rcpt.reply.code >= 400:
                refused.append(mailbox)
                refusals.append(rcpt.reply)
            else:
                accepted.append(mailbox)
        bodies = [self.bodies[number] for number in shape.bodies]
        data = out.commands[shape.content[0]] if shape.content else None
        first = command or (out.commands[shape.recipients[0]] if shape.recipients else data)
        mail = Mail(
            mail_from=grammar.path(command.argument) if command else None,
            recipients=tuple(accepted),
            refused_recipients=tuple(refused),
            start=first.start if first else bodies[0].start if bodies else 0,
            via=shape.via,
            data=data,
            declared_size=grammar.declared_size(command.argument) if command else None,
            replies=tuple(out.replies[number] for number in shape.replies),
            complete=shape.complete,
            ended_by=shape.ended_by,
            refusals=tuple(refusals),
        )
        if bodies:
            mail.body_start = bodies[0].start
            mail.seen_bytes = sum(body.sent_to - body.start for body in bodies)
        if bodies and shape.complete:
            mail.body_end, mail.terminator_end = bodies[-1].end, bodies[-1].terminator_end
            mail.size = mail.seen_bytes - (3 if shape.via == "data" else 0)  # . CR LF is not part of the mail
        return mail


__all__ = ["BODY", "CONNECT", "Command", "Dialogue", "Mail", "Reply", "StreamView", "read_dialogue"]
