"""Lines of a log and what the packets show, side by side.

The server's side of a connection is known by the client's address and port, where the log names the port, else by the
address and the second in which it connected. A delivery by the client's side is known by the server's address, the time in
which it must have begun, and its recipient. What fits twice is joined to nothing: a false join is worse than none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from ..case import Case, Connection, LogLine, Message
from .stamps import LINE_LIMIT, Line, read
from .words import Entry, understand

S = 1_000_000_000
# Clocks of one network, kept by NTP, agree within this; a log written by syslog is behind by less.
SLACK_NS = 1 * S
# A mailer writes the last line of a connection when its longest time-out has run out (RFC 5321 4.5.3.2.6: 10 minutes).
AFTERWARDS_NS = 660 * S
MOST_LINES = 50_000  # kept in a case: what is joined, and deliveries that are not
# Lines of mailers that are looked at: a busy day. Each takes about 1 KB; their texts at most so many bytes.
MOST_ENTRIES = 200_000
MOST_TEXT_BYTES = 64 << 20
MOST_NOTES = 20
REASON_CHARACTERS = 160


def join(case: Case, paths: Sequence[str], of: tzinfo | None = None) -> None:
    """Puts the log's lines into `case.log`, and what is to be said about them into `case.log_notes`."""
    first = min((c.first_ns for c in case.captures if c.first_ns is not None), default=None)
    last = max((c.last_ns for c in case.captures if c.last_ns is not None), default=None)
    entries, limit = _understood(paths, of, first)
    case.log_notes += limit
    if not entries:
        case.log_notes.append(
            f"No line of {' '.join(paths)} is a mailer's that is known (Postfix, Exim, sendmail, Microsoft)."
        )
        return
    if first is None or last is None:
        case.log_notes.append("The captures hold no packets, so that no line of the log can be joined.")
        return
    table = _Table(case)
    joined = _Joining(table, entries)
    joined.run()
    shown = sorted(joined.lines(first, last), key=lambda x: (x.time_ns, x.file, x.line))
    case.log += shown[:MOST_LINES]
    case.log_notes += _notes(case, joined, first, last)


def _understood(paths: Sequence[str], of: tzinfo | None, first: int | None) -> tuple[list[Entry], list[str]]:
    """The mailers' lines; and, where there are more than fit, the note that says so."""
    entries: list[Entry] = []
    text_bytes = 0
    for path in paths:
        for line in read(path, of, first):
            entry = understand(line)
            if entry is None:
                continue
            if len(entries) >= MOST_ENTRIES or text_bytes >= MOST_TEXT_BYTES:
                note = f"{path} was read to its line {line.number}: more lines than fit. Cut it to the time of the captures."
                return entries, [note]
            entries.append(entry)
            text_bytes += len(line.text)
    return entries, []


