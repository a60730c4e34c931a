"""`fact operator value` under all / any / none: checked when a rule is loaded, never eval'd.

    when:
      all:
        - stuck_sends >= $min_sends          # a threshold of the rule, by name
        - stuck_ip_bytes > largest_delivered_bytes   # another fact of the same unit
        - captured_at in [at_sender, middle]
      none:
        - ack_past_hole is true

Operators: == != < <= > >= for numbers, == != for names, `in [..]` and `not_in [..]` for both, `is true` / `is false` for
yes/no facts, `seen` / `not_seen` for all. A comparison with a fact that was not seen does not hold, whatever the
operator: `loss_ratio != 0` says that the ratio is known and is not 0.

`when` is a list (all must hold), one comparison, or a mapping with any of all, any, none (each must hold).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .document import Node, did_you_mean
from .facts import VOCABULARY, Fact, Kind, Value

MAX_DEPTH = 8  # of all / any / none in one another
MAX_COMPARISONS = 200  # in one rule
MAX_CHARACTERS = 300  # in one comparison; the longest built-in one has 60

Facts = Mapping[str, Value]
Test = Callable[[Facts], bool]

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS: dict[str, tuple[str, ...]] = {
    "int": (*_ORDER, "in", "not_in", "seen", "not_seen"),
    "float": (*_ORDER, "in", "not_in", "seen", "not_seen"),
    "bool": ("is", "seen", "not_seen"),
    "enum": ("==", "!=", "in", "not_in", "seen", "not_seen"),
    "str": ("==", "!=", "in", "not_in", "seen", "not_seen"),
    "words": ("seen", "not_seen"),
}
"""Which operators a fact of each type takes."""

# comparison = fact operator [ operand ] ; operand = number / "$" threshold / fact / name / quoted text / "[" list "]"
_COMPARISON = re.compile(r"\s*(?P<fact>\w+)\s*(?P<op>==|!=|<=|>=|<|>|\b[a-z_]+\b)\s*(?P<operand>.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(?:\.[0-9]{1,18})?")


@dataclass(slots=True)
class Scope:
    """What the conditions of one rule may name; remembers what they did name."""

    kind: Kind
    thresholds: Mapping[str, int | float]
    used_facts: set[str] = field(default_factory=set)
    used_thresholds: set[str] = field(default_factory=set)
    comparisons: int = 0

    def fact(self, name: str, node: Node) -> Fact:
        """The fact of that name; fails with the nearest name when there is none."""
        words = VOCABULARY[self.kind]
        if name not in words:
            elsewhere = [kind for kind, others in VOCABULARY.items() if name in others]
            if elsewhere:
                node.fail(f"fact {name!r} is about a {elsewhere[0]}, but this rule's subject is a {self.kind}")
            node.fail(f"unknown fact {name[:60]!r}{did_you_mean(name, list(words))}")
        self.used_facts.add(name)
        return words[name]

    def threshold(self, name: str, node: Node) -> int | float:
        if name not in self.thresholds:
            node.fail(f"unknown threshold '${name[:60]}'{did_you_mean(name, list(self.thresholds))}")
        self.used_thresholds.add(name)
        return self.thresholds[name]


class Condition(NamedTuple):
    """A compiled condition: call it with facts. `text` is how it reads, on one line.

    `names`: facts that it may look at. `parts`: conditions all of which must hold for it to hold; itself if it has none.
    """

    holds: Test
    text: str
    names: frozenset[str] = frozenset()
    inner: tuple[Condition, ...] = ()

    @property
    def parts(self) -> tuple[Condition, ...]:
        return tuple(part for one in self.inner for part in one.parts) or (self,)

    def __call__(self, facts: Facts) -> bool:
        return self.holds(facts)


ALWAYS = Condition(lambda _: True, "always")


def compile_when(node: Node, scope: Scope, depth: int = 1) -> Condition:
    """The condition that a `when` describes. Raises RuleError with file:line."""
    if depth > MAX_DEPTH:
        node.fail(f"conditions are nested deeper than {MAX_DEPTH} levels")
    if node.is_text:
        return _comparison(node, scope)
    if isinstance(node.value, list):
        return _all_of(_compiled("all", node, scope, depth))
    groups = node.mapping("a condition", optional=("all", "any", "none"))
    if not groups:
        node.fail("a condition is empty; expected all, any or none")
    parts = [_group(name, items, scope, depth) for name, items in groups.items() if name != "all"]
    if "all" in groups:
        parts = [*_compiled("all", groups["all"], scope, depth), *parts]
    return _all_of(parts)


def _compiled(name: str, node: Node, scope: Scope, depth: int) -> list[Condition]:
    return [compile_when(item, scope, depth + 1) for item in node.sequence(f"the list under {name!r}")]


def _group(name: str, node: Node, scope: Scope, depth: int) -> Condition:
    parts = _compiled(name, node, scope, depth)
    tests = [part.holds for part in parts]
    text = ", ".join(part.text for part in parts)
    names = frozenset().union(*(part.names for part in parts))
    wanted = name == "any"

    def holds(facts: Facts) -> bool:
        for test in tests:  # a loop: conditions are asked a hundred thousand times, and any() costs a generator
            if test(facts):
                return wanted
        return not wanted

    return Condition(holds, f"{name}({text})", names)


def _all_of(parts: list[Condition]) -> Condition:
    if len(parts) == 1:
        return parts[0]
    tests = [part.holds for part in parts]

    def holds(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110 - see above
            if not test(facts):
                return False
        return True

    names = frozenset().union(*(part.names for part in parts))
    return Condition(holds, f"all({', '.join(part.text for part in parts)})", names, tuple(parts))


def _comparison(node: Node, scope: Scope) -> Condition:
    scope.comparisons += 1
    if scope.comparisons > MAX_COMPARISONS:
        node.fail(f"more than {MAX_COMPARISONS} comparisons in one rule")
    if len(node.value) > MAX_CHARACTERS:
        node.fail(f"a comparison of {len(node.value)} characters; at most {MAX_CHARACTERS}")
    match = _COMPARISON.fullmatch(node.value)
    if match is None:
        node.fail(f"expected 'fact operator value', not {node.kind}")
    fact, op, operand = scope.fact(match["fact"], node), match["op"], match["operand"]
    if op not in OPERATORS[fact.type]:
        node.fail(f"{fact.name} ({fact.type}) takes {' '.join(OPERATORS[fact.type])}; not {op!r}")
    names = {fact.name, operand} & VOCABULARY[scope.kind].keys()
    return Condition(_test(fact, op, operand, node, scope), " ".join(node.value.split()), frozenset(names))


def _test(fact: Fact, op: str, operand: str, node: Node, scope: Scope) -> Test:
    name = fact.name
    if op in {"seen", "not_seen"}:
        if operand:
            node.fail(f"nothing may follow {op!r}")
        return (lambda facts: facts.get(name) is not None) if op == "seen" else (lambda facts: facts.get(name) is None)
    if not operand:
        node.fail(f"a value is missing after {op!r}")
    if op == "is":
        if operand not in {"true", "false"}:
            node.fail(f"{name} is true or false; not {operand[:60]!r}")
        wanted = operand == "true"
        return lambda facts: facts.get(name) is wanted
    if op in {"in", "not_in"}:
        return _membership(name, _list(fact, operand, node), op == "in")
    compare = _ORDER[op]
    if fact.type in {"int", "float"}:
        if operand.startswith("$"):
            return _against_constant(name, scope.threshold(operand[1:], node), compare)
        other = _other_fact(fact, operand, node, scope)
        if other is not None:
            return _between_facts(name, other, compare)
    return _against_constant(name, _constant(fact, operand, node), compare)


def _against_constant(name: str, value: Value, compare: Callable[[Any, Any], bool]) -> Test:
    def test(facts: Facts) -> bool:
        seen = facts.get(name)
        return seen is not None and compare(seen, value)

    return test


def _between_facts(name: str, other: str, compare: Callable[[Any, Any], bool]) -> Test:
    def test(facts: Facts) -> bool:
        left, right = facts.get(name), facts.get(other)
        return left is not None and right is not None and compare(left, right)

    return test


def _membership(name: str, values: frozenset[Value], wanted: bool) -> Test:
    def test(facts: Facts) -> bool:
        seen = facts.get(name)
        return seen is not None and (seen in values) is wanted

    return test


def _other_fact(fact: Fact, operand: str, node: Node, scope: Scope) -> str | None:
    """The name of the fact that a number is compared with, or None when the operand is no name."""
    if not re.fullmatch(r"[A-Za-z_]\w*", operand):
        return None
    other = scope.fact(operand, node)
    if other.type not in {"int", "float"} or other.unit != fact.unit:
        node.fail(
            f"{fact.name} ({fact.unit or fact.type}) cannot be compared with {operand} ({other.unit or other.type})"
        )
    return operand


def _list(fact: Fact, operand: str, node: Node) -> frozenset[Value]:
    if not (operand.startswith("[") and operand.endswith("]")):
        node.fail(f"expected a list like [a, b], not {operand[:60]!r}")
    items = [item.strip() for item in operand[1:-1].split(",")]
    if not all(items):
        node.fail("an item is missing in the list")
    return frozenset(_constant(fact, item, node) for item in items)


def _constant(fact: Fact, operand: str, node: Node) -> Value:
    if fact.type in {"int", "float"}:
        if not _NUMBER.fullmatch(operand):
            node.fail(f"{fact.name} is a number; not {operand[:60]!r}")
        return float(operand) if "." in operand else int(operand)
    if fact.type == "enum":
        if operand not in fact.values:
            hint = did_you_mean(operand, fact.values)
            node.fail(f"{fact.name} is one of {', '.join(fact.values)}; not {operand[:60]!r}{hint}")
        return operand
    if len(operand) < 2 or operand[0] not in "\"'" or operand[0] != operand[-1]:
        node.fail(f"{fact.name} is text: put {operand[:60]!r} in quotes")
    return operand[1:-1]
