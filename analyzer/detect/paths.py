"""The weighing of path evidence: all connections between two hosts, one direction, become the facts of one path.

Facts never accuse. What is decided here is only which packets belong together: which stuck range has the strongest
evidence, which deliveries are still fresh, what is lost *for its size*. The thresholds are in the rules.

The rivals of a narrow path (a dead path, losses blind to size, a shut window, ...) are weighed on the same evidence and
handed on in words, together with what speaks against.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, NamedTuple

import numpy as np

from ..capture.packets import IcmpError
from ..tcp.delivery import Direction, Trace
from ..tcp.path_mtu import ICMP_GRACE_NS, SAME_SIZE_BYTES, At, Passed, Sighting, Stuck, icmp_source
from .facts import Subject, Value

Ref = tuple[int, int]  # (capture, frame)

# MTUs that link types leave of 1500 (or of 9000), for naming what fits a bracket. Sources: RFC 2516 (PPPoE 1492),
# RFC 2003/4213 (20 bytes: 1480), RFC 2784 (24: 1476), RFC 7348 (50: 1450), Linux gretap (38: 1462), ip6tnl (48: 1452),
# WireGuard (80: 1420; 60 over IPv4: 1440), RFC 8200 (1280); 1454 and 1400, 1438, 1428, 1380: common operator settings.
LINK_MTUS: tuple[tuple[int, str], ...] = (
    (9000, "jumbo Ethernet"),
    (1500, "Ethernet"),
    (1492, "PPPoE"),
    (1480, "IPIP or 6in4"),
    (1476, "GRE"),
    (1462, "GRE with Ethernet (gretap)"),
    (1460, "Google Cloud default"),
    (1454, "DSL with PPPoA/PPPoE and ATM"),
    (1452, "IPv6 tunnel (ip6tnl)"),
    (1450, "VXLAN"),
    (1440, "WireGuard over IPv4"),
    (1438, "GRE with IPsec"),
    (1428, "IPsec virtual tunnel interface"),
    (1420, "WireGuard"),
    (1400, "IPsec or cloud VPN"),
    (1380, "IPsec with NAT traversal"),
    (1280, "IPv6 minimum"),
    (576, "old dial-up or X.25"),
)
# Naming link types inside a wider bracket would be guessing: half the list fits.
LINKS_BRACKET_BYTES = 150
BRIEF_HOLE_S = 1.0
# A route change is believed only when plain loss can not explain it: at least this many large packets in a row lost ...
ROUTE_CHANGE_LOSSES = 6
# ... and losing them at the rate seen before has at most this probability.
ROUTE_CHANGE_P = 1e-4


class View(NamedTuple):
    """One connection's sighting of this path, with what its dialogue knew."""

    connection: int
    trace: Trace
    sighting: Sighting
    sender_is: str  # "client" or "server"
    stuck_messages: tuple[int, ...]
    in_tls_handshake: bool
    at_end_of_mail: bool  # what is stuck is a piece of CR LF . CR LF, cut off from the rest
    after_go_ahead: bool  # the loss begins where large data first leaves
    display: str  # display filter of the connection


class Unanswered(NamedTuple):
    """A connection that never came about: its SYN was sent again and again, and nothing came back."""

    first_ns: int
    last_ns: int
    ip_bytes: int
    display: str  # display filter of the connection
    frames: tuple[Ref, ...]


# Where a path was captured is what most of its connections tell. Of equals (whatever the order in which they were judged)
# who knows outweighs who does not, and the nearer to the sender is taken.
AT_RANK = {"unknown": 0, "at_receiver": 1, "middle": 2, "at_sender": 3}


def _counts() -> dict[Any, int]:
    """As a Counter, of which a million are made in a tenth of the time."""
    return defaultdict(int)


# What is left of CR LF . CR LF behind a cut inside `.CRLF`, alone or with the QUIT that a pipelining client writes along.
_PIECES_OF_ENDS = tuple(piece + quit_ for piece in (b"\r\n", b"\n") for quit_ in (b"", b"QUIT\r\n"))


def _ends_a_mail(d: Direction, main: Stuck) -> bool:
    """By the stuck bytes alone, where the dialogue is not known (a short snap length): all that is left is such a piece.
    If not even these bytes were captured, it may be one."""
    row = main.rows[-1]
    if int(d.payload_bytes[row]) not in set(map(len, _PIECES_OF_ENDS)) or int(d.end[row]) < d.sent:
        return False
    return int(d.table.payload_captured[row]) < int(d.payload_bytes[row]) or d.table.payload(row) in _PIECES_OF_ENDS


