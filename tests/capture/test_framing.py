"""Where records lie, when they were captured, and what is said of files that are not what they should be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.capture import framing, reading, windows
from analyzer.capture.packets import CaptureInfo

from . import build
from .tables import assert_equal, read_all, rows

PACKETS = [build.ethernet(build.ip4(build.tcp(b"x" * n, seq=n))) for n in range(40)]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "capture"


def read_bytes(scratch: Path, data: bytes, **options: object):
    scratch.write_bytes(data)
    return read_all(scratch, **options)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_both_byte_orders_and_resolutions(scratch: Path, order: str, nano: bool) -> None:
    """All four magics give the same packets at the same times."""
    result = read_bytes(scratch, build.pcap(PACKETS, order=order, nano=nano))
    assert result.packets.seq.tolist() == list(range(40))
    assert result.packets.frame.tolist() == list(range(1, 41))
    assert (result.packets.time_ns == 1_700_000_000 * 10**9 + 10**6 * (result.packets.frame - 1)).all()
    assert result.captures[0].complete
    assert result.captures[0].link_types == ["ETHERNET"]


@pytest.mark.parametrize("order", "<>")
def test_pcapng_gives_what_pcap_gives(scratch: Path, order: str) -> None:
    """The container does not matter."""
    one = read_bytes(scratch, build.pcap(PACKETS))
    other = read_bytes(scratch, build.pcapng(PACKETS, order=order))
    assert_equal(one, other)
    assert other.captures[0].format == "pcapng"


def test_modified_pcap(scratch: Path) -> None:
    """Kuznetzov's variant has record headers of 24 bytes."""
    data = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for packet in PACKETS:
        data += struct.pack("<IIIIIHBx", 5, 7, len(packet), len(packet), 2, 0x0800, 0) + packet
    result = read_bytes(scratch, data)
    assert result.packets.seq.tolist() == list(range(40))
    assert set(result.packets.time_ns.tolist()) == {5_000_007_000}


