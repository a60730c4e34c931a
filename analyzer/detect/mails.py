"""Dialogue joined with packets: what became of each mail, and the facts of connections, mails and servers.

`smtp` knows lines and offsets, `tcp` knows packets and times. Here the two meet: `read_talk` turns one connection into a
`Talk`, a small record that keeps no packet; the functions below it compare talks with each other and make Subjects.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..capture.packets import FIN, RST, SYN
from ..smtp import banner, mtalog
from ..smtp.dialogue import Dialogue, Mail, read_dialogue
from ..smtp.terminator import LENGTH, Cuts, cuts, wire_boundaries
from ..tcp.delivery import NOT_ACK, Direction, Trace
from ..tcp.path_mtu import capture_point
from ..tcp.streams import Stream
from .facts import Subject, Value
from .inside import PRINT_BYTES, Chunk, Print, read_inside

Ref = tuple[int, int]

# A client that waits this long for the reply to its final dot will not get one: the shortest time-out of the MTAs in use
# is 300 s (Exim, Exchange: 5 min; RFC 5321 4.5.3.2.6 wants 10 min).
NO_REPLY_S = 300.0
# A client that closes sooner behind the end of a mail has not given up: it had nothing more to say (QUIT and FIN in one go).
IMPATIENT_S = 2.0
# An ACK that comes back at once is not waited for; Nagle and delayed ACKs explain up to 0.5 s, Postfix's delay is 10 s.
HOLD_BACK_S = 2.0


@dataclass(slots=True)
class MailRecord:
    """One mail, joined with its packets. Times in ns, offsets in the client's stream."""

    key: int
    talk: int
    index: int
    mail_from: str | None
    recipients: tuple[str, ...]
    size: int | None
    size_estimated: bool
    via: str
    cuts: Cuts | None
    end_frames: tuple[Ref, ...]
    reply_code: int | None
    reply_frames: tuple[Ref, ...]
    outcome: str
    start_ns: int | None
    end_ns: int | None
    end_sent_ns: int | None
    reply_delay_s: float | None
    waited_s: float | None
    gave_up_by: str
    end_sent: bool
    end_acked: bool | None
    end_sends: int
    body_acked: bool | None
    answered: bool | None
    accepted_late: bool  # the server took it after the client had gone
    in_data: bool  # the content had begun (DATA accepted, BDAT)
    closed_in_data: bool
    data_bytes_sent: int
    largest_packet_bytes: int | None
    hold_back_s: float | None
    end_alone: bool
    body_print: tuple[int, int] | None  # (size, checksum of both ends of the body); in memory only
    stuck: bool = False  # its bytes are those that a path lost


@dataclass(slots=True)
class Talk:
    """One SMTP connection without its packets."""

    key: int
    client: tuple[str, int]
    server: tuple[str, int]
    start_ns: int
    end_ns: int
    first_frame: Ref
    frame_count: int
    handshake_seen: bool
    closed_by: str
    client_gone_ns: int | None  # the client's first FIN or RST
    at: str  # of the client's data: at_sender, middle, at_receiver, unknown
    rtt_s: float | None
    client_mss: int | None
    server_mss: int | None
    client_bytes: int
    server_bytes: int
    dialogue: Dialogue
    mails: list[MailRecord]
    greeting_frames: tuple[Ref, ...]
    ehlo_frames: tuple[Ref, ...]
    greeting_delay_s: float | None
    zero_window_s: float
    zero_window_by: str | None
    zero_window_probes: int
    zero_window_ended: bool
    zero_window_frames: tuple[Ref, ...]
    longest_reply_delay_s: float | None
    gap_bytes: int
    expected_log: dict[str, str] = field(default_factory=dict)  # side -> what its MTA will have logged (predicted)

    @property
    def stream(self) -> str:
        """Display filter of the connection."""
        return display_filter(self.client, self.server)

    @property
    def banner_text(self) -> str | None:
        g = self.dialogue.greeting
        return g.text if g else None

    @property
    def masked(self) -> bool:
        g = self.dialogue.greeting
        return g is not None and g.code == 220 and _is_masked(g.lines)


@lru_cache(maxsize=4096)
def _is_masked(lines: tuple[str, ...]) -> bool:
    return banner.is_masked(lines)


# Whether any rule can fire on a subject, asked with a few of its facts (engine.screen).
MayFire = Callable[[Mapping[str, Value]], bool]
MESSAGE_SCREEN = (
    *("end_acked", "answered", "gave_up_by", "closed_in_data", "hold_back_s", "end_alone"),
    *("helo_for_mask", "cut_at_3_or_4", "copies"),
)
CONNECTION_SCREEN = ("zero_window_s",)
SERVER_SCREEN = (
    *("banner_lines", "banner_masked_lines", "banner_masked", "ehlo_masked_keywords", "masked_commands"),
    *("ehlo_refused", "starttls_missing", "starttls_offered_elsewhere", "starttls_differs"),
)


def _always(_: Mapping[str, Value]) -> bool:
    return True


