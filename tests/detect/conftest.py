"""A small valid rule as text, and ways to read variations of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from analyzer.detect import rule
from analyzer.detect.condition import Condition, Scope, compile_when
from analyzer.detect.document import parse
from analyzer.detect.facts import Kind

MINIMAL = """\
id: slow-reply
about: The server takes long.
title: Slow reply
role: cause
subject: path
scope: path
thresholds:
  least: {value: 3, why: two happen by chance}
when: stuck_sends >= $least
grades:
  - {severity: high, confidence: certain, when: small_passed_after is true}
  - {severity: low, confidence: possible}
explanation:
  - "{stuck_sends:time} in {stuck_span_s}."
remedies: []
examples: {}
"""


@pytest.fixture
def minimal() -> str:
    """The smallest rule that shows something."""
    return MINIMAL


@pytest.fixture
def load_text() -> Callable[..., rule.Rule]:
    """Reads a rule from a text."""
    return lambda text, name="rule.yaml": rule.build(parse(text, name))


@pytest.fixture
def pack_of(load_text: Callable[..., rule.Rule]) -> Callable[..., rule.RulePack]:
    """Makes a pack of rules given as texts."""
    return lambda *texts: rule.RulePack(tuple(load_text(text) for text in texts))


@pytest.fixture
def condition() -> Callable[..., Condition]:
    """Compiles a condition given as YAML."""

    def compiled(text: str, kind: Kind = "path", **thresholds: float) -> Condition:
        return compile_when(parse(text, "rule.yaml"), Scope(kind, thresholds))

    return compiled