@pytest.mark.parametrize(
    ("resolution", "ticks", "expected_ns"),
    [
        (6, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (9, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (3, 1_700_000_000_123, 1_700_000_000_123_000_000),
        (0, 1_700_000_000, 1_700_000_000_000_000_000),
        (12, 1_700_000_000_123_456_789, 1_700_000_000_123_456),
        (0x80 | 10, 1_700_000_000 << 10 | 512, 1_700_000_000_500_000_000),
        (0x80 | 33, 1_700_000_000 << 33 | 1 << 32, 1_700_000_000_500_000_000),
        (0x80 | 60, 5 << 60 | 1 << 59, 5_500_000_000),
        (0x80 | 127, 2**64 - 1, 0),
        (127, 2**64 - 1, 0),
        (0, 2**64 - 1, 9_000_000_000 * 10**9),
        (6, 2**64 - 1, 9_000_000_000 * 10**9),
        (9, 2**64 - 1, 9_000_000_000 * 10**9),
        (0x80, 2**64 - 1, 9_000_000_000 * 10**9),
    ],
)
def test_interface_clocks(scratch: Path, resolution: int, ticks: int, expected_ns: int) -> None:
    """if_tsresol counts in powers of 10 or 2; what does not fit 64 bits of nanoseconds is held at the limit."""
    described = build.interface(options=build.option(9, bytes([resolution])) + build.option(0, b""))
    result = read_bytes(scratch, build.section() + described + build.enhanced(PACKETS[0], ticks))
    assert result.packets.time_ns.tolist() == [expected_ns]


@pytest.mark.parametrize("offset_s", [3600, -1_700_000_001, 2**63 - 1, -(2**63)])
def test_interface_time_offset(scratch: Path, offset_s: int) -> None:
    """if_tsoffset is added in seconds; times before 1970 are negative."""
    described = build.interface(options=build.option(14, struct.pack("<q", offset_s)))
    result = read_bytes(scratch, build.section() + described + build.enhanced(PACKETS[0], 1_700_000_000_000_000))
    limit = 9_000_000_000
    wanted = min(1_700_000_000 + max(-limit, min(offset_s, limit)), limit)
    assert result.packets.time_ns.tolist() == [wanted * 10**9]


def test_sections_and_interfaces(scratch: Path) -> None:
    """Interfaces are counted anew in each section, in that section's byte order; frames go on."""
    cooked = build.cooked(build.ip4(build.tcp(b"y", seq=77)), kind=4)
    data = (
        build.section("<")
        + build.interface(1)
        + build.interface(113)
        + build.enhanced(PACKETS[1], 10)
        + build.enhanced(cooked, 20, interface_id=1)
        + build.section(">")
        + build.interface(113, order=">")
        + build.enhanced(cooked, 30, order=">")
        + build.block(0x0BAD, b"a custom block", ">")
        + build.old_packet(cooked, 40, order=">")
    )
    table = read_bytes(scratch, data).packets
    assert table.frame.tolist() == [1, 2, 3, 4]
    assert table.seq.tolist() == [1, 77, 77, 77]
    assert table.interface.tolist() == [0, 1, 0, 0]
    assert table.outgoing.tolist() == [-1, 1, 1, 1]
    assert table.time_ns.tolist() == [10_000, 20_000, 30_000, 40_000]


def test_simple_packet_blocks(scratch: Path) -> None:
    """They have no time (that of the packet before them is taken) and are cut to the interface's snap length."""
    data = build.section() + build.interface(snaplen=60) + build.simple(PACKETS[2]) + build.enhanced(PACKETS[3], 10)
    data += build.simple(PACKETS[20][:60], original=len(PACKETS[20]))
    table = read_bytes(scratch, data).packets
    assert table.time_ns.tolist() == [0, 10_000, 10_000]
    assert table.captured_bytes.tolist() == [56, 57, 60]
    assert table.frame_bytes.tolist() == [56, 57, 74]
    assert table.payload_bytes.tolist() == [2, 3, 20]
    assert table.payload_captured.tolist() == [2, 3, 6]


@pytest.mark.parametrize("first", [b"", build.option(1, b"a comment"), build.option(4, bytes(8))])
@pytest.mark.parametrize(("flags", "outgoing"), [(0, -1), (1, 0), (2, 1)])
def test_direction_from_epb_flags(scratch: Path, first: bytes, flags: int, outgoing: int) -> None:
    """epb_flags may stand behind other options."""
    options = first + build.option(2, struct.pack("<I", flags)) + build.option(0, b"")
    result = read_bytes(scratch, build.section() + build.interface() + build.enhanced(PACKETS[5], options=options))
    assert result.packets.outgoing.tolist() == [outgoing]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"GIF89a, no packets here", "not a capture"),
        (b"\xd4\xc3", "not a capture"),
        (build.pcap([])[:20], "cut off in the file header"),
        (build.pcap(PACKETS)[:-1], "cut off in frame 40"),
        (build.pcap(PACKETS[:3]) + b"\0" * 15, "cut off in frame 4 at byte"),
        (
            build.pcap(PACKETS[:3]) + struct.pack("<IIII", 1, 1, 5000, 5000) + b"abc",
            "the record needs 5016 bytes, 19 are there",
        ),
        (build.pcap(PACKETS[:3]) + struct.pack("<IIII", 1, 1, 2**31, 60) + bytes(60), "damaged at frame 4"),
        (build.pcapng(PACKETS)[:-1], "cut off at byte"),
        (build.pcapng(PACKETS[:3]) + struct.pack("<III", 6, 0, 0), "a block of 0 bytes"),
        (build.pcapng(PACKETS[:3]) + struct.pack("<III", 6, 4, 0), "a block of 4 bytes"),
        (build.pcapng(PACKETS[:3]) + struct.pack("<III", 6, 33, 0) + bytes(50), "a block of 33 bytes"),
        (build.pcapng(PACKETS[:3]) + struct.pack("<III", 6, 2**32 - 4, 0), "the most that is believed"),
        (build.pcapng(PACKETS[:3]) + struct.pack("<III", 6, 40, 0) + bytes(50), "two lengths differ"),
        (
            build.section() + build.interface() + build.enhanced(PACKETS[0], interface_id=3),
            "interface 3, which is not described",
        ),
        (build.section() + build.enhanced(PACKETS[0]), "interface 0, which is not described"),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "dpkt"])
