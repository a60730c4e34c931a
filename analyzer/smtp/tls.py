"""What TLS lets through: record headers. Handshake, flights, and the mails that hide in them, by their sizes.

Everything about the inside is an estimate and is marked as such. What a record header tells for certain: who sent how
many bytes when, and how far the handshake came.

    RFC 8446 5.1, RFC 5246 6.2.1:   struct { ContentType type; ProtocolVersion legacy_record_version; uint16 length; ... }

A *flight* is what the client sent without hearing anything in between. SMTP's flights are small (commands), except for
mails. So a flight larger than any group of commands is a mail; smaller mails are not told from commands.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .lines import joined

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
_HEADER = struct.Struct(">BBBH")  # type, version (3, 0..4), length
HEADER_BYTES = _HEADER.size
# RFC 5246 6.2.3: a ciphertext is at most 2^14 + 2048 bytes (RFC 8446 5.2: 2^14 + 256).
LONGEST_RECORD = 2**14 + 2048

_CLIENT_HELLO, _SERVER_HELLO = 1, 2

# RFC 5321 4.5.3.1.4: a command line has at most 512 octets, extensions add some hundred; MAIL, some RCPT and DATA in one
# flight stay below 1000, the bound that RFC 5321 4.5.3.1.6 sets for one line of a mail.
_LONGEST_COMMANDS = 1000

_DOT_BYTES = 3  # ". CR LF" behind the mail


class Octets(Protocol):
    """Bytes, or what looks like them and is put together where it is looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class View(Protocol):
    """What of lines.StreamView is asked for here."""

    @property
    def end(self) -> int: ...

    def pieces(self) -> Sequence[tuple[int, Octets]]: ...

    def peer_at(self, offset: int) -> int | None: ...


class Record(NamedTuple):
    """One TLS record. Offsets [start, end) in its stream, header included."""

    type: int
    start: int
    end: int


class TlsMail(NamedTuple):
    """A flight of the client that is larger than commands are. Offsets [start, end) of its records."""

    start: int
    end: int
    size: int  # estimated: records without their overhead, without the final dot
    whole: bool  # all bytes of its last record are known to have been sent
    answered: bool | None  # the server said something behind it; None: cannot be told


@dataclass(slots=True)
class TlsSession:
    """What can be said of a TLS session inside a connection."""

    client_hello_bytes: int | None = None  # on the wire, record headers included; None: not seen
    client_hello_end: int | None = None  # offset behind it in the client's stream; it may not all have been sent
    server_answered: bool = False  # any record of the server
    version: str | None = None  # "TLS 1.3" or "TLS 1.2 or older", from the ServerHello
    handshake_complete: bool = False
    alert: int | None = None  # description of an alert in clear (RFC 8446 6): the handshake failed
    client_flights: int = 0  # of application data, the handshake's own left out
    mails: list[TlsMail] = field(default_factory=list)
    gaps: bool = False  # records are missing: sizes may be too small


def read_session(client: View, server: View, client_start: int, server_start: int) -> TlsSession:
    """Read the TLS session that begins at these offsets of the two streams."""
    theirs, ours = _Records(server, server_start), _Records(client, client_start)
    session = TlsSession(server_answered=bool(theirs.records), gaps=theirs.gaps or ours.gaps)
    _read_client_hello(session, ours)
    suite = _read_server_hello(session, theirs)
    session.handshake_complete = _is_complete(session, ours.records, theirs.records)
    session.alert = _clear_alert(session, ours, theirs)
    if session.handshake_complete:
        _read_flights(session, client, server, ours, theirs, _overhead_bytes(suite))
    return session


# ---------------------------------------------------------------- bytes -> records


class _Records:
    """The records of one stream, and the bytes of those in clear."""

    def __init__(self, view: View, start: int) -> None:
        self.end = view.end
        pieces = view.pieces()
        if len(pieces) > 1:
            pieces = list(joined([(at, data[:]) for at, data in pieces]))
        self.pieces = [(at, data) for at, data in pieces if at + len(data) > start]
        self.gaps = False
        self.records: list[Record] = list(self._walk(start))

    def _walk(self, pos: int) -> Iterator[Record]:
        for at, data in self.pieces:
            if pos < at:  # the header lies in a gap
                self.gaps = True
                pos = at + _next_header(data, 0)
            stop = at + len(data)
            while pos + HEADER_BYTES <= stop:
                header = _header(data, pos - at)
                if header is None:
                    self.gaps = True
                    pos = at + _next_header(data, pos - at + 1)
                    continue
                end = pos + HEADER_BYTES + header[1]
                yield Record(header[0], pos, end)
                pos = end

    def content(self, record: Record, limit: int) -> bytes:
        """Up to `limit` bytes behind the record's header, as far as they were captured."""
        begin = record.start + HEADER_BYTES
        for at, data in self.pieces:
            if at <= begin < at + len(data):
                return data[begin - at : min(record.end, begin + limit) - at]
        return b""


def _header(data: Octets, at: int) -> tuple[int, int] | None:
    """Type and length that the record header at this place tells; None when there is none."""
    if at + HEADER_BYTES > len(data):
        return None
    kind, major, minor, length = _HEADER.unpack(data[at : at + HEADER_BYTES])
    is_header = (
        CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA and major == 3 and minor <= 4 and length <= LONGEST_RECORD
    )
    return (kind, length) if is_header else None


