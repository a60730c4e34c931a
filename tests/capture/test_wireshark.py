"""tshark as the independent witness: it fills the same table, on recorded captures and on those that tests build."""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from analyzer.capture import wireshark
from analyzer.capture.packets import CaptureInfo
from analyzer.capture.reading import ReadOptions, read
from analyzer.capture.wanted import DEFAULT_PORTS, Wanted

from . import build
from .tables import Result, read_all, rows
from .test_exact import BIG, ENCAPSULATIONS, INNER, INNER6, LINKS, pieces

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"
PACKETS = [build.ethernet(build.ip4(build.tcp(b"x" * 50, seq=n))) for n in range(50)]

pytestmark = pytest.mark.tshark


def one_per_scenario() -> list[Path]:
    """One capture of each recorded scenario, the vantage points in turn: starting tshark takes its time."""
    scenarios: dict[str, list[Path]] = {}
    for path in sorted(SAMPLES.glob("*.pcap*")):
        scenarios.setdefault(path.name.partition(".")[0], []).append(path)
    return [paths[i % len(paths)] for i, paths in enumerate(scenarios.values())]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "capture"


def assert_same(theirs: Result, ours: Result, *, but: frozenset[str] = frozenset()) -> None:
    """Every column of every row, and every ICMP error; `but` names what is known to differ, and why at its use."""
    one = [{k: v for k, v in row.items() if k not in but} for row in rows(theirs.packets)]
    other = [{k: v for k, v in row.items() if k not in but} for row in rows(ours.packets)]
    assert one == other
    assert theirs.icmp == ours.icmp


@pytest.mark.parametrize("sample", one_per_scenario(), ids=lambda p: p.name)
def test_recorded_captures(sample: Path) -> None:
    """Nothing differs: addresses, sizes, sequence numbers, options, payload, ICMP quotes."""
    theirs, ours = read_all(sample, engine="tshark"), read_all(sample)
    known = frozenset[str]()
    if any(ours.packets.fragments):
        known |= {"packet"}  # ours is the datagram put together, theirs the last fragment's header
    if (ours.captures[0].snaplen or 0) < 74:  # Ethernet, IP, and a SYN's TCP header with 20 bytes of options
        known |= {"has_ts", "ts_val"}  # tshark reads half an option, we only whole ones
    assert_same(theirs, ours, but=known)
    assert theirs.captures[0].frames == ours.captures[0].frames
    assert (theirs.captures[0].first_ns, theirs.captures[0].last_ns) == (
        ours.captures[0].first_ns,
        ours.captures[0].last_ns,
    )


def test_built_encapsulations_are_what_they_claim(scratch: Path) -> None:
    """The headers that the exact engine peels are read the same way by tshark."""
    # Ethernet in MPLS can not be told from the bytes; tshark waits for its user to say it.
    frames = [frame for name, (frame, _) in ENCAPSULATIONS.items() if name != "Ethernet over MPLS"]
    scratch.write_bytes(build.pcap(frames))
    # Packet bytes: tshark keeps extension headers apart.
    assert_same(read_all(scratch, engine="tshark"), read_all(scratch), but=frozenset({"packet"}))


@pytest.mark.parametrize("link_type", LINKS)
def test_built_link_types_are_what_they_claim(scratch: Path, link_type: int) -> None:
    """The same for the link layers."""
    scratch.write_bytes(build.pcap([LINKS[link_type]], link_type=link_type))
    assert_same(read_all(scratch, engine="tshark"), read_all(scratch))


def test_built_fragments_are_what_they_claim(scratch: Path) -> None:
    """One row at the first fragment, with the size of the whole and of the largest."""
    scratch.write_bytes(build.pcap([PACKETS[0], *pieces(BIG, 128), PACKETS[1]]))
    # tshark gives the row of a fragmented packet when its last fragment has come, with that one's header.
    theirs, ours = read_all(scratch, engine="tshark"), read_all(scratch)
    assert_same(theirs, ours, but=frozenset({"packet"}))


def test_built_icmp_errors_are_what_they_claim(scratch: Path) -> None:
    """Quotes of both versions."""
    frames = [
        build.ethernet(build.ip4(build.icmp4(INNER), protocol=1)),
        build.ethernet(build.ip4(build.icmp4(INNER[:28], kind=11, code=0), protocol=1)),
        build.ethernet(build.ip6(build.icmp6(INNER6), protocol=58), 0x86DD),
    ]
    scratch.write_bytes(build.pcap(frames))
    theirs, ours = read_all(scratch, engine="tshark"), read_all(scratch)
    assert len(ours.icmp) == 3
    assert_same(theirs, ours)


def snoop(packets: list[bytes]) -> bytes:
    """RFC 1761."""
    out = [b"snoop\0\0\0" + struct.pack(">II", 2, 4)]
    for packet in packets:
        padding = bytes(-len(packet) % 4)
        length = 24 + len(packet) + len(padding)
        out.append(struct.pack(">IIIIII", len(packet), len(packet), length, 0, 1_700_000_000, 0) + packet + padding)
    return b"".join(out)


@pytest.mark.parametrize("packed", [False, True])
def test_other_formats_go_through_tshark(scratch: Path, packed: bool) -> None:
    """Known by their magic; unpacked into a private temporary file where they are compressed."""
    import gzip

    data = snoop(PACKETS)
    scratch.write_bytes(gzip.compress(data) if packed else data)
    result = read_all(scratch)
    assert result.packets.seq.tolist() == list(range(50))
    assert result.captures[0].complete
    assert result.captures[0].format == "snoop"


