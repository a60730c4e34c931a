"""Walking in lanes finds the same records as walking one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.capture import walk

from . import build

SECTION = 0x0A0D0D0A


@pytest.fixture(autouse=True)
def short_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes of a few hundred bytes, so that small captures have many."""
    monkeypatch.setattr(walk, "LANE_BYTES", 512)
    monkeypatch.setattr(walk, "MIN_LANES", 3)
    monkeypatch.setattr(walk, "LOOK_BYTES", 400)


def padded(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(512), np.uint8)


def same(one: tuple[np.ndarray, int], other: tuple[np.ndarray, int]) -> None:
    assert one[0].tolist() == other[0].tolist()
    assert one[1] == other[1]


inner = build.pcap([bytes(30)] * 8)[24:]  # records inside a packet: what lanes may take for the real ones
inner_blocks = build.enhanced(bytes(40)) * 6
packets = st.lists(
    st.one_of(st.integers(0, 120).map(bytes), st.just(inner), st.just(inner_blocks), st.binary(max_size=60)),
    min_size=60,
    max_size=200,
)
damage = st.lists(st.tuples(st.integers(24, 12000), st.integers(0, 255)), max_size=6)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data: bytes, at: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for place, value in at:
        if place < len(out):
            out[place] = value
    return bytes(out)


@given(packets, st.sampled_from("<>"), damage, st.integers(0, 40))
@SETTINGS
def test_pcap_lanes_find_what_the_plain_walk_finds(
    packets: list[bytes], order: str, at: list[tuple[int, int]], cut: int
) -> None:
    """Whatever lies in the packets, wherever the file is damaged or cut."""
    data = damaged(build.pcap(packets, order=order), at)
    buffer, end = padded(data), len(data) - cut
    same(walk.walk_pcap(buffer, 24, end, order, 16), walk._plain_pcap(buffer, 24, end, order, 16))


@given(packets, st.sampled_from("<>"), damage, st.integers(0, 40), st.lists(st.integers(0, 200), max_size=3))
@SETTINGS
def test_pcapng_lanes_find_what_the_plain_walk_finds(
    packets: list[bytes], order: str, at: list[tuple[int, int]], cut: int, sections: list[int]
) -> None:
    """Up to the next section, or the first block that can not be one."""
    blocks = [build.interface(order=order), *(build.enhanced(p, order=order) for p in packets)]
    for place in sections:
        blocks.insert(place % len(blocks), build.section(order))
    data = damaged(b"".join(blocks), [(a - 24, v) for a, v in at])
    buffer, end = padded(data), len(data) - cut
    same(walk.walk_pcapng(buffer, 0, end, order, SECTION), walk._plain_pcapng(buffer, 0, end, order, SECTION))


def test_a_capture_inside_a_capture_is_not_entered() -> None:
    """Lanes that begin in the records of a payload are repaired, or the window is walked the plain way."""
    packets = [bytes(50)] * 400
    for i in range(0, 400, 3):
        packets[i] = inner
    data = build.pcap(packets)
    starts, after = walk.walk_pcap(padded(data), 24, len(data), "<", 16)
    assert len(starts) == 400
    assert after == len(data)


def test_lanes_are_used() -> None:
    """An ordinary capture is walked in lanes."""
    data = build.pcap([bytes(100)] * 1000)
    first = walk._beginnings_pcap(padded(data), 24, len(data), "<", 16)
    assert len(first) > 100
    assert walk.lanes(padded(data), first, len(data), walk.Layout("<", 8, 16, 16)) is not None


@given(
    st.lists(st.integers(0, 120).map(bytes), min_size=20, max_size=60),
    st.sampled_from("<>"),
    st.integers(24, 2000),
    st.integers(0, 2000),
)
@SETTINGS
def test_the_record_across_a_place_among_bytes_from_the_middle(
    packets: list[bytes], order: str, begin: int, place: int
) -> None:
    """Wherever these bytes begin; nothing is found where no record of this time begins."""
    data = build.pcap(packets, order=order)
    seconds = int.from_bytes(data[24:28], "little" if order == "<" else "big")
    starts, end = walk._plain_pcap(padded(data), 24, len(data), order, 16)
    ends = [*starts.tolist()[1:], end]
    behind = [s - begin for s, e in zip(starts.tolist(), ends, strict=True) if s >= begin and e > begin + place]
    some = np.frombuffer(data[begin:], np.uint8)
    found = walk.across_pcap(some, place, order, 16, seconds)
    assert found == behind[0] if len(behind) > 2 else found in (None, *behind)
    assert walk.across_pcap(some, place, order, 16, seconds + 10**6) is None
