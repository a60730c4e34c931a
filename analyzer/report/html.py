"""The report as one HTML file: nothing is loaded from anywhere, and nothing that a capture says can run.

The Content-Security-Policy allows exactly this page's own style and script, by their hashes, and images that are part of
the page. Every value passes Jinja's autoescape after `escape.visible`. The page is complete without its script, which
only sorts and filters the tables and copies commands. What would make the page too large for a browser is counted
instead of listed: of 50,000 connections those that matter are shown, and the JSON or Parquet output has the rest.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from ..case import SEVERITIES, Case, Evidence, Finding, Message, numbered
from ..whatif import told
from . import wording
from .escape import TEXT_LIMIT, paragraphs, visible

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

    from ..tcp.delivery import Trace
    from .plots import Plot

# A row is about 400 bytes of HTML and 60 us of layout: 2,500 rows in all are 1 MB and well below a second.
MOST_CONNECTIONS, MOST_MESSAGES, MOST_SERVERS = 1000, 1000, 500
MOST_LOG_LINES = 200
# A pair of pictures, light and dark, is about 100 kB: eight findings with three each stay within a page of 3 MB.
MOST_ILLUSTRATED = 8
_IMAGE = "data:image/svg+xml;base64,"
MAP_ROWS = 16  # more hosts than this are no picture any more; those with trouble come first


def render(
    case: Case, *, traces: Mapping[int, Trace] | None = None, plots: bool = True, tables: str | None = None
) -> str:
    """The page. `traces` (by connection id) are what the time-sequence graphs are drawn from; `plots` = False: no pictures.

    `tables` is the folder of the Parquet files as seen from the page: where rows are left out, it links to them.
    """
    from markupsafe import Markup

    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    findings = [f for f in wording.ordered(case.findings) if f.explained_by is None and f.severity != "info"]
    repeats = wording.same_remedies(findings)
    connections, messages = _choose(case)
    return _template().render(
        case=case,
        w=wording,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - this package's own files, of which the policy knows the hashes
        script=Markup(script),  # noqa: S704
        state=wording.state(case),
        headline=wording.headline(case),
        checked=wording.checked(case),
        tiles=_tiles(case),
        map=_map(case),
        findings=[
            _Told(f, case, _pictures(case, f, traces or {}, plots and n < MOST_ILLUSTRATED), repeats.get(f.id))
            for n, f in enumerate(findings)
        ],
        explained=[f for f in wording.ordered(case.findings) if f.explained_by is not None],
        noted=_alike([f for f in wording.ordered(case.findings) if f.explained_by is None and f.severity == "info"]),
        timeline=_timeline(case) if plots else None,
        connections=connections,
        listed={c.id for c in connections.rows},
        messages=messages,
        servers=_servers(case),
        tables=None if tables is None else quote(tables.rstrip("/")),
        what_if=wording.what_if(case),
        told=told,
        log_lines=[x for x in case.log if x.said not in ("info", "connect", "disconnect", "received")][:MOST_LOG_LINES],
        unread=[c for c in case.captures if c.problems or not c.complete],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    # The template is this package's own; what it is given is only ever data, and is never compiled.
    environment = Environment(
        autoescape=True, finalize=_printable, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["paragraphs"] = paragraphs
    environment.filters["command"] = _command
    environment.filters["foremost"] = wording.foremost
    return environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))


def _printable(value: Any) -> Any:
    """What a capture says, in printable characters only; Markup (a subclass of str) is this package's own."""
    return visible(value, 5 * TEXT_LIMIT) if type(value) is str else value


class Command(NamedTuple):
    """What is copied, and what is only said beside it."""

    code: Markup
    remark: str


def _command(command: str) -> Command:
    """Line ends of a command stay: a router's configuration has several lines."""
    from markupsafe import Markup, escape

    lines, remark = wording.command_lines(command)
    return Command(Markup("\n").join(escape(line) for line in lines), remark)


