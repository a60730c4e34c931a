"""Talks and ledgers of regular connections, straight from columns: what `mails.read_talk` and `path_mtu.examine` would
say of them, in a twentieth of the time.

`tcp.regular` tells which connections of a group are regular and what their packets say; `smtp.plain` reads what was
said in them. A connection that either of them finds odd is left to the long way, which is also what tests compare with.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np

from ..capture.packets import FIN, RST, address_text
from ..smtp import mtalog
from ..smtp.plain import Answer, Body, Odd, Pieces, Plain, Said, read_plain
from ..smtp.states import MailShape
from ..smtp.terminator import LENGTH, Cuts, cuts
from ..smtp.tls import read_session
from ..tcp.connections import Ints
from ..tcp.delivery import NOT_ACK, Delivery
from ..tcp.regular import AT, CLOSED_BY, DELIVERED_DF_OFF, NEVER, UNDECIDED, Survey, survey
from .inside import PRINT_BYTES
from .mails import MailRecord, Ref, Talk
from .paths import PathLedger

# Of a flight (bytes sent without hearing from the peer) only the first and the last pieces are looked at: envelopes are
# one piece or two, the checksum of a mail needs 512 bytes of either end, its terminator the last few.
FIRST_PIECES = 2
LAST_PIECES = 3

_text = lru_cache(maxsize=65536)(address_text)


class RegularGroup:
    """The regular connections of one group. `talk` gives one's record, or None when its dialogue is odd."""

    def __init__(self, delivery: Delivery, odd: np.ndarray[Any, np.dtype[np.bool_]], capture_end_ns: int) -> None:
        self.survey: Survey = survey(delivery, odd)
        self.delivery = delivery
        self.capture_end_ns = capture_end_ns
        self.regular: list[bool] = self.survey.regular.tolist()
        if self.survey.regular.any():
            self._connections()
            self._pieces()
            self._sizes()

    # ------------------------------------------------------------ columns -> lists

    def _connections(self) -> None:
        s, t = self.survey, self.delivery.group.table
        bounds = self.delivery.bounds
        heads = t[np.minimum(bounds[:-1:2], max(len(t) - 1, 0))]  # the client's first packets
        self.ends = list(
            zip(
                *(c.tolist() for c in (heads.src_hi, heads.src_lo, heads.src_port)),
                *(c.tolist() for c in (heads.dst_hi, heads.dst_lo, heads.dst_port)),
                strict=True,
            )
        )
        server_heads = np.minimum(bounds[1:-1:2], max(len(t) - 1, 0))
        client_heads = np.minimum(bounds[:-1:2], max(len(t) - 1, 0))
        client_first = t.time_ns[client_heads] <= t.time_ns[server_heads]  # a tie is broken by the frame: see talk()
        tie = t.time_ns[client_heads] == t.time_ns[server_heads]
        earlier = (t.capture[client_heads], t.frame[client_heads]), (t.capture[server_heads], t.frame[server_heads])
        swap = tie & (
            (earlier[0][0] > earlier[1][0]) | ((earlier[0][0] == earlier[1][0]) & (earlier[0][1] > earlier[1][1]))
        )
        head = np.where(client_first & ~swap, client_heads, server_heads)
        self.first_frame = list(zip(t.capture[head].tolist(), t.frame[head].tolist(), strict=True))
        self.frame_count = np.diff(self.delivery.group.first).tolist()
        self.start_ns, self.end_ns = s.start_ns.tolist(), s.end_ns.tolist()
        self.closed_by, self.gone_ns = s.closed_by.tolist(), s.client_gone_ns.tolist()
        self.asked_ns, self.answered_ns, self.ready_ns = (x.tolist() for x in s.handshake_ns)
        self.at, self.mss = s.at.tolist(), s.mss.tolist()
        self.sent, self.acked = self.delivery.sent.tolist(), self.delivery.acked.tolist()
        leaving = np.flatnonzero((t.flags & (FIN | RST)) != 0)
        self.leaving_at = np.searchsorted(leaving, bounds).tolist()
        self.leaving_ns = t.time_ns[leaving].tolist()

    def _pieces(self) -> None:
        """The pieces of both sides as lists; of the client only those that may be looked at (see FIRST_PIECES)."""
        s, d, t = self.survey, self.delivery, self.delivery.group.table
        rows = s.fresh
        direction = d.direction_of(rows)
        # a flight: rows of one direction with the same ACK, one after the other
        new = np.ones(len(rows), bool)
        new[1:] = (direction[1:] != direction[:-1]) | (d.ack[rows][1:] != d.ack[rows][:-1])
        flight_first = np.flatnonzero(new)
        flight = np.cumsum(new) - 1
        number = np.arange(len(rows))
        flight_stop = np.append(flight_first[1:], len(rows))
        wanted = (direction & 1 == 1) | (number - flight_first[flight] < FIRST_PIECES)
        wanted |= flight_stop[flight] - number <= LAST_PIECES
        self.all_rows = rows
        self.row_bounds = np.searchsorted(direction, np.arange(2 * len(d.group) + 1))
        chosen = np.flatnonzero(wanted)
        self.number = chosen.tolist()  # of each piece among all fresh rows
        self.rows = rows[chosen]
        self.bounds = np.searchsorted(direction[chosen], np.arange(2 * len(d.group) + 1)).tolist()
        self.time_ns = t.time_ns[self.rows].tolist()
        self.frame = list(zip(t.capture[self.rows].tolist(), t.frame[self.rows].tolist(), strict=True))
        # what the packet adds to its payload may be more than the flight's largest: sizes, not payloads, are compared
        self.ip_bytes = t.ip_bytes[self.rows].tolist()
        self.largest = np.maximum.reduceat(t.ip_bytes[rows], flight_first).tolist() if len(rows) else []
        self.flight = flight[chosen].tolist()
        self.flight_stop = flight_stop.tolist()
        self.flight_first = flight_first.tolist()
        views = [memoryview(b) for b in t.buffers]
        buffer, at = t.buffer[self.rows].tolist(), t.payload_at[self.rows].tolist()
        stop = (t.payload_at[self.rows] + t.payload_bytes[self.rows]).tolist()

        def data(i: int) -> bytes:
            return bytes(views[buffer[i]][at[i] : stop[i]])

        start, end, ack = (x[self.rows].tolist() for x in (d.seq, d.end, d.ack))
        self.pieces = Pieces(start, end, ack, data)
        again = s.again
        self.again_bounds = np.searchsorted(again, d.bounds).tolist()
        self.again = list(zip(d.seq[again].tolist(), d.end[again].tolist(), strict=True))

    def _sizes(self) -> None:
        s = self.survey
        z = s.sizes
        self.size_bounds = np.searchsorted(z.direction, np.arange(2 * len(self.delivery.group) + 1)).tolist()
        self.sizes = list(zip(*(c.tolist() for c in z[1:]), strict=True))
        self.sent_segments, self.lost_segments = s.sent_segments.tolist(), s.lost_segments.tolist()
        self.delayed_ns, self.df_on, self.df_off = s.delayed_ns.tolist(), s.df_on.tolist(), s.df_off.tolist()

    # ------------------------------------------------------------ one connection

    def talk(self, k: int, key: int, next_mail: int) -> Talk | None:
        """The k-th connection's record; None when its dialogue is not plain."""
        if not self.regular[k]:
            return None
        c, s, stop = self.bounds[2 * k : 2 * k + 3]
        try:
            plain = read_plain(self.pieces, range(c, s), self.sent[2 * k], self.pieces, range(s, stop))
        except Odd:
            return None
        client_hi, client_lo, client_port, server_hi, server_lo, server_port = self.ends[k]
        client, server = (_text(client_hi, client_lo), client_port), (_text(server_hi, server_lo), server_port)
        greeting = plain.replies[0]
        times = self.time_ns
        gone = self.gone_ns[k]
        talk = Talk(
            key=key,
            client=client,
            server=server,
            start_ns=self.start_ns[k],
            end_ns=self.end_ns[k],
            first_frame=self.first_frame[k],
            frame_count=self.frame_count[k],
            handshake_seen=True,
            closed_by=CLOSED_BY[self.closed_by[k]],
            client_gone_ns=gone if gone != NEVER else None,
            at=AT[self.at[2 * k]],
            rtt_s=(self.ready_ns[k] - self.asked_ns[k]) / 1e9,
            client_mss=self.mss[2 * k] or None,
            server_mss=self.mss[2 * k + 1] or None,
            client_bytes=self.sent[2 * k],
            server_bytes=self.sent[2 * k + 1],
            dialogue=plain.dialogue,
            mails=[],
            greeting_frames=self._frames(greeting),
            ehlo_frames=self._frames(plain.hello_reply) if plain.hello_reply else (),
            greeting_delay_s=(times[greeting.piece] - self.ready_ns[k]) / 1e9,
            zero_window_s=0.0,
            zero_window_by=None,
            zero_window_probes=0,
            zero_window_ended=False,
            zero_window_frames=(),
            longest_reply_delay_s=self._longest_reply_delay(plain),
            gap_bytes=0,
            capture_end_ns=self.capture_end_ns,
        )
        try:
            if plain.dialogue.awaited not in (None, "QUIT") and not plain.tls_start:
                if plain.shape.mails or plain.replies[-1].code == 421:
                    raise Odd
                talk.expected_log = self._expected_log(k, talk)
            for shape in plain.shape.mails:
                talk.mails.append(
                    self._mail(k, talk, next_mail + len(talk.mails), len(talk.mails) + 1, shape, plain, c, s)
                )
            if plain.tls_start:
                self._tls(k, talk, next_mail, *plain.tls_start)
        except Odd:
            return None
        # in smtp a dialogue is one by its greeting word or by its mails; the shared dialogue holds no mails
        return talk if plain.dialogue.is_smtp or not talk.mails else None

    def _expected_log(self, k: int, talk: Talk) -> dict[str, str]:
        """See mails._expected_log."""
        silence = None
        if talk.closed_by != "open":
            d, t = self.delivery, self.delivery.group.table
            ends, fresh = [], []
            for direction in (2 * k, 2 * k + 1):
                ends += self.leaving_ns[self.leaving_at[direction] : self.leaving_at[direction + 1]][:1]
                rows = slice(*d.bounds[direction : direction + 2])
                fresh += t.time_ns[rows][(t.payload_bytes[rows] > 0) & ~d.resend[rows]].tolist()
            end = min(ends)
            silence = (end - max((time for time in fresh if time <= end), default=end)) / 1e9
            later = [time for time in fresh if time > end]
            if later:  # only the last new byte of either side counts there
                raise Odd
        ending = mtalog.Ending(
            closed_by=talk.closed_by,  # type: ignore[arg-type]
            silence_s=silence,
            received_bytes=self.acked[2 * k],
            client=f"{talk.client[0]}[{talk.client[0]}]",
            server=f"{talk.server[0]}[{talk.server[0]}]",
        )
        return dict(mtalog.predict(talk.dialogue, ending).items())

    def _frames(self, answer: Answer) -> tuple[Ref, ...]:
        i = answer.piece
        frames = [self.frame[i]]
        while self.pieces.end[i] < answer.end:
            i += 1
            frames.append(self.frame[i])
        return tuple(frames)

    def _longest_reply_delay(self, plain: Plain) -> float | None:
        times, replies = self.time_ns, plain.replies
        # requests and replies alternate; a mail is a request without a command
        delays: list[int] = []
        for command, answer in zip(plain.commands, plain.shape.answers, strict=True):
            if answer is not None:
                delays.append(times[replies[answer].piece] - times[command.last])
        return max(delays) / 1e9 if delays else None

    def _mail(
        self, k: int, talk: Talk, key: int, index: int, shape: MailShape, plain: Plain, c: int, s: int
    ) -> MailRecord:
        if shape.mail is None:
            raise Odd
        command = plain.commands[shape.mail]
        replies = plain.replies
        accepted: list[str] = []
        refused: list[str] = []
        refusals: list[int] = []
        for number in shape.recipients:
            answer = plain.shape.answers[number]
            code = replies[answer].code if answer is not None else 0
            mailbox = plain.commands[number].mailbox or ""
            if code >= 400:
                refused.append(mailbox)
                refusals.append(code)
            else:
                accepted.append(mailbox)
        times = self.time_ns
        bodies = [plain.bodies[number] for number in shape.bodies]
        codes = [replies[number].code for number in shape.replies]
        outcome = _outcome(codes, [] if accepted else refusals, shape)
        final = replies[shape.replies[-1]] if codes else None
        reply_ns = times[final.piece] if final else None
        gone = talk.client_gone_ns
        if outcome is None or 421 in codes or (reply_ns is not None and gone is not None and reply_ns > gone):
            raise Odd
        last = bodies[-1] if bodies and shape.complete else None
        if bodies and (last is None or final is None):
            raise Odd
        end_sent_ns = None
        found: Cuts | None = None
        end_frames: tuple[Ref, ...] = ()
        hold, alone = None, False
        end: int | None = None
        if last is not None:
            end = last.terminator_end if last.terminator_end is not None else last.end
            piece = self._piece(end - 1, c, s)
            end_sent_ns = times[piece]
            if last.terminator_end is not None:
                found, end_frames = self._cuts(piece, end)
                if found.cut_at:
                    hold, alone = self._held_back(k, end - 3, c, s)
        return MailRecord(
            key=key,
            talk=talk.key,
            index=index,
            mail_from=command.mailbox,
            recipients=(*accepted, *refused),
            size=sum(body.size for body in bodies) if last else None,
            size_estimated=False,
            via=shape.via,
            cuts=found,
            end_frames=end_frames,
            reply_code=final.code if final else None,
            reply_frames=self._frames(final) if final else (),
            outcome=outcome,
            start_ns=times[command.first],
            end_ns=reply_ns,
            end_sent_ns=end_sent_ns,
            reply_delay_s=(reply_ns - end_sent_ns) / 1e9 if reply_ns is not None and end_sent_ns is not None else None,
            waited_s=None,
            gave_up_by=self._gave_up_by(k, end_sent_ns),
            end_sent=last is not None,
            end_acked=True if last is not None else None,
            end_sends=1 + self._resends(k, end - 1) if end is not None else 0,
            body_acked=last is not None,
            answered=bool(codes),
            accepted_late=False,
            in_data=bool(bodies) or shape.via == "bdat",
            closed_in_data=False,
            data_bytes_sent=_seen_bytes(bodies),
            largest_packet_bytes=self._largest_packet(command, end if end is not None else command.start + 1, c, s),
            hold_back_s=hold,
            end_alone=alone,
            body_print=self._print(bodies[0].start, last.end, c, s) if last is not None else None,
        )

    def _tls(self, k: int, talk: Talk, next_mail: int, client_start: int, server_start: int) -> None:
        """What the records tell, and the mails that hide in them (see dialogue.read_tls and mails._join_mail)."""
        client, server = self._view(2 * k), self._view(2 * k + 1)
        session = read_session(client, server, client_start, server_start)
        if not session.handshake_complete:
            raise Odd
        talk.dialogue = replace(
            talk.dialogue,
            tls="starttls",
            tls_client_start=client_start,
            tls_server_start=server_start,
            tls_session=session,
            phase="tls",
            awaited=None,
        )
        for mail in session.mails:
            if not mail.whole or not mail.answered:
                raise Odd
            end_sent_ns = client.time_at(mail.end - 1)
            assert end_sent_ns is not None
            talk.mails.append(
                MailRecord(
                    key=next_mail + len(talk.mails),
                    talk=talk.key,
                    index=len(talk.mails) + 1,
                    mail_from=None,
                    recipients=(),
                    size=mail.size,
                    size_estimated=True,
                    via="tls",
                    cuts=None,
                    end_frames=(),
                    reply_code=None,
                    reply_frames=(),
                    outcome="unknown",
                    start_ns=client.time_at(mail.start),
                    end_ns=end_sent_ns,
                    end_sent_ns=end_sent_ns,
                    reply_delay_s=None,
                    waited_s=(talk.end_ns - end_sent_ns) / 1e9,
                    gave_up_by=self._gave_up_by(k, end_sent_ns),
                    end_sent=True,
                    end_acked=True,
                    end_sends=1 + self._resends(k, mail.end - 1),
                    body_acked=True,
                    answered=True,
                    accepted_late=False,
                    in_data=True,
                    closed_in_data=talk.closed_by != "open",
                    data_bytes_sent=mail.end - mail.start,
                    largest_packet_bytes=client.largest_packet(mail.start, mail.end),
                    hold_back_s=None,
                    end_alone=False,
                    body_print=None,
                )
            )

    def _view(self, direction: int) -> _View:
        lo, hi = self.row_bounds[direction : direction + 2]
        return _View(self.delivery, self.all_rows[lo:hi])

    def _piece(self, offset: int, c: int, s: int) -> int:
        i = bisect_right(self.pieces.start, offset, c, s) - 1
        if i < c or self.pieces.end[i] <= offset:
            raise Odd
        return i

    def _cuts(self, piece: int, end: int) -> tuple[Cuts, tuple[Ref, ...]]:
        """Where the terminator that ends in this piece was cut, and the frames that carried it."""
        start = end - LENGTH
        starts = self.pieces.start
        if starts[piece] <= start:
            return _WHOLE, (self.frame[piece],)
        frames = [self.frame[piece]]
        boundaries = []
        while starts[piece] > start:
            boundaries.append(starts[piece])
            if self.pieces.end[piece - 1] != starts[piece]:
                raise Odd
            piece -= 1
            frames.append(self.frame[piece])
        return cuts(start, boundaries), tuple(frames[::-1])

    def _held_back(self, k: int, dot: int, c: int, s: int) -> tuple[float | None, bool]:
        """See mails._held_back."""
        piece = self._piece(dot, c, s)
        if self.pieces.start[piece] != dot:
            return None, False
        d = self.delivery
        lo, hi = d.bounds[2 * k + 1 : 2 * k + 3]
        time, ack = d.group.table.time_ns[lo:hi], d.ack[lo:hi]
        sent = self.time_ns[piece]
        reached = np.flatnonzero((ack != NOT_ACK) & (time <= sent) & (ack >= dot))
        return ((sent - int(time[reached[0]])) / 1e9 if len(reached) else None), True

    def _gave_up_by(self, k: int, since_ns: int | None) -> str:
        """See mails._gave_up_by."""
        a, b, stop = self.leaving_at[2 * k : 2 * k + 3]
        since, first, who = since_ns or 0, NEVER, "nobody"
        for name, lo, hi in (("client", a, b), ("server", b, stop)):
            for at in self.leaving_ns[lo:hi]:
                if at >= since:
                    if at < first:
                        first, who = at, name
                    break
        return who

    def _resends(self, k: int, offset: int) -> int:
        lo, hi = self.again_bounds[2 * k : 2 * k + 2]
        return sum(1 for start, end in self.again[lo:hi] if start <= offset < end) if lo < hi else 0

    def _largest_packet(self, command: Said, end: int, c: int, s: int) -> int:
        """The largest packet of the rows that first carried [start of the command, end): whole flights where it can be."""
        first, last = command.first, self._piece(end - 1, c, s)
        flight, stop = self.flight[first], self.flight[last]
        whole = self.number[first] == self.flight_first[flight] and self.number[last] == self.flight_stop[stop] - 1
        if whole:
            largest: int = max(self.largest[flight : stop + 1])
            return largest
        rows = self.all_rows[self.number[first] : self.number[last] + 1]
        return int(self.delivery.group.table.ip_bytes[rows].max())

    def _print(self, start: int, end: int, c: int, s: int) -> tuple[int, int]:
        """See mails._print."""
        tail = self._bytes(max(start, end - PRINT_BYTES), end, c, s)
        head = self._bytes(start, min(end, start + PRINT_BYTES), c, s)
        return end - start, crc32(tail, crc32(head))

    def _bytes(self, start: int, end: int, c: int, s: int) -> bytes:
        if end <= start:
            return b""
        i = self._piece(start, c, s)
        base, ends = self.pieces.start[i], self.pieces.end
        data = self.pieces.data(i)
        while ends[i] < end:
            i += 1
            if i >= s or self.pieces.start[i] != ends[i - 1]:
                raise Odd
            data += self.pieces.data(i)
        return data[start - base : end - base]

    def add_to(self, ledger: PathLedger, k: int, direction: int, talk: Talk) -> None:
        """What `PathLedger.add` would do with the sighting of this direction (0: the client's data)."""
        d = 2 * k + direction
        ledger.connections.append(talk.key)
        ledger.at[AT[self.at[d]]] += 1
        ledgers: tuple[dict[int, list[int]], ...] = (ledger.delivered, ledger.lost, {}, ledger.delivered_df_off)
        for fate, size, count, first, last in self.sizes[self.size_bounds[d] : self.size_bounds[d + 1]]:
            if fate in (UNDECIDED, DELIVERED_DF_OFF):
                ledger.undecided[size] += count
            if fate == UNDECIDED:
                continue
            known = ledgers[fate]
            entry = known.get(size)
            if entry is None:
                known[size] = [count, first, last]
            else:
                entry[0] += count
                entry[1], entry[2] = min(entry[1], first), max(entry[2], last)
        ledger.reverse_seen = True  # a regular connection has both sides
        ledger.sent_segments += self.sent_segments[d]
        ledger.lost_segments += self.lost_segments[d]
        ledger.delayed_s = max(ledger.delayed_s, self.delayed_ns[d] / 1e9)
        ledger.df_off += self.df_off[d]
        ledger.df_on += self.df_on[d]
        rtt = talk.rtt_s
        if rtt is not None:
            ledger.rtt_s = min(rtt, ledger.rtt_s) if ledger.rtt_s is not None else rtt
        if self.mss[d ^ 1]:
            ledger.mss_seen.add(self.mss[d ^ 1])
        ledger.mss_own = ledger.mss_own or self.mss[d] or None


