"""The report for a terminal: the verdict first, then each finding with its proof and with what to do.

Everything fits 80 columns, display filters and commands included: filters break at spaces, which Wireshark ignores,
commands break with a backslash, as in a shell. Commands for
systems other than Linux are left to the documents. Colour only guides the eye.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TextIO

from ..case import Case, Evidence, Finding, Remedy
from ..whatif import told
from . import wording
from .escape import paragraphs, visible

if TYPE_CHECKING:
    from rich.console import Console

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
    from rich.console import Console

    console = Console(
        file=StringIO(), width=max(width, 40), force_terminal=color, color_system="standard" if color else None,
        no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False, _environ={},
    )  # fmt: skip
    if quiet:
        _write(console, *wording.headline(case))
    elif wording.state(case) in ("clean", "no-smtp") and not case.findings:
        checked = (f"Checked {wording.checked(case, times=False, frames=f)}." for f in (True, False))
        line = next(
            (line for line in checked if len(line) <= console.width), None
        )  # two lines are enough for good news
        _write(console, line or f"Checked {wording.checked(case, times=False)}.", *wording.headline(case))
        _closing(console, case)
    else:
        _full(console, case)
    out = console.file
    assert isinstance(out, StringIO)
    return "".join(line.rstrip(" ") + "\n" for line in out.getvalue().splitlines())


def _full(console: Console, case: Case) -> None:
    _write(console, f"Checked {wording.checked(case)}.")
    if case.interrupted:
        _write(console, "Interrupted: this is what was found until then.", style="yellow")
    _heading(console, "Verdict")
    for line in wording.headline(case):
        _write(console, line, indent=2, style="bold")
    findings = wording.ordered(case.findings)
    shown = [f for f in findings if f.explained_by is None and f.severity != "info"]
    repeats = wording.same_remedies(shown)
    for finding in shown:
        _finding(console, case, finding, repeats.get(finding.id))
    explained = [f for f in findings if f.explained_by is not None]
    noted = [f for f in findings if f.explained_by is None and f.severity == "info"]
    for heading, others in (("Explained by the above", explained), ("Also seen", noted)):
        if others:
            _heading(console, heading)
        for f in wording.few_of_each(others):
            if isinstance(f, str):
                _item(console, "", visible(f))
            elif f.explained_by is not None:
                _item(console, f"#{f.explained_by}", f"{visible(f.title)} ({f.rule}, #{f.id})")
                _filter(console, case, f)
            else:
                _item(console, f"#{f.id}", f"{visible(f.title)} ({f.rule})")
                _filter(console, case, f)
    _closing(console, case)


def _what_if(console: Console, case: Case) -> None:
    """Which remedy would have let which mails through; paths alike are told once."""
    for n, remedied in enumerate(wording.what_if(case)):
        if n == WHAT_IF_PATHS:
            _write(console, "The other broken paths are in --json.", indent=2)
            return
        path = remedied.path
        _heading(console, f"What would have helped from {visible(path.sender)} to {visible(path.receiver)}")
        for answer in remedied.answers:
            _item(console, {"yes": "+", "perhaps": "?", "no": "-"}[answer.helps], visible(told(answer)))
        if remedied.alike:
            _write(console, wording.alike(remedied), indent=2)


def _log(console: Console, case: Case) -> None:
    """How the mailer's log agrees with the packets, and its lines about mails that did not get through."""
    if not case.log_notes:
        return
    _heading(console, "The mail log beside the packets")
    for note in case.log_notes:
        _item(console, "-", visible(note))
    well = {m.id for m in case.messages if m.outcome == "delivered"}
    told = [
        x for x in case.log if x.said not in ("info", "connect", "disconnect", "received") and x.message not in well
    ]
    for line in told[:LOG_LINES]:
        whose = f"mail {line.message}" if line.message is not None else "not in the capture"
        _item(console, " ", f"{whose}: {visible(FilePath(line.file).name)}:{line.line}: {visible(line.text)}")
    if len(told) > LOG_LINES:
        _item(console, " ", f"and {len(told) - LOG_LINES} more lines, in --json")


def _closing(console: Console, case: Case) -> None:
    """Limits and problems: what no verdict may be read without."""
    _what_if(console, case)
    _log(console, case)
    if case.limits:
        _heading(console, "What this capture can not tell")
        for limit in case.limits:
            _item(console, "-", visible(limit))
    problems = [(c, p) for c in case.captures for p in c.problems]
    unread = [c for c in case.captures if not c.complete and not c.problems]
    if problems or unread:
        _heading(console, "What could not be read")
        for capture, problem in problems:
            _item(console, "-", f"{visible(problem)} ({wording.plural(capture.frames, 'frame')} read)", "yellow")
        for capture in unread:
            _item(console, "-", f"{visible(capture.path)}: not read to its end", "yellow")


