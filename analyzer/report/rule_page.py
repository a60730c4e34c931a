"""A rule as a page of Markdown, made from its YAML: what `smtpscope rules show` prints, and the page in the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

from ..detect.rule import RemedyTemplate, Rule

WIDTH = 80  # columns, as the other reports


def render(rule: Rule) -> str:
    """The whole page."""
    return "\n\n".join(_parts(rule)) + "\n"


def _parts(rule: Rule) -> Iterator[str]:
    yield f"# {rule.id}: {rule.title}"
    yield fill(rule.about, WIDTH)
    yield _list([f"Role: {rule.role}", f"About: one {rule.subject} at a time", f"Scope of a finding: {rule.scope}"])
    yield "## Fires when"
    yield _list([f"`{part}`" for part in _alternatives(rule.when.text)])
    if rule.thresholds:
        yield _list([f"`${name}` = {t.value}: {t.why}" for name, t in rule.thresholds.items()])
    yield "## How bad, how sure"
    yield fill("The first line that holds is taken; when none does, the rule stays quiet.", WIDTH)
    yield _list(
        [
            f"{g.severity} {g.role}, {g.confidence}: `{g.when.text}`" + (f" ({g.because})" if g.because else "")
            for g in rule.grades
        ]
    )
    yield "## What it says"
    yield "\n\n".join(fill(" ".join(sentence.text.split()), WIDTH) for sentence in rule.explanation)
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


def _alternatives(condition: str) -> list[str]:
    """The parts of `all(a, b(c, d))`, one by one: a and b(c, d); any other condition is one part."""
    if not (condition.startswith("all(") and condition.endswith(")")):
        return [condition]
    parts, depth = [""], 0
    for character in condition[4:-1]:
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
