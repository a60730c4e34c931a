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

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise, takewhile
from typing import Literal, NamedTuple

from . import grammar
from .lines import LINE_LIMIT, Cursor, Line, StreamView
from .replies import REPLY_LINES_LIMIT, Gap, Read, Reply, ReplyReader
from .states import BODY, CONNECT, EndedBy, Expect, Machine, MailShape, Phase, Request
from .terminator import TERMINATOR
from .tls import TlsSession, read_session

Tls = Literal["none", "starttls", "implicit"]
Outcome = Literal["delivered", "rejected", "deferred", "aborted"]


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
    answered_in_tls: bool | None = None  # the server sent something behind it, whatever it was

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
        if not self.recipients and self.refusals:
            # nobody is to get it: a server that takes the empty mail behind a pipelined DATA delivers nothing
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
    tls_session: TlsSession | None = None  # what its records tell; mails inside it are estimates (via "tls")
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


# ---------------------------------------------------------------- lines -> dialogue


class _Body(NamedTuple):
    start: int | None  # None: out of sight, before the capture began or in a gap
    end: int | None
    terminator_end: int | None
    seen_from: int
    sent_to: int  # offset up to which it is known to have been sent
    size: int | None = None


# RFC 8446 5.1, RFC 5246 6.2.1: a record begins with its type (20 change cipher spec .. 23 application data) and 3.
_TLS_HANDSHAKE = (b"\x16\x03", b"\x16")  # the second one: a stream of one byte
_TLS_RECORD = (b"\x14\x03", b"\x15\x03", b"\x16\x03", b"\x17\x03")

