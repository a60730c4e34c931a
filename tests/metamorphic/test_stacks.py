"""Stacks other than the recorded ones: what each does to a black hole, to a shut window, or to silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyzer.analysis import analyze

from .story import ACK, FIN, RST, Story, mail

LINUX_MS = (200, 420, 840, 1680, 3360, 6720, 13440)  # pauses between resends: RTO 200 ms, doubled
BSD_MS = (1000, 2000, 4000, 8000, 16000)  # RTO 1 s


def causes(case: Any) -> dict[str, str]:
    return {f.rule: f.confidence for f in case.findings if f.role == "cause"}


def path(case: Any) -> Any:
    return next(p for p in case.paths if p.sender == "10.1.0.2")


def send_all(
    s: Story, text: bytes, size: int, *, lost_above: int, df: bool = True, start: int | None = None
) -> list[int]:
    """The mail in pieces of `size`; those above `lost_above` IP bytes vanish. Returns the offsets of what was lost."""
    at = s.sent["c"] if start is None else start
    lost = []
    header = 52 if s.timestamps else 40
    for i in range(0, len(text), size):
        piece = text[i : i + size]
        s.wait(0.02).packet("c", at + i, piece, s.sent["s"], df=df)
        if len(piece) + header > lost_above:
            lost.append(at + i)
    return lost


def answered_holes(s: Story, hole: int, tail: tuple[int, int], times: int = 1) -> None:
    """What a receiver says to a piece beyond a hole: a duplicate ACK, with SACK if agreed on."""
    for _ in range(times):
        s.wait(10).packet("s", s.sent["s"], b"", hole, sacks=(tail,))


def black_hole(s: Story, pauses: tuple[int, ...], *, size: int = 8000, lost_above: int = 1400) -> tuple[int, bytes]:
    """The mail is sent, its small tail arrives, the head is sent again and again. Returns (offset of the head, mail)."""
    s.until_data()
    text, at = mail(size), s.sent["c"]
    lost = send_all(s, text, s.full, lost_above=lost_above)
    tail = at + len(text) // s.full * s.full
    answered_holes(s, lost[0], (tail, at + len(text)))
    for pause in pauses:
        s.wait(pause).packet("c", at, text[: s.full], s.sent["s"])
    return at, text


def recover(s: Story, at: int, text: bytes, size: int, *, df: bool) -> None:
    """From now on in pieces of `size`, each acknowledged; then the mail is accepted."""
    for i in range(0, len(text), size):
        s.wait(1).packet("c", at + i, text[i : i + size], s.sent["s"], df=df)
        s.wait(10).packet("s", s.sent["s"], b"", at + min(i + size, len(text)))
    s.sent["c"] = at + len(text)
    s.accepted()


@pytest.mark.parametrize(
    ("payload", "df", "pauses"),
    [
        pytest.param(1200, False, (1000, 2000), id="XNU: DF off and MSS 1200 at the second time-out"),
        pytest.param(1188, False, (1000, 2000, 4000), id="FreeBSD: 1200 bytes, DF off"),
        pytest.param(536, True, (300, 600, 1200, 2400), id="Windows: MSS 536"),
        pytest.param(1448, False, (300, 600, 1200, 2400), id="Windows: DF off, size kept"),
        pytest.param(1012, True, LINUX_MS[:4], id="Linux: tcp_mtu_probing"),
    ],
)
def test_recovery_by_itself(payload: int, df: bool, pauses: tuple[int, ...], tmp_path: Path) -> None:
    """Lost several times, then smaller or without DF, and through: recovered. What routers may cut proves no size."""
    s = Story()
    at, text = black_hole(s, pauses)
    s.wait(pauses[-1] * 2)
    recover(s, at, text, payload, df=df)
    case = analyze([str(s.write(tmp_path / "c.pcap"))])
    assert set(causes(case)) == {"black-hole-recovered"}
    assert path(case).verdict == "recovered"
    assert path(case).mtu_below == 1500
    expected = payload + 52 if df else 52 + 8000 % 1448  # the tail, sent with DF
    assert path(case).mtu_at_least <= max(expected, 900)


@pytest.mark.parametrize("scale", [7, None])
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("sack", [True, False])
def test_black_hole_whatever_the_options(sack: bool, timestamps: bool, scale: int | None, tmp_path: Path) -> None:
    """With and without SACK, timestamps and window scaling: a tail arrives, the head never does."""
    s = Story(sack=sack, timestamps=timestamps, scale=scale)
    black_hole(s, LINUX_MS)
    case = analyze([str(s.write(tmp_path / "c.pcap"))])
    assert causes(case).get("pmtud-black-hole") in ("likely", "certain")
    assert path(case).mtu_at_least < 1400 < path(case).mtu_below


@pytest.mark.parametrize("pauses", [LINUX_MS, BSD_MS], ids=["RTO 200 ms", "RTO 1 s"])
def test_only_full_segments(pauses: tuple[int, ...], tmp_path: Path) -> None:
    """A long mail: nothing small follows; the server sends its 354 again, gets a pure ACK, and is silent."""
    s = Story(sack=False, timestamps=False)
    s.until_data()
    at, text = s.sent["c"], mail(60_000)
    said = s.sent["s"] - len(b"354 go ahead\r\n")
    send_all(s, text[: 10 * s.full], s.full, lost_above=1400)
    s.wait(220).packet("s", said, b"354 go ahead\r\n", at)
    s.wait(0.1).packet("c", at + 10 * s.full, b"", s.sent["s"])
    for pause in pauses:
        s.wait(pause).packet("c", at, text[: s.full], s.sent["s"])
    case = analyze([str(s.write(tmp_path / "c.pcap"))])
    assert causes(case).get("pmtud-black-hole") in ("likely", "certain")


def test_hosts_of_536_bytes_that_lose_packets(tmp_path: Path) -> None:
    """No link is narrower than 576 bytes: what hangs there is no black hole."""
    s = Story(mss=536)
    black_hole(s, LINUX_MS, size=3000, lost_above=500)
    assert "pmtud-black-hole" not in causes(analyze([str(s.write(tmp_path / "c.pcap"))]))


def test_dead_path(tmp_path: Path) -> None:
    """Everything stops in mid-mail, large packets passed before, and the server's last word comes again and again."""
    s = Story()
    s.until_data()
    text, at = mail(20_000), s.sent["c"]
    for i in range(0, 5 * s.full, s.full):
        s.wait(1).packet("c", at + i, text[i : i + s.full], s.sent["s"]).wait(10).packet(
            "s", s.sent["s"], b"", at + i + s.full
        )
    at += 5 * s.full
    for pause in (1, *LINUX_MS):
        s.wait(pause).packet("c", at, text[: s.full], s.sent["s"])
    found = causes(analyze([str(s.write(tmp_path / "c.pcap"))]))
    assert "pmtud-black-hole" not in found
    assert "path-outage" in found


