"""Arbitrary text in every string of a case, through every format: it arrives as text, and as nothing else."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analyzer.case import Case
from analyzer.report import html, junit, markdown, sarif, text
from analyzer.report import json as document

# Fields of closed vocabularies, which the analysis sets and no capture does; addresses are made by ipaddress.
CLOSED = frozenset(
    "role severity confidence scope verdict outcome via tls vantage closed_by who phase ip sender receiver rule format links".split()
)
PIECES = st.sampled_from([
    "<script>", "</style>", "<!--", "]]>", "&lt;", "'", '"', "`", "```", "|", "\n\n", "\n# ", "\r\n| - |\n", "\\", "${x}", "{{x}}", "{%", "%s",
    "{0}", "[a](http://b)", "![](x)", "<http://b>", "\x1b[2J", "\x1b]8;;x\x07", "\x9b", "\u202e", "\u2028", "\x00", "\x7f", "\ud800", "\ufffe",
    "=1+1", "@", "- ", "1. ", "> ", "    ", "\t", "***", "~~", "&#x3c;", "javascript:", "漢", "🙂", "a" * 300,
])  # fmt: skip
TEXT = st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join)


def poisoned(value: Any, poison: str, name: str = "") -> Any:
    """A copy in which every free string is the poison; keys of dictionaries too, where they are data."""
    if isinstance(value, str):
        return value if name in CLOSED else poison
    if isinstance(value, dict):
        return {
            k if name == "expected_log" else poison if isinstance(k, str) else k: poisoned(v, poison)
            for k, v in value.items()
        }
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(poisoned(v, poison, n) for n, v in zip(value._fields, value, strict=True)))
    if isinstance(value, list | tuple):
        return type(value)(poisoned(v, poison, name) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: poisoned(getattr(value, f.name), poison, f.name) for f in fields(value)})
    return value


@pytest.fixture
def small(incident: Case) -> Case:
    """A case with something of everything, small enough to be written many times."""
    incident.connections, incident.messages = incident.connections[:30], incident.messages[:30]
    return incident


def elements(page: str) -> Counter[str]:
    found: Counter[str] = Counter()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.update([tag])  # type: ignore[method-assign]
    parser.feed(page)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(poison=TEXT)
def test_text_stays_text(poison: str, small: Case) -> None:
    """Terminal, HTML, Markdown, JUnit, SARIF and JSON: each parses back, with the structure that harmless text gives."""
    # harmless text of the same kind: empty strings and blank paragraphs leave out what they would have filled
    harmless = poisoned(small, "x" if poison.strip() else poison)
    case = poisoned(small, poison)
    assert text.render(case).replace("\n", "").isprintable()
    assert max(map(len, text.render(case).splitlines())) <= 80 or "a" * 200 in poison
    page, plain = elements(html.render(case, plots=False)), elements(html.render(harmless, plots=False))
    assert page - plain <= Counter(p=1000)  # blank lines may part a rule's explanation into paragraphs: nothing else
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown.render(case))
    kinds = {t.type for token in parsed for t in (token, *(token.children or []))}
    assert not kinds & {
        "link_open",
        "image",
        "html_inline",
        "html_block",
        "fence",
        "code_block",
        "hr",
        "blockquote_open",
        "s_open",
    }
    assert {e.tag for e in ET.fromstring(junit.render(case, [poison])).iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "error", "system-out",
    }  # fmt: skip
    assert len(json.loads(sarif.render(case, "1"))["runs"][0]["results"]) == len(case.findings)
    written = document.render(case)
    assert json.loads(written) == document.document(case)
    assert written.isascii()
    assert written.replace("\n", "").isprintable()


HOSTILE_WORDS = b"\x1b[2J\x1b]0;owned\x07\x1b]8;;http://x\x1b\\\x9b31m\x90\x08\x08\x7f\xe2\x80\xae\xe2\x80\xa8\xff"
OWN_CONTROL = re.compile(r"\x1b\[[0-9;]*m|\r(?:[\d,]+ frames read)?\x1b\[K")  # colours, and the line of progress


def test_no_control_byte_reaches_a_terminal(tmp_path: Path) -> None:
    """In a pseudo-terminal: banner, EHLO name, mailboxes, a foreign command and the file's own name, all hostile."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
    import hostile

    talk = hostile.Talk()
    frames = [
        *talk.handshake(),
        *talk.say("s", b"220 ********" + HOSTILE_WORDS + b"\r\n"),
        *talk.say("c", b"EHLO " + HOSTILE_WORDS + b"\r\n"),
        *talk.say("s", b"250-" + HOSTILE_WORDS + b"\r\n250 XXXXXXXA\r\n"),
        *talk.say("c", HOSTILE_WORDS + b"\r\nMAIL FROM:<" + HOSTILE_WORDS + b"@x>\r\nRCPT TO:<y@x>\r\nDATA\r\n"),
        *talk.say("s", b"500 " + HOSTILE_WORDS + b"\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        3,
        *(frame for _ in range(7) for frame in (talk.packet("c", b"a" * 1448), 3)),
        talk.packet("c", b"a\r\n.\r\n", at=1448),
        talk.packet("s"),
    ]
    capture = os.fsencode(tmp_path) + b"/x\x1b[31m\x07\xff\xe2\x80\xae.pcap"
    with open(capture, "wb") as file:
        hostile.pcap(file, frames)
        file.write(b"cut")  # so that a problem is told, with the name
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "analyzer", "analyze", capture]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal hangs up when the program ends
        while piece := os.read(master, 65536):
            shown += piece
    assert process.wait(60) == 3
    said = OWN_CONTROL.sub("", shown.decode().replace("\r\n", "\n"))
    assert "pmtud-black-hole" in said
    assert all(c.isprintable() or c == "\n" for c in said), ascii(said)