_STARTTLS = ("STARTTLS", "X-ANONYMOUSTLS")
# RFC 2920 3.1: these end a group of pipelined commands (of the others that do, nobody sends any).
_WAITED = ("EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "X-EXPS", grammar.AUTH_RESPONSE, "DATA")
_AUTH = ("AUTH", "X-EXPS", grammar.AUTH_RESPONSE)

# A lone dot on a line, as lenient servers take it for the end: LF . LF and LF . CR LF.
_LENIENT_TERMINATOR = re.compile(rb"\n\.\r?\n")

# So many bytes of one flight without any command are a mail: one full Ethernet segment. (With a small snap length
# there are no whole lines to go by.)
_SURELY_MAIL_BYTES = 1448

# Behind a gap so many alignments of replies to requests are tried; each costs as much again. Real groups of pipelined
# commands are MAIL, some RCPT, DATA.
_ALIGN_LIMIT = 32


class _Reading:
    """One run of `read_dialogue`."""

    def __init__(self, client: StreamView, server: StreamView, from_start: bool) -> None:
        self.client_view, self.server_view = client, server
        self.client = Cursor(client)
        self.replies = ReplyReader(server)
        self.machine = Machine(from_start=from_start)
        self.out = Dialogue()
        self.bodies: list[_Body] = []
        self.ahead: deque[Read] = deque()  # replies read but not yet fed
        self.replies_over = False
        self.lost = not from_start  # the client's next bytes may be anything
        self.uncertain = not from_start  # bytes of either side are missing up to here
        self.client_gap: int | None = None  # where the last gap among the client's commands began
        self.strange_from = 0  # where the bytes began that hold no command, and what the client had heard by then
        self.strange_heard: int | None = None
        self.hidden_body = False  # a 354 to a DATA that was not seen: its mail begins at `body_from`
        self.body_from: int | None = None
        self.first_greeting: Reply | None = None  # of a connection whose beginning was not seen

    def run(self) -> Dialogue:
        while True:
            self.feed_replies()
            if not self.client_step():
                return self.finish()

    # ------------------------------------------------------------ the server's side

    def peek_reply(self) -> Read | None:
        return self.ahead[0] if self.ahead or self.read_ahead() else None

    def read_ahead(self) -> bool:
        """Read one more reply; False when there is none."""
        if self.replies_over or self.out.tls_server_start is not None:
            return False
        read = self.replies.read()
        if read is None:
            self.replies_over = True
            return False
        self.ahead.append(read)
        return True

    def feed_replies(self) -> None:
        """All replies that belong to what the client has sent so far."""
        machine = self.machine
        while (read := self.peek_reply()) is not None:
            if read.gap is not None and not self.settle_gap(read.gap):
                return
            reply = self.ahead[0].reply
            request = machine.oldest
            if request is not None:
                self.feed(reply, asked=self.can_answer(reply, request))
            elif machine.shape.expect is not Expect.BODY and self.is_orphan(reply):
                self.feed(reply, asked=False)
            else:
                return

    def feed(self, reply: Reply, *, asked: bool) -> None:
        self.ahead.popleft()
        machine, out = self.machine, self.out
        request = machine.oldest if asked else None
        if (request and request.verb in _AUTH) or reply.code == 334:
            reply.lines = tuple(grammar.status_only(line) for line in reply.lines)
        out.replies.append(reply)
        machine.reply(reply.code, asked=asked)
        if request and machine.shape.expect is Expect.TLS:
            self.begin_tls("starttls", self.client.pos, reply.end)
        if not asked and machine.shape.expect is Expect.BODY and reply.code == 354:
            self.hidden_body, self.body_from = True, self.server_view.peer_at(reply.start)
        if not asked and len(out.replies) == 1 and not out.commands and reply.code in (220, 421, 554):
            self.first_greeting = reply

    def can_answer(self, reply: Reply, request: Request) -> bool:
        """False when it is certain that `reply` does not answer `request`, the oldest one."""
        received = self.server_view.peer_at(reply.start)
        end = self.end_of(request)
        if received is not None and end is not None and received < end:
            # A final reply may come before the end of a mail; a 421 then is the server's own word.
            return request.verb == BODY and reply.code != 421
        return not self.uncertain or grammar.may_answer(request.verb, reply.code)

    def is_orphan(self, reply: Reply) -> bool:
        """True when `reply` came before the client's next bytes: it answers nothing that was seen, nor will it."""
        client = self.client
        if client.done or client.at_gap:
            return False
        known = self.client_view.peer_at(client.pos)
        if known is not None and known >= reply.end:
            return True
        received = self.server_view.peer_at(reply.start)
        return received is not None and received <= client.pos

    def end_of(self, request: Request) -> int | None:
        """Offset behind the request in the client's stream; None: not seen, or the connection itself."""
        if request.verb == BODY and request.mail is not None:
            body = self.bodies[request.mail.bodies[-1]]
            return body.end if request.mail.via == "bdat" else body.terminator_end
        return None if request.command is None else self.out.commands[request.command].end

    # ------------------------------------------------------------ gaps in the server's stream

    def settle_gap(self, gap: Gap) -> bool:
        """Decide which requests were answered inside the gap; False: not before more of the client is read."""
        machine = self.machine
        self.uncertain = True
        oldest = machine.oldest
        received = self.server_view.peer_at(gap.end)
        end = self.end_of(oldest) if oldest else self.client.next_start
        if received is not None and end is not None and received < end:
            return self.gap_settled()  # it ends before the server had received the request
        if self.client.done:
            limit = None
        else:
            limit = self.client_view.peer_at(self.client.next_start)
            if limit is None or limit < gap.end:
                return False
        if oldest is not None:
            self.skip_before_lost_requests()
            count = self.count_replies(limit, machine.owed)
            for _ in range(self.answered_inside(gap, count)):
                machine.skip()
        return self.gap_settled()

    def gap_settled(self) -> bool:
        if self.ahead:
            self.ahead[0] = self.ahead[0]._replace(gap=None)
        return True

    def count_replies(self, limit: int | None, most: int) -> int:
        """How many replies, at `most`, the client had when it had acknowledged `limit` bytes (None: in the end)."""
        while len(self.ahead) < most and self.read_ahead():
            pass
        replies = (read.reply for read in islice(self.ahead, most))
        return sum(1 for reply in replies if limit is None or reply.end <= limit)

    def skip_before_lost_requests(self) -> None:
        """Behind a gap on both sides a reply may answer a request that was not seen either.

        Only what the server sent before it had received anything of the client's gap answers a request before it.
        """
        gap = self.client.pos if self.client.pos < self.client.next_start else self.client_gap
        if gap is None:
            return
        older = list(takewhile(lambda request: (self.end_of(request) or 0) <= gap, self.machine.requests))
        self.count_replies(None, len(older))
        replies = (self.server_view.peer_at(read.reply.start) for read in self.ahead)
        theirs = sum(1 for _ in takewhile(lambda received: received is not None and received <= gap, replies))
        for _ in range(len(older) - theirs):
            self.machine.skip()

    def answered_inside(self, gap: Gap, count: int) -> int:
        """How many of the oldest requests were answered inside the gap, when `count` replies behind it are left.

        Replies come in order, so the last `count` requests got them, unless a reply is one that its request never
        gets. A request that was sent when the client had seen the end of the gap was not answered inside.
        """
        requests = self.machine.requests
        least = self.surely_inside(requests) if self.ahead else 0
        most: int = 0
        for request in requests:
            end = self.end_of(request)
            seen = None if end is None else self.client_view.peer_at(end - 1)
            if seen is not None and seen >= gap.end:
                break
            most += 1
        most = max(least, most)
        likeliest = min(max(len(requests) - count, least), most)
        if len(requests) > _ALIGN_LIMIT:
            return likeliest
        codes = [read.reply.code for read in islice(self.ahead, min(count, len(requests)))]
        for skipped in chain(range(likeliest, least - 1, -1), range(likeliest + 1, most + 1)):
            pairs = zip(islice(requests, skipped, None), codes, strict=False)
            if all(grammar.may_answer(request.verb, code) for request, code in pairs):
                return skipped
        return likeliest

    def surely_inside(self, requests: Sequence[Request]) -> int:
        """How many of the oldest requests were answered before the next reply that was seen.

        A client goes on behind a request of `_WAITED` only when it has the answer: the answer lies within what it
        had acknowledged by then.
        """
        least = 0
        first_end = self.ahead[0].reply.end
        for number, (request, follower) in enumerate(pairwise(requests), start=1):
            if request.verb in _WAITED:
                known = self.client_view.peer_at(self.start_of(follower))
                if known is not None and known < first_end:
                    least = number
        return least

    def start_of(self, request: Request) -> int:
        """Offset of the request in the client's stream."""
        if request.command is not None:
            return self.out.commands[request.command].start
        return self.bodies[request.mail.bodies[0]].seen_from if request.mail else self.client_view.start

    # ------------------------------------------------------------ the client's side

    def client_step(self) -> bool:
        """One command, line or body; False when there is nothing more to read."""
        cursor, expect = self.client, self.machine.shape.expect
        if cursor.done or expect is Expect.TLS:
            return False
        if expect is Expect.BODY:
            return self.read_body()
        if cursor.at_gap:
            self.machine.lose_requests()
            self.lost = self.uncertain = True
            self.client_gap = cursor.pos
            cursor.cross()
            return True
        if self.tls_begins():
            return False
        if self.lost and not (expect is Expect.AUTH and self.has_heard_all()):
            return self.find_thread()
        self.lost = False
        if expect is Expect.UNCLEAR and self.looks_like_a_mail():
            return self.read_body()
        return self.read_command()

    def tls_begins(self) -> bool:
        """TLS without a STARTTLS and its reply before it; then everything behind is TLS."""
        head = self.client.peek(2)
        commands = self.out.commands
        asked = self.last_unanswered(_STARTTLS)
        first = not commands and not self.bodies
        if not (head in _TLS_RECORD if self.lost else head in _TLS_HANDSHAKE and (first or asked)):
            return False
        in_clear = bool(commands or self.bodies or self.out.replies or self.ahead)
        replies = self.out.replies
        server_start = replies[-1].end if replies else self.server_view.start
        self.begin_tls("starttls" if in_clear else "implicit", self.client.pos, server_start)
        self.replies.foreign_lines = 0  # they were TLS
        if not in_clear and self.lost:
            self.note("TLS began before the capture: whether by STARTTLS cannot be told")
        return True

    def has_heard_all(self) -> bool:
        """True unless the client's next bytes were sent before the last reply had arrived."""
        known = self.client_view.peer_at(self.client.pos)
        return known is None or not self.out.replies or known >= self.out.replies[-1].end

    def last_unanswered(self, verbs: tuple[str, ...]) -> bool:
        """True when the last command is one of `verbs` and no reply to it was seen."""
        commands, answers = self.out.commands, self.machine.shape.answers
        return bool(commands) and commands[-1].verb in verbs and answers[-1] is None

    def looks_like_a_mail(self) -> bool:
        line = self.client.line()
        return line is not None and not grammar.is_unmistakable(line.text)

    def read_command(self) -> bool:
        cursor = self.client
        line = cursor.line()
        if line is None or not (line.whole or cursor.followed):
            return False
        cursor.move(line.end)
        in_auth = self.machine.shape.expect is Expect.AUTH
        said = grammar.Command(grammar.AUTH_RESPONSE, "") if in_auth else grammar.command(line.text)
        if self.last_unanswered(_AUTH) and not grammar.is_unmistakable(line.text):
            said = grammar.Command(grammar.AUTH_RESPONSE, "")
        if not line.whole:
            cut = grammar.cut_off(line.text)
            if cut is None and not in_auth:
                return True  # the gap behind it takes it along
            said = cut or said
        self.add_command(line, said)
        return True

    def add_command(self, line: Line, said: grammar.Command) -> None:
        self.out.commands.append(Command(said.verb, said.argument, line.start, line.end))
        chunk = grammar.chunk(said.argument) if said.verb == "BDAT" else None
        if chunk is None:
            self.machine.command(said.verb)
            return
        size, last = chunk
        end = line.end + size
        sent_to = min(end, self.client.end)
        self.bodies.append(_Body(line.end, end, None, line.end, sent_to, size))
        self.client.move(sent_to)
        self.machine.chunk(last=last, complete=sent_to == end)

    # ------------------------------------------------------------ the thread, lost and found

    def find_thread(self) -> bool:
        """Behind a gap, or where the capture begins: go to the first command, or through a mail under way."""
        cursor, view = self.client, self.client_view
        start, end = cursor.pos, cursor.piece_end
        terminator = cursor.terminator()
        same_flight = (
            terminator is not None and (at := view.peer_at(start)) is not None and at == view.peer_at(terminator)
        )
        lines, last, bare_lf = 0, start, cursor.bare_lf
        while not cursor.done and cursor.pos < end and (line := cursor.line()) is not None:
            if terminator is not None and line.start > terminator:
                break
            certain = grammar.is_unmistakable(line.text) and (line.whole or (cursor.followed and b" " in line.text))
            if certain and not (same_flight and line.start > start):
                self.lost = False
                return True
            if line.whole:
                lines, last = lines + 1, line.start
            cursor.move(line.end)
        cursor.bare_lf = bare_lf  # those were no commands
        if terminator is not None:
            cursor.move(terminator)
            self.lost = False
            return self.end_body(_Body(None, terminator, terminator + len(TERMINATOR), start, terminator))
        at = view.peer_at(start)
        unanswered = lines >= 2 and at is not None and at == view.peer_at(last)
        if at is None or at != self.strange_heard:
            self.strange_from, self.strange_heard = start, at
        if unanswered or end - self.strange_from > _SURELY_MAIL_BYTES:
            self.lost = False
            return self.search_end(None, self.strange_from)
        return True  # part of a line, or of something else

    # ------------------------------------------------------------ mails

    def read_body(self) -> bool:
        """A mail from here to its end, gaps included."""
        cursor = self.client
        start: int | None = cursor.pos
        if self.hidden_body:
            self.hidden_body, start = False, self.body_from
            if start is not None and start > cursor.pos:
                cursor.move(start)
            if self.ended_before(cursor.pos, start if start is not None else 0):
                return self.end_unseen(start, cursor.pos)
        self.lost = False
        if not cursor.at_gap and start == cursor.pos and cursor.peek(3) == b".\r\n":
            return self.end_body(_Body(start, start - 2, start + 3, start, start + 3, 0))
        return self.search_end(start, cursor.pos)

    def search_end(self, start: int | None, seen_from: int) -> bool:
        cursor = self.client
        behind_gap = False
        while not cursor.done:
            if cursor.at_gap:
                gap_start = cursor.pos
                cursor.cross()
                behind_gap = True
                if self.ended_before(cursor.pos, gap_start):
                    return self.end_unseen(start, seen_from)
            found = self.end_in_piece(behind_gap)
            if found is not None:
                end, terminator_end, size_end = found
                size = None if start is None else size_end - start
                return self.end_body(_Body(start, end, terminator_end, seen_from, terminator_end, size))
            cursor.move(cursor.piece_end)
        self.bodies.append(_Body(start, None, None, seen_from, cursor.end))
        self.machine.body(complete=False)
        return True

    def final_reply(self) -> tuple[Reply, int | None] | None:
        """The reply that seems to end the mail, and how much the server had received when it sent it."""
        read = self.peek_reply()
        return (read.reply, self.server_view.peer_at(read.reply.start)) if read else None

    def ended_before(self, pos: int, gap_start: int) -> bool:
        """True when the mail's final reply came before the client sent the byte at `pos`, behind a gap."""
        final = self.final_reply()
        known = self.client_view.peer_at(pos)
        if final is None or known is None or known < final[0].end:
            return False
        reply, received = final
        if received is None:
            return reply.code < 400 and not self.machine.owed
        return received > gap_start  # else it came early, or answers an older request: the mail goes on

    def end_in_piece(self, behind_gap: bool) -> tuple[int, int, int] | None:
        """Where the mail ends in this piece: (start and end of the terminator, end of the last line)."""
        cursor = self.client
        pos = cursor.pos
        final = self.final_reply()
        bound = None  # the server had received so much when it answered
        if final is not None and final[0].code != 421 and final[1] is not None and final[1] > pos:
            bound = final[1]
        if behind_gap:
            rest = self.rest_of_terminator(bound)
            if rest:
                end = pos + rest
                return end - len(TERMINATOR), end, end - 3
        strict = cursor.terminator()
        strict_end = None if strict is None else strict + len(TERMINATOR)
        if strict_end is None or (bound is not None and strict_end > bound):
            lenient = self.lenient_end(bound, early=final is not None and final[0].code >= 400)
            if lenient is not None:
                self.note("a mail ended by a line that only lenient servers take for the end")
                return lenient
        return None if strict is None else (strict, strict + 5, strict + 2)

    def rest_of_terminator(self, bound: int | None) -> int:
        """Bytes of a terminator that began in the gap before this place; 0 when there is none."""
        cursor = self.client
        for length in (4, 3, 2, 1):
            if not TERMINATOR.endswith(cursor.peek(length)):
                continue
            if bound == cursor.pos + length:
                return length
            if length >= 3 and (cursor.pos + length == cursor.piece_end or self.command_at(length)):
                return length
        return 0

    def command_at(self, skip: int) -> bool:
        """True when a command stands `skip` bytes ahead."""
        line = self.client.peek(skip + LINE_LIMIT)[skip:].split(b"\n", 1)
        return len(line) == 2 and grammar.is_unmistakable(line[0].removesuffix(b"\r"))

    def lenient_end(self, bound: int | None, *, early: bool) -> tuple[int, int, int] | None:
        """An end without CR that the server's reply, or the client's own line endings, make likely."""
        if bound is None and not self.client.bare_lf:
            return None
        offset, data = self.client.data()
        begin = self.client.pos - offset
        stop = len(data) if bound is None else min(bound - offset, len(data))
        found = _LENIENT_TERMINATOR.search(data, max(begin - 1, 0), stop)
        if found is None or (early and found.end() + offset != bound):
            return None
        newline = found.start()
        first = newline - 1 if newline > begin and data[newline - 1] == 13 else newline
        return offset + first, offset + found.end(), offset + newline + 1

    def end_body(self, body: _Body) -> bool:
        self.bodies.append(body)
        assert body.terminator_end is not None
        self.client.move(body.terminator_end)
        self.machine.body(complete=True)
        return True

    def end_unseen(self, start: int | None, seen_from: int) -> bool:
        """The mail ended inside the gap before this place."""
        self.bodies.append(_Body(start, None, None, seen_from, max(seen_from, self.client.pos)))
        self.machine.body(complete=False)
        self.machine.lose_requests()
        self.lost = self.uncertain = True
        return True

    # ------------------------------------------------------------ the whole

    def begin_tls(self, tls: Tls, client_start: int, server_start: int) -> None:
        out = self.out
        out.tls, out.tls_client_start, out.tls_server_start = tls, client_start, server_start
        self.ahead.clear()  # what looked like replies behind a gap

    def note(self, text: str) -> None:
        if text not in self.out.notes:
            self.out.notes.append(text)

    def finish(self) -> Dialogue:
        while (read := self.peek_reply()) is not None:
            if read.gap is not None:
                self.settle_gap(read.gap)
                self.gap_settled()
            if self.ahead:
                request = self.machine.oldest
                reply = self.ahead[0].reply
                self.feed(reply, asked=request is not None and self.can_answer(reply, request))
        if self.replies.cursor.hidden_end:  # whatever is owed may have come there
            while self.machine.owed:
                self.machine.skip()
        out, shape = self.out, self.machine.result()
        out.phase, out.awaited = shape.phase, shape.awaited
        out.greeting = self.first_greeting if shape.greeting is None else out.replies[shape.greeting]
        if out.phase == "connect" and out.greeting is not None and out.greeting.code < 300:
            out.phase = "greeting"
        out.unasked = [out.replies[number] for number in shape.unasked]
        for command, answer in zip(out.commands, shape.answers, strict=True):
            command.reply = None if answer is None else out.replies[answer]
        out.mails = [self.mail(m) for m in shape.mails]
        if out.tls_client_start is not None and out.tls_server_start is not None:
            self.read_tls(out.tls_client_start, out.tls_server_start)
        self.introduce()
        self.tell_oddities()
        return out

    def read_tls(self, client_start: int, server_start: int) -> None:
        """Estimates from the records; the phase is "tls" unless a mail hangs in it."""
        out = self.out
        session = read_session(self.client_view, self.server_view, client_start, server_start)
        out.tls_session, out.phase, out.awaited = session, "tls", None
        for flight in session.mails:
            mail = Mail(None, (), (), flight.start, via="tls", size=flight.size, size_estimated=True)
            mail.body_start, mail.body_end = flight.start, flight.end
            mail.seen_bytes = min(flight.end, self.client.end) - flight.start
            mail.complete, mail.answered_in_tls = flight.whole, flight.answered
            out.mails.append(mail)
        if session.mails and session.mails[-1].answered is False:
            whole = session.mails[-1].whole
            out.phase, out.awaited = ("end-of-data", BODY) if whole else ("body", None)

    def tell_oddities(self) -> None:
        for cursor, who in ((self.client, "client"), (self.replies.cursor, "server")):
            if cursor.too_long:
                self.note(f"a line of the {who} longer than {LINE_LIMIT} bytes was cut off")
            if cursor.bare_lf:
                self.note(f"the {who} ends lines with a bare LF")
        if self.replies.cut_off:
            self.note(f"a reply of more than {REPLY_LINES_LIMIT} lines was cut off")
        if self.replies.foreign_lines:
            self.note("the server sent lines that are no replies")
        greeting, commands = self.out.greeting, self.out.commands
        if greeting and commands:
            known = self.client_view.peer_at(commands[0].start)
            if known is not None and known < greeting.end:
                self.note("the client spoke before the greeting")

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
            start=first.start if first else bodies[0].seen_from if bodies else self.client.pos,
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
            mail.seen_bytes = sum(body.sent_to - body.seen_from for body in bodies)
        if bodies and shape.complete:
            mail.body_end, mail.terminator_end = bodies[-1].end, bodies[-1].terminator_end
            sizes = [body.size for body in bodies]
            mail.size = None if None in sizes else sum(size for size in sizes if size is not None)
        return mail


__all__ = ["BODY", "CONNECT", "Command", "Dialogue", "Mail", "Reply", "StreamView", "read_dialogue"]