def _next_header(octets: Octets, begin: int) -> int:
    """Index of the next application-data header behind a gap whose record ends at another header, or at the end."""
    data = octets[:]
    at = data.find(b"\x17\x03\x03", begin)
    while at >= 0:
        header = _header(data, at)
        if header is not None:
            behind = at + HEADER_BYTES + header[1]
            if behind + HEADER_BYTES > len(data) or _header(data, behind) is not None:
                return at
        at = data.find(b"\x17\x03\x03", at + 1)
    return len(data)


# ---------------------------------------------------------------- the handshake


def _read_client_hello(session: TlsSession, ours: _Records) -> None:
    """RFC 8446 4: a handshake message is a type, three bytes of length, and so many bytes, cut into records."""
    records = ours.records
    if not records or records[0].type != HANDSHAKE:
        return
    head = ours.content(records[0], 4)
    if len(head) < 4 or head[0] != _CLIENT_HELLO:
        return
    left = 4 + int.from_bytes(head[1:])
    end = records[0].start
    for record in records:
        if record.type != HANDSHAKE or left <= 0:
            break
        left -= record.end - record.start - HEADER_BYTES
        end = record.end
    if left > 0:  # the records that hold the rest were not sent, or not captured
        end += HEADER_BYTES + left
    session.client_hello_end = end
    session.client_hello_bytes = end - records[0].start


def _read_server_hello(session: TlsSession, theirs: _Records) -> int | None:
    """The cipher suite that the server chose.

    RFC 8446 4.1.3:  type(1) length(3) legacy_version(2) random(32) session_id<0..32> cipher_suite(2) ...
    """
    first = next((record for record in theirs.records if record.type == HANDSHAKE), None)
    if first is None:
        return None
    hello = theirs.content(first, 4 + 2 + 32 + 1 + 32 + 2)
    if len(hello) < 39 or hello[0] != _SERVER_HELLO:
        return None
    at = 39 + hello[38]
    suite = hello[at : at + 2]
    if len(suite) < 2:
        return None
    # RFC 8446 B.4: the suites of TLS 1.3 are 0x1301 .. 0x1305, and used by no other version
    session.version = "TLS 1.3" if suite[0] == 0x13 else "TLS 1.2 or older"
    return int.from_bytes(suite)


def _is_complete(session: TlsSession, ours: Sequence[Record], theirs: Sequence[Record]) -> bool:
    """Both sides sent their Finished.

    TLS 1.3 hides it in application data (RFC 8446 5.1); before, it is the handshake record behind ChangeCipherSpec.
    Application data of both sides proves it in any version.
    """
    if all(any(record.type == APPLICATION_DATA for record in side) for side in (ours, theirs)):
        return True
    return session.version != "TLS 1.3" and all(_finished(side) for side in (ours, theirs))


def _finished(records: Sequence[Record]) -> bool:
    changed = False
    for record in records:
        if changed and record.type == HANDSHAKE:
            return True
        changed = changed or record.type == CHANGE_CIPHER_SPEC
    return False


def _clear_alert(session: TlsSession, *sides: _Records) -> int | None:
    """RFC 8446 6: struct { AlertLevel level; AlertDescription description; }, two bytes while in clear."""
    if session.handshake_complete:
        return None
    for side in sides:
        for record in side.records:
            content = side.content(record, 2) if record.type == ALERT and record.end - record.start == 7 else b""
            if len(content) == 2 and content[0] == 2:  # fatal
                return content[1]
    return None


# ---------------------------------------------------------------- flights and mails


def _overhead_bytes(suite: int | None) -> int:
    """Bytes that a record adds to its content: header, nonce, content type, tag."""
    if suite is None or suite >> 8 == 0x13:
        return HEADER_BYTES + 1 + 16  # RFC 8446 5.2: the content's type, and a tag of 16 bytes
    if suite in range(0xCCA8, 0xCCAF):
        return HEADER_BYTES + 16  # RFC 7905: ChaCha20-Poly1305 sends no nonce
    return HEADER_BYTES + 8 + 16  # RFC 5288: AES-GCM; older suites with CBC add up to 30 bytes more


def _read_flights(
    session: TlsSession, client: View, server: View, ours: _Records, theirs: _Records, overhead: int
) -> None:
    data = [record for record in ours.records if record.type == APPLICATION_DATA]
    if session.version == "TLS 1.3":
        data = data[1:]  # Finished
    replies = [record for record in theirs.records if record.type == APPLICATION_DATA]
    for flight in _flights(client, data):
        session.client_flights += 1
        size = sum(max(record.end - record.start - overhead, 0) for record in flight)
        if size > _LONGEST_COMMANDS:
            end = flight[-1].end
            answered = _is_answered(server, replies, end)
            session.mails.append(TlsMail(flight[0].start, end, size - _DOT_BYTES, end <= ours.end, answered))


def _flights(client: View, records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records that the client sent without having heard anything new."""
    flight: list[Record] = []
    heard: int | None = None
    for record in records:
        now = client.peer_at(record.start)
        if flight and now is not None and heard is not None and now > heard:
            yield flight
            flight = []
        flight.append(record)
        heard = now if now is not None else heard
    if flight:
        yield flight


def _is_answered(server: View, replies: Sequence[Record], end: int) -> bool | None:
    """True when the server sent something after it had received `end` bytes of the client."""
    if not replies:
        return False
    received = server.peer_at(replies[-1].start)
    return None if received is None else received >= end
