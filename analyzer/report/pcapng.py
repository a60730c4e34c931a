"""The evidence for Wireshark: a pcapng with the flows of the findings, their ICMP, and the story as packet comments.

Written after draft-ietf-opsawg-pcapng: one section, one interface per link type, enhanced packet blocks with
nanoseconds. Each comment names the frame's number in the capture it comes from.

What mails hold is overwritten unless it is asked for: lengths, CR and LF, verbs, reply codes, the stars of a masked
greeting and the end of a mail stay, so that Wireshark shows the same dialogue. TLS stays as it is: it is encrypted. AUTH
exchanges are always overwritten. A packet whose content can not be found in its frame is left out and counted, not shown.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from ..capture.framing import Records, read_records
from ..capture.packets import CaptureInfo, IcmpError
from ..capture.sources import expand
from ..capture.windows import Windows
from ..case import Case, Evidence, Finding, Frame
from ..errors import CaptureError
from ..smtp import grammar
from ..smtp.dialogue import Dialogue, read_dialogue
from ..tcp.delivery import Direction, Trace
from ..tcp.streams import Stream
from . import wording
from .escape import visible

SECTION_HEADER, INTERFACE, ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
COMMENT, APPLICATION, TSRESOL, FLAGS = 1, 4, 9, 2  # options: opt_comment, shb_userappl, if_tsresol, epb_flags
SNAPLEN = 262144  # libpcap's largest: nothing is cut here
MOST_CONNECTIONS = 50  # a file that is still looked through by hand
COMMENT_LIMIT = 2000  # characters; an option holds 65,535 bytes (pcapng 3.5)
AUTH_VERBS = frozenset({"AUTH", "X-EXPS", grammar.AUTH_RESPONSE})
_REPLY_CODE = re.compile(rb"(?m)^[2-5]\d\d[ -]")
_AUTH_LINE = re.compile(rb"(?im)^[ \t]*(?:auth|x-exps)[ \t]+(\S[^\r\n]*)")


@dataclass(slots=True)
class Written:
    """What went into the file, and what did not."""

    frames: int = 0
    comments: int = 0
    left_out: list[Frame] = field(
        default_factory=list
    )  # their content could not be found, so it could not be overwritten


def connections_of(case: Case, most: int = MOST_CONNECTIONS) -> list[int]:
    """The connections that findings name: those of the evidence first, then the others, so many at most."""
    findings = wording.ordered(case.findings)
    named = [e.connection for f in findings for e in f.evidence if e.connection is not None]
    named += [c for f in findings for c in f.connections]
    return list(dict.fromkeys(named))[:most]


def write(case: Case, traces: Mapping[int, Trace], out: BinaryIO, *, keep_content: bool = False) -> Written:
    """The packets of `traces` (by connection id) and the ICMP errors about them, read again from the captures.

    Raises CaptureError when a capture can not be read any more.
    """
    packets = _packets(traces)
    comments = _comments(case, traces)
    done = Written()
    out.write(_section(case))
    interfaces: dict[int, int] = {}
    for capture in case.captures:
        wanted = {frame for at_capture, frame in packets if at_capture == capture.id}
        for record in _records(capture, wanted):
            place = Frame(capture.id, record.frame)
            data = packets[place].shown(record.data, keep_content=keep_content)
            if data is None:
                done.left_out.append(place)
                continue
            if record.link_type not in interfaces:
                interfaces[record.link_type] = len(interfaces)
                out.write(_interface(record.link_type))
            said = [_told(text, capture, record.frame) for text in comments.get(place, ())]
            out.write(_packet(record, interfaces[record.link_type], data, said))
            done.frames += 1
            done.comments += len(said)
    return done


# -- which packets, and what of them may be seen --------------------------------------------------------------------


class _Span(NamedTuple):
    start: int
    end: int


class _Spoken:
    """What of one direction's bytes may be seen: offsets are those of the stream."""

    def __init__(self, shown: list[_Span], secret: list[_Span], tls_start: int | None, *, replies: bool) -> None:
        self.shown, self.secret, self.tls_start, self.replies = shown, secret, tls_start, replies

    def overwrite(self, payload: bytearray, at: int, *, keep_content: bool) -> None:
        """Overwrite in place; the payload's first byte is byte `at` of the stream."""
        readable = len(payload)
        if self.tls_start is not None:
            readable = min(readable, max(self.tls_start - at, 0))
        before = bytes(payload[:readable])
        after = bytearray(before) if keep_content else bytearray(re.sub(rb"[^\r\n*]", b"X", before))
        for span in self.shown:
            first, last = max(span.start - at, 0), min(span.end - at, readable)
            after[first:last] = before[first:last] if first < last else after[first:last]
        for code in _REPLY_CODE.finditer(before) if self.replies else ():
            after[code.start() : code.end()] = code[0]
        for span in self.secret:
            first, last = max(span.start - at, 0), min(span.end - at, readable)
            if first < last:
                after[first:last] = re.sub(rb"[^\r\n]", b"X", before[first:last])
        for line in _AUTH_LINE.finditer(before):  # also where the dialogue could not be followed
            after[line.start(1) : line.end(1)] = b"X" * (line.end(1) - line.start(1))
        payload[:readable] = after


