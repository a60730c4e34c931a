"""IP datagrams put together again from their fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

Only for the sake of the headers and of the bytes after them: lengths come from the IP headers, so that a small snap
length does not matter. Pieces that overlap others with a different range condemn the whole datagram (RFC 5722); an
exact copy of a piece is taken for a duplicate of the capture.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_PENDING = 1024  # unfinished datagrams; the oldest is let go for a new one
MAX_PIECES = 512  # of one datagram: 64 KiB in pieces of 128 bytes, far below any real MTU
MAX_PENDING_BYTES = 32 << 20  # of all unfinished datagrams together
LIFETIME_NS = 60 * 10**9  # RFC 8200 section 4.5; the longest that receivers wait

Key = tuple[int, int, int, int, int]  # capture, source, destination, identification, protocol


class Fragment(NamedTuple):
    offset: int
    length: int  # bytes of payload on the wire
    more: bool
    ip_bytes: int
    header: bytes  # the IP header (IPv6: its fixed part)
    data: bytes  # what was captured of the payload
    time_ns: int
    frame: dict[str, int]  # the columns that describe the frame


class Datagram(NamedTuple):
    first: Fragment
    data: bytes  # the payload, zeros where nothing was captured
    captured: int  # bytes from the beginning that were captured without a hole
    pieces: int
    largest: int  # bytes of the largest fragment as an IP packet


class _Pending(NamedTuple):
    pieces: tuple[Fragment, ...]
    condemned: bool
    since_ns: int


class Reassembly:
    """Unfinished datagrams, oldest first. Values are immutable, so that a copy of the dict is a snapshot."""

    def __init__(self) -> None:
        self._pending: dict[Key, _Pending] = {}
        self._bytes = 0

    def snapshot(self) -> tuple[dict[Key, _Pending], int]:
        return dict(self._pending), self._bytes

    def waits(self, now_ns: int) -> bool:
        """Whether a fragment that comes now may belong to one that came before."""
        return any(abs(now_ns - pending.since_ns) <= LIFETIME_NS for pending in self._pending.values())

    def restore(self, snapshot: tuple[dict[Key, _Pending], int]) -> None:
        self._pending, self._bytes = dict(snapshot[0]), snapshot[1]

    def add(self, key: Key, piece: Fragment) -> Datagram | str:
        """The whole datagram when this piece completes it, else the name under which the piece is counted."""
        known = self._pending.get(key)
        if known is not None and abs(piece.time_ns - known.since_ns) > LIFETIME_NS:
            self._drop(key)
            known = None
        if known is None:
            self._make_room(len(piece.data))
            known = _Pending((), False, piece.time_ns)
        if known.condemned:
            return "fragment-overlaps"
        for other in known.pieces:
            if (other.offset, other.length, other.more) == (piece.offset, piece.length, piece.more):
                return "fragments"
            if piece.offset < other.offset + other.length and other.offset < piece.offset + piece.length:
                self._drop(key)
                self._pending[key] = _Pending((), True, known.since_ns)
                return "fragment-overlaps"
        pieces = (*known.pieces, piece)
        if len(pieces) > MAX_PIECES:
            self._drop(key)
            return "undecodable"
        self._pending[key] = known._replace(pieces=pieces)
        self._bytes += len(piece.data)
        whole = _whole(pieces)
        if whole is None:
            return "fragments"
        self._drop(key)
        return whole

    def _drop(self, key: Key) -> None:
        gone = self._pending.pop(key, None)
        if gone is not None:
            self._bytes -= sum(len(p.data) for p in gone.pieces)

    def _make_room(self, size: int) -> None:
        while self._pending and (len(self._pending) >= MAX_PENDING or self._bytes + size > MAX_PENDING_BYTES):
            self._drop(next(iter(self._pending)))


def _whole(pieces: tuple[Fragment, ...]) -> Datagram | None:
    if sum(not p.more for p in pieces) != 1:
        return None
    ordered = sorted(pieces, key=lambda p: p.offset)
    if ordered[-1].more:
        return None
    reached = 0
    for piece in ordered:
        if piece.offset != reached:
            return None
        reached += piece.length
    data = bytearray(reached)
    captured, unbroken = 0, True
    for piece in ordered:
        data[piece.offset : piece.offset + len(piece.data)] = piece.data
        if unbroken:
            captured = piece.offset + len(piece.data)
            unbroken = len(piece.data) == piece.length
    return Datagram(ordered[0], bytes(data), captured, len(pieces), max(p.ip_bytes for p in pieces))
