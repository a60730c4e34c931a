"""The stages together: shares of the work, points of capture, keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyzer import analysis
from analyzer.report import json as report

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["incident.pcapng", "blackhole-ipv6-only.sender.pcap", "icmp-ignored.sender.pcap"])
@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_processes_gives_the_same_case(name: str, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, order and findings do not depend on who read which connection."""
    monkeypatch.setattr(analysis, "_WORTH_SHARING_BYTES", 0)
    capture = [str(ROOT / "sample_pcaps" / name)]
    one = report.render(analysis.analyze(capture))
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=jobs))) == one


def test_a_share_whose_process_dies_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed worker costs time, never truth."""
    monkeypatch.setattr(analysis, "_WORTH_SHARING_BYTES", 0)
    capture = [str(ROOT / "sample_pcaps" / "incident.pcapng")]
    one = report.render(analysis.analyze(capture))

    def die(sender: object, *_: object) -> None:
        import os

        os._exit(9)

    monkeypatch.setattr(analysis, "_work", die)
    assert report.render(analysis.analyze(capture, analysis.Options(jobs=2))) == one


def test_two_points_of_one_traffic_are_kept_apart() -> None:
    """The sender's and the receiver's capture of the same run: no resends, no duplicates, and compare is named."""
    names = ["split-at-2.receiver.pcap", "split-at-2.sender.pcap"]
    case = analysis.analyze([str(ROOT / "sample_pcaps" / n) for n in names])
    assert len(case.connections) == 2
    assert case.findings == []
    assert "compare" in case.limits[0]
    assert {analysis.trace(case, c.id).first_capture for c in case.connections} == {1, 2}
