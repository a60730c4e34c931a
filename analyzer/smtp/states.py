"""The order of an SMTP dialogue: one machine, fed with tokens.

Theory of operation
-------------------
A dialogue is two queues. The client's side is a row of *requests*: the connection itself (its answer is the
greeting, RFC 5321 3.1), commands, lines of an AUTH exchange, mail bodies. The server answers them one by one, in
order, however many are under way (RFC 2920 3.2: pipelining). So a reply belongs to the oldest request that has no
reply yet. What breaks the rule is listed here, and nowhere else:

* a ``421`` may come at any time, unasked (RFC 5321 3.8);
* an LMTP server answers a body once per accepted recipient (RFC 2033 4.2);
* a server may answer a body before its end (it will not read the rest);
* bytes that were not captured hide requests or replies. Then the caller says so (`skip`, `lose_requests`,
  ``asked=False``), because only the caller knows where the bytes lie.

Replies change what the client's next bytes are (`Expect`): after ``354`` to DATA a body, after ``334`` to AUTH a
line that is no command, after ``220`` to STARTTLS no text at all. That is all the feedback there is; everything else
only moves forward through the phases:

    connect -> greeting -> ehlo -> [starttls -> tls] -> [auth] -> mail -> rcpt -> data -> body -> end-of-data -> quit
                                                          ^                                           |
                                                          +-------------------------------------------+

The machine sees no text and no offsets, only tokens: a verb, a reply code, "a body". It gives back numbers: command 3
was answered by reply 4. Whoever feeds it keeps the lines. So the same row of tokens always gives the same `Shape`,
wherever the lines came from, and a shape can be remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Literal, NamedTuple

from .grammar import AUTH_RESPONSE

Phase = Literal[
    "connect", "greeting", "ehlo", "starttls", "tls", "auth", "mail", "rcpt", "data", "body", "end-of-data", "quit"
]  # fmt: skip
EndedBy = Literal["reply", "refused", "rset", "quit", "ehlo", "mail", "421"]


class Expect(Enum):
    """What the client's next bytes are."""

    COMMAND = "a command line"
    AUTH = "a line of an AUTH exchange"
    BODY = "a mail, up to CR LF . CR LF"
    TLS = "TLS records"
    UNCLEAR = "a mail or a command: the answer to DATA was not seen"


class Mark(Enum):
    """What a request means for the mail under way."""

    NONE = 0
    OPEN = 1  # begins a mail
    RECIPIENT = 2
    CONTENT = 3  # DATA, BDAT
    CLOSE = 4  # gives up what has not been sent: RFC 5321 4.1.1.1 (EHLO, HELO), 4.1.1.5 (RSET), 4.1.1.10 (QUIT)


class Step(NamedTuple):
    """One row of the table: what a request does, and what a positive (2xx) or intermediate (3xx) reply to it does."""

    phase: Phase | None  # reached when the client sends it; None: stays
    answered: Phase | None = None  # reached with a 2xx
    mark: Mark = Mark.NONE
    expect: Expect = Expect.COMMAND  # of the client's next bytes, before the reply
    on_2xx: Expect | None = None
    on_3xx: Expect | None = None


CONNECT = "CONNECT"
BODY = "BODY"

STEPS: dict[str, Step] = {
    CONNECT: Step("connect", "greeting"),
    "EHLO": Step("ehlo", mark=Mark.CLOSE),
    "HELO": Step("ehlo", mark=Mark.CLOSE),
    "LHLO": Step("ehlo", mark=Mark.CLOSE),
    "STARTTLS": Step("starttls", "tls", on_2xx=Expect.TLS),
    "X-ANONYMOUSTLS": Step("starttls", "tls", on_2xx=Expect.TLS),
    "AUTH": Step("auth", on_3xx=Expect.AUTH),
    "X-EXPS": Step("auth", on_3xx=Expect.AUTH),
    AUTH_RESPONSE: Step("auth", on_3xx=Expect.AUTH),
    "MAIL": Step("mail", mark=Mark.OPEN),
    "SEND": Step("mail", mark=Mark.OPEN),
    "SOML": Step("mail", mark=Mark.OPEN),
    "SAML": Step("mail", mark=Mark.OPEN),
    "RCPT": Step("rcpt", mark=Mark.RECIPIENT),
    "DATA": Step("data", mark=Mark.CONTENT, expect=Expect.UNCLEAR, on_3xx=Expect.BODY),
    "RSET": Step(None, mark=Mark.CLOSE),
    "QUIT": Step("quit", mark=Mark.CLOSE),
}
_OTHER = Step(None)

