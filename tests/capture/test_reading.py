"""Which packets are kept, what is counted, and that no bytes bring the reader down."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.capture import reading
from analyzer.capture.framing import Records
from analyzer.capture.packets import ACK, SYN, CaptureInfo

from . import build
from .tables import assert_equal, read_all

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "sample_pcaps").glob("*.pcap*"))
ENGINES = pytest.mark.parametrize("engine", ["columnar", "dpkt"])


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "capture"


def segment(payload: bytes = b"", **fields: int) -> bytes:
    return build.ethernet(build.ip4(build.tcp(payload, **fields)))


def conversation(port: int, hello: bytes = b"EHLO a.example\r\n") -> list[bytes]:
    """A handshake, a greeting, and a client's first words."""
    there, back = {"sport": 40000, "dport": port}, {"sport": port, "dport": 40000}
    return [
        segment(flags=SYN, **there),
        segment(flags=SYN | ACK, **back),
        segment(flags=ACK, **there),
        segment(b"220 mail.example ESMTP\r\n", **back),
        segment(hello, **there),
    ]


@ENGINES
def test_rows_of_wanted_ports_are_kept(scratch: Path, engine: str) -> None:
    """Both directions; everything else is counted by its lower TCP port, or by what it is."""
    arp, dns = build.ethernet(bytes(28), 0x0806), build.ethernet(build.ip4(build.udp(b"", 53), protocol=17))
    frames = [*conversation(25), *conversation(443, b"GET / HTTP/1.1\r\n"), arp, dns, build.ethernet(b"\x45", 0x0800)]
    scratch.write_bytes(build.pcap(frames))
    result = read_all(scratch, engine=engine)
    assert result.packets.frame.tolist() == [1, 2, 3, 4, 5]
    assert result.counts == {"frames": 13, "other-tcp": 5, "not-ip": 1, "not-tcp": 1, "undecodable": 1}
    assert result.tcp_ports[443] == result.tcp_ports.sum() == 5


@ENGINES
@pytest.mark.parametrize("hello", [b"EHLO a\r\n", b"helo a\r\n", b"LhLo a\r\n"])
def test_a_helo_makes_its_port_wanted(scratch: Path, engine: str, hello: bytes) -> None:
    """The whole window of it, from the handshake on."""
    scratch.write_bytes(build.pcap([*conversation(443, b"hi"), *conversation(10025, hello)]))
    result = read_all(scratch, engine=engine)
    assert result.packets.frame.tolist() == [6, 7, 8, 9, 10]
    assert result.counts["other-tcp"] == 5


