"""The case in plain words: which mails passed, which hung, from which packet size on; and what it cannot prove."""

from __future__ import annotations

from collections import defaultdict

from .case import Case, Finding, Message

HANGING = ("end-of-data-timeout", "lost-connection")


def summarize(case: Case) -> list[str]:
    """Sentences, the most important first; the first one tells the symptom if there is one."""
    if not case.connections:
        return ["No SMTP in this capture."]
    lines = [line for line in (_symptom(case),) if line]
    causes = [f for f in case.findings if f.role == "cause"]
    lines += [f"{f.title}: {_where(f)} ({f.confidence})." for f in causes]
    if not lines:
        lines.append(_clean(case))
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
    """The symptom in one sentence, for the destination with the most hanging mails."""
    receiver_of = {c.id: c.server.ip for c in case.connections}
    stuck_connections = {k for f in case.findings if f.role == "cause" for k in f.connections}
    hung: dict[str, list[Message]] = defaultdict(list)
    passed: dict[str, list[Message]] = defaultdict(list)
    for m in case.messages:
        if m.outcome in HANGING or (m.outcome == "unknown" and m.connection in stuck_connections):
            hung[receiver_of[m.connection]].append(m)
        elif m.outcome == "delivered":
            passed[receiver_of[m.connection]].append(m)
    if not hung:
        return None
    worst = sorted(hung, key=lambda r: -len(hung[r]))[:3]
    parts = [_one_destination(r, hung[r], passed.get(r, [])) for r in worst]
    others = [m for r, ms in passed.items() if r not in hung for m in ms]
    smallest = min((m.largest_packet_bytes for ms in hung.values() for m in ms if m.largest_packet_bytes), default=None)
    tail = ""
    if others and smallest:
        large = sum(1 for m in others if (m.largest_packet_bytes or 0) >= smallest)
        if large:
            tail = f" To other destinations {_count(large, 'mail')} in packets at least as large passed."
    return " ".join(parts) + tail


def _one_destination(receiver: str, hung: list[Message], passed: list[Message]) -> str:
    sizes = [m.size for m in hung if m.size]
    of = f" ({_range(sizes)} bytes)" if sizes else ""
    text = f"{_count(len(hung), 'mail')} to {receiver} {'hangs' if len(hung) == 1 else 'hang'}{of}"
    if passed:
        good = [m.size for m in passed if m.size]
        text += f", {_count(len(passed), 'mail')} passed" + (f" ({_range(good)} bytes)" if good else "")
        worst = max((m.largest_packet_bytes or 0 for m in passed), default=0)
        first = min((m.largest_packet_bytes or 0 for m in hung), default=0)
        if worst and first and worst < first:
            text += f": all that needed a packet of {first} bytes or more hang, all with at most {worst} pass"
    return text + "."


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


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
    for capture in case.captures:
        if capture.snaplen is not None and 0 < capture.snaplen < 1500:
            out.append(
                f"{capture.path}: snap length {capture.snaplen}: packets were cut, dialogues are read as far as they go."
            )
        if not capture.complete:
            out.append(f"{capture.path} was not read to its end: a fault behind it is not seen.")
    vantages = {c.vantage for c in case.connections}
    hidden = [p for p in case.paths if p.verdict == "black-hole" and not p.icmp_frames]
    if hidden:
        out.append(
            'No ICMP "fragmentation needed" means: none is visible at this point of capture. It may die before it.'
        )
    if vantages == {"server-side"} and hidden:
        out.append(
            "Captured at the receiver: the sender's resends are not seen. A capture at the sender would prove the loss."
        )
    return out
