"""The comparison for a terminal, for programs, and for a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any

import numpy as np

from ..case import Frame
from ..report import json as case_json
from ..report.escape import visible
from ..report.overlay import Seen
from ..report.wording import plural
from .packets import LOST, NEAR_NS
from .point import Sighting
from .stretch import Stretch, Traffic
from .verdict import Comparison

SCHEMA = "smtpscope-compare/1"
SIDES = ("client to server", "server to client")


def text(comparison: Comparison) -> str:
    """The verdict first, then what each stretch did."""
    lines = [_wrapped(s.text) for s in comparison.statements]
    lines += [
        _wrapped(f"{finding.rule} ({finding.severity} {finding.role}, {finding.confidence}): {finding.title}")
        for finding in comparison.findings
    ]
    for stretch in comparison.stretches:
        lines += ["", *_stretch(stretch)]
    for point in comparison.points:
        lines += [_wrapped(f"{c.path} was not read to its end.") for c in point.captures if not c.complete]
    return "\n".join(lines) + "\n"


def _wrapped(line: str, indent: str = "") -> str:
    return fill(visible(line), 80, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def _stretch(stretch: Stretch) -> Iterator[str]:
    yield _wrapped(
        f"Points {stretch.near.id} to {stretch.far.id}: {plural(stretch.connections, 'connection')} in common"
    )
    clocks = stretch.clocks
    if clocks is not None:
        clock = f"clocks: the second is {clocks.offset_ns / 1e9:+.6f} s from the first (+-{clocks.uncertainty_ns / 1e9:.6f} s)"
        if clocks.skew_ppm is not None:
            clock += f", and drifts by {clocks.skew_ppm:+.1f} millionths"
        yield _wrapped(f"{clock}; {clocks.round_trip_s * 1000:.2f} ms there and back", "  ")
    proxied = stretch.change("tcp-terminated")
    if proxied is not None and len(proxied.flows) == stretch.connections:
        yield _wrapped("packets are not the same there and here: a proxy is between", "  ")
        return
    for side, traffic in zip(SIDES, stretch.traffic, strict=True):
        yield _wrapped(f"{side}: {_traffic(traffic)}", "  ")


def _traffic(traffic: Traffic) -> str:
    words = f"{plural(traffic.arrived, 'packet')} arrived, {traffic.lost} lost"
    lost = [f"{s.lost} of {s.ip_bytes} bytes" for s in traffic.by_size() if s.lost]
    if lost:
        words += f" ({', '.join(lost[:6])})"
    if traffic.lost_frames:
        words += f", frames {', '.join(str(f.frame) for f in traffic.lost_frames[:9])} where they left"
    if traffic.unknown:
        words += f"; {traffic.unknown} left while the other point was not capturing: their fate is not known"
    if traffic.missed:
        words += f"; {traffic.missed} are missing in the other capture only, for they were acknowledged there"
    hops = traffic.hops.most_common(1)
    return words + (f"; {plural(hops[0][0], 'router')} between" if hops and hops[0][0] >= 0 else "")


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, schema smtpscope-compare/1."""
    return {
        "schema": SCHEMA,
        "complete": comparison.complete,
        "points": [
            {
                "id": p.id,
                "name": visible(p.name),
                "captures": [visible(c.path) for c in p.captures],
                "connections": len(p.sightings),
            }
            for p in comparison.points
        ],
        "verdict": [
            {"kind": s.kind, "stretch": list(s.stretch), "fault": s.fault, "text": visible(s.text)}
            for s in comparison.statements
        ],
        "connections": [
            {"id": n, "recognised_by": comparison.recognised_by(i), "at": [_sighting(s) for s in flow]}
            for n, (i, flow) in enumerate(
                ((i, f) for i, f in enumerate(comparison.flows) if sum(s is not None for s in f) > 1), 1
            )
        ],
        "stretches": [_stretch_document(s) for s in comparison.stretches],
        "findings": [case_json.finding(f) for f in comparison.findings],
    }


def _sighting(s: Sighting | None) -> dict[str, Any] | None:
    if s is None:
        return None
    return {"client": s.trace.client._asdict(), "server": s.trace.server._asdict(), "packets": len(s.trace)}


