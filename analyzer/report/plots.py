"""The pictures that prove a verdict. Each function takes data and Axes, and returns the Axes.

    sequence(trace)          bytes of one direction over time: what was sent, sent again, acknowledged; zoomed on the stall
    size_fate(path)          which packet sizes pass, which are lost, and where the path MTU lies between them
    ladder(trace, steps)     one dialogue, line by line, with the places where the end of the mail was cut
    timeline(case)           the mails of an incident over time, by destination and outcome
    sizes(case, server)      one word passes, a hundred words do not: mails to one destination by size and outcome

Colours are Okabe and Ito's, told apart by colour-blind eyes too (Nature Methods 8, 441, 2011); no meaning rests on colour
alone. `dark` draws for a dark page. Text is large enough to be read at half size. Only matplotlib's object interface is
used: no pyplot, no display, no global state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from pathlib import Path as FilePath
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..capture.packets import FIN, RST, SYN
from ..case import Case, Finding, Message, Path
from . import files, wording
from .escape import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..tcp.delivery import Direction, Trace
    from .steps import Step

FIGURE_INCHES = (9.0, 5.0)  # as wide as a page of A4 in landscape; at half size the text is still 5.5 points
NO_PAYLOAD, ACKED, SACKED, LOST = 0, 1, 2, 3  # values of Direction.fate


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of one page, each told apart from its background by a contrast of 3 : 1 or more."""

    paper: str
    ink: str
    faint: str
    passed: str
    lost: str
    sack: str
    ack: str
    window: str
    icmp: str
    band: str


LIGHT = Theme(
    "#ffffff", "#1f2430", "#d9dce3", "#0072b2", "#d55e00", "#009e73", "#5b6270", "#8a6d00", "#a3438a", "#f6e7c1"
)
DARK = Theme(
    "#14171f", "#e6e8ee", "#343a48", "#56b4e9", "#ff8c42", "#2fcf9f", "#a9b0be", "#e6c34a", "#e394c8", "#4a3f1e"
)

# Shape and place in the drawing order, per outcome of a mail.
MARKS: dict[str, tuple[str, str]] = {
    "delivered": ("o", "passed"),
    "rejected": ("s", "window"),
    "deferred": ("D", "window"),
    "aborted": ("<", "ack"),
    "unknown": ("d", "ack"),
    "lost-connection": ("v", "lost"),
    "end-of-data-timeout": ("X", "lost"),
    "stuck": ("X", "lost"),
}


# -- time-sequence graph ------------------------------------------------------------------------------------------


def sequence(
    trace: Trace,
    ax: Axes | None = None,
    *,
    dark: bool = False,
    side: Literal["client", "server"] | None = None,
    zoom: bool = True,
) -> Axes:
    """Bytes of one direction over time, like the graphs of tcptrace (Ostermann) and Wireshark's "tcptrace" view.

    A bar spans the bytes of a segment. The line is the receiver's acknowledgment. `side` is who sent the bytes; without
    it the side that lost more. `zoom` shows the stall: from the first loss on the time is logarithmic, because TCP
    doubles its pause with each resend (RFC 6298 5.5), and the bytes are those around the hole.
    """
    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    sent = _side(trace, side)
    back = sent.peer
    rows = np.flatnonzero(np.asarray(sent.data))
    if not len(rows):
        return _nothing(ax, theme, "no payload was sent in this direction")
    hole = _hole(sent) if zoom else None
    origin_ns = int(sent.time_ns[hole]) if hole is not None else trace.t0_ns
    times = (np.asarray(sent.time_ns) - origin_ns) / 1e9
    back_times = (np.asarray(back.time_ns) - origin_ns) / 1e9

    low, high = _byte_range(sent, hole)
    _draw_window(ax, theme, back, back_times, high)
    _draw_acks(ax, theme, back, back_times, float(max(times.max(), back_times.max() if len(back_times) else 0)))
    _draw_segments(ax, theme, sent, rows, times)
    _draw_unseen(ax, theme, sent)
    _draw_sacks(ax, theme, back, origin_ns)
    _draw_icmp(ax, theme, trace, origin_ns)
    ax.set_ylim(low, high)
    _byte_axis(ax)
    _time_axis(ax, times, back_times, hole is not None)
    if hole is not None:
        _tell_hole(ax, theme, sent, hole, times)
    who = "client" if sent is trace.c2s else "server"
    a, b = (trace.client, trace.server) if sent is trace.c2s else (trace.server, trace.client)
    ax.set_title(f"{_say(a.ip)}:{a.port} ({who}) to {_say(b.ip)}:{b.port}", loc="left")
    _legend(ax, theme)
    return ax


