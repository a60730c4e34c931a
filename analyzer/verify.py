"""After a repair: is the fault that one case shows gone in another? Fixed, still broken, or not exercised.

A fault is fixed only where the later case did what used to fail, to the same destination, and it worked. Silence proves
nothing: a capture in which only short mails were sent does not exercise a path-MTU black hole, a mail whose end was not
cut inside `.CRLF` does not exercise the firewall that loses such an end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal, NamedTuple

from .case import SEVERITIES, Case, Connection, Finding, Message, Path, numbered
from .report.escape import visible
from .report.wording import plural

State = Literal["fixed", "still-broken", "not-exercised"]

SCHEMA = "smtpscope-verify/1"
MOST_TOLD = 50  # checks that the text tells; the document has all

BLACK_HOLES = ("pmtud-black-hole", "icmp-frag-needed-ignored", "black-hole-recovered")
MASKS = ("masked-banner", "esmtp-inspection")  # observations, but of a firewall that somebody may have repaired
HUNG = ("end-of-data-timeout", "lost-connection")
ANSWERED = ("delivered", "rejected", "deferred")

# A stack fills its segments up to what both MSS allow, less the TCP options of the segment (40 bytes at most, RFC 9293 3.1).
OPTIONS_BYTES = 40
# Segments of one size, cut by a stack that was told to send no larger ones (tcp_mtu_probing = 2 begins with 1024 bytes).
# Lines that somebody types are shorter than 536 bytes (the smallest MSS that is in use, RFC 9293 3.7.1), and differ in length.
EQUAL_SEGMENTS, EQUAL_SEGMENT_BYTES = 3, 576


class Check(NamedTuple):
    """One fault of the case before, looked for in the case after."""

    rule: str
    title: str
    sender: str | None  # of the data
    receiver: str | None
    state: State
    why: str


@dataclass(frozen=True)
class Verification:
    checks: tuple[Check, ...]
    notes: tuple[str, ...]  # what else is to be known: faults that are new, captures not read to their end
    complete: bool

    @property
    def state(self) -> State:
        """The worst of all: one fault that is left is still broken, one that was not tried is not exercised."""
        states = [check.state for check in self.checks]
        if "still-broken" in states:
            return "still-broken"
        return "fixed" if states and "not-exercised" not in states else "not-exercised"


def verify(before: Case, after: Case) -> Verification:
    """Every fault of `before`, looked for in `after`."""
    checks = tuple(
        check for finding in before.findings if _is_fault(finding) for check in _checks(finding, before, after)
    )
    return Verification(checks, tuple(_notes(before, after, checks)), before.complete and after.complete)


def _is_fault(finding: Finding) -> bool:
    """What can be repaired: causes that matter, the firewall's mask, and a symptom that no cause explains."""
    if finding.rule in MASKS:
        return True
    matters = SEVERITIES.index(finding.severity) >= SEVERITIES.index("medium")
    return matters and (finding.role == "cause" or (finding.role == "symptom" and finding.explained_by is None))


class _Ends(NamedTuple):
    """The two hosts of a fault; data runs from sender to receiver."""

    sender: str | None
    receiver: str | None
    server: str


def _ends(finding: Finding, case: Case) -> list[_Ends]:
    """Each pair of hosts that the finding is about: one, or every path of a host whose way out is narrow."""
    pairs: list[tuple[str | None, str | None]] = [(p.sender, p.receiver) for p in numbered(case.paths, finding.paths)]
    pairs = pairs or [(finding.sender, finding.receiver)]
    servers = {c.server.ip for c in numbered(case.connections, finding.connections)}
    return [_Ends(a, b, a if a in servers and b not in servers else b or a or "") for a, b in dict.fromkeys(pairs)]


def _checks(finding: Finding, before: Case, after: Case) -> Iterator[Check]:
    for ends in _ends(finding, before):
        state, why = _judge(finding, ends, before, after)
        yield Check(finding.rule, finding.title, ends.sender, ends.receiver, state, why)


