"""The machine alone: rows of tokens, without text and without offsets."""

from __future__ import annotations

import doctest
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.smtp import grammar, states
from analyzer.smtp.states import CHUNK, CUT_MAIL, LAST_CHUNK, MAIL, STEPS, Token, follow


def test_the_examples_in_the_docstrings() -> None:
    """They are run."""
    assert doctest.testmod(states).failed == 0


def test_every_verb_of_the_table_is_known() -> None:
    """A step for a verb that the grammar does not know would never be taken."""
    special = {states.CONNECT, grammar.AUTH_RESPONSE}
    assert set(STEPS) - special <= grammar.VERBS


def test_pipelining_and_lockstep_are_one() -> None:
    """Replies one by one, or all at the end of a flight: the same pairs."""
    lockstep = follow((220, "EHLO", 250, "MAIL", 250, "RCPT", 250, "DATA", 354, MAIL, 250, "QUIT", 221))
    flights = follow((220, "EHLO", 250, "MAIL", "RCPT", "DATA", 250, 250, 354, MAIL, "QUIT", 250, 221))
    assert lockstep == flights


def test_phases() -> None:
    """How far the dialogue came, token by token."""
    row: list[tuple[Token, str]] = [
        (220, "greeting"),
        ("EHLO", "ehlo"),
        (250, "ehlo"),
        ("AUTH", "auth"),
        (235, "auth"),
        ("MAIL", "mail"),
        (250, "mail"),
        ("RCPT", "rcpt"),
        (250, "rcpt"),
        ("DATA", "data"),
        (354, "body"),
        (MAIL, "end-of-data"),
        (250, "end-of-data"),
        ("RSET", "end-of-data"),
        (250, "end-of-data"),
        ("MAIL", "mail"),
        (250, "mail"),
        ("QUIT", "quit"),
        (221, "quit"),
    ]
    for count in range(1, len(row) + 1):
        assert follow(tuple(token for token, _ in row[:count])).phase == row[count - 1][1]


def test_it_came_as_far_as_the_oldest_request_without_a_reply() -> None:
    """What was sent behind it does not count."""
    assert follow((220, "EHLO", 250, "MAIL", "RCPT", "DATA")).phase == "mail"
    assert follow((220, "EHLO", 250, "MAIL", "RCPT", "DATA", 250, 250, 354, MAIL, "QUIT")).phase == "end-of-data"
    assert follow(("EHLO",)).phase == "connect"


def test_a_mail_without_its_end_owes_nothing() -> None:
    """A server that has not seen the end has nothing to answer."""
    shape = follow((220, "MAIL", 250, "RCPT", 250, "DATA", 354, CUT_MAIL))
    assert (shape.phase, shape.awaited) == ("body", None)


def test_chunks() -> None:
    """Each chunk has its reply; the last one's settles the mail."""
    shape = follow((220, "MAIL", 250, "RCPT", 250, CHUNK, 250, LAST_CHUNK, 554))
    (mail,) = shape.mails
    assert (mail.via, mail.content, mail.bodies, mail.replies) == ("bdat", [2, 3], [0, 1], [4])


def test_a_421_settles_what_is_under_way() -> None:
    """And nothing that was settled before."""
    shape = follow((220, "MAIL", 250, "RCPT", 250, "DATA", 354, MAIL, 250, "MAIL", 250, 421))
    assert [mail.replies for mail in shape.mails] == [[4], [6]]
    assert [mail.ended_by for mail in shape.mails] == ["reply", "421"]
    assert shape.unasked == [6]


VERBS: list[Any] = [*STEPS, "NOOP", "UNKNOWN", MAIL, CUT_MAIL, CHUNK, LAST_CHUNK]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(VERBS), st.sampled_from([220, 250, 334, 354, 421, 450, 503, 550])), max_size=30)
)
def test_any_row_has_a_shape(tokens: list[Token]) -> None:
    """No order of tokens is an error; every number points at something."""
    shape = follow(tuple(tokens))
    replies = sum(isinstance(token, int) for token in tokens)
    used = [a for a in shape.answers if a is not None] + shape.unasked
    assert all(0 <= number < replies for number in used)
    assert len(set(used)) == len(used)
    for mail in shape.mails:
        assert all(number < len(shape.answers) for number in [*mail.recipients, *mail.content])
        assert all(number < replies for number in mail.replies)