@dataclass(slots=True)
class PathLedger:
    """All that was seen of one direction between two hosts."""

    sender: str
    receiver: str
    connections: list[int] = field(default_factory=list)
    views: list[View] = field(default_factory=list)  # connections with something to tell
    delivered: dict[int, list[int]] = field(default_factory=dict)  # size -> [count, first sent ns, last sent ns]
    lost: dict[int, list[int]] = field(default_factory=dict)
    delivered_df_off: dict[int, list[int]] = field(default_factory=dict)  # a router may have cut these
    joined: dict[int, list[int]] = field(
        default_factory=dict
    )  # full packets inside offloaded frames: they bound no MTU
    cut: dict[int, int] = field(default_factory=_counts)  # lost ones that came again in smaller packets
    undecided: dict[int, int] = field(default_factory=_counts)
    sent_segments: int = 0
    lost_segments: int = 0
    lost_joined: int = 0
    delayed_s: float = 0.0
    reverse_seen: bool = False  # packets of the receiver are in the capture
    rtt_s: float | None = None
    mss_seen: set[int] = field(default_factory=set)  # announced by the receiver of the data
    mss_own: int | None = None  # the largest that the sender announced
    df_off: int = 0
    df_on: int = 0
    at: dict[At, int] = field(default_factory=_counts)
    mails: int = 0  # sent on this path
    stray_icmp: list[IcmpError] = field(
        default_factory=list
    )  # "too big" about this path, but about no connection of it
    other_errors: list[IcmpError] = field(default_factory=list)  # unreachables of another kind
    unanswered: list[Unanswered] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Nothing but sizes was seen."""
        return not (self.views or self.stray_icmp or self.other_errors)

    def add(self, view: View) -> bool:
        """Take in one connection's sighting; keep the view (then True) only if it tells more than sizes.

        Whoever gave it lets go of its trace, when both directions are taken in."""
        s = view.sighting
        self.connections.append(view.connection)
        self.at[s.at] += 1
        for size, count in s.cut.items():
            self.cut[size] += count
        ledgers = (
            (self.delivered, s.delivered),
            (self.lost, s.lost),
            (self.delivered_df_off, s.delivered_df_off),
            (self.joined, s.joined),
        )
        for ledger, seen in ledgers:
            _add_sizes(ledger, seen)
        for size, count in s.undecided.items():
            self.undecided[size] += count
        self.sent_segments += s.sent_segments
        self.lost_segments += s.lost_segments
        self.lost_joined += s.lost_joined
        self.delayed_s = max(self.delayed_s, s.delayed_s)
        d = s.direction
        self.reverse_seen |= len(d.peer) > 0
        if len(d):
            data = d.table.payload_bytes > 0
            self.df_off += int((data & ~d.df).sum())
            self.df_on += int((data & d.df).sum())
        rtt = view.trace.rtt_s
        if rtt is not None:
            self.rtt_s = min(rtt, self.rtt_s) if self.rtt_s is not None else rtt
        if d.peer.mss:
            self.mss_seen.add(d.peer.mss)
        self.mss_own = max(self.mss_own or 0, d.mss or 0) or None
        # A sender that finds a way around a black hole needs three resends first, longer than a second: a hole that was
        # filled sooner is loss or reordering, which the counts above tell.
        hole = s.hole is not None and (s.hole.filled_ns is None or s.hole.s >= BRIEF_HOLE_S)
        if s.stuck or hole or s.icmp or s.ack_past_hole or s.sack_outside or s.cut:
            self.keep(view)
            return True
        return False

    def keep(self, view: View) -> None:
        """A connection with something to tell, of which the sizes are known already."""
        s = view.sighting
        if s.main is not None and _ends_a_mail(s.direction, s.main):
            view = view._replace(at_end_of_mail=True)
        self.views.append(view)

    def join(self, other: PathLedger) -> None:
        """Take in what another part of the captures showed of the same path (other connections)."""
        self.connections += other.connections
        self.views += other.views
        for mine, theirs in (
            (self.delivered, other.delivered),
            (self.lost, other.lost),
            (self.delivered_df_off, other.delivered_df_off),
            (self.joined, other.joined),
        ):
            _add_sizes(mine, theirs)
        for counts, more in ((self.cut, other.cut), (self.undecided, other.undecided)):
            for size, count in more.items():
                counts[size] += count
        for at, count in other.at.items():
            self.at[at] += count
        self.sent_segments += other.sent_segments
        self.lost_segments += other.lost_segments
        self.lost_joined += other.lost_joined
        self.delayed_s = max(self.delayed_s, other.delayed_s)
        self.reverse_seen |= other.reverse_seen
        if other.rtt_s is not None:
            self.rtt_s = min(other.rtt_s, self.rtt_s) if self.rtt_s is not None else other.rtt_s
        self.mss_seen |= other.mss_seen
        self.mss_own = max(self.mss_own or 0, other.mss_own or 0) or None
        self.df_off += other.df_off
        self.df_on += other.df_on
        self.mails += other.mails
        self.unanswered += other.unanswered


def _add_sizes(sizes: dict[int, list[int]], more: Mapping[int, Sequence[int]]) -> None:
    """size -> (count, first sent ns, last sent ns), added up."""
    for size, (count, first, last) in more.items():
        entry = sizes.setdefault(size, [0, first, last])
        entry[0] += count
        entry[1], entry[2] = min(entry[1], first), max(entry[2], last)


@dataclass(slots=True)
class Weighed:
    """A path's subject, and the numbers that its row in paths[] needs."""

    subject: Subject
    mtu_at_least: int | None
    mtu_below_by_loss: int | None
    icmp_mtu: int | None
    icmp_frames: tuple[Ref, ...]
    stuck_messages: tuple[int, ...]


def links_for(at_least: int | None, below: int | None) -> tuple[str, ...]:
    """Link types whose MTU lies in [at_least, below), named only when the bracket is narrow."""
    if at_least is None or below is None or below - at_least >= LINKS_BRACKET_BYTES:
        return ()
    return tuple(f"{mtu} {name}" for mtu, name in LINK_MTUS if at_least <= mtu < below)


def refs(d: Direction, rows: Iterable[int]) -> list[Ref]:
    return [(int(d.capture[r]), int(d.frame[r])) for r in rows]


def frames_filter(frames: Iterable[Ref], stream: str) -> str:
    """A Wireshark display filter for these frames (of the first capture among them), or for the connection if many."""
    frames = list(frames)
    if not frames:
        return stream
    numbers = [f for c, f in frames if c == frames[0][0]]
    if len(numbers) > 40:
        return stream
    return "frame.number in {" + ", ".join(map(str, sorted(set(numbers)))) + "}"