def _side(trace: Trace, side: str | None) -> Direction:
    if side is not None:
        return trace.c2s if side == "client" else trace.s2c

    def weight(d: Direction) -> tuple[int, int]:
        lost = (np.asarray(d.fate) == LOST) & np.asarray(d.resend)
        return int(lost.sum()), int(np.asarray(d.payload_bytes, np.int64).sum())

    return max((trace.c2s, trace.s2c), key=weight)


def _hole(sent: Direction) -> int | None:
    """Row of the first sending of the segment that was sent again most often; None when nothing was sent again twice."""
    again = np.flatnonzero(np.asarray(sent.resend) & np.asarray(sent.data))
    if len(again) < 2:
        return None
    seq = Counter(np.asarray(sent.seq)[again].tolist()).most_common(1)[0][0]
    data = np.flatnonzero(np.asarray(sent.data))
    covers = (np.asarray(sent.seq)[data] <= seq) & (np.asarray(sent.end)[data] > seq)
    return int(data[covers][0])


def _byte_range(sent: Direction, hole: int | None) -> tuple[float, float]:
    """What of the stream to show: all of it, or the hole with what was in flight around it."""
    # a pure acknowledgment behind a hole also tells how far the sender has come
    open_rows = (np.asarray(sent.flags) & (SYN | RST)) == 0
    top = float(max(sent.sent, int(np.asarray(sent.end)[open_rows].max(initial=0))))
    if hole is None:
        return -0.03 * top, 1.08 * top + 1
    first = float(sent.seq[hole])
    segment = float(max(int(np.asarray(sent.payload_bytes).max()), 500))
    flight = np.asarray(sent.end)[np.asarray(sent.data)]
    top = float(flight[flight <= first + 40 * segment].max())
    return max(first - segment, -0.4 * segment) - 0.04 * (top - first), top + 0.4 * (top - first) + segment


def _draw_segments(ax: Axes, theme: Theme, sent: Direction, rows: Any, times: Any) -> None:
    fate, resend = np.asarray(sent.fate)[rows], np.asarray(sent.resend)[rows]
    seq, end, when = np.asarray(sent.seq)[rows], np.asarray(sent.end)[rows], times[rows]
    oversize = np.asarray(sent.offloaded)[rows]
    if oversize.any():
        ax.vlines(when[oversize], seq[oversize], end[oversize], color=theme.faint, lw=9, zorder=1,
                  label="longer than any packet on the wire (offload)")  # fmt: skip
    kinds = (
        (fate == ACKED, theme.passed, "sent, acknowledged", "-"),
        (fate == SACKED, theme.sack, "sent, acknowledged out of order", "-"),
        (fate == LOST, theme.lost, "sent, never acknowledged", "-"),
        (fate > LOST, theme.ack, "sent, fate not in the capture", ":"),
    )
    for mask, colour, label, style in kinds:
        if mask.any():
            ax.vlines(when[mask], seq[mask], end[mask], color=colour, lw=3, ls=style, label=label, zorder=3)
    for mask, colour, *_ in kinds:
        if (mask & resend).any():
            first = not any(t.get_label() == "sent again" for t in ax.collections)
            middle = (seq + end)[mask & resend] / 2
            ax.scatter(when[mask & resend], middle, marker="X", s=70, color=colour, edgecolor=theme.paper, linewidth=0.8,
                       zorder=5, label="sent again" if first else None)  # fmt: skip
    df = np.asarray(sent.df)[rows]
    if df.any():
        ax.scatter(when[df], end[df], marker="_", s=60, color=theme.ink, linewidth=1.3, zorder=4,
                   label="don't fragment (DF)")  # fmt: skip


def _draw_acks(ax: Axes, theme: Theme, back: Direction, times: Any, until_s: float) -> None:
    ack = np.asarray(back.ack)
    known = ack > np.iinfo(np.int64).min // 2
    if known.any():
        x, y = np.append(times[known], until_s), np.maximum.accumulate(np.append(ack[known], ack[known][-1]))
        ax.step(x, y, where="post", color=theme.ack, lw=1.8, label="acknowledged up to here", zorder=2)


