"""What the differences between the points mean: which stretch loses, filters or rewrites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from ..analysis import Options, analyze
from ..capture.reading import ReadOptions
from ..case import Finding
from ..report.wording import plural
from .packets import ARRIVED, LOST
from .point import Point, by_connection, read_point
from .same import Flow, How, Ways, flows
from .stretch import Change, Run, Stretch, Traffic, measure, unanswered

Kind = Literal[
    "lost-by-size", "lost", "lost-beyond", "icmp-lost", "icmp-ignored", "icmp-made", "end-of-mail-lost", "rewritten",
    "starttls-removed", "mss-changed", "connection-lost", "changed", "nothing-in-common", "nothing",
]  # fmt: skip

# A loss for size: every packet from some size on is lost, smaller ones arrive. One that is lost may be chance.
LEAST_LOST = 2
# Of the smaller ones some may be lost by chance; where more than a fifth is, small packets do not pass either.
SMALL_LOST_SHARE = 0.2
END_BYTES = 576  # the rest of a mail behind a cut inside .CRLF, with the QUIT that Postfix sends along, is much smaller
SIDE = {True: "client", False: "server"}


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict. stretch: ids of the two points, or the last point and None for "beyond it"."""

    kind: Kind
    stretch: tuple[int | None, int | None]
    text: str
    fault: bool  # something is broken there, not only different


@dataclass
class Comparison:
    points: list[Point]
    flows: list[Flow]
    how: Ways
    stretches: list[Stretch] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # of the rules, where only two points together prove them

    @property
    def shared(self) -> int:
        """Connections seen at two points or more."""
        return sum(1 for flow in self.flows if sum(s is not None for s in flow) > 1)

    def recognised_by(self, flow: int) -> How | None:
        """By what a connection was known again from point to point; the weakest, where there are several stretches."""
        ways = {how for (i, _, _), how in self.how.items() if i == flow}
        order: tuple[How, ...] = ("content", "timestamps", "sequence-numbers")
        return next((how for how in order if how in ways), None)

    @property
    def complete(self) -> bool:
        return all(p.complete for p in self.points)


def compare(
    captures: Sequence[str], options: ReadOptions | None = None, progress: Callable[[int], None] | None = None
) -> Comparison:
    """The captures in the order in which a client's packets pass them; each a file, a folder or a glob."""
    options = options or ReadOptions()
    points = [read_point(n, capture, options, progress) for n, capture in enumerate(captures, 1)]
    found, how = flows(points)
    order = _order(points, found, how)
    if order != points:
        points = order
        for n, point in enumerate(points, 1):
            point.id = n
        found, how = flows(points)
    result = Comparison(points, found, how)
    if not result.shared:
        result.statements = [_nothing_in_common(points)]
        return result
    for near, far in pairwise(points):
        result.stretches.append(measure(near, far, found, how))
    result.statements = _statements(result)
    result.findings = _proven(result, options)
    return result


def _proven(result: Comparison, options: ReadOptions) -> list[Finding]:
    """What the rules say at the nearer point, with the knowledge that the server's offer of encryption was removed."""
    found = []
    for stretch in result.stretches:
        change = stretch.change("starttls-removed")
        if change is not None:
            seen = [result.flows[i][stretch.near.id - 1] for i in change.flows]
            servers = frozenset((s.trace.server.ip, s.trace.server.port) for s in seen if s is not None)
            chosen = Options(ports=options.ports, max_bytes=options.max_bytes, stripped=servers)
            case = analyze([stretch.near.name], chosen)
            found += [f for f in case.findings if f.rule in ("starttls-stripped", "esmtp-inspection", "masked-banner")]
    return found


