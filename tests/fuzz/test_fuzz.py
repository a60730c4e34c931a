"""Broken captures and hostile traffic: a seeded part of what `make fuzz` tries."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analyzer import analysis
from analyzer.analysis import gathering
from analyzer.capture import reading
from analyzer.report import json as document
from analyzer.report import text
from analyzer.smtp import dialogue, pairing, plain
from analyzer.tcp import connections

from . import bomb
from .hostile import SCENES, Scene
from .mutate import EXTREMES, as_pcap, as_pcapng
from .peak import measured
from .run import Trial

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"
PER_FAMILY = 40


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "load", analysis.load)  # put back what a trial replaces
        patch.setattr(reading, "_needs_tshark", reading._needs_tshark)
        yield Trial(SAMPLES, seed=2)


@pytest.mark.parametrize("family", range(7))
def test_broken_captures_are_read_as_far_as_they_go(trial: Trial, family: int) -> None:
    """No traceback, no hang, no growing memory; and what was cut is never called whole."""
    for turn in range(PER_FAMILY):
        mutant = trial.mutants[turn * 7 + family]
        assert trial.why_it_fails(mutant) is None, str(mutant)


def seconds(scene: Scene, n: int, file: Path) -> float:
    """Processor time for a story of this size, its reports included."""
    scene.write(file, n)
    begun = time.process_time()
    case = analysis.analyze([str(file)])
    document.render(case)
    assert text.render(case).replace("\n", "").isprintable()
    return time.process_time() - begun


@pytest.mark.parametrize("scene", SCENES.values(), ids=str)
def test_hostile_traffic_takes_linear_time(scene: Scene, tmp_path: Path) -> None:
    """Four times the traffic takes four times as long, give or take: quadratic would be sixteen."""
    small = seconds(scene, scene.small, tmp_path / "small.pcap")
    large = seconds(scene, 4 * scene.small, tmp_path / "large.pcap")
    assert large < 9 * small + 0.3  # 0.3 s for what a busy machine adds
    assert large < 20


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", EXTREMES)
def test_every_length_and_time_at_its_extremes(tmp_path: Path, order: str, value: int) -> None:
    """Each 32-bit field of a pcap's and a pcapng's headers, one after the other: read as far as it goes, and said."""
    packets = [(1_700_000_000_000_000 + i, bytes(range(60))) for i in range(3)]
    file = tmp_path / "broken"
    for whole in (as_pcap(packets, 1, order), as_pcapng(packets, [1], order)):
        for at in [*range(0, 116, 4), *range(len(whole) - 48, len(whole) - 3, 4)]:
            data = bytearray(whole)
            struct.pack_into(order + "I", data, at, value)
            file.write_bytes(data)
            (capture,) = analysis.analyze([str(file)], analysis.Options(engine="columnar")).captures
            assert capture.complete == (not capture.problems)


@pytest.mark.parametrize(
    ("scene", "n", "said"),
    [
        ("endless-line", 1 << 16, "a line of the client longer than 12288 bytes was cut off"),
        ("long-banner", 1 << 16, "a line of the server longer than 12288 bytes was cut off"),
        ("many-keywords", 5000, "a reply of more than"),
        ("liar", 50, "the client sent bytes again with other content; what came first was read"),
        ("holes", 50, "the client sent bytes again with other content; what came first was read"),
        ("nested", 300, "tunnels or tags inside each other"),
    ],
)
def test_what_is_left_out_is_said(tmp_path: Path, scene: str, n: int, said: str) -> None:
    """Limits are told in the report, not applied in silence."""
    SCENES[scene].write(tmp_path / "x.pcap", n)
    case = analysis.analyze([str(tmp_path / "x.pcap")])
    assert said in " ".join([*case.limits, *case.captures[0].problems])


@pytest.mark.parametrize(
    "scene", ["commands", "pipelined-commands", "unasked-replies", "wordy-replies", "mails", "recipients"]
)
def test_of_a_dialogue_without_end_the_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    """So much is kept of one connection and no more; that it was more is said, and nobody is blamed for the rest."""
    for name, limit in (("COMMANDS_LIMIT", 100), ("TEXT_LIMIT", 1 << 20)):
        monkeypatch.setattr(dialogue, name, limit)
        monkeypatch.setattr(plain, name, limit)
    monkeypatch.setattr(pairing, "REPLIES_LIMIT", 200)
    monkeypatch.setattr(pairing, "TEXT_LIMIT", 1 << 20)
    SCENES[scene].write(tmp_path / "x.pcap", 60 if scene == "wordy-replies" else 500)
    case = analysis.analyze([str(tmp_path / "x.pcap")])
    assert "more was said than is kept of one connection" in " ".join(case.limits)
    assert not case.findings
    assert all(mail.outcome == "delivered" for mail in case.messages)
    assert scene != "mails" or 20 < len(case.messages) < 50


def test_of_a_flood_of_icmp_the_first_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are counted."""
    monkeypatch.setattr(gathering, "MOST_ICMP", 10)
    SCENES["icmp-garbage"].write(tmp_path / "x.pcap", 300)
    case = analysis.analyze([str(tmp_path / "x.pcap")])
    assert len(case.icmp) == 10
    assert f"{case.counts['icmp-errors'] - 10} ICMP errors came behind the most that are kept" in " ".join(case.limits)


@pytest.mark.parametrize("scene", ["open-connections", "mails", "reused-ports"])
def test_a_report_that_is_full_says_so(tmp_path: Path, scene: str) -> None:
    """What has no room is counted; the capture counts as not read to its end, and names the frame."""
    SCENES[scene].write(tmp_path / "x.pcap", 200)
    cut = tmp_path / "y.pcap"
    SCENES["open-connections"].write(cut, 20)
    case = analysis.analyze([str(tmp_path / "x.pcap"), str(cut)], analysis.Options(max_rows=100))
    left_out = case.counts["not_judged"]
    assert len(case.connections) + left_out in (220, 21)
    assert not case.complete
    (problem,) = [p for capture in case.captures for p in capture.problems]
    assert problem.startswith("the report holds no more than 100 connections and mails (--max-rows)")
    assert f"{left_out} connections of SMTP found no room" in " ".join(case.limits)


def test_a_bomb_is_read_in_flat_memory(tmp_path: Path) -> None:
    """Gigabytes of packets of zeros, packed into less than a megabyte. No disk, little memory; limited if one wants."""
    bomb.write(tmp_path / "bomb", 4)
    assert (tmp_path / "bomb").stat().st_size < 1 << 20
    for limit in ([], ["--max-bytes", "1000000"]):
        words = [sys.executable, "-m", "analyzer", "analyze", str(tmp_path / "bomb"), "--quiet", *limit]
        run = measured(words, SAMPLES.parent)
        assert b"No SMTP" in run.output
        assert run.status == (3 if limit else 0)
        assert run.peak_kb < 200 << 10  # a gigabyte that was kept would show


def test_connections_let_go_for_want_of_memory_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the budget is judged early; the report says so."""
    monkeypatch.setattr(connections.Tracker.__init__, "__defaults__", (frozenset({25}), 1 << 20))
    SCENES["endless-mail"].write(tmp_path / "x.pcap", 40 << 20)
    case = analysis.analyze([str(tmp_path / "x.pcap")])
    assert any("judged before the end" in line for line in case.limits)