def test_what_is_wrong_is_said(scratch: Path, data: bytes, problem: str, engine: str) -> None:
    """One problem, with its place; the capture is not complete; what came before is read."""
    result = read_bytes(scratch, data, engine=engine)
    assert not result.captures[0].complete
    assert len(result.problems) == 1
    assert problem in result.problems[0]


def test_what_came_before_the_damage_is_read(scratch: Path) -> None:
    """Frames before a cut or a damaged record are all there."""
    assert len(read_bytes(scratch, build.pcap(PACKETS)[:-1]).packets) == 39
    assert len(read_bytes(scratch, build.pcap(PACKETS) + struct.pack("<IIII", 1, 1, 2**31, 60)).packets) == 40
    assert len(read_bytes(scratch, build.pcapng(PACKETS)[:-1]).packets) == 39


@pytest.mark.parametrize("data", [build.pcap([]), build.section(), build.pcapng([])])
def test_only_a_header_is_a_complete_capture(scratch: Path, data: bytes) -> None:
    """No packet was captured: nothing is wrong."""
    result = read_bytes(scratch, data)
    assert result.captures[0].complete
    assert result.captures[0].frames == 0
    assert not result.problems


def test_captured_bytes_beyond_the_block_are_not_believed(scratch: Path) -> None:
    """The packet ends where its block does."""
    data = bytearray(build.section() + build.interface() + build.enhanced(PACKETS[4]) + build.enhanced(PACKETS[5]))
    at = data.index(struct.pack("<I", len(PACKETS[4])) * 2)
    data[at : at + 4] = struct.pack("<I", 1000)
    result = read_bytes(scratch, bytes(data))
    assert result.packets.seq.tolist() == [4, 5]
    assert "frame 1 claims 1000 captured bytes" in result.problems[0]


def test_many_interfaces_end_at_a_limit(scratch: Path) -> None:
    """A million empty interface descriptions are a waste, not a danger."""
    data = build.section() + build.interface() * 70_000 + build.enhanced(PACKETS[0], 10)
    result = read_bytes(scratch, data)
    assert result.packets.time_ns.tolist() == [10_000]
    assert "more than 65536 interfaces" in result.problems[0]


@given(size=st.integers(200, 5000), ng=st.booleans(), order=st.sampled_from("<>"), cut=st.integers(0, 100))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_do_not_show(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, size: int, ng: bool, order: str, cut: int
) -> None:
    """However the file is cut into windows, the packets and the problems are the same."""
    data = build.pcapng(PACKETS * 3, order=order) if ng else build.pcap(PACKETS * 3, order=order)
    whole = read_bytes(scratch, data[: len(data) - cut])
    with monkeypatch.context() as patched:
        patched.setattr(reading, "WINDOW_BYTES", size)
        assert_equal(read_all(scratch), whole)