def _order(points: list[Point], found: Sequence[Flow], how: Ways) -> list[Point]:
    """The points as a client's packets pass them, whatever order they were named in: each router takes one from the time
    to live. A proxy sends packets of its own, whose time to live says nothing of what lies before it.
    """
    fell: dict[tuple[int, int], list[int]] = {}
    for (i, near, far), by in how.items():
        a, b = found[i][near - 1], found[i][far - 1]
        if by == "content" or a is None or b is None:
            continue
        for from_client, sign in ((True, 1), (False, -1)):
            first, last = (s.direction(from_client=from_client) for s in (a, b))
            if len(first) and len(last):
                drop = sign * (int(first.table.ttl[0]) - int(last.table.ttl[0]))
                fell.setdefault((near, far), []).append(drop)
    place = {point.id: 0.0 for point in points}
    for near, far in sorted(fell, key=lambda pair: pair[1]):
        place[far] = place[near] + float(np.median(fell[near, far]))
    named = points[::-1] if sum(map(sum, fell.values())) < 0 else points
    return sorted(named, key=lambda point: place[point.id])


def _nothing_in_common(points: Sequence[Point]) -> Statement:
    empty = [p for p in points if not p.sightings]
    if empty:
        text = f"Nothing to compare: {_named(empty[0])} holds no connection on a port of SMTP (--port and --all-tcp add others)."
    else:
        spans = sorted((p.first_ns or 0, p.last_ns or 0) for p in points)
        apart = spans[1][0] - spans[0][1]
        text = "The captures have nothing in common: no connection of one is in the other."
        if apart > 0:
            text += f" By their clocks one ends {round(apart / 1e9):,} s before the other begins."
    return Statement("nothing-in-common", (None, None), text, fault=False)


def _named(point: Point) -> str:
    return f"point {point.id} ({point.short_name})"


def _statements(result: Comparison) -> list[Statement]:
    out: list[Statement] = []
    for stretch in result.stretches:
        for traffic in stretch.traffic:
            out += _loss(stretch, traffic)
    out += _beyond(result)
    out += _icmp(result)
    out += _ignored(result)
    for stretch in result.stretches:
        out += [s for change in stretch.changes for s in _rewriting(stretch, change)]
        out += _missing(stretch)
    out.sort(key=lambda s: not s.fault)
    if not any(s.fault or s.kind != "changed" for s in out):
        out.append(Statement("nothing", (None, None), "Nothing was lost or rewritten between the points.", fault=False))
    return out


def _way(stretch: Stretch) -> tuple[str, tuple[int, int]]:
    return f"Between {_named(stretch.near)} and {_named(stretch.far)}", (stretch.near.id, stretch.far.id)


class _BySize(NamedTuple):
    """Loss that size decides: from some size on everything is lost, what is smaller arrives, also afterwards."""

    from_bytes: int
    lost: int
    stuck: int  # of the same size, sent after the other point's last packet, and never acknowledged
    arrived: int
    up_to_bytes: int
    passed_before: bool  # larger ones had arrived earlier: the path has changed
    for_good: bool  # some of the bytes never came at all


def _by_size(runs: Sequence[Run]) -> _BySize | None:
    """Over the connections that lost something; each from where its last large packet arrived."""
    lost, small, stuck, for_good, passed_before, after = [], [], 0, False, False, False
    arrived: list[int] = []
    for run in runs:
        gone = (run.fate == LOST) & run.data
        if not gone.any() and not run.stuck.any():
            continue
        least = int(run.ip_bytes[gone | run.stuck].min())
        large_ok = (run.fate == ARRIVED) & (run.ip_bytes >= least)
        tail = np.ones(len(run.fate), bool)
        if large_ok.any():
            tail = run.time_ns > run.time_ns[large_ok].max()
            passed_before = True
        lost += run.ip_bytes[tail & gone].tolist()
        small += run.ip_bytes[tail & (run.fate == LOST) & ~run.data].tolist()
        stuck += int((tail & run.stuck).sum())
        for_good |= bool((tail & run.for_good).any())
        well = tail & (run.fate == ARRIVED)
        arrived += run.ip_bytes[well].tolist()
        if (tail & gone).any():
            after |= bool((run.time_ns[well] > run.time_ns[tail & gone].min()).any())
    if not lost or not arrived or len(lost) + stuck < LEAST_LOST or not after:
        return None
    up_to = max(arrived)
    small += [n for n in lost if n <= up_to]
    large = [n for n in lost if n > up_to]
    if not large or len(small) > SMALL_LOST_SHARE * (len(small) + len(arrived)):
        return None
    return _BySize(min(large), len(large), stuck, len(arrived), up_to, passed_before, for_good)


