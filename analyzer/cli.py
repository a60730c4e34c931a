"""The command smtpscope: arguments in, exit status out; no logic."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    return 0
