"""The words of SMTP: commands, replies, paths and parameters, each regex below the production that it implements.

Lines come here without their line ending and as bytes; what leaves is text. Practice is wider than the RFCs in a
few places, each marked "in practice". Nothing here knows about order: that is states.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# ---------------------------------------------------------------- commands

# RFC 5321 4.1.1:   ehlo = "EHLO" SP ( Domain / address-literal ) CRLF      (likewise HELO; RFC 2033: LHLO)
#                   mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
#                   rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP ...] CRLF
#                   data = "DATA" CRLF    rset = "RSET" CRLF    quit = "QUIT" CRLF
#                   vrfy = "VRFY" SP String CRLF   expn = "EXPN" SP String CRLF
#                   help = "HELP" [ SP String ] CRLF   noop = "NOOP" [ SP String ] CRLF
# RFC 5321 2.4:     verbs are not case sensitive.
# In practice servers accept blanks before the line's end, and a tab for the SP. (The blanks are taken off before: a
# pattern that looked for them would try each place in a line of blanks.)
_COMMAND = re.compile(rb"([A-Za-z][A-Za-z0-9-]*)(?:[ \t]+(.*))?\Z", re.DOTALL)

# The verbs that are kept by name. The name of any other verb is not kept: when the server's half of an AUTH exchange
# is missing, a password in base64 stands where a verb would.
VERBS = frozenset(
    # RFC 5321 and its predecessors (RFC 821: SEND, SOML, SAML, TURN)
    "EHLO HELO MAIL RCPT DATA RSET VRFY EXPN HELP NOOP QUIT SEND SOML SAML TURN".split()
    # RFC 2033 LMTP, RFC 3030 CHUNKING, RFC 3207 STARTTLS, RFC 4954 AUTH, RFC 1985 ETRN, RFC 2645 ATRN, RFC 4468 BURL
    + "LHLO BDAT STARTTLS AUTH ETRN ATRN BURL".split()
    # Postfix XCLIENT and XFORWARD, sendmail ONEX and VERB, Exchange
    + "XCLIENT XFORWARD ONEX VERB XEXCH50 X-EXPS X-ANONYMOUSTLS X-LINK2STATE".split()
)

UNKNOWN = "UNKNOWN"  # a line in a command's place whose verb is none of the above
AUTH_RESPONSE = "AUTH-RESPONSE"  # a client's line inside an AUTH exchange (RFC 4954 4)

# A command whose letters a firewall turned to X, see banner.py. Only the length of the run is kept.
_X_RUN = re.compile(rb"X{3,}\Z")

# Arguments are kept only where something is read out of them, and only in the form that the production demands:
# whatever else a client types may be a secret.
_ARGUMENT = {
    "EHLO": re.compile(rb"\S+\Z"),
    "HELO": re.compile(rb"\S+\Z"),
    "LHLO": re.compile(rb"\S+\Z"),
    "MAIL": re.compile(rb"FROM[ \t]*:.*\Z", re.IGNORECASE | re.DOTALL),
    "RCPT": re.compile(rb"TO[ \t]*:.*\Z", re.IGNORECASE | re.DOTALL),
    "BDAT": re.compile(rb"\d+(?:[ \t]+LAST)?\Z", re.IGNORECASE),
}

# RFC 4954 5: MAIL FROM:<..> AUTH=<identity> tells who submitted the mail: part of an AUTH exchange, so not kept.
_AUTH_PARAMETER = re.compile(r"(?i)( AUTH=)\S*")


class Command(NamedTuple):
    verb: str  # upper case; UNKNOWN, or a run of X
    argument: str  # empty where it is not kept


def command(line: bytes) -> Command:
    """A client's line in the place of a command."""
    found = _COMMAND.match(line.rstrip(b" \t"))
    if not found:
        return Command(UNKNOWN, "")
    verb = found[1].decode("ascii").upper()
    if verb not in VERBS:
        return Command(verb if _X_RUN.match(found[1]) else UNKNOWN, "")
    wanted = _ARGUMENT.get(verb)
    argument = found[2] or b""
    if wanted is None or not wanted.match(argument):
        return Command(verb, "")
    return Command(verb, _AUTH_PARAMETER.sub(r"\1...", text(argument)))


# The forms that no line of a mail, of an AUTH exchange or of another protocol has by accident.
_UNMISTAKABLE = re.compile(
    rb"(?i)(?:(?:EHLO|HELO|LHLO)[ \t]+[^\s:]+|MAIL[ \t]+FROM[ \t]*:.*|RCPT[ \t]+TO[ \t]*:.*|BDAT[ \t]+\d+(?:[ \t]+LAST)?"
    rb"|DATA|RSET|QUIT|NOOP|STARTTLS|AUTH[ \t]+[A-Z0-9_-]+(?:[ \t]+\S+)?)[ \t]*\Z",
    re.DOTALL,
)


def is_unmistakable(line: bytes) -> bool:
    """True for a line that is a command even where nothing is known about what came before it."""
    return _UNMISTAKABLE.match(line) is not None


