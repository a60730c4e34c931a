"""The report for a terminal: the verdict first, then each finding with its proof and with what to do.

Everything fits 80 columns, display filters and commands included: filters break at spaces, which Wireshark ignores,
commands break with a backslash, as in a shell. Commands for
systems other than Linux are left to the documents. Colour only guides the eye.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from textwrap import wrap
from typing import TextIO

from ..case import Case, Evidence, Finding, Remedy, numbered
from ..whatif import told
from . import wording
from .escape import paragraphs, visible

COLOURS = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}
# More would bury the verdict: a finding is to be read in half a minute.
MOST_COMMANDS = 2
WHAT_IF_PATHS = 3  # more broken paths have mostly the same answer
LOG_LINES = 8  # lines of a mail log that are shown; a busy server writes thousands
LABEL_WIDTH = 10  # columns: "Evidence" and two spaces


def color_wanted(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Colour on a terminal that can show it, unless NO_COLOR is set and not empty (no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") not in ("dumb", None)


def render(case: Case, *, width: int = 80, color: bool = False, quiet: bool = False) -> str:
    """The report as text; `quiet` is the verdict only."""
    page = _Page(max(width, 40))
    if quiet:
        page.write(*wording.headline(case))
    elif wording.state(case) in ("clean", "no-smtp") and not case.findings:
        checked = (f"Checked {wording.checked(case, times=False, frames=f)}." for f in (True, False))
        line = next((line for line in checked if len(line) <= page.width), None)  # two lines are enough for good news
        page.write(line or f"Checked {wording.checked(case, times=False)}.", *wording.headline(case))
        _closing(page, case)
    else:
        _full(page, case)
    return "".join(_coloured(page.lines) if color else (f"{text.rstrip(' ')}\n" for text, _ in page.lines))


class _Page:
    """Lines of text, each with its style."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[tuple[str, str]] = []

    def write(self, *texts: str, indent: int = 0, prefix: str = "", style: str = "") -> None:
        """Wrapped, the first line with the prefix, the rest below it; a word longer than the line is broken."""
        for text in texts:
            lead = prefix
            for part in _wrapped(text, self.width - indent - len(prefix)):
                self.lines.append((" " * indent + lead + part, style))
                lead = " " * len(prefix)

    def heading(self, text: str, style: str = "bold") -> None:
        self.lines.append(("", ""))
        self.write(text, style=style)

    def labelled(self, label: str, text: str) -> None:
        self.write(text, indent=2, prefix=f"{label:<{LABEL_WIDTH}}")

    def item(self, mark: str, text: str, style: str = "") -> None:
        self.write(text, indent=2, prefix=f"{mark:<3} ", style=style)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many columns. What Unicode makes of a column is left to rich, which takes a while to load."""
    if text.isascii() and len(text) <= width:
        return [text]
    if text.isascii() and max(map(len, text.split()), default=0) <= width:
        return wrap(text, width, break_on_hyphens=False, replace_whitespace=False)
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=width, _environ={}), width)]


def _coloured(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    from rich.color import ColorSystem
    from rich.style import Style

    for text, style in lines:
        yield Style.parse(style).render(text.rstrip(" "), color_system=ColorSystem.STANDARD) + "\n"


def _full(page: _Page, case: Case) -> None:
    page.write(f"Checked {wording.checked(case)}.")
    if case.interrupted:
        page.write("Interrupted: this is what was found until then.", style="yellow")
    page.heading("Verdict")
    for line in wording.headline(case):
        page.write(line, indent=2, style="bold")
    findings = wording.ordered(case.findings)
    shown = [f for f in findings if f.explained_by is None and f.severity != "info"]
    repeats = wording.same_remedies(shown)
    for finding in shown:
        _finding(page, case, finding, repeats.get(finding.id))
    explained = [f for f in findings if f.explained_by is not None]
    noted = [f for f in findings if f.explained_by is None and f.severity == "info"]
    for heading, others in (("Explained by the above", explained), ("Also seen", noted)):
        if others:
            page.heading(heading)
        for f in wording.few_of_each(others):
            if isinstance(f, str):
                page.item("", visible(f))
            elif f.explained_by is not None:
                page.item(f"#{f.explained_by}", f"{visible(f.title)} ({f.rule}, #{f.id})")
                _filter(page, case, f)
            else:
                page.item(f"#{f.id}", f"{visible(f.title)} ({f.rule})")
                _filter(page, case, f)
    _closing(page, case)


def _what_if(page: _Page, case: Case) -> None:
    """Which remedy would have let which mails through; paths alike are told once."""
    for n, remedied in enumerate(wording.what_if(case)):
        if n == WHAT_IF_PATHS:
            page.write("The other broken paths are in --json.", indent=2)
            return
        path = remedied.path
        page.heading(f"What would have helped from {visible(path.sender)} to {visible(path.receiver)}")
        for answer in remedied.answers:
            page.item({"yes": "+", "perhaps": "?", "no": "-"}[answer.helps], visible(told(answer)))
        if remedied.alike:
            page.write(wording.alike(remedied), indent=2)


def _log(page: _Page, case: Case) -> None:
    """How the mailer's log agrees with the packets, and its lines about mails that did not get through."""
    if not case.log_notes:
        return
    page.heading("The mail log beside the packets")
    for note in case.log_notes:
        page.item("-", visible(note))
    well = {m.id for m in case.messages if m.outcome == "delivered"}
    told = [
        x for x in case.log if x.said not in ("info", "connect", "disconnect", "received") and x.message not in well
    ]
    for line in told[:LOG_LINES]:
        whose = f"mail {line.message}" if line.message is not None else "not in the capture"
        page.item(" ", f"{whose}: {visible(FilePath(line.file).name)}:{line.line}: {visible(line.text)}")
    if len(told) > LOG_LINES:
        page.item(" ", f"and {len(told) - LOG_LINES} more lines, in --json")