def _policy(style: str, script: str) -> str:
    style_hash, script_hash = (b64encode(sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


# -- what the page shows ------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A number that tells the size of the incident."""

    number: str
    label: str
    grave: bool


def _tiles(case: Case) -> list[Tile]:
    outcomes = Counter(wording.fates(case).values())
    hung = sum(outcomes[o] for o in wording.HUNG)
    refused = sum(outcomes[o] for o in wording.REFUSED)
    servers = len({c.server.ip for c in case.connections if c.is_smtp})
    pairs = {(c.client.ip, c.server.ip) for c in case.connections if c.is_smtp}
    broken = [pair for pair, (kind, _) in _kinds(case, pairs).items() if kind == "broken"]
    tiles = [
        Tile(f"{outcomes['delivered']:,}", "mails delivered", False),
        Tile(f"{hung:,}", "mails hung", hung > 0),
        Tile(f"{refused:,}", "mails refused", False),
        Tile(f"{len(broken):,}", "broken paths", bool(broken)),
        Tile(f"{sum(c.is_smtp for c in case.connections):,}", "SMTP connections", False),
        Tile(f"{servers:,}", "servers", False),
    ]
    return tiles if case.connections else []


@dataclass(frozen=True, slots=True)
class Picture:
    """One plot as two data images: for a light and for a dark page."""

    alt: str
    light: Markup
    dark: Markup


def _picture(plot: Plot) -> Picture:
    from markupsafe import Markup

    from . import plots

    light, dark = (
        b64encode(plots.image(plots.figure(plot.draw, dark=d), "svg", dpi=100)).decode() for d in (False, True)
    )
    # Base64 needs no escape, and must not be cut as a text would be.
    return Picture(plot.alt, Markup(_IMAGE + light), Markup(_IMAGE + dark))  # noqa: S704


def _pictures(case: Case, finding: Finding, traces: Mapping[int, Trace], wanted: bool) -> list[Picture]:
    if not wanted or finding.role != "cause":
        return []
    from .plots import plots_of

    return [_picture(plot) for plot in plots_of(case, finding, traces)]


def _timeline(case: Case) -> Picture | None:
    from functools import partial

    from . import plots

    if not plots.has_timeline(case):
        return None
    return _picture(
        plots.Plot("timeline", "Mails over time, by destination and outcome.", partial(plots.timeline, case))
    )


class _Told:
    """A finding with the sentences and numbers that the template needs."""

    def __init__(self, finding: Finding, case: Case, pictures: list[Picture], repeats: Finding | None) -> None:
        self.finding, self.pictures, self.repeats = finding, pictures, repeats
        self.captures = len(case.captures)
        self.paths = numbered(case.paths, finding.paths)
        self.logs = wording.logs(case, finding)
        self.connection_filter = wording.connection_filter(case, finding)

    @property
    def affected(self) -> str:
        f = self.finding
        counted = ((f.connections, "connection"), (f.messages, "mail"))
        return ", ".join(wording.plural(len(ids), noun) for ids, noun in counted if ids)

    def frames(self, evidence: Evidence) -> str:
        return wording.frames(evidence.frames, self.captures)

    @property
    def by_role(self) -> list[tuple[str, list[Any]]]:
        """The remedies per party, in the order in which the rule gives them."""
        grouped: dict[str, list[Any]] = defaultdict(list)
        for remedy in self.finding.remedies:
            grouped[wording.WHO[remedy.who]].append(remedy)
        return list(grouped.items())

    @property
    def facts(self) -> list[tuple[str, str]]:
        return [(visible(str(k)), visible(str(v))) for k, v in self.finding.facts.items()]


class Table(NamedTuple):
    """Rows that are shown, and how many there are in all."""

    rows: Sequence[Any]
    total: int


class MailRow(NamedTuple):
    message: Message
    server: str
    end: str
    fate: str

    @property
    def grave(self) -> bool:
        return self.fate in wording.HUNG


def _alike(findings: list[Finding]) -> list[list[Finding]]:
    """Findings that are told in the same words, together."""
    told: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for f in findings:
        told[f.rule, f.title].append(f)
    return list(told.values())


def _choose(case: Case) -> tuple[Table, Table]:
    """The connections and mails that matter most: those of findings, those that ended badly, then the first."""
    named = {c for f in case.findings for c in f.connections[:200]}
    named |= {e.connection for f in case.findings for e in f.evidence if e.connection is not None}
    fate = wording.fates(case)
    bad = {m.connection for m in case.messages if fate[m.id] in wording.HUNG}
    connections = _first(case.connections, MOST_CONNECTIONS, lambda c: (c.id not in named, c.id not in bad))
    messages = _first(case.messages, MOST_MESSAGES, lambda m: (m.outcome == "delivered", m.connection not in named))
    server = {c.id: c.server.ip for c in case.connections}
    rows = [MailRow(m, server.get(m.connection, ""), _end(m), fate[m.id]) for m in messages]
    return Table(connections, len(case.connections)), Table(rows, len(case.messages))


def _first(items: Sequence[Any], most: int, rank: Any) -> list[Any]:
    """At most so many, the best ranked, in their old order."""
    if len(items) <= most:
        return list(items)
    return sorted(sorted(items, key=rank)[:most], key=lambda item: item.id)


def _end(message: Message) -> str:
    """How the end of the mail was cut: CR LF . | CR LF, where it was seen."""
    if message.terminator is None or not message.terminator.cut_at:
        return "whole" if message.terminator else ""
    letters = ["CR", "LF", ".", "CR", "LF"]
    for cut in sorted(message.terminator.cut_at, reverse=True):
        letters.insert(cut, "|")
    return " ".join(letters) + (" (inferred)" if message.terminator.inferred else "")


def _servers(case: Case) -> Table:
    rows = wording.by_server(case)
    return Table(rows[:MOST_SERVERS], len(rows))


# -- the map ------------------------------------------------------------------------------------------------------


class Edge(NamedTuple):
    """A line of the map, in its coordinates."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str  # broken, doubtful or well
    title: str


class Label(NamedTuple):
    x: float
    y: float
    text: str
    kind: str


class Map(NamedTuple):
    """Who sent to whom: clients on the left, servers on the right."""

    width: int
    height: int
    edges: list[Edge]
    clients: list[Label]
    servers: list[Label]
    words: str


def _map(case: Case) -> Map | None:
    pairs = Counter((c.client.ip, c.server.ip) for c in case.connections if c.is_smtp)
    if not pairs:
        return None
    kinds = _kinds(case, pairs)
    order = ("broken", "doubtful", "well")
    ranked = sorted(pairs, key=lambda p: (order.index(kinds[p][0]), -pairs[p]))
    left = _rows((p[0] for p in ranked), MAP_ROWS // 2)
    right = _rows((p[1] for p in ranked), MAP_ROWS)
    height = 26 * max(len(set(left.values())), len(set(right.values()))) + 20
    y_left, y_right = _spread(left, height), _spread(right, height)
    merged: dict[tuple[str, str], tuple[str, str, int]] = {}
    for pair in ranked:
        key = (left[pair[0]], right[pair[1]])
        kind, why = kinds[pair]
        known = merged.get(key)
        merged[key] = (known[0], known[1], known[2] + pairs[pair]) if known else (kind, why, pairs[pair])
    edges = [
        Edge(
            195,
            y_left[a],
            405,
            y_right[b],
            kind,
            f"{visible(a)} to {visible(b)}: {wording.plural(n, 'connection')}, {why}",
        )
        for (a, b), (kind, why, n) in sorted(merged.items(), key=lambda item: -order.index(item[1][0]))
    ]
    worst = {name: kind for (a, b), (kind, _, _) in reversed(list(merged.items())) for name in (("<", a), (">", b))}
    broken = [e.title for e in edges if e.kind == "broken"]
    words = f"{wording.plural(len(pairs), 'pair')} of hosts; broken: {'; '.join(broken[:12]) or 'none'}"
    return Map(
        600, height, edges,
        [Label(185, y, _short(name), worst["<", name]) for name, y in y_left.items()],
        [Label(415, y, _short(name), worst[">", name]) for name, y in y_right.items()],
        words,
    )  # fmt: skip


def _kinds(case: Case, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(client, server) -> broken, doubtful or well, and why; data of either direction counts."""
    kinds = dict.fromkeys(pairs, ("well", "no fault seen"))
    by_server: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in kinds:
        by_server[pair[1]].append(pair)
    for finding in sorted(case.findings, key=lambda f: SEVERITIES.index(f.severity)):
        if finding.explained_by is not None or finding.severity in ("info", "low"):
            continue
        kind = "broken" if finding.role != "observation" and finding.severity in ("high", "critical") else "doubtful"
        ends = {(finding.sender, finding.receiver), (finding.receiver, finding.sender)}
        hit = [pair for pair in ends if pair in kinds]
        if not hit:
            hit = by_server.get(finding.receiver or "", []) or _pairs_of(case, finding)
        for pair in hit:
            if pair in kinds and not (kind == "doubtful" and kinds[pair][0] == "broken"):
                kinds[pair] = (kind, visible(finding.title, 200))
    return kinds


def _pairs_of(case: Case, finding: Finding) -> list[tuple[str, str]]:
    named = set(finding.connections)
    return [(c.client.ip, c.server.ip) for c in case.connections if c.id in named]


def _rows(names: Iterable[str], most: int) -> dict[str, str]:
    """Host -> its row of the map; those that come late share one."""
    order = list(dict.fromkeys(names))
    if len(order) <= most:
        return {name: name for name in order}
    rest = f"{len(order) - most + 1:,} other hosts"
    return {name: (name if n < most - 1 else rest) for n, name in enumerate(order)}


def _short(name: str) -> str:
    """A label of at most 24 characters: an IPv6 address written out has 39, and both of its ends tell hosts apart."""
    name = visible(name)
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"


def _spread(rows: Mapping[str, str], height: int) -> dict[str, float]:
    names = list(dict.fromkeys(rows.values()))
    return {name: round((n + 0.5) * height / len(names), 1) for n, name in enumerate(names)}
