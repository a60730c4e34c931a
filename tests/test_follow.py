"""A capture that is still being written: the verdict at any moment is that of `analyze` on what is there by then."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analyzer import analysis, api, cli, follow
from analyzer.capture import growing
from analyzer.errors import CaptureError, UsageError

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"
BLACK_HOLE = SAMPLES / "blackhole-1400.sender.pcap"
OPTIONS = analysis.Options()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing sleeps: the tests write what comes next when all that is there has been read."""
    monkeypatch.setattr(growing, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "JUDGE_EVERY_S", 0.0)
    monkeypatch.setattr(follow, "REST", 0)


class Writer:
    """Takes one step (writes a piece, begins a file, ...) each time that it is asked whether to stop; then says so."""

    def __init__(self, steps: Iterator[None]) -> None:
        self._steps = steps

    def __call__(self) -> bool:
        return next(self._steps, self) is self


def pieces(data: bytes, file: Path, sizes: Callable[[], int]) -> Iterator[None]:
    """Append the data bit by bit, wherever records begin or end."""
    at = 0
    while at < len(data):
        size = sizes()
        with file.open("ab") as out:
            out.write(data[at : at + size])
        at += size
        yield


def records(data: bytes) -> list[bytes]:
    """The file header of a little-endian pcap, and each record."""
    out, at = [data[:24]], 24
    while at < len(data):
        size = 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        out.append(data[at : at + size])
        at += size
    return out


def told(changes: list[follow.Change]) -> list[tuple[str, str, str]]:
    return [(change.kind, change.finding.rule, change.finding.confidence) for change in changes]


@pytest.mark.parametrize("seed", range(5))
def test_findings_come_as_they_can_be_proven(tmp_path: Path, seed: int) -> None:
    """A black hole is possible, then likely, then certain; each is told once, wherever the writer's pieces were cut."""
    file = tmp_path / "grows.pcap"
    cuts = random.Random(seed)
    changes: list[follow.Change] = []
    steps = pieces(BLACK_HOLE.read_bytes(), file, lambda: cuts.randint(1, 1500))
    case = follow.follow(str(file), OPTIONS, changes.append, Writer(steps))
    confidences = [confidence for _, rule, confidence in told(changes) if rule == "pmtud-black-hole"]
    assert confidences == ["possible", "likely", "certain"]
    assert told(changes)[0] == ("new", "pmtud-black-hole", "possible")
    assert case.findings == analysis.analyze([str(BLACK_HOLE)]).findings
    assert case.complete


@pytest.mark.parametrize("sample", ["blackhole-1400.sender", "recovered-probing-1.sender", "pix-split-3-drop.sender"])
def test_at_any_moment_the_verdict_is_that_of_analyze(tmp_path: Path, sample: str) -> None:
    """After each packet: what is told adds up to the findings of a capture that ends there."""
    parts = records((SAMPLES / f"{sample}.pcap").read_bytes())
    file, prefix = tmp_path / "grows.pcap", tmp_path / "prefix.pcap"
    known: dict[str, tuple[str, str, str]] = {}

    def tell(change: follow.Change) -> None:
        if change.kind == "gone":
            del known[change.finding.fingerprint]
        else:
            known[change.finding.fingerprint] = saying(change.finding)

    def saying(finding: analysis.c.Finding) -> tuple[str, str, str]:
        return finding.rule, finding.severity, finding.confidence

    def steps() -> Iterator[None]:
        for n in range(1, len(parts) + 1):
            file.write_bytes(b"".join(parts[:n])) if n == 1 else file.open("ab").write(parts[n - 1])
            yield
            if n > 1:
                shutil.copy(file, prefix)
                assert known == {f.fingerprint: saying(f) for f in analysis.analyze([str(prefix)]).findings}

    follow.follow(str(file), OPTIONS, tell, Writer(steps()))