@dataclass(slots=True)
class _Segment:
    """A TCP packet of a flow: where its bytes lie in the stream, and what it looks like from its IP header on."""

    direction: Direction
    row: int
    spoken: _Spoken

    def shown(self, frame: bytes, *, keep_content: bool) -> bytes | None:
        table, row = self.direction.table, self.row
        packet, size = table.packet(row), int(table.payload_captured[row])
        if not size:  # nothing was said, or the snap length cut it off
            return frame
        at = frame.rfind(packet) if packet else -1
        if at < 0:  # put together from fragments
            return None
        end = at + len(packet)
        payload = bytearray(frame[end - size : end])
        self.spoken.overwrite(payload, int(self.direction.seq[row]), keep_content=keep_content)
        # What lies behind the packet is padding or a checksum of the frame; padding has leaked memory before (CVE-2003-0001).
        return frame[: end - size] + bytes(payload) + bytes(len(frame) - end)


@dataclass(slots=True)
class _IcmpQuote:
    """An ICMP error; it quotes the beginning of a packet, which may reach into a mail."""

    error: IcmpError

    def shown(self, frame: bytes, *, keep_content: bool) -> bytes | None:  # noqa: ARG002 - a quote is never needed in full
        size = 4 if self.error.ip_version == 4 else 16
        ends = (self.error.quoted_src, self.error.quoted_dst)
        quoted = b"".join(end.to_bytes(16, "big")[-size:] for end in ends)
        at = frame.rfind(quoted)
        header = at - (12 if size == 4 else 8)  # where the quoted IP header begins
        if at < 0 or header < 8:
            return None
        tcp = header + (4 * (frame[header] & 15) if size == 4 else 40)
        if len(frame) <= tcp + 12:
            return frame
        payload = tcp + max(4 * (frame[tcp + 12] >> 4), 20)
        data = bytearray(frame)
        data[payload:] = bytes(len(data) - payload) if payload < len(data) else b""
        self._sum(data, header - 8)
        return bytes(data)

    def _sum(self, data: bytearray, icmp: int) -> None:
        """The checksum of the changed message (RFC 792; RFC 4443 2.3 adds the pseudo-header)."""
        data[icmp + 2 : icmp + 4] = bytes(2)
        message = bytes(data[icmp:])
        if self.error.ip_version == 6:
            addresses = self.error.src.to_bytes(16, "big") + self.error.dst.to_bytes(16, "big")
            message = addresses + struct.pack(">II", len(message), 58) + message
        total = sum(struct.unpack(f">{(len(message) + 1) // 2}H", message + bytes(len(message) % 2)))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into(">H", data, icmp + 2, total ^ 0xFFFF)


def _packets(traces: Mapping[int, Trace]) -> dict[Frame, _Segment | _IcmpQuote]:
    packets: dict[Frame, _Segment | _IcmpQuote] = {}
    for trace in traces.values():
        client, server = Stream(trace.c2s), Stream(trace.s2c)
        dialogue = read_dialogue(client, server, from_start=trace.handshake_seen)
        for direction, spoken in ((trace.c2s, _client(dialogue)), (trace.s2c, _server(dialogue))):
            for row in range(len(direction)):
                place = Frame(int(direction.capture[row]), int(direction.frame[row]))
                packets[place] = _Segment(direction, row, spoken)
        for error in trace.icmp:
            packets[Frame(error.capture, error.frame)] = _IcmpQuote(error)
    return packets


def _client(dialogue: Dialogue) -> _Spoken:
    """Verbs and the ends of mails may be seen; AUTH, and what is not understood, never."""
    known = [c for c in dialogue.commands if c.verb not in (grammar.UNKNOWN, grammar.AUTH_RESPONSE)]
    shown = [_Span(c.start, c.start + len(c.verb) + 1) for c in known]  # with the space, or Wireshark sees no command
    shown += [
        _Span(m.body_end, m.terminator_end)
        for m in dialogue.mails
        if m.body_end is not None and m.terminator_end is not None
    ]
    secret = [_Span(c.start + (len(c.verb) + 1 if c.verb in ("AUTH", "X-EXPS") else 0), c.end) for c in dialogue.commands
              if c.verb in AUTH_VERBS or c.verb == grammar.UNKNOWN]  # fmt: skip
    return _Spoken(shown, secret, dialogue.tls_client_start, replies=False)


