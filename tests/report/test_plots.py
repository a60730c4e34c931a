"""The plots: what they must show. Whether they are beautiful, eyes judge."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analyzer.case import Case
from analyzer.report import plots
from analyzer.report.steps import Step, steps
from analyzer.tcp.delivery import Trace

Draw = Callable[..., Axes]


def words(ax: Axes) -> str:
    """All text on the Axes: title, labels, ticks, annotations, legend."""
    legend = ax.get_legend()
    own = [t.get_text() for t in (*ax.texts, ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label)]
    ticks = [t.get_text() for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    return " | ".join(own + ticks + ([t.get_text() for t in legend.get_texts()] if legend else []))


def test_the_sequence_graph_tells_the_stall(black_hole: Trace) -> None:
    """The stuck packet's size, how often it was sent, and that it was never acknowledged stand in the picture."""
    ax = plots.sequence(black_hole)
    said = words(ax)
    for part in (
        "1,500 bytes with DF, sent 9 times in 53 s, never acknowledged",
        "sent again", "reported by SACK", "don't fragment (DF)", "acknowledged up to here", "ICMP: too big", "MTU 1,400",
        "192.0.2.10:40001 (client) to 198.51.100.20:25",
        "time since the stuck packet was first sent (s; logarithmic from 0.1 on)",
    ):  # fmt: skip
        assert part in said


def test_the_sequence_graph_zooms_on_the_stall(black_hole: Trace) -> None:
    """The hole and what was in flight behind it fill the axis; the time axis begins shortly before the loss."""
    ax = plots.sequence(black_hole)
    low, high = ax.get_ylim()
    assert low < 140 < 140 + 4 * 1448 + 900 < high < 20_000
    assert -0.2 < ax.get_xlim()[0] < 0


def test_at_the_receiver_the_hole_itself_is_drawn(receiver_side: Trace) -> None:
    """Where nothing is sent twice, the bytes that never came by are marked, with their number."""
    assert "5,792 bytes never seen here" in words(plots.sequence(receiver_side))


def test_bytes_that_were_acknowledged_are_a_hole_of_the_capture(well: Trace) -> None:
    """An acknowledgment past the hole proves that the capture lost the packet: the picture says so."""
    kept = well.c2s.table.seq != 5_001 + 140 + 1448
    lossy = well.c2s
    lossy.table, lossy.seq, lossy.end = lossy.table[kept], lossy.seq[kept], lossy.end[kept]
    for name in ("ack", "resend", "duplicate", "sent_once"):
        setattr(lossy, name, getattr(lossy, name)[kept])
    assert "1,448 bytes acknowledged, but not in the capture" in words(plots.sequence(well))


def test_without_a_stall_the_time_is_linear(well: Trace) -> None:
    """A transfer that goes well is drawn to scale, from the beginning of the connection."""
    ax = plots.sequence(well)
    assert ax.get_xscale() == "linear"
    assert "time since the connection began (s)" in words(ax)


def test_either_side_can_be_drawn(black_hole: Trace) -> None:
    """The side that lost more is the default; the other can be asked for."""
    assert "(server)" in words(plots.sequence(black_hole, side="server"))


def test_size_against_fate_shows_the_bracket(incident: Case) -> None:
    """Which sizes passed, which were lost, between which two sizes the path MTU lies, and the link types that fit."""
    said = words(plots.size_fate(incident.paths[0]))
    for part in ("at least 1,397,\nbelow 1,500 bytes", "PPPoE  1,492", "WireGuard  1,420", "lost", "passed", "63",
                 "path-MTU black hole", "(bytes)"):  # fmt: skip
        assert part in said


def test_mails_by_size_show_where_it_parts(incident: Case) -> None:
    """One word passes, a hundred words do not: the sizes between which it parts are told."""
    said = words(plots.sizes(incident, "198.51.100.20"))
    assert "every mail up to 1,100 B passed,\nevery mail from 14 kB on hung" in said


def test_mails_by_size_claim_nothing_when_it_does_not_part(incident: Case) -> None:
    """A small mail that hung: then size does not decide, and nothing is claimed."""
    hung = next(m for m in incident.messages if m.outcome == "end-of-data-timeout" and m.connection == 1)
    hung.size = 200
    assert "every mail" not in words(plots.sizes(incident, "198.51.100.20"))


def test_the_timeline_has_trouble_on_top(incident: Case) -> None:
    """Destinations where mails hung come first; what does not fit is drawn together, and counted."""
    ax = plots.timeline(incident, most=10)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert set(labels[:3]) == {"198.51.100.20", "2001:db8:40::25", "198.51.100.90"}
    assert labels[-1] == "11 others"
    assert "UTC, 2024-03-05" in words(ax)