_ENDED_BY: dict[str, EndedBy] = {"EHLO": "ehlo", "HELO": "ehlo", "LHLO": "ehlo", "RSET": "rset", "QUIT": "quit"}


@dataclass(slots=True)
class MailShape:
    """One mail as numbers of commands, bodies and replies (from 0)."""

    mail: int | None = None  # its MAIL command; None: not seen
    recipients: list[int] = field(default_factory=list)  # its RCPT commands
    content: list[int] = field(default_factory=list)  # its DATA command, or its BDAT commands
    bodies: list[int] = field(default_factory=list)  # its body, or its chunks
    complete: bool = False  # the end of the content was seen: the terminator, or all bytes of BDAT .. LAST
    via: Literal["data", "bdat"] = "data"
    replies: list[int] = field(default_factory=list)  # final replies: one, or one per recipient (LMTP)
    ended_by: EndedBy | None = None
    uncertain: bool = False  # requests were missed while it was under way: a RSET behind them tells nothing


@dataclass(slots=True)
class Shape:
    """What a row of tokens means."""

    answers: list[int | None] = field(default_factory=list)  # command -> reply; None: none seen
    greeting: int | None = None
    mails: list[MailShape] = field(default_factory=list)
    unasked: list[int] = field(default_factory=list)  # replies that answer nothing that was seen
    phase: Phase = "connect"
    awaited: str | None = None  # the oldest request without a reply
    expect: Expect = Expect.COMMAND
    lmtp: bool = False


class Request(NamedTuple):
    """Something that the server owes a reply to."""

    verb: str
    command: int | None  # None: the connection, or a body
    mail: MailShape | None


