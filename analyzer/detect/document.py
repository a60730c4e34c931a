"""The part of YAML that a rule file may use, read into nodes that know their line.

Mappings with plain string keys, lists and scalars; nothing that can surprise or grow: no anchors, aliases (a "billion
laughs" is nine of them), tags, merge keys, second documents or duplicate keys. libyaml's event parser does the reading;
building the tree from events, with a stack of our own, keeps nesting within limits and costs a few milliseconds for the
whole built-in pack. Scalars follow the YAML 1.2 core schema: `yes`, `on` and `12:30` are words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml

from ..errors import RuleError

MAX_BYTES = 64 * 1024  # the longest built-in rule has a tenth of this
MAX_DEPTH = 16  # the deepest place a rule needs: grades, grade, when, all, any, all = 8
MAX_NODES = 5_000  # the longest built-in rule has some 300

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_BOOLS = {"true": True, "false": False}


@dataclass(slots=True)
class Node:
    """A mapping (dict[str, Node]), a list (list[Node]) or a scalar (str, int, float, bool), and where it stands."""

    value: Any
    file: str
    line: int
    key_line: int = 0  # line of its key, in a mapping

    def fail(self, message: str) -> NoReturn:
        raise RuleError(f"{self.file}:{self.line}: {message}")

    @property
    def is_text(self) -> bool:
        return isinstance(self.value, str)

    def mapping(self, what: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Node]:
        """The entries, after a check that all required keys are there and no others than the optional ones."""
        if not isinstance(self.value, dict):
            self.fail(f"{what} must be a mapping, not {self.kind}")
        known = (*required, *optional)
        for key, node in self.value.items():
            if known and key not in known:
                raise RuleError(
                    f"{self.file}:{node.key_line}: unknown key {_short(key)} in {what}{did_you_mean(key, known)}"
                )
        for key in required:
            if key not in self.value:
                self.fail(f"{what} lacks the key {key!r}")
        return self.value

    def sequence(self, what: str, at_least: int = 1) -> list[Node]:
        if not isinstance(self.value, list):
            self.fail(f"{what} must be a list, not {self.kind}")
        if len(self.value) < at_least:
            self.fail(f"{what} is empty")
        return self.value

    def text(self, what: str) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            self.fail(f"{what} must be text, not {self.kind}")
        return self.value

    def texts(self, what: str) -> tuple[str, ...]:
        return tuple(node.text(what) for node in self.sequence(what))

    def flag(self, what: str) -> bool:
        if not isinstance(self.value, bool):
            self.fail(f"{what} must be true or false, not {self.kind}")
        return self.value

    def number(self, what: str) -> int | float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail(f"{what} must be a number, not {self.kind}")
        return self.value

    def choice(self, what: str, choices: tuple[str, ...]) -> str:
        if self.value not in choices:
            hint = did_you_mean(str(self.value), choices)
            self.fail(f"{what} is one of {', '.join(choices)}; not {_short(self.value)}{hint}")
        assert isinstance(self.value, str)
        return self.value

    @property
    def kind(self) -> str:
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return _short(self.value) if self.value != "" else "empty"


def did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str:
    """``; did you mean 'y'?``, or nothing when no known word is near."""
    near = get_close_matches(word[:80], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def parse(text: str, file: str) -> Node:
    """The one document in `text`. Raises RuleError ``file:line: ...``."""
    try:
        return _build(iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))), file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RuleError(f"{file}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        before = text[: getattr(error, "position", 0) or 0]
        raise RuleError(f"{file}:{before.count(chr(10)) + 1}: not valid YAML: unacceptable character") from None


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being filled; `key` waits for its value."""

    node: Node
    key: str | None = None
    key_line: int = 0


def _build(events: Iterator[Any], file: str) -> Node:
    root: Node | None = None
    stack: list[_Open] = []
    documents = nodes = 0
    for event in events:
        kind = type(event)
        if kind in _ENDS:
            stack.pop()
            continue
        if kind in _FRAME:
            documents += kind is yaml.DocumentStartEvent
            if documents > 1:
                raise RuleError(
                    f"{file}:{event.start_mark.line + 1}: a second document begins here; one file holds one rule"
                )
            continue
        line = event.start_mark.line + 1
        nodes += 1
        if nodes > MAX_NODES:
            raise RuleError(f"{file}:{line}: more than {MAX_NODES} entries in one rule file")
        _refuse_magic(event, file, line)
        top = stack[-1] if stack else None
        if top is not None and top.key is None and type(top.node.value) is dict:
            top.key, top.key_line = _key(event, top.node, file, line), line
            continue
        node = Node(_value(event, file, line), file, line)
        if top is None:
            root = node
        elif top.key is not None:
            node.key_line = top.key_line
            top.node.value[top.key] = node
            top.key = None
        else:
            top.node.value.append(node)
        if kind is not yaml.ScalarEvent:
            if len(stack) >= MAX_DEPTH:
                raise RuleError(f"{file}:{line}: nested deeper than {MAX_DEPTH} levels")
            stack.append(_Open(node))
    if root is None:
        raise RuleError(f"{file}:1: empty; expected a rule")
    return root


_ENDS = {yaml.MappingEndEvent, yaml.SequenceEndEvent}
_FRAME = {yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent}


def _refuse_magic(event: yaml.NodeEvent, file: str, line: int) -> None:
    if event.anchor:  # an alias has one too: its target
        raise RuleError(f"{file}:{line}: YAML anchors and aliases are not allowed in a rule file")
    if getattr(event, "tag", None):
        raise RuleError(f"{file}:{line}: YAML tags are not allowed in a rule file")


def _key(event: yaml.NodeEvent, mapping: Node, file: str, line: int) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise RuleError(f"{file}:{line}: a key must be a word")
    if event.value in mapping.value:
        raise RuleError(f"{file}:{line}: duplicate key {_short(event.value)}")
    return str(event.value)


def _value(event: yaml.NodeEvent, file: str, line: int) -> Any:
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    assert isinstance(event, yaml.ScalarEvent)
    text = str(event.value)
    if event.style:  # quoted or a block: text
        return text
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text in {"", "~", "null"}:
        raise RuleError(f"{file}:{line}: a value is missing here (leave the key out instead)")
    return text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
