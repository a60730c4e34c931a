"""JUnit XML, parsed back."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lxml import etree

from analyzer.case import Case
from analyzer.report.junit import render

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "junit.xsd"))
RULES = ["pmtud-black-hole", "packet-loss", "small-mss"]


@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_the_numbers_add_up(case: str, request: pytest.FixtureRequest) -> None:
    """Well-formed XML in which every count is that of the elements it counts."""
    root = ET.fromstring(render(request.getfixturevalue(case), RULES))
    assert root.tag == "testsuites"
    for holder in (root, *root):
        for name, path in (("tests", ".//testcase"), ("failures", ".//failure"), ("errors", ".//error")):
            assert int(holder.attrib[name]) == len(holder.findall(path))


@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_it_is_valid(case: str, request: pytest.FixtureRequest) -> None:
    """The document fulfils the schema beside this test, which is a part of the one that Jenkins publishes."""
    SCHEMA.assertValid(etree.fromstring(render(request.getfixturevalue(case), RULES).encode()))


def test_the_schema_finds_what_is_wrong(incident: Case) -> None:
    """A result out of place, a count that is none, an attribute that nobody reads: each makes the document invalid."""
    right = render(incident, RULES)
    for old, new in (
        ("<failure ", "<failure/><failure "), (' failures="', ' failures="some"  x="'), ("<testcase ", "<testcase host='x' "),
        (' timestamp="2', ' timestamp="on 2'),
    ):  # fmt: skip
        assert old in right
        try:
            wrong = etree.fromstring(right.replace(old, new, 1).encode())
        except etree.XMLSyntaxError:
            pytest.fail(f"{new} is not even XML")
        assert not SCHEMA.validate(wrong), new


def test_a_suite_per_capture_and_a_case_per_rule(broken: Case) -> None:
    """Every rule that was asked is a test, also where it found nothing."""
    root = ET.fromstring(render(broken, RULES))
    assert [s.attrib["name"] for s in root] == ["incident.pcapng", "cut.pcap"]
    for suite in root:
        assert [c.attrib["name"] for c in suite] == [*RULES, "capture-is-complete"]


def test_a_rule_fails_where_a_finding_counts(incident: Case) -> None:
    """The failure tells severity, evidence and remedy; what is only noted passes, with its words in the output."""
    root = ET.fromstring(render(incident, RULES))
    cases = {c.attrib["name"]: c for c in root[0]}
    failure = cases["pmtud-black-hole"].find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "critical"
    assert "sent 9 times in 106.2 s" in (failure.text or "")
    assert cases["packet-loss"].find("failure") is None
    assert cases["small-mss"].find("failure") is None
    assert "announces a small MSS" in (cases["small-mss"].findtext("system-out") or "")


def test_only_what_counts_fails(incident: Case) -> None:
    """The ids that `--fail-on` counts decide; a symptom that is explained is none of them."""
    root = ET.fromstring(render(incident, RULES, counting=[3]))
    assert [c.attrib["name"] for c in root[0] if c.find("failure") is not None] == ["split-terminator"]


def test_an_incomplete_capture_is_an_error(broken: Case) -> None:
    """The capture that was cut off has an error that says where."""
    root = ET.fromstring(render(broken, RULES))
    errors = root.findall(".//error")
    assert [e.attrib["message"] for e in errors] == [broken.captures[1].problems[0]]


def test_hostile_text_comes_back_as_text(hostile: Case) -> None:
    """XML-illegal characters are written out; markup stays text."""
    root = ET.fromstring(render(hostile, RULES))
    assert "<script>window.pwned=1</script>" in root[0].attrib["name"]
    assert {e.tag for e in root.iter()} <= {"testsuites", "testsuite", "testcase", "failure", "error", "system-out"}