def _judge(finding: Finding, ends: _Ends, before: Case, after: Case) -> tuple[State, str]:
    connections = [c for c in after.connections if c.server.ip == ends.server]
    if not connections:
        return "not-exercised", f"no connection to {ends.server} is in the capture taken after the repair"
    if finding.rule in BLACK_HOLES:
        return _black_hole(finding, ends, before, after, connections)
    if finding.rule == "split-terminator":
        return _split(ends, after, connections)
    if finding.rule == "masked-banner":
        return _banner(ends, after, connections)
    if finding.rule == "esmtp-inspection":
        return _inspection(ends, after, connections)
    if finding.rule == "starttls-stripped":
        return _starttls(ends, after, connections)
    return _other(finding, ends, after, connections)


# -- path MTU ----------------------------------------------------------------------------------------------------


def _black_hole(
    finding: Finding, ends: _Ends, before: Case, after: Case, connections: Sequence[Connection]
) -> tuple[State, str]:
    again = _found(after, BLACK_HOLES, ends)
    worked_around = again is not None and again.rule == "black-hole-recovered" and finding.rule != again.rule
    if again is not None and not worked_around:
        return "still-broken", f"{again.title} ({again.confidence})"
    path = next((p for p in after.paths if (p.sender, p.receiver) == (ends.sender, ends.receiver)), None)
    if path is None:
        return "not-exercised", f"{ends.server} was spoken to by other hosts only, whose path is another one"
    mails = _mails(after, connections, ends)
    hung = [m for m in mails if m.outcome in HUNG]
    if hung:
        return "still-broken", f"{plural(len(hung), 'mail')} to {ends.server} still had no answer"
    sends_mail = ends.receiver == ends.server  # else it is the server's replies that are too large
    answered = [m for m in mails if m.outcome in ANSWERED] if sends_mail else []
    if worked_around:
        return (
            "fixed",
            "the large packets still vanish, but the sender now recovers by itself, some seconds later each time",
        )
    limit = _limit(finding, ends, before)
    proof = _large_passed(path, limit) or _mail_passed(answered, path, limit)
    proof = (
        proof
        or _at_its_size(path, connections, answered, limit)
        or _recut(path, answered, _smallest_hung(finding, before))
    )
    if proof:
        return "fixed", proof
    largest = max((s.ip_bytes for s in path.sizes), default=0)
    what = f"the largest packet had {largest} bytes" if largest else "no data was sent"
    return "not-exercised", f"no large segment was sent to {ends.receiver}: {what}, and {limit} are needed to tell"


def _limit(finding: Finding, ends: _Ends, before: Case) -> int:
    """Bytes of an IP packet that was too large before."""
    below = [
        p.mtu_below for p in before.paths if (p.sender, p.receiver) == (ends.sender, ends.receiver) and p.mtu_below
    ]
    lost = finding.facts.get("smallest_lost_bytes")
    return below[0] if below else lost if isinstance(lost, int) else 1500


def _smallest_hung(finding: Finding, before: Case) -> int:
    """Bytes of the shortest mail that hung; 0 when none did (the handshake of TLS hung, or a reply)."""
    told = finding.facts.get("smallest_hung_mail_bytes")
    sizes = [m.size for m in before.messages if m.id in finding.messages and m.size]
    return told if isinstance(told, int) else min(sizes, default=0)


def _large_passed(path: Path, limit: int) -> str | None:
    if path.verdict == "pmtud-working" and path.mtu_at_least:
        return f"path-MTU discovery works: the ICMP comes back, packets of {path.mtu_at_least} bytes pass"
    if path.mtu_at_least is not None and path.mtu_at_least >= limit:
        return f"packets of {path.mtu_at_least} bytes pass, where {limit} did not"
    return None


def _mail_passed(answered: Sequence[Message], path: Path, limit: int) -> str | None:
    """Without "don't fragment" a large packet that arrives may have come in fragments: the mail passes all the same."""
    large = [m for m in answered if (m.largest_packet_bytes or 0) >= limit]
    if large and path.mtu_at_least is None:
        return f"{plural(len(large), 'mail')} in packets of {large[0].largest_packet_bytes} bytes answered, fragments allowed"
    return None


