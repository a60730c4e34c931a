"""Two streams of bytes in, one dialogue out.

`read_dialogue` cuts the streams into lines and bodies and feeds them to `states.Machine`, in lockstep: after each
request its reply, as far as there is one. In complete streams the order of requests and replies says everything; where
bytes are missing, TCP's acknowledgements do (`StreamView.peer_at`):

    record.py     what a dialogue is: data
    lines.py      bytes -> lines            replies.py   lines -> replies
    states.py     the order of things       pairing.py   replies -> requests, also behind gaps
    body.py       where a mail ends         tls.py       what encryption lets through

A gap never ends the reading. What lies in it is "not seen": a reply None, an end None, a note. Memory and time are
linear in the captured bytes. Limits: `LINE_LIMIT`, `REPLY_LINES_LIMIT`, `COMMANDS_LIMIT`,
`REPLIES_LIMIT`, `TEXT_LIMIT`.

The content of mails is not kept, nor are AUTH exchanges, nor the arguments of commands that carry nothing needed here
(see grammar.py).

    client = server = ...                      # two StreamViews
    dialogue = read_dialogue(client, server, from_start=True)
    dialogue.greeting.lines                    # ('mx.example.com ESMTP',)
    [c.verb for c in dialogue.commands]        # ['EHLO', 'MAIL', 'RCPT', 'DATA', 'QUIT']
    dialogue.mails[0].size, dialogue.mails[0].outcome, dialogue.mails[0].reply.code    # (1024, 'delivered', 250)
"""

from __future__ import annotations

from . import grammar
from .body import Body, BodySearch, End
from .lines import LINE_LIMIT, Cursor, Line, StreamView
from .pairing import AUTH_VERBS, TEXT_LIMIT, Pairing
from .record import Command, Dialogue, Mail
from .replies import REPLY_LINES_LIMIT, Reply
from .states import BODY, CONNECT, Expect, Machine, MailShape
from .terminator import TERMINATOR
from .tls import read_session

# RFC 8446 5.1, RFC 5246 6.2.1: a record begins with its type (20 change cipher spec .. 23 application data) and 3.
_TLS_HANDSHAKE = (b"\x16\x03", b"\x16")  # the second one: a stream of one byte
_TLS_RECORD = (b"\x14\x03", b"\x15\x03", b"\x16\x03", b"\x17\x03")

_STARTTLS = ("STARTTLS", "X-ANONYMOUSTLS")

# So many bytes of one flight without any command are a mail: one full Ethernet segment. (With a small snap length
# there are no whole lines to go by.)
_SURELY_MAIL_BYTES = 1448


# The most commands of one dialogue: a few objects of 100 bytes each. Bulk mailers send some thousand mails in a connection,
# of four commands each.
COMMANDS_LIMIT = 100_000


def read_dialogue(client: StreamView, server: StreamView, *, from_start: bool) -> Dialogue:
    """Read the dialogue that two streams carry. from_start: both begin at the connection's first byte."""
    return _Reading(client, server, from_start).run()


