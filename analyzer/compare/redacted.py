"""A comparison without addresses and names: the same pseudonyms as in the report of a case made with the same key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..report.redact import Pseudonyms, is_telling, names_of_hosts, names_of_mail, new_key
from ..tcp.delivery import Endpoint
from .point import Point, Sighting
from .same import Flow
from .stretch import Stretch
from .verdict import Comparison


def redact(comparison: Comparison, key: bytes | None = None) -> Comparison:
    """The same comparison, to be shown to others. Greetings and unusual keywords are free text of whoever runs a server."""
    sightings = [s for flow in comparison.flows for s in flow if s is not None]
    addresses = (ip for s in sightings for ip in (s.trace.client.ip, s.trace.server.ip))
    hide = Pseudonyms(key or new_key(), addresses, _names(sightings))
    points = [_point(point, hide) for point in comparison.points]
    # names of files first: the point is said by its number, which stays
    files = {old.short_name: new.name for old, new in zip(comparison.points, points, strict=True)}

    def text(said: str) -> str:
        for file, called in files.items():
            said = said.replace(f"({file})", f"({called})")
        return hide.text(said)

    return replace(
        comparison,
        points=points,
        flows=[_flow(flow, hide) for flow in comparison.flows],
        stretches=[_stretch(stretch, points, hide) for stretch in comparison.stretches],
        statements=[replace(s, text=text(s.text)) for s in comparison.statements],
        findings=[hide.finding(finding) for finding in comparison.findings],
    )


def _names(sightings: Iterable[Sighting]) -> Iterator[str]:
    for s in sightings:
        d = s.dialogue
        yield (d.client_name or "").strip("[]")
        for line in d.greeting.lines if d.greeting else ():
            if is_telling(line):
                yield line
                yield from names_of_hosts(line)
        yield from (word for k in d.keywords if is_telling(word := k.partition(" ")[0]))
        for mail in d.mails:
            for address in (mail.mail_from or "", *mail.recipients, *mail.refused_recipients):
                yield from names_of_mail(address)


def _point(point: Point, hide: Pseudonyms) -> Point:
    captures = [hide.capture(c, point.id) for c in point.captures]
    name = captures[0].path if captures else f"capture-{point.id}{Path(point.name).suffix}"
    return replace(point, name=name, captures=captures)


def _flow(flow: Flow, hide: Pseudonyms) -> Flow:
    return [
        s and Sighting(replace(s.trace, client=_end(s.trace.client, hide), server=_end(s.trace.server, hide)))
        for s in flow
    ]


def _end(end: Endpoint, hide: Pseudonyms) -> Endpoint:
    return end._replace(ip=hide.address(end.ip))


def _stretch(stretch: Stretch, points: list[Point], hide: Pseudonyms) -> Stretch:
    changes = [replace(c, before=hide.text(c.before), after=hide.text(c.after)) for c in stretch.changes]
    return replace(stretch, near=points[stretch.near.id - 1], far=points[stretch.far.id - 1], changes=changes)