EDITCAP = (
    "snoop",
    "netmon1",
    "netmon2",
    "ngsniffer",
    "ngwsniffer_2_0",
    "5views",
    "lanalyzer",
    "nettl",
    "visual",
    "k12text",
)


@pytest.mark.skipif(shutil.which("editcap") is None, reason="editcap is not installed")
@pytest.mark.parametrize("written_as", EDITCAP)
def test_what_editcap_writes_gives_the_same_verdict(scratch: Path, written_as: str) -> None:
    """A black hole in the formats of Solaris, Microsoft, Sniffer, ...: the same findings, and the report names the format."""
    from analyzer import analysis

    sample = SAMPLES / "blackhole-1400.sender.pcap"
    subprocess.run(["editcap", "-F", written_as, sample, scratch], check=True, capture_output=True)
    case, plain = analysis.analyze([str(scratch)]), analysis.analyze([str(sample)])
    assert case.captures[0].format not in ("", "pcap", "pcapng")
    assert case.captures[0].complete
    assert [f.fingerprint for f in case.findings] == [f.fingerprint for f in plain.findings]
    assert [(m.size, m.outcome) for m in case.messages] == [(m.size, m.outcome) for m in plain.messages]


def test_link_types_that_only_tshark_knows(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBSD's firewall log, for one; without tshark they are a problem."""
    header = struct.pack(">BBBB16s16sII", 61, 2, 0, 0, b"em0", b"", 0, 0) + bytes(16) + struct.pack(">Bxxx", 1)
    scratch.write_bytes(build.pcap([header.ljust(64, b"\0") + INNER], link_type=117))
    result = read_all(scratch)
    assert result.packets.seq.tolist() == [99]
    assert result.captures[0].complete
    monkeypatch.setattr(wireshark, "is_installed", lambda: False)
    assert "link type 117 is not known: 1 frames" in read_all(scratch).problems[0]


def test_cut_off_files_survive(scratch: Path) -> None:
    """What tshark printed counts; its complaint is the problem."""
    scratch.write_bytes(build.pcap(PACKETS)[:-10])
    result = read_all(scratch, engine="tshark")
    assert len(result.packets) == 49
    assert "cut short" in result.problems[0]


def test_within_a_running_event_loop(scratch: Path) -> None:
    """As in Jupyter."""
    scratch.write_bytes(build.pcap(PACKETS))

    async def inside() -> int:
        return len(read_all(scratch, engine="tshark").packets)

    assert asyncio.run(inside()) == 50


def test_iteration_may_stop_early(scratch: Path) -> None:
    """No process and no thread stays behind."""
    scratch.write_bytes(build.pcap(PACKETS * 300))
    info = CaptureInfo(1, str(scratch))
    batches = wireshark.read_file(str(scratch), info, Wanted(DEFAULT_PORTS))
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tshark")]
    running = [line.read_bytes() for line in Path("/proc").glob("[0-9]*/cmdline") if line.exists()]
    assert not [words for words in running if bytes(scratch) in words]


def test_a_helo_makes_its_port_wanted(scratch: Path) -> None:
    """The same discovery as in the native engines."""
    frames = [build.ethernet(build.ip4(build.tcp(b"220 x\r\n", sport=10025, dport=4000)))]
    frames.append(build.ethernet(build.ip4(build.tcp(b"EHLO a\r\n", sport=4000, dport=10025))))
    scratch.write_bytes(build.pcap(frames))
    assert len(read_all(scratch, engine="tshark").packets) == 2


@pytest.mark.parametrize("failure", ["missing", "crashing", "silent"])
def test_tshark_that_does_not_do_its_work(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """Missing, crashing or hanging: one problem, no traceback."""
    scratch.write_bytes(snoop(PACKETS))
    program = tmp_path / "tshark"
    if failure != "missing":
        version = 'case "$*" in *-v*) echo "TShark (Wireshark) 4.0.17"; exit 0;; esac\n'
        act = "echo broken >&2; exit 3" if failure == "crashing" else "exec sleep 60"
        program.write_text(f"#!/bin/sh\n{version}{act}\n")
        program.chmod(0o755)
    monkeypatch.setattr(wireshark.shutil, "which", lambda _: str(program) if failure != "missing" else None)
    monkeypatch.setattr(wireshark, "SILENCE_S", 2)
    result = read_all(scratch)
    assert len(result.problems) == 1
    # what a crashing program says may or may not be read before its end is noticed
    expected = {"missing": "not installed", "crashing": "broken|crashed", "silent": "said nothing"}
    assert re.search(expected[failure], result.problems[0])


def test_a_configuration_in_the_working_directory_is_not_obeyed(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyshark reads config.ini from there; it must not be able to name the program that is run."""
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    evil.chmod(0o755)
    (tmp_path / "config.ini").write_text(f"[tshark]\ntshark_path = {evil}\n")
    monkeypatch.chdir(tmp_path)
    scratch.write_bytes(build.pcap(PACKETS))
    captures: list[CaptureInfo] = []
    options: Any = ReadOptions(engine="tshark")
    assert sum(len(b.packets) for b in read([str(scratch)], options, captures)) == 50
    assert not (tmp_path / "ran").exists()
