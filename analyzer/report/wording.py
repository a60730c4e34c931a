"""How the values of a case read in English: the words that the reports for people share."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from .. import summary
from ..capture.wanted import DEFAULT_PORTS
from ..case import SEVERITIES, Case, Finding, Frame, Message, Path, WhatIf, numbered
from .escape import visible

State = Literal["trouble", "clean", "partial", "no-smtp"]

WHO = {
    "client-admin": "sender's admin",
    "server-admin": "receiver's admin",
    "network": "network",
    "firewall": "firewall's admin",
}
HUNG = frozenset({"end-of-data-timeout", "lost-connection", "stuck"})
REFUSED = frozenset({"rejected", "deferred"})
OUTCOME = {
    "delivered": "delivered",
    "rejected": "refused for good (5xx)",
    "deferred": "refused for now (4xx)",
    "end-of-data-timeout": "no answer to the end of the mail",
    "lost-connection": "connection lost",
    "aborted": "given up by the client",
    "unknown": "not known",
    "stuck": "hung when the capture ended",  # no outcome of the contract: see `fates`
}
VERDICT = {
    "black-hole": "path-MTU black hole",
    "icmp-ignored": "the sender ignores the ICMP",
    "recovered": "black hole, the sender recovered",
    "pmtud-working": "path MTU discovery works",
    "outage": "outage",
    "lossy": "packet loss",
    "no-fault": "no fault seen",
    "unknown": "not known",
}
# Ports that a mail host's capture commonly shows; /etc/services differs from machine to machine.
SERVICES = {
    20: "ftp-data", 21: "ftp", 22: "ssh", 23: "telnet", 53: "dns", 80: "http", 88: "kerberos", 110: "pop3", 143: "imap",
    389: "ldap", 443: "https", 445: "smb", 636: "ldaps", 853: "dns-tls", 993: "imaps", 995: "pop3s", 3306: "mysql",
    3389: "rdp", 4190: "sieve", 5432: "postgresql", 8080: "http-alt",
}  # fmt: skip


def state(case: Case) -> State:
    """Whether there is something to tell; a capture that could not be read to its end is never clean."""
    if any(f.role != "observation" or f.severity != "info" for f in case.findings):
        return "trouble"
    if not case.complete or summary.undecided(case):
        return "partial"
    return "clean" if any(c.is_smtp for c in case.connections) else "no-smtp"


def headline(case: Case) -> list[str]:
    """The verdict in plain words, most important first."""
    match state(case):
        case "trouble":
            told = case.summary or [f.title for f in ordered(case.findings) if f.explained_by is None]
            return [visible(line) for line in told]
        case "clean":
            seen = "Clean as far as can be seen" if any(m.outcome == "unknown" for m in case.messages) else "Clean"
            return [f"{seen}: {_counted(case.messages)}; no black hole, split end, mask or stall."]
        case "partial":
            if case.complete:
                return [
                    f"Data hangs, and the cause can not be told: {_counted(case.messages)}. What is missing stands below."
                ]
            if not any(c.frames for c in case.captures):
                return ["Nothing could be read."]
            if not any(c.is_smtp for c in case.connections):
                return [f"No SMTP in what could be read, and that is not all. {services(case)}"]
            return ["No fault in what could be read, but that is not all: this is no clean bill."]
        case _:
            return [f"No SMTP in this capture. {services(case)}"]


def checked(case: Case, *, times: bool = True, frames: bool = True) -> str:
    """What was looked at: captures, connections, mails, servers, frames, time; in short without folders and times."""
    smtp = [c for c in case.connections if c.is_smtp]
    paths = [c.path if times else c.path.rstrip("/").rpartition("/")[2] for c in case.captures[:3]]
    names = ", ".join(visible(path, 60) for path in paths) + (", ..." if len(case.captures) > 3 else "")
    parts = []
    if smtp:
        servers = len({c.server.ip for c in smtp})
        parts = [plural(len(smtp), "connection"), plural(len(case.messages), "mail"), plural(servers, "server")]
    if frames or not parts:
        parts.append(plural(sum(c.frames for c in case.captures), "frame"))
    seen = [t for c in case.captures for t in (c.first_ns, c.last_ns) if t is not None]
    if times and seen:
        parts.append(f"{clock(min(seen))} to {clock(max(seen), short=True)} UTC")
    return f"{names}: {', '.join(parts)}"


def services(case: Case) -> str:
    """Which other services the capture shows, busiest first."""
    if not case.services:
        return "No other TCP service was seen either."
    busiest = sorted(case.services.items(), key=lambda item: -item[1])
    named = [
        f"{port}{f' ({SERVICES[port]})' if port in SERVICES else ''}: {plural(n, 'packet')}" for port, n in busiest[:8]
    ]
    more = f" and {plural(len(busiest) - 8, 'more port')}" if len(busiest) > 8 else ""
    return f"TCP ports seen: {', '.join(named)}{more}."


def fates(case: Case) -> dict[int, str]:
    """Message id -> outcome; "stuck" where the capture ended before the outcome, and a cause names the mail as its victim."""
    named = {m for f in case.findings if f.role == "cause" and f.severity not in ("info", "low") for m in f.messages}
    return {m.id: "stuck" if m.outcome == "unknown" and m.id in named else m.outcome for m in case.messages}


def _counted(messages: Sequence[Message]) -> str:
    """How many mails were delivered, and what became of the others."""
    if not messages:
        return "no mail was sent"
    counted: Counter[str] = Counter(m.outcome for m in messages)
    parts = [f"{counted.pop('delivered', 0):,} of {plural(len(messages), 'mail')} delivered"]
    unseen = counted.pop("unknown", 0)
    parts += [f"{n:,} {OUTCOME[outcome]}" for outcome, n in counted.most_common()]
    if unseen:
        parts.append(
            f"the outcome of {unseen:,} is not visible" + (" (TLS)" if all(m.via == "tls" for m in messages) else "")
        )
    return ", ".join(parts)


def logs(case: Case, finding: Finding) -> list[tuple[str, str]]:
    """What the mail servers of the first connection that has it will have logged: (whose log, line)."""
    named = numbered(case.connections, finding.connections)
    mail = (c for c in named if c.is_smtp or c.server.port in DEFAULT_PORTS)
    connection = next((c for c in mail if c.expected_log), None)
    if connection is None:
        return []
    whose = {"client": f"client {connection.client.ip}", "server": f"server {connection.server.ip}"}
    return [(whose.get(side, side), line) for side, line in connection.expected_log.items()]


# Of findings that are only named, so many of one rule: whoever reads on knows the rest by then.
MOST_ALIKE = 5


def few_of_each(findings: Sequence[Finding]) -> Iterator[Finding | str]:
    """The findings, of each rule `MOST_ALIKE` at most; then in words how many more there are."""
    left = Counter(f.rule for f in findings)
    named: Counter[str] = Counter()
    for f in findings:
        left[f.rule] -= 1
        if named[f.rule] < MOST_ALIKE:
            named[f.rule] += 1
            yield f
            if named[f.rule] == MOST_ALIKE and left[f.rule]:
                yield f"and {left[f.rule]:,} more of {f.rule}, in --json and --html"


def connection_filter(case: Case, finding: Finding, most: int = 3) -> str | None:
    """Wireshark's display filter for the connections of a finding whose evidence names no frames; None where it does."""
    if any(e.display_filter for e in finding.evidence):
        return None
    ends = [(c.client, c.server) for c in numbered(case.connections, finding.connections)[:most]]
    return (
        " || ".join(
            f"({'ipv6' if ':' in a.ip else 'ip'}.addr == {a.ip} && tcp.port == {a.port} && "
            f"{'ipv6' if ':' in b.ip else 'ip'}.addr == {b.ip} && tcp.port == {b.port})"
            for a, b in ends
        )
        or None
    )


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Causes before symptoms before observations, the gravest first."""
    roles = ("cause", "symptom", "observation")
    return sorted(findings, key=lambda f: (roles.index(f.role), -SEVERITIES.index(f.severity), f.id))


def bracket(path: Path) -> str | None:
    """What is known of the path MTU, or None."""
    low, high = path.mtu_at_least, path.mtu_below
    if low and high:
        links = f" ({', '.join(path.links)} would fit)" if path.links else ""
        return f"at least {low:,}, below {high:,} bytes{links}"
    if low:
        return f"at least {low:,} bytes"
    return f"below {high:,} bytes" if high else None


def frames(numbers: Sequence[Frame], captures: int = 1, most: int = 12) -> str:
    """Frame numbers as Wireshark counts, runs drawn together; the capture is named when there are several."""
    if not numbers:
        return "no frame"
    runs: list[tuple[Frame, int]] = []
    for f in sorted(set(numbers)):
        if runs and runs[-1][0].capture == f.capture and runs[-1][1] + 1 == f.frame:
            runs[-1] = (runs[-1][0], f.frame)
        else:
            runs.append((f, f.frame))
    shown = [
        (f"{f.capture}:" if captures > 1 else "") + (f"{f.frame}" if f.frame == last else f"{f.frame}-{last}")
        for f, last in runs[:most]
    ]
    more = f" and {len(runs) - most:,} more" if len(runs) > most else ""
    return f"frame{'s' if len(numbers) > 1 else ''} {', '.join(shown)}{more}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(time_ns: int, *, short: bool = False) -> str:
    """UTC, to the second; `short` leaves out the day."""
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // 1_000_000_000)
    return f"{when:%H:%M:%S}" if short else f"{when:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def size(count: int) -> str:
    """Bytes for a reader: exact below 10,000, then in powers of 1000."""
    if count < 10_000:
        return f"{count:,} B"
    return f"{count / 1000:,.0f} kB" if count < 10_000_000 else f"{count / 1_000_000:,.0f} MB"


class ServerRow(NamedTuple):
    """The mails to one server, added up."""

    ip: str
    connections: int
    delivered: int
    refused: int
    hung: int
    largest_passed: int | None
    smallest_hung: int | None


def by_server(case: Case) -> list[ServerRow]:
    """A row per server, those with hung mails first, then the busiest."""
    connections = Counter(c.server.ip for c in case.connections if c.is_smtp)
    server = {c.id: c.server.ip for c in case.connections}
    fate = fates(case)
    mails: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for m in case.messages:
        mails[server.get(m.connection, "")].append((fate[m.id], m.size))
    rows = [_server_row(ip, n, mails[ip]) for ip, n in connections.items()]
    return sorted(rows, key=lambda r: (-r.hung, -r.connections))


def _server_row(ip: str, connections: int, mails: Sequence[tuple[str, int | None]]) -> ServerRow:
    passed = [size for fate, size in mails if fate == "delivered"]
    hung = [size for fate, size in mails if fate in HUNG]
    return ServerRow(
        ip, connections, len(passed), sum(fate in REFUSED for fate, _ in mails), len(hung),
        max((size for size in passed if size is not None), default=None),
        min((size for size in hung if size is not None), default=None),
    )  # fmt: skip


def same_remedies(findings: Iterable[Finding]) -> dict[int, Finding]:
    """Finding id -> the first one whose remedies are the same, with the one receiver in the place of the other.

    Ten destinations behind one bad link would else be ten times the same page of commands.
    """
    first: dict[tuple[object, ...], Finding] = {}
    repeats = {}
    for f in findings:
        if f.remedies and f.receiver:
            address = re.compile(rf"(?<![\w.:]){re.escape(f.receiver)}(?![\w:]|\.\d)")
            told = [
                address.sub("\0", "\1".join([r.who, r.host or "", r.what, *r.commands, r.check or ""]))
                for r in f.remedies
            ]
            earlier = first.setdefault((f.rule, f.sender, *told), f)
            if earlier is not f and earlier.receiver != f.receiver:
                repeats[f.id] = earlier
    return repeats


def foremost(commands: Sequence[str]) -> tuple[list[str], list[str]]:
    """The commands for Linux, where most mailers run, and those for other systems; all of them where none is for Linux."""
    linux = [c for c in commands if re.search(r"# (Linux|iptables|nftables|Postfix)", c)]
    return (linux, [c for c in commands if c not in linux]) if linux else (list(commands), [])


class Remedied(NamedTuple):
    """What would have helped on one path, and the other paths of which all the same is true but for the mails' numbers."""

    path: Path
    answers: list[WhatIf]
    alike: list[tuple[Path, tuple[int, ...]]]  # with their mails