def _at_its_size(path: Path, connections: Sequence[Connection], answered: Sequence[Message], limit: int) -> str | None:
    """Packets as large as the sender may send now, by the smaller MSS of both sides."""
    header = 60 if ":" in path.sender else 40
    known = [min(c.client_mss, c.server_mss) for c in connections if c.client_mss and c.server_mss]
    if not known:
        return None
    most = max(known) + header
    if most >= limit:
        return None
    passed = max((s.ip_bytes for s in path.sizes if s.delivered and s.ip_bytes <= most), default=0)
    passed = max(passed, *(m.largest_packet_bytes or 0 for m in answered), 0)
    if passed >= most - OPTIONS_BYTES:
        return f"packets of {passed} bytes pass, and the MSS of {max(known)} keeps all packets that small"
    return None


def _recut(path: Path, answered: Sequence[Message], hung_bytes: int) -> str | None:
    """The stack was told to cut smaller: full segments of one size, in a mail as long as those that hung."""
    long = [m for m in answered if m.size and m.size >= max(hung_bytes, EQUAL_SEGMENTS * EQUAL_SEGMENT_BYTES)]
    equal = [s.ip_bytes for s in path.sizes if s.delivered >= EQUAL_SEGMENTS and s.ip_bytes >= EQUAL_SEGMENT_BYTES]
    if long and equal and hung_bytes:
        return f"a mail of {long[0].size} bytes was answered; the sender now cuts it into packets of {max(equal)} bytes"
    return None


# -- firewalls ---------------------------------------------------------------------------------------------------


def _split(ends: _Ends, after: Case, connections: Sequence[Connection]) -> tuple[State, str]:
    mails = _mails(after, connections, ends)
    cut = [m for m in mails if m.terminator and {3, 4} & set(m.terminator.cut_at)]
    answered = [m for m in cut if m.outcome in ANSWERED]
    if len(answered) < len(cut):
        return (
            "still-broken",
            f"of {plural(len(cut), 'mail')} with an end cut inside .CRLF {len(answered)} got an answer",
        )
    if answered:
        return "fixed", f"{plural(len(answered), 'mail')} with an end cut inside .CRLF got an answer"
    if _found(after, ("pix-workaround",), ends) and any(m.outcome in ANSWERED for m in mails):
        return "fixed", "the sender now holds .CRLF back and sends it whole (a workaround), and the mail got an answer"
    return "not-exercised", f"no mail to {ends.server} had its end cut inside .CRLF"


def _banner(ends: _Ends, after: Case, connections: Sequence[Connection]) -> tuple[State, str]:
    if _found(after, ("masked-banner",), ends):
        return "still-broken", f"the greeting of {ends.server} is still masked"
    greeted = [c for c in connections if c.banner]
    if greeted:
        return "fixed", f"{ends.server} greets with readable words in {plural(len(greeted), 'connection')}"
    return "not-exercised", f"no greeting of {ends.server} is in the capture taken after the repair"


def _inspection(ends: _Ends, after: Case, connections: Sequence[Connection]) -> tuple[State, str]:
    if again := _found(after, ("esmtp-inspection",), ends):
        return "still-broken", again.title
    offered = [c for c in connections if c.ehlo_keywords]
    if offered:
        return (
            "fixed",
            f"the keywords that {ends.server} offers arrive unmasked in {plural(len(offered), 'connection')}",
        )
    return "not-exercised", f"no answer of {ends.server} to EHLO is in the capture taken after the repair"


def _starttls(ends: _Ends, after: Case, connections: Sequence[Connection]) -> tuple[State, str]:
    if again := _found(after, ("starttls-stripped",), ends):
        return "still-broken", again.title
    asked = [c for c in connections if c.ehlo_keywords]
    offered = [c for c in asked if "STARTTLS" in c.ehlo_keywords]
    if asked and len(offered) == len(asked):
        return "fixed", f"{ends.server} offers STARTTLS in {plural(len(offered), 'connection')}"
    if asked:
        return (
            "still-broken",
            f"{ends.server} offers STARTTLS in {len(offered)} of {plural(len(asked), 'connection')} only",
        )
    return "not-exercised", f"no answer of {ends.server} to EHLO is in the capture taken after the repair"