def display_filter(client: tuple[str, int], server: tuple[str, int]) -> str:
    """The connection as a Wireshark display filter."""
    family = "ipv6" if ":" in client[0] else "ip"
    return f"{family}.addr == {client[0]} && {family}.addr == {server[0]} && tcp.port == {client[1]} && tcp.port == {server[1]}"


def read_talk(key: int, trace: Trace, next_mail: int, said_in_tls: Sequence[Chunk] = ()) -> Talk:
    """Everything that one connection's dialogue says, joined with its packets. Mails get keys from `next_mail` on."""
    c2s, s2c = trace.c2s, trace.s2c
    client, server = Stream(c2s), Stream(s2c)
    dialogue = read_dialogue(client, server, from_start=trace.handshake_seen)
    prints = read_inside(dialogue, trace, client, server, said_in_tls) if said_in_tls else None
    for who, stream in (("client", client), ("server", server)):
        if stream.conflicting_bytes:
            dialogue.passed_over.append(f"the {who} sent bytes again with other content; what came first was read")
    zero = _zero_window(trace)
    at = capture_point(trace)[0]
    talk = Talk(
        key=key,
        client=(trace.client.ip, trace.client.port),
        server=(trace.server.ip, trace.server.port),
        start_ns=trace.start_ns,
        end_ns=trace.end_ns,
        first_frame=_first_frame(trace),
        frame_count=len(trace),
        handshake_seen=trace.handshake_seen,
        closed_by=trace.closed_by,
        client_gone_ns=_gone_ns(trace.c2s),
        at=at,
        rtt_s=trace.rtt_s,
        client_mss=c2s.mss,
        server_mss=s2c.mss,
        client_bytes=sum(s.end - s.start for s in client.segments),
        server_bytes=sum(s.end - s.start for s in server.segments),
        dialogue=dialogue,
        mails=[],
        greeting_frames=_frames(server, dialogue.greeting.start, dialogue.greeting.end) if dialogue.greeting else (),
        ehlo_frames=_ehlo_frames(dialogue, server),
        greeting_delay_s=_greeting_delay(trace, dialogue, server),
        zero_window_s=zero.seconds,
        zero_window_by=zero.by,
        zero_window_probes=zero.probes,
        zero_window_ended=zero.ended,
        zero_window_frames=zero.frames,
        longest_reply_delay_s=_longest_reply_delay(dialogue, client, server),
        gap_bytes=_gap_bytes(client) + _gap_bytes(server),
    )
    talk.expected_log = _expected_log(trace, dialogue)
    for i, mail in enumerate(dialogue.mails):
        body_print = _print(mail, client) if prints is None else prints[i]
        talk.mails.append(_join_mail(next_mail + i, talk, i + 1, mail, trace, client, server, body_print))
    return talk


def _expected_log(trace: Trace, dialogue: Dialogue) -> dict[str, str]:
    """The log lines of the two MTAs, as `smtp.mtalog` predicts them from how the connection ended."""
    ends = [int(d.time_ns[r]) for d in trace.directions for r in np.flatnonzero(d.flags & (FIN | RST))[:1]]
    fresh = [int(d.time_ns[d.data & ~d.resend].max()) for d in trace.directions if (d.data & ~d.resend).any()]
    silence = (min(ends) - max((t for t in fresh if t <= min(ends)), default=min(ends))) / 1e9 if ends else None
    ending = mtalog.Ending(
        closed_by=trace.closed_by,
        silence_s=silence,
        received_bytes=trace.c2s.acked,
        client=f"{trace.client.ip}[{trace.client.ip}]",
        server=f"{trace.server.ip}[{trace.server.ip}]",
    )
    return dict(mtalog.predict(dialogue, ending).items())


def _gone_ns(d: Direction) -> int | None:
    rows = np.flatnonzero(d.flags & (FIN | RST))
    return int(d.time_ns[rows[0]]) if len(rows) else None


def _first_frame(trace: Trace) -> Ref:
    return min(
        ((int(d.time_ns[0]), int(d.capture[0]), int(d.frame[0])) for d in trace.directions if len(d)), default=(0, 0, 0)
    )[1:]


def _frames(stream: Stream, start: int, end: int) -> tuple[Ref, ...]:
    d = stream.direction
    return tuple((int(d.capture[r]), int(d.frame[r])) for r in dict.fromkeys(stream.rows(start, end)))


def _ehlo_frames(dialogue: Dialogue, server: Stream) -> tuple[Ref, ...]:
    for command in dialogue.commands:
        if command.verb in ("EHLO", "HELO", "LHLO") and command.reply:
            return _frames(server, command.reply.start, command.reply.end)
    return ()


def _greeting_delay(trace: Trace, dialogue: Dialogue, server: Stream) -> float | None:
    times = trace.handshake_times_ns
    if dialogue.greeting is None or times is None:
        return None
    at = server.time_at(dialogue.greeting.start)
    return (at - times[2]) / 1e9 if at is not None else None


def _longest_reply_delay(dialogue: Dialogue, client: Stream, server: Stream) -> float | None:
    delays = []
    for command in dialogue.commands:
        if command.reply is not None:
            asked, told = client.time_at(command.end - 1), server.time_at(command.reply.start)
            if asked is not None and told is not None:
                delays.append((told - asked) / 1e9)
    return max(delays, default=None)