@pytest.mark.parametrize("probe", [b"", b"x"], ids=["Linux: empty probes", "BSD and Windows: one byte of data"])
def test_window_probes(probe: bytes, tmp_path: Path) -> None:
    """A receiver with no room: probes with the next byte, sent again and again, are no lost packets."""
    s = Story()
    s.until_data()
    text, at = mail(20_000), s.sent["c"]
    for i in range(0, 5 * s.full, s.full):
        s.wait(1).packet("c", at + i, text[i : i + s.full], s.sent["s"])
        s.wait(5).packet("s", s.sent["s"], b"", at + i + s.full, window=0 if i == 4 * s.full else 500)
    at += 5 * s.full
    for pause in (200, 400, 800, 1600, 3200, 6400, 12800):
        s.wait(pause).packet("c", at if probe else at - 1, text[5 * s.full :][:1] if probe else b"", s.sent["s"])
        s.wait(10).packet("s", s.sent["s"], b"", at, window=0)
    s.wait(500).packet("s", s.sent["s"], b"", at)
    recover(s, at, text[5 * s.full :], s.full, df=True)
    case = analyze([str(s.write(tmp_path / "c.pcap"))])
    assert set(causes(case)) <= {"receiver-stalled"}
    assert [m.outcome for m in case.messages] == ["delivered"]