def _stretch_document(stretch: Stretch) -> dict[str, Any]:
    clocks = stretch.clocks
    return {
        "near": stretch.near.id,
        "far": stretch.far.id,
        "connections": stretch.connections,
        "clocks": None
        if clocks is None
        else {
            "offset_s": clocks.offset_ns / 1e9,
            "uncertainty_s": clocks.uncertainty_ns / 1e9,
            "skew_ppm": clocks.skew_ppm,
            "round_trip_s": clocks.round_trip_s,
        },
        "client_to_server": _traffic_document(stretch.traffic[0]),
        "server_to_client": _traffic_document(stretch.traffic[1]),
        "changes": [
            {
                "kind": c.kind,
                "from": "client" if c.from_client else "server",
                "before": visible(c.before),
                "after": visible(c.after),
                "connections": len(c.flows),
                "frames": _frames(c.frames),
                "frames_after": _frames(c.frames_after),
            }
            for c in stretch.changes
        ],
        "icmp": [
            {
                "too_big": i.too_big,
                "mtu": i.mtu,
                "about": "client" if i.about_client else "server",
                "seen_at": i.seen_at,
                "missing_at": i.missing_at,
                "lost": i.towards_sender,
                "count": i.count,
                "frames": _frames(i.frames),
            }
            for i in stretch.icmp
        ],
    }


def _traffic_document(traffic: Traffic) -> dict[str, Any]:
    return {
        "arrived": traffic.arrived,
        "lost": traffic.lost,
        "unknown": traffic.unknown,
        "missing_in_capture": traffic.missed,
        "sizes": [s._asdict() for s in traffic.by_size()],
        "lost_frames": _frames(traffic.lost_frames),
        "hops": traffic.hops.most_common(1)[0][0] if traffic.hops else None,
    }


def _frames(frames: list[Frame]) -> list[dict[str, int]]:
    return [f._asdict() for f in frames]


def render_json(comparison: Comparison) -> str:
    return json.dumps(document(comparison), indent=1) + "\n"


def overlays(comparison: Comparison, most: int = 4) -> Iterator[tuple[str, list[Seen]]]:
    """What to draw: title and segments of the connections that lost most, each direction that lost something."""
    ranked = []
    for from_client in (True, False):
        for i in range(len(comparison.flows)):
            lost = sum(
                int((run.fate == LOST).sum())
                for stretch in comparison.stretches
                for run in stretch.traffic[0 if from_client else 1].runs
                if run.flow == i
            )
            ranked.append((lost, i, from_client))
    shared = [r for r in ranked if sum(s is not None for s in comparison.flows[r[1]]) > 1]
    for lost, i, from_client in sorted(shared, key=lambda r: (-r[0], r[1], not r[2]))[:most]:
        if lost or i == shared[0][1]:
            yield _overlay(comparison, comparison.flows[i], from_client=from_client)


def _overlay(comparison: Comparison, flow: Sequence[Sighting | None], *, from_client: bool) -> tuple[str, list[Seen]]:
    """Times on the clock of the first point: the offsets of the stretches add up."""
    first = next(s for s in flow if s is not None)
    begin = first.trace.start_ns
    seen, ahead = [], 0
    order = list(zip(comparison.points, flow, strict=True))
    offsets = [0]
    for stretch in comparison.stretches:
        ahead += stretch.clocks.offset_ns if stretch.clocks else 0
        offsets.append(ahead)
    for (point, s), offset in zip(order, offsets, strict=True):
        if s is None:
            continue
        d = s.direction(from_client=from_client)
        rows = np.flatnonzero(d.data)
        seen.append(
            Seen(
                f"point {point.id}",
                d.seq[rows],
                d.end[rows],
                (d.time_ns[rows] - offset - begin) / 1e9,
                np.ones(len(rows), bool),
            )
        )
    if not from_client:
        seen.reverse()
    for here, there in pairwise(seen):
        # a row came through when its bytes were seen at the next point at about the same time
        for k in range(len(here.seq)):
            near = np.abs(there.time_s - here.time_s[k]) <= NEAR_NS / 1e9
            here.came_through[k] = bool((near & (there.seq < here.end[k]) & (there.end > here.seq[k])).any())
    a, b = (first.trace.client, first.trace.server) if from_client else (first.trace.server, first.trace.client)
    return f"{visible(a.ip)}:{a.port} to {visible(b.ip)}:{b.port}", seen