def test_nothing_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a file is looked at, as many bytes are read from it as it has."""
    read: list[int] = []
    readinto = growing._File.readinto

    def counted(self: growing._File, buffer: memoryview, /) -> int:
        got = readinto(self, buffer)
        read.append(got)
        return got

    monkeypatch.setattr(growing._File, "readinto", counted)
    data = (SAMPLES / "recovered-probing-1-40k.sender.pcap").read_bytes()
    follow.follow(str(tmp_path / "f"), OPTIONS, lambda _: None, Writer(pieces(data, tmp_path / "f", lambda: 997)))
    assert sum(read) == len(data)
    assert len(read) > len(data) // 997


def ring(data: bytes, folder: Path, keep: int | None = None) -> Iterator[None]:
    """As `dumpcap -b` and `tcpdump -G` do: a new file for every few packets; of the oldest only `keep` stay."""
    head, *rest = records(data)
    made: list[Path] = []
    for n in range(0, len(rest), 4):
        made.append(folder / f"ring_{n // 4 + 1:05}_20261122130524.pcap")
        made[-1].write_bytes(head)
        for record in rest[n : n + 4]:
            with made[-1].open("ab") as out:
                out.write(record[:21])
                out.flush()
                yield
                out.write(record[21:])
            yield
        if keep and len(made) > keep:
            made[-keep - 1].unlink()


@pytest.mark.parametrize("keep", [None, 2])
def test_the_files_of_a_ring_are_one_case(tmp_path: Path, keep: int | None) -> None:
    """A connection goes on from file to file, while the oldest are being deleted."""
    changes: list[follow.Change] = []
    case = follow.follow(str(tmp_path), OPTIONS, changes.append, Writer(ring(BLACK_HOLE.read_bytes(), tmp_path, keep)))
    whole = analysis.analyze([str(BLACK_HOLE)])
    assert len(case.captures) == 8
    assert [f.fingerprint for f in case.findings] == [f.fingerprint for f in whole.findings]
    assert [(c.frame_count, c.closed_by) for c in case.connections] == [
        (c.frame_count, c.closed_by) for c in whole.connections
    ]
    assert case.complete


def test_a_place_of_the_ring_that_is_written_anew_is_a_new_file(tmp_path: Path) -> None:
    """`tcpdump -C 1 -W 3` goes round: the same name, the same inode, other packets."""
    head, *rest = records(BLACK_HOLE.read_bytes())

    def steps() -> Iterator[None]:
        for n in range(0, len(rest), 5):
            file = tmp_path / f"ring.pcap{n // 5 % 3}"
            with file.open("r+b" if file.exists() else "wb") as out:
                out.truncate(0)
                out.write(head)
            for record in rest[n : n + 5]:
                with file.open("ab") as out:
                    out.write(record)
                os.utime(file, ns=(time.time_ns(), time.time_ns()))
                yield

    case = follow.follow(f"{tmp_path}/ring.pcap*", OPTIONS, lambda _: None, Writer(steps()))
    assert [Path(x.path).name for x in case.captures] == [f"ring.pcap{n % 3}" for n in range(6)]
    assert sum(x.frames for x in case.captures) == len(rest)
    assert [f.rule for f in case.findings][:1] == ["pmtud-black-hole"]


def test_a_file_that_is_renamed_and_begun_anew(tmp_path: Path) -> None:
    """logrotate's way: what was read under the old name is not read again under the new one."""
    head, *rest = records(BLACK_HOLE.read_bytes())
    file = tmp_path / "now.pcap"

    def steps() -> Iterator[None]:
        file.write_bytes(head + b"".join(rest[:15]))
        yield
        file.rename(tmp_path / "now.pcap.1")
        file.write_bytes(head + b"".join(rest[15:]))
        yield
        yield

    for place in (str(file), f"{tmp_path}/now.pcap*"):
        case = follow.follow(place, OPTIONS, lambda _: None, Writer(steps()))
        assert [x.frames for x in case.captures] == [15, 15]
        for name in tmp_path.iterdir():
            name.unlink()


def test_what_is_there_already_comes_first_and_in_order(tmp_path: Path) -> None:
    """Files from before, compressed ones too, whatever they are called; what is no capture is passed over."""
    import gzip

    head, *rest = records(BLACK_HOLE.read_bytes())
    (tmp_path / "z.pcap.gz").write_bytes(gzip.compress(head + b"".join(rest[:10])))
    (tmp_path / "y.pcap").write_bytes(head + b"".join(rest[10:20]))
    (tmp_path / "a.pcap").write_bytes(head + b"".join(rest[20:25]))
    (tmp_path / "notes.txt").write_text("tcpdump runs on mail1")

    def steps() -> Iterator[None]:
        yield
        with (tmp_path / "a.pcap").open("ab") as out:
            out.write(b"".join(rest[25:]))
        yield

    case = follow.follow(str(tmp_path), OPTIONS, lambda _: None, Writer(steps()))
    assert [(Path(x.path).name, x.frames) for x in case.captures] == [("z.pcap.gz", 10), ("y.pcap", 10), ("a.pcap", 10)]
    assert [f.fingerprint for f in case.findings] == [
        f.fingerprint for f in analysis.analyze([str(BLACK_HOLE)]).findings
    ]


def test_a_packet_that_is_half_written_is_not_captured_yet(tmp_path: Path) -> None:
    """Its beginning is no damage while the file is being written, and is said; in a file of a ring that is over it is."""
    data = BLACK_HOLE.read_bytes()
    file = tmp_path / "grows.pcap"
    case = follow.follow(str(file), OPTIONS, lambda _: None, Writer(pieces(data[:-30], file, lambda: 5000)))
    assert case.complete
    assert "it was still being written: cut off in frame 30" in case.captures[0].problems[0]

    def steps() -> Iterator[None]:
        yield
        (tmp_path / "newer.pcap").write_bytes(data[:24])
        yield

    case = follow.follow(str(tmp_path), OPTIONS, lambda _: None, Writer(steps()))
    assert [x.complete for x in case.captures] == [False, True]


