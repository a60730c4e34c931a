"""The columnar engine is no second truth: on any bytes it fills the same table as the exact engine."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.capture import columnar, framing
from analyzer.capture.packets import CaptureInfo
from analyzer.capture.wanted import Tally, Wanted
from analyzer.capture.windows import Windows

from . import build
from .tables import assert_equal, read_all
from .test_exact import ENCAPSULATIONS

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"

ports = st.sampled_from([25, 587, 80, 443, 40000, 40001])
timestamps = st.binary(min_size=8, max_size=8).map(lambda v: b"\x01\x01\x08\x0a" + v)
sack = (
    st.integers(1, 4)
    .flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))
    .map(lambda v: bytes([1, 1, 5, len(v) + 2]) + v)
)
syn_options = st.permutations([b"\x02\x04\x05\xb4", b"\x04\x02", b"\x08\x0a" + bytes(8), b"\x01", b"\x03\x03\x07"]).map(
    b"".join
)
linux_syn = st.binary(min_size=11, max_size=11).map(
    lambda v: b"\x02\x04" + v[:2] + b"\x04\x02\x08\x0a" + v[2:10] + b"\x01\x03\x03" + v[10:]
)
tcp_options = st.one_of(
    st.just(b""),
    timestamps,
    linux_syn,
    sack,
    st.builds(bytes.__add__, timestamps, sack),
    syn_options,
    st.binary(max_size=40),
).map(lambda options: options[:40])
payloads = st.sampled_from([b"", b"EHLO a.example\r\n", b"helo b\r\n", b"220 c ESMTP\r\n", b"x" * 60, b"EH"])

segments = st.builds(
    build.tcp,
    payloads,
    sport=ports,
    dport=ports,
    seq=st.integers(0, 2**32 - 1),
    ack=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    window=st.integers(0, 65535),
    options=tcp_options,
    offset=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 15)),
)
transport = st.one_of(
    segments.map(lambda s: (6, s)),
    segments.map(lambda s: (6, s)),
    st.builds(lambda p, d: (17, build.udp(p, d)), st.binary(max_size=30), st.sampled_from([53, 4789, 6081])),
    st.builds(lambda p, t: (1, build.icmp4(p, t)), segments.map(build.ip4), st.sampled_from([0, 3, 8, 11])),
    st.builds(lambda p, t: (58, build.icmp6(p, t)), segments.map(build.ip6), st.sampled_from([1, 2, 3, 128, 135])),
    st.tuples(st.integers(0, 255), st.binary(max_size=60)),
)


@st.composite
def datagrams(draw: st.DrawFn) -> tuple[int, bytes]:
    """An IP packet and its ethertype."""
    protocol, data = draw(transport)
    if draw(st.booleans()):
        options = draw(st.sampled_from([b"", b"", b"", b"\x01" * 8]))
        total = draw(st.sampled_from([None, None, None, 0, 21, 40, 2000]))
        more, offset = draw(st.sampled_from([(False, 0)] * 6 + [(True, 0), (False, 16), (True, 24)]))
        ip = build.ip4(
            data, protocol=protocol, options=options, total=total, more=more, offset=offset, df=draw(st.booleans())
        )
        if draw(st.integers(0, 9)) == 9:
            ip = bytes([draw(st.integers(0, 255))]) + ip[1:]
        return 0x0800, ip
    for kind in draw(st.sampled_from([()] * 5 + [(0,), (60, 43), (0, 44)])):
        if kind == 44:
            protocol, data = 44, build.fragment6(protocol, data, draw(st.sampled_from([0, 8])), draw(st.booleans()))
        else:
            protocol, data = kind, build.extension(protocol, data)
    return 0x86DD, build.ip6(data, protocol=protocol, length=draw(st.sampled_from([None, None, None, 0, 10, 3000])))


@st.composite
def tunnelled(draw: st.DrawFn) -> tuple[int, bytes]:
    ethertype, packet = draw(datagrams())
    for kind in draw(st.lists(st.sampled_from(["ip", "gre", "vxlan", "geneve"]), max_size=2)):
        frame = build.ethernet(packet, ethertype)
        if kind == "ip":
            protocol, data = {0x0800: 4, 0x86DD: 41}[ethertype], packet
        elif kind == "gre":
            protocol, data = 47, struct.pack(">HHI", 0x2000, ethertype, 5) + packet
        elif kind == "vxlan":
            protocol, data = 17, build.vxlan(frame)
        else:
            protocol, data = 17, build.geneve(frame)
        ethertype, packet = 0x0800, build.ip4(data, protocol=protocol, src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2")
    return ethertype, packet


@st.composite
def frames(draw: st.DrawFn, link_type: int) -> bytes:
    ethertype, packet = draw(st.one_of(datagrams(), datagrams(), tunnelled()))
    if draw(st.integers(0, 14)) == 14:
        ethertype = draw(st.sampled_from([0x0806, 0x0026, 0x88CC, 0x8847, 0x8864, 0x6558]))
    if link_type == 1:
        tags = draw(
            st.lists(st.sampled_from([0x8100, 0x88A8, 0x9100]), max_size=draw(st.sampled_from([0, 0, 1, 2, 3, 12])))
        )
        return build.ethernet(packet, ethertype, tags) + draw(st.sampled_from([b"", b"", bytes(6)]))
    if link_type == 113:
        return build.cooked(packet, ethertype, draw(st.integers(0, 4)))
    if link_type == 276:
        return build.cooked2(packet, ethertype, draw(st.integers(0, 4)))
    if link_type in (0, 108):
        family = 2 if ethertype == 0x0800 else draw(st.sampled_from([10, 24, 28, 30]))
        return struct.pack(draw(st.sampled_from("<>")) + "I", family) + packet
    return packet


@st.composite
def captures(draw: st.DrawFn) -> bytes:
    link_type = draw(st.sampled_from([1, 1, 1, 113, 276, 101, 12, 228, 229, 0, 108, 9, 147]))
    packets = draw(st.lists(frames(link_type), min_size=1, max_size=12))
    cut = draw(st.sampled_from([None, None, None, 20, 54, 60, 66, 68, 96]))
    return build.pcap(packets, link_type=link_type, cut=cut)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "capture.pcap"


SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=captures(), options=st.sampled_from([{}, {"all_tcp": True}, {"ports": frozenset({80})}]))
@SETTINGS
def test_engines_agree_on_generated_packets(scratch: Path, data: bytes, options: dict[str, Any]) -> None:
    """Same rows, same ICMP errors, same counts, whatever the encapsulation, the options and the snap length.

    Every frame gave a row or is counted once.
    """
    scratch.write_bytes(data)
    result = read_all(scratch, engine="columnar", **options)
    assert_equal(result, read_all(scratch, engine="dpkt", **options))
    without_row = sum(n for name, n in result.counts.items() if name != "frames")
    assert len(result.packets) + without_row == result.counts["frames"] == result.captures[0].frames
    assert result.tcp_ports.sum() == result.counts["other-tcp"]


@given(data=captures(), at=st.lists(st.tuples(st.integers(24, 3000), st.integers(0, 255)), max_size=12))
@SETTINGS
def test_engines_agree_on_damaged_packets(scratch: Path, data: bytes, at: list[tuple[int, int]]) -> None:
    """The same holds when bytes anywhere behind the file header are overwritten."""
    damaged = bytearray(data)
    for place, value in at:
        damaged[24 + (place - 24) % max(len(damaged) - 24, 1)] = value
    scratch.write_bytes(damaged)
    assert_equal(read_all(scratch, engine="columnar"), read_all(scratch, engine="dpkt"))


@pytest.mark.parametrize("sample", sorted(p for p in SAMPLES.glob("*.pcap*")), ids=lambda p: p.name)
def test_engines_agree_on_every_sample(sample: Path) -> None:
    """Recorded captures give the same table from both engines, for SMTP and for all TCP."""
    assert_equal(read_all(sample, engine="columnar"), read_all(sample, engine="dpkt"))
    assert_equal(read_all(sample, engine="columnar", all_tcp=True), read_all(sample, engine="dpkt", all_tcp=True))


def test_one_connection_is_read_again() -> None:
    """`only` gives both directions of the named connections and nothing else."""
    sample = SAMPLES / "blackhole-1400.sender.pcap"
    whole = read_all(sample).packets
    pair = (
        int(whole.src_hi[0]) << 64 | int(whole.src_lo[0]),
        int(whole.src_port[0]),
        int(whole.dst_hi[0]) << 64 | int(whole.dst_lo[0]),
        int(whole.dst_port[0]),
    )
    again = [read_all(sample, only=frozenset({pair}), engine=engine) for engine in ("columnar", "dpkt")]
    assert_equal(*again)
    assert {int(p) for p in again[0].packets.src_port} == {pair[1], pair[3]}
    assert len(again[0].packets) == ((whole.src_port == pair[1]) | (whole.dst_port == pair[1])).sum()


COLUMNAR = [
    "QinQ", "IPIP", "6in4", "GRE", "gretap", "VXLAN", "VXLAN, old port", "GENEVE, IP inside", "VLAN in VXLAN in VLAN"
]  # fmt: skip


@pytest.mark.parametrize("name", COLUMNAR)
def test_usual_tunnels_stay_in_columns(scratch: Path, name: str) -> None:
    """A capture full of them is no slower than one without."""
    scratch.write_bytes(build.pcap([ENCAPSULATIONS[name][0]] * 20))
    windows = Windows(open(scratch, "rb", buffering=0))  # noqa: SIM115 - closed below
    (records, *_) = framing.read_records(windows, CaptureInfo(1, ""))
    table, declined = columnar.decode(records, Wanted({25}), 1, Tally())
    windows.close()
    assert len(table) == 20
    assert len(declined) == 0
