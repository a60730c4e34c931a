"""The marks of a firewall's inspection, and what only looks like them."""

from __future__ import annotations

import pytest

from analyzer.smtp import banner

FAQ = "**************************************0******0*********20 ****200**0*********0*00"


@pytest.mark.parametrize(
    "lines",
    [
        [FAQ],
        ["***"],
        ["***************"],
        ["****", "**20 **"],
        ["***", "**"],
        ["****", ""],
        ["2 0 * * * 0 2"],
    ],
)
def test_masked(lines: list[str]) -> None:
    """Nothing but asterisks, 2, 0 and blanks on every line, and at least three asterisks."""
    assert banner.is_masked(lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["mx.example.com ESMTP Postfix"],
        ["*** Welcome ***"],
        ["mx.example.com ESMTP ****************"],
        ["**", ""],
        ["20 20"],
        [""],
        [],
        ["*****", "mx.example.com"],
        ["**1**3**"],
        ["*****\t"],
        ["*****\r"],
    ],
)
def test_near_misses(lines: list[str]) -> None:
    """Decoration, a single plain line, too few asterisks, any other character: no mask."""
    assert not banner.is_masked(lines)


def test_masked_keywords() -> None:
    """Runs of X that end in a letter; real keywords that hold an X are left alone."""
    keywords = ("PIPELINING", "XXXXXXXA", "XXXB", "XCLIENT", "X-EXPS", "XXEXCH", "XX", "XXXXXXXX")
    assert banner.masked_keywords(keywords) == ("XXXXXXXA", "XXXB", "XXXXXXXX")


def test_what_a_run_may_be() -> None:
    """Only the length is left of a keyword: eight letters may be STARTTLS, and some others."""
    assert set(banner.may_be("XXXXXXXA")) >= {"STARTTLS", "CHUNKING", "SMTPUTF8", "8BITMIME"}
    assert set(banner.may_be("XXXB")) >= {"SIZE", "VRFY", "ETRN", "AUTH", "HELP"}
    assert "STARTTLS" not in banner.may_be("XXXXXXA")
    assert banner.may_be("X" * 40) == ()


def test_masked_commands() -> None:
    """Commands that arrived as runs of X."""
    assert banner.masked_commands(["EHLO", "XXXX", "XCLIENT", "UNKNOWN", "XXXXXXXX"]) == ("XXXX", "XXXXXXXX")