_WHOLE = cuts(0, ())


class _View:
    """One side's whole stream as smtp wants it (lines.StreamView), made of its rows that carry bytes for the first time."""

    def __init__(self, delivery: Delivery, rows: Ints) -> None:
        self.table = delivery.group.table
        self.rows = rows
        self.starts = delivery.seq[rows]
        self.ack = delivery.ack[rows]
        self.start = 0
        self.end = int(delivery.end[rows[-1]]) if len(rows) else 0

    def pieces(self) -> list[tuple[int, bytes]]:
        t, rows = self.table, self.rows
        views = [memoryview(b) for b in t.buffers]
        at = t.payload_at[rows]
        places = zip(t.buffer[rows].tolist(), at.tolist(), (at + t.payload_bytes[rows]).tolist(), strict=True)
        data = b"".join([views[b][i:j] for b, i, j in places])
        return [(0, data)] if data else []

    def _number(self, offset: int) -> int:
        return int(self.starts.searchsorted(offset, side="right")) - 1

    def peer_at(self, offset: int) -> int | None:
        if not 0 <= offset < self.end:
            return None
        ack = int(self.ack[self._number(offset)])
        return ack if ack != NOT_ACK else None

    def time_at(self, offset: int) -> int | None:
        return int(self.table.time_ns[self.rows[self._number(offset)]]) if 0 <= offset < self.end else None

    def largest_packet(self, start: int, end: int) -> int:
        return int(self.table.ip_bytes[self.rows[self._number(start) : self._number(end - 1) + 1]].max())


def _seen_bytes(bodies: list[Body]) -> int:
    return sum((b.terminator_end if b.terminator_end is not None else b.end) - b.start for b in bodies)


def _outcome(codes: list[int], refusals: list[int], shape: MailShape) -> str | None:
    """See dialogue.Mail.outcome."""
    codes = refusals or codes
    if not codes:
        return "aborted" if shape.ended_by in ("rset", "quit", "ehlo", "mail") and not shape.complete else None
    if any(code < 400 for code in codes):
        return "delivered"
    return "deferred" if any(code < 500 for code in codes) else "rejected"
