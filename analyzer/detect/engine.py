"""Rules x subjects -> findings (as drafts: plain data, which `analysis` numbers and puts into the case).

    1. ask       every rule about every subject of its kind; the first grade that holds says how bad and how sure
    2. yield     on one subject, a rule gives way to the rules that it names: each path has at most one path-MTU verdict
    3. explain   a symptom is tied to the cause that it shares mails, connections or hosts with
    4. merge     one broken path is one finding; so are all broken paths of one host, and all mails of one cause
    5. word      texts and commands are filled with the facts

The result depends on the subjects alone, not on their order (so any number of jobs gives the same findings).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from .facts import Subject, Value, derive
from .rule import CONFIDENCES, ROLES, SEVERITIES, Grade, RemedyTemplate, Rule, RulePack
from .wording import Template

MAX_EVIDENCE = 12  # pieces shown in a finding of many mails: more is not read; all connections are still named
REMEMBERED = 4096  # answers of a screen
REMEMBERED_FACTS = 10  # of more of them hardly two subjects are alike
MAX_LISTED = 20  # as many counter-arguments and rivals


# Facts that a finding has as fields of its own.
_FIELDS = {"sender", "receiver", "client", "server", "connections_count", "messages_count", "paths_count"}


class Advice(NamedTuple):
    """What one party can do (case.Remedy without the case)."""

    who: str  # client-admin, server-admin, network, firewall
    host: str | None
    what: str
    commands: tuple[str, ...]
    check: str


@dataclass(slots=True)
class Draft:
    """A finding, before it has an id."""

    rule: str
    title: str
    role: str
    severity: str
    confidence: str
    scope: str
    verdict: str | None  # what it makes of its paths
    sender: str | None
    receiver: str | None
    connections: tuple[int, ...]
    messages: tuple[int, ...]
    paths: tuple[int, ...]
    evidence: tuple[dict[str, Any], ...]  # connection, frames, display_filter, note
    facts: dict[str, Value]
    explanation: str
    against: tuple[str, ...]
    rivals: tuple[tuple[str, str], ...]
    remedies: tuple[Advice, ...]
    fingerprint: str
    explained_by: int | None = None  # index of the cause in the list that `judge` returns


class _Hit(NamedTuple):
    """One rule that fired on one subject."""

    rule: Rule
    grade: Grade
    subject: Subject
    facts: dict[str, Value]

    @property
    def weight(self) -> tuple[int, int]:
        return SEVERITIES.index(self.grade.severity), CONFIDENCES.index(self.grade.confidence)


@dataclass(slots=True)
class _Group:
    """Hits that are one finding. `host`: the address whose paths are all broken, when that is what makes them one."""

    hits: list[_Hit]
    cause: _Group | None = None
    host: str | None = None
    connections: set[int] = field(default_factory=set)
    messages: set[int] = field(default_factory=set)
    paths: set[int] = field(default_factory=set)
    pairs: set[frozenset[str | None]] = field(default_factory=set)
    receivers: set[str | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hits.sort(key=lambda hit: (*(-part for part in hit.weight), _place(hit.subject)))
        for hit in self.hits:
            self.connections.update(hit.subject.connections)
            self.messages.update(hit.subject.messages)
            self.paths.update(hit.subject.paths)
            self.pairs.add(frozenset((hit.subject.sender, hit.subject.receiver)))
            self.receivers.add(hit.subject.receiver)

    @property
    def first(self) -> _Hit:
        """The worst and surest hit speaks for the group."""
        return self.hits[0]


def judge(
    pack: RulePack,
    subjects: Sequence[Subject],
    fingerprint_key: bytes | None = None,
    *,
    silent_at: Callable[[str], Iterable[Subject]] = lambda _: (),
) -> list[Draft]:
    """The findings about all subjects: causes first, then symptoms, then observations, each from the worst down.

    silent_at: the paths from or to a host on which no rule fires (see `screen`), which others are compared with.
    """
    hits = _ask(pack, subjects)
    causes = _merge_hosts(_merge(hit for hit in hits if hit.grade.role == "cause"), subjects, silent_at)
    others = _merge((hit for hit in hits if hit.grade.role != "cause"), causes)
    groups = sorted(causes + others, key=_rank)
    drafts = [_word(group, fingerprint_key) for group in groups]
    index = {id(group): position for position, group in enumerate(groups)}
    for group, draft in zip(groups, drafts, strict=True):
        draft.explained_by = index[id(group.cause)] if group.cause else None
    return drafts


# 1 and 2: ask, yield


def screen(pack: RulePack, kind: str, known: Collection[str]) -> Callable[[Mapping[str, Value]], bool]:
    """A test with a few facts, those `known`, that tells whether any rule can fire on a subject that has them.

    Subjects are costly and mostly fire nothing. What a rule demands of known facts alone is asked beforehand; a rule
    that demands nothing of them may always fire.
    """
    names = frozenset(known)
    asked = [[part for part in rule.when.parts if part.names <= names] for rule in pack if rule.subject == kind]
    demands = [[part.holds for part in parts] for parts in asked]
    used = tuple(sorted({name for parts in asked for part in parts for name in part.names}))
    answers: dict[tuple[Value, ...], bool] = {}

    def may_fire(facts: Mapping[str, Value]) -> bool:
        for tests in demands:
            for test in tests:
                if not test(facts):
                    break
            else:
                return True
        return False

    def remembered(facts: Mapping[str, Value]) -> bool:
        key = tuple(map(facts.get, used))
        answer = answers.get(key)
        if answer is None:
            if len(answers) >= REMEMBERED:
                answers.clear()
            answer = answers[key] = may_fire(facts)
        return answer

    # where few facts are asked for, most subjects say the same
    return remembered if len(used) <= REMEMBERED_FACTS else may_fire


def _ask(pack: RulePack, subjects: Sequence[Subject]) -> list[_Hit]:
    rules_of: dict[str, list[Rule]] = {}
    for rule in pack:
        rules_of.setdefault(rule.subject, []).append(rule)
    # nearly all subjects fire nothing: they are asked with the facts that they came with, unless a rule needs more
    tests_of = {
        kind: [rule.when.holds if rule.when.names.isdisjoint(ADDED) else _holds for rule in rules]
        for kind, rules in rules_of.items()
    }
    standing: list[_Hit] = []
    for subject in subjects:
        for test in tests_of.get(subject.kind, ()):
            if test(subject.facts):
                break
        else:
            continue
        facts = _complete(subject)
        hits = [hit for rule in rules_of.get(subject.kind, ()) if (hit := _fires(rule, subject, facts))]
        fired = {hit.rule.id for hit in hits}
        standing += [hit for hit in hits if fired.isdisjoint(hit.rule.yields_to)]
    return standing


def _holds(_: Mapping[str, Value]) -> bool:
    return True


# Facts that `_complete` adds: those of `derive`, both ends, and counts.
ADDED = frozenset(
    "ping_size_pass ping_size_fail mtu_to_set mtu_to_set_proven mss_clamp mtu_bracket_bytes "
    "sender receiver client server connections_count messages_count paths_count".split()
)


def _complete(subject: Subject) -> dict[str, Value]:
    facts = dict(subject.facts)
    if subject.kind == "path":
        facts |= derive(facts)
    facts |= _ends(subject.kind, facts, subject.sender, subject.receiver)
    facts["connections_count"], facts["messages_count"] = len(subject.connections), len(subject.messages)
    facts["paths_count"] = len(subject.paths)
    return facts


def _ends(kind: str, facts: Mapping[str, Value], sender: str | None, receiver: str | None) -> dict[str, Value]:
    """Both ends, by the direction of the data and by their part in the dialogue."""
    server_sends = facts.get("sender_is") == "server" or (kind == "server" and facts.get("sender_is") is None)
    client, server = (receiver, sender) if server_sends else (sender, receiver)
    return {"sender": sender, "receiver": receiver, "client": client, "server": server}


def _fires(rule: Rule, subject: Subject, facts: dict[str, Value]) -> _Hit | None:
    if not rule.when(facts):
        return None
    grade = next((grade for grade in rule.grades if grade.when(facts)), None)
    return _Hit(rule, grade, subject, facts) if grade else None


# 3 and 4: explain, merge


def _merge(hits: Iterable[_Hit], causes: Sequence[_Group] = ()) -> list[_Group]:
    """Groups of hits that are one finding; hits that different causes explain stay apart."""
    index = _index(causes)
    together: dict[tuple[object, ...], list[_Hit]] = {}
    cause_of: dict[int, _Group] = {}
    for hit in hits:
        found = _explanation_of(hit, index)
        if found:
            cause_of[id(hit)] = found
        together.setdefault((hit.rule.id, hit.grade.role, *_merge_key(hit), id(found)), []).append(hit)
    return [_Group(members, cause=cause_of.get(id(members[0]))) for members in together.values()]


def _merge_key(hit: _Hit) -> tuple[object, ...]:
    subject = hit.subject
    match hit.rule.merge:
        case "endpoints":
            return (subject.sender, subject.receiver)
        case "receiver":
            return (subject.receiver,)
        case "sender":
            return (subject.sender,)
        case _:
            return (id(subject),)


def _index(causes: Sequence[_Group]) -> dict[tuple[str, str, object], _Group]:
    """(cause rule, what is shared, the shared thing) -> cause; the first and worst cause wins."""
    index: dict[tuple[str, str, object], _Group] = {}
    for cause in sorted(causes, key=_rank):
        shared: dict[str, Iterable[object]] = {
            "messages": cause.messages,
            "connections": cause.connections,
            "paths": cause.paths,
            "endpoints": cause.pairs,
            "receiver": cause.receivers,
        }
        for sharing, things in shared.items():
            for thing in things:
                index.setdefault((cause.first.rule.id, sharing, thing), cause)
    return index


def _explanation_of(hit: _Hit, index: Mapping[tuple[str, str, object], _Group]) -> _Group | None:
    subject = hit.subject
    for sharing, rule_id in hit.rule.explained_by:
        things: Iterable[object]
        match sharing:
            case "messages" | "connections" | "paths":
                things = getattr(subject, sharing)
            case "endpoints":
                things = (frozenset((subject.sender, subject.receiver)),)
            case _:
                things = (subject.receiver,)
        for thing in things:
            if cause := index.get((rule_id, sharing, thing)):
                return cause
    return None


def _merge_hosts(
    groups: list[_Group], subjects: Sequence[Subject], silent_at: Callable[[str], Iterable[Subject]]
) -> list[_Group]:
    """Broken paths that begin (or end) at one host, and no path of that host that works: one finding of the host."""
    merged = groups
    if not any(group.first.rule.one_host_from for group in groups):
        return groups
    for end in ("sender", "receiver"):
        paths: dict[str | None, list[Subject]] = {}
        for subject in subjects:
            if subject.kind == "path":
                paths.setdefault(getattr(subject, end), []).append(subject)
        together: dict[tuple[str, str | None], list[_Group]] = {}
        rest: list[_Group] = []
        for group in merged:
            if group.host is None and group.first.rule.one_host_from:
                together.setdefault((group.first.rule.id, getattr(group.first.subject, end)), []).append(group)
            else:
                rest.append(group)
        for (_, host), members in together.items():
            hits = [hit for group in members for hit in group.hits]
            whole = False
            if host is not None:
                silent = (subject for subject in silent_at(host) if getattr(subject, end) == host)
                whole = _is_host_wide(hits, chain(paths.get(host, ()), silent))
            rest += [_Group(hits, host=host)] if whole else members
        merged = rest
    return merged


def _is_host_wide(hits: Sequence[_Hit], paths: Iterable[Subject]) -> bool:
    """Whether enough of a host's paths are broken alike and none of its others carries what they lose.

    `paths`: all of them, looked at only where enough are broken; a host may have ten thousand.
    """
    broken = {_pair(hit.subject) for hit in hits}
    if len(broken) < (hits[0].rule.one_host_from or 0):
        return False
    at_least, below = _common_bracket(hits)
    if at_least is not None and below is not None and at_least >= below:
        return False  # different bottlenecks
    facts = [path.facts for path in paths if _pair(path) not in broken]
    delivered = [known.get("largest_delivered_bytes") or known.get("mtu_at_least") for known in facts]
    return below is None or not any(isinstance(size, int) and size >= below for size in delivered)


def _common_bracket(hits: Sequence[_Hit]) -> tuple[int | None, int | None]:
    """The bracket [at_least, below) that all hits allow."""
    lows = [value for hit in hits if isinstance(value := hit.facts.get("mtu_at_least"), int)]
    highs = [value for hit in hits if isinstance(value := hit.facts.get("mtu_below"), int)]
    return max(lows, default=None), min(highs, default=None)


def _pair(subject: Subject) -> tuple[str | None, str | None]:
    return subject.sender, subject.receiver


def _place(subject: Subject) -> tuple[object, ...]:
    """Orders subjects by where they stand in the case, whatever order they came in."""
    numbers = [subject.messages[:1], subject.connections[:1], subject.paths[:1]]
    return (*numbers, subject.sender or "", subject.receiver or "", subject.key)


def _rank(group: _Group) -> tuple[object, ...]:
    hit = group.first
    severity, confidence = hit.weight
    return (ROLES.index(hit.grade.role), -severity, -confidence, hit.rule.id, _place(hit.subject))


# 5: word


def _word(group: _Group, fingerprint_key: bytes | None) -> Draft:
    hit, rule = group.first, group.first.rule
    facts = _facts_of(group)
    sender = hit.subject.sender if _same(group, "sender") else None
    receiver = hit.subject.receiver if _same(group, "receiver") else None
    texts = [text for item in rule.explanation if (text := item.fill(facts))]
    if hit.grade.because:
        texts.append(hit.grade.because)
    return Draft(
        rule=rule.id,
        title=hit.grade.title,
        role=hit.grade.role,
        severity=hit.grade.severity,
        confidence=hit.grade.confidence,
        scope="host" if group.host else rule.scope,
        verdict=rule.verdict,
        sender=sender,
        receiver=receiver,
        connections=tuple(sorted(group.connections)),
        messages=tuple(sorted(group.messages)),
        paths=tuple(sorted(group.paths)),
        evidence=_evidence(group),
        facts=_shown(rule, facts),
        explanation=" ".join(texts),
        against=_distinct(text for one in group.hits for text in one.subject.against) if rule.weighing else (),
        rivals=_distinct(rival for one in group.hits for rival in one.subject.rivals) if rule.weighing else (),
        remedies=tuple(advice for remedy in rule.remedies if (advice := _advise(remedy, facts))),
        fingerprint=_fingerprint(group, sender, receiver, fingerprint_key),
    )


def _facts_of(group: _Group) -> dict[str, Value]:
    """The facts of the hit that speaks for the group, with the group's counts; a host's paths share one bracket."""
    facts = dict(group.first.facts)
    facts["connections_count"], facts["messages_count"] = len(group.connections), len(group.messages)
    facts["paths_count"] = len(group.paths)
    sender, receiver = (
        getattr(group.first.subject, end)
        if _same(group, end)
        else f"{len({getattr(hit.subject, end) for hit in group.hits})} hosts"
        for end in ("sender", "receiver")
    )
    facts |= _ends(group.first.subject.kind, facts, sender, receiver)
    if group.host:
        at_least, below = _common_bracket(group.hits)
        facts["mtu_at_least"], facts["mtu_below"] = at_least, below
        facts |= derive(facts)
        for name in ("stuck_messages", "stuck_connections", "hole_connections"):
            counts = [value for hit in group.hits if isinstance(value := hit.facts.get(name), int)]
            facts[name] = sum(counts) if counts else None
    return facts


def _shown(rule: Rule, facts: Mapping[str, Value]) -> dict[str, Value]:
    """What the finding shows: the facts that the rule names for it (None: not seen), and what else it used and was seen."""
    return {
        name: facts.get(name)
        for name in rule.uses
        if name not in _FIELDS and (name in rule.facts or facts.get(name) is not None)
    }


def _same(group: _Group, end: str) -> bool:
    return len({getattr(hit.subject, end) for hit in group.hits}) == 1


def _evidence(group: _Group) -> tuple[dict[str, Any], ...]:
    """Evidence on the rule's topics, from each hit in turn, so that a merged finding shows several of its parts."""
    topics = group.first.rule.evidence
    lists = [
        [
            item
            for item in hit.subject.evidence
            if topics is None or item.get("topic") is None or item["topic"] in topics
        ]
        for hit in group.hits[:MAX_EVIDENCE]
    ]
    share = max(1, MAX_EVIDENCE // len(lists))
    chosen = [item for items in lists for item in (items if len(lists) == 1 else items[:share])][:MAX_EVIDENCE]
    return tuple({key: value for key, value in item.items() if key != "topic"} for item in chosen)


def _distinct(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))[:MAX_LISTED]


