"""The Markdown report, parsed back."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from analyzer.case import Case
from analyzer.report.markdown import render


def tokens(case: Case) -> list[Token]:
    """All block and inline tokens of the report."""
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(render(case))
    return [t for token in parsed for t in (token, *(token.children or []))]


@pytest.mark.parametrize("case", ["incident", "clean", "no_smtp", "broken", "hostile"])
def test_nothing_from_a_capture_is_markup(case: str, request: pytest.FixtureRequest) -> None:
    """No link, no image, no HTML, no code block, no rule; whatever the capture says."""
    kinds = {t.type for t in tokens(request.getfixturevalue(case))}
    assert not kinds & {
        "link_open",
        "image",
        "html_inline",
        "html_block",
        "fence",
        "code_block",
        "hr",
        "blockquote_open",
    }


def test_headings_are_the_reports_own(incident: Case, hostile: Case) -> None:
    """Hostile text adds no heading and no table row."""
    count = [sum(t.type == kind for t in tokens(hostile)) for kind in ("heading_open", "tr_open")]
    # the hostile capture is incomplete: one heading more
    assert count == [
        sum(t.type == "heading_open" for t in tokens(incident)) + 1,
        sum(t.type == "tr_open" for t in tokens(incident)),
    ]


def test_the_story_is_complete(incident: Case) -> None:
    """Verdict first, then evidence, filters, commands and limits."""
    text = render(incident)
    assert text.index("hangs when it needs packets of 1500") < text.index("## Findings")
    for part in (
        "`frame.number in {14, 21, 22, 24, 25, 26, 28, 29, 30}`", "`sysctl -w net.ipv4.tcp_mtu_probing=1`",
        "random loss: 63 of 63", "## What this capture can not tell", "| 198.51.100.90 | 8 | 2 | 0 | 6 |",
    ):  # fmt: skip
        assert part in text