def what_if(case: Case) -> list[Remedied]:
    """The remedies tried on the case's own sizes, path by path; paths alike are told once."""
    by_path: dict[int, list[WhatIf]] = defaultdict(list)
    for answer in case.what_if:
        by_path[answer.path].append(answer)
    paths = {p.id: p for p in numbered(case.paths, by_path)}
    told: dict[tuple[object, ...], Remedied] = {}
    for number, answers in by_path.items():
        same = tuple(
            a._replace(path=0, through=(len(a.through),), perhaps=(len(a.perhaps),), not_through=(len(a.not_through),))
            for a in answers
        )
        known = told.setdefault((paths[number].sender, *same), Remedied(paths[number], answers, []))
        if known.answers is not answers:
            mails = {m for a in answers for m in (*a.through, *a.perhaps, *a.not_through)}
            known.alike.append((paths[number], tuple(sorted(mails))))
    return list(told.values())


def alike(remedied: Remedied, most: int = 8) -> str:
    """The paths of which the same is true, in words; empty without any."""
    shown = [f"{visible(path.receiver)} ({mail_ids(mails)})" for path, mails in remedied.alike[:most]]
    more = f" and {len(remedied.alike) - most:,} more" if len(remedied.alike) > most else ""
    return f"The same is true towards {', '.join(shown)}{more}." if shown else ""


def mail_ids(ids: Sequence[int], most: int = 8) -> str:
    if not ids:
        return "no mail"
    return f"mail{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:most]))}{', …' if len(ids) > most else ''}"


def command_lines(command: str) -> tuple[list[str], str]:
    """The lines of a command as they can be pasted, and what is said beside it ("Linux", "FreeBSD")."""
    lines = [visible(line) for line in command.split("\n")]
    if len(lines) == 1 and "  # " in lines[0]:
        code, _, remark = lines[0].rpartition("  # ")
        return [code], remark
    return lines, ""
