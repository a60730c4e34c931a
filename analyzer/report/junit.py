"""The case as JUnit XML for CI servers: a suite per capture, a test case per rule.

A rule fails where one of its findings counts; findings that do not count (explained by another, or only noted) are
written to the output of a case that passes. A capture that could not be read to its end has an error of its own.
The shape is what Jenkins, GitLab and GitHub's actions read in common: testsuites > testsuite > testcase > failure.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence

from ..capture.packets import CaptureInfo
from ..case import Case, Finding
from . import wording
from .escape import visible
from .json import timestamp

READABLE = "capture-is-complete"  # the name of the test case beside the rules


def render(case: Case, rules: Sequence[str], counting: Collection[int] | None = None) -> str:
    """`rules` are the ids of all rules that were asked; `counting` the ids of findings that fail, by default every one
    that no other explains and that is more than an observation of severity info."""
    root = ET.Element("testsuites", name="smtpscope")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for suite in suites(case, rules, counting):
        root.append(suite)
        for name in totals:
            totals[name] += int(suite.get(name, "0"))
    root.attrib.update({name: str(n) for name, n in totals.items()})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def suites(case: Case, rules: Sequence[str], counting: Collection[int] | None = None) -> Iterator[ET.Element]:
    """The test suite of each capture, for a document about one case or many."""
    if counting is None:
        counting = [f.id for f in case.findings if f.explained_by is None and f.severity != "info"]
    names = list(dict.fromkeys([*rules, *(f.rule for f in case.findings)]))
    for capture in case.captures:
        yield _suite(case, capture, names, counting)


def _suite(case: Case, capture: CaptureInfo, rules: Sequence[str], counting: Collection[int]) -> ET.Element:
    found = [f for f in case.findings if capture.id in _captures_of(case, f)]
    suite = ET.Element("testsuite", name=visible(capture.path), time="0")
    if capture.first_ns is not None:
        suite.set("timestamp", timestamp(capture.first_ns)[:19])  # the XSD knows no fraction and no zone
    class_name = f"smtpscope.{visible(capture.path)}"
    for rule in rules:
        test = ET.SubElement(suite, "testcase", classname=class_name, name=visible(rule), time="0")
        _tell(test, case, [f for f in found if f.rule == rule], counting)
    readable = ET.SubElement(suite, "testcase", classname=class_name, name=READABLE, time="0")
    if not capture.complete:
        text = "; ".join(visible(p) for p in capture.problems) or "not read to its end"
        ET.SubElement(readable, "error", type="incomplete", message=text).text = text
    suite.set("tests", str(len(rules) + 1))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")
    return suite


def _tell(test: ET.Element, case: Case, found: Sequence[Finding], counting: Collection[int]) -> None:
    """One failure per test case, as the XSD has it: the gravest finding first, all of them in its text."""
    failing = [f for f in wording.ordered(found) if f.id in counting]
    if failing:
        worst = failing[0]
        failure = ET.SubElement(test, "failure", type=worst.severity, message=visible(worst.title))
        failure.text = "\n\n".join(_story(case, f) for f in failing)
    elif found:
        ET.SubElement(test, "system-out").text = "\n\n".join(_story(case, f) for f in found)


def _story(case: Case, f: Finding) -> str:
    lines = [
        f"{visible(f.title)} ({f.severity}, {f.confidence}, fingerprint {visible(f.fingerprint)})",
        visible(f.explanation),
    ]
    if f.explained_by is not None:
        lines.append(f"explained by finding {f.explained_by}")
    lines += [
        f"{wording.frames(e.frames, len(case.captures))}: {visible(e.note)} [{visible(e.display_filter)}]"
        for e in f.evidence[:5]
    ]
    lines += [f"{wording.WHO[r.who]}: {visible(r.what)}" for r in f.remedies]
    return "\n".join(lines)


def _captures_of(case: Case, finding: Finding) -> set[int]:
    """The captures in which a finding is seen: those of its evidence, else of its connections, else all."""
    seen = {frame.capture for e in finding.evidence for frame in e.frames}
    if not seen:
        named = set(finding.connections)
        seen = {c.first_frame.capture for c in case.connections if c.id in named}
    return seen or {c.id for c in case.captures}
