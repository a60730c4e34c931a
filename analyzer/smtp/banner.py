"""The marks that a firewall's SMTP inspection leaves on a dialogue. Facts only: what they mean, rules say.

PIX ``fixup protocol smtp`` and ASA ``inspect esmtp`` overwrite the greeting: every character becomes ``*``, except ``2``,
``0`` and a blank behind a ``0``. EHLO keywords that they do not allow, and commands, become runs of ``X``, as long as
the word was, so that the length of the TCP segment stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What the mask leaves of a line, the code and its separator taken away. Stricter than the test in Postfix (which takes
# a tab, and a bare "220"), wider than nmap's (which takes any digit and one line only).
_MASKED = re.compile(r"[*20 ]*\Z")

# A host name and "ESMTP" are longer than this; "220 ** 20" alone may be somebody's joke.
LEAST_ASTERISKS = 3


def is_masked(lines: Sequence[str]) -> bool:
    """True for a 220 greeting whose every line (the text behind code and separator) a firewall has masked.

    Decoration is a near miss: ``220 *** Welcome ***`` holds letters, so no mask wrote it.
    """
    asterisks = sum(line.count("*") for line in lines)
    return asterisks >= LEAST_ASTERISKS and all(_MASKED.match(line) for line in lines)


# The run may end in a letter that counts the masked keywords of one reply: XXXXXXXA, XXXB.
_X_KEYWORD = re.compile(r"X{2,}[A-Z]\Z")

# EHLO keywords (IANA "SMTP Service Extensions", and Postfix's XCLIENT, XFORWARD) by what a mask may hide.
KEYWORDS = tuple(
    "SEND SOML SAML EXPN HELP TURN SIZE VRFY ETRN ATRN AUTH BURL DSN 8BITMIME PIPELINING CHUNKING BINARYMIME STARTTLS "
    "CHECKPOINT DELIVERBY SMTPUTF8 SUBMITTER NO-SOLICITING MTRK CONPERM CONNEG FUTURERELEASE MT-PRIORITY RRVS "
    "REQUIRETLS LIMITS ENHANCEDSTATUSCODES XCLIENT XFORWARD".split()
)


def masked_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """The EHLO keywords that are runs of X."""
    return tuple(k for k in keywords if _X_KEYWORD.match(k))


def may_be(run: str) -> tuple[str, ...]:
    """The keywords that a run of X may have been: those of its length. Proves nothing by itself.

    >>> may_be("XXXXXXXA")
    ('8BITMIME', 'CHUNKING', 'STARTTLS', 'SMTPUTF8', 'XFORWARD')
    """
    return tuple(k for k in KEYWORDS if len(k) == len(run))


def masked_commands(verbs: Iterable[str]) -> tuple[str, ...]:
    """The commands that arrived as runs of X (``states`` keeps their length, never their arguments)."""
    return tuple(v for v in verbs if len(v) >= LEAST_ASTERISKS and not v.strip("X"))
