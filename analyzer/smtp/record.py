"""What a dialogue is: data only. Offsets are bytes of one side's stream, never packets; None = not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .replies import Reply
from .states import EndedBy, Phase
from .tls import TlsSession

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
    in_tls: bool = False  # read with the keys of its TLS session: the offsets are those of its records
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


# Commands whose refusal tells something of the server; runs of X tell of a firewall (banner.masked_commands).
_JUDGED = ("EHLO", "STARTTLS")


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
    passed_over: list[str] = field(default_factory=list)  # what was captured and not read: a few fixed sentences

    def abridge(self) -> None:
        """Let go of what is asked for only while the packets are at hand. What stays: names, greeting, keywords, how far
        it came, the last reply, and the commands by which servers and firewalls are judged."""
        self.commands = [c for c in self.commands if c.verb in _JUDGED or not c.verb.strip("X")]
        self.replies, self.unasked, self.mails = self.replies[-1:], [], self.mails[:1]

    @property
    def is_smtp(self) -> bool:
        """A client that says EHLO or HELO, or sends a mail. (A 220 alone also greets in FTP.)"""
        return self.helo is not None or bool(self.mails)