def test_records_longer_than_the_headroom(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a window leaves unread may be longer than the room before the next one."""
    big = build.ethernet(build.ip4(build.tcp(b"z" * 20_000, seq=5), total=20_040))
    monkeypatch.setattr(windows, "HEADROOM_BYTES", 100)
    monkeypatch.setattr(reading, "WINDOW_BYTES", 1000)
    for data in (build.pcap([*PACKETS, big, *PACKETS]), build.pcapng([*PACKETS, big, *PACKETS])):
        result = read_bytes(scratch, data)
        assert len(result.packets) == 81
        assert result.packets.payload(40) == b"z" * 20_000


def test_times_that_go_back_keep_capture_order(scratch: Path) -> None:
    """Rows stand in the order of the frames, whatever the clock did."""
    data = build.section() + build.interface() + b"".join(build.enhanced(p, 10_000 - i) for i, p in enumerate(PACKETS))
    table = read_bytes(scratch, data).packets
    assert table.frame.tolist() == list(range(1, 41))
    assert table.time_ns.tolist() == sorted(table.time_ns.tolist(), reverse=True)


def test_interfaces_are_merged_by_time(scratch: Path) -> None:
    """Capture programs write the buffers of several interfaces one after the other; each keeps its own order."""
    data = build.section() + build.interface() + build.interface()
    for ticks, name in ((11, 0), (30, 0), (20, 1), (40, 1), (35, 1), (50, 0)):
        data += build.enhanced(PACKETS[ticks - 11], ticks, interface_id=name)
    for engine in ("columnar", "dpkt"):
        table = read_bytes(scratch, data, engine=engine).packets
        assert table.time_ns.tolist() == [11_000, 20_000, 30_000, 40_000, 35_000, 50_000]


def test_the_first_link_type_is_told_by_the_head() -> None:
    """Of both formats; None where the head does not tell."""
    assert framing.first_link_type(build.pcap([], link_type=147, order=">")) == 147
    assert framing.first_link_type(build.pcapng([], link_type=113, order=">")) == 113
    assert framing.first_link_type(build.section()) is None
    assert framing.first_link_type(b"GIF89a" * 20) is None
    assert framing.first_link_type(b"\n\r\r\n\xff\xff\xff\xff\x4d\x3c\x2b\x1a" + bytes(40)) is None


def test_buffers_in_use_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is kept past its window keeps its bytes, at the price of memory."""
    monkeypatch.setattr(reading, "WINDOW_BYTES", 500)
    path = tmp_path / "capture"
    path.write_bytes(build.pcap(PACKETS))
    captures: list[CaptureInfo] = []
    tables = [batch.packets for batch in reading.read([str(path)], reading.ReadOptions(), captures)]
    payloads = [table.payload(i) for table in tables for i in range(len(table))]
    assert payloads == [b"x" * n for n in range(40)]


def test_detached_tables_are_equal(scratch: Path) -> None:
    """detach copies rows, bytes and SACK blocks."""
    sack = b"\x01\x01\x05\x12" + bytes(range(16))
    packets = [build.ethernet(build.ip4(build.tcp(b"p" * n, options=sack if n % 2 else b""))) for n in range(9)]
    table = read_bytes(scratch, build.pcap(packets)).packets
    picked = table[[1, 3, 4, 8]]
    assert rows(picked.detach()) == rows(picked)
    assert picked.detach().sacks(0) == [(0x00010203, 0x04050607), (0x08090A0B, 0x0C0D0E0F)]


def test_magic_tells_captures(scratch: Path) -> None:
    """Text and the like are none; both formats are, in both byte orders."""
    assert not framing.is_capture(b"")
    assert not framing.is_capture(b"\n\r\r\n" + bytes(20))
    assert framing.is_capture(build.pcap([], order=">"))
    assert framing.is_capture(build.section(">"))


class _Scribbler:
    """A stream that uses more of the buffer than it fills, as `readinto` may."""

    def __init__(self, data: bytes, behind: bytes) -> None:
        self.data, self.behind = data, behind

    def readinto(self, buffer: memoryview, /) -> int:
        got = len(self.data)
        both = self.data + self.behind
        if got:
            buffer[: len(both)] = both
        self.data = b""
        return got

    def close(self) -> None: ...


@pytest.mark.parametrize("kept", range(1, 24))
@pytest.mark.parametrize("whole", [build.pcap([]), build.section()[:24]], ids=["pcap", "pcapng"])
def test_bytes_behind_the_end_of_the_file_are_not_its_header(kept: int, whole: bytes) -> None:
    """Buffers are used again: a short file is judged by its own bytes only."""
    info = CaptureInfo(0, "short")
    stream = _Scribbler(whole[:kept], whole[kept:])
    assert sum(map(len, framing.read_records(windows.Windows(stream), info))) == 0
    bare = CaptureInfo(0, "short")
    assert sum(map(len, framing.read_records(windows.Windows(_Scribbler(whole[:kept], bytes(24))), bare))) == 0
    assert info.problems == bare.problems
    assert not info.complete
