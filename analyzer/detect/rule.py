"""A rule: one YAML file that is its own documentation and holds its own examples.

`load(paths)` reads the built-in pack and the user's packs into a `RulePack`. Whatever is wrong with a file is a RuleError
that begins with ``file:line:``. `KEYS` is the one table of keys; the JSON Schema for editors is made from it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..errors import RuleError
from .condition import ALWAYS, Condition, Scope, compile_when
from .document import MAX_BYTES, Node, did_you_mean, parse
from .facts import KINDS, TOPICS, VOCABULARY, Kind
from .wording import Template, plain_template, template

ROLES = ("cause", "symptom", "observation")
SEVERITIES = ("info", "low", "medium", "high", "critical")
CONFIDENCES = ("possible", "likely", "certain")
SCOPES = ("message", "connection", "server", "path", "host")
VERDICTS = ("icmp-ignored", "black-hole", "recovered", "pmtud-working", "outage", "lossy")
WHO = ("sender-admin", "receiver-admin", "client-admin", "server-admin", "network", "firewall")
MERGES = ("endpoints", "receiver", "sender", "nothing")
SHARINGS = ("messages", "connections", "paths", "endpoints", "receiver")
MAX_RULES = 1_000  # a pack of one's own has a handful; this keeps a wrong folder from being read for minutes

RULE_ID = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

REQUIRED = ("id", "about", "title", "role", "subject", "scope", "when", "grades", "explanation", "remedies", "examples")
OPTIONAL = (
    "verdict", "thresholds", "merge", "one_host_from", "yields_to", "explained_by", "evidence", "weighing", "facts",
    "references", "false_positives",
)  # fmt: skip


class Threshold(NamedTuple):
    value: int | float
    why: str  # the reason for this number


class Grade(NamedTuple):
    """How bad and how sure, when this holds. The first grade that holds is taken; none: the rule does not fire."""

    severity: str
    confidence: str
    when: Condition
    role: str
    title: str
    because: str | None


class RemedyTemplate(NamedTuple):
    """Advice to one party. `commands`: (system it is for, or None; command line or lines)."""

    who: str
    host: Template | None
    when: Condition
    what: Template
    commands: tuple[tuple[str | None, Template], ...]
    check: Template


class Rule(NamedTuple):
    """One rule, checked and compiled."""

    id: str
    about: str  # one sentence: when it fires
    role: str
    subject: Kind
    scope: str
    title: str
    when: Condition
    grades: tuple[Grade, ...]
    explanation: tuple[Template, ...]
    remedies: tuple[RemedyTemplate, ...]
    fires_on: tuple[str, ...]  # names of sample captures
    quiet_on: tuple[str, ...]
    file: str
    verdict: str | None = None  # what it makes of the path
    thresholds: Mapping[str, Threshold] = {}
    merge: str = "nothing"  # which findings of this rule are one
    one_host_from: int | None = (
        None  # that many broken paths of one sender, and none that works: one finding of the host
    )
    yields_to: tuple[str, ...] = ()  # rules that, fired on the same subject, make this one superfluous
    explained_by: tuple[tuple[str, str], ...] = ()  # (what they must share, cause rule), in order
    evidence: frozenset[str] | None = None  # topics that it shows; None: all
    weighing: bool = False  # show what speaks against, and the rivals
    facts: tuple[str, ...] = ()  # shown in the finding, also when not seen
    uses: tuple[str, ...] = ()  # all facts that it names anywhere; shown when seen
    references: tuple[str, ...] = ()
    false_positives: tuple[str, ...] = ()
    lines: int = 0  # line of the id, for messages about the whole pack


@dataclass(frozen=True, slots=True)
class RulePack:
    """All rules that are asked, by id, in the order of their ids."""

    rules: tuple[Rule, ...]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def get(self, rule_id: str) -> Rule:
        """The rule of that id; RuleError with the nearest id when there is none."""
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        raise RuleError(f"no rule {rule_id[:60]!r}{did_you_mean(rule_id, [rule.id for rule in self.rules])}")


def built_in() -> Path:
    """The folder of the built-in pack: inside the wheel, or rules/ of the checkout (an editable install too)."""
    package = Path(__file__).parent.parent
    shipped = package / "_rules"
    return shipped if shipped.is_dir() else package.parent / "rules"


def load(paths: Iterable[str | os.PathLike[str]] = (), *, with_built_in: bool = True) -> RulePack:
    """The built-in pack and the packs at `paths` (files, or folders of .yaml files). Raises RuleError."""
    packs = [os.fspath(path) for path in paths]
    shipped = os.fspath(built_in())
    if with_built_in:
        packs.insert(0, shipped)
    rules: dict[str, Rule] = {}
    for file in _files(packs):
        rule = _read_once(file, os.stat(file).st_mtime_ns) if os.path.dirname(file) == shipped else read(file)
        if rule.id in rules:
            first = rules[rule.id]
            raise RuleError(f"{file}:{rule.lines}: rule {rule.id!r} exists already, in {first.file}:{first.lines}")
        rules[rule.id] = rule
    if not rules:
        raise RuleError(f"{packs[0] if packs else '.'}: no rule files (*.yaml) here")
    known = set(rules) if with_built_in else {*rules, *(path.stem for path in built_in().glob("*.yaml"))}
    _check_names(rules, known)
    return RulePack(tuple(rules[rule_id] for rule_id in sorted(rules)))


def _files(packs: Sequence[str]) -> list[str]:
    files: list[str] = []
    for pack in packs:
        if not os.path.isdir(pack):
            files.append(pack)
            continue
        try:
            with os.scandir(pack) as entries:
                found = sorted(entry.path for entry in entries if entry.name.endswith((".yaml", ".yml")))
        except OSError as error:
            raise RuleError(f"{pack}: {error.strerror}") from None
        if not found:
            raise RuleError(f"{pack}: no rule files (*.yaml) in this folder")
        files += found
        if len(files) > MAX_RULES:
            raise RuleError(f"{pack}: {len(files)} rule files; at most {MAX_RULES} are read")
    return files


@lru_cache(maxsize=MAX_RULES)
def _read_once(file: str, _changed_ns: int) -> Rule:
    """A rule of the built-in pack, which many cases ask: reading it takes longer than reading a small capture."""
    return read(file)


def read(file: str) -> Rule:
    """The rule in one file."""
    return build(parse(_text(file), file))


def _text(file: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise RuleError(f"{file}: not a regular file")
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RuleError(f"{file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise RuleError(f"{file}: larger than {MAX_BYTES} bytes; one file holds one rule")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RuleError(f"{file}:{line}: not UTF-8") from None


def build(root: Node) -> Rule:
    """A rule from its parsed file. Raises RuleError with file:line."""
    keys = root.mapping("a rule", REQUIRED, OPTIONAL)
    subject = keys["subject"].choice("subject", KINDS)
    thresholds = _thresholds(keys.get("thresholds"))
    scope = Scope(subject, {name: threshold.value for name, threshold in thresholds.items()})  # type: ignore[arg-type]
    role, title = keys["role"].choice("role", ROLES), keys["title"].text("title")
    when = compile_when(keys["when"], scope)
    grades = tuple(_grade(node, scope, role, title) for node in keys["grades"].sequence("grades"))
    explanation = tuple(template(node, scope, "explanation") for node in keys["explanation"].sequence("explanation"))
    remedies = tuple(_remedy(node, scope) for node in keys["remedies"].sequence("remedies", at_least=0))
    fires_on, quiet_on = _examples(keys["examples"])
    shown = keys["facts"].sequence("facts") if "facts" in keys else []
    facts = tuple(scope.fact(node.text("facts"), node).name for node in shown)
    one_host_from = _host_threshold(keys.get("one_host_from"), scope)
    for name in thresholds:
        if name not in scope.used_thresholds:
            assert keys["thresholds"].value
            keys["thresholds"].value[name].fail(f"threshold {name[:60]!r} is never used")
    return Rule(
        id=_rule_id(keys["id"]),
        about=" ".join(keys["about"].text("about").split()),
        role=role,
        subject=subject,  # type: ignore[arg-type]
        scope=keys["scope"].choice("scope", SCOPES),
        title=title,
        when=when,
        grades=grades,
        explanation=explanation,
        remedies=remedies,
        fires_on=fires_on,
        quiet_on=quiet_on,
        file=root.file,
        verdict=_verdict(keys.get("verdict"), subject),
        thresholds=thresholds,
        merge=keys["merge"].choice("merge", MERGES) if "merge" in keys else "nothing",
        one_host_from=one_host_from,
        yields_to=keys["yields_to"].texts("yields_to") if "yields_to" in keys else (),
        explained_by=_explained_by(keys.get("explained_by"), role, grades),
        evidence=_topics(keys.get("evidence")),
        weighing=keys["weighing"].flag("weighing") if "weighing" in keys else False,
        facts=facts,
        uses=tuple(name for name in VOCABULARY[scope.kind] if name in scope.used_facts),
        references=keys["references"].texts("references") if "references" in keys else (),
        false_positives=keys["false_positives"].texts("false_positives") if "false_positives" in keys else (),
        lines=keys["id"].line,
    )


def _rule_id(node: Node) -> str:
    rule_id = node.text("id")
    if not RULE_ID.fullmatch(rule_id) or len(rule_id) > 60:
        node.fail(f"an id is lower-case words joined by '-'; not {node.kind}")
    return rule_id


def _thresholds(node: Node | None) -> dict[str, Threshold]:
    if node is None:
        return {}
    thresholds: dict[str, Threshold] = {}
    for name, entry in node.mapping("thresholds").items():
        keys = entry.mapping(f"threshold {name[:60]!r}", required=("value", "why"))
        thresholds[name] = Threshold(keys["value"].number("value"), " ".join(keys["why"].text("why").split()))
    return thresholds


def _grade(node: Node, scope: Scope, role: str, title: str) -> Grade:
    keys = node.mapping("a grade", ("severity", "confidence"), ("when", "role", "title", "because"))
    return Grade(
        severity=keys["severity"].choice("severity", SEVERITIES),
        confidence=keys["confidence"].choice("confidence", CONFIDENCES),
        when=compile_when(keys["when"], scope) if "when" in keys else ALWAYS,
        role=keys["role"].choice("role", ROLES) if "role" in keys else role,
        title=keys["title"].text("title") if "title" in keys else title,
        because=" ".join(keys["because"].text("because").split()) if "because" in keys else None,
    )


def _remedy(node: Node, scope: Scope) -> RemedyTemplate:
    keys = node.mapping("a remedy", ("who", "what", "check"), ("host", "when", "commands"))
    commands = keys["commands"].sequence("commands") if "commands" in keys else []
    return RemedyTemplate(
        who=keys["who"].choice("who", WHO),
        host=plain_template(keys["host"], scope, "host") if "host" in keys else None,
        when=compile_when(keys["when"], scope) if "when" in keys else ALWAYS,
        what=template(keys["what"], scope, "what"),
        commands=tuple(_command(command, scope) for command in commands),
        check=template(keys["check"], scope, "check"),
    )


def _command(node: Node, scope: Scope) -> tuple[str | None, Template]:
    if node.is_text:
        return None, plain_template(node, scope, "a command")
    keys = node.mapping("a command", required=("run",), optional=("for", "when"))
    when = compile_when(keys["when"], scope) if "when" in keys else ALWAYS
    system = keys["for"].text("for") if "for" in keys else None
    return system, plain_template(keys["run"], scope, "run", when)


def _examples(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    keys = node.mapping("examples", optional=("fires_on", "quiet_on"))
    lists = [
        tuple(name.text(key) for name in keys[key].sequence(key, at_least=0)) if key in keys else ()
        for key in ("fires_on", "quiet_on")
    ]
    return lists[0], lists[1]


def _host_threshold(node: Node | None, scope: Scope) -> int | None:
    if node is None:
        return None
    if scope.kind != "path":
        node.fail("one_host_from is for rules about a path")
    if node.is_text and node.value.startswith("$"):
        return int(scope.threshold(node.value[1:], node))
    return int(node.number("one_host_from"))


def _verdict(node: Node | None, subject: str) -> str | None:
    if node is None:
        return None
    if subject != "path":
        node.fail("only a rule about a path has a verdict")
    return node.choice("verdict", VERDICTS)


def _explained_by(node: Node | None, role: str, grades: Sequence[Grade]) -> tuple[tuple[str, str], ...]:
    if node is None:
        return ()
    if role == "cause" and all(grade.role == "cause" for grade in grades):
        node.fail("a cause is not explained by another finding; use yields_to")
    links = node.mapping("explained_by", optional=SHARINGS)
    return tuple((sharing, rule_id) for sharing, ids in links.items() for rule_id in ids.texts(sharing))


def _topics(node: Node | None) -> frozenset[str] | None:
    if node is None:
        return None
    return frozenset(topic.choice("evidence", TOPICS) for topic in node.sequence("evidence"))


def _check_names(rules: dict[str, Rule], known: set[str]) -> None:
    """Every rule named by another exists (the built-in ones always do), and none yields in a circle."""
    for rule in rules.values():
        for other in (*rule.yields_to, *(rule_id for _, rule_id in rule.explained_by)):
            if other not in known:
                hint = did_you_mean(other, sorted(known))
                raise RuleError(f"{rule.file}:{rule.lines}: unknown rule {other[:60]!r}{hint}")
    safe: set[str] = set()
    for rule in rules.values():
        _follow_yields(rule, rules, safe)


def _follow_yields(start: Rule, rules: dict[str, Rule], safe: set[str]) -> None:
    trail: list[str] = []
    pending: list[tuple[str, bool]] = [(start.id, False)]
    while pending:
        rule_id, done = pending.pop()
        if done:
            trail.pop()
            safe.add(rule_id)
        elif rule_id in trail:
            rule = rules[rule_id]
            raise RuleError(f"{rule.file}:{rule.lines}: yields_to goes in a circle: {' > '.join((*trail, rule_id))}")
        elif rule_id in rules and rule_id not in safe:
            trail.append(rule_id)
            pending.append((rule_id, True))
            pending += [(other, False) for other in rules[rule_id].yields_to]