class Machine:
    """Feed it with `command`, `body`, `chunk` and `reply` in any order that keeps a reply behind what it answers."""

    def __init__(self, *, from_start: bool = True) -> None:
        self.shape = Shape()
        self._replies = 0
        self._closing: int | None = None  # a 421 that nothing had asked for
        self._bodies = 0
        self._pending: deque[Request] = deque()
        self._mail: MailShape | None = None  # under way: its content is not complete
        self._accepted = 0  # recipients of it that were accepted
        self._certain = from_start  # False: requests may have been missed
        if from_start:
            self._pending.append(Request(CONNECT, None, None))

    @property
    def oldest(self) -> Request | None:
        """The request that the next reply answers."""
        return self._pending[0] if self._pending else None

    @property
    def requests(self) -> Sequence[Request]:
        """All requests that have no reply yet, the oldest first."""
        return self._pending

    @property
    def owed(self) -> int:
        """How many replies the server owes."""
        return len(self._pending)

    def lose_requests(self) -> None:
        """Bytes of the client are missing here: it may have sent anything."""
        self._certain = False
        if self._mail is not None:
            self._mail.uncertain = True

    def skip(self) -> None:
        """The reply to the oldest request was not seen."""
        self._pending.popleft()

    def leave_off(self) -> None:
        """More was said than will be told: what is under way, or waits for a reply, has no end here and is left out."""
        open_ends = {id(request.mail) for request in self._pending} | {id(self._mail)}
        self.shape.mails = [mail for mail in self.shape.mails if id(mail) not in open_ends]
        self._pending.clear()
        self._mail = None

    # ------------------------------------------------------------ the client's side

    def command(self, verb: str) -> int:
        """The client sent a command, or a line of an AUTH exchange; returns its number."""
        shape = self.shape
        step = STEPS.get(verb, _OTHER)
        number = len(shape.answers)
        shape.answers.append(None)
        if step.phase:
            shape.phase = step.phase
        if step.mark is Mark.CLOSE and verb not in ("RSET", "QUIT"):
            shape.lmtp = verb == "LHLO"
        if step.mark is not Mark.NONE:
            self._mark(step.mark, verb, number)
        self._pending.append(Request(verb, number, self._mail))
        shape.expect = step.expect
        return number

    def _mark(self, mark: Mark, verb: str, number: int) -> None:
        if mark is Mark.OPEN:
            self._close("mail")
            self._open().mail = number
        elif mark is Mark.RECIPIENT:
            if self._mail is None and not self._certain:
                self._open()
            if self._mail is not None:
                self._mail.recipients.append(number)
        elif mark is Mark.CONTENT:
            if self._mail is not None:
                self._mail.content.append(number)
        else:
            self._close(_ENDED_BY[verb])

    def chunk(self, *, last: bool, complete: bool) -> int:
        """The client sent ``BDAT n`` and n bytes (RFC 3030); returns the number of the command.

        complete: all n bytes were seen.
        """
        shape = self.shape
        mail = self._mail or self._open()
        number = len(shape.answers)
        shape.answers.append(None)
        mail.via = "bdat"
        mail.content.append(number)
        mail.bodies.append(self._next_body())
        shape.phase = "body"
        shape.expect = Expect.COMMAND
        if not last:
            self._pending.append(Request("BDAT", number, mail))
            return number
        if complete:
            mail.complete = True
            shape.phase = "end-of-data"
        self._owe_final(mail, number)
        self._mail = None
        return number

    def body(self, *, complete: bool) -> int:
        """The client sent a mail after DATA; returns its number among the bodies. complete: its end was seen."""
        shape = self.shape
        mail = self._mail or self._open()
        mail.bodies.append(self._next_body())
        mail.complete = complete
        shape.phase = "end-of-data" if complete else "body"
        shape.expect = Expect.COMMAND
        self._owe_final(mail, None)
        self._mail = None
        return mail.bodies[-1]

    def _owe_final(self, mail: MailShape, command: int | None) -> None:
        self._pending.append(Request(BODY, command, mail))
        if self.shape.lmtp:
            self._pending.extend([Request(BODY, None, mail)] * (self._accepted - 1))

    def _next_body(self) -> int:
        self._bodies += 1
        return self._bodies - 1

    def _open(self) -> MailShape:
        self._mail = MailShape()
        self._accepted = 0
        self.shape.mails.append(self._mail)
        return self._mail

    def _close(self, by: EndedBy) -> None:
        mail = self._mail
        if mail is not None and mail.ended_by is None and not mail.uncertain:
            mail.ended_by = by
        self._mail = None

    # ------------------------------------------------------------ the server's side

    def reply(self, code: int, *, asked: bool = True) -> int:
        """The server replied; returns the reply's number. asked=False: it answers nothing that was seen."""
        number = self._replies
        self._replies += 1
        if not asked or not self._pending:
            self._unasked(code, number)
            return number
        request = self._pending.popleft()
        if request.command is not None:
            self.shape.answers[request.command] = number
        elif request.verb == CONNECT:
            self.shape.greeting = number
        self._advance(request, code)
        self._answer_mail(request, code, number)
        return number

    def _advance(self, request: Request, code: int) -> None:
        """Phase and expectation after a reply."""
        shape = self.shape
        step = STEPS.get(request.verb, _OTHER)
        if code < 300 and step.answered and shape.phase == step.phase:
            shape.phase = step.answered
        if self._pending:  # the client went on without waiting: what came next is settled
            return
        if code < 300 and step.on_2xx:
            shape.expect = step.on_2xx
        elif 300 <= code < 400 and step.on_3xx:
            shape.expect = step.on_3xx
        elif shape.expect is Expect.UNCLEAR:
            shape.expect = Expect.COMMAND
        if shape.expect is Expect.BODY:
            shape.phase = "body"
            mail = self._mail or self._open()
            if request.command is not None and not mail.content:
                mail.content.append(request.command)

    def _unasked(self, code: int, number: int) -> None:
        shape = self.shape
        shape.unasked.append(number)
        if code == 421:
            self._closing = number
        elif self._certain:
            pass  # an oddity of the server
        elif code == 354:
            if self._mail is None:
                self._open()
            shape.expect, shape.phase = Expect.BODY, "body"
        elif code == 334:
            shape.expect, shape.phase = Expect.AUTH, "auth"

    def _answer_mail(self, request: Request, code: int, number: int) -> None:
        mail = request.mail
        if mail is None:
            return
        if request.verb == BODY:
            mail.replies.append(number)
            mail.ended_by = "421" if code == 421 else "reply"
            if self.shape.phase == "body":
                self.shape.phase = "end-of-data"
        elif request.verb == "RCPT":
            if code < 300 and mail is self._mail:
                self._accepted += 1
        elif code >= 400 and request.verb in ("MAIL", "DATA", "BDAT", "SEND", "SOML", "SAML"):
            if code == 503 and self._is_nested(mail):
                self.shape.mails.remove(mail)
                self._mail = self.shape.mails[-1]
                self._mail.ended_by = None
                return
            mail.replies.append(number)
            mail.ended_by = mail.ended_by or "refused"

    def _is_nested(self, mail: MailShape) -> bool:
        """A MAIL inside a transaction, which the server refuses and ignores (RFC 5321 4.1.4)."""
        mails = self.shape.mails
        bare = not (mail.recipients or mail.content or mail.bodies)
        return bare and mail is self._mail and len(mails) > 1 and mails[-2].ended_by == "mail"

    # ------------------------------------------------------------ the whole

    def result(self) -> Shape:
        """What the tokens mean, after the last of them."""
        if self._closing is not None:  # RFC 5321 3.8: the server closed, and with it what was under way
            for mail in self.shape.mails:
                if mail.ended_by is None and not mail.replies:
                    mail.replies.append(self._closing)
                    mail.ended_by = "421"
        if self._pending:
            self._hang(self._pending[0])
        return self.shape

    def _hang(self, request: Request) -> None:
        """The dialogue came as far as its oldest request without a reply, whatever was sent behind that."""
        shape = self.shape
        mail = request.mail
        if request.verb == BODY and mail is not None and not mail.complete:
            shape.phase = "body"  # its end was not seen: no reply is owed
            return
        shape.awaited = request.verb
        phase = "end-of-data" if request.verb == BODY else STEPS.get(request.verb, _OTHER).phase
        shape.phase = phase or shape.phase


