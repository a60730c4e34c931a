"""The examples in the project's Markdown files: found, run, and (by `make docs`) written anew; the pictures too.

In a ```console block every line that begins with `$ ` is a command, and what follows is its output, stdout and stderr
together; a line `...` stands for any lines. A block of `python` is run as a script, one of `yaml` is checked. Other blocks (`sh`, ...) are
for reading only. Everything runs in the project's folder.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("analyzer/**/*.md"), *ROOT.glob("sample_pcaps/**/*.md"), *ROOT.glob("rules/*.md")]
)
BLOCK = re.compile(r"^```(console|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A command of a console block, and the output that the document shows for it."""

    line: str
    output: str


def commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
        if part.startswith("$ "):
            line, _, output = part.removeprefix("$ ").partition("\n")
            yield Command(line, output)


def run(line: str) -> str:
    """What a command prints; `smtpscope` is the one of this checkout."""
    words = shlex.split(line)
    if words[0] != "smtpscope":
        raise ValueError(f"only smtpscope is run in a console block, not {words[0]!r}: use ```sh")
    done = subprocess.run(
        [sys.executable, "-m", "analyzer", *words[1:]],
        cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, text=True, timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if "internal error" in done.stdout:
        raise RuntimeError(f"$ {line}\n{done.stdout}")  # never to be written into a document
    return done.stdout


def matches(shown: str, printed: str) -> bool:
    """Whether the output is the one shown, where a line `...` may stand for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + "\n" for line in shown.splitlines()
    )
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in printed.splitlines())) is not None


def shortened(shown: str, printed: str) -> str:
    """The output, cut as the document cuts it: as many lines before and after a `...`."""
    lines = shown.splitlines()
    if "..." not in lines:
        return printed
    head, tail = lines.index("..."), len(lines) - lines.index("...") - 1
    new = printed.splitlines()
    return "\n".join([*new[:head], "...", *(new[-tail:] if tail else [])]) + "\n"


def renew(text: str) -> str:
    """The document with every output as it is now; an output that is still true is left alone."""

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language != "console":
            return match[0]
        lines = []
        for command in commands(body):
            printed = run(command.line)
            lines.append(
                f"$ {command.line}\n{command.output if matches(command.output, printed) else shortened(command.output, printed)}"
            )
        return f"```console\n{''.join(lines)}```"

    return BLOCK.sub(block, text)


# Pictures of the documents, beside the captures that they are drawn from: name -> (capture, which of its report's plots).
PICTURES = {
    "blackhole-1400": ("blackhole-1400.sender.pcap", "black-hole-sequence"),
    "blackhole-1400-receiver": ("blackhole-1400.receiver.pcap", "black-hole-sequence"),
    "icmp-ignored": ("icmp-ignored.sender.pcap", "ignored-sequence"),
    "incident-sizes-of-packets": ("incident.pcapng", "black-hole-sizes-of-packets"),
    "incident-sizes-of-mails": ("incident.pcapng", "black-hole-sizes-of-mails"),
    "outage-mid-mail": ("outage-mid-mail.sender.pcap", "outage-sizes-of-packets"),
    "pix-split-3-drop": ("pix-split-3-drop.sender.pcap", "terminator-ladder"),
}


def picture(name: str, *, dark: bool = False) -> bytes:
    """One picture as SVG, as the report of its capture shows it."""
    import analyzer
    from analyzer.report import plots

    capture, wanted = PICTURES[name]
    case = analyzer.analyze(ROOT / "sample_pcaps" / capture)
    plot = next(p for p in plots.plots_worth_drawing(case.data, case.proving_traces) if wanted in p.name)
    return plots.image(plots.figure(plot.draw, dark=dark), "svg")


def draw_pictures() -> None:
    """Every picture, for light and for dark pages."""
    for name in PICTURES:
        for suffix, dark in (("", False), ("-dark", True)):
            (ROOT / "sample_pcaps" / f"{name}{suffix}.svg").write_bytes(picture(name, dark=dark))


if __name__ == "__main__":
    draw_pictures()
    for document in DOCUMENTS:
        old = document.read_text(encoding="utf-8")
        if (new := renew(old)) != old:
            document.write_text(new, encoding="utf-8")
            print(f"{document.relative_to(ROOT)}: renewed")