def test_the_timeline_reads_as_times_of_day(incident: Case) -> None:
    """However short or long the incident: hours, minutes and, where they tell something, seconds; never parts of them."""

    def ticks(mails: slice, days: int = 0) -> list[str]:
        case = replace(
            incident, messages=[replace(m) for m in incident.messages[mails]], connections=incident.connections[:3]
        )
        case.messages[-1].start_ns = (case.messages[-1].start_ns or 0) + days * 86_400 * 10**9
        ax = plots.timeline(case)
        ax.figure.canvas.draw()
        return [t.get_text() for t in ax.get_xticklabels()]

    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", t) for t in ticks(slice(2, 3)))
    assert all(re.fullmatch(r"\w{3} \d\d \d\d:\d\d", t) for t in ticks(slice(0, 3), days=3))
    assert len(ticks(slice(2, 3))) >= 3


def test_a_mail_hangs_until_its_connection_ends(incident: Case) -> None:
    """The line behind the cross of a hung mail is as long as it was waited for."""
    incident.messages = [m for m in incident.messages if m.connection == 1]
    lines = next(c for c in plots.timeline(incident).collections if isinstance(c, LineCollection))
    (start, _), (end, _) = lines.get_segments()[0]
    assert (end - start) * 86_400 == pytest.approx(180 - 0.25, abs=0.01)


def test_the_end_of_a_connection_is_no_hole(samples: Path) -> None:
    """A FIN has a number of its own: the acknowledgment after it leaves no byte out."""
    import analyzer

    assert "not in the capture" not in words(plots.sequence(analyzer.analyze(samples / "loss-5.sender.pcap").trace(1)))


def test_the_ladder_tells_pauses_losses_and_cuts(black_hole: Trace) -> None:
    """Long silences are told in words, lost steps end in a cross, a cut end is marked; the middle may be left out."""
    at = black_hole.t0_ns
    steps = [Step(at + n * 1_000, n % 2 == 0, f"line {n}", n + 1) for n in range(40)]
    steps += [Step(at + 180 * 10**9, True, "CR LF", 77, lost=True, cut=True)]
    said = words(plots.ladder(black_hole, steps, most=12))
    for part in ("3 min of silence", "29 steps left out", "✂ CR LF", "77", "client 192.0.2.10:40001", "time (s)"):
        assert part in said


def test_a_connection_is_told_in_steps() -> None:
    """Verbs, codes and lengths; the cut end in its pieces; what is sent again is told as such. No argument, no text."""
    from analyzer import analysis

    sample = Path(__file__).parents[2] / "sample_pcaps" / "pix-split-3-drop.sender.pcap"
    case = analysis.analyze([str(sample)])
    told = steps(analysis.trace(case, 1))
    text = [step.text for step in told]
    assert text[0] == "220 greeting"
    assert text[1] == "EHLO"
    assert any("CR LF ." in t for t in text)
    cut = next(step for step in told if step.cut)
    assert cut.text.startswith("CR LF")
    assert any(t.startswith("again: ") for t in text)
    assert "@" not in " ".join(text)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax, case: plots.size_fate(replace(case.paths[0], sizes=()), ax),
        lambda ax, case: plots.sizes(case, "192.0.2.250", ax),
        lambda ax, case: plots.timeline(Case(), ax),
        lambda ax, case: plots.ladder(None, [], ax),  # type: ignore[arg-type]
    ],
)
def test_nothing_to_draw_is_said(draw: Draw, incident: Case) -> None:
    """An empty picture says why it is empty."""
    ax = Figure().add_subplot()
    assert draw(ax, incident) is ax
    assert words(ax).strip(" |")


def test_hostile_text_is_only_text(black_hole: Trace, hostile: Case, tmp_path: Path) -> None:
    """Addresses and names with mathematics, markup or control characters are drawn as they are, and the SVG stays well-formed."""
    hostile.paths[0].sender = "$\\frac{1}{0}$ <script>\x00\x1b[31m $"
    steps = [Step(black_hole.t0_ns, True, "$\\undefined$ \x00 ]]> <script>")]
    for draw in (
        lambda ax, dark: plots.size_fate(hostile.paths[0], ax, dark=dark),
        lambda ax, dark: plots.ladder(black_hole, steps, ax, dark=dark),
    ):
        root = ET.fromstring(plots.image(plots.figure(draw), "svg"))
        assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_every_plot_is_written_twice(incident: Case, black_hole: Trace, tmp_path: Path) -> None:
    """PNG and SVG of the timeline and of the proofs of each cause; the same bytes for the same case."""
    traces = {1: black_hole}
    written = plots.write_plots(incident, traces, tmp_path / "a")
    assert {f.suffix for f in written} == {".png", ".svg"}
    assert "finding-1-pmtud-black-hole-sequence-1" in {f.stem for f in written}
    again = plots.write_plots(incident, traces, tmp_path / "b")
    assert [f.read_bytes() for f in written] == [f.read_bytes() for f in again]


def test_drawing_needs_no_pyplot_and_no_display() -> None:
    """matplotlib's global state machine is never imported, nor anything of matplotlib before it is used."""
    code = (
        "import sys, analyzer.report.plots as p; print('matplotlib' in sys.modules); p.figure(lambda ax, dark: ax); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
