"""The case as SARIF 2.1.0 (OASIS), for code-scanning services.

A capture is the artifact and a frame number stands for the line: that is how services show where a result lies. They
match results over runs by `partialFingerprints`. Evidence, filters and facts are in the result's properties.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

from ..case import Case, Finding, Frame
from . import wording
from .escape import paragraphs, visible
from .json import finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVEL = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "none"}
# GitHub shows these as critical, high, medium and low: above 9, 7 to 8.9, 4 to 6.9, below 4.
SECURITY_SEVERITY = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "2.0", "info": "0.0"}


def render(
    case: Case, version: str, rules: Mapping[str, str] | None = None, baseline: Collection[str] | None = None
) -> str:
    """`version` is smtpscope's; `rules`: id -> what it says, of all rules asked; `baseline`: fingerprints known before."""
    names = {**(rules or {})}
    for f in case.findings:
        names.setdefault(f.rule, f.title)
    index = {name: n for n, name in enumerate(names)}
    run = {
        "tool": {
            "driver": {
                "name": "smtpscope",
                "version": version,
                "rules": [_rule(n, text, case) for n, text in names.items()],
            }
        },
        "invocations": [_invocation(case)],
        "artifacts": [{"location": {"uri": _uri(c.path)}, "length": c.bytes} for c in case.captures],
        "results": [_result(f, index[f.rule], case, baseline) for f in case.findings],
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def _rule(name: str, text: str, case: Case) -> dict[str, Any]:
    worst = next((f.severity for f in wording.ordered(case.findings) if f.rule == name), "info")
    return {
        "id": visible(name),
        "shortDescription": {"text": _message(text)},
        "properties": {"tags": ["smtp", "network"], "security-severity": SECURITY_SEVERITY[worst]},
    }


def _invocation(case: Case) -> dict[str, Any]:
    notes = [
        {"level": "error" if not c.complete else "warning", "message": {"text": _message(p)},
         "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(c.path), "index": n}}}]}
        for n, c in enumerate(case.captures) for p in c.problems
    ]  # fmt: skip
    notes += [{"level": "note", "message": {"text": _message(limit)}} for limit in case.limits]
    return {"executionSuccessful": case.complete, "toolExecutionNotifications": notes}


def _result(f: Finding, rule_index: int, case: Case, baseline: Collection[str] | None) -> dict[str, Any]:
    # SARIF 3.27.9: a result that is no failure has the level "none".
    counts = f.explained_by is None and f.severity != "info"
    text = "\n\n".join(_message(p) for p in [f.title, *paragraphs(f.explanation)])
    kept = ("severity", "confidence", "role", "scope", "sender", "receiver", "explained_by", "connections", "messages", "paths",
            "evidence", "facts", "against", "rivals", "remedies")  # fmt: skip
    written = finding(f)
    result = {
        "ruleId": visible(f.rule),
        "ruleIndex": rule_index,
        "kind": "fail" if counts else "informational",
        "level": LEVEL[f.severity] if counts else "none",
        "message": {"text": text},
        "locations": _locations(f, case),
        "partialFingerprints": {"smtpscope/v1": f.fingerprint},
        "properties": {name: written[name] for name in kept},
    }
    if baseline is not None:
        result["baselineState"] = "unchanged" if f.fingerprint in baseline else "new"
    return result


def _locations(f: Finding, case: Case) -> list[dict[str, Any]]:
    """The first frame of the evidence, else the first frame of the first connection."""
    frame = next((frame for e in f.evidence for frame in e.frames), None)
    if frame is None and f.connections:
        frame = next((c.first_frame for c in case.connections if c.id == f.connections[0]), None)
    frame = frame or Frame(1, 1)
    places = [(n, c) for n, c in enumerate(case.captures) if c.id == frame.capture]
    return [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": _uri(c.path), "index": n},
                "region": {"startLine": max(frame.frame, 1)},
            }
        }
        for n, c in places
    ]


def _message(text: str) -> str:
    """Plain text in which nothing is a link or a placeholder (SARIF 3.11.5 and 3.11.6)."""
    safe = visible(text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return safe.replace("{", "{{").replace("}", "}}")


def _uri(path: str) -> str:
    """A relative or absolute URI reference; whatever a file name holds is percent-encoded."""
    return quote(path, safe="/._-~", errors="surrogatepass") or "-"
