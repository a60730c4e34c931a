"""The stages together: shares of the work, points of capture, keys."""

from __future__ import annotations

import pickle
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from analyzer import analysis
from analyzer.analysis import gathering, parts
from analyzer.capture import reading
from analyzer.capture.reading import Span
from analyzer.detect import paths
from analyzer.report import json as report

from .capture import build
from .tcp.wire import Wire

ROOT = Path(__file__).resolve().parent.parent


SAMPLES = [
    "incident.pcapng",
    "blackhole-ipv6-only.sender.pcap",
    "icmp-ignored.sender.pcap",
    "blackhole-bdat.middle.pcap",
]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures of a few kilobytes are worth sharing, and have windows enough to be cut between them."""
    monkeypatch.setattr(parts, "_WORTH_SHARING_BYTES", 0)
    monkeypatch.setattr(reading, "WINDOW_BYTES", 4096)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by whether each part could be joined."""
    outcomes: list[bool] = []
    joins = gathering.Gathered.joins

    def told(self: Any, *part: Any) -> bool:
        outcomes.append(joins(self, *part))
        return outcomes[-1]

    monkeypatch.setattr(gathering.Gathered, "joins", told)
    return outcomes


def test_what_is_not_worth_it_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packets that are worked on count, not those that are walked over; who asks for processes gets them."""
    capture = ROOT / "sample_pcaps" / "incident.pcapng"
    monkeypatch.setattr(parts, "processors", lambda: 2)
    monkeypatch.setattr(parts, "_WORTH_SHARING_BYTES", capture.stat().st_size // 2)

    def processes(jobs: int) -> int:
        return len(parts._spans([str(capture)], analysis.Options(jobs=jobs)))

    assert reading.share_wanted([str(capture)], reading.ReadOptions()) > 0.9
    assert processes(0) == 2
    monkeypatch.setattr(parts, "share_wanted", lambda *_: 0.03)
    assert processes(0) == 1
    assert processes(2) == 2
    monkeypatch.setattr(parts, "_WORTH_SHARING_BYTES", capture.stat().st_size * 2)
    assert processes(2) == 1


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("jobs", [2, 3, 5])
def test_any_number_of_processes_gives_the_same_case(
    name: str, jobs: int, small_windows: None, joined: list[bool]
) -> None:
    """Frame numbers, ids, order and findings do not depend on who read which part; no part had to be read again."""
    capture = [str(ROOT / "sample_pcaps" / name)]
    one = report.render(analysis.analyze(capture))
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=jobs))) == one
    assert joined == [True] * (jobs - 1)


def test_captures_given_together_are_cut_as_one(small_windows: None, joined: list[bool]) -> None:
    """A cut may lie in any of them, whichever points they were taken at."""
    captures = [str(ROOT / "sample_pcaps" / f"split-at-2.{point}.pcap") for point in ("receiver", "sender")]
    captures.append(str(ROOT / "sample_pcaps" / "incident.pcapng"))
    one = report.render(analysis.analyze(captures))
    for jobs in (2, 4):
        assert report.render(analysis.analyze(captures, analysis.Options(jobs=jobs))) == one
    assert joined == [True] * 4


def _spoken(port: int, *, split_at: int | None = None, behind: int = 0) -> bytes:
    """A pcap: a mail's beginning on this port, then (or after the first `behind`) 2,000 packets of another connection."""
    client, server = {"sport": 40000, "dport": port}, {"sport": port, "dport": 40000}
    frames = [
        build.ip4(build.tcp(**client, seq=0, ack=0, flags=2)),
        build.ip4(build.tcp(**server, seq=0, ack=1, flags=18), src=build.B4, dst=build.A4),
        build.ip4(build.tcp(b"220 mx ESMTP\r\n", **server), src=build.B4, dst=build.A4),
        build.ip4(build.tcp(b"EHLO client.example\r\n", **client, ack=15)),
    ]
    other = [build.ip4(build.tcp(b"x" * 40, sport=40001, dport=25, seq=1 + 40 * n)) for n in range(2000)]
    last = build.tcp(b"250 mx\r\n" + b"250 " * 30, **server, seq=15, ack=22)
    if split_at is None:
        parts = [build.ip4(last, src=build.B4, dst=build.A4)]
        return build.pcap([build.ethernet(p) for p in [*other[:behind], *frames, *other[behind:], *parts]])
    first = build.ip4(last[:split_at], src=build.B4, dst=build.A4, df=False, more=True)
    rest = build.ip4(last[split_at:], src=build.B4, dst=build.A4, df=False, offset=split_at)
    return build.pcap([build.ethernet(p) for p in [*frames, first, *other, rest]])


