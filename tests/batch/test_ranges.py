"""One huge capture: cut by byte ranges, scanned in parallel, grouped by connection.

The plan for a capture of a terabyte (tests/bench/README.md, "Past one machine") rests on what is tested here: a range can
begin anywhere, the packets that two processes found are those that one finds, and a case made of them is the same case.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from analyzer import analysis
from analyzer.analysis import parts as parts_of
from analyzer.capture.packets import Batch, CaptureInfo, PacketTable
from analyzer.capture.reading import ReadOptions, read
from analyzer.report import json

FILE_HEADER_BYTES = 24
RECORD = struct.Struct("<IIII")  # seconds, fraction, captured, original: the samples are little-endian
MAX_BYTES = 262144  # libpcap's MAXIMUM_SNAPLEN
DAY_S = 86_400
IN_A_ROW = 4  # headers that must follow each other: payload that imitates so many does not happen by accident


def is_header(data: bytes, at: int, begun_s: int) -> bool:
    """What begins here looks like a record's header, and so do those that follow from it."""
    for _ in range(IN_A_ROW):
        if at == len(data):
            return True
        if at + RECORD.size > len(data):
            return False
        seconds, fraction, captured, original = RECORD.unpack_from(data, at)
        if not (abs(seconds - begun_s) < DAY_S and fraction < 10**9 and captured <= min(original, MAX_BYTES)):
            return False
        at += RECORD.size + captured
    return True


def first_record(data: bytes, near: int) -> int:
    """Where the first record at or behind `near` begins, by what headers look like alone."""
    (begun_s,) = struct.unpack_from("<I", data, FILE_HEADER_BYTES)
    return next(at for at in range(near, len(data) + 1) if is_header(data, at, begun_s))


def landing(data: bytes, near: int) -> int:
    """The same by walking from the beginning: where the process with the range before this one ends."""
    at = FILE_HEADER_BYTES
    while at < near:
        at += RECORD.size + RECORD.unpack_from(data, at)[2]
    return at


def scan(part: str) -> tuple[CaptureInfo, list[tuple[Any, ...]]]:
    """One process's work: its range as packet columns, with frames counted from the beginning of the range."""
    infos: list[CaptureInfo] = []
    found = []
    for batch in read([part], ReadOptions(), infos):
        table = batch.packets.detach()
        found.append((dict(table.columns), table.sack_blocks, table.buffers, batch.icmp, batch.last_time_ns, batch.counts, batch.tcp_ports))  # fmt: skip
    return infos[0], found


def joined(parts: Sequence[str], whole: str, captures: list[CaptureInfo]) -> Iterator[Batch]:
    """What all processes found, as if one had read the whole capture."""
    total = CaptureInfo(1, whole)
    captures.append(total)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for info, found in pool.map(scan, parts):
            for columns, sacks, buffers, icmp, last_time_ns, counts, tcp_ports in found:
                columns["frame"] = columns["frame"] + total.frames
                for error in icmp:
                    object.__setattr__(error, "frame", error.frame + total.frames)
                yield Batch(PacketTable(columns, sacks, buffers), icmp, last_time_ns, counts, tcp_ports)
            total.frames += info.frames
            total.bytes += info.bytes - (FILE_HEADER_BYTES if total.bytes else 0)
            total.format, total.snaplen, total.link_types = info.format, info.snaplen, info.link_types
            total.first_ns, total.last_ns = total.first_ns or info.first_ns, info.last_ns


@pytest.mark.parametrize("name", ["loss-1.sender.pcap", "blackhole-scope-host.sender.pcap"])
def test_a_range_finds_its_first_record_wherever_it_begins(samples: Path, name: str) -> None:
    """A process that was given a range of bytes begins at the record at which the one before it ends."""
    data = (samples / name).read_bytes()
    for near in range(FILE_HEADER_BYTES, len(data), len(data) // 97):
        assert first_record(data, near) == landing(data, near)


@pytest.mark.parametrize(
    "name", ["loss-1.sender.pcap", "blackhole-scope-host.sender.pcap", "sack-shifted.receiver.pcap"]
)
def test_two_workers_give_the_case_of_one(
    samples: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture cut in the middle of its bytes, each half read by a process: the same document, frame by frame."""
    whole = samples / name
    one = json.render(analysis.analyze([str(whole)]))
    data = whole.read_bytes()
    cut = first_record(data, len(data) // 2)
    parts = [tmp_path / "0.pcap", tmp_path / "1.pcap"]
    parts[0].write_bytes(data[:cut])
    parts[1].write_bytes(data[:FILE_HEADER_BYTES] + data[cut:])
    monkeypatch.setattr(
        parts_of, "read", lambda paths, options, captures, **_: joined([str(p) for p in parts], paths[0], captures)
    )
    assert json.render(analysis.analyze([str(whole)])) == one