@pytest.mark.parametrize("garbage", [b"", b"\0"], ids=["empty", "a byte of garbage (RFC 9293 3.8.4)"])
def test_keepalives(garbage: bytes, tmp_path: Path) -> None:
    """A server that thinks for minutes, asked by keep-alives whether it lives: nothing is lost."""
    s = Story()
    s.until_data()
    text, at = mail(4000), s.sent["c"]
    for i in range(0, len(text), s.full):
        s.wait(1).packet("c", at + i, text[i : i + s.full], s.sent["s"])
    s.sent["c"] = at + len(text)
    s.wait(10).packet("s", s.sent["s"], b"", s.sent["c"])
    for _ in range(6):
        s.wait(30_000).packet("c", s.sent["c"] - 1, garbage, s.sent["s"])
        s.wait(10).packet("s", s.sent["s"], b"", s.sent["c"])
    s.accepted()
    case = analyze([str(s.write(tmp_path / "c.pcap"))])
    assert causes(case) == {}
    assert [m.outcome for m in case.messages] == ["delivered"]


@pytest.mark.parametrize("flags", [FIN | ACK, RST, RST | ACK], ids=["FIN", "RST", "RST and ACK"])
def test_however_the_client_gives_up(flags: int, tmp_path: Path) -> None:
    """The black hole is the cause, whatever ends the connection."""
    s = Story()
    at, text = black_hole(s, LINUX_MS)
    s.wait(20_000).packet("c", at + len(text), b"", s.sent["s"], flags)
    assert "pmtud-black-hole" in causes(analyze([str(s.write(tmp_path / "c.pcap"))]))


def test_every_second_packet_acknowledged_late(tmp_path: Path) -> None:
    """Delayed ACKs of 200 ms, one per two packets and one for the last alone: no loss, no delay to speak of."""
    s = Story()
    s.until_data()
    text, at = mail(20_000), s.sent["c"]
    for i in range(0, len(text), 2 * s.full):
        for j in (i, i + s.full):
            if j < len(text):
                s.wait(0.1).packet("c", at + j, text[j : j + s.full], s.sent["s"])
        s.wait(200).packet("s", s.sent["s"], b"", at + min(i + 2 * s.full, len(text)))
    s.sent["c"] = at + len(text)
    s.accepted()
    assert analyze([str(s.write(tmp_path / "c.pcap"))]).findings == []


def without_proof(s: Story) -> Story:
    """A long mail of which only full packets leave, and nothing at all comes back."""
    s.until_data()
    at, text = s.sent["c"], mail(60_000)
    send_all(s, text[: 10 * s.full], s.full, lost_above=1400)
    for pause in LINUX_MS:
        s.wait(pause).packet("c", at, text[: s.full], s.sent["s"])
    return s


def test_another_connection_meanwhile(tmp_path: Path) -> None:
    """A short mail of another connection that is delivered meanwhile proves that the path is narrow and not dead."""
    alone = analyze([str(without_proof(Story()).write(tmp_path / "alone.pcap"))])
    assert causes(alone).get("pmtud-black-hole") in (None, "possible")
    short = Story(port=40001).wait(5000).until_data()
    short.say("c", mail(400)).accepted()
    both = analyze([str(without_proof(Story()).beside(short).write(tmp_path / "both.pcap"))])
    assert causes(both).get("pmtud-black-hole") in ("likely", "certain")
