"""Two captures of one connection in one picture: what left the one point, and what of it came to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .plots import DARK, LIGHT, _axes, _byte_axis, _legend, _nothing, _say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BESIDE_POINTS = 3.5  # points of a page between the bars of two places of capture: a bar and a little air
Numbers = npt.NDArray[np.int64]


class Seen(NamedTuple):
    """The segments of one direction as one point saw them: equal lengths; times in s on one common clock."""

    point: str
    seq: Numbers
    end: Numbers
    time_s: npt.NDArray[np.float64]
    came_through: npt.NDArray[np.bool_]  # seen at the next point as well; all true at the last one


def overlay(seen: Sequence[Seen], title: str, ax: Axes | None = None, *, dark: bool = False) -> Axes:
    """Sequence graphs of all points over each other: bars of one point to the left of those of the next, lost ones crossed."""
    from matplotlib.transforms import offset_copy

    theme = DARK if dark else LIGHT
    ax = _axes(ax, theme)
    if not any(len(s.seq) for s in seen):
        return _nothing(ax, theme, "no payload was sent in this direction")
    colours = (theme.passed, theme.sack, theme.icmp, theme.window)
    for n, s in enumerate(seen):
        colour = colours[n % len(colours)]
        # beside each other, so that what is missing at the next point shows as a gap
        beside = offset_copy(ax.transData, ax.get_figure(root=True), x=BESIDE_POINTS * n, units="points")
        ax.vlines(
            s.time_s, s.seq, s.end, color=colour, lw=3, zorder=3, transform=beside, label=f"seen at {_say(s.point)}"
        )
        gone = ~s.came_through
        if gone.any():
            ax.scatter(s.time_s[gone], (s.seq[gone] + s.end[gone]) / 2, marker="X", s=70, color=theme.lost, edgecolor=theme.paper,
                       linewidth=0.8, zorder=9, transform=beside, label=f"lost after {_say(s.point)}")  # fmt: skip
    # Artists with a transform of their own do not tell the axes how large they are.
    every = np.concatenate([np.column_stack([t, b]) for s in seen for t, b in ((s.time_s, s.seq), (s.time_s, s.end))])
    ax.update_datalim(every)
    ax.autoscale_view()
    times = np.concatenate([s.time_s for s in seen])
    if float(times.max()) > 1.0:
        # resends double their pause (RFC 6298 5.5): a logarithmic axis shows the first flight and the last resend
        ax.set_xscale("symlog", linthresh=0.1, linscale=0.5)
        ax.set_xlim(-0.02, float(times.max()) * 1.35)
        ax.set_xlabel("time since the first packet (s; logarithmic from 0.1 on; clocks aligned)")
    else:
        ax.set_xlabel("time since the first packet (s; clocks aligned)")
    _byte_axis(ax)
    ax.set_title(title, loc="left", pad=34)
    _legend(ax, theme, above=True)
    return ax