def _draw_window(ax: Axes, theme: Theme, back: Direction, times: Any, high: float) -> None:
    ack = np.asarray(back.ack)
    # the window of a SYN is never scaled (RFC 7323 2.2): it would show a limit that nobody kept to
    known = (ack > np.iinfo(np.int64).min // 2) & ((np.asarray(back.flags) & SYN) == 0)
    edge = (ack + np.asarray(back.window_bytes))[known]
    _shade_shut(ax, theme, times[known], np.asarray(back.window_bytes)[known] == 0, float(times.max()))
    if len(edge) and edge.min() < high:
        ax.step(times[known], np.maximum.accumulate(edge), where="post", color=theme.window, lw=1.5, ls="--",
                label="receive window ends here", zorder=2)  # fmt: skip
    elif len(edge):
        room = wording.size(int((edge - ack[known]).min()))
        ax.set_title(f"receive window never below {room}", loc="right", fontsize=10.5, color=theme.ack)


def _draw_unseen(ax: Axes, theme: Theme, sent: Direction) -> None:
    """Bytes that must exist, because later ones do, and never came by: the black hole as its far side sees it."""
    kept = (np.asarray(sent.flags) & (SYN | RST)) == 0
    # a FIN takes one number after its bytes (RFC 9293 3.4), and what follows it begins behind that
    fin = (np.asarray(sent.flags)[kept] & FIN) != 0
    seq, end = np.asarray(sent.seq)[kept], np.asarray(sent.end)[kept] + fin
    at = 0
    for left, right in sorted(zip(seq.tolist(), end.tolist(), strict=True)):
        if left > at:
            lost = sent.acked is None or sent.acked <= at
            ax.axhspan(at, left, facecolor="none", edgecolor=theme.lost if lost else theme.ack, hatch="//", lw=0, alpha=0.45,
                       zorder=0)  # fmt: skip
            why = "never seen here" if lost else "acknowledged, but not in the capture"
            ax.annotate(f"{wording.plural(left - at, 'byte')} {why}", (0.5, (at + left) / 2), xycoords=("axes fraction", "data"), ha="center",
                        va="center", fontsize=12.5, fontweight="bold", color=theme.ink, path_effects=_halo(theme))  # fmt: skip
        at = max(at, right)


def _shade_shut(ax: Axes, theme: Theme, at: Any, shut: Any, until_s: float) -> None:
    """The times during which the receiver let nothing more come."""
    since: float | None = None
    spans: list[tuple[float, float]] = []
    for when, closed in zip([*at.tolist(), until_s], [*shut.tolist(), False], strict=True):
        if closed and since is None:
            since = when
        elif not closed and since is not None:
            spans.append((since, when))
            since = None
    for n, (left, right) in enumerate(spans):
        total = wording.duration(sum(b - a for a, b in spans))
        ax.axvspan(left, right, color=theme.band, zorder=0, label=None if n else f"window shut ({total} in all)")


def _draw_sacks(ax: Axes, theme: Theme, back: Direction, origin_ns: int) -> None:
    if back.sacks:
        when, left, right = np.array(back.sacks, dtype=np.float64).T
        when = (when - origin_ns) / 1e9
        ax.vlines(when, left, right, color=theme.sack, lw=7, alpha=0.35, zorder=1, label="reported by SACK")


def _draw_icmp(ax: Axes, theme: Theme, trace: Trace, origin_ns: int) -> None:
    """A line per "packet too big"; each MTU is named once."""
    told: set[int | None] = set()
    for n, error in enumerate(e for e in trace.icmp if e.is_too_big):
        at = (error.time_ns - origin_ns) / 1e9
        ax.axvline(at, color=theme.icmp, lw=1.3, ls="-.", alpha=0.8, zorder=1, label=None if n else "ICMP: too big")
        if error.mtu not in told and len(told) < 3:
            mtu = f"MTU {error.mtu:,}" if error.mtu else "no MTU given"
            ax.annotate(mtu, (at, 0.015 + 0.055 * len(told)), xycoords=("data", "axes fraction"), xytext=(5, 0),
                        textcoords="offset points", color=theme.icmp, fontsize=11, path_effects=_halo(theme))  # fmt: skip
            told.add(error.mtu)


def _tell_hole(ax: Axes, theme: Theme, sent: Direction, hole: int, times: Any) -> None:
    """The story in one line, above the segment that it is about, and which sending of it each one is."""
    seq = int(sent.seq[hole])
    rows = np.flatnonzero(np.asarray(sent.data) & (np.asarray(sent.seq) <= seq) & (np.asarray(sent.end) > seq))
    span = float(times[rows[-1]] - times[rows[0]])
    largest = int(np.asarray(sent.ip_bytes)[rows[1:]].max()) if len(rows) > 1 else int(sent.ip_bytes[hole])
    df = "with DF" if bool(np.asarray(sent.df)[rows].all()) else "without DF"
    end = "never acknowledged" if int(sent.fate[hole]) == LOST else "then acknowledged"
    text = f"{largest:,} bytes {df}, sent {len(rows)} times in {wording.duration(span)}, {end}"
    top = float(np.asarray(sent.end)[rows[1:]].max())
    for n, row in enumerate(rows[1:], 2):
        if n == len(rows) or times[row] > 0.15:  # the first ones stand too close together
            ax.annotate(f"{n}", (float(times[row]), float(sent.end[row])), xytext=(0, 3), textcoords="offset points",
                        ha="center", va="bottom", fontsize=10.5, color=theme.ink)  # fmt: skip
    ax.annotate(text, (0.985, top), xycoords=("axes fraction", "data"), xytext=(0, 24), textcoords="offset points", ha="right",
                va="bottom", color=theme.ink, fontsize=12.5, fontweight="bold", zorder=6, path_effects=_halo(theme))  # fmt: skip


def _byte_axis(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_ylabel("place in the sender's byte stream (kB)")
    ax.yaxis.set_major_locator(MaxNLocator(7, min_n_ticks=3))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y / 1000:,.6g}" if y >= 0 else ""))


def _time_axis(ax: Axes, times: Any, back_times: Any, stalled: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    everything = np.concatenate([times, back_times])
    end = float(everything.max())
    if not stalled or end < 1:
        first = float(everything.min())
        pad = 0.03 * (end - first) + 1e-4
        ax.set_xlim(first - pad, end + pad)
        ax.set_xlabel(
            "time since the stuck packet was first sent (s)" if stalled else "time since the connection began (s)"
        )
        return
    # A tenth of a second is below the least pause before a resend (200 ms on Linux): what comes earlier is drawn to scale.
    before = max(float(everything.min()), -0.1)
    ax.set_xscale("symlog", linthresh=0.1, linscale=0.5)
    ax.set_xlim(before - 0.02, end * 1.35)
    ticks = [t for t in (-0.1, 0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000) if before <= t <= end * 1.3]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.4g}"))
    ax.set_xlabel("time since the stuck packet was first sent (s; logarithmic from 0.1 on)")


# -- size against fate --------------------------------------------------------------------------------------------


def size_fate(path: Path, ax: Axes | None = None, *, dark: bool = False) -> Axes:
    """Packets of one path by size: which passed, which were lost; the band is where the path MTU must lie."""
    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    if not path.sizes:
        return _nothing(ax, theme, "no packet of known size on this path")
    rows: tuple[tuple[str, float, str, str], ...] = (
        ("delivered", 2.0, "o", theme.passed), ("unknown", 1.0, "d", theme.ack), ("lost", 0.0, "X", theme.lost),
    )  # fmt: skip
    rows = tuple(row for row in rows if row[0] != "unknown" or any(s.unknown for s in path.sizes))
    largest = max(s.ip_bytes for s in path.sizes)
    for name, y, marker, colour in rows:
        here = [(s.ip_bytes, int(getattr(s, name))) for s in path.sizes if getattr(s, name)]
        if not here:
            continue
        x, count = np.array(here, dtype=np.float64).T
        ax.scatter(x, np.full(len(x), y), s=60 + 90 * np.log10(count), marker=marker, color=colour,
                   edgecolor=theme.paper, linewidth=0.8, zorder=4)  # fmt: skip
        _label_counts(ax, theme, here, y, largest)
    low, high = path.mtu_at_least, path.mtu_below
    if low and high:
        ax.axvspan(low, high, color=theme.band, zorder=0)
        beside = low > 0.4 * max(largest, high)  # room for the words on the left of the band; else they stand in it
        ax.annotate(
            f"path MTU: at least {low:,},\nbelow {high:,} bytes", (low, 2.62), xytext=(-8 if beside else 8, 0),
            ha="right" if beside else "left", va="center", textcoords="offset points", fontsize=12.5, fontweight="bold",
            color=theme.ink,
        )  # fmt: skip
        for edge in (low, high):
            ax.axvline(edge, color=theme.window, lw=1.2, zorder=1)
    _draw_links(ax, theme, path, largest)
    told = {"delivered": "passed", "unknown": "not known", "lost": "lost"}
    ax.set_yticks([y for _, y, *_ in rows], [told[name] for name, *_ in rows])
    ax.set_ylim(-1.75 if path.links else -0.7, 3.0)
    ax.set_xlim(0, max(largest, high or 0) * 1.07)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("size of the IP packet on the wire (bytes)")
    ax.grid(axis="y", visible=False)
    ax.set_title(f"{_say(path.sender)} to {_say(path.receiver)}: {wording.VERDICT[path.verdict]}", loc="left")
    return ax


def _label_counts(ax: Axes, theme: Theme, counted: list[tuple[int, int]], y: float, largest: int) -> None:
    """Numbers of packets, the greatest first, where there is room for them."""
    taken: list[float] = []
    for x, count in sorted(counted, key=lambda c: -c[1]):
        if all(abs(x - other) > 0.045 * largest for other in taken):
            taken.append(x)
            ax.annotate(f"{count:,}", (x, y), xytext=(0, -12), textcoords="offset points", ha="center", va="top",
                        fontsize=10.5, color=theme.ink, path_effects=_halo(theme))  # fmt: skip


def _draw_links(ax: Axes, theme: Theme, path: Path, largest: int) -> None:
    """The link types whose MTU fits, each with a line to its place on the axis; the labels are spread to be legible."""
    if not path.links:
        return
    fits = []
    for text in path.links:
        number, _, name = text.partition(" ")
        if number.isdigit():
            fits.append((int(number), name or number))
    fits.sort()
    for n, (mtu, name) in enumerate(fits):
        y = -0.62 - 1.0 * (n / max(len(fits) - 1, 1)) if len(fits) > 1 else -0.9
        ax.plot([mtu, mtu], [2.35, y], color=theme.window, lw=0.9, ls=":", zorder=1)
        ax.plot([mtu], [y], marker="|", color=theme.window, ms=7)
        ax.annotate(f"{_say(name)}  {mtu:,}", (min(path.mtu_at_least or mtu, mtu), y), xytext=(-8, 0),
                    textcoords="offset points", ha="right", va="center", fontsize=10.5, color=theme.ink)  # fmt: skip
        left = min(path.mtu_at_least or mtu, mtu)
        ax.plot([left - 0.004 * largest, mtu], [y, y], color=theme.window, lw=0.9, ls=":", zorder=1)


# -- ladder -------------------------------------------------------------------------------------------------------


def ladder(
    trace: Trace, steps: Sequence[Step] | None = None, ax: Axes | None = None, *, dark: bool = False, most: int = 22
) -> Axes:
    """A dialogue as arrows between two hosts, from top to bottom; long pauses are told, a cut end is marked.

    `steps` is what to draw, by default the whole connection. With more than `most` the middle is left out, and said so.
    """
    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    if steps is None:
        from .steps import steps as steps_of

        steps = steps_of(trace)
    if not steps:
        return _nothing(ax, theme, "no dialogue is readable")
    shown, left_out = list(steps), 0
    if len(shown) > most:
        left_out = len(shown) - most
        shown = shown[: most // 3] + shown[-(most - most // 3) :]
    y, last_ns, t0 = 0.0, shown[0].time_ns, shown[0].time_ns
    for n, step in enumerate(shown):
        if left_out and n == most // 3:
            y -= 1.0
            ax.text(
                0.5,
                y,
                f"... {wording.plural(left_out, 'step')} left out ...",
                ha="center",
                va="center",
                color=theme.ack,
            )
        pause = (step.time_ns - last_ns) / 1e9
        if pause >= 1:
            y -= 0.9
            ax.text(0.5, y, f"{wording.duration(pause)} of silence", ha="center", va="center", color=theme.window,
                    fontsize=11, fontstyle="italic")  # fmt: skip
        y -= 1.0
        _rung(ax, theme, step, y, (step.time_ns - t0) / 1e9)
        last_ns = step.time_ns
    for x, host, role, side in ((0, trace.client, "client", "left"), (1, trace.server, "server", "right")):
        ax.plot([x, x], [0, y - 0.6], color=theme.ink, lw=2, zorder=1)
        ax.text(x, 0.75, f"{role} {_say(host.ip)}:{host.port}", ha=side, va="bottom", fontweight="bold", fontsize=12,
                color=theme.ink)  # fmt: skip
    ax.set_xlim(-0.2, 1.2)
    ax.set_ylim(y - 0.8, 1.6)
    ax.set_axis_off()
    ax.text(-0.03, 0.1, "time (s)", ha="right", va="bottom", fontsize=10.5, color=theme.ack)
    ax.text(1.03, 0.1, "frame", ha="left", va="bottom", fontsize=10.5, color=theme.ack)
    return ax


def _rung(ax: Axes, theme: Theme, step: Step, y: float, at_s: float) -> None:
    start, end = (0.0, 1.0) if step.from_client else (1.0, 0.0)
    tip = start + (end - start) * (0.82 if step.lost else 0.985)
    colour = theme.lost if step.lost else theme.passed if step.from_client else theme.sack
    ax.annotate("", (tip, y - 0.25), xytext=(start, y), annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0,
                            "ls": "--" if step.lost else "-", "mutation_scale": 14})  # fmt: skip
    if step.lost:
        ax.plot([tip], [y - 0.25], marker="X", ms=9, color=theme.lost, zorder=3)
    text = visible(step.text, 70)
    if step.cut:
        text = f"✂ {text}"
        ax.plot([0.0, 1.0], [y + 0.42, y + 0.42], color=theme.lost, lw=1, ls=":")
    ax.text(0.5, y + 0.02, _dollar(text), ha="center", va="bottom", fontsize=11, color=theme.ink, family=["monospace"])
    ax.text(-0.03, y, f"{at_s:,.3f}", ha="right", va="center", fontsize=10.5, color=theme.ack)
    if step.frame is not None:
        ax.text(1.03, y, f"{step.frame}", ha="left", va="center", fontsize=10.5, color=theme.ack)


# -- mails over time and by size ----------------------------------------------------------------------------------


def timeline(case: Case, ax: Axes | None = None, *, dark: bool = False, most: int = 18) -> Axes:
    """The mails of a case over time, a row per destination; rows with trouble on top, the rest drawn together."""
    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    server = {c.id: c.server.ip for c in case.connections}
    closed = {c.id: c.end_ns for c in case.connections}
    last = {m.connection: m.id for m in case.messages}
    timed = [m for m in case.messages if m.start_ns is not None and m.connection in server]
    if not timed:
        return _nothing(ax, theme, "no mail with a known time")
    rows = _destinations(timed, wording.fates(case), server, most)
    names = list(dict.fromkeys(rows.values()))
    height = {name: len(names) - 1 - n for n, name in enumerate(names)}
    fate = wording.fates(case)
    for outcome, (marker, colour_name) in MARKS.items():
        here = [m for m in timed if fate[m.id] == outcome]
        if not here:
            continue
        colour = getattr(theme, colour_name)
        x = np.array([m.start_ns for m in here], dtype="datetime64[ns]")
        y = np.array([height[rows[server[m.connection]]] for m in here], dtype=np.float64)
        grave = colour_name == "lost"
        if grave and len(here) <= 2000:  # how long they hung
            ends = [closed[m.connection] if last[m.connection] == m.id else m.end_ns or m.start_ns for m in here]
            until = np.array(ends, dtype="datetime64[ns]")
            ax.hlines(y, x, until, color=colour, lw=2, alpha=0.5, zorder=2)
        ax.scatter(
            x, y, marker=marker, s=85 if grave else 26, color=colour, edgecolor=theme.paper, linewidth=0.5,
            zorder=4 if grave else 3, label=f"{wording.OUTCOME[outcome]} ({len(here):,})",
            rasterized=len(here) > 2000,  # an SVG with every one of them would be larger than a page may be
        )  # fmt: skip
    _clock_axis(ax, [m.start_ns or 0 for m in timed], [closed[m.connection] for m in timed])
    ax.set_yticks(list(height.values()), [_say(n) for n in height], fontsize=10.5)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.set_title("Mails over time, by destination", loc="left", pad=34)
    _legend(ax, theme, above=True)
    return ax


def _destinations(
    messages: Sequence[Message], fate: Mapping[int, str], server: Mapping[int, str], most: int
) -> dict[str, str]:
    """Server -> name of its row: rows with lost mails first, then the busiest, the rest together."""
    lost = Counter(server[m.connection] for m in messages if fate[m.id] in wording.HUNG)
    every = Counter(server[m.connection] for m in messages)
    order = sorted(every, key=lambda ip: (-lost[ip], -every[ip]))
    if len(order) <= most:
        return {ip: ip for ip in order}
    rest = f"{len(order) - most + 1:,} others"
    return {ip: (ip if n < most - 1 else rest) for n, ip in enumerate(order)}


def _clock_axis(ax: Axes, starts_ns: Sequence[int], ends_ns: Sequence[int]) -> None:
    """Times of day, with as much of them as tells the ticks apart; the day stands in the label."""
    from matplotlib.dates import AutoDateLocator, DateFormatter

    first, last = min(starts_ns), max(*starts_ns, *ends_ns)
    # Mails of one moment: an axis of seconds, neither of milliseconds nor, as matplotlib does it, of years.
    span_s = max((last - first) / 1e9, 20.0)
    pad_s = (span_s - (last - first) / 1e9) / 2 + 0.03 * span_s
    ax.set_xlim(*(np.datetime64(round(t), "ns") for t in (first - pad_s * 1e9, last + pad_s * 1e9)))  # type: ignore[arg-type]
    form = "%H:%M:%S" if span_s < 300 else "%H:%M" if span_s < 86_400 else "%b %d %H:%M"
    locator = AutoDateLocator(minticks=3, maxticks=7, tz=UTC)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(DateFormatter(form, tz=UTC))  # type: ignore[no-untyped-call]
    days = list(dict.fromkeys(wording.clock(t)[:10] for t in (first, last)))
    ax.set_xlabel(f"time when the mail began (UTC, {' to '.join(days)})")


def sizes(case: Case, destination: str, ax: Axes | None = None, *, dark: bool = False) -> Axes:
    """Mails to one destination by size, a row per outcome; the band parts the largest that passed and the smallest that hung."""
    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    here = {c.id for c in case.connections if c.server.ip == destination}
    mails = [m for m in case.messages if m.connection in here and m.size]
    if not mails:
        return _nothing(ax, theme, "no mail of known size")
    fate = wording.fates(case)
    present = [o for o in MARKS if any(fate[m.id] == o for m in mails)]
    for n, outcome in enumerate(present):
        marker, colour_name = MARKS[outcome]
        x = np.sort(np.array([m.size for m in mails if fate[m.id] == outcome], dtype=np.float64))
        y = len(present) - 1 - n + _dodge(x)
        ax.scatter(x, y, marker=marker, s=75, color=getattr(theme, colour_name), edgecolor=theme.paper, linewidth=0.7,
                   zorder=4, rasterized=len(x) > 2000)  # fmt: skip
    ax.set_xscale("log")
    _size_axis(ax, mails)
    ax.set_yticks(
        [len(present) - 1 - n for n in range(len(present))],
        [f"{fill(wording.OUTCOME[o], 17)}\n({sum(fate[m.id] == o for m in mails):,})" for o in present], fontsize=11,
    )  # fmt: skip
    ax.set_ylim(-0.75, len(present) - 0.1)
    ax.grid(axis="y", visible=False)
    passed = [m.size or 0 for m in mails if m.outcome == "delivered"]
    hung = [m.size or 0 for m in mails if fate[m.id] in wording.HUNG]
    if passed and hung and max(passed) < min(hung):
        ax.axvspan(max(passed), min(hung), color=theme.band, zorder=0)
        ax.annotate(f"every mail up to {wording.size(max(passed))} passed,\nevery mail from {wording.size(min(hung))} on hung",
                    (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=12.5, fontweight="bold",
                    color=theme.ink, path_effects=_halo(theme))  # fmt: skip
    ax.set_title(f"Mails to {_say(destination)} by size", loc="left")
    return ax


def _dodge(sorted_x: Any, most: int = 5) -> Any:
    """Small steps upwards for mails of nearly one size (within 4 %), so that each is seen."""
    y, run = np.zeros(len(sorted_x)), 0
    for n in range(1, len(sorted_x)):
        run = run + 1 if sorted_x[n] < sorted_x[n - 1] * 1.04 else 0
        y[n] = (run % most) * 0.11
    return y


def _size_axis(ax: Axes, mails: Sequence[Message]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(m.size or 1 for m in mails), max(m.size or 1 for m in mails)
    ticks = [d * 10**p for p in range(10) for d in (1, 3) if low / 3 <= d * 10**p <= high * 3]
    ax.set_xlim(low / 1.6, high * 1.6)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: wording.size(int(x))))
    ax.set_xlabel("size of the mail (bytes, logarithmic)")


# -- files --------------------------------------------------------------------------------------------------------


# Findings about what was said, and how it was cut, rather than about packets.
LADDER_RULES = frozenset({"split-terminator", "starttls-stripped"})


class Plot(NamedTuple):
    """A picture that is worth drawing: its file name, what it shows (for who can not see it), and how to draw it."""

    name: str
    alt: str
    draw: Callable[..., Axes]


def plots_of(case: Case, finding: Finding, traces: Mapping[int, Trace]) -> Iterator[Plot]:
    """The pictures that prove one finding; those of connections only where `traces` has them."""
    prefix = f"finding-{finding.id}-{finding.rule}"
    connection = next(
        (c for c in [*(e.connection for e in finding.evidence), *finding.connections] if c in traces), None
    )
    if connection is not None and finding.rule in LADDER_RULES:
        yield Plot(
            f"{prefix}-ladder-{connection}",
            f"Dialogue of connection {connection}, line by line, with times.",
            partial(ladder, traces[connection], None),
        )
    elif connection is not None:
        yield Plot(
            f"{prefix}-sequence-{connection}",
            f"Time-sequence graph of connection {connection}: the bytes sent, sent again and acknowledged over time.",
            partial(sequence, traces[connection], side=_sender_of(finding, traces[connection])),
        )
    for path in [p for p in case.paths if p.id in finding.paths and p.sizes][:1]:
        lost = sum(s.lost for s in path.sizes)
        yield Plot(
            f"{prefix}-sizes-of-packets",
            f"Packets by size: {lost:,} lost. Path MTU {wording.bracket(path) or 'not known'}.",
            partial(size_fate, path),
        )
    server = finding.receiver
    if finding.messages and server and _worth_sizes(case, finding, server):
        yield Plot(
            f"{prefix}-sizes-of-mails",
            f"Mails to {visible(server)} by size and outcome.",
            partial(sizes, case, server),
        )


def _sender_of(finding: Finding, trace: Trace) -> Literal["client", "server"] | None:
    """The side whose data the finding is about."""
    return "client" if finding.sender == trace.client.ip else "server" if finding.sender == trace.server.ip else None


def _worth_sizes(case: Case, finding: Finding, server: str) -> bool:
    """Some mails passed and some hung: only then their sizes tell something."""
    if finding.scope not in ("path", "server", "host"):
        return False
    here = {c.id for c in case.connections if c.server.ip == server}
    fate = wording.fates(case)
    seen = {fate[m.id] for m in case.messages if m.connection in here and m.size}
    return "delivered" in seen and bool(seen & wording.HUNG)


def has_timeline(case: Case) -> bool:
    """One mail or two are told in a sentence; from three on their order over time says something."""
    return sum(m.start_ns is not None for m in case.messages) > 2


def plots_worth_drawing(case: Case, traces: Mapping[int, Trace]) -> Iterator[Plot]:
    """The timeline, then the proofs of every cause."""
    if has_timeline(case):
        yield Plot(
            "timeline",
            "Mails over time by destination and outcome.",
            partial(timeline, case),
        )
    for finding in wording.ordered(case.findings):
        if finding.role == "cause":
            yield from plots_of(case, finding, traces)


def write_plots(
    case: Case, traces: Mapping[int, Trace], folder: str | FilePath, *, shared: bool = False
) -> list[FilePath]:
    """Every plot worth drawing as PNG and SVG in `folder`, light for print; the files written, private unless `shared`."""
    folder = files.folder(folder, shared=shared)
    written = []
    for plot in plots_worth_drawing(case, traces):
        drawn = figure(plot.draw)
        for suffix in ("png", "svg"):
            file = folder / f"{plot.name}.{suffix}"
            with files.written(file, shared=shared) as out:
                out.write(image(drawn, suffix))
            written.append(file)
    return written


def figure(draw: Callable[..., Axes], *, dark: bool = False, inches: tuple[float, float] = FIGURE_INCHES) -> Figure:
    """A figure of its own, with one plot."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=inches, layout="constrained")
    draw(drawn.add_subplot(), dark=dark)
    return drawn


def image(drawn: Figure, kind: str, dpi: int = 144) -> bytes:
    """The figure as PNG or SVG: the same bytes for the same data (no date, no random ids)."""
    from io import BytesIO

    import matplotlib as mpl

    out = BytesIO()
    # Text stays text in SVG: small, searchable, read aloud. The salt makes the ids of clip paths repeatable.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "smtpscope"}):
        drawn.savefig(out, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {})
    return out.getvalue()


# -- what they share ----------------------------------------------------------------------------------------------


def _axes(ax: Axes | None, theme: Theme) -> Axes:
    """The Axes to draw on, dressed: those given, or new ones on a figure of their own."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=FIGURE_INCHES, layout="constrained").add_subplot()
    ax.set_facecolor(theme.paper)
    parent = ax.get_figure(root=True)
    if parent is not None:
        parent.set_facecolor(theme.paper)
    ax.tick_params(colors=theme.ink, labelsize=11.5)
    for name, spine in ax.spines.items():
        spine.set_color(theme.faint if name in ("top", "right") else theme.ack)
        spine.set_visible(name not in ("top", "right"))
    for item in (ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title):  # type: ignore[attr-defined]
        item.set_color(theme.ink)
    ax.xaxis.label.set_fontsize(12.5)
    ax.yaxis.label.set_fontsize(12.5)
    ax._left_title.set_fontsize(13.5)  # type: ignore[attr-defined]
    ax.grid(visible=True, color=theme.faint, lw=0.7)
    ax.set_axisbelow(True)
    return ax


def _legend(ax: Axes, theme: Theme, *, above: bool = False) -> None:
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": 4, "borderaxespad": 0.2} if above else {
        "loc": "upper left", "ncols": 2,
    }  # fmt: skip
    ax.legend(fontsize=10.5, labelcolor=theme.ink, facecolor=theme.paper, edgecolor=theme.faint, framealpha=0.9,
              handlelength=1.4, columnspacing=1.2, **place)  # fmt: skip


def _nothing(ax: Axes, theme: Theme, why: str) -> Axes:
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color=theme.ack, fontsize=13)
    ax.set_axis_off()
    return ax


def _halo(theme: Theme) -> list[Any]:
    """A rim of paper around text that stands on lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground=theme.paper)]


def _say(text: str) -> str:
    """Text of a capture for matplotlib: printable, short, and no mathematics."""
    return _dollar(visible(text, 60))


def _dollar(text: str) -> str:
    return text.replace("$", r"\$")
