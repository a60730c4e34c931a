"""Talks of regular connections, straight from columns: what `mails.read_talk` would say of them, in a twentieth of the
time. (What they show of their paths stays in columns: regular_paths.py.)

`tcp.regular` tells which connections of a group are regular and what their packets say; `smtp.plain` reads what was
said in them. Here the two meet, in columns that hold a row for each mail and each connection; the records are made of
them at the end. A connection that any of the three finds odd is left to the long way, which is also what tests compare with.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import repeat
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ..capture.packets import FIN, RST, address_text
from ..smtp import mtalog
from ..smtp.plain import MailOutline, Pieces, read_plain
from ..smtp.terminator import LENGTH, Cuts, cuts, wire_boundaries
from ..smtp.tls import Octets, TlsMail, read_session
from ..tcp.connections import Bools, Ints
from ..tcp.delivery import NOT_ACK, Delivery
from ..tcp.regular import AT, CLOSED_BY, NEVER, Survey, survey
from .inside import PRINT_BYTES
from .mails import MailRecord, Ref, Talk

_FAR = np.int64(1) << 44  # larger than any offset: keeps streams apart in columns that run over all of them
_WHOLE = cuts(0, ())
_WHO = ("client", "server", "nobody")


def _where(known: Bools, values: npt.NDArray[Any]) -> list[Any]:
    """The values as a list, None where they are not known."""
    return [value if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)]


class RegularGroup:
    """The regular connections of one group. Keys of connections and mails count from `first_key` and `first_mail` on."""

    def __init__(self, delivery: Delivery, odd: Bools, first_key: int, first_mail: int) -> None:
        self.survey: Survey = survey(delivery, odd)
        self.delivery = delivery
        more = self.survey.more
        self.more: list[bool] = (more[0::2] | more[1::2]).tolist()  # connections of which columns do not say all
        self.talks: list[Talk | None] = [None] * len(delivery.group)  # None: to be read the long way
        self.mails = 0
        if self.survey.regular.any():
            self._lay_out()
            plain = read_plain(self.pieces)
            self.plain = plain._replace(plain=plain.plain & self.survey.regular & self.survey.whole)
            mails = self._make_mails(first_key, first_mail)
            self._make_talks(first_key, mails, first_mail)

    @property
    def regular(self) -> list[bool]:
        """Connections whose packets are regular, whatever was said in them."""
        regular: list[bool] = self.survey.regular.tolist()
        return regular

    # ------------------------------------------------------------ columns of packets

    def _lay_out(self) -> None:
        s, d, t = self.survey, self.delivery, self.delivery.group.table
        rows = s.fresh
        self.rows = rows
        self.time_ns, self.ip_bytes = t.time_ns[rows], t.ip_bytes[rows]
        self.capture, self.frame = t.capture[rows], t.frame[rows]
        bounds = np.searchsorted(d.direction_of(rows), np.arange(2 * len(d.group) + 1))
        start = d.seq[rows]
        buffer, at = t.buffer[rows], t.payload_at[rows] - start
        views = self.views = [memoryview(b) for b in t.buffers]
        self.buffer, self.shift = buffer, at

        def data(pieces: Ints, begin: Ints, end: Ints) -> bytes:
            shift = at[pieces]
            places = zip(buffer[pieces].tolist(), (shift + begin).tolist(), (shift + end).tolist(), strict=True)
            return b"".join([views[b][i:j] for b, i, j in places])

        self.pieces = Pieces(bounds, start, d.end[rows], d.ack[rows], data)
        leaving = np.flatnonzero((t.flags & (FIN | RST)) != 0)
        self.leaving_at = np.searchsorted(leaving, d.bounds)
        self.leaving_ns = t.time_ns[leaving]

    # ------------------------------------------------------------ columns of mails

    def _make_mails(self, first_key: int, first_mail: int) -> list[list[MailRecord]]:
        """The mails of each connection, those inside TLS left out."""
        plain, p = self.plain, self.pieces
        commands, replies, bodies = plain.commands, plain.replies, plain.bodies
        of, index, outlines = self._outlined_mails()
        final = np.array([-1 if mail.reply is None else mail.reply for mail in outlines], np.int64)
        answered = final >= 0
        final = np.where(answered, replies.bounds[of] + final, 0)
        reply_ns = self.time_ns[replies.piece[final]]
        late = answered & (reply_ns > self.survey.client_gone_ns[of])  # accepted when the client had gone
        plain.plain[of[late]] = False
        keep = plain.plain[of]
        of, index, final, reply_ns = (column[keep] for column in (of, index, final, reply_ns))
        answered = answered[keep]
        outlines = [mail for mail, kept in zip(outlines, keep.tolist(), strict=True) if kept]
        client = 2 * of
        command = commands.bounds[of] + np.array([mail.mail for mail in outlines], np.int64)
        sent = np.array([mail.bodies is not None for mail in outlines], bool)
        first, last = (
            np.where(
                sent, bodies.bounds[of] + np.array([(mail.bodies or (0, 0))[i] for mail in outlines], np.int64), -1
            )
            for i in range(2)
        )
        # a mail without content has the body that stands behind the last one
        body_start, body_end, terminator_end = (np.append(column, -1) for column in bodies[1:4])
        dotted = terminator_end[last] >= 0
        end = np.where(sent, np.maximum(body_end, terminator_end)[last], commands.start[command] + 1)
        end_piece = p.at(client, end - 1)
        start_piece = commands.first[command]
        end_sent_ns = self.time_ns[end_piece]
        limit = self.survey.wire_limit[client]
        whole = (p.start[end_piece] <= end - LENGTH) & (self.ip_bytes[end_piece] <= limit)
        ranges = np.stack((start_piece, end_piece + 1), axis=1).ravel()
        largest = np.maximum.reduceat(np.append(self.ip_bytes, 0), ranges)[::2] if len(of) else self.ip_bytes[:0]
        seen = np.append(0, np.cumsum(np.maximum(bodies.end, bodies.terminator_end) - bodies.start))
        size = np.append(0, np.cumsum(bodies.size))
        ends = list(map(self._end, client.tolist(), end.tolist(), end_piece.tolist(), whole.tolist(), dotted.tolist()))
        gave_up_by = self._gave_up_by(of, np.where(sent, end_sent_ns, 0))
        names = commands.mailbox
        command_of = commands.bounds[of].tolist()
        n = len(of)
        records = map(
            MailRecord,
            range(first_mail, first_mail + n),  # key
            (first_key + of).tolist(),  # talk
            index.tolist(),
            [names[i] for i in command.tolist()],  # mail_from
            [
                tuple([names[base + i] or "" for i in mail.recipients])
                for base, mail in zip(command_of, outlines, strict=True)
            ],
            _where(sent, size[last + 1] - size[first]),
            repeat(False),  # size_estimated
            [mail.via for mail in outlines],
            [cut for cut, _, _, _ in ends],
            [frames for _, frames, _, _ in ends],  # end_frames
            [mail.reply_code for mail in outlines],
            self._reply_frames(final, answered),
            [mail.outcome for mail in outlines],
            self.time_ns[start_piece].tolist(),
            _where(answered, reply_ns),  # end_ns
            _where(sent, end_sent_ns),
            _where(sent & answered, (reply_ns - end_sent_ns) / 1e9),  # reply_delay_s
            repeat(None),  # waited_s
            gave_up_by,
            sent.tolist(),  # end_sent
            _where(sent, sent),  # end_acked
            np.where(sent, 1 + self._sent_again(client, end - 1), 0).tolist(),  # end_sends
            sent.tolist(),  # body_acked
            answered.tolist(),
            repeat(False),  # accepted_late
            [mail.bodies is not None or mail.via == "bdat" for mail in outlines],  # in_data
            repeat(False),  # closed_in_data
            np.where(sent, seen[last + 1] - seen[first], 0).tolist(),  # data_bytes_sent
            np.minimum(largest, limit).tolist(),
            [hold for _, _, hold, _ in ends],  # hold_back_s
            [alone for _, _, _, alone in ends],  # end_alone
            self._prints(client, np.where(sent, body_start[first], 0), np.where(sent, body_end[last], 0), sent),
        )
        self.mails = n
        mails: list[list[MailRecord]] = [[] for _ in self.talks]
        for connection, record in zip(of.tolist(), records, strict=False):
            mails[connection].append(record)
        return mails

    def _outlined_mails(self) -> tuple[Ints, Ints, list[MailOutline]]:
        """Connection, number in it from 1, and outline of each mail."""
        plain = self.plain
        of, index, outlines = [], [], []
        for c in np.flatnonzero(plain.plain).tolist():
            outline = plain.outline[c]
            assert outline is not None
            if outline.mails is None:
                plain.plain[c] = False
                continue
            for number, mail in enumerate(outline.mails, 1):
                of.append(c)
                index.append(number)
                outlines.append(mail)
        return np.array(of, np.int64), np.array(index, np.int64), outlines

    def _end(
        self, client: int, end: int, piece: int, whole: bool, dotted: bool
    ) -> tuple[Cuts | None, tuple[Ref, ...], float | None, bool]:
        """How the terminator that ends there was cut, the frames that carried it, and whether it was held back."""
        if not dotted:
            return None, (), None, False
        if whole:
            return _WHOLE, ((int(self.capture[piece]), int(self.frame[piece])),), None, False
        start, first = end - LENGTH, piece
        while self.pieces.start[first] > start:
            first -= 1
        boundaries = self.pieces.start[first + 1 : piece + 1].tolist()
        inferred: list[int] = []
        limit = int(self.survey.wire_limit[client])
        for i in range(first, piece + 1):
            begin, stop, size = int(self.pieces.start[i]), int(self.pieces.end[i]), int(self.ip_bytes[i])
            if size > limit:
                inferred += wire_boundaries(begin, stop, limit - (size - (stop - begin)))
        found = cuts(start, boundaries, inferred)
        return found, self._frames(first, piece), *self._held_back(client, end - 3)

    def _frames(self, first: int, last: int) -> tuple[Ref, ...]:
        pieces = slice(first, last + 1)
        return tuple(zip(self.capture[pieces].tolist(), self.frame[pieces].tolist(), strict=True))

    def _held_back(self, client: int, dot: int) -> tuple[float | None, bool]:
        """See mails._held_back."""
        piece = int(self.pieces.at(np.array([client]), np.array([dot]))[0])
        if self.pieces.start[piece] != dot:
            return None, False
        d = self.delivery
        lo, hi = d.bounds[client + 1 : client + 3]
        time, ack = d.group.table.time_ns[lo:hi], d.ack[lo:hi]
        sent = int(self.time_ns[piece])
        reached = np.flatnonzero((ack != NOT_ACK) & (time <= sent) & (ack >= dot))
        return ((sent - int(time[reached[0]])) / 1e9 if len(reached) else None), True

    def _reply_frames(self, reply: Ints, answered: Bools) -> list[tuple[Ref, ...]]:
        """The frames of these replies; most stand in one."""
        replies = self.plain.replies
        first = replies.piece[reply]
        frames: list[tuple[Ref, ...]] = [
            ((capture, frame),)
            for capture, frame in zip(self.capture[first].tolist(), self.frame[first].tolist(), strict=True)
        ]
        for i in np.flatnonzero(self.pieces.end[first] < replies.end[reply]).tolist():
            stream = 2 * np.searchsorted(replies.bounds, reply[i : i + 1], side="right") - 1
            frames[i] = self._frames(int(first[i]), int(self.pieces.at(stream, replies.end[reply[i : i + 1]] - 1)[0]))
        for i in np.flatnonzero(~answered).tolist():
            frames[i] = ()
        return frames

    def _gave_up_by(self, connection: Ints, since_ns: Ints) -> list[str]:
        """See mails._gave_up_by: who sent the first FIN or RST behind these times."""
        # times as small numbers, so that one search finds the first one behind `since` of each stream
        times, rank = np.unique(np.append(self.leaving_ns, since_ns), return_inverse=True)
        streams = np.repeat(np.arange(len(self.leaving_at) - 1), np.diff(self.leaving_at)) * len(times)
        leaving = streams + rank[: len(streams)]
        gone = []
        for stream in (2 * connection, 2 * connection + 1):
            at = np.searchsorted(leaving, stream * len(times) + rank[len(streams) :])
            gone.append(np.where(at < self.leaving_at[stream + 1], np.append(self.leaving_ns, NEVER)[at], NEVER))
        who = np.where(gone[0] <= gone[1], 0, 1)
        who[(gone[0] == NEVER) & (gone[1] == NEVER)] = 2
        return [_WHO[i] for i in who.tolist()]

    def _sent_again(self, stream: Ints, offset: Ints) -> Ints:
        """How often the byte at this offset was sent again: packets that began before it less those that ended."""
        d, again = self.delivery, self.survey.again
        shift, wanted = d.direction_of(again) * _FAR, offset + stream * _FAR
        begun = np.searchsorted(np.sort(d.seq[again] + shift), wanted, side="right")
        sends: Ints = begun - np.searchsorted(np.sort(d.end[again] + shift), wanted, side="right")
        return sends

    def _prints(self, client: Ints, start: Ints, end: Ints, sent: Bools) -> list[tuple[int, int] | None]:
        """See mails._print."""
        head, tail = np.minimum(end, start + PRINT_BYTES), np.maximum(start, end - PRINT_BYTES)
        ranges = [np.concatenate(pair) for pair in ((client, client), (start, tail), (head, end))]
        text, base = self.pieces.text(*ranges)
        at, n = base.tolist(), len(start)
        return [
            (size, crc32(text[at[n + i] : at[n + i + 1]], crc32(text[at[i] : at[i + 1]]))) if known else None
            for i, (size, known) in enumerate(zip((end - start).tolist(), sent.tolist(), strict=True))
        ]

    # ------------------------------------------------------------ columns of connections

    def _make_talks(self, first_key: int, mails: list[list[MailRecord]], first_mail: int) -> None:
        s, d, plain = self.survey, self.delivery, self.plain
        t = d.group.table
        of = np.flatnonzero(plain.plain)
        client, server = 2 * of, 2 * of + 1
        clients, servers = t[d.bounds[client]], t[d.bounds[server]]
        texts = [
            list(map(address_text, high.tolist(), low.tolist()))
            for high, low in ((clients.src_hi, clients.src_lo), (clients.dst_hi, clients.dst_lo))
        ]
        # the first packet is the client's, unless the server's stands before it
        keys = np.stack((servers.time_ns - clients.time_ns, servers.capture.astype(np.int64) - clients.capture))
        behind = servers.frame.astype(np.int64) - clients.frame
        order = np.where(keys[0] != 0, keys[0], np.where(keys[1] != 0, keys[1], behind))
        capture, frame = (
            np.where(order >= 0, a, b) for a, b in ((clients.capture, servers.capture), (clients.frame, servers.frame))
        )
        asked_ns, _, ready_ns = (column[of] for column in s.handshake_ns)
        gone_ns = s.client_gone_ns[of]
        greeting, hello = plain.replies.bounds[of], plain.hello_reply[of]
        length = self.pieces.length()
        longest, known = self._longest_reply_delays()
        dialogues = [plain.dialogue[c] for c in of.tolist()]
        talks = map(
            Talk,
            (first_key + of).tolist(),
            zip(texts[0], clients.src_port.tolist(), strict=True),
            zip(texts[1], clients.dst_port.tolist(), strict=True),
            s.start_ns[of].tolist(),
            s.end_ns[of].tolist(),
            zip(capture.tolist(), frame.tolist(), strict=True),
            np.diff(d.group.first)[of].tolist(),  # frame_count
            repeat(True),  # handshake_seen
            [CLOSED_BY[i] for i in s.closed_by[of].tolist()],
            _where(gone_ns != NEVER, gone_ns),
            [AT[i] for i in s.at[client].tolist()],
            ((ready_ns - asked_ns) / 1e9).tolist(),  # rtt_s
            [mss or None for mss in s.mss[client].tolist()],
            [mss or None for mss in s.mss[server].tolist()],
            length[client].tolist(),
            length[server].tolist(),
            dialogues,
            [mails[c] for c in of.tolist()],
            self._reply_frames(greeting, np.ones(len(of), bool)),
            self._reply_frames(np.maximum(hello, 0), hello >= 0),
            ((self.time_ns[plain.replies.piece[greeting]] - ready_ns) / 1e9).tolist(),  # greeting_delay_s
            repeat(0.0),  # zero_window_s
            repeat(None),
            repeat(0),
            repeat(False),
            repeat(()),
            _where(known[of], longest[of] / 1e9),
            repeat(0),  # gap_bytes
        )
        in_tls: list[tuple[int, Talk]] = []
        for c, talk in zip(of.tolist(), talks, strict=False):
            if plain.tls_start[c, 0] >= 0:
                in_tls.append((c, talk))
            elif self._complete(c, talk):
                self.talks[c] = talk
        if in_tls:
            self._read_tls(in_tls, first_mail)

    def _longest_reply_delays(self) -> tuple[Ints, Bools]:
        """Per connection: the longest time from a command to its reply, and whether there is one."""
        commands, replies = self.plain.commands, self.plain.replies
        asked = self.time_ns[commands.last]
        told = self.time_ns[np.append(replies.piece, 0)[commands.answer]]
        delay = np.where(commands.answer >= 0, told - asked, -NEVER)
        longest = np.full(len(self.talks), -NEVER)
        filled = np.diff(commands.bounds) > 0
        if filled.any():
            longest[filled] = np.maximum.reduceat(delay, commands.bounds[:-1][filled])
        return longest, longest != -NEVER

    def _complete(self, c: int, talk: Talk) -> bool:
        """What only few connections have; False when it is odd."""
        dialogue, outline = talk.dialogue, self.plain.outline[c]
        assert outline is not None
        if dialogue.awaited not in (None, "QUIT"):
            if outline.mails or outline.replies[-1].code == 421:
                return False
            log = self._expected_log(c, talk)
            if log is None:
                return False
            talk.expected_log = log
        # in smtp a dialogue is one by its greeting word or by its mails; the shared dialogue holds no mails
        return dialogue.is_smtp or not talk.mails

    def _expected_log(self, c: int, talk: Talk) -> dict[str, str] | None:
        """See mails._expected_log; None when bytes came behind the end."""
        silence = None
        if talk.closed_by != "open":
            d, t = self.delivery, self.delivery.group.table
            ends: list[int] = []
            fresh: list[int] = []
            for stream in (2 * c, 2 * c + 1):
                ends += self.leaving_ns[self.leaving_at[stream] : self.leaving_at[stream + 1]][:1].tolist()
                rows = slice(*d.bounds[stream : stream + 2])
                fresh += t.time_ns[rows][(t.payload_bytes[rows] > 0) & ~d.resend[rows]].tolist()
            end = min(ends)
            if max(fresh, default=end) > end:  # only the last new byte of either side counts there
                return None
            silence = (end - max(fresh, default=end)) / 1e9
        ending = mtalog.Ending(
            closed_by=talk.closed_by,  # type: ignore[arg-type]
            silence_s=silence,
            received_bytes=int(self.delivery.acked[2 * c]),
            client=f"{talk.client[0]}[{talk.client[0]}]",
            server=f"{talk.server[0]}[{talk.server[0]}]",
        )
        return dict(mtalog.predict(talk.dialogue, ending).items())

    def _read_tls(self, talks: list[tuple[int, Talk]], first_mail: int) -> None:
        """What the records tell, and the mails that hide in them (see dialogue.read_tls and mails._join_mail)."""
        found: list[tuple[int, Talk, TlsMail, _View]] = []
        for c, talk in talks:
            client, server = _View(self, 2 * c), _View(self, 2 * c + 1)
            client_start, server_start = self.plain.tls_start[c].tolist()
            session = read_session(client, server, client_start, server_start)
            if not session.handshake_complete or any(not (mail.whole and mail.answered) for mail in session.mails):
                continue
            self.talks[c] = talk
            talk.dialogue = replace(
                talk.dialogue,
                tls="starttls",
                tls_client_start=client_start,
                tls_server_start=server_start,
                tls_session=session,
                phase="tls",
                awaited=None,
            )
            found += [(c, talk, mail, client) for mail in session.mails]
        of = np.array([c for c, _, _, _ in found], np.int64)
        last = np.array([mail.end - 1 for _, _, mail, _ in found], np.int64)
        end_ns = self.time_ns[self.pieces.at(2 * of, last)]
        gave_up_by = self._gave_up_by(of, end_ns)
        sends = (1 + self._sent_again(2 * of, last)).tolist()
        for i, ((_, talk, mail, client), end_sent_ns) in enumerate(zip(found, end_ns.tolist(), strict=True)):
            talk.mails.append(
                MailRecord(
                    key=first_mail + self.mails + i,
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
                    gave_up_by=gave_up_by[i],
                    end_sent=True,
                    end_acked=True,
                    end_sends=sends[i],
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
        self.mails += len(found)


class _View:
    """One side's whole stream, for smtp.tls: what TLS encrypts is not put together."""

    def __init__(self, group: RegularGroup, stream: int) -> None:
        pieces = group.pieces
        first, last = pieces.bounds[stream : stream + 2].tolist()
        mine = slice(first, last)
        self.starts, self.ends = pieces.start[mine], pieces.end[mine]
        self.start_of: list[int] = self.starts.tolist()  # few are asked for: quicker than an array
        self.ack, self.time_ns, self.ip_bytes = pieces.ack[mine], group.time_ns[mine], group.ip_bytes[mine]
        self.wire_limit = int(group.survey.wire_limit[stream])
        self.start = 0
        self.end = int(self.ends[-1]) if len(self.ends) else 0
        self._data = pieces.data
        self._first = first
        self._views, self._buffer, self._shift = group.views, group.buffer[mine].tolist(), group.shift[mine].tolist()

    def pieces(self) -> list[tuple[int, Octets]]:
        return [(0, self)] if self.end else []

    def __len__(self) -> int:
        return self.end

    def __getitem__(self, part: slice, /) -> bytes:
        """The stream's bytes: of what TLS encrypts only the headers of its records are looked at."""
        begin, stop, _ = part.indices(self.end)
        if begin >= stop:
            return b""
        first, last = self._number(begin), self._number(stop - 1)
        if first == last:
            shift = self._shift[first]
            return bytes(self._views[self._buffer[first]][shift + begin : shift + stop])
        numbers = np.arange(first, last + 1)
        begins, ends = np.maximum(self.starts[numbers], begin), np.minimum(self.ends[numbers], stop)
        return self._data(numbers + self._first, begins, ends)

    def _number(self, offset: int) -> int:
        return bisect_right(self.start_of, offset) - 1

    def peer_at(self, offset: int) -> int | None:
        if not 0 <= offset < self.end:
            return None
        ack = int(self.ack[self._number(offset)])
        return ack if ack != NOT_ACK else None

    def time_at(self, offset: int) -> int | None:
        return int(self.time_ns[self._number(offset)]) if 0 <= offset < self.end else None

    def largest_packet(self, start: int, end: int) -> int:
        return min(int(self.ip_bytes[self._number(start) : self._number(end - 1) + 1].max()), self.wire_limit)
