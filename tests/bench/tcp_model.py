"""A small TCP between two hosts over a path with delay, loss, reordering and an MTU; what a capture point on it sees.

The benchmark's captures must hold together: sequence numbers, acknowledgments, SACK blocks, timestamps and resends
have to be what two real stacks would have sent, or a reader that follows them is measured on nonsense. So every
connection comes out of this model, which knows what a bulk sender does (RFC 5681 slow start from ten segments as in
RFC 6928, Minshall's variant of Nagle, RFC 2018 SACK, RFC 6298 timer with back-off, delayed ACKs) and nothing more.

Sequence numbers here are relative: the SYN is 0, the first byte is 1. Times are nanoseconds from the first SYN.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
CLIENT, SERVER = 0, 1
MS = 1_000_000
SECOND = 1000 * MS
INITIAL_WINDOW = 10  # segments, RFC 6928
RTO_MIN_NS = 200 * MS  # Linux; RFC 6298 would say 1 s
DELAYED_ACK_NS = 40 * MS  # Linux' minimum
REORDER_WINDOW = 0.25  # of an RTT, RACK (RFC 8985 6.2)


@dataclass(frozen=True)
class Host:
    """What one side's stack announces."""

    mss: int = 1460
    timestamps: bool = True
    ttl: int = 64
    window_scale: int = 7
    window: int = 502  # unscaled, after the handshake
    ack_every: int = 2  # full segments per ACK (RFC 5681 4.2); more where the NIC merges them (GRO)


@dataclass(frozen=True)
class Path:
    """One way and back between client and server, and where the capture is taken."""

    one_way_ns: int = 10 * MS
    segment_ns: int = 12_000  # spacing of full segments on the slowest link: 12 us = 1 Gbit/s
    loss: float = 0.0  # of data segments from the client, and half as much of everything from the server
    reorder: float = 0.0  # packets held back by a few segment times
    mtu: int | None = None  # larger packets from the client vanish without a word: the black hole
    tap: float = 0.0  # 0 = captured on the client, 1 = on the server, between = on the way
    ipv6: bool = False


@dataclass(frozen=True)
class Turn:
    """One side speaks once it has everything that was said before, thinks, and writes."""

    side: int
    writes: tuple[bytes, ...] = ()
    think_ns: int = 0
    close: bool = False
    reset: bool = False


@dataclass
class Packet:
    """A TCP packet as the capture point saw it."""

    time_ns: int
    side: int
    seq: int
    payload: bytes
    flags: int
    ack: int
    window: int
    ts_ms: int
    echo_ms: int
    sacks: tuple[tuple[int, int], ...] = ()
    resend: bool = False  # the sender had sent some of these bytes before
    lost: bool = False  # never reached the other side
    number: int = 0  # of the packet among its sender's: gives the IP identification


@dataclass
class _Segment:
    seq: int
    end: int
    sent_ns: int
    sacked: bool = False
    lost: bool = False
    again: int = 0


@dataclass
class _End:
    """One host's half of the connection: a sender of its own bytes and a receiver of the other's."""

    side: int
    host: Host
    stream: bytearray = field(default_factory=bytearray)
    una: int = 1
    nxt: int = 1
    closing: bool = False
    fin_sent: bool = False
    flight: list[_Segment] = field(default_factory=list)
    cwnd: float = INITIAL_WINDOW
    ssthresh: float = 1e9
    recover: int = 0  # in recovery while una < recover
    srtt_ns: float = 0.0
    backoff: int = 0
    timer: int = 0  # generation of the retransmission timer: an old event finds a newer number and does nothing
    small_end: int = 0  # end of the last small segment (Minshall)
    rcv_nxt: int = 1
    gathered: list[tuple[int, int]] = field(default_factory=list)  # out-of-order ranges, latest first for SACK
    unacked: int = 0
    ack_timer: int = 0
    echo_ms: int = 0
    sent: int = 0
    peer_fin: int | None = None

    @property
    def end(self) -> int:
        """Sequence number after everything written, FIN included."""
        return 1 + len(self.stream) + self.closing


