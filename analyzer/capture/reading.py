"""Captures in, batches of packets out: the one entrance to this package.

Every source is read window by window; what is wrong with one is noted in its `CaptureInfo` and the next one is read.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import CaptureError
from . import columnar, exact, framing
from .packets import Batch, CaptureInfo, IcmpError, PacketTable
from .sources import Source, expand, foreign_format, is_foreign_capture, read_up_to
from .wanted import DEFAULT_PORTS, FourTuple, Tally, Wanted
from .windows import WINDOW_BYTES, Border, Windows


class ReadOptions(NamedTuple):
    ports: frozenset[int] = DEFAULT_PORTS
    all_tcp: bool = False
    max_bytes: int | None = None  # unpacked, per capture
    engine: str = "auto"  # "auto" | "columnar" | "dpkt" | "tshark"
    only: frozenset[FourTuple] | None = None  # read these connections again and nothing else


class Span(NamedTuple):
    """A part of the captures; places are (id of the capture, bytes of it).

    Either the windows that end behind `start`, up to `stop`. What lies before is skimmed: its frames are counted and its
    interfaces noted, so that a span begins exactly where a record begins, with the right frame number, and nothing is
    guessed. Of when these frames were captured not all is noted.

    Or (`apart`, of a single pcap) exactly these bytes, whose frames are numbered from 1. That a record begins at `start` is
    guessed from the bytes there. Who reads the span before proves it: the walk from record to record has to end there.
    It is the first record that the window before does not hold, so that nobody sees other windows than who reads all.
    """

    start: tuple[int, int] = (0, 0)
    stop: tuple[int, int] | None = None
    apart: bool = False


WHOLE = Span()

# How far around a cut its record is looked for: nearby, and in vain, further than the longest packet is long
# (framing.MAX_PACKET_BYTES).
NEAR_BYTES = (64 << 10, 512 << 10)

# Skimming costs so much of what reading and judging cost; what a process hands over counts as well (measured: 0.2 where
# all is SMTP, 0.4 where little is).
SKIM_COST = 0.25


def spans(paths: Sequence[str], parts: int, *, apart: bool = True) -> list[Span]:
    """The captures cut into so many spans that take equally long; one, if they have to be read from the beginning.

    With T the time of each: a span that begins at x is T - SKIM_COST * x long. `apart`: spans may be of that kind.
    """
    sources = in_time_order(expand(paths))
    sizes = [_plain_size(source) for source in sources]
    if parts < 2 or None in sizes:
        return [WHOLE]
    if apart and len(sources) == 1 and (found := _spans_apart(sources[0], sizes[0] or 0, parts)):
        return found
    places: list[tuple[int, int]] = [(0, 0)]
    total = sum(size or 0 for size in sizes)
    each = SKIM_COST / (1 - (1 - SKIM_COST) ** parts)
    begin = 0.0
    for _ in range(parts - 1):
        begin = each + (1 - SKIM_COST) * begin
        rest = int(begin * total)
        for number, size in enumerate(sizes, 1):
            if rest <= (size or 0):
                places.append((number, rest))
                break
            rest -= size or 0
    return [Span(*ends) for ends in zip(places, [*places[1:], None], strict=True)]


# To hand over what was found, and to take it in, takes so much of the time in which it was found; who takes it in has
# other things to do as well (measured).
HANDING_OVER = 0.12


def _spans_apart(source: Source, size: int, parts: int) -> list[Span]:
    """Spans that begin where a record seems to, between two windows of who reads all; none where that can not be told."""
    shares = [(part + HANDING_OVER) / (parts + HANDING_OVER) for part in range(1, parts)]
    found = [_place_near(source, int(share * size)) for share in shares]
    places = [(1, place) for place in found if place is not None]
    if len(places) < len(found) or places != sorted(set(places)):
        return []
    return [Span(*ends, apart=True) for ends in zip([(0, 0), *places], [*places, None], strict=True)]


def place_near(paths: Sequence[str], offset: int) -> int | None:
    """Where in the only pcap that these name a span that stands apart may begin, near this offset; None: nowhere."""
    return _place_near(expand(paths)[0], offset)


def _place_near(source: Source, offset: int) -> int | None:
    edge = round(offset / WINDOW_BYTES) * WINDOW_BYTES
    if not 0 < edge < (source.size or 0):
        return None
    try:
        return _record_across(source, source.head(), edge)
    except OSError:
        return None


def _record_across(source: Source, head: bytes, edge: int) -> int | None:
    """The offset of the record that seems to lie across this one."""
    for near_bytes in NEAR_BYTES:
        begin = max(edge - near_bytes, framing.PCAP_HEADER_BYTES)
        stream = source.open_behind(0, begin)
        some, _ = read_up_to(stream, edge - begin + near_bytes)
        stream.close()
        found = framing.record_across(head, some, edge - begin)
        if found is not None:
            return begin + found
    return None


def share_wanted(paths: Sequence[str], options: ReadOptions) -> float:
    """Of the first packets of the first capture, the share that is wanted: what there is to judge, roughly."""
    sources = expand(paths)
    if not sources or sources[0].error is not None:
        return 1.0
    try:
        head = sources[0].head()
    except Exception:  # noqa: BLE001 - reading it will tell what is wrong
        return 1.0
    wanted = Wanted(options.ports, all_tcp=options.all_tcp, only=options.only)
    frames = packets = 0
    for batch in decode(Windows(_Memory(head), window_bytes=len(head) or 1), CaptureInfo(1, ""), wanted, options):
        frames, packets = frames + batch.counts["frames"], packets + len(batch.packets)
    return packets / frames if frames else 1.0


def _plain_size(source: Source) -> int | None:
    """Bytes of a capture that is a file, not packed, and of a format that is read here."""
    if source.size is None or source.error is not None:
        return None
    try:
        head = source.head()
    except Exception:  # noqa: BLE001 - reading it will tell what is wrong
        return None
    return None if source.compression or _needs_tshark(head) else source.size


def read(
    paths: Sequence[str],
    options: ReadOptions,
    captures: list[CaptureInfo],
    skipped: list[str] | None = None,
    span: Span = WHOLE,
    border: Border | None = None,
) -> Iterator[Batch]:
    """The TCP packets of the wanted ports and the ICMP errors about them, window by window.

    Captures are read in the order of their first packets, whatever the order they are named in, so that the files of a
    rotated set follow each other. Rows are in capture order within a batch (those of several interfaces in one file: by
    time). `captures` gets one entry per capture,
    which grows as it is read; bad content ends up there, never in an exception. `skipped` gets the names of files that
    were met in folders and globs and are no captures. `border`: where a span that stands apart ends, while it is read.

    A port on which a HELO is seen is wanted from then on; its rows of the window before come with that batch.
    A batch's bytes (payloads) may be looked at until the next batch is asked for; keep more with `PacketTable.detach`.
    """
    wanted = Wanted(options.ports, all_tcp=options.all_tcp, only=options.only)
    for source in in_time_order(expand(paths, skipped)):
        info = CaptureInfo(id=len(captures) + 1, path=source.name)
        captures.append(info)
        if not (yield from read_source(source, info, wanted, options, span, border)):
            return


def in_time_order(sources: list[Source]) -> list[Source]:
    """By the time of the first packet; what has none keeps its place in the order it was named, at the end."""
    if len(sources) < 2:
        return sources
    times = [_first_time(source) for source in sources]
    return [
        s
        for _, _, s in sorted(
            zip([(t is None, t or 0) for t in times], range(len(sources)), sources, strict=True), key=lambda x: x[:2]
        )
    ]


def _first_time(source: Source) -> int | None:
    if source.error is not None:
        return None
    try:
        head = source.head()
    except Exception:  # noqa: BLE001 - reading it will tell what is wrong
        return None
    windows = Windows(_Memory(head), window_bytes=len(head) or 1)
    for records in framing.read_records(windows, CaptureInfo(0, source.name)):
        if len(records):
            return int(records.time_ns[0])
    return None


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def readinto(self, buffer: memoryview, /) -> int:
        n = min(len(buffer), len(self._data))
        buffer[:n] = self._data[:n]
        self._data = self._data[n:]
        return n

    def close(self) -> None:
        pass


def read_source(
    source: Source,
    info: CaptureInfo,
    wanted: Wanted,
    options: ReadOptions,
    span: Span = WHOLE,
    border: Border | None = None,
) -> Generator[Batch, None, bool]:
    """One capture, from its first byte to its last; False when the span ended in it."""
    if source.error is not None:
        framing.problem(info, source.error)
        return True
    try:
        foreign = options.engine == "tshark" or (options.engine == "auto" and _needs_tshark(source.head()))
        skipped = span.start[1] - framing.PCAP_HEADER_BYTES if span.apart and span.start[1] else 0
        if foreign:
            stream = None
        elif skipped:
            stream = source.open_behind(framing.PCAP_HEADER_BYTES, span.start[1])
        else:
            stream = source.open()
    except (OSError, CaptureError) as error:
        framing.problem(info, _reason(error))
        return True
    except Exception as error:  # noqa: BLE001 - a decompressor may raise anything on damaged bytes
        framing.problem(info, f"cannot be unpacked: {_reason(error)}")
        return True
    if stream is None:
        yield from _read_by_tshark(source, info, wanted)
        return True
    size = source.size
    small = size is not None and not source.compression
    windows = Windows(
        stream,
        window_bytes=min(WINDOW_BYTES, max(size or 0, 1) + 1) if small else WINDOW_BYTES,
        max_bytes=options.max_bytes,
        descriptor=_descriptor(stream) if small else None,
        skipped_bytes=skipped,
        stop=span.stop[1] if span.apart and span.stop else None,
        border=border,
    )
    try:
        if not (yield from decode(windows, info, wanted, options, span)):
            return False
    finally:
        windows.close()
    info.bytes = windows.offset
    if small and info.complete and info.bytes < (size or 0) and not windows.stops:
        framing.problem(
            info, f"the file had {size} bytes when it was named and {info.bytes} when it was read: it was cut short"
        )
    if source.compression:
        info.format = f"{info.format}, {source.compression}".lstrip(", ")
    return True


def _descriptor(stream: Any) -> int | None:
    try:
        number: int = stream.fileno()
    except (AttributeError, OSError):  # it has none
        return None
    return number


def _needs_tshark(head: bytes) -> bool:
    """Another file format, or a link type that only tshark knows (wireless, firewall logs, ...), and tshark is there."""
    if is_foreign_capture(head):
        return True
    link_type = framing.first_link_type(head)
    if link_type is None or link_type in exact.LINKS:
        return False
    from . import wireshark

    return wireshark.is_installed()


def _read_by_tshark(source: Source, info: CaptureInfo, wanted: Wanted) -> Iterator[Batch]:
    """tshark wants a file: what is none (a pipe, a URL, something packed) is laid into a temporary one."""
    from . import wireshark

    head = source.head()
    info.format = foreign_format(head) or framing.format_name(head)
    link_type = framing.first_link_type(head)
    if link_type is not None:
        info.link_types.append(LINK_NAMES.get(link_type, str(link_type)))
    if source.size is not None and not source.compression:
        yield from wireshark.read_file(source.name, info, wanted)
        return
    import shutil
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="smtpscope-") as copy:  # mode 0600
        with source.open_file() as stream:
            shutil.copyfileobj(stream, copy)
        copy.flush()
        yield from wireshark.read_file(copy.name, info, wanted)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def decode(
    windows: Windows,
    info: CaptureInfo,
    wanted: Wanted,
    options: ReadOptions,
    span: Span = WHOLE,
    *,
    at_once: bool = False,
) -> Generator[Batch, None, bool]:
    """A batch per window, or (but `at_once`) per some sparse ones, for a pcap or pcapng; False when the span ended in it."""
    engine = _Engine(wanted, info, options.engine, begins_behind=span.apart and span.start[1] > 0)
    together = _Together(1 if at_once else SPARSE_WINDOWS)
    window: list[framing.Records] = []
    unknown: dict[int, int] = {}
    too_deep = 0
    skims = not span.apart
    for records in framing.read_records(windows, info, _skim_to(info, span) if skims else 0):
        place = (info.id, windows.offset)
        if skims and span.stop is not None and place > span.stop:
            yield from together.rest()
            return False
        if len(records):
            window.append(records)
            _account(info, records)
        closes_window = records.closes_window
        del records  # it holds on to the window
        if closes_window and window and skims and place <= span.start:
            yield engine.skim(window)
            window = []
        elif closes_window and window:
            batch, tally = engine.window(window)
            for link_type, frames in tally.unknown_links.items():
                unknown[link_type] = unknown.get(link_type, 0) + frames
            too_deep += tally.counts.get("too-deep", 0)
            window = []
            batch.carries |= bool(unknown or too_deep)  # counted over the whole capture
            yield from together.add(batch)
            del batch
    yield from together.rest()
    if too_deep:
        deepest = f"more than {exact.MAX_DEPTH} tunnels or tags inside each other"
        framing.problem(info, f"{too_deep} frames have {deepest}: they were not read")
    unknown.pop(framing.NO_LINK_TYPE, None)  # said when the interface was missed
    for link_type, frames in sorted(unknown.items()):
        framing.problem(info, f"link type {link_type} is not known: {frames} frames were not read")
    return True


# A window is sparse when no more of its frames are wanted; so many of these are handed on together.
SPARSE = 1 / 8
SPARSE_WINDOWS = 4


class _Together:
    """Lets sparse windows wait for each other, as copies of what is wanted of them.

    Sorting packets into connections, and judging these, takes a time for each batch that hardly depends on its rows: where
    mail is rare, a third of all. What is found does not depend on where batches end (see `tcp.connections`).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: list[Batch] = []
        self.held_bytes = 0

    def add(self, batch: Batch) -> Iterator[Batch]:
        is_sparse = len(batch.packets) <= SPARSE * batch.counts["frames"]
        if is_sparse:
            batch = replace(batch, packets=batch.packets.detach())
            self.held_bytes += sum(map(len, batch.packets.buffers))
        self.waiting.append(batch)
        if not is_sparse or len(self.waiting) >= self.most or self.held_bytes > WINDOW_BYTES:
            del batch
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        if not self.waiting:
            return
        batches, self.waiting, self.held_bytes = self.waiting, [], 0
        counts: Counter[str] = Counter()
        tcp_ports = np.zeros(65536, np.int64)
        for batch in batches:
            counts.update(batch.counts)
            if batch.tcp_ports is not None:
                tcp_ports += batch.tcp_ports
        yield replace(
            batches[-1],
            packets=PacketTable.concat([batch.packets for batch in batches]),
            lacks=any(batch.lacks for batch in batches),
            disordered=any(batch.disordered for batch in batches),
            icmp=[error for batch in batches for error in batch.icmp],
            counts=dict(counts),
            tcp_ports=tcp_ports,
        )