def _gap_bytes(stream: Stream) -> int:
    gap, at = 0, stream.start
    for s in stream.segments:
        gap += max(s.start - at, 0)
        at = max(at, s.start + len(s.data))
    return gap + max(stream.end - at, 0)


class _Zero(NamedTuple):
    seconds: float = 0.0
    by: str | None = None
    probes: int = 0
    ended: bool = False
    frames: tuple[Ref, ...] = ()


def _zero_window(trace: Trace) -> _Zero:
    """The longest time that one side's receive window stayed at 0 (RFC 9293 3.8.6.1)."""
    best = _Zero()
    for d, who in ((trace.c2s, "client"), (trace.s2c, "server")):
        shut = (d.table.window == 0) & ((d.flags & (SYN | RST)) == 0)
        if not shut.any():
            continue
        rows = np.flatnonzero(((d.flags & (SYN | RST)) == 0) & (d.ack != NOT_ACK))
        begin: int | None = None
        for r in rows.tolist():
            if shut[r] and begin is None:
                begin = r
            elif not shut[r] and begin is not None:
                best = _longer(best, d, who, begin, int(d.time_ns[r]), True)
                begin = None
        if begin is not None:
            # it stays shut as long as somebody still probes it
            until = max(int(d.time_ns[-1]), int(d.peer.time_ns[-1]) if len(d.peer) else 0)
            best = _longer(best, d, who, begin, until, False)
    return best


def _longer(best: _Zero, d: Direction, who: str, begin: int, until: int, ended: bool) -> _Zero:
    seconds = (until - int(d.time_ns[begin])) / 1e9
    if seconds <= best.seconds:
        return best
    shut = np.flatnonzero((d.table.window == 0) & (d.time_ns >= d.time_ns[begin]) & (d.time_ns <= until))
    frames = tuple((int(d.capture[r]), int(d.frame[r])) for r in shut[:20].tolist())
    return _Zero(seconds, who, max(len(shut) - 1, 0), ended, frames)


# ---------------------------------------------------------------- one mail


def _join_mail(
    key: int,
    talk: Talk,
    index: int,
    mail: Mail,
    trace: Trace,
    client: Stream,
    server: Stream,
    body_print: Print | None,
) -> MailRecord:
    d = trace.c2s
    acked = d.acked
    end = mail.terminator_end if mail.terminator_end is not None else (mail.body_end if mail.complete else None)
    # a go-ahead whose body never came by here counts: that is the receiver's view of a black hole
    begun = mail.body_start is not None or mail.via == "bdat" or _go_ahead(mail)
    end_sent_ns = client.time_at(end - 1) if end is not None else None
    end_acked = (acked is not None and acked >= end) if end is not None and len(trace.s2c) else None
    final = mail.replies[-1] if mail.replies and mail.complete else None
    reply = mail.reply
    reply_ns = server.time_at(reply.start) if reply else None
    found = _end_cuts(mail, client, d)
    body_acked = (
        (acked is not None and mail.body_end is not None and acked >= mail.body_end) if len(trace.s2c) else None
    )
    last = trace.end_ns
    gone = talk.client_gone_ns
    in_time = reply_ns is not None and (gone is None or reply_ns <= gone)
    if reply_ns is not None and not in_time and gone is not None:
        last = gone
    waited = (last - end_sent_ns) / 1e9 if end_sent_ns is not None and not in_time else None
    gave_up = _gave_up_by(trace, end_sent_ns)
    closed = talk.closed_by != "open"
    sent_acked = acked is not None and acked >= d.sent
    # the client had gone when the reply came: it believes that the mail failed, and will send it again
    too_late = not in_time and reply_ns is not None and waited is not None and waited >= IMPATIENT_S
    # or it had gone before this end came by here (a resend, by then), and refuses the reply
    resets = np.flatnonzero(d.flags & RST)
    if reply_ns is not None and gone is not None and end_sent_ns is not None and gone < end_sent_ns and len(resets):
        too_late |= int(d.time_ns[resets[-1]]) > reply_ns
    answered = False if too_late and mail.outcome == "delivered" else _answered(mail, talk, trace)
    if answered is False and not too_late and _reply_missed(end, client, server):
        answered = None
    outcome = _outcome(mail, talk, end, end_acked, waited, begun, gave_up, sent_acked, too_late)
    if answered is None and outcome == "end-of-data-timeout":
        outcome = "unknown"
    hold, alone = _held_back(mail, client, d)
    start_ns = client.time_at(mail.start)
    return MailRecord(
        key=key,
        talk=talk.key,
        index=index,
        mail_from=mail.mail_from,
        recipients=mail.recipients + mail.refused_recipients,
        size=mail.size,
        size_estimated=mail.size_estimated,
        via=mail.via,
        cuts=found,
        end_frames=_frames(client, mail.body_end, mail.terminator_end)
        if mail.body_end is not None and mail.terminator_end is not None
        else (),
        reply_code=reply.code if reply else None,
        reply_frames=_frames(server, reply.start, reply.end) if reply else (),
        outcome=outcome,
        start_ns=start_ns,
        end_ns=reply_ns if reply_ns is not None else end_sent_ns,
        end_sent_ns=end_sent_ns,
        reply_delay_s=(reply_ns - end_sent_ns) / 1e9
        if final and reply_ns is not None and end_sent_ns is not None
        else None,
        waited_s=waited,
        gave_up_by=gave_up,
        end_sent=end is not None,
        end_acked=end_acked,
        end_sends=_sends(d, end - 1) if end is not None else 0,
        body_acked=body_acked,
        answered=answered,
        accepted_late=too_late and mail.outcome == "delivered",
        in_data=begun,
        closed_in_data=begun and reply is None and closed,
        data_bytes_sent=mail.seen_bytes,
        largest_packet_bytes=_largest_packet(mail, client, d),
        hold_back_s=hold,
        end_alone=alone,
        body_print=body_print,
    )