def _finding(console: Console, case: Case, finding: Finding, repeats: Finding | None) -> None:
    """One finding; where its remedies are those of an earlier one, `repeats`, that one is named instead."""
    _heading(console, f"#{finding.id} {visible(finding.title)}", COLOURS[finding.severity])
    affected = [
        wording.plural(len(ids), noun)
        for ids, noun in ((finding.connections, "connection"), (finding.messages, "mail"))
        if ids
    ]
    label = [f"{finding.severity} {finding.role}", finding.confidence, visible(finding.rule), *affected]
    _write(console, ", ".join(label), indent=2, style="dim")
    for paragraph in paragraphs(finding.explanation):
        _write(console, paragraph, indent=2)
    of = set(finding.paths)
    for path in (p for p in case.paths if p.id in of):
        if known := wording.bracket(path):
            _labelled(console, "Path MTU", visible(known))
    for label_text, evidence in zip(_once("Evidence"), finding.evidence[:6], strict=False):
        _evidence(console, label_text, evidence, len(case.captures))
    if len(finding.evidence) > 6:
        _labelled(console, "", f"and {len(finding.evidence) - 6} more, in --json and --html")
    if found := wording.connection_filter(case, finding):
        _labelled(console, "Wireshark", "")
        _write(console, visible(found), indent=LABEL_WIDTH + 4, style="cyan")
    for label_text, text in zip(_once("Against"), finding.against, strict=False):
        _labelled(console, label_text, visible(text))
    for label_text, rival in zip(_once("Not"), finding.rivals, strict=False):
        _labelled(console, label_text, f"{visible(rival.hypothesis)}: {visible(rival.why_not)}")
    for label_text, (whose, line) in zip(_once("Logs"), wording.logs(case, finding), strict=False):
        _labelled(console, label_text, f"{whose}: {visible(line)}")
    if repeats is not None:
        where = f"with {visible(finding.receiver or '')} in the place of {visible(repeats.receiver or '')}"
        _labelled(console, "Do", f"the same as for #{repeats.id}, {where}")
        return
    for label_text, remedy in zip(_once("Do"), finding.remedies, strict=False):
        _remedy(console, label_text, remedy)


def _once(label: str) -> list[str]:
    """A label for the first of many."""
    return [label] + [""] * 1000


def _evidence(console: Console, label: str, evidence: Evidence, captures: int) -> None:
    where = wording.frames(evidence.frames, captures, most=9)
    if evidence.connection is not None:
        where += f" (connection {evidence.connection})"
    _labelled(console, label, f"{visible(evidence.note)}: {where}" if evidence.note else where)
    if evidence.display_filter:
        _write(console, visible(evidence.display_filter), indent=LABEL_WIDTH + 4, style="cyan")


def _remedy(console: Console, label: str, remedy: Remedy) -> None:
    who = wording.WHO[remedy.who] + (f" ({visible(remedy.host)})" if remedy.host else "")
    _labelled(console, label, f"{who}: {visible(remedy.what)}")
    shown = wording.foremost(remedy.commands)[0][:MOST_COMMANDS]
    for command in shown:
        for line in _command_lines(command, console.width - LABEL_WIDTH - 4):
            _write(console, line, indent=LABEL_WIDTH + 4, style="green")
    rest = len(remedy.commands) - len(shown)
    if rest:
        _write(console, f"(other systems: {rest} more in --html and --markdown)", indent=LABEL_WIDTH + 4)
    if remedy.check:
        _write(console, f"check: {visible(remedy.check)}", indent=LABEL_WIDTH + 2)


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


def _heading(console: Console, text: str, style: str = "bold") -> None:
    console.print()
    _write(console, text, style=style)


def _labelled(console: Console, label: str, text: str) -> None:
    _write(console, text, indent=2, prefix=f"{label:<{LABEL_WIDTH}}")


def _item(console: Console, mark: str, text: str, style: str = "") -> None:
    _write(console, text, indent=2, prefix=f"{mark:<3} ", style=style)


def _filter(console: Console, case: Case, finding: Finding) -> None:
    """Where in Wireshark to look, for a finding that is only named."""
    first = next((e.display_filter for e in finding.evidence if e.display_filter), None)
    if found := first or wording.connection_filter(case, finding, most=1):
        _write(console, visible(found), indent=6, style="cyan")


def _write(console: Console, *lines: str, indent: int = 0, prefix: str = "", style: str = "") -> None:
    """Wrapped lines, the first with the prefix, the rest below it; a word longer than the line is broken."""
    from rich.text import Text

    for line in lines:
        wrapped = Text(line).wrap(console, console.width - indent - len(prefix))
        for n, part in enumerate(wrapped):
            part.rstrip()
            lead = prefix if n == 0 else " " * len(prefix)
            console.print(Text(" " * indent + lead + part.plain, style=style), soft_wrap=True)
