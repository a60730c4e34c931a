"""A rule as a page of Markdown, made from its YAML: what `smtpscope rules show` prints, and the page in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import fill

from .rule import Grade, RemedyTemplate, Rule

WIDTH = 80  # columns, as the other reports


def render(rule: Rule) -> str:
    """The whole page."""
    return "\n\n".join(_parts(rule)) + "\n"


def _parts(rule: Rule) -> Iterator[str]:
    yield f"# {rule.id}: {rule.title}"
    yield fill(rule.about, WIDTH)
    yield _list([f"Role: {rule.role}", f"About: one {rule.subject} at a time", f"Scope of a finding: {rule.scope}"])
    yield "## Fires when"
    yield _tree(rule.when.text)
    if rule.thresholds:
        yield _list([f"`${name}` = {t.value}: {t.why}" for name, t in rule.thresholds.items()])
    yield "## How bad, how sure"
    yield fill("The first line that holds is taken; when none does, the rule stays quiet.", WIDTH)
    yield "\n".join(_grade(grade) for grade in rule.grades)
    yield "## What it says"
    yield fill("Each sentence only where it applies, with what was seen in place of the braces.", WIDTH)
    yield _list([" ".join(sentence.text.split()) for sentence in rule.explanation])
    if rule.remedies:
        yield "## What to do"
        for remedy in rule.remedies:
            yield _remedy(remedy)
    for heading, items in (
        ("## Known false positives", rule.false_positives),
        ("## References", rule.references),
        ("## Must fire on", rule.fires_on),
        ("## Must stay quiet on", rule.quiet_on),
    ):
        if items:
            yield heading
            yield _list(items)


def _grade(grade: Grade) -> str:
    because = f" {grade.because}" if grade.because else ""
    head = _list([f"{grade.severity} {grade.role}, {grade.confidence}:{because}"])
    return f"{head}\n{_tree(grade.when.text, depth=1)}"


def _tree(condition: str, depth: int = 0) -> str:
    """A condition as nested lists: `all(a, any(b, c))` becomes a, then b and c below "any of"."""
    group = re.fullmatch(r"(all|any|none)\((.*)\)", condition, re.DOTALL)
    lead = "  " * depth + "- "
    if group is None:
        return f"{lead}`{condition}`"
    lines = [_tree(part, depth + 1) for part in _parts_of(group[2])]
    return "\n".join([f"{lead}{group[1]} of", *lines])


def _parts_of(conditions: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in conditions:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _remedy(remedy: RemedyTemplate) -> str:
    host = f" ({remedy.host.text})" if remedy.host else ""
    text = fill(f"**{remedy.who}{host}**: {' '.join(remedy.what.text.split())}", WIDTH)
    for system, command in remedy.commands:
        text += f"\n\n    {command.text}" + (f"   # {system}" if system else "")
    return f"{text}\n\n" + fill(f"Check: {' '.join(remedy.check.text.split())}", WIDTH)


def _list(items: list[str] | tuple[str, ...]) -> str:
    return "\n".join(
        fill(item, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for item in items
    )
