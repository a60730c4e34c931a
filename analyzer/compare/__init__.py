"""The same traffic captured at two or more points: what happened to it between them.

    captures -> points (point.py) -> the same connection at each point (same.py) -> the same packet at two points
    (packets.py) -> what a stretch did to them (stretch.py) -> the verdict (verdict.py) -> text and JSON (told.py)

Points are given in the order in which a client's packets pass them. Addresses may be translated between two points, and
sequence numbers shifted; clocks may differ and drift. Nothing is said that would need them to agree.
"""

from .page import render as render_html
from .redacted import redact
from .told import document, overlays, render_json, text
from .verdict import Comparison, compare

__all__ = ["Comparison", "compare", "document", "overlays", "redact", "render_html", "render_json", "text"]
