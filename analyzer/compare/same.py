"""Which connection of one point is which of another.

A translator changes addresses and ports, a firewall may shift sequence numbers, a proxy ends TCP and speaks for itself.
What stays tells: sequence numbers, TCP timestamps (RFC 7323), or, where nothing of TCP stays, what the client said. A
connection is joined where enough of it agrees, and never for its addresses alone: those come again every day.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from ..capture.packets import SYN
from ..tcp.streams import Stream
from .point import Point, Sighting

How = Literal["sequence-numbers", "timestamps", "content"]
Flow = list[Sighting | None]  # one connection: its sighting at each point; None where it was not seen
Ways = dict[
    tuple[int, int, int], How
]  # position of a flow, ids of two points -> how it was recognised from one to the other

MOST_KEYS = 400  # packets of a direction that are looked at: an agreement of the first ones is enough
# Sequence numbers are 32 bits: two captures of 1000 connections hold a million pairs of packets, so that one agreement by
# chance is likely (10**6 / 2**32 per pair of packets, times lengths that agree), two in the same connection are not.
LEAST_AGREEMENTS = 2
# Through a proxy that has been seen: its own connection begins when the client's does, later by a handshake at most.
PROXY_SLOWER_NS = 2_000_000_000
# Header lines that no other mail has: where they are equal, the mails are.
UNIQUE = re.compile(rb"^(?:message-id|received|date):[^\r\n]+\r\n", re.IGNORECASE | re.MULTILINE)
# By content alone, where a test mail is sent twice, a clock may be off by so much: NTP keeps servers within a second, a
# virtual machine without it loses some seconds a day.
CLOCKS_APART_NS = 60_000_000_000
HEAD_BYTES = 2000  # of a mail, in which they are looked for
MASKS = np.frombuffer(b"X*", np.uint8)  # what firewalls write over what they hide


def flows(points: Sequence[Point]) -> tuple[list[Flow], Ways]:
    """Every connection over all points, in order of time; and how each was recognised from point to point."""
    found: list[Flow] = []
    how: Ways = {}
    for n, point in enumerate(points):
        last = [next(s for s in reversed(flow) if s is not None) for flow in found]
        where = {id(s): i for i, s in enumerate(last)}
        taken: set[int] = set()
        for a, b, by in match(last, point.sightings):
            i = where[id(a)]
            before = next(m for m in range(n - 1, -1, -1) if found[i][m] is a)
            found[i].append(b)
            how[i, points[before].id, point.id] = by
            taken.add(id(b))
        for flow in found:
            flow += [None] * (n + 1 - len(flow))
        found += [[*[None] * n, s] for s in point.sightings if id(s) not in taken]
    return found, how


def match(left: Sequence[Sighting], right: Sequence[Sighting]) -> list[tuple[Sighting, Sighting, How]]:
    """Pairs of the same connection, each connection in one pair at most."""
    pairs: list[tuple[Sighting, Sighting, How]] = []
    open_left, open_right = list(left), list(right)
    kinds: tuple[tuple[How, object], ...] = (("sequence-numbers", _sequence_keys), ("timestamps", _timestamp_keys))
    for how, keys in kinds:
        votes = _votes([keys(s) for s in open_left], [keys(s) for s in open_right])  # type: ignore[operator]
        used_left, used_right = set(), set()
        for count, i, j in sorted(((n, i, j) for (i, j), n in votes.items()), key=lambda v: (-v[0], v[1], v[2])):
            enough = count >= LEAST_AGREEMENTS or (_only_syn(open_left[i], open_right[j]))
            if enough and i not in used_left and j not in used_right:
                pairs.append((open_left[i], open_right[j], how))
                used_left.add(i)
                used_right.add(j)
        open_left = [s for i, s in enumerate(open_left) if i not in used_left]
        open_right = [s for j, s in enumerate(open_right) if j not in used_right]
    return pairs + [(a, b, "content") for a, b in _by_content(open_left, open_right)]


def _votes(left: Sequence[set[object]], right: Sequence[set[object]]) -> dict[tuple[int, int], int]:
    where: dict[object, list[int]] = defaultdict(list)
    for j, keys in enumerate(right):
        for key in keys:
            where[key].append(j)
    votes: dict[tuple[int, int], int] = defaultdict(int)
    for i, keys in enumerate(left):
        for key in keys:
            for j in where.get(key, ()):
                votes[i, j] += 1
    return votes


def _rows(s: Sighting) -> Iterable[tuple[bool, object, list[int]]]:
    for from_client, d in ((True, s.trace.c2s), (False, s.trace.s2c)):
        rows = np.flatnonzero(d.data | ((d.flags & SYN) != 0))[:MOST_KEYS]
        yield from_client, d, rows.tolist()


def _sequence_keys(s: Sighting) -> set[object]:
    """(side, SYN, sequence number, bytes) of what was said; raw, as it stands in the packet."""
    keys: set[object] = set()
    for from_client, d, rows in _rows(s):
        t = d.table  # type: ignore[attr-defined]
        keys |= {(from_client, bool(int(t.flags[i]) & SYN), int(t.seq[i]), int(t.payload_bytes[i])) for i in rows}
    return keys


def _timestamp_keys(s: Sighting) -> set[object]:
    """(side, timestamp, place in the stream, bytes): stays where sequence numbers are shifted."""
    keys: set[object] = set()
    for from_client, d, rows in _rows(s):
        t = d.table  # type: ignore[attr-defined]
        keys |= {
            (from_client, int(t.ts_val[i]), int(d.seq[i]), int(t.payload_bytes[i]))  # type: ignore[attr-defined]
            for i in rows
            if t.has_ts[i]
        }
    return keys


def _only_syn(a: Sighting, b: Sighting) -> bool:
    """At one of the points nothing but the SYN was seen, and a port agrees: the answer never came by."""
    few = min(len(s.trace) for s in (a, b))
    lonely = any(not (s.trace.c2s.data.any() or s.trace.s2c.data.any()) for s in (a, b))
    return few > 0 and lonely and (a.trace.client.port == b.trace.client.port or a.trace.server == b.trace.server)


def _by_content(left: Sequence[Sighting], right: Sequence[Sighting]) -> list[tuple[Sighting, Sighting]]:
    """Connections in which the client said the very same, each found once."""
    of_line: dict[bytes, list[int]] = defaultdict(list)
    for j, s in enumerate(right):
        for line in _lines(s):
            of_line[line].append(j)
    pairs: list[tuple[Sighting, Sighting]] = []
    used: set[int] = set()

    def pair_up(alike: Callable[[Sighting, Sighting], bool]) -> None:
        paired = {id(a) for a, _ in pairs}
        for s in left:
            lines = [] if id(s) in paired else [of_line.get(line, ()) for line in _lines(s)]
            candidates = {j for found in lines if len(found) <= 8 for j in found}
            equal = [j for j in candidates if j not in used and alike(s, right[j])]
            if len(equal) == 1:  # the same words twice: nobody can tell which is which
                pairs.append((s, right[equal[0]]))
                used.add(equal[0])

    pair_up(_says_the_same)
    proxied = [(_hosts(a), _hosts(b), b.trace.start_ns - a.trace.start_ns) for a, b in pairs]
    if proxied:
        pair_up(lambda a, b: _through_the_proxy(a, b, proxied))
    return pairs


def _hosts(s: Sighting) -> tuple[str, str]:
    return s.trace.client.ip, s.trace.server.ip


def _through_the_proxy(
    a: Sighting, b: Sighting, proxied: Sequence[tuple[tuple[str, str], tuple[str, str], int]]
) -> bool:
    """A mail that never came out of a proxy that others have passed: the same envelope at the same time, and no contradiction."""
    apart = b.trace.start_ns - a.trace.start_ns
    known = any(
        (near, far) == (_hosts(a), _hosts(b)) and abs(apart - ns) <= PROXY_SLOWER_NS for near, far, ns in proxied
    )
    return known and _agree(a.client_stream, b.client_stream) and _agree(a.server_stream, b.server_stream)


def _lines(s: Sighting) -> set[bytes]:
    return {line for _, run in s.client_stream.pieces()[:4] for line in run[:65536].split(b"\r\n") if len(line) >= 20}


def _says_the_same(a: Sighting, b: Sighting) -> bool:
    """The same mail, with nothing against it: both sides' bytes agree wherever both points have them.

    Envelopes come again every day; a mail has its Message-ID, its Date, its Received lines. What a firewall masks (runs of
    X, asterisks) agrees with anything.
    """
    if abs(a.trace.start_ns - b.trace.start_ns) > CLOCKS_APART_NS:
        return False
    mail = next((m.body_start for m in a.dialogue.mails if m.body_start is not None), None)
    if mail is None:
        return False
    heads = [_head(s, mail) for s in (a, b)]
    shared = min(len(head) for head in heads)
    if not UNIQUE.search(heads[0][:shared]) or not UNIQUE.search(heads[1][:shared]):
        return False
    return _agree(a.client_stream, b.client_stream) and _agree(a.server_stream, b.server_stream)


def _head(s: Sighting, mail: int) -> bytes:
    """The beginning of a mail, as far as it was captured without a gap."""
    for start, run in s.client_stream.pieces():
        if start <= mail < start + len(run):
            return run[mail - start : mail - start + HEAD_BYTES]
    return b""


def _agree(one: Stream, two: Stream) -> bool:
    """The streams do not contradict each other anywhere."""
    for start, run in one.pieces():
        for at, other in two.pieces():
            low, high = max(start, at), min(start + len(run), at + len(other))
            if low < high:
                left = np.frombuffer(run, np.uint8)[low - start : high - start]
                right = np.frombuffer(other, np.uint8)[low - at : high - at]
                masked = np.isin(left, MASKS) | np.isin(right, MASKS)
                if ((left != right) & ~masked).any():
                    return False
    return True