def _loss(stretch: Stretch, traffic: Traffic) -> list[Statement]:
    of_hosts: dict[tuple[str, str], list[Run]] = {}
    for run in traffic.runs:
        of_hosts.setdefault(run.ends, []).append(run)
    several = len(of_hosts) > 1
    return [s for ends, runs in of_hosts.items() for s in _loss_of(stretch, traffic, runs, ends if several else None)]


def _loss_of(
    stretch: Stretch, traffic: Traffic, runs: Sequence[Run], ends: tuple[str, str] | None
) -> Iterator[Statement]:
    where, ids = _way(stretch)
    whose = f"the {SIDE[traffic.from_client]}'s"
    pair = f" from {ends[0]} to {ends[1]}" if ends else ""
    by_size = _by_size(runs)
    if by_size is not None:
        icmp = any(i.too_big and not i.towards_sender and i.about_client == traffic.from_client for i in stretch.icmp)
        yield Statement(
            "lost-by-size", ids, f"{where} {whose} large packets{pair} are lost: {_sizes_told(by_size, runs)}",
            fault=by_size.for_good or not icmp,
        )  # fmt: skip
        return
    sizes = [n for run in runs for n in run.ip_bytes[(run.fate == LOST) & run.data].tolist()]
    arrived = sum(int(((run.fate == ARRIVED) & run.data).sum()) for run in runs)
    stuck = sum(int(run.stuck.sum()) for run in runs)
    for_good = any(run.for_good.any() for run in runs)
    if stretch.change("end-of-mail-lost") is not None and traffic.from_client and sizes and max(sizes) < END_BYTES:
        return  # told by the change itself
    if sizes:
        span = f"{min(sizes)} bytes" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)} bytes"
        share = 100 * len(sizes) / (len(sizes) + arrived)
        verb = "was" if len(sizes) == 1 else "were"
        text = f"{where} {plural(len(sizes), 'packet')} of {whose}{pair} {verb} lost ({share:.0f} %), of {span}; "
        text += "size does not decide." if for_good else "what they carried arrived when sent again."
        yield Statement("lost", ids, text, fault=for_good or share >= 1)
    elif stuck >= LEAST_LOST:
        end = stretch.far if traffic.from_client else stretch.near
        text = (
            f"{where} {stuck} resends of {whose}{pair} never came to point {end.id} and were never acknowledged: everything is "
            "lost there, unless that capture had ended before."
        )
        yield Statement("lost", ids, text, fault=True)


def _sizes_told(found: _BySize, runs: Sequence[Run]) -> str:
    largest = max(int(run.ip_bytes[run.data].max(initial=0)) for run in runs)
    sizes = f"{found.from_bytes} bytes" + ("" if found.from_bytes >= largest else " and more")
    text = f"all {found.lost} of {sizes}" if found.lost > 1 else f"the only one of {sizes}"
    if found.stuck:
        text += f" (and {found.stuck} resends after the last packet of the other capture, never acknowledged)"
    text += f", while {found.arrived} of up to {found.up_to_bytes} bytes arrived."
    broken = [r for r in runs if ((r.fate == LOST) & (r.ip_bytes >= found.from_bytes)).any()]
    well = [r for r in runs if ((r.fate == ARRIVED) & (r.ip_bytes >= found.from_bytes)).any() and r not in broken]
    if well:
        text += f" So in {len(broken)} of {len(runs)} connections; in {len(well)} others as large ones arrived: another way."
    elif found.passed_before:
        text += " Earlier as large ones had arrived: the path has changed."
    if not found.for_good:
        return text + " What they carried arrived later in smaller packets."
    return text + " The narrow link, or whatever drops for size, is there."