# -- everything else ---------------------------------------------------------------------------------------------


def _other(finding: Finding, ends: _Ends, after: Case, connections: Sequence[Connection]) -> tuple[State, str]:
    if again := _found(after, (finding.rule,), ends):
        return "still-broken", f"{again.title} ({again.confidence})"
    mails = _mails(after, connections, ends)
    hung = [m for m in mails if m.outcome in HUNG]
    if hung:
        return "still-broken", f"{plural(len(hung), 'mail')} to {ends.server} still had no answer"
    answered = [m for m in mails if m.outcome in ANSWERED]
    if answered:
        return "fixed", f"{plural(len(answered), 'mail')} to {ends.server} got an answer, without the fault"
    return "not-exercised", f"no mail to {ends.server} came to an answer, so nothing was put to the test"


def _found(case: Case, rules: Sequence[str], ends: _Ends) -> Finding | None:
    """A finding of these rules about the same hosts; whatever counts against a server counts from any client."""
    for finding in case.findings:
        if finding.rule not in rules:
            continue
        if finding.rule in BLACK_HOLES:
            pairs = {(p.sender, p.receiver) for p in numbered(case.paths, finding.paths)}
            if (ends.sender, ends.receiver) in pairs:
                return finding
        elif ends.server in (finding.sender, finding.receiver) or any(
            c.server.ip == ends.server for c in case.connections if c.id in finding.connections
        ):
            return finding
    return None


def _mails(case: Case, connections: Sequence[Connection], ends: _Ends) -> list[Message]:
    """The mails between the two hosts."""
    ids = {c.id for c in connections if c.client.ip in (ends.sender, ends.receiver)}
    return [m for m in case.messages if m.connection in ids]


def _notes(before: Case, after: Case, checks: Sequence[Check]) -> Iterator[str]:
    if not checks:
        yield "The capture taken before shows no fault, so there is nothing whose repair could be verified."
    known = {(f.rule, f.sender, f.receiver) for f in before.findings}
    for finding in after.findings:
        if _is_fault(finding) and (finding.rule, finding.sender, finding.receiver) not in known:
            where = " to ".join(filter(None, (finding.sender, finding.receiver)))
            yield f"New since then: {finding.title}, {where} ({finding.severity} {finding.role}, {finding.confidence})."
    for name, case in (("before", before), ("after", after)):
        for capture in case.captures:
            if not capture.complete:
                yield f"The capture taken {name}, {capture.path}, was not read to its end."


# -- told --------------------------------------------------------------------------------------------------------

HEADLINES: dict[State, str] = {
    "fixed": "Fixed.",
    "still-broken": "Still broken.",
    "not-exercised": "Not exercised: nothing is proven.",
}
LABELS: dict[State, str] = {"fixed": "fixed", "still-broken": "still broken", "not-exercised": "not exercised"}


def text(verification: Verification) -> str:
    """The answer for a terminal, the verdict first."""
    lines = [HEADLINES[verification.state]]
    for check in verification.checks[:MOST_TOLD]:
        where = " to ".join(visible(end) for end in (check.sender, check.receiver) if end)
        lines.append(fill(f"  {LABELS[check.state]}: {visible(check.title)}: {where}", 80, subsequent_indent="    "))
        lines.append(fill(visible(check.why), 80, initial_indent="    ", subsequent_indent="    "))
    if len(verification.checks) > MOST_TOLD:
        lines.append(f"  and {len(verification.checks) - MOST_TOLD} more, in --json")
    return "\n".join([*lines, *(fill(visible(note), 80) for note in verification.notes)]) + "\n"


def document(verification: Verification) -> dict[str, Any]:
    """The answer as JSON values, schema smtpscope-verify/1."""
    return {
        "schema": SCHEMA,
        "state": verification.state,
        "complete": verification.complete,
        "checks": [check._asdict() for check in verification.checks],
        "notes": list(verification.notes),
    }


def render_json(verification: Verification) -> str:
    return json.dumps(document(verification), indent=1) + "\n"
