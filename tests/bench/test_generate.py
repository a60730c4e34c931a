"""The benchmark's captures hold together: what they are measured with must be what two real stacks would have sent."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import numpy as np
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The generator's modules, found the way its scripts find them."""
    sys.path.insert(0, str(HERE))
    try:
        yield importlib.import_module("generate")
    finally:
        sys.path.remove(str(HERE))


@pytest.fixture(scope="module", params=["A", "B", "C", "F"])
def small(
    request: pytest.FixtureRequest, bench: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A capture of every workload, 2 MB or 500 connections."""
    out = tmp_path_factory.mktemp("bench") / f"{request.param}.pcap"
    return out, bench.generate(request.param, 2_000_000, out, seed=7, connections=500)


class Seen(NamedTuple):
    flow: tuple[bytes, int, bytes, int]
    time: float
    ip: Any
    tcp: Any


def tcp_packets(file: Path) -> Iterator[tuple[int, Seen]]:
    """Frame number and TCP packet, read by dpkt."""
    with file.open("rb") as f:
        for frame, (when, data) in enumerate(dpkt.pcap.UniversalReader(f), 1):
            ip = dpkt.ethernet.Ethernet(data).data
            if isinstance(ip.data, dpkt.tcp.TCP):
                yield frame, Seen((ip.src, ip.data.sport, ip.dst, ip.data.dport), when, ip, ip.data)


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, written down plainly: 0xffff when a checksum in `data` is right."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_every_checksum_is_right(small: tuple[Path, dict[str, Any]]) -> None:
    """IP and TCP checksums of every copy are those of its own addresses, numbers and envelope."""
    for frame, seen in tcp_packets(small[0]):
        if seen.ip.v == 4:
            header = bytes(seen.ip)[: seen.ip.hl * 4]
            raw = bytes(seen.ip)[seen.ip.hl * 4 :]
            assert ones_complement_sum(header) == 0xFFFF, frame
        else:
            raw = bytes(seen.ip.data)
        pseudo = seen.ip.src + seen.ip.dst + struct.pack(">II", 6, len(raw))
        assert ones_complement_sum(pseudo + raw) == 0xFFFF, frame


def test_the_same_seed_gives_the_same_bytes(bench: Any, tmp_path: Path) -> None:
    """Two runs with one seed are equal to the byte, truth included; another seed gives another capture."""
    digests = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        out = tmp_path / f"{name}.pcap"
        bench.generate("A", 600_000, out, seed=seed)
        digests.append(hashlib.sha256(out.read_bytes() + out.with_suffix(".truth.json").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_bytes_sent_again_are_the_same_bytes(small: tuple[Path, dict[str, Any]]) -> None:
    """Whatever overlaps in sequence space carries equal bytes, and no flow is used twice."""
    streams: dict[tuple[bytes, int, bytes, int], dict[int, int]] = {}
    first: dict[tuple[bytes, int, bytes, int], int] = {}
    for frame, seen in tcp_packets(small[0]):
        if seen.tcp.flags & 2 and seen.flow not in first:
            first[seen.flow] = seen.tcp.seq
        assert not seen.tcp.flags & 2 or seen.tcp.seq == first[seen.flow], f"frame {frame}: a second connection"
        at = (seen.tcp.seq - first.get(seen.flow, 0)) & 0xFFFFFFFF
        known = streams.setdefault(seen.flow, {})
        for i, byte in enumerate(seen.tcp.data):
            assert known.setdefault(at + i, byte) == byte, frame


def test_nothing_is_acknowledged_before_it_was_sent(small: tuple[Path, dict[str, Any]]) -> None:
    """An ACK never runs ahead of the data, but where the capture has holes (C)."""
    _, truth = small
    end: dict[tuple[bytes, int, bytes, int], int] = {}
    ahead = 0
    for _, seen in tcp_packets(small[0]):
        length = len(seen.tcp.data) + bool(seen.tcp.flags & 1) + bool(seen.tcp.flags & 2)
        stop = (seen.tcp.seq + length) & 0xFFFFFFFF
        last = end.get(seen.flow, stop)
        if (stop - last) & 0xFFFFFFFF < 1 << 31:
            end[seen.flow] = stop
        back = (seen.flow[2], seen.flow[3], seen.flow[0], seen.flow[1])
        if seen.tcp.flags & 16 and back in end:
            ahead += 0 < (seen.tcp.ack - end[back]) & 0xFFFFFFFF < 1 << 31
    assert ahead == 0 or truth["workload"] == "C"


def test_times_never_run_backwards(small: tuple[Path, dict[str, Any]]) -> None:
    """Packets lie in the file in order of time."""
    times = [seen.time for _, seen in tcp_packets(small[0])]
    assert times == sorted(times)


def test_the_truth_counts_what_is_there(small: tuple[Path, dict[str, Any]]) -> None:
    """Connections by their SYN, mails by their MAIL FROM, as far as the capture has no holes."""
    file, truth = small
    assert json.loads(file.with_suffix(".truth.json").read_text()) == truth
    connections, senders = set(), set()
    for _, seen in tcp_packets(file):
        if seen.tcp.flags & 0x12 == 2:
            connections.add(seen.flow)
        start = seen.tcp.data.find(b"MAIL FROM:<")
        if start >= 0:
            senders.add(bytes(seen.tcp.data[start + 11 : seen.tcp.data.index(b">", start)]))
    holes = truth["connections_with_capture_holes"]
    assert truth["tcp_connections"] - holes <= len(connections) <= truth["tcp_connections"]
    mails = sum(truth["messages"].values())
    assert truth["messages_without_capture_holes"] <= len(senders) <= mails
    assert truth["bytes"] == file.stat().st_size


def test_a_planted_hole_is_one(bench: Any, tmp_path: Path) -> None:
    """Seen by the sender: packets above the MTU leave again and again and are never acknowledged; small ones arrive."""
    out = tmp_path / "A.pcap"
    truth = bench.generate("A", 1_500_000, out, seed=2)
    packets = dict(tcp_packets(out))
    acked: dict[tuple[bytes, int, bytes, int], list[int]] = {}
    for seen in packets.values():
        back = (seen.flow[2], seen.flow[3], seen.flow[0], seen.flow[1])
        acked.setdefault(back, []).append(seen.tcp.ack)
    holes = [hole for hole in truth["black_holes"] if hole["seen_by"] == "sender"]
    assert [hole["mtu"] for hole in holes] == [1400, 1476]
    for hole in holes:
        for entry in hole["stuck"]:
            copies = [packets[n] for n in entry["frames"]]
            assert len(copies) >= 6
            # Mostly the first one only; sometimes a second before the timer takes over, as real stacks do.
            again = Counter(p.tcp.seq for p in copies)
            assert again[copies[0].tcp.seq] >= 6
            assert len(again) <= 2
            assert all(p.ip.len > hole["mtu"] for p in copies)
            assert copies[0].tcp.seq not in {a - 1 for a in acked[copies[0].flow]}
            assert copies[-1].time - copies[0].time > 10
        passed = {port["client_port"] for port in hole["passed"]}
        small = [
            p
            for p in packets.values()
            if p.tcp.sport in passed and p.ip.dst == packets[hole["stuck"][0]["frames"][0]].ip.dst
        ]
        assert small
        assert max(p.ip.len for p in small) <= hole["mtu"]


def test_planted_terminators_are_cut_where_the_truth_says(bench: Any, tmp_path: Path) -> None:
    """The packet that ends inside CRLF.CRLF holds as many bytes of it as `cut_at` says."""
    out = tmp_path / "A.pcap"
    truth = bench.generate("A", 800_000, out, seed=2)
    ports = {s["client_port"]: s["cut_at"][0] for s in truth["split_terminators"]}
    found = set()
    for _, seen in tcp_packets(out):
        cut = ports.get(seen.tcp.sport)
        if cut and socket_text(seen.ip.dst).startswith("203.0.113.2") and seen.tcp.data.endswith(b"\r\n.\r\n"[:cut]):
            found.add((seen.tcp.sport, cut))
    assert found == set(ports.items())


def socket_text(address: bytes) -> str:
    return ".".join(map(str, address))


def test_a_lossy_path_delivers_every_byte(bench: Any) -> None:
    """The model's sender recovers from loss and reordering: both sides end with all that was written."""
    model = importlib.import_module("tcp_model")
    turns = [
        model.Turn(model.SERVER, (b"220 hello\r\n",)),
        model.Turn(model.CLIENT, tuple(bytes([65 + i]) * 5792 for i in range(12))),
        model.Turn(model.SERVER, (b"250 ok\r\n",), close=True),
        model.Turn(model.CLIENT, close=True),
    ]
    for seed in range(20):
        path = model.Path(loss=0.1, reorder=0.05, tap=seed % 2)
        exchange = model.Exchange(turns, path, model.Host(), model.Host(), np.random.default_rng(seed), collapse=True)
        assert exchange.finished
        assert exchange.ends[1].rcv_nxt == exchange.ends[0].end == 12 * 5792 + 2


@pytest.mark.tshark
def test_tshark_agrees(small: tuple[Path, dict[str, Any]]) -> None:
    """Nothing malformed, no wrong checksum, about as many resends as planted, every mail's MAIL command."""
    if not shutil.which("tshark"):
        pytest.skip("no tshark")
    file, truth = small
    settings = ("tcp.check_checksum", "ip.check_checksum", "udp.check_checksum", "tcp.reassemble_out_of_order")
    fields = (
        "_ws.malformed",
        "tcp.checksum.status",
        "ip.checksum.status",
        "tcp.analysis.retransmission",
        "smtp.req.command",
    )
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]
    for setting in settings:
        command += ["-o", f"{setting}:TRUE"]
    for name in fields:
        command += ["-e", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == truth["frames"]
    columns = dict(zip(fields, zip(*(line.split("|") for line in lines), strict=True), strict=True))
    assert not any(columns["_ws.malformed"])
    assert set(columns["tcp.checksum.status"]) <= {"1", "", "Good"}
    assert set(columns["ip.checksum.status"]) <= {"1", "", "Good"}
    resends = sum(map(bool, columns["tcp.analysis.retransmission"]))
    # tshark calls a first quick resend "out of order", and resends that it sees only once retransmissions as well.
    assert 0.6 * truth["segments_seen_again"] <= resends <= 1.6 * truth["segments_seen_again"] + 20
