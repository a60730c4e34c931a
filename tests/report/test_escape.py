"""Hostile text, format by format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analyzer.report.escape import TEXT_LIMIT, markdown, markdown_code, paragraphs, visible

# GitHub's dialect as far as markup goes; what it links by itself is tested by hand below.
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TEXT = st.text(st.characters(exclude_categories=()), max_size=80) | st.text(
    "*_`[]()<>!#|~&$\\-+=.1a \n\thttp://w", max_size=40
)


@given(TEXT)
def test_what_is_visible_is_one_printable_line(text: str) -> None:
    """Nothing that moves a cursor, reorders text, ends a line or is no character at all."""
    assert visible(text).isprintable()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain – ü 漢", "plain – ü 漢"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800 \U000e0001 \xa0", "\\ud800 \\U000e0001 \\xa0"),
    ],
)
def test_what_can_not_be_printed_is_written_out(text: str, written: str) -> None:
    """A reader sees what was there."""
    assert visible(text) == written


def test_endless_text_is_cut() -> None:
    """A banner of ten megabytes does not become a report of ten megabytes."""
    assert visible("x" * 10_000_000) == "x" * TEXT_LIMIT + "… (+9,999,000 characters)"


def test_paragraphs_are_those_of_the_rule() -> None:
    """Blank lines part paragraphs; a single line end is a space."""
    assert paragraphs("one\ntwo  three\n\n  four\x07\n\n\n") == ["one two three", "four\\x07"]


@given(TEXT)
def test_markdown_text_has_no_markup(text: str) -> None:
    """Parsed back, it is one paragraph of nothing but the text itself."""
    tokens = PARSER.parse(f"- {markdown(text)}\n\nEND")
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "text_special"}
    kinds = {token.type for token in tokens} - {"inline", "paragraph_open", "paragraph_close"}
    assert kinds <= {"bullet_list_open", "list_item_open", "list_item_close", "bullet_list_close"}
    assert "".join(child.content for child in inline) == visible(text).strip() + "END"


@given(TEXT)
def test_markdown_code_is_that_code(text: str) -> None:
    """A code span holds the text and ends where it ends; a bar in it does not end a table cell."""
    tokens = PARSER.parse(f"| a | b |\n|---|---|\n| {markdown_code(text)} | z |")
    cells = [token for token in tokens if token.type == "inline"][2:]
    assert len(cells) == 2
    if visible(text).strip():
        assert [child.type for child in cells[0].children or []] == ["code_inline"]


@pytest.mark.parametrize("text", ["see http://evil.example", "HTTPS://evil.example", "www.evil.example"])
def test_no_address_becomes_a_link_by_itself(text: str) -> None:
    """GitHub links bare URLs; the character that starts such a link is escaped."""
    assert "\\:" in markdown(text) or "www\\." in markdown(text)
