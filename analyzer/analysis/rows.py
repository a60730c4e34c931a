"""The rows of a case: what is told of a connection, a mail, a path, a finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import case as c
from ..detect import mails, paths
from ..detect.engine import Draft
from .ledgers import Ledgers
from .memory import give_back

# by where a sender's data are captured: of the client's, of the server's
_VANTAGE: dict[Any, c.Vantage] = {"at_sender": "client-side", "at_receiver": "server-side", "middle": "middle"}
_VANTAGE_OF_SERVER: dict[Any, c.Vantage] = {
    "at_sender": "server-side",
    "at_receiver": "client-side",
    "middle": "middle",
}


def connection_row(t: mails.Talk, number: int) -> c.Connection:
    d = t.dialogue
    return c.Connection(
        id=number,
        client=c.Endpoint(*t.client),
        server=c.Endpoint(*t.server),
        start_ns=t.start_ns,
        end_ns=t.end_ns,
        frame_count=t.frame_count,
        handshake_seen=t.handshake_seen,
        closed_by=t.closed_by,  # type: ignore[arg-type]
        tls=d.tls,
        banner=t.banner_text,
        vantage=_VANTAGE.get(t.at, "unknown"),
        first_frame=c.Frame(*t.first_frame),
        is_smtp=d.is_smtp,
        client_name=d.client_name,
        phase=d.phase,
        ehlo_keywords=d.keywords,
        client_mss=t.client_mss,
        server_mss=t.server_mss,
        rtt_s=t.rtt_s,
        expected_log=t.expected_log,
        client_bytes=t.client_bytes,
        server_bytes=t.server_bytes,
    )


def message_row(m: mails.MailRecord, number: int, connection: int) -> c.Message:
    terminator = None
    if m.cuts is not None:
        terminator = c.Terminator(
            m.cuts.pieces, m.cuts.cut_at, bool(m.cuts.inferred), tuple(c.Frame(*f) for f in m.end_frames)
        )
    return c.Message(
        id=number,
        connection=connection,
        index=m.index,
        mail_from=m.mail_from,
        recipients=m.recipients,
        size=m.size,
        via=m.via,  # type: ignore[arg-type]
        terminator=terminator,
        reply_code=m.reply_code,
        outcome=m.outcome,  # type: ignore[arg-type]
        size_estimated=m.size_estimated,
        start_ns=m.start_ns,
        end_ns=m.end_ns,
        reply_delay_s=m.reply_delay_s,
        largest_packet_bytes=m.largest_packet_bytes,
    )


@lru_cache(maxsize=65536)  # on many paths a size fares alike
def _size_fate(fate: tuple[int, int, int, int]) -> c.SizeFate:
    return c.SizeFate(*fate)


def path_row(
    number: int, ledger: paths.PathLedger, w: paths.Weighed, verdict: tuple[str, Draft] | None, conn_id: dict[int, int]
) -> c.Path:
    """The row of paths[]: a loss bounds the MTU from above only where a rule found that size decides."""
    name = verdict[0] if verdict else None
    by_size = name in ("black-hole", "icmp-ignored", "recovered", "pmtud-working")
    below = w.mtu_below_by_loss if by_size else None
    if w.icmp_mtu:
        below = min(below, w.icmp_mtu + 1) if below is not None else w.icmp_mtu + 1
    at_least = w.mtu_at_least
    if at_least is None and not by_size:
        at_least = max(ledger.delivered, default=None)
    if below is not None and at_least is not None and at_least >= below:
        at_least = max((s for s in ledger.delivered if s < below), default=None)
    facts = w.subject.facts
    vantage = _VANTAGE_OF_SERVER if facts.get("sender_is") == "server" else _VANTAGE
    if name is None:
        name = "no-fault" if ledger.delivered else "unknown"
    return c.Path(
        id=number,
        sender=ledger.sender,
        receiver=ledger.receiver,
        verdict=name,  # type: ignore[arg-type]
        mtu_at_least=at_least,
        mtu_below=below,
        icmp_mtu=w.icmp_mtu,
        links=paths.links_for(at_least, below),
        connections=tuple(sorted(conn_id[k] for k in ledger.connections if k in conn_id)),
        messages_stuck=len(w.stuck_messages),
        sizes=tuple(map(_size_fate, paths.sizes_of(ledger))),
        icmp_frames=tuple(c.Frame(*f) for f in w.icmp_frames),
        vantage=vantage.get(facts.get("captured_at"), "unknown"),
    )


def silent_rows(ledgers: Ledgers, conn_id: dict[int, int]) -> list[c.Path]:
    """The rows of the paths that no rule has anything to say about: what `path_row` gives, made out of columns."""
    regular = ledgers.regular
    listed = np.zeros(len(regular.talks) + 1, np.int64)
    listed[list(conn_id)] = list(conn_id.values())
    columns = zip(
        *(regular.senders, regular.receivers, regular.largest_delivered, regular.at),
        *(regular.connections(listed), regular.sizes(_size_fate)),
        strict=True,
    )
    give_back()
    return [
        c.Path(
            id=ledgers.silent[i],
            sender=sender,
            receiver=receiver,
            verdict="no-fault" if largest else "unknown",
            mtu_at_least=largest or None,
            mtu_below=None,
            icmp_mtu=None,
            links=(),
            connections=connections,
            messages_stuck=0,
            sizes=sizes,
            vantage=_VANTAGE.get(at, "unknown"),
        )
        for i, (sender, receiver, largest, at, connections, sizes) in enumerate(columns)
        if i in ledgers.silent
    ]


def finding_row(
    number: int, d: Draft, conn_id: dict[int, int], mail_id: dict[int, int], path_id: dict[int, int]
) -> c.Finding:
    evidence = tuple(
        c.Evidence(
            conn_id.get(e["connection"]) if e.get("connection") is not None else None,
            tuple(c.Frame(*f) for f in e["frames"]),
            e["display_filter"],
            e["note"],
        )
        for e in d.evidence
    )
    return c.Finding(
        id=number,
        rule=d.rule,
        title=d.title,
        role=d.role,  # type: ignore[arg-type]
        explained_by=d.explained_by + 1 if d.explained_by is not None else None,
        severity=d.severity,  # type: ignore[arg-type]
        confidence=d.confidence,  # type: ignore[arg-type]
        scope=d.scope,  # type: ignore[arg-type]
        sender=d.sender,
        receiver=d.receiver,
        connections=tuple(sorted(conn_id[k] for k in d.connections if k in conn_id)),
        messages=tuple(sorted(mail_id[k] for k in d.messages if k in mail_id)),
        paths=tuple(sorted(path_id[k] for k in d.paths if k in path_id)),
        evidence=evidence,
        facts={k: list(v) if isinstance(v, tuple) else v for k, v in d.facts.items()},
        explanation=d.explanation,
        against=d.against,
        rivals=tuple(c.Rival(*r) for r in d.rivals),
        remedies=tuple(c.Remedy(a.who, a.host, a.what, a.commands, a.check) for a in d.remedies),  # type: ignore[arg-type]
        fingerprint=d.fingerprint,
    )


def seen_twice(talks: Sequence[mails.Talk], points: dict[int, int]) -> list[str]:
    """Connections that two of the captures hold: said, and told apart."""
    if len(set(points.values())) < 2:
        return []
    where: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for t in talks:
        where[(t.client, t.server)].add(t.first_frame[0])
    both = [ids for ids in where.values() if len({points.get(i, 0) for i in ids}) > 1]
    if not both:
        return []
    ids = sorted(set().union(*both))
    named = " and ".join(map(str, ids[:4]))
    what = "1 connection stands" if len(both) == 1 else f"{len(both)} connections stand"
    text = f"{what} in several captures ({named}), taken at different points: once for each in the lists."
    return [f"{text} smtpscope compare tells what happened between the points."]


def passed_over_notes(talks: Sequence[mails.Talk], conn_id: dict[int, int]) -> list[str]:
    """What was not read of connections that were captured: by what, and where."""
    where: dict[str, list[int]] = defaultdict(list)
    for t in talks:
        for note in t.dialogue.passed_over:
            where[note].append(conn_id[t.key])
    out = []
    for note, ids in where.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        out.append(f"Connection{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:3]))}{more}: {note}.")
    return out