def test_a_helo_brings_the_window_before_it(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greeting may lie there; every frame is still counted once."""
    filler = [segment(b"z" * 1000, sport=50000, dport=443)] * 40
    scratch.write_bytes(
        build.pcap([*filler, *conversation(10025)[:4], *filler[:10], *conversation(10025)[4:], *filler])
    )
    monkeypatch.setattr(reading, "WINDOW_BYTES", 48_000)
    result = read_all(scratch)
    assert result.packets.frame.tolist() == [41, 42, 43, 44, 55]
    assert sum(result.counts.values()) - result.counts["frames"] + len(result.packets) == result.counts["frames"]
    assert result.tcp_ports.sum() == result.counts["other-tcp"] == 90


def test_sparse_windows_wait_for_each_other(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer batches, with the same in them."""
    filler = [segment(b"z" * 1000, sport=50000, dport=443)] * 40
    scratch.write_bytes(build.pcap((filler + conversation(25)) * 20))
    monkeypatch.setattr(reading, "WINDOW_BYTES", 48_000)
    windows = scratch.stat().st_size / 48_000
    batches = list(reading.read([str(scratch)], reading.ReadOptions(), []))
    assert 1 < len(batches) <= windows / reading.SPARSE_WINDOWS + 2 and len(batches[0].packets) > 15
    together = read_all(scratch)
    monkeypatch.setattr(reading, "SPARSE_WINDOWS", 0)
    assert_equal(together, read_all(scratch))


def test_a_span_behind_what_is_skimmed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames are numbered as in the whole capture, wherever it begins."""
    scratch.write_bytes(build.pcap(conversation(25) * 400))
    monkeypatch.setattr(reading, "WINDOW_BYTES", 2000)
    whole = read_all(scratch).packets.frame.tolist()
    for start in (1, 5_000, 77_777, scratch.stat().st_size - 1):
        captures: list[CaptureInfo] = []
        options, span = reading.ReadOptions(), reading.Span((1, start))
        frames = [
            frame
            for batch in reading.read([str(scratch)], options, captures, span=span)
            for frame in batch.packets.frame.tolist()
        ]
        assert frames and frames == whole[-len(frames) :]
        assert captures[0].frames == 2000


@ENGINES
def test_words_that_are_no_helo(scratch: Path, engine: str) -> None:
    """In the middle of a payload, without the space, or in the padding after the packet."""
    padding = build.ethernet(build.ip4(build.tcp(b"", dport=10025), total=40) + b"EHLO a\r\n")
    frames = [
        segment(b" EHLO a\r\n", dport=10025),
        segment(b"EHLOA a\r\n", dport=10025),
        segment(b"EHLO", dport=10025),
        padding,
    ]
    scratch.write_bytes(build.pcap(frames))
    assert len(read_all(scratch, engine=engine).packets) == 0


@ENGINES
def test_all_tcp(scratch: Path, engine: str) -> None:
    """Every TCP packet, and ICMP errors about any."""
    quoted = build.ip4(build.tcp(b"x", dport=443))
    frames = [
        *conversation(25),
        *conversation(443, b"GET /"),
        build.ethernet(build.ip4(build.icmp4(quoted), protocol=1)),
    ]
    scratch.write_bytes(build.pcap(frames))
    assert len(read_all(scratch, engine=engine, all_tcp=True).packets) == 10
    assert len(read_all(scratch, engine=engine, all_tcp=True).icmp) == 1
    assert len(read_all(scratch, engine=engine).icmp) == 0


@ENGINES
def test_other_ports_can_be_asked_for(scratch: Path, engine: str) -> None:
    """--port replaces the default."""
    scratch.write_bytes(build.pcap([*conversation(25, b"x"), *conversation(80, b"x")]))
    assert set(read_all(scratch, ports=frozenset({80}), engine=engine).packets.dst_port.tolist()) == {80, 40000}


@st.composite
def damaged_samples(draw: st.DrawFn) -> bytes:
    """A recorded capture, cut and overwritten, sometimes with the extremes that lengths may have."""
    data = bytearray(draw(st.sampled_from(SAMPLES)).read_bytes()[:20_000])
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.one_of(st.integers(0, 200), st.integers(0, len(data) - 1))) % len(data)
        value = draw(
            st.one_of(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff", b"\0"]), st.binary(min_size=1, max_size=4)
            )
        )
        data[at : at + len(value)] = value
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(damaged_samples())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_brings_the_reader_down(scratch: Path, data: bytes) -> None:
    """Both engines read the same of it, within seconds; what is left out is told."""
    scratch.write_bytes(data)
    began = time.process_time()
    result = read_all(scratch, engine="columnar")
    assert time.process_time() - began < 5
    assert_equal(result, read_all(scratch, engine="dpkt"))
    if not result.captures[0].complete:
        assert result.problems


@given(st.binary(max_size=2000), st.sampled_from([build.pcap([]), build.section() + build.interface(), b""]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_bring_the_reader_down(scratch: Path, data: bytes, head: bytes) -> None:
    """Random bytes behind a good header, or behind none."""
    scratch.write_bytes(head + data)
    assert_equal(read_all(scratch, engine="columnar"), read_all(scratch, engine="dpkt"))


def test_a_flood_of_sections_takes_linear_time(scratch: Path) -> None:
    """Twenty thousand sections with a packet each."""
    scratch.write_bytes((build.section() + build.interface() + build.enhanced(segment(b"x"))) * 20_000)
    began = time.process_time()
    assert len(read_all(scratch).packets) == 20_000
    assert time.process_time() - began < 30


def test_records_are_plain_arrays() -> None:
    """One entry per record in every one."""
    assert {"at", "captured", "original", "time_ns", "frame", "link_type", "interface", "outgoing"} < set(
        Records.__slots__
    )