class _Reading:
    """One run of `read_dialogue`: the client's side, step by step, and the server's replies in between."""

    def __init__(self, client: StreamView, server: StreamView, from_start: bool) -> None:
        self.client_view, self.server_view = client, server
        self.client = Cursor(client)
        self.machine = Machine(from_start=from_start)
        self.out = Dialogue()
        self.bodies: list[Body] = []
        self.pairing = Pairing(
            (client, server), self.client, self.machine, self.out, self.bodies, uncertain=not from_start
        )
        self.search = BodySearch(client, self.client, self.pairing.final)
        self.lost = not from_start  # the client's next bytes may be anything
        self.strange_from = 0  # where the bytes began that hold no command, and what the client had heard by then
        self.strange_heard: int | None = None
        self.text_bytes = 0  # of arguments

    def run(self) -> Dialogue:
        self.pairing.feed_due()
        while not self.is_full() and self.client_step():
            self.pairing.feed_due()
        if not self.is_full():
            self.pairing.feed_rest()
        if self.is_full():
            self.machine.leave_off()
            self.pass_over("more was said than is kept of one connection; what came behind that was not read")
        return self.finish()

    def is_full(self) -> bool:
        """More was said than a dialogue may hold."""
        return len(self.out.commands) >= COMMANDS_LIMIT or self.text_bytes >= TEXT_LIMIT or self.pairing.is_full

    # ------------------------------------------------------------ the client's side

    def client_step(self) -> bool:
        """One command, line or body; False when there is nothing more to read."""
        cursor, expect = self.client, self.machine.shape.expect
        if cursor.done or expect is Expect.TLS:
            return False
        if expect is Expect.BODY:
            return self.read_body()
        if cursor.at_gap:
            self.pairing.lose_requests(cursor.pos)
            self.lost = True
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
        in_clear = bool(commands or self.bodies or self.out.replies or self.pairing.ahead)
        replies = self.out.replies
        server_start = replies[-1].end if replies else self.server_view.start
        self.pairing.begin_tls("starttls" if in_clear else "implicit", self.client.pos, server_start)
        self.pairing.reader.foreign_lines = 0  # they were TLS
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
        if self.last_unanswered(AUTH_VERBS) and not grammar.is_unmistakable(line.text):
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
        self.text_bytes += len(said.argument)
        chunk = grammar.chunk(said.argument) if said.verb == "BDAT" else None
        if chunk is None:
            self.machine.command(said.verb)
            return
        size, last = chunk
        end = line.end + size
        sent_to = min(end, self.client.end)
        self.bodies.append(Body(line.end, end, None, line.end, sent_to, size))
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
            self.lost = False
            behind = terminator + len(TERMINATOR)
            cursor.move(behind)
            return self.take(Body(None, terminator, behind, start, terminator), End.SEEN)
        at = view.peer_at(start)
        unanswered = lines >= 2 and at is not None and at == view.peer_at(last)
        if at is None or at != self.strange_heard:
            self.strange_from, self.strange_heard = start, at
        if unanswered or end - self.strange_from > _SURELY_MAIL_BYTES:
            self.lost = False
            return self.take(*self.search.go_on(None, self.strange_from))
        return True  # part of a line, or of something else

    # ------------------------------------------------------------ mails

    def read_body(self) -> bool:
        """A mail from here to its end, gaps included."""
        pairing = self.pairing
        start: int | None = self.client.pos
        if pairing.hidden_body:
            pairing.hidden_body, start = False, pairing.body_from
            if start is not None and start > self.client.pos:
                self.client.move(start)
        self.lost = False
        return self.take(*self.search.find(start))

    def take(self, body: Body, end: End) -> bool:
        self.bodies.append(body)
        self.machine.body(complete=end is End.SEEN)
        if end is End.HIDDEN:  # and whatever came behind it in the gap
            self.machine.lose_requests()
            self.lost = self.pairing.uncertain = True
        return True

    # ------------------------------------------------------------ the whole

    def note(self, text: str) -> None:
        if text not in self.out.notes:
            self.out.notes.append(text)

    def pass_over(self, text: str) -> None:
        self.note(text)
        self.out.passed_over.append(text)

    def finish(self) -> Dialogue:
        out, shape = self.out, self.machine.result()
        out.phase, out.awaited = shape.phase, shape.awaited
        out.greeting = self.pairing.first_greeting if shape.greeting is None else out.replies[shape.greeting]
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
        for cursor, who in ((self.client, "client"), (self.pairing.reader.cursor, "server")):
            if cursor.too_long:
                self.pass_over(f"a line of the {who} longer than {LINE_LIMIT} bytes was cut off")
            if cursor.bare_lf:
                self.note(f"the {who} ends lines with a bare LF")
        if self.pairing.reader.cut_off:
            self.pass_over(f"a reply of more than {REPLY_LINES_LIMIT} lines was cut off")
        if self.pairing.reader.foreign_lines:
            self.note("the server sent lines that are no replies")
        if self.search.lenient:
            self.note("a mail ended by a line that only lenient servers take for the end")
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