def cut_off(line: bytes) -> Command | None:
    """A command whose end was not captured; None when not even its verb is certain."""
    if not re.match(rb"[A-Za-z][A-Za-z0-9-]*[ \t]", line):
        return None
    said = command(line)
    whole = said.verb in ("MAIL", "RCPT") and ">" in said.argument
    return said if whole else Command(said.verb, "")


# RFC 5321 4.1.2:   Reverse-path = Path / "<>"      Forward-path = Path      Path = "<" [ A-d-l ":" ] Mailbox ">"
#                   A-d-l = At-domain *( "," At-domain )        (source routes, obsolete: must be accepted, RFC 5321 C)
#                   Mailbox = Local-part "@" ( Domain / address-literal )      Local-part = Dot-string / Quoted-string
# In practice blanks follow the colon, the angle brackets are missing, and a quoted local part holds ">".
_PATH = re.compile(r'[^:]*:[ \t]*(?:<(?:@[^:<>]*:)?((?:"(?:[^"\\]|\\.)*"|[^>"])*)>|([^\s<>]+))')


def path(argument: str) -> str | None:
    """The mailbox of ``FROM:<a@b> ...`` or ``TO:<a@b> ...``; "" is the null sender ``<>``; None: cannot be told."""
    found = _PATH.match(argument)
    if not found:
        return None
    return found[1] if found[1] is not None else found[2]


# RFC 1870 6:       size-value ::= 1*20DIGIT        MAIL FROM:<a@b> SIZE=size-value
_SIZE = re.compile(r"(?i)\sSIZE=(\d{1,20})(?=\s|\Z)")


def declared_size(argument: str) -> int | None:
    """Bytes that the client announced with ``SIZE=``."""
    found = _SIZE.search(argument)
    return int(found[1]) if found else None


# RFC 3030 2:       bdat-cmd ::= "BDAT" SP chunk-size [ SP end-marker ] CR LF
#                   chunk-size ::= 1*DIGIT          end-marker ::= "LAST"
_CHUNK = re.compile(r"(?i)(\d{1,20})([ \t]+LAST)?\Z")  # 20 digits hold any 64-bit size


def chunk(argument: str) -> tuple[int, bool] | None:
    """(bytes, last) of a BDAT command, None when it is malformed."""
    found = _CHUNK.match(argument)
    return (int(found[1]), found[2] is not None) if found else None


# ---------------------------------------------------------------- replies

# RFC 5321 4.2:     Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
#                   Reply-code = %x32-35 %x30-35 %x30-39
# In practice the second digit goes beyond 5.
_REPLY = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\Z", re.DOTALL)


class ReplyLine(NamedTuple):
    code: int
    final: bool  # False: "250-", more lines follow
    text: bytes


def reply_line(line: bytes) -> ReplyLine | None:
    """A server's line, None when it is no reply at all."""
    found = _REPLY.match(line)
    if not found:
        return None
    return ReplyLine(int(found[1]), found[2] != b"-", found[3] or b"")


# RFC 2034 4, RFC 3463 2:   status-code ::= class "." subject "." detail      class = "2"/"4"/"5"
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|\Z)")


def status_only(line: str) -> str:
    """What may be kept of a reply inside an AUTH exchange: its enhanced status code."""
    found = _ENHANCED.match(line)
    return found[0] if found else ""


# RFC 5321 4.1.1.1: ehlo-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
# In practice "AUTH=LOGIN" stands for "AUTH LOGIN" (old Exchange clients).
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def keyword(line: str) -> str:
    """The keyword of one line of an EHLO reply, upper case; "" when the line holds none."""
    found = _KEYWORD.match(line)
    return found[0].upper() if found else ""


# RFC 5321 4.3.2, RFC 3030, RFC 3207 4, RFC 4954 4: the positive answers that a command may get. Used only to find the
# thread again after bytes that were not captured. 4xx and 5xx may answer anything.
_POSITIVE: dict[str, frozenset[int]] = {
    "CONNECT": frozenset({220}),
    "EHLO": frozenset({250}),
    "HELO": frozenset({250}),
    "LHLO": frozenset({250}),
    "STARTTLS": frozenset({220}),
    "AUTH": frozenset({235, 334}),
    AUTH_RESPONSE: frozenset({235, 334}),
    "MAIL": frozenset({250}),
    "RCPT": frozenset({250, 251, 252}),
    "DATA": frozenset({354}),
    "BODY": frozenset({250}),
    "BDAT": frozenset({250}),
    "RSET": frozenset({250}),
    "NOOP": frozenset({250}),
    "VRFY": frozenset({250, 251, 252}),
    "EXPN": frozenset({250, 252}),
    "HELP": frozenset({211, 214, 250}),
    "QUIT": frozenset({221}),
}


def may_answer(verb: str, code: int) -> bool:
    """True unless the reply `code` is one that a server never gives to `verb`."""
    return code >= 400 or code in _POSITIVE.get(verb, (code,))


def text(raw: bytes) -> str:
    """Text as it may be shown: UTF-8 (RFC 6531), other bytes as \\xNN. Control characters stay: reports escape them."""
    return raw.decode("utf-8", "backslashreplace")
