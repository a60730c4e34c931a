"""tshark as an independent witness of what verdicts stand on: resends, acknowledgments, streams, commands and replies.

One run of tshark per recorded capture. Each class of difference is named where it is allowed; whatever is in none of
them fails the test.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from analyzer.capture.packets import CaptureInfo
from analyzer.capture.reading import ReadOptions, read
from analyzer.smtp import grammar
from analyzer.smtp.dialogue import Dialogue, read_dialogue
from analyzer.tcp.connections import Group, Tracker
from analyzer.tcp.delivery import ACKED, NOT_ACK, Direction, Trace, measure
from analyzer.tcp.streams import Stream

from . import tshark

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"
CAPTURES = sorted(p for p in SAMPLES.iterdir() if p.suffix in (".pcap", ".pcapng"))

pytestmark = pytest.mark.tshark


class Seen(NamedTuple):
    """One connection as both read it."""

    trace: Trace
    theirs: dict[int, tshark.Row]  # by frame
    followed: tuple[bytes, bytes] | None


def traces(capture: Path) -> list[Trace]:
    """Every TCP connection of the capture, in the order of their first packets, as the analyzer measures them."""
    tracker, captures = Tracker(), list[CaptureInfo]()
    found: list[Trace] = []

    def keep(group: Group) -> None:
        delivery = measure(Group(group.table.detach(), group.first, group.middle, group.client_known))
        found.extend(delivery.trace(k) for k in range(len(group)))

    for batch in read([str(capture)], ReadOptions(all_tcp=True), captures):
        keep(tracker.add(batch.packets, batch.last_time_ns))
    keep(tracker.finish())
    return sorted(found, key=lambda t: min(int(d.frame[0]) for d in t.directions if len(d)))


def both(capture: Path) -> list[Seen]:
    ours = traces(capture)
    rows, followed = tshark.read(capture, len(ours))
    by_stream: dict[int, dict[int, tshark.Row]] = defaultdict(dict)
    stream_of: dict[int, int] = {}
    for row in rows:
        by_stream[row.stream][row.frame] = row
        stream_of[row.frame] = row.stream
    seen = []
    for trace in ours:
        frame = next(int(f) for d in trace.directions for f in d.frame if int(f) in stream_of)
        stream = stream_of[frame]
        seen.append(Seen(trace, by_stream[stream], followed.get(stream)))
    return seen


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.stem)
def test_tshark_agrees(capture: Path) -> None:
    """Resends, acknowledged bytes, streams, commands and replies are what tshark sees as well."""
    connections = both(capture)
    for seen in connections:
        for d in seen.trace.directions:
            _same_packets(d, seen.theirs)
            _same_resends(d, seen.theirs)
            _same_acknowledged(d, seen.theirs)
            _same_bytes(d, seen.theirs)
        _same_followed(seen)
        _same_dialogue(seen)


def _rows(d: Direction, theirs: dict[int, tshark.Row]) -> list[tuple[int, tshark.Row]]:
    """(our row, theirs). A packet in fragments is one row at its first fragment here and at its last in tshark."""
    return [
        (i, theirs[int(f)]) for i, f in enumerate(d.frame.tolist()) if int(f) in theirs and not d.table.fragments[i]
    ]


def _same_packets(d: Direction, theirs: dict[int, tshark.Row]) -> None:
    """Every packet of ours is one of theirs, of the same length, at the same place of the stream."""
    rows = _rows(d, theirs)
    assert len(rows) == int((d.table.fragments == 0).sum())
    assert [r.payload_bytes for _, r in rows] == d.payload_bytes[[i for i, _ in rows]].tolist()
    # numbers count from the same byte: tshark's 1 is our 0, or whatever the first packet of a connection in progress has
    assert len({(int(d.seq[i]) - r.seq) & 0xFFFFFFFF for i, r in rows}) <= 1


def _same_resends(d: Direction, theirs: dict[int, tshark.Row]) -> None:
    """Each resend of ours has one of tshark's four labels, and each label is a resend, but for ..."""
    reached = 0
    for i, r in _rows(d, theirs):
        labelled = bool(r.marks & set(tshark.RESENT))
        if d.resend[i]:
            # ... keep-alives with a byte of data and window probes, which have labels of their own
            assert labelled or r.marks & {"keep_alive", "zero_window_probe"}, f"frame {r.frame} is a resend"
        elif labelled and r.payload_bytes and not d.duplicate[i]:
            # ... bytes that come late, but for the first time: overtaken, or sent again after a loss before this point
            fresh = not _known_before(d, i)
            assert fresh, f"frame {r.frame} is no resend: {set(r.marks)}"
        # ... (no payload: SYN and FIN sent again; a second capture of the same packet: labelled, but nobody sent it)
        reached = max(reached, int(d.end[i]))


def _known_before(d: Direction, row: int) -> bool:
    """A byte of this row had been captured before."""
    earlier = slice(0, row)
    overlap = (d.seq[earlier] < d.end[row]) & (d.end[earlier] > d.seq[row]) & ~d.duplicate[earlier]
    return bool(overlap.any())