def _go_ahead(mail: Mail) -> bool:
    return mail.data is not None and mail.data.reply is not None and mail.data.reply.code == 354


def _answered(mail: Mail, talk: Talk, trace: Trace) -> bool | None:
    """A final reply came; None when the capture cannot tell: no packets from the server, or the capture ends first."""
    if mail.replies:
        return True
    if mail.via == "tls":
        return mail.answered_in_tls
    if not len(trace.s2c) or (talk.gap_bytes and mail.body_start is None):
        return None
    return False


def _reply_missed(end: int | None, client: Stream, server: Stream) -> bool:
    """Behind the end of the mail the client acknowledged bytes of the server that the capture does not hold."""
    acked = server.direction.acked
    at = client.peer_at(end - 1) if end is not None else None
    if at is None or acked is None:
        return False
    for s in server.segments:
        if s.start > at:
            break
        at = max(at, s.end)
    return min(acked, server.end) > at


def _gave_up_by(trace: Trace, since_ns: int | None) -> str:
    """Who ended it first, after the end of the mail was sent: by FIN or RST."""
    first: tuple[int, str] | None = None
    for d, who in ((trace.c2s, "client"), (trace.s2c, "server")):
        rows = np.flatnonzero(d.flags & (FIN | RST))
        for r in rows.tolist():
            at = int(d.time_ns[r])
            if since_ns is None or at >= since_ns:
                if first is None or at < first[0]:
                    first = (at, who)
                break
    return first[1] if first else "nobody"


def _outcome(
    mail: Mail,
    talk: Talk,
    end: int | None,
    end_acked: bool | None,
    waited: float | None,
    begun: bool,
    gave_up: str,
    sent_acked: bool,
    too_late: bool,
) -> str:
    said = mail.outcome
    if said == "aborted" and talk.gap_bytes:
        return "unknown"  # the rest may lie in what was not captured
    if said == "delivered" and too_late:
        return "end-of-data-timeout"
    if said is not None:
        return said
    if not talk.server_bytes:
        return "unknown"  # a one-way capture: the reply, if there was one, is not in it
    if mail.via == "tls" and mail.answered_in_tls is not False:
        return "unknown"  # something was answered; what, nobody can tell without the keys
    closed = talk.closed_by != "open"
    if end is not None and end_acked:
        if (closed and gave_up == "client") or (waited or 0) >= NO_REPLY_S:
            return "end-of-data-timeout"
        return "lost-connection" if closed else "unknown"
    if begun:
        if not closed:
            return "unknown"
        # content that the snap length cut off may hold the end of the mail
        gave_up_itself = talk.closed_by.startswith("client") and sent_acked and not mail.complete and not talk.gap_bytes
        return "aborted" if gave_up_itself else "lost-connection"
    if not closed or talk.gap_bytes:
        return "unknown"
    return "aborted" if talk.closed_by.startswith("client") else "lost-connection"


def _end_cuts(mail: Mail, client: Stream, d: Direction) -> Cuts | None:
    if mail.body_end is None or mail.terminator_end is None or mail.in_tls:
        return None
    start = mail.terminator_end - LENGTH
    seen = client.cuts(start, mail.terminator_end)
    inferred: list[int] = []
    for row in client.rows(start, mail.terminator_end):
        if d.offloaded[row]:
            header = int(d.ip_bytes[row]) - int(d.payload_bytes[row])
            limit = d.wire_limit
            if limit is not None:
                inferred += [
                    b
                    for b in wire_boundaries(int(d.seq[row]), int(d.end[row]), limit - header)
                    if start < b < mail.terminator_end
                ]
    return cuts(start, seen, inferred)


def _held_back(mail: Mail, client: Stream, d: Direction) -> tuple[float | None, bool]:
    """How long `.CRLF` left after everything before it had been acknowledged; and whether its packet began with it."""
    if mail.terminator_end is None or mail.in_tls:
        return None, False
    dot = mail.terminator_end - 3
    segment = client.segment_at(dot)
    if segment is None or segment.start != dot:
        return None, False
    sent = int(d.time_ns[segment.row])
    rows = np.flatnonzero((d.peer.ack != NOT_ACK) & (d.peer.time_ns <= sent))
    reached = rows[d.peer.ack[rows] >= dot]
    if not len(reached):
        return None, True
    return (sent - int(d.peer.time_ns[reached[0]])) / 1e9, True