@pytest.mark.parametrize(
    ("capture", "joins"),
    [
        pytest.param(_spoken(2500), False, id="a port is found"),
        pytest.param(_spoken(2500, behind=1010), False, id="a port is found right behind the cut"),
        pytest.param(_spoken(2500, behind=1500), True, id="a port is found far behind the cut"),
        pytest.param(_spoken(25, split_at=64), False, id="a fragment waits"),
    ],
)
def test_what_the_reader_remembers_across_a_cut_is_not_lost(
    capture: bytes, joins: bool, tmp_path: Path, small_windows: None, joined: list[bool]
) -> None:
    """Then the captures are read in one."""
    path = tmp_path / "c.pcap"
    path.write_bytes(capture)
    one = report.render(analysis.analyze([str(path)]))
    assert report.render(analysis.analyze([str(path)], analysis.Options(jobs=2))) == one
    assert joined == [joins]


def test_a_part_whose_process_dies_is_read_again(monkeypatch: pytest.MonkeyPatch, small_windows: None) -> None:
    """A killed worker costs time, never truth."""
    capture = [str(ROOT / "sample_pcaps" / "incident.pcapng")]
    one = report.render(analysis.analyze(capture))

    def die(sender: object, *_: object) -> None:
        import os

        os._exit(9)

    monkeypatch.setattr(parts, "_work", die)
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=2))) == one


@pytest.mark.parametrize("room", [0, 1])
def test_where_there_is_no_room_for_processes_one_reads_all(
    room: int, monkeypatch: pytest.MonkeyPatch, small_windows: None
) -> None:
    """A limit on processes (ulimit -u) is no error; those that were begun are ended, and no descriptor stays open."""
    import os

    capture = [str(ROOT / "sample_pcaps" / "incident.pcapng")]
    one, fork, begun = report.render(analysis.analyze(capture)), os.fork, []
    descriptors = len(os.listdir("/proc/self/fd"))

    def limited() -> int:
        if len(begun) == room:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        begun.append(fork())
        return begun[-1]

    monkeypatch.setattr(os, "fork", limited)
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=3))) == one
    assert len(os.listdir("/proc/self/fd")) == descriptors
    for process in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_two_points_of_one_traffic_are_kept_apart() -> None:
    """The sender's and the receiver's capture of the same run: no resends, no duplicates, and compare is named."""
    names = ["split-at-2.receiver.pcap", "split-at-2.sender.pcap"]
    case = analysis.analyze([str(ROOT / "sample_pcaps" / n) for n in names])
    assert len(case.connections) == 2
    assert case.findings == []
    assert "compare" in case.limits[0]
    assert {analysis.trace(case, c.id).first_capture for c in case.connections} == {1, 2}


@pytest.mark.parametrize("sample", sorted((ROOT / "sample_pcaps").glob("*.pcap*")), ids=lambda p: p.stem)
def test_every_sample_is_told_alike_by_several_processes(sample: Path, small_windows: None, joined: list[bool]) -> None:
    """Cut in the middle of what happened, wherever that is.

    A cut between a SYN and the same SYN sent again is not joined (whose connection that is can not be told), nor is one
    between the fragments of a packet: `df-off` holds little else.
    """
    one = report.render(analysis.analyze([str(sample)]))
    for jobs in (2, 3):
        assert report.render(analysis.analyze([str(sample)], analysis.Options(jobs=jobs))) == one
    assert any(joined) or sample.stem.startswith("df-off.")


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch, small_windows: None) -> list[Span]:
    """Any rest is worth helping with, and the others begin late; grows by what was taken over from them."""
    taken: list[Span] = []
    work, left = parts._work, parts._left

    def late(*given: Any) -> None:
        time.sleep(0.05)
        work(*given)

    def told(*given: Any) -> Span | None:
        span = left(*given)
        taken.extend([span] if span else [])
        return span

    monkeypatch.setattr(parts, "_WORTH_HELPING_BYTES", 1)
    monkeypatch.setattr(parts, "_work", late)
    monkeypatch.setattr(parts, "_left", told)
    return taken


@pytest.mark.parametrize("sample", sorted((ROOT / "sample_pcaps").glob("*.pcap")), ids=lambda p: p.stem)
def test_who_has_nothing_left_to_read_helps(sample: Path, helped: list[Span]) -> None:
    """What another one was to read is cut once more while he reads it; the case is the same."""
    one = report.render(analysis.analyze([str(sample)]))
    for jobs in (2, 3):
        assert report.render(analysis.analyze([str(sample)], analysis.Options(jobs=jobs))) == one


