"""What the mail servers on both sides will have written into their logs, predicted from how the dialogue ended.

A prediction joins a capture to the log line that made somebody take it, and tells which of two time-outs ran out first.
Nothing is predicted for a dialogue that ended in order.

Wording: Postfix 3.7 client and server are as seen on recorded incidents and in its sources (smtp_proto.c, smtpd.c);
Exim 4.96 and sendmail 8.17 as in theirs (transports/smtp.c, smtp_in.c; usersmtp.c, collect.c, srvrsmtp.c). Identifiers,
relays and delays that surround these words in the log are left out.

Three things decide:

* what the client waits for (`Dialogue.awaited`, else the phase);
* what the server has received (its TCP acknowledgements), because it waits for what it has not;
* who ended it, and after how much silence: a close out of silence is a time-out, any other a lost connection.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from . import grammar
from .dialogue import Dialogue, Mail
from .states import BODY, CONNECT

Mta = Literal["postfix", "exim", "sendmail"]
Side = Literal["client", "server"]
ClosedBy = Literal["client-fin", "server-fin", "client-rst", "server-rst", "open"]

# No mailer's time-out is shorter (the shortest of RFC 5321 4.5.3.2 is 2 minutes), and no mailer pauses longer without
# waiting for something, except Postfix's pix workaround, which sleeps 10 s before ".CRLF" and then goes on.
TIMED_OUT_S = 10.0


# A mail whose end is not on the wire may have left the mailer all the same: it waits in the kernel's send buffer. Linux
# starts with 16 KB (tcp_wmem). Without SIZE= the sender's first window tells: ten segments (RFC 6928) of 1448 bytes. Who
# stops before that had no more to send. (Right for 13 of 15 recorded incidents; the buffer grows with the connection.)
_SEND_BUFFER_BYTES = 16384
_FIRST_WINDOW_BYTES = 14480


class Ending(NamedTuple):
    """How a connection ended, as TCP shows it."""

    closed_by: ClosedBy  # the first FIN or RST; "open": none seen
    silence_s: float | None  # from the last new byte of either side to that close; None: not known
    received_bytes: int | None  # of the client's stream, as the server acknowledged; None: not known
    client: str = "CLIENT"  # as the logs name them: mx.example.com[192.0.2.1]
    server: str = "SERVER"

    @property
    def after_silence(self) -> bool:
        return self.silence_s is None or self.silence_s >= TIMED_OUT_S


def predict(dialogue: Dialogue, ending: Ending, mta: Mta = "postfix") -> dict[Side, str]:
    """Side -> the words in the log of an `mta` on that side; empty for a dialogue that ended in order."""
    waiting = _client_waits_for(dialogue)
    if waiting is None:
        return {}
    words = _WORDS[mta](dialogue, ending, waiting)
    told = _closing_words(dialogue)
    said: dict[Side, str]
    if ending.closed_by.startswith("server"):
        client = words.client_told(told) if told else words.client_lost
        said = {"client": client, "server": words.server_timeout if told or ending.after_silence else ""}
    elif ending.closed_by == "open" or ending.after_silence:
        # A FIN waits behind data that does not arrive, so a black hole looks open, and each side runs into its own limit.
        unsent = ending.closed_by == "open" and dialogue.phase == "body"
        unreached = unsent or (ending.closed_by != "client-rst" and _holds_back(dialogue, ending.received_bytes))
        said = {"client": words.client_timeout, "server": words.server_timeout if unreached else words.server_lost}
    else:
        said = {"server": words.server_lost}  # the client left by itself: it knows why
    return {side: line for side, line in said.items() if line}


def _client_waits_for(dialogue: Dialogue) -> str | None:
    """A verb, CONNECT, BODY; "body" while a mail is being sent; None when the client waits for nothing."""
    if dialogue.phase == "tls":
        complete = dialogue.tls_session is not None and dialogue.tls_session.handshake_complete
        return None if complete else "tls"
    if dialogue.phase == "body":
        return BODY if _is_all_written(dialogue.mails[-1]) else "body"
    if dialogue.awaited == "QUIT":
        return None  # whatever happens to QUIT, nobody logs it
    return dialogue.awaited


def _is_all_written(mail: Mail) -> bool:
    """The mailer has probably handed the whole mail to its kernel, though its end was not seen."""
    if mail.declared_size is not None:
        return mail.declared_size - mail.seen_bytes <= _SEND_BUFFER_BYTES
    return 0 < mail.seen_bytes < _FIRST_WINDOW_BYTES


def _holds_back(dialogue: Dialogue, received: int | None) -> bool:
    """True when bytes that the client has sent did not arrive."""
    sent = [c.end for c in dialogue.commands] + [m.body_end or 0 for m in dialogue.mails]
    sent += [m.body_start + m.seen_bytes for m in dialogue.mails if m.body_start is not None and m.via != "bdat"]
    return received is not None and received < max(sent, default=0)


def _closing_words(dialogue: Dialogue) -> str:
    """The 421 that the server closed with."""
    last = dialogue.replies[-1] if dialogue.replies else None
    return f"{last.code} {' '.join(last.lines)}" if last is not None and last.code == 421 else ""


# ---------------------------------------------------------------- where the server stands


class _Heard(NamedTuple):
    """What the server has received last."""

    verb: str  # CONNECT, a verb, "DATA" while it reads a mail, BODY when it has read one
    mail_bytes: int | None = None  # of the mail, while it reads one


def _server_heard(dialogue: Dialogue, received: int | None) -> _Heard:
    mail = dialogue.mails[-1] if dialogue.mails else None
    if mail is not None and mail.via == "data" and mail.body_start is not None and mail.data is not None:
        heard = _heard_of_mail(mail, mail.body_start, received)
        if heard is not None:
            return heard
    verbs = [c.verb for c in dialogue.commands if received is None or c.end <= received]
    verbs = [verb for verb in verbs if verb != grammar.AUTH_RESPONSE]
    return _Heard(verbs[-1] if verbs else CONNECT)


def _heard_of_mail(mail: Mail, body_start: int, received: int | None) -> _Heard | None:
    answered = mail.data is not None and mail.data.reply is not None and mail.data.reply.code < 400
    if not answered:
        return None
    if received is None:
        return _Heard(BODY) if mail.complete else _Heard("DATA")
    if mail.terminator_end is not None and received >= mail.terminator_end:
        return _Heard(BODY)
    return _Heard("DATA", max(received - body_start, 0))


# ---------------------------------------------------------------- the words of each mailer


class _Words(NamedTuple):
    client_timeout: str
    client_lost: str
    server_timeout: str
    server_lost: str
    in_reply_to: str  # how the client names what the server's last words answer
    server: str

    def client_told(self, reply: str) -> str:
        return (
            f"host {self.server} said: {reply} (in reply to {self.in_reply_to})"
            if self.in_reply_to
            else self.client_lost
        )


_POSTFIX_WHILE = {
    CONNECT: "receiving the initial server greeting",
    "EHLO": "performing the EHLO handshake",
    "HELO": "performing the HELO handshake",
    "LHLO": "performing the LHLO handshake",
    "STARTTLS": "receiving the STARTTLS response",
    "AUTH": "performing the EHLO handshake",
    grammar.AUTH_RESPONSE: "performing the EHLO handshake",
    "MAIL": "sending MAIL FROM",
    "RCPT": "sending RCPT TO",
    "DATA": "sending DATA command",
    "body": "sending message body",
    BODY: "sending end of data -- message may be sent more than once",
    "BDAT": "sending message body",
    "RSET": "sending RSET probe",
}
_POSTFIX_COMMAND = {
    "MAIL": "MAIL FROM command",
    "RCPT": "RCPT TO command",
    "DATA": "DATA command",
    "body": "end of DATA command",
    BODY: "end of DATA command",
}


def _postfix(dialogue: Dialogue, ending: Ending, waiting: str) -> _Words:
    heard = _server_heard(dialogue, ending.received_bytes)
    after = "END-OF-MESSAGE" if heard.verb == BODY else heard.verb
    if heard.mail_bytes is not None:
        after += f" ({heard.mail_bytes} bytes)"
    if waiting == "tls":
        return _Words(
            client_timeout=f"SSL_connect error to {ending.server}: Connection timed out",
            client_lost=f"SSL_connect error to {ending.server}: lost connection",
            server_timeout=f"SSL_accept error from {ending.client}: Connection timed out",
            server_lost=f"SSL_accept error from {ending.client}: lost connection",
            in_reply_to="",
            server=ending.server,
        )
    doing = _POSTFIX_WHILE.get(waiting, "sending MAIL FROM")
    return _Words(
        client_timeout=f"conversation with {ending.server} timed out while {doing}",
        client_lost=f"lost connection with {ending.server} while {doing}",
        server_timeout=f"timeout after {after} from {ending.client}",
        server_lost=f"lost connection after {after} from {ending.client}",
        in_reply_to=_POSTFIX_COMMAND.get(waiting, ""),
        server=ending.server,
    )


_EXIM_AFTER = {
    CONNECT: "initial connection",
    "body": "sending data block",
    BODY: "end of data",
    "BDAT": "sending data block",
    grammar.AUTH_RESPONSE: "AUTH",
    "tls": "STARTTLS",
}


def _exim(dialogue: Dialogue, ending: Ending, waiting: str) -> _Words:
    after = _EXIM_AFTER.get(waiting, waiting)
    mail = dialogue.mails[-1] if dialogue.mails else None
    if waiting in ("body", BODY) and mail is not None and mail.seen_bytes:
        after += f" ({mail.seen_bytes} bytes written)"
    heard = _server_heard(dialogue, ending.received_bytes).verb
    sender = mail.mail_from if mail is not None and mail.mail_from is not None else ""
    return _Words(
        client_timeout=f"H={ending.server}: SMTP timeout after {after}: Connection timed out",
        client_lost=f"H={ending.server}: Remote host closed connection in response to {after}",
        server_timeout=(
            f"SMTP data timeout (message abandoned) on connection from {ending.client} F=<{sender}>"
            if heard == "DATA"
            else f"SMTP command timeout on connection from {ending.client}"
        ),
        server_lost=(
            f"SMTP connection from {ending.client} lost while reading message data"
            if heard == "DATA"
            else f"SMTP connection lost after final dot H={ending.client}"
            if heard == BODY
            else f"unexpected disconnection while reading SMTP command from {ending.client}"
        ),
        in_reply_to="",
        server=ending.server,
    )


_SENDMAIL_PHASE = {
    CONNECT: "client greeting",
    "DATA": "client DATA 354",
    BODY: "client DATA status",
    "tls": "client STARTTLS",
}


def _sendmail(dialogue: Dialogue, ending: Ending, waiting: str) -> _Words:
    phase = _SENDMAIL_PHASE.get(waiting, f"client {waiting}")
    heard = _server_heard(dialogue, ending.received_bytes).verb
    during = "message collect" if heard == "DATA" else "server cmd read"
    after = "startup" if heard == CONNECT else "data" if heard == BODY else heard.lower()
    return _Words(
        client_timeout=f"timeout waiting for input from {ending.server} during {phase}",
        client_lost=f"stat=Deferred: Connection reset by {ending.server}",
        server_timeout=f"timeout waiting for input from {ending.client} during {during}",
        server_lost=(
            "collect: premature EOM: unexpected close"
            if heard == "DATA"
            else f"lost input channel from {ending.client} to MTA after {after}"
        ),
        in_reply_to="",
        server=ending.server,
    )


_WORDS = {"postfix": _postfix, "exim": _exim, "sendmail": _sendmail}
