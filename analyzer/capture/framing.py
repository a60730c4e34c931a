"""pcap and pcapng: where each record lies, when it was captured, on which link type.

pcap: draft-ietf-opsawg-pcap (magic, 24-byte file header, records of 16 bytes + packet), with micro- or nanoseconds, in
either byte order, and the variant with 24-byte record headers. pcapng: draft-ietf-opsawg-pcapng (sections, interfaces,
enhanced, simple and the obsolete packet blocks).

A record is believed as far as it lies inside the file; a length that no capture program writes ends the reading there,
with a problem that names the frame and the offset.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import walk
from .packets import Array, CaptureInfo
from .windows import Bytes, Windows

# Records are given in batches: a window of full frames (19,000 in 16 MiB) is one, so that nothing has to be put together,
# and the gathered headers of one (64 bytes each) hardly leave the second-level cache.
BATCH = 20480
# libpcap's MAXIMUM_SNAPLEN: no capture program writes longer packets of network traffic.
MAX_PACKET_BYTES = 262144
# Whatever a record claims as the length on the wire: more than this is cut down to it, so that sums fit 32 bits.
MAX_ORIGINAL_BYTES = 1 << 28
# A pcapng block that is longer than this is damage, not data (Wireshark draws the same line).
MAX_BLOCK_BYTES = 16 << 20
# Interface ids are kept in 16 bits; real captures have a handful.
MAX_INTERFACES = 65536

NO_LINK_TYPE = 0xFFFF  # stands for the link type of an interface that was never described

# magic as read in little-endian -> (byte order, nanoseconds per fraction, bytes of a record header, name)
PCAP_MAGICS: dict[int, tuple[str, int, int, str]] = {
    0xA1B2C3D4: ("<", 1000, 16, "pcap"),
    0xD4C3B2A1: (">", 1000, 16, "pcap"),
    0xA1B23C4D: ("<", 1, 16, "pcap (nanoseconds)"),
    0x4D3CB2A1: (">", 1, 16, "pcap (nanoseconds)"),
    0xA1B2CD34: ("<", 1000, 24, "pcap (modified)"),  # Kuznetzov's: interface, protocol and packet type follow
    0x34CDB2A1: (">", 1000, 24, "pcap (modified)"),
}
PCAP_HEADER_BYTES = 24  # of the file
SECTION_HEADER = 0x0A0D0D0A  # a palindrome: the same in both byte orders
INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 1, 2, 3, 6
SECONDS_LIMIT = 9_000_000_000  # times beyond this do not fit 64 bits of nanoseconds (the year 2255)


@dataclass(slots=True)
class Records:
    """Some consecutive packet records of one capture. All arrays have one entry per record."""

    buffer: Bytes  # PADDING_BYTES after the last record may be read as well
    at: npt.NDArray[np.int64]  # offset in `buffer` of the packet's first byte
    captured: npt.NDArray[np.int64]  # bytes present
    original: npt.NDArray[np.int64]  # bytes on the wire
    time_ns: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]  # from 1
    link_type: npt.NDArray[np.uint16]
    interface: npt.NDArray[np.uint16]
    outgoing: npt.NDArray[np.int8]  # 1, 0, or -1 unknown
    closes_window: bool = False  # the next records lie in another buffer

    def __len__(self) -> int:
        return len(self.at)


def is_capture(head: bytes) -> bool:
    """Whether these first bytes of a file are the beginning of a pcap or pcapng."""
    if len(head) < 4:
        return False
    (magic,) = struct.unpack_from("<I", head)
    return magic in PCAP_MAGICS or (magic == SECTION_HEADER and len(head) >= 12 and _section_order(head, 0) is not None)


def first_link_type(head: bytes) -> int | None:
    """The link type of a pcap, or of the first interface of a pcapng, told from the first bytes of the file."""
    if len(head) >= 24 and is_capture(head):
        (magic,) = struct.unpack_from("<I", head)
        if magic in PCAP_MAGICS:
            return int(struct.unpack_from(PCAP_MAGICS[magic][0] + "I", head, 20)[0]) & 0xFFFF
        order = _section_order(head, 0) or "<"
        (section_bytes,) = struct.unpack_from(order + "I", head, 4)
        if section_bytes + 10 <= len(head):
            kind, _, link_type = struct.unpack_from(order + "IIH", head, section_bytes)
            return int(link_type) if kind == INTERFACE else None
    return None


def record_across(head: bytes, some: bytes, place: int) -> int | None:
    """Where among some bytes of a pcap the record seems to begin that does not end before `place`, an offset in them too.

    head: the first bytes of the file. None: nobody can tell.
    """
    magic = struct.unpack_from("<I", head)[0] if len(head) >= PCAP_HEADER_BYTES + 4 else None
    if magic not in PCAP_MAGICS:
        return None
    order, _, header_bytes, _ = PCAP_MAGICS[magic]
    (seconds,) = struct.unpack_from(order + "I", head, PCAP_HEADER_BYTES)
    return walk.across_pcap(np.frombuffer(some, np.uint8), place, order, header_bytes, seconds)


def format_name(head: bytes) -> str:
    """pcap, pcapng, or nothing."""
    if not is_capture(head):
        return ""
    (magic,) = struct.unpack_from("<I", head)
    return PCAP_MAGICS[magic][3] if magic in PCAP_MAGICS else "pcapng"


def read_records(windows: Windows, info: CaptureInfo, skim_to: int = 0) -> Iterator[Records]:
    """The packet records of a capture, in file order. What is wrong with it ends up in `info`.

    Of windows that end at byte `skim_to` or before, the last record is enough: all are walked, and counted.
    """
    if not windows.advance(windows.end):
        _report_end(windows, info, "the file is empty: no capture in it")
        return
    while windows.end - windows.start < PCAP_HEADER_BYTES and windows.advance(windows.start):
        pass  # the first window of who begins far behind in a file may be short
    head = windows.head(12)
    if len(head) == 12 and head[:4] == b"\n\r\r\n":
        yield from _Pcapng(windows, info).records()
    elif len(head) >= 4 and struct.unpack_from("<I", head)[0] in PCAP_MAGICS:
        yield from _Pcap(windows, info, skim_to).records()
    elif len(head) < 12:
        _report_end(windows, info, "not a capture: neither pcap nor pcapng")
    else:
        problem(info, "not a capture: neither pcap nor pcapng")


def problem(info: CaptureInfo, text: str) -> None:
    """Notes why this capture could not be read, or not to its end."""
    info.complete = False
    if text not in info.problems:
        info.problems.append(text)


_FRAME = re.compile(r"(?<=\bframe )\d+")


def renumbered(text: str, frames: int) -> str:
    """A problem of somebody who did not see the first `frames` frames, as told by somebody who did."""
    return _FRAME.sub(lambda number: str(int(number[0]) + frames), text, count=1)


def _report_end(windows: Windows, info: CaptureInfo, cut_off: str | None) -> None:
    """Why nothing more comes: an error, the limit, or (when bytes are left over) a record that was cut off."""
    if windows.error is not None:
        problem(info, f"reading failed at byte {windows.offset}: {_reason(windows.error)}")
    elif windows.limit_reached:
        problem(info, f"only the first {windows.offset} bytes were read (--max-bytes)")
    elif cut_off is not None and windows.goes_on:
        info.problems.append(f"it was still being written: {cut_off}")
    elif cut_off is not None:
        problem(info, cut_off)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class _Pcap:
    def __init__(self, windows: Windows, info: CaptureInfo, skim_to: int) -> None:
        self.windows, self.info, self.skim_to = windows, info, skim_to

    def records(self) -> Iterator[Records]:
        windows, info = self.windows, self.info
        head = windows.head(PCAP_HEADER_BYTES)
        order, self.fraction_ns, self.header_bytes, info.format = PCAP_MAGICS[struct.unpack_from("<I", head)[0]]
        self.order = order
        if len(head) < PCAP_HEADER_BYTES:
            _report_end(windows, info, f"cut off in the file header: {len(head)} of 24 bytes")
            return
        snaplen, link_type = struct.unpack_from(order + "II", head, 16)
        info.snaplen = snaplen
        self.link_type = link_type & 0xFFFF  # the high bits tell the length of the frame check sequence
        self.longest = min(max(MAX_PACKET_BYTES, snaplen), MAX_BLOCK_BYTES)
        self.frame = 1
        position = windows.start + PCAP_HEADER_BYTES
        while True:
            starts, position = walk.walk_pcap(windows.buffer, position, windows.end, self.order, self.header_bytes)
            damaged = False
            if windows.offset <= self.skim_to and self._plausible_lengths(starts, position):
                self.frame += max(len(starts) - 1, 0)
                starts = starts[-1:]
            for i in range(0, len(starts), BATCH):
                records, damaged = self._columns(starts[i : i + BATCH])
                records.closes_window = damaged or i + BATCH >= len(starts)
                yield records
                del records
                if damaged:
                    return
            if not self._plausible_length(position):
                return
            if not windows.advance(position):
                break
            position = windows.start
        left = windows.end - position
        if left:
            needs = f"needs {self._captured(position) + self.header_bytes}" if left >= 16 else "has a header of 16"
            cut = f"cut off in frame {self.frame} at byte {position + windows.base}: the record {needs} bytes, {left} are there"
            _report_end(windows, info, cut)
        else:
            _report_end(windows, info, None)

    def _captured(self, position: int) -> int:
        return int(struct.unpack_from(self.order + "I", self.windows.buffer, position + 8)[0])

    def _plausible_lengths(self, starts: npt.NDArray[np.int64], after: int) -> bool:
        """Whether these records, behind each other up to `after`, can be real."""
        longest = np.diff(starts, append=after).max(initial=0)
        return bool(longest <= self.longest + self.header_bytes)

    def _plausible_length(self, position: int) -> bool:
        """Whether the record that the window ends in can be real."""
        if position + 12 > self.windows.end or self._captured(position) <= self.longest:
            return True
        self._damage(self.frame, position, self._captured(position))
        return False

    def _damage(self, frame: int, position: int, captured: int) -> None:
        problem(
            self.info,
            f"damaged at frame {frame}, byte {position + self.windows.base}: the record claims {captured} captured bytes, "
            f"{self.longest} at most can be; nothing after it was read",
        )

    def _columns(self, starts: npt.NDArray[np.int64]) -> tuple[Records, bool]:
        buffer = self.windows.buffer
        header = walk.sliding(buffer, "V16")[starts].view(self.order + "u4").reshape(-1, 4)
        captured = header[:, 2].astype(np.int64)
        damaged = False
        if len(captured) and captured.max() > self.longest:
            first = int(np.argmax(captured > self.longest))
            self._damage(self.frame + first, int(starts[first]), int(captured[first]))
            starts, header, captured, damaged = starts[:first], header[:first], captured[:first], True
        n = len(starts)
        time_ns = header[:, 0].astype(np.int64)
        time_ns *= 10**9
        time_ns += header[:, 1].astype(np.int64) * self.fraction_ns
        frame = np.arange(self.frame, self.frame + n)
        self.frame += n
        return Records(
            buffer=buffer,
            at=starts + self.header_bytes,
            captured=captured,
            original=np.minimum(header[:, 3], MAX_ORIGINAL_BYTES).astype(np.int64),
            time_ns=time_ns,
            frame=frame,
            link_type=np.full(n, self.link_type, np.uint16),
            interface=np.zeros(n, np.uint16),
            outgoing=np.full(n, -1, np.int8),
        ), damaged


class _Interface(NamedTuple):
    link_type: int
    snaplen: int
    # Nanoseconds of `ticks` units of the interface's clock: ns = ticks * multiply // divide, + offset_ns
    multiply: int
    divide: int
    offset_ns: int


class _Pcapng:
    """One section after the other; interfaces are counted anew in each (draft section 4.2)."""

    def __init__(self, windows: Windows, info: CaptureInfo) -> None:
        self.windows, self.info = windows, info
        self.order = "<"
        self.interfaces: list[_Interface] = []
        self.frame = 1
        self.last_time_ns = 0

    def records(self) -> Iterator[Records]:
        windows, info = self.windows, self.info
        info.format = "pcapng"
        position = windows.start
        in_section = False
        while True:
            parts: list[Records] = []
            held = 0
            while position + 12 <= windows.end:
                if self._u4(position) == SECTION_HEADER:
                    entered = self._enter_section(position)
                    if entered is None:
                        break
                    in_section = True
                    position = entered
                if not in_section:
                    break
                starts, after = walk.walk_pcapng(windows.buffer, position, windows.end, self.order, SECTION_HEADER)
                for i in range(0, len(starts), BATCH):
                    records = self._columns(starts[i : i + BATCH])
                    if len(records):
                        parts.append(records)
                        held += len(records)
                    if held >= BATCH:
                        yield _join(parts)
                        parts, held = [], 0
                if after == position or after + 12 > windows.end or self._u4(after) != SECTION_HEADER:
                    position = after
                    break
                position = after
            closing = _join(parts) if parts else self._nothing()
            closing.closes_window = True
            parts = []
            yield closing
            del closing
            if self._damaged(position) or not windows.advance(position):
                break
            position = windows.start
        left = windows.end - position
        cut = f"cut off at byte {position + windows.base}, after frame {self.frame - 1}: {left} bytes of a block are there"
        if info.complete:
            _report_end(windows, info, cut if left > 0 else None)

    def _u4(self, position: int) -> int:
        return int(struct.unpack_from(self.order + "I", self.windows.buffer, position)[0])

    def _damaged(self, position: int) -> bool:
        """Whether the block at `position`, which ended the walk, can not be real."""
        if position + 12 > self.windows.end:
            return False
        length = self._u4(position + 4)
        if self._u4(position) == SECTION_HEADER:
            order = _section_order(self.windows.buffer, position)
            if order is None:
                self._damage(position, "a section header without its byte-order magic")
                return True
            (length,) = struct.unpack_from(order + "I", self.windows.buffer, position + 4)
        if length < 12 or length % 4:
            self._damage(position, f"a block of {length} bytes; 12 is the least, and a multiple of 4")
            return True
        if length > MAX_BLOCK_BYTES:
            self._damage(position, f"a block of {length} bytes; {MAX_BLOCK_BYTES} is the most that is believed")
            return True
        if position + length <= self.windows.end:
            self._damage(position, "the block's two lengths differ")
            return True
        return False

    def _damage(self, position: int, what: str) -> None:
        at = position + self.windows.base
        problem(self.info, f"damaged at byte {at}, after frame {self.frame - 1}: {what}; nothing after it was read")

    def _enter_section(self, position: int) -> int | None:
        """Begins the section whose header lies at `position`; where its blocks begin, or None if it is not all there."""
        buffer, end = self.windows.buffer, self.windows.end
        order = _section_order(buffer, position)
        if order is None:
            return None
        (length,) = struct.unpack_from(order + "I", buffer, position + 4)
        if length < 28 or length % 4 or position + length > end:
            return None
        self.order = order
        self.interfaces = []
        return position + int(length)

    def _add_interface(self, start: int) -> None:
        """Interface description block (draft section 4.2) with if_tsresol (9) and if_tsoffset (14)."""
        if len(self.interfaces) >= MAX_INTERFACES:
            problem(self.info, f"more than {MAX_INTERFACES} interfaces in a section: the others were not read")
            return
        buffer, order = self.windows.buffer, self.order
        end = start + self._u4(start + 4) - 4
        if end - start < 16:
            problem(self.info, f"an interface description at byte {start + self.windows.base} is too short")
            self.interfaces.append(_Interface(NO_LINK_TYPE, 0, 1000, 1, 0))
            return
        (link_type,) = struct.unpack_from(order + "H", buffer, start + 8)
        snaplen = self._u4(start + 12)
        resolution, offset_s = 6, 0
        for code, at, length in _options(buffer, start + 16, end, order):
            if code == 9 and length == 1:
                resolution = int(buffer[at])
            elif code == 14 and length == 8:
                (offset_s,) = struct.unpack_from(order + "q", buffer, at)
        offset_s = max(-SECONDS_LIMIT, min(offset_s, SECONDS_LIMIT))
        multiply, divide = _clock(resolution)
        self.interfaces.append(_Interface(link_type, snaplen, multiply, divide, offset_s * 10**9))
        if snaplen and (self.info.snaplen is None or snaplen < self.info.snaplen):
            self.info.snaplen = snaplen

    def _nothing(self) -> Records:
        none = np.empty(0, np.int64)
        return Records(
            self.windows.buffer,
            none,
            none,
            none,
            none,
            none,
            none.astype(np.uint16),
            none.astype(np.uint16),
            none.astype(np.int8),
        )

    def _columns(self, starts: npt.NDArray[np.int64]) -> Records:
        """The packets among these blocks; interface descriptions among them are taken in as they come."""
        buffer = self.windows.buffer
        header = walk.sliding(buffer, "V32")[starts].view(self.order + "u4").reshape(-1, 8)
        kind = header[:, 0].astype(np.uint32)
        is_packet = kind == ENHANCED_PACKET
        if not is_packet.all():
            described = np.flatnonzero(kind == INTERFACE)
            before = len(self.interfaces)
            for i in described:
                self._add_interface(int(starts[i]))
            is_packet |= (kind == OLD_PACKET) | (kind == SIMPLE_PACKET)
            known = before + np.searchsorted(described, np.flatnonzero(is_packet))
            starts, header, kind = starts[is_packet], header[is_packet], kind[is_packet]
        else:
            known = np.full(len(starts), len(self.interfaces))
        n = len(starts)
        if not n:
            return self._nothing()
        total = header[:, 1].astype(np.int64)
        interface = header[:, 2].astype(np.int64)
        ticks = header[:, 3].astype(np.uint64) << np.uint64(32) | header[:, 4].astype(np.uint64)
        captured, original = header[:, 5].astype(np.int64), header[:, 6].astype(np.int64)
        at = starts + 28
        room = total - 32
        simple = kind == SIMPLE_PACKET
        old = kind == OLD_PACKET
        if old.any():  # the 16-bit interface id comes first, then 16 bits of drops
            halves = header[old].view(self.order + "u2").reshape(-1, 16)
            interface[old] = halves[:, 4]
        if simple.any():  # no interface (0 is meant), no time, and only the original length
            interface[simple] = 0
            at[simple] -= 16
            room[simple] += 16
            original[simple] = header[simple, 2]
            limit = self.interfaces[0].snaplen if self.interfaces and self.interfaces[0].snaplen else MAX_BLOCK_BYTES
            captured[simple] = np.minimum(np.minimum(original[simple], limit), room[simple])
        frame = np.arange(self.frame, self.frame + n)
        self.frame += n
        too_much = captured > room
        if too_much.any():
            first = int(np.argmax(too_much))
            problem(
                self.info,
                f"frame {frame[first]} claims {captured[first]} captured bytes, its block has room for {max(room[first], 0)}"
                + (f"; so do {int(too_much.sum()) - 1} more" if too_much.sum() > 1 else ""),
            )
            captured = np.clip(captured, 0, np.maximum(room, 0))
        undescribed = interface >= known
        if undescribed.any():
            first = int(np.argmax(undescribed))
            problem(self.info, f"frame {frame[first]} names interface {interface[first]}, which is not described")
        time_ns, link_type = self._by_interface(interface, ticks, undescribed)
        if simple.any():
            time_ns = self._carry_times(time_ns, simple)
        self.last_time_ns = int(time_ns[-1])
        return Records(
            buffer=buffer,
            at=at,
            captured=captured,
            original=np.minimum(original, MAX_ORIGINAL_BYTES),
            time_ns=time_ns,
            frame=frame,
            link_type=link_type,
            interface=np.minimum(interface, 65535).astype(np.uint16),
            outgoing=self._directions(starts, total, at, captured, simple),
        )

    def _by_interface(self, interface: Array, ticks: Array, undescribed: Array) -> tuple[Array, Array]:
        time_ns = np.empty(len(ticks), np.int64)
        link_type = np.empty(len(ticks), np.uint16)
        names = np.unique(interface[~undescribed]) if len(self.interfaces) > 1 else range(len(self.interfaces))
        for name in names:
            rows = interface == name
            described = self.interfaces[name]
            time_ns[rows] = _nanoseconds(ticks[rows], described)
            link_type[rows] = described.link_type
        if undescribed.any():
            time_ns[undescribed] = _nanoseconds(ticks[undescribed], _Interface(0, 0, 1000, 1, 0))
            link_type[undescribed] = NO_LINK_TYPE
        return time_ns, link_type

    def _carry_times(self, time_ns: Array, simple: Array) -> Array:
        """Simple packet blocks have no time: they get that of the packet before them."""
        source = np.where(simple, -1, np.arange(len(time_ns)))
        source = np.maximum.accumulate(source)
        return np.where(source >= 0, time_ns[source], self.last_time_ns)

    def _directions(
        self, starts: Array, total: Array, at: Array, captured: Array, simple: Array
    ) -> npt.NDArray[np.int8]:
        """epb_flags (option 2), bits 0-1: 1 inbound, 2 outbound (draft section 4.3.1)."""
        outgoing = np.full(len(starts), -1, np.int8)
        options_at = at + (captured + 3 & ~3)
        space = starts + total - 4 - options_at
        rows = np.flatnonzero((space >= 8) & ~simple)
        if not len(rows):
            return outgoing
        buffer = self.windows.buffer
        first = walk.sliding(buffer, "V8")[options_at[rows]]
        code_length = first.view(self.order + "u2").reshape(-1, 4)
        flags = first.view(self.order + "u4").reshape(-1, 2)[:, 1].astype(np.int64)
        at_once = (code_length[:, 0] == 2) & (code_length[:, 1] == 4)
        outgoing[rows[at_once]] = _direction_of(flags[at_once])
        for row in rows[~at_once & (code_length[:, 0] != 0)]:
            for code, option_at, length in _options(
                buffer, int(options_at[row]), int(options_at[row] + space[row]), self.order
            ):
                if code == 2 and length == 4:
                    outgoing[row] = _direction_of(np.array([self._u4(option_at)]))[0]
                    break
        return outgoing


def _direction_of(flags: Array) -> Array:
    return np.asarray(np.array([-1, 0, 1, -1], np.int8)[flags & 3])


def _join(parts: list[Records]) -> Records:
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    return Records(
        buffer=parts[0].buffer,
        at=joined("at"),
        captured=joined("captured"),
        original=joined("original"),
        time_ns=joined("time_ns"),
        frame=joined("frame"),
        link_type=joined("link_type"),
        interface=joined("interface"),
        outgoing=joined("outgoing"),
    )


def _section_order(data: Bytes | bytes, position: int) -> str | None:
    """Byte order of the section whose header begins here, from its byte-order magic."""
    (magic,) = struct.unpack_from("<I", data, position + 8)
    return {0x1A2B3C4D: "<", 0x4D3C2B1A: ">"}.get(magic)


def _options(buffer: Bytes, at: int, end: int, order: str) -> Iterator[tuple[int, int, int]]:
    """(code, offset of the value, length) of each option of a block (draft section 3.5)."""
    while at + 4 <= end:
        code, length = struct.unpack_from(order + "HH", buffer, at)
        if code == 0 or at + 4 + length > end:
            return
        yield code, at + 4, length
        at += 4 + (length + 3 & ~3)


def _clock(resolution: int) -> tuple[int, int]:
    """if_tsresol as a fraction: nanoseconds = ticks * multiply / divide. High bit set: a power of 2, else of 10."""
    power = resolution & 0x7F
    if resolution & 0x80:
        return 10**9, 1 << power
    return (10 ** (9 - power), 1) if power <= 9 else (1, 10 ** (power - 9))


def _nanoseconds(ticks: Array, interface: _Interface) -> npt.NDArray[np.int64]:
    """Ticks of an interface's clock since 1970, in nanoseconds; times that do not fit are held at the limit."""
    multiply, divide = interface.multiply, interface.divide
    if divide == 1:
        ns = np.minimum(ticks, np.uint64(SECONDS_LIMIT * 10**9 // multiply)).astype(np.int64) * multiply
    elif divide >= 1 << 64:
        ns = np.array([int(t) * multiply // divide for t in ticks], np.int64)
    elif multiply == 1:
        ns = np.minimum(ticks // np.uint64(divide), np.uint64(SECONDS_LIMIT * 10**9)).astype(np.int64)
    else:  # a power of 2: whole seconds and the rest apart, so that nothing overflows
        seconds = np.minimum(ticks // np.uint64(divide), np.uint64(SECONDS_LIMIT)).astype(np.int64)
        rest, unit = ticks % np.uint64(divide), divide
        if divide > 1 << 33:  # 2**33 * 10**9 is the largest product below 2**63
            rest, unit = rest // np.uint64(divide >> 33), 1 << 33
        ns = seconds * 10**9 + (rest * np.uint64(10**9) // np.uint64(unit)).astype(np.int64)
    # Offset and time are each held within 9e18 ns; their sum may not be.
    limit = SECONDS_LIMIT * 10**9
    offset = interface.offset_ns
    if offset > 0:
        return np.where(ns > limit - offset, limit, ns + offset) if offset <= limit else np.full(len(ns), limit)
    return ns + offset
