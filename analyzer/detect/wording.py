"""Sentences with facts in them: `{stuck_ip_bytes}` -> "1500 bytes".

A placeholder is the name of a fact in braces, and nothing else: no attributes, no indexing, no code (so not str.format).
    {fact}        the value with its unit: 93 s, 1500 bytes, 5 %
    {fact:n}      the bare number, for commands and "a {stuck_ip_bytes:n}-byte packet"
    {fact:mail}   a count with its noun: 1 mail, 5 mails
A brace that is not part of a placeholder stays as it is (nft commands are full of them).
A text that needs a value which was not seen is left out as a whole: nobody reads "None bytes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .condition import ALWAYS, Condition, Scope, compile_when
from .document import Node
from .facts import VOCABULARY, Fact, Kind, Value

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)(?::([A-Za-z][A-Za-z -]{0,30}))?\}")
_MISSPELT = re.compile(r"\{([a-z_][a-z0-9_]*):")
_SAFE_IN_COMMAND = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.:%_-]{0,99}|::[0-9A-Fa-f:.]{0,45}"
)  # numbers, addresses, pseudonyms
_LONGEST_TEXT = 200  # characters of a text fact in a sentence


class Template(NamedTuple):
    """A text with placeholders, and the condition under which it is said at all."""

    text: str
    kind: Kind
    when: Condition = ALWAYS

    def fill(self, facts: Mapping[str, Value], *, command: bool = False) -> str | None:
        """The text for these facts; None when its condition fails or a value was not seen (or is unfit for a command)."""
        if not self.when(facts):
            return None
        words: dict[str, str] = {}
        for match in _PLACEHOLDER.finditer(self.text):
            value = facts.get(match[1])
            if value is None:
                return None
            style = "n" if command else match[2]
            words[match[0]] = worded(VOCABULARY[self.kind][match[1]], value, style)
            if command and not _SAFE_IN_COMMAND.fullmatch(words[match[0]]):
                return None
        return _PLACEHOLDER.sub(lambda match: words[match[0]], self.text)


def template(node: Node, scope: Scope, what: str) -> Template:
    """A template from ``text`` or ``{when: ..., text: ...}``, its placeholders checked against the vocabulary."""
    when, text_node = ALWAYS, node
    if isinstance(node.value, dict):
        entries = node.mapping(what, required=("text",), optional=("when",))
        text_node = entries["text"]
        if "when" in entries:
            when = compile_when(entries["when"], scope)
    return plain_template(text_node, scope, what, when)


def plain_template(node: Node, scope: Scope, what: str, when: Condition = ALWAYS) -> Template:
    text = " ".join(node.text(what).split()) if "\n" not in node.text(what).strip() else node.text(what).strip()
    for match in _PLACEHOLDER.finditer(text):
        fact = scope.fact(match[1], node)
        if match[2] and fact.type not in {"int", "float"}:
            node.fail(f"{{{match[1]}:{match[2]}}}: only numbers take a noun or ':n'; {fact.name} is {fact.type}")
    for name in _MISSPELT.findall(_PLACEHOLDER.sub("", text)):
        if name in VOCABULARY[scope.kind]:
            node.fail(f"{{{name}...: a placeholder is {{{name}}}, {{{name}:n}} or {{{name}:noun}}")
    return Template(text, scope.kind, when)


def worded(fact: Fact, value: Value, style: str | None = None) -> str:
    """One value as a person reads it. `style`: None, "n" (bare) or a noun to count."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(fact, value, style)
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _number(fact: Fact, value: float, style: str | None) -> str:
    if style == "n":
        return str(value) if isinstance(value, int) else f"{value:.6g}"
    if style is not None:
        return f"{value:g} {style}" if value == 1 else f"{value:g} {style}s"
    match fact.unit:
        case "s":
            return seconds(value)
        case "bytes":
            return f"{value} bytes"
        case "ratio":
            return f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"
        case "probability":
            return f"{value:.2g}" if value >= 0.0001 else "less than 0.0001"
        case _:
            return str(value) if isinstance(value, int) else f"{value:.3g}"


def seconds(value: float) -> str:
    """A duration with the digits that matter: 0.21 s, 3.1 s, 93 s, 12 min."""
    if value >= 600:
        return f"{value / 60:.0f} min"
    if value >= 9.95:
        return f"{value:.0f} s"
    return f"{value:.2g} s"
