"""The summary case: what all cases together say. One bad tunnel seen in 900 captures is one finding.

Findings are merged in two steps. The same rule about the same two hosts is one finding, whatever capture it was seen
in. Then broken paths are merged as far as one broken link explains them: between the same two networks; else all paths
from (or to) one host, if none of its other paths carries what these lose. Different pairs of hosts whose path MTUs cannot
be equal are never merged: they have different bottlenecks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from ..case import CONFIDENCES, SEVERITIES

SCHEMA = "smtpscope-batch/1"

# Neighbours in one network share the way to it: the longest prefixes that are routed between networks (RFC 7454 6.1.3).
NETWORK_BITS = {4: 24, 6: 48}

# Three broken paths of one host and none that works: what analysis asks for within a case (`one_host_from` of the rules).
FEWEST_PATHS_OF_A_HOST = 3

# How many cases a finding names in summary.json: enough to look at; the tables have them all.
NAMED_CASES = 100

MAILS = ("delivered", "rejected", "deferred", "end-of-data-timeout", "lost-connection", "aborted", "unknown")
HUNG = ("end-of-data-timeout", "lost-connection")


@dataclass(slots=True)
class Merged:
    """One finding over all cases."""

    rule: str
    role: str
    pairs: set[tuple[str | None, str | None]] = field(default_factory=set)  # sender, receiver
    cases: dict[str, None] = field(default_factory=dict)  # keys in order
    days: Counter[str] = field(default_factory=Counter)  # cases per day
    fingerprints: set[str] = field(default_factory=set)
    connections: int = 0
    messages: int = 0
    at_least: int | None = None  # path MTU in bytes, as all the cases allow it
    below: int | None = None
    unexplained: int = 0  # cases in which nothing explains it
    best: dict[str, Any] = field(default_factory=dict)  # the gravest and surest of the cases speaks for all
    best_case: tuple[str, str] = ("", "")  # key and title

    def add(self, finding: dict[str, Any], paths: Sequence[dict[str, Any]], case: tuple[str, str], day: str) -> None:
        key = case[0]
        self.pairs.update({(p["sender"], p["receiver"]) for p in paths} or {(finding["sender"], finding["receiver"])})
        if key not in self.cases:
            self.cases[key] = None
            self.days[day] += 1
        self.fingerprints.add(finding["fingerprint"])
        self.connections += len(finding["connections"])
        self.messages += len(finding["messages"])
        self._narrow(finding["facts"].get("mtu_at_least"), finding["facts"].get("mtu_below"))
        self.unexplained += finding["explained_by"] is None
        if not self.best or _weight(finding) > _weight(self.best):
            self.best, self.best_case = finding, case

    def take(self, other: Merged) -> None:
        self.pairs |= other.pairs
        for key in other.cases:
            self.cases[key] = None
        self.days += other.days
        self.fingerprints |= other.fingerprints
        self.connections += other.connections
        self.messages += other.messages
        self._narrow(other.at_least, other.below)
        self.unexplained += other.unexplained
        if _weight(other.best) > _weight(self.best):
            self.best, self.best_case = other.best, other.best_case

    def _narrow(self, at_least: Any, below: Any) -> None:
        if isinstance(at_least, int):
            self.at_least = max(self.at_least or 0, at_least)
        if isinstance(below, int):
            self.below = min(self.below or below, below)

    def ends(self, which: int) -> list[str]:
        return sorted({pair[which] or "" for pair in self.pairs} - {""})

    def document(self) -> dict[str, Any]:
        best = self.best
        fits = self.at_least is None or self.below is None or self.at_least < self.below
        return {
            **{name: best[name] for name in ("rule", "title", "role", "severity", "confidence")},
            "explained": not self.unexplained,
            "senders": self.ends(0),
            "receivers": self.ends(1),
            # a path that changed in the meantime allows no bracket
            "mtu_at_least": self.at_least if fits else None,
            "mtu_below": self.below if fits else None,
            "case_count": len(self.cases),
            "connections": self.connections,
            "messages": self.messages,
            "days": dict(sorted(self.days.items())),
            "example": {
                "case": self.best_case[0],
                "title": self.best_case[1],
                "finding": best["id"],
                "explanation": best["explanation"],
            },
            "remedies": best["remedies"],
            "cases": list(self.cases)[:NAMED_CASES],
            "fingerprints": sorted(self.fingerprints),
        }


def _weight(finding: Mapping[str, Any]) -> tuple[int, int, int]:
    return (
        finding["explained_by"] is None,
        SEVERITIES.index(finding["severity"]),
        CONFIDENCES.index(finding["confidence"]),
    )


@dataclass(slots=True)
class Tally:
    """Connections and mails of a day, of a destination, or of a destination on a day."""

    connections: int = 0
    mails: Counter[str] = field(default_factory=Counter)  # outcome -> mails

    def document(self) -> dict[str, int]:
        return {"connections": self.connections, **{outcome: self.mails[outcome] for outcome in MAILS}}

    @property
    def hung(self) -> int:
        return sum(self.mails[outcome] for outcome in HUNG)


@dataclass(slots=True)
class Summary:
    """Takes the documents of the cases one after the other; keeps what the summary needs and nothing else."""

    units: Counter[str] = field(default_factory=Counter)  # done, failed, skipped, incomplete, left
    captures: int = 0
    frames: int = 0
    bytes: int = 0
    trends: dict[tuple[str, str], Tally] = field(default_factory=dict)  # (day, destination)
    troubles: list[dict[str, Any]] = field(default_factory=list)  # failed or incomplete units
    counting: int = 0  # findings that count for --fail-on
    interrupted: bool = False
    _groups: dict[tuple[object, ...], Merged] = field(default_factory=dict)
    _delivered: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (sender, receiver) -> largest packet that passed

    def add(self, document: dict[str, Any], key: str, title: str) -> str:
        """Takes one case; gives the day on which its capture began, or ''."""
        day = day_of(document)
        self.captures += len(document["captures"])
        self.frames += sum(c["frames"] for c in document["captures"])
        self.bytes += sum(c["bytes"] for c in document["captures"])
        self.units["done"] += 1
        if not document["complete"]:
            self.units["incomplete"] += 1
            told = "; ".join(p for c in document["captures"] for p in c["problems"]) or "not read to its end"
            self.troubles.append({"case": key, "title": title, "state": "incomplete", "reason": told})
        self._count(document)
        paths = {p["id"]: p for p in document["paths"]}
        for path in paths.values():
            pair = (path["sender"], path["receiver"])
            self._delivered[pair] = max(self._delivered.get(pair, 0), path["mtu_at_least"] or 0)
        for finding in document["findings"]:
            ends = (finding["sender"], finding["receiver"])
            what = ends if all(ends) else (*ends, finding["fingerprint"])
            group = (finding["rule"], finding["role"], *what)
            if group not in self._groups:
                self._groups[group] = Merged(finding["rule"], finding["role"])
            self._groups[group].add(finding, [paths[p] for p in finding["paths"]], (key, title), day)
        return day

    def fail(self, key: str, title: str, reason: str) -> None:
        self.units["failed"] += 1
        self.troubles.append({"case": key, "title": title, "state": "failed", "reason": reason})

    def _count(self, document: dict[str, Any]) -> None:
        ends = {c["id"]: (c["start"][:10], c["server"]["ip"]) for c in document["connections"]}
        for place in ends.values():
            self.trends.setdefault(place, Tally()).connections += 1
        for message in document["messages"]:
            day, server = ends[message["connection"]]
            place = ((message["start"] or day)[:10], server)
            self.trends.setdefault(place, Tally()).mails[message["outcome"]] += 1

    # -- one finding for one fault ---------------------------------------------------------------------------------

    def findings(self) -> list[Merged]:
        """The findings over all cases, the gravest first."""
        merged = [_copy(group) for group in self._groups.values()]
        for same in (_networks, _one_sender, _one_receiver):
            merged = list(self._merge(merged, same))
        return sorted(merged, key=lambda m: (m.role != "cause", *(-w for w in _weight(m.best)), -len(m.cases), m.rule, m.ends(0), m.ends(1)))  # fmt: skip

    def _merge(self, groups: Iterable[Merged], same: Any) -> Iterator[Merged]:
        together: dict[object, list[Merged]] = {}
        for group in groups:
            place = same(group) if _is_of_a_path(group) else None
            together.setdefault((group.rule, place) if place else id(group), []).append(group)
        for members in together.values():
            if len(members) > 1 and self._is_one_fault(members, same):
                first, *others = members
                for other in others:
                    first.take(other)
                yield first
            else:
                yield from members

    def _is_one_fault(self, members: Sequence[Merged], same: Any) -> bool:
        lows = [m.at_least for m in members if m.at_least is not None]
        below = min(m.below for m in members if m.below is not None)
        if lows and max(lows) >= below:
            return False
        broken = {pair for m in members for pair in m.pairs}
        if same is not _networks and len(broken) < FEWEST_PATHS_OF_A_HOST:
            return False
        place = same(members[0])
        others = [
            pair for pair in self._delivered if pair not in broken and same(_pair_alone(members[0], pair)) == place
        ]
        return all(self._delivered[pair] < below for pair in others)

    # -- the document ------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """The summary as JSON values, schema smtpscope-batch/1."""
        days: dict[str, Tally] = {}
        servers: dict[str, Tally] = {}
        seen: dict[str, list[str]] = {}
        for (day, server), tally in sorted(self.trends.items()):
            for table, name in ((days, day), (servers, server)):
                total = table.setdefault(name, Tally())
                total.connections += tally.connections
                total.mails += tally.mails
            seen.setdefault(server, []).append(day)
        findings = self.findings()
        return {
            "schema": SCHEMA,
            "complete": not (self.interrupted or self.units["failed"] or self.units["incomplete"] or self.units["left"]),
            "interrupted": self.interrupted,
            "units": {name: self.units[name] for name in ("done", "failed", "incomplete", "skipped", "left")},
            "captures": self.captures,
            "frames": self.frames,
            "bytes": self.bytes,
            "findings": [finding.document() for finding in findings],
            "destinations": [
                {"server": server, **tally.document(), "first_day": seen[server][0], "last_day": seen[server][-1]}
                for server, tally in sorted(servers.items(), key=lambda item: (-item[1].hung, item[0]))
            ],
            "days": [{"day": day, **tally.document(), "causes": _causes(findings, day)} for day, tally in days.items()],
            "troubles": self.troubles,
        }  # fmt: skip


def day_of(document: dict[str, Any]) -> str:
    """The UTC day on which the first packet was captured; '' when there is none."""
    return min((c["first"][:10] for c in document["captures"] if c["first"]), default="")


def _causes(findings: Sequence[Merged], day: str) -> int:
    return sum(1 for m in findings if m.role == "cause" and m.unexplained and day in m.days)


def _copy(group: Merged) -> Merged:
    copy = Merged(group.rule, group.role, best=group.best, best_case=group.best_case)
    copy.take(group)
    return copy


def _is_of_a_path(group: Merged) -> bool:
    """A cause that lost packets for their size between known hosts: the only kind that one link can explain."""
    return group.role == "cause" and group.below is not None and all(a and b for a, b in group.pairs)


def _pair_alone(group: Merged, pair: tuple[str | None, str | None]) -> Merged:
    return Merged(group.rule, group.role, pairs={pair})


def _networks(group: Merged) -> object:
    """The two networks that all of it lies between, or None."""
    places = {(_network(a), _network(b)) for a, b in group.pairs}
    return places.pop() if len(places) == 1 else None


def _one_sender(group: Merged) -> object:
    senders = group.ends(0)
    return ("from", senders[0]) if len(senders) == 1 else None


def _one_receiver(group: Merged) -> object:
    receivers = group.ends(1)
    return ("to", receivers[0]) if len(receivers) == 1 else None


def _network(address: str | None) -> object:
    try:
        ip = ip_address(address or "")
    except ValueError:
        return address
    return ip_network((ip, NETWORK_BITS[ip.version]), strict=False)
