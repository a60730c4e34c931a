"""The vocabulary and the numbers that remedies need."""

import re

import pytest

from analyzer.detect.facts import KINDS, VOCABULARY, Subject, check, derive


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_is_well_formed(kind):
    """Every fact has a known type and unit, a meaning, and its unit in its name where that is a time or a size of its own."""
    for name, fact in VOCABULARY[kind].items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert fact.type in {"bool", "int", "float", "str", "enum", "words"}
        assert fact.unit in {"", "bytes", "s", "ratio", "probability"}
        assert fact.meaning
        assert (fact.type == "enum") == bool(fact.values)
        assert not (fact.unit == "s" and not name.endswith("_s"))


def test_check_names_what_is_wrong():
    """A subject with a misspelt fact or a value of a wrong type is told."""
    assert check(Subject("path", {"stuck_sends": 4, "stuck_df": None, "links": ("PPPoE",), "rtt_s": 1})) == []
    assert check(Subject("path", {"stuck_sents": 4})) == ["path fact 'stuck_sents' is unknown"]
    assert check(Subject("path", {"stuck_sends": True})) == ["path fact 'stuck_sends' cannot be True"]
    assert check(Subject("path", {"captured_at": "sender"})) == ["path fact 'captured_at' cannot be 'sender'"]


@pytest.mark.parametrize(
    ("facts", "derived"),
    [
        (
            {"ip_version": 4, "mtu_at_least": 1397, "mtu_below": 1500},
            {
                "ping_size_pass": 1369,
                "ping_size_fail": 1472,
                "mtu_to_set": 1397,
                "mtu_to_set_proven": True,
                "mss_clamp": 1357,
                "mtu_bracket_bytes": 103,
            },
        ),
        (
            {"ip_version": 6, "mtu_at_least": 1400, "mtu_below": 1500},
            {
                "ping_size_pass": 1352,
                "ping_size_fail": 1452,
                "mtu_to_set": 1400,
                "mtu_to_set_proven": True,
                "mss_clamp": 1340,
                "mtu_bracket_bytes": 100,
            },
        ),
        (  # nothing but small packets was seen to pass: what nearly every network carries
            {"ip_version": 4, "mtu_at_least": 120, "mtu_below": 1500},
            {
                "ping_size_pass": 92,
                "ping_size_fail": 1472,
                "mtu_to_set": 1280,
                "mtu_to_set_proven": False,
                "mss_clamp": 1240,
                "mtu_bracket_bytes": 1380,
            },
        ),
        (  # and never more than what was lost
            {"ip_version": 4, "mtu_below": 1223},
            {"ping_size_fail": 1195, "mtu_to_set": 1222, "mtu_to_set_proven": False, "mss_clamp": 1182},
        ),
        ({}, {}),
        ({"mtu_at_least": 1500}, {"ping_size_pass": 1472}),
    ],
)
def test_derived_numbers(facts, derived):
    """MTU, MSS and ping sizes come from the two ends of the bracket."""
    assert derive(facts) == derived
