"""The words that the reports share."""

from __future__ import annotations

from dataclasses import replace

from analyzer.case import Case, Finding, Path, Remedy, WhatIf
from analyzer.report import html, markdown, text, wording


def twin(finding: Finding, number: int, receiver: str) -> Finding:
    """The same fault at another receiver: its address stands wherever the first one's did."""

    def say(words: str) -> str:
        return words.replace(str(finding.receiver), receiver)

    remedies = tuple(
        Remedy(r.who, say(r.host) if r.host else None, say(r.what), tuple(map(say, r.commands)), say(r.check))
        for r in finding.remedies
    )
    return replace(finding, id=number, receiver=receiver, remedies=remedies, fingerprint=f"twin-{number}")


def test_the_same_remedies_for_another_receiver_are_told_once(incident: Case) -> None:
    """Ten receivers behind one bad link are one page of commands, and nine times one line that names the difference."""
    first = incident.findings[0]
    near = f"{first.receiver}9"  # an address that begins like the other one
    incident.findings = [first, twin(first, 2, "203.0.113.77"), twin(first, 3, near)]
    assert {k: f.id for k, f in wording.same_remedies(incident.findings).items()} == {2: 1, 3: 1}
    printed = " ".join(text.render(incident).split())
    assert f"Do the same as for #1, with 203.0.113.77 in the place of {first.receiver}" in printed
    assert printed.count(first.remedies[0].what) == 1
    assert f"the same as for finding 1, with 203.0.113.77 in the place of {first.receiver}." in markdown.render(
        incident
    )
    page = html.render(incident, plots=False)
    assert f"The same as for finding 1, with {near} in the place of {first.receiver}</summary>" in page
    assert page.count("<h5>Network</h5>") == 3  # the page has them for all three, to be copied


def test_other_sizes_are_other_remedies(incident: Case) -> None:
    """One number that differs, and the commands are told again."""
    first = incident.findings[0]
    other = twin(first, 2, "203.0.113.77")
    other.remedies = (replace(other.remedies[0], what=other.remedies[0].what + " 1492"), *other.remedies[1:])
    assert wording.same_remedies([first, other]) == {}
    assert wording.same_remedies([first, replace(twin(first, 2, "203.0.113.77"), sender="192.0.2.99")]) == {}


def test_paths_with_the_same_answers_are_told_once(incident: Case) -> None:
    """What would have helped on three paths of one sender is told for the first; the others are named with their mails."""

    def path(number: int, receiver: str) -> Path:
        return replace(incident.paths[0], id=number, receiver=receiver)

    def answers(number: int, mails: tuple[int, ...], why: str = "1280 bytes pass") -> list[WhatIf]:
        return [WhatIf(number, "mss-clamp", 1280, 1240, "yes", mails, (), (), 3, 0.0, why)]

    incident.paths = [path(1, "203.0.113.1"), path(2, "203.0.113.2"), path(3, "203.0.113.3"), path(4, "203.0.113.4")]
    incident.what_if = [*answers(1, (5, 6)), *answers(2, (8, 9)), *answers(3, (7,)), *answers(4, (1, 2), "other sizes")]
    assert [(r.path.id, [p.id for p, _ in r.alike]) for r in wording.what_if(incident)] == [(1, [2]), (3, []), (4, [])]
    for report in (text.render(incident), html.render(incident, plots=False), markdown.render(incident)):
        assert "The same is true towards 203.0.113.2 (mails 8, 9)." in report
        assert report.count("MSS clamped to 1240") == 3


def test_every_finding_has_a_filter(incident: Case) -> None:
    """Where the evidence names no frames, the filter is that of the connections; a report without one is no hand-off."""
    first = incident.findings[0]
    assert wording.connection_filter(incident, first) is None
    first.evidence = ()
    client, server = incident.connections[0].client, incident.connections[0].server
    wanted = f"(ip.addr == {client.ip} && tcp.port == {client.port} && ip.addr == {server.ip} && tcp.port == 25)"
    found = wording.connection_filter(incident, first)
    assert found is not None and found.split(" || ")[0] == wanted and found.count("||") == 2
    assert wanted in " ".join(text.render(incident).split())
    assert wanted.replace("&", "&amp;") in html.render(incident, plots=False)
    assert wanted.replace("|", "\\|") in markdown.render(incident)


def test_commands_for_linux_come_first() -> None:
    """They are told apart by what stands beside them; without any for Linux, all come first."""
    commands = ["a  # Solaris", "b  # Linux", "c  # nftables"]
    assert wording.foremost(commands) == (["b  # Linux", "c  # nftables"], ["a  # Solaris"])
    assert wording.foremost(commands[:1]) == (commands[:1], [])
