"""Everything that a capture, a file name or a log says is hostile: how it is made harmless, format by format.

`visible` comes first everywhere: it turns what can not be printed (terminal escapes, bidirectional overrides, zero-width
and line separators, lone surrogates, characters that XML 1.0 forbids) into its written form. Then each format takes care
of its own punctuation: HTML through Jinja's autoescape, XML through ElementTree, JSON through `json`, the rest here.
"""

from __future__ import annotations

import re

# Longer texts (a banner of 10 MB is possible) are cut: a report is for reading, and RFC 5321 4.5.3.1.5 allows 512 in a reply line.
TEXT_LIMIT = 1000

# What is markup anywhere in a line (CommonMark 2.4, GitHub's tables, strikethrough and mathematics); what makes a link
# by itself (GitHub's autolinks); what begins a heading, a list, a quotation or an underline at the start of a line.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>|~&$]|:(?=//)|(?<=\bwww)\.|^[-+=#]|(?<=^\d)[.)]|(?<=^\d\d)[.)]", re.IGNORECASE)


def visible(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""The text on one line, in printable characters only; others as ``\n``, ``\x1b``, ``\u202e``; cut at `limit`.

    Python's `str.isprintable` is false exactly for the Unicode categories Other and Separator, the space excepted.
    """
    if len(text) > limit:
        text = f"{text[:limit]}… (+{len(text) - limit:,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written(c) for c in text)


def _written(character: str) -> str:
    code = ord(character)
    if character in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text that a rule wrote (blank lines part them), each on one visible line."""
    parts = re.split(r"\n[ \t]*\n", text)
    return [visible(" ".join(part.split()), 4 * TEXT_LIMIT) for part in parts if part.strip()]


def markdown(text: str) -> str:
    """For running text and table cells in Markdown (CommonMark and GitHub's): no markup, link, HTML or cell border survives."""
    return _MARKDOWN.sub(r"\\\g<0>", visible(text).strip())


def markdown_code(text: str) -> str:
    """As a code span in Markdown: fenced by more backticks than the text holds; `|` would end a table cell even there."""
    safe = visible(text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", safe)), default=0) + 1)
    pad = " " if safe[:1] in "` " or safe[-1:] in "` " or not safe else ""
    return f"{fence}{pad}{safe}{pad}{fence}"
