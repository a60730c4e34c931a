"""The handbook in rules/, made from the rules and the facts: README.md (the rules, how to write one, the vocabulary) and a page per rule."""

from __future__ import annotations

from collections.abc import Iterator

from .condition import OPERATORS
from .facts import KINDS, VOCABULARY, Fact, Kind
from .rule import SEVERITIES, Rule, RulePack
from .rule_page import render

_SUBJECTS: dict[Kind, str] = {
    "path": "one direction of data between two hosts, all their connections weighed together",
    "connection": "one SMTP connection",
    "message": "one mail; its sender is the client, its receiver the server",
    "server": "one server address and port as one client saw it: greetings and EHLO replies",
    "host": "one host that sends data, with all its paths",
    "case": "everything that was analysed, once",
}

_TOP = """# The rules

One YAML file is one rule, its documentation and its examples. smtpscope weighs the evidence in code and hands it over as
facts; a rule holds the thresholds (each with its reason), the words and the advice. No code runs from a rule file.

This page, and the page of each rule, are made by `python -m analyzer.detect.handbook` from the rules themselves. How the evidence
is weighed stands, with pictures, in [How it decides](../analyzer/README.md).
"""

_HOW = """
## How to write one

Put a file `my-rule.yaml` anywhere and name it, or its folder, with `--rules`; it is asked beside the built-in ones. An editor
that knows [rule.schema.json](rule.schema.json) completes and checks it while you type.

```yaml
# yaml-language-server: $schema=rule.schema.json
id: slow-greeting
about: The server takes long to greet.
title: "Slow greeting"
role: observation            # cause, symptom or observation
subject: connection          # what it is asked about, one at a time
scope: server                # what a finding is about
thresholds:
  patience_s:
    value: 30.0
    why: most clients wait five minutes (RFC 5321 section 4.5.3.2.1), people half a minute
when:
  all:
    - greeting_delay_s >= $patience_s
grades:                      # the first one that holds is taken; none: no finding
  - severity: low
    confidence: certain
    when: greeting_code == 220
  - severity: info
    confidence: likely
merge: endpoints             # all connections between the same two hosts make one finding
explanation:                 # a sentence whose value was not seen is left out
  - text: "{server} greeted after {greeting_delay_s}."
remedies:
  - who: server-admin
    host: "{server}"
    what: Look for a slow DNS or blacklist lookup before the greeting.
    commands:
      - {for: Linux, run: "time nc {server} 25 </dev/null"}
    check: The greeting comes within a second.
examples:
  fires_on: []
  quiet_on: []
```

**Conditions** are `fact operator value` under `all`, `any` and `none`, which may be nested (a list alone means `all`).
A value is a number, a name, `$threshold`, or another fact of the same unit.

| type of fact | operators |
|---|---|
{operators}

A fact that the capture can not tell is *not seen*: no comparison with it holds, neither `==` nor `!=`; `not_seen` does.
So `none: [window_shut is true]` lets a rule fire when nothing is known about the window; `all: [window_shut is false]` does not.

**Texts** hold placeholders: `{fact}` with its unit (`1500 bytes`, `3.1 s`, `5 %`), `{fact:n}` bare, `{fact:mail}` a count
with its noun (`1 mail`, `5 mails`). In a command a value is always bare, and a command with a value that was not seen is
left out. `when` before a text says when it is said.

**Findings that belong together**: `merge` (`endpoints`, `receiver`, `sender`) makes one finding of many; `one_host_from` one
of all broken paths of a host when none of them works; `yields_to` names rules that make this one superfluous on the same
subject; `explained_by` ties a symptom to a cause with which it shares `messages`, `connections`, `paths`, `endpoints` or the
`receiver`.

**Examples** are captures beside the rule file (or in `sample_pcaps/`); `smtpscope rules test PATH` tries them.
"""


def readme(pack: RulePack) -> str:
    """The whole page."""
    operators = "\n".join(f"| {kind} | {' '.join(f'`{op}`' for op in ops)} |" for kind, ops in OPERATORS.items())
    parts = [_TOP, *_table(pack), _HOW.replace("{operators}", operators), *_vocabulary()]
    return "\n".join(parts)


def page(rule: Rule) -> str:
    """The page of one rule, with the way back and to its file."""
    return f"{render(rule)}\n---\nMade from [{rule.id}.yaml]({rule.id}.yaml). [All rules](README.md)\n"


def _table(pack: RulePack) -> Iterator[str]:
    yield "| rule | asked about | role | severity | finds |"
    yield "|---|---|---|---|---|"
    for rule in pack:
        yield f"| [{rule.id}]({rule.id}.md) | {rule.subject} | {_roles(rule)} | {_severities(rule)} | {rule.about} |"


def _roles(rule: Rule) -> str:
    return " or ".join(dict.fromkeys(grade.role for grade in rule.grades))


def _severities(rule: Rule) -> str:
    found = sorted({grade.severity for grade in rule.grades}, key=SEVERITIES.index)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _vocabulary() -> Iterator[str]:
    yield "## The facts"
    yield ""
    everywhere = set.intersection(*(set(VOCABULARY[kind]) for kind in KINDS)) - {"connections_total"}
    yield "For every subject:"
    yield ""
    yield from _facts([fact for name, fact in VOCABULARY["case"].items() if name in everywhere])
    for kind in KINDS:
        yield f"### {kind}: {_SUBJECTS[kind]}"
        yield ""
        yield from _facts([fact for name, fact in VOCABULARY[kind].items() if name not in everywhere])


def _facts(facts: list[Fact]) -> Iterator[str]:
    yield "| fact | type | meaning |"
    yield "|---|---|---|"
    for fact in facts:
        type_ = " ".join(f"`{value}`" for value in fact.values) or (
            f"{fact.type}, {fact.unit}" if fact.unit else fact.type
        )
        yield f"| `{fact.name}` | {type_} | {fact.meaning} |"
    yield ""


def main() -> None:
    """Writes README.md, the rules' pages and rule.schema.json in rules/ anew."""
    import json

    from .rule import built_in, load
    from .schema import schema

    pack = load()
    (built_in() / "README.md").write_text(readme(pack), encoding="utf-8")
    for rule in pack:
        (built_in() / f"{rule.id}.md").write_text(page(rule), encoding="utf-8")
    (built_in() / "rule.schema.json").write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
