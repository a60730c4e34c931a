"""Sentences with facts in them."""

import pytest

from analyzer.detect.condition import Scope
from analyzer.detect.document import parse
from analyzer.detect.facts import VOCABULARY
from analyzer.detect.wording import plain_template, seconds, worded
from analyzer.errors import RuleError

PATH = VOCABULARY["path"]


def fill(text, command=False, **facts):
    node = parse("x", "rule.yaml")
    node.value = text
    return plain_template(node, Scope("path", {}), "a text").fill(facts, command=command)


@pytest.mark.parametrize(
    ("text", "facts", "filled"),
    [
        ("{stuck_ip_bytes}", {"stuck_ip_bytes": 1500}, "1500 bytes"),
        ("a {stuck_ip_bytes:n}-byte packet", {"stuck_ip_bytes": 1500}, "a 1500-byte packet"),
        ("{stuck_span_s}", {"stuck_span_s": 93.37}, "93 s"),
        ("{stuck_span_s:n}", {"stuck_span_s": 93.37}, "93.37"),
        ("{loss_ratio}", {"loss_ratio": 0.05}, "5 %"),
        ("{loss_ratio}", {"loss_ratio": 0.123}, "12 %"),
        ("{loss_size_blind_p}", {"loss_size_blind_p": 1e-9}, "less than 0.0001"),
        ("{stuck_sends:time}", {"stuck_sends": 1}, "1 time"),
        ("{stuck_sends:time}", {"stuck_sends": 9}, "9 times"),
        ("{stuck_sends:TCP segment}", {"stuck_sends": 4}, "4 TCP segments"),
        ("{links}", {"links": ("PPPoE", "IPIP")}, "PPPoE, IPIP"),
        ("{stuck_df}", {"stuck_df": False}, "no"),
        ("nft add rule { type filter } {stuck_sends}", {"stuck_sends": 1}, "nft add rule { type filter } 1"),
        ("{0} {} {stuck_sends.real} {stuck_sends!r}", {}, "{0} {} {stuck_sends.real} {stuck_sends!r}"),
    ],
)
def test_filled(text, facts, filled):
    """A placeholder is a fact's name and nothing else; what is none stays as it is."""
    assert fill(text, **facts) == filled


def test_a_style_that_is_none_fails_at_load():
    """It would be printed as it stands."""
    with pytest.raises(RuleError, match="stuck_sends:noun"):
        fill("{stuck_sends:2 times}")


def test_values_are_not_read_again():
    """A placeholder inside a value is text."""
    assert fill("{icmp_from}", icmp_from="{stuck_sends}") == "{stuck_sends}"


@pytest.mark.parametrize("value", ["a b", "$(id)", "`id`", "-rf", "a;b", "a\nb", "", "x" * 200, "'"])
def test_unfit_for_commands(value):
    """A command with a value that a shell could read otherwise is not given."""
    assert fill("ping {icmp_from}", command=True, icmp_from=value) is None


@pytest.mark.parametrize("value", ["10.0.0.1", "2001:db8::1", "::1", "::ffff:10.0.0.1", "host-3f2a", "fe80::1%eth0"])
def test_fit_for_commands(value):
    """Addresses and pseudonyms are given."""
    assert fill("ping {icmp_from}", command=True, icmp_from=value) == f"ping {value}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2134, "0.21 s"), (3.14, "3.1 s"), (9.97, "10 s"), (53.2, "53 s"), (300.0, "300 s"), (700, "12 min")],
)
def test_seconds(value, text):
    """A duration has the digits that matter."""
    assert seconds(value) == text


def test_long_text_is_cut():
    """A text fact of any length leaves a readable sentence."""
    assert len(worded(PATH["icmp_from"], "x" * 10_000)) == 200
