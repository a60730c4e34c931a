"""What a line of a log says: which mailer, which side, which peer, which mail, and what became of it.

Wording of Postfix 3.7, Exim 4.96, sendmail 8.17 and of Microsoft's protocol logs, as seen in recorded runs and documented
by their authors. A line that says nothing about a connection or a mail gives nothing.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from .stamps import Line

Said = Literal["connect", "disconnect", "received", "sent", "deferred", "bounced", "timeout", "lost", "info"]
Side = Literal["client", "server"]


class Entry(NamedTuple):
    """One line, understood. None: it does not say."""

    line: Line
    mta: str
    side: Side | None  # which side of the SMTP connection wrote it
    said: Said
    queue_id: str | None = None
    peer: tuple[str, int | None] | None = None
    local: tuple[str, int | None] | None = None
    session: str | None = None  # lines of one connection
    recipient: str | None = None
    sender: str | None = None
    took_s: float | None = None  # connecting and sending, up to the time of the line
    remote_id: str | None = None  # queue id that the other side named in its answer


# In patterns that are searched for names are at most 255 characters long (RFC 1035 2.3.4): without an end, each place of a
# line at which one may begin would be followed to the end of the line.
_POSTFIX_PEER = r"\[([0-9a-fA-F.:]+)\](?::(\d+))?"
_QUEUE_ID = re.compile(
    r"([0-9A-F]{6,}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,20}): (.*)"
)  # short (hex) and long queue ids
_RELAY = re.compile(rf"relay=[^\s\[\],]{{0,255}}{_POSTFIX_PEER}")
_TO = re.compile(r"to=<([^>]*)>")
_FROM = re.compile(r"from=<([^>]*)>")
_DELAYS = re.compile(r"delays=([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+)")
_STATUS = re.compile(r"status=(\w+)")
_QUEUED = re.compile(r"queued as ([0-9A-Za-z]+)|OK id=(\S+?)[\s\"')]|2\.0\.0 ([0-9A-Za-z]{8,}) Message accepted")
_PEER = re.compile(_POSTFIX_PEER)

_EXIM_ID = r"([0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4})"
_EXIM = re.compile(rf"(?:\[\d+\] )?{_EXIM_ID} (.*)")
_EXIM_HOST = re.compile(r"H=(?:\S{1,255} )?(?:\(\S{0,255}\) )?\[([0-9a-fA-F.:]+)\](?::(\d+))?")
_EXIM_FROM = re.compile(r"from \S{0,255}(?: ?\(\S{0,255}\))? ?\[([0-9a-fA-F.:]+)\](?::(\d+))?")

_SENDMAIL_ID = re.compile(r"([0-9A-Za-z]{14,}): (.*)")
_SENDMAIL_RELAY = re.compile(r"relay=\S{0,255}?\.? ?\[([0-9a-fA-F.:]+)\]")
_XDELAY = re.compile(r"xdelay=(?:(\d+)\+)?(\d\d):(\d\d):(\d\d)")
_STAT = re.compile(r"stat=(.*)")


def understand(line: Line) -> Entry | None:
    if line.fields:
        return _microsoft(line)
    program = line.program.lower()
    if program.startswith("postfix"):
        return _postfix(line, program)
    if "sendmail" in program or program in ("sm-mta", "sm-msp-queue"):
        return _sendmail(line)
    if "exim" in program or not program:
        return _exim(line)
    return None


def _said(text: str) -> Said:
    if "timed out" in text or "timeout" in text:
        return "timeout"
    if "lost connection" in text or "lost input channel" in text or "Connection reset" in text:
        return "lost"
    return "info"


def _remote_id(text: str) -> str | None:
    found = _QUEUED.search(text)
    return next((g for g in found.groups() if g), None) if found else None


def _tried(entry: Entry, recipient: str, took_s: float | None, text: str) -> Entry:
    """What a client tried for one recipient, with what the server called the mail."""
    return entry._replace(recipient=recipient, took_s=took_s, remote_id=_remote_id(text))


def _port(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and len(text) < 6 else None


def _postfix(line: Line, program: str) -> Entry | None:
    part = program.rsplit("/", 1)[-1]
    match = _QUEUE_ID.match(line.text)
    queue_id, text = (match[1], match[2]) if match else (None, line.text)
    if part in ("smtp", "lmtp"):
        return _postfix_client(line, queue_id, text)
    if part == "smtpd":
        return _postfix_server(line, queue_id, text)
    if queue_id is None:
        return None
    sender = _FROM.match(text)
    status = _STATUS.search(text)
    said: Said = "sent" if status and status[1] == "sent" else "received" if sender else "info"
    recipient = _TO.match(text)
    return Entry(
        line,
        "postfix",
        None,
        said,
        queue_id,
        sender=sender[1] if sender else None,
        recipient=recipient[1] if recipient else None,
    )


def _postfix_client(line: Line, queue_id: str | None, text: str) -> Entry | None:
    recipient, relay, status, delays = _TO.match(text), _RELAY.search(text), _STATUS.search(text), _DELAYS.search(text)
    if recipient and status:
        said: Said = {"sent": "sent", "deferred": "deferred", "bounced": "bounced"}.get(status[1], "info")  # type: ignore[assignment]
        took = float(delays[3]) + float(delays[4]) if delays else None
        peer = (relay[1], _port(relay[2])) if relay else None
        return _tried(Entry(line, "postfix", "client", said, queue_id, peer), recipient[1], took, text)
    other = _PEER.search(text)
    return Entry(line, "postfix", "client", _said(text), queue_id, (other[1], _port(other[2])) if other else None)


def _postfix_server(line: Line, queue_id: str | None, text: str) -> Entry | None:
    peer = _PEER.search(text)
    if peer is None:
        return None
    said: Said = "info"
    if text.startswith("connect from "):
        said = "connect"
    elif text.startswith("disconnect from "):
        said = "disconnect"
    elif text.startswith("client="):
        said = "received"
    elif text.startswith(("timeout after", "lost connection after", "improper command pipelining", "SSL_accept error")):
        said = _said(text)
    session = f"{line.file} {line.host} {line.process}"
    return Entry(line, "postfix", "server", said, queue_id, (peer[1], _port(peer[2])), session=session)


def _exim(line: Line) -> Entry | None:
    match = _EXIM.match(line.text)
    if match:
        queue_id, text = match[1], match[2]
        host = _EXIM_HOST.search(text)
        peer = (host[1], _port(host[2])) if host else None
        flag, _, rest = text.partition(" ")
        if flag == "<=":
            return Entry(
                line, "exim", "server" if peer else None, "received", queue_id, peer, sender=rest.split(" ")[0]
            )
        said: Said | None = {"=>": "sent", "->": "sent", "==": "deferred", "**": "bounced"}.get(flag)  # type: ignore[assignment]
        if said is not None:
            return Entry(
                line, "exim", "client", said, queue_id, peer, recipient=rest.split(" ")[0], remote_id=_remote_id(text)
            )
        return Entry(line, "exim", "client" if peer else None, _said(text), queue_id, peer)
    other = _EXIM_FROM.search(line.text)
    if other and line.text.startswith(("SMTP", "unexpected", "no host name", "rejected", "H=")):
        said = (
            "connect" if line.text.startswith("SMTP connection from") and "lost" not in line.text else _said(line.text)
        )
        if "lost" in line.text or "unexpected disconnection" in line.text:
            said = "lost"
        return Entry(line, "exim", "server", said, peer=(other[1], _port(other[2])))
    return None


def _sendmail(line: Line) -> Entry | None:
    match = _SENDMAIL_ID.match(line.text)
    if not match:
        return None
    queue_id, text = match[1], match[2]
    relay, recipient, sender, stat = (
        _SENDMAIL_RELAY.search(text),
        _TO.match(text),
        _FROM.match(text),
        _STAT.search(text),
    )
    peer = (relay[1], None) if relay else None
    if sender:
        return Entry(line, "sendmail", "server" if peer else None, "received", queue_id, peer, sender=sender[1])
    if recipient and stat:
        said: Said = (
            "sent" if stat[1].startswith("Sent") else "deferred" if stat[1].startswith("Deferred") else "bounced"
        )
        delay = _XDELAY.search(text)
        took = None
        if delay:
            took = int(delay[1] or 0) * 86400 + int(delay[2]) * 3600 + int(delay[3]) * 60 + float(delay[4])
        return _tried(Entry(line, "sendmail", "client", said, queue_id, peer), recipient[1], took, text)
    return Entry(line, "sendmail", None, _said(text), queue_id, peer)


def _microsoft(line: Line) -> Entry | None:
    record = dict(line.fields)
    local, remote = _endpoint(record.get("local-endpoint")), _endpoint(record.get("remote-endpoint"))
    if remote is None and record.get("c-ip"):
        remote = (record["c-ip"], None)
        local = (record["s-ip"], _port(record.get("s-port"))) if record.get("s-ip") else None
    if remote is None:
        return None
    event = record.get("event", "")
    side: Side = "server" if local and (local[1] or 0) < 1024 <= (remote[1] or 65535) else "client"
    said: Said = {"+": "connect", "-": "disconnect"}.get(event, _said(record.get("data", "")))  # type: ignore[assignment]
    session = record.get("session-id")
    return Entry(line, "microsoft", side, said, None, remote, local, session and f"{line.file} {session}")


def _endpoint(text: str | None) -> tuple[str, int | None] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), _port(port)) if host else (text, None)
