"""The comparison as one HTML file: the verdict, both sequence graphs over each other, what each stretch did.

As the report of a case: nothing is loaded from anywhere, no script, every value escaped.
"""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from ..report import overlay, plots
from ..report.escape import TEXT_LIMIT, visible
from .told import SIDES, overlays
from .verdict import Comparison


def render(comparison: Comparison) -> str:
    """The page, with a picture of each of the connections that lost most."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style = files("analyzer.report").joinpath("page.css").read_text("utf-8")
    style_hash = b64encode(sha256(style.encode()).digest()).decode()
    environment = Environment(autoescape=True, finalize=_printable, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    return page.render(
        comparison=comparison,
        policy=f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - this package's own file, of which the policy knows the hash
        state="trouble"
        if any(s.fault for s in comparison.statements)
        else "clean"
        if comparison.complete
        else "partial",
        pictures=[_picture(title, seen) for title, seen in overlays(comparison)],
        rows=[
            {
                "stretch": f"points {stretch.near.id} to {stretch.far.id}",
                "direction": side,
                "arrived": traffic.arrived,
                "lost": traffic.lost,
                "sizes": ", ".join(f"{s.lost} of {s.ip_bytes}" for s in traffic.by_size() if s.lost),
            }
            for stretch in comparison.stretches
            for side, traffic in zip(SIDES, stretch.traffic, strict=True)
        ],
    )


def _picture(title: str, seen: list[overlay.Seen]) -> dict[str, Any]:
    from markupsafe import Markup

    def source(*, dark: bool) -> str:
        drawn = plots.figure(partial(overlay.overlay, seen, title), dark=dark)
        # base64 is no markup, and must not be cut as a text of a capture is
        return Markup("data:image/svg+xml;base64," + b64encode(plots.image(drawn, "svg")).decode())  # noqa: S704

    lost = [f"{int((~s.came_through).sum())} segments lost after {s.point}" for s in seen if (~s.came_through).any()]
    alt = f"Bytes over time at each point: {', '.join(lost) or 'nothing is lost'}"
    return {"title": title, "light": source(dark=False), "dark": source(dark=True), "alt": alt}


def _printable(value: Any) -> Any:
    return visible(value, 5 * TEXT_LIMIT) if type(value) is str else value