def size_blind_p(large: tuple[int, int], small: tuple[int, int]) -> float | None:
    """Fisher's exact test, one-sided: (lost, delivered) of large and of small packets. The probability of at least as
    many losses among the large ones if size did not matter. None without losses or without one of the classes."""
    lost, total = large[0] + small[0], sum(large) + sum(small)
    n = sum(large)
    if not lost or not n or not sum(small):
        return None
    ways = comb(total, n)
    return sum(comb(lost, k) * comb(total - lost, n - k) for k in range(large[0], min(lost, n) + 1)) / ways


def _chance(p: float) -> str:
    """A probability in words that never claim it to be zero."""
    return f"{p:.2g}" if p >= 1e-9 else "below 1e-9"


def sizes_of(p: PathLedger) -> list[tuple[int, int, int, int]]:
    """(size, delivered, lost, undecided) by size."""
    if not (p.lost or p.undecided):
        return [(size, p.delivered[size][0], 0, 0) for size in sorted(p.delivered)]
    return [
        (size, p.delivered.get(size, [0])[0], p.lost.get(size, [0])[0], p.undecided.get(size, 0))
        for size in sorted({*p.delivered, *p.lost, *p.undecided})
    ]


def weigh(p: PathLedger, messages_stuck: tuple[int, ...]) -> Weighed:
    """Facts, evidence, rivals and bracket of one path."""
    return _Weighing(p, messages_stuck).run()