def _sends(d: Direction, offset: int) -> int:
    return int((d.data & (d.seq <= offset) & (d.end > offset)).sum())


def _largest_packet(mail: Mail, client: Stream, d: Direction) -> int | None:
    """Largest IP packet on the wire that carried the mail's first sends (envelope to end)."""
    end = mail.terminator_end or mail.body_end or (mail.body_start or mail.start) + max(mail.seen_bytes, 1)
    rows = client.rows(mail.start, end)
    if not rows:
        return None
    sizes = d.ip_bytes[rows]
    limit = d.wire_limit
    return int(np.minimum(sizes, limit).max() if limit is not None else sizes.max())


def _print(mail: Mail, client: Stream) -> Print | None:
    if mail.body_start is None or mail.body_end is None or mail.via == "tls":
        return None
    start, end = mail.body_start, mail.body_end
    tail = _bytes(client, max(start, end - PRINT_BYTES), end)
    head = _bytes(client, start, min(end, start + PRINT_BYTES))
    if tail is None or head is None:
        return None
    return end - start, crc32(tail, crc32(head))


def _bytes(stream: Stream, start: int, end: int) -> bytes | None:
    out = b""
    at = start
    while at < end:
        s = stream.segment_at(at)
        if s is None or len(s.data) < s.end - s.start:
            return None
        out += s.data[at - s.start : end - s.start]
        at = s.end
    return out


# ---------------------------------------------------------------- talks compared with each other

SAME_SERVER = (
    "whole_answered_same_server",
    "whole_hung_same_server",
    "split_answered_same_server",
    "split_hung_same_server",
)


def message_subjects(talks: Sequence[Talk], points: Mapping[int, int], may_fire: MayFire = _always) -> list[Subject]:
    """One subject per mail whose content had begun, if a rule may fire on it."""
    by_key = {t.key: t for t in talks}
    says_ehlo = {t.client[0] for t in talks if t.dialogue.helo == "EHLO"}
    answers: dict[tuple[Any, ...], bool] = {}
    chosen = []
    for t in talks:
        helo_for_mask = t.masked and t.dialogue.helo == "HELO" and t.client[0] in says_ehlo
        for m in t.mails:
            # as good as the facts made of them; nearly all mails are alike in these
            told = (*_told(m), helo_for_mask)
            fires = answers.get(told)
            if fires is None:
                fires = answers[told] = may_fire(_screened(m, helo_for_mask))
            if fires and m.in_data:
                chosen.append((m, t))
    servers, clients = {t.server[0] for _, t in chosen}, {t.client[0] for _, t in chosen}
    by_server: dict[str, Counter[str]] = defaultdict(Counter)
    cut_places: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for t in talks:
        if t.server[0] in servers:
            by_server[t.server[0]].update(name for m in t.mails for name in _comparable(m))
        if t.client[0] in clients:
            cut_places[t.client[0]].update(m.cuts.cut_at for m in t.mails if m.cuts)
    subjects = [_message_subject(m, t, by_server[t.server[0]], cut_places, says_ehlo) for m, t in chosen]
    return subjects + [_copy_subject(copy, by_key) for copy in _copies(talks, points)]


_told = attrgetter("end_acked", "answered", "gave_up_by", "closed_in_data", "hold_back_s", "end_alone", "cuts")


def _screened(m: MailRecord, helo_for_mask: bool) -> dict[str, Value]:
    """The facts of MESSAGE_SCREEN as `_message_subject` gives them."""
    return {
        "end_acked": m.end_acked,
        "answered": m.answered,
        "gave_up_by": m.gave_up_by,
        "closed_in_data": m.closed_in_data,
        "hold_back_s": m.hold_back_s,
        "end_alone": m.end_alone,
        "helo_for_mask": helo_for_mask,
        "cut_at_3_or_4": (3 in m.cuts.cut_at or 4 in m.cuts.cut_at) if m.cuts else None,
    }


def _whole(m: MailRecord) -> bool:
    return m.cuts is not None and not set(m.cuts.cut_at) & {3, 4}


def _hung(m: MailRecord) -> bool:
    """Its end arrived by TCP's word, and no reply came."""
    return bool(m.end_acked) and m.answered is False


def _comparable(m: MailRecord) -> list[str]:
    """Which of the four facts `*_same_server` this mail counts for, when another one is compared with it."""
    if m.cuts is None:
        return []
    if _whole(m):
        return ["whole_answered_same_server"] if m.answered else ["whole_hung_same_server"] if _hung(m) else []
    if m.answered:
        return ["split_answered_same_server"]
    return ["split_hung_same_server"] if m.answered is False else []


