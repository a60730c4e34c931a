"""The case in plain words: which mails passed, which hung, from which packet size on; and what it cannot prove."""

from __future__ import annotations

from collections import defaultdict

from .case import Case, Finding, Message, Path

HANGING = ("end-of-data-timeout", "lost-connection")


def summarize(case: Case) -> list[str]:
    """Sentences, the most important first; the first one tells the symptom if there is one."""
    if not case.connections:
        return ["No SMTP in this capture."]
    lines = [line for line in (_symptom(case),) if line]
    lines += _causes([f for f in case.findings if f.role == "cause"])
    if not lines:
        lines.append(_clean(case))
    return lines


# Causes of one rule that are told one by one; what is more is counted.
MOST_ALIKE = 3


def _causes(causes: list[Finding]) -> list[str]:
    """A sentence for each cause; where a rule found many, for the first ones, and one for the others."""
    of_rule: dict[str, list[Finding]] = defaultdict(list)
    for f in causes:
        of_rule[f.rule].append(f)
    lines = []
    for alike in of_rule.values():
        told = alike if len(alike) <= MOST_ALIKE + 1 else alike[:MOST_ALIKE]
        lines += [f"{f.title}: {_where(f)} ({f.confidence})." for f in told]
        if len(alike) > len(told):
            lines.append(f"{told[0].title}: {len(alike) - len(told):,} more.")
    return lines


def _where(f: Finding) -> str:
    if f.sender and f.receiver:
        return f"{f.sender} to {f.receiver}"
    return f.sender or f.receiver or "this capture"


def _clean(case: Case) -> str:
    answered = sum(1 for m in case.messages if m.outcome in ("delivered", "rejected", "deferred"))
    unknown = sum(1 for m in case.messages if m.outcome == "unknown")
    text = (
        f"{_count(len(case.connections), 'SMTP connection')}, {_count(len(case.messages), 'mail')}: {answered} answered"
    )
    if unknown:
        text += f", {unknown} still under way when the capture ends"
    return text + ". No fault found."


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _symptom(case: Case) -> str | None:
    """The symptom in one sentence: what hangs, what passes, from which packet size on, and what passes elsewhere."""
    receiver_of = {c.id: c.server.ip for c in case.connections}
    blamed = {m for f in case.findings if f.role == "cause" and f.severity in ("high", "critical") for m in f.messages}
    hung: dict[str, list[Message]] = defaultdict(list)
    passed: dict[str, list[Message]] = defaultdict(list)
    for m in case.messages:
        if m.outcome in HANGING or (m.id in blamed and m.outcome != "delivered"):
            hung[receiver_of[m.connection]].append(m)
        elif m.outcome == "delivered":
            passed[receiver_of[m.connection]].append(m)
    if not hung:
        return None
    by_size = [r for r in hung if _size_decides(hung[r], passed.get(r, []), _narrow(case, r))]
    others = [r for r in hung if r not in by_size]
    lines = []
    if by_size:
        lines.append(_by_size(by_size, hung, passed))
    if others:
        also = " as well" if by_size else ""
        count = sum(len(hung[r]) for r in others)
        there = sum(len(passed.get(r, [])) for r in others)
        lines.append(
            f"{_count(count, 'mail')} to {_names(others)} {'hangs' if count == 1 else 'hang'}{also}"
            + (f", {there} passed there" if there else "")
            + "."
        )
    return " ".join(lines)


def _narrow(case: Case, receiver: str) -> bool:
    return any(p.receiver == receiver and p.verdict in ("black-hole", "icmp-ignored") for p in case.paths)


def _size_decides(hung: list[Message], passed: list[Message], narrow: bool) -> bool:
    """Every mail that passed needed smaller packets than every one that hangs."""
    first = min((m.largest_packet_bytes or 0 for m in hung), default=0)
    worst = max((m.largest_packet_bytes or 0 for m in passed), default=0)
    return bool(first) and worst < first and (bool(passed) or narrow)