class _Weighing:
    def __init__(self, ledger: PathLedger, messages_stuck: tuple[int, ...]) -> None:
        self.p = ledger
        self.stuck_messages = messages_stuck
        self.facts: dict[str, Value] = {}
        self.evidence: list[dict[str, Any]] = []
        self.against: list[str] = []
        self.rivals: list[tuple[str, str]] = []

    def run(self) -> Weighed:
        p, f = self.p, self.facts
        f |= self._ledger_facts()
        if p.is_plain:
            return self._plain()
        main_view = self._strongest()
        hole_view = self._deepest_hole()
        if main_view is not None and hole_view is not None:
            # behind the narrow link what arrives twice was needless; before it a hole is the capture's own loss
            if self._is_unresolved(main_view) or main_view.sighting.main.shrank:  # type: ignore[union-attr]
                hole_view = None
            else:
                main_view = None
        lead = main_view or hole_view or (p.views[0] if p.views else None)
        if lead:
            f["captured_at"] = lead.sighting.at
            f["sender_is"] = lead.sender_is
        f["capture_dropped"] = sum(v.sighting.ack_past_hole for v in p.views)
        f["ack_past_hole"] = False  # nothing is stuck where an ACK went past
        f["sack_outside_window"] = any(v.sighting.sack_outside for v in p.views)
        f["unreachable_seen"] = bool(p.other_errors)
        self._icmp(lead)
        route_changed_ns = None
        if main_view is not None:
            route_changed_ns = self._stuck(main_view)
        elif hole_view is not None:
            self._hole(hole_view)
        at_least, below = self._bracket(main_view, hole_view, route_changed_ns)
        self._outage(main_view)
        icmp_views = [(v, i) for v in p.views for i in v.sighting.icmp if i.suspicion is None]
        mtus = [i.error.mtu for _, i in icmp_views if i.error.mtu]
        icmp_mtu = min(mtus) if mtus else None
        # MTU 0 comes from a router older than RFC 1191: all it says is that the quoted packet was too big
        unnamed = [i.error.quoted_ip_bytes for _, i in icmp_views if i.error.mtu == 0 and i.error.quoted_ip_bytes]
        by_icmp = [icmp_mtu + 1] if icmp_mtu else unnamed[:1]
        total_below = min((x for x in (below, *by_icmp) if x is not None), default=None)
        if at_least is not None and total_below is not None and at_least >= total_below:
            at_least = self._largest_delivered(None, total_below)
        f["mtu_at_least"], f["mtu_below"] = at_least, total_below
        f["links"] = links_for(at_least, total_below) or None
        self._loss(total_below)
        kind = "stuck" if main_view else "hole" if hole_view else "sizes"
        subject = Subject(
            kind="path",
            facts={k: v for k, v in f.items() if v is not None},
            sender=p.sender,
            receiver=p.receiver,
            connections=self._affected(main_view, hole_view),
            messages=self.stuck_messages,
            evidence=self.evidence,
            against=self.against,
            rivals=self.rivals,
            key=f"{kind} {f.get('sender_is', '')}",
        )
        frames = tuple((i.error.capture, i.error.frame) for _, i in icmp_views)
        return Weighed(subject, at_least, below, icmp_mtu, frames, self.stuck_messages)

    def _ledger_facts(self) -> dict[str, Value]:
        """What the ledger tells without any view."""
        p = self.p
        version = 6 if ":" in p.sender else 4
        f: dict[str, Value] = {
            "ip_version": version,
            "sender": p.sender,
            "receiver": p.receiver,
            "captured_at": max(p.at, key=lambda at: (p.at[at], AT_RANK[at]), default="unknown"),
            "connections_total": len(p.connections),
            "mails_total": p.mails,
            "rtt_s": p.rtt_s,
            "reverse_seen": p.reverse_seen,
            "mss_own": p.mss_own,
            "df_off_packets": p.df_off,
            "df_cleared": bool(p.df_off and p.df_on),
        }
        if p.mss_seen:
            header = 60 if version == 6 else 40  # the MSS leaves out IP and TCP headers (RFC 6691)

            def full(mss: int) -> int:
                return sum(count for size, (count, *_) in p.delivered.items() if size >= mss + header)

            # a host that announces a smaller one later has learnt a path MTU meanwhile; that counts where it was used
            announced = min(p.mss_seen)
            segments = full(announced)
            if not segments and len(p.mss_seen) > 1:
                announced = max(p.mss_seen)
                segments = full(announced)
            f["mss_announced"], f["full_segments"] = announced, segments
        return f

    def _plain(self) -> Weighed:
        """The same as the whole weighing gives when there is nothing to weigh: no view, no ICMP. Most paths are so."""
        p, f = self.p, self.facts
        at_least = max(p.delivered, default=None)
        f |= {"capture_dropped": 0, "ack_past_hole": False, "sack_outside_window": False, "unreachable_seen": False}
        f |= {"icmp_count": 0, "icmp_seen": False, "icmp_valid": False, "icmp_suspicious": 0, "mtu_at_least": at_least}
        self._loss(None)
        subject = Subject("path", f, p.sender, p.receiver, tuple(p.connections), self.stuck_messages, key="sizes ")
        return Weighed(subject, at_least, None, None, (), self.stuck_messages)

    # ------------------------------------------------------------ which evidence leads

    def _strongest(self) -> View | None:
        """The view whose stuck range is unresolved, shows small packets passing, and was sent most often."""
        with_stuck = [v for v in self.p.views if v.sighting.main]

        def weight(v: View) -> tuple[bool, bool, bool, int]:
            main = v.sighting.main
            assert main is not None
            return (
                main.acked_ns is None and len(main.rows) >= 3,
                bool(v.sighting.small_passed) or main.shrank,
                main.acked_ns is None,
                len(main.rows),
            )

        return max(with_stuck, key=weight, default=None)

    def _deepest_hole(self) -> View | None:
        with_hole = [v for v in self.p.views if v.sighting.hole]
        return max(with_hole, key=lambda v: (v.sighting.hole.filled_ns is None, v.sighting.hole.s), default=None)  # type: ignore[union-attr]

    def _affected(self, main_view: View | None, hole_view: View | None) -> tuple[int, ...]:
        """Connections that share the leading view's fate."""
        if main_view is not None:
            main = main_view.sighting.main
            assert main is not None
            same = [
                v.connection
                for v in self.p.views
                if (m := v.sighting.main) is not None
                and (m.acked_ns is None) == (main.acked_ns is None)
                and m.shrank == main.shrank
            ]
            return tuple(same)
        if hole_view is not None:
            hole = hole_view.sighting.hole
            assert hole is not None
            return tuple(
                v.connection
                for v in self.p.views
                if (h := v.sighting.hole) is not None and (h.filled_ns is None) == (hole.filled_ns is None)
            )
        return tuple(v.connection for v in self.p.views) or tuple(self.p.connections)

    def _add(self, topic: str, view: View, frames: list[Ref], note: str, display: str | None = None) -> None:
        if frames:
            self.evidence.append(
                {
                    "topic": topic,
                    "connection": view.connection,
                    "frames": frames,
                    "display_filter": frames_filter(frames, display or view.display),
                    "note": note,
                }
            )

    # ------------------------------------------------------------ seen from before the narrow link

    def _stuck(self, view: View) -> int | None:
        """Facts of the leading stuck range. Returns the time of a route change, if that is what it looks like."""
        p, f, s = self.p, self.facts, view.sighting
        main, d = s.main, s.direction
        assert main is not None
        size = main.ip_bytes
        unresolved = [v for v in p.views if v.sighting.main and v.sighting.main.acked_ns is None]
        f["stuck_connections"] = len(unresolved)
        f["stuck_messages"] = len(self.stuck_messages)
        f["stuck_sends"] = len(main.rows)
        f["stuck_span_s"] = main.span_s
        f["stuck_ip_bytes"] = size
        f["stuck_df"] = bool(d.df[main.rows].all())
        # what passed in smaller packets by the sender's own finding was stuck; what an ICMP told it to cut was helped
        f["stuck_acked"] = main.acked_ns is not None and not (main.shrank and not self._told_by_icmp(view, main))
        f["stuck_at_handshake"] = view.in_tls_handshake
        f["stuck_at_bytes"] = main.seq
        f["smallest_lost_bytes"] = size
        f["reverse_seen"] = bool(len(d.peer))
        f["nothing_heard"] = not len(d.peer) and not d.based and not self._passed_meanwhile(main)
        f["headers_only"] = bool((d.table.payload_captured[main.rows] == 0).all())
        f["capture_ends_early"] = main.acked_ns is None and s.capture_end_ns < main.next_due_ns
        f["window_shut"] = s.window_shut
        f["window_scaling_broken"] = s.window_scaling_broken
        f["bad_checksums_in"] = len(s.bad_checksums)
        f["fragments_seen"] = bool((d.table.fragments > 0).any())
        f["largest_sent_bytes"] = int(d.ip_bytes[~d.offloaded].max()) if (~d.offloaded).any() else None
        f["peer_resends"] = s.peer_resends
        f["stuck_at_end_of_mail"] = view.at_end_of_mail
        big_after, big_before = self._big_delivered(main)
        # silence alone does not tell a dead path from a narrow one over which the other side has nothing to say; and a
        # capture that lost packets may have lost its words
        meanwhile = self._passed_meanwhile(main)
        f["both_directions_silent"] = (
            s.peer_silent and not s.ack_past_hole and not meanwhile and (s.peer_owes_word or big_after or big_before)
        )
        passed = [x for x in s.small_passed if x.size < size]
        failed_sizes = self._really_failed(s, passed)
        f["small_passed_after"] = bool(passed) or meanwhile if f["reverse_seen"] else None
        f["small_passed_count"] = len(passed)
        if passed or meanwhile:
            f["small_passed_how"] = passed[0].how if passed else "new-data"
        # a new connection that nobody answered while this data was stuck: its SYN is a small packet
        refused = [u for u in p.unanswered if u.last_ns > main.first_ns and u.first_ns < (main.acked_ns or u.last_ns)]
        syn_sizes = [] if passed or meanwhile else [u.ip_bytes for u in refused]
        f["unanswered_connections"] = len(refused)
        f["small_failed_after"] = bool(failed_sizes or syn_sizes)
        if failed_sizes or syn_sizes:
            f["smallest_failed_bytes"] = min(failed_sizes + syn_sizes)
        f["losses_of_size"] = sum(n for z, (n, *_) in p.lost.items() if z >= size - SAME_SIZE_BYTES)
        changed = big_before and not big_after and self._route_changed(main, passed)
        f["delivered_at_or_above_stuck"] = big_after or (big_before and not changed)
        places = [v.sighting.main.seq for v in unresolved if v.sighting.main and not v.sighting.small_passed]
        if len(places) >= 2 and not passed and big_before and max(places) - min(places) < size:
            f["filter_after_bytes"] = min(places)  # every connection dies at the same place of its stream
        fresh = main.first_ns if changed else None
        proven = f["largest_delivered_bytes"] = self._largest_delivered(fresh, None)
        f["queue_lets_large_pass"] = big_after
        # a last piece may be too large as well: what is lost above all that passed is large
        above = [z for z in p.lost if (proven or 0) + SAME_SIZE_BYTES < z < size]
        f["loss_size_blind_p"] = self._blind_p(min(above, default=size), len(passed))
        if main.shrank:
            f["recovered"] = not self._told_by_icmp(view, main)
            first_small = next(
                r
                for r, z in zip(main.rows, main.sizes, strict=True)
                if z == main.passed_size and d.df[r] == d.df[main.rows[-1]]
            )
            f["recovered_after_s"] = (int(d.time_ns[first_small]) - main.first_ns) / 1e9
            f["recovered_payload_bytes"] = int(d.payload_bytes[first_small])
            f["recovered_df_cleared"] = bool(d.df[main.rows[0]] and not d.df[first_small])
            self._add(
                "recovery", view, refs(d, [first_small]), f"sent again in a smaller packet of {main.passed_size} bytes"
            )
        sends = refs(d, main.rows)
        self._add(
            "stuck",
            view,
            sends,
            f"the same bytes sent {len(main.rows)} times in {main.span_s:.1f} s, {size} bytes"
            f"{', DF set' if f['stuck_df'] else ''}, "
            + ("never acknowledged" if main.acked_ns is None else "acknowledged in the end"),
        )
        for x in passed[:3]:
            self._add("small", view, self._passed_refs(d, x), self._passed_words(x))
        if failed_sizes:
            rows = next(r for z, r in s.small_failed if z == min(failed_sizes))
            self._add(
                "small", view, refs(d, rows[:20]), f"packets of only {min(failed_sizes)} bytes got no answer either"
            )
        for u in refused[:3]:
            self._add("small", view, list(u.frames[:20]), "a new connection that was not answered", u.display)
        self._rivals(view, main, passed, changed)
        return main.first_ns if changed else None

    def _passed_meanwhile(self, main: Stuck) -> bool:
        """While the large ones were sent in vain, smaller ones of another connection of the same hosts got through."""
        return main.acked_ns is None and any(
            size < main.ip_bytes - SAME_SIZE_BYTES
            and any(main.first_ns + ICMP_GRACE_NS < at < main.last_ns for at in (first, last))
            for size, (_, first, last) in self.p.delivered.items()
        )

    @staticmethod
    def _is_unresolved(v: View) -> bool:
        main = v.sighting.main
        return main is not None and main.acked_ns is None and len(main.rows) >= 3

    @staticmethod
    def _passed_refs(d: Direction, x: Passed) -> list[Ref]:
        return refs(d.peer if x.of_peer else d, x.rows)

    @staticmethod
    def _passed_words(x: Passed) -> str:
        return {
            "sack": f"a smaller packet of {x.size} bytes, sent after the first loss, was selectively acknowledged",
            "peer-resend-stopped": f"the other side sent this again, got a small packet ({x.size} bytes) in answer, and stopped",
            "ack": f"duplicate ACKs answer smaller packets ({x.size} bytes) sent after the first loss",
            "new-data": f"a smaller packet of {x.size} bytes was answered after the first loss",
        }[x.how]

    def _really_failed(self, s: Sighting, passed: list[Passed]) -> list[int]:
        """Smaller sizes that failed and speak against a narrow path: not above every size that passed."""
        best = max((x.size for x in passed), default=0)
        floor = 1280 if self.facts.get("ip_version") == 6 else 576
        return [size for size, _ in s.small_failed if size <= max(best, floor)]

    def _passed_somehow(self) -> list[tuple[int, list[int]]]:
        """(size, [count, first, last]) of what was delivered; where "don't fragment" is off on what hangs, also of what
        routers may have cut: had they, the hanging ones would have passed as well."""
        loose = {} if self.facts.get("stuck_df", False) else self.p.delivered_df_off
        return [*self.p.delivered.items(), *loose.items(), *self.p.joined.items()]

    def _big_delivered(self, main: Stuck) -> tuple[bool, bool]:
        """Were packets of the stuck size or more delivered (after the first loss, before it)?"""
        after = before = False
        for size, (_, first, last) in self._passed_somehow():
            if size >= main.ip_bytes:
                after |= last >= main.first_ns
                before |= first < main.first_ns
        if main.acked_ns is not None and not main.shrank:
            after = True  # it got through itself, at its own size
        return after, before

    def _route_changed(self, main: Stuck, passed: list[Passed]) -> bool:
        """Large packets passed, then none did any more while small ones still do: more than plain loss explains."""
        p = self.p
        losses = max(
            len(main.lost_sizes),
            sum(n for z, (n, _, last) in p.lost.items() if z >= main.ip_bytes and last >= main.first_ns),
        )
        if not passed or losses < ROUTE_CHANGE_LOSSES or main.acked_ns is not None:
            return False
        if main.last_ns <= passed[0].time_ns:
            return False
        before_sent = sum(n for _, (n, first, _) in self._passed_somehow() if first < main.first_ns)
        before_lost = sum(n for n, first, _ in p.lost.values() if first < main.first_ns)
        rate = (before_lost + 1) / (before_sent + before_lost + 2)
        return bool(rate**losses <= ROUTE_CHANGE_P)

    def _largest_delivered(self, since_ns: int | None, below: int | None) -> int | None:
        sizes = [
            size
            for size, (_, _, last) in self.p.delivered.items()
            if (since_ns is None or last >= since_ns) and (below is None or size < below)
        ]
        for v in self.p.views:
            df = v.sighting.direction.df
            sizes += [
                x.size
                for x in v.sighting.small_passed
                if (x.of_peer or bool(df[x.rows].all()))
                and (since_ns is None or x.time_ns >= since_ns)
                and (below is None or x.size < below)
            ]
        return max(sizes, default=None)

    def _blind_p(self, size: int, small_passed: int) -> float | None:
        p = self.p

        def count(ledger: Iterable[tuple[int, list[int]]], large: bool) -> int:
            return sum(n for z, (n, *_) in ledger if (z >= size - SAME_SIZE_BYTES) == large)

        lost, passed = p.lost.items(), self._passed_somehow()
        return size_blind_p(
            (count(lost, True), count(passed, True)), (count(lost, False), count(passed, False) + small_passed)
        )

    def _told_by_icmp(self, view: View, main: Stuck) -> bool:
        """A believable ICMP came before the sender went smaller."""
        when = main.acked_ns or main.last_ns
        return any(i.suspicion is None and i.error.time_ns <= when for i in view.sighting.icmp)

    def _rivals(self, view: View, main: Stuck, passed: list[Passed], changed: bool) -> None:
        _p, f, s = self.p, self.facts, view.sighting
        size = main.ip_bytes
        if passed:
            self.rivals.append(
                ("dead path", self._passed_words(passed[0]) + f" (frame {self._frame(view, passed[0])})")
            )
        elif f.get("small_passed_after"):
            self.rivals.append(("dead path", "smaller packets of another connection got through meanwhile"))
        elif s.peer_silent or not len(s.direction.peer):
            self.against.append(
                "after the first loss nothing at all came from the other side: the path may be dead, not narrow"
            )
        if f["small_failed_after"]:
            self.against.append(f"packets of only {f['smallest_failed_bytes']} bytes got no answer either")
        blind = f.get("loss_size_blind_p")
        if isinstance(blind, float):
            if blind < 0.01:
                self.rivals.append(
                    (
                        "random loss",
                        f"losses this uneven over sizes have probability {_chance(blind)} if size did not matter",
                    )
                )
            elif not passed:
                self.against.append(
                    f"losses as uneven as these have probability {_chance(blind)} even if size does not matter"
                )
        if f["delivered_at_or_above_stuck"]:
            self.against.append(f"packets of {size} bytes or more were delivered on this path in the same capture")
        else:
            largest = f.get("largest_delivered_bytes")
            self.rivals.append(
                (
                    "congested queue",
                    f"no packet of {size} bytes or more ever passed"
                    + (f"; the largest that did has {largest} bytes" if largest else ""),
                )
            )
        if changed:
            self.against.append(f"packets of {size} bytes passed earlier in this capture: the route must have changed")
        self.rivals.append(
            (
                "receiver's window shut",
                "the window was shut" if s.window_shut else "the announced window had room for the data",
            )
        )
        if s.window_shut:
            self.against.append("the receiver's window was shut when the data stopped")
        if s.bad_checksums:
            self.against.append("the large packets carry wrong TCP checksums here: something on the way damages them")
        if s.sack_outside:
            self.against.append(
                "SACK blocks lie outside the window: a middlebox rewrites sequence numbers but not SACK"
            )
        if s.ack_past_hole:
            self.against.append(
                f"{s.ack_past_hole} bytes were acknowledged that this capture never saw: the capture itself lost packets"
            )
        if view.sighting.at == "at_receiver":
            self.against.append("the packets are seen here, at the receiver: the path delivered them")

    @staticmethod
    def _frame(view: View, x: Passed) -> int:
        d = view.sighting.direction
        return int((d.peer if x.of_peer else d).frame[x.rows[0]])

    # ------------------------------------------------------------ seen from behind the narrow link

    def _hole(self, view: View) -> None:
        p, f, s = self.p, self.facts, view.sighting
        hole, d = s.hole, s.direction
        assert hole is not None
        f["hole_s"] = hole.s
        f["hole_bytes"] = hole.bytes
        f["hole_connections"] = sum(1 for v in p.views if v.sighting.hole and v.sighting.hole.filled_ns is None)
        f["later_bytes_or_jumped_ack"] = True
        f["hole_filled"] = hole.filled_ns is not None
        f["hole_fits_segments"] = hole.fits_segments
        f["hole_segments"] = hole.segments
        f["stuck_connections"] = f["hole_connections"]
        f["stuck_messages"] = len(self.stuck_messages)
        if hole.peer_resend_answered is not None:
            f["peer_resend_answered"] = hole.peer_resend_answered
        f["reverse_seen"] = bool(len(d.peer))
        whole = d.data & ~d.offloaded
        largest = int(d.ip_bytes[whole].max()) if whole.any() else 0
        biggest = max([largest, *self.p.delivered], default=0)
        f["largest_seen_bytes"] = biggest
        f["smallest_lost_bytes"] = hole.lost_ip_bytes
        f["full_segments"] = int((d.ip_bytes[whole] >= hole.lost_ip_bytes).sum())
        f["delivered_at_or_above_stuck"] = biggest >= hole.lost_ip_bytes
        f["capture_ends_early"] = hole.filled_ns is None and hole.s < 3
        f["stuck_at_handshake"] = view.in_tls_handshake
        f["hole_after_go_ahead"] = view.after_go_ahead
        if hole.filled_ns is not None and hole.fill_sizes:
            f["recovered"] = max(hole.fill_sizes) < hole.lost_ip_bytes - SAME_SIZE_BYTES
            f["recovered_after_s"] = hole.s
            f["reordered"] = hole.s < 0.1
        beyond = refs(d, hole.later_rows[:20])
        self._add(
            "hole",
            view,
            beyond,
            (
                f"bytes beyond a hole of {hole.bytes} bytes"
                if hole.later == "bytes"
                else f"a pure ACK whose sequence number has jumped by {hole.bytes} bytes"
            )
            + f"; the receiver's ACK stayed before the hole for {hole.s:.1f} s",
        )
        acks = np.flatnonzero((d.peer.ack == hole.seq) & (d.peer.time_ns >= hole.since_ns))[:20]
        self._add("hole", view, refs(d.peer, acks.tolist()), "the receiver still asks for the first missing byte")
        if biggest >= hole.lost_ip_bytes:
            self.against.append(f"a packet of {biggest} bytes did arrive: size alone does not decide")
        else:
            self.rivals.append(
                (
                    "random loss",
                    f"no packet above {biggest} bytes arrived, and the missing bytes never came in smaller ones",
                )
            )
        if hole.peer_resend_answered:
            self.rivals.append(("dead path", "small packets pass both ways: what the receiver sent again was answered"))
        elif hole.later == "bytes":
            self.rivals.append(("dead path", "later, smaller packets arrived"))
        if s.ack_past_hole:
            self.against.append("bytes were acknowledged that this capture never saw: the capture itself lost packets")
        else:
            self.rivals.append(
                (
                    "packets missing from the capture",
                    "the receiver's own ACK stays at the hole: it did not get them either",
                )
            )
        self.against.append("the sender's resends cannot be seen from here: a capture at the sender would prove it")

    # ------------------------------------------------------------ ICMP

    def _icmp(self, lead: View | None) -> None:
        p, f = self.p, self.facts
        judged = [(v, i) for v in p.views for i in v.sighting.icmp]
        valid = [(v, i) for v, i in judged if i.suspicion is None]
        suspicious = [(v, i) for v, i in judged if i.suspicion is not None]
        count = len(judged) + len(p.stray_icmp)
        f["icmp_count"], f["icmp_seen"] = count, count > 0
        f["icmp_valid"] = bool(valid)
        f["icmp_suspicious"] = len(suspicious) + len(p.stray_icmp)
        if suspicious or p.stray_icmp:
            kinds = Counter([i.suspicion for _, i in suspicious] + ["foreign-flow"] * len(p.stray_icmp))
            f["icmp_suspicion"] = kinds.most_common(1)[0][0]
            mtus = [i.error.mtu for _, i in suspicious if i.error.mtu is not None]
            mtus += [e.mtu for e in p.stray_icmp if e.mtu is not None]
            if mtus:
                f["icmp_suspicious_mtu"] = min(mtus)
            for v, i in suspicious[:3]:
                self._add(
                    "suspicious-icmp",
                    v,
                    [(i.error.capture, i.error.frame)],
                    f"frag-needed, MTU {i.error.mtu}: {i.suspicion}",
                )
            if p.stray_icmp and (lead or p.views):
                v = lead or p.views[0]
                self._add(
                    "suspicious-icmp",
                    v,
                    [(e.capture, e.frame) for e in p.stray_icmp[:5]],
                    "frag-needed that quotes a flow that does not exist here",
                )
        if not valid:
            return
        mtus = [i.error.mtu for _, i in valid if i.error.mtu]
        f["icmp_mtu"] = min(mtus) if mtus else None
        f["icmp_from"] = icmp_source(valid[0][1].error)
        f["icmp_mtu_zero"] = any(i.error.mtu == 0 for _, i in valid)
        worst = max(valid, key=lambda x: len(x[1].resends_above))
        f["resends_above_icmp_mtu"] = len(worst[1].resends_above)
        f["shrank_after_icmp"] = all(i.shrank for _, i in valid)
        f["went_on_after_icmp"] = any(i.went_on for _, i in valid)
        v, i = worst
        self._add(
            "icmp", v, [(x.error.capture, x.error.frame) for y, x in valid if y is v][:20],
            f"ICMP \"{'packet too big' if i.error.ip_version == 6 else 'fragmentation needed'}\" from {f['icmp_from']}, next-hop MTU {i.error.mtu}",
        )  # fmt: skip
        if i.resends_above:
            self._add(
                "icmp",
                v,
                refs(v.sighting.direction, i.resends_above[:20]),
                "the same bytes leave again above that MTU, later than one RTT and 200 ms after it",
            )
            if v.sighting.at == "middle":
                f["icmp_lost_between"] = f"between this point of capture and {p.sender} (or on {p.sender} itself)"
        elif not i.shrank and v.sighting.at == "middle":
            f["icmp_lost_between"] = f"between this point of capture and {p.sender} (or on {p.sender} itself)"

    # ------------------------------------------------------------ bracket, outage, loss

    def _bracket(
        self, main_view: View | None, hole_view: View | None, changed_ns: int | None
    ) -> tuple[int | None, int | None]:
        """[mtu_at_least, mtu_below) from sizes delivered and sizes lost for their size (ICMP left out)."""
        p, f = self.p, self.facts
        below: int | None = None
        if main_view is not None:
            for v in p.views:
                m = v.sighting.main
                if m is None or (m.acked_ns is not None and not m.shrank) or len(m.rows) < 3:
                    continue
                if not self._passed_at(m.ip_bytes, changed_ns):
                    below = min(below, m.ip_bytes) if below is not None else m.ip_bytes
        elif hole_view is not None:
            for v in p.views:
                h = v.sighting.hole
                if h is None or (h.filled_ns is not None and not f.get("recovered")):
                    continue
                # without the handshake nobody knows how large the missing packets were
                if not f["delivered_at_or_above_stuck"] and h.size_known:
                    below = min(below, h.lost_ip_bytes) if below is not None else h.lost_ip_bytes
        at_least = self._largest_delivered(changed_ns, below)
        # what passed once, was lost later and came again in smaller packets only: the route is narrower by now
        for v in p.views:
            for size, sent_ns in v.sighting.cut_ns.items():
                if at_least is not None and at_least >= size and not self._passed_at(size, sent_ns):
                    at_least = self._largest_delivered(sent_ns, size)
        return at_least, below

    def _passed_at(self, size: int, since_ns: int | None) -> bool:
        """A packet of that size or more was delivered (since then)."""
        return any(z >= size and (since_ns is None or last >= since_ns) for z, (_, _, last) in self._passed_somehow())

    def _outage(self, main_view: View | None) -> None:
        f = self.facts
        if main_view is None:
            return
        s = main_view.sighting
        main = s.main
        assert main is not None
        f["stalled_s"] = (main.acked_ns or max(main.last_ns, main.first_ns)) / 1e9 - main.first_ns / 1e9
        dead = f.get("both_directions_silent") or (f.get("small_failed_after") and not f.get("small_passed_after"))
        if dead and self._more_than_loss(main):
            f["outage_s"] = f["stalled_s"]
            f["outage_ended"] = main.acked_ns is not None
            self._add(
                "outage",
                main_view,
                refs(s.direction, main.rows),
                f"sent {len(main.rows)} times; nothing of any size got through",
            )

    def _more_than_loss(self, main: Stuck) -> bool:
        """Losing all these sends at the loss rate of the rest of the path would be too improbable."""
        n = len(main.lost_sizes)
        rest_lost = max(self.p.lost_segments - n, 0)
        rest_sent = max(self.p.sent_segments - n, rest_lost)
        return bool(((rest_lost + 1) / (rest_sent + 2)) ** n <= ROUTE_CHANGE_P)

    def _loss(self, below: int | None) -> None:
        """Losses that have nothing to do with size: those of packets above the path MTU are left out."""
        p, f = self.p, self.facts
        if not (p.lost_segments or p.lost):
            f["sent_segments"], f["lost_segments"], f["loss_ratio"], f["delayed_mail_s"] = p.sent_segments, 0, 0.0, 0.0
            return
        # a packet that a router called too big (believable or not) was not lost by accident
        told = [i.error.quoted_ip_bytes for v in p.views for i in v.sighting.icmp if i.error.quoted_ip_bytes]
        edge = min((x for x in (below, *told[:1]) if x is not None), default=None)
        for_size = sum(n for z, (n, *_) in p.lost.items() if edge is not None and z >= edge)
        # nor were those lost by accident that the sender sent again in smaller packets, and only so
        for_size += sum(n for z, n in p.cut.items() if edge is None or z < edge)
        if edge is not None:
            for_size += p.lost_joined
        # nor is a swallowed end of mail an accident of the line, a dead path, or a damaged packet
        other = sum(
            len(v.sighting.main.rows)
            for v in p.views
            if v.sighting.main
            and (
                v.at_end_of_mail
                or v.sighting.bad_checksums
                or "outage_s" in f
                or self._is_unresolved(v)  # what never gets through is no loss now and then
            )
        )
        lost = max(p.lost_segments - for_size - other, 0)
        if f.get("recovered"):
            lost = 0
        f["sent_segments"], f["lost_segments"] = p.sent_segments, lost
        f["loss_ratio"] = lost / p.sent_segments if p.sent_segments else 0.0
        f["delayed_mail_s"] = p.delayed_s if lost else 0.0
        if f.get("loss_size_blind_p") is None and p.lost:
            sizes = sorted({*p.delivered, *p.lost})
            # large and small: above and below the middle of the sizes that occur, at least the 576 that all links carry
            f["loss_size_blind_p"] = self._blind_p(max(sizes[len(sizes) // 2], 576), 0)