def _message_subject(
    m: MailRecord,
    t: Talk,
    same_server: Counter[str],
    cut_places: dict[str, Counter[tuple[int, ...]]],
    says_ehlo: set[str],
) -> Subject:
    own = _comparable(m)
    others = {name: same_server[name] - own.count(name) for name in SAME_SERVER}
    inside = set(m.cuts.cut_at) & {3, 4} if m.cuts else set()
    places = cut_places[t.client[0]]
    always = m.cuts is not None and places.total() >= 3 and len(places) == 1
    f: dict[str, Value] = {
        "sender": t.client[0],
        "receiver": t.server[0],
        "ip_version": 6 if ":" in t.client[0] else 4,
        "captured_at": t.at,
        "sender_is": "client",
        "rtt_s": t.rtt_s,
        "outcome": m.outcome,
        "via": m.via,
        "size_bytes": m.size,
        "largest_packet_bytes": m.largest_packet_bytes,
        "end_sent": m.end_sent,
        "end_acked": m.end_acked,
        "end_sends": m.end_sends,
        "body_acked": m.body_acked,
        "answered": m.answered,
        "reply_code": m.reply_code,
        "reply_delay_s": m.reply_delay_s,
        "waited_s": m.waited_s,
        "gave_up_by": m.gave_up_by,
        "closed_in_data": m.closed_in_data,
        "data_bytes_sent": m.data_bytes_sent,
        "capture_ends_early": m.answered is False and t.closed_by == "open" and (m.waited_s or 0) < NO_REPLY_S,
        "reverse_seen": t.server_bytes > 0,
        **others,
        "client_cuts_always": always,
        "banner_masked": t.masked,
        "hold_back_s": m.hold_back_s,
        "end_alone": m.end_alone,
        "helo_for_mask": t.masked and t.dialogue.helo == "HELO" and t.client[0] in says_ehlo,
        "starttls_used": t.dialogue.tls == "starttls",
    }
    if m.cuts is not None:
        f["cut_at_3_or_4"] = bool(inside)
        f["end_pieces"] = len(m.cuts.pieces)
        f["cut_inferred"] = bool(inside & set(m.cuts.inferred))
        if inside:
            f["cut_after"] = min(inside)
    evidence = []
    if m.end_frames:
        pieces = "+".join(map(str, m.cuts.pieces)) if m.cuts and len(m.cuts.pieces) > 1 else ""
        note = f"the end CR LF . CR LF, cut {pieces} bytes" if pieces else "the end of the mail, CR LF . CR LF"
        evidence.append(_evidence(t, m.end_frames, note))
    if m.reply_frames:
        evidence.append(_evidence(t, m.reply_frames, f"the final reply {m.reply_code}"))
    return Subject(
        kind="message",
        facts={k: v for k, v in f.items() if v is not None},
        sender=t.client[0],
        receiver=t.server[0],
        connections=(t.key,),
        messages=(m.key,),
        evidence=evidence,
        key=f"{m.outcome} {sorted(inside)}",
    )


def _evidence(t: Talk, frames: Sequence[Ref], note: str) -> dict[str, Any]:
    numbers = ", ".join(str(f) for _, f in frames[:40])
    return {
        "topic": "mails",
        "connection": t.key,
        "frames": list(frames[:40]),
        "display_filter": f"frame.number in {{{numbers}}}" if numbers else t.stream,
        "note": note,
    }


class _Copy(NamedTuple):
    """A mail that was sent again: the same envelope with the same body."""

    copies: int
    earlier: MailRecord
    later: MailRecord


def _copies(talks: Sequence[Talk], points: Mapping[int, int]) -> list[_Copy]:
    """Every mail that follows a copy of itself, with that copy; the same mail seen at two points of capture is one."""
    bodies = Counter([m.body_print for t in talks for m in t.mails])
    again = {body for body, count in bodies.items() if count > 1 and body is not None}
    same: dict[tuple[Any, ...], list[MailRecord]] = defaultdict(list)
    for t in talks if again else ():
        for m in t.mails:
            if m.body_print in again and m.mail_from is not None and m.recipients and m.start_ns is not None:
                point = points.get(t.first_frame[0], 0)
                same[(point, t.client[0], m.mail_from, m.recipients, m.body_print)].append(m)
    out = []
    for group in same.values():
        group.sort(key=lambda m: m.start_ns or 0)
        for earlier, later in itertools.pairwise(group):
            if earlier.talk != later.talk:  # within one connection the client knows what became of the first
                out.append(_Copy(len(group), earlier, later))
    return out


def _copy_subject(copy: _Copy, talks: dict[int, Talk]) -> Subject:
    earlier, later = copy.earlier, copy.later
    t = talks[later.talk]
    facts: dict[str, Value] = {
        "sender": t.client[0],
        "receiver": t.server[0],
        "ip_version": 6 if ":" in t.client[0] else 4,
        "captured_at": t.at,
        "size_bytes": later.size,
        "copies": copy.copies,
        "earlier_end_acked": bool(earlier.end_acked),
        "earlier_answered": bool(earlier.answered),
        "earlier_accepted": earlier.accepted_late,  # then both copies are in the mailbox
        "accepted": later.outcome == "delivered",
        "retry_after_s": ((later.start_ns or 0) - (earlier.start_ns or 0)) / 1e9,
    }
    evidence = [
        _evidence(talks[m.talk], m.end_frames, f"the end of the {which} copy")
        for m, which in ((earlier, "earlier"), (later, "later"))
        if m.end_frames
    ]
    return Subject(
        kind="message",
        facts={k: v for k, v in facts.items() if v is not None},
        sender=t.client[0],
        receiver=t.server[0],
        connections=(earlier.talk, later.talk),
        messages=(earlier.key, later.key),
        evidence=evidence,
        key="copy",
    )