# ---------------------------------------------------------------- rows of tokens

MAIL, CUT_MAIL = "(mail)", "(mail...)"  # a body with its end, without
CHUNK, LAST_CHUNK, CUT_CHUNK = "(chunk)", "(last chunk)", "(last chunk...)"  # BDAT with its bytes

Token = str | int  # a verb or one of the above from the client, a reply code from the server


@lru_cache(maxsize=4096)  # real traffic knows some hundred rows: mailers say the same words again and again
def follow(tokens: tuple[Token, ...], *, from_start: bool = True) -> Shape:
    """The shape of a whole dialogue, remembered by its tokens. To be read only.

    A reply stands anywhere behind what it answers, but before what the client sent because of it.

    >>> follow((220, "EHLO", 250, "MAIL", "RCPT", "DATA", 250, 250, 354, "(mail)", "QUIT", 250, 221)).answers
    [1, 2, 3, 4, 6]
    """
    machine = Machine(from_start=from_start)
    for token in tokens:
        if isinstance(token, int):
            machine.reply(token)
        elif token in (MAIL, CUT_MAIL):
            machine.body(complete=token == MAIL)
        elif token in (CHUNK, LAST_CHUNK, CUT_CHUNK):
            machine.chunk(last=token != CHUNK, complete=token != CUT_CHUNK)
        else:
            machine.command(token)
    return machine.result()
