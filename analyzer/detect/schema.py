"""The JSON Schema of a rule file, for editors: made from the same tables that the loader checks with.

An editor can check shapes, names and choices; what needs more than one place (a fact of the right kind, a threshold that
exists and is used, a rule that is named) is checked when the rule is loaded.
"""

from __future__ import annotations

from typing import Any

from .condition import OPERATORS
from .facts import KINDS, TOPICS, VOCABULARY
from .rule import (
    CONFIDENCES,
    MERGES,
    OPTIONAL,
    REQUIRED,
    ROLES,
    RULE_ID,
    SCOPES,
    SEVERITIES,
    SHARINGS,
    VERDICTS,
    WHO,
)

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "pattern": r"\S"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_WHEN: Schema = {"$ref": "#/$defs/when"}
_TEMPLATE: Schema = {"$ref": "#/$defs/template"}


def schema() -> Schema:
    """The schema (draft 2020-12)."""
    properties: dict[str, Schema] = {
        "id": {
            "type": "string",
            "pattern": f"^{RULE_ID.pattern}$",
            "maxLength": 60,
            "description": "lower-case words joined by '-'",
        },
        "about": {**_TEXT, "description": "one sentence: what the rule finds"},
        "title": {**_TEXT, "description": "headline of a finding"},
        "role": _choice(ROLES),
        "subject": {**_choice(KINDS), "description": "what the rule is asked about, one at a time"},
        "scope": _choice(SCOPES),
        "verdict": {**_choice(VERDICTS), "description": "what it makes of the path (subject: path)"},
        "thresholds": {
            "type": "object",
            "additionalProperties": _closed({"value": {"type": "number"}, "why": _TEXT}, ("value", "why")),
        },
        "when": _WHEN,
        "grades": {
            "type": "array",
            "minItems": 1,
            "items": _grade(),
            "description": "the first one that holds is taken",
        },
        "merge": {**_choice(MERGES), "description": "findings with these in common are one"},
        "one_host_from": {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\$\w+$"}]},
        "yields_to": {
            **_TEXTS,
            "description": "rules that make this one superfluous when they fire on the same subject",
        },
        "explained_by": _closed(dict.fromkeys(SHARINGS, _TEXTS), ()),
        "evidence": {"type": "array", "minItems": 1, "items": _choice(TOPICS)},
        "weighing": {"type": "boolean", "description": "show what speaks against, and the rivals"},
        "facts": {"type": "array", "minItems": 1, "items": {"enum": _fact_names()}},
        "explanation": {"type": "array", "minItems": 1, "items": _TEMPLATE},
        "remedies": {"type": "array", "items": _remedy()},
        "references": _TEXTS,
        "false_positives": _TEXTS,
        "examples": _closed({key: {"type": "array", "items": _TEXT} for key in ("fires_on", "quiet_on")}, ()),
    }
    assert set(properties) == {*REQUIRED, *OPTIONAL}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smtpscope rule",
        **_closed(properties, REQUIRED),
        "$defs": {"when": _when(), "comparison": _comparison(), "template": _template()},
    }


def _choice(values: tuple[str, ...]) -> Schema:
    return {"enum": list(values)}


def _closed(properties: dict[str, Schema], required: tuple[str, ...]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _when() -> Schema:
    group: Schema = {"type": "array", "items": _WHEN, "minItems": 1}
    groups = _closed(dict.fromkeys(("all", "any", "none"), group), ())
    return {"anyOf": [{"$ref": "#/$defs/comparison"}, group, {**groups, "minProperties": 1}]}


def _comparison() -> Schema:
    operators = sorted({op for ops in OPERATORS.values() for op in ops}, key=lambda op: (-len(op), op))
    return {"type": "string", "pattern": rf"^\s*({'|'.join(_fact_names())})\s*({'|'.join(operators)})(?![a-z_=<>!])"}


def _template() -> Schema:
    return {"anyOf": [_TEXT, _closed({"when": _WHEN, "text": _TEXT}, ("text",))]}


def _grade() -> Schema:
    return _closed(
        {
            "severity": _choice(SEVERITIES),
            "confidence": _choice(CONFIDENCES),
            "when": _WHEN,
            "role": _choice(ROLES),
            "title": _TEXT,
            "because": _TEXT,
        },
        ("severity", "confidence"),
    )


def _remedy() -> Schema:
    command = {"anyOf": [_TEXT, _closed({"for": _TEXT, "when": _WHEN, "run": _TEXT}, ("run",))]}
    return _closed(
        {
            "who": _choice(WHO),
            "host": _TEXT,
            "when": _WHEN,
            "what": _TEMPLATE,
            "commands": {"type": "array", "items": command, "minItems": 1},
            "check": _TEMPLATE,
        },
        ("who", "what", "check"),
    )


def _fact_names() -> list[str]:
    return sorted({name for words in VOCABULARY.values() for name in words})