def _beyond(result: Comparison) -> list[Statement]:
    """What left the last point and was never acknowledged through it: the fault lies behind it."""
    out = []
    for from_client, point in ((True, result.points[-1]), (False, result.points[0])):
        stuck: Counter[int] = Counter()
        for flow in result.flows:
            s = flow[point.id - 1]
            if s is not None and sum(x is not None for x in flow) > 1:
                stuck += unanswered(s, from_client=from_client)
        if not stuck:
            continue
        largest_known = max(
            (
                int(d.ip_bytes[d.data & (d.fate == 1)].max(initial=0))
                for flow in result.flows
                if (s := flow[point.id - 1]) is not None
                for d in (s.direction(from_client=from_client),)
            ),
            default=0,
        )
        to = "server" if from_client else "client"
        text = (
            f"Beyond {_named(point)}, towards the {to}: {plural(stuck.total(), 'packet')} of {min(stuck)} to {max(stuck)} bytes "
            if min(stuck) != max(stuck)
            else f"Beyond {_named(point)}, towards the {to}: {plural(stuck.total(), 'packet')} of {max(stuck)} bytes "
        )
        text += "passed this point, were sent again and were never acknowledged"
        text += f"; packets of up to {largest_known} bytes were." if largest_known else "."
        ids: tuple[int | None, int | None] = (point.id, None) if from_client else (None, point.id)
        out.append(Statement("lost-beyond", ids, text, fault=True))
    return out


def _icmp(result: Comparison) -> list[Statement]:
    out = []
    for stretch in result.stretches:
        for fate in stretch.icmp:
            if not fate.too_big:
                continue
            mtu = f" (MTU {fate.mtu})" if fate.mtu is not None else ""
            where, ids = _way(stretch)
            if fate.towards_sender:
                to = SIDE[fate.about_client]
                text = (
                    f'{where} ICMP "too big" is lost: {fate.count} of them{mtu} passed point {fate.seen_at} on the way to the {to} '
                    f"and never came to point {fate.missing_at}. The filter is there."
                )
                out.append(Statement("icmp-lost", ids, text, fault=True))
            else:
                lost = stretch.traffic[0 if fate.about_client else 1].by_size()
                narrow = any(size.lost and size.ip_bytes > (fate.mtu or 0) for size in lost)
                text = f'{where} ICMP "too big"{mtu} is made: '
                text += (
                    "the router before the narrow link is there."
                    if narrow
                    else "but no packet above that size was lost there, so it is not to be trusted."
                )
                out.append(Statement("icmp-made", ids, text, fault=False))
    return out


# As the rule icmp-frag-needed-ignored has it: what was in flight when the ICMP came is no sign of a deaf sender.
IN_FLIGHT_NS = 200_000_000
LEAST_IGNORED = 2


def _ignored(result: Comparison) -> list[Statement]:
    """ICMP that came as far as the point nearest to the sender, and packets above its MTU that left all the same."""
    out = []
    for from_client, point in ((True, result.points[0]), (False, result.points[-1])):
        sightings = [flow[point.id - 1] for flow in result.flows]
        quoting = by_connection([s for s in sightings if s is not None], point.icmp)
        still, mtu = 0, 0
        for s, errors in quoting.items():
            heard = [e for e, about_client in errors if about_client == from_client and e.is_too_big and e.mtu]
            if heard:
                d = s.direction(from_client=from_client)
                first = min(heard, key=lambda e: e.time_ns)
                wait_ns = IN_FLIGHT_NS + round((s.trace.rtt_s or 0) * 1e9)
                late = (
                    d.resend
                    & d.df
                    & (d.time_ns > first.time_ns + wait_ns)
                    & (d.ip_bytes > (first.mtu or 0))
                    & ~d.offloaded
                )
                still += int(late.sum())
                mtu = first.mtu or mtu
        if still >= LEAST_IGNORED:
            ids: tuple[int | None, int | None] = (None, point.id) if from_client else (point.id, None)
            text = (
                f'ICMP "too big" (MTU {mtu}) came as far as {_named(point)}, and the {SIDE[from_client]} still sent {still} packets '
                f"above it: the {SIDE[from_client]}'s host ignores it, or it is filtered on the last piece of the way there."
            )
            out.append(Statement("icmp-ignored", ids, text, fault=True))
    return out