def _advise(remedy: RemedyTemplate, facts: Mapping[str, Value]) -> Advice | None:
    if not remedy.when(facts):
        return None
    what, check = remedy.what.fill(facts), remedy.check.fill(facts)
    if what is None:
        return None
    return Advice(
        who=_who(remedy.who, facts),
        host=remedy.host.fill(facts, command=True) if remedy.host else None,
        what=what,
        commands=tuple(line for system, text in remedy.commands if (line := _command(system, text, facts))),
        check=check or "",
    )


def _who(who: str, facts: Mapping[str, Value]) -> str:
    """sender-admin and receiver-admin are whoever sends the data here: client or server."""
    if who not in {"sender-admin", "receiver-admin"}:
        return who
    sender_is_client = facts.get("sender_is") != "server"
    return "client-admin" if (who == "sender-admin") == sender_is_client else "server-admin"


def _command(system: str | None, text: Template, facts: Mapping[str, Value]) -> str | None:
    """A command with the name of its system as a comment that this system takes (Cisco's comments stand on their own line)."""
    line = text.fill(facts, command=True)
    if line is None or system is None:
        return line
    if system.startswith("Cisco"):
        return f"! {system}\n{line}"
    return f"# {system}\n{line}" if "\n" in line else f"{line}  # {system}"


def _fingerprint(group: _Group, sender: str | None, receiver: str | None, key: bytes | None) -> str:
    """Stable over runs: rule, role, endpoints, what happened, what explains it. No frame numbers, no counts, no times."""
    cause = group.cause.first.rule.id if group.cause else ""
    what = sorted({hit.subject.key for hit in group.hits})
    hit = group.first
    scope = "host" if group.host else hit.rule.scope
    parts = [hit.rule.id, hit.grade.role, scope, sender or "*", receiver or "*", cause, *what]
    data = "\0".join(parts).encode("utf-8", "surrogatepass")
    return (hmac.new(key, data, hashlib.sha256) if key else hashlib.sha256(data)).hexdigest()[:32]