def _same_acknowledged(d: Direction, theirs: dict[int, tshark.Row]) -> None:
    """As many bytes were acknowledged, and as many never."""
    mine, peers = _rows(d, theirs), _rows(d.peer, theirs)
    if not mine or not peers or d.acked is None:
        return
    offset = mine[0][1].seq - int(d.seq[mine[0][0]])
    top = max(_signed(r.ack - offset) for i, r in peers if d.peer.ack[i] != NOT_ACK)
    assert top == d.acked
    acked = sum(r.payload_bytes for _, r in mine if _signed(r.seq - offset) + r.payload_bytes <= top)
    in_fragments = int(d.payload_bytes[(d.fate == ACKED) & (d.table.fragments > 0)].sum())
    assert int(d.payload_bytes[d.fate == ACKED].sum()) == acked + in_fragments


def _signed(x: int) -> int:
    """tshark's relative numbers are unsigned: what lies before the first packet seen wraps around."""
    return (x + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def _same_bytes(d: Direction, theirs: dict[int, tshark.Row]) -> None:
    """The payloads that tshark shows, laid down at their sequence numbers, are the stream; the first copy counts."""
    rows = _rows(d, theirs)
    if len(rows) < len(d) or not rows:
        return
    offset = rows[0][1].seq - int(d.seq[rows[0][0]])
    laid: dict[int, bytes] = {}
    known: list[tuple[int, int]] = []
    for _, r in rows:
        at = _signed(r.seq - offset)
        for start, end in _missing(known, at, at + len(r.payload)):
            laid[start] = r.payload[start - at : end - at]
        known.append((at, at + r.payload_bytes))
    got = dict(Stream(d).pieces())
    joined: dict[int, bytes] = {}
    last = None
    for start in sorted(laid):
        if last is not None and last + len(joined[last]) == start:
            joined[last] += laid[start]
        else:
            joined[start], last = laid[start], start
    assert got == joined


def _missing(known: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    parts = [(start, end)] if end > start else []
    for a, b in known:
        parts = [p for x, y in parts for p in ((x, min(y, a)), (max(x, b), y)) if p[1] > p[0]]
    return parts


def _same_followed(seen: Seen) -> None:
    """Where nothing is missing, the two streams are what `Follow TCP Stream` shows."""
    if seen.followed is None:
        return
    # what tshark puts first is who sent the first packet that the capture holds
    first = min(seen.theirs)
    client_first = seen.theirs[first].ends[0] == tuple(seen.trace.client)
    followed = seen.followed if client_first else seen.followed[::-1]
    for d, shown in zip(seen.trace.directions, followed, strict=True):
        stream = Stream(d)
        pieces = stream.pieces()
        # it shows nothing of what lies beyond a hole that nothing filled
        if len(pieces) == 1 and pieces[0][0] == stream.start and not (d.table.payload_captured < d.payload_bytes).any():
            assert pieces[0][1] == shown


def _same_dialogue(seen: Seen) -> None:
    """The same commands and codes in the same order, as far as tshark can know them."""
    trace = seen.trace
    client, server = Stream(trace.c2s), Stream(trace.s2c)
    ours = read_dialogue(client, server, from_start=trace.handshake_seen)
    if not _comparable(seen, ours, client):
        return
    rows = [r for _, r in sorted(seen.theirs.items()) if r.frame not in _copies(trace)]
    # tshark shows what follows the end of a mail in the same packet (QUIT, RSET) as part of the mail
    ends = {m.terminator_end for m in ours.mails}
    expected = [c.verb[:4] for c in ours.commands if not (c.start in ends and _same_segment(client, c.start))]
    assert [v.upper() for r in rows for v in r.commands] == expected
    # a reply that spans several packets shows its code in each
    codes = [r.code for r in ours.replies for _ in server.rows(r.start, r.end)]
    assert [c for r in rows for c in r.codes] == codes


def _comparable(seen: Seen, ours: Dialogue, client: Stream) -> bool:
    """What tshark's reading of SMTP needs: the beginning, both sides, all bytes once and in order, no TLS, no AUTH.

    It takes the content of BDAT for commands, resent commands for new ones, and nothing that lies beyond a hole; what we
    read there is tested against the two whole streams in tests/smtp.
    """
    trace = seen.trace
    whole = all(
        len(d)
        and not d.resend.any()
        and len(Stream(d).pieces()) <= 1
        and not (d.table.payload_captured < d.payload_bytes).any()
        for d in trace.directions
    )
    plain = ours.is_smtp and trace.handshake_seen and ours.tls == "none" and trace.server.port in tshark.SMTP_PORTS
    verbs = {c.verb for c in ours.commands}
    return whole and plain and not verbs & {"BDAT", "AUTH", grammar.AUTH_RESPONSE, grammar.UNKNOWN}


def _copies(trace: Trace) -> set[int]:
    """Frames that are second captures of the same packet."""
    return {int(f) for d in trace.directions for f in d.frame[d.duplicate]}


def _same_segment(stream: Stream, offset: int) -> bool:
    """No packet begins here."""
    segment = stream.segment_at(offset)
    return segment is not None and segment.start < offset