def _skim_to(info: CaptureInfo, span: Span) -> int:
    """Up to which byte a capture is of no interest to a span: but for a window or two that it may look back into."""
    capture, start = span.start
    return max(start - 2 * WINDOW_BYTES, 0) if info.id == capture else sys.maxsize if info.id < capture else 0


def _account(info: CaptureInfo, records: framing.Records) -> None:
    info.frames = int(records.frame[-1])
    first, last = int(records.time_ns.min()), int(records.time_ns.max())
    info.first_ns = first if info.first_ns is None else min(info.first_ns, first)
    info.last_ns = last if info.last_ns is None else max(info.last_ns, last)
    for link_type in columnar.distinct(records.link_type):
        name = LINK_NAMES.get(int(link_type), str(link_type))
        if name not in info.link_types:
            info.link_types.append(name)


# Names as tcpdump prints them (https://www.tcpdump.org/linktypes.html).
LINK_NAMES = {
    0: "NULL",
    1: "ETHERNET",
    9: "PPP",
    12: "RAW",
    14: "RAW",
    50: "PPP_HDLC",
    51: "PPP_ETHER",
    101: "RAW",
    104: "C_HDLC",
    108: "LOOP",
    113: "LINUX_SLL",
    228: "IPV4",
    229: "IPV6",
    276: "LINUX_SLL2",
    framing.NO_LINK_TYPE: "unknown",
}


