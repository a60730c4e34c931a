"""The summary over all cases in words: for a terminal, as Markdown, as JUnit."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..case import Case
from ..report import junit
from ..report.escape import markdown, markdown_code, visible
from ..report.wording import plural

MOST_ROWS = 30  # a table that people still read
MOST_TROUBLES = 20

REFUSED = ("rejected", "deferred")
HUNG = ("end-of-data-timeout", "lost-connection")


def text(summary: dict[str, Any]) -> str:
    """For stdout: what was read, what was found in how many captures, what could not be read."""
    lines = [_counts(summary)]
    if summary["interrupted"]:
        lines.append("Interrupted: the same command goes on from here.")
    told = _told(summary)
    lines += [
        f"  {f['severity']} {f['role']}, {f['confidence']}: {visible(f['title'])}: {visible(_where(f))}: {_how_often(f)}"
        for f in told
    ]
    if not told:
        lines.append("No fault found." if summary["complete"] else "No fault found in what could be read.")
    lines += [f"  {t['state']}: {visible(t['title'])}: {visible(t['reason'])}" for t in _troubles(summary)]
    return "\n".join(lines + _more(summary)) + "\n"


def markdown_text(summary: dict[str, Any]) -> str:
    """For the page of a CI run, an issue, a wiki."""
    blocks = ["# smtpscope batch", markdown(_counts(summary))]
    if summary["interrupted"]:
        blocks.append("**Interrupted: this is what was found until then.**")
    told = _told(summary)
    if told:
        table = [
            "| Severity | Confidence | Finding | From → to | Cases | Days | Example |",
            "|---|---|---|---|--:|---|---|",
        ]
        table += [
            f"| {f['severity']} | {f['confidence']} | {markdown(f['title'])} ({markdown(f['rule'])}) | {markdown(_where(f))} "
            f"| {f['case_count']} | {markdown(_days(f))} | {markdown_code(f['example']['title'])} |"
            for f in told[:MOST_ROWS]
        ]
        blocks += ["## Findings", "\n".join(table)]
        for f in (f for f in told[:MOST_ROWS] if f["role"] == "cause"):
            blocks += [f"### {markdown(f['title'])}: {markdown(_where(f))}", markdown(f["example"]["explanation"])]
            what = [f"- **{markdown(r['host'] or r['who'])}:** {markdown(r['what'])}" for r in f["remedies"]]
            blocks += ["\n".join(what)] if what else []
    else:
        blocks.append("**No fault found.**" if summary["complete"] else "**No fault found in what could be read.**")
    blocks += _table("Destinations", "server", [d for d in summary["destinations"] if d["connections"]])
    blocks += _table("Days", "day", summary["days"])
    if summary["troubles"]:
        listed = [f"- {t['state']}: {markdown_code(t['title'])}: {markdown(t['reason'])}" for t in _troubles(summary)]
        blocks += ["## What could not be read", "\n".join(listed + [f"- {markdown(line)}" for line in _more(summary)])]
    return "\n\n".join(blocks) + "\n"


def suites(case: Case, rules: Sequence[str], counting: Collection[int] | None) -> Iterator[bytes]:
    """The JUnit suites of one case: one per capture."""
    for element in junit.suites(case, rules, counting):
        yield _xml(element)


def failed_suite(title: str, why: str) -> bytes:
    """The JUnit suite of a unit without a case: an error that says why."""
    suite = ET.Element("testsuite", name=visible(title), tests="1", failures="0", errors="1", skipped="0", time="0")
    test = ET.SubElement(suite, "testcase", classname=f"smtpscope.{visible(title)}", name=junit.READABLE, time="0")
    ET.SubElement(test, "error", type="failed", message=visible(why)).text = visible(why)
    return _xml(suite)


def _xml(element: ET.Element) -> bytes:
    ET.indent(element)
    return ET.tostring(element, encoding="unicode").encode() + b"\n"


def _counts(summary: dict[str, Any]) -> str:
    units = summary["units"]
    mails = sum(sum(d[o] for o in d if o not in ("server", "connections", "first_day", "last_day")) for d in summary["destinations"])  # fmt: skip
    text = f"{plural(summary['captures'], 'capture')} in {plural(units['done'], 'case')}: {summary['frames']:,} frames, {plural(mails, 'mail')}"
    extra = [
        f"{units[name]:,} {words}"
        for name, words in (
            ("failed", "failed"), ("incomplete", "not read to the end"), ("skipped", "passed over, no captures"),
            ("left", "not done yet"),
        )
        if units[name]
    ]  # fmt: skip
    return text + "".join(f"; {e}" for e in extra) + "."


def _told(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What people are to act on: causes, and whatever nothing explains; not what was only noted."""
    return [f for f in summary["findings"] if not f["explained"] and f["severity"] != "info"]


def _where(f: dict[str, Any]) -> str:
    sides = [_side(f[side]) for side in ("senders", "receivers")]
    where = " to ".join(side for side in sides if side) or "one capture or more"
    low, high = f["mtu_at_least"], f["mtu_below"]
    if f["role"] == "cause" and high is not None:
        where += f", path MTU in [{low}, {high})" if low is not None else f", path MTU below {high}"
    return where


def _side(hosts: Sequence[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= 3 else f"{hosts[0]} and {len(hosts) - 1} more"


def _days(f: dict[str, Any]) -> str:
    days = [day for day in f["days"] if day]
    if not days:
        return ""
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _how_often(f: dict[str, Any]) -> str:
    when = _days(f)
    return f"{plural(f['case_count'], 'case')}" + (f", {when}" if when else "")


def _troubles(summary: dict[str, Any]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = summary["troubles"][:MOST_TROUBLES]
    return listed


def _more(summary: dict[str, Any]) -> list[str]:
    rest = len(summary["troubles"]) - MOST_TROUBLES
    return [f"and {rest:,} more that could not be read: see summary.json"] if rest > 0 else []


def _table(title: str, column: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Connections and mails by destination or day; the rows with trouble first where there are too many."""
    if not rows:
        return []
    shown = sorted(rows, key=lambda row: -_sum(row, HUNG))[:MOST_ROWS] if len(rows) > MOST_ROWS else rows
    lines = [
        f"| {column.capitalize()} | Connections | Delivered | Refused | Hung | Not known |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {markdown(row[column])} | {row['connections']} | {row['delivered']} | {_sum(row, REFUSED)} | {_sum(row, HUNG)} "
        f"| {_sum(row, ('unknown', 'aborted'))} |"
        for row in shown
    ]
    more = [f"and {len(rows) - len(shown):,} more."] if len(rows) > len(shown) else []
    return [f"## {title}", "\n".join(lines), *more]


def _sum(row: dict[str, Any], outcomes: Sequence[str]) -> int:
    return sum(row[outcome] for outcome in outcomes)