REWRITTEN = {
    "greeting-masked": "the server's greeting is masked: it left as {before} and arrived as {after}. An SMTP-inspecting firewall is there",
    "greeting-changed": "the server's greeting is changed from {before} to {after}",
    "keywords-changed": "the server's EHLO reply is changed: {before} left, {after} arrived",
    "commands-masked": "the client's commands are masked: {before} left, {after} arrived",
    "end-cut-differently": "the end of a mail is cut anew: it left as {before} and arrived as {after}",
    "bytes-changed": "the content of packets is changed",
    "option-removed": "TCP options are removed: {before}",
}
HARMLESS = {
    "address-translated": "the {side}'s address is translated from {before} to {after}",
    "sequence-shifted": "the {side}'s sequence numbers are shifted",
    "tcp-terminated": "TCP is ended and begun anew by a proxy: {before} becomes {after}",
    "fragmented": "packets of {before} arrive in {after}",
    "reordered": "packets of the {side} arrive in another order",
    "duplicated": "packets arrive twice",
    "delayed": "packets of the {side} take {after}",
    "df-cleared": "the {side}'s packets lose their don't-fragment flag",
}


def _rewriting(stretch: Stretch, change: Change) -> list[Statement]:
    where, ids = _way(stretch)
    words = {"side": SIDE[change.from_client], "before": change.before or "nothing", "after": change.after or "nothing"}
    many = f" ({plural(len(change.flows), 'connection')})" if len(change.flows) > 1 else ""
    if change.kind == "starttls-removed":
        instead = f", {change.after} came in its place" if change.after else ""
        text = f"{where} the offer of encryption is removed: the server's EHLO reply left with STARTTLS and arrived without{instead}{many}."
        return [Statement("starttls-removed", ids, text, fault=True)]
    if change.kind == "mss-changed":
        text = f"{where} the {words['side']}'s {change.before} becomes {change.after}{many}: it is clamped there."
        return [Statement("mss-changed", ids, text, fault=False)]
    if change.kind == "end-of-mail-lost":
        text = f"{where} the end of a mail is lost{many}: it left as {change.before}, and its last part never came through."
        return [Statement("end-of-mail-lost", ids, text, fault=True)]
    if change.kind == "swallowed":
        text = (
            f"{where} something answers in the {SIDE[not change.from_client]}'s place: {change.before}, "
            f"never came to point {(stretch.far if change.from_client else stretch.near).id}{many}."
        )
        return [Statement("end-of-mail-lost", ids, text, fault=True)]
    if change.kind == "kept-back":
        text = (
            f"{where} the proxy took {change.before} of the {words['side']} and acknowledged them; no more than {change.after} came "
            f"to point {(stretch.far if change.from_client else stretch.near).id}{many}: the rest is lost behind the proxy."
        )
        return [Statement("lost", ids, text, fault=True)]
    if change.kind == "bytes-changed" and any(c.kind in ALREADY_TOLD for c in stretch.changes):
        return []
    if change.kind in REWRITTEN:
        return [Statement("rewritten", ids, f"{where} {REWRITTEN[change.kind].format(**words)}{many}.", fault=True)]
    return [Statement("changed", ids, f"{where} {HARMLESS[change.kind].format(**words)}{many}.", fault=False)]


ALREADY_TOLD = ("greeting-masked", "greeting-changed", "keywords-changed", "starttls-removed", "commands-masked")


def _missing(stretch: Stretch) -> list[Statement]:
    """Connections that only one of the two points saw, while the other was capturing."""
    ids = (stretch.near.id, stretch.far.id)
    gone = sum(1 for _, near in stretch.missing if near)
    if not gone or not stretch.connections:
        return []
    text = f"{plural(gone, 'connection')} seen at {_named(stretch.near)} did not come to {_named(stretch.far)}, or went another way."
    return [Statement("connection-lost", ids, text, fault=False)]