def _by_size(receivers: list[str], hung: dict[str, list[Message]], passed: dict[str, list[Message]]) -> str:
    bad = [m for r in receivers for m in hung[r]]
    good = [m for r in receivers for m in passed.get(r, [])]
    first = min(m.largest_packet_bytes or 0 for m in bad)
    text = f"{_count(len(bad), 'mail')} to {_names(receivers)} {'hangs' if len(bad) == 1 else 'hang'}"
    text += f"{_mail_sizes(bad)}, {'' if len(bad) == 1 else 'each '}in need of a packet of {first} bytes or more"
    if good:
        worst = max(m.largest_packet_bytes or 0 for m in good)
        text += f", while {_count(len(good), 'mail')}{_mail_sizes(good)} in packets of at most {worst} bytes passed"
    elsewhere = {
        r: [m for m in ms if (m.largest_packet_bytes or 0) >= first] for r, ms in passed.items() if r not in hung
    }
    large = sum(len(ms) for ms in elsewhere.values())
    if large:
        hosts = sum(1 for ms in elsewhere.values() if ms)
        text += f"; {_count(large, 'mail')} in packets that large passed to {_count(hosts, 'other host')}"
    return text + "."


def _names(receivers: list[str]) -> str:
    """Up to three of them by name."""
    named = receivers if len(receivers) <= 3 else receivers[:2]
    rest = len(receivers) - len(named)
    if rest:
        return f"{', '.join(named)} and {rest} other hosts"
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _mail_sizes(mails: list[Message]) -> str:
    sizes = [m.size for m in mails if m.size]
    if not sizes:
        return ""
    low, high = min(sizes), max(sizes)
    return f" ({low if low == high else f'{low} to {high}'} bytes)"


# Two losses of one packet are chance now and then; three in a row are none.
SENT_IN_VAIN = 3


def undecided(case: Case) -> list[Path]:
    """Paths on which nothing was seen but packets that were sent again and again: narrow or dead, nobody can tell."""
    return [p for p in case.paths if p.verdict == "unknown" and sum(size.lost for size in p.sizes) >= SENT_IN_VAIN]


def limits(case: Case) -> list[str]:
    """What this capture cannot prove, and where to capture next."""
    out = []
    one_way = [c.id for c in case.connections if not c.client_bytes or not c.server_bytes]
    headless = [c.id for c in case.connections if not c.handshake_seen]
    if headless:
        out.append(
            f"{_count(len(headless), 'connection')} began before the capture: MSS and window scaling are unknown there."
        )
    if one_way and len(one_way) == len(case.connections):
        out.append("Only one direction was captured: what was acknowledged cannot be told.")
    out += [
        f"From {p.sender} to {p.receiver} packets of {max(s.ip_bytes for s in p.sizes if s.lost)} bytes were sent again and "
        "again, and nothing was heard from the other side: the path may be too narrow for them, or dead. A capture that "
        "begins before the connection tells which."
        for p in undecided(case)
    ]
    let_go = case.counts.get("let_go", 0)
    if let_go:
        out.append(
            f"{_count(let_go, 'connection')} had to be judged before the end: open connections held more packets than fit "
            "into the memory meant for them. What came later stands as another connection, without a handshake."
        )
    icmp_left_out = case.counts.get("icmp_left_out", 0)
    if icmp_left_out:
        out.append(f"{_count(icmp_left_out, 'ICMP error')} came behind the most that are kept: counted, not looked at.")
    not_judged = case.counts.get("not_judged", 0)
    if not_judged:
        out.append(
            f"{_count(not_judged, 'connection')} of SMTP found no room in the report: counted, not judged. Raise "
            "--max-rows, or cut the capture into pieces."
        )
    for capture in case.captures:
        if capture.snaplen is not None and 0 < capture.snaplen < 1500:
            out.append(
                f"{capture.path}: snap length {capture.snaplen}: packets were cut, dialogues are read as far as they go."
            )
        if not capture.complete:
            out.append(f"{capture.path} was not read to its end: a fault behind it is not seen.")
    return out + _next_capture(case)


def _next_capture(case: Case) -> list[str]:
    """What the place of the capture hides, and where the next one would show it."""
    out = []
    holes = [p for p in case.paths if p.verdict == "black-hole"]
    if any(not p.icmp_frames for p in holes):
        out.append(
            'That no ICMP "fragmentation needed" is seen means: none at this point of capture. '
            "It may be sent, and die on its way back before it gets here."
        )
    vantages = {p.vantage for p in holes}
    if "server-side" in vantages:
        out.append(
            "Captured near the receiver: the sender's resends are not seen. A capture at the sending host at the same time "
            "would prove the loss."
        )
    if "client-side" in vantages and holes:
        out.append(
            "Captured near the sender: where on the way the large packets die is not seen. A capture on the far side of each "
            "router in turn finds the narrow link."
        )
    if "middle" in vantages:
        out.append(
            "Captured on the way: whether the ICMP reaches the sending host is not seen. Capture there to tell a filter on the "
            "way from a host that ignores it."
        )
    return out