def test_the_rest_is_taken_over_while_somebody_else_reads(
    helped: list[Span], joined: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here he waits for it; and stops there."""
    work = parts._work

    def waiting(*given: Any) -> None:
        deadline = time.monotonic() + 60
        while not given[-1].stop and time.monotonic() < deadline:
            time.sleep(0.01)
        work(*given)

    monkeypatch.setattr(parts, "_work", waiting)
    capture = [str(ROOT / "sample_pcaps" / "loss-1.sender.pcap")]
    one = report.render(analysis.analyze(capture))
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=2))) == one
    assert len(helped) >= 1
    assert joined == [True] * (1 + len(helped))


def test_who_is_told_too_late_to_stop_reads_on(
    monkeypatch: pytest.MonkeyPatch, small_windows: None, joined: list[bool]
) -> None:
    """Then the rest has been read twice, and counts once."""
    capture = ROOT / "sample_pcaps" / "loss-1.sender.pcap"
    size = capture.stat().st_size
    taken: list[Span] = []

    def late(captures: list[str], workers: list[Any]) -> Span | None:
        if taken:
            return None
        deadline = time.monotonic() + 30
        while workers[0].border.claimed < size and time.monotonic() < deadline:
            time.sleep(0.01)
        place = reading.place_near(captures, size * 3 // 4)
        assert place
        workers[0].border.stop = place
        taken.append(Span((1, place), None, apart=True))
        return taken[0]

    monkeypatch.setattr(parts, "_left", late)
    one = report.render(analysis.analyze([str(capture)]))
    assert report.render(analysis.analyze([str(capture)], analysis.Options(jobs=2))) == one
    assert taken
    assert joined == [True]


@pytest.mark.parametrize(("back_s", "joins"), [(0.4, True), (30, False)])
def test_frames_out_of_their_time_are_read_by_one(
    back_s: float, joins: bool, tmp_path: Path, small_windows: None, joined: list[bool]
) -> None:
    """Some milliseconds are the capture program's; what is out of order by more is not cut."""
    frames = [build.ethernet(build.ip4(build.tcp(b"x" * 40, seq=1 + 40 * n))) for n in range(400)]
    data = bytearray(build.pcap(frames))
    record = 16 + len(frames[0])
    for n in range(400):
        time_us = 1_700_000_000_000_000 + 50_000 * n - (int(back_s * 1e6) if n == 30 else 0)
        data[24 + n * record : 32 + n * record] = struct.pack("<II", *divmod(time_us, 1_000_000))
    capture = tmp_path / "c.pcap"
    capture.write_bytes(data)
    one = report.render(analysis.analyze([str(capture)]))
    assert report.render(analysis.analyze([str(capture)], analysis.Options(jobs=2))) == one
    assert joined == [joins]


def test_of_a_file_that_is_gone_nobody_takes_over_the_rest(tmp_path: Path) -> None:
    """Who has it open reads it to its end."""
    assert parts._left([str(tmp_path / "gone.pcap")], []) is None


def test_the_end_of_a_capture_is_told_alike_by_two_processes(
    tmp_path: Path, small_windows: None, joined: list[bool]
) -> None:
    """Cut off in a record, or damaged, before the cut or behind it: the same frame and byte are named."""
    data = (ROOT / "sample_pcaps" / "loss-1.sender.pcap").read_bytes()
    place, records = 24, []
    while place < len(data):
        records.append(place)
        place += 16 + int.from_bytes(data[place + 8 : place + 12], "little")
    capture = tmp_path / "c.pcap"
    for text, content in {
        "cut off in frame": data[:-3],
        "damaged at frame": data[: records[-4] + 8] + b"\xff" * 4 + data[records[-4] + 12 :],
        "damaged at frame 5": data[: records[4] + 8] + b"\xff" * 4 + data[records[4] + 12 :],
    }.items():
        capture.write_bytes(content)
        one = analysis.analyze([str(capture)])
        two = analysis.analyze([str(capture)], analysis.Options(jobs=2))
        assert report.render(two) == report.render(one)
        assert one.captures[0].problems[0].startswith(text)
    assert joined == [True, True, False]


def test_a_cut_that_is_no_record_is_not_believed(
    tmp_path: Path, small_windows: None, joined: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the capture lies a packet that holds a capture: then it is read in one."""
    monkeypatch.setattr(reading, "NEAR_BYTES", (1000,))
    inner = build.pcap([build.ethernet(build.ip4(build.tcp(b"i" * 10)))] * 120)
    around = [build.ethernet(build.ip4(build.tcp(b"x" * 40, seq=1 + 40 * n))) for n in range(100)]
    capture = tmp_path / "c.pcap"
    capture.write_bytes(build.pcap([*around, build.ethernet(build.ip4(build.tcp(inner, seq=4001))), *around]))
    one = report.render(analysis.analyze([str(capture)]))
    assert report.render(analysis.analyze([str(capture)], analysis.Options(jobs=2))) == one
    assert joined == [False]


def test_nothing_but_syns_without_an_answer_is_a_case_without_paths(tmp_path: Path) -> None:
    """A mailer that tries again and again to reach a host that is away: nothing was said, so nothing is judged."""
    syn = build.ethernet(build.ip4(build.tcp(seq=0, ack=0, flags=2)))
    capture = tmp_path / "c.pcap"
    capture.write_bytes(build.pcap([syn] * 2500))  # one each millisecond
    case = analysis.analyze([str(capture)])
    assert (case.counts["unanswered"], case.paths, case.findings) == (1, [], [])


def test_of_other_services_only_the_path_is_judged() -> None:
    """--all-tcp: a web server's black hole is told without a word of mail, and an FTP greeting is no mail server's."""
    case = analysis.analyze([str(ROOT / "sample_pcaps" / "http-blackhole.middle.pcap")], analysis.Options(all_tcp=True))
    (hole,) = case.findings
    assert (hole.rule, hole.confidence) == ("pmtud-black-hole", "certain")
    advice = [hole.explanation, *(r.what for r in hole.remedies), *(r.check for r in hole.remedies)]
    assert [text for text in advice if re.search(r"\bmail|postmaster|smtp_", text, re.IGNORECASE)] == []
    masked = analysis.analyze(
        [str(ROOT / "sample_pcaps" / "service-ftp-masked.sender.pcap")], analysis.Options(all_tcp=True)
    )
    assert masked.findings == []


def test_ctrl_c_keeps_what_the_processes_know(small_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the other parts are waited for: nothing is read again, and the case says that it was interrupted."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "_received", interrupted)
    case = analysis.analyze([str(ROOT / "sample_pcaps" / "incident.pcapng")], analysis.Options(jobs=2))
    assert case.interrupted
    assert case.connections
    assert len(case.connections) < len(analysis.analyze([str(ROOT / "sample_pcaps" / "incident.pcapng")]).connections)


@pytest.mark.parametrize("window_bytes", [700, 2000, 9000])
def test_how_long_nothing_came_does_not_depend_on_how_much_is_read_at_once(
    window_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that hangs is judged when it was silent for long, in some window or at the end of a capture."""
    capture = (ROOT / "sample_pcaps" / "blackhole-1400.receiver.pcap").read_bytes()
    at, end_s = 24, 0
    while at < len(capture):
        end_s, _, captured = struct.unpack_from("<3I", capture, at)
        at += 16 + captured
    other = build.ethernet(build.ip4(build.udp(b"x", 53), protocol=17))
    hours = (struct.pack("<4I", end_s + 60 * n, 0, len(other), len(other)) + other for n in range(1, 181))
    path = tmp_path / "c.pcap"
    path.write_bytes(capture + b"".join(hours))
    at_once = analysis.analyze([str(path)])
    assert 1200 <= next(f for f in at_once.findings if f.role == "cause").facts["hole_s"] < 1300
    monkeypatch.setattr(reading, "WINDOW_BYTES", window_bytes)
    assert report.render(analysis.analyze([str(path)])) == report.render(at_once)


@pytest.fixture
def stuck_both_ways() -> gathering.Gathered:
    """A connection on which neither side gets its line through."""
    wire = Wire().handshake().s(10, 0, b"220 mx ESMTP\r\n").c(20, 0, b"EHLO c\r\n", ack=14)
    for at_ms in (30, 300, 900, 2500):
        wire.s(at_ms, 14, b"250 OK\r\n", ack=8).c(at_ms + 10, 8, b"MAIL FROM:<a@example.com>\r\n", ack=14)
    gathered = gathering.Gathered(analysis.Options())
    gathered.take(wire.delivery().group)
    return gathered


def test_frames_of_a_part_are_renumbered_once(stuck_both_ways: gathering.Gathered) -> None:
    """Both directions of a connection may be evidence, each on its path: they are the same packets."""
    part = pickle.loads(pickle.dumps(stuck_both_ways.part()))

    def frames() -> list[list[int]]:
        views = [view for ledger in part.ledgers.values() for view in ledger.views]
        assert len(views) == 2
        return [d.table.frame.tolist() for view in views for d in view.trace.directions]

    before = frames()
    part.renumber_frames(1000)
    assert frames() == [[frame + 1000 for frame in those] for those in before]


def test_both_directions_of_a_connection_may_be_stuck(stuck_both_ways: gathering.Gathered) -> None:
    """Each is weighed on its own, after the packets' bytes were let go."""
    gathered = stuck_both_ways
    weighed = [paths.weigh(ledger, ()).subject.facts for ledger in gathered.ledgers.values()]
    assert [facts["stuck_sends"] for facts in weighed] == [4, 4]