class Exchange:
    """Runs the turns over the path; `packets` is what the capture point saw, in its order of time."""

    def __init__(
        self,
        turns: Sequence[Turn],
        path: Path,
        client: Host,
        server: Host,
        rng: np.random.Generator,
        *,
        horizon_ns: int = 120 * SECOND,
        collapse: bool = False,
        server_gives_up: tuple[int, bytes] | None = None,
    ) -> None:
        self.turns, self.path, self.rng = turns, path, rng
        self.collapse = collapse  # a resend may merge small neighbours, so that byte ranges overlap
        self.ends = (_End(CLIENT, client), _End(SERVER, server))
        self.packets: list[Packet] = []
        self.now = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._arrival = [0, 0]
        self._turn = 0
        self._turn_set = False
        self._random: list[float] = []
        self.cuts: tuple[set[int], set[int]] = (set(), set())  # where first transmissions ended, per side
        header = (40 if path.ipv6 else 20) + 20
        with_ts = client.timestamps and server.timestamps
        self.timestamps = with_ts
        self.header_bytes = header + (12 if with_ts else 0)
        self.payload_max = min(client.mss, server.mss) - (12 if with_ts else 0)
        self._handshake()
        if server_gives_up is not None:
            self._at(server_gives_up[0], lambda: self._give_up(server_gives_up[1]))
        while self._events and self._events[0][0] <= horizon_ns:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self.finished = self._turn == len(turns) and all(e.una == e.end for e in self.ends)
        self.packets.sort(key=lambda p: p.time_ns)

    # ---- the clock

    def _at(self, time_ns: int, act: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time_ns, self._order, act))

    def _chance(self) -> float:
        if not self._random:
            self._random = self.rng.random(256).tolist()
        return self._random.pop()

    # ---- the wire

    def _transmit(self, end: _End, seq: int, payload: bytes, flags: int, *, resend: bool = False) -> None:
        other = self.ends[1 - end.side]
        path, side = self.path, end.side
        packet = Packet(
            0, side, seq, payload, flags, end.rcv_nxt if flags & ACK else 0,
            64240 if flags & SYN else end.host.window, self.now // MS, end.echo_ms,
            tuple(end.gathered[:3]) if not flags & SYN else (), resend, number=end.sent,
        )  # fmt: skip
        end.sent += 1
        if flags & ACK:
            end.unacked, end.ack_timer = 0, end.ack_timer + 1
        ip_bytes = self.header_bytes + len(payload)
        loss = path.loss if side == CLIENT else path.loss / 2
        too_big = path.mtu is not None and side == CLIENT and ip_bytes > path.mtu
        handshake = bool(flags & SYN) or seq == 0
        lost = too_big or (not handshake and (payload or side == SERVER) and loss > 0 and self._chance() < loss)
        # Captured on the way: what is lost is lost before or after the tap, in the ratio of the two stretches.
        to_tap = path.tap if side == CLIENT else 1 - path.tap
        if lost and (to_tap == 1 or (not too_big and to_tap > 0 and self._chance() < to_tap)):
            return
        busy = path.segment_ns * max(ip_bytes, 84) // 1500
        leaves = max(self.now, self._arrival[side] - path.one_way_ns) + busy
        self._arrival[side] = leaves + path.one_way_ns
        held = 0
        if path.reorder and payload and self._chance() < path.reorder:
            held = int((2 + 4 * self._chance()) * path.segment_ns + 0.05 * path.one_way_ns)
        packet.lost = bool(lost)
        packet.time_ns = leaves + (int(to_tap * path.one_way_ns) + held if to_tap else 0)
        self.packets.append(packet)
        if not lost:
            self._at(leaves + path.one_way_ns + held, lambda: self._receive(other, packet))

    def _handshake(self) -> None:
        client, server = self.ends
        back = 2 * self.path.one_way_ns
        self._transmit(client, 0, b"", SYN)
        self._at(self.path.one_way_ns + 20_000, lambda: self._transmit(server, 0, b"", SYN | ACK))

        def established() -> None:
            client.echo_ms = self.path.one_way_ns // MS
            client.srtt_ns = server.srtt_ns = max(back, 100_000)
            self._transmit(client, 1, b"", ACK)

        self._at(back + 60_000, established)
        # The client's ACK arrives like any packet, and _receive lets the first turn begin.

    # ---- the sender

    def _push(self, end: _End) -> None:
        """Send what window, congestion window and Nagle allow: lost segments first, then new bytes."""
        budget = 1 if end.una < end.recover else 1000
        while budget:
            in_pipe = sum(1 for s in end.flight if not s.sacked and not s.lost)
            if in_pipe >= end.cwnd:
                break
            again = next((s for s in end.flight if s.lost and not s.sacked), None)
            if again is not None:
                self._resend(end, again)
                budget -= 1
                continue
            left = 1 + len(end.stream) - end.nxt
            window = self.ends[1 - end.side].host
            if end.nxt - end.una > (window.window << window.window_scale) - self.payload_max:
                break
            if left <= 0:
                if end.closing and not end.fin_sent:
                    end.fin_sent = True
                    end.flight.append(_Segment(end.nxt, end.nxt + 1, self.now))
                    self._transmit(end, end.nxt, b"", FIN | ACK)
                    end.nxt += 1
                    self._arm(end)
                break
            n = min(left, self.payload_max)
            if n < self.payload_max and end.una < end.small_end:
                break  # one small segment is on its way already
            if n < self.payload_max:
                end.small_end = end.nxt + n
            data = bytes(end.stream[end.nxt - 1 : end.nxt - 1 + n])
            fin = end.closing and n == left
            flags = ACK | (PSH if n == left else 0) | (FIN if fin else 0)
            end.fin_sent |= fin
            end.flight.append(_Segment(end.nxt, end.nxt + n + fin, self.now))
            self._transmit(end, end.nxt, data, flags)
            end.nxt += n + fin
            self.cuts[end.side].add(end.nxt - fin)
            budget -= 1
            if len(end.flight) == 1:
                self._arm(end)

    def _resend(self, end: _End, segment: _Segment) -> None:
        if self.collapse:
            self._merge_small(end, segment)
        segment.lost, segment.again, segment.sent_ns = False, segment.again + 1, self.now
        data = bytes(end.stream[segment.seq - 1 : segment.end - 1])
        fin = segment.end - 1 > len(end.stream)
        self._transmit(end, segment.seq, data, ACK | PSH | (FIN if fin else 0), resend=True)

    def _merge_small(self, end: _End, segment: _Segment) -> None:
        """Linux' tcp_retrans_try_collapse: small neighbours leave in one packet, so that resends overlap unequally."""
        at = end.flight.index(segment)
        while at + 1 < len(end.flight):
            after = end.flight[at + 1]
            whole = after.end - segment.seq <= self.payload_max and after.end - 1 <= len(end.stream)
            if after.sacked or not whole:
                break
            segment.end = after.end
            del end.flight[at + 1]

    def _arm(self, end: _End) -> None:
        end.timer += 1
        generation = end.timer
        rto = max(RTO_MIN_NS, int(end.srtt_ns) + RTO_MIN_NS) << end.backoff
        self._at(self.now + rto, lambda: self._timeout(end, generation))

    def _timeout(self, end: _End, generation: int) -> None:
        if generation != end.timer or not end.flight:
            return
        for s in end.flight:
            s.lost = not s.sacked
        end.ssthresh = max(len(end.flight) / 2, 2)
        end.cwnd, end.recover = 1, 0
        end.backoff = min(end.backoff + 1, 8)
        self._push(end)
        self._arm(end)

    def _suspect(self, end: _End, below: int) -> None:
        """The reordering window after a SACK is over: what is missing below it is lost (RACK)."""
        missing = [s for s in end.flight if s.end <= below and not s.sacked and not s.lost and not s.again]
        if not missing:
            return
        for s in missing:
            s.lost = True
        if end.una >= end.recover:
            end.ssthresh = end.cwnd = max(end.cwnd / 2, 2)
            end.recover = end.nxt
            self._resend(end, missing[0])  # fast retransmit does not ask the congestion window
        self._push(end)

    def _acknowledged(self, end: _End, packet: Packet) -> None:
        progress = packet.ack > end.una
        if progress:
            acked = [s for s in end.flight if s.end <= packet.ack]
            end.flight = [s for s in end.flight if s.end > packet.ack]
            end.una, end.backoff = packet.ack, 0
            clean = [s for s in acked if not s.again]
            if clean:
                end.srtt_ns += (self.now - clean[-1].sent_ns - end.srtt_ns) / 8
            for _ in acked:
                end.cwnd += 1 if end.cwnd < end.ssthresh else 1 / end.cwnd
            if end.una < end.recover and end.flight and not end.flight[0].again:
                end.flight[0].lost = not end.flight[0].sacked  # a partial ACK (RFC 6582)
        for left, right in packet.sacks:
            for s in end.flight:
                if left <= s.seq and s.end <= right and not s.sacked:
                    s.sacked = True
                    wait = int(REORDER_WINDOW * end.srtt_ns)
                    self._at(self.now + wait, lambda end=end, below=s.seq: self._suspect(end, below))  # type: ignore[misc]
        if progress and end.flight:
            self._arm(end)
        elif not end.flight:
            end.timer += 1
        self._push(end)

    # ---- the receiver

    def _receive(self, end: _End, packet: Packet) -> None:
        if packet.flags & (SYN | RST):
            return
        start, stop = packet.seq, packet.seq + len(packet.payload) + bool(packet.flags & FIN)
        if packet.flags & FIN:
            end.peer_fin = stop
        if start <= end.rcv_nxt:
            end.echo_ms = max(end.echo_ms, packet.ts_ms)
        if stop > start:
            in_order = start <= end.rcv_nxt < stop and not end.gathered
            self._store(end, start, stop)
            if not in_order or packet.flags & FIN:
                self._transmit(end, end.nxt, b"", ACK)
            else:
                end.unacked += 1
                if end.unacked >= end.host.ack_every:
                    self._transmit(end, end.nxt, b"", ACK)
                elif end.unacked == 1:
                    self._delay_ack(end)
        if packet.flags & ACK:
            self._acknowledged(end, packet)
        self._advance()

    def _store(self, end: _End, start: int, stop: int) -> None:
        """Take in [start, stop); ranges beyond a hole are kept for SACK, the one just touched first (RFC 2018 4)."""
        if start <= end.rcv_nxt:
            end.rcv_nxt = max(end.rcv_nxt, stop)
            for a, b in sorted(end.gathered):
                if a <= end.rcv_nxt:
                    end.rcv_nxt = max(end.rcv_nxt, b)
            end.gathered = [r for r in end.gathered if r[0] > end.rcv_nxt]
            return
        for a, b in list(end.gathered):
            if a <= stop and start <= b:
                end.gathered.remove((a, b))
                start, stop = min(a, start), max(b, stop)
        end.gathered.insert(0, (start, stop))

    def _delay_ack(self, end: _End) -> None:
        end.ack_timer += 1
        generation = end.ack_timer

        def fire() -> None:
            if generation == end.ack_timer and end.unacked:
                self._transmit(end, end.nxt, b"", ACK)

        self._at(self.now + DELAYED_ACK_NS, fire)

    # ---- the conversation

    def _advance(self) -> None:
        """Start the next turn when its speaker has received all that was written before it."""
        if self._turn_set or self._turn == len(self.turns):
            return
        turn = self.turns[self._turn]
        me, other = self.ends[turn.side], self.ends[1 - turn.side]
        before = self.turns[self._turn - 1] if self._turn else None
        if before is not None and before.side != turn.side and me.rcv_nxt < other.end:
            return
        self._turn_set = True
        self._at(self.now + turn.think_ns, lambda: self._speak(turn, me, 0))

    def _speak(self, turn: Turn, me: _End, number: int) -> None:
        if number < len(turn.writes):
            me.stream += turn.writes[number]
            last = number + 1 == len(turn.writes)
            me.closing |= turn.close and last
            self._push(me)
            if not last:
                self._at(self.now + 15_000, lambda: self._speak(turn, me, number + 1))
                return
        elif turn.close:
            me.closing = True
            self._push(me)
        if turn.reset:
            self._transmit(me, me.nxt, b"", RST | ACK)
        self._turn += 1
        self._turn_set = False
        self._advance()

    def _give_up(self, last_words: bytes) -> None:
        """The server's application is tired of waiting: it says so and closes."""
        server = self.ends[SERVER]
        if not server.closing:
            server.stream += last_words
            server.closing = True
            self._push(server)