@dataclass
class _Table:
    """The case, to be asked by address and time."""

    case: Case
    by_client: dict[tuple[str, int], list[Connection]] = field(default_factory=lambda: defaultdict(list))
    by_client_ip: dict[str, list[Connection]] = field(default_factory=lambda: defaultdict(list))
    mails_of: dict[int, list[Message]] = field(default_factory=lambda: defaultdict(list))
    mails_to: dict[str, list[tuple[int, Message, Connection]]] = field(default_factory=lambda: defaultdict(list))
    to_server: dict[str, list[Connection]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        connections = {c.id: c for c in self.case.connections}
        for c in self.case.connections:
            self.by_client[c.client.ip, c.client.port].append(c)
            self.by_client_ip[c.client.ip].append(c)
            self.to_server[c.server.ip].append(c)
        for m in self.case.messages:
            c = connections[m.connection]
            self.mails_of[m.connection].append(m)
            self.mails_to[c.server.ip].append((m.start_ns or c.start_ns, m, c))
        for mails in self.mails_to.values():
            mails.sort(key=lambda x: (x[0], x[1].id))

    def mails_begun(self, server: str, from_ns: int, to_ns: int) -> list[tuple[int, Message, Connection]]:
        mails = self.mails_to.get(server, [])
        low = bisect_left(mails, from_ns, key=lambda x: x[0])
        return mails[low : bisect_right(mails, to_ns, key=lambda x: x[0])]


class _Queued(NamedTuple):
    time_ns: int
    connection: int
    message: int | None
    by_server: bool


@dataclass
class _Joining:
    table: _Table
    entries: list[Entry]
    connection_of: dict[int, int] = field(default_factory=dict)  # position of the entry -> id
    message_of: dict[int, int] = field(default_factory=dict)
    # (host, queue id) -> where that mail was seen: time of the line, connection, mail, and whether the server says so
    queue: dict[tuple[str, str], list[_Queued]] = field(default_factory=lambda: defaultdict(list))
    unjoined: list[int] = field(default_factory=list)  # deliveries over SMTP that no mail of the case is
    ambiguous: int = 0
    taken: dict[int, int] = field(default_factory=dict)  # mail -> the line by which the server's log has all of it

    def run(self) -> None:
        self._servers()
        self._clients()
        self._queues()

    # -- the server's side -------------------------------------------------------------------------------------------

    def _servers(self) -> None:
        for session in self._sessions():
            first = self.entries[session[0]]
            connection = self._connection(first)
            if connection is None:
                continue
            mails = [m for m in self.table.mails_of[connection.id] if m.recipients or m.via == "tls"]
            taken = 0
            for i in session:
                self.connection_of[i] = connection.id
                entry = self.entries[i]
                if entry.queue_id and entry.said == "received":
                    # Postfix opens a queue file for every mail that gets a recipient accepted, in the order of the dialogue
                    message = mails[taken].id if taken < len(mails) else None
                    taken += 1
                    if message is not None:
                        self.message_of[i] = message
                    queued = _Queued(entry.line.time_ns, connection.id, message, by_server=True)
                    self.queue[entry.line.host, entry.queue_id].append(queued)

    def _sessions(self) -> Iterator[list[int]]:
        """Lines that belong together: from a connect to the next one of the same process; or with one session id."""
        open_: dict[str, list[int]] = {}
        for i, entry in enumerate(self.entries):
            if entry.side != "server" and entry.mta != "microsoft":
                continue
            if entry.session is None:
                yield [i]
                continue
            if entry.said == "connect" and entry.session in open_:
                yield open_.pop(entry.session)
            open_.setdefault(entry.session, []).append(i)
            if entry.said == "disconnect":
                yield open_.pop(entry.session)
        yield from open_.values()

    def _connection(self, entry: Entry) -> Connection | None:
        assert entry.peer is not None
        (ip, port), line = entry.peer, entry.line
        if entry.side == "client" and entry.local is not None and entry.local[1]:
            (ip, port) = entry.local[0], entry.local[1]
        if port is not None:
            found = [c for c in self.table.by_client.get((ip, port), []) if _during(line, c)]
            return found[0] if len(found) == 1 else None
        if entry.said != "connect":
            return None
        begun = [c for c in self.table.by_client_ip.get(ip, []) if _at(line, c.start_ns)]
        if len(begun) > 1:
            self.ambiguous += 1
        return begun[0] if len(begun) == 1 else None

    # -- the client's side -------------------------------------------------------------------------------------------

    def _clients(self) -> None:
        for i, entry in enumerate(self.entries):
            if entry.side != "client" or entry.peer is None or entry.mta == "microsoft":
                continue
            best = self._mail(entry)
            if best is None:
                if entry.recipient is not None:
                    self.unjoined.append(i)
                continue
            message, connection = best
            self.connection_of[i], self.message_of[i] = connection.id, message.id
            if entry.queue_id:
                queued = _Queued(entry.line.time_ns, connection.id, message.id, by_server=False)
                self.queue[entry.line.host, entry.queue_id].append(queued)

    def _mail(self, entry: Entry) -> tuple[Message, Connection] | None:
        """The mail that this delivery is; None when there is none, or more than one fits equally well."""
        assert entry.peer is not None
        (ip, port), line = entry.peer, entry.line
        latest = line.time_ns + line.width_ns + SLACK_NS
        took_ns = round(entry.took_s * S) if entry.took_s is not None else AFTERWARDS_NS
        # Postfix gives two digits of each delay
        earliest = line.time_ns - took_ns - took_ns // 50 - SLACK_NS
        fits: list[tuple[bool, int, Message, Connection]] = []
        for begun, m, c in self.table.mails_begun(ip, earliest, latest):
            if port is not None and c.server.port != port:
                continue
            named = _names(entry.recipient, m)
            if named is False:
                continue
            # an attempt that took so long began then; without that, the later the nearer
            began = line.time_ns - took_ns if entry.took_s is not None else line.time_ns
            fits.append((not named, abs(begun - began), m, c))
        fits.sort(key=lambda f: f[:2])
        if not fits:
            return None
        same = [
            f for f in fits[1:] if f[0] == fits[0][0] and f[1] - fits[0][1] < line.width_ns and f[2] is not fits[0][2]
        ]
        if same:
            remote = [f for f in (fits[0], *same) if entry.remote_id and self._accepted_as(f[2].id) == entry.remote_id]
            if len(remote) != 1:
                self.ambiguous += 1
                return None
            return remote[0][2], remote[0][3]
        return fits[0][2], fits[0][3]

    def _accepted_as(self, message: int) -> str | None:
        """The queue id under which the server's log has this mail."""
        return next(
            (
                queue_id
                for (_, queue_id), all_ in self.queue.items()
                for q in all_
                if q.by_server and q.message == message
            ),
            None,
        )

    # -- by queue id -------------------------------------------------------------------------------------------------

    def _queues(self) -> None:
        """Other lines of the same queue id on the same host; an id may come again once it is removed."""
        for i, entry in enumerate(self.entries):
            if i in self.connection_of or not entry.queue_id or (entry.recipient and entry.side == "client"):
                continue
            known = self.queue.get((entry.line.host, entry.queue_id))
            if known:
                # what a sender writes before a delivery belongs to it, so to the next one that follows
                later = [q for q in known if q.by_server or q.time_ns >= entry.line.time_ns]
                queued = (later or known[-1:])[0]
                self.connection_of[i] = queued.connection
                if queued.message is not None:
                    self.message_of[i] = queued.message
                if queued.by_server and entry.said == "received" and queued.message is not None:
                    self.taken[queued.message] = i

    # -- what is kept ------------------------------------------------------------------------------------------------

    def lines(self, first: int, last: int) -> Iterator[LogLine]:
        """What is joined; and the deliveries of the captures' time that are not."""
        missing = {i for i in self.unjoined if self.within(i, first, last)}
        for i, entry in enumerate(self.entries):
            if i in self.connection_of or i in missing:
                yield LogLine(
                    file=entry.line.file,
                    line=entry.line.number,
                    time_ns=entry.line.time_ns,
                    mta=entry.mta,
                    side=entry.side,
                    said=entry.said,
                    queue_id=entry.queue_id,
                    text=entry.line.text[:LINE_LIMIT],
                    connection=self.connection_of.get(i),
                    message=self.message_of.get(i),
                )

    def within(self, i: int, first: int, last: int) -> bool:
        entry = self.entries[i]
        began = entry.line.time_ns - round((entry.took_s or 0) * S)
        return first <= began and entry.line.time_ns <= last + SLACK_NS


def _during(line: Line, c: Connection) -> bool:
    return c.start_ns - SLACK_NS - line.width_ns <= line.time_ns <= c.end_ns + AFTERWARDS_NS


def _at(line: Line, time_ns: int) -> bool:
    return line.time_ns - SLACK_NS <= time_ns <= line.time_ns + line.width_ns + SLACK_NS


def _names(recipient: str | None, m: Message) -> bool | None:
    """Whether the mail is for this recipient; None where the packets do not say (TLS, everybody refused)."""
    if recipient is None or not m.recipients:
        return None
    return recipient.strip("<>").lower() in {r.strip("<>").lower() for r in m.recipients}


# -- what is said ----------------------------------------------------------------------------------------------------


def _notes(case: Case, joined: _Joining, first: int, last: int) -> Iterable[str]:
    times = [e.line.time_ns for e in joined.entries]
    if not joined.connection_of:
        covers = f"The log covers {_clock(min(times))} to {_clock(max(times))}, the captures {_clock(first)} to {_clock(last)}"
        hint = "" if max(times) < first - 14 * 3600 * S or min(times) > last + 14 * 3600 * S else _hint(joined)
        return [f"{covers} (UTC): no line of the log belongs to a connection.{hint}"]
    mails, connections = set(joined.message_of.values()), set(joined.connection_of.values())
    belong = f"{len(joined.connection_of)} lines of the log belong to {len(connections)} of {len(case.connections)} connections"
    notes = [f"{belong} and {len(mails)} of {len(case.messages)} mails."]
    disagreements = list(_disagreements(case, joined))
    notes += disagreements[:MOST_NOTES]
    if len(disagreements) > MOST_NOTES:
        notes.append(f"and {len(disagreements) - MOST_NOTES} more such mails.")
    missing = [joined.entries[i] for i in joined.unjoined if joined.within(i, first, last)]
    if missing:
        named = ", ".join(f"{e.queue_id} to {e.peer[0] if e.peer else '?'}" for e in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        notes.append(
            f"In the log, not in the capture: {len(missing)} deliveries ({named}{more}): they went another way."
        )
    if joined.ambiguous:
        notes.append(
            f"{joined.ambiguous} lines of the log fit more than one mail or connection and are joined to none."
        )
    return notes


def _hint(joined: _Joining) -> str:
    """Another time zone in which the log would fit: a connection with the same address and port, whole quarters away."""
    apart: dict[int, int] = defaultdict(int)
    for e in joined.entries:
        if e.side == "server" and e.peer is not None and e.peer[1] is not None:
            for c in joined.table.by_client.get((e.peer[0], e.peer[1]), []):
                apart[round((e.line.time_ns - c.start_ns) / (900 * S))] += 1
        elif e.side == "client" and e.peer is not None and e.took_s is not None:
            for c in joined.table.to_server.get(e.peer[0], []):
                away = e.line.time_ns - round(e.took_s * S) - c.start_ns
                quarter = round(away / (900 * S))
                if abs(away - quarter * 900 * S) < 3 * S:
                    apart[quarter] += 1
    quarters = max(apart, key=lambda q: apart[q], default=0)
    if not quarters or abs(quarters) > 14 * 4:
        return ""
    sign, minutes = "+" if quarters > 0 else "-", abs(quarters) * 15
    return f" Its times would fit if they were {sign}{minutes // 60:02}:{minutes % 60:02} from the zone assumed: try --log-timezone."


def _disagreements(case: Case, joined: _Joining) -> Iterator[str]:
    """Where the log tells another story than the packets."""
    mails = {m.id: m for m in case.messages}
    connections = {c.id: c for c in case.connections}
    told: set[int] = set()
    for i, message in sorted(joined.message_of.items()):
        entry, m = joined.entries[i], mails[message]
        if entry.side != "client" or entry.said not in ("sent", "deferred", "bounced") or message in told:
            continue
        name = f"Mail {m.id} (queue id {entry.queue_id})"
        if entry.said != "sent" and m.outcome == "delivered":
            told.add(message)
            late = ""
            c = connections[m.connection]
            if m.end_ns is not None and c.vantage != "client-side":
                late = " on its way from the server"
            yield (
                f"{name}: the log says {entry.said} ({_reason(entry)}), while the packets show the server's "
                f"{m.reply_code or 250}{late}: the server has the mail, and what is sent again is a duplicate."
            )
        elif entry.said == "sent" and m.outcome in ("rejected", "deferred") and len(m.recipients) < 2:
            told.add(message)
            yield f"{name}: the log says sent, while the packets show the answer {m.reply_code}."
        elif entry.said != "sent" and message in joined.taken and m.outcome != "delivered":
            told.add(message)
            yield (
                f"{name}: the sender's log says {entry.said} ({_reason(entry)}), while the receiver's log has taken it as "
                f"{joined.entries[joined.taken[message]].queue_id}: the answer was lost, and what is sent again is a duplicate."
            )


def _reason(entry: Entry) -> str:
    _, _, reason = entry.line.text.partition("(")
    text = reason.removesuffix(")") or entry.line.text
    return text if len(text) <= REASON_CHARACTERS else text[:REASON_CHARACTERS] + "…"


def _clock(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / S, UTC):%Y-%m-%d %H:%M:%S}"
