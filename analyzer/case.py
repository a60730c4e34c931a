"""What a case is: data only. The JSON document (schema smtpscope/1) is this, field by field.

Times are nanoseconds since 1970-01-01 UTC (`_ns`), durations seconds (`_s`), sizes bytes. None = the capture cannot tell.
Ids are integers from 1 in the order of the first packet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from .capture.packets import CaptureInfo, IcmpError

ClosedBy = Literal["client-fin", "server-fin", "client-rst", "server-rst", "open"]
Tls = Literal["none", "starttls", "implicit"]
Vantage = Literal["client-side", "server-side", "middle", "unknown"]
Via = Literal["data", "bdat", "tls"]
Outcome = Literal["delivered", "rejected", "deferred", "end-of-data-timeout", "lost-connection", "aborted", "unknown"]
Verdict = Literal["black-hole", "icmp-ignored", "recovered", "pmtud-working", "outage", "lossy", "no-fault", "unknown"]
Role = Literal["cause", "symptom", "observation"]
Severity = Literal["info", "low", "medium", "high", "critical"]
Confidence = Literal["possible", "likely", "certain"]
Scope = Literal["message", "connection", "server", "path", "host"]

SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
CONFIDENCES: tuple[Confidence, ...] = ("possible", "likely", "certain")


class Frame(NamedTuple):
    """A frame as Wireshark numbers it: capture from 1, frame from 1."""

    capture: int
    frame: int


class Endpoint(NamedTuple):
    ip: str
    port: int


@dataclass(slots=True)
class Connection:
    """One TCP connection that carried SMTP, or that a finding names."""

    id: int
    client: Endpoint
    server: Endpoint
    start_ns: int
    end_ns: int
    frame_count: int
    handshake_seen: bool
    closed_by: ClosedBy
    tls: Tls
    banner: str | None  # text of the greeting after its codes, control characters kept: reports escape
    vantage: Vantage
    first_frame: Frame
    is_smtp: bool = True
    client_name: str | None = None  # argument of EHLO/HELO
    phase: str | None = (
        None  # how far the dialogue came: connect, greeting, ehlo, starttls, tls, auth, mail, rcpt, data, body, end-of-data, quit
    )
    ehlo_keywords: tuple[str, ...] = ()
    client_mss: int | None = None
    server_mss: int | None = None
    rtt_s: float | None = None  # handshake round trip as seen at the capture point
    client_bytes: int = 0  # distinct payload bytes seen from the client
    server_bytes: int = 0
    expected_log: dict[str, str] = field(default_factory=dict)  # side -> what that MTA will have logged (predicted)


@dataclass(slots=True)
class Terminator:
    """The CR LF . CR LF that ends a mail (RFC 5321 4.1.1.4), as it was cut into TCP segments."""

    pieces: tuple[int, ...]  # bytes of CRLF.CRLF in each segment, e.g. (3, 2)
    cut_at: tuple[int, ...]  # subset of 1..4: bytes before each cut
    inferred: bool  # a cut falls inside an offloaded frame: the wire cuts at multiples of the MSS, not seen
    frames: tuple[Frame, ...]


@dataclass(slots=True)
class Message:
    id: int
    connection: int
    index: int  # from 1, within its connection
    mail_from: str | None
    recipients: tuple[str, ...]
    size: int | None  # bytes of the mail on the wire, without the terminator; estimated under TLS
    via: Via
    terminator: Terminator | None
    reply_code: int | None
    outcome: Outcome
    size_estimated: bool = False
    start_ns: int | None = None  # MAIL FROM
    end_ns: int | None = None  # final reply, or the last sign of it
    reply_delay_s: float | None = None  # end of data to final reply
    largest_packet_bytes: int | None = None  # largest IP packet on the wire that this mail needed


class SizeFate(NamedTuple):
    """How IP packets of one size fared on a path (for the size-against-fate plot)."""

    ip_bytes: int
    delivered: int
    lost: int
    unknown: int


@dataclass(slots=True)
class Path:
    """One direction of data between two hosts."""

    id: int
    sender: str
    receiver: str
    verdict: Verdict
    mtu_at_least: int | None  # the path MTU lies in [mtu_at_least, mtu_below)
    mtu_below: int | None
    icmp_mtu: int | None
    links: tuple[str, ...]
    connections: tuple[int, ...]
    messages_stuck: int
    sizes: tuple[SizeFate, ...] = ()
    icmp_frames: tuple[Frame, ...] = ()
    vantage: Vantage = "unknown"


@dataclass(slots=True)
class Evidence:
    connection: int | None
    frames: tuple[Frame, ...]
    display_filter: str  # Wireshark display filter that shows these frames
    note: str


class Rival(NamedTuple):
    hypothesis: str
    why_not: str


@dataclass(slots=True)
class Remedy:
    who: Literal["client-admin", "server-admin", "network", "firewall"]
    host: str | None
    what: str
    commands: tuple[str, ...]
    check: str


@dataclass(slots=True)
class Finding:
    id: int
    rule: str
    title: str
    role: Role
    explained_by: int | None
    severity: Severity
    confidence: Confidence
    scope: Scope
    sender: str | None  # of the data, not of the mail
    receiver: str | None
    connections: tuple[int, ...]
    messages: tuple[int, ...]
    paths: tuple[int, ...]
    evidence: tuple[Evidence, ...]
    facts: dict[str, Any]  # JSON values only
    explanation: str
    against: tuple[str, ...]
    rivals: tuple[Rival, ...]
    remedies: tuple[Remedy, ...]
    fingerprint: str


class WhatIf(NamedTuple):
    """A remedy for a path whose large packets die, and which of the stuck mails it would have let through."""

    path: int
    remedy: Literal["mss-clamp", "route-mtu", "mtu-probing", "df-off"]
    mtu: int | None  # largest packet that would be sent then
    mss: int | None  # what is announced or used then
    helps: Literal["yes", "perhaps", "no"]  # perhaps: the path MTU is not known well enough, or it depends on others
    through: tuple[int, ...]  # mails that surely would have passed
    perhaps: tuple[int, ...]
    not_through: tuple[int, ...]
    extra_packets: int | None  # for all these mails together
    delay_s: float | None  # that the remedy costs each connection
    why: str


@dataclass(slots=True)
class LogLine:
    """A line of a mailer's log (`--maillog`): joined to a connection, or a delivery that the capture does not hold."""

    file: str
    line: int  # from 1
    time_ns: int  # as written: whole seconds in most logs
    mta: str  # postfix, exim, sendmail, microsoft
    side: Literal["client", "server"] | None  # which side of the connection wrote it
    said: str  # connect, disconnect, received, sent, deferred, bounced, timeout, lost, info
    queue_id: str | None
    text: str  # what stands behind time, host and program; control characters kept: reports escape
    connection: int | None
    message: int | None


