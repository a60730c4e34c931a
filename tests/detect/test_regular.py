"""The short way and the long way say the same."""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer import analysis
from analyzer.report.json import document

SAMPLES = sorted((Path(__file__).parents[2] / "sample_pcaps").glob("*.pcap*"))


def both_ways(capture: Path, **options: object) -> tuple[object, object]:
    short, long = (
        document(analysis.analyze([str(capture)], analysis.Options(shortcuts=shortcuts, **options)))  # type: ignore[arg-type]
        for shortcuts in (True, False)
    )
    return short, long


@pytest.mark.parametrize("capture", SAMPLES, ids=lambda path: path.name)
def test_samples_give_equal_cases(capture: Path) -> None:
    """Taking regular connections out of columns changes nothing that is said about a recorded capture."""
    short, long = both_ways(capture)
    assert short == long


@pytest.fixture(scope="module")
def generate() -> Iterator[Any]:
    """The benchmark's generator of captures."""
    folder = str(Path(__file__).parents[1] / "bench")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("generate").generate
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize("workload", ["A", "B", "C", "F"])
@pytest.mark.parametrize("seed", [1, 2])
def test_generated_captures_give_equal_cases(generate: Any, tmp_path: Path, workload: str, seed: int) -> None:
    """Nor for busy captures: losses, resends cut anew, reordering, holes, TLS, BDAT, floods."""
    capture = tmp_path / "capture.pcap"
    generate(workload, 6_000_000, capture, seed=seed, connections=2000)
    short, long = both_ways(capture)
    assert short == long


def test_windows_do_not_matter(generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the windows of a capture end, and what is copied out of them, changes nothing."""
    capture = tmp_path / "capture.pcap"
    generate("A", 8_000_000, capture, seed=3)
    whole, _ = both_ways(capture)
    monkeypatch.setattr("analyzer.capture.reading.WINDOW_BYTES", 100_000)
    pieces, long = both_ways(capture)
    assert pieces == long
    assert pieces == whole


def join_frames(capture: Path, out: Path, most: int) -> int:
    """The capture as a host with offload would have taken it: up to `most` packets of one flight in one frame. How many."""
    data = capture.read_bytes()
    kept: list[bytearray] = []  # records
    last: dict[
        bytes, tuple[int, int, int]
    ] = {}  # flow -> its last record, the sequence number behind it, packets in it
    at, joined = 24, 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        record = bytearray(data[at : at + 16 + length])
        at += 16 + length
        total, header = struct.unpack_from(">H", record, 32)[0], 20 + (record[62] >> 4) * 4
        flow, payload = bytes(record[42:54]), record[30 + header : 30 + total]
        (seq,) = struct.unpack_from(">I", record, 54)
        number, expected, packets = last.get(flow, (0, -1, 0))
        whole = record[16 + 12 : 16 + 14] == b"\x08\x00" and record[39] == 6 and len(payload) > 0
        if whole and seq == expected and packets < most and kept[number][58:62] == record[58:62]:
            before = kept[number]
            del before[30 + struct.unpack_from(">H", before, 32)[0] :]
            before += payload
            struct.pack_into(">H", before, 32, len(before) - 30)
            struct.pack_into("<II", before, 8, len(before) - 16, len(before) - 16)
            last[flow] = number, seq + len(payload), packets + 1
            joined += 1
            continue
        last[flow] = len(kept), seq + len(payload) if whole else -1, 1
        last.pop(bytes(record[46:50] + record[42:46] + record[52:54] + record[50:52]), None)
        kept.append(record)
    out.write_bytes(data[:24] + b"".join(kept))
    return joined


@pytest.mark.parametrize("most", [2, 3, 44])
def test_offloaded_frames_give_equal_cases(generate: Any, tmp_path: Path, most: int) -> None:
    """Nor for captures of hosts whose network card cuts what they send, and joins what they receive."""
    generate("A", 4_000_000, tmp_path / "wire.pcap", seed=most)
    assert join_frames(tmp_path / "wire.pcap", tmp_path / "host.pcap", most) > 500
    short, long = both_ways(tmp_path / "host.pcap")
    assert short == long