def connection_subjects(talks: Sequence[Talk], may_fire: MayFire = _always) -> list[Subject]:
    return [_connection_subject(t) for t in talks if may_fire({"zero_window_s": t.zero_window_s})]


def _connection_subject(t: Talk) -> Subject:
    d = t.dialogue
    starttls = next((c for c in d.commands if c.verb == "STARTTLS"), None)
    f: dict[str, Value] = {
        "sender": t.client[0],
        "receiver": t.server[0],
        "ip_version": 6 if ":" in t.client[0] else 4,
        "captured_at": t.at,
        "sender_is": "client",
        "rtt_s": t.rtt_s,
        "reverse_seen": t.server_bytes > 0,
        "capture_ends_early": t.closed_by == "open",
        "phase": d.phase,
        "closed_by": t.closed_by,
        "tls": d.tls,
        "duration_s": (t.end_ns - t.start_ns) / 1e9,
        "server_port": t.server[1],
        "handshake_seen": t.handshake_seen,
        "greeting_code": d.greeting.code if d.greeting else None,
        "greeting_delay_s": t.greeting_delay_s,
        "zero_window_s": t.zero_window_s,
        "zero_window_by": t.zero_window_by,
        "zero_window_probes": t.zero_window_probes,
        "zero_window_ended": t.zero_window_ended,
        "client_bytes": t.client_bytes,
        "server_bytes": t.server_bytes,
        "mails": len(t.mails),
        "mails_answered": sum(1 for m in t.mails if m.answered),
        "last_reply_code": d.replies[-1].code if d.replies else None,
        "longest_reply_delay_s": t.longest_reply_delay_s,
        "starttls_offered": "STARTTLS" in d.keywords if d.keywords else None,
        "starttls_refused": bool(starttls and starttls.reply and starttls.reply.code >= 400),
        "said_helo": d.helo == "HELO",
        "gap_bytes": t.gap_bytes,
    }
    evidence = []
    if t.zero_window_frames:
        evidence.append(
            _evidence(
                t, t.zero_window_frames, f"the {t.zero_window_by} announces a window of 0 for {t.zero_window_s:.1f} s"
            )
        )
    ends = (t.client[0], t.server[0])
    if t.zero_window_by == "client":  # the data that had to wait is the server's
        ends, f["sender_is"] = (t.server[0], t.client[0]), "server"
    return Subject(
        kind="connection",
        facts={k: v for k, v in f.items() if v is not None},
        sender=ends[0],
        receiver=ends[1],
        connections=(t.key,),
        messages=tuple(m.key for m in t.mails),
        evidence=evidence,
        key=t.zero_window_by or "",
    )


def server_subjects(
    talks: Sequence[Talk], may_fire: MayFire = _always, stripped: Collection[tuple[str, int]] = ()
) -> list[Subject]:
    """One subject per server address and port as one client saw it, if a rule may fire on it.

    stripped: servers (address, port) that offered STARTTLS at a second point of capture, where it did not arrive here.
    """
    offers: Counter[str] = Counter()
    by_dialogue: dict[int, _Greetings] = {}  # by its identity: many talks share one
    by_server: dict[tuple[str, str, int], _Greetings] = {}
    for t in talks:
        told = by_dialogue.get(id(t.dialogue))
        if told is None:
            told = by_dialogue[id(t.dialogue)] = _Greetings.of(t.dialogue)
        if told.offering:
            offers[t.server[0]] += 1
        server = (t.client[0], *t.server)
        before = by_server.get(server)
        by_server[server] = before.then(told) if before else told
    answers: dict[tuple[int, int, int], bool] = {}
    chosen: dict[tuple[str, str, int], list[Talk]] = {}
    for server, told in by_server.items():
        facts = (told.lines, told.missing, offers[server[1]])
        if told.plain and facts not in answers:
            answers[facts] = may_fire(_screened_server(*facts))
        if not told.plain or answers[facts] or server[1:] in stripped:
            chosen[server] = []
    if not chosen:
        return []
    says_ehlo = {t.client[0] for t in talks if t.dialogue.helo == "EHLO"}
    for t in talks:
        if (group := chosen.get((t.client[0], *t.server))) is not None:
            group.append(t)
    subjects = []
    for server, group in chosen.items():
        subject = _server_subject(group, offers, says_ehlo)
        if server[1:] in stripped:
            subject.facts |= {"starttls_differs": True}
            if subject.facts["starttls_masked"] == "possible":
                subject.facts["starttls_masked"] = "certain"
        subjects.append(subject)
    return subjects