def _closing(page: _Page, case: Case) -> None:
    """Limits and problems: what no verdict may be read without."""
    _what_if(page, case)
    _log(page, case)
    if case.limits:
        page.heading("What this capture can not tell")
        for limit in case.limits:
            page.item("-", visible(limit))
    problems = [(c, p) for c in case.captures for p in c.problems]
    unread = [c for c in case.captures if not c.complete and not c.problems]
    if problems or unread:
        page.heading("What could not be read")
        for capture, problem in problems:
            page.item("-", f"{visible(problem)} ({wording.plural(capture.frames, 'frame')} read)", "yellow")
        for capture in unread:
            page.item("-", f"{visible(capture.path)}: not read to its end", "yellow")


def _finding(page: _Page, case: Case, finding: Finding, repeats: Finding | None) -> None:
    """One finding; where its remedies are those of an earlier one, `repeats`, that one is named instead."""
    page.heading(f"#{finding.id} {visible(finding.title)}", COLOURS[finding.severity])
    affected = [
        wording.plural(len(ids), noun)
        for ids, noun in ((finding.connections, "connection"), (finding.messages, "mail"))
        if ids
    ]
    label = [f"{finding.severity} {finding.role}", finding.confidence, visible(finding.rule), *affected]
    page.write(", ".join(label), indent=2, style="dim")
    for paragraph in paragraphs(finding.explanation):
        page.write(paragraph, indent=2)
    for path in numbered(case.paths, finding.paths):
        if known := wording.bracket(path):
            page.labelled("Path MTU", visible(known))
    for label_text, evidence in zip(_once("Evidence"), finding.evidence[:6], strict=False):
        _evidence(page, label_text, evidence, len(case.captures))
    if len(finding.evidence) > 6:
        page.labelled("", f"and {len(finding.evidence) - 6} more, in --json and --html")
    if found := wording.connection_filter(case, finding):
        page.labelled("Wireshark", "")
        page.write(visible(found), indent=LABEL_WIDTH + 4, style="cyan")
    for label_text, text in zip(_once("Against"), finding.against, strict=False):
        page.labelled(label_text, visible(text))
    for label_text, rival in zip(_once("Not"), finding.rivals, strict=False):
        page.labelled(label_text, f"{visible(rival.hypothesis)}: {visible(rival.why_not)}")
    for label_text, (whose, line) in zip(_once("Logs"), wording.logs(case, finding), strict=False):
        page.labelled(label_text, f"{whose}: {visible(line)}")
    if repeats is not None:
        where = f"with {visible(finding.receiver or '')} in the place of {visible(repeats.receiver or '')}"
        page.labelled("Do", f"the same as for #{repeats.id}, {where}")
        return
    for label_text, remedy in zip(_once("Do"), finding.remedies, strict=False):
        _remedy(page, label_text, remedy)