def _server(dialogue: Dialogue) -> _Spoken:
    """Reply codes may be seen, on each line; challenges of an AUTH exchange never."""
    challenges = [r for r in dialogue.replies if r.code == 334]
    return _Spoken([], [_Span(r.start + 4, r.end) for r in challenges], dialogue.tls_server_start, replies=True)


# -- what is said of them -------------------------------------------------------------------------------------------


def _comments(case: Case, traces: Mapping[int, Trace]) -> dict[Frame, list[str]]:
    """The story, by frame: the finding at the beginning of each flow, each piece of evidence, cut ends, ICMP."""
    said: dict[Frame, list[str]] = defaultdict(list)
    for number, trace in traces.items():
        first = min((_first(d) for d in trace.directions if len(d)), default=None)
        if first is None:
            continue
        for finding in wording.ordered(case.findings):
            if number in finding.connections:
                said[first].append(f"connection {number}: {_name(finding)}. {finding.explanation}")
        for error in trace.icmp:
            if error.is_too_big:
                mtu = f"MTU {error.mtu}" if error.mtu else "no MTU"
                said[Frame(error.capture, error.frame)].append(
                    f"ICMP: packet too big, {mtu}, about connection {number}"
                )
    for finding in wording.ordered(case.findings):
        for evidence in finding.evidence:
            for n, frame in enumerate(evidence.frames, 1):
                said[frame].append(_evidence(finding, evidence, n))
    for message in case.messages:
        if message.connection in traces and message.terminator and message.terminator.cut_at:
            cut = ", ".join(map(str, message.terminator.cut_at))
            for frame in message.terminator.frames:
                said[frame].append(f"the end of mail {message.id} (CR LF . CR LF) is cut after byte {cut}")
    return said


def _first(direction: Direction) -> Frame:
    return Frame(int(direction.capture[0]), int(direction.frame[0]))


def _name(finding: Finding) -> str:
    return f"finding {finding.id}, {finding.severity} {finding.rule} ({finding.confidence}): {finding.title}"


def _evidence(finding: Finding, evidence: Evidence, n: int) -> str:
    of = f" ({n} of {len(evidence.frames)})" if len(evidence.frames) > 1 else ""
    return f"finding {finding.id}, {finding.rule}: {evidence.note}{of}"


def _told(text: str, capture: CaptureInfo, frame: int) -> str:
    return f"smtpscope: {visible(text, COMMENT_LIMIT)} [frame {frame} of {visible(capture.path, 100)}]"


# -- reading again --------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    frame: int
    time_ns: int
    original: int
    link_type: int
    outgoing: int
    data: bytes


def _records(capture: CaptureInfo, wanted: set[int]) -> Iterator[_Record]:
    """The wanted frames of a capture, in order."""
    if not wanted:
        return
    sources = expand([capture.path])
    if len(sources) != 1 or sources[0].error is not None:
        raise CaptureError(f"{capture.path}: cannot be read again: {sources[0].error if sources else 'it is gone'}")
    windows = Windows(sources[0].open())
    last = max(wanted)
    try:
        for records in read_records(windows, CaptureInfo(capture.id, capture.path)):
            yield from _among(records, wanted)
            if len(records) and int(records.frame[-1]) >= last:
                return
    finally:
        windows.close()


def _among(records: Records, wanted: set[int]) -> Iterator[_Record]:
    for row, frame in enumerate(records.frame.tolist()):
        if frame in wanted:
            at, size = int(records.at[row]), int(records.captured[row])
            yield _Record(
                frame, int(records.time_ns[row]), int(records.original[row]), int(records.link_type[row]),
                int(records.outgoing[row]), records.buffer[at : at + size].tobytes(),
            )  # fmt: skip


# -- blocks ---------------------------------------------------------------------------------------------------------


def _section(case: Case) -> bytes:
    options = _option(APPLICATION, b"smtpscope") + b"".join(
        _option(COMMENT, visible(line, COMMENT_LIMIT).encode()) for line in wording.headline(case)[:5]
    )
    return _block(SECTION_HEADER, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options + _END)


def _interface(link_type: int) -> bytes:
    return _block(INTERFACE, struct.pack("<HHI", link_type, 0, SNAPLEN) + _option(TSRESOL, b"\x09") + _END)


def _packet(record: _Record, interface: int, data: bytes, comments: list[str]) -> bytes:
    time = record.time_ns & 0xFFFFFFFFFFFFFFFF
    head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(data), max(record.original, len(data)))
    options = b"".join(_option(COMMENT, text.encode("utf-8", "replace")) for text in comments)
    if record.outgoing in (0, 1):  # epb_flags: 1 inbound, 2 outbound
        options += _option(FLAGS, struct.pack("<I", record.outgoing + 1))
    return _block(ENHANCED_PACKET, head + _padded(data) + (options + _END if options else b""))


_END = struct.pack("<HH", 0, 0)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size
