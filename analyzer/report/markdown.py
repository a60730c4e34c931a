"""The report as Markdown: for an issue, a wiki, or the mail to the other side's postmaster.

CommonMark with GitHub's tables. What a capture says can make no link, image, HTML, heading or table cell.
"""

from __future__ import annotations

from ..case import Case, Evidence, Finding, Remedy, numbered
from ..whatif import told
from . import wording
from .escape import markdown, markdown_code, paragraphs

MOST_EVIDENCE = 12
MOST_SERVERS = 30  # a table that people still read
MOST_PATHS = 5  # more broken paths have mostly the same answers


def render(case: Case) -> str:
    """The whole report; blocks are parted by blank lines, so that nothing runs together in any dialect."""
    blocks = ["# smtpscope report", *_verdict(case)]
    findings = wording.ordered(case.findings)
    shown = [f for f in findings if f.explained_by is None and f.severity != "info"]
    if shown:
        blocks.append("## Findings")
    repeats = wording.same_remedies(shown)
    for finding in shown:
        blocks += _finding(case, finding, repeats.get(finding.id))
    explained = [f for f in findings if f.explained_by is not None]
    noted = [f for f in findings if f.explained_by is None and f.severity == "info"]
    blocks += _section("Explained by the above", _named(explained))
    blocks += _section("Also seen", _named(noted))
    blocks += _servers(case)
    blocks += _what_if(case)
    blocks += _section("The mail log beside the packets", [markdown(note) for note in case.log_notes])
    blocks += _section("What this capture can not tell", [markdown(limit) for limit in case.limits])
    unread = [markdown(p) for c in case.captures for p in c.problems]
    unread += [
        f"{markdown_code(c.path)}: not read to its end" for c in case.captures if not c.complete and not c.problems
    ]
    blocks += _section("What could not be read", unread)
    return "\n\n".join(blocks) + "\n"


def _named(findings: list[Finding]) -> list[str]:
    lines = []
    for f in wording.few_of_each(findings):
        if isinstance(f, str):
            lines.append(markdown(f))
        else:
            by = f", explained by {f.explained_by}" if f.explained_by is not None else ""
            lines.append(f"{markdown(f.title)} ({markdown(f.rule)}{by})")
    return lines


def _verdict(case: Case) -> list[str]:
    first, *rest = wording.headline(case)
    blocks = [
        f"**{markdown(first)}**" if first.strip() else "",
        *(markdown(line) for line in rest),
        markdown(f"Checked {wording.checked(case)}."),
    ]
    if case.interrupted:
        blocks.append("The analysis was interrupted: this is what was found until then.")
    return blocks


def _section(title: str, items: list[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {item}" for item in items)] if items else []


def _finding(case: Case, finding: Finding, repeats: Finding | None) -> list[str]:
    about = [finding.severity, finding.role, finding.confidence, markdown(finding.rule)]
    for ids, noun in ((finding.connections, "connection"), (finding.messages, "mail")):
        if ids:
            about.append(wording.plural(len(ids), noun))
    blocks = [f"### {finding.id}\\. {markdown(finding.title)}", f"*{', '.join(about)}*"]
    blocks += [markdown(p) for p in paragraphs(finding.explanation)]
    for path in numbered(case.paths, finding.paths):
        if known := wording.bracket(path):
            blocks.append(f"**Path MTU from {markdown(path.sender)} to {markdown(path.receiver)}:** {markdown(known)}")
    if finding.evidence:
        shown = [_evidence(e, len(case.captures)) for e in finding.evidence[:MOST_EVIDENCE]]
        blocks += ["**Evidence**", "\n".join(shown)]
    if found := wording.connection_filter(case, finding):
        blocks += ["**In Wireshark**", markdown_code(found)]
    blocks += _list("Why nothing else", [f"{markdown(r.hypothesis)}: {markdown(r.why_not)}" for r in finding.rivals])
    blocks += _list("What speaks against it", [markdown(a) for a in finding.against])
    logs = [f"{markdown(whose)}: {markdown_code(line)}" for whose, line in wording.logs(case, finding)]
    blocks += _list("What the mail servers will have logged", logs)
    if repeats is not None:
        where = f"with {markdown(finding.receiver or '')} in the place of {markdown(repeats.receiver or '')}"
        blocks.append(f"**What to do, and who:** the same as for finding {repeats.id}, {where}.")
    elif finding.remedies:
        blocks += ["**What to do, and who**", "\n".join(_remedy(r) for r in finding.remedies)]
    return blocks


def _list(title: str, items: list[str]) -> list[str]:
    return [f"**{title}**", "\n".join(f"- {item}" for item in items)] if items else []


def _evidence(evidence: Evidence, captures: int) -> str:
    where = wording.frames(evidence.frames, captures)
    if evidence.connection is not None:
        where += f" (connection {evidence.connection})"
    text = f"- {markdown(evidence.note)}: {markdown(where)}" if evidence.note else f"- {markdown(where)}"
    return text + (f"  \n  {markdown_code(evidence.display_filter)}" if evidence.display_filter else "")


def _remedy(remedy: Remedy) -> str:
    who = wording.WHO[remedy.who] + (f" ({remedy.host})" if remedy.host else "")
    lines = [f"- **{markdown(who)}:** {markdown(remedy.what)}"]
    for command in remedy.commands:
        code, remark = wording.command_lines(command)
        lines += [f"  {markdown_code(line)}" for line in code[:-1]]
        lines.append(f"  {markdown_code(code[-1])}" + (f" ({markdown(remark)})" if remark else ""))
    if remedy.check:
        lines.append(f"  Check: {markdown(remedy.check)}")
    return "  \n".join(lines)


def _what_if(case: Case) -> list[str]:
    """Which remedy would have let which mails through; paths alike are told once."""
    blocks = []
    for remedied in wording.what_if(case)[:MOST_PATHS]:
        path = remedied.path
        blocks.append(f"## What would have helped from {markdown(path.sender)} to {markdown(path.receiver)}")
        blocks.append("\n".join(f"- **{answer.helps}**: {markdown(told(answer))}" for answer in remedied.answers))
        if remedied.alike:
            blocks.append(markdown(wording.alike(remedied)))
    return blocks


def _servers(case: Case) -> list[str]:
    """Mails by server, those with trouble first."""
    rows = wording.by_server(case)
    if not rows:
        return []
    table = ["| Server | Connections | Delivered | Refused | Hung |", "|---|--:|--:|--:|--:|"]
    table += [
        f"| {markdown(r.ip)} | {r.connections} | {r.delivered} | {r.refused} | {r.hung} |" for r in rows[:MOST_SERVERS]
    ]
    blocks = ["## Servers", "\n".join(table)]
    if len(rows) > MOST_SERVERS:
        blocks.append(f"and {wording.plural(len(rows) - MOST_SERVERS, 'more server')}.")
    return blocks