def _once(label: str) -> list[str]:
    """A label for the first of many."""
    return [label] + [""] * 1000


def _evidence(page: _Page, label: str, evidence: Evidence, captures: int) -> None:
    where = wording.frames(evidence.frames, captures, most=9)
    if evidence.connection is not None:
        where += f" (connection {evidence.connection})"
    page.labelled(label, f"{visible(evidence.note)}: {where}" if evidence.note else where)
    if evidence.display_filter:
        page.write(visible(evidence.display_filter), indent=LABEL_WIDTH + 4, style="cyan")


def _remedy(page: _Page, label: str, remedy: Remedy) -> None:
    who = wording.WHO[remedy.who] + (f" ({visible(remedy.host)})" if remedy.host else "")
    page.labelled(label, f"{who}: {visible(remedy.what)}")
    shown = wording.foremost(remedy.commands)[0][:MOST_COMMANDS]
    for command in shown:
        for line in _command_lines(command, page.width - LABEL_WIDTH - 4):
            page.write(line, indent=LABEL_WIDTH + 4, style="green")
    rest = len(remedy.commands) - len(shown)
    if rest:
        page.write(f"(other systems: {rest} more in --html and --markdown)", indent=LABEL_WIDTH + 4)
    if remedy.check:
        page.write(f"check: {visible(remedy.check)}", indent=LABEL_WIDTH + 2)


def _command_lines(command: str, width: int) -> list[str]:
    """A command as it can be pasted: what is said beside it stands above where both do not fit in one line."""
    lines = [visible(line) for line in command.split("\n")]
    going_on = "`" if "PowerShell" in lines[0] else "\\"
    if len(lines) == 1 and len(lines[0]) > width and "  # " in lines[0]:
        code, _, comment = lines[0].rpartition("  # ")
        lines = [f"# {comment}", code]
    return [
        part for line in lines for part in ([line] if line.startswith("# ") else _shell_lines(line, width, going_on))
    ]


def _shell_lines(command: str, width: int, going_on: str) -> list[str]:
    """A command broken at spaces outside quotes; left whole where there is no such place."""
    lines: list[str] = []
    while len(command) > width:
        cut, quote = -1, ""
        for at, c in enumerate(command[: width - 1]):
            if quote:
                quote = "" if c == quote else quote
            elif c in "'\"":
                quote = c
            elif c == " " and at > 4 and (command[at + 1] == "-" or cut < width // 2):
                cut = at  # rather before an option than between it and its value
        if cut < 0:
            break
        lines.append(f"{command[:cut]} {going_on}")
        command = "    " + command[cut + 1 :]
    return [*lines, command]


def _filter(page: _Page, case: Case, finding: Finding) -> None:
    """Where in Wireshark to look, for a finding that is only named."""
    first = next((e.display_filter for e in finding.evidence if e.display_filter), None)
    if found := first or wording.connection_filter(case, finding, most=1):
        page.write(visible(found), indent=6, style="cyan")
