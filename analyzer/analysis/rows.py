"""The rows of a case: what is told of a connection, a mail, a path, a finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import compress, count, repeat
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from .. import case as c
from ..detect import mails, paths
from ..detect.engine import Draft
from .ledgers import Ledgers
from .memory import give_back

T = TypeVar("T")

# by where a sender's data are captured: of the client's, of the server's
_VANTAGE: dict[Any, c.Vantage] = {"at_sender": "client-side", "at_receiver": "server-side", "middle": "middle"}
_VANTAGE_OF_SERVER: dict[Any, c.Vantage] = {
    "at_sender": "server-side",
    "at_receiver": "client-side",
    "middle": "middle",
}


# Rows of which a case has many are made field by field: in half the time that one by one with names would take.


def connection_rows(talks: Sequence[mails.Talk]) -> list[c.Connection]:
    """Of each its row, numbered from 1."""
    said = {id(t.dialogue): t.dialogue for t in talks}  # many talks share one
    told = {
        i: (d.tls, d.greeting and d.greeting.text, d.is_smtp, d.client_name, d.phase, d.keywords)
        for i, d in said.items()
    }
    tls, banner, is_smtp, client_name, phase, keywords = _transposed((told[id(t.dialogue)] for t in talks), 6)
    return _rows(
        c.Connection,
        talks,
        id=count(1),
        client=_tuples(c.Endpoint, (t.client for t in talks)),
        server=_tuples(c.Endpoint, (t.server for t in talks)),
        tls=tls,
        banner=banner,
        vantage=(_VANTAGE.get(t.at, "unknown") for t in talks),
        first_frame=_tuples(c.Frame, (t.first_frame for t in talks)),
        is_smtp=is_smtp,
        client_name=client_name,
        phase=phase,
        ehlo_keywords=keywords,
    )


def message_rows(records: Sequence[mails.MailRecord], connections: Iterable[int]) -> list[c.Message]:
    """Of each its row, numbered from 1; `connections`: the numbers of theirs."""
    ends = (
        m.cuts
        and c.Terminator(m.cuts.pieces, m.cuts.cut_at, bool(m.cuts.inferred), tuple(_tuples(c.Frame, m.end_frames)))
        for m in records
    )
    return _rows(c.Message, records, id=count(1), connection=connections, terminator=ends)


def _rows(kind: type[T], told: Sequence[Any], **columns: Iterable[Any]) -> list[T]:
    """Rows of this kind; the fields for which there is no column stand in `told` under the same name."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    assert columns.keys() <= set(names), columns.keys()
    return [*map(kind, *(columns[name] if name in columns else map(attrgetter(name), told) for name in names))]


def _tuples(kind: type[T], tuples: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Each as this kind of NamedTuple."""
    return map(tuple.__new__, repeat(kind), tuples)  # type: ignore[arg-type]


def _transposed(rows: Iterable[tuple[Any, ...]], width: int) -> Sequence[Sequence[Any]]:
    return [*zip(*rows, strict=True)] or [()] * width


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
    columns = (
        *(regular.senders, regular.receivers, regular.largest_delivered, regular.at),
        *(regular.connections(listed), regular.sizes(_size_fate)),
    )
    silent = [i in ledgers.silent for i in range(len(regular))]
    senders, receivers, largest, at, connections, sizes = (compress(column, silent) for column in columns)
    at_least, verdict = _transposed(((size or None, "no-fault" if size else "unknown") for size in largest), 2)
    give_back()
    return _rows(
        c.Path,
        (),
        id=ledgers.silent.values(),
        sender=senders,
        receiver=receivers,
        verdict=verdict,
        mtu_at_least=at_least,
        mtu_below=repeat(None),
        icmp_mtu=repeat(None),
        links=repeat(()),
        connections=connections,
        messages_stuck=repeat(0),
        sizes=sizes,
        icmp_frames=repeat(()),
        vantage=(_VANTAGE.get(where, "unknown") for where in at),
    )


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
