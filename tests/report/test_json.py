"""The JSON document: the contract with scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from analyzer.capture.packets import IcmpError
from analyzer.case import Case, Finding
from analyzer.report import json as case_json
from analyzer.report.json import document, lines, render, schema, timestamp

STORED = Path(__file__).parent / "stored"

# The contract, word for word: a name that leaves here breaks somebody's script.
CONTRACT = {
    "captures": "id path format link_types frames bytes first last snaplen complete problems",
    "connections": "id client server start end frame_count handshake_seen closed_by tls banner vantage",
    "messages": "id connection index mail_from recipients size via terminator reply_code outcome",
    "paths": "id sender receiver verdict mtu_at_least mtu_below icmp_mtu links connections messages_stuck",
    "findings": "id rule title role explained_by severity confidence scope sender receiver connections messages paths "
    "evidence facts explanation against rivals remedies fingerprint",
}


@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_every_document_fulfils_the_schema(case: str, request: pytest.FixtureRequest) -> None:
    """Whatever the case holds, the document is one that the shipped schema allows, and parses back to itself."""
    built = document(request.getfixturevalue(case))
    jsonschema.Draft202012Validator(schema()).validate(built)
    assert json.loads(render(request.getfixturevalue(case))) == built


@pytest.mark.parametrize("part", CONTRACT)
def test_the_fields_of_the_contract_are_there(part: str, incident: Case) -> None:
    """Every field that the contract names is in the document, and the schema demands it."""
    names = set(CONTRACT[part].split())
    assert names <= set(document(incident)[part][0])
    definition = {"captures": "capture", "connections": "connection", "messages": "message"}.get(part, part[:-1])
    assert names <= set(schema()["$defs"][definition]["required"])


def test_a_document_of_the_first_version_is_still_valid() -> None:
    """A stored document of the first release fulfils today's schema: nothing was renamed, nothing new is demanded."""
    jsonschema.Draft202012Validator(schema()).validate(json.loads((STORED / "smtpscope-1.json").read_text("utf-8")))


def test_a_document_of_the_first_version_has_no_field_that_vanished(incident: Case, too_big: IcmpError) -> None:
    """Every field of the stored document is still written today."""

    incident.icmp = [too_big]
    stored = json.loads((STORED / "smtpscope-1.json").read_text("utf-8"))
    assert _fields(stored) <= _fields(document(incident))


def _fields(value: object, path: str = "") -> set[str]:
    """The paths of all named fields, lists seen through; maps with free keys count as one field."""
    if isinstance(value, list):
        return {f for v in value for f in _fields(v, path)}
    if not isinstance(value, dict) or path.endswith(("facts", "services", "counts", "expected_log")):
        return {path}
    return {f for k, v in value.items() for f in {f"{path}.{k}"} | _fields(v, f"{path}.{k}")}


@pytest.mark.parametrize(
    ("time_ns", "written"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_709_647_391_123_456_789, "2024-03-05T14:03:11.123456789Z"),
        (4_320_000_000_000_000_001, "2106-11-24T00:00:00.000000001Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_times_are_utc_with_nine_decimals(time_ns: int, written: str) -> None:
    """No nanosecond is lost, before 1970 and after 2106 alike."""
    assert timestamp(time_ns) == written


def test_the_text_is_printable_ascii(hostile: Case) -> None:
    """No control character, no bidirectional override, no lone surrogate leaves in JSON."""
    out = render(hostile, indent=None).rstrip("\n")
    assert out.isascii()
    assert out.isprintable()
    assert "\\ud800" not in out


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("case", ["incident", "hostile", "empty"])
def test_a_document_that_two_processes_write_is_the_same(
    case: str, dies: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the second one."""
    shown: Case = Case() if case == "empty" else request.getfixturevalue(case)
    monkeypatch.setattr(case_json, "ROWS_WORTH_SHARING", 0)
    parent, told = os.getpid(), case_json.finding

    def finding(f: Finding) -> dict[str, Any]:
        if dies and os.getpid() != parent:
            raise MemoryError
        return told(f)

    monkeypatch.setattr(case_json, "finding", finding)
    assert "".join(lines(shown, processes=2)) == render(shown)


def test_where_no_second_process_may_be_one_writes_all(incident: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes is no reason to lose the document."""

    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr(case_json, "ROWS_WORTH_SHARING", 0)
    monkeypatch.setattr(os, "fork", refuse)
    assert "".join(lines(incident, processes=2)) == render(incident)


def test_a_fact_that_is_no_number_is_null(incident: Case) -> None:
    """NaN and infinity are not JSON: what could not be computed is null."""
    incident.findings[0].facts = {"ratio": float("nan"), "delays_s": (1.5, float("inf"))}
    assert json.loads(render(incident))["findings"][0]["facts"] == {"ratio": None, "delays_s": [1.5, None]}
