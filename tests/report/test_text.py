"""The terminal report."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from analyzer.case import Case, Evidence, Frame
from analyzer.report.text import _wrapped, color_wanted, render
from analyzer.summary import summarize

from .conftest import SENDER

CASES = ["incident", "clean", "no_smtp", "broken", "hostile"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [80, 60])
def test_it_fits_the_terminal(case: str, width: int, request: pytest.FixtureRequest) -> None:
    """No line is longer than the terminal, whatever the case holds."""
    assert max(map(len, render(request.getfixturevalue(case), width=width).splitlines())) <= width


def test_the_verdict_comes_first(incident: Case) -> None:
    """The first thing read after what was checked is the verdict."""
    text = render(incident)
    assert text.index("Verdict") < text.index("hangs when it needs packets of 1500") < text.index("#1 Large packets")


def test_a_clean_capture_takes_two_lines(clean: Case) -> None:
    """What was checked, and that it is clean; nothing else."""
    assert render(clean).splitlines() == [
        "Checked incident.pcapng: 118 connections, 118 mails, 16 servers, 18,234 frames.",
        "Clean: 118 of 118 mails delivered; no black hole, split end, mask or stall.",
    ]


def test_good_news_fits_two_lines_under_a_long_name(clean: Case) -> None:
    """A name that leaves no room for the number of frames is rather told whole."""
    clean.captures[0].path = "folder/ring-20260105-040000.pcapng"
    assert render(clean).splitlines() == [
        "Checked ring-20260105-040000.pcapng: 118 connections, 118 mails, 16 servers.",
        "Clean: 118 of 118 mails delivered; no black hole, split end, mask or stall.",
    ]


def test_what_tls_hides_is_not_called_clean_without_a_word(clean: Case) -> None:
    """Mails whose outcome can not be seen are counted as such."""
    clean.messages = [replace(m, outcome="unknown", reply_code=None, via="tls") for m in clean.messages]
    said = "Clean as far as can be seen: 0 of 118 mails delivered, the outcome of 118 is not visible (TLS);"
    assert said in " ".join(render(clean).split())


def test_refused_mails_are_told(clean: Case) -> None:
    """Greylisting is no fault of the path, but it is said."""
    clean.messages = [replace(m, outcome="deferred", reply_code=450) for m in clean.messages[:1]]
    assert "Clean: 0 of 1 mail delivered, 1 refused for now (4xx);" in render(clean)


def test_the_log_lines_to_look_for_are_told(incident: Case) -> None:
    """Whoever has only the log finds the line that belongs to the finding."""
    said = "Logs client 192.0.2.10: timed out while sending end of data -- message may be sent more than once"
    assert said in " ".join(render(incident).split())


def test_a_capture_that_is_cut_off_is_never_clean(broken: Case) -> None:
    """Nothing was found, but the report says what is missing instead of 'clean'."""
    text = render(broken)
    assert "Clean" not in text
    assert "this is no clean bill" in text
    assert "record of frame 78 is cut off" in text


def test_nothing_read_is_said(broken: Case) -> None:
    """A file that is no capture gives 'nothing could be read', not 'no SMTP'."""
    broken.captures = broken.captures[1:]
    broken.captures[0].frames = 0
    broken.connections, broken.messages, broken.paths = [], [], []
    assert "Nothing could be read." in render(broken)


def test_without_smtp_the_other_services_are_named(no_smtp: Case) -> None:
    """A capture without SMTP says so and lists what it did see, busiest first."""
    assert "No SMTP in this capture. TCP ports seen: 443 (https): 812 packets, 8080" in render(no_smtp)


def test_a_finding_tells_what_why_and_what_to_do(incident: Case) -> None:
    """Evidence frames, display filter, for and against, rivals, remedies and who: all in the text."""
    text = " ".join(render(incident).split())
    for part in (
        "critical cause, certain, pmtud-black-hole",
        "frames 14, 21-22, 24-26, 28-30 (connection 1)",
        "frame.number in {14, 21, 22, 24, 25, 26, 28, 29, 30}",
        "Against The capture does not show",
        "random loss: 63 of 63 packets",
        "at least 1,397, below 1,500 bytes (1492 PPPoE",
        "sender's admin (192.0.2.10): Let TCP find the size",
        "sysctl -w net.ipv4.tcp_mtu_probing=1",
        "No ICMP is visible here: whether a router",
    ):
        assert part in text


def test_a_symptom_is_listed_under_its_cause(incident: Case) -> None:
    """What a cause explains takes one line and names the cause."""
    assert "#1  3 mails to 198.51.100.20 were never answered (end-of-data-timeout, #5)" in render(incident)


def test_quiet_is_the_verdict_only(incident: Case) -> None:
    """`--quiet` leaves the sentences of the verdict."""
    assert " ".join(render(incident, quiet=True).split()) == " ".join(incident.summary)


def test_long_commands_stay_commands(incident: Case) -> None:
    """A command that is broken over two lines still runs when both are pasted into a shell."""
    text = render(incident)
    assert re.search(r"-p tcp --tcp-flags SYN,RST SYN \\\n +-j TCPMSS --clamp-mss-to-pmtu", text)


def test_several_captures_name_the_capture_of_a_frame(broken: Case, incident: Case) -> None:
    """With two captures a frame number alone would be ambiguous."""
    broken.findings = incident.findings
    broken.findings[0].evidence = (Evidence(1, (Frame(1, 5), Frame(2, 7)), "", "sent"),)
    assert "frames 1:5, 2:7" in render(broken)


def test_no_control_character_reaches_the_terminal(hostile: Case) -> None:
    """Escape sequences, OSC titles and bidirectional overrides come out as written text."""
    assert render(hostile).replace("\n", "").isprintable()
    assert re.sub(r"\x1b\[[0-9;]*m|\n", "", render(hostile, color=True)).isprintable()


@pytest.mark.parametrize(
    ("tty", "environ", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_only_where_it_can_be_shown(tty: bool, environ: dict[str, str], wanted: bool) -> None:
    """NO_COLOR, a dumb terminal and a pipe get plain text."""
    stream = io.StringIO()
    stream.isatty = lambda: tty  # type: ignore[method-assign]
    assert color_wanted(stream, environ) is wanted


def test_colour_adds_nothing_but_colour(incident: Case) -> None:
    """The same words, with and without."""
    colourful = render(incident, color=True)
    assert "\x1b[" in colourful
    assert re.sub(r"\x1b\[[0-9;]*m", "", colourful) == render(incident)


def test_many_alike_are_counted(incident: Case) -> None:
    """Hundreds of paths that lost a packet do not bury the one thing that is wrong."""
    small = incident.findings[-1]
    many = [replace(small, id=n, receiver=f"203.0.113.{n}") for n in range(7, 200)]
    text = render(replace(incident, findings=[*incident.findings, *many]))
    assert "Also seen" in text
    assert text.count("(small-mss)") == 5
    assert "and 189 more of small-mss, in --json and --html" in text
    assert len(text.splitlines()) < len(render(incident).splitlines()) + 15


def test_the_verdict_counts_causes_alike(incident: Case) -> None:
    """The first ones of a rule are told one by one, the others as a number; no rule hides another."""
    hole, split = incident.findings[0], next(f for f in incident.findings if f.rule == "split-terminator")
    holes = [replace(hole, id=n, receiver=f"203.0.113.{n}") for n in range(1, 41)]
    told = summarize(replace(incident, findings=[*holes, split]))[1:]
    assert [line.split(": ")[-1] for line in told] == [
        *(f"{SENDER} to 203.0.113.{n} (certain)." for n in (1, 2, 3)),
        "37 more.",
        f"{SENDER} to {split.receiver} (likely).",
    ]


LINES = st.lists(st.text(alphabet="ab-./,&|=(){}0 ", max_size=14), max_size=14).map(" ".join)


@given(LINES, st.integers(20, 40))
def test_lines_break_where_rich_breaks_them(line: str, width: int) -> None:
    assume(max(map(len, line.split()), default=0) <= width)  # else it is rich that breaks them
    by_rich = Text(line).wrap(Console(width=width, _environ={}), width)
    assert [part.rstrip() for part in _wrapped(line, width)] == [part.plain.rstrip() for part in by_rich]
