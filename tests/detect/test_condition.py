"""Conditions: what holds, what does not, and what is refused when a rule is loaded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.detect.condition import Scope, compile_when
from analyzer.detect.document import parse
from analyzer.errors import RuleError


@pytest.mark.parametrize(
    ("text", "facts", "holds"),
    [
        ("stuck_sends == 4", {"stuck_sends": 4}, True),
        ("stuck_sends == 4", {"stuck_sends": 5}, False),
        ("stuck_sends != 4", {"stuck_sends": 5}, True),
        ("stuck_sends < 4", {"stuck_sends": 3}, True),
        ("stuck_sends<4", {"stuck_sends": 4}, False),
        ("stuck_sends <= 4", {"stuck_sends": 4}, True),
        ("stuck_span_s > 1.5", {"stuck_span_s": 1.51}, True),
        ("stuck_span_s >= 1.5", {"stuck_span_s": 1.49}, False),
        ("ip_version in [4, 6]", {"ip_version": 6}, True),
        ("captured_at in [at_sender, middle]", {"captured_at": "middle"}, True),
        ("captured_at not_in [at_sender, middle]", {"captured_at": "at_receiver"}, True),
        ("captured_at == at_sender", {"captured_at": "at_sender"}, True),
        ("captured_at != at_sender", {"captured_at": "at_sender"}, False),
        ("stuck_df is true", {"stuck_df": True}, True),
        ("stuck_df is false", {"stuck_df": True}, False),
        ("links seen", {"links": ("PPPoE",)}, True),
        ("hole_s not_seen", {"hole_s": 1.0}, False),
        ("hole_s not_seen", {}, True),
        ('icmp_from == "10.0.0.1"', {"icmp_from": "10.0.0.1"}, True),
        ("stuck_ip_bytes > largest_delivered_bytes", {"stuck_ip_bytes": 1500, "largest_delivered_bytes": 1397}, True),
        ("stuck_ip_bytes > largest_delivered_bytes", {"stuck_ip_bytes": 1397, "largest_delivered_bytes": 1397}, False),
        ("stuck_sends > -1", {"stuck_sends": 0}, True),
    ],
)
def test_operators(condition, text, facts, holds):
    """Each operator holds where its name says, and nowhere else."""
    assert condition(text)(facts) is holds


@pytest.mark.parametrize("operator", ["== 4", "!= 4", "< 4", ">= 4", "in [4]", "not_in [4]", "== icmp_count"])
@pytest.mark.parametrize("facts", [{}, {"stuck_sends": None, "icmp_count": 4}])
def test_not_seen_never_compares(condition, operator, facts):
    """A comparison with a fact that was not seen does not hold, whatever the operator."""
    assert not condition(f"stuck_sends {operator}")(facts)


def test_not_seen_is_neither_true_nor_false(condition):
    """`is` holds for neither value of a fact that was not seen."""
    assert not condition("stuck_df is true")({})
    assert not condition("stuck_df is false")({"stuck_df": None})


def test_groups_nest(condition):
    """all, any and none nest, and several of them in one mapping must all hold."""
    when = condition("all: [stuck_sends > 3, {any: [stuck_df is true, ip_version == 6]}]\nnone: [window_shut is true]")
    assert when({"stuck_sends": 4, "ip_version": 6})
    assert not when({"stuck_sends": 4, "ip_version": 4})
    assert not when({"stuck_sends": 4, "ip_version": 6, "window_shut": True})
    assert when.text == "all(stuck_sends > 3, any(stuck_df is true, ip_version == 6), none(window_shut is true))"


def test_list_means_all(condition):
    """A list alone means that all of it must hold."""
    when = condition("- stuck_sends > 3\n- stuck_df is true\n")
    assert when({"stuck_sends": 4, "stuck_df": True})
    assert not when({"stuck_sends": 4})


def test_thresholds_are_named(condition):
    """`$name` stands for a threshold of the rule."""
    assert condition("stuck_sends >= $least", least=3)({"stuck_sends": 3})
    assert not condition("stuck_sends >= $least", least=3)({"stuck_sends": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stuck_sents >= 4", "unknown fact 'stuck_sents'; did you mean 'stuck_sends'?"),
        ("banner_lines > 1", "fact 'banner_lines' is about a server, but this rule's subject is a path"),
        ("stuck_sends >= $leest", "unknown threshold '$leest'; did you mean 'least'?"),
        ("stuck_sends >= many", "unknown fact 'many'"),
        ("stuck_sends is true", "stuck_sends (int) takes == != < <= > >= in not_in seen not_seen; not 'is'"),
        ("stuck_df == true", "stuck_df (bool) takes is seen not_seen; not '=='"),
        ("stuck_df is maybe", "stuck_df is true or false; not 'maybe'"),
        ("links == PPPoE", "links (words) takes seen not_seen; not '=='"),
        (
            "captured_at == at_sendr",
            "captured_at is one of at_sender, middle, at_receiver, unknown; not 'at_sendr'; did you mean",
        ),
        ("captured_at == $least", "captured_at is one of"),
        ("captured_at > middle", "captured_at (enum) takes"),
        ("icmp_from == router", "icmp_from is text: put 'router' in quotes"),
        ("stuck_ip_bytes > stuck_span_s", "stuck_ip_bytes (bytes) cannot be compared with stuck_span_s (s)"),
        ("stuck_sends > stuck_df", "stuck_sends (int) cannot be compared with stuck_df (bool)"),
        ("ip_version in 4", "expected a list like [a, b], not '4'"),
        ('"ip_version in [4,]"', "an item is missing in the list"),
        ("stuck_sends >=", "a value is missing after '>='"),
        ("hole_s seen now", "nothing may follow 'seen'"),
        ("stuck_sends", "expected 'fact operator value', not 'stuck_sends'"),
        ('"stuck_sends ~ 4"', "expected 'fact operator value'"),
        ("__import__('os').system('id')", "expected 'fact operator value'"),
        ("true", "a condition must be a mapping, not True"),
        ("{}", "a condition is empty; expected all, any or none"),
        ("any: []", "the list under 'any' is empty"),
        ("some: [stuck_sends > 1]", "unknown key 'some' in a condition"),
        ("al: [stuck_sends > 1]", "unknown key 'al' in a condition; did you mean 'all'?"),
    ],
)
def test_refused_with_line(condition, text, message):
    """What cannot be meant is refused with the file, the line and the nearest name."""
    with pytest.raises(RuleError) as error:
        condition(text, least=3)
    assert str(error.value).startswith("rule.yaml:1: ")
    assert message in str(error.value)


def test_error_names_the_line_of_the_comparison(condition):
    """The line is that of the comparison, not of the group around it."""
    with pytest.raises(RuleError, match=r"^rule\.yaml:3: unknown fact 'typo'"):
        condition("all:\n  - stuck_sends > 1\n  - typo > 1\n")


def test_depth_is_limited(condition):
    """Groups nested deeper than any rule needs are refused."""
    with pytest.raises(RuleError, match="nested deeper than 8 levels"):
        condition("{any: [" * 8 + "stuck_sends > 1" + "]}" * 8)


def test_number_of_comparisons_is_limited(condition):
    """More comparisons than a person can read are refused."""
    with pytest.raises(RuleError, match="more than 200 comparisons"):
        condition("- stuck_sends > 1\n" * 201)


def test_length_of_a_comparison_is_limited(condition):
    """A comparison longer than any that a person writes is refused before it is looked at."""
    with pytest.raises(RuleError, match="a comparison of 50005 characters; at most 300"):
        condition("a > x" + " " * 49_999 + "y")


@given(st.text(max_size=80))
def test_any_text_compiles_or_is_refused(text):
    """Whatever stands where a comparison should, the answer is a condition or one clear line."""
    node = parse("x", "rule.yaml")
    node.value = text
    try:
        answer = compile_when(node, Scope("path", {}))({})
    except RuleError as error:
        answer = str(error)
    assert answer in {True, False} or answer.startswith("rule.yaml:1: ")