def test_two_files_that_grow_at_a_time_are_told(tmp_path: Path) -> None:
    """That is no ring: what comes in the older one is not read, and the case is not complete."""
    head, *rest = records(BLACK_HOLE.read_bytes())
    one, two = tmp_path / "one.pcap", tmp_path / "two.pcap"

    def steps() -> Iterator[None]:
        one.write_bytes(head + b"".join(rest[:10]))
        yield
        two.write_bytes(head + b"".join(rest[15:20]))
        yield
        with one.open("ab") as out:
            out.write(rest[11])
        yield
        yield

    case = follow.follow(str(tmp_path), OPTIONS, lambda _: None, Writer(steps()))
    assert [x.frames for x in case.captures] == [10, 5]
    assert "what came then was not read" in case.captures[0].problems[0]
    assert not case.complete


def test_what_can_not_be_followed_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there, a URL, two places, a file that is no capture."""
    text = tmp_path / "text"
    text.write_text("no capture at all\n")
    for arguments, status, words in (
        ([str(tmp_path / "no" / "x.pcap")], 2, "there is no folder"),
        (["s3://bucket/x.pcap"], 2, "a URL cannot be followed"),
        (["a.pcap", "b.pcap"], 2, "--follow takes one place"),
        ([str(text)], 3, "not a capture"),
    ):
        assert cli.main(["analyze", "--no-config", "--follow", "--quiet", *arguments]) == status
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    with pytest.raises(UsageError, match="--keylog"):
        follow.follow("x.pcap", analysis.Options(keylog="keys"), lambda _: None)


def run(*arguments: str, **settings: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "analyzer", "analyze", "--no-config", "--follow", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_ends_it_with_the_report(tmp_path: Path, number: int) -> None:
    """What was told, then the report; the exit status is that of analyze. SIGTERM (timeout, systemd) does the same."""
    file = tmp_path / "grows.pcap"
    parts = records(BLACK_HOLE.read_bytes())
    file.write_bytes(b"".join(parts[:24]))
    process = run(str(file), "--fail-on", "high")
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "new: Path-MTU black hole" in first
    with file.open("ab") as out:
        out.write(b"".join(parts[24:]))
    while "certain" not in process.stdout.readline():
        pass
    process.send_signal(number)
    out_text, err = process.communicate(timeout=60)
    assert "#1 Path-MTU black hole" in out_text
    assert out_text.endswith(run_analyze(BLACK_HOLE)[-200:])
    assert err == f"smtpscope: note: following {file}; Control-C ends it with the report\n"
    assert process.returncode == 1


def run_analyze(capture: Path) -> str:
    command = [sys.executable, "-m", "analyzer", "analyze", "--no-config", str(capture)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_pipe_is_followed_to_its_end() -> None:
    """`tcpdump -U -w - | smtpscope analyze --follow --json - -`: a line per change, and the case as the last one."""
    process = run("--json", "-", "--quiet", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    parts = records(BLACK_HOLE.read_bytes())
    for part in (b"".join(parts[:24]), b"".join(parts[24:])):
        process.stdin.buffer.write(part)
        process.stdin.buffer.flush()
        if part.startswith(parts[0]):
            change = json.loads(process.stdout.readline())
    process.stdin.close()
    process.stdin = None
    out, err = process.communicate(timeout=60)
    assert (change["schema"], change["change"]) == ("smtpscope-follow/1", "new")
    assert change["finding"]["rule"] == "pmtud-black-hole"
    *_, last = map(json.loads, out.splitlines())
    assert last["schema"] == "smtpscope/1"
    assert last["findings"][0]["confidence"] == "certain"
    assert (err, process.returncode) == ("", 0)


def test_redaction_hides_what_is_told(tmp_path: Path) -> None:
    """The changes and the case have the same pseudonyms."""
    file = tmp_path / "grows.pcap"
    changes: list[follow.Change] = []
    steps = pieces(BLACK_HOLE.read_bytes(), file, lambda: 4000)
    case = api.follow(file, changes.append, stop=Writer(steps), redact=True)
    lines = "".join(write(change) for change in changes for write in (follow.text, follow.line))
    assert "10.1.0.2" not in lines + case.to_text()
    assert case.data.findings[0].sender in lines
    assert {change.finding.fingerprint for change in changes} >= {f.fingerprint for f in case.data.findings}


def test_a_ring_that_has_turned_has_no_packets_to_plot(tmp_path: Path) -> None:
    """The report is written all the same, without plots; the reason is told when packets are asked for."""
    steps = ring(BLACK_HOLE.read_bytes(), tmp_path, keep=1)
    case = api.follow(tmp_path, lambda _: None, stop=Writer(steps))
    assert not case.can_read_again
    assert "Path-MTU black hole" in case.to_html()
    with pytest.raises(CaptureError, match="not all there any more"):
        case.packets(1)


def test_an_interruption_on_the_way_is_one(tmp_path: Path) -> None:
    """Told to stop while gigabytes are still to be read: what was read is reported, and marked."""
    file = tmp_path / "large.pcap"
    head, *rest = records(BLACK_HOLE.read_bytes())
    file.write_bytes(head + b"".join(rest) * (3 * growing.WINDOW_BYTES // BLACK_HOLE.stat().st_size))
    case = follow.follow(str(file), OPTIONS, lambda _: None, lambda: True)
    assert case.interrupted
    assert case.captures[0].frames < 30 * (3 * growing.WINDOW_BYTES // BLACK_HOLE.stat().st_size)