# Capture programs mix what several queues held by some milliseconds. Frames of other days, appended or swapped, are out of
# order by more: then what is over, and for how long, depends on how far the reader has come.
DISORDER_NS = 1_000_000_000


class _Engine:
    """Decodes windows; again, when a HELO on another port made that port wanted."""

    def __init__(self, wanted: Wanted, info: CaptureInfo, engine: str, *, begins_behind: bool = False) -> None:
        self.wanted, self.info, self.engine = wanted, info, engine
        self.is_behind_unread = begins_behind  # the window before is not known
        self.exact = exact.Decoder(wanted)
        self.previous: list[framing.Records] = []
        self.last_ns: int | None = None  # of the last frame so far

    def skim(self, window: list[framing.Records]) -> Batch:
        """A window before the span: kept for a look back, as `window` would."""
        self.previous = window if self.wanted.discovers else []
        return Batch(PacketTable.empty(), [], int(window[-1].time_ns[-1]))

    def window(self, window: list[framing.Records]) -> tuple[Batch, Tally]:
        before = self.exact.reassembly.snapshot()
        packets, icmp, tally = self._once(self.exact, window)
        lacks, self.is_behind_unread = self.is_behind_unread and bool(tally.greeted), False
        if tally.greeted:
            ports = tally.greeted
            self.wanted.add(ports)
            self.exact.reassembly.restore(before)
            packets, icmp, tally = self._once(self.exact, window)
            missed, missed_icmp = self._missed(ports, tally)
            packets, icmp = PacketTable.concat([missed, packets]), missed_icmp + icmp
        # A window without TCP on other ports is not looked back into: its buffer is free sooner.
        self.previous = window if self.wanted.discovers and "other-tcp" in tally.counts else []
        frames = sum(map(len, window))
        now_ns = int(window[-1].time_ns[-1])
        disordered = self._is_disordered(window)
        self.last_ns = now_ns
        batch = Batch(
            packets=packets,
            icmp=icmp,
            disordered=disordered,
            last_time_ns=now_ns,
            counts={"frames": frames, **tally.counts},
            tcp_ports=tally.tcp_ports,
            carries=self.wanted.grown or self.exact.reassembly.waits(now_ns),
            lacks=lacks,
        )
        return batch, tally

    def _is_disordered(self, window: list[framing.Records]) -> bool:
        """Whether a frame is much older than the one before it."""
        last_ns = self.last_ns
        for records in window:
            times = records.time_ns
            if last_ns is not None and times[0] < last_ns - DISORDER_NS:
                return True
            if (times[1:] - times[:-1] < -DISORDER_NS).any():
                return True
            last_ns = int(times[-1])
        return False

    def _missed(self, ports: set[int], tally: Tally) -> tuple[PacketTable, list[IcmpError]]:
        """Packets of these ports in the window before: the handshake and greeting that came before the HELO."""
        missed, icmp, _ = self._once(exact.Decoder(Wanted(ports)), self.previous)
        for src_port, dst_port in zip(missed.src_port.tolist(), missed.dst_port.tolist(), strict=True):
            tally.other_tcp(src_port, dst_port, -1)
        tally.add("not-tcp", -len(icmp))
        tally.add("icmp-errors", len(icmp))
        return missed, icmp

    def _once(
        self, decoder: exact.Decoder, window: list[framing.Records]
    ) -> tuple[PacketTable, list[IcmpError], Tally]:
        tally = Tally()
        tables, errors = [], []
        for records in window:
            rows: Iterable[int] = range(len(records))
            if self.engine != "dpkt":
                table, rows = columnar.decode(records, decoder.wanted, self.info.id, tally)
                tables.append(table)
            table, icmp = decoder.decode(records, rows, self.info.id, tally)
            tables.append(table)
            errors += icmp
        return _in_order(PacketTable.concat(tables)), errors, tally


def _in_order(packets: PacketTable) -> PacketTable:
    """In the order of the frames. Frames of several interfaces are merged by time, each interface in its own order:

    capture programs write what one interface's buffer held, then the next one's.
    """
    frame, interface = packets.columns["frame"], packets.columns["interface"]
    if len(frame) > 1 and (frame[1:] < frame[:-1]).any():
        packets = packets[np.argsort(frame, kind="stable")]
        interface = packets.columns["interface"]
    if not len(frame) or (interface == interface[0]).all():
        return packets
    time_ns = packets.columns["time_ns"]
    reached = np.empty(len(time_ns), np.int64)
    for one in np.unique(interface):
        rows = interface == one
        reached[rows] = np.maximum.accumulate(time_ns[rows])
    if (reached[1:] < reached[:-1]).any():
        packets = packets[np.argsort(reached, kind="stable")]
    return packets