Row = TypeVar("Row", Connection, Message, Path)


def numbered(rows: Sequence[Row], ids: Collection[int]) -> list[Row]:
    """The rows that have these ids, in the order of their ids: mostly each stands where its id says."""
    wanted = sorted(set(ids))
    found = [rows[i - 1] for i in wanted if 0 < i <= len(rows)]
    return found if [row.id for row in found] == wanted else [row for row in rows if row.id in ids]


@dataclass(slots=True)
class Case:
    """Everything that one analysis found out."""

    captures: list[CaptureInfo] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    icmp: list[IcmpError] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)  # the verdict in plain words, most important first
    limits: list[str] = field(default_factory=list)  # what this capture cannot prove
    services: dict[int, int] = field(default_factory=dict)  # server port -> TCP packets that were not SMTP
    counts: dict[str, int] = field(default_factory=dict)  # tcp connections, frames not read, ... by name
    interrupted: bool = False
    what_if: list[WhatIf] = field(default_factory=list)  # remedies against the case's own sizes
    log: list[LogLine] = field(default_factory=list)  # of the mailers, where one was given
    log_notes: list[str] = field(default_factory=list)  # how log and packets agree, most important first

    @property
    def complete(self) -> bool:
        """False when a capture could not be read to its end (exit status 3) or the analysis was interrupted."""
        return not self.interrupted and all(c.complete for c in self.captures)