class _Greetings(NamedTuple):
    """What a dialogue tells of its server, or several with the same one."""

    plain: bool  # nothing is masked or refused
    lines: int  # of the first greeting; 0: there was none
    offering: int  # replies to EHLO with STARTTLS
    missing: int  # and those without it, before TLS

    @classmethod
    def of(cls, d: Dialogue) -> _Greetings:
        keywords = d.keywords
        odd = (
            (d.greeting and any(_is_masked((line,)) for line in d.greeting.lines))
            or banner.masked_keywords(keywords)
            or banner.masked_commands(c.verb for c in d.commands)
            or any(c.verb == "EHLO" and c.reply and c.reply.code in (500, 502) for c in d.commands)
        )
        offers = "STARTTLS" in keywords
        lacks = bool(keywords) and not offers and d.helo == "EHLO" and d.tls == "none"
        return cls(not odd, len(d.greeting.lines) if d.greeting else 0, int(offers), int(lacks))

    def then(self, later: _Greetings) -> _Greetings:
        return _Greetings(
            self.plain and later.plain,
            self.lines or later.lines,
            self.offering + later.offering,
            self.missing + later.missing,
        )


def _screened_server(lines: int, missing: int, offered: int) -> dict[str, Value]:
    """The facts of SERVER_SCREEN of plain talks, as `_server_subject` gives them."""
    return {
        "banner_lines": lines,
        "banner_masked_lines": 0,
        "banner_masked": False,
        "ehlo_masked_keywords": 0,
        "masked_commands": 0,
        "ehlo_refused": False,
        "starttls_missing": missing,
        "starttls_offered_elsewhere": offered,
    }


def _server_subject(group: list[Talk], offers: Counter[str], says_ehlo: set[str]) -> Subject:
    lead = next((t for t in group if t.masked), next((t for t in group if t.dialogue.greeting), group[0]))
    d = lead.dialogue
    lines = d.greeting.lines if d.greeting else ()
    replies = [t for t in group if t.dialogue.keywords and t.dialogue.helo == "EHLO"]
    x_keywords = {k for t in group for k in banner.masked_keywords(t.dialogue.keywords)}
    x_commands = [v for t in group for v in banner.masked_commands(c.verb for c in t.dialogue.commands)]
    without = [t for t in replies if "STARTTLS" not in t.dialogue.keywords and t.dialogue.tls == "none"]
    may_be_starttls = any("STARTTLS" in banner.may_be(k) for k in x_keywords)
    elsewhere = offers[lead.server[0]] - sum(1 for t in group if "STARTTLS" in t.dialogue.keywords)
    here = sum(1 for t in group if "STARTTLS" in t.dialogue.keywords)
    refused = [
        c for t in group for c in t.dialogue.commands if c.verb == "EHLO" and c.reply and c.reply.code in (500, 502)
    ]
    f: dict[str, Value] = {
        "ip_version": 6 if ":" in lead.client[0] else 4,
        "captured_at": lead.at,
        "greetings": sum(1 for t in group if t.dialogue.greeting),
        "banner_lines": len(lines),
        "banner_masked_lines": sum(1 for line in lines if banner.is_masked([line])),
        "banner_stars": min((line.count("*") for line in lines), default=0),
        "banner_masked": lead.masked,
        "banner_text": d.greeting.text if d.greeting else None,
        "ehlo_masked_keywords": len(x_keywords),
        "ehlo_keywords": max((len(t.dialogue.keywords) for t in group), default=0),
        "ehlo_refused": bool(refused),
        "masked_commands": len(x_commands),
        "starttls_masked": "possible" if may_be_starttls else "no",
        "starttls_missing": len(without),
        "starttls_offered_elsewhere": elsewhere + here,
        "starttls_refused": any(
            c.verb == "STARTTLS" and c.reply and c.reply.code == 454 for t in group for c in t.dialogue.commands
        ),
        "cleartext_mails": sum(len(t.mails) for t in group if t.dialogue.tls == "none"),
        "workaround_seen": any(
            (t.masked and t.dialogue.helo == "HELO" and t.client[0] in says_ehlo)
            or any((m.hold_back_s or 0) >= HOLD_BACK_S and m.end_alone for m in t.mails)
            for t in group
        ),
        "server_port": lead.server[1],
    }
    evidence = []
    if lead.greeting_frames:
        evidence.append(_evidence(lead, lead.greeting_frames, "the greeting"))
    marked = next((t for t in group if banner.masked_keywords(t.dialogue.keywords)), None) or (
        without[0] if without else None
    )
    if marked and marked.ehlo_frames:
        evidence.append(_evidence(marked, marked.ehlo_frames, "the reply to EHLO"))
    keys = tuple(t.key for t in group)
    if lead.masked:
        keys = tuple(t.key for t in group if t.masked)
    return Subject(
        kind="server",
        facts={k: v for k, v in f.items() if v is not None},
        sender=lead.server[0],  # what a server says is data from the server
        receiver=lead.client[0],
        connections=keys,
        messages=(),
        evidence=evidence,
        key="server",
    )
